//! Several shards on one device: who gets which packet, and what one can do to another.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use smt_datapath::{Kind, OpenOptions, Opened, XdpHook, XdpOptions, open, open_shards};
use smt_testbed::{Namespace, Pair, PairOptions, Trial, pair};

use crate::bed::*;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        beside("shards_receive_their_lanes", shards_receive_their_lanes),
        beside("threads_share_a_device", threads_share_a_device),
        beside(
            "a_shard_that_never_receives_takes_nothing",
            a_shard_that_never_receives_takes_nothing,
        ),
        beside("shards_go_in_any_order", shards_go_in_any_order),
        beside("shards_poll_busily", shards_poll_busily),
        beside("the_most_shards_open", the_most_shards_open),
        beside("what_passes_the_program_is_divided", what_passes_the_program_is_divided),
        beside("the_best_is_divided", the_best_is_divided),
    ]
}

/// Bytes of a packet that tells its lane, at least.
const SHORTEST: usize = 28;

/// A packet under an established key, of the lane of message `id`.
fn of_lane(from: u16, to: u16, len: usize, id: u8) -> Vec<u8> {
    let mut packet = packet(from, to, len.max(SHORTEST), id);
    (packet[8], packet[11], packet[27]) = (1, 0x10, id);
    packet
}

fn servers(host: &Namespace, bind: IpAddr, hook: XdpHook, count: u8) -> Vec<Opened> {
    let options = OpenOptions { listen: Some(PORT), client: false, ..options(bind, hook) };
    host.run(|| open_shards(options, count).unwrap()).unwrap()
}

fn clients(host: &Namespace, bind: IpAddr, hook: XdpHook, count: u8) -> Vec<Opened> {
    host.run(|| open_shards(options(bind, hook), count).unwrap()).unwrap()
}

/// A packet there and one back between the same shards of both hosts.
fn there_and_back(client: &mut Opened, server: &mut Opened, to: IpAddr, len: usize, id: u8) {
    let from = client.client_ports.start;
    let sent = of_lane(from, PORT, len, id);
    send(client, to, &sent);
    let (src, _, received) = receive(server, 1).remove(0);
    assert!(received == sent, "{len} bytes to {to}");
    let answer = of_lane(PORT, from, len, id);
    send(server, src, &answer);
    assert!(receive(client, 1)[0].2 == answer, "{len} bytes back from {src}");
}

/// The first packets go by the stack.
fn introduce_all(clients: &mut [Opened], servers: &mut [Opened], to: IpAddr) {
    assert_eq!(clients.len(), servers.len());
    for (shard, (client, server)) in (0..).zip(clients.iter_mut().zip(servers)) {
        (0..4).for_each(|_| there_and_back(client, server, to, 64, shard << 2));
    }
}

fn shards_receive_their_lanes() {
    const COUNT: u8 = 4;
    for (hook, queues) in HOOKS.into_iter().flat_map(|hook| [(hook, None), (hook, Some(4))]) {
        let pair = pair(PairOptions { queues, ..PairOptions::default() }).unwrap();
        for (a, b) in addresses(&pair) {
            let mut servers = servers(&pair.b, b, hook, COUNT);
            let mut clients = clients(&pair.a, a, hook, COUNT);
            introduce_all(&mut clients, &mut servers, b);
            // The stack spreads what this one sends over the device's queues.
            let raw = OpenOptions { bind: a, ..OpenOptions::default() };
            let mut other = pair.a.run(|| open(raw).unwrap()).unwrap();
            let before = stack_counters(&pair.b, a.is_ipv6());
            let from = clients[0].client_ports.start;
            for id in 0..=255 {
                // Whichever shard sends it.
                let sender = &mut clients[usize::from(id % COUNT)];
                send(sender, b, &of_lane(from, PORT, 100, id));
                send(&mut other, b, &of_lane(9, PORT, 100, id));
            }
            // Handshakes are the first shard's, whatever their ID.
            let mut handshake = of_lane(from, PORT, 100, 4);
            handshake[8] = 0;
            send(&mut clients[2], b, &handshake);
            for (shard, server) in (0..COUNT).zip(&mut servers) {
                let count = 128 + usize::from(shard == 0);
                let mut ids = [0; 256];
                for (.., bytes) in receive(server, count) {
                    let is_handshake = bytes[8] == 0;
                    assert_eq!(if is_handshake { 0 } else { (bytes[27] >> 2) % COUNT }, shard);
                    ids[usize::from(bytes[27])] += usize::from(!is_handshake);
                }
                for (id, times) in (0..=255u8).zip(ids) {
                    assert_eq!(times, if (id >> 2) % COUNT == shard { 2 } else { 0 }, "{id}");
                }
                assert_eq!(server.datapath.recv().unwrap(), 0);
                assert_eq!(server.datapath.stats().rx_overruns, 0);
            }
            let after = stack_counters(&pair.b, a.is_ipv6());
            assert!(after.0 - before.0 < 10, "{before:?} {after:?}");
            for client in &clients {
                assert_eq!(client.datapath.stats().tx_errors, 0);
            }
        }
    }
}

/// Each shard on a thread of its own at both ends, all of them at once over the same rings.
fn threads_share_a_device() {
    const COUNT: u8 = 4;
    let run = |hook, options| {
        let pair = pair(options).unwrap();
        let (a, b) = addresses(&pair)[0];
        let mut servers = servers(&pair.b, b, hook, COUNT);
        let mut clients = clients(&pair.a, a, hook, COUNT);
        introduce_all(&mut clients, &mut servers, b);
        let largest = clients[0].datapath.caps().max_packet;
        let rounds = 100;
        let mut threads = Vec::new();
        for (shard, mut server) in (0..).zip(servers) {
            threads.push(thread::spawn(move || {
                for _ in 0..rounds {
                    for (src, _, bytes) in receive(&mut server, 32) {
                        assert_eq!((bytes[27] >> 2) % COUNT, shard);
                        let mut answer = bytes;
                        // The ports, the other way round.
                        answer[..4].rotate_left(2);
                        queue(server.datapath.as_mut(), src, &answer);
                    }
                    server.datapath.flush().unwrap();
                }
                server
            }));
        }
        for (shard, mut client) in (0..).zip(clients) {
            threads.push(thread::spawn(move || {
                let from = client.client_ports.start;
                for round in 0..rounds {
                    let id = |n: u8| (n * COUNT + shard) << 2;
                    let len =
                        |n: u8| SHORTEST + (round * 37 + usize::from(n) * 101) % (largest - 30);
                    for n in 0..32 {
                        let packet = of_lane(from, PORT, len(n), id(n % 16));
                        queue(client.datapath.as_mut(), b, &packet);
                    }
                    client.datapath.flush().unwrap();
                    for (n, (.., bytes)) in (0..).zip(receive(&mut client, 32)) {
                        assert!(bytes == of_lane(PORT, from, len(n), id(n % 16)), "{n}");
                    }
                }
                client
            }));
        }
        for thread in threads {
            let mut one = thread.join().unwrap();
            let stats = one.datapath.stats();
            assert_eq!((stats.tx_errors, stats.rx_overruns), (0, 0), "{stats:?}");
            // What has been sent comes back to whoever sent it.
            let start = Instant::now();
            while one.datapath.backlog() > 0 {
                assert!(start.elapsed() < PATIENCE, "{} bytes", one.datapath.backlog());
                one.datapath.flush().unwrap();
            }
        }
    };
    for hook in HOOKS {
        run(hook, PairOptions::default());
        run(hook, PairOptions { queues: Some(4), ..PairOptions::default() });
    }
    run(XdpHook::Generic, PairOptions { mtu: 9000, ..PairOptions::default() });
}

/// However much comes for a shard that does not receive, or only once, nothing of the others is lost.
fn a_shard_that_never_receives_takes_nothing() {
    for (hook, mtu) in [(HOOKS[0], 1500), (HOOKS[1], 1500), (HOOKS[1], 9000)] {
        let pair = pair(PairOptions { mtu, ..PairOptions::default() }).unwrap();
        let (a, b) = addresses(&pair)[0];
        let mut servers = servers(&pair.b, b, hook, 4);
        let mut clients = clients(&pair.a, a, hook, 4);
        introduce_all(&mut clients, &mut servers, b);
        let from = clients[0].client_ports.start;
        let places = servers[1].datapath.caps().rx_capacity / if mtu > 1500 { 4096 } else { 2048 };
        let len = if mtu > 1500 { 8000 } else { 64 };
        // Twice what each of the others has places for.
        let rounds = 2 * 3 * places / 48;
        let mut had = [0; 4];
        for round in 0..rounds {
            // For all shards but the first.
            for n in 0..48 {
                let packet = of_lane(from, PORT, len, (1 + n % 3) << 2);
                queue(clients[0].datapath.as_mut(), b, &packet);
            }
            clients[0].datapath.flush().unwrap();
            let start = Instant::now();
            while clients[0].datapath.backlog() > 0 && start.elapsed() < PATIENCE {
                thread::yield_now();
            }
            // Now and then they take a burst, whose memory they keep.
            if round % 40 == 5 {
                for shard in 1..4 {
                    had[shard] += servers[shard].datapath.recv().unwrap() as u64;
                }
            }
            there_and_back(&mut clients[0], &mut servers[0], b, len, 0);
        }
        let stats = servers[0].datapath.stats();
        assert_eq!((stats.rx_packets, stats.rx_overruns), (4 + rounds as u64, 0), "{stats:?}");
        let sent = 16 * rounds as u64;
        for shard in 1..4 {
            let (server, start) = (&mut servers[shard].datapath, Instant::now());
            let mut received = had[shard];
            while received + server.stats().rx_overruns < sent {
                assert!(start.elapsed() < PATIENCE, "{received} of {sent}: {:?}", server.stats());
                received += server.recv().unwrap() as u64;
            }
            assert_eq!(received + server.stats().rx_overruns, sent);
            // What there was room for came.
            let pieces = if mtu > 1500 { 3 } else { 1 };
            assert!(received * pieces + 3 > places as u64 && received < sent, "{received}");
            let shard = shard as u8;
            let at = usize::from(shard);
            there_and_back(&mut clients[at], &mut servers[at], b, len, shard << 2);
        }
    }
}

/// Those that stay go on, whichever was dropped; and when all are gone, the device is free.
fn shards_go_in_any_order() {
    for hook in HOOKS {
        let pair = pair(PairOptions::default()).unwrap();
        let (a, b) = addresses(&pair)[0];
        for gone in 0..2u8 {
            let mut servers = servers(&pair.b, b, hook, 2);
            let mut clients = clients(&pair.a, a, hook, 2);
            introduce_all(&mut clients, &mut servers, b);
            let (mut client, mut server) = drop_one(&mut clients, &mut servers, gone);
            let id = (1 - gone) << 2;
            for len in 0..3000 {
                there_and_back(&mut client, &mut server, b, 64 + len % 1000, id);
            }
            // What is for the other is nobody's.
            let from = client.client_ports.start;
            send(&mut client, b, &of_lane(from, PORT, 64, gone << 2));
            there_and_back(&mut client, &mut server, b, 64, id);
            still_taken(&pair, a);
        }
        let mut server = server(&pair.b, b, hook);
        introduce(&mut client(&pair.a, a, hook), &mut server, b);
    }
}

/// Drops shard `gone` at both ends and returns what is left.
fn drop_one(clients: &mut Vec<Opened>, servers: &mut Vec<Opened>, gone: u8) -> (Opened, Opened) {
    let gone = usize::from(gone);
    drop((clients.remove(gone), servers.remove(gone)));
    (clients.remove(0), servers.remove(0))
}

fn still_taken(pair: &Pair, a: IpAddr) {
    let error = pair.a.run(|| open(options(a, XdpHook::Auto)).err()).unwrap();
    assert!(matches!(error, Some(smt_datapath::OpenError::DeviceBusy { .. })), "{error:?}");
}

fn shards_poll_busily() {
    let pair = pair(PairOptions::default()).unwrap();
    let (a, b) = addresses(&pair)[0];
    let xdp = XdpOptions { busy_poll_us: Some(20), copy: true, ..XdpOptions::default() };
    let busy = |bind| OpenOptions { xdp, ..options(bind, XdpHook::Auto) };
    let listen = OpenOptions { listen: Some(PORT), ..busy(b) };
    let mut servers = pair.b.run(|| open_shards(listen, 2).unwrap()).unwrap();
    let mut clients = pair.a.run(|| open_shards(busy(a), 2).unwrap()).unwrap();
    for _ in 0..10 {
        introduce_all(&mut clients, &mut servers, b);
    }
}

fn the_most_shards_open() {
    let pair = pair(PairOptions { queues: Some(4), ..PairOptions::default() }).unwrap();
    let (a, b) = addresses(&pair)[0];
    let mut servers = servers(&pair.b, b, XdpHook::Auto, 64);
    let mut client = client(&pair.a, a, XdpHook::Auto);
    for shard in [0, 1, 31, 63u8] {
        (0..4).for_each(|_| {
            let server = &mut servers[usize::from(shard)];
            there_and_back(&mut client, server, b, 500, shard << 2);
        });
        let start = Instant::now();
        while servers[usize::from(shard)].datapath.backlog() > 0 {
            assert!(start.elapsed() < PATIENCE);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Packets from the host itself never see the device: the raw sockets beside divide them as the program
/// does, and what goes there leaves by the raw sockets.
fn what_passes_the_program_is_divided() {
    for hook in HOOKS {
        let pair = pair(PairOptions::default()).unwrap();
        for (_, b) in addresses(&pair) {
            let mut servers = servers(&pair.b, b, hook, 4);
            let raw = OpenOptions { bind: b, ..OpenOptions::default() };
            let mut neighbour = pair.b.run(|| open(raw).unwrap()).unwrap();
            for id in 0..=255 {
                let server = &mut servers[usize::from((id >> 2) % 4)];
                there_and_back(&mut neighbour, server, b, 100, id);
            }
            for server in &mut servers {
                assert_eq!(server.datapath.stats().rx_packets, 64);
            }
        }
    }
}

/// *auto* takes XDP for several shards too where it may, and the next best where it is taken.
fn the_best_is_divided() {
    let pair = pair(PairOptions::default()).unwrap();
    let (a, b) = addresses(&pair)[0];
    let best =
        |bind| OpenOptions { kind: Kind::Auto { allow_xdp: true }, ..options(bind, XdpHook::Auto) };
    let listen = OpenOptions { listen: Some(PORT), ..best(b) };
    let mut servers = pair.b.run(|| open_shards(listen, 2).unwrap()).unwrap();
    let mut clients = pair.a.run(|| open_shards(best(a), 2).unwrap()).unwrap();
    let mut others = pair.a.run(|| open_shards(best(a), 2).unwrap()).unwrap();
    assert!(clients.iter().all(|client| client.datapath.caps().name == "xdp-generic"));
    assert!(others.iter().all(|other| other.datapath.caps().name == "packet"));
    introduce_all(&mut clients, &mut servers, b);
    introduce_all(&mut others, &mut servers, b);
}
