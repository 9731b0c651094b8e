//! The bytes on the wire (spec sections 2, 4.1, 4.3 and 5.1): one file per header. Nothing here knows
//! about sessions, so that dissectors and tests can use it alone.
//!
//! `parse` takes any bytes, never panics, and yields only values the specification allows; `emit`
//! turns such a value back into the very same bytes.

mod bundle;
mod common;
mod control;
mod data;
mod epoch;
mod fields;
mod malformed;
mod offset;
mod params;
mod preamble;
mod retry;

pub use bundle::{BUNDLE_ENTRY_LEN, BUNDLE_HEAD_LEN, BundleEntry, BundleHead};
pub use common::{COMMON_LEN, Header, PacketType, packet_type, peek};
pub use control::{
    AckRanges, CancelCode, Control, ControlBody, MAX_ACK_RANGES, MAX_CONTROL_LEN, MIN_CONTROL_LEN,
    UnknownCode,
};
pub use data::{DATA_LEN, Data, MAX_RECORD_SIZE, MAX_TSO_OFFSET, MIN_RECORD_SIZE, RECORD_OVERHEAD};
pub(crate) use data::{EXPLICIT, FLAGS_AT, PINNED, TAG_AT};
pub use epoch::{EARLY_EPOCH, FIRST_EPOCH, epoch_from_wire, epoch_to_wire};
pub use malformed::Malformed;
pub use offset::{IpVersion, payload_offset};
pub use params::{
    ANSWER_LEN, Block, ID_BITS, MAX_FIRST_ID, MAX_LANES, MAX_OFFER, Params, WANTS_SMT_TICKET,
    WANTS_TLS_TICKETS,
};
pub use preamble::{Kind, PREAMBLE_LEN, Preamble};
pub use retry::{RETRY_LEN, Retry};
