//! How many packets of which size a message makes: the core's own arithmetic (spec 4.2).

use smt_proto::record::{Layout, record_size_for};
use smt_proto::wire::{DATA_LEN, PREAMBLE_LEN, RECORD_OVERHEAD};

use crate::net::NetConfig;
use crate::packet::{HostId, WIRE_OVERHEAD};

/// Largest SMT packet over Ethernet: 1500 bytes less an IPv4 header.
pub const ROOM: usize = 1500 - 20;

/// Bits of message ID, the core's default.
const ID_BITS: u8 = 48;

/// The packets of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Bytes of the wire stream: records with their headers and tags.
    pub stream: u32,
    /// Bytes of it in each packet but the last.
    pub segment: u32,
}

impl Framing {
    /// The packets of a message of `bytes` application bytes; `None` if it is longer than messages
    /// can be.
    pub fn of(bytes: u32) -> Option<Framing> {
        let room = ROOM - DATA_LEN;
        let record_size = record_size_for(room);
        let plain = u64::from(bytes) + PREAMBLE_LEN as u64;
        let stream = Layout::from_plain(record_size, plain, ID_BITS).ok()?.wire_len;
        let record = u32::from(record_size) + RECORD_OVERHEAD;
        Some(Framing { stream, segment: (room as u32 / record).max(1) * record })
    }

    /// Packets.
    pub fn packets(&self) -> u32 {
        self.stream.div_ceil(self.segment)
    }

    /// Bytes that all packets take on the wire, gaps between them included.
    pub fn on_wire(&self) -> u64 {
        let overhead = DATA_LEN as u64 + u64::from(WIRE_OVERHEAD);
        u64::from(self.stream) + u64::from(self.packets()) * overhead
    }

    /// Bytes that each packet takes on the wire, in order.
    pub fn sizes(&self) -> Vec<u32> {
        let overhead = DATA_LEN as u32 + WIRE_OVERHEAD;
        let starts = (0..self.stream).step_by(self.segment as usize);
        starts.map(|at| (self.stream - at).min(self.segment) + overhead).collect()
    }

    /// Nanoseconds that the message takes from one host to another when nothing else is under way.
    pub fn ideal_ns(&self, net: &NetConfig, from: HostId, to: HostId) -> u64 {
        net.one_way_ns(from, to, &self.sizes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_message_is_one_packet_of_172_bytes() {
        let empty = Framing::of(0).unwrap();
        assert_eq!(empty.sizes(), [20 + 38 + 52 + 22 + 40]);
        assert_eq!(empty.on_wire(), 172);
    }

    #[test]
    fn full_packets_fill_the_frame_and_sizes_add_up() {
        for bytes in [0, 1, 1366, 1367, 5000, 1_000_000] {
            let framing = Framing::of(bytes).unwrap();
            let sizes = framing.sizes();
            assert_eq!(sizes.len(), framing.packets() as usize);
            assert_eq!(sizes.iter().map(|n| u64::from(*n)).sum::<u64>(), framing.on_wire());
            assert!(sizes.iter().all(|n| *n <= 1538));
            assert_eq!(sizes.len() == 1, bytes <= 1366);
        }
        assert_eq!(Framing::of(u32::MAX), None);
    }
}
