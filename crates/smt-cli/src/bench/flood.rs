//! What a flood of first flights does to a server: a session under a fixed load, memory, and clients that come while
//! it goes on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use bytes::Bytes;
use rustix::process::nice;
use smt::datapath::{Datapath, Opened, memory};
use smt::{CallOptions, ConnectOptions, Engine, Event, SessionId, Stats};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::RPC_BYTES;
use super::contender::{Exchange, Transport, Variant, What};
use super::ground::{Ground, SERVER_NAME, SPOOFED};
use super::serving::Server;
use super::smt::{self as ends, Ends};
use crate::commands::Error;
use crate::stop::Stop;
use crate::times::Times;

/// How long the client's session may take to be made.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between clients that come during the flood.
const BETWEEN_NEWCOMERS: Duration = Duration::from_millis(20);
/// How long the load sleeps when there is nothing to do: it must leave its core to the flood, and a wait in the kernel
/// for packets may take a millisecond longer than asked for.
const NAP: Duration = Duration::from_micros(20);
/// How much less of its core the flood asks for than the load beside it: the least there is.
const NICE: i32 = 19;
const IPV4_BYTES: usize = 20;

/// What to measure.
pub struct Plan {
    /// Calls a second in the established session, whatever becomes of them.
    pub load: u32,
    /// First flights.
    pub packets: u64,
    /// Time under load before the flood and after it.
    pub calm: Duration,
}

/// What a load came to in one stretch of time.
#[derive(Default)]
pub struct Stretch {
    /// From when a call was due to its response.
    pub times: Times,
    /// Calls due.
    pub offered: u64,
    /// Calls answered before it ended; the others that did not fail were answered afterwards.
    pub within: u64,
    /// Calls that failed.
    pub failed: u64,
    /// How long it was.
    pub time: Duration,
}

/// What was measured.
pub struct Measured {
    /// Before the flood.
    pub before: Stretch,
    /// While it went on.
    pub during: Stretch,
    /// Afterwards.
    pub after: Stretch,
    /// First RPCs of clients that came during the flood.
    pub newcomers: Times,
    /// Newcomers that were not served.
    pub newcomers_failed: u64,
    /// First flights sent.
    pub sent: u64,
    /// Memory of this process before, in bytes: both ends and the flood.
    pub memory_before: u64,
    /// The most it had since, in bytes.
    pub memory_most: u64,
    /// The server's counters.
    pub stats: Stats,
}

/// Floods the server. `progress` is told the part done, 0 to 1.
///
/// # Errors
/// No session, the flood cannot be sent, or `stop` is set.
pub fn measure(
    ground: &Ground,
    plan: &Plan,
    stop: &Stop,
    progress: &(dyn Fn(f64) + Sync),
) -> Result<Measured, Error> {
    let what = What {
        transport: Transport::Smt,
        variant: Variant::Full,
        exchange: Exchange::X25519,
        mtls: false,
    };
    let Ends { server, client, .. } = ends::ends(ground, what, 0)?;
    let stats = Arc::new(Mutex::new(Stats::default()));
    let at_end = Arc::clone(&stats);
    let server = Server::start(ground, move |serving| {
        let mut engine = server.engine()?;
        serving.ready();
        let served = ends::serve(&mut engine, serving);
        *at_end.lock().unwrap_or_else(PoisonError::into_inner) = *engine.stats();
        served
    })?;
    let target = ground.server_address(ends::PORT);
    let flight = first_packet(client.clone(), target)?;
    let flood = Flood::new(flight, ground, plan.packets);
    let measured = ground.as_client(|| {
        let mut engine = client.clone().engine()?;
        let session = ends::connect(&mut engine, target)?;
        thread::scope(|scope| {
            // All three share the client's core.
            let flooding = scope.spawn(|| flood.run(stop));
            let newcomers = scope.spawn(|| newcomers(&client, target, &flood));
            let mut load = Load { engine, session, plan, stop, flood: &flood, progress };
            let measured = load.run();
            // Whatever went wrong, the others must not wait for the flood.
            flood.phase.store(OVER, Ordering::Release);
            let panicked = |_| Error::Failed("a thread panicked".to_owned());
            let sent = flooding.join().map_err(panicked)?.map_err(Error::io("cannot flood"));
            let (times, lost) = newcomers.join().map_err(panicked)??;
            let mut measured = measured?;
            (measured.sent, measured.newcomers, measured.newcomers_failed) = (sent?, times, lost);
            Ok(measured)
        })
    });
    server.stop()?;
    let mut measured = measured?;
    measured.stats = *stats.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(measured)
}

/// The first packet of a client's first flight to `server`, without headers of the network's.
fn first_packet(client: smt::Builder, server: SocketAddr) -> Result<Vec<u8>, Error> {
    let refused = |error| Error::io("cannot make a first flight")(error);
    let local = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1));
    let (near, mut far) = memory::pair(local, server.ip(), 1500).map_err(refused)?;
    let opened = Opened { datapath: Box::new(near), listen: None, client_ports: 40_000..50_000 };
    let mut engine = client.bind(local).handshakes_inline().engine_over(opened)?;
    let not = |error| Error::Connect { target: server.to_string(), error };
    engine.connect(server, SERVER_NAME).map_err(not)?;
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        engine.poll().map_err(refused)?;
        if far.recv().map_err(refused)? > 0 {
            let (meta, packet) = far.packet(0);
            return Ok(packet.get(..meta.len).unwrap_or_default().to_vec());
        }
    }
    Err(Error::Failed("no first flight".to_owned()))
}

const CALM: u64 = 0;
const GOING_ON: u64 = 1;
const OVER: u64 = 2;

/// First flights from addresses that nobody has.
struct Flood {
    /// An IPv4 packet whose source is still to be set.
    packet: Vec<u8>,
    server: Ipv4Addr,
    packets: u64,
    /// Where it is: calm before it, going on, over.
    phase: AtomicU64,
    /// It may begin.
    begin: AtomicBool,
}

impl Flood {
    fn new(flight: Vec<u8>, ground: &Ground, packets: u64) -> Flood {
        let server = ground.pair.b_v4;
        let mut packet = vec![0; IPV4_BYTES];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&((IPV4_BYTES + flight.len()) as u16).to_be_bytes());
        packet[8] = 64;
        packet[9] = ends::FIRST_PROTOCOL;
        packet[16..20].copy_from_slice(&server.octets());
        packet.extend(flight);
        let phase = AtomicU64::new(CALM);
        Flood { packet, server, packets, phase, begin: AtomicBool::new(false) }
    }

    fn is(&self, phase: u64) -> bool {
        self.phase.load(Ordering::Acquire) == phase
    }

    /// Waits for its time, then sends as fast as it can; returns how many.
    fn run(&self, stop: &Stop) -> io::Result<u64> {
        // The kernel computes the checksum of the header.
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
        let to = SockAddr::from(SocketAddrV4::new(self.server, 0));
        nice(NICE)?;
        while !self.begin.load(Ordering::Acquire) {
            if self.is(OVER) || stop.is_set() {
                return Ok(0);
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.phase.store(GOING_ON, Ordering::Release);
        let mut packet = self.packet.clone();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut sent = 0;
        while sent < self.packets && self.is(GOING_ON) {
            if let Some(source) = packet.get_mut(12..16) {
                source.copy_from_slice(&spoofed(&mut state).octets());
            }
            match socket.send_to(&packet, &to) {
                Ok(_) => sent += 1,
                Err(error) if error.raw_os_error() == Some(ENOBUFS) => {}
                Err(error) => {
                    self.phase.store(OVER, Ordering::Release);
                    return Err(error);
                }
            }
        }
        self.phase.store(OVER, Ordering::Release);
        Ok(sent)
    }
}

/// The queue is full for the moment.
const ENOBUFS: i32 = 105;

/// An address in the network that the server believes to be behind the client (xorshift64*).
fn spoofed(state: &mut u64) -> Ipv4Addr {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    let (network, prefix_bits) = SPOOFED;
    let random = (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32;
    Ipv4Addr::from(network.to_bits() | (random & (u32::MAX >> prefix_bits)))
}

/// Clients that come one after the other while the flood goes on; their first RPCs, and how many got none.
fn newcomers(
    client: &smt::Builder,
    server: SocketAddr,
    flood: &Flood,
) -> Result<(Times, u64), Error> {
    let mut engine = client.clone().handshakes_inline().engine()?;
    let (mut times, mut lost) = (Times::default(), 0);
    let request = Bytes::from_static(&[7; RPC_BYTES]);
    while flood.is(CALM) {
        thread::sleep(Duration::from_millis(1));
    }
    while flood.is(GOING_ON) {
        let start = Instant::now();
        match ends::first_rpc(&mut engine, server, ConnectOptions::new(SERVER_NAME), &request) {
            Ok(_) => times.add(start.elapsed()),
            Err(_) => lost += 1,
        }
        engine.close_all(PATIENCE).map_err(Error::io("the datapath failed"))?;
        thread::sleep(BETWEEN_NEWCOMERS);
    }
    Ok((times, lost))
}

/// The load in the established session.
struct Load<'a> {
    engine: Engine,
    session: SessionId,
    plan: &'a Plan,
    stop: &'a Stop,
    flood: &'a Flood,
    progress: &'a (dyn Fn(f64) + Sync),
}

impl Load<'_> {
    fn run(&mut self) -> Result<Measured, Error> {
        let calm = self.plan.calm;
        // What the first calls cost belongs to no stretch.
        self.stretch(|time| time < calm / 4)?;
        let before = self.stretch(|time| time < calm)?;
        (self.progress)(0.33);
        forget_peak().map_err(Error::io("cannot reset the peak of memory"))?;
        let memory_before = memory_of("VmRSS").unwrap_or(0);
        self.flood.begin.store(true, Ordering::Release);
        let flood = self.flood;
        let during = self.stretch(|_| !flood.is(OVER))?;
        (self.progress)(0.66);
        let after = self.stretch(|time| time < calm)?;
        let memory_most = memory_of("VmHWM").unwrap_or(0);
        (self.progress)(1.0);
        // The server is told so that it need not wait.
        let _ = self.engine.close_all(PATIENCE);
        Ok(Measured {
            before,
            during,
            after,
            newcomers: Times::default(),
            newcomers_failed: 0,
            sent: 0,
            memory_before,
            memory_most,
            stats: Stats::default(),
        })
    }

    /// Calls at the plan's rate while `goes_on`, which is told how long it has; then waits for the responses.
    fn stretch(&mut self, goes_on: impl Fn(Duration) -> bool) -> Result<Stretch, Error> {
        let interval = Duration::from_secs(1) / self.plan.load.max(1);
        let mut stretch = Stretch::default();
        let start = Instant::now();
        let mut outstanding = 0_u64;
        let due = |number: u64| start + Duration::from_nanos(number * interval.as_nanos() as u64);
        loop {
            if self.stop.is_set() {
                return Err(Error::Failed("interrupted".to_owned()));
            }
            let more = goes_on(start.elapsed());
            if !more && outstanding == 0 {
                return Ok(stretch);
            }
            while more && due(stretch.offered) <= Instant::now() {
                let options = CallOptions { user: stretch.offered, ..CallOptions::default() };
                stretch.offered += 1;
                let request = Bytes::from_static(&[7; RPC_BYTES]);
                match self.engine.call(self.session, request, options) {
                    Ok(_) => outstanding += 1,
                    Err(_) => stretch.failed += 1,
                }
            }
            if more {
                stretch.time = start.elapsed();
            }
            self.engine.poll().map_err(Error::io("the datapath failed"))?;
            match self.engine.next_event() {
                Some(Event::Response { user, result, .. }) => {
                    outstanding = outstanding.saturating_sub(1);
                    match result {
                        Ok(_) => {
                            stretch.times.add(due(user).elapsed());
                            stretch.within += u64::from(more);
                        }
                        Err(_) => stretch.failed += 1,
                    }
                }
                Some(Event::Closed { .. }) => {
                    return Err(Error::Failed("the flood has ended the session".to_owned()));
                }
                Some(_) => {}
                None => thread::sleep(NAP),
            }
        }
    }
}

impl Stretch {
    /// Calls answered in each second of it, while it lasted.
    pub fn per_second(&self) -> f64 {
        self.within as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// Makes the kernel count the peak of this process's memory from now on.
fn forget_peak() -> io::Result<()> {
    fs::write("/proc/self/clear_refs", "5")
}

/// A figure of this process's memory, in bytes.
fn memory_of(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spoofed_addresses_are_in_their_network() {
        let mut state = 1;
        let (network, prefix_bits) = SPOOFED;
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let address = spoofed(&mut state);
            assert_eq!(
                address.to_bits() >> (32 - prefix_bits),
                network.to_bits() >> (32 - prefix_bits)
            );
            seen.insert(address);
        }
        assert!(seen.len() > 990);
    }

    #[test]
    fn memory_is_read() {
        assert!(memory_of("VmRSS").unwrap() > 100_000);
        assert!(memory_of("VmHWM").unwrap() >= memory_of("VmRSS").unwrap() / 2);
        assert_eq!(memory_of("VmNothing"), None);
    }
}
