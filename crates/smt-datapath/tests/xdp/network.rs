//! What else is on the network and in the host, and what becomes of it while a datapath is open.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use smt_datapath::{OpenOptions, PathErrorKind, XdpHook, open};
use smt_testbed::{PairOptions, Trial, pair};
use socket2::{Domain, Protocol, Socket, Type};

use crate::bed::*;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        beside("foreign_traffic_passes", foreign_traffic_passes),
        beside("other_datapaths_work_beside", other_datapaths_work_beside),
        beside("neighbours_are_resolved", neighbours_are_resolved),
        beside("this_host_and_wildcards_are_served", this_host_and_wildcards_are_served),
        beside("links_go_down_and_up", links_go_down_and_up),
        beside("a_smaller_mtu_is_told", a_smaller_mtu_is_told),
        beside("nobody_there_is_reported", nobody_there_is_reported),
    ]
}

fn foreign_traffic_passes() {
    for hook in HOOKS {
        let pair =
            pair(PairOptions { static_neighbours: false, ..PairOptions::default() }).unwrap();
        for (a, b) in addresses(&pair) {
            let mut server = server(&pair.b, b, hook);
            let mut client = client(&pair.a, a, hook);
            let listener = pair.b.run(|| TcpListener::bind((b, 80)).unwrap()).unwrap();
            let mut near = pair.a.run(|| TcpStream::connect((b, 80)).unwrap()).unwrap();
            let (mut far, _) = listener.accept().unwrap();
            let sent = vec![0x5a; 300_000];
            let copy = sent.clone();
            let writer = std::thread::spawn(move || near.write_all(&copy).map(|()| near));
            let mut received = vec![0; sent.len()];
            far.set_read_timeout(Some(PATIENCE)).unwrap();
            far.read_exact(&mut received).unwrap();
            assert!(received == sent);
            writer.join().unwrap().unwrap();

            // UDP in fragments, whose payload looks like ours.
            let near = pair.a.run(|| UdpSocket::bind((a, 5000)).unwrap()).unwrap();
            let far = pair.b.run(|| UdpSocket::bind((b, PORT)).unwrap()).unwrap();
            far.set_read_timeout(Some(PATIENCE)).unwrap();
            for len in [4, 64, 4000] {
                let sent = packet(5000, PORT, len, 3);
                near.send_to(&sent, (b, PORT)).unwrap();
                let mut received = vec![0; 5000];
                let (count, _) = far.recv_from(&mut received).unwrap();
                assert_eq!(received[..count], sent);
            }
            pair.a.run(|| echo_request(b)).unwrap();
            round_trip(&mut client, &mut server, b, 64);
            assert_eq!(server.datapath.stats().rx_packets, 1);
        }
    }
}

/// ICMP echo, there and back.
fn echo_request(to: IpAddr) {
    let (domain, protocol, kind, answer) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = [kind, 0, 0, 0, 0x12, 0x34, 0, 1];
    if to.is_ipv4() {
        let sum = (u16::from(kind) << 8) + 0x1234 + 1;
        request[2..4].copy_from_slice(&(!sum).to_be_bytes());
    }
    socket.send_to(&request, &SocketAddr::new(to, 0).into()).unwrap();
    let mut buffer = [0; 256];
    loop {
        let count = (&socket).read(&mut buffer).unwrap();
        let icmp = &buffer[if to.is_ipv4() { 20 } else { 0 }..count];
        if icmp[0] == answer && icmp[4..6] == [0x12, 0x34] {
            return;
        }
    }
}

fn other_datapaths_work_beside() {
    for hook in HOOKS {
        let pair = pair(PairOptions::default()).unwrap();
        for (a, b) in addresses(&pair) {
            let mut xdp_server = server(&pair.b, b, hook);
            let mut xdp_client = client(&pair.a, a, hook);
            let raw = |bind| OpenOptions { bind, ..OpenOptions::default() };
            let listen = OpenOptions { listen: Some(PORT + 1), client: false, ..raw(b) };
            let mut raw_server = pair.b.run(|| open(listen).unwrap()).unwrap();
            let mut raw_client = pair.a.run(|| open(raw(a)).unwrap()).unwrap();
            for _ in 0..4 {
                // Each client to each server.
                round_trip(&mut xdp_client, &mut xdp_server, b, 100);
                round_trip(&mut raw_client, &mut xdp_server, b, 100);
                for client in [&mut xdp_client, &mut raw_client] {
                    let from = client.client_ports.start;
                    send(client, b, &packet(from, PORT + 1, 100, 1));
                    let (src, _, _) = receive(&mut raw_server, 1).remove(0);
                    send(&mut raw_server, src, &packet(PORT + 1, from, 100, 1));
                    assert_eq!(receive(client, 1)[0].0, b);
                }
            }
        }
    }
}

fn neighbours_are_resolved() {
    for hook in HOOKS {
        let pair =
            pair(PairOptions { static_neighbours: false, ..PairOptions::default() }).unwrap();
        for (a, b) in addresses(&pair) {
            let mut server = server(&pair.b, b, hook);
            let mut client = client(&pair.a, a, hook);
            introduce(&mut client, &mut server, b);
            let before = stack_counters(&pair.a, a.is_ipv6());
            (0..20).for_each(|_| round_trip(&mut client, &mut server, b, 64));
            let after = stack_counters(&pair.a, a.is_ipv6());
            assert!(after.0 - before.0 < 15 && after.1 - before.1 < 15, "{before:?} {after:?}");
        }
    }
}

fn this_host_and_wildcards_are_served() {
    for hook in HOOKS {
        let pair = pair(PairOptions::default()).unwrap();
        for (any, local, (a, b)) in [
            (
                IpAddr::from(Ipv4Addr::UNSPECIFIED),
                IpAddr::from(Ipv4Addr::LOCALHOST),
                addresses(&pair)[0],
            ),
            (
                IpAddr::from(Ipv6Addr::UNSPECIFIED),
                IpAddr::from(Ipv6Addr::LOCALHOST),
                addresses(&pair)[1],
            ),
        ] {
            let mut server = server(&pair.b, any, hook);
            let mut client = client(&pair.a, a, hook);
            introduce(&mut client, &mut server, b);
            let raw = OpenOptions { bind: any, ..OpenOptions::default() };
            let mut neighbour = pair.b.run(|| open(raw).unwrap()).unwrap();
            for to in [local, b] {
                (0..4).for_each(|_| round_trip(&mut neighbour, &mut server, to, 64));
            }
            // More than the first look at the raw socket finds, while the queues are busy.
            let from = client.client_ports.start;
            send(&mut neighbour, local, &packet(9, PORT, 64, 1));
            for _ in 0..40 {
                send(&mut client, b, &packet(from, PORT, 64, 1));
            }
            assert_eq!(receive(&mut server, 41).iter().filter(|(src, ..)| *src == a).count(), 40);
        }
    }
}

fn links_go_down_and_up() {
    for hook in HOOKS {
        let pair = pair(PairOptions::default()).unwrap();
        let (mut server, mut client, b) = introduced(&pair, hook);
        let from = client.client_ports.start;
        pair.a.set_link(&pair.a_name, false).unwrap();
        let before = client.datapath.stats();
        for _ in 0..5000 {
            send(&mut client, b, &packet(from, PORT, 64, 1));
        }
        // Everything is accounted for, and there is always a frame.
        let after = client.datapath.stats();
        let (sent, failed) =
            (after.tx_packets - before.tx_packets, after.tx_errors - before.tx_errors);
        assert_eq!(sent + failed, 5000);
        assert!(failed > 0, "{after:?}");
        pair.a.set_link(&pair.a_name, true).unwrap();
        let start = Instant::now();
        while server.datapath.recv().unwrap() > 0 || start.elapsed() < Duration::from_millis(20) {}
        let sent = packet(from, PORT, 77, 9);
        // What waited in the ring may come first, and the neighbour is known only after a while.
        let mut arrived = false;
        while !arrived {
            assert!(start.elapsed() < PATIENCE, "{:?}", client.datapath.stats());
            send(&mut client, b, &sent);
            server.datapath.wait(Some(Duration::from_millis(1))).unwrap();
            for index in 0..server.datapath.recv().unwrap() {
                arrived |= server.datapath.packet(index).1 == sent;
            }
        }
    }
}

fn a_smaller_mtu_is_told() {
    for hook in HOOKS {
        let pair = pair(PairOptions::default()).unwrap();
        let (mut server, mut client, b) = introduced(&pair, hook);
        pair.a.set_mtu(&pair.a_name, 1400).unwrap();
        let from = client.client_ports.start;
        let start = Instant::now();
        // The change is noticed after a while.
        let error = loop {
            assert!(start.elapsed() < PATIENCE, "{:?}", client.datapath.stats());
            send(&mut client, b, &packet(from, PORT, 1381, 1));
            client.datapath.wait(Some(Duration::from_millis(1))).unwrap();
            if let Some(error) = client.datapath.path_error() {
                break error;
            }
        };
        assert_eq!((error.dst.ip(), error.kind), (b, PathErrorKind::MtuChanged(1400)));
        while server.datapath.recv().unwrap() > 0 {}
        round_trip(&mut client, &mut server, b, 1380);
    }
}

fn nobody_there_is_reported() {
    let pair = pair(PairOptions::default()).unwrap();
    for (a, b) in addresses(&pair) {
        let mut client = client(&pair.a, a, XdpHook::Auto);
        let from = client.client_ports.start;
        let sent = packet(from, PORT, 64, 7);
        // By the stack at first, then past it.
        for _ in 0..4 {
            send(&mut client, b, &sent);
            let start = Instant::now();
            let error = loop {
                client.datapath.wait(Some(Duration::from_millis(10))).unwrap();
                if let Some(error) = client.datapath.path_error() {
                    break error;
                }
                assert!(start.elapsed() < PATIENCE, "no path error");
            };
            assert_eq!((error.kind, error.dst.ip()), (PathErrorKind::Refused, b));
            assert!(error.quoted.len() >= 8 && sent.starts_with(&error.quoted), "{error:?}");
            // The kernel sends few such messages at once, and first spends what it has saved up.
        }
    }
}
