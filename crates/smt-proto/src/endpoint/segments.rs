//! What is known of segments on the way to each host (spec 4.3.1): shared by an endpoint's sessions, so
//! that a new one need not find out again.

use alloc::collections::BTreeMap;
use core::net::IpAddr;
use core::time::Duration;

use crate::stats::Stats;
use crate::time::Time;

/// Losses in a row after which no more segments are sent for a while.
pub(crate) const MAX_LOST: u32 = 2;
/// How long none are sent at first; each further time takes twice as long.
pub(crate) const OFF_FIRST: Duration = Duration::from_secs(1);
/// The longest time that none are sent.
pub(crate) const OFF_MOST: Duration = Duration::from_secs(120);
/// After this long without an outcome, another probe may be sent.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// Our address, if it is known, and the other host's.
pub(crate) type Way = (Option<IpAddr>, IpAddr);

/// What may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// No segment.
    None,
    /// A short one, to see whether it arrives.
    Probe,
    /// As many as there are, as long as the device takes.
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is known, or nothing new.
    Untried,
    /// A probe is on its way.
    Probing { since: Time },
    /// They arrive.
    Confirmed { since: Time },
    /// They get lost: none until then.
    Off { until: Time },
}

#[derive(Clone, Copy, Debug)]
struct Fate {
    state: State,
    /// Losses since a segment arrived, and when the last was noticed. What was sent before that says
    /// nothing new: one full queue can cost many segments.
    lost: u32,
    noticed: Time,
    /// How long segments were left alone the last time; zero: never yet.
    off_for: Duration,
    /// When a segment was sent last.
    used: Time,
}

/// The hosts that segments were sent to.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    fates: BTreeMap<Way, Fate>,
}

impl Segments {
    /// What may be sent now.
    pub(crate) fn allowed(&self, way: Way, now: Time) -> Allowed {
        match self.fates.get(&way).map(|fate| fate.state) {
            Some(State::Confirmed { .. }) => Allowed::All,
            Some(State::Probing { since }) if now.since(since) < PROBE_PATIENCE => Allowed::None,
            Some(State::Off { until }) if now < until => Allowed::None,
            _ => Allowed::Probe,
        }
    }

    /// Whether segments are known to arrive.
    pub(crate) fn is_confirmed(&self, way: Way) -> bool {
        let state = self.fates.get(&way).map(|fate| fate.state);
        matches!(state, Some(State::Confirmed { .. }))
    }

    /// Losses since a segment arrived, and when the last was noticed.
    pub(crate) fn losses(&self, way: Way) -> (u32, Time) {
        self.fates.get(&way).map_or((0, Time::ZERO), |fate| (fate.lost, fate.noticed))
    }

    /// A segment is sent. With more than `most` hosts, the one is forgotten that had none for the
    /// longest. True if it is a probe.
    pub(crate) fn sent(&mut self, way: Way, now: Time, most: usize, stats: &mut Stats) -> bool {
        if !self.fates.contains_key(&way) && self.fates.len() >= most.max(1) {
            stats.limit_segment_hosts += 1;
            let oldest = self.fates.iter().min_by_key(|(way, fate)| (fate.used, **way));
            if let Some(oldest) = oldest.map(|(way, _)| *way) {
                self.fates.remove(&oldest);
            }
        }
        let fate = self.fates.entry(way).or_insert(Fate {
            state: State::Untried,
            lost: 0,
            noticed: Time::ZERO,
            off_for: Duration::ZERO,
            used: now,
        });
        fate.used = now;
        let is_probe = !matches!(fate.state, State::Confirmed { .. });
        if is_probe {
            fate.state = State::Probing { since: now };
        }
        is_probe
    }

    /// A segment that was sent at `sent_at` has arrived.
    pub(crate) fn arrived(&mut self, way: Way, now: Time, sent_at: Time, stats: &mut Stats) {
        let Some(fate) = self.fates.get_mut(&way).filter(|fate| sent_at >= fate.noticed) else {
            return;
        };
        fate.lost = 0;
        if matches!(fate.state, State::Probing { .. }) {
            fate.state = State::Confirmed { since: now };
            stats.tso_confirmed += 1;
        }
    }

    /// Nothing more will be learned of a probe: the next segment is another.
    pub(crate) fn probe_is_over(&mut self, way: Way) {
        if let Some(fate) = self.fates.get_mut(&way)
            && matches!(fate.state, State::Probing { .. })
        {
            fate.state = State::Untried;
        }
    }

    /// A segment that was sent at `sent_at` was lost, which showed at `noticed`. Returns for how long
    /// none are sent, if that begins now after they had been.
    pub(crate) fn lost(
        &mut self,
        way: Way,
        now: Time,
        (sent_at, noticed): (Time, Time),
        stats: &mut Stats,
    ) -> Option<Duration> {
        stats.tso_segments_lost += 1;
        let fate = self.fates.get_mut(&way)?;
        if fate.lost > 0 && sent_at < fate.noticed {
            return None;
        }
        fate.lost = fate.lost.saturating_add(1);
        fate.noticed = fate.noticed.max(noticed);
        let lasted = match fate.state {
            _ if fate.lost < MAX_LOST => return None,
            State::Off { .. } => return None,
            State::Confirmed { since } => now.since(since) >= fate.off_for,
            State::Untried | State::Probing { .. } => fate.off_for.is_zero(),
        };
        fate.off_for = if lasted { OFF_FIRST } else { (2 * fate.off_for).min(OFF_MOST) };
        fate.state = State::Off { until: now + fate.off_for };
        stats.tso_given_up += 1;
        (fate.lost == MAX_LOST).then_some(fate.off_for)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn way(number: u8) -> Way {
        (None, IpAddr::from([192, 0, 2, number]))
    }

    fn at(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn off_takes_twice_as_long_each_time_until_segments_arrive_for_as_long() {
        let (mut segments, mut stats) = (Segments::default(), Stats::default());
        let (mut now, mut offs) = (1, Vec::new());
        segments.sent(way(1), at(now), 8, &mut stats);
        assert_eq!(segments.lost(way(1), at(now), (at(now), at(now)), &mut stats), None);
        segments.probe_is_over(way(1));
        for round in 0..10 {
            assert!(segments.sent(way(1), at(now), 8, &mut stats));
            let told = segments.lost(way(1), at(now), (at(now), at(now)), &mut stats);
            assert_eq!(told, (round == 0).then_some(OFF_FIRST), "said once");
            let start = now;
            while segments.allowed(way(1), at(now)) == Allowed::None {
                now += 500;
            }
            offs.push((now - start) / 1000);
        }
        assert_eq!(offs, [1, 2, 4, 8, 16, 32, 64, 120, 120, 120]);
        assert_eq!((stats.tso_given_up, stats.tso_segments_lost), (10, 11));
        let mut confirm_and_lose = |now: u64, lasts: u64| {
            segments.sent(way(1), at(now), 8, &mut stats);
            segments.arrived(way(1), at(now), at(now), &mut stats);
            assert!(segments.is_confirmed(way(1)));
            let now = now + lasts;
            segments.lost(way(1), at(now), (at(now), at(now)), &mut stats);
            segments.lost(way(1), at(now), (at(now), at(now)), &mut stats)
        };
        assert_eq!(confirm_and_lose(now, 119_000), Some(OFF_MOST));
        assert_eq!(confirm_and_lose(now + 240_000, 120_000), Some(OFF_FIRST));
    }

    #[test]
    fn a_probe_without_outcome_is_followed_by_another() {
        let (mut segments, mut stats) = (Segments::default(), Stats::default());
        assert_eq!(segments.allowed(way(1), at(0)), Allowed::Probe);
        segments.sent(way(1), at(0), 8, &mut stats);
        assert_eq!(segments.allowed(way(1), at(999)), Allowed::None);
        assert_eq!(segments.allowed(way(2), at(999)), Allowed::Probe, "hosts are apart");
        assert_eq!(segments.allowed(way(1), at(1000)), Allowed::Probe);
        segments.sent(way(1), at(1000), 8, &mut stats);
        segments.probe_is_over(way(1));
        assert_eq!(segments.allowed(way(1), at(1001)), Allowed::Probe);
    }

    #[test]
    fn the_host_without_segments_for_the_longest_is_forgotten() {
        let (mut segments, mut stats) = (Segments::default(), Stats::default());
        for number in 0..10 {
            segments.sent(way(number), at(number.into()), 10, &mut stats);
            segments.arrived(way(number), at(5), at(number.into()), &mut stats);
        }
        segments.sent(way(0), at(20), 10, &mut stats);
        assert_eq!((segments.fates.len(), stats.limit_segment_hosts), (10, 0));
        assert!(segments.sent(way(10), at(21), 10, &mut stats));
        assert_eq!((segments.fates.len(), stats.limit_segment_hosts), (10, 1));
        assert!(segments.is_confirmed(way(0)) && !segments.is_confirmed(way(1)));
        // What becomes of segments to forgotten hosts is nobody's business.
        segments.arrived(way(1), at(22), at(1), &mut stats);
        assert_eq!(segments.lost(way(1), at(22), (at(1), at(22)), &mut stats), None);
    }
}
