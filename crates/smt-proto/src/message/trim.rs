//! Bytes that a switch cut off their packets: when to ask for them (spec 6.3).

use core::ops::Range;
use core::time::Duration;

use crate::ranges::RangeSet;
use crate::time::Time;

/// Trimmed packets of a message asked for in a round trip in which nothing of it came whole.
const FEW: u32 = 16;
/// Pieces that may lie apart among what was asked for in a round trip: what is cut off honest packets
/// mostly touches.
const MAX_PIECES: usize = 256;
/// No round trip is taken to be shorter: one that a peer makes us measure too short must not let each
/// of its headers be answered.
const MIN_ROUND: Duration = Duration::from_micros(10);

/// What of a message was asked for in one round trip because the network trimmed it.
#[derive(Debug, Default)]
pub(crate) struct TrimRound {
    asked: RangeSet,
    since: Time,
    /// Bytes held when it began.
    had: u32,
    /// Packets that may still be asked for.
    left: u32,
}

impl TrimRound {
    /// Whether to ask for `range` now, of a message of which `have` bytes are here: it was not asked for
    /// within `pace`, and no more packets are asked for in that time than came whole in the time
    /// before, and a few. What is not asked for is a hole as any other.
    pub(crate) fn may_ask(
        &mut self,
        now: Time,
        range: Range<u32>,
        pace: Duration,
        have: u32,
    ) -> bool {
        if now.since(self.since) >= pace.max(MIN_ROUND) {
            let came = have.saturating_sub(self.had) / (range.end - range.start).max(1);
            let asked = RangeSet::default();
            *self = TrimRound { asked, since: now, had: have, left: came.saturating_add(FEW) };
        }
        let full = self.left == 0 || self.asked.count() >= MAX_PIECES;
        if full || self.asked.overlaps(&range) {
            return false;
        }
        self.left -= 1;
        self.asked.insert(range);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Duration = Duration::from_micros(20);

    /// Asks for packets of 10 bytes from `first` on, until one is refused.
    fn packets(round: &mut TrimRound, now: u64, first: u32, have: u32) -> u32 {
        let now = Time::from_nanos(now);
        let mut may = |n| round.may_ask(now, 10 * (first + n)..10 * (first + n + 1), PACE, have);
        (0..1000).find(|&n| !may(n)).unwrap_or(1000)
    }

    #[test]
    fn a_round_asks_for_a_few_and_as_many_as_came_in_the_one_before() {
        let mut round = TrimRound::default();
        assert_eq!(packets(&mut round, 100_000, 0, 0), FEW);
        assert_eq!(packets(&mut round, 119_999, 100, 50), 0);
        assert_eq!(packets(&mut round, 120_000, 100, 50), FEW + 5);
        assert_eq!(packets(&mut round, 140_000, 200, 50), FEW);
    }

    #[test]
    fn the_same_bytes_are_asked_for_once_a_round() {
        let mut round = TrimRound::default();
        let mut ask = |now| round.may_ask(Time::from_nanos(now), 5..15, Duration::ZERO, 0);
        assert!(ask(100_000));
        assert!(!ask(109_999));
        assert!(ask(110_000));
    }
}
