//! What the program takes and which shard gets it: by an interpreter here, and by the kernel's own run.

use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType, socket};

use super::*;
use crate::sys::bpf;

const FRAMES: Frames = Frames { max_len: 1800, pieces: true };
const TAKEN: u32 = Verdict::Drop as u32;
const PASSED: u32 = Verdict::Pass as u32;
/// `XDP_REDIRECT`: to the socket that the map has for it.
const REDIRECTED: u32 = 4;

fn ours() -> Ours {
    Ours {
        protocol: 253,
        addresses: ["192.0.2.1", "192.0.2.77", "2001:db8::1", "2001:db8::2"]
            .map(|address| address.parse().unwrap())
            .to_vec(),
        ports: Ports { listen: Some(7000), block: Some(40_000) },
        shards: 1,
    }
}

/// Loads the program, with an empty map, so that packets of ours get another verdict than
/// those that pass. `None`, and a word on standard error, without the right to.
fn load(ours: &Ours) -> Option<(OwnedFd, OwnedFd)> {
    load_for(ours, FRAMES)
}

fn load_for(ours: &Ours, frames: Frames) -> Option<(OwnedFd, OwnedFd)> {
    let loaded = bpf::socket_map("smt-test", 8).and_then(|map| {
        let program = program(ours, frames, map.as_raw_fd(), Verdict::Drop);
        match bpf::load_xdp("smt-test", &program, frames.pieces) {
            Ok(program) => Ok((program, map)),
            Err((error, _)) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            Err((error, log)) => panic!("{error}: {log}"),
        }
    });
    match loaded {
        Ok(loaded) => Some(loaded),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            // Not by a macro: the harness would keep it to itself.
            let text = b"NOT RUN: XDP programs on this kernel (needs CAP_BPF, CAP_NET_ADMIN)\n";
            io::stderr().write_all(text).unwrap();
            None
        }
    }
}

fn frame(ethertype: u16, ip: &[u8], to: u16, payload: usize) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(ip);
    frame.extend(9u16.to_be_bytes());
    frame.extend(to.to_be_bytes());
    frame.extend(vec![0; payload]);
    frame
}

fn v4_header(dst: &str) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 253, 0, 0, 10, 0, 0, 9];
    header.extend(dst.parse::<std::net::Ipv4Addr>().unwrap().octets());
    header
}

fn v6_header(dst: &str) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 24, 253, 64];
    header.extend([9; 16]);
    header.extend(dst.parse::<std::net::Ipv6Addr>().unwrap().octets());
    header
}

#[test]
fn plain_packets_to_our_ports_are_taken() {
    let Some((program, _map)) = load(&ours()) else { return };
    let run = |frame: &[u8]| bpf::run_xdp(&program, frame).unwrap();
    for port in [7000, 40_000, 40_031] {
        for address in ["192.0.2.1", "192.0.2.77"] {
            assert_eq!(run(&frame(0x0800, &v4_header(address), port, 24)), TAKEN, "{port}");
        }
        for address in ["2001:db8::1", "2001:db8::2"] {
            assert_eq!(run(&frame(0x86dd, &v6_header(address), port, 24)), TAKEN, "{port}");
        }
    }
    // The shortest that has a port, and the longest.
    assert_eq!(run(&frame(0x0800, &v4_header("192.0.2.1"), 7000, 0)), TAKEN);
    assert_eq!(run(&frame(0x86dd, &v6_header("2001:db8::1"), 7000, 0)), TAKEN);
    assert_eq!(run(&frame(0x0800, &v4_header("192.0.2.1"), 7000, 1452)), TAKEN);
    // Marked DF or not, with any traffic class, flow label and identification.
    let mut header = v4_header("192.0.2.1");
    (header[1], header[4], header[6]) = (0xe0, 77, 0);
    assert_eq!(run(&frame(0x0800, &header, 7000, 24)), TAKEN);
    let mut header = v6_header("2001:db8::1");
    (header[0], header[1], header[3]) = (0x6e, 0x05, 9);
    assert_eq!(run(&frame(0x86dd, &header, 7000, 24)), TAKEN);
}

#[test]
fn everything_else_passes() {
    let Some((program, _map)) = load(&ours()) else { return };
    let passes = |what: &str, frame: &[u8]| {
        assert_eq!(bpf::run_xdp(&program, frame).unwrap(), PASSED, "{what}");
    };
    let v4 = |change: fn(&mut Vec<u8>)| {
        let mut header = v4_header("192.0.2.1");
        change(&mut header);
        frame(0x0800, &header, 7000, 24)
    };
    let v6 = |change: fn(&mut Vec<u8>)| {
        let mut header = v6_header("2001:db8::1");
        change(&mut header);
        frame(0x86dd, &header, 7000, 24)
    };
    for port in [0, 6999, 7001, 39_999, 40_032, 0x581b] {
        passes("another port", &frame(0x0800, &v4_header("192.0.2.1"), port, 24));
        passes("another port", &frame(0x86dd, &v6_header("2001:db8::1"), port, 24));
    }
    passes("TCP", &v4(|header| header[9] = 6));
    passes("UDP", &v6(|header| header[6] = 17));
    passes("protocol 254", &v4(|header| header[9] = 254));
    passes("hop-by-hop options", &v6(|header| header[6] = 0));
    passes("IPv6 fragment", &v6(|header| header[6] = 44));
    passes("IPv4 options", &v4(|header| header[0] = 0x46));
    passes("IPv4 header too short", &v4(|header| header[0] = 0x44));
    passes("another version", &v4(|header| header[0] = 0x65));
    passes("first fragment", &v4(|header| header[6] = 0x20));
    passes("later fragment", &v4(|header| header[7] = 1));
    passes("last fragment", &v4(|header| header[6] = 0x1f));
    passes("another address", &v4(|header| header[19] = 2));
    passes("another address", &v4(|header| header[16] = 193));
    for byte in [24, 27, 28, 32, 36, 38] {
        let mut header = v6_header("2001:db8::1");
        header[byte] ^= 0x80;
        passes("another address", &frame(0x86dd, &header, 7000, 24));
    }
    let plain = v4(|_| ());
    for ethertype in [0x8100, 0x88a8, 0x0806, 0x0008] {
        let mut other = plain.clone();
        other[12..14].copy_from_slice(&u16::to_be_bytes(ethertype));
        passes("another Ethernet type", &other);
    }
    let mut tagged = plain.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    passes("VLAN", &tagged);
    for len in 14..38 {
        passes("too short", &plain[..len]);
    }
    let plain = v6(|_| ());
    for len in 14..58 {
        passes("too short", &plain[..len]);
    }
}

#[test]
fn frames_too_long_for_a_socket_pass() {
    for pieces in [false, true] {
        let frames = Frames { max_len: 1514, pieces };
        let Some((program, _map)) = load_for(&ours(), frames) else { return };
        let run = |len: usize| {
            let frame = frame(0x0800, &v4_header("192.0.2.1"), 7000, len - 38);
            bpf::run_xdp(&program, &frame).unwrap()
        };
        assert_eq!((run(1514), run(1515), run(3000)), (TAKEN, PASSED, PASSED));
        if pieces {
            // Longer than a page.
            assert_eq!(run(9000), PASSED);
        }
    }
}

#[test]
fn without_addresses_or_ports_nothing_is_taken() {
    for ours in
        [Ours { ports: Ports::default(), ..ours() }, Ours { addresses: Vec::new(), ..ours() }]
    {
        let Some((program, _map)) = load(&ours) else { return };
        for packet in [
            frame(0x0800, &v4_header("192.0.2.1"), 7000, 24),
            frame(0x86dd, &v6_header("2001:db8::1"), 40_000, 24),
        ] {
            assert_eq!(bpf::run_xdp(&program, &packet).unwrap(), PASSED);
        }
    }
}

#[test]
fn the_most_addresses_load_and_further_ones_pass() {
    let nth = |n: usize| format!("2001:db8::{n:x}");
    let addresses = (1..=MAX_ADDRESSES + 1).map(|n| nth(n).parse().unwrap()).collect();
    let Some((program, _map)) = load(&Ours { addresses, ..ours() }) else { return };
    let run = |n| bpf::run_xdp(&program, &frame(0x86dd, &v6_header(&nth(n)), 7000, 24)).unwrap();
    assert_eq!((run(1), run(MAX_ADDRESSES), run(MAX_ADDRESSES + 1)), (TAKEN, TAKEN, PASSED));
}

/// A packet to `port` with what tells its shard.
fn of_lane(v6: bool, port: u16, [epoch, kind, id]: [u8; 3]) -> Vec<u8> {
    let (ethertype, header) = match v6 {
        false => (0x0800, v4_header("192.0.2.1")),
        true => (0x86dd, v6_header("2001:db8::2")),
    };
    let mut frame = frame(ethertype, &header, port, 60);
    let smt = usize::from(ETHERNET.unsigned_abs()) + header.len();
    (frame[smt + 8], frame[smt + 11], frame[smt + 27]) = (epoch, kind, id);
    frame
}

/// Epoch, type and last byte of the message ID, and what the shard is by.
fn lanes() -> impl Iterator<Item = ([u8; 3], bool)> {
    (0..=255u8).flat_map(|id| {
        [
            ([3, 0x10, id], true),
            ([9, 0x11, id], true),
            ([255, 0x21, id], true),
            ([0, 0x13, id], true),
            ([0, 0x10, id], false),
            ([0, 0x21, id], false),
        ]
    })
}

/// Runs `program` as the kernel would on a frame that came in on `queue`. The key that it asks the map
/// for, or `None` if the frame passes.
fn run(program: &[Instruction], frame: &[u8], queue: u32) -> Option<u64> {
    const CONTEXT: u64 = 1 << 40;
    const PACKET: u64 = 2 << 40;
    let mut r = [0u64; 8];
    let mut pc = 0;
    r[1] = CONTEXT;
    loop {
        let i = program[pc];
        pc += 1;
        let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
        let (immediate, low) = (i.immediate as u32, r[to] as u32);
        let mut jump = |taken: bool| {
            if taken {
                pc = pc.checked_add_signed(i.offset.into()).unwrap();
            }
        };
        match i.code {
            0x61 if r[from] == CONTEXT => {
                r[to] = match i.offset {
                    0 => PACKET,
                    4 => PACKET + frame.len() as u64,
                    16 => queue.into(),
                    other => panic!("context at {other}"),
                }
            }
            0x61 | 0x69 | 0x71 => {
                let at = (r[from] - PACKET) as usize + i.offset.unsigned_abs() as usize;
                r[to] = match i.code {
                    0x61 => u32::from_ne_bytes(frame[at..at + 4].try_into().unwrap()).into(),
                    0x69 => u16::from_ne_bytes(frame[at..at + 2].try_into().unwrap()).into(),
                    _ => frame[at].into(),
                }
            }
            0xbf => r[to] = r[from],
            0xb7 => r[to] = i64::from(i.immediate) as u64,
            0x07 => r[to] = r[to].wrapping_add_signed(i.immediate.into()),
            0x0f => r[to] = r[to].wrapping_add(r[from]),
            0x1f => r[to] = r[to].wrapping_sub(r[from]),
            0x54 => r[to] = (low & immediate).into(),
            0x64 => r[to] = (low << immediate).into(),
            0x74 => r[to] = (low >> immediate).into(),
            0xdc => r[to] = (low as u16).to_be().into(),
            0x05 => jump(true),
            0x16 => jump(low == immediate),
            0x26 => jump(low > immediate),
            0x56 => jump(low != immediate),
            0x2d => jump(r[to] > r[from]),
            0x18 => {
                r[to] = u64::from(immediate);
                pc += 1;
            }
            0x85 if i.immediate == FRAME_LEN => {
                r = [frame.len() as u64, 0, 0, 0, 0, 0, r[6], r[7]];
            }
            0x85 if i.immediate == REDIRECT_MAP => return Some(r[2]),
            0x95 => return None,
            code => panic!("instruction {code:#x}"),
        }
    }
}

#[test]
fn each_packet_goes_to_the_shard_of_its_message_id() {
    for (shards, pieces) in [(1, true), (2, false), (2, true), (4, true), (64, false)] {
        let ours = Ours { shards, ..ours() };
        let program = program(&ours, Frames { pieces, ..FRAMES }, 7, Verdict::Pass);
        for (v6, port) in [(false, 7000), (true, 7000), (false, 40_009), (true, 40_009)] {
            for (lane, is_by_id) in lanes() {
                let shard = if is_by_id { (lane[2] >> 2) % shards } else { 0 };
                for queue in [0, 1, 7] {
                    let expected = u64::from(key(queue, shard, shards));
                    let frame = of_lane(v6, port, lane);
                    assert_eq!(run(&program, &frame, queue), Some(expected), "{lane:?}");
                }
                assert_eq!(run(&program, &of_lane(v6, 7001, lane), 0), None);
            }
            // The raw sockets divide what is too short to tell.
            let whole = of_lane(v6, port, [1, 0x10, 4]);
            let smt = if v6 { 54 } else { 34 };
            for len in 0..whole.len() {
                let is_taken = len >= smt + if shards > 1 { 28 } else { 4 };
                assert_eq!(run(&program, &whole[..len], 0).is_some(), is_taken, "{len}");
            }
        }
    }
}

#[test]
fn keys_of_queues_and_shards_differ() {
    for shards in [1, 2, 64] {
        let keys: Vec<u32> =
            (0..8).flat_map(|q| (0..shards).map(move |shard| key(q, shard, shards))).collect();
        assert!(keys.iter().copied().eq(0..8 * u32::from(shards)));
    }
}

/// The kernel's verifier takes the programs for several shards, and they ask for the right socket.
#[test]
fn the_kernel_hands_packets_to_the_sockets_of_shards() {
    for pieces in [false, true] {
        for shards in [2, 4, 8] {
            let ours = Ours { shards, ..ours() };
            for shard in 0..shards {
                let frames = Frames { pieces, ..FRAMES };
                let Some((program, map)) = load_for(&ours, frames) else { return };
                let socket = socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
                bpf::set_socket(&map, key(0, shard, shards), &socket).unwrap();
                for v6 in [false, true] {
                    for (lane, is_by_id) in lanes().step_by(5) {
                        let to = if is_by_id { (lane[2] >> 2) % shards } else { 0 };
                        let expected = if to == shard { REDIRECTED } else { TAKEN };
                        let verdict = bpf::run_xdp(&program, &of_lane(v6, 7000, lane)).unwrap();
                        assert_eq!(verdict, expected, "{lane:?} for {shard} of {shards}");
                    }
                }
            }
        }
    }
}
