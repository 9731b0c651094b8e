//! The parameter block that begins flights 0 and 1 (spec 5.1).

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::Malformed;

/// How many bits of message ID a direction may use (spec 3.1).
pub const ID_BITS: RangeInclusive<u8> = 40..=56;
/// Largest first ID an end may draw (spec 3.1).
pub const MAX_FIRST_ID: u64 = (1 << 39) - 1;

const VERSION: u16 = 1;

const ID_BITS_TYPE: u16 = 1;
const FIRST_ID_TYPE: u16 = 2;
const MAX_RPCS_TYPE: u16 = 3;
const MAX_MESSAGE_TYPE: u16 = 4;
const UNSCHEDULED_TYPE: u16 = 5;
const WAKE_DELAY_TYPE: u16 = 6;
const MAX_ID_BITS_TYPE: u16 = 7;
const PADDING_TYPE: u16 = 8;

/// What one end declares about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Params {
    /// Bits of message ID of my direction, one of [`ID_BITS`].
    pub id_bits: u8,
    /// My first request ID, 4..=[`MAX_FIRST_ID`]; bit 0 is 0, bit 1 my TLS role.
    pub first_id: u64,
    /// How far above its floor I accept RPC numbers (spec 3.4).
    pub max_rpcs: u32,
    /// Largest application message I take, in bytes.
    pub max_message: u32,
    /// Bytes per message I take without a grant.
    pub unscheduled: u32,
    /// How long my engine may sleep before it answers, in microseconds.
    pub wake_delay_us: u32,
    /// Most bits of message ID I accept, one of [`ID_BITS`].
    pub max_id_bits: u8,
}

impl Params {
    /// Length of a block without padding, in bytes.
    pub const LEN: usize = 4 + 7 * ENTRY_LEN + 1 + 8 + 4 * 4 + 1;
    /// Most bytes of padding a block can hold.
    pub const MAX_PADDING: usize = u16::MAX as usize + 2 - Self::LEN - ENTRY_LEN;

    /// Writes the block with its length prefix. `padding` is the number of zero bytes in the padding
    /// entry, which takes 4 more; 0 means no entry, more than [`MAX_PADDING`](Self::MAX_PADDING)
    /// means that much.
    #[must_use]
    pub fn emit(&self, padding: usize) -> Vec<u8> {
        let padding = padding.min(Self::MAX_PADDING);
        let mut block = Vec::with_capacity(Self::LEN + ENTRY_LEN + padding);
        block.extend_from_slice(&[0; LENGTH_LEN]);
        block.extend_from_slice(&VERSION.to_be_bytes());
        put_entry(&mut block, ID_BITS_TYPE, &[self.id_bits]);
        put_entry(&mut block, FIRST_ID_TYPE, &self.first_id.to_be_bytes());
        put_entry(&mut block, MAX_RPCS_TYPE, &self.max_rpcs.to_be_bytes());
        put_entry(&mut block, MAX_MESSAGE_TYPE, &self.max_message.to_be_bytes());
        put_entry(&mut block, UNSCHEDULED_TYPE, &self.unscheduled.to_be_bytes());
        put_entry(&mut block, WAKE_DELAY_TYPE, &self.wake_delay_us.to_be_bytes());
        put_entry(&mut block, MAX_ID_BITS_TYPE, &[self.max_id_bits]);
        if padding > 0 {
            put_head(&mut block, PADDING_TYPE, padding);
            block.resize(block.len() + padding, 0);
        }
        let length = (block.len() - LENGTH_LEN) as u16;
        block[..LENGTH_LEN].copy_from_slice(&length.to_be_bytes());
        block
    }

    /// Reads the block at the start of a flight; returns its length in bytes, prefix included, too.
    ///
    /// # Errors
    /// [`Malformed`] if the block is cut short, of another version, lacks a required entry, has one
    /// twice or out of order, or a value is out of bounds. Whether bit 1 of the first ID fits the
    /// role of its sender is for the caller to check.
    pub fn parse(flight: &[u8]) -> Result<(Self, usize), Malformed> {
        let (length, rest) = take_u16(flight)?;
        let block = rest.get(..usize::from(length)).ok_or(Malformed::Short)?;
        let (version, mut entries) = take_u16(block)?;
        if version != VERSION {
            return Err(Malformed::Version);
        }
        let mut found = Found::default();
        let mut last = None;
        while !entries.is_empty() {
            let (kind, rest) = take_u16(entries)?;
            let (len, rest) = take_u16(rest)?;
            let (value, rest) = rest.split_at_checked(len.into()).ok_or(Malformed::Short)?;
            if last.is_some_and(|last| kind <= last) {
                return Err(Malformed::Parameter);
            }
            found.take(kind, value)?;
            last = Some(kind);
            entries = rest;
        }
        Ok((found.finish()?, LENGTH_LEN + block.len()))
    }
}

const LENGTH_LEN: usize = 2;
const ENTRY_LEN: usize = 4;

fn put_head(block: &mut Vec<u8>, kind: u16, len: usize) {
    block.extend_from_slice(&kind.to_be_bytes());
    block.extend_from_slice(&(len as u16).to_be_bytes());
}

fn put_entry(block: &mut Vec<u8>, kind: u16, value: &[u8]) {
    put_head(block, kind, value.len());
    block.extend_from_slice(value);
}

fn take_u16(bytes: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let (value, rest) = bytes.split_first_chunk().ok_or(Malformed::Short)?;
    Ok((u16::from_be_bytes(*value), rest))
}

/// The entries seen so far.
#[derive(Default)]
struct Found {
    id_bits: Option<u8>,
    first_id: Option<u64>,
    max_rpcs: Option<u32>,
    max_message: Option<u32>,
    unscheduled: Option<u32>,
    wake_delay_us: Option<u32>,
    max_id_bits: Option<u8>,
}

impl Found {
    fn take(&mut self, kind: u16, value: &[u8]) -> Result<(), Malformed> {
        match kind {
            ID_BITS_TYPE => self.id_bits = Some(u8::from_be_bytes(exact(value)?)),
            FIRST_ID_TYPE => self.first_id = Some(u64::from_be_bytes(exact(value)?)),
            MAX_RPCS_TYPE => self.max_rpcs = Some(u32::from_be_bytes(exact(value)?)),
            MAX_MESSAGE_TYPE => self.max_message = Some(u32::from_be_bytes(exact(value)?)),
            UNSCHEDULED_TYPE => self.unscheduled = Some(u32::from_be_bytes(exact(value)?)),
            WAKE_DELAY_TYPE => self.wake_delay_us = Some(u32::from_be_bytes(exact(value)?)),
            MAX_ID_BITS_TYPE => self.max_id_bits = Some(u8::from_be_bytes(exact(value)?)),
            PADDING_TYPE if value.iter().any(|&byte| byte != 0) => {
                return Err(Malformed::Parameter);
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Params, Malformed> {
        let missing = Malformed::Parameter;
        let params = Params {
            id_bits: self.id_bits.ok_or(missing)?,
            first_id: self.first_id.ok_or(missing)?,
            max_rpcs: self.max_rpcs.ok_or(missing)?,
            max_message: self.max_message.ok_or(missing)?,
            unscheduled: self.unscheduled.ok_or(missing)?,
            wake_delay_us: self.wake_delay_us.unwrap_or(0),
            max_id_bits: self.max_id_bits.unwrap_or(*ID_BITS.end()),
        };
        let bounded = ID_BITS.contains(&params.id_bits)
            && ID_BITS.contains(&params.max_id_bits)
            && (4..=MAX_FIRST_ID).contains(&params.first_id)
            && params.first_id & 1 == 0;
        if bounded { Ok(params) } else { Err(Malformed::Parameter) }
    }
}

fn exact<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| Malformed::Parameter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: Params = Params {
        id_bits: 48,
        first_id: 4,
        max_rpcs: 1024,
        max_message: 1 << 20,
        unscheduled: 65536,
        wake_delay_us: 50,
        max_id_bits: 56,
    };

    prop_compose! {
        fn params()(
            id_bits in ID_BITS, max_id_bits in ID_BITS, first_id in 4..=MAX_FIRST_ID,
            (max_rpcs, max_message, unscheduled, wake_delay_us) in any::<(u32, u32, u32, u32)>(),
        ) -> Params {
            Params {
                id_bits, max_id_bits, first_id: first_id & !1,
                max_rpcs, max_message, unscheduled, wake_delay_us,
            }
        }
    }

    /// A block of the given entries.
    fn block(entries: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = VERSION.to_be_bytes().to_vec();
        for (kind, value) in entries {
            put_entry(&mut body, *kind, value);
        }
        let mut block = (body.len() as u16).to_be_bytes().to_vec();
        block.append(&mut body);
        block
    }

    const REQUIRED: [(u16, &[u8]); 5] = [
        (1, &[48]),
        (2, &[0, 0, 0, 0, 0, 0, 0, 4]),
        (3, &[0, 0, 4, 0]),
        (4, &[0, 16, 0, 0]),
        (5, &[0, 1, 0, 0]),
    ];

    proptest! {
        #[test]
        fn round_trip(params in params(), padding in 0..3000usize, follows in 0..9usize) {
            let mut flight = params.emit(padding);
            let len = Params::LEN + if padding > 0 { ENTRY_LEN + padding } else { 0 };
            prop_assert_eq!(flight.len(), len);
            flight.resize(len + follows, 0xff);
            prop_assert_eq!(Params::parse(&flight), Ok((params, len)));
        }

        #[test]
        fn any_cut_or_change_is_survived(
            params in params(), padding in 0..99usize, len in any::<proptest::sample::Index>(),
            at in any::<proptest::sample::Index>(), value in any::<u8>(),
        ) {
            let mut flight = params.emit(padding);
            prop_assert!(Params::parse(&flight[..len.index(flight.len())]).is_err());
            let at = at.index(flight.len());
            flight[at] = value;
            let _ = Params::parse(&flight);
        }

        #[test]
        fn any_bytes_are_survived(flight in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Params::parse(&flight);
        }
    }

    #[test]
    fn absent_entries_have_their_defaults() {
        let expected = Params { wake_delay_us: 0, max_id_bits: 56, ..EXAMPLE };
        let bytes = block(&REQUIRED);
        assert_eq!(Params::parse(&bytes), Ok((expected, bytes.len())));
    }

    #[test]
    fn unknown_entries_are_skipped() {
        let entries =
            [&[(0, &[1][..])], &REQUIRED[..], &[(9, &[][..]), (0xffff, &[1, 2])]].concat();
        assert!(Params::parse(&block(&entries)).is_ok());
    }

    #[test]
    fn nonsense_is_refused() {
        for missing in 0..REQUIRED.len() {
            let mut entries = REQUIRED.to_vec();
            entries.remove(missing);
            assert_eq!(Params::parse(&block(&entries)), Err(Malformed::Parameter));
            let mut entries = REQUIRED.to_vec();
            entries.insert(missing, REQUIRED[missing]);
            assert_eq!(Params::parse(&block(&entries)), Err(Malformed::Parameter));
            let mut entries = REQUIRED.to_vec();
            entries[missing].1 = &[0, 0];
            assert_eq!(Params::parse(&block(&entries)), Err(Malformed::Parameter));
        }
        let mut entries = REQUIRED.to_vec();
        entries.swap(3, 4);
        assert_eq!(Params::parse(&block(&entries)), Err(Malformed::Parameter));
        let padded = [&REQUIRED[..], &[(8, &[0, 1][..])]].concat();
        assert_eq!(Params::parse(&block(&padded)), Err(Malformed::Parameter));

        for params in [
            Params { id_bits: 39, ..EXAMPLE },
            Params { id_bits: 57, ..EXAMPLE },
            Params { max_id_bits: 39, ..EXAMPLE },
            Params { first_id: 2, ..EXAMPLE },
            Params { first_id: 5, ..EXAMPLE },
            Params { first_id: MAX_FIRST_ID + 1, ..EXAMPLE },
        ] {
            assert_eq!(Params::parse(&params.emit(0)), Err(Malformed::Parameter));
        }
        let mut other = EXAMPLE.emit(0);
        other[3] = 2;
        assert_eq!(Params::parse(&other), Err(Malformed::Version));
    }

    #[test]
    fn padding_is_bounded_by_the_length_field() {
        let longest = EXAMPLE.emit(Params::MAX_PADDING);
        assert_eq!(longest.len(), 2 + usize::from(u16::MAX));
        assert_eq!(Params::parse(&longest), Ok((EXAMPLE, longest.len())));
        assert_eq!(EXAMPLE.emit(usize::MAX).len(), longest.len());
    }
}
