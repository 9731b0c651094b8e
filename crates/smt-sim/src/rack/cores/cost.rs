//! What work costs a core.

use serde::Serialize;

/// Time of a core, in nanoseconds, for what it does; each end pays for its own part.
///
/// The defaults are what the budget of an RPC in `docs/performance.md` comes to for one end and one
/// direction, without segmentation offload.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// Of a packet, whatever is in it: system call, device, header tag.
    pub packet: u64,
    /// Of a record sealed or opened, whatever its length.
    pub record: u64,
    /// Of a message begun or ended: the core's bookkeeping, memory, the application.
    pub message: u64,
    /// Of each 1,024 bytes of a packet: sealing or opening, and copying.
    pub kib: u64,
}

/// 3.9 us for the two packets of an RPC at both ends, and 0.34 us for their tags.
const PACKET_NS: u64 = 1060;
/// 0.67 us for four operations.
const RECORD_NS: u64 = 170;
/// 1.3 us in the core and 0.32 us of heap, for two messages at both ends.
const MESSAGE_NS: u64 = 400;
/// 37 us of AEAD and 15 us of copying for 64 KiB there and back, each sealed and opened.
const KIB_NS: u64 = 200;

impl Default for Costs {
    fn default() -> Costs {
        Costs { packet: PACKET_NS, record: RECORD_NS, message: MESSAGE_NS, kib: KIB_NS }
    }
}

/// Something that a core has done beside packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Messages begun or ended.
    pub(super) messages: u64,
    /// Records sealed or opened that do not show in packets.
    pub(super) records: u64,
}

impl Costs {
    /// Of a packet with so many bytes and records.
    pub(super) fn of_packet(&self, bytes: usize, records: u64) -> u64 {
        self.packet + self.record * records + self.kib * bytes as u64 / 1024
    }

    /// Of other work.
    pub(super) fn of_work(&self, work: Work) -> u64 {
        self.message * work.messages + self.record * work.records
    }
}
