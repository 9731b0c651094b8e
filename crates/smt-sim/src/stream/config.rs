//! What can be chosen about the stream baseline.

use serde::{Deserialize, Serialize};

use super::wire::START_LEN;

/// The settings of a [`StreamHost`](super::StreamHost). The defaults stand for TLS over TCP tuned
/// for a datacenter, with DCTCP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// How marks and losses change the window.
    pub control: Control,
    /// Bytes of the stream in a full segment. 1,460 fill a packet of 1,500 bytes.
    pub mss: u16,
    /// Full segments in the first window.
    pub initial_window: u32,
    /// The window never grows beyond this, in bytes.
    pub max_window_bytes: u32,
    /// The least time without an acknowledgment until the oldest segment counts as lost, in
    /// microseconds. Linux has 200,000 by default, which would make every such loss cost a
    /// thousand round trips; datacenters set it to some milliseconds.
    pub min_rto_us: u64,
    /// How long a receiver waits for a second segment before it acknowledges the first, in
    /// microseconds. It is below `min_rto_us`, or each last segment would be sent twice.
    pub ack_delay_us: u64,
    /// Segments that a receiver acknowledges together.
    pub ack_every: u32,
    /// Bytes of TLS beside the plaintext of a record: 5 of header, 1 of content type, 16 of tag.
    /// Each message is written to the stream as records of its own, at least one. Less than 12
    /// counts as 12, in which a message's frame is written.
    pub record_overhead: u32,
    /// The longest plaintext of a record, in bytes.
    pub record_len: u32,
}

impl Default for StreamConfig {
    fn default() -> Self {
        StreamConfig {
            control: Control::Dctcp,
            mss: 1460,
            initial_window: 10,
            max_window_bytes: 4 << 20,
            min_rto_us: 1000,
            ack_delay_us: 100,
            ack_every: 2,
            record_overhead: 22,
            record_len: 16 << 10,
        }
    }
}

impl StreamConfig {
    /// How many bytes of the stream a message of `bytes` bytes takes.
    pub fn stream_len(&self, bytes: u32) -> u64 {
        let records = u64::from(bytes.div_ceil(self.record_len.max(1)).max(1));
        u64::from(bytes) + records * u64::from(self.record_overhead.max(START_LEN as u32))
    }
}

/// A congestion control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Control {
    /// A mark halves the window (RFC 3168), at most once a round trip.
    Reno,
    /// Marks shrink the window by the share of marked bytes (RFC 8257).
    Dctcp,
}
