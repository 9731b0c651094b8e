//! DATA packets (spec 2.2).

use super::common::Typed;
use super::epoch::{FIRST_EPOCH, carries_messages};
use super::fields::{Fields, FieldsMut};
use super::{COMMON_LEN, Header, Malformed, PacketType, packet_type};

/// Length of a DATA header, in bytes. The payload follows.
pub const DATA_LEN: usize = 52;
/// What a record adds to its plaintext, in bytes: header 5, inner type 1, AEAD tag 16.
pub const RECORD_OVERHEAD: u32 = 22;
/// Smallest record size, in bytes of plaintext.
pub const MIN_RECORD_SIZE: u16 = 64;
/// Largest record size, in bytes of plaintext: that of TLS.
pub const MAX_RECORD_SIZE: u16 = 16384;
/// Largest TSO offset: its field has 24 bits.
pub const MAX_TSO_OFFSET: u32 = (1 << 24) - 1;

/// Where the tag begins, in bytes.
pub(crate) const TAG_AT: usize = 36;
/// Where the data flags are.
pub(crate) const FLAGS_AT: usize = 48;
pub(crate) const RETRANSMIT: u8 = 1;
pub(crate) const EXPLICIT: u8 = 2;
pub(crate) const PINNED: u8 = 4;
pub(crate) const BUNDLE: u8 = 8;

/// The header of a DATA packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Data {
    /// The common part.
    pub header: Header,
    /// What the offset of the payload is found by ([`payload_offset`](super::payload_offset)).
    pub sequence: u32,
    /// Plaintext bytes in every record of the message but the last: 64..=16384, or 0 in epoch 0.
    pub record_size: u16,
    /// Payload bytes per packet of the TSO segment this packet was cut from.
    pub segment_size: u16,
    /// Length of the wire stream in bytes, at least 1.
    pub message_len: u32,
    /// How many bytes of the wire stream, from its start, come without further grants.
    pub incoming: u32,
    /// The header tag; in epoch 0 the handshake token.
    pub tag: u64,
    /// Version of the receiver's CUTOFFS that the sender goes by; 0: none arrived yet. 0 in epoch 0.
    pub cutoffs: u16,
    /// These bytes were sent before.
    pub retransmit: bool,
    /// `sequence` is the offset of the payload in the wire stream.
    pub explicit: bool,
    /// The tag covers the payload, too.
    pub pinned: bool,
    /// The payload is a bundle (spec 4.5): one record with several messages, of which the header names the
    /// first.
    pub bundle: bool,
    /// Index of the first record of the TSO segment, at most [`MAX_TSO_OFFSET`].
    pub tso_offset: u32,
}

impl Data {
    /// The header of a bundle (spec 4.5) that is one record of `wire_len` bytes, without tag.
    #[inline]
    #[must_use]
    pub fn of_bundle(header: Header, wire_len: u16, cutoffs: u16) -> Self {
        Self {
            header,
            sequence: 0,
            record_size: wire_len.saturating_sub(RECORD_OVERHEAD as u16),
            segment_size: wire_len,
            message_len: wire_len.into(),
            incoming: wire_len.into(),
            tag: 0,
            cutoffs,
            retransmit: false,
            explicit: true,
            pinned: false,
            bundle: true,
            tso_offset: 0,
        }
    }

    /// Reads the header of a DATA packet; the payload is what follows [`DATA_LEN`] bytes.
    ///
    /// # Errors
    /// [`Malformed`] if the packet is of another type or its header is one the specification does
    /// not allow. Whether the tag and the offset are right is found elsewhere.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        if packet_type(packet)? != PacketType::Data {
            return Err(Malformed::Type);
        }
        let head = packet.first_chunk::<DATA_LEN>().ok_or(Malformed::Short)?;
        let fields = Fields(head);
        let flags = fields.u8::<FLAGS_AT>();
        if fields.u16::<44>() != 0 || flags & !(RETRANSMIT | EXPLICIT | PINNED | BUNDLE) != 0 {
            return Err(Malformed::Reserved);
        }
        let data = Self {
            header: Header {
                src_port: fields.u16::<0>(),
                dst_port: fields.u16::<2>(),
                epoch: fields.u8::<8>(),
                message_id: fields.u64::<20>(),
            },
            sequence: fields.u32::<4>(),
            record_size: fields.u16::<9>(),
            segment_size: fields.u16::<14>(),
            message_len: fields.u32::<28>(),
            incoming: fields.u32::<32>(),
            tag: fields.u64::<TAG_AT>(),
            cutoffs: fields.u16::<46>(),
            retransmit: flags & RETRANSMIT != 0,
            explicit: flags & EXPLICIT != 0,
            pinned: flags & PINNED != 0,
            bundle: flags & BUNDLE != 0,
            tso_offset: fields.u24::<49>(),
        };
        data.check()?;
        Ok(data)
    }

    #[inline]
    fn check(&self) -> Result<(), Malformed> {
        if self.header.epoch == 0 {
            if self.record_size != 0 {
                return Err(Malformed::RecordSize);
            }
            if !self.explicit {
                return Err(Malformed::Implicit);
            }
            if self.cutoffs != 0 {
                return Err(Malformed::Reserved);
            }
        } else if !carries_messages(self.header.epoch) {
            return Err(Malformed::Epoch);
        } else if !(MIN_RECORD_SIZE..=MAX_RECORD_SIZE).contains(&self.record_size) {
            return Err(Malformed::RecordSize);
        }
        if self.pinned && !self.explicit {
            return Err(Malformed::Implicit);
        }
        if self.message_len == 0 || self.incoming > self.message_len {
            return Err(Malformed::Length);
        }
        if self.bundle { self.check_bundle() } else { Ok(()) }
    }

    /// A bundle is one record in one packet, and leaves once.
    fn check_bundle(&self) -> Result<(), Malformed> {
        if u32::from(self.header.epoch) < FIRST_EPOCH {
            return Err(Malformed::Epoch);
        }
        if !self.explicit {
            return Err(Malformed::Implicit);
        }
        if self.retransmit || self.pinned || self.sequence != 0 || self.tso_offset != 0 {
            return Err(Malformed::Reserved);
        }
        let len = u32::from(self.record_size) + RECORD_OVERHEAD;
        let lengths = [self.message_len, self.incoming, u32::from(self.segment_size)];
        if lengths == [len; 3] { Ok(()) } else { Err(Malformed::Length) }
    }

    /// Writes the header with [`tag`](Self::tag) as it is.
    #[inline]
    pub fn emit(&self, out: &mut [u8; DATA_LEN]) {
        let typed = Typed {
            sequence: self.sequence,
            record_size: self.record_size,
            segment_size: self.segment_size,
        };
        let mut common = [0; COMMON_LEN];
        self.header.emit(PacketType::Data, typed, &mut common);
        out[..COMMON_LEN].copy_from_slice(&common);

        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.retransmit, RETRANSMIT)
            | flag(self.explicit, EXPLICIT)
            | flag(self.pinned, PINNED)
            | flag(self.bundle, BUNDLE);
        let mut fields = FieldsMut(out);
        fields.u32::<28>(self.message_len);
        fields.u32::<32>(self.incoming);
        fields.u64::<TAG_AT>(self.tag);
        fields.u16::<44>(0);
        fields.u16::<46>(self.cutoffs);
        fields.u8::<FLAGS_AT>(flags);
        fields.u24::<49>(self.tso_offset);
    }
}

const _: () = {
    // Message length, incoming, tag, 0, cutoffs, flags, TSO offset; TCP's largest data offset is 15.
    assert!(DATA_LEN == COMMON_LEN + 4 + 4 + 8 + 2 + 2 + 1 + 3);
    assert!(DATA_LEN == 13 * 4 && DATA_LEN <= 15 * 4);
    assert!(TAG_AT == COMMON_LEN + 8 && FLAGS_AT == TAG_AT + 12);
};

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = Header> {
        (1..=u16::MAX, 1..=u16::MAX, 3..=255u8, any::<u64>()).prop_map(
            |(src_port, dst_port, epoch, message_id)| Header {
                src_port,
                dst_port,
                epoch,
                message_id,
            },
        )
    }

    prop_compose! {
        fn data()(
            header in header(),
            handshake in any::<bool>(),
            (sequence, segment_size, tag, cutoffs) in any::<(u32, u16, u64, u16)>(),
            record_size in MIN_RECORD_SIZE..=MAX_RECORD_SIZE,
            message_len in 1..=u32::MAX,
            incoming in any::<u32>(),
            (retransmit, explicit, pinned) in any::<(bool, bool, bool)>(),
            tso_offset in 0..=MAX_TSO_OFFSET,
        ) -> Data {
            Data {
                header: Header { epoch: if handshake { 0 } else { header.epoch }, ..header },
                sequence, segment_size, tag, message_len, retransmit, tso_offset,
                record_size: if handshake { 0 } else { record_size },
                incoming: incoming.min(message_len),
                explicit: explicit || handshake || pinned,
                cutoffs: if handshake { 0 } else { cutoffs },
                pinned,
                bundle: false,
            }
        }
    }

    prop_compose! {
        fn bundle()(data in data(), record_size in MIN_RECORD_SIZE..=MAX_RECORD_SIZE) -> Data {
            let len = record_size + RECORD_OVERHEAD as u16;
            Data {
                header: Header { epoch: data.header.epoch.max(3), ..data.header },
                record_size,
                segment_size: len,
                message_len: len.into(),
                incoming: len.into(),
                ..bundled(data)
            }
        }
    }

    fn bundled(data: Data) -> Data {
        Data {
            sequence: 0,
            tso_offset: 0,
            retransmit: false,
            pinned: false,
            explicit: true,
            bundle: true,
            ..data
        }
    }

    pub(in crate::wire) fn example() -> Data {
        Data {
            header: Header { src_port: 9, dst_port: 10, epoch: 3, message_id: 4 },
            sequence: 0,
            record_size: 1000,
            segment_size: 1022,
            message_len: 5000,
            incoming: 5000,
            tag: 0,
            cutoffs: 0,
            retransmit: false,
            explicit: false,
            pinned: false,
            bundle: false,
            tso_offset: 0,
        }
    }

    fn reparse(data: Data) -> Result<Data, Malformed> {
        let mut packet = [0xff; DATA_LEN];
        data.emit(&mut packet);
        Data::parse(&packet)
    }

    proptest! {
        #[test]
        fn round_trip(data in prop_oneof![data(), bundle()], payload in proptest::collection::vec(any::<u8>(), 0..99)) {
            let mut head = [0xff; DATA_LEN];
            data.emit(&mut head);
            let packet = [&head[..], &payload].concat();
            prop_assert_eq!(Data::parse(&packet), Ok(data));
        }

        #[test]
        fn what_parses_is_what_was_sent(
            data in prop_oneof![data(), bundle()],
            changes in proptest::collection::vec((0..DATA_LEN, any::<u8>()), 0..4),
        ) {
            let mut packet = [0; DATA_LEN];
            data.emit(&mut packet);
            for (at, value) in changes {
                packet[at] = value;
            }
            if let Ok(parsed) = Data::parse(&packet) {
                let mut again = [0; DATA_LEN];
                parsed.emit(&mut again);
                // Flags and checksum are the NIC's.
                packet[13] = 0;
                packet[16] = 0;
                packet[17] = 0;
                prop_assert_eq!(again, packet);
            }
        }

        #[test]
        fn any_bytes_are_survived(packet in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Data::parse(&packet);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let ok = example();
        assert_eq!(reparse(ok), Ok(ok));
        assert_eq!(reparse(Data { record_size: 63, ..ok }), Err(Malformed::RecordSize));
        assert_eq!(reparse(Data { record_size: 16385, ..ok }), Err(Malformed::RecordSize));
        assert_eq!(reparse(Data { message_len: 0, incoming: 0, ..ok }), Err(Malformed::Length));
        assert_eq!(reparse(Data { incoming: 5001, ..ok }), Err(Malformed::Length));
        let early = Data { header: Header { epoch: 1, ..ok.header }, ..ok };
        assert_eq!(reparse(early), Ok(early));
        assert_eq!(reparse(Data { record_size: 0, ..early }), Err(Malformed::RecordSize));
        let reserved = Header { epoch: 2, ..ok.header };
        assert_eq!(reparse(Data { header: reserved, ..ok }), Err(Malformed::Epoch));
        let flight =
            Data { header: Header { epoch: 0, ..ok.header }, record_size: 0, explicit: true, ..ok };
        assert_eq!(reparse(flight), Ok(flight));
        assert_eq!(reparse(Data { record_size: 64, ..flight }), Err(Malformed::RecordSize));
        assert_eq!(reparse(Data { explicit: false, ..flight }), Err(Malformed::Implicit));
        assert_eq!(reparse(Data { cutoffs: 1, ..ok }), Ok(Data { cutoffs: 1, ..ok }));
        assert_eq!(reparse(Data { cutoffs: 1, ..flight }), Err(Malformed::Reserved));
        let pinned = Data { pinned: true, explicit: true, ..ok };
        assert_eq!(reparse(pinned), Ok(pinned));
        assert_eq!(reparse(Data { explicit: false, ..pinned }), Err(Malformed::Implicit));
        let mut packet = [0; DATA_LEN];
        ok.emit(&mut packet);
        assert_eq!(Data::parse(&packet[..51]), Err(Malformed::Short));
        packet[45] = 1;
        assert_eq!(Data::parse(&packet), Err(Malformed::Reserved));
        packet[45] = 0;
        packet[FLAGS_AT] = 16;
        assert_eq!(Data::parse(&packet), Err(Malformed::Reserved));
    }

    #[test]
    fn a_bundle_is_one_record_in_one_packet() {
        let ok = bundled(Data { message_len: 1022, incoming: 1022, ..example() });
        assert_eq!(reparse(ok), Ok(ok));
        assert_eq!(reparse(Data { explicit: false, ..ok }), Err(Malformed::Implicit));
        assert_eq!(reparse(Data { retransmit: true, ..ok }), Err(Malformed::Reserved));
        assert_eq!(reparse(Data { pinned: true, ..ok }), Err(Malformed::Reserved));
        assert_eq!(reparse(Data { sequence: 1, ..ok }), Err(Malformed::Reserved));
        assert_eq!(reparse(Data { tso_offset: 1, ..ok }), Err(Malformed::Reserved));
        assert_eq!(reparse(Data { message_len: 1023, ..ok }), Err(Malformed::Length));
        assert_eq!(reparse(Data { incoming: 1021, ..ok }), Err(Malformed::Length));
        assert_eq!(reparse(Data { segment_size: 1021, ..ok }), Err(Malformed::Length));
        let early = Header { epoch: 1, ..ok.header };
        assert_eq!(reparse(Data { header: early, ..ok }), Err(Malformed::Epoch));
    }
}
