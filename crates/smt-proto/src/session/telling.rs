//! What a session tells its peer about how to send to it: priorities by message length, and how much
//! may come without grants (spec 6.9).

use core::time::Duration;

use super::Session;
use crate::endpoint::{Notice, Shared};
use crate::time::Time;

/// The least that may come without grants, in bytes, unless less was declared: some packets, so that
/// small messages never wait.
const MIN_UNSCHEDULED: u32 = 8 << 10;
/// CUTOFFS are considered no more often than this, and no more often than once a round trip.
const MIN_PACE: Duration = Duration::from_micros(10);

/// What was told last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Telling {
    /// Of what is told; the peer echoes it. 0: nothing but the parameters.
    version: u16,
    /// Of the cutoffs.
    generation: u32,
    unscheduled: u32,
    /// Before this nothing is told.
    quiet_until: Time,
    /// When it was counted among the active sessions last.
    active: u32,
}

impl Telling {
    /// Nothing but the limit `declared` in our parameters.
    pub(super) fn nothing(declared: u32) -> Self {
        Telling {
            version: 0,
            generation: 0,
            unscheduled: declared,
            quiet_until: Time::ZERO,
            active: 0,
        }
    }

    /// Version of what is told, and the unscheduled limit.
    pub(super) fn content(&self) -> (u16, u32) {
        (self.version, self.unscheduled)
    }
}

impl Session {
    /// A packet shows that the peer goes by `version` of what we told it: tells it again if that is not
    /// the latest, or if there is something new to tell.
    pub(super) fn consider_telling(&mut self, cx: &mut Shared, now: Time, version: u16) {
        if now < self.telling.quiet_until {
            return;
        }
        self.telling.quiet_until = now + self.rtt.smoothed().max(MIN_PACE);
        self.telling.active = cx.active.note(now, self.telling.active);
        let unscheduled = self.unscheduled_limit(cx);
        let told = self.telling.unscheduled;
        let moved = unscheduled.abs_diff(told) > told / 4;
        if moved || self.telling.generation != cx.sizes.generation() {
            self.telling.version = self.telling.version.checked_add(1).unwrap_or(1);
            self.telling.generation = cx.sizes.generation();
            self.telling.unscheduled = unscheduled;
        }
        if version != self.telling.version {
            cx.stats.cutoffs_sent += 1;
            cx.send_control(self.id, 0, Notice::Cutoffs);
        }
    }

    /// Bytes of a message that may come from this peer without grants: what comes in a round trip, so
    /// that grants have time to follow; no more than its share of the receive credit.
    fn unscheduled_limit(&self, cx: &Shared) -> u32 {
        let declared = self.local.unscheduled;
        let enough = self.horizon().and_then(|horizon| cx.granter.meter.bytes_in(horizon));
        let share = cx.granter.credit() / cx.active.count().max(1);
        enough.map_or(declared, |enough| enough.min(share).max(MIN_UNSCHEDULED).min(declared))
    }

    /// How long it may take from a grant to the bytes that it brings, if the peer does nothing else:
    /// the round trip, and both ends asleep.
    pub(super) fn horizon(&self) -> Option<Duration> {
        let asleep = u64::from(self.local.wake_delay_us) + u64::from(self.peer.wake_delay_us);
        self.rtt.shortest().map(|rtt| rtt + Duration::from_micros(asleep))
    }
}

/// Counts the sessions that send to us.
#[derive(Debug, Default)]
pub(crate) struct Active {
    epoch: u32,
    began: Time,
    /// In this epoch and the one before.
    counts: [u32; 2],
}

impl Active {
    /// How long sessions count after they have sent.
    const EPOCH: Duration = Duration::from_millis(1);

    /// A session sends that was counted last in epoch `last`. Returns the epoch.
    fn note(&mut self, now: Time, last: u32) -> u32 {
        let age = now.since(self.began);
        if self.epoch == 0 || age >= Self::EPOCH {
            let previous = if age < 2 * Self::EPOCH { self.counts[0] } else { 0 };
            self.counts = [0, previous];
            self.epoch = self.epoch.checked_add(1).unwrap_or(1);
            self.began = now;
        }
        self.counts[0] += u32::from(last != self.epoch);
        self.epoch
    }

    fn count(&self) -> u32 {
        self.counts[0].max(self.counts[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_count_while_they_send() {
        let mut active = Active::default();
        let mut last = [0; 10];
        for micros in 0..3000u64 {
            let session = micros as usize % 10;
            last[session] = active.note(Time::from_nanos(1000 * micros), last[session]);
        }
        assert_eq!(active.count(), 10);
        active.note(Time::from_nanos(100_000_000), last[0]);
        assert_eq!(active.count(), 1);
    }
}
