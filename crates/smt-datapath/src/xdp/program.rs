//! The XDP program: packets of ours go to the AF_XDP socket of the queue they came in on and of the
//! shard that they are for, and everything else on its usual way.
//!
//! *Ours* is what the raw datapath would receive as well, in its plainest form: Ethernet, IPv4
//! without options or fragments, or IPv6 without extension headers, our protocol number, an address
//! and a port of ours. Every other packet passes untouched, other forms of ours among them (tagged
//! with a VLAN, fragmented, to an address that the host got later): the stack brings those to the
//! raw socket beside. So does what comes in on a queue without a socket, and frames too long for one
//! (segments that were not cut on their way, among machines of one host).

use std::net::IpAddr;

use super::asm::{Assembler, Label, Register, When, Width};
use crate::filter::{EPOCH, LAST_OF_ID, TYPE, UNKNOWN};
use crate::ports::{BLOCK_LEN, Ports};
use crate::sys::bpf::Instruction;

/// Addresses a program looks for at most; packets to further ones pass.
pub(super) const MAX_ADDRESSES: usize = 32;

/// Offsets of `struct xdp_md`.
const CONTEXT_DATA: i16 = 0;
const CONTEXT_DATA_END: i16 = 4;
const CONTEXT_QUEUE: i16 = 16;
// Functions of the kernel: bpf_redirect_map, bpf_xdp_get_buff_len.
const REDIRECT_MAP: i32 = 51;
const FRAME_LEN: i32 = 188;

const ETHERNET: i16 = 14;
const ETHERTYPE: i16 = 12;
const ETHERTYPE_V4: u16 = 0x0800;
const ETHERTYPE_V6: u16 = 0x86dd;
const V4_HEADER: i16 = 20;
const V6_HEADER: i16 = 40;
/// Bytes of the SMT header that are read: its ports.
const PORTS: i16 = 4;
/// Bytes of it that tell the shard.
const ID_END: i16 = LAST_OF_ID as i16 + 1;

/// What becomes of a packet (`enum xdp_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Verdict {
    /// It is dropped.
    #[cfg(test)]
    Drop = 1,
    /// It goes to the stack.
    Pass = 2,
}

/// Which packets are ours.
#[derive(Clone, Debug)]
pub(super) struct Ours {
    /// IP protocol number.
    pub(super) protocol: u8,
    /// Addresses that packets are sent to; at most [`MAX_ADDRESSES`] count.
    pub(super) addresses: Vec<IpAddr>,
    /// SMT ports that they are sent to.
    pub(super) ports: Ports,
    /// How many shards share them; a power of two.
    pub(super) shards: u8,
}

/// Which frames the sockets take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frames {
    /// Bytes of the longest.
    pub(super) max_len: u32,
    /// They may lie in several pieces (Linux 5.18): only the kernel knows how long they are.
    pub(super) pieces: bool,
}

/// The key of a socket in the map: those of a queue lie side by side.
pub(super) fn key(queue: u32, shard: u8, shards: u8) -> u32 {
    queue * u32::from(shards) + u32::from(shard)
}

/// Writes the program. `map` is this process's descriptor of the map of sockets by [`key`];
/// `without_socket` becomes of packets of ours that have none there.
pub(super) fn program(
    ours: &Ours,
    frames: Frames,
    map: i32,
    without_socket: Verdict,
) -> Vec<Instruction> {
    use Register::{R0, R1, R2, R3, R4, R5, R6, R7};

    let mut code = Assembler::default();
    if ours.addresses.is_empty() || ours.ports == Ports::default() {
        // The kernel refuses instructions that cannot be reached.
        code.set(R0, Verdict::Pass as i32);
        code.exit();
        return code.finish();
    }
    let (v4, v6) = (code.label(), code.label());
    let (port, take, pass) = (code.label(), code.label(), code.label());
    let is_divided = ours.shards > 1;

    code.copy(R6, R1);
    code.load(Width::B4, R2, R1, CONTEXT_DATA);
    code.load(Width::B4, R3, R1, CONTEXT_DATA_END);
    // Both kinds are at least as long as the shorter: one check for the Ethernet header too.
    require(&mut code, ETHERNET + V4_HEADER + PORTS, pass);
    code.load(Width::B2, R5, R2, ETHERTYPE);
    code.jump_if_value(R5, When::Equal, be16(ETHERTYPE_V4), v4);
    code.jump_if_value(R5, When::Equal, be16(ETHERTYPE_V6), v6);
    code.jump_to(pass);

    code.place(v4);
    code.load(Width::B1, R5, R2, ETHERNET);
    code.jump_if_value(R5, When::NotEqual, 0x45, pass);
    // More fragments, or a fragment's offset.
    code.load(Width::B2, R5, R2, ETHERNET + 6);
    code.and(R5, be16(0x3fff));
    code.jump_if_value(R5, When::NotEqual, 0, pass);
    code.load(Width::B1, R5, R2, ETHERNET + 9);
    code.jump_if_value(R5, When::NotEqual, ours.protocol.into(), pass);
    code.load(Width::B2, R5, R2, ETHERNET + V4_HEADER + 2);
    if is_divided {
        code.copy(R7, R2);
        code.add(R7, (ETHERNET + V4_HEADER).into());
    }
    code.load(Width::B4, R4, R2, ETHERNET + 16);
    for address in ours.addresses.iter().take(MAX_ADDRESSES) {
        if let IpAddr::V4(address) = address {
            code.jump_if_value(R4, When::Equal, u32::from_ne_bytes(address.octets()), port);
        }
    }
    code.jump_to(pass);

    code.place(v6);
    require(&mut code, ETHERNET + V6_HEADER + PORTS, pass);
    code.load(Width::B1, R5, R2, ETHERNET + 6);
    code.jump_if_value(R5, When::NotEqual, ours.protocol.into(), pass);
    code.load(Width::B2, R5, R2, ETHERNET + V6_HEADER + 2);
    if is_divided {
        code.copy(R7, R2);
        code.add(R7, (ETHERNET + V6_HEADER).into());
    }
    for address in ours.addresses.iter().take(MAX_ADDRESSES) {
        if let IpAddr::V6(address) = address {
            let next = code.label();
            for (word, offset) in address.octets().chunks_exact(4).zip((24..).step_by(4)) {
                let word = word.first_chunk().map_or(0, |word| u32::from_ne_bytes(*word));
                code.load(Width::B4, R4, R2, ETHERNET + offset);
                code.jump_if_value(R4, When::NotEqual, word, next);
            }
            code.jump_to(port);
            code.place(next);
        }
    }
    code.jump_to(pass);

    code.place(port);
    code.swap_be16(R5);
    if let Some(listen) = ours.ports.listen {
        code.jump_if_value(R5, When::Equal, listen.into(), take);
    }
    if let Some(base) = ours.ports.block {
        code.and(R5, (!(BLOCK_LEN - 1)).into());
        code.jump_if_value(R5, When::Equal, base.into(), take);
    }
    code.jump_to(pass);

    code.place(take);
    if is_divided {
        choose_shard(&mut code, ours.shards, pass);
    }
    if frames.pieces {
        code.call(FRAME_LEN);
        code.copy(R3, R0);
    } else {
        code.subtract(R3, R2);
    }
    code.jump_if_value(R3, When::Above, frames.max_len, pass);
    code.load(Width::B4, R2, R6, CONTEXT_QUEUE);
    if is_divided {
        code.shift_left(R2, ours.shards.ilog2());
        code.add_register(R2, R7);
    }
    code.load_map(R1, map);
    code.set(R3, without_socket as i32);
    code.call(REDIRECT_MAP);
    code.exit();

    code.place(pass);
    code.set(R0, Verdict::Pass as i32);
    code.exit();
    code.finish()
}

/// Puts the shard of the packet whose SMT header is at R7 (and which ends at R3) into R7, by the rule of
/// [`filter`](crate::filter). One too short to tell goes to `pass`: the raw sockets beside divide those.
/// Uses R4 and R5.
fn choose_shard(code: &mut Assembler, shards: u8, pass: Label) {
    use Register::{R3, R4, R5, R7};

    let (by_id, chosen) = (code.label(), code.label());
    code.copy(R4, R7);
    code.add(R4, ID_END.into());
    code.jump_if(R4, When::Above, R3, pass);
    code.load(Width::B1, R5, R7, EPOCH as i16);
    code.jump_if_value(R5, When::NotEqual, 0, by_id);
    code.load(Width::B1, R5, R7, TYPE as i16);
    code.jump_if_value(R5, When::Equal, UNKNOWN, by_id);
    // Handshakes are the first shard's.
    code.set(R7, 0);
    code.jump_to(chosen);
    code.place(by_id);
    code.load(Width::B1, R7, R7, LAST_OF_ID as i16);
    code.shift_right(R7, 2);
    code.and(R7, u32::from(shards) - 1);
    code.place(chosen);
}

/// Goes to `pass` unless the packet (R2 to R3) has `len` bytes. Uses R4.
fn require(code: &mut Assembler, len: i16, pass: Label) {
    code.copy(Register::R4, Register::R2);
    code.add(Register::R4, len.into());
    code.jump_if(Register::R4, When::Above, Register::R3, pass);
}

/// What a load of two bytes in network order yields.
fn be16(value: u16) -> u32 {
    value.to_be().into()
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
