//! The preamble that begins the plaintext of every message (spec 4.1).

use super::fields::{Fields, FieldsMut};
use super::{EARLY_EPOCH, FIRST_EPOCH, MAX_RECORD_SIZE, MIN_RECORD_SIZE, Malformed};

/// Length of a preamble, in bytes.
pub const PREAMBLE_LEN: usize = 40;

const VERSION: u8 = 1;

/// What the bytes after the preamble are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A message of the application.
    Application = 0,
    /// A message for the peer's handshake code, such as tickets (spec 5.9). Requests of servers only.
    Post = 1,
    /// The reply is an error: a 32-bit code and UTF-8 text (spec 7).
    Error = 2,
}

impl Kind {
    #[inline]
    pub(super) fn parse(code: u8) -> Result<Self, Malformed> {
        match code {
            0 => Ok(Kind::Application),
            1 => Ok(Kind::Post),
            2 => Ok(Kind::Error),
            _ => Err(Malformed::Code),
        }
    }
}

/// Whether a sender may say this of the highest epoch it has opened, and the oldest it may send under.
#[inline]
pub(super) fn epochs_make_sense(highest_peer: u32, oldest: u32) -> Result<(), Malformed> {
    let sense =
        (oldest >= FIRST_EPOCH || oldest == EARLY_EPOCH) && !matches!(highest_peer, 1..FIRST_EPOCH);
    if sense { Ok(()) } else { Err(Malformed::Epoch) }
}

/// What is said under encryption about a message and its sender's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Preamble {
    /// What follows.
    pub kind: Kind,
    /// The record size of the headers again, in bytes.
    pub record_size: u16,
    /// True length of what follows, in bytes; the rest of the plaintext is zero padding.
    pub app_len: u32,
    /// The wire length of the headers again, in bytes.
    pub wire_len: u32,
    /// Highest epoch of the peer that the sender has opened; 0: none.
    pub highest_peer_epoch: u32,
    /// Oldest epoch under which the sender may still send: 1 while it has early data, else 3 or more.
    pub oldest_epoch: u32,
    /// In a request: bytes of the response that may come without grants; 0: as usual. Else 0.
    pub response_limit: u32,
    /// Request ID; every RPC of the sender's own below it is finished.
    pub ack_floor: u64,
    /// Bit i: the RPC with ID `ack_floor + 4 (i + 1)` is finished.
    pub ack_bitmap: u64,
}

impl Preamble {
    /// Reads a preamble from the first [`PREAMBLE_LEN`] bytes of a message's plaintext.
    ///
    /// # Errors
    /// [`Malformed`] if `plaintext` is shorter or they are no preamble of this version. Whether it
    /// agrees with the headers is for the caller to check.
    #[inline]
    pub fn parse(plaintext: &[u8]) -> Result<Self, Malformed> {
        let fields = Fields(plaintext.first_chunk::<PREAMBLE_LEN>().ok_or(Malformed::Short)?);
        if fields.u8::<0>() != VERSION {
            return Err(Malformed::Version);
        }
        let preamble = Self {
            kind: Kind::parse(fields.u8::<1>())?,
            record_size: fields.u16::<2>(),
            app_len: fields.u32::<4>(),
            wire_len: fields.u32::<8>(),
            highest_peer_epoch: fields.u32::<12>(),
            oldest_epoch: fields.u32::<16>(),
            response_limit: fields.u32::<20>(),
            ack_floor: fields.u64::<24>(),
            ack_bitmap: fields.u64::<32>(),
        };
        preamble.check()?;
        Ok(preamble)
    }

    #[inline]
    fn check(&self) -> Result<(), Malformed> {
        if !(MIN_RECORD_SIZE..=MAX_RECORD_SIZE).contains(&self.record_size) {
            return Err(Malformed::RecordSize);
        }
        epochs_make_sense(self.highest_peer_epoch, self.oldest_epoch)?;
        if self.ack_floor & 1 != 0 {
            return Err(Malformed::Range);
        }
        Ok(())
    }

    /// Writes the preamble.
    #[inline]
    pub fn emit(&self, out: &mut [u8; PREAMBLE_LEN]) {
        let mut fields = FieldsMut(out);
        fields.u8::<0>(VERSION);
        fields.u8::<1>(self.kind as u8);
        fields.u16::<2>(self.record_size);
        fields.u32::<4>(self.app_len);
        fields.u32::<8>(self.wire_len);
        fields.u32::<12>(self.highest_peer_epoch);
        fields.u32::<16>(self.oldest_epoch);
        fields.u32::<20>(self.response_limit);
        fields.u64::<24>(self.ack_floor);
        fields.u64::<32>(self.ack_bitmap);
    }
}

const _: () = {
    assert!(PREAMBLE_LEN == 1 + 1 + 2 + 5 * 4 + 2 * 8);
    // Record 0 always holds the whole preamble.
    assert!(PREAMBLE_LEN <= MIN_RECORD_SIZE as usize);
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn preamble()(
            kind in prop_oneof![Just(Kind::Application), Just(Kind::Post), Just(Kind::Error)],
            record_size in MIN_RECORD_SIZE..=MAX_RECORD_SIZE,
            (app_len, wire_len, response_limit) in any::<(u32, u32, u32)>(),
            (ack_floor, ack_bitmap) in any::<(u64, u64)>(),
            highest_peer_epoch in prop_oneof![Just(0), FIRST_EPOCH..=u32::MAX],
            oldest_epoch in prop_oneof![Just(EARLY_EPOCH), FIRST_EPOCH..=u32::MAX],
        ) -> Preamble {
            Preamble {
                kind, record_size, app_len, wire_len, highest_peer_epoch, oldest_epoch,
                response_limit, ack_floor: ack_floor & !1, ack_bitmap,
            }
        }
    }

    proptest! {
        #[test]
        fn round_trip(preamble in preamble()) {
            let mut out = [0xff; PREAMBLE_LEN];
            preamble.emit(&mut out);
            prop_assert_eq!(Preamble::parse(&out), Ok(preamble));
            prop_assert_eq!(Preamble::parse(&out[1..]), Err(Malformed::Short));
        }

        #[test]
        fn what_parses_is_what_was_sent(
            preamble in preamble(),
            changes in proptest::collection::vec((0..PREAMBLE_LEN, any::<u8>()), 0..4),
        ) {
            let mut bytes = [0; PREAMBLE_LEN];
            preamble.emit(&mut bytes);
            for (at, value) in changes {
                bytes[at] = value;
            }
            if let Ok(parsed) = Preamble::parse(&bytes) {
                let mut again = [0; PREAMBLE_LEN];
                parsed.emit(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let ok = Preamble {
            kind: Kind::Application,
            record_size: 64,
            app_len: 0,
            wire_len: 62,
            highest_peer_epoch: 0,
            oldest_epoch: 3,
            response_limit: 0,
            ack_floor: 0,
            ack_bitmap: 0,
        };
        let reparse = |preamble: Preamble, at: usize, value: u8| {
            let mut bytes = [0; PREAMBLE_LEN];
            preamble.emit(&mut bytes);
            bytes[at] = value;
            Preamble::parse(&bytes)
        };
        assert_eq!(reparse(ok, 0, 1), Ok(ok));
        assert_eq!(reparse(ok, 0, 2), Err(Malformed::Version));
        assert_eq!(reparse(ok, 1, 3), Err(Malformed::Code));
        assert_eq!(reparse(ok, 3, 63), Err(Malformed::RecordSize));
        assert_eq!(reparse(ok, 15, 2), Err(Malformed::Epoch));
        assert_eq!(reparse(ok, 15, 1), Err(Malformed::Epoch));
        assert_eq!(reparse(ok, 19, 0), Err(Malformed::Epoch));
        assert_eq!(reparse(ok, 19, 1), Ok(Preamble { oldest_epoch: 1, ..ok }));
        assert_eq!(reparse(ok, 19, 2), Err(Malformed::Epoch));
        assert_eq!(reparse(ok, 23, 7), Ok(Preamble { response_limit: 7, ..ok }));
        assert_eq!(reparse(ok, 31, 5), Err(Malformed::Range));
    }
}
