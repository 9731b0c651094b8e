//! Sets of RPC numbers that only ever grow: which requests were taken (replay protection), which
//! calls are finished (acknowledgements). Exact, not windowed (spec 5.3).

use alloc::vec::Vec;

/// A set of numbers, all below `floor` included, the others as sorted intervals.
#[derive(Clone, Debug, Default)]
pub(crate) struct IdSet {
    floor: u64,
    /// Half-open intervals above the floor, sorted, neither touching nor overlapping.
    above: Vec<(u64, u64)>,
}

impl IdSet {
    /// The lowest number not in the set.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// The half-open intervals of the set above its floor, ascending.
    pub(crate) fn intervals(&self) -> &[(u64, u64)] {
        &self.above
    }

    /// Whether `n` is in the set.
    pub(crate) fn contains(&self, n: u64) -> bool {
        n < self.floor || self.position(n).is_ok()
    }

    /// Whether all of `first..=last` are in the set.
    pub(crate) fn contains_all(&self, first: u64, last: u64) -> bool {
        let held = |at: usize| self.above.get(at).is_some_and(|interval| last < interval.1);
        last < self.floor || self.position(first).is_ok_and(held)
    }

    /// Adds `n`; false if it was there.
    pub(crate) fn insert(&mut self, n: u64) -> bool {
        if n == self.floor {
            self.floor = n.saturating_add(1);
            if self.above.first().is_some_and(|first| first.0 == self.floor) {
                self.floor = self.above.remove(0).1;
            }
            return true;
        }
        if n < self.floor {
            return false;
        }
        let Err(at) = self.position(n) else { return false };
        let joins_left = at > 0 && self.above.get(at - 1).is_some_and(|left| left.1 == n);
        let joins_right = self.above.get(at).is_some_and(|right| right.0 == n + 1);
        match (joins_left, joins_right) {
            (true, true) => {
                let right = self.above.remove(at);
                self.above[at - 1].1 = right.1;
            }
            (true, false) => self.above[at - 1].1 = n + 1,
            (false, true) => self.above[at].0 = n,
            (false, false) => self.above.insert(at, (n, n + 1)),
        }
        true
    }

    /// Gives back memory that a burst has left unused.
    pub(crate) fn shrink(&mut self) {
        self.above.shrink_to_fit();
    }

    /// Bit i says whether floor + 1 + i is in the set (the floor itself never is).
    pub(crate) fn bitmap(&self) -> u64 {
        let base = self.floor.saturating_add(1);
        let mut bits = 0u64;
        for &(start, end) in &self.above {
            if start >= base.saturating_add(64) {
                break;
            }
            // Both fit: start >= base (the floor is not in the set) and the difference is < 64.
            let from = start.saturating_sub(base);
            let to = end.saturating_sub(base).min(64);
            let len = to.saturating_sub(from);
            let mask = if len >= 64 { u64::MAX } else { ((1u64 << len) - 1) << from };
            bits |= mask;
        }
        bits
    }

    /// `Ok(i)`: interval i holds n. `Err(i)`: none does, and a new one belongs at i.
    fn position(&self, n: u64) -> Result<usize, usize> {
        let at = self.above.partition_point(|interval| interval.1 <= n);
        match self.above.get(at) {
            Some(interval) if interval.0 <= n => Ok(at),
            _ => Err(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn in_order_numbers_only_move_the_floor() {
        let mut set = IdSet::default();
        for n in 0..1000 {
            assert!(set.insert(n));
        }
        assert_eq!((set.floor(), set.intervals().len()), (1000, 0));
        assert!(!set.insert(5));
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(numbers in proptest::collection::vec(0u64..200, 0..300)) {
            let (mut ours, mut naive) = (IdSet::default(), BTreeSet::new());
            for n in numbers {
                prop_assert_eq!(ours.insert(n), naive.insert(n));
            }
            let floor = (0..).find(|n| !naive.contains(n)).unwrap();
            prop_assert_eq!(ours.floor(), floor);
            for n in 0..220 {
                prop_assert_eq!(ours.contains(n), naive.contains(&n));
            }
            for (first, last) in [(0, floor), (floor, floor + 3), (floor + 1, floor + 4), (90, 92)] {
                let all = (first..=last).all(|n| naive.contains(&n));
                prop_assert_eq!(ours.contains_all(first, last), all);
            }
            for i in 0..64 {
                prop_assert_eq!(ours.bitmap() >> i & 1 == 1, naive.contains(&(floor + 1 + i)));
            }
            prop_assert!(ours.intervals().windows(2).all(|w| w[0].1 < w[1].0));
        }
    }
}
