//! The baseline: messages over streams, as RPCs over TLS over TCP are.
//!
//! Each ordered pair of hosts has one connection, established from the start, to which messages are
//! written one after the other; a message is delivered when its last byte has arrived in order, so
//! that it waits for all before it. A host's NIC serves its connections in turns, packet by packet.
//! Modelled are slow start, congestion avoidance, DCTCP's or Reno's answer to marks, selective
//! acknowledgments, delayed acknowledgments and timeouts; not modelled are handshakes, receive
//! windows, offloads' bursts, and the processors' work of TLS and TCP.

mod config;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;
mod timers;
mod window;
mod wire;

use std::collections::VecDeque;

use smt_proto::Time;

use crate::packet::{HostId, Packet};
use crate::rng::mix;
use crate::stack::Stack;
pub use config::{Control, StreamConfig};
use receiver::Receiver;
use sender::Sender;
use timers::Timers;
use wire::{Ack, Parsed};

/// A host with a connection to and from each other host.
#[derive(Debug)]
pub struct StreamHost {
    me: HostId,
    config: StreamConfig,
    /// By host: the sides of the connections to and from it.
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    /// Whom to send data to next, each at most once.
    turns: VecDeque<HostId>,
    has_turn: Vec<bool>,
    /// Acknowledgments to send, before any data.
    acks: VecDeque<(HostId, Ack)>,
    /// First the senders' deadlines, then the receivers'.
    timers: Timers,
    delivered: VecDeque<Delivered>,
}

/// A message that has arrived whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The number that its sender gave it.
    pub message: u64,
    /// Its sender.
    pub from: HostId,
    /// Its length, in bytes.
    pub bytes: u32,
    /// When its last byte, and all before it, had arrived.
    pub at: Time,
}

impl StreamHost {
    /// Host `me` of `hosts` hosts.
    pub fn new(me: HostId, hosts: u32, config: StreamConfig) -> Self {
        let n = hosts as usize;
        StreamHost {
            me,
            senders: (0..n).map(|_| Sender::new(&config)).collect(),
            receivers: (0..n).map(|_| Receiver::default()).collect(),
            turns: VecDeque::new(),
            has_turn: vec![false; n],
            acks: VecDeque::new(),
            timers: Timers::new(2 * n),
            delivered: VecDeque::new(),
            config,
        }
    }

    /// Writes a message of `bytes` bytes to the connection to `to`; `message` is any number that
    /// the receiver shall see. Nothing happens if there is no such host. The network is to ask
    /// this host for packets then.
    pub fn send(&mut self, _now: Time, to: HostId, bytes: u32, message: u64) {
        if let Some(sender) = self.senders.get_mut(to as usize) {
            sender.write(&self.config, message, bytes);
            self.give_turn(to);
        }
    }

    /// The next message that has arrived whole.
    pub fn next_delivered(&mut self) -> Option<Delivered> {
        self.delivered.pop_front()
    }

    /// Segments sent again so far.
    pub fn retransmissions(&self) -> u64 {
        self.senders.iter().map(|sender| sender.retransmissions).sum()
    }

    /// How often a connection has waited in vain for acknowledgments.
    pub fn timeouts(&self) -> u64 {
        self.senders.iter().map(|sender| sender.timeouts).sum()
    }

    /// Puts a connection in the row of those served, if it may send and is not there already.
    fn give_turn(&mut self, to: HostId) {
        let Some(sender) = self.senders.get(to as usize) else { return };
        let Some(has_turn) = self.has_turn.get_mut(to as usize) else { return };
        if !*has_turn && sender.can_send(&self.config) {
            *has_turn = true;
            self.turns.push_back(to);
        }
    }

    fn receive_segment(&mut self, now: Time, packet: &Packet, range: core::ops::Range<u64>) {
        let from = packet.src;
        let Some(receiver) = self.receivers.get_mut(from as usize) else { return };
        let arrived = receiver.segment(now, &self.config, range, &packet.bytes, packet.marked);
        self.acks.extend(arrived.before.map(|ack| (from, ack)));
        if arrived.now {
            self.acks.push_back((from, receiver.ack()));
        }
        while let Some(complete) = receiver.next_complete(&self.config) {
            let (message, bytes) = (complete.message, complete.bytes);
            self.delivered.push_back(Delivered { message, from, bytes, at: now });
        }
        let deadline = receiver.ack_at;
        self.timers.arm(self.senders.len() + from as usize, deadline);
    }

    fn receive_ack(&mut self, now: Time, from: HostId, ack: &Ack) {
        let Some(sender) = self.senders.get_mut(from as usize) else { return };
        sender.acknowledged(now, &self.config, ack);
        self.timers.arm(from as usize, sender.timeout_at);
        self.give_turn(from);
    }

    /// Looks at a connection's side whose deadline may have come.
    fn look(&mut self, now: Time, side: usize) {
        let hosts = self.senders.len();
        let Ok(peer) = HostId::try_from(if side < hosts { side } else { side - hosts }) else {
            return;
        };
        let due = |deadline: Option<Time>| deadline.is_some_and(|at| at <= now);
        if side < hosts
            && let Some(sender) = self.senders.get_mut(side)
        {
            if due(sender.timeout_at) {
                sender.timeout(now, &self.config);
            }
            self.timers.arm(side, sender.timeout_at);
            self.give_turn(peer);
        } else if let Some(receiver) = self.receivers.get_mut(side - hosts) {
            if due(receiver.ack_at) {
                self.acks.push_back((peer, receiver.ack()));
            }
            self.timers.arm(side, receiver.ack_at);
        }
    }

    fn address(&self, packet: &mut Packet, to: HostId) {
        packet.src = self.me;
        packet.dst = to;
        packet.priority = 0;
        packet.flow = mix(u64::from(self.me) << 32 | u64::from(to));
    }
}

impl Stack for StreamHost {
    fn receive(&mut self, now: Time, packet: &mut Packet) {
        match wire::read(&packet.bytes) {
            Some(Parsed::Segment { range }) => self.receive_segment(now, packet, range),
            Some(Parsed::Ack(ack)) => self.receive_ack(now, packet.src, &ack),
            None => {}
        }
    }

    fn timeout(&mut self, now: Time) {
        while let Some(side) = self.timers.next_due(now) {
            self.look(now, side);
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        self.timers.next()
    }

    fn transmit(&mut self, now: Time, packet: &mut Packet) -> bool {
        if let Some((to, ack)) = self.acks.pop_front() {
            wire::write_ack(packet, &ack);
            self.address(packet, to);
            return true;
        }
        while let Some(to) = self.turns.pop_front() {
            let index = to as usize;
            if let Some(has_turn) = self.has_turn.get_mut(index) {
                *has_turn = false;
            }
            let Some(sender) = self.senders.get_mut(index) else { continue };
            // The window may have shrunk since the connection took its place.
            if !sender.can_send(&self.config) {
                continue;
            }
            let Some(range) = sender.next_segment(now, &self.config) else { continue };
            sender.write_segment(packet, &range);
            self.timers.arm(index, sender.timeout_at);
            self.give_turn(to);
            self.address(packet, to);
            return true;
        }
        false
    }
}
