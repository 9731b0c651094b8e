//! Pacing: how many bytes may wait in the host on their way out, so that a message that comes now finds
//! a short queue before it (spec 6.2).

use core::time::Duration;

use crate::stats::Stats;
use crate::time::Time;

/// When to look at a full backlog again: it drains by 25 KB meanwhile at 10 Gb/s.
const LOOK_AGAIN: Duration = Duration::from_micros(20);

/// The bytes on their way out of the host, if the driver tells them.
#[derive(Debug)]
pub(crate) struct Pacer {
    most: usize,
    backlog: Option<usize>,
    look_again: Time,
    stalled: bool,
}

impl Pacer {
    /// Lets at most `most` bytes wait, in whole packets.
    pub(super) fn new(most: u32) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Pacer { most, backlog: None, look_again: Time::ZERO, stalled: false }
    }

    /// The driver sees `bytes` waiting.
    pub(super) fn set(&mut self, now: Time, bytes: usize) {
        self.backlog = Some(bytes);
        self.look_again = now + LOOK_AGAIN;
        self.stalled &= self.is_full();
    }

    /// A packet or segment of `len` bytes joins those that wait.
    pub(super) fn sent(&mut self, len: usize) {
        if let Some(backlog) = &mut self.backlog {
            *backlog = backlog.saturating_add(len);
        }
    }

    /// Whether messages of several packets must wait.
    pub(super) fn is_full(&self) -> bool {
        self.backlog.is_some_and(|backlog| backlog >= self.most)
    }

    /// Bytes that may join those that wait: what one segment may have at most.
    pub(crate) fn room(&self) -> usize {
        self.most.saturating_sub(self.backlog.unwrap_or(0))
    }

    /// Whether so much may wait that it matters how much does.
    pub(super) fn wants_look(&self) -> bool {
        self.backlog.is_none_or(|backlog| backlog >= self.most / 3)
    }

    /// When the driver should look at the backlog again, if messages wait for it.
    pub(super) fn look_again(&self) -> Option<Time> {
        self.is_full().then_some(self.look_again)
    }

    /// The time has come, or not yet.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        if self.look_again <= now {
            self.look_again = now + LOOK_AGAIN;
        }
    }

    /// A message waits for the backlog.
    pub(super) fn stalled(&mut self, stats: &mut Stats) {
        if !core::mem::replace(&mut self.stalled, true) {
            stats.pacing_stalls += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_asked_while_nothing_is_known_and_when_room_gets_short() {
        let mut pacer = Pacer::new(90_000);
        assert!(pacer.wants_look());
        pacer.set(Time::ZERO, 0);
        pacer.sent(29_999);
        assert!(!pacer.wants_look() && !pacer.is_full());
        pacer.sent(1);
        assert!(pacer.wants_look() && !pacer.is_full());
        assert_eq!(pacer.room(), 60_000);
        pacer.set(Time::ZERO, 10_000);
        assert!(!pacer.wants_look());
    }
}
