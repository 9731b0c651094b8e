//! The lengths of the messages that come in, and the priorities that follow from them (spec 6.9).

use crate::cutoffs::{self, Cutoffs, LEVELS};

/// Four buckets to the octave: a cutoff is right to some 20 %.
const BUCKETS: usize = 4 * 32;
/// Messages between two looks at the cutoffs.
const LOOK_EVERY: u32 = 512;
/// At each look, what was seen before counts for 7/8 of its former weight.
const DECAY: (u64, u64) = (7, 8);

/// What came in, by the length of the message.
#[derive(Debug)]
pub(crate) struct Sizes {
    /// Bytes that came without grants.
    unscheduled: [u64; BUCKETS],
    /// All other bytes.
    scheduled: u64,
    since_look: u32,
    cutoffs: Cutoffs,
    /// Counts the changes of the cutoffs.
    generation: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes {
            unscheduled: [0; BUCKETS],
            scheduled: 0,
            since_look: 0,
            cutoffs: cutoffs::DEFAULT,
            generation: 0,
        }
    }
}

impl Sizes {
    /// A message of `wire_len` bytes has come in, at most `unscheduled` of them without a grant.
    pub(crate) fn note(&mut self, wire_len: u32, unscheduled: u32) {
        let free = wire_len.min(unscheduled);
        if let Some(bucket) = self.unscheduled.get_mut(bucket_of(wire_len)) {
            *bucket += u64::from(free);
        }
        self.scheduled += u64::from(wire_len - free);
        self.since_look += 1;
        if self.since_look >= LOOK_EVERY {
            self.look();
        }
    }

    /// The cutoffs that fit best.
    pub(crate) fn cutoffs(&self) -> &Cutoffs {
        &self.cutoffs
    }

    /// Changes with the cutoffs.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Levels below all that go without grants.
    pub(crate) fn scheduled_levels(&self) -> u8 {
        self.cutoffs.iter().position(|longest| *longest > 0).map_or(1, |level| level as u8)
    }

    fn look(&mut self) {
        self.since_look = 0;
        let cutoffs = self.best();
        let far = |(new, old): (&u32, &u32)| bucket_of(*new).abs_diff(bucket_of(*old)) > 1;
        if cutoffs.iter().zip(&self.cutoffs).any(far) {
            self.cutoffs = cutoffs;
            self.generation = self.generation.wrapping_add(1);
        }
        let (keep, of) = DECAY;
        for bucket in &mut self.unscheduled {
            *bucket = *bucket * keep / of;
        }
        self.scheduled = self.scheduled * keep / of;
    }

    /// Levels in proportion to the bytes, one at least for each kind; the unscheduled bytes evenly over
    /// theirs.
    fn best(&self) -> Cutoffs {
        let free: u64 = self.unscheduled.iter().sum();
        let all = (free + self.scheduled).max(1);
        let levels = ((free * LEVELS as u64 + all / 2) / all).clamp(1, LEVELS as u64 - 1);
        let mut cutoffs = [0; LEVELS];
        let (mut seen, mut level) = (0, 0);
        for (bucket, bytes) in self.unscheduled.iter().enumerate() {
            seen += bytes;
            // A bucket may fill several levels; the shorter messages get the higher ones.
            while level + 1 < levels && seen * levels >= free * (level + 1) {
                if let Some(cutoff) = cutoffs.get_mut(LEVELS - 1 - level as usize) {
                    *cutoff = longest_of(bucket);
                }
                level += 1;
            }
        }
        if let Some(cutoff) = cutoffs.get_mut(LEVELS - levels as usize) {
            *cutoff = u32::MAX;
        }
        cutoffs
    }
}

/// The bucket of messages of `len` bytes.
fn bucket_of(len: u32) -> usize {
    let octave = len.max(4).ilog2();
    (octave * 4 + (len.max(4) >> (octave - 2) & 3)) as usize
}

/// The longest message of a bucket, in bytes.
fn longest_of(bucket: usize) -> u32 {
    let (octave, quarter) = ((bucket / 4) as u32, (bucket % 4) as u64);
    let end = (4 + quarter + 1) << octave >> 2;
    u32::try_from(end - 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cutoffs::priority;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn small_messages_alone_get_all_levels_but_one() {
        let mut sizes = Sizes::default();
        for i in 0..5000u32 {
            sizes.note(100 + i % 1000, 64 << 10);
        }
        assert_eq!(sizes.scheduled_levels(), 1);
        let levels: Vec<u8> = (1..12).map(|i| priority(sizes.cutoffs(), 100 * i)).collect();
        assert!(levels.is_sorted_by(|a, b| a >= b) && levels[0] == 7 && levels[10] == 1);
        let generation = sizes.generation();
        for i in 0..5000u32 {
            sizes.note(100 + i % 1000, 64 << 10);
        }
        assert_eq!(sizes.generation(), generation, "nothing new, nothing told");
    }

    #[test]
    fn large_messages_leave_one_level_to_what_needs_no_grant() {
        let mut sizes = Sizes::default();
        for _ in 0..1000 {
            sizes.note(1 << 20, 10_000);
        }
        assert_eq!(sizes.scheduled_levels(), 7);
        assert_eq!(*sizes.cutoffs(), [0, 0, 0, 0, 0, 0, 0, u32::MAX]);
        // Others come, and are soon most of what is seen.
        for _ in 0..50_000 {
            sizes.note(1000, 10_000);
        }
        assert_eq!(sizes.scheduled_levels(), 1);
    }

    proptest! {
        #[test]
        fn a_bucket_holds_what_it_says(len in 4..=u32::MAX) {
            let bucket = bucket_of(len);
            prop_assert!(bucket < BUCKETS && len <= longest_of(bucket));
            prop_assert!(bucket == 8 || len > longest_of(bucket - 1));
        }

        #[test]
        fn any_traffic_gives_levels_to_both_kinds(
            seen in proptest::collection::vec((1..=u32::MAX, 0..=u32::MAX), 1..2000),
        ) {
            let mut sizes = Sizes::default();
            for (len, unscheduled) in seen {
                sizes.note(len, unscheduled);
            }
            let scheduled = usize::from(sizes.scheduled_levels());
            prop_assert!((1..LEVELS).contains(&scheduled));
            let cutoffs = sizes.cutoffs();
            prop_assert_eq!(cutoffs[scheduled], u32::MAX);
            prop_assert!(cutoffs[..scheduled].iter().all(|cutoff| *cutoff == 0));
            prop_assert!(cutoffs[scheduled..].is_sorted_by(|a, b| a >= b));
        }
    }
}
