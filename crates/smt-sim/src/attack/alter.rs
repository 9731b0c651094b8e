//! Changes of packets by someone who knows the headers and no keys.

use core::ops::Range;

use serde::{Deserialize, Serialize};
use smt_proto::wire::{COMMON_LEN, DATA_LEN, PacketType, packet_type};

use super::memory::Memory;
use crate::rng::Rng;

/// How a packet is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Bytes are cut off its end.
    Truncate,
    /// Bytes are added to its end.
    Extend,
    /// A field is flipped in one bit, counted up or down, emptied, filled, or drawn anew.
    Field(Field),
    /// Its payload is replaced by that of another packet, of the same length if there is one: of
    /// another message, another place of the same message, or another session.
    Splice,
    /// Two pieces of its payload change places.
    Swap,
}

/// A field of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Source port.
    SourcePort,
    /// Destination port.
    DestinationPort,
    /// Sequence: offset or code.
    Sequence,
    /// Epoch.
    Epoch,
    /// Record size.
    RecordSize,
    /// Type.
    Type,
    /// Data offset.
    DataOffset,
    /// Segment size.
    SegmentSize,
    /// Urgent.
    Urgent,
    /// Message ID.
    MessageId,
    /// Length of the message (DATA).
    MessageLength,
    /// Bytes that come without further grants (DATA).
    Incoming,
    /// Tag, or the token of a handshake.
    Tag,
    /// Reserved bytes (DATA).
    Reserved,
    /// Version of the cutoffs (DATA).
    Cutoffs,
    /// Data flags (DATA).
    DataFlags,
    /// TSO offset (DATA).
    TsoOffset,
    /// Payload (DATA).
    Payload,
    /// Body (control packets).
    Body,
    /// Control number (control packets).
    Number,
}

impl Field {
    /// All of them.
    pub const ALL: [Field; 20] = [
        Field::SourcePort,
        Field::DestinationPort,
        Field::Sequence,
        Field::Epoch,
        Field::RecordSize,
        Field::Type,
        Field::DataOffset,
        Field::SegmentSize,
        Field::Urgent,
        Field::MessageId,
        Field::MessageLength,
        Field::Incoming,
        Field::Tag,
        Field::Reserved,
        Field::Cutoffs,
        Field::DataFlags,
        Field::TsoOffset,
        Field::Payload,
        Field::Body,
        Field::Number,
    ];

    /// Where it is; `None` if this packet has none.
    fn range(self, bytes: &[u8]) -> Option<Range<usize>> {
        let is_data = packet_type(bytes).ok()? == PacketType::Data;
        let len = bytes.len();
        let data = |range: Range<usize>| is_data.then_some(range);
        let control = |range: Range<usize>| (!is_data).then_some(range);
        let range = match self {
            Field::SourcePort => 0..2,
            Field::DestinationPort => 2..4,
            Field::Sequence => 4..8,
            Field::Epoch => 8..9,
            Field::RecordSize => 9..11,
            Field::Type => 11..12,
            Field::DataOffset => 12..13,
            Field::SegmentSize => 14..16,
            Field::Urgent => 18..20,
            Field::MessageId => 20..28,
            Field::MessageLength => data(28..32)?,
            Field::Incoming => data(32..36)?,
            Field::Tag if is_data => 36..44,
            Field::Tag => len.checked_sub(8)?..len,
            Field::Reserved => data(44..46)?,
            Field::Cutoffs => data(46..48)?,
            Field::DataFlags => data(48..49)?,
            Field::TsoOffset => data(49..DATA_LEN)?,
            Field::Payload => data(DATA_LEN..len)?,
            Field::Body => control(COMMON_LEN..len.checked_sub(16)?)?,
            Field::Number => control(len.checked_sub(16)?..len.checked_sub(8)?)?,
        };
        (range.start < range.end && range.end <= len).then_some(range)
    }

    fn name(self) -> &'static str {
        match self {
            Field::SourcePort => "alter source port",
            Field::DestinationPort => "alter destination port",
            Field::Sequence => "alter sequence",
            Field::Epoch => "alter epoch",
            Field::RecordSize => "alter record size",
            Field::Type => "alter type",
            Field::DataOffset => "alter data offset",
            Field::SegmentSize => "alter segment size",
            Field::Urgent => "alter urgent",
            Field::MessageId => "alter message ID",
            Field::MessageLength => "alter message length",
            Field::Incoming => "alter incoming",
            Field::Tag => "alter tag",
            Field::Reserved => "alter reserved",
            Field::Cutoffs => "alter cutoffs",
            Field::DataFlags => "alter data flags",
            Field::TsoOffset => "alter TSO offset",
            Field::Payload => "alter payload",
            Field::Body => "alter body",
            Field::Number => "alter control number",
        }
    }
}

impl Change {
    /// The name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Change::Truncate => "truncate",
            Change::Extend => "extend",
            Change::Field(field) => field.name(),
            Change::Splice => "splice",
            Change::Swap => "swap",
        }
    }

    /// Changes a well-formed packet; `None` if this cannot be done to it. `others` are genuine
    /// packets seen before.
    pub(super) fn apply(self, bytes: &[u8], others: &Memory, rng: &mut Rng) -> Option<Vec<u8>> {
        let mut changed = bytes.to_vec();
        match self {
            Change::Truncate => truncate(&mut changed, rng),
            Change::Extend => extend(&mut changed, rng),
            Change::Field(field) => {
                let range = field.range(bytes)?;
                change_field(changed.get_mut(range)?, rng);
            }
            Change::Splice => splice(&mut changed, others, rng)?,
            Change::Swap => swap(changed.get_mut(DATA_LEN..)?, rng)?,
        }
        Some(changed)
    }
}

/// Cuts a few bytes, a piece, or down to anything.
fn truncate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let len = bytes.len() as u64;
    let cut = match rng.below(4) {
        0 => 1,
        1 => rng.between(1, 16),
        _ => rng.between(1, len),
    };
    bytes.truncate(len.saturating_sub(cut) as usize);
}

fn extend(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let more = if rng.chance(0.5) { 1 } else { rng.between(2, 64) };
    let noisy = rng.chance(0.5);
    for _ in 0..more {
        bytes.push(if noisy { rng.below(256) as u8 } else { 0 });
    }
}

fn change_field(field: &mut [u8], rng: &mut Rng) {
    let at = rng.below(field.len() as u64) as usize;
    match rng.below(6) {
        0 | 1 => {
            if let Some(byte) = field.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        2 => count_up(field),
        3 => count_down(field),
        4 => field.fill(if rng.chance(0.5) { 0 } else { 0xff }),
        _ => field.iter_mut().for_each(|byte| *byte = rng.below(256) as u8),
    }
}

fn count_up(field: &mut [u8]) {
    for byte in field.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return;
        }
    }
}

fn count_down(field: &mut [u8]) {
    for byte in field.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 0xff {
            return;
        }
    }
}

fn splice(bytes: &mut Vec<u8>, others: &Memory, rng: &mut Rng) -> Option<()> {
    if bytes.len() <= DATA_LEN {
        return None;
    }
    let len = bytes.len();
    let alike = others.any_fit(rng, |other| other.bytes.len() == len);
    let other = match alike {
        Some(other) => other,
        None => others.any_fit(rng, |other| other.bytes.len() > DATA_LEN)?,
    };
    let payload = other.bytes.get(DATA_LEN..)?;
    bytes.truncate(DATA_LEN);
    bytes.extend_from_slice(payload);
    Some(())
}

/// Two pieces of the same length, which do not overlap, change places.
fn swap(payload: &mut [u8], rng: &mut Rng) -> Option<()> {
    let half = payload.len() / 2;
    if half == 0 {
        return None;
    }
    let piece = rng.between(1, half as u64) as usize;
    let (front, back) = payload.split_at_mut(half);
    let from = rng.below((half - piece + 1) as u64) as usize;
    let to = rng.below((back.len() - piece + 1) as u64) as usize;
    let front = front.get_mut(from..from + piece)?;
    front.swap_with_slice(back.get_mut(to..to + piece)?);
    Some(())
}

/// How a packet compares to a genuine one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// Endpoints cannot tell them apart: equal but perhaps for the flags and the checksum.
    Same,
    /// A DATA packet without its payload, which any network element may have cut off.
    Trimmed,
    /// Not what the sender sent.
    Different,
}

/// How `made` compares to the genuine packet `genuine`.
pub fn likeness(genuine: &[u8], made: &[u8]) -> Likeness {
    let same = |a: &[u8], b: &[u8]| {
        let ignored = |at: usize| matches!(at, 13 | 16 | 17);
        a.len() == b.len() && a.iter().zip(b).enumerate().all(|(at, (a, b))| ignored(at) || a == b)
    };
    if same(genuine, made) {
        return Likeness::Same;
    }
    let is_data = packet_type(genuine) == Ok(PacketType::Data);
    match genuine.get(..DATA_LEN) {
        Some(head) if is_data && same(head, made) => Likeness::Trimmed,
        _ => Likeness::Different,
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{data, grant};
    use super::*;
    use crate::packet::Packet;

    #[test]
    fn each_field_changes_alone() {
        let mut rng = Rng::new(1);
        let none = Memory::new(0);
        for field in Field::ALL {
            let mut hits = 0;
            for packet in [data(4, 0, 0), data(4, 0, 100), grant(5)] {
                for _ in 0..50 {
                    let change = Change::Field(field);
                    let Some(changed) = change.apply(&packet.bytes, &none, &mut rng) else {
                        continue;
                    };
                    hits += 1;
                    let range = field.range(&packet.bytes).unwrap();
                    assert_eq!(changed.len(), packet.bytes.len());
                    for at in (0..changed.len()).filter(|at| !range.contains(at)) {
                        assert_eq!(changed[at], packet.bytes[at], "{field:?} at {at}");
                    }
                }
            }
            assert!(hits >= 50, "{field:?}");
        }
    }

    #[test]
    fn lengths_change_as_asked() {
        let mut rng = Rng::new(2);
        let none = Memory::new(0);
        let packet = data(4, 0, 100).bytes;
        for _ in 0..200 {
            let short = Change::Truncate.apply(&packet, &none, &mut rng).unwrap();
            assert!(short.len() < packet.len() && packet.starts_with(&short));
            let long = Change::Extend.apply(&packet, &none, &mut rng).unwrap();
            assert!(long.len() > packet.len() && long.starts_with(&packet));
            let swapped = Change::Swap.apply(&packet, &none, &mut rng).unwrap();
            assert_eq!(swapped[..DATA_LEN], packet[..DATA_LEN]);
            let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            assert_eq!(sum(&swapped), sum(&packet));
        }
    }

    #[test]
    fn a_splice_has_one_packets_header_and_anothers_payload() {
        let mut rng = Rng::new(3);
        let mut others = Memory::new(4);
        let (ours, theirs) = (data(4, 0, 100), data(8, 0, 100));
        assert_eq!(Change::Splice.apply(&ours.bytes, &others, &mut rng), None);
        others.show(&theirs, &mut rng);
        let spliced = Change::Splice.apply(&ours.bytes, &others, &mut rng).unwrap();
        assert_eq!(spliced[..DATA_LEN], ours.bytes[..DATA_LEN]);
        assert_eq!(spliced[DATA_LEN..], theirs.bytes[DATA_LEN..]);
    }

    #[test]
    fn what_endpoints_ignore_makes_no_difference() {
        let Packet { bytes, .. } = data(4, 0, 100);
        let with = |at: usize| {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            changed
        };
        assert_eq!(likeness(&bytes, &bytes), Likeness::Same);
        for at in 0..bytes.len() {
            let ignored = [13, 16, 17].contains(&at);
            let expected = if ignored { Likeness::Same } else { Likeness::Different };
            assert_eq!(likeness(&bytes, &with(at)), expected);
        }
        assert_eq!(likeness(&bytes, &bytes[..DATA_LEN]), Likeness::Trimmed);
        assert_eq!(likeness(&bytes, &bytes[..DATA_LEN + 1]), Likeness::Different);
        assert_eq!(likeness(&bytes, &with(20)[..DATA_LEN]), Likeness::Different);
        assert_eq!(likeness(&grant(5).bytes, &grant(5).bytes[..DATA_LEN - 1]), Likeness::Different);
    }
}
