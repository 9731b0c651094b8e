//! Homa's policy: the messages with the fewest bytes left are granted, several at once so that the link
//! stays busy when some senders do not answer, each at a priority of its own; and a small share goes to
//! the oldest, so that none starves.

use alloc::collections::BTreeMap;

use super::{Chosen, Granted, MAX_CHOSEN, MIN_WINDOW, Place, Policy};

/// Of the bytes granted, one in so many goes to the oldest message: 5 %.
const SHARE_OF_OLDEST: u32 = 20;
/// What it gets at a time.
const OLDEST_GRANT: i64 = MIN_WINDOW as i64;

/// The policy's view of the messages that need grants.
#[derive(Debug)]
pub(crate) struct Homa {
    /// By bytes left, then identity; with their place in `by_age`.
    active: BTreeMap<(u32, Granted), u64>,
    /// By when they came.
    by_age: BTreeMap<u64, Granted>,
    arrivals: u64,
    /// Messages granted at once.
    overcommit: usize,
    /// Priorities for what is granted: those below this.
    levels: u8,
    /// What the oldest message may be granted now.
    for_oldest: i64,
    /// The message that gets it, although it is not among the shortest.
    oldest: Option<Granted>,
}

impl Homa {
    /// Grants so many messages at once.
    pub(crate) fn new(overcommit: usize) -> Self {
        Homa {
            active: BTreeMap::new(),
            by_age: BTreeMap::new(),
            arrivals: 0,
            overcommit: overcommit.clamp(1, MAX_CHOSEN - 1),
            levels: 1,
            for_oldest: 0,
            oldest: None,
        }
    }

    fn shortest(&self) -> impl Iterator<Item = (u32, Granted)> + '_ {
        self.active.keys().take(self.overcommit).copied()
    }

    /// The shortest of all gets the highest level, of as many as there are messages; beyond the levels
    /// messages share the lowest. So the levels above are free for a shorter one that comes.
    fn priority(&self, rank: usize) -> u8 {
        let granted = self.active.len().min(self.overcommit);
        let above = granted.min(usize::from(self.levels)).saturating_sub(rank + 1);
        u8::try_from(above).unwrap_or(0)
    }
}

impl Policy for Homa {
    fn enter(&mut self, message: Granted, left: u32) {
        self.arrivals += 1;
        self.active.insert((left, message), self.arrivals);
        self.by_age.insert(self.arrivals, message);
    }

    fn moved(&mut self, message: Granted, before: u32, left: u32) {
        if let Some(arrival) = self.active.remove(&(before, message)) {
            self.active.insert((left, message), arrival);
        }
    }

    fn leave(&mut self, message: Granted, left: u32) {
        if let Some(arrival) = self.active.remove(&(left, message)) {
            self.by_age.remove(&arrival);
        }
        if self.oldest == Some(message) {
            self.oldest = None;
        }
    }

    fn set_levels(&mut self, levels: u8) {
        self.levels = levels;
    }

    fn place(&self, message: Granted, left: u32) -> Option<Place> {
        let rank = self.shortest().position(|key| key == (left, message));
        match rank {
            Some(rank) => {
                Some(Place { priority: self.priority(rank), first: rank == 0, extra: false })
            }
            None if self.oldest == Some(message) => {
                // Above the others, or it would never come through a full link.
                Some(Place { priority: self.levels - 1, first: false, extra: true })
            }
            None => None,
        }
    }

    fn chosen(&self) -> Chosen {
        let mut all = self.oldest.into_iter().chain(self.shortest().map(|(_, message)| message));
        core::array::from_fn(|_| all.next())
    }

    fn sharers(&self) -> usize {
        self.active.len().min(self.overcommit)
    }

    fn granted(&mut self, place: Place, bytes: u32) -> bool {
        if place.extra {
            self.for_oldest -= i64::from(bytes);
            if self.for_oldest <= 0 {
                self.oldest = None;
            }
            return false;
        }
        self.for_oldest = (self.for_oldest + i64::from(bytes / SHARE_OF_OLDEST)).min(OLDEST_GRANT);
        if self.for_oldest < OLDEST_GRANT || self.oldest.is_some() {
            return false;
        }
        let shortest = |message| self.shortest().any(|(_, other)| other == message);
        // Not far to go: at most as many are passed as are among the shortest.
        self.oldest = self.by_age.values().copied().find(|message| !shortest(*message));
        self.oldest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn message(id: u64) -> Granted {
        (SessionId::for_tests(0), id)
    }

    #[test]
    fn each_granted_message_has_its_level_and_the_lowest_are_used_first() {
        let mut homa = Homa::new(3);
        homa.set_levels(4);
        homa.enter(message(1), 1000);
        assert_eq!(homa.place(message(1), 1000).unwrap().priority, 0);
        homa.enter(message(2), 500);
        let priorities = |homa: &Homa, lefts: &[(u64, u32)]| {
            let place = |(id, left): &(u64, u32)| homa.place(message(*id), *left);
            lefts.iter().map(|m| place(m).map(|p| p.priority)).collect::<Vec<_>>()
        };
        assert_eq!(priorities(&homa, &[(1, 1000), (2, 500)]), [Some(0), Some(1)]);
        homa.enter(message(3), 700);
        homa.enter(message(4), 10);
        let all = [(1, 1000), (2, 500), (3, 700), (4, 10)];
        assert_eq!(priorities(&homa, &all), [None, Some(1), Some(0), Some(2)]);
        homa.set_levels(1);
        assert_eq!(priorities(&homa, &all), [None, Some(0), Some(0), Some(0)]);
        homa.moved(message(1), 1000, 1);
        assert!(homa.place(message(1), 1).unwrap().first);
        homa.leave(message(1), 1);
        assert!(homa.place(message(4), 10).unwrap().first);
    }

    #[test]
    fn the_oldest_gets_its_share_however_many_shorter_ones_come() {
        let mut homa = Homa::new(2);
        homa.set_levels(3);
        homa.enter(message(0), 1_000_000);
        let (mut short, mut to_oldest) = (0u64, 0u64);
        for id in 1..2000 {
            homa.enter(message(id), 1000);
            homa.enter(message(1_000_000 + id), 1000);
            let place = homa.place(message(id), 1000).unwrap();
            short += 10_000;
            if homa.granted(place, 10_000) {
                assert!(homa.chosen().contains(&Some(message(0))));
                let place = homa.place(message(0), 1_000_000).unwrap();
                assert!(place.extra && place.priority == 2);
                to_oldest += u64::from(MIN_WINDOW);
                homa.granted(place, MIN_WINDOW);
                assert_eq!(homa.place(message(0), 1_000_000), None);
            }
            homa.leave(message(id), 1000);
            homa.leave(message(1_000_000 + id), 1000);
        }
        let share = short / to_oldest;
        assert!((18..=22).contains(&share), "one byte in {share}");
    }

    proptest! {
        #[test]
        fn the_shortest_are_chosen_whatever_comes_and_goes(
            steps in proptest::collection::vec((0..3u8, 0..30u64, 1..100u32), 0..300),
        ) {
            let mut homa = Homa::new(4);
            let mut model = std::collections::BTreeMap::new();
            for (step, id, left) in steps {
                match (step, model.get(&id).copied()) {
                    (0 | 1, None) => homa.enter(message(id), left),
                    (0 | 1, Some(before)) => homa.moved(message(id), before, left),
                    (_, Some(before)) => homa.leave(message(id), before),
                    (_, None) => continue,
                }
                if step < 2 { model.insert(id, left); } else { model.remove(&id); }
                let mut best: Vec<_> = model.iter().map(|(id, left)| (*left, *id)).collect();
                best.sort_unstable();
                let best: Vec<_> = best.into_iter().take(4).map(|(_, id)| message(id)).collect();
                let chosen: Vec<_> = homa.chosen().into_iter().flatten().collect();
                prop_assert_eq!(chosen, best);
                prop_assert_eq!(homa.by_age.len(), model.len());
                prop_assert_eq!(homa.active.len(), model.len());
            }
        }
    }
}
