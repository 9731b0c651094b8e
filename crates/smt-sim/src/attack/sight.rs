//! What an attacker reads in a packet that passes.

use serde::{Deserialize, Serialize};
use smt_proto::wire::{Control, DATA_LEN, Data, Header, PacketType, Retry};

/// A well-formed packet.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
pub(super) enum Sight {
    /// A DATA packet.
    Data(Data),
    /// Another, and its tag.
    Control(Control, u64),
    /// A RETRY.
    Retry(Retry),
}

/// Reads a packet; `None` if it is not well-formed.
pub(super) fn see(bytes: &[u8]) -> Option<Sight> {
    Data::parse(bytes)
        .map(Sight::Data)
        .or_else(|_| Control::parse(bytes).map(|(control, tag)| Sight::Control(control, tag)))
        .or_else(|_| Retry::parse(bytes).map(Sight::Retry))
        .ok()
}

impl Sight {
    pub(super) fn header(&self) -> Header {
        match self {
            Sight::Data(data) => data.header,
            Sight::Control(control, _) => control.header,
            Sight::Retry(Retry { src_port, dst_port, .. }) => {
                Header { src_port: *src_port, dst_port: *dst_port, epoch: 0, message_id: 0 }
            }
        }
    }
}

/// Which packets an attacker looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Every packet.
    Any,
    /// Packets of handshakes.
    Handshake,
    /// Packets of one flight of handshakes.
    Flight(u64),
    /// DATA packets of messages.
    Data,
    /// The first packets of messages.
    First,
    /// The last packets of messages.
    Last,
    /// The nth packet of each message, and each nth one after it, when it is sent first.
    EveryNth(u32),
    /// What is sent again.
    Retransmission,
    /// Every packet but DATA.
    Control,
    /// Packets of one type, by its number.
    Type(u8),
}

impl What {
    /// Whether a packet is looked for.
    pub(super) fn is(self, sight: &Sight, bytes: &[u8]) -> bool {
        let data = match sight {
            Sight::Data(data) => data,
            Sight::Control(control, _) => {
                return match self {
                    What::Any | What::Control => true,
                    What::Type(kind) => control.body.packet_type() as u8 == kind,
                    _ => false,
                };
            }
            Sight::Retry(_) => {
                let kind = PacketType::Retry as u8;
                return matches!(self, What::Any | What::Handshake | What::Control)
                    || self == What::Type(kind);
            }
        };
        let of_message = data.header.epoch != 0;
        let payload = u32::try_from(bytes.len().saturating_sub(DATA_LEN)).unwrap_or(u32::MAX);
        let end = data.sequence.saturating_add(payload);
        match self {
            What::Any => true,
            What::Handshake => !of_message,
            What::Flight(number) => !of_message && data.header.message_id == number,
            What::Data => of_message,
            What::First => of_message && data.sequence == 0,
            What::Last => of_message && end >= data.message_len,
            What::EveryNth(n) => {
                let index = data.sequence / u32::from(data.segment_size.max(1));
                of_message && !data.retransmit && (index + 1).is_multiple_of(n.max(1))
            }
            What::Retransmission => of_message && data.retransmit,
            What::Control => false,
            What::Type(kind) => of_message && kind == 0x10,
        }
    }
}
