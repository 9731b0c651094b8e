//! Sessions of several lanes (spec 3.5): hosts of one or several endpoints, packets steered as a kernel
//! does it, and a network that loses, repeats and reorders.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "net/mod.rs"]
mod net;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use bytes::Bytes;
use net::{CLIENT, PORTS, SERVER, Seeded, address};
use smt_proto::crypto::{SuiteId, aws_lc};
use smt_proto::error::{CallError, CloseReason, HandshakeError};
use smt_proto::keys::Secret;
use smt_proto::wire::{Control, Data, Params, UnknownCode};
use smt_proto::{
    AeadLimits, Body, Config, Endpoint, Event, External, Limits, PacketMeta, Path, Role, RpcId,
    SessionId, Shard, Time, Updates,
};

/// One endpoint of a host.
struct Part {
    endpoint: Endpoint,
    session: SessionId,
}

struct Host {
    shards: Vec<Part>,
    ended: BTreeMap<u64, Result<Vec<u8>, CallError>>,
    /// How often each request was seen.
    executed: BTreeMap<Vec<u8>, u32>,
    /// Requests by lane, and by shard.
    by_lane: BTreeMap<u8, u32>,
    by_shard: Vec<u32>,
    closed: Vec<(usize, CloseReason)>,
    echo: bool,
    kept: Vec<(usize, RpcId, Body)>,
}

/// Packets on their way: when, in which order, to which host, by which of its shards if not as steered.
type Queue = BTreeMap<(Time, u64), (usize, Option<usize>, Vec<u8>)>;

struct Net {
    hosts: [Host; 2],
    now: Time,
    random: Seeded,
    queue: Queue,
    count: u64,
    loss: f64,
    /// Everything sent, by destination.
    sent: Vec<(usize, Vec<u8>)>,
}

fn config(lanes: u8) -> Config {
    Config { lanes, ..Config::default() }
}

/// Which shard a kernel's filter gives a packet to.
fn steer(packet: &[u8], shards: usize) -> usize {
    let (epoch, kind) = (packet[8], packet[11]);
    if epoch == 0 && kind != 0x13 {
        return 0;
    }
    usize::from(packet[27] >> 2) % shards
}

impl Net {
    /// Two hosts with so many shards each.
    fn new(seed: u64, config: &Config, shards: [u8; 2]) -> Net {
        Net::try_new(seed, config, shards).unwrap()
    }

    fn try_new(seed: u64, config: &Config, shards: [u8; 2]) -> Result<Net, HandshakeError> {
        let mut random = Seeded(seed);
        let suite = aws_lc::suite(SuiteId::Aes128GcmSha256);
        let secrets = [random.bytes(32), random.bytes(32)];
        let mut endpoints = shards.map(|count| {
            let shard = |index| {
                let config = Config { shard: Shard { index, count }, ..config.clone() };
                Endpoint::new(config, Box::new(Seeded(random.next())))
            };
            (0..count).map(shard).collect::<Vec<_>>()
        });
        let params: [Params; 2] = [
            endpoints[CLIENT][0].parameters(Role::Client),
            endpoints[SERVER][0].parameters(Role::Server),
        ];
        let mut hosts = Vec::new();
        for (me, endpoints) in endpoints.iter_mut().enumerate() {
            let path = Path {
                remote: address(1 - me),
                remote_port: PORTS[1 - me],
                local_port: PORTS[me],
                local: Some(address(me).ip()),
            };
            let external = || External {
                path,
                role: if me == CLIENT { Role::Client } else { Role::Server },
                suite,
                client_secret: Secret::new(&secrets[0]),
                server_secret: Secret::new(&secrets[1]),
                local: params[me],
                peer: params[1 - me],
                room: 1480,
                updates: Updates::Derived,
            };
            let mut parts = Vec::new();
            let mut lanes = None;
            for (index, mut endpoint) in endpoints.drain(..).enumerate() {
                let session = match index {
                    0 => {
                        let session = endpoint.add_session(Time::ZERO, external())?;
                        lanes = endpoint.take_lanes(session);
                        assert!(endpoint.take_lanes(session).is_none(), "secrets given twice");
                        session
                    }
                    _ => endpoint.add_lanes(Time::ZERO, lanes.as_ref().unwrap())?,
                };
                parts.push(Part { endpoint, session });
            }
            hosts.push(Host {
                by_shard: vec![0; parts.len()],
                shards: parts,
                ended: BTreeMap::new(),
                executed: BTreeMap::new(),
                by_lane: BTreeMap::new(),
                closed: Vec::new(),
                echo: true,
                kept: Vec::new(),
            });
        }
        let hosts: [Host; 2] = hosts.try_into().ok().unwrap();
        let (queue, sent) = (Queue::new(), Vec::new());
        let mut net = Net { hosts, now: Time::ZERO, random, queue, count: 0, loss: 0.0, sent };
        for host in [CLIENT, SERVER] {
            net.pump_all(host);
        }
        Ok(net)
    }

    fn call(&mut self, host: usize, shard: usize, body: Vec<u8>, user: u64) -> RpcId {
        let deadline = self.now + Duration::from_secs(60);
        let Part { endpoint, session } = &mut self.hosts[host].shards[shard];
        let rpc = endpoint.start_call(*session, Bytes::from(body), deadline, user).unwrap();
        self.pump(host, shard);
        rpc
    }

    fn pump_all(&mut self, host: usize) {
        for shard in 0..self.hosts[host].shards.len() {
            self.pump(host, shard);
        }
    }

    fn pump(&mut self, me: usize, shard: usize) {
        loop {
            let host = &mut self.hosts[me];
            let Part { endpoint, session } = &mut host.shards[shard];
            endpoint.settle();
            while let Some(event) = endpoint.poll_event() {
                match event {
                    Event::Request { rpc, body, .. } => {
                        assert_eq!(rpc.session, *session);
                        *host.executed.entry(body.to_vec()).or_default() += 1;
                        let lane = endpoint.lane_of(rpc).unwrap();
                        *host.by_lane.entry(lane).or_default() += 1;
                        host.by_shard[shard] += 1;
                        match host.echo {
                            true => assert!(endpoint.reply(rpc, Bytes::from(body.into_vec()))),
                            false => host.kept.push((shard, rpc, body)),
                        }
                    }
                    Event::Response { user, result, .. } => {
                        let result = result.map(Body::into_vec);
                        assert!(host.ended.insert(user, result).is_none(), "ended twice");
                    }
                    Event::Closed { session: id, reason } => {
                        assert_eq!(id, *session);
                        host.closed.push((shard, reason));
                    }
                    _ => {}
                }
            }
            let mut frame = [0; 65_535];
            let Some(transmit) = endpoint.poll_transmit(self.now, &mut frame) else { return };
            self.send(1 - me, frame[..transmit.len].to_vec());
        }
    }

    fn send(&mut self, to: usize, packet: Vec<u8>) {
        self.sent.push((to, packet.clone()));
        if self.random.chance(self.loss) {
            return;
        }
        for _ in 0..1 + u64::from(self.random.chance(self.loss / 2.0)) {
            let late = if self.random.chance(self.loss) { self.random.below(300) } else { 0 };
            self.count += 1;
            let at = (self.now + Duration::from_micros(20 + late), self.count);
            self.queue.insert(at, (to, None, packet.clone()));
        }
    }

    /// Delivers a packet to a shard, the right one or not.
    fn arrive(&mut self, to: usize, shard: Option<usize>, mut packet: Vec<u8>) {
        let shard = shard.unwrap_or_else(|| steer(&packet, self.hosts[to].shards.len()));
        let meta = PacketMeta { remote: address(1 - to), local: address(to).ip(), ip_id: None };
        self.hosts[to].shards[shard].endpoint.handle_packet(self.now, &meta, &mut packet);
        self.pump(to, shard);
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let packet = self.queue.keys().next().map(|key| key.0);
            let timers = self.hosts.iter().flat_map(|host| &host.shards);
            let timer = timers.filter_map(|part| part.endpoint.poll_timeout()).min();
            let Some(next) = packet.into_iter().chain(timer).min().filter(|next| *next <= end)
            else {
                break;
            };
            self.now = self.now.max(next);
            while let Some(entry) = self.queue.first_entry()
                && entry.key().0 <= self.now
            {
                let (to, shard, packet) = entry.remove();
                self.arrive(to, shard, packet);
            }
            for host in [CLIENT, SERVER] {
                for shard in 0..self.hosts[host].shards.len() {
                    let endpoint = &mut self.hosts[host].shards[shard].endpoint;
                    if endpoint.poll_timeout().is_some_and(|due| due <= self.now) {
                        endpoint.handle_timeout(self.now);
                        self.pump(host, shard);
                    }
                }
            }
        }
        self.now = end;
    }

    fn stat(&self, host: usize, of: impl Fn(&smt_proto::Stats) -> u64) -> u64 {
        self.hosts[host].shards.iter().map(|part| of(part.endpoint.stats())).sum()
    }

    fn assert_clean(&mut self) {
        self.run_for(Duration::from_secs(5));
        for Part { endpoint, session } in self.hosts.iter().flat_map(|host| &host.shards) {
            assert_eq!(endpoint.incoming_bytes(), 0);
            assert_eq!(endpoint.promised_bytes(), 0);
            assert_eq!(endpoint.outstanding(*session), 0);
            assert_eq!(endpoint.waiting_bytes(*session), 0);
        }
    }
}

fn body(n: u64, len: usize) -> Vec<u8> {
    let mut body = n.to_be_bytes().to_vec();
    body.resize(len.max(8), n as u8);
    body
}

/// Runs calls of all sizes from both ends; each ends right and runs once.
fn exchange(net: &mut Net, calls: u64) {
    for n in 0..calls {
        let host = (n % 3 == 0) as usize;
        let len = match n % 10 {
            0 => 60_000,
            1..4 => 5000,
            _ => 64,
        };
        let shard = n as usize % net.hosts[host].shards.len();
        net.call(host, shard, body(n, len), n);
        net.run_for(Duration::from_micros(15));
    }
    net.run_for(Duration::from_secs(20));
    let ended: BTreeMap<_, _> = net.hosts.iter().flat_map(|host| host.ended.clone()).collect();
    assert_eq!(ended.len() as u64, calls);
    for (n, result) in &ended {
        assert_eq!(result.as_ref().unwrap()[..8], n.to_be_bytes());
    }
    for host in &net.hosts {
        assert!(host.executed.values().all(|times| *times == 1), "a request ran twice");
        assert!(host.closed.is_empty());
    }
}

#[test]
fn four_lanes_over_a_lossy_network() {
    for seed in 0..6 {
        for shards in [[1, 1], [1, 4], [4, 1], [2, 4], [4, 4]] {
            let mut net = Net::new(seed, &config(4), shards);
            net.loss = 0.05;
            exchange(&mut net, 150);
            for host in &net.hosts {
                assert_eq!(host.by_lane.len(), 4, "{:?}", host.by_lane);
            }
            net.loss = 0.0;
            net.assert_clean();
            for host in [CLIENT, SERVER] {
                assert_eq!(net.stat(host, |stats| stats.dropped_bad_tag), 0);
                assert_eq!(net.stat(host, |stats| stats.violations), 0);
            }
        }
    }
}

#[test]
fn calls_of_one_end_spread_evenly_over_the_shards_of_the_other() {
    let mut net = Net::new(7, &config(1), [1, 4]);
    for n in 0..1000 {
        net.call(CLIENT, 0, body(n, 64), n);
        if n % 5 == 0 {
            net.run_for(Duration::from_micros(60));
        }
    }
    net.run_for(Duration::from_secs(1));
    assert_eq!(net.hosts[CLIENT].ended.len(), 1000);
    assert!(net.hosts[SERVER].by_shard.iter().all(|n| (240..260).contains(n)));
}

#[test]
fn small_calls_avoid_lanes_where_much_waits() {
    let mut net = Net::new(8, &config(2), [1, 1]);
    net.hosts[SERVER].echo = false;
    let large = net.call(CLIENT, 0, body(0, 1 << 20), 0);
    let endpoint = &net.hosts[CLIENT].shards[0].endpoint;
    let busy = endpoint.lane_of(large).unwrap();
    for n in 1..50 {
        let rpc = net.call(CLIENT, 0, body(n, 64), n);
        assert_ne!(net.hosts[CLIENT].shards[0].endpoint.lane_of(rpc), Some(busy));
    }
}

#[test]
fn every_nonce_is_of_one_lane_and_used_for_one_message() {
    let mut net = Net::new(9, &config(4), [2, 1]);
    exchange(&mut net, 60);
    let mut lanes_of = BTreeMap::<u64, BTreeSet<u8>>::new();
    let mut ids = HashSet::new();
    for (to, packet) in &net.sent {
        if packet[11] == 0x10 {
            let data = Data::parse(packet).unwrap();
            let id = data.header.message_id;
            lanes_of.entry(id).or_default().insert((id >> 2 & 3) as u8);
            ids.insert((*to, id));
        }
    }
    assert!(lanes_of.values().all(|lanes| lanes.len() == 1));
    assert_eq!(ids.len(), 2 * 60, "a request and a response each");
}

#[test]
fn keys_of_each_lane_move_on_by_themselves() {
    for shards in [[1, 1], [2, 2]] {
        let limits = AeadLimits { records: 40, blocks: 1 << 30, failed_opens: 1 << 30 };
        let config = Config { aead_limits: Some(limits), ..config(2) };
        let mut net = Net::new(10, &config, shards);
        net.loss = 0.02;
        for n in 0..300 {
            net.call(CLIENT, n as usize % net.hosts[CLIENT].shards.len(), body(n, 64), n);
            net.run_for(Duration::from_micros(100));
        }
        net.run_for(Duration::from_secs(5));
        assert!(net.hosts[CLIENT].ended.values().all(Result::is_ok));
        assert_eq!(net.hosts[CLIENT].ended.len(), 300);
        for host in [CLIENT, SERVER] {
            // Each lane seals 150 records and more, and leaves a key at 20.
            let updates = net.stat(host, |stats| stats.key_updates);
            assert!((8..40).contains(&updates), "{updates}");
        }
        // Asked for, all lanes update.
        let Part { endpoint, session } = &mut net.hosts[CLIENT].shards[0];
        assert!(endpoint.update_keys(*session) && endpoint.request_update(net.now, *session));
        net.assert_clean();
    }
}

/// All packets to the server of one call in each lane.
fn recorded(net: &mut Net) -> Vec<Vec<u8>> {
    net.sent.clear();
    for n in 0..4 {
        net.call(CLIENT, 0, body(n, 64), n);
    }
    net.run_for(Duration::from_secs(1));
    let packets = net.sent.iter().filter(|(to, _)| *to == SERVER);
    let packets: Vec<_> = packets.map(|(_, packet)| packet.clone()).collect();
    let lanes: BTreeSet<_> = packets.iter().map(|packet| packet[27] >> 2 & 3).collect();
    assert_eq!(lanes.len(), 4);
    packets
}

#[test]
fn packets_of_one_lane_mean_nothing_to_another() {
    let mut net = Net::new(11, &config(4), [1, 4]);
    let packets = recorded(&mut net);
    let executed = net.hosts[SERVER].executed.clone();
    let before = net.stat(SERVER, |stats| stats.responses_sent);
    for packet in &packets {
        let own = steer(packet, 4);
        for shard in (0..4).filter(|shard| *shard != own) {
            // As it is, on the wrong queue; and with the ID of the lane that is there.
            let mut moved = packet.clone();
            moved[27] = moved[27] & !0x0c | (shard as u8) << 2;
            for packet in [packet.clone(), moved] {
                let dropped = net.stat(SERVER, |stats| stats.dropped_bad_tag);
                net.arrive(SERVER, Some(shard), packet);
                assert_eq!(net.stat(SERVER, |stats| stats.dropped_bad_tag), dropped + 1);
            }
        }
    }
    assert_eq!(net.hosts[SERVER].executed, executed);
    assert_eq!(net.stat(SERVER, |stats| stats.responses_sent), before);
    assert_eq!(net.stat(SERVER, |stats| stats.violations), 0);
    // Nobody was harmed.
    exchange_more(&mut net);
}

#[test]
fn replayed_packets_do_nothing_in_any_lane() {
    for shards in [[1, 1], [1, 4]] {
        let mut net = Net::new(12, &config(4), shards);
        let packets = recorded(&mut net);
        let executed = net.hosts[SERVER].executed.clone();
        for _ in 0..3 {
            for packet in &packets {
                net.arrive(SERVER, None, packet.clone());
            }
        }
        net.run_for(Duration::from_secs(1));
        assert_eq!(net.hosts[SERVER].executed, executed);
        let dropped = net.stat(SERVER, |stats| {
            stats.dropped_replayed_request + stats.dropped_replayed_control + stats.duplicates
        });
        assert!(dropped >= 3 * 4, "{dropped}");
        exchange_more(&mut net);
    }
}

/// The session works still.
fn exchange_more(net: &mut Net) {
    for n in 100..108 {
        net.call(CLIENT, 0, body(n, 2000), n);
    }
    net.run_for(Duration::from_secs(1));
    assert!((100..108).all(|n| net.hosts[CLIENT].ended[&n].is_ok()));
}

#[test]
fn a_lane_that_the_session_does_not_have_harms_no_other() {
    // The filter of a host of four shards; the session has two lanes.
    let mut net = Net::new(13, &config(2), [1, 1]);
    let packets = recorded_of(&mut net, 2);
    let mut alone = Endpoint::new(
        Config { shard: Shard { index: 3, count: 4 }, ..config(1) },
        Box::new(Seeded(1)),
    );
    let meta = PacketMeta { remote: address(CLIENT), local: address(SERVER).ip(), ip_id: None };
    for packet in &packets {
        alone.handle_packet(net.now, &meta, &mut packet.clone());
    }
    // There is no such session there, and that is what it says: to the lane that asked.
    let mut frame = [0; 1500];
    let transmit = alone.poll_transmit(net.now, &mut frame).unwrap();
    let (answer, _) = Control::parse(&frame[..transmit.len]).unwrap();
    assert!(matches!(answer.body, smt_proto::wire::ControlBody::Unknown(UnknownCode::NoSession)));
    assert_eq!(answer.header.message_id, Data::parse(&packets[0]).unwrap().header.message_id);
    net.arrive(CLIENT, None, frame[..transmit.len].to_vec());
    exchange_more(&mut net);
    assert!(net.hosts[CLIENT].closed.is_empty());
}

fn recorded_of(net: &mut Net, calls: u64) -> Vec<Vec<u8>> {
    net.sent.clear();
    for n in 0..calls {
        net.call(CLIENT, 0, body(n, 64), n);
    }
    net.run_for(Duration::from_secs(1));
    net.sent.iter().filter(|(to, _)| *to == SERVER).map(|(_, packet)| packet.clone()).collect()
}

#[test]
fn handshakes_belong_to_lane_zero_alone() {
    let shard = Shard { index: 1, count: 2 };
    let mut other = Endpoint::new(Config { shard, ..config(2) }, Box::new(Seeded(2)));
    let path = Path { remote: address(SERVER), remote_port: 1, local_port: 2, local: None };
    let connected = other.connect(Time::ZERO, path, 1480, Time::ZERO + Duration::from_secs(1));
    assert_eq!(connected, Err(HandshakeError::BadParameters));
    let mut first = Endpoint::new(config(2), Box::new(Seeded(3)));
    let id = first.connect(Time::ZERO, path, 1480, Time::ZERO + Duration::from_secs(1)).unwrap();
    first.send_flight(Time::ZERO, id, b"ClientHello");
    let mut frame = [0; 1500];
    let transmit = first.poll_transmit(Time::ZERO, &mut frame).unwrap();
    let meta = PacketMeta { remote: address(CLIENT), local: address(SERVER).ip(), ip_id: None };
    other.handle_packet(Time::ZERO, &meta, &mut frame[..transmit.len]);
    assert_eq!(other.stats().dropped_wrong_lane, 1);
    assert_eq!(other.session_count(), 0);
    assert_eq!(steer(&frame[..transmit.len], 2), 0);
}

#[test]
fn a_session_closes_as_a_whole() {
    for (shards, closer) in [([1, 1], 0), ([1, 4], 0), ([4, 1], 0), ([4, 1], 2)] {
        let mut net = Net::new(14, &config(4), shards);
        net.hosts[SERVER].echo = false;
        for n in 0..8 {
            net.call(CLIENT, n as usize % usize::from(shards[CLIENT]), body(n, 64), n);
        }
        net.run_for(Duration::from_millis(1));
        // Whoever owns the shards closes in all of them; one may be the first.
        let order = (0..usize::from(shards[CLIENT])).map(|i| (i + closer) % 4);
        for shard in order {
            let Part { endpoint, session } = &mut net.hosts[CLIENT].shards[shard];
            endpoint.close(net.now, *session);
            net.pump(CLIENT, shard);
        }
        assert_eq!(net.hosts[CLIENT].ended.len(), 8);
        let all_ended = |host: &Host| {
            host.ended.values().all(|result| *result == Err(CallError::SessionClosed))
        };
        assert!(all_ended(&net.hosts[CLIENT]));
        net.run_for(Duration::from_secs(5));
        let server = &net.hosts[SERVER];
        assert!(server.closed.contains(&(0, CloseReason::Peer)), "{:?}", server.closed);
        let left: usize =
            net.hosts[CLIENT].shards.iter().map(|part| part.endpoint.session_count()).sum();
        assert_eq!(left, 0);
        assert_eq!(net.hosts[SERVER].shards[0].endpoint.session_count(), 0);
    }
}

#[test]
fn a_session_whose_lane_is_dead_is_dead() {
    let limits = Limits { idle_probe: Duration::from_secs(1), ..Limits::default() };
    let mut net = Net::new(15, &Config { limits, ..config(2) }, [1, 2]);
    // Shard 1 of the server is gone: whatever is for it is lost.
    let Host { shards, .. } = &mut net.hosts[SERVER];
    shards[1].endpoint = Endpoint::new(
        Config { shard: Shard { index: 1, count: 2 }, ..config(2) },
        Box::new(Seeded(9)),
    );
    for n in 0..6 {
        net.call(CLIENT, 0, body(n, 64), n);
    }
    net.run_for(Duration::from_secs(30));
    assert_eq!(net.hosts[CLIENT].closed, [(0, CloseReason::Dead)]);
    let results: Vec<_> = net.hosts[CLIENT].ended.values().collect();
    assert_eq!(results.len(), 6);
    assert!(results.iter().any(|result| result.is_ok()));
    assert!(results.iter().any(|result| **result == Err(CallError::OutcomeUnknown)));
    assert_eq!(net.hosts[CLIENT].shards[0].endpoint.session_count(), 0);
}

#[test]
fn limits_of_a_session_are_those_of_all_its_lanes() {
    let limits = Limits {
        max_rpcs: 10,
        max_incoming_bytes: 4 << 20,
        max_message: 1 << 20,
        ..Limits::default()
    };
    let mut net = Net::new(16, &Config { limits, ..config(4) }, [1, 2]);
    net.hosts[SERVER].echo = false;
    let deadline = net.now + Duration::from_secs(60);
    let Part { endpoint, session } = &mut net.hosts[CLIENT].shards[0];
    let started = (0..20)
        .filter(|n| endpoint.start_call(*session, body(*n, 64).into(), deadline, *n).is_ok())
        .count();
    assert_eq!(started, 10, "3 + 3 + 2 + 2");
    assert!(endpoint.stats().limit_rpcs > 0);
    net.pump(CLIENT, 0);
    net.run_for(Duration::from_secs(1));
    assert_eq!(net.hosts[SERVER].kept.len(), 10);
    // As large as any may be, in all lanes at once: together no more than the session may hold.
    for (shard, rpc, _) in std::mem::take(&mut net.hosts[SERVER].kept) {
        assert!(net.hosts[SERVER].shards[shard].endpoint.reply(rpc, Bytes::new()));
    }
    net.pump_all(SERVER);
    net.run_for(Duration::from_secs(1));
    for n in 100..108 {
        net.call(CLIENT, 0, body(n, 1 << 20), n);
    }
    for _ in 0..400 {
        net.run_for(Duration::from_millis(5));
        let parts = net.hosts[SERVER].shards.iter();
        let held: u64 = parts.map(|part| part.endpoint.incoming_bytes()).sum();
        assert!(held <= 4 << 20, "{held}");
        if !net.hosts[SERVER].kept.is_empty() && held > 2 << 20 {
            let (shard, rpc, _) = net.hosts[SERVER].kept.remove(0);
            net.hosts[SERVER].shards[shard].endpoint.reply(rpc, Bytes::new());
            net.pump(SERVER, shard);
        }
    }
    net.hosts[SERVER].echo = true;
    for (shard, rpc, _) in std::mem::take(&mut net.hosts[SERVER].kept) {
        net.hosts[SERVER].shards[shard].endpoint.reply(rpc, Bytes::new());
    }
    net.pump_all(SERVER);
    net.run_for(Duration::from_secs(30));
    assert!(net.stat(SERVER, |stats| stats.limit_incoming_bytes) > 0);
    assert!((100..108).all(|n| net.hosts[CLIENT].ended[&n].is_ok()));
    net.assert_clean();
}

#[test]
fn lanes_count_against_the_limit_of_sessions() {
    let limits = Limits { max_sessions: 3, ..Limits::default() };
    let config = Config { limits, ..config(4) };
    assert!(matches!(Net::try_new(17, &config, [1, 1]), Err(HandshakeError::TooManySessions)));
    assert!(Net::try_new(17, &config, [2, 4]).is_ok());
}

#[test]
fn a_session_of_one_lane_is_as_before() {
    // The same seed, packet for packet, but for what only lanes have: nothing.
    let packets = |lanes| {
        let mut net = Net::new(18, &config(lanes), [1, 1]);
        exchange(&mut net, 30);
        net.sent
    };
    assert_eq!(packets(1), packets(1));
    let one = packets(1);
    let two = packets(2);
    let first = |packets: &[(usize, Vec<u8>)]| {
        let ids = packets.iter().filter(|(_, packet)| packet[11] == 0x10);
        ids.map(|(_, packet)| Data::parse(packet).unwrap().header.message_id).min().unwrap()
    };
    assert!(first(&two) >= first(&one));
}
