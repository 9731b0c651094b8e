//! Timers as a wheel of wake-ups. An entity (session or RPC) has at most one entry, which goes when it
//! goes: long deadlines of short calls would pile up otherwise. Moving a timer to later costs nothing: its
//! entry comes up early, and is put back.

use alloc::vec::Vec;
use core::cell::Cell;

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
    /// Its entry among all, which comes up then or earlier.
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

/// Times are sorted by ticks of 2 to this power of nanoseconds, some 33 us, and by level: a slot of the first
/// level is one tick, a slot of each other level is all of the level below.
const TICK_BITS: u32 = 15;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// As many as 64 bits of nanoseconds take.
const LEVELS: usize = 9;
/// The list of entries that are due, behind those of all slots.
const DUE: usize = LEVELS * SLOTS;
/// In the place of an entry's number: there is none.
const NONE: u32 = u32::MAX;

const _: () = assert!(TICK_BITS + LEVELS as u32 * SLOT_BITS >= u64::BITS);

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: Time,
    who: Wake,
    /// The list it is in, and its neighbours there.
    list: u32,
    next: u32,
    before: u32,
}

/// All wake-ups of an endpoint: a wheel of lists, so that a timer is set and cleared in a few steps, however
/// many there are.
#[derive(Debug)]
pub(crate) struct Timers {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// The first entry of each list.
    heads: [u32; DUE + 1],
    /// The slots of each level that have entries.
    filled: [u64; LEVELS],
    /// The present tick, or an earlier one. Entries are in the level of the highest digit in which their tick
    /// differs from it, earlier ones in its own slot.
    base: u64,
    /// When the first entry is due, if that is known: kept once it was looked for.
    first: Cell<Option<Time>>,
    /// Entries that have come due, to be sorted.
    sorting: Vec<u32>,
}

impl Default for Timers {
    fn default() -> Self {
        Timers {
            entries: Vec::new(),
            free: Vec::new(),
            heads: [NONE; DUE + 1],
            filled: [0; LEVELS],
            base: 0,
            first: Cell::new(None),
            sorting: Vec::new(),
        }
    }
}

fn tick(time: Time) -> u64 {
    time.as_nanos() >> TICK_BITS
}

/// The slot of a level that a tick is in.
fn digit(tick: u64, level: usize) -> u64 {
    tick >> (level as u32 * SLOT_BITS) & (SLOTS as u64 - 1)
}

impl Timers {
    /// When the first wake-up is due.
    pub(crate) fn next(&self) -> Option<Time> {
        if self.first.get().is_none() {
            self.first.set(self.find_first());
        }
        self.first.get()
    }

    /// It is `now`: keeps the entries of the next moments apart from later ones.
    pub(crate) fn pass(&mut self, now: Time) {
        if tick(now) > self.base {
            self.advance(tick(now));
            self.first.set(self.find_first());
        }
    }

    /// Takes the first wake-up out if it is due.
    pub(crate) fn pop(&mut self, now: Time) -> Option<Wake> {
        if self.heads[DUE] == NONE {
            if self.next().is_none_or(|first| first > now) {
                return None;
            }
            self.advance(tick(now));
            self.gather(now);
        }
        let slot = self.heads[DUE];
        let who = self.entries.get(slot as usize)?.who;
        self.remove(slot);
        Some(who)
    }

    /// Gives back memory that a burst has left unused.
    pub(crate) fn shrink(&mut self) {
        self.free.sort_unstable();
        while self.free.last().is_some_and(|last| *last as usize + 1 == self.entries.len()) {
            self.free.pop();
            self.entries.pop();
        }
        self.entries.shrink_to_fit();
        self.free.shrink_to_fit();
        self.sorting = Vec::new();
    }

    fn insert(&mut self, at: Time, who: Wake) -> u32 {
        let entry = Entry { at, who, list: 0, next: NONE, before: NONE };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        if self.first.get().is_some_and(|first| at < first) || self.is_empty() {
            self.first.set(Some(at));
        }
        self.link_by_time(slot);
        slot
    }

    fn bring_forward(&mut self, slot: u32, at: Time) {
        let entry = self.entries[slot as usize];
        if at < entry.at && entry.list as usize != DUE {
            self.unlink(slot);
            self.entries[slot as usize].at = at;
            self.first.set(self.first.get().map(|first| first.min(at)));
            self.link_by_time(slot);
        }
    }

    fn remove(&mut self, slot: u32) {
        self.unlink(slot);
        if self.first.get() == Some(self.entries[slot as usize].at) {
            self.first.set(None);
        }
        self.free.push(slot);
    }

    fn is_empty(&self) -> bool {
        self.filled == [0; LEVELS] && self.heads[DUE] == NONE
    }

    /// Level, slot and first tick of the first slot that has entries.
    fn first_slot(&self) -> Option<(usize, u64, u64)> {
        let level = self.filled.iter().position(|slots| *slots != 0)?;
        let slot = u64::from(self.filled[level].trailing_zeros());
        let above = (level as u32 + 1) * SLOT_BITS;
        let start = self.base >> above << above | slot << (level as u32 * SLOT_BITS);
        Some((level, slot, start))
    }

    fn find_first(&self) -> Option<Time> {
        if self.heads[DUE] != NONE {
            return Some(self.entries[self.heads[DUE] as usize].at);
        }
        let (level, slot, _) = self.first_slot()?;
        let mut next = self.heads[level * SLOTS + slot as usize];
        let mut first = None;
        while next != NONE {
            let entry = &self.entries[next as usize];
            first = Some(first.map_or(entry.at, |first: Time| first.min(entry.at)));
            next = entry.next;
        }
        first
    }

    /// Moves the base on to `now`, or to the first tick before it that has entries.
    fn advance(&mut self, now: u64) {
        while let Some((level, slot, start)) = self.first_slot() {
            if level == 0 || start > now {
                let most = if level == 0 { now.min(start) } else { now };
                self.base = self.base.max(most);
                return;
            }
            self.base = start;
            let mut next = self.heads[level * SLOTS + slot as usize];
            while next != NONE {
                let slot = next;
                next = self.entries[slot as usize].next;
                self.unlink(slot);
                self.link_by_time(slot);
            }
        }
        self.base = self.base.max(now);
    }

    /// Moves what is due at `now` to the list of those that are, the first in front.
    fn gather(&mut self, now: Time) {
        let mut due = core::mem::take(&mut self.sorting);
        while let Some((0, slot, start)) = self.first_slot() {
            let before = due.len();
            let mut next = self.heads[slot as usize];
            while next != NONE {
                let entry = &self.entries[next as usize];
                if entry.at <= now {
                    due.push(next);
                }
                next = entry.next;
            }
            for slot in due.get(before..).unwrap_or_default() {
                self.unlink(*slot);
            }
            if self.filled[0] >> slot & 1 == 1 || start >= tick(now) {
                break;
            }
            self.advance(tick(now));
        }
        due.sort_unstable_by_key(|slot| {
            let entry = &self.entries[*slot as usize];
            (entry.at, entry.who)
        });
        for slot in due.drain(..).rev() {
            self.link(slot, DUE);
        }
        self.sorting = due;
    }

    fn link_by_time(&mut self, slot: u32) {
        let at = tick(self.entries[slot as usize].at).max(self.base);
        let highest = (at ^ self.base).checked_ilog2().unwrap_or(0);
        let level = (highest / SLOT_BITS) as usize;
        let digit = digit(at, level);
        self.filled[level] |= 1 << digit;
        self.link(slot, level * SLOTS + digit as usize);
    }

    /// Puts an entry in front of a list.
    fn link(&mut self, slot: u32, list: usize) {
        let next = core::mem::replace(&mut self.heads[list], slot);
        let entry = &mut self.entries[slot as usize];
        (entry.list, entry.next, entry.before) = (list as u32, next, NONE);
        if next != NONE {
            self.entries[next as usize].before = slot;
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Entry { list, next, before, .. } = self.entries[slot as usize];
        match before {
            NONE => self.heads[list as usize] = next,
            _ => self.entries[before as usize].next = next,
        }
        if next != NONE {
            self.entries[next as usize].before = before;
        } else if before == NONE && list as usize != DUE {
            self.filled[list as usize / SLOTS] &= !(1 << (list as usize % SLOTS));
        }
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

    fn len(timers: &Timers) -> usize {
        timers.entries.len() - timers.free.len()
    }

    proptest! {
        #[test]
        fn every_timer_fires_once_and_in_time(
            steps in proptest::collection::vec((0..4u8, 0..20usize, 0..50u64, 0..44u32), 0..400),
        ) {
            let mut timers = Timers::default();
            let mut entities: Vec<Timer> = (0..20).map(|_| Timer::default()).collect();
            let mut wanted: BTreeMap<usize, Time> = BTreeMap::new();
            let mut now = Time::ZERO;
            for (step, n, delay, scale) in steps {
                if delay == 0 {
                    timers.shrink();
                }
                // From nanoseconds to days.
                let delay = delay << scale;
                match step {
                    0 | 3 => {
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
                        if n % 2 == 0 {
                            timers.pass(now);
                        }
                        let mut last = Time::ZERO;
                        while let Some(first) = timers.next()
                            && let Some(who) = timers.pop(now)
                        {
                            prop_assert!(last <= first && first <= now);
                            last = first;
                            let Wake::Out(_, n) = who else { unreachable!() };
                            if entities[n as usize].fired(&mut timers, who, now) {
                                let due = wanted.remove(&(n as usize));
                                prop_assert!(due.is_some_and(|due| due <= now));
                            } else {
                                last = Time::ZERO;
                            }
                        }
                        prop_assert!(wanted.values().all(|due| *due > now));
                        prop_assert!(timers.next().is_none_or(|next| next > now));
                    }
                }
                let first = wanted.values().min().copied();
                prop_assert!(first.is_none_or(|first| timers.next().is_some_and(|next| next <= first)));
                prop_assert_eq!(len(&timers), wanted.len());
                prop_assert_eq!(timers.is_empty(), wanted.is_empty());
                prop_assert_eq!(timers.first.get().is_none_or(|first| Some(first) == timers.find_first()), true);
            }
        }
    }

    #[test]
    fn those_due_together_come_in_order_and_may_go_before() {
        let mut timers = Timers::default();
        let mut entities: Vec<Timer> = (0..10).map(|_| Timer::default()).collect();
        for n in [7, 3, 5, 0, 9, 1] {
            entities[n].set(&mut timers, wake(n), Time::from_nanos(1000 - n as u64 % 2));
        }
        let now = Time::from_nanos(1_000_000);
        assert_eq!(timers.pop(now), Some(wake(1)));
        entities[5].clear(&mut timers);
        entities[0].clear(&mut timers);
        let rest: Vec<Wake> = core::iter::from_fn(|| timers.pop(now)).collect();
        assert_eq!(rest, [wake(3), wake(7), wake(9)]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn time_may_go_back() {
        let mut timers = Timers::default();
        let mut timer = Timer::default();
        timers.pass(Time::from_nanos(1 << 40));
        timer.set(&mut timers, wake(1), Time::from_nanos(2000));
        assert_eq!(timers.next(), Some(Time::from_nanos(2000)));
        assert_eq!(timers.pop(Time::from_nanos(1999)), None);
        assert_eq!(timers.pop(Time::from_nanos(2000)), Some(wake(1)));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn the_end_of_time_has_a_place() {
        let mut timers = Timers::default();
        let mut timer = Timer::default();
        timer.set(&mut timers, wake(1), Time::from_nanos(u64::MAX));
        assert_eq!(timers.pop(Time::from_nanos(u64::MAX - 1)), None);
        assert_eq!(timers.pop(Time::from_nanos(u64::MAX)), Some(wake(1)));
    }
}
