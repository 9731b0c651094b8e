//! The packet datapath: segments for devices to cut, and a network that changes while it is in use.

// Clippy takes functions for tests only under the standard harness.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use smt_datapath::{Datapath, Kind, OpenOptions, Opened, PathErrorKind, RxMeta, TxMeta, open};
use smt_testbed::{Pair, PairOptions, Wire, pair, test};

const PORT: u16 = 7000;
const HEADER: usize = 52;
/// Nothing here takes this long; waiting for less would make slow machines fail.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    smt_testbed::main(vec![
        test("segments_arrive_whole", segments_arrive_whole),
        test("segments_and_packets_share_a_burst", segments_and_packets_share_a_burst),
        test("veth_takes_no_segments", veth_takes_no_segments),
        test("a_refused_segment_is_the_last", a_refused_segment_is_the_last),
        test("segments_can_get_lost_without_a_word", segments_can_get_lost_without_a_word),
        test("neighbours_are_resolved", neighbours_are_resolved),
        test("a_neighbours_new_address_is_followed", a_neighbours_new_address_is_followed),
        test("stale_neighbours_are_tested", stale_neighbours_are_tested),
        test("a_link_that_goes_down_comes_back", a_link_that_goes_down_comes_back),
        test("a_smaller_mtu_is_told", a_smaller_mtu_is_told),
        test("a_wildcard_knows_of_segments", a_wildcard_knows_of_segments),
        test("gateways_are_followed", gateways_are_followed),
        test("strangers_cost_no_look_up", strangers_cost_no_look_up),
        test("auto_opens_what_is_best", auto_opens_what_is_best),
    ])
}

fn auto_opens_what_is_best() {
    let pair = bed(Wire::Veth);
    let opened = |bind: IpAddr, allow_xdp| {
        let options = OpenOptions {
            kind: Kind::Auto { allow_xdp },
            bind,
            listen: Some(0),
            ..OpenOptions::default()
        };
        let opened = open(options).unwrap();
        assert!(opened.listen.is_some() && !opened.client_ports.is_empty());
        opened.datapath.caps().name
    };
    let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    pair.a
        .run(|| {
            for bind in [any, pair.a_v4.into(), pair.a_v6.into()] {
                assert_eq!(opened(bind, false), "packet");
            }
            assert_eq!(opened(loopback, true), "raw");
            let with_xdp = opened(any, true);
            assert_eq!(with_xdp.starts_with("xdp"), smt_testbed::may_use_bpf(), "{with_xdp}");
            // This thread gives up its rights.
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            set_capabilities(None, sets).unwrap();
            assert_eq!(opened(any, true), "udp");
        })
        .unwrap();
}

fn bed(wire: Wire) -> Pair {
    pair(PairOptions { wire, ..PairOptions::default() }).unwrap()
}

/// One end in each host, bound to the wildcard or to the host's own address.
struct Ends {
    a: Opened,
    b: Opened,
    to: IpAddr,
}

impl Ends {
    fn new(pair: &Pair, is_ipv6: bool) -> Self {
        let (a, b): (IpAddr, IpAddr) = match is_ipv6 {
            false => (pair.a_v4.into(), pair.b_v4.into()),
            true => (pair.a_v6.into(), pair.b_v6.into()),
        };
        let at = |bind| OpenOptions { kind: Kind::Packet, bind, ..OpenOptions::default() };
        let server = OpenOptions { listen: Some(PORT), client: false, ..at(b) };
        Self {
            a: pair.a.run(|| open(at(a)).unwrap()).unwrap(),
            b: pair.b.run(|| open(server).unwrap()).unwrap(),
            to: b,
        }
    }

    fn queue(&mut self, packet: &[u8], segment: Option<u16>) {
        let dst = SocketAddr::new(self.to, 0);
        self.a.datapath.frame().unwrap()[..packet.len()].copy_from_slice(packet);
        let meta = TxMeta { dst, src: None, len: packet.len(), priority: 7, segment, lane: 0 };
        self.a.datapath.commit(meta);
    }

    fn send(&mut self, packet: &[u8], segment: Option<u16>) {
        self.queue(packet, segment);
        self.a.datapath.flush().unwrap();
    }

    /// A DATA packet of this many bytes.
    fn data(&self, len: usize, fill: u8) -> Vec<u8> {
        let mut packet: Vec<u8> = (0..len).map(|at| (at / 1000) as u8 ^ fill).collect();
        packet[..HEADER].fill(0);
        packet[..2].copy_from_slice(&self.a.client_ports.start.to_be_bytes());
        packet[2..4].copy_from_slice(&PORT.to_be_bytes());
        packet[12] = (HEADER as u8 / 4) << 4;
        packet
    }

    fn receive(&mut self, count: usize) -> Vec<(RxMeta, Vec<u8>)> {
        let (mut packets, start) = (Vec::new(), Instant::now());
        while packets.len() < count {
            let by = self.b.datapath.as_mut();
            let stats = by.stats();
            assert!(start.elapsed() < PATIENCE, "{} of {count}: {stats:?}", packets.len());
            by.wait(Some(Duration::from_millis(10))).unwrap();
            for index in 0..by.recv().unwrap() {
                let (meta, bytes) = by.packet(index);
                packets.push((meta, bytes.to_vec()));
            }
        }
        packets
    }

    /// Sends packets until the sender knows the way and no longer leaves them to the kernel.
    fn warm_up(&mut self) {
        let packet = self.data(64, 0);
        while self.a.datapath.stats().path_lookups == 0 {
            self.send(&packet, None);
            self.receive(1);
        }
    }

    /// Sends packets until `arrives` is the case with one of them, or not.
    fn send_until(&mut self, arrives: bool) {
        let (packet, start) = (self.data(64, 1), Instant::now());
        loop {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.a.datapath.stats());
            while self.b.datapath.recv().unwrap() > 0 {}
            self.send(&packet, None);
            self.b.datapath.wait(Some(Duration::from_millis(20))).unwrap();
            if (self.b.datapath.recv().unwrap() > 0) == arrives {
                return;
            }
        }
    }
}

fn segments_arrive_whole() {
    for is_ipv6 in [false, true] {
        let pair = bed(Wire::Macvlan);
        let mut ends = Ends::new(&pair, is_ipv6);
        // Asked before anything was sent, as long as the kernel knows the neighbour.
        let limit = ends.a.datapath.tso(ends.to);
        assert!(limit > 60_000, "{limit}");
        assert!(limit <= ends.a.datapath.caps().tx_segment);
        let usable = 1500 - if is_ipv6 { 40 } else { 20 } - HEADER;
        for len in [HEADER + usable + 1, 8192, 60_000, limit] {
            let sent = ends.data(len, len as u8);
            ends.send(&sent, Some(usable as u16));
            let (meta, mut received) = ends.receive(1).remove(0);
            // Offloads write into the checksum.
            received[16..18].fill(0);
            assert!(received == sent, "{len} bytes");
            assert_eq!(meta.len, len);
            assert_eq!(meta.ip_id, (!is_ipv6).then_some(0));
        }
        let stats = ends.a.datapath.stats();
        assert_eq!((stats.tx_segments, stats.tx_segment_errors, stats.tx_errors), (4, 0, 0));
    }
}

fn segments_and_packets_share_a_burst() {
    let pair = bed(Wire::Macvlan);
    let mut ends = Ends::new(&pair, false);
    ends.warm_up();
    let mut expected = Vec::new();
    while ends.a.datapath.frame().is_some() {
        let is_segment = expected.len() % 3 == 1;
        let len = if is_segment { 20_000 + expected.len() } else { 100 + expected.len() };
        let sent = ends.data(len, len as u8);
        ends.queue(&sent, is_segment.then_some(1428));
        expected.push(sent);
    }
    assert_eq!(expected.len(), ends.a.datapath.caps().tx_burst);
    ends.a.datapath.flush().unwrap();
    for ((_, mut received), sent) in ends.receive(expected.len()).into_iter().zip(expected) {
        received[16..18].fill(0);
        assert!(received == sent);
    }
}

fn veth_takes_no_segments() {
    let pair = bed(Wire::Veth);
    let mut ends = Ends::new(&pair, false);
    ends.warm_up();
    assert_eq!(ends.a.datapath.tso(ends.to), 0);
    // Whoever asks for one all the same loses it, and nothing else.
    let segment = ends.data(20_000, 1);
    ends.send(&segment, Some(1428));
    let stats = ends.a.datapath.stats();
    assert_eq!((stats.tx_segments, stats.tx_segment_errors, stats.tx_errors), (0, 1, 0));
    ends.warm_up();
}

fn a_refused_segment_is_the_last() {
    let pair = bed(Wire::MacvlanOnVeth);
    let mut ends = Ends::new(&pair, false);
    ends.warm_up();
    assert!(ends.a.datapath.tso(ends.to) > 0);
    let (segment, packet) = (ends.data(20_000, 1), ends.data(1000, 2));
    ends.queue(&packet, None);
    ends.queue(&segment, Some(1428));
    ends.queue(&packet, None);
    ends.a.datapath.flush().unwrap();
    // The packets around it arrive.
    assert!(ends.receive(2).iter().all(|(_, received)| *received == packet));
    let stats = ends.a.datapath.stats();
    assert_eq!((stats.tx_segments, stats.tx_segment_errors, stats.tx_errors), (0, 1, 0));
    assert_eq!(ends.a.datapath.tso(ends.to), 0);
    // Nor does it ever again, whatever else changes.
    pair.a.add_address(&pair.a_name, [10, 7, 0, 1].into(), 24).unwrap();
    let before = ends.a.datapath.stats().path_lookups;
    let start = Instant::now();
    while ends.a.datapath.stats().path_lookups == before {
        assert!(start.elapsed() < PATIENCE);
        ends.send_until(true);
    }
    assert_eq!(ends.a.datapath.tso(ends.to), 0);
}

/// What only the core can find out: everything here says that segments arrive.
fn segments_can_get_lost_without_a_word() {
    let pair = bed(Wire::MacvlanOrDetour);
    let mut ends = Ends::new(&pair, false);
    ends.warm_up();
    for (detour, fill) in [(false, 1), (true, 2), (false, 3)] {
        pair.detour(detour).unwrap();
        ends.send_until(true);
        let (segment, packet) = (ends.data(20_000, fill), ends.data(1000, fill));
        ends.send(&segment, Some(1428));
        ends.send(&packet, None);
        let lens = ends.receive(if detour { 1 } else { 2 }).into_iter().map(|(meta, _)| meta.len);
        assert!(lens.eq([segment.len(), packet.len()].into_iter().skip(usize::from(detour))));
        assert!(ends.a.datapath.tso(ends.to) > 60_000);
    }
    let stats = ends.a.datapath.stats();
    assert_eq!((stats.tx_segments, stats.tx_segment_errors, stats.tx_errors), (3, 0, 0));
}

fn neighbours_are_resolved() {
    for is_ipv6 in [false, true] {
        let options = PairOptions { static_neighbours: false, ..PairOptions::default() };
        let pair = pair(options).unwrap();
        let mut ends = Ends::new(&pair, is_ipv6);
        let packets: Vec<_> = (0..10).map(|fill| ends.data(64, fill)).collect();
        for packet in &packets {
            ends.send(packet, None);
        }
        let mut received: Vec<_> = ends.receive(10).into_iter().map(|(_, packet)| packet).collect();
        received.sort_by_key(|packet| packet[60]);
        assert!(received == packets);
        ends.warm_up();
    }
}

fn a_neighbours_new_address_is_followed() {
    let pair = bed(Wire::Veth);
    let mut ends = Ends::new(&pair, false);
    ends.warm_up();
    let mac = [2, 0, 0, 0, 0, 0xbb];
    pair.b.set_mac(&pair.b_name, mac).unwrap();
    ends.send_until(false);
    pair.a.set_neighbour(&pair.a_name, ends.to, mac).unwrap();
    ends.send_until(true);
}

fn stale_neighbours_are_tested() {
    let pair = bed(Wire::Macvlan);
    let mut ends = Ends::new(&pair, false);
    ends.warm_up();
    pair.a.set_stale_neighbour(&pair.a_name, ends.to, pair.b_mac).unwrap();
    // Only what the kernel itself sends makes it test; segments go on meanwhile.
    let start = Instant::now();
    while pair.a.is_stale_neighbour(&pair.a_name, ends.to).unwrap() {
        assert!(start.elapsed() < PATIENCE);
        let segment = ends.data(20_000, 0);
        ends.send(&segment, Some(1428));
        assert_eq!(ends.receive(1)[0].1.len(), segment.len());
        ends.send_until(true);
    }
    assert_eq!(ends.a.datapath.stats().tx_segment_errors, 0);
}

fn a_link_that_goes_down_comes_back() {
    let pair = bed(Wire::Veth);
    let mut ends = Ends::new(&pair, false);
    ends.warm_up();
    pair.a.set_link(&pair.a_name, false).unwrap();
    ends.send_until(false);
    assert!(ends.a.datapath.stats().tx_errors > 0);
    assert!(pair.a.run(|| ends.a.datapath.path_mtu(ends.to).is_err()).unwrap());
    pair.a.set_link(&pair.a_name, true).unwrap();
    // The kernel has forgotten what it was told of neighbours, and asks.
    ends.send_until(true);
    assert_eq!(pair.a.run(|| ends.a.datapath.path_mtu(ends.to).unwrap()).unwrap(), 1500);
}

fn a_smaller_mtu_is_told() {
    let pair = bed(Wire::Veth);
    let mut ends = Ends::new(&pair, false);
    ends.warm_up();
    let large = ends.data(1480, 1);
    ends.send(&large, None);
    ends.receive(1);
    pair.a.set_mtu(&pair.a_name, 1400).unwrap();
    ends.send(&large, None);
    let start = Instant::now();
    let error = loop {
        assert!(start.elapsed() < PATIENCE);
        match ends.a.datapath.path_error() {
            Some(error) => break error,
            None => ends.a.datapath.wait(Some(Duration::from_millis(10))).unwrap(),
        }
    };
    assert_eq!((error.dst.ip(), error.kind), (ends.to, PathErrorKind::MtuChanged(1400)));
    let (refused, fits) = (ends.data(1381, 3), ends.data(1380, 2));
    ends.send(&refused, None);
    ends.send(&fits, None);
    assert!(ends.receive(1)[0].1 == fits);
    assert_eq!(ends.a.datapath.stats().tx_errors, 2);
}

fn a_wildcard_knows_of_segments() {
    let pair = bed(Wire::Macvlan);
    let mut ends = Ends::new(&pair, false);
    let any = Ipv4Addr::UNSPECIFIED.into();
    let options = OpenOptions { kind: Kind::Packet, bind: any, ..OpenOptions::default() };
    ends.a = pair.a.run(|| open(options).unwrap()).unwrap();
    ends.warm_up();
    assert!(ends.a.datapath.tso(ends.to) > 0);
    // A change of addresses has the path looked up anew, and takes no segment.
    pair.a.add_address(&pair.a_name, [10, 7, 0, 1].into(), 24).unwrap();
    for round in 0..50 {
        let sent = ends.data(20_000, round);
        ends.send(&sent, Some(1428));
        let (meta, received) = ends.receive(1).remove(0);
        assert_eq!((meta.src.ip(), meta.len), (pair.a_v4.into(), sent.len()));
        assert!(received[HEADER..] == sent[HEADER..]);
    }
    let start = Instant::now();
    while ends.a.datapath.stats().path_lookups < 2 {
        assert!(start.elapsed() < PATIENCE);
        let sent = ends.data(20_000, 0);
        ends.send(&sent, Some(1428));
        ends.receive(1);
    }
    let stats = ends.a.datapath.stats();
    assert_eq!((stats.tx_segment_errors, stats.tx_errors), (0, 0));
}

fn gateways_are_followed() {
    let pair = bed(Wire::Veth);
    let behind = Ipv4Addr::new(198, 51, 100, 7);
    pair.b.add_address(&pair.b_name, behind.into(), 32).unwrap();
    pair.a.add_route(Ipv4Addr::new(198, 51, 100, 0), 24, pair.b_v4).unwrap();
    let any: IpAddr = Ipv4Addr::UNSPECIFIED.into();
    let mut ends = Ends::new(&pair, false);
    ends.b = pair
        .b
        .run(|| {
            let listen = Some(PORT + 1);
            let kind = Kind::Packet;
            open(OpenOptions { kind, bind: any, listen, client: false, ..OpenOptions::default() })
        })
        .unwrap()
        .unwrap();
    ends.to = behind.into();
    let mut packet = ends.data(64, 0);
    packet[2..4].copy_from_slice(&(PORT + 1).to_be_bytes());
    for _ in 0..10 {
        ends.send(&packet, None);
        let (meta, received) = ends.receive(1).remove(0);
        assert_eq!((meta.src.ip(), meta.dst), (pair.a_v4.into(), behind.into()));
        assert!(received == packet);
    }
    assert_eq!(ends.a.datapath.stats().path_lookups, 1);
}

fn strangers_cost_no_look_up() {
    let pair = bed(Wire::Veth);
    let mut ends = Ends::new(&pair, false);
    let packet = ends.data(64, 0);
    for host in 1..=200 {
        ends.to = [10, 0, 0, host].into();
        ends.send(&packet, None);
    }
    let stats = ends.a.datapath.stats();
    assert_eq!(stats.path_lookups, 0);
}
