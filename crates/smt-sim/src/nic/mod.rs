//! Network cards that cut segments into packets (TSO), and those that should and do not. All that they
//! know of SMT is where a TCP header would end. Cards that seal records as well: [`offload`].

pub mod offload;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use smt_proto::wire::DATA_LEN;

use crate::packet::Packet;

/// Where a TCP header has its sequence number.
const SEQUENCE: std::ops::Range<usize> = 4..8;

/// What becomes of the segments that a host hands to its card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nic {
    /// They are cut; the packets' IPv4 IDs count from 0.
    CountsIds,
    /// They are cut; the packets' sequence numbers count, as TCP's do, their IDs do not.
    CountsSequence,
    /// They are cut; both count.
    CountsBoth,
    /// They are cut into packets that say nothing of their order.
    CountsNothing,
    /// They arrive as they are, as over a virtual link, or put together again by the receiver's card.
    Whole,
    /// They are lost without a word: a device further down does not take them.
    Drops,
}

/// Cards, for drawing one. Those that work are likelier.
pub(crate) const CARDS: [Nic; 8] = [
    Nic::CountsIds,
    Nic::CountsIds,
    Nic::CountsBoth,
    Nic::CountsSequence,
    Nic::Whole,
    Nic::Whole,
    Nic::CountsNothing,
    Nic::Drops,
];

impl Nic {
    /// Makes packets of a segment: of `size` payload bytes each, behind copies of its header.
    pub fn cut(self, segment: &Packet, size: u16, packets: &mut VecDeque<Packet>) {
        let Some((header, payload)) = segment.bytes.split_at_checked(DATA_LEN) else { return };
        match self {
            Nic::Drops => return,
            Nic::Whole => return packets.push_back(segment.clone()),
            _ => {}
        }
        for (n, part) in (0u16..).zip(payload.chunks(usize::from(size).max(1))) {
            let mut bytes = [header, part].concat();
            if matches!(self, Nic::CountsSequence | Nic::CountsBoth) {
                count(&mut bytes, u32::from(n) * u32::from(size));
            }
            let counts_ids = matches!(self, Nic::CountsIds | Nic::CountsBoth);
            let ip_id = if counts_ids { n } else { 0 };
            packets.push_back(Packet { bytes, ip_id, ..segment.clone() });
        }
    }
}

fn count(packet: &mut [u8], more: u32) {
    if let Some(field) = packet.get_mut(SEQUENCE)
        && let Some(sequence) = field.first_chunk_mut::<4>()
    {
        *sequence = u32::from_be_bytes(*sequence).wrapping_add(more).to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(nic: Nic) -> Vec<(u32, u16, usize, u8)> {
        let mut bytes = vec![9; DATA_LEN + 2500];
        bytes[SEQUENCE].copy_from_slice(&500u32.to_be_bytes());
        let segment = Packet { bytes, dst: 3, priority: 5, ..Packet::default() };
        let mut packets = VecDeque::new();
        nic.cut(&segment, 1000, &mut packets);
        assert!(packets.iter().all(|packet| packet.dst == 3 && packet.priority == 5));
        let seen = packets.iter().map(|packet| {
            let sequence = u32::from_be_bytes(packet.bytes[SEQUENCE].try_into().unwrap());
            (sequence, packet.ip_id, packet.bytes.len(), packet.bytes[DATA_LEN - 1])
        });
        seen.collect()
    }

    #[test]
    fn cards_cut_as_they_say() {
        assert_eq!(cut(Nic::CountsIds), [(500, 0, 1052, 9), (500, 1, 1052, 9), (500, 2, 552, 9)]);
        let both = cut(Nic::CountsBoth);
        assert_eq!(both, [(500, 0, 1052, 9), (1500, 1, 1052, 9), (2500, 2, 552, 9)]);
        assert_eq!(cut(Nic::CountsSequence)[2], (2500, 0, 552, 9));
        assert_eq!(cut(Nic::CountsNothing)[2], (500, 0, 552, 9));
        assert_eq!(cut(Nic::Whole), [(500, 0, 2552, 9)]);
        assert_eq!(cut(Nic::Drops), []);
    }
}
