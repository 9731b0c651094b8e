//! Strangers, floods and losses at the handshake. The TLS bytes are made up: the core only carries
//! them.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use smt_proto::crypto::{SuiteId, aws_lc};
use smt_proto::error::{CallError, CloseReason, HandshakeError};
use smt_proto::keys::Secret;
use smt_proto::wire::{DATA_LEN, Data, Header, packet_type};
use smt_proto::{Config, Endpoint, Event, Limits, PacketMeta, Path, Role, SessionId, Time};

use crate::net::{CLIENT, PORTS, SERVER, Seeded, address};

const ROOM: usize = 1232;

/// A client and a server whose "TLS" takes three flights of the lengths given.
pub(crate) struct Pair {
    pub(crate) ends: [Endpoint; 2],
    pub(crate) now: Time,
    /// To whom, and the bytes.
    pub(crate) link: VecDeque<(usize, Vec<u8>)>,
    pub(crate) lengths: [usize; 3],
    /// Makes secrets of both ends agree, or not.
    pub(crate) secret: u8,
    pub(crate) client: Option<SessionId>,
    pub(crate) server: Vec<SessionId>,
    pub(crate) established: [Vec<SessionId>; 2],
    pub(crate) failed: Vec<(usize, HandshakeError)>,
    pub(crate) closed: Vec<(usize, SessionId, CloseReason)>,
    pub(crate) answered: Vec<Result<Vec<u8>, CallError>>,
    pub(crate) executed: u32,
    /// Whether the server answers requests.
    pub(crate) echo: bool,
}

impl Pair {
    pub(crate) fn new(config: Config, lengths: [usize; 3]) -> Pair {
        let ends = [1, 2].map(|seed| Endpoint::new(config.clone(), Box::new(Seeded(seed))));
        Pair {
            ends,
            now: Time::ZERO,
            link: VecDeque::new(),
            lengths,
            secret: 1,
            client: None,
            server: Vec::new(),
            established: [Vec::new(), Vec::new()],
            failed: Vec::new(),
            closed: Vec::new(),
            answered: Vec::new(),
            executed: 0,
            echo: true,
        }
    }

    pub(crate) fn connect(&mut self) -> SessionId {
        let path = Path {
            remote: address(SERVER),
            remote_port: PORTS[SERVER],
            local_port: PORTS[CLIENT],
            local: None,
        };
        let deadline = self.now + Duration::from_secs(5);
        let id = self.ends[CLIENT].connect(self.now, path, ROOM, deadline).unwrap();
        self.ends[CLIENT].send_flight(self.now, id, &vec![0xc0; self.lengths[0]]);
        self.client = Some(id);
        self.pump();
        id
    }

    fn secrets(&self, end: usize, id: SessionId) -> (Secret, Secret) {
        let suite = aws_lc::suite(SuiteId::Aes128GcmSha256);
        let context = self.ends[end].key_context(id).unwrap().compute(suite, b"smt/1");
        let mut base = [self.secret; 32];
        base.iter_mut().zip(&context).for_each(|(b, c)| *b ^= c);
        let client = Secret::new(&base);
        base[0] ^= 0xff;
        (client, Secret::new(&base))
    }

    pub(crate) fn pump(&mut self) {
        let suite = aws_lc::suite(SuiteId::Aes128GcmSha256);
        for end in [CLIENT, SERVER] {
            while let Some(event) = self.ends[end].poll_event() {
                match event {
                    Event::Flight { session, number: 0, .. } => {
                        self.server.push(session);
                        let flight = vec![0x51; self.lengths[1]];
                        self.ends[end].send_flight(self.now, session, &flight);
                    }
                    Event::Flight { session, number: 1, bytes, .. } => {
                        assert_eq!(bytes, vec![0x51; self.lengths[1]]);
                        let flight = vec![0xc2; self.lengths[2]];
                        self.ends[end].send_flight(self.now, session, &flight);
                        let (client, server) = self.secrets(end, session);
                        self.ends[end].install_keys(self.now, session, suite, client, server);
                    }
                    Event::Flight { session, number: 2, bytes, .. } => {
                        assert_eq!(bytes, vec![0xc2; self.lengths[2]]);
                        let (client, server) = self.secrets(end, session);
                        self.ends[end].install_keys(self.now, session, suite, client, server);
                    }
                    Event::Flight { .. } => {}
                    Event::Established { session } => self.established[end].push(session),
                    Event::HandshakeFailed { error, .. } => self.failed.push((end, error)),
                    Event::Closed { session, reason } => self.closed.push((end, session, reason)),
                    Event::Request { rpc, body, .. } => {
                        self.executed += 1;
                        if self.echo {
                            self.ends[end].reply(rpc, Bytes::from(body.into_vec()));
                        }
                    }
                    Event::Response { result, .. } => {
                        self.answered.push(result.map(smt_proto::Body::into_vec));
                    }
                    _ => {}
                }
            }
            let mut frame = [0; 2000];
            while let Some(sent) = self.ends[end].poll_transmit(self.now, &mut frame) {
                self.link.push_back((1 - end, frame[..sent.len].to_vec()));
            }
        }
    }

    pub(crate) fn deliver(&mut self, to: usize, mut packet: Vec<u8>) {
        self.deliver_from(address(1 - to), to, &mut packet);
    }

    pub(crate) fn deliver_from(&mut self, remote: SocketAddr, to: usize, packet: &mut [u8]) {
        let meta = PacketMeta { remote, local: address(to).ip(), ip_id: None };
        self.ends[to].handle_packet(self.now, &meta, packet);
        self.pump();
    }

    /// Lets `span` pass; `fate` says how often a packet arrives.
    pub(crate) fn run(&mut self, span: Duration, mut fate: impl FnMut(usize, &[u8]) -> usize) {
        let end = self.now + span;
        loop {
            while let Some((to, packet)) = self.link.pop_front() {
                self.now = self.now + Duration::from_micros(10);
                for _ in 0..fate(to, &packet) {
                    self.deliver(to, packet.clone());
                }
            }
            let next = self.ends.iter().filter_map(Endpoint::poll_timeout).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            for end in &mut self.ends {
                end.handle_timeout(self.now);
            }
            self.pump();
        }
        self.now = self.now.max(end);
    }

    pub(crate) fn call(&mut self) {
        let deadline = self.now + Duration::from_secs(3);
        let id = self.client.unwrap();
        self.ends[CLIENT].start_call(id, Bytes::from_static(b"hello"), deadline, 1).unwrap();
        self.pump();
    }
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const LENGTHS: [usize; 3] = [300, 900, 100];

#[test]
fn completes_and_carries_calls() {
    let mut pair = Pair::new(Config::default(), LENGTHS);
    let id = pair.connect();
    pair.run(Duration::from_millis(1), |_, _| 1);
    assert_eq!(pair.established[CLIENT], [id]);
    assert_eq!(pair.established[SERVER], pair.server);
    pair.call();
    pair.run(Duration::from_millis(5), |_, _| 1);
    assert_eq!(pair.answered, [Ok(b"hello".to_vec())]);
}

#[test]
fn completes_whatever_is_lost_repeated_or_reordered() {
    for seed in 0..60 {
        let mut random = Seeded(seed);
        let lengths = [random.below(4000) as usize, random.below(9000) as usize, 2500];
        let mut pair = Pair::new(Config::default(), lengths);
        pair.connect();
        let mut called = false;
        for _ in 0..40 {
            pair.run(Duration::from_millis(100), |_, _| [0, 1, 1, 2][random.below(4) as usize]);
            // Now and then the rest of the link turns around.
            pair.link.make_contiguous().reverse();
            if !called && !pair.established[CLIENT].is_empty() {
                pair.call();
                called = true;
            }
        }
        assert_eq!(pair.answered, [Ok(b"hello".to_vec())], "seed {seed}, {lengths:?}");
        assert_eq!(pair.executed, 1);
        assert!(pair.failed.is_empty());
    }
}

#[test]
fn a_flight_longer_than_the_amplification_limit_comes_to_its_end() {
    for certificate in [3000, 6000, 20_000, 50_000] {
        let mut pair = Pair::new(Config::default(), [300, certificate, 100]);
        pair.connect();
        let (mut received, mut sent) = (0usize, 0usize);
        let mut proven = false;
        pair.run(4 * SECOND, |to, packet| {
            proven |= to == SERVER && packet[27] == 2;
            if !proven && to == SERVER {
                received += packet.len();
            }
            if !proven && to == CLIENT {
                sent += packet.len();
                assert!(sent <= 3 * received, "{sent} bytes for {received}");
            }
            1
        });
        assert_eq!(pair.established[CLIENT].len(), 1, "{certificate} bytes");
    }
}

#[test]
fn an_unproven_address_gets_at_most_three_times_its_bytes() {
    let mut pair = Pair::new(Config::default(), [300, 50_000, 100]);
    pair.connect();
    let first: Vec<Vec<u8>> = pair.link.drain(..).map(|(_, packet)| packet).collect();
    let mut random = Seeded(4);
    let (mut received, mut sent) = (0, 0);
    for _ in 0..2000 {
        let packet = &first[random.below(first.len() as u64) as usize];
        received += packet.len();
        pair.deliver(SERVER, packet.clone());
        pair.now = pair.now + Duration::from_micros(700);
        sent += pair.link.drain(..).map(|(_, packet)| packet.len()).sum::<usize>();
        assert!(sent <= 3 * received, "{sent} bytes for {received}");
    }
}

#[test]
fn a_repeated_client_hello_after_a_retry_request_is_paid_for_too() {
    let mut server = Endpoint::new(Config::default(), Box::new(Seeded(1)));
    let meta = PacketMeta { remote: address(CLIENT), local: address(SERVER).ip(), ip_id: None };
    let (mut now, mut received, mut sent) = (Time::ZERO, 0, 0);
    let mut hello = hello_packet(7, 0, 400);
    // A stranger who sees no answer: ClientHello, a second one, and that again and again.
    for round in 0..2000 {
        received += hello.len();
        server.handle_packet(now, &meta, &mut hello.clone());
        while let Some(event) = server.poll_event() {
            if let Event::Flight { session, number, .. } = event {
                server.send_flight(now, session, &vec![0x51; [100, 0, 9000][number as usize]]);
            }
        }
        let mut frame = [0; 2000];
        while let Some(packet) = server.poll_transmit(now, &mut frame) {
            sent += packet.len;
        }
        assert!(sent <= 3 * received, "{sent} bytes for {received}, round {round}");
        hello = hello_packet(7, 2, 100);
        now = now + Duration::from_millis(2);
    }
    assert!(server.stats().limit_amplification > 0);
}

/// A whole flight of a client in one packet; flight 0 with its parameters.
pub(crate) fn hello_packet(token: u64, flight: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if flight == 0 {
        let params = Endpoint::new(Config::default(), Box::new(Seeded(2))).parameters(Role::Client);
        bytes = params.emit(0);
    }
    bytes.resize(bytes.len() + len, 0xc0);
    let first = Data::parse(&first_flight(token, PORTS[CLIENT])).unwrap();
    let data = Data {
        header: Header { message_id: flight, ..first.header },
        message_len: bytes.len() as u32,
        incoming: bytes.len() as u32,
        ..first
    };
    let mut packet = vec![0; DATA_LEN];
    data.emit((&mut packet[..]).try_into().unwrap());
    packet.extend_from_slice(&bytes);
    packet
}

#[test]
fn a_guessed_token_gets_nothing() {
    let mut pair = Pair::new(Config::default(), LENGTHS);
    pair.connect();
    let flights: Vec<Vec<u8>> = pair.link.drain(..).map(|(_, packet)| packet).collect();
    for packet in &flights {
        pair.deliver(SERVER, packet.clone());
    }
    let answer: Vec<Vec<u8>> = pair.link.drain(..).map(|(_, packet)| packet).collect();
    // Somebody guesses at the client: all flights, wrong tokens.
    for guess in 0..1000u64 {
        let mut forged = answer[0].clone();
        forged[36..44].copy_from_slice(&guess.to_be_bytes());
        pair.deliver(CLIENT, forged);
    }
    assert!(pair.link.is_empty());
    let stats = pair.ends[CLIENT].stats();
    assert_eq!(stats.dropped_bad_token, 1000);
    for packet in answer {
        pair.deliver(CLIENT, packet);
    }
    pair.run(SECOND, |_, _| 1);
    assert_eq!(pair.established[CLIENT].len(), 1);
}

pub(crate) fn first_flight(token: u64, source: u16) -> Vec<u8> {
    let data = Data {
        header: Header { src_port: source, dst_port: PORTS[SERVER], epoch: 0, message_id: 0 },
        sequence: 0,
        record_size: 0,
        segment_size: 1180,
        message_len: 60_000,
        incoming: 60_000,
        tag: token,
        cutoffs: 0,
        retransmit: false,
        explicit: true,
        pinned: false,
        bundle: false,
        tso_offset: 0,
    };
    let mut packet = vec![0; DATA_LEN + 10];
    data.emit((&mut packet[..DATA_LEN]).try_into().unwrap());
    packet
}

#[test]
fn floods_of_first_flights_stop_at_the_limits_and_go_away() {
    let limits = Limits { max_half_open: 50, ..Limits::default() };
    let mut pair = Pair::new(Config { limits, ..Config::default() }, LENGTHS);
    for i in 0..10_000u32 {
        let stranger = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + i)), 0);
        let mut packet = first_flight(u64::from(i), 1 + i as u16);
        pair.deliver_from(stranger, SERVER, &mut packet);
    }
    assert_eq!(pair.ends[SERVER].session_count(), 50);
    assert_eq!(pair.ends[SERVER].stats().limit_half_open, 9950);
    pair.run(11 * SECOND, |_, _| 1);
    assert_eq!(pair.ends[SERVER].session_count(), 0);
    // From one path fewer still.
    for token in 0..100 {
        let mut packet = first_flight(token, 9);
        pair.deliver_from(address(CLIENT), SERVER, &mut packet);
    }
    assert_eq!(pair.ends[SERVER].session_count(), limits.max_per_path);
    pair.run(11 * SECOND, |_, _| 1);
    pair.connect();
    pair.run(SECOND, |_, _| 1);
    assert_eq!(pair.established[CLIENT].len(), 1);
}

#[test]
fn pieces_of_flights_without_end_are_bounded() {
    let mut pair = Pair::new(Config::default(), LENGTHS);
    for at in (0..60_000u32).step_by(2) {
        let mut packet = first_flight(7, 9);
        packet.truncate(DATA_LEN + 1);
        packet[4..8].copy_from_slice(&at.to_be_bytes());
        pair.deliver_from(address(CLIENT), SERVER, &mut packet);
    }
    assert!(pair.ends[SERVER].stats().limit_flight > 20_000);
}

#[test]
fn early_packets_wait_under_a_cap_and_then_count() {
    let mut pair = Pair::new(Config::default(), LENGTHS);
    pair.connect();
    // The client's Finished is held back, its requests are not.
    let mut finished = Vec::new();
    pair.run(Duration::from_millis(1), |to, packet| {
        let held = to == SERVER && packet[8] == 0 && packet[27] == 2;
        if held {
            finished.push(packet.to_vec());
        }
        usize::from(!held)
    });
    for _ in 0..100 {
        pair.call();
    }
    let requests: Vec<Vec<u8>> = pair.link.drain(..).map(|(_, packet)| packet).collect();
    assert!(requests.iter().all(|packet| packet_type(packet).is_ok()));
    for packet in requests {
        pair.deliver(SERVER, packet);
    }
    assert_eq!(pair.executed, 0, "a request ran before the handshake was done");
    assert!(pair.ends[SERVER].stats().limit_early_packets >= 36);
    for packet in finished {
        pair.deliver(SERVER, packet);
    }
    assert_eq!(pair.executed, 64);
    pair.run(SECOND, |_, _| 1);
    assert_eq!(pair.executed, 100);
    assert_eq!(pair.answered.len(), 100);
}

#[test]
fn early_packets_are_bounded_in_bytes() {
    let mut pair = Pair::new(Config::default(), LENGTHS);
    pair.connect();
    pair.run(Duration::from_micros(15), |to, _| usize::from(to == SERVER));
    let early = Data { ..Data::parse(&first_flight(0, PORTS[CLIENT])).unwrap() };
    let early = Data { header: Header { epoch: 3, ..early.header }, record_size: 64, ..early };
    let mut packet = vec![0; 60_000];
    early.emit((&mut packet[..DATA_LEN]).try_into().unwrap());
    for _ in 0..10 {
        pair.deliver(SERVER, packet.clone());
    }
    assert_eq!(pair.ends[SERVER].stats().limit_early_packets, 8);
}

#[test]
fn a_repeated_last_flight_is_answered_with_a_pace() {
    let mut pair = Pair::new(Config::default(), LENGTHS);
    pair.connect();
    let mut last = Vec::new();
    pair.run(SECOND, |to, packet| {
        if to == SERVER && packet[8] == 0 && packet[27] == 2 {
            last = packet.to_vec();
        }
        1
    });
    for _ in 0..1000 {
        pair.deliver(SERVER, last.clone());
    }
    assert_eq!(pair.link.len(), 1);
    pair.now = pair.now + Duration::from_millis(2);
    pair.deliver(SERVER, last);
    assert_eq!(pair.link.len(), 2);
}

#[test]
fn a_flipped_bit_in_the_parameters_is_repaired_by_repetition() {
    let mut pair = Pair::new(Config::default(), LENGTHS);
    let id = pair.connect();
    let mut spoilt = false;
    for _ in 0..100 {
        let Some((to, mut packet)) = pair.link.pop_front() else {
            pair.run(Duration::from_millis(6), |_, _| 1);
            continue;
        };
        if to == CLIENT && !spoilt {
            // The version of the server's block.
            packet[DATA_LEN + 3] ^= 1;
            spoilt = true;
        }
        pair.deliver(to, packet);
    }
    assert!(spoilt && pair.failed.is_empty(), "{:?}", pair.failed);
    assert_eq!(pair.established[CLIENT], [id]);
}

#[test]
fn parameters_that_stay_wrong_are_named() {
    let mut pair = Pair::new(Config::default(), LENGTHS);
    pair.connect();
    for _ in 0..2000 {
        let Some((to, mut packet)) = pair.link.pop_front() else {
            let next = pair.ends.iter().filter_map(Endpoint::poll_timeout).min().unwrap();
            pair.now = pair.now.max(next);
            pair.ends.iter_mut().for_each(|end| end.handle_timeout(pair.now));
            pair.pump();
            continue;
        };
        if to == CLIENT {
            packet[DATA_LEN + 3] ^= 1;
        }
        pair.deliver(to, packet);
        if !pair.failed.is_empty() {
            break;
        }
    }
    assert_eq!(pair.failed[0], (CLIENT, HandshakeError::BadParameters));
    assert!(pair.now < Time::ZERO + SECOND);
}

#[test]
fn a_second_session_on_the_path_lives_beside_the_first_which_is_probed() {
    let mut pair = Pair::new(Config::default(), LENGTHS);
    let first = pair.connect();
    pair.run(SECOND, |_, _| 1);
    let second = pair.connect();
    pair.run(SECOND, |_, _| 1);
    assert_eq!(pair.established[CLIENT], [first, second]);
    assert!(pair.ends[SERVER].stats().probes_sent > 0);
    // Both work: the tag tells their packets apart.
    for id in [first, second, first] {
        pair.client = Some(id);
        pair.call();
        pair.run(SECOND, |_, _| 1);
    }
    assert_eq!(pair.answered, vec![Ok(b"hello".to_vec()); 3]);
    assert!(pair.closed.is_empty());
    assert_eq!(pair.ends[SERVER].parameters(Role::Server).id_bits, 48);
}
