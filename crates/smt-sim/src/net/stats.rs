//! What a network has done so far.

/// Counters of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Packets that NICs have put on the wire.
    pub sent: u64,
    /// Packets that taps have added.
    pub added: u64,
    /// Packets received by hosts.
    pub delivered: u64,
    /// Links that packets have crossed, those from hosts and to hosts included.
    pub hops: u64,
    /// Packets dropped because a buffer was full.
    pub dropped_full: u64,
    /// Packets dropped by taps.
    pub dropped_tap: u64,
    /// Packets dropped because no such host exists.
    pub dropped_nowhere: u64,
    /// Packets whose payload was cut off.
    pub trimmed: u64,
    /// Packets marked.
    pub marked: u64,
    /// Most bytes that have waited at one switch port.
    pub largest_queue_bytes: u32,
    /// Bytes that each host has put on the wire.
    pub up_bytes: Vec<u64>,
    /// Bytes on the wire towards each host.
    pub down_bytes: Vec<u64>,
    /// Bytes that leaves have directed to their uplinks: leaf by leaf, for each spine.
    pub uplink_bytes: Vec<u64>,
    /// Most bytes that have waited at the switch port towards each host.
    pub largest_down_queue_bytes: Vec<u32>,
}

impl NetStats {
    pub(crate) fn new(hosts: usize, uplinks: usize) -> Self {
        Self {
            up_bytes: vec![0; hosts],
            down_bytes: vec![0; hosts],
            uplink_bytes: vec![0; uplinks],
            largest_down_queue_bytes: vec![0; hosts],
            ..Self::default()
        }
    }
}
