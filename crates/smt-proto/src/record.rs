//! Records: how a message is cut, sealed and opened (spec 3.2, 4.2).

use core::fmt;
use core::ops::Range;

use crate::crypto::{NotAuthentic, TAG_LEN};
use crate::keys::EpochKeys;
use crate::wire::{ID_BITS, MAX_RECORD_SIZE, MIN_RECORD_SIZE, Malformed, PREAMBLE_LEN, Preamble};

pub use crate::wire::RECORD_OVERHEAD;

/// Room before the plaintext of a record, in bytes: its header.
pub const RECORD_HEADER_LEN: usize = 5;
/// Room after the plaintext of a record, in bytes: the inner type and the AEAD tag.
pub const RECORD_TRAILER_LEN: usize = 1 + TAG_LEN;

/// Longest record on the wire, in bytes.
const MAX_RECORD_WIRE_LEN: usize = MAX_RECORD_SIZE as usize + RECORD_OVERHEAD as usize;

/// `application_data`, as outer and as inner type.
const APPLICATION_DATA: u8 = 23;

const _: () = assert!(RECORD_HEADER_LEN + RECORD_TRAILER_LEN == RECORD_OVERHEAD as usize);

/// A message is larger than its sequence numbers or its 32-bit length allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("message too large")
    }
}

impl core::error::Error for TooLarge {}

/// How the plaintext of a message (preamble, application bytes, padding) is cut into records. All
/// lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layout {
    /// Plaintext in every record but the last.
    pub record_size: u16,
    /// Plaintext of the message.
    pub plain_len: u32,
    /// Wire stream of the message.
    pub wire_len: u32,
    /// Number of records, at least 1.
    pub records: u32,
}

/// The longest plaintext, preamble included, that a direction with `id_bits` bits of message ID can
/// carry in records of `record_size` bytes.
pub(crate) fn max_plain_len(record_size: u16, id_bits: u8) -> u32 {
    let size = u64::from(record_size);
    // The wire length is a 32-bit number.
    let countable = u64::from(u32::MAX) / (size + u64::from(RECORD_OVERHEAD));
    let len = max_records(id_bits).min(countable) * size;
    u32::try_from(len).unwrap_or(u32::MAX)
}

impl Layout {
    /// Cuts `plain_len` bytes.
    ///
    /// # Errors
    /// [`TooLarge`] if a direction with `id_bits` bits of message ID cannot carry them.
    ///
    /// # Panics
    /// If `record_size` is not one of 64..=16384, `id_bits` not one of [`ID_BITS`], or there is no room
    /// for a preamble.
    pub fn from_plain(record_size: u16, plain_len: u64, id_bits: u8) -> Result<Self, TooLarge> {
        assert!((MIN_RECORD_SIZE..=MAX_RECORD_SIZE).contains(&record_size), "record size");
        assert!(plain_len >= PREAMBLE_LEN as u64, "plaintext begins with a preamble");
        // A division takes longer than all else here, and most messages are one record.
        let is_one = plain_len <= u64::from(record_size);
        let records = if is_one { 1 } else { plain_len.div_ceil(record_size.into()) };
        if records > max_records(id_bits) {
            return Err(TooLarge);
        }
        let wire_len = plain_len + records * u64::from(RECORD_OVERHEAD);
        Ok(Self {
            record_size,
            plain_len: plain_len.try_into().map_err(|_| TooLarge)?,
            wire_len: wire_len.try_into().map_err(|_| TooLarge)?,
            records: records.try_into().map_err(|_| TooLarge)?,
        })
    }

    /// Finds the records in a wire stream of `wire_len` bytes.
    ///
    /// # Errors
    /// [`Malformed`] if the record size is out of bounds, or no message has this length: the last
    /// record would hold no plaintext, the preamble does not fit, or there would be more records
    /// than sequence numbers.
    ///
    /// # Panics
    /// If `id_bits` is not one of [`ID_BITS`].
    #[inline]
    pub fn from_wire(record_size: u16, wire_len: u32, id_bits: u8) -> Result<Self, Malformed> {
        if !(MIN_RECORD_SIZE..=MAX_RECORD_SIZE).contains(&record_size) {
            return Err(Malformed::RecordSize);
        }
        let stride = u32::from(record_size) + RECORD_OVERHEAD;
        let (whole, rest) = (wire_len / stride, wire_len % stride);
        if rest != 0 && rest <= RECORD_OVERHEAD {
            return Err(Malformed::Length);
        }
        let records = whole + u32::from(rest != 0);
        // At most `wire_len`, for every record is longer than its overhead.
        let plain_len = wire_len - records * RECORD_OVERHEAD;
        if u64::from(records) > max_records(id_bits) || (plain_len as usize) < PREAMBLE_LEN {
            return Err(Malformed::Length);
        }
        Ok(Self { record_size, plain_len, wire_len, records })
    }

    /// Where a record is in the wire stream; empty for records the message does not have.
    #[inline]
    #[must_use]
    pub fn wire_range(&self, record: u32) -> Range<u32> {
        range(record, self.stride(), self.wire_len)
    }

    /// Where the plaintext of a record is in that of the message; empty for records the message does
    /// not have.
    #[inline]
    #[must_use]
    pub fn plain_range(&self, record: u32) -> Range<u32> {
        range(record, self.record_size.into(), self.plain_len)
    }

    /// Which record a byte of the wire stream belongs to; the last one for all bytes beyond the end.
    #[inline]
    #[must_use]
    pub fn record_at(&self, wire_offset: u32) -> u32 {
        (wire_offset / self.stride()).min(self.records - 1)
    }

    /// From the start of one record to that of the next in the wire stream, in bytes.
    #[inline]
    #[must_use]
    pub fn stride(&self) -> u32 {
        u32::from(self.record_size) + RECORD_OVERHEAD
    }

    /// Whether the preamble of a message says the same as its headers, and its application bytes
    /// fit.
    #[inline]
    #[must_use]
    pub fn agrees(&self, preamble: &Preamble) -> bool {
        preamble.record_size == self.record_size
            && preamble.wire_len == self.wire_len
            && u64::from(preamble.app_len) + PREAMBLE_LEN as u64 <= u64::from(self.plain_len)
    }
}

#[inline]
fn range(index: u32, step: u32, end: u32) -> Range<u32> {
    let start = index.saturating_mul(step).min(end);
    start..start.saturating_add(step).min(end)
}

/// How many records a message can have: one for each sequence number of its ID, but for the last, which
/// is that of a bundle.
#[inline]
fn max_records(id_bits: u8) -> u64 {
    assert!(ID_BITS.contains(&id_bits), "ID bits");
    (1 << (64 - id_bits)) - 1
}

/// The sequence number of the bundle whose first message has this ID (spec 3.2). `None` if the ID does
/// not fit `id_bits`, or that is none of [`ID_BITS`].
#[inline]
#[must_use]
pub fn bundle_sequence_number(id: u64, id_bits: u8) -> Option<u64> {
    if !ID_BITS.contains(&id_bits) || id >> id_bits != 0 {
        return None;
    }
    let last = (1 << (64 - id_bits)) - 1;
    Some(id << (64 - id_bits) | last)
}

/// The sequence number of a record of a message (spec 3.2). `None` if the ID does not fit `id_bits`, the
/// record index not what they leave and bundles do not have, or `id_bits` is none of [`ID_BITS`].
#[inline]
#[must_use]
pub fn sequence_number(id: u64, id_bits: u8, record: u32) -> Option<u64> {
    if !ID_BITS.contains(&id_bits) || id >> id_bits != 0 {
        return None;
    }
    let record = u64::from(record);
    (record < max_records(id_bits)).then_some(id << (64 - id_bits) | record)
}

/// Seals a record in place. `wire` is its whole place in the wire stream, with the plaintext between
/// room for [`RECORD_HEADER_LEN`] and [`RECORD_TRAILER_LEN`] bytes.
///
/// # Panics
/// If `wire` has no room for plaintext, or for more than a record may hold.
#[inline]
#[expect(clippy::expect_used, reason = "the caller's own buffer, its length checked first")]
pub fn seal(keys: &EpochKeys, sequence_number: u64, wire: &mut [u8]) {
    assert!(
        wire.len() > RECORD_OVERHEAD as usize && wire.len() <= MAX_RECORD_WIRE_LEN,
        "no length of a record"
    );
    let header = header((wire.len() - RECORD_HEADER_LEN) as u16);
    let (head, rest) = wire.split_first_chunk_mut::<RECORD_HEADER_LEN>().expect("checked");
    let (inner, tag) = rest.split_last_chunk_mut::<TAG_LEN>().expect("checked");
    *head = header;
    if let Some(last) = inner.last_mut() {
        *last = APPLICATION_DATA;
    }
    keys.aead().seal(&keys.nonce(sequence_number), &header, inner, tag);
}

/// Opens a record: `wire` is its whole place in the wire stream, `out` gets its plaintext and is one
/// byte longer. That byte is what it was afterwards, so that records can be opened in any order
/// straight into the place of their message, which needs one byte of room at its end.
///
/// # Errors
/// [`NotAuthentic`] if the record was not sealed by the peer under this sequence number, or the
/// lengths do not fit. The plaintext in `out` is then unspecified.
#[inline]
pub fn open(
    keys: &EpochKeys,
    sequence_number: u64,
    wire: &[u8],
    out: &mut [u8],
) -> Result<(), NotAuthentic> {
    let (head, rest) = wire.split_first_chunk::<RECORD_HEADER_LEN>().ok_or(NotAuthentic)?;
    let (ciphertext, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(NotAuthentic)?;
    if wire.len() > MAX_RECORD_WIRE_LEN
        || *head != header(rest.len() as u16)
        || ciphertext.len() != out.len()
    {
        return Err(NotAuthentic);
    }
    let spill = *out.last().ok_or(NotAuthentic)?;
    let opened = keys.aead().open(&keys.nonce(sequence_number), head, ciphertext, tag, out);
    let last = out.last_mut().ok_or(NotAuthentic)?;
    let inner_type = core::mem::replace(last, spill);
    opened?;
    if inner_type == APPLICATION_DATA { Ok(()) } else { Err(NotAuthentic) }
}

/// The header of a record with `len` bytes behind it.
#[inline(always)]
fn header(len: u16) -> [u8; RECORD_HEADER_LEN] {
    let [high, low] = len.to_be_bytes();
    [APPLICATION_DATA, 3, 3, high, low]
}

/// How many whole records a packet holds without TSO, when it has room for `payload_room` bytes.
#[inline]
#[must_use]
pub fn records_per_packet(payload_room: usize) -> usize {
    payload_room.div_ceil(MAX_RECORD_WIRE_LEN).max(1)
}

/// The record size for packets of `payload_room` usable bytes without TSO (spec 4.2). Below a room of
/// 86 bytes it is 64 and records spread over packets.
#[inline]
#[must_use]
pub fn record_size_for(payload_room: usize) -> u16 {
    to_record_size(payload_room / records_per_packet(payload_room))
}

/// The record size for TSO segments cut into packets of `payload_room` usable bytes (spec 4.2). `None`
/// if a packet holds more than a record: such a path gains nothing from TSO.
#[inline]
#[must_use]
pub fn tso_record_size_for(payload_room: usize) -> Option<u16> {
    let packets = MAX_RECORD_WIRE_LEN.checked_div(payload_room)?;
    (packets > 0).then(|| to_record_size(packets * payload_room))
}

#[inline]
fn to_record_size(wire_len: usize) -> u16 {
    let plain = wire_len.saturating_sub(RECORD_OVERHEAD as usize);
    plain.clamp(MIN_RECORD_SIZE.into(), MAX_RECORD_SIZE.into()) as u16
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
