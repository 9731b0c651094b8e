//! Two endpoints and the network between them, in memory: seeded loss, duplication, reordering and
//! corruption, and a place for an attacker on the link.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::large_enum_variant, clippy::new_without_default, reason = "tests")]

pub mod pair;
pub mod script;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use smt_proto::crypto::{Random, Suite, SuiteId, aws_lc};
use smt_proto::error::{CallError, CloseReason};
use smt_proto::keys::Secret;
use smt_proto::wire::Params;
use smt_proto::{
    Body, Config, Endpoint, Event, External, PacketMeta, Path, Role, RpcId, SessionId, Time,
    Updates,
};

/// A small seeded generator (splitmix64), so that a seed means the same everywhere.
#[derive(Clone)]
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        (self.next() >> 11) as f64 / ((1u64 << 53) as f64) < probability
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

impl Random for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            *byte = self.next() as u8;
        }
    }
}

/// What the network does to packets.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub drop: f64,
    pub duplicate: f64,
    pub reorder: f64,
    pub corrupt: f64,
    /// Share of DATA packets whose payload is changed under the right header.
    pub spoil: f64,
}

/// What becomes of the segments that hosts hand to their devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nic {
    /// They are cut into packets whose IPv4 IDs count.
    CountsIds,
    /// They are cut into packets whose sequence counts; nobody sees IDs.
    CountsSequence,
    /// They are cut into packets that all look alike.
    CountsNothing,
    /// They arrive as they are.
    Whole,
    /// They are lost.
    Drops,
}

/// One of the two hosts.
pub struct Host {
    pub endpoint: Endpoint,
    pub session: SessionId,
    pub address: SocketAddr,
    /// Requests received, not answered yet.
    pub requests: VecDeque<(RpcId, Body)>,
    pub cancelled: Vec<RpcId>,
    /// Calls that ended, by the user value.
    pub ended: BTreeMap<u64, Result<Vec<u8>, CallError>>,
    pub closed: Option<CloseReason>,
    /// How often the core said that it wants the secret of its next epoch.
    pub secrets_wanted: u32,
    /// Whether requests are answered by themselves with the same bytes.
    pub echo: bool,
    /// How often each request body was seen executing.
    pub executed: BTreeMap<Vec<u8>, u32>,
}

/// Index of the client host and the server host.
pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;

/// A packet in flight.
pub struct InFlight {
    pub to: usize,
    pub ip_id: Option<u16>,
    pub bytes: Vec<u8>,
}

pub struct Net {
    pub hosts: [Host; 2],
    pub now: Time,
    pub faults: Faults,
    pub random: Seeded,
    pub latency: Duration,
    queue: BTreeMap<(Time, u64), InFlight>,
    sequence: u64,
    /// Everything that was sent, by destination, if recording.
    pub recorded: Vec<(usize, Vec<u8>)>,
    pub recording: bool,
    pub sent: u64,
    /// The secrets of epoch 3, client's and server's, for tests that play one of them.
    pub secrets: [Vec<u8>; 2],
    pub params: [Params; 2],
    pub suite: &'static dyn Suite,
    /// Only with hosts that were told a segment limit.
    pub nic: Nic,
    /// The largest memory charge seen at either end, in bytes.
    pub most_incoming: u64,
}

pub fn address(host: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, host as u8 + 1)), 0)
}

pub const PORTS: [u16; 2] = [40_000, 4433];

impl Net {
    /// Two hosts with a session of external secrets between them.
    pub fn new(seed: u64, config: Config) -> Net {
        Net::with(seed, [config.clone(), config], SuiteId::Aes128GcmSha256, 1500 - 20)
    }

    pub fn with(seed: u64, configs: [Config; 2], suite: SuiteId, room: usize) -> Net {
        Net::with_suite(seed, configs, aws_lc::suite(suite), room)
    }

    pub fn with_suite(
        seed: u64,
        configs: [Config; 2],
        suite: &'static dyn Suite,
        room: usize,
    ) -> Net {
        Net::with_updates(seed, configs, suite, room, Updates::Derived)
    }

    pub fn with_updates(
        seed: u64,
        configs: [Config; 2],
        suite: &'static dyn Suite,
        room: usize,
        updates: Updates,
    ) -> Net {
        let mut random = Seeded(seed);
        let (client, server) = (random.bytes(suite.hash_len()), random.bytes(suite.hash_len()));
        let mut endpoints =
            configs.map(|config| Endpoint::new(config, Box::new(Seeded(random.next()))));
        let params = [endpoints[0].parameters(Role::Client), endpoints[1].parameters(Role::Server)];
        let mut index = 0;
        let hosts = endpoints.map(|mut endpoint| {
            let me = index;
            index += 1;
            let session = endpoint
                .add_session(
                    Time::ZERO,
                    External {
                        path: Path {
                            remote: address(1 - me),
                            remote_port: PORTS[1 - me],
                            local_port: PORTS[me],
                            local: Some(address(me).ip()),
                        },
                        role: if me == CLIENT { Role::Client } else { Role::Server },
                        suite,
                        client_secret: Secret::new(&client),
                        server_secret: Secret::new(&server),
                        local: params[me],
                        peer: params[1 - me],
                        room,
                        updates,
                    },
                )
                .unwrap();
            Host {
                endpoint,
                session,
                address: address(me),
                requests: VecDeque::new(),
                cancelled: Vec::new(),
                ended: BTreeMap::new(),
                closed: None,
                secrets_wanted: 0,
                echo: true,
                executed: BTreeMap::new(),
            }
        });
        let mut net = Net {
            hosts,
            now: Time::ZERO,
            faults: Faults::default(),
            random,
            latency: Duration::from_micros(20),
            queue: BTreeMap::new(),
            sequence: 0,
            recorded: Vec::new(),
            recording: false,
            sent: 0,
            secrets: [client, server],
            params,
            suite,
            nic: Nic::Drops,
            most_incoming: 0,
        };
        net.pump(CLIENT);
        net.pump(SERVER);
        net
    }

    pub fn call(&mut self, host: usize, body: Vec<u8>, user: u64) -> RpcId {
        self.call_with_deadline(host, body, user, Duration::from_secs(60))
    }

    pub fn call_with_deadline(
        &mut self,
        host: usize,
        body: Vec<u8>,
        user: u64,
        deadline: Duration,
    ) -> RpcId {
        let deadline = self.now + deadline;
        let session = self.hosts[host].session;
        let rpc = self.hosts[host]
            .endpoint
            .start_call(session, Bytes::from(body), deadline, user)
            .unwrap();
        self.pump(host);
        rpc
    }

    /// Starts calls one after the other, and only then lets packets leave.
    pub fn calls_at_once(&mut self, host: usize, bodies: impl IntoIterator<Item = (u64, Vec<u8>)>) {
        let (session, deadline) = (self.hosts[host].session, self.now + Duration::from_secs(60));
        for (user, body) in bodies {
            let endpoint = &mut self.hosts[host].endpoint;
            endpoint.start_call(session, Bytes::from(body), deadline, user).unwrap();
        }
        self.pump(host);
    }

    /// Lets a host's events happen and its packets leave.
    pub fn pump(&mut self, me: usize) {
        loop {
            let host = &mut self.hosts[me];
            host.endpoint.settle();
            while let Some(event) = host.endpoint.poll_event() {
                match event {
                    Event::Request { rpc, body, .. } => {
                        *host.executed.entry(body.to_vec()).or_default() += 1;
                        if host.echo {
                            assert!(host.endpoint.reply(rpc, Bytes::from(body.into_vec())));
                        } else {
                            host.requests.push_back((rpc, body));
                        }
                    }
                    Event::RequestCancelled { rpc } => host.cancelled.push(rpc),
                    Event::Response { user, result, .. } => {
                        let result = result.map(Body::into_vec);
                        assert!(host.ended.insert(user, result).is_none(), "a call ended twice");
                    }
                    Event::Closed { reason, .. } => host.closed = Some(reason),
                    Event::KeyUpdateWanted { .. } => host.secrets_wanted += 1,
                    _ => {}
                }
            }
            let mut frame = [0u8; 65_535];
            let mut any = false;
            while let Some(transmit) = self.hosts[me].endpoint.poll_transmit(self.now, &mut frame) {
                any = true;
                assert_eq!(transmit.remote, address(1 - me));
                let bytes = frame[..transmit.len].to_vec();
                match transmit.segment {
                    Some(size) => self.send_segment(1 - me, bytes, size.into()),
                    None => self.send(1 - me, bytes),
                }
            }
            if !any {
                return;
            }
        }
    }

    /// Hands a segment to the device.
    fn send_segment(&mut self, to: usize, bytes: Vec<u8>, size: usize) {
        let (header, payload) = bytes.split_at(52);
        assert!(payload.len() > size);
        match self.nic {
            Nic::Drops => {}
            Nic::Whole => self.send_with_id(to, Some(0), bytes),
            nic => {
                for (n, part) in payload.chunks(size).enumerate() {
                    let mut packet = [header, part].concat();
                    if nic == Nic::CountsSequence {
                        let sequence = u32::from_be_bytes(packet[4..8].try_into().unwrap());
                        let sequence = sequence + (n * size) as u32;
                        packet[4..8].copy_from_slice(&sequence.to_be_bytes());
                    }
                    let id = match nic {
                        Nic::CountsIds => Some(n as u16),
                        Nic::CountsSequence if n > 0 => None,
                        _ => Some(0),
                    };
                    self.send_with_id(to, id, packet);
                }
            }
        }
    }

    /// Puts a packet on the link, where faults await it.
    pub fn send(&mut self, to: usize, bytes: Vec<u8>) {
        self.send_with_id(to, None, bytes);
    }

    fn send_with_id(&mut self, to: usize, ip_id: Option<u16>, bytes: Vec<u8>) {
        self.sent += 1;
        if self.recording {
            self.recorded.push((to, bytes.clone()));
        }
        let Faults { drop, duplicate, reorder, corrupt, spoil } = self.faults;
        if self.random.chance(drop) {
            return;
        }
        let mut bytes = bytes;
        if self.random.chance(corrupt) {
            let bit = self.random.below(bytes.len() as u64 * 8);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        if bytes[11] == 0x10
            && self.random.chance(spoil)
            && let Some(last) = bytes.last_mut()
        {
            *last ^= 1;
        }
        if self.random.chance(duplicate) {
            self.enqueue(to, ip_id, bytes.clone(), self.latency * 3);
        }
        let extra = if self.random.chance(reorder) {
            Duration::from_micros(self.random.below(200))
        } else {
            Duration::ZERO
        };
        self.enqueue(to, ip_id, bytes, self.latency + extra);
    }

    fn enqueue(&mut self, to: usize, ip_id: Option<u16>, bytes: Vec<u8>, delay: Duration) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), InFlight { to, ip_id, bytes });
    }

    /// Hands a packet to a host right now, as an attacker may.
    pub fn inject(&mut self, to: usize, bytes: Vec<u8>) {
        self.arrive(InFlight { to, ip_id: None, bytes });
    }

    fn arrive(&mut self, InFlight { to, ip_id, mut bytes }: InFlight) {
        let meta = PacketMeta { remote: address(1 - to), local: address(to).ip(), ip_id };
        self.hosts[to].endpoint.handle_packet(self.now, &meta, &mut bytes);
        self.most_incoming = self.most_incoming.max(self.hosts[to].endpoint.incoming_bytes());
        self.pump(to);
    }

    /// Starts recording afresh.
    pub fn record(&mut self) {
        self.recorded.clear();
        self.recording = true;
    }

    /// What was sent to `to` since [`record`](Self::record), oldest first; nothing is recorded any
    /// more.
    pub fn recorded_to(&mut self, to: usize) -> Vec<Vec<u8>> {
        self.recording = false;
        self.recorded.iter().filter(|(at, _)| *at == to).map(|(_, p)| p.clone()).collect()
    }

    /// Checks that nothing is left of any RPC: no charge, no call, no timer but the idle probe.
    pub fn assert_clean(&mut self) {
        self.run_for(Duration::from_secs(5));
        for host in &self.hosts {
            assert_eq!(host.endpoint.incoming_bytes(), 0, "charge left over");
            assert_eq!(host.endpoint.promised_bytes(), 0, "promises left over");
            assert_eq!(host.endpoint.outstanding(host.session), 0, "calls left over");
            if let Some(next) = host.endpoint.poll_timeout() {
                let wait = next.since(self.now);
                assert!(wait > Duration::from_secs(10), "a timer goes on: {wait:?}");
            }
        }
    }

    /// Takes the packets in flight off the link.
    pub fn take_in_flight(&mut self) -> Vec<InFlight> {
        std::mem::take(&mut self.queue).into_values().collect()
    }

    /// One step of time: the next packet arrives or the next timer fires. False when nothing will.
    pub fn step(&mut self) -> bool {
        let arrival = self.queue.first_key_value().map(|(key, _)| key.0);
        let timers = self.hosts.each_ref().map(|host| host.endpoint.poll_timeout());
        let timer = timers.into_iter().flatten().min();
        match (arrival, timer) {
            (None, None) => return false,
            (Some(at), timer) if timer.is_none_or(|timer| at <= timer) => {
                self.now = self.now.max(at);
                if let Some((_, packet)) = self.queue.pop_first() {
                    self.arrive(packet);
                }
            }
            (_, Some(at)) => {
                self.now = self.now.max(at);
                for me in [CLIENT, SERVER] {
                    self.hosts[me].endpoint.handle_timeout(self.now);
                    self.pump(me);
                }
            }
            (Some(_), None) => unreachable!("covered by the second arm"),
        }
        true
    }

    /// Runs until `done`, or panics after `limit` of virtual time.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Net) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(self.now < end && self.step(), "not done after {limit:?} of virtual time");
        }
    }

    /// Runs for `span` of virtual time.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let next_packet = self.queue.first_key_value().map(|(key, _)| key.0);
            let timers = self.hosts.each_ref().map(|host| host.endpoint.poll_timeout());
            let next = timers.into_iter().flatten().chain(next_packet).min();
            if next.is_none_or(|next| next > end) {
                self.now = end;
                return;
            }
            self.step();
        }
    }

    pub fn ended(&self, host: usize) -> usize {
        self.hosts[host].ended.len()
    }
}
