//! UDP sockets that share a port: each packet comes to the shard of its message ID, whoever sent it with
//! what.

// Clippy takes functions for tests only under the standard harness.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, ipproto, socket, sockopt};
use smt_datapath::{Datapath, Kind, OpenError, OpenOptions, Opened, TxMeta, open, open_shards};
use smt_testbed::{Pair, PairOptions, loopback, pair, test};

const PORT: u16 = 7000;
const LEN: usize = 200;
/// Nothing here takes this long; waiting for less would make slow machines fail.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    smt_testbed::main(vec![
        test("each_shard_gets_its_packets", each_shard_gets_its_packets),
        test("handshakes_are_the_first_shards", handshakes_are_the_first_shards),
        test("packets_of_one_lane_may_be_joined", packets_of_one_lane_may_be_joined),
        test("what_others_join_arrives_somewhere", what_others_join_arrives_somewhere),
        test("all_shards_send_from_one_port", all_shards_send_from_one_port),
        test("a_shared_port_has_one_owner", a_shared_port_has_one_owner),
    ])
}

fn options(bind: IpAddr, listen: Option<u16>) -> OpenOptions {
    OpenOptions { kind: Kind::Udp, bind, listen, client: true, ..OpenOptions::default() }
}

fn shards(bind: IpAddr, count: u8) -> Vec<Opened> {
    open_shards(options(bind, Some(PORT)), count).unwrap()
}

/// A packet of a message, with its number as payload.
fn packet(epoch: u8, kind: u8, message: u64, number: u32) -> Vec<u8> {
    let mut packet = vec![0; LEN];
    packet[2..4].copy_from_slice(&PORT.to_be_bytes());
    (packet[8], packet[11]) = (epoch, kind);
    packet[20..28].copy_from_slice(&message.to_be_bytes());
    packet[28..32].copy_from_slice(&number.to_be_bytes());
    packet
}

fn queue(by: &mut dyn Datapath, dst: SocketAddr, packet: &[u8], lane: u8) {
    if by.frame().is_none() {
        by.flush().unwrap();
    }
    by.frame().unwrap()[..packet.len()].copy_from_slice(packet);
    by.commit(TxMeta { dst, src: None, len: packet.len(), priority: 7, segment: None, lane });
}

/// Numbers of the packets that each shard receives, until `count` are there.
fn receive(by: &mut [Opened], count: usize) -> Vec<Vec<u32>> {
    let (mut numbers, start) = (vec![Vec::new(); by.len()], Instant::now());
    while numbers.iter().map(Vec::len).sum::<usize>() < count {
        assert!(start.elapsed() < PATIENCE, "{numbers:?} of {count}");
        for (opened, numbers) in by.iter_mut().zip(&mut numbers) {
            for index in 0..opened.datapath.recv().unwrap() {
                let (meta, bytes) = opened.datapath.packet(index);
                assert_eq!((meta.len, bytes.len()), (LEN, LEN));
                numbers.push(u32::from_be_bytes(*bytes[28..].first_chunk().unwrap()));
            }
        }
    }
    numbers
}

fn link() -> (Pair, [(IpAddr, IpAddr); 2]) {
    let pair = pair(PairOptions::default()).unwrap();
    let ways = [
        (IpAddr::from(pair.a_v4), IpAddr::from(pair.b_v4)),
        (IpAddr::from(pair.a_v6), IpAddr::from(pair.b_v6)),
    ];
    (pair, ways)
}

fn each_shard_gets_its_packets() {
    let (pair, ways) = link();
    for (a, b) in ways {
        let any = match b {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        let mut client = pair.a.run(|| open(options(a, None)).unwrap()).unwrap();
        for (bind, count) in [(b, 2), (any, 4), (b, 64)] {
            let mut shards = pair.b.run(|| shards(bind, count)).unwrap();
            for number in 0..300 {
                // One at a time, so that no two are joined.
                let packet = packet(1, 0x10, u64::from(number), number);
                queue(client.datapath.as_mut(), SocketAddr::new(b, PORT), &packet, 0);
                client.datapath.flush().unwrap();
            }
            for (shard, numbers) in receive(&mut shards, 300).iter().enumerate() {
                let own = (0..300).filter(|n| n / 4 % u32::from(count) == shard as u32);
                assert_eq!(*numbers, own.collect::<Vec<_>>(), "shard {shard} of {count}");
            }
        }
    }
}

fn handshakes_are_the_first_shards() {
    loopback().unwrap().enter().unwrap();
    let bind = IpAddr::from(Ipv4Addr::LOCALHOST);
    let mut shards = shards(bind, 4);
    let client = UdpSocket::bind((bind, 0)).unwrap();
    for number in 0..16 {
        client.send_to(&packet(0, 0x01, u64::from(number), number), (bind, PORT)).unwrap();
    }
    assert_eq!(receive(&mut shards, 16)[0].len(), 16);
    // That a session is unknown is said to the lane that asked.
    client.send_to(&packet(0, 0x13, 2 << 2, 0), (bind, PORT)).unwrap();
    assert_eq!(receive(&mut shards, 1)[2].len(), 1);
}

/// Sends packets of four lanes by turns, in runs of `run` of one lane, in bursts.
fn burst(client: &mut dyn Datapath, to: SocketAddr, run: u32, tell: bool) {
    for number in 0..512 {
        let lane = number / run % 4;
        let packet = packet(1, 0x10, u64::from(lane) << 2, number);
        queue(client, to, &packet, if tell { lane as u8 } else { 0 });
    }
    client.flush().unwrap();
}

fn packets_of_one_lane_may_be_joined() {
    let (pair, ways) = link();
    for (a, b) in ways {
        let mut client = pair.a.run(|| open(options(a, None)).unwrap()).unwrap();
        let mut shards = pair.b.run(|| shards(b, 4)).unwrap();
        for run in [1, 3, 8, 32] {
            burst(client.datapath.as_mut(), SocketAddr::new(b, PORT), run, true);
            for (shard, numbers) in receive(&mut shards, 512).iter().enumerate() {
                let own = (0..512).filter(|n| n / run % 4 == shard as u32);
                assert_eq!(*numbers, own.collect::<Vec<_>>(), "shard {shard}");
            }
        }
    }
}

fn what_others_join_arrives_somewhere() {
    let (pair, ways) = link();
    for (a, b) in ways {
        let mut client = pair.a.run(|| open(options(a, None)).unwrap()).unwrap();
        let mut shards = pair.b.run(|| shards(b, 4)).unwrap();
        burst(client.datapath.as_mut(), SocketAddr::new(b, PORT), 1, false);
        let numbers = receive(&mut shards, 512);
        let mut all: Vec<u32> = numbers.concat();
        all.sort_unstable();
        assert_eq!(all, (0..512).collect::<Vec<_>>());
        // Else this would test nothing: a joined burst is all for its first packet's shard.
        assert!(numbers[0].len() > 128, "nothing was joined");
    }
}

fn all_shards_send_from_one_port() {
    loopback().unwrap().enter().unwrap();
    let bind = IpAddr::from(Ipv4Addr::LOCALHOST);
    // Any free port will do.
    let mut shards = open_shards(options(bind, Some(0)), 4).unwrap();
    let listen = shards[0].listen.unwrap();
    let (peer, mut bytes) = (UdpSocket::bind((bind, 0)).unwrap(), [0; LEN]);
    for opened in &mut shards {
        assert_eq!(opened.listen, Some(listen));
        let to = peer.local_addr().unwrap();
        queue(opened.datapath.as_mut(), to, &packet(1, 0x10, 0, 0), 0);
        opened.datapath.flush().unwrap();
        assert_eq!(peer.recv_from(&mut bytes).unwrap(), (LEN, listen));
    }
}

fn a_shared_port_has_one_owner() {
    loopback().unwrap().enter().unwrap();
    let bind_to = IpAddr::from(Ipv4Addr::LOCALHOST);
    let address = SocketAddr::new(bind_to, PORT);
    let mut ours = shards(bind_to, 2);
    let in_use = |result: Result<Vec<Opened>, OpenError>| {
        assert!(matches!(result, Err(OpenError::PortInUse(PORT))));
    };
    in_use(open_shards(options(bind_to, Some(PORT)), 2));
    in_use(open(options(bind_to, Some(PORT))).map(|opened| vec![opened]));
    // A program of the same user that shares the port all the same gets nothing.
    let stranger = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::UDP)).unwrap();
    sockopt::set_socket_reuseport(&stranger, true).unwrap();
    bind(&stranger, &address).unwrap();
    let client = UdpSocket::bind((bind_to, 0)).unwrap();
    for number in 0..100 {
        client.send_to(&packet(1, 0x10, u64::from(number), number), address).unwrap();
    }
    let numbers = receive(&mut ours, 100);
    assert_eq!(numbers.iter().map(Vec::len).collect::<Vec<_>>(), [52, 48]);
    drop((ours, stranger));
    // One that came first keeps it.
    let stranger = socket(AddressFamily::INET, SocketType::DGRAM, Some(ipproto::UDP)).unwrap();
    sockopt::set_socket_reuseport(&stranger, true).unwrap();
    bind(&stranger, &address).unwrap();
    in_use(open_shards(options(bind_to, Some(PORT)), 2));
}
