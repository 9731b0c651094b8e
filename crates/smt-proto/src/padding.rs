//! Padding policies (spec 4.1): how much of a message's length the wire tells.

use alloc::vec::Vec;

/// To what length messages are padded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// Not at all.
    #[default]
    None,
    /// To a power of two.
    PowerOfTwo,
    /// To the smallest of these lengths (in bytes, any order) that fits, else to a multiple of the
    /// largest. Without a length above 0 nothing is padded.
    Buckets(Vec<u32>),
}

impl Padding {
    /// The padded length of `plain` bytes (preamble and application bytes), never less. `u32::MAX`
    /// if it does not fit 32 bits; no message is that large.
    #[must_use]
    pub fn padded_len(&self, plain: u32) -> u32 {
        match self {
            Self::None => plain,
            Self::PowerOfTwo => plain.checked_next_power_of_two().unwrap_or(u32::MAX),
            Self::Buckets(sizes) => {
                let fitting = sizes.iter().copied().filter(|&size| size >= plain).min();
                fitting.unwrap_or_else(|| match sizes.iter().copied().max() {
                    None | Some(0) => plain,
                    Some(largest) => plain.checked_next_multiple_of(largest).unwrap_or(u32::MAX),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn padding() -> impl Strategy<Value = Padding> {
        prop_oneof![
            Just(Padding::None),
            Just(Padding::PowerOfTwo),
            proptest::collection::vec(any::<u32>(), 0..5).prop_map(Padding::Buckets),
        ]
    }

    proptest! {
        #[test]
        fn never_less_and_monotonic(padding in padding(), a in any::<u32>(), b in any::<u32>()) {
            let (small, large) = (a.min(b), a.max(b));
            prop_assert!(padding.padded_len(small) >= small);
            prop_assert!(padding.padded_len(small) <= padding.padded_len(large));
        }
    }

    #[test]
    fn lengths() {
        assert_eq!(Padding::None.padded_len(41), 41);
        assert_eq!(Padding::PowerOfTwo.padded_len(40), 64);
        assert_eq!(Padding::PowerOfTwo.padded_len(64), 64);
        assert_eq!(Padding::PowerOfTwo.padded_len(u32::MAX), u32::MAX);
        let buckets = Padding::Buckets([1000, 100, 300].into());
        assert_eq!(
            [40, 100, 101, 1000, 1001].map(|n| buckets.padded_len(n)),
            [100, 100, 300, 1000, 2000]
        );
        assert_eq!(Padding::Buckets([0].into()).padded_len(40), 40);
        assert_eq!(Padding::Buckets(Vec::new()).padded_len(40), 40);
    }
}
