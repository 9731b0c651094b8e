//! Two honest endpoints. Loss, repetition, reordering, corruption and trimming, the clock, and all
//! that applications do come from the input; whatever it is, what is delivered is right and delivered
//! once, nobody is taken for a liar, and when the network is sound again so are the sessions.

mod calls;
mod quiet;
mod steps;
mod tls;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use smt_proto::error::CloseReason;
use smt_proto::padding::Padding;
use smt_proto::{
    AeadLimits, Config, Endpoint, Event, Limits, PacketMeta, Path, Role, RpcId, SessionId, Time,
};

use super::input::{Counting, Input};
use calls::Call;
use tls::Handshake;

/// Longest packet of the hosts' own making.
const ROOM: usize = 1400;
/// Packets in flight, and those kept to be repeated; more are lost.
const MAX_WIRE: usize = 400;

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut world = World::new(&mut input);
    for _ in 0..1000 {
        if input.0.is_empty() {
            break;
        }
        world.step(&mut input);
        world.check();
    }
    world.end();
}

/// A session of one host that has keys.
struct Live {
    id: SessionId,
    /// What both ends of the same session share.
    digest: u64,
    established: bool,
}

struct Host {
    endpoint: Endpoint,
    live: Vec<Live>,
    handshakes: Vec<Handshake>,
    /// Requests that wait for an answer, and which call each is.
    requests: VecDeque<(RpcId, usize)>,
}

struct World {
    hosts: [Host; 2],
    now: Time,
    /// Packets in flight, oldest first, and whom they go to.
    wire: VecDeque<(usize, Vec<u8>)>,
    /// Packets that were sent a while ago.
    seen: VecDeque<(usize, Vec<u8>)>,
    /// The network loses longer packets, in bytes.
    mtu: usize,
    calls: Vec<Call>,
    /// Counts what has to be new: client ports, TLS randoms.
    fresh: u16,
    /// Messages have 256 records at most.
    few_records: bool,
    /// Keys wear out within the life of a session.
    short_keys: bool,
    /// The applications answer requests at once.
    prompt: bool,
}

fn address(host: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host as u8 + 1)), 0)
}

fn config(choice: u8) -> Config {
    let tight = choice & 1 != 0;
    let limits = Limits {
        max_half_open: 4,
        retry_threshold: if tight { 0 } else { 2 },
        max_sessions: 12,
        max_rpcs: if tight { 4 } else { 64 },
        max_message: 100_000,
        unscheduled: if choice & 2 != 0 { 2000 } else { 20_000 },
        max_incoming_bytes: if tight { 40_000 } else { 1 << 20 },
        max_incoming_bytes_total: if tight { 60_000 } else { 2 << 20 },
        max_outgoing_bytes: 300_000,
        max_gaps: if tight { 2 } else { 256 },
        max_early_packets: 4,
        max_control_queue: if tight { 8 } else { 4096 },
        max_resend_ranges: if tight { 2 } else { 64 },
        idle_probe: Duration::from_secs(5),
        ..Limits::default()
    };
    Config {
        limits,
        id_bits: if choice & 4 != 0 { 56 } else { 48 },
        padding: if choice & 8 != 0 { Padding::PowerOfTwo } else { Padding::None },
        receive_credit: if choice & 16 != 0 { 20_000 } else { 256 << 10 },
        aead_limits: (choice & 32 != 0).then_some(AeadLimits {
            records: 300,
            blocks: 100_000,
            failed_opens: u64::MAX,
        }),
        ..Config::default()
    }
}

impl World {
    fn new(input: &mut Input<'_>) -> World {
        let choices = [input.u8(), input.u8()];
        let mut seed = 0;
        let hosts = choices.map(|choice| {
            seed += 1;
            let endpoint = Endpoint::new(config(choice), Box::new(Counting(seed)));
            let (live, handshakes, requests) = (Vec::new(), Vec::new(), VecDeque::new());
            Host { endpoint, live, handshakes, requests }
        });
        let mut world = World {
            hosts,
            now: Time::from_nanos(1),
            wire: VecDeque::new(),
            seen: VecDeque::new(),
            mtu: usize::MAX,
            calls: Vec::new(),
            fresh: 0,
            few_records: choices.iter().any(|choice| choice & 4 != 0),
            short_keys: choices.iter().any(|choice| choice & 32 != 0),
            prompt: false,
        };
        world.external();
        world
    }

    fn path(&self, me: usize, role: Role) -> Path {
        let (client, server) = (40_000 + self.fresh, 4433);
        let (local_port, remote_port) =
            if role == Role::Client { (client, server) } else { (server, client) };
        let remote = address(1 - me);
        Path { remote, remote_port, local_port, local: Some(address(me).ip()) }
    }

    /// Lets a host's events happen.
    fn events(&mut self, me: usize) {
        while let Some(event) = self.hosts[me].endpoint.poll_event() {
            match event {
                Event::Flight { session, number, bytes, .. } => {
                    self.flight(me, session, number, &bytes);
                }
                Event::Established { session } => {
                    let live = self.hosts[me].live.iter_mut().find(|live| live.id == session);
                    live.expect("established without keys").established = true;
                }
                Event::HandshakeFailed { session, .. } => self.gone(me, session),
                Event::Closed { session, reason } => {
                    assert_ne!(reason, CloseReason::Violation);
                    let mut calls = self.calls.iter().filter(|call| call.caller == me);
                    let all_ended = calls.all(|call| call.ended || call.session != session);
                    assert!(all_ended, "a session went before its calls");
                    self.gone(me, session);
                }
                Event::Request { rpc, body, .. } => self.request(me, rpc, &body),
                Event::RequestCancelled { rpc } => {
                    self.hosts[me].requests.retain(|(request, _)| *request != rpc);
                }
                Event::Response { user, result, .. } => self.response(me, user, result),
                Event::SegmentsLost { .. } => panic!("no device cuts segments"),
                Event::EarlyRefused { .. } => panic!("no early data was offered"),
                Event::Post { .. } => panic!("none was sent"),
                Event::KeyUpdateWanted { .. } => panic!("secrets are derived"),
            }
        }
    }

    fn gone(&mut self, me: usize, session: SessionId) {
        let host = &mut self.hosts[me];
        host.live.retain(|live| live.id != session);
        host.handshakes.retain(|handshake| handshake.id != session);
        host.requests.retain(|(rpc, _)| rpc.session != session);
    }

    /// Takes the next packet a host has to send, if any.
    fn transmit(&mut self, me: usize) -> Option<Vec<u8>> {
        let mut frame = [0; 2 * ROOM];
        let sent = self.hosts[me].endpoint.poll_transmit(self.now, &mut frame);
        // Sending may end a call.
        self.events(me);
        let sent = sent?;
        assert_eq!(sent.remote, address(1 - me));
        Some(frame[..sent.len].to_vec())
    }

    fn deliver(&mut self, to: usize, mut packet: Vec<u8>) {
        if packet.len() > self.mtu {
            return;
        }
        let remote = address(1 - to);
        let meta = PacketMeta { remote, local: address(to).ip(), ip_id: None };
        self.hosts[to].endpoint.handle_packet(self.now, &meta, &mut packet);
        self.events(to);
    }

    fn timeouts(&mut self) {
        for me in [0, 1] {
            self.hosts[me].endpoint.handle_timeout(self.now);
            self.events(me);
        }
    }

    fn check(&self) {
        for host in &self.hosts {
            let limits = &host.endpoint.config().limits;
            assert!(host.endpoint.session_count() <= limits.max_sessions);
            assert!(host.endpoint.incoming_bytes() <= limits.max_incoming_bytes_total);
            assert_eq!(host.endpoint.stats().violations, 0, "an honest peer is blamed");
        }
    }
}
