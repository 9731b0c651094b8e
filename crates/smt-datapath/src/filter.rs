//! The kernel filter that gives each process the packets of its own ports.
//!
//! Classic BPF, since it needs no privilege beyond the socket's and works on every kernel.

use libc::sock_filter;

use crate::ports::{BLOCK_LEN, Ports};

/// Offset of the destination port in the SMT header (`docs/spec.md`, 2.1).
const DESTINATION_PORT: u32 = 2;
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

/// A program that accepts packets to `ports` and drops all others, too short ones included.
pub(crate) fn program(start: Start, ports: Ports) -> Vec<sock_filter> {
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
        program.push(skip_unless_equal(u32::from(listen)));
        program.push(statement(libc::BPF_RET, ACCEPT));
    }
    if let Some(base) = ports.block {
        let mask = u32::from(!(BLOCK_LEN - 1));
        program.push(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask));
        program.push(skip_unless_equal(u32::from(base)));
        program.push(statement(libc::BPF_RET, ACCEPT));
    }
    program.push(statement(libc::BPF_RET, DROP));
    program
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Goes on with the next instruction if the accumulator is `k`, and skips it otherwise.
fn skip_unless_equal(k: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: 1, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `program` as the kernel would; loads beyond the packet drop it.
    fn accepts(program: &[sock_filter], packet: &[u8]) -> bool {
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
                return i.k != 0;
            } else if code == libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH {
                let Some(byte) = packet.first() else { return false };
                x = 4 * u32::from(byte & 15);
            } else if code == libc::BPF_LD | libc::BPF_H | libc::BPF_IND {
                let Some(value) = half(x + i.k) else { return false };
                a = value;
            } else if code == libc::BPF_LD | libc::BPF_H | libc::BPF_ABS {
                let Some(value) = half(i.k) else { return false };
                a = value;
            } else if code == libc::BPF_ALU | libc::BPF_AND {
                a &= i.k;
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
            assert_eq!(accepts(&program(Start::AtOnce, ports), &to_port(port)), own, "{port}");
            for options in [0, 1, 10] {
                let packet = behind_ipv4(options, &to_port(port));
                assert_eq!(accepts(&program(Start::AfterIpv4Header, ports), &packet), own);
            }
        }
    }

    #[test]
    fn no_ports_accept_nothing_and_short_packets_never_pass() {
        let none = Ports { listen: None, block: None };
        assert!(!accepts(&program(Start::AtOnce, none), &to_port(0)));
        let zero = Ports { listen: Some(0), block: None };
        assert!(!accepts(&program(Start::AtOnce, zero), &[1, 2, 0]));
        assert!(!accepts(&program(Start::AfterIpv4Header, zero), &[]));
        assert!(!accepts(&program(Start::AfterIpv4Header, zero), &behind_ipv4(0, &[1, 2, 0])));
    }
}
