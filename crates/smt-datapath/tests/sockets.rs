//! Datapaths on real sockets, in network namespaces of their own.

// Clippy takes functions for tests only under the standard harness.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use smt_datapath::ports::PortClaim;
use smt_datapath::{
    Datapath, DatapathStats, Kind, OpenError, OpenOptions, Opened, PathError, PathErrorKind,
    TxMeta, open,
};
use smt_testbed::{PairOptions, loopback, pair, test};

const PORT: u16 = 7000;
const KINDS: [Kind; 3] = [Kind::Raw, Kind::Packet, Kind::Udp];
const NATIVE: [Kind; 2] = [Kind::Raw, Kind::Packet];
const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// Nothing here takes this long; waiting for less would make slow machines fail.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    smt_testbed::main(vec![
        test("raw_carries_every_size", raw_carries_every_size),
        test("packet_carries_every_size", packet_carries_every_size),
        test("udp_carries_every_size", udp_carries_every_size),
        test("each_endpoint_gets_its_ports_alone", each_endpoint_gets_its_ports_alone),
        test("ports_have_one_owner", ports_have_one_owner),
        test("udp_ports_have_one_owner", udp_ports_have_one_owner),
        test("foreign_addresses_are_refused", foreign_addresses_are_refused),
        test("nobody_there_is_reported", nobody_there_is_reported),
        test("udp_nobody_there_is_reported", udp_nobody_there_is_reported),
        test("errors_go_to_the_sender_alone", errors_go_to_the_sender_alone),
        test("too_big_is_reported_and_the_rest_leaves", too_big_is_reported_and_the_rest_leaves),
        test("no_route_is_an_error_of_one_packet", no_route_is_an_error_of_one_packet),
        test("bursts_stay_whole_and_in_order", bursts_stay_whole_and_in_order),
        test("bursts_cross_a_link", bursts_cross_a_link),
        test("long_packets_come_few_at_a_time", long_packets_come_few_at_a_time),
        test("wildcards_answer_from_the_address_asked", wildcards_answer_from_the_address_asked),
        test("overruns_are_counted", overruns_are_counted),
        test("path_mtu_is_the_links", path_mtu_is_the_links),
        test("receives_sleep", receives_sleep),
        test("waiting_ends_with_a_packet_or_an_error", waiting_ends_with_a_packet_or_an_error),
    ])
}

fn options(kind: Kind, bind: IpAddr) -> OpenOptions {
    OpenOptions { kind, bind, ..OpenOptions::default() }
}

fn client(kind: Kind, bind: IpAddr) -> Opened {
    open(options(kind, bind)).unwrap()
}

fn server(kind: Kind, bind: IpAddr, port: u16) -> Opened {
    open(OpenOptions { listen: Some(port), client: false, ..options(kind, bind) }).unwrap()
}

/// Where packets to SMT port `port` at `ip` are to go.
fn address(kind: Kind, ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, if kind == Kind::Udp { port } else { 0 })
}

/// A packet of `len` bytes with an SMT header's ports.
fn packet(from: u16, to: u16, len: usize, fill: u8) -> Vec<u8> {
    let mut packet = vec![fill; len];
    packet[..2].copy_from_slice(&from.to_be_bytes());
    packet[2..4].copy_from_slice(&to.to_be_bytes());
    packet
}

fn queue(by: &mut dyn Datapath, dst: SocketAddr, bytes: &[u8]) {
    by.frame().unwrap()[..bytes.len()].copy_from_slice(bytes);
    by.commit(TxMeta { dst, src: None, len: bytes.len(), priority: 7, segment: None, lane: 0 });
}

fn send(by: &mut dyn Datapath, dst: SocketAddr, bytes: &[u8]) {
    queue(by, dst, bytes);
    by.flush().unwrap();
}

/// Waits for `count` packets: who sent them, to which address of ours, and their bytes.
fn receive(by: &mut dyn Datapath, count: usize) -> Vec<(SocketAddr, IpAddr, Vec<u8>)> {
    let (mut packets, start) = (Vec::new(), Instant::now());
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
            assert_eq!(meta.len, bytes.len());
            packets.push((meta.src, meta.dst, bytes.to_vec()));
        }
    }
    packets
}

fn path_error(of: &mut dyn Datapath) -> PathError {
    let start = Instant::now();
    loop {
        if let Some(error) = of.path_error() {
            return error;
        }
        assert!(start.elapsed() < PATIENCE, "no path error");
        of.wait(Some(Duration::from_millis(10))).unwrap();
    }
}

fn every_size(kind: Kind, bind: IpAddr) {
    let mut server = server(kind, bind, PORT);
    let mut client = client(kind, bind);
    let from = client.client_ports.start;
    let to = address(kind, bind, PORT);
    let largest = client.datapath.caps().max_packet;
    for len in [4, 28, 52, 64, 1472, 9000, 16_384, largest - 1, largest] {
        let sent = packet(from, PORT, len, len as u8);
        send(client.datapath.as_mut(), to, &sent);
        let (src, dst, received) = receive(server.datapath.as_mut(), 1).remove(0);
        assert!(received == sent, "{len} bytes");
        assert_eq!((src.ip(), dst), (bind, bind));
        assert_eq!(src.port() == 0, kind != Kind::Udp);
        let answer = packet(PORT, from, len, !(len as u8));
        send(server.datapath.as_mut(), src, &answer);
        assert!(receive(client.datapath.as_mut(), 1)[0].2 == answer, "{len} bytes back");
    }
    let stats = client.datapath.stats();
    assert_eq!((stats.tx_packets, stats.rx_packets), (9, 9));
    assert_eq!((stats.tx_errors, stats.rx_overruns), (0, 0));
    assert_eq!(stats.tx_bytes, stats.rx_bytes);
}

fn raw_carries_every_size() {
    loopback().unwrap().enter().unwrap();
    every_size(Kind::Raw, V4);
    every_size(Kind::Raw, V6);
}

fn packet_carries_every_size() {
    loopback().unwrap().enter().unwrap();
    every_size(Kind::Packet, V4);
    every_size(Kind::Packet, V6);
}

fn udp_carries_every_size() {
    loopback().unwrap().enter().unwrap();
    every_size(Kind::Udp, V4);
    every_size(Kind::Udp, V6);
}

fn each_endpoint_gets_its_ports_alone() {
    loopback().unwrap().enter().unwrap();
    for (kind, bind) in NATIVE.into_iter().flat_map(|kind| [(kind, V4), (kind, V6)]) {
        let mut sender = client(kind, bind);
        let mut ends = [
            server(kind, bind, 7000),
            server(kind, bind, 7001),
            client(kind, bind),
            open(OpenOptions { listen: Some(7002), ..options(kind, bind) }).unwrap(),
        ];
        let both = ends[3].client_ports.clone();
        let ports: [Vec<u16>; 4] = [
            vec![7000],
            vec![7001],
            ends[2].client_ports.clone().collect(),
            [7002].into_iter().chain(both).collect(),
        ];
        let to = SocketAddr::new(bind, 0);
        for port in ports.concat().into_iter().chain([6999, 7003, 32_767, 65_535]) {
            send(sender.datapath.as_mut(), to, &packet(1, port, 64, 0));
        }
        // Too short for a port.
        send(sender.datapath.as_mut(), to, &[0, 1, 27]);
        for (end, ports) in ends.iter_mut().zip(ports) {
            let received: Vec<u16> = receive(end.datapath.as_mut(), ports.len())
                .iter()
                .map(|(_, _, bytes)| u16::from_be_bytes([bytes[2], bytes[3]]))
                .collect();
            assert_eq!(received, ports);
            assert_eq!(end.datapath.recv().unwrap(), 0);
        }
    }
}

fn ports_have_one_owner() {
    loopback().unwrap().enter().unwrap();
    let claim = |listen, client| PortClaim::new(253, listen, client);
    let first = claim(Some(PORT), true).unwrap();
    let second = claim(Some(PORT), false);
    assert!(matches!(second, Err(OpenError::PortInUse(PORT))), "{second:?}");
    let inside = first.ports().client().start + 5;
    let third = claim(Some(inside), false);
    assert!(matches!(third, Err(OpenError::PortInUse(port)) if port == inside), "{third:?}");
    let other_protocol = PortClaim::new(254, Some(PORT), false);
    assert!(other_protocol.is_ok());
    let any = claim(Some(0), true).unwrap();
    let port = any.ports().listen.unwrap();
    assert!(port != 0 && !any.ports().client().contains(&port));
    drop(first);
    claim(Some(PORT), false).unwrap();
    claim(Some(inside), false).unwrap();

    let opened = server(Kind::Raw, V4, 7001);
    assert_eq!(opened.listen, Some(SocketAddr::new(V4, 7001)));
    assert!(opened.client_ports.is_empty());
    let again = open(OpenOptions { listen: Some(7001), ..options(Kind::Raw, V4) }).err();
    assert!(matches!(again, Some(OpenError::PortInUse(7001))), "{again:?}");
    drop(opened);
    server(Kind::Raw, V4, 7001);
}

fn udp_ports_have_one_owner() {
    loopback().unwrap().enter().unwrap();
    let first = server(Kind::Udp, V4, 0);
    let address = first.listen.unwrap();
    let second = open(OpenOptions { listen: Some(address.port()), ..options(Kind::Udp, V4) }).err();
    assert!(matches!(second, Some(OpenError::PortInUse(p)) if p == address.port()), "{second:?}");
}

fn foreign_addresses_are_refused() {
    loopback().unwrap().enter().unwrap();
    for foreign in [[192, 0, 2, 1].into(), IpAddr::V6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into())] {
        for kind in KINDS {
            let error = open(options(kind, foreign)).err();
            assert!(
                matches!(error, Some(OpenError::AddressNotAvailable(a)) if a == foreign),
                "{error:?}"
            );
        }
    }
}

fn nobody_there_is_reported() {
    let pair = pair(PairOptions::default()).unwrap();
    pair.a.enter().unwrap();
    let v4 = (IpAddr::from(pair.a_v4), IpAddr::from(pair.b_v4));
    let v6 = (IpAddr::from(pair.a_v6), IpAddr::from(pair.b_v6));
    for (kind, (a, b)) in NATIVE.into_iter().flat_map(|kind| [(kind, v4), (kind, v6)]) {
        let mut client = client(kind, a);
        let from = client.client_ports.start;
        let sent = packet(from, PORT, 64, 7);
        send(client.datapath.as_mut(), SocketAddr::new(b, 0), &sent);
        let error = path_error(client.datapath.as_mut());
        assert_eq!(error.kind, PathErrorKind::Refused);
        assert_eq!(error.dst.ip(), b);
        assert!(error.quoted.len() >= 8 && sent.starts_with(&error.quoted), "{error:?}");
        assert_eq!(client.datapath.path_error(), None);

        // The socket's pending error must cost no packet of those that follow.
        let mut server = pair.b.run(|| server(kind, b, PORT)).unwrap();
        send(client.datapath.as_mut(), SocketAddr::new(b, 0), &sent);
        assert_eq!(receive(server.datapath.as_mut(), 1)[0].2, sent);
        assert_eq!(client.datapath.stats().tx_errors, 0);
    }
}

fn udp_nobody_there_is_reported() {
    loopback().unwrap().enter().unwrap();
    for bind in [V4, V6] {
        let mut client = client(Kind::Udp, bind);
        let sent = packet(40_000, PORT, 64, 7);
        send(client.datapath.as_mut(), SocketAddr::new(bind, PORT), &sent);
        let error = path_error(client.datapath.as_mut());
        assert_eq!(error.kind, PathErrorKind::Refused);
        assert_eq!(error.dst, SocketAddr::new(bind, PORT));
        assert!(error.quoted.len() >= 8 && sent.starts_with(&error.quoted), "{error:?}");

        // Unread errors must cost no packet of those that follow, in either direction.
        send(client.datapath.as_mut(), SocketAddr::new(bind, PORT), &sent);
        let mut server = server(Kind::Udp, bind, PORT);
        send(client.datapath.as_mut(), SocketAddr::new(bind, PORT), &sent);
        let (src, _, bytes) = receive(server.datapath.as_mut(), 1).remove(0);
        assert_eq!(bytes, sent);
        send(server.datapath.as_mut(), src, &sent);
        assert_eq!(receive(client.datapath.as_mut(), 1)[0].2, sent);
        assert_eq!(client.datapath.stats().tx_errors, 0);
    }
}

fn errors_go_to_the_sender_alone() {
    let pair = pair(PairOptions::default()).unwrap();
    pair.a.enter().unwrap();
    let (a, b) = (IpAddr::from(pair.a_v4), IpAddr::from(pair.b_v4));
    let mut guilty = client(Kind::Raw, a);
    let mut bystander = client(Kind::Raw, a);
    let sent = packet(guilty.client_ports.start, PORT, 64, 7);
    send(guilty.datapath.as_mut(), SocketAddr::new(b, 0), &sent);
    assert_eq!(path_error(guilty.datapath.as_mut()).kind, PathErrorKind::Refused);
    bystander.datapath.wait(Some(Duration::ZERO)).unwrap();
    assert_eq!(bystander.datapath.recv().unwrap(), 0);
    assert_eq!(bystander.datapath.path_error(), None);
}

fn too_big_is_reported_and_the_rest_leaves() {
    let pair = pair(PairOptions { mtu: 1400, ..PairOptions::default() }).unwrap();
    pair.a.enter().unwrap();
    for kind in KINDS {
        for (a, b) in [
            (IpAddr::from(pair.a_v4), IpAddr::from(pair.b_v4)),
            (IpAddr::from(pair.a_v6), IpAddr::from(pair.b_v6)),
        ] {
            let mut server = pair.b.run(|| server(kind, b, PORT)).unwrap();
            let mut client = client(kind, a);
            let from = client.client_ports.start;
            let to = address(kind, b, PORT);
            let fits = 1400 - client.datapath.caps().overhead[usize::from(b.is_ipv6())];
            // With UDP the first two are a run that the kernel refuses to cut.
            for len in [fits + 1, fits + 1, 100, fits, 200] {
                queue(client.datapath.as_mut(), to, &packet(from, PORT, len, 1));
            }
            client.datapath.flush().unwrap();
            let lengths: Vec<_> =
                receive(server.datapath.as_mut(), 3).iter().map(|(_, _, p)| p.len()).collect();
            assert_eq!(lengths, [100, fits, 200]);
            let stats = client.datapath.stats();
            assert_eq!((stats.tx_packets, stats.tx_errors), (3, 2));
            let error = path_error(client.datapath.as_mut());
            assert_eq!((error.dst.ip(), error.kind), (b, PathErrorKind::MtuChanged(1400)));
        }
    }
}

fn no_route_is_an_error_of_one_packet() {
    loopback().unwrap().enter().unwrap();
    for kind in KINDS {
        let mut server = server(kind, V4, PORT);
        let mut client = client(kind, Ipv4Addr::UNSPECIFIED.into());
        let sent = packet(client.client_ports.start, PORT, 64, 7);
        let nowhere = IpAddr::from([192, 0, 2, 1]);
        queue(client.datapath.as_mut(), address(kind, nowhere, PORT), &sent);
        queue(client.datapath.as_mut(), address(kind, V4, PORT), &sent);
        client.datapath.flush().unwrap();
        assert_eq!(receive(server.datapath.as_mut(), 1)[0].2, sent);
        let stats = client.datapath.stats();
        assert_eq!((stats.tx_packets, stats.tx_errors), (1, 1));
        assert!(client.datapath.path_mtu(nowhere).is_err());
    }
}

/// Sends `bursts` bursts of `count` packets each of `len` bytes, all but every tenth, which is
/// shorter; they must arrive whole and in order.
fn bursts(kind: Kind, sender: &mut Opened, receiver: &mut Opened, to: IpAddr, len: usize) {
    let from = sender.client_ports.start;
    let to = address(kind, to, PORT);
    for burst in 0..5u8 {
        let mut sent = Vec::new();
        for index in 0.. {
            if sender.datapath.frame().is_none() {
                break;
            }
            let len = if index % 10 == 9 { len / 2 } else { len };
            let mut bytes = packet(from, PORT, len, burst);
            bytes[4] = index;
            queue(sender.datapath.as_mut(), to, &bytes);
            sent.push(bytes);
        }
        assert_eq!(sent.len(), sender.datapath.caps().tx_burst);
        sender.datapath.flush().unwrap();
        let received = receive(receiver.datapath.as_mut(), sent.len());
        assert!(received.into_iter().map(|(_, _, bytes)| bytes).eq(sent), "{kind:?} {len}");
    }
    let stats = sender.datapath.stats();
    assert_eq!((stats.tx_packets % 64, stats.tx_errors), (0, 0));
    let DatapathStats { tx_packets, tx_bytes, .. } = stats;
    let DatapathStats { rx_packets, rx_bytes, .. } = receiver.datapath.stats();
    assert_eq!((rx_packets, rx_bytes), (tx_packets, tx_bytes));
}

fn bursts_stay_whole_and_in_order() {
    loopback().unwrap().enter().unwrap();
    for kind in KINDS {
        for bind in [V4, V6] {
            let mut server = server(kind, bind, PORT);
            let mut client = client(kind, bind);
            for len in [64, 1000, 1448, 20_000] {
                bursts(kind, &mut client, &mut server, bind, len);
            }
        }
    }
}

fn bursts_cross_a_link() {
    let pair = pair(PairOptions::default()).unwrap();
    for kind in KINDS {
        for (a, b) in [
            (IpAddr::from(pair.a_v4), IpAddr::from(pair.b_v4)),
            (IpAddr::from(pair.a_v6), IpAddr::from(pair.b_v6)),
        ] {
            let mut server = pair.b.run(|| server(kind, b, PORT)).unwrap();
            let mut client = pair.a.run(|| client(kind, a)).unwrap();
            for len in [64, 1452] {
                bursts(kind, &mut client, &mut server, b, len);
            }
        }
    }
}

/// What was sent last would push what came first out of the caches before anybody looked at it.
fn long_packets_come_few_at_a_time() {
    loopback().unwrap();
    for kind in KINDS {
        let mut server = server(kind, V4, PORT);
        let mut client = client(kind, V4);
        let to = address(kind, V4, PORT);
        let from = client.client_ports.start;
        // All of them fit the smallest receive buffer; without a bound the second receive brings the rest.
        for (len, most) in [(50_000, 1), (100, 3)] {
            for fill in 0..3 {
                send(client.datapath.as_mut(), to, &packet(from, PORT, len, fill));
            }
            let (mut received, mut longest, end) = (0, 0, Instant::now() + PATIENCE);
            while received < 3 && Instant::now() < end {
                let count = server.datapath.recv().unwrap();
                (received, longest) = (received + count, longest.max(count));
            }
            assert_eq!(received, 3, "{kind:?}");
            assert!(longest <= most, "{longest} of {len} bytes at once by {kind:?}");
        }
    }
}

fn wildcards_answer_from_the_address_asked() {
    let pair = pair(PairOptions::default()).unwrap();
    pair.a.enter().unwrap();
    // Of the addresses of one host, the route would always choose the same.
    let v4 = [Ipv4Addr::LOCALHOST.into(), IpAddr::from([127, 0, 0, 5]), pair.a_v4.into()];
    let v6 = [Ipv6Addr::LOCALHOST.into(), IpAddr::from(pair.a_v6)];
    for kind in KINDS {
        for (any, addresses) in [
            (IpAddr::from(Ipv4Addr::UNSPECIFIED), &v4[..]),
            (IpAddr::from(Ipv6Addr::UNSPECIFIED), &v6[..]),
        ] {
            let mut server = server(kind, any, PORT);
            let mut client = client(kind, any);
            let from = client.client_ports.start;
            for &asked in addresses {
                for &asking in addresses {
                    let sent = packet(from, PORT, 64, 7);
                    client.datapath.frame().unwrap()[..64].copy_from_slice(&sent);
                    let dst = address(kind, asked, PORT);
                    client.datapath.commit(TxMeta {
                        dst,
                        src: Some(asking),
                        len: 64,
                        priority: 7,
                        segment: None,
                        lane: 0,
                    });
                    client.datapath.flush().unwrap();
                    let (src, dst, _) = receive(server.datapath.as_mut(), 1).remove(0);
                    assert_eq!((src.ip(), dst), (asking, asked));
                    let answer = packet(PORT, from, 64, 8);
                    server.datapath.frame().unwrap()[..64].copy_from_slice(&answer);
                    server.datapath.commit(TxMeta {
                        dst: src,
                        src: Some(dst),
                        len: 64,
                        priority: 7,
                        segment: None,
                        lane: 0,
                    });
                    server.datapath.flush().unwrap();
                    let (src, dst, _) = receive(client.datapath.as_mut(), 1).remove(0);
                    assert_eq!((src.ip(), dst), (asked, asking));
                }
            }
        }
    }
}

fn overruns_are_counted() {
    loopback().unwrap().enter().unwrap();
    for kind in KINDS {
        let mut server = server(kind, V4, PORT);
        let mut client = client(kind, V4);
        let sent = packet(client.client_ports.start, PORT, 60_000, 7);
        let capacity = server.datapath.caps().rx_capacity;
        assert!(capacity > 0);
        let to = address(kind, V4, PORT);
        let count = capacity / 60_000 + 64;
        for _ in 0..count {
            send(client.datapath.as_mut(), to, &sent);
        }
        let mut received = 0;
        loop {
            match server.datapath.recv().unwrap() {
                0 => break,
                burst => received += burst,
            }
        }
        assert!(received < count, "nothing was lost");
        // The count comes with the packets after the loss.
        for _ in 0..2 {
            send(client.datapath.as_mut(), to, &sent);
        }
        receive(server.datapath.as_mut(), 2);
        assert_eq!(server.datapath.stats().rx_overruns, (count - received) as u64, "{kind:?}");
    }
}

fn path_mtu_is_the_links() {
    let pair = pair(PairOptions { mtu: 1400, ..PairOptions::default() }).unwrap();
    pair.a.enter().unwrap();
    let mut client = client(Kind::Raw, Ipv4Addr::UNSPECIFIED.into());
    assert_eq!(client.datapath.path_mtu(pair.b_v4.into()).unwrap(), 1400);
    assert_eq!(client.datapath.path_mtu(pair.b_v6.into()).unwrap(), 1400);
    // Loopback promises 65536, which is more than a packet can have.
    assert_eq!(client.datapath.path_mtu(V4).unwrap(), 65_535);
}

fn waiting_ends_with_a_packet_or_an_error() {
    loopback().unwrap().enter().unwrap();
    let mut server = server(Kind::Udp, V4, PORT);
    let mut client = client(Kind::Udp, V4);
    let sent = packet(client.client_ports.start, PORT, 64, 7);
    send(client.datapath.as_mut(), SocketAddr::new(V4, PORT), &sent);
    server.datapath.wait(None).unwrap();
    assert_eq!(server.datapath.recv().unwrap(), 1);
    server.datapath.wait(Some(Duration::ZERO)).unwrap();
    assert_eq!(server.datapath.recv().unwrap(), 0);
    send(client.datapath.as_mut(), SocketAddr::new(V4, 9), &sent);
    client.datapath.wait(None).unwrap();
    assert!(client.datapath.path_error().is_some());
}

fn receives_sleep() {
    loopback().unwrap().enter().unwrap();
    for kind in [Kind::Raw, Kind::Udp] {
        let mut server = server(kind, V4, PORT);
        let mut client = client(kind, V4);
        let port = client.client_ports.start;
        let to = address(kind, V4, PORT);
        let sent = packet(port, PORT, 64, 7);
        // For nothing: it ends. Shorter or longer than before, the socket has to be told.
        for millis in [1, 5, 100, 1] {
            let began = Instant::now();
            let timeout = Duration::from_millis(millis);
            assert_eq!(server.datapath.recv_or_sleep(timeout).unwrap(), Some(0));
            assert!(began.elapsed() >= timeout / 8);
        }
        // All that is there comes at once.
        for _ in 0..3 {
            send(client.datapath.as_mut(), to, &sent);
        }
        assert_eq!(server.datapath.recv_or_sleep(PATIENCE).unwrap(), Some(3));
        assert_eq!(server.datapath.packet(2).1, &sent[..]);
        // A packet ends a sleep.
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            send(client.datapath.as_mut(), to, &sent);
            client
        });
        assert_eq!(server.datapath.recv_or_sleep(PATIENCE).unwrap(), Some(1));
        let mut client = thread.join().unwrap();
        // And nothing else sleeps because that may.
        assert_eq!(server.datapath.recv().unwrap(), 0);
        // So does what the network says.
        drop(server);
        let to = address(kind, V4, 9);
        send(client.datapath.as_mut(), to, &packet(port, 9, 64, 7));
        if kind == Kind::Udp {
            assert_eq!(client.datapath.recv_or_sleep(PATIENCE).unwrap(), Some(0));
            assert!(client.datapath.path_error().is_some());
        }
    }
}
