//! Who is at the edge of the network of a run.

use smt_proto::Time;

use crate::attack::OffPath;
use crate::host::Host;
use crate::packet::Packet;
use crate::stack::Stack;

/// A host of a run.
pub enum Actor {
    /// An honest one.
    Honest(Box<Host>),
    /// An attacker's.
    Intruder(Box<OffPath>),
    /// Nobody: a place of the network that is not used.
    Nobody,
}

impl Actor {
    /// The honest host, if it is one.
    pub fn honest(&self) -> Option<&Host> {
        match self {
            Actor::Honest(host) => Some(host),
            _ => None,
        }
    }

    /// The same, to change it.
    pub fn honest_mut(&mut self) -> Option<&mut Host> {
        match self {
            Actor::Honest(host) => Some(host),
            _ => None,
        }
    }
}

impl Stack for Actor {
    fn receive(&mut self, now: Time, packet: &mut Packet) {
        match self {
            Actor::Honest(host) => host.receive(now, packet),
            Actor::Intruder(host) => host.receive(now, packet),
            Actor::Nobody => {}
        }
    }

    fn timeout(&mut self, now: Time) {
        match self {
            Actor::Honest(host) => host.timeout(now),
            Actor::Intruder(host) => host.timeout(now),
            Actor::Nobody => {}
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        match self {
            Actor::Honest(host) => host.next_timeout(),
            Actor::Intruder(host) => host.next_timeout(),
            Actor::Nobody => None,
        }
    }

    fn transmit(&mut self, now: Time, packet: &mut Packet) -> bool {
        match self {
            Actor::Honest(host) => host.transmit(now, packet),
            Actor::Intruder(host) => host.transmit(now, packet),
            Actor::Nobody => false,
        }
    }
}
