//! RETRY: whose address is taken for proven, who begins again, and what a flood of strangers can do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use smt_proto::wire::{Data, RETRY_LEN, Retry};
use smt_proto::{Config, Endpoint, Event, Limits, PacketMeta, Time};

use crate::handshake::{LENGTHS, Pair, SECOND, first_flight, hello_packet};
use crate::net::{CLIENT, PORTS, SERVER, Seeded, address};

const SLOT: Duration = Duration::from_secs(16);
const MILLI: Duration = Duration::from_millis(1);

fn config(retry_threshold: usize) -> Config {
    Config { limits: Limits { retry_threshold, ..Limits::default() }, ..Config::default() }
}

fn stranger(i: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + i)), 0)
}

/// A server that asks every client for proof, and what comes of a packet given to it.
struct Server {
    endpoint: Endpoint,
    now: Time,
}

impl Server {
    fn new(limits: Limits) -> Server {
        let config = Config { limits, ..Config::default() };
        Server { endpoint: Endpoint::new(config, Box::new(Seeded(5))), now: Time::ZERO }
    }

    /// The RETRY that answers the packet, if any.
    fn give(&mut self, remote: SocketAddr, local: IpAddr, mut packet: Vec<u8>) -> Option<Retry> {
        let meta = PacketMeta { remote, local, ip_id: None };
        let len = packet.len();
        self.endpoint.handle_packet(self.now, &meta, &mut packet);
        let mut frame = [0; 2000];
        let sent = self.endpoint.poll_transmit(self.now, &mut frame)?;
        assert!(sent.remote == remote && sent.local == Some(local) && sent.len < len);
        assert!(self.endpoint.poll_transmit(self.now, &mut frame).is_none());
        Some(Retry::parse(&frame[..sent.len]).unwrap())
    }

    fn give_client(&mut self, packet: Vec<u8>) -> Option<Retry> {
        self.give(address(CLIENT), address(SERVER).ip(), packet)
    }
}

/// A server above its threshold, and the token it gave to our client.
fn server_and_token() -> (Server, u64) {
    let mut server = Server::new(Limits { retry_threshold: 0, ..Limits::default() });
    let retry = server.give_client(hello_packet(7, 0, 400)).unwrap();
    assert_eq!((retry.token, server.endpoint.session_count()), (7, 0));
    assert_eq!((retry.src_port, retry.dst_port), (PORTS[SERVER], PORTS[CLIENT]));
    (server, retry.new_token)
}

#[test]
fn from_the_threshold_on_clients_prove_their_address() {
    let mut pair = Pair::new(config(10), LENGTHS);
    for i in 0..20 {
        let mut packet = first_flight(u64::from(i), 9);
        pair.deliver_from(stranger(i), SERVER, &mut packet);
    }
    assert_eq!(pair.ends[SERVER].session_count(), 10);
    assert_eq!(pair.ends[SERVER].stats().retries_sent, 10);
    pair.link.clear();
    let id = pair.connect();
    pair.run(MILLI, |_, _| 1);
    assert_eq!(pair.established[CLIENT], [id]);
    assert_eq!(pair.ends[CLIENT].stats().retries_received, 1);
    assert_eq!(pair.ends[SERVER].stats().retries_sent, 11);
    pair.call();
    pair.run(5 * MILLI, |_, _| 1);
    assert_eq!(pair.answered, [Ok(b"hello".to_vec())]);
}

#[test]
fn retries_may_be_lost_repeated_and_late() {
    for seed in 0..60 {
        let mut random = Seeded(seed);
        let lengths = [random.below(4000) as usize, random.below(9000) as usize, 2500];
        let mut pair = Pair::new(config(0), lengths);
        pair.connect();
        for _ in 0..40 {
            pair.run(Duration::from_millis(100), |_, _| [0, 1, 1, 2][random.below(4) as usize]);
            pair.link.make_contiguous().reverse();
        }
        assert_eq!(pair.established[CLIENT].len(), 1, "seed {seed}, {lengths:?}");
        assert_eq!(pair.ends[CLIENT].stats().retries_received, 1);
    }
}

#[test]
fn a_flood_of_spoofed_first_flights_costs_little_memory_and_keeps_nobody_out() {
    let mut pair = Pair::new(Config::default(), LENGTHS);
    pair.connect();
    pair.run(MILLI, |_, _| 1);
    let (mut most, mut established, mut answered) = (0, 1, 0);
    for i in 0..100_000u32 {
        let mut packet = first_flight(u64::from(i), 1 + (i % 60_000) as u16);
        pair.deliver_from(stranger(i), SERVER, &mut packet);
        // What goes to strangers is lost.
        pair.link.retain(|(_, packet)| packet.len() != RETRY_LEN || packet[11] != 0x21);
        most = most.max(pair.ends[SERVER].session_count());
        match i % 20_000 {
            5000 => {
                pair.call();
                pair.run(5 * MILLI, |_, _| 1);
                answered += 1;
                assert_eq!(pair.answered.len(), answered, "an established session stands still");
            }
            // No more of them fit on one path.
            15_000 if established < 4 => {
                pair.connect();
                pair.run(5 * MILLI, |_, _| 1);
                established += 1;
                assert_eq!(pair.established[CLIENT].len(), established, "a client kept out");
            }
            _ => {}
        }
    }
    let stats = *pair.ends[SERVER].stats();
    assert!(most <= Limits::default().retry_threshold + 4, "{most} sessions");
    assert!(stats.retries_sent > 99_000 && stats.limit_half_open == 0);
}

#[test]
fn a_token_proves_one_address_and_pair_of_ports() {
    let (mut server, token) = server_and_token();
    let hello = || hello_packet(token, 0, 400);
    let ours = address(SERVER).ip();
    // Others who have come to know it.
    assert!(server.give(stranger(1), ours, hello()).is_some());
    assert!(server.give(SocketAddr::new(address(CLIENT).ip(), 9), ours, hello()).is_some());
    assert!(server.give(address(CLIENT), stranger(1).ip(), hello()).is_some());
    for at in [0, 2] {
        let mut packet = hello();
        packet[at] ^= 1;
        assert!(server.give_client(packet).is_some());
    }
    // Tokens that nobody gave out.
    for own in [0, 7, token ^ 1, u64::MAX] {
        assert!(server.give_client(hello_packet(own, 0, 400)).is_some());
    }
    assert_eq!(server.endpoint.session_count(), 0);
    assert!(server.give_client(hello()).is_none());
    assert_eq!(server.endpoint.session_count(), 1);
}

#[test]
fn a_token_goes_stale() {
    for (wait, taken) in [(SLOT, true), (2 * SLOT - MILLI, true), (2 * SLOT, false)] {
        let (mut server, token) = server_and_token();
        server.now = server.now + wait;
        let retry = server.give_client(hello_packet(token, 0, 400));
        assert_eq!(retry.is_none(), taken, "after {wait:?}");
        assert_eq!(server.endpoint.session_count(), usize::from(taken));
    }
}

#[test]
fn a_token_does_not_outlive_its_server() {
    let (_, token) = server_and_token();
    let config = config(0);
    let mut other =
        Server { endpoint: Endpoint::new(config, Box::new(Seeded(6))), now: Time::ZERO };
    assert!(other.give_client(hello_packet(token, 0, 400)).is_some());
}

#[test]
fn only_the_first_packet_of_a_first_flight_is_answered() {
    let (mut server, _) = server_and_token();
    let mut later = hello_packet(7, 0, 400);
    later[7] = 1;
    assert!(server.give_client(later).is_none());
    assert!(server.give_client(hello_packet(7, 2, 400)).is_none());
}

#[test]
fn a_proven_address_gets_all_at_once() {
    let (mut server, token) = server_and_token();
    server.give_client(hello_packet(token, 0, 400));
    let Some(Event::Flight { session, .. }) = server.endpoint.poll_event() else { panic!() };
    server.endpoint.send_flight(server.now, session, &vec![0x51; 50_000]);
    let (mut frame, mut sent) = ([0; 2000], 0);
    while let Some(packet) = server.endpoint.poll_transmit(server.now, &mut frame) {
        sent += packet.len;
    }
    assert!(sent > 50_000);
    assert_eq!(server.endpoint.stats().limit_amplification, 0);
}

#[test]
fn proof_does_not_open_more_than_the_limit() {
    let limits = Limits { retry_threshold: 1, max_half_open: 3, ..Limits::default() };
    let mut server = Server::new(limits);
    let ours = address(SERVER).ip();
    server.give(stranger(99), ours, first_flight(1, 9));
    for i in 0..3 {
        let retry = server.give(stranger(i), ours, hello_packet(7, 0, 400)).unwrap();
        assert!(server.give(stranger(i), ours, hello_packet(retry.new_token, 0, 400)).is_none());
    }
    assert_eq!(server.endpoint.session_count(), 3);
    assert_eq!(server.endpoint.stats().limit_half_open, 1);
}

#[test]
fn so_many_go_in_a_second() {
    let limits = Limits { retry_threshold: 0, max_retries_per_second: 50, ..Limits::default() };
    let mut server = Server::new(limits);
    let ours = address(SERVER).ip();
    for second in 1..4 {
        for i in 0..100 {
            server.give(stranger(i), ours, hello_packet(7, 0, 400));
        }
        assert_eq!(server.endpoint.stats().retries_sent, 50 * second);
        assert_eq!(server.endpoint.stats().limit_retries, 50 * second);
        server.now = server.now + SECOND;
    }
}

#[test]
fn so_many_wait() {
    let limits = Limits { retry_threshold: 0, max_retries_waiting: 8, ..Limits::default() };
    let mut server = Server::new(limits);
    for i in 0..100 {
        let meta = PacketMeta { remote: stranger(i), local: address(SERVER).ip(), ip_id: None };
        server.endpoint.handle_packet(server.now, &meta, &mut hello_packet(7, 0, 400));
    }
    let mut frame = [0; 100];
    let sent = (0..100).map_while(|_| server.endpoint.poll_transmit(server.now, &mut frame));
    assert_eq!(sent.count(), 8);
    assert_eq!(server.endpoint.stats().limit_retries, 92);
    assert!(!server.endpoint.wants_transmit());
}

/// A client that waits for its server, and the token of its flight.
fn waiting_client() -> (Pair, u64) {
    let mut pair = Pair::new(Config::default(), LENGTHS);
    pair.connect();
    let token = Data::parse(&pair.link[0].1).unwrap().tag;
    pair.link.clear();
    (pair, token)
}

fn retry(new_token: u64, token: u64) -> Vec<u8> {
    let mut packet = [0; RETRY_LEN];
    Retry { src_port: PORTS[SERVER], dst_port: PORTS[CLIENT], new_token, token }.emit(&mut packet);
    packet.to_vec()
}

/// Tokens of the packets that the client has sent.
fn tokens(pair: &mut Pair) -> Vec<u64> {
    pair.link.drain(..).map(|(_, packet)| Data::parse(&packet).unwrap().tag).collect()
}

#[test]
fn a_client_begins_again_once_and_only_if_its_token_is_echoed() {
    let (mut pair, token) = waiting_client();
    for guess in [0, token ^ 1, token.rotate_left(8)] {
        pair.deliver(CLIENT, retry(9, guess));
    }
    assert!(pair.link.is_empty());
    assert_eq!(pair.ends[CLIENT].stats().dropped_bad_token, 3);
    pair.deliver(CLIENT, retry(9, token));
    assert!(tokens(&mut pair).iter().all(|token| *token == 9));
    // The same again, another, and one that echoes the new token.
    for (new, echoed) in [(9, token), (11, token), (12, 9), (9, 9)] {
        pair.deliver(CLIENT, retry(new, echoed));
        assert!(pair.link.is_empty());
    }
    assert_eq!(pair.ends[CLIENT].stats().retries_received, 1);
    // The repeat timer begins again, too, and keeps to the new token.
    let due = pair.ends[CLIENT].poll_timeout().unwrap();
    assert_eq!(due, pair.now + 5 * MILLI);
    pair.now = due;
    pair.ends[CLIENT].handle_timeout(due);
    pair.pump();
    assert!(tokens(&mut pair).iter().all(|token| *token == 9));
}

#[test]
fn the_same_bytes_go_again() {
    let mut pair = Pair::new(Config::default(), [3000, 900, 100]);
    pair.connect();
    let first: Vec<Vec<u8>> = pair.link.drain(..).map(|(_, packet)| packet).collect();
    let token = Data::parse(&first[0]).unwrap().tag;
    pair.deliver(CLIENT, retry(9, token));
    let again: Vec<Vec<u8>> = pair.link.drain(..).map(|(_, packet)| packet).collect();
    let mut expected = first;
    for packet in &mut expected {
        packet[36..44].copy_from_slice(&9u64.to_be_bytes());
    }
    assert!(again.len() > 1 && again == expected);
}

#[test]
fn once_the_server_has_answered_no_retry_counts() {
    // Before the first byte of flight 1, in the middle of it, when it is whole, and established.
    for packets in 0..7 {
        let mut pair = Pair::new(Config::default(), [300, 2400, 100]);
        let id = pair.connect();
        let token = Data::parse(&pair.link[0].1).unwrap().tag;
        let mut to_client = 0;
        pair.run(4 * MILLI, |to, _| {
            to_client += usize::from(to == CLIENT);
            usize::from(to == SERVER || to_client <= packets)
        });
        pair.link.clear();
        pair.deliver(CLIENT, retry(9, token));
        assert_eq!(pair.ends[CLIENT].stats().retries_received, u64::from(packets == 0));
        pair.deliver(SERVER, retry(9, token));
        pair.run(SECOND, |_, _| 1);
        assert_eq!(pair.established[CLIENT], [id], "after {packets} packets");
    }
}

#[test]
fn a_client_that_comes_again_over_the_same_path_gets_another_token() {
    let mut pair = Pair::new(config(0), LENGTHS);
    let first = pair.connect();
    pair.run(MILLI, |_, _| 1);
    let second = pair.connect();
    pair.run(MILLI, |_, _| 1);
    assert_eq!(pair.established[CLIENT], [first, second]);
    for id in [first, second] {
        pair.client = Some(id);
        pair.call();
        pair.run(5 * MILLI, |_, _| 1);
    }
    assert_eq!(pair.answered.len(), 2);
}
