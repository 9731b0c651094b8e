//! What is going to happen, in order: a timing wheel for the near future, a heap for the rest.
//!
//! Events at the same time happen in the order in which they were pushed. That needs no sequence
//! number inside the wheel: a slot keeps the order of pushes, and what moves from the heap into a
//! slot moves before anything can be pushed there directly.

use core::cmp::Ordering;
use std::collections::BinaryHeap;

use smt_proto::Time;

/// A point in time in picoseconds, so that the time of a byte on a fast wire is exact.
pub(crate) type Picos = u64;

/// Picoseconds of a nanosecond.
pub(crate) const PICOS_PER_NANO: Picos = 1000;

/// The nanosecond that is running.
#[inline]
pub(crate) fn time_of(at: Picos) -> Time {
    Time::from_nanos(at / PICOS_PER_NANO)
}

/// The beginning of a nanosecond.
#[inline]
pub(crate) fn picos_of(time: Time) -> Picos {
    time.as_nanos().saturating_mul(PICOS_PER_NANO)
}

/// Something that happens in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The NIC of this host has put its packet on the wire, to the last bit.
    Sent(u32),
    /// This packet goes on after a tap has held it, or made it.
    Resume(u32),
    /// This packet is ready to leave the switch it is at.
    Arrive(u32),
    /// The wire of this port is free, and packets wait.
    Free(u32),
    /// The stack of its host receives this packet.
    Deliver(u32),
    /// This host wants to know that time has passed.
    Wake(u32),
    /// This tap wants to know that time has passed.
    WakeTap(u32),
}

/// A slot of the wheel is 2^13 ps, about 8 ns, and the wheel 67 us.
const SLOT_BITS: u32 = 13;
const SLOTS: usize = 8192;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    at: Picos,
    event: Event,
}

#[derive(Clone, Copy)]
struct Link {
    node: Node,
    next: u32,
}

/// An event of the far future. The first is the greatest, for the heap.
struct Far {
    at: Picos,
    number: u64,
    event: Event,
}

/// All events to come.
pub(crate) struct Events {
    /// Events up to the end of slot `current`, in order; those before `done` have happened.
    open: Vec<Node>,
    done: usize,
    /// The slot that `open` was filled from, counted from time 0.
    current: u64,
    /// The last event of each slot, which leads to those before it. Slots are after `current`, and
    /// less than `SLOTS` after.
    slots: Vec<u32>,
    /// One bit for each slot that is not empty.
    occupied: [u64; SLOTS / 64],
    links: Vec<Link>,
    free: u32,
    far: BinaryHeap<Far>,
    far_pushed: u64,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self {
            open: Vec::with_capacity(64),
            done: 0,
            current: 0,
            slots: vec![NONE; SLOTS],
            occupied: [0; SLOTS / 64],
            links: Vec::new(),
            free: NONE,
            far: BinaryHeap::new(),
            far_pushed: 0,
        }
    }

    /// Adds an event, at or after the last one taken.
    #[inline]
    pub(crate) fn push(&mut self, at: Picos, event: Event) {
        let slot = at >> SLOT_BITS;
        if slot <= self.current {
            self.push_open(Node { at, event });
        } else if slot - self.current < SLOTS as u64 {
            self.push_slot(slot, Node { at, event });
        } else {
            self.far_pushed += 1;
            self.far.push(Far { at, number: self.far_pushed, event });
        }
    }

    /// Takes the next event if it is not later than `end`.
    #[inline]
    pub(crate) fn pop_until(&mut self, end: Picos) -> Option<(Picos, Event)> {
        if self.done == self.open.len() && !self.open_next_slot(end) {
            return None;
        }
        let node = *self.open.get(self.done)?;
        if node.at > end {
            return None;
        }
        self.done += 1;
        Some((node.at, node.event))
    }

    fn push_open(&mut self, node: Node) {
        let after = self.open[self.done..].partition_point(|other| other.at <= node.at);
        self.open.insert(self.done + after, node);
    }

    #[inline]
    fn push_slot(&mut self, slot: u64, node: Node) {
        let place = slot as usize % SLOTS;
        let link = Link { node, next: self.slots[place] };
        let at = self.free;
        if let Some(free) = self.links.get_mut(at as usize) {
            self.free = free.next;
            *free = link;
            self.slots[place] = at;
        } else {
            self.slots[place] = self.links.len() as u32;
            self.links.push(link);
        }
        self.occupied[place / 64] |= 1 << (place % 64);
    }

    /// Goes on to the next slot with events if it begins by `end`: a slot that is opened too early
    /// would take in all that is pushed until then. False if there is none.
    fn open_next_slot(&mut self, end: Picos) -> bool {
        let far = || self.far.peek().map(|far| far.at >> SLOT_BITS);
        let Some(next) = self.next_occupied().or_else(far) else { return false };
        if next > end >> SLOT_BITS {
            return false;
        }
        self.open.clear();
        self.done = 0;
        self.current = next;
        self.take_slot(next as usize % SLOTS);
        self.come_nearer();
        true
    }

    /// The next slot that is not empty.
    fn next_occupied(&self) -> Option<u64> {
        let first = (self.current as usize + 1) % SLOTS;
        let words = self.occupied.len();
        for step in 0..=words {
            let index = (first / 64 + step) % words;
            let word = match step {
                0 => self.occupied[index] & (!0 << (first % 64)),
                _ if step == words => self.occupied[index] & !(!0 << (first % 64)),
                _ => self.occupied[index],
            };
            if word != 0 {
                let place = index * 64 + word.trailing_zeros() as usize;
                let ahead = (place + SLOTS - first) % SLOTS;
                return Some(self.current + 1 + ahead as u64);
            }
        }
        None
    }

    /// Moves the events of a slot to `open`, in order.
    fn take_slot(&mut self, place: usize) {
        let mut at = core::mem::replace(&mut self.slots[place], NONE);
        self.occupied[place / 64] &= !(1 << (place % 64));
        while at != NONE {
            let link = self.links[at as usize];
            self.open.push(link.node);
            self.links[at as usize].next = self.free;
            self.free = at;
            at = link.next;
        }
        if self.open.len() > 1 {
            self.open.reverse();
            self.open.sort_by_key(|node| node.at);
        }
    }

    /// Moves what is no longer far into the wheel.
    fn come_nearer(&mut self) {
        let end = self.current + SLOTS as u64;
        while self.far.peek().is_some_and(|far| far.at >> SLOT_BITS < end) {
            let Some(Far { at, event, .. }) = self.far.pop() else { return };
            let slot = at >> SLOT_BITS;
            if slot == self.current {
                self.push_open(Node { at, event });
            } else {
                self.push_slot(slot, Node { at, event });
            }
        }
    }
}

impl Ord for Far {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Far {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Far {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Far {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const _: () = assert!(size_of::<Node>() == 16);

    #[test]
    fn events_come_by_time_and_then_as_pushed() {
        let mut rng = Rng::new(5);
        let mut events = Events::new();
        // What is to come, as (time, order of pushes).
        let mut model = std::collections::BTreeSet::new();
        let mut now = 0;
        for number in 0..200_000 {
            if rng.chance(0.52) {
                let ahead = match rng.below(5) {
                    0 => 0,
                    1 => rng.below(100),
                    2 => rng.below(1 << 20),
                    3 => rng.below(1 << 28),
                    _ => rng.below(20) << 27,
                };
                model.insert((now + ahead, number));
                events.push(now + ahead, Event::Wake(number));
            } else {
                let end = now + rng.below(1 << 27);
                match events.pop_until(end) {
                    Some((at, Event::Wake(number))) => {
                        assert_eq!(model.pop_first(), Some((at, number)));
                        now = at;
                    }
                    _ => {
                        assert!(model.first().is_none_or(|first| first.0 > end));
                        now = end;
                    }
                }
            }
        }
        while let Some((at, Event::Wake(number))) = events.pop_until(Picos::MAX) {
            assert_eq!(model.pop_first(), Some((at, number)));
        }
        assert!(model.is_empty());
    }
}
