//! What the network sees of a packet's priority: the DSCP of its IP header.

#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use smt_datapath::{CLASS_SELECTORS, Datapath, Kind, OpenOptions, TxMeta, open};
use smt_testbed::{loopback, test};
use socket2::{Domain, Protocol, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(20);
/// Told apart from other packets by its length.
const LEN: usize = 123;

fn main() -> ExitCode {
    smt_testbed::main(vec![
        test("priorities_are_class_selectors", priorities_are_class_selectors),
        test("the_table_is_the_users", the_table_is_the_users),
        test("unmarked_packets_stay_unmarked", unmarked_packets_stay_unmarked),
        test("a_quiet_socket_has_no_backlog", a_quiet_socket_has_no_backlog),
    ])
}

/// Sends one packet of each priority, in bursts and alone, and returns the DSCPs they carried.
fn dscps(kind: Kind, ip: IpAddr, dscp: Option<[u8; 8]>) -> [Vec<u8>; 2] {
    // Every packet of every device of this namespace, with its IP header and nothing before it.
    let everything = Protocol::from(i32::from(u16::to_be(libc::ETH_P_ALL as u16)));
    let mut monitor = Socket::new(Domain::PACKET, Type::DGRAM, Some(everything)).unwrap();
    monitor.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut opened = open(OpenOptions { kind, bind: ip, dscp, ..OpenOptions::default() }).unwrap();
    let by = opened.datapath.as_mut();
    [false, true].map(|alone| {
        for priority in 0..8 {
            commit(by, kind, ip, priority);
            if alone {
                by.flush().unwrap();
            }
        }
        by.flush().unwrap();
        // The loopback shows each packet going out and coming in.
        let mut seen: Vec<u8> = (0..16).map(|_| next_dscp(&mut monitor)).collect();
        seen.sort_unstable();
        let (twice, _) = seen.as_chunks::<2>();
        assert!(twice.iter().all(|[out, back]| out == back), "{seen:?}");
        twice.iter().map(|[out, _]| *out).collect()
    })
}

fn commit(by: &mut dyn Datapath, kind: Kind, ip: IpAddr, priority: u8) {
    by.frame().unwrap()[..LEN].fill(0);
    // Nobody listens there; raw sockets take no port.
    let port = if kind == Kind::Udp { 9 } else { 0 };
    by.commit(TxMeta {
        dst: SocketAddr::new(ip, port),
        src: None,
        len: LEN,
        priority,
        segment: None,
        lane: 0,
    });
}

/// The DSCP of the next packet of ours.
fn next_dscp(monitor: &mut Socket) -> u8 {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "the packet was not seen");
        let mut packet = [0; 2048];
        let len = monitor.read(&mut packet).unwrap();
        match (packet[0] >> 4, len) {
            (4, len) if [20 + LEN, 28 + LEN].contains(&len) => return packet[1] >> 2,
            (6, len) if [40 + LEN, 48 + LEN].contains(&len) => {
                return (packet[0] << 4 | packet[1] >> 4) >> 2;
            }
            _ => {}
        }
    }
}

fn everywhere(dscp: Option<[u8; 8]>, expected: [u8; 8]) {
    loopback().unwrap().enter().unwrap();
    for kind in [Kind::Raw, Kind::Packet, Kind::Udp] {
        for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            for seen in dscps(kind, ip, dscp) {
                assert_eq!(seen, expected, "{kind:?} {ip}");
            }
        }
    }
}

fn priorities_are_class_selectors() {
    everywhere(Some(CLASS_SELECTORS), CLASS_SELECTORS);
}

fn the_table_is_the_users() {
    let table = [1, 2, 3, 10, 20, 30, 46, 63];
    everywhere(Some(table), table);
}

fn unmarked_packets_stay_unmarked() {
    everywhere(None, [0; 8]);
}

fn a_quiet_socket_has_no_backlog() {
    loopback().unwrap().enter().unwrap();
    for kind in [Kind::Raw, Kind::Packet, Kind::Udp] {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut opened = open(OpenOptions { kind, bind: ip, ..OpenOptions::default() }).unwrap();
        assert_eq!(opened.datapath.backlog(), 0);
        commit(opened.datapath.as_mut(), kind, ip, 7);
        opened.datapath.flush().unwrap();
        let start = Instant::now();
        while opened.datapath.backlog() > 0 {
            assert!(start.elapsed() < PATIENCE, "the packet never left");
        }
    }
}
