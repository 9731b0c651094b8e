//! A switch's port: queues by priority in front of one wire.

use super::flights::{Fifo, FlightId, Flights};
use crate::events::Picos;
use crate::packet::PRIORITIES;

/// How fast a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    femtos_per_byte: u64,
}

impl Rate {
    /// A rate in Gb/s; what is beyond 0.001..=100000 is brought there.
    pub(crate) fn from_gbps(gbps: f64) -> Self {
        Self { femtos_per_byte: (8e6 / gbps.clamp(0.001, 100_000.0)).round() as u64 }
    }

    /// How long a packet is on the wire.
    #[inline]
    pub(crate) fn picos(self, bytes: u32) -> Picos {
        u64::from(bytes).saturating_mul(self.femtos_per_byte) / 1000
    }
}

/// Where the wire of a port ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Host(u32),
    Switch(u32),
}

/// A port. Bytes that wait are counted without the packet on the wire.
pub(super) struct Port {
    /// When the wire is free.
    pub(super) busy_until: Picos,
    pub(super) rate: Rate,
    pub(super) end: End,
    /// An event will come when the wire is free.
    pub(super) awaited: bool,
    pub(super) waiting_bytes: u32,
    /// One bit for each queue that is not empty.
    occupied: u8,
    queues: [Fifo; PRIORITIES],
}

impl Port {
    pub(super) fn new(rate: Rate, end: End) -> Self {
        Self {
            busy_until: 0,
            rate,
            end,
            awaited: false,
            waiting_bytes: 0,
            occupied: 0,
            queues: [Fifo::EMPTY; PRIORITIES],
        }
    }

    /// Whether a packet can go onto the wire without waiting.
    #[inline]
    pub(super) fn is_idle(&self, now: Picos) -> bool {
        self.busy_until <= now && self.occupied == 0
    }

    /// Bytes that wait, and one more if the wire is busy: enough to tell which port is free.
    #[inline]
    pub(super) fn load(&self, now: Picos) -> u32 {
        self.waiting_bytes + u32::from(self.busy_until > now)
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// Puts a packet into the queue of a level, 0..=7.
    #[inline]
    pub(super) fn push(&mut self, flights: &mut Flights, level: u8, id: FlightId, bytes: u32) {
        let level = level & 7;
        self.queues[usize::from(level)].push(flights, id);
        self.occupied |= 1 << level;
        self.waiting_bytes += bytes;
    }

    /// The next packet: the first of the highest level.
    #[inline]
    pub(super) fn pop(&mut self, flights: &Flights) -> Option<FlightId> {
        let level = self.occupied.checked_ilog2()?;
        let queue = &mut self.queues[level as usize];
        let id = queue.pop(flights)?;
        if queue.is_empty() {
            self.occupied &= !(1 << level);
        }
        self.waiting_bytes -= flights[id].packet.wire_len();
        Some(id)
    }
}
