//! Bundles: many short messages in one record (spec 4.5).

use core::ops::Range;

use super::fields::{Fields, FieldsMut};
use super::preamble::{Kind, epochs_make_sense};
use super::{MIN_RECORD_SIZE, Malformed};

/// Length of what the messages of a bundle have in common, in bytes.
pub const BUNDLE_HEAD_LEN: usize = 28;
/// Length of what stands before the bytes of each message, in bytes.
pub const BUNDLE_ENTRY_LEN: usize = 16;

const VERSION: u8 = 1;

/// What the messages of a bundle have in common: the view of their sender, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BundleHead {
    /// Messages in the bundle, at least 1.
    pub count: u16,
    /// Highest epoch of the peer that the sender has opened; 0: none.
    pub highest_peer_epoch: u32,
    /// Oldest epoch under which the sender may still send: 1 while it has early data, else 3 or more.
    pub oldest_epoch: u32,
    /// Request ID; every RPC of the sender's own below it is finished.
    pub ack_floor: u64,
    /// Bit i: the RPC with ID `ack_floor + 4 (i + 1)` is finished.
    pub ack_bitmap: u64,
}

/// One message of a bundle, but for its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BundleEntry {
    /// Its ID.
    pub message_id: u64,
    /// What its bytes are.
    pub kind: Kind,
    /// How many bytes follow.
    pub app_len: u16,
    /// As in a preamble: in a request, bytes of the response that may come without grants.
    pub response_limit: u32,
}

impl BundleHead {
    /// Reads the plaintext of a bundle and checks all of it: as many entries as it says, whole, and behind
    /// them nothing but the zeros that fill up a plaintext of 64 bytes.
    ///
    /// # Errors
    /// [`Malformed`] if it is not what this version allows. Whether the first entry is the message of the
    /// packet's header is for the caller to check.
    pub fn parse(plaintext: &[u8]) -> Result<Self, Malformed> {
        let fields = Fields(plaintext.first_chunk::<BUNDLE_HEAD_LEN>().ok_or(Malformed::Short)?);
        if fields.u8::<0>() != VERSION {
            return Err(Malformed::Version);
        }
        if fields.u8::<1>() != 0 {
            return Err(Malformed::Reserved);
        }
        let head = Self {
            count: fields.u16::<2>(),
            highest_peer_epoch: fields.u32::<4>(),
            oldest_epoch: fields.u32::<8>(),
            ack_floor: fields.u64::<12>(),
            ack_bitmap: fields.u64::<20>(),
        };
        epochs_make_sense(head.highest_peer_epoch, head.oldest_epoch)?;
        if head.ack_floor & 1 != 0 || head.count == 0 {
            return Err(Malformed::Range);
        }
        let mut at = BUNDLE_HEAD_LEN;
        for _ in 0..head.count {
            let (_, bytes) = BundleEntry::parse(plaintext, at)?;
            at = bytes.end;
        }
        let rest = plaintext.get(at..).unwrap_or_default();
        let fills_up = plaintext.len() <= usize::from(MIN_RECORD_SIZE);
        match rest.iter().any(|byte| *byte != 0) || !(rest.is_empty() || fills_up) {
            true => Err(Malformed::Long),
            false => Ok(head),
        }
    }

    /// Writes it.
    pub fn emit(&self, out: &mut [u8; BUNDLE_HEAD_LEN]) {
        let mut fields = FieldsMut(out);
        fields.u8::<0>(VERSION);
        fields.u8::<1>(0);
        fields.u16::<2>(self.count);
        fields.u32::<4>(self.highest_peer_epoch);
        fields.u32::<8>(self.oldest_epoch);
        fields.u64::<12>(self.ack_floor);
        fields.u64::<20>(self.ack_bitmap);
    }
}

impl BundleEntry {
    /// Reads the entry at byte `at` of a bundle's plaintext; says where its bytes are. The next entry is
    /// behind them.
    ///
    /// # Errors
    /// [`Malformed`] if there is none, or not all of its bytes.
    #[inline]
    pub fn parse(plaintext: &[u8], at: usize) -> Result<(Self, Range<usize>), Malformed> {
        let rest = plaintext.get(at..).ok_or(Malformed::Short)?;
        let (head, bytes) = rest.split_first_chunk::<BUNDLE_ENTRY_LEN>().ok_or(Malformed::Short)?;
        let fields = Fields(head);
        if fields.u8::<9>() != 0 {
            return Err(Malformed::Reserved);
        }
        let entry = Self {
            message_id: fields.u64::<0>(),
            kind: Kind::parse(fields.u8::<8>())?,
            app_len: fields.u16::<10>(),
            response_limit: fields.u32::<12>(),
        };
        let len = usize::from(entry.app_len);
        if bytes.len() < len {
            return Err(Malformed::Short);
        }
        let start = at + BUNDLE_ENTRY_LEN;
        Ok((entry, start..start + len))
    }

    /// Writes it; its bytes are to follow.
    #[inline]
    pub fn emit(&self, out: &mut [u8; BUNDLE_ENTRY_LEN]) {
        let mut fields = FieldsMut(out);
        fields.u64::<0>(self.message_id);
        fields.u8::<8>(self.kind as u8);
        fields.u8::<9>(0);
        fields.u16::<10>(self.app_len);
        fields.u32::<12>(self.response_limit);
    }
}

const _: () = {
    assert!(BUNDLE_HEAD_LEN == 1 + 1 + 2 + 2 * 4 + 2 * 8);
    assert!(BUNDLE_ENTRY_LEN == 8 + 1 + 1 + 2 + 4);
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    type Message = (BundleEntry, Vec<u8>);

    prop_compose! {
        fn head()(
            highest_peer_epoch in prop_oneof![Just(0), 3..=u32::MAX],
            oldest_epoch in prop_oneof![Just(1), 3..=u32::MAX],
            (ack_floor, ack_bitmap) in any::<(u64, u64)>(),
        ) -> BundleHead {
            BundleHead {
                count: 0, highest_peer_epoch, oldest_epoch, ack_floor: ack_floor & !1, ack_bitmap,
            }
        }
    }

    prop_compose! {
        fn message()(
            (message_id, response_limit) in any::<(u64, u32)>(),
            kind in prop_oneof![Just(Kind::Application), Just(Kind::Post), Just(Kind::Error)],
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) -> Message {
            let app_len = bytes.len() as u16;
            (BundleEntry { message_id, kind, app_len, response_limit }, bytes)
        }
    }

    fn write(head: BundleHead, messages: &[Message]) -> Vec<u8> {
        let mut plain = Vec::from([0xff; BUNDLE_HEAD_LEN]);
        BundleHead { count: messages.len() as u16, ..head }.emit(plain.first_chunk_mut().unwrap());
        for (entry, bytes) in messages {
            let mut place = [0xff; BUNDLE_ENTRY_LEN];
            entry.emit(&mut place);
            plain.extend_from_slice(&place);
            plain.extend_from_slice(bytes);
        }
        plain.resize(plain.len().max(MIN_RECORD_SIZE.into()), 0);
        plain
    }

    fn read(plain: &[u8]) -> Result<(BundleHead, Vec<Message>), Malformed> {
        let head = BundleHead::parse(plain)?;
        let mut at = BUNDLE_HEAD_LEN;
        let mut messages = Vec::new();
        for _ in 0..head.count {
            let (entry, bytes) = BundleEntry::parse(plain, at).expect("checked");
            at = bytes.end;
            messages.push((entry, plain[bytes].to_vec()));
        }
        Ok((head, messages))
    }

    proptest! {
        #[test]
        fn round_trip(head in head(), messages in proptest::collection::vec(message(), 1..20)) {
            let plain = write(head, &messages);
            let (parsed, read) = read(&plain).unwrap();
            prop_assert_eq!(BundleHead { count: 0, ..parsed }, head);
            prop_assert_eq!(read, messages);
        }

        #[test]
        fn what_parses_is_what_was_sent(
            head in head(),
            messages in proptest::collection::vec(message(), 1..6),
            changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4),
            cut in 0..400usize,
        ) {
            let mut plain = write(head, &messages);
            for (at, value) in changes {
                let at = at % plain.len();
                plain[at] = value;
            }
            plain.truncate(plain.len().saturating_sub(cut.saturating_sub(200)));
            if let Ok((head, messages)) = read(&plain) {
                let mut again = write(head, &messages);
                again.truncate(plain.len());
                prop_assert_eq!(again, plain);
            }
        }

        #[test]
        fn any_bytes_are_survived(plain in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&plain);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let head = BundleHead {
            count: 0,
            highest_peer_epoch: 0,
            oldest_epoch: 3,
            ack_floor: 0,
            ack_bitmap: 0,
        };
        let entry =
            BundleEntry { message_id: 8, kind: Kind::Application, app_len: 30, response_limit: 0 };
        let messages = [(entry, [9; 30].to_vec()), (entry, [9; 30].to_vec())];
        let good = write(head, &messages);
        assert_eq!(good.len(), 28 + 2 * 46);
        assert!(read(&good).is_ok());
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            read(&bytes).map(|_| ())
        };
        assert_eq!(with(0, 2), Err(Malformed::Version));
        assert_eq!(with(1, 1), Err(Malformed::Reserved));
        assert_eq!(with(3, 0), Err(Malformed::Range));
        assert_eq!(with(3, 3), Err(Malformed::Short), "an entry that is not there");
        assert_eq!(with(3, 1), Err(Malformed::Long), "one that nobody counted");
        assert_eq!(with(7, 1), Err(Malformed::Epoch));
        assert_eq!(with(11, 0), Err(Malformed::Epoch));
        assert_eq!(with(19, 1), Err(Malformed::Range));
        assert_eq!(with(28 + 8, 3), Err(Malformed::Code));
        assert_eq!(with(28 + 9, 1), Err(Malformed::Reserved));
        assert_eq!(with(28 + 46 + 11, 31), Err(Malformed::Short), "a byte more than there is");
        assert_eq!(with(28 + 46 + 11, 29), Err(Malformed::Long), "a byte less");
        assert_eq!(BundleHead::parse(&good[..27]), Err(Malformed::Short));
        // Short ones are filled up with zeros, and with nothing else.
        let short = write(head, &[(BundleEntry { app_len: 0, ..entry }, Vec::new())]);
        assert_eq!(short.len(), 64);
        assert!(read(&short).is_ok());
        let mut odd = short.clone();
        odd[63] = 1;
        assert_eq!(BundleHead::parse(&odd), Err(Malformed::Long));
        let long = [&good[..], &[0]].concat();
        assert_eq!(BundleHead::parse(&long), Err(Malformed::Long));
    }
}
