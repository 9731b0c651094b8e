//! The packets of the stream baseline: as long as those of TCP over IPv4, laid out more simply.
//!
//! ```text
//!  0      kind: 1 segment, 2 acknowledgment
//!  1      acknowledgment: 1 if what it acknowledges was marked
//!  2..8   segment: offset of its first byte in the stream; acknowledgment: all below has arrived
//!  8..10  segment: where in it the first message starts; 0xffff if none does
//!  10..18 zero
//!  18..20 checksum of the packet
//!  20..   segment: bytes of the stream; acknowledgment: up to 3 blocks that arrived out of order,
//!         first byte and end, 4 bytes each, counted from the offset acknowledged
//! ```
//!
//! In the stream stands at the start of each message its number (8 bytes) and its length (4 bytes),
//! within what TLS adds, and never across two segments; all the rest is zero.

use core::ops::Range;

use crate::packet::Packet;

/// Length of the header, as that of TCP without options.
pub(super) const HEADER_LEN: usize = 20;
/// What stands at the start of a message.
pub(super) const START_LEN: usize = 12;
/// Blocks that an acknowledgment can hold.
pub(super) const MAX_BLOCKS: usize = 3;

const SEGMENT: u8 = 1;
const ACK: u8 = 2;
const NO_START: u16 = u16::MAX;

/// What a packet of the stream baseline says.
#[derive(Debug, PartialEq)]
pub(super) enum Parsed {
    /// Bytes of the stream.
    Segment {
        /// Which.
        range: Range<u64>,
    },
    /// What has arrived at the other side.
    Ack(Ack),
}

/// What a receiver acknowledges.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ack {
    /// All bytes below this have arrived.
    pub(super) below: u64,
    /// The segments that it acknowledges were marked.
    pub(super) marked: bool,
    /// Beyond `below`, of which some have arrived; the newest first. Empty ones mean nothing.
    pub(super) blocks: [Range<u64>; MAX_BLOCKS],
}

/// A message that starts in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// Offset of its first byte in the stream.
    pub(super) offset: u64,
    /// Its number.
    pub(super) message: u64,
    /// Its length for the application, in bytes.
    pub(super) bytes: u32,
}

/// Writes a segment in which these messages start, in order.
pub(super) fn write_segment(
    packet: &mut Packet,
    range: &Range<u64>,
    starts: impl Iterator<Item = Start>,
) {
    let len = usize::try_from(range.end - range.start).unwrap_or(0);
    let bytes = &mut packet.bytes;
    bytes.clear();
    bytes.resize(HEADER_LEN + len, 0);
    let mut first = NO_START;
    for start in starts {
        let at = usize::try_from(start.offset - range.start).unwrap_or(usize::MAX);
        let Some(frame) = bytes.get_mut(HEADER_LEN + at..HEADER_LEN + at + START_LEN) else {
            break;
        };
        let (message, length) = frame.split_at_mut(8);
        message.copy_from_slice(&start.message.to_be_bytes());
        length.copy_from_slice(&start.bytes.to_be_bytes());
        first = first.min(u16::try_from(at).unwrap_or(NO_START));
    }
    write_header(bytes, SEGMENT, false, range.start, first);
    seal(bytes);
}

/// Writes an acknowledgment.
pub(super) fn write_ack(packet: &mut Packet, ack: &Ack) {
    let bytes = &mut packet.bytes;
    bytes.clear();
    bytes.resize(HEADER_LEN, 0);
    write_header(bytes, ACK, ack.marked, ack.below, 0);
    for block in ack.blocks.iter().filter(|block| block.start < block.end) {
        for edge in [block.start, block.end] {
            let ahead = u32::try_from(edge.saturating_sub(ack.below)).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&ahead.to_be_bytes());
        }
    }
    seal(bytes);
}

/// Reads a packet; `None` if it is damaged, or none of these.
pub(super) fn read(bytes: &[u8]) -> Option<Parsed> {
    let header = bytes.first_chunk::<HEADER_LEN>()?;
    let offset = number(header.get(2..8)?);
    if checksum(bytes) != 0 {
        return None;
    }
    match header[0] {
        SEGMENT => {
            let end = offset.checked_add(u64::try_from(bytes.len() - HEADER_LEN).ok()?)?;
            Some(Parsed::Segment { range: offset..end })
        }
        ACK => {
            let mut ack = Ack { below: offset, marked: header[1] != 0, ..Ack::default() };
            let read = bytes.get(HEADER_LEN..)?.chunks_exact(8);
            for (block, bytes) in ack.blocks.iter_mut().zip(read) {
                let (start, end) = bytes.split_at(4);
                *block = offset + number(start)..offset + number(end);
            }
            Some(Parsed::Ack(ack))
        }
        _ => None,
    }
}

/// The messages that start in a segment, in order; `stream_len` says how much of the stream a
/// message of some length takes.
pub(super) fn starts(
    bytes: &[u8],
    offset: u64,
    stream_len: impl Fn(u32) -> u64,
) -> impl Iterator<Item = Start> {
    let first = bytes.get(8..10).map_or(u64::from(NO_START), number);
    let mut at = usize::try_from(first).ok().filter(|&at| at != usize::from(NO_START));
    core::iter::from_fn(move || {
        let begin = at? + HEADER_LEN;
        let frame = bytes.get(begin..begin + START_LEN)?;
        let (message, length) = frame.split_at(8);
        let length = u32::try_from(number(length)).ok()?;
        let start = Start { offset: offset + at? as u64, message: number(message), bytes: length };
        at = at?.checked_add(usize::try_from(stream_len(length)).ok()?);
        Some(start)
    })
}

fn write_header(bytes: &mut [u8], kind: u8, marked: bool, offset: u64, first: u16) {
    let Some(header) = bytes.first_chunk_mut::<HEADER_LEN>() else { return };
    header[0] = kind;
    header[1] = marked.into();
    let [_, _, low @ ..] = offset.to_be_bytes();
    let first = first.to_be_bytes();
    for (to, from) in header.iter_mut().skip(2).zip(low.iter().chain(&first)) {
        *to = *from;
    }
}

/// Fills in the checksum.
fn seal(bytes: &mut [u8]) {
    let sum = checksum(bytes);
    if let Some(field) = bytes.get_mut(HEADER_LEN - 2..HEADER_LEN) {
        field.copy_from_slice(&(!0 - sum).to_le_bytes());
    }
}

/// Sum of 16-bit words, modulo 65535, taken by two; 0 over bytes that hold their own checksum. The
/// order of bytes is the machines' own, which makes it several times faster.
fn checksum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum = words.iter().map(|&word| u64::from(u32::from_le_bytes(word))).sum::<u64>();
    u16::try_from((sum + number(rest)) % 0xffff).unwrap_or(0)
}

/// A number of up to 8 bytes, most significant first.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, &byte| n << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: fn(u32) -> u64 = |bytes| u64::from(bytes) + 22;

    #[test]
    fn segments_come_back_with_the_messages_that_start_in_them() {
        let mut packet = Packet::default();
        let some = [
            Start { offset: 1_000_010, message: 7, bytes: 100 },
            Start { offset: 1_000_132, message: u64::MAX, bytes: 5_000_000 },
        ];
        let range = 1_000_000..1_001_460;
        write_segment(&mut packet, &range, some.into_iter());
        assert_eq!(packet.bytes.len(), 1480);
        assert_ne!(packet.bytes[11], 0x10);
        assert_eq!(read(&packet.bytes), Some(Parsed::Segment { range: range.clone() }));
        assert_eq!(starts(&packet.bytes, range.start, LEN).collect::<Vec<_>>(), some);

        write_segment(&mut packet, &(5..10), core::iter::empty());
        assert_eq!(starts(&packet.bytes, 5, LEN).count(), 0);
    }

    #[test]
    fn acknowledgments_come_back() {
        let mut packet = Packet::default();
        let ack = Ack { below: 9 << 32, marked: true, blocks: Default::default() };
        write_ack(&mut packet, &ack);
        assert_eq!(packet.bytes.len(), HEADER_LEN);
        assert_eq!(packet.bytes[11], 0);
        let Some(Parsed::Ack(read_back)) = read(&packet.bytes) else { panic!() };
        assert_eq!((read_back.below, read_back.marked), (9 << 32, true));

        let below = 500;
        let ack = Ack { below, marked: false, blocks: [600..700, 900..1000, 2000..2100] };
        write_ack(&mut packet, &ack);
        assert_eq!(read(&packet.bytes), Some(Parsed::Ack(ack)));
    }

    #[test]
    fn damage_is_noticed() {
        let mut packet = Packet::default();
        write_ack(&mut packet, &Ack { below: 77, marked: false, blocks: [80..90, 0..0, 0..0] });
        let ack = packet.bytes.clone();
        let start = Start { offset: 3, message: 4, bytes: 5 };
        write_segment(&mut packet, &(3..300), core::iter::once(start));
        for whole in [&ack, &packet.bytes] {
            for i in 0..whole.len() * 8 {
                let mut damaged = whole.clone();
                damaged[i / 8] ^= 1 << (i % 8);
                assert_eq!(read(&damaged), None, "bit {i}");
            }
        }
        for len in 0..packet.bytes.len() {
            read(&packet.bytes[..len]);
        }
        assert_eq!(read(&[]), None);
    }
}
