//! The parameter block that begins flights 0 and 1 (spec 5.1).

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::Malformed;

/// Longest early offer of a client (spec 5.7), in bytes.
pub const MAX_OFFER: usize = 16 << 10;
/// Length of a server's answer to an offer: a random that it draws for it (spec 5.7), in bytes.
pub const ANSWER_LEN: usize = 32;
/// In [`Params::wants`]: TLS tickets.
pub const WANTS_TLS_TICKETS: u8 = 1;
/// In [`Params::wants`]: an SMT-ticket.
pub const WANTS_SMT_TICKET: u8 = 2;

/// How many bits of message ID a direction may use (spec 3.1).
pub const ID_BITS: RangeInclusive<u8> = 40..=56;
/// Most lanes of a session (spec 3.5).
pub const MAX_LANES: u8 = 64;
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
const OFFER_TYPE: u16 = 9;
const ANSWER_TYPE: u16 = 10;
const WANTS_TYPE: u16 = 11;
const LANES_TYPE: u16 = 12;

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
    /// Of a client: what it wants to be sent after the handshake (spec 5.9), bits of
    /// [`WANTS_TLS_TICKETS`] and [`WANTS_SMT_TICKET`].
    pub wants: u8,
    /// How many lanes I want, at least (spec 3.5): a power of two, at most [`MAX_LANES`].
    pub lanes: u8,
}

/// A parameter block: the parameters, and what is said in it about early data (spec 5.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block<'a> {
    /// The parameters.
    pub params: Params,
    /// Of a client: which ticket its early data goes by; at most [`MAX_OFFER`] bytes.
    pub offer: Option<&'a [u8]>,
    /// Of a server: it takes the early data offered, and has drawn this random for it.
    pub answer: Option<[u8; ANSWER_LEN]>,
}

impl Params {
    /// Length of a block of parameters alone, without wants, lanes and padding, in bytes.
    pub const LEN: usize = 4 + 7 * ENTRY_LEN + 1 + 8 + 4 * 4 + 1;
    /// Most bytes of padding a block can hold.
    pub const MAX_PADDING: usize = u16::MAX as usize + 2 - Self::LEN - ENTRY_LEN;

    /// Writes a block of the parameters alone; see [`Block::emit`].
    #[must_use]
    pub fn emit(&self, padding: usize) -> Vec<u8> {
        Block { params: *self, offer: None, answer: None }.emit(padding)
    }

    /// Reads the parameters of a block; see [`Block::parse`].
    ///
    /// # Errors
    /// As [`Block::parse`].
    pub fn parse(flight: &[u8]) -> Result<(Self, usize), Malformed> {
        Block::parse(flight).map(|(block, len)| (block.params, len))
    }

    /// Whether whoever goes by `other` may do nothing that these do not allow, and means the same IDs:
    /// what a server that takes early data owes its ticket (spec 5.7).
    #[must_use]
    pub fn cover(&self, other: &Params) -> bool {
        self.max_rpcs >= other.max_rpcs
            && self.max_message >= other.max_message
            && self.unscheduled >= other.unscheduled
            && self.max_id_bits >= other.max_id_bits
            && self.lanes == other.lanes
    }

    fn put(&self, block: &mut Vec<u8>) {
        put_entry(block, ID_BITS_TYPE, &[self.id_bits]);
        put_entry(block, FIRST_ID_TYPE, &self.first_id.to_be_bytes());
        put_entry(block, MAX_RPCS_TYPE, &self.max_rpcs.to_be_bytes());
        put_entry(block, MAX_MESSAGE_TYPE, &self.max_message.to_be_bytes());
        put_entry(block, UNSCHEDULED_TYPE, &self.unscheduled.to_be_bytes());
        put_entry(block, WAKE_DELAY_TYPE, &self.wake_delay_us.to_be_bytes());
        put_entry(block, MAX_ID_BITS_TYPE, &[self.max_id_bits]);
    }
}

impl<'a> Block<'a> {
    /// Writes the block with its length prefix. `padding` is the number of zero bytes in the padding
    /// entry, which takes 4 more; 0 means no entry, more than fits the block means as many as fit
    /// ([`Params::MAX_PADDING`] if there is nothing else in it). An offer of more than [`MAX_OFFER`]
    /// bytes is left out.
    #[must_use]
    pub fn emit(&self, padding: usize) -> Vec<u8> {
        let mut rest = Vec::new();
        if let Some(offer) = self.offer.filter(|offer| offer.len() <= MAX_OFFER) {
            put_entry(&mut rest, OFFER_TYPE, offer);
        }
        if let Some(answer) = &self.answer {
            put_entry(&mut rest, ANSWER_TYPE, answer);
        }
        if self.params.wants != 0 {
            put_entry(&mut rest, WANTS_TYPE, &[self.params.wants]);
        }
        if self.params.lanes != 1 {
            put_entry(&mut rest, LANES_TYPE, &[self.params.lanes]);
        }
        let padding = padding.min(Params::MAX_PADDING - rest.len());
        let mut block = Vec::with_capacity(Params::LEN + ENTRY_LEN + padding + rest.len());
        block.extend_from_slice(&[0; LENGTH_LEN]);
        block.extend_from_slice(&VERSION.to_be_bytes());
        self.params.put(&mut block);
        if padding > 0 {
            put_head(&mut block, PADDING_TYPE, padding);
            block.resize(block.len() + padding, 0);
        }
        block.append(&mut rest);
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
    pub fn parse(flight: &'a [u8]) -> Result<(Self, usize), Malformed> {
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
struct Found<'a> {
    id_bits: Option<u8>,
    first_id: Option<u64>,
    max_rpcs: Option<u32>,
    max_message: Option<u32>,
    unscheduled: Option<u32>,
    wake_delay_us: Option<u32>,
    max_id_bits: Option<u8>,
    offer: Option<&'a [u8]>,
    answer: Option<[u8; ANSWER_LEN]>,
    wants: u8,
    lanes: Option<u8>,
}

impl<'a> Found<'a> {
    fn take(&mut self, kind: u16, value: &'a [u8]) -> Result<(), Malformed> {
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
            OFFER_TYPE if value.len() > MAX_OFFER => return Err(Malformed::Parameter),
            OFFER_TYPE => self.offer = Some(value),
            ANSWER_TYPE => self.answer = Some(exact(value)?),
            WANTS_TYPE => self.wants = u8::from_be_bytes(exact(value)?),
            LANES_TYPE => self.lanes = Some(u8::from_be_bytes(exact(value)?)),
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Block<'a>, Malformed> {
        let missing = Malformed::Parameter;
        let params = Params {
            id_bits: self.id_bits.ok_or(missing)?,
            first_id: self.first_id.ok_or(missing)?,
            max_rpcs: self.max_rpcs.ok_or(missing)?,
            max_message: self.max_message.ok_or(missing)?,
            unscheduled: self.unscheduled.ok_or(missing)?,
            wake_delay_us: self.wake_delay_us.unwrap_or(0),
            max_id_bits: self.max_id_bits.unwrap_or(*ID_BITS.end()),
            wants: self.wants,
            lanes: self.lanes.unwrap_or(1),
        };
        let bounded = ID_BITS.contains(&params.id_bits)
            && ID_BITS.contains(&params.max_id_bits)
            && (4..=MAX_FIRST_ID).contains(&params.first_id)
            && params.first_id & 1 == 0
            && params.lanes.is_power_of_two()
            && params.lanes <= MAX_LANES;
        let block = Block { params, offer: self.offer, answer: self.answer };
        if bounded { Ok(block) } else { Err(Malformed::Parameter) }
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
        wants: 0,
        lanes: 1,
    };

    prop_compose! {
        fn params()(
            id_bits in ID_BITS, max_id_bits in ID_BITS, first_id in 4..=MAX_FIRST_ID,
            (max_rpcs, max_message, unscheduled, wake_delay_us) in any::<(u32, u32, u32, u32)>(),
            wants in any::<u8>(), lanes in 0..=6u32,
        ) -> Params {
            Params {
                id_bits, max_id_bits, first_id: first_id & !1,
                max_rpcs, max_message, unscheduled, wake_delay_us, wants, lanes: 1 << lanes,
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
        fn round_trip(
            params in params(), padding in 0..3000usize, follows in 0..9usize,
            answer in proptest::option::of(any::<[u8; ANSWER_LEN]>()),
            offer in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..1500)),
        ) {
            let block = Block { params, offer: offer.as_deref(), answer };
            let mut flight = block.emit(padding);
            let entry = |len: usize| if len > 0 { ENTRY_LEN + len } else { 0 };
            let len = Params::LEN
                + entry(padding)
                + offer.as_ref().map_or(0, |offer| ENTRY_LEN + offer.len())
                + answer.map_or(0, |_| ENTRY_LEN + ANSWER_LEN)
                + entry(usize::from(params.wants != 0))
                + entry(usize::from(params.lanes != 1));
            prop_assert_eq!(flight.len(), len);
            flight.resize(len + follows, 0xff);
            prop_assert_eq!(Block::parse(&flight), Ok((block, len)));
            prop_assert_eq!(Params::parse(&flight), Ok((params, len)));
        }

        #[test]
        fn any_cut_or_change_is_survived(
            params in params(), padding in 0..99usize, len in any::<proptest::sample::Index>(),
            at in any::<proptest::sample::Index>(), value in any::<u8>(),
            answer in proptest::option::of(any::<[u8; ANSWER_LEN]>()),
        ) {
            let mut flight = Block { params, offer: Some(&[7; 25]), answer }.emit(padding);
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
            [&[(0, &[1][..])], &REQUIRED[..], &[(99, &[][..]), (0xffff, &[1, 2])]].concat();
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
            Params { lanes: 0, ..EXAMPLE },
            Params { lanes: 3, ..EXAMPLE },
            Params { lanes: 2 * MAX_LANES, ..EXAMPLE },
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
        let offer = &[9; MAX_OFFER][..];
        let block = Block { params: EXAMPLE, offer: Some(offer), answer: None };
        let full = block.emit(usize::MAX);
        assert_eq!(full.len(), longest.len());
        assert_eq!(Block::parse(&full), Ok((block, full.len())));
    }

    #[test]
    fn an_offer_is_bounded() {
        let long = [9; MAX_OFFER + 1];
        let block = Block { params: EXAMPLE, offer: Some(&long), answer: None };
        assert_eq!(block.emit(0), EXAMPLE.emit(0));
        let entries = |len| [&REQUIRED[..], &[(9, &long[..len])]].concat();
        assert!(Params::parse(&self::block(&entries(MAX_OFFER))).is_ok());
        let refused = Params::parse(&self::block(&entries(MAX_OFFER + 1)));
        assert_eq!(refused, Err(Malformed::Parameter));
    }

    #[test]
    fn an_answer_is_a_random_of_its_length() {
        for len in [0, 1, ANSWER_LEN - 1, ANSWER_LEN, ANSWER_LEN + 1, 300] {
            let answer = [0; 300].split_at(len).0.to_vec();
            let entries = [&REQUIRED[..], &[(10, &answer[..])]].concat();
            let bytes = block(&entries);
            let parsed = Block::parse(&bytes).map(|(block, _)| block.answer);
            match len {
                ANSWER_LEN => assert_eq!(parsed, Ok(Some([0; ANSWER_LEN]))),
                _ => assert_eq!(parsed, Err(Malformed::Parameter)),
            }
        }
        let entries = [&REQUIRED[..], &[(11, &[1, 2][..])]].concat();
        assert_eq!(Params::parse(&block(&entries)), Err(Malformed::Parameter));
    }
}
