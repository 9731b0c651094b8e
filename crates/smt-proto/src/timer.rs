//! Timers as one indexed heap of wake-ups. An entity (session or RPC) has at most one entry, which
//! goes when it goes: long deadlines of short calls would pile up otherwise. Moving a timer to later
//! costs nothing: its entry comes up early, and is put back.

use alloc::vec::Vec;

use crate::session::SessionId;
use crate::time::Time;

/// Who is to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wake {
    /// A session: handshake, probes, closing.
    Session(SessionId),
    /// An RPC that we started, by number.
    Out(SessionId, u64),
    /// An RPC that the peer started, by number.
    In(SessionId, u64),
}

/// The timer of one entity, kept inside it. [`clear`](Self::clear) it before dropping it.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    /// When the entity wants to be woken.
    due: Option<Time>,
    /// Its entry in the heap, which comes up then or earlier.
    slot: Option<u32>,
}

impl Timer {
    /// Wants a wake-up at `due` instead of whenever it was wanted before.
    pub(crate) fn set(&mut self, timers: &mut Timers, who: Wake, due: Time) {
        self.due = Some(due);
        match self.slot {
            Some(slot) => timers.bring_forward(slot, due),
            None => self.slot = Some(timers.insert(due, who)),
        }
    }

    /// Wants no wake-up any more.
    pub(crate) fn clear(&mut self, timers: &mut Timers) {
        self.due = None;
        if let Some(slot) = self.slot.take() {
            timers.remove(slot);
        }
    }

    /// Whether the timer, whose entry has just been taken out, is now due. If it is early, it is put
    /// back for the right time.
    pub(crate) fn fired(&mut self, timers: &mut Timers, who: Wake, now: Time) -> bool {
        self.slot = None;
        match self.due.take() {
            Some(due) if due <= now => true,
            Some(due) => {
                self.set(timers, who, due);
                false
            }
            None => false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Time,
    who: Wake,
    slot: u32,
}

/// All wake-ups of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// A binary heap, the first entry the earliest.
    heap: Vec<Entry>,
    /// Where in the heap the entry of each slot is.
    places: Vec<u32>,
    free: Vec<u32>,
}

impl Timers {
    /// When the first wake-up is due.
    pub(crate) fn next(&self) -> Option<Time> {
        self.heap.first().map(|entry| entry.at)
    }

    /// Takes the first wake-up out if it is due.
    pub(crate) fn pop(&mut self, now: Time) -> Option<Wake> {
        let first = *self.heap.first().filter(|entry| entry.at <= now)?;
        self.remove(first.slot);
        Some(first.who)
    }

    /// Gives back memory that a burst has left unused.
    pub(crate) fn shrink(&mut self) {
        let slots = self.heap.iter().map(|entry| entry.slot as usize + 1).max().unwrap_or(0);
        self.places.truncate(slots);
        self.free.retain(|slot| (*slot as usize) < slots);
        self.heap.shrink_to_fit();
        self.places.shrink_to_fit();
        self.free.shrink_to_fit();
    }

    fn insert(&mut self, at: Time, who: Wake) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.places.push(0);
            (self.places.len() - 1) as u32
        });
        self.heap.push(Entry { at, who, slot });
        self.rise(self.heap.len() - 1);
        slot
    }

    fn bring_forward(&mut self, slot: u32, at: Time) {
        let place = self.places[slot as usize] as usize;
        if at < self.heap[place].at {
            self.heap[place].at = at;
            self.rise(place);
        }
    }

    fn remove(&mut self, slot: u32) {
        let place = self.places[slot as usize] as usize;
        self.heap.swap_remove(place);
        self.free.push(slot);
        if place < self.heap.len() {
            self.sink(place);
            self.rise(place);
        }
    }

    /// Moves the entry at `place` up to where it belongs.
    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.key(parent) <= self.key(place) {
                break;
            }
            self.swap(place, parent);
            place = parent;
        }
        self.note_place(place);
    }

    /// Moves the entry at `place` down to where it belongs.
    fn sink(&mut self, mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            if left >= self.heap.len() {
                break;
            }
            let smaller = if right < self.heap.len() && self.key(right) < self.key(left) {
                right
            } else {
                left
            };
            if self.key(place) <= self.key(smaller) {
                break;
            }
            self.swap(place, smaller);
            place = smaller;
        }
        self.note_place(place);
    }

    fn key(&self, place: usize) -> (Time, Wake) {
        (self.heap[place].at, self.heap[place].who)
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.note_place(a);
        self.note_place(b);
    }

    fn note_place(&mut self, place: usize) {
        let slot = self.heap[place].slot;
        self.places[slot as usize] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn wake(n: usize) -> Wake {
        Wake::Out(SessionId::for_tests(0), n as u64)
    }

    proptest! {
        #[test]
        fn every_timer_fires_once_and_in_time(
            steps in proptest::collection::vec((0..3u8, 0..20usize, 0..50u64), 0..300),
        ) {
            let mut timers = Timers::default();
            let mut entities: Vec<Timer> = (0..20).map(|_| Timer::default()).collect();
            let mut wanted: BTreeMap<usize, Time> = BTreeMap::new();
            let mut now = Time::ZERO;
            for (step, n, delay) in steps {
                if delay == 0 {
                    timers.shrink();
                    prop_assert_eq!(timers.places.len(), timers.heap.len() + timers.free.len());
                }
                match step {
                    0 => {
                        let due = Time::from_nanos(now.as_nanos() + delay);
                        entities[n].set(&mut timers, wake(n), due);
                        wanted.insert(n, due);
                    }
                    1 => {
                        entities[n].clear(&mut timers);
                        wanted.remove(&n);
                    }
                    _ => {
                        now = Time::from_nanos(now.as_nanos() + delay);
                        while let Some(who) = timers.pop(now) {
                            let Wake::Out(_, n) = who else { unreachable!() };
                            if entities[n as usize].fired(&mut timers, who, now) {
                                let due = wanted.remove(&(n as usize));
                                prop_assert!(due.is_some_and(|due| due <= now));
                            }
                        }
                        prop_assert!(wanted.values().all(|due| *due > now));
                    }
                }
                prop_assert!(timers.next() <= wanted.values().min().copied() || wanted.is_empty());
                prop_assert_eq!(timers.heap.len(), wanted.len());
            }
        }
    }
}
