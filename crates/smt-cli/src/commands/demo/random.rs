//! Reproducible random bytes for bodies: fast, and not for secrets.

/// A stream of numbers that its seed determines (the generator is SplitMix64).
pub(super) struct Random(u64);

impl Random {
    /// The stream number `index` of `seed`.
    pub(super) fn new(seed: u64, index: u64) -> Random {
        let mut mixed = Random(seed ^ index.wrapping_mul(0xd134_2543_de82_ef95));
        Random(mixed.next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A length from `least` to `most` whose logarithm is spread evenly: as many short ones as long ones.
    pub(super) fn length(&mut self, least: usize, most: usize) -> usize {
        let part = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let (least_log, most_log) = ((least as f64).ln(), (most as f64).ln());
        ((least_log + part * (most_log - least_log)).exp().round() as usize).clamp(least, most)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        assert_eq!(Random::new(1, 2).bytes(100), Random::new(1, 2).bytes(100));
        assert_ne!(Random::new(1, 2).bytes(100), Random::new(1, 3).bytes(100));
        assert_ne!(Random::new(1, 2).bytes(100), Random::new(2, 2).bytes(100));
    }

    #[test]
    fn lengths_stay_in_their_bounds() {
        let mut random = Random::new(1, 1);
        let lengths: Vec<usize> = (0..10_000).map(|_| random.length(64, 65_536)).collect();
        assert!(lengths.iter().all(|length| (64..=65_536).contains(length)));
        assert!(lengths.iter().any(|&length| length < 100));
        assert!(lengths.iter().any(|&length| length > 60_000));
    }
}
