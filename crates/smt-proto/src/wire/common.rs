//! The common header (spec 2.1) and the packet types (spec 2.3).

use super::Malformed;
use super::fields::{Fields, FieldsMut};

/// Length of the common header, in bytes.
pub const COMMON_LEN: usize = 28;

/// The type of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PacketType {
    /// Bytes of a message, or its announcement.
    Data = 0x10,
    /// Lets more bytes of a message be sent.
    Grant = 0x11,
    /// Asks for bytes of a message again.
    Resend = 0x12,
    /// No state about this message, or this session.
    Unknown = 0x13,
    /// The message is known and in work.
    Busy = 0x14,
    /// Priority cutoffs.
    Cutoffs = 0x15,
    /// Asks whether a message is finished, or the session alive.
    NeedAck = 0x17,
    /// Says which RPCs are finished.
    Ack = 0x18,
    /// A message is no longer wanted, or the session closes.
    Cancel = 0x20,
    /// A client is to begin again under another token ([`Retry`](super::Retry)).
    Retry = 0x21,
    /// Asks the peer to leave a sending epoch.
    Update = 0x22,
}

impl PacketType {
    #[inline]
    fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            0x10 => Self::Data,
            0x11 => Self::Grant,
            0x12 => Self::Resend,
            0x13 => Self::Unknown,
            0x14 => Self::Busy,
            0x15 => Self::Cutoffs,
            0x17 => Self::NeedAck,
            0x18 => Self::Ack,
            0x20 => Self::Cancel,
            0x21 => Self::Retry,
            0x22 => Self::Update,
            _ => return None,
        })
    }

    /// What byte 12 holds: the header length in words, as TCP's data offset, above four zero bits.
    #[inline]
    fn data_offset(self) -> u8 {
        if self == Self::Data { 13 << 4 } else { 5 << 4 }
    }
}

/// What every packet says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// The sender's port, never 0.
    pub src_port: u16,
    /// The receiver's port, never 0.
    pub dst_port: u16,
    /// The epoch as it is on the wire: 0, 1, or 3..=255 ([`epoch_from_wire`](super::epoch_from_wire)).
    pub epoch: u8,
    /// The message, or 0 for the session itself; in epoch 0 the number of the flight.
    pub message_id: u64,
}

/// The fields of the common header whose meaning depends on the type.
#[derive(Clone, Copy, Default)]
pub(super) struct Typed {
    pub(super) sequence: u32,
    pub(super) record_size: u16,
    pub(super) segment_size: u16,
}

/// The type of a packet whose common header obeys the rules of spec 2.1.
///
/// # Errors
/// [`Malformed`] if the packet is shorter than a common header, its type unknown or reserved, its data
/// offset does not fit the type, a reserved bit is set, or a port is 0.
#[inline]
pub fn packet_type(packet: &[u8]) -> Result<PacketType, Malformed> {
    let head = packet.first_chunk::<COMMON_LEN>().ok_or(Malformed::Short)?;
    let fields = Fields(head);
    let kind = PacketType::from_wire(fields.u8::<11>()).ok_or(Malformed::Type)?;
    let data_offset = fields.u8::<12>();
    if data_offset != kind.data_offset() {
        let reserved = data_offset & 0x0f != 0;
        return Err(if reserved { Malformed::Reserved } else { Malformed::DataOffset });
    }
    if fields.u16::<18>() != 0 {
        return Err(Malformed::Reserved);
    }
    if fields.u16::<0>() == 0 || fields.u16::<2>() == 0 {
        return Err(Malformed::Port);
    }
    Ok(kind)
}

/// The type and the common part of a packet, enough to find its session. The rest of the packet may
/// still be malformed.
///
/// # Errors
/// As [`packet_type`].
#[inline]
pub fn peek(packet: &[u8]) -> Result<(PacketType, Header), Malformed> {
    let kind = packet_type(packet)?;
    let head = packet.first_chunk::<COMMON_LEN>().ok_or(Malformed::Short)?;
    Ok((kind, Header::read(head)))
}

impl Header {
    #[inline]
    pub(super) fn read(head: &[u8; COMMON_LEN]) -> Self {
        let fields = Fields(head);
        Self {
            src_port: fields.u16::<0>(),
            dst_port: fields.u16::<2>(),
            epoch: fields.u8::<8>(),
            message_id: fields.u64::<20>(),
        }
    }

    /// Writes the whole common header; flags, checksum and urgent are 0.
    #[inline]
    pub(super) fn emit(&self, kind: PacketType, typed: Typed, out: &mut [u8; COMMON_LEN]) {
        let mut fields = FieldsMut(out);
        fields.u16::<0>(self.src_port);
        fields.u16::<2>(self.dst_port);
        fields.u32::<4>(typed.sequence);
        fields.u8::<8>(self.epoch);
        fields.u16::<9>(typed.record_size);
        fields.u8::<11>(kind as u8);
        fields.u8::<12>(kind.data_offset());
        fields.u8::<13>(0);
        fields.u16::<14>(typed.segment_size);
        fields.u32::<16>(0);
        fields.u64::<20>(self.message_id);
    }
}

impl Typed {
    #[inline]
    pub(super) fn read(head: &[u8; COMMON_LEN]) -> Self {
        let fields = Fields(head);
        Self {
            sequence: fields.u32::<4>(),
            record_size: fields.u16::<9>(),
            segment_size: fields.u16::<14>(),
        }
    }
}

const _: () = {
    // Source and destination port, sequence, epoch, record size, type, data offset, flags, segment
    // size, checksum, urgent, message ID.
    assert!(COMMON_LEN == 2 + 2 + 4 + 1 + 2 + 1 + 1 + 1 + 2 + 2 + 2 + 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn busy() -> [u8; COMMON_LEN] {
        let header = Header { src_port: 1, dst_port: 2, epoch: 3, message_id: 4 };
        let mut out = [0xff; COMMON_LEN];
        header.emit(PacketType::Busy, Typed::default(), &mut out);
        out
    }

    #[test]
    fn only_known_types_are_accepted() {
        for byte in 0..=255u8 {
            let mut packet = busy();
            packet[11] = byte;
            packet[12] = if byte == 0x10 { 13 << 4 } else { 5 << 4 };
            let known =
                [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x17, 0x18, 0x20, 0x21, 0x22].contains(&byte);
            match packet_type(&packet) {
                Ok(kind) => assert!(known && kind as u8 == byte),
                Err(error) => assert!(!known && error == Malformed::Type),
            }
        }
    }

    #[test]
    fn the_rules_of_the_common_header_hold() {
        let with = |at: usize, value: u8| {
            let mut packet = busy();
            packet[at] = value;
            peek(&packet)
        };
        assert_eq!(packet_type(&busy()[..27]), Err(Malformed::Short));
        assert_eq!(with(12, 13 << 4), Err(Malformed::DataOffset));
        assert_eq!(with(12, 5 << 4 | 1), Err(Malformed::Reserved));
        assert_eq!(with(19, 1), Err(Malformed::Reserved));
        assert_eq!(with(1, 0), Err(Malformed::Port));
        assert_eq!(with(3, 0), Err(Malformed::Port));
        // A NIC may rewrite the flags and fill the checksum.
        assert!(with(13, 0x81).is_ok() && with(16, 9).is_ok());
    }
}
