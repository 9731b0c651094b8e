//! RETRY: an address is to be proven first (spec 5.8).

use super::common::Typed;
use super::fields::{Fields, FieldsMut};
use super::{COMMON_LEN, Header, Malformed, PacketType, packet_type};

/// Length of a RETRY, in bytes: less than any packet that it answers.
pub const RETRY_LEN: usize = COMMON_LEN + 16;

/// A server asks a client to begin again under another token. Never authentic, always of epoch 0; the
/// token it echoes is all that vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The sender's port, never 0.
    pub src_port: u16,
    /// The receiver's port, never 0.
    pub dst_port: u16,
    /// The token to begin again under.
    pub new_token: u64,
    /// The token of the flight that this answers.
    pub token: u64,
}

impl Retry {
    /// Reads a RETRY.
    ///
    /// # Errors
    /// [`Malformed`] if the packet is of another type, is not [`RETRY_LEN`] long, or has a field that
    /// the specification does not allow.
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        if packet_type(packet)? != PacketType::Retry {
            return Err(Malformed::Type);
        }
        let (head, rest) = packet.split_first_chunk::<COMMON_LEN>().ok_or(Malformed::Short)?;
        let (typed, header) = (Typed::read(head), Header::read(head));
        if typed.sequence != 0 || typed.record_size != 0 || typed.segment_size != 0 {
            return Err(Malformed::Reserved);
        }
        if header.epoch != 0 {
            return Err(Malformed::Epoch);
        }
        if header.message_id != 0 {
            return Err(Malformed::Reserved);
        }
        let (tokens, rest) = rest.split_first_chunk::<16>().ok_or(Malformed::Short)?;
        if !rest.is_empty() {
            return Err(Malformed::Long);
        }
        let tokens = Fields(tokens);
        Ok(Retry {
            src_port: header.src_port,
            dst_port: header.dst_port,
            new_token: tokens.u64::<0>(),
            token: tokens.u64::<8>(),
        })
    }

    /// Writes the whole packet.
    pub fn emit(&self, out: &mut [u8; RETRY_LEN]) {
        let Retry { src_port, dst_port, new_token, token } = *self;
        let header = Header { src_port, dst_port, epoch: 0, message_id: 0 };
        if let Some((head, rest)) = out.split_first_chunk_mut::<COMMON_LEN>()
            && let Some(tokens) = rest.first_chunk_mut::<16>()
        {
            header.emit(PacketType::Retry, Typed::default(), head);
            let mut fields = FieldsMut(tokens);
            fields.u64::<0>(new_token);
            fields.u64::<8>(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    prop_compose! {
        fn retry()(
            src_port in 1..=u16::MAX, dst_port in 1..=u16::MAX,
            new_token in any::<u64>(), token in any::<u64>(),
        ) -> Retry {
            Retry { src_port, dst_port, new_token, token }
        }
    }

    fn emit(retry: &Retry) -> Vec<u8> {
        let mut out = [0xff; RETRY_LEN];
        retry.emit(&mut out);
        out.to_vec()
    }

    proptest! {
        #[test]
        fn round_trip(retry in retry()) {
            prop_assert_eq!(Retry::parse(&emit(&retry)), Ok(retry));
        }

        #[test]
        fn the_length_is_exact(retry in retry(), cut in 0..RETRY_LEN) {
            let mut packet = emit(&retry);
            prop_assert!(Retry::parse(&packet[..cut]).is_err());
            packet.push(0);
            prop_assert_eq!(Retry::parse(&packet), Err(Malformed::Long));
        }

        #[test]
        fn what_parses_is_what_was_sent(
            retry in retry(), at in 0..RETRY_LEN, value in any::<u8>(),
        ) {
            let mut packet = emit(&retry);
            packet[at] = value;
            if let Ok(parsed) = Retry::parse(&packet) {
                // Flags and checksum are the NIC's.
                packet[13] = 0;
                packet[16..18].fill(0);
                prop_assert_eq!(emit(&parsed), packet);
            }
        }

        #[test]
        fn any_bytes_are_survived(packet in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Retry::parse(&packet);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let good = emit(&Retry { src_port: 1, dst_port: 2, new_token: 3, token: 4 });
        let refused = |at: usize, value: u8| {
            let mut packet = good.clone();
            packet[at] = value;
            Retry::parse(&packet)
        };
        assert_eq!(refused(7, 1), Err(Malformed::Reserved));
        assert_eq!(refused(8, 1), Err(Malformed::Epoch));
        assert_eq!(refused(8, 3), Err(Malformed::Epoch));
        assert_eq!(refused(10, 1), Err(Malformed::Reserved));
        assert_eq!(refused(11, 0x14), Err(Malformed::Type));
        assert_eq!(refused(15, 1), Err(Malformed::Reserved));
        assert_eq!(refused(27, 1), Err(Malformed::Reserved));
    }
}
