//! The packets inside the network: a slab whose places, and the memory of their packets, are used
//! again.

use core::ops::{Index, IndexMut};

use crate::packet::Packet;

/// Where a packet inside the network is kept.
pub(crate) type FlightId = u32;

const NONE: FlightId = FlightId::MAX;

/// A packet inside the network. It fills one line of the cache.
#[derive(Default)]
#[repr(align(64))]
pub(crate) struct Flight {
    pub(crate) packet: Packet,
    /// The switch it is at or on its way to.
    pub(crate) node: u16,
    /// The next tap that will see it.
    pub(crate) tap: u16,
    /// The packet behind it in its queue.
    next: FlightId,
}

const _: () = assert!(size_of::<Flight>() == 64);

/// All packets inside the network.
#[derive(Default)]
pub(crate) struct Flights {
    places: Vec<Flight>,
    free: Vec<FlightId>,
}

impl Flights {
    /// A place for a packet, which is empty.
    #[inline]
    pub(crate) fn begin(&mut self) -> FlightId {
        self.free.pop().unwrap_or_else(|| {
            self.places.push(Flight::default());
            (self.places.len() - 1) as FlightId
        })
    }

    /// The packet has left the network.
    #[inline]
    pub(crate) fn end(&mut self, id: FlightId) {
        self.places[id as usize].packet.reset();
        self.free.push(id);
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

impl Index<FlightId> for Flights {
    type Output = Flight;

    #[inline]
    fn index(&self, id: FlightId) -> &Flight {
        &self.places[id as usize]
    }
}

impl IndexMut<FlightId> for Flights {
    #[inline]
    fn index_mut(&mut self, id: FlightId) -> &mut Flight {
        &mut self.places[id as usize]
    }
}

/// A queue of packets, linked through their places.
#[derive(Clone, Copy)]
pub(crate) struct Fifo {
    head: FlightId,
    tail: FlightId,
}

impl Fifo {
    pub(crate) const EMPTY: Fifo = Fifo { head: NONE, tail: NONE };

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.head == NONE
    }

    #[inline]
    pub(crate) fn push(&mut self, flights: &mut Flights, id: FlightId) {
        flights[id].next = NONE;
        if self.is_empty() {
            self.head = id;
        } else {
            flights[self.tail].next = id;
        }
        self.tail = id;
    }

    #[inline]
    pub(crate) fn pop(&mut self, flights: &Flights) -> Option<FlightId> {
        if self.is_empty() {
            return None;
        }
        let id = self.head;
        self.head = flights[id].next;
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_memory_are_used_again() {
        let mut flights = Flights::default();
        let id = flights.begin();
        flights[id].packet.bytes.extend([1; 100]);
        flights[id].packet.priority = 3;
        assert_eq!(flights.len(), 1);
        flights.end(id);
        assert_eq!(flights.len(), 0);
        assert_eq!(flights.begin(), id);
        assert_eq!(flights[id].packet.priority, 0);
        assert!(flights[id].packet.bytes.is_empty() && flights[id].packet.bytes.capacity() >= 100);
    }

    #[test]
    fn queues_keep_their_order() {
        let mut flights = Flights::default();
        let mut queue = Fifo::EMPTY;
        let ids: Vec<_> = (0..3).map(|_| flights.begin()).collect();
        for round in 0..2 {
            ids.iter().for_each(|&id| queue.push(&mut flights, id));
            let out: Vec<_> = core::iter::from_fn(|| queue.pop(&flights)).collect();
            assert_eq!(out, ids, "round {round}");
            assert!(queue.is_empty());
        }
    }
}
