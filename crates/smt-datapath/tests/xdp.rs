//! The XDP datapath over veth, in network namespaces of their own, in both modes.

// Clippy takes functions for tests only under the standard harness.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::RwLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use smt_datapath::{
    Datapath, Kind, OpenError, OpenOptions, Opened, PathErrorKind, TxMeta, XdpHook, XdpOptions,
    open,
};
use smt_testbed::{Namespace, Pair, PairOptions, Trial, pair, test};
use socket2::{Domain, Protocol, Socket, Type};

const PORT: u16 = 7000;
const HOOKS: [XdpHook; 2] = [XdpHook::Driver, XdpHook::Generic];
/// Nothing here takes this long; waiting for less would make slow machines fail.
const PATIENCE: Duration = Duration::from_secs(20);
/// Environment variables that turn this program into a process that opens a datapath at an address,
/// with the few capabilities of raw sockets if the second is set.
const HOLD: &str = "SMT_TEST_XDP_HOLD";
const UNPRIVILEGED: &str = "SMT_TEST_XDP_UNPRIVILEGED";

fn main() -> ExitCode {
    if let Ok(address) = std::env::var(HOLD) {
        hold(address.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    let mut tests = vec![
        beside("every_size_crosses_past_the_stack", every_size_crosses_past_the_stack),
        beside("jumbo_packets_cross_in_pieces", jumbo_packets_cross_in_pieces),
        beside("bursts_stay_whole_and_in_order", bursts_stay_whole_and_in_order),
        beside("foreign_traffic_passes", foreign_traffic_passes),
        beside("other_datapaths_work_beside", other_datapaths_work_beside),
        beside("neighbours_are_resolved", neighbours_are_resolved),
        beside("this_host_and_wildcards_are_served", this_host_and_wildcards_are_served),
        beside("overruns_are_counted", overruns_are_counted),
        beside("links_go_down_and_up", links_go_down_and_up),
        beside("a_smaller_mtu_is_told", a_smaller_mtu_is_told),
        beside("priorities_are_marked", priorities_are_marked),
        beside("segments_arrive_whole_by_the_stack", segments_arrive_whole_by_the_stack),
        beside("every_queue_is_used", every_queue_is_used),
        beside("waiting_ends_with_a_packet", waiting_ends_with_a_packet),
        beside("nobody_there_is_reported", nobody_there_is_reported),
        alone("a_killed_process_leaves_nothing", a_killed_process_leaves_nothing),
        beside("a_device_has_one_owner", a_device_has_one_owner),
        alone("missing_capabilities_are_told", missing_capabilities_are_told),
        beside("loopback_is_no_device", loopback_is_no_device),
        beside("busy_polling_carries_packets", busy_polling_carries_packets),
    ];
    if !smt_testbed::may_use_bpf() {
        eprintln!(
            "NOT RUN: the tests of the XDP datapath, which need CAP_BPF and CAP_NET_ADMIN on the \
             machine itself: run them as root"
        );
        tests = tests.into_iter().map(|test| test.with_ignored_flag(true)).collect::<Vec<Trial>>();
    }
    smt_testbed::main(tests)
}

/// Held by tests that start processes: until it runs its program, a new process has the descriptors
/// of all tests, and so their ports and devices.
static PROCESSES: RwLock<()> = RwLock::new(());

/// A test that starts no processes.
fn beside(name: &str, body: impl FnOnce() + Send + 'static) -> Trial {
    test(name, || {
        let _guard = PROCESSES.read();
        body();
    })
}

/// A test that starts processes.
fn alone(name: &str, body: impl FnOnce() + Send + 'static) -> Trial {
    test(name, || {
        let _guard = PROCESSES.write();
        body();
    })
}

fn options(bind: IpAddr, hook: XdpHook) -> OpenOptions {
    let xdp = XdpOptions { hook, ..XdpOptions::default() };
    OpenOptions { kind: Kind::Xdp, bind, xdp, ..OpenOptions::default() }
}

fn client(host: &Namespace, bind: IpAddr, hook: XdpHook) -> Opened {
    host.run(|| open(options(bind, hook)).unwrap()).unwrap()
}

fn server(host: &Namespace, bind: IpAddr, hook: XdpHook) -> Opened {
    let options = OpenOptions { listen: Some(PORT), client: false, ..options(bind, hook) };
    host.run(|| open(options).unwrap()).unwrap()
}

fn addresses(pair: &Pair) -> [(IpAddr, IpAddr); 2] {
    [(pair.a_v4.into(), pair.b_v4.into()), (pair.a_v6.into(), pair.b_v6.into())]
}

/// A packet of `len` bytes with an SMT header's ports.
fn packet(from: u16, to: u16, len: usize, fill: u8) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|index| fill.wrapping_add(index as u8)).collect();
    packet[..2].copy_from_slice(&from.to_be_bytes());
    packet[2..4].copy_from_slice(&to.to_be_bytes());
    packet
}

fn queue(by: &mut dyn Datapath, dst: IpAddr, bytes: &[u8]) {
    by.frame().unwrap()[..bytes.len()].copy_from_slice(bytes);
    let dst = SocketAddr::new(dst, 0);
    by.commit(TxMeta { dst, src: None, len: bytes.len(), priority: 7, segment: None });
}

fn send(by: &mut Opened, dst: IpAddr, bytes: &[u8]) {
    queue(by.datapath.as_mut(), dst, bytes);
    by.datapath.flush().unwrap();
}

/// Waits for `count` packets: who sent them, to which address of ours, and their bytes.
fn receive(by: &mut Opened, count: usize) -> Vec<(IpAddr, IpAddr, Vec<u8>)> {
    let (by, mut packets, start) = (by.datapath.as_mut(), Vec::new(), Instant::now());
    while packets.len() < count {
        assert!(
            start.elapsed() < PATIENCE,
            "{} of {count} packets: {:?}",
            packets.len(),
            by.stats()
        );
        by.wait(Some(Duration::from_millis(10))).unwrap();
        for index in 0..by.recv().unwrap() {
            let (meta, bytes) = by.packet(index);
            assert_eq!((meta.len, meta.src.port()), (bytes.len(), 0));
            packets.push((meta.src.ip(), meta.dst, bytes.to_vec()));
        }
    }
    packets
}

/// A packet there and one back.
fn round_trip(client: &mut Opened, server: &mut Opened, to: IpAddr, len: usize) {
    let from = client.client_ports.start;
    let sent = packet(from, PORT, len, 1);
    send(client, to, &sent);
    let (src, dst, received) = receive(server, 1).remove(0);
    assert!(received == sent && dst == to, "{len} bytes to {dst}");
    let answer = packet(PORT, from, len, 2);
    send(server, src, &answer);
    let (src, _, received) = receive(client, 1).remove(0);
    assert!(received == answer && src == to, "{len} bytes back from {src}");
}

/// The first packets to a host go by the stack, which gets to know it.
fn introduce(client: &mut Opened, server: &mut Opened, to: IpAddr) {
    (0..4).for_each(|_| round_trip(client, server, to, 64));
}

/// Packets that the stack of a host has received and sent.
fn stack_counters(host: &Namespace, is_ipv6: bool) -> (u64, u64) {
    let file = if is_ipv6 { "snmp6" } else { "snmp" };
    let read = || std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    let text = host.run(read).unwrap();
    let number = |text: &str| text.trim().parse::<u64>().unwrap();
    if is_ipv6 {
        let of = |name| number(text.lines().find_map(|line| line.strip_prefix(name)).unwrap());
        return (of("Ip6InReceives"), of("Ip6OutRequests"));
    }
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let names: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let values: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let of = |name| number(values[names.iter().position(|n| *n == name).unwrap()]);
    (of("InReceives"), of("OutRequests"))
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

fn overruns_are_counted() {
    for hook in HOOKS {
        let pair = pair(PairOptions::default()).unwrap();
        let (a, b) = addresses(&pair)[0];
        let mut server = server(&pair.b, b, hook);
        let mut client = client(&pair.a, a, hook);
        introduce(&mut client, &mut server, b);
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

fn links_go_down_and_up() {
    for hook in HOOKS {
        let pair = pair(PairOptions::default()).unwrap();
        let (a, b) = addresses(&pair)[0];
        let mut server = server(&pair.b, b, hook);
        let mut client = client(&pair.a, a, hook);
        introduce(&mut client, &mut server, b);
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
        let (a, b) = addresses(&pair)[0];
        let mut server = server(&pair.b, b, hook);
        let mut client = client(&pair.a, a, hook);
        introduce(&mut client, &mut server, b);
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
            client.datapath.commit(TxMeta { dst, src: None, len: 64, priority, segment: None });
            client.datapath.flush().unwrap();
            let mut buffer = [0; 256];
            assert_eq!((&socket).read(&mut buffer).unwrap(), 84);
            assert_eq!(buffer[1], table[usize::from(priority)] << 2);
        }
    }
}

/// What a peer's device was to cut, and nothing on the way did, is longer than a chunk.
fn segments_arrive_whole_by_the_stack() {
    let wire = smt_testbed::Wire::Macvlan;
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
        let meta = TxMeta { dst, src: None, len: sent.len(), priority: 7, segment: Some(1408) };
        client.datapath.commit(meta);
        client.datapath.flush().unwrap();
        let received = receive(&mut server, 1).remove(0).2;
        // The checksum is the device's.
        assert!(received[..16] == sent[..16] && received[18..] == sent[18..]);
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
    let (a, b) = addresses(&pair)[0];
    let mut server = server(&pair.b, b, XdpHook::Auto);
    let mut client = client(&pair.a, a, XdpHook::Auto);
    introduce(&mut client, &mut server, b);
    let from = client.client_ports.start;
    for len in [64, 1000] {
        send(&mut client, b, &packet(from, PORT, len, 1));
        let mut poll = [PollFd::from_borrowed_fd(server.datapath.fd(), PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut poll, None).unwrap(), 1);
        server.datapath.wait(None).unwrap();
        assert_eq!(receive(&mut server, 1)[0].2.len(), len);
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

/// What this program does when it is told to be a process apart.
fn hold(bind: IpAddr) {
    if std::env::var_os(UNPRIVILEGED).is_some() {
        let only = CapabilitySet::NET_RAW;
        set_capabilities(
            None,
            CapabilitySets {
                effective: only,
                permitted: only,
                inheritable: CapabilitySet::empty(),
            },
        )
        .unwrap();
    }
    match open(options(bind, XdpHook::Auto)) {
        Ok(_opened) => {
            println!("open");
            loop {
                std::thread::park();
            }
        }
        Err(error) => println!("{error}"),
    }
}

/// Starts a process that holds an XDP datapath; returns what it says.
fn holder(host: &Namespace, bind: IpAddr, unprivileged: bool) -> (Child, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(HOLD, bind.to_string()).stdout(Stdio::piped());
    if unprivileged {
        command.env(UNPRIVILEGED, "1");
    }
    let mut child = host.command(command).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().to_owned())
}

fn a_killed_process_leaves_nothing() {
    let pair = pair(PairOptions::default()).unwrap();
    let (a, b) = addresses(&pair)[0];
    let mut server = server(&pair.b, b, XdpHook::Auto);
    for hook in HOOKS {
        let (mut child, said) = holder(&pair.a, a, false);
        assert_eq!(said, "open");
        let taken = pair.a.run(|| open(options(a, hook)).err()).unwrap();
        assert!(matches!(taken, Some(OpenError::DeviceBusy { .. })), "{taken:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        let mut client = client(&pair.a, a, hook);
        introduce(&mut client, &mut server, b);
    }
}

fn a_device_has_one_owner() {
    let pair = pair(PairOptions::default()).unwrap();
    let (a, b) = addresses(&pair)[0];
    for hook in HOOKS {
        let first = client(&pair.a, a, hook);
        for other in HOOKS {
            let error = pair.a.run(|| open(options(a, other)).err()).unwrap().unwrap();
            assert!(
                matches!(&error, OpenError::DeviceBusy { device } if *device == pair.a_name),
                "{error:?}"
            );
            let text = error.to_string();
            assert!(text.contains("ip link show smt-a") && text.contains("--datapath"), "{text}");
        }
        drop(first);
    }
    // Nothing is left of failed attempts, nor of ports.
    let mut server = server(&pair.b, b, XdpHook::Auto);
    introduce(&mut client(&pair.a, a, XdpHook::Auto), &mut server, b);
}

fn missing_capabilities_are_told() {
    let pair = pair(PairOptions::default()).unwrap();
    let (mut child, said) = holder(&pair.a, pair.a_v4.into(), true);
    assert!(said.contains("CAP_BPF") && said.contains("setcap"), "{said}");
    child.wait().unwrap();
}

fn loopback_is_no_device() {
    let host = smt_testbed::loopback().unwrap();
    for bind in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv4Addr::UNSPECIFIED.into()] {
        let error = host.run(|| open(options(bind, XdpHook::Auto)).err()).unwrap().unwrap();
        assert!(matches!(error, OpenError::NoDevice(address) if address == bind), "{error:?}");
    }
    let nobodys = IpAddr::from([192, 0, 2, 7]);
    let error = host.run(|| open(options(nobodys, XdpHook::Auto)).err()).unwrap().unwrap();
    assert!(matches!(error, OpenError::AddressNotAvailable(_)), "{error:?}");
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
