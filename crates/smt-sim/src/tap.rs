//! Who sits on the wire: faults of the network, and attackers.

use std::time::Duration;

use smt_proto::Time;

use crate::packet::Packet;

/// What becomes of a packet that a tap has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It is gone.
    Drop,
    /// It goes on this much later; others overtake it.
    Delay(Duration),
}

/// Something on the wire between the hosts' NICs and the first switch: it sees each packet once, as
/// it leaves its sender, and may change it, hold it back, or add others.
pub trait Tap {
    /// A packet passes. What is pushed to `extra` is sent on after its delay, unseen by this tap and
    /// those before it. A tap that changes bytes says so in [`Packet::origin`].
    fn packet(
        &mut self,
        now: Time,
        packet: &mut Packet,
        extra: &mut Vec<(Duration, Packet)>,
    ) -> Verdict;

    /// When [`timeout`](Self::timeout) is wanted.
    fn next_timeout(&self) -> Option<Time> {
        None
    }

    /// The time asked for has come: packets may be added.
    fn timeout(&mut self, _now: Time, _extra: &mut Vec<(Duration, Packet)>) {}
}
