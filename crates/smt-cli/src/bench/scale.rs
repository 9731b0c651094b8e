//! How cost grows with sessions: memory, round trips in one of them while all others are idle, how many are made a second;
//! and what lies under the cost of bytes: AES-GCM and copying, in memory.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde_json::{Value, json};
use smt::proto::limits::Limits;
use smt::{DatapathKind, Engine, Event, SessionId};

use super::contender::{self, Exchange, Variant, What};
use super::ground::{Ground, SERVER_NAME};
use super::serving::Server;
use super::smt::{self as ends, Ends};
use crate::baseline::smt as calls;
use crate::baseline::{Plan, Wait};
use crate::commands::Error;
use crate::stop::Stop;
use crate::times::Times;

/// Addresses of the server: a client has 32,767 ports towards each.
const ADDRESSES: u8 = 4;
/// Most sessions: somewhat fewer than there are ports.
pub const MAX_SESSIONS: u32 = 120_000;
/// Handshakes at a time.
const AT_A_TIME: u32 = 32;
/// How long a session may take to be made.
const PATIENCE: Duration = Duration::from_secs(20);
/// Round trips are measured for this long.
const PING_FOR: Duration = Duration::from_millis(300);
/// Fewer sessions than this say nothing of the memory of one.
const ENOUGH: u32 = 100;
/// Longest record, in bytes of plaintext.
const RECORD: usize = 16_000;
/// Bytes of an authentication tag.
const TAG: usize = 16;

/// What was measured with so many sessions.
#[derive(Debug)]
pub struct Point {
    /// Sessions, all idle but one.
    pub sessions: u32,
    /// Memory of both ends for each, in bytes; `None` of few sessions.
    pub memory: Option<u64>,
    /// Round trips of 64 bytes in one of them.
    pub times: Times,
    /// Sessions made a second, by those that were added.
    pub per_second: f64,
}

impl Point {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "bench": "scale", "transport": "smt-udp", "sessions": self.sessions,
            "memory_bytes_per_session": self.memory, "sessions_per_second": self.per_second,
            "p50_ns": self.times.quantile_ns(0.50), "p99_ns": self.times.quantile_ns(0.99),
        })
    }
}

/// Makes sessions and measures whenever there are as many as told, in ascending order.
///
/// # Errors
/// Hosts or sessions cannot be made, or `stop` is set.
pub fn sessions(
    ground: &Ground,
    counts: &[u32],
    stop: &Stop,
    progress: &dyn Fn(f64),
) -> Result<Vec<Point>, Error> {
    let wait = if ground.cores.is_some() { Wait::Spin } else { Wait::Block };
    let engine_wait = if wait == Wait::Spin { smt::Wait::Spin } else { smt::Wait::Block };
    let addresses = addresses(ground)?;
    let limits = Limits {
        max_sessions: 1 << 18,
        max_half_open: 1 << 12,
        retry_threshold: 1 << 12,
        ..Limits::default()
    };
    let all = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let what = What {
        transport: contender::Transport::Smt,
        variant: Variant::Full,
        exchange: Exchange::X25519,
        mtls: false,
    };
    let Ends { server, client, .. } = ends::ends_at(&ground.credentials, all, what, 0)?;
    let set = |builder: smt::Builder| {
        builder.datapath(DatapathKind::Udp).limits(limits).wait(engine_wait).handshakes_inline()
    };
    let (server, client) = (set(server), set(client).smt_tickets(false));
    let server = Server::start(ground, move |serving| {
        let mut engine = server.engine()?;
        serving.ready();
        calls::serve(&mut engine, wait, || serving.is_over())
    })?;
    // A progress bar may belong to this thread alone.
    let points = ground.as_client(|| {
        let mut crowd =
            Crowd { engine: client.engine()?, addresses, made: 0, begun: 0, first: None };
        let before = resident()?;
        let mut points = Vec::new();
        for &count in counts {
            if stop.is_set() {
                return Err(Error::Failed("interrupted".to_owned()));
            }
            let per_second = crowd.grow(count)?;
            let memory = resident()?.saturating_sub(before) / u64::from(count.max(1));
            let times = crowd.ping(wait)?;
            let memory = (count >= ENOUGH).then_some(memory);
            points.push(Point { sessions: count, memory, times, per_second });
        }
        Ok(points)
    });
    progress(1.0);
    server.stop()?;
    points
}

/// Gives the server's host more addresses; returns where the server is.
fn addresses(ground: &Ground) -> Result<Vec<SocketAddr>, Error> {
    let pair = &ground.pair;
    let mut all = vec![ground.server_address(ends::PORT)];
    for number in 1..ADDRESSES {
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10 + number));
        pair.b
            .add_address(&pair.b_name, address, 24)
            .and_then(|()| pair.a.set_neighbour(&pair.a_name, address, pair.b_mac))
            .map_err(Error::io("cannot add an address"))?;
        all.push(SocketAddr::new(address, ends::PORT));
    }
    Ok(all)
}

/// A client with more and more sessions.
struct Crowd {
    engine: Engine,
    addresses: Vec<SocketAddr>,
    made: u32,
    begun: u32,
    first: Option<SessionId>,
}

impl Crowd {
    /// Makes sessions until there are `count`; returns how many were made a second.
    fn grow(&mut self, count: u32) -> Result<f64, Error> {
        let (start, before) = (Instant::now(), self.made);
        while self.made < count {
            while self.begun < count && self.begun - self.made < AT_A_TIME {
                let place = self.begun as usize % self.addresses.len().max(1);
                let Some(&server) = self.addresses.get(place) else { break };
                self.engine
                    .connect(server, SERVER_NAME)
                    .map_err(|error| no_session(server, error))?;
                self.begun += 1;
            }
            match self.engine.next(Some(PATIENCE)).map_err(Error::io("the datapath failed"))? {
                Some(Event::Connected { session, .. }) => {
                    self.first.get_or_insert(session);
                    self.made += 1;
                }
                Some(Event::ConnectFailed { error, .. }) => {
                    let server = self.addresses.first().copied();
                    return Err(no_session(server.unwrap_or(([0, 0, 0, 0], 0).into()), error));
                }
                Some(_) => {}
                None => return Err(Error::Failed("the server does not answer".to_owned())),
            }
        }
        Ok(f64::from(self.made - before) / start.elapsed().as_secs_f64().max(1e-9))
    }

    fn ping(&mut self, wait: Wait) -> Result<Times, Error> {
        let mut times = Times::default();
        let Some(session) = self.first else { return Ok(times) };
        let plan =
            Plan { time: Some(PING_FOR), ..Plan::counted(super::RPC_BYTES, 100, 1 << 20, wait) };
        for ns in calls::ping(&mut self.engine, session, &plan)? {
            times.add(Duration::from_nanos(ns));
        }
        Ok(times)
    }
}

fn no_session(server: SocketAddr, error: smt::ConnectError) -> Error {
    Error::Connect { target: server.to_string(), error }
}

/// Memory of this process, in bytes.
fn resident() -> Result<u64, Error> {
    let status = fs::read_to_string("/proc/self/status").map_err(Error::io("no memory told"))?;
    resident_in(&status).ok_or_else(|| Error::Failed("no memory told".to_owned()))
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// What a round trip of so many bytes each way takes in memory alone, in nanoseconds: sealing and opening request and
/// response, and copying both once at each end. The median of many.
///
/// # Errors
/// The cryptographic library refuses.
pub fn steps(sizes: &[usize], rounds: usize) -> Result<Vec<Value>, Error> {
    let failed = |_| Error::Failed("cannot seal".to_owned());
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).map_err(failed)?);
    let nonce = || Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let mut results = Vec::new();
    for &size in sizes {
        let mut records: Vec<Vec<u8>> =
            vec![7_u8; size].chunks(RECORD).map(<[u8]>::to_vec).collect();
        let (mut aead, mut copy) = (Times::default(), Times::default());
        let from = vec![7_u8; size];
        let mut to = vec![0_u8; size];
        for _ in 0..rounds {
            let start = Instant::now();
            // Nothing but time comes of it: one nonce is as good as another.
            for _ in 0..2 {
                for record in &mut records {
                    key.seal_in_place_append_tag(nonce(), Aad::empty(), record).map_err(failed)?;
                    key.open_in_place(nonce(), Aad::empty(), record).map_err(failed)?;
                    record.truncate(record.len() - TAG);
                }
            }
            aead.add(start.elapsed());
            let start = Instant::now();
            for _ in 0..4 {
                to.copy_from_slice(std::hint::black_box(&from));
                std::hint::black_box(&mut to);
            }
            copy.add(start.elapsed());
        }
        for (step, times) in [("aead", &aead), ("copy", &copy)] {
            results.push(json!({
                "bench": "scale", "step": step, "size": size, "ns": times.quantile_ns(0.5),
            }));
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_for_each_size() {
        let told = steps(&[64, 40_000], 3).unwrap();
        let of: Vec<_> =
            told.iter().map(|step| (step["step"].as_str(), step["size"].as_u64())).collect();
        let sizes = [Some(64), Some(40_000)];
        assert_eq!(of, sizes.map(|size| [(Some("aead"), size), (Some("copy"), size)]).concat());
    }

    #[test]
    fn memory_is_read() {
        assert_eq!(resident_in("VmHWM: 9 kB\nVmRSS:\t   12 kB\n"), Some(12_288));
        assert!(resident().unwrap() > 1 << 20 && resident_in("").is_none());
    }
}
