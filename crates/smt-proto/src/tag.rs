//! Header tags and the replay window of control packets (spec 5.4).

use core::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::keys::HeaderKey;
use crate::wire::{COMMON_LEN, DATA_LEN, EXPLICIT, FLAGS_AT, MIN_CONTROL_LEN, PINNED, TAG_AT};

const TAG_LEN: usize = 8;

impl HeaderKey {
    /// The tag of a DATA packet with this header (its tag field may hold anything) and, when it is
    /// PINNED, this payload.
    ///
    /// # Panics
    /// If `header` is shorter than [`DATA_LEN`].
    #[inline]
    #[must_use]
    #[expect(clippy::expect_used, reason = "the caller wrote this header")]
    pub fn data_tag(&self, header: &[u8], payload: Option<&[u8]>) -> u64 {
        let header = header.first_chunk::<DATA_LEN>().expect("a whole DATA header");
        self.tag_of_data(header, payload)
    }

    /// Writes the tag into a whole DATA packet.
    ///
    /// # Panics
    /// If `packet` is shorter than [`DATA_LEN`].
    #[inline]
    #[expect(clippy::expect_used, reason = "the caller wrote this packet")]
    pub fn write_data_tag(&self, packet: &mut [u8]) {
        let (header, payload) =
            packet.split_first_chunk_mut::<DATA_LEN>().expect("a whole DATA header");
        let tag = self.tag_of_data(header, covered(header, payload));
        header[TAG_AT..TAG_AT + TAG_LEN].copy_from_slice(&tag.to_be_bytes());
    }

    /// Whether a DATA packet carries its right tag.
    #[inline]
    #[must_use]
    pub fn check_data(&self, packet: &[u8]) -> bool {
        let Some((header, payload)) = packet.split_first_chunk::<DATA_LEN>() else {
            return false;
        };
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&header[TAG_AT..TAG_AT + TAG_LEN]);
        self.tag_of_data(header, covered(header, payload)) == u64::from_be_bytes(tag)
    }

    #[inline]
    fn tag_of_data(&self, header: &[u8; DATA_LEN], payload: Option<&[u8]>) -> u64 {
        let mut input = *header;
        clear_changeable(&mut input);
        if input[FLAGS_AT] & EXPLICIT == 0 {
            // A NIC may count it.
            input[4..8].fill(0);
        }
        input[TAG_AT..TAG_AT + TAG_LEN].fill(0);
        let Some(payload) = payload else { return self.hasher().hash(&input) };
        let mut hasher = self.hasher();
        hasher.write(&input);
        hasher.write(payload);
        hasher.finish()
    }

    /// Writes the tag into a control packet.
    ///
    /// # Panics
    /// If `packet` is shorter than any control packet.
    #[inline]
    #[expect(clippy::expect_used, reason = "the caller wrote this packet")]
    pub fn write_control_tag(&self, packet: &mut [u8]) {
        let tag = self.tag_of_control(packet).expect("a whole control packet");
        if let Some(field) = packet.last_chunk_mut::<TAG_LEN>() {
            *field = tag.to_be_bytes();
        }
    }

    /// Whether a control packet carries its right tag.
    #[inline]
    #[must_use]
    pub fn check_control(&self, packet: &[u8]) -> bool {
        let tag = packet.last_chunk::<TAG_LEN>().map(|tag| u64::from_be_bytes(*tag));
        tag.is_some() && tag == self.tag_of_control(packet)
    }

    #[inline]
    fn tag_of_control(&self, packet: &[u8]) -> Option<u64> {
        if packet.len() < MIN_CONTROL_LEN {
            return None;
        }
        let (head, rest) = packet.split_first_chunk::<COMMON_LEN>()?;
        let (body, _) = rest.split_last_chunk::<TAG_LEN>()?;
        let mut input = *head;
        clear_changeable(&mut input);
        let mut hasher = self.hasher();
        hasher.write(&input);
        hasher.write(body);
        hasher.write(&[0; TAG_LEN]);
        Some(hasher.finish())
    }

    #[inline]
    fn hasher(&self) -> SipHasher24 {
        SipHasher24::new_with_key(&self.key)
    }
}

/// What the tag covers beyond the header.
#[inline]
fn covered<'a>(header: &[u8; DATA_LEN], payload: &'a [u8]) -> Option<&'a [u8]> {
    (header[FLAGS_AT] & PINNED != 0).then_some(payload)
}

/// Clears what a NIC may rewrite: flags and checksum.
#[inline(always)]
fn clear_changeable<const N: usize>(header: &mut [u8; N]) {
    const { assert!(N >= COMMON_LEN) };
    header[13] = 0;
    header[16] = 0;
    header[17] = 0;
}

/// Largest control number: 48 bits.
pub const MAX_CONTROL_NUMBER: u64 = (1 << 48) - 1;

/// Takes each control number once. Numbers 128 or more below the largest taken are refused, for
/// nothing is known about them any more.
#[derive(Clone, Copy, Debug, Default)]
pub struct ControlWindow {
    largest: u64,
    /// Bit i: `largest - i` was taken.
    taken: u128,
}

impl ControlWindow {
    /// No number was taken yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes `number`; `false` if it was taken before, is too old, 0 or above [`MAX_CONTROL_NUMBER`].
    /// Only for packets whose tag is right.
    #[inline]
    #[must_use]
    pub fn accept(&mut self, number: u64) -> bool {
        if number == 0 || number > MAX_CONTROL_NUMBER {
            return false;
        }
        if number > self.largest {
            let shift = number - self.largest;
            self.taken = if shift < 128 { self.taken << shift } else { 0 } | 1;
            self.largest = number;
            return true;
        }
        let age = self.largest - number;
        if age >= 128 || self.taken >> age & 1 != 0 {
            return false;
        }
        self.taken |= 1 << age;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    fn key() -> HeaderKey {
        HeaderKey { key: core::array::from_fn(|i| i as u8) }
    }

    /// The bytes of a DATA header that the tag covers.
    fn covers(at: usize, explicit: bool, pinned: bool) -> bool {
        match at {
            4..8 => explicit,
            13 | 16 | 17 => false,
            0..DATA_LEN => true,
            _ => pinned,
        }
    }

    proptest! {
        #[test]
        fn data_tag_covers_what_it_should(
            mut packet in proptest::collection::vec(any::<u8>(), DATA_LEN..200),
            at in any::<proptest::sample::Index>(), bit in 0..8u32,
        ) {
            key().write_data_tag(&mut packet);
            prop_assert!(key().check_data(&packet));
            let flags = packet[FLAGS_AT];
            let (header, payload) = packet.split_at(DATA_LEN);
            let tag = key().data_tag(header, (flags & PINNED != 0).then_some(payload));
            prop_assert_eq!(&tag.to_be_bytes(), &packet[TAG_AT..TAG_AT + TAG_LEN]);

            let at = at.index(packet.len());
            packet[at] ^= 1u8 << bit;
            let covered = covers(at, flags & EXPLICIT != 0, flags & PINNED != 0);
            prop_assert_eq!(key().check_data(&packet), !covered);
        }

        #[test]
        fn control_tag_covers_what_it_should(
            mut packet in proptest::collection::vec(any::<u8>(), MIN_CONTROL_LEN..600),
            at in any::<proptest::sample::Index>(), bit in 0..8u32,
        ) {
            key().write_control_tag(&mut packet);
            prop_assert!(key().check_control(&packet));
            let at = at.index(packet.len());
            packet[at] ^= 1u8 << bit;
            prop_assert_eq!(key().check_control(&packet), matches!(at, 13 | 16 | 17));
        }

        #[test]
        fn another_key_is_noticed(mut packet in proptest::collection::vec(any::<u8>(), DATA_LEN..99)) {
            key().write_data_tag(&mut packet);
            let other = HeaderKey { key: [7; 16] };
            prop_assert!(!other.check_data(&packet));
        }

        #[test]
        fn each_number_is_taken_once(steps in proptest::collection::vec((any::<bool>(), 0..300u64), 0..400)) {
            let mut window = ControlWindow::new();
            let (mut taken, mut largest) = (BTreeSet::new(), 0u64);
            for (up, distance) in steps {
                let number = if up { largest + distance / 8 } else { largest.saturating_sub(distance) };
                let fresh = number > 0 && number + 128 > largest && taken.insert(number);
                prop_assert_eq!(window.accept(number), fresh);
                largest = largest.max(number);
            }
        }
    }

    #[test]
    fn every_byte_is_checked() {
        for flags in 0..8u8 {
            let mut packet: Vec<u8> = (0..60).collect();
            packet[FLAGS_AT] = flags;
            key().write_data_tag(&mut packet);
            for at in (0..packet.len()).filter(|&at| at != FLAGS_AT) {
                let mut changed = packet.clone();
                changed[at] ^= 0x10;
                let covered = covers(at, flags & EXPLICIT != 0, flags & PINNED != 0);
                assert_eq!(key().check_data(&changed), !covered, "byte {at}, flags {flags}");
            }
        }
    }

    #[test]
    fn short_packets_are_not_authentic() {
        for len in 0..DATA_LEN {
            assert!(!key().check_data(&[0; DATA_LEN][..len]));
        }
        for len in 0..MIN_CONTROL_LEN {
            assert!(!key().check_control(&[0; MIN_CONTROL_LEN][..len]));
        }
    }

    #[test]
    fn control_numbers_are_bounded() {
        let mut window = ControlWindow::new();
        assert!(!window.accept(0) && !window.accept(MAX_CONTROL_NUMBER + 1));
        assert!(window.accept(1) && window.accept(MAX_CONTROL_NUMBER));
        assert!(!window.accept(2) && window.accept(MAX_CONTROL_NUMBER - 127));
        assert!(!window.accept(MAX_CONTROL_NUMBER - 128));
    }
}
