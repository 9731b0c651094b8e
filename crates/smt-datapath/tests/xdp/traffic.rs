//! Packets of ours: all sizes, bursts, queues, limits.

use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use smt_datapath::{Kind, OpenOptions, Opened, TxMeta, XdpHook, XdpOptions, open};
use smt_testbed::{PairOptions, Trial, Wire, pair};
use socket2::{Domain, Protocol, Socket, Type};

use crate::bed::*;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        beside("every_size_crosses_past_the_stack", every_size_crosses_past_the_stack),
        beside("jumbo_packets_cross_in_pieces", jumbo_packets_cross_in_pieces),
        beside("bursts_stay_whole_and_in_order", bursts_stay_whole_and_in_order),
        beside("overruns_are_counted", overruns_are_counted),
        beside("every_queue_is_used", every_queue_is_used),
        beside("waiting_ends_with_a_packet", waiting_ends_with_a_packet),
        beside("who_was_awake_for_long_can_sleep", who_was_awake_for_long_can_sleep),
        beside("priorities_are_marked", priorities_are_marked),
        beside("segments_arrive_whole_by_the_stack", segments_arrive_whole_by_the_stack),
        beside("busy_polling_carries_packets", busy_polling_carries_packets),
    ]
}

fn every_size_crosses_past_the_stack() {
    for hook in HOOKS {
        let pair = pair(PairOptions::default()).unwrap();
        for (a, b) in addresses(&pair) {
            let mut server = server(&pair.b, b, hook);
            let mut client = client(&pair.a, a, hook);
            assert_eq!(client.datapath.caps().max_packet, if a.is_ipv4() { 1480 } else { 1460 });
            introduce(&mut client, &mut server, b);
            let before = [&pair.a, &pair.b].map(|host| stack_counters(host, a.is_ipv6()));
            let largest = client.datapath.caps().max_packet;
            for len in [4, 5, 28, 44, 52, 64, 500, 1448, largest - 1, largest] {
                round_trip(&mut client, &mut server, b, len);
            }
            let after = [&pair.a, &pair.b].map(|host| stack_counters(host, a.is_ipv6()));
            // The kernel may say something of its own meanwhile, but not twenty things.
            for (before, after) in before.into_iter().zip(after) {
                assert!(after.0 - before.0 < 10 && after.1 - before.1 < 10, "{before:?} {after:?}");
            }
            let (client, server) = (client.datapath.stats(), server.datapath.stats());
            assert_eq!((client.tx_packets, client.rx_packets), (14, 14));
            assert_eq!((server.tx_packets, server.rx_packets), (14, 14));
            assert_eq!(client.tx_bytes, server.rx_bytes);
            assert_eq!((client.tx_errors, client.rx_overruns), (0, 0));
        }
    }
}

fn jumbo_packets_cross_in_pieces() {
    for hook in [XdpHook::Auto, XdpHook::Generic] {
        let pair = pair(PairOptions { mtu: 9000, ..PairOptions::default() }).unwrap();
        for (a, b) in addresses(&pair) {
            let mut server = server(&pair.b, b, hook);
            let mut client = client(&pair.a, a, hook);
            let largest = client.datapath.caps().max_packet;
            assert_eq!(largest, if a.is_ipv4() { 8980 } else { 8960 });
            introduce(&mut client, &mut server, b);
            for len in [64, 3000, 4000, 4032, 4033, 8128, 8129, largest - 1, largest] {
                round_trip(&mut client, &mut server, b, len);
            }
        }
    }
}

fn bursts_stay_whole_and_in_order() {
    for hook in HOOKS {
        let pair = pair(PairOptions::default()).unwrap();
        for (a, b) in addresses(&pair) {
            let mut server = server(&pair.b, b, hook);
            let mut client = client(&pair.a, a, hook);
            introduce(&mut client, &mut server, b);
            let from = client.client_ports.start;
            for burst in 0..50u8 {
                let mut sent = Vec::new();
                while client.datapath.frame().is_some() {
                    let len = 60 + 20 * sent.len();
                    let bytes = packet(from, PORT, len, burst.wrapping_add(sent.len() as u8));
                    queue(client.datapath.as_mut(), b, &bytes);
                    sent.push(bytes);
                }
                assert_eq!(sent.len(), client.datapath.caps().tx_burst);
                client.datapath.flush().unwrap();
                let received = receive(&mut server, sent.len());
                assert!(received.into_iter().map(|(_, _, bytes)| bytes).eq(sent), "{hook:?}");
            }
            let stats = client.datapath.stats();
            assert_eq!((stats.tx_packets, stats.tx_errors), (4 + 50 * 64, 0));
            assert_eq!(client.datapath.backlog(), 0);
        }
    }
}

fn overruns_are_counted() {
    for hook in HOOKS {
        let pair = pair(PairOptions::default()).unwrap();
        let (mut server, mut client, b) = introduced(&pair, hook);
        let from = client.client_ports.start;
        let capacity = server.datapath.caps().rx_capacity / 2048;
        let count = capacity + 1000;
        let mut sent = 0u64;
        while sent < count as u64 {
            // Each burst arrives before the next, so that nothing but our ring can overflow.
            for _ in 0..50 {
                queue(client.datapath.as_mut(), b, &packet(from, PORT, 64, 1));
            }
            client.datapath.flush().unwrap();
            sent += 50;
            let start = Instant::now();
            while client.datapath.backlog() > 0 && start.elapsed() < PATIENCE {
                std::thread::yield_now();
            }
        }
        let (mut received, start) = (0, Instant::now());
        while received + server.datapath.stats().rx_overruns < sent {
            assert!(start.elapsed() < PATIENCE, "{:?}", server.datapath.stats());
            received += server.datapath.recv().unwrap() as u64;
        }
        // The memory of the last burst was still lent.
        assert!(received + 64 >= capacity as u64 && received < sent, "{received} of {sent}");
        assert_eq!(received + server.datapath.stats().rx_overruns, sent);
        round_trip(&mut client, &mut server, b, 64);
    }
}

fn every_queue_is_used() {
    for hook in HOOKS {
        let options = PairOptions { queues: Some(4), ..PairOptions::default() };
        let pair = pair(options).unwrap();
        for (a, b) in addresses(&pair) {
            let mut server = server(&pair.b, b, hook);
            let mut client = client(&pair.a, a, hook);
            introduce(&mut client, &mut server, b);
            // The stack spreads flows over queues, so that an endpoint of its own is taken to
            // whichever queue.
            let raw = OpenOptions { bind: a, ..OpenOptions::default() };
            let mut other = pair.a.run(|| open(raw).unwrap()).unwrap();
            let before = stack_counters(&pair.b, a.is_ipv6());
            for _ in 0..20 {
                send(&mut other, b, &packet(9, PORT, 64, 1));
            }
            receive(&mut server, 20);
            let after = stack_counters(&pair.b, a.is_ipv6());
            assert!(after.0 - before.0 < 10, "{before:?} {after:?}");
        }
    }
}

fn waiting_ends_with_a_packet() {
    let pair = pair(PairOptions::default()).unwrap();
    let (mut server, mut client, b) = introduced(&pair, XdpHook::Auto);
    let from = client.client_ports.start;
    for len in [64, 1000] {
        send(&mut client, b, &packet(from, PORT, len, 1));
        let mut poll = [PollFd::from_borrowed_fd(server.datapath.fd(), PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut poll, None).unwrap(), 1);
        server.datapath.wait(None).unwrap();
        assert_eq!(receive(&mut server, 1)[0].2.len(), len);
    }
}

/// Nothing that comes while nobody sleeps is forgotten when somebody does.
fn who_was_awake_for_long_can_sleep() {
    for hook in HOOKS {
        let pair = pair(PairOptions::default()).unwrap();
        let (mut server, mut client, b) = introduced(&pair, hook);
        let from = client.client_ports.start;
        for comes_first in [false, true, true, false] {
            for _ in 0..5000 {
                assert_eq!(server.datapath.recv().unwrap(), 0);
            }
            let is_readable = |server: &Opened, timeout: Duration| {
                let mut poll = [PollFd::from_borrowed_fd(server.datapath.fd(), PollFlags::IN)];
                let timeout = timeout.try_into().unwrap();
                rustix::event::poll(&mut poll, Some(&timeout)).unwrap() == 1
            };
            if comes_first {
                send(&mut client, b, &packet(from, PORT, 64, 1));
                let start = Instant::now();
                while client.datapath.backlog() > 0 && start.elapsed() < PATIENCE {
                    std::thread::yield_now();
                }
            }
            server.datapath.next_due();
            if !comes_first {
                assert!(!is_readable(&server, Duration::ZERO));
                send(&mut client, b, &packet(from, PORT, 64, 1));
            }
            assert!(is_readable(&server, PATIENCE));
            assert_eq!(receive(&mut server, 1)[0].2.len(), 64);
        }
    }
}

fn priorities_are_marked() {
    let pair = pair(PairOptions::default()).unwrap();
    let (a, b) = addresses(&pair)[0];
    let table = [0, 1, 2, 10, 20, 30, 46, 63];
    let xdp = OpenOptions { dscp: Some(table), ..options(a, XdpHook::Auto) };
    let mut client = pair.a.run(|| open(xdp).unwrap()).unwrap();
    let any = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(253))).unwrap();
    let socket = pair.b.run(any).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let dst = SocketAddr::new(b, 0);
    // By the stack at first, then past it.
    for _ in 0..2 {
        for priority in 0..8u8 {
            client.datapath.frame().unwrap()[..64].fill(1);
            client.datapath.commit(TxMeta {
                dst,
                src: None,
                len: 64,
                priority,
                segment: None,
                lane: 0,
            });
            client.datapath.flush().unwrap();
            let mut buffer = [0; 256];
            assert_eq!((&socket).read(&mut buffer).unwrap(), 84);
            assert_eq!(buffer[1], table[usize::from(priority)] << 2);
        }
    }
}

/// What a peer's device was to cut, and nothing on the way did, is longer than a chunk.
fn segments_arrive_whole_by_the_stack() {
    let wire = Wire::Macvlan;
    let pair = pair(PairOptions { wire, ..PairOptions::default() }).unwrap();
    for (a, b) in addresses(&pair) {
        let mut server = server(&pair.b, b, XdpHook::Auto);
        let options = OpenOptions { kind: Kind::Packet, bind: a, ..OpenOptions::default() };
        let mut client = pair.a.run(|| open(options).unwrap()).unwrap();
        introduce(&mut client, &mut server, b);
        let mut sent = packet(client.client_ports.start, PORT, 52 + 20 * 1408, 1);
        sent[12] = 13 << 4;
        let dst = SocketAddr::new(b, 0);
        assert!(client.datapath.tso(b) >= sent.len());
        client.datapath.frame().unwrap()[..sent.len()].copy_from_slice(&sent);
        let meta =
            TxMeta { dst, src: None, len: sent.len(), priority: 7, segment: Some(1408), lane: 0 };
        client.datapath.commit(meta);
        client.datapath.flush().unwrap();
        let received = receive(&mut server, 1).remove(0).2;
        // The checksum is the device's.
        assert!(received[..16] == sent[..16] && received[18..] == sent[18..]);
    }
}

fn busy_polling_carries_packets() {
    let pair = pair(PairOptions::default()).unwrap();
    let (a, b) = addresses(&pair)[0];
    let xdp = XdpOptions { busy_poll_us: Some(20), copy: true, ..XdpOptions::default() };
    let busy = |bind| OpenOptions { xdp, ..options(bind, XdpHook::Auto) };
    let listen = OpenOptions { listen: Some(PORT), ..busy(b) };
    let mut server = pair.b.run(|| open(listen).unwrap()).unwrap();
    let mut client = pair.a.run(|| open(busy(a)).unwrap()).unwrap();
    (0..50).for_each(|_| round_trip(&mut client, &mut server, b, 64));
}
