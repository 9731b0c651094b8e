//! What sits at the edge of the network: a host with its transport and its application.

use smt_proto::Time;

use crate::packet::Packet;

/// A host: a state machine that takes packets and the time, and gives packets when asked.
///
/// After each [`receive`](Self::receive) and [`timeout`](Self::timeout), and whenever its NIC has
/// room again, the host is asked for packets through [`transmit`](Self::transmit) until it has none
/// or the NIC is full, and then for [`next_timeout`](Self::next_timeout).
pub trait Stack {
    /// A packet has arrived. The stack may take its bytes, or change them.
    fn receive(&mut self, now: Time, packet: &mut Packet);

    /// The time asked for has come (or passed).
    fn timeout(&mut self, now: Time);

    /// When [`timeout`](Self::timeout) is wanted, at the latest. May change with any call.
    fn next_timeout(&self) -> Option<Time>;

    /// Fills in the next packet to send (bytes, src, dst, priority, flow); false when there is none
    /// now. `packet` comes empty, with its memory.
    fn transmit(&mut self, now: Time, packet: &mut Packet) -> bool;
}
