//! What travels through the network.

use smt_proto::Time;

/// Number of a host, from 0; its address is [`address`](crate::net::address).
pub type HostId = u32;

/// Bytes that a packet takes on the wire beside its own: IPv4 header, Ethernet header and check
/// sequence, preamble and gap.
pub const WIRE_OVERHEAD: u32 = 20 + 18 + 20;
/// Priority levels of the network; the highest number goes first.
pub const PRIORITIES: usize = 8;

/// A packet on its way.
#[derive(Clone, Debug, Default)]
pub struct Packet {
    /// What IP carries: an SMT packet, header included (or one of the stream baseline).
    pub bytes: Vec<u8>,
    /// The host that it says it comes from. A liar may put any host here.
    pub src: HostId,
    /// The host it goes to.
    pub dst: HostId,
    /// Priority, 0..=7; 7 goes first.
    pub priority: u8,
    /// IPv4 identification.
    pub ip_id: u16,
    /// What switches hash for per-flow paths: the addresses and, where the sender sets an IPv6 flow
    /// label, what it says.
    pub flow: u64,
    /// A switch has marked congestion.
    pub marked: bool,
    /// A switch has cut its payload off.
    pub trimmed: bool,
    /// Whether it is as an honest sender made it, and for the first time here.
    pub origin: Origin,
    /// When its sender handed it to its NIC.
    pub sent_at: Time,
}

impl Packet {
    /// Bytes it takes on the wire.
    #[inline]
    pub fn wire_len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX - WIRE_OVERHEAD) + WIRE_OVERHEAD
    }

    /// Empties it for its next use, keeping its memory.
    pub fn reset(&mut self) {
        let mut bytes = core::mem::take(&mut self.bytes);
        bytes.clear();
        *self = Packet { bytes, ..Packet::default() };
    }
}

/// How a packet came to be. Only checkers look at it; endpoints never learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// An honest endpoint's, unchanged (perhaps delayed, duplicated or trimmed by the network).
    #[default]
    Genuine,
    /// An honest endpoint's of which the network has flipped bits.
    Corrupted,
    /// An honest endpoint's, sent again by an attacker.
    Replayed,
    /// Made or changed by an attacker.
    Forged,
}
