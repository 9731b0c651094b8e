//! The kernel filter that gives each process the packets of its own ports, and each shard those of its
//! own lanes.
//!
//! Classic BPF, since it needs no privilege beyond the socket's and works on every kernel.

use libc::sock_filter;

use crate::ports::{BLOCK_LEN, Ports};

/// Offsets in the SMT header (`docs/spec.md`, 2.1).
const DESTINATION_PORT: u32 = 2;
pub(crate) const EPOCH: u32 = 8;
pub(crate) const TYPE: u32 = 11;
pub(crate) const LAST_OF_ID: u32 = 27;
/// The type of UNKNOWN, which belongs to its ID's lane in epoch 0 too.
pub(crate) const UNKNOWN: u32 = 0x13;
/// Most shards of an endpoint, as many as a session can have lanes (`docs/spec.md`, 3.5).
pub const MAX_SHARDS: u8 = 64;
const ACCEPT: u32 = u32::MAX;
const DROP: u32 = 0;

/// Where a raw socket's filter finds the SMT header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// IPv4: the filter sees the IP header first, and options make its length vary.
    AfterIpv4Header,
    /// IPv6: the filter sees what follows the IP header.
    AtOnce,
}

/// Which of the endpoint's packets are one socket's: those of every `count`th lane from `index` on
/// (`docs/spec.md`, 3.5). `count` is a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) index: u8,
    pub(crate) count: u8,
}

#[cfg(test)]
impl Shard {
    /// All packets.
    pub(crate) const ONLY: Shard = Shard { index: 0, count: 1 };
}

/// A program that accepts packets to `ports` that are `shard`'s and drops all others, too short ones
/// included.
pub(crate) fn program(start: Start, ports: Ports, shard: Shard) -> Vec<sock_filter> {
    let accept = accept(start, shard);
    let mut program = match start {
        Start::AfterIpv4Header => vec![
            // X = 4 * (first byte & 15): the length of the IP header.
            statement(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
            statement(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, DESTINATION_PORT),
        ],
        Start::AtOnce => {
            vec![statement(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, DESTINATION_PORT)]
        }
    };
    if let Some(listen) = ports.listen {
        program.push(skip_unless_equal(u32::from(listen), accept.len() as u8));
        program.extend(&accept);
    }
    if let Some(base) = ports.block {
        let mask = u32::from(!(BLOCK_LEN - 1));
        program.push(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask));
        program.push(skip_unless_equal(u32::from(base), accept.len() as u8));
        program.extend(&accept);
    }
    program.push(statement(libc::BPF_RET, DROP));
    program
}

/// A program that returns which of `count` shards a packet is for. It sees the SMT packet from its
/// start. Too short ones, where a load ends it with 0, are the first shard's.
pub(crate) fn choice(count: u8) -> Vec<sock_filter> {
    let byte = |at| statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at);
    vec![
        byte(EPOCH),
        skip_unless_equal(0, 3),
        byte(TYPE),
        skip_if_equal(UNKNOWN, 1),
        // Handshakes are the first shard's.
        statement(libc::BPF_RET | libc::BPF_K, 0),
        byte(LAST_OF_ID),
        statement(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 2),
        statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, u32::from(count.saturating_sub(1))),
        statement(libc::BPF_RET | libc::BPF_A, 0),
    ]
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Goes on with the next instruction if the accumulator is `k`, and skips `skipped` otherwise.
fn skip_unless_equal(k: u32, skipped: u8) -> sock_filter {
    let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    sock_filter { code, jt: 0, jf: skipped, k }
}

/// What decides about a packet to a port of ours: its lane.
fn accept(start: Start, Shard { index, count }: Shard) -> Vec<sock_filter> {
    if count <= 1 {
        return vec![statement(libc::BPF_RET, ACCEPT)];
    }
    let mode = match start {
        Start::AfterIpv4Header => libc::BPF_IND,
        Start::AtOnce => libc::BPF_ABS,
    };
    let byte = |at| statement(libc::BPF_LD | libc::BPF_B | mode, at);
    let first = if index == 0 { ACCEPT } else { DROP };
    vec![
        byte(EPOCH),
        skip_unless_equal(0, 3),
        byte(TYPE),
        // Handshakes are the first shard's.
        skip_if_equal(UNKNOWN, 1),
        statement(libc::BPF_RET, first),
        byte(LAST_OF_ID),
        statement(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 2),
        statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, u32::from(count - 1)),
        skip_unless_equal(u32::from(index), 1),
        statement(libc::BPF_RET, ACCEPT),
        statement(libc::BPF_RET, DROP),
    ]
}

fn skip_if_equal(k: u32, skipped: u8) -> sock_filter {
    let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    sock_filter { code, jt: skipped, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the kernel would accept `packet`.
    fn accepts(program: &[sock_filter], packet: &[u8]) -> bool {
        run(program, packet) != 0
    }

    /// Runs `program` as the kernel would; loads beyond the packet end it with 0.
    fn run(program: &[sock_filter], packet: &[u8]) -> u32 {
        let (mut a, mut x, mut pc) = (0u32, 0u32, 0);
        let half = |at: u32| {
            let bytes = packet.get(at as usize..)?.first_chunk()?;
            Some(u32::from(u16::from_be_bytes(*bytes)))
        };
        loop {
            let i = program[pc];
            pc += 1;
            let code = u32::from(i.code);
            if code == libc::BPF_RET {
                return i.k;
            } else if code == libc::BPF_RET | libc::BPF_A {
                return a;
            } else if code == libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH {
                let Some(byte) = packet.first() else { return 0 };
                x = 4 * u32::from(byte & 15);
            } else if code == libc::BPF_LD | libc::BPF_H | libc::BPF_IND {
                let Some(value) = half(x + i.k) else { return 0 };
                a = value;
            } else if code == libc::BPF_LD | libc::BPF_H | libc::BPF_ABS {
                let Some(value) = half(i.k) else { return 0 };
                a = value;
            } else if code == libc::BPF_LD | libc::BPF_B | libc::BPF_IND {
                let Some(value) = packet.get((x + i.k) as usize) else { return 0 };
                a = u32::from(*value);
            } else if code == libc::BPF_LD | libc::BPF_B | libc::BPF_ABS {
                let Some(value) = packet.get(i.k as usize) else { return 0 };
                a = u32::from(*value);
            } else if code == libc::BPF_ALU | libc::BPF_AND {
                a &= i.k;
            } else if code == libc::BPF_ALU | libc::BPF_RSH {
                a >>= i.k;
            } else if code == libc::BPF_JMP | libc::BPF_JEQ {
                pc += usize::from(if a == i.k { i.jt } else { i.jf });
            } else {
                panic!("instruction {code:#x}");
            }
        }
    }

    fn to_port(port: u16) -> Vec<u8> {
        let mut packet = vec![0xab, 0xcd];
        packet.extend(port.to_be_bytes());
        packet.extend([0; 24]);
        packet
    }

    fn behind_ipv4(options: usize, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20 + 4 * options];
        packet[0] = 0x45 + options as u8;
        packet.extend(payload);
        packet
    }

    #[test]
    fn own_ports_alone_pass() {
        let ports = Ports { listen: Some(7000), block: Some(40_000) };
        for port in 0..=u16::MAX {
            let own = port == 7000 || (40_000..40_032).contains(&port);
            assert_eq!(
                accepts(&program(Start::AtOnce, ports, Shard::ONLY), &to_port(port)),
                own,
                "{port}"
            );
            for options in [0, 1, 10] {
                let packet = behind_ipv4(options, &to_port(port));
                assert_eq!(
                    accepts(&program(Start::AfterIpv4Header, ports, Shard::ONLY), &packet),
                    own
                );
            }
        }
    }

    #[test]
    fn each_packet_is_of_one_shard_by_its_message_id() {
        let ports = Ports { listen: Some(7000), block: Some(40_000) };
        for count in [2, 4, 64] {
            let shards = |start, packet: &[u8]| {
                let takes = |index: &u8| {
                    accepts(&program(start, ports, Shard { index: *index, count }), packet)
                };
                (0..count).filter(takes).collect::<Vec<_>>()
            };
            for port in [7000, 40_007, 7001] {
                for (epoch, kind, id) in (0..=255).flat_map(|id| {
                    [(3, 0x10, id), (9, 0x11, id), (0, 0x10, id), (0, 0x21, id), (0, 0x13, id)]
                }) {
                    let mut packet = to_port(port);
                    (packet[8], packet[11], packet[27]) = (epoch, kind, id);
                    let by_id = epoch != 0 || kind == 0x13;
                    let shard = if by_id { (id >> 2) % count } else { 0 };
                    let expected = if port == 7001 { vec![] } else { vec![shard] };
                    assert_eq!(shards(Start::AtOnce, &packet), expected);
                    let behind = behind_ipv4(usize::from(id % 3), &packet);
                    assert_eq!(shards(Start::AfterIpv4Header, &behind), expected);
                }
            }
            assert!(shards(Start::AtOnce, &to_port(7000)[..27]).len() <= 1);
        }
    }

    #[test]
    fn the_choice_of_a_shard_is_as_the_filter() {
        let ports = Ports { listen: Some(7000), block: None };
        for count in [2, 4, 64] {
            for (epoch, kind, id) in (0..=255)
                .flat_map(|id| [(3, 0x10, id), (0, 0x10, id), (0, 0x21, id), (0, 0x13, id)])
            {
                let mut packet = to_port(7000);
                (packet[8], packet[11], packet[27]) = (epoch, kind, id);
                let chosen = run(&choice(count), &packet);
                for index in 0..count {
                    let program = program(Start::AtOnce, ports, Shard { index, count });
                    assert_eq!(accepts(&program, &packet), u32::from(index) == chosen);
                }
            }
            assert_eq!(run(&choice(count), &[0xff; 27]), 0);
            assert_eq!(run(&choice(count), &[]), 0);
        }
    }

    #[test]
    fn no_ports_accept_nothing_and_short_packets_never_pass() {
        let none = Ports { listen: None, block: None };
        assert!(!accepts(&program(Start::AtOnce, none, Shard::ONLY), &to_port(0)));
        let zero = Ports { listen: Some(0), block: None };
        assert!(!accepts(&program(Start::AtOnce, zero, Shard::ONLY), &[1, 2, 0]));
        assert!(!accepts(&program(Start::AfterIpv4Header, zero, Shard::ONLY), &[]));
        assert!(!accepts(
            &program(Start::AfterIpv4Header, zero, Shard::ONLY),
            &behind_ipv4(0, &[1, 2, 0])
        ));
    }
}
