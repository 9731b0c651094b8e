//! The receiving side of a connection: puts segments in order, acknowledges them, and says which
//! messages are complete.

use core::ops::Range;
use std::collections::VecDeque;

use smt_proto::Time;

use super::config::StreamConfig;
use super::wire::{self, Ack, Start};

/// Gaps in the stream beyond which further segments out of order are dropped.
const MAX_RANGES: usize = 4096;

/// The receiving side of a connection.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    /// All bytes below this have arrived.
    below: u64,
    /// What has arrived beyond, in order, neither overlapping nor touching.
    ranges: Vec<Range<u64>>,
    /// The ranges that grew last, the newest first, by one offset inside each.
    recent: [u64; wire::MAX_BLOCKS],
    /// Messages of which the start has arrived, in the order of the stream.
    started: VecDeque<Start>,
    /// Whether the last segments were marked.
    marked: bool,
    /// Segments not yet acknowledged.
    unacked: u32,
    /// When they are at the latest.
    pub(super) ack_at: Option<Time>,
}

/// What to do after a segment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Arrived {
    /// To acknowledge at once what came before this segment: marks have changed (RFC 8257, 3.2).
    pub(super) before: Option<Ack>,
    /// To acknowledge this segment at once.
    pub(super) now: bool,
}

impl Receiver {
    /// Takes a segment.
    pub(super) fn segment(
        &mut self,
        now: Time,
        config: &StreamConfig,
        range: Range<u64>,
        bytes: &[u8],
        marked: bool,
    ) -> Arrived {
        let mut arrived = Arrived::default();
        if marked != self.marked {
            arrived.before = (self.unacked > 0).then(|| self.ack());
            self.marked = marked;
        }
        self.unacked += 1;
        let in_order = range.start == self.below && self.ranges.is_empty();
        if self.is_new(&range) {
            self.note_starts(wire::starts(bytes, range.start, |len| config.stream_len(len)));
            self.insert(range);
        }
        arrived.now = !in_order || self.unacked >= config.ack_every;
        if !arrived.now && self.ack_at.is_none() {
            self.ack_at = Some(now + core::time::Duration::from_micros(config.ack_delay_us));
        }
        arrived
    }

    /// What there is to acknowledge; it counts as acknowledged then.
    pub(super) fn ack(&mut self) -> Ack {
        self.unacked = 0;
        self.ack_at = None;
        let mut ack = Ack { below: self.below, marked: self.marked, ..Ack::default() };
        let recent = self.recent.iter().filter_map(|&offset| self.range_with(offset));
        let mut blocks = 0;
        for range in recent {
            if !ack.blocks.contains(range)
                && let Some(block) = ack.blocks.get_mut(blocks)
            {
                *block = range.clone();
                blocks += 1;
            }
        }
        ack
    }

    /// The next message of which the last byte has arrived in order.
    pub(super) fn next_complete(&mut self, config: &StreamConfig) -> Option<Start> {
        let first = self.started.front()?;
        let end = first.offset.saturating_add(config.stream_len(first.bytes));
        if end <= self.below { self.started.pop_front() } else { None }
    }

    fn is_new(&self, range: &Range<u64>) -> bool {
        let room = range.start == self.below || self.ranges.len() < MAX_RANGES;
        range.start >= self.below && self.range_with(range.start).is_none() && room
    }

    fn range_with(&self, offset: u64) -> Option<&Range<u64>> {
        let after = self.ranges.partition_point(|range| range.start <= offset);
        self.ranges.get(after.checked_sub(1)?).filter(|range| range.contains(&offset))
    }

    /// Segments out of order bring starts out of order; most are in order.
    fn note_starts(&mut self, starts: impl Iterator<Item = Start>) {
        for start in starts {
            let at = match self.started.back() {
                Some(last) if last.offset > start.offset => {
                    self.started.partition_point(|known| known.offset < start.offset)
                }
                _ => self.started.len(),
            };
            self.started.insert(at, start);
        }
    }

    fn insert(&mut self, range: Range<u64>) {
        if range.start == self.below {
            self.below = range.end;
            let reached = self.ranges.partition_point(|later| later.start <= range.end);
            for later in self.ranges.drain(..reached) {
                self.below = self.below.max(later.end);
            }
            return;
        }
        self.remember(range.start);
        let at = self.ranges.partition_point(|other| other.end < range.start);
        let touching = self.ranges.iter().skip(at).take_while(|other| other.start <= range.end);
        let count = touching.count();
        let mut merged = range;
        for other in self.ranges.iter().skip(at).take(count) {
            merged = merged.start.min(other.start)..merged.end.max(other.end);
        }
        self.ranges.splice(at..at + count, [merged]);
    }

    /// The block with `offset` comes first in the next acknowledgment, those of before after it.
    fn remember(&mut self, offset: u64) {
        let [first, second, _] = self.recent;
        let same = |old: u64| self.range_with(old).is_some_and(|range| range.end == offset);
        self.recent =
            if same(first) { [offset, second, self.recent[2]] } else { [offset, first, second] };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;

    fn take(receiver: &mut Receiver, range: Range<u64>, marked: bool) -> Arrived {
        let config = StreamConfig::default();
        let mut packet = Packet::default();
        let start = Start { offset: range.start, message: range.start, bytes: 78 };
        let starts = range.start.is_multiple_of(100).then_some(start);
        wire::write_segment(&mut packet, &range, starts.into_iter());
        receiver.segment(Time::ZERO, &config, range, &packet.bytes, marked)
    }

    #[test]
    fn every_second_segment_is_acknowledged() {
        let mut receiver = Receiver::default();
        assert!(!take(&mut receiver, 0..50, false).now);
        assert_eq!(receiver.ack_at, Some(Time::from_nanos(100_000)));
        assert!(take(&mut receiver, 50..100, false).now);
        assert_eq!(receiver.ack().below, 100);
        assert_eq!(receiver.ack_at, None);
    }

    #[test]
    fn messages_are_complete_in_order() {
        let config = StreamConfig::default();
        let mut receiver = Receiver::default();
        for (from, complete) in [(100, 0), (300, 0), (0, 2), (100, 0), (250, 0), (200, 2)] {
            let range = if from == 200 || from == 250 { from..from + 50 } else { from..from + 100 };
            assert!(take(&mut receiver, range, false).now || from == 0);
            let done = core::iter::from_fn(|| receiver.next_complete(&config)).count();
            assert_eq!(done, complete, "after {from}");
        }
        assert_eq!(receiver.ack(), Ack { below: 400, ..Ack::default() });
    }

    #[test]
    fn blocks_tell_what_came_out_of_order_the_newest_first() {
        let mut receiver = Receiver::default();
        for from in [100, 300, 500, 200] {
            assert!(take(&mut receiver, from..from + 50, false).now);
        }
        assert_eq!(receiver.ack().blocks, [200..250, 500..550, 300..350]);
        take(&mut receiver, 250..300, false);
        assert_eq!(receiver.ack().blocks[0], 200..350);
    }

    #[test]
    fn a_change_of_marks_is_acknowledged_apart() {
        let mut receiver = Receiver::default();
        take(&mut receiver, 0..50, false);
        let arrived = take(&mut receiver, 50..100, true);
        assert_eq!(arrived.before, Some(Ack { below: 50, ..Ack::default() }));
        assert!(!arrived.now);
        assert!(receiver.ack().marked);
    }
}
