//! Sets of byte ranges of one message.

use alloc::vec::Vec;
use core::ops::Range;

/// A set of bytes as sorted half-open ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct RangeSet {
    ranges: Vec<Range<u32>>,
    len: u32,
}

impl RangeSet {
    /// Bytes in the set.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// How many ranges the set is made of.
    pub(crate) fn count(&self) -> usize {
        self.ranges.len()
    }

    /// The ranges, ascending.
    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.ranges.iter().cloned()
    }

    /// The first range.
    pub(crate) fn first(&self) -> Option<Range<u32>> {
        self.ranges.first().cloned()
    }

    /// Whether every byte of `range` is in the set.
    pub(crate) fn covers(&self, range: &Range<u32>) -> bool {
        let at = self.ranges.partition_point(|r| r.end < range.end);
        range.is_empty() || self.ranges.get(at).is_some_and(|r| r.start <= range.start)
    }

    /// Whether any byte of `range` is in the set.
    pub(crate) fn overlaps(&self, range: &Range<u32>) -> bool {
        let at = self.ranges.partition_point(|r| r.end <= range.start);
        !range.is_empty() && self.ranges.get(at).is_some_and(|r| r.start < range.end)
    }

    /// Adds the bytes of `range`.
    pub(crate) fn insert(&mut self, range: Range<u32>) {
        if range.is_empty() {
            return;
        }
        // Messages mostly arrive in order: extend the last range without searching.
        if let Some(last) = self.ranges.last_mut()
            && last.end == range.start
        {
            last.end = range.end;
            self.len += range.end - range.start;
            return;
        }
        let from = self.ranges.partition_point(|r| r.end < range.start);
        let to = self.ranges.partition_point(|r| r.start <= range.end);
        let start = self.ranges.get(from).map_or(range.start, |r| r.start.min(range.start));
        let end = match to.checked_sub(1).and_then(|last| self.ranges.get(last)) {
            Some(r) => r.end.max(range.end),
            None => range.end,
        };
        let held: u32 = self.ranges[from..to].iter().map(|r| r.end - r.start).sum();
        self.len += end - start - held;
        if from < to {
            self.ranges[from] = start..end;
            self.ranges.drain(from + 1..to);
        } else {
            self.ranges.insert(from, range);
        }
    }

    /// Takes the bytes of `range` out.
    pub(crate) fn remove(&mut self, range: &Range<u32>) {
        if range.is_empty() {
            return;
        }
        let from = self.ranges.partition_point(|r| r.end <= range.start);
        let to = self.ranges.partition_point(|r| r.start < range.end);
        if from >= to {
            return;
        }
        let left = self.ranges[from].start..range.start;
        let right = range.end..self.ranges[to - 1].end;
        let keep = [left, right].into_iter().filter(|r| r.start < r.end);
        let kept: u32 = keep.clone().map(|r| r.end - r.start).sum();
        let held: u32 = self.ranges[from..to].iter().map(|r| r.end - r.start).sum();
        self.len -= held - kept;
        self.ranges.splice(from..to, keep);
    }

    /// The ranges of `within` that are not in the set, ascending.
    pub(crate) fn holes(&self, within: Range<u32>) -> impl Iterator<Item = Range<u32>> + '_ {
        let first = self.ranges.partition_point(|r| r.end <= within.start);
        let end = within.end;
        let mut at = within.start;
        let mut rest = self.ranges.get(first..).unwrap_or_default().iter();
        core::iter::from_fn(move || {
            while at < end {
                let next = rest.next();
                let stop = next.map_or(end, |r| r.start.min(end));
                let hole = at..stop;
                at = next.map_or(end, |r| r.end);
                if !hole.is_empty() {
                    return Some(hole);
                }
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn bits(set: &RangeSet) -> Vec<bool> {
        let mut bits = vec![false; 64];
        for r in set.iter() {
            bits[r.start as usize..r.end as usize].fill(true);
        }
        bits
    }

    proptest! {
        #[test]
        fn behaves_like_a_bitmap(
            steps in proptest::collection::vec((any::<bool>(), 0u32..60, 0u32..20), 0..60),
            window in (0u32..30, 0u32..34),
        ) {
            let (mut set, mut naive) = (RangeSet::default(), vec![false; 64]);
            for (add, start, len) in steps {
                let range = start..(start + len).min(64);
                let slots = range.start as usize..range.end as usize;
                prop_assert_eq!(set.covers(&range), naive[slots.clone()].iter().all(|b| *b));
                prop_assert_eq!(set.overlaps(&range), naive[slots.clone()].iter().any(|b| *b));
                naive[slots].fill(add);
                if add { set.insert(range) } else { set.remove(&range) }
                prop_assert_eq!(&bits(&set), &naive);
                prop_assert_eq!(set.len() as usize, naive.iter().filter(|b| **b).count());
                prop_assert!(set.ranges.windows(2).all(|w| w[0].end < w[1].start));
            }
            let within = window.0..window.0 + window.1;
            let mut holes = [false; 64];
            for hole in set.holes(within.clone()) {
                prop_assert!(!hole.is_empty());
                holes[hole.start as usize..hole.end as usize].fill(true);
            }
            for i in 0..64u32 {
                prop_assert_eq!(holes[i as usize], within.contains(&i) && !naive[i as usize]);
            }
        }
    }
}
