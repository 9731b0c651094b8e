//! Round-trip time estimation (RFC 6298 arithmetic), in the core's nanoseconds, and the shortest round
//! trip of late.

use core::time::Duration;

use crate::time::Time;

/// Smoothed round-trip time, its mean deviation, and the windowed minimum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rtt {
    srtt_ns: u64,
    rttvar_ns: u64,
    sampled: bool,
    /// Shortest of the window that began at the time, and of the one before.
    shortest_ns: [u64; 2],
    window: Time,
}

/// Silence never counts as loss before this: a few round trips of a fast network, a packet or two of a
/// slow one. What else delays an answer is announced (wake-up delay) or measured (rttvar).
pub(crate) const MIN_SILENCE: Duration = Duration::from_micros(30);
/// The longest silence timer, whatever the backoff.
pub(crate) const MAX_SILENCE: Duration = Duration::from_millis(100);
/// The minimum is that of the present and the previous window of this length.
const WINDOW: Duration = Duration::from_secs(2);

impl Default for Rtt {
    fn default() -> Self {
        Rtt {
            srtt_ns: 1_000_000,
            rttvar_ns: 500_000,
            sampled: false,
            shortest_ns: [u64::MAX; 2],
            window: Time::ZERO,
        }
    }
}

impl Rtt {
    /// Takes one measurement.
    pub(crate) fn sample(&mut self, now: Time, rtt: Duration) {
        let ns = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX).min(1_000_000_000);
        let [current, previous] = &mut self.shortest_ns;
        if now.since(self.window) >= WINDOW {
            (*previous, *current) = (*current, u64::MAX);
            self.window = now;
        }
        *current = (*current).min(ns);
        if !self.sampled {
            (self.srtt_ns, self.rttvar_ns, self.sampled) = (ns, ns / 2, true);
            return;
        }
        let deviation = self.srtt_ns.abs_diff(ns);
        self.rttvar_ns = (3 * self.rttvar_ns + deviation) / 4;
        self.srtt_ns = (7 * self.srtt_ns + ns) / 8;
    }

    /// The smoothed round-trip time.
    pub(crate) fn smoothed(&self) -> Duration {
        Duration::from_nanos(self.srtt_ns)
    }

    /// The shortest round trip of the last seconds in which there was any; `None` before the first.
    pub(crate) fn shortest(&self) -> Option<Duration> {
        let [current, previous] = self.shortest_ns;
        self.sampled.then(|| Duration::from_nanos(current.min(previous)))
    }

    /// How long to wait before silence means loss (spec 6.3), `backoff` times doubled.
    pub(crate) fn silence(&self, peer_wake_delay: Duration, backoff: u32) -> Duration {
        let base = Duration::from_nanos(self.srtt_ns.saturating_add(4 * self.rttvar_ns))
            .saturating_add(peer_wake_delay)
            .max(MIN_SILENCE);
        base.saturating_mul(1 << backoff.min(12)).min(MAX_SILENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settles_on_a_constant_rtt_and_backs_off_to_the_cap() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.shortest(), None);
        for _ in 0..100 {
            rtt.sample(Time::ZERO, Duration::from_micros(10));
        }
        assert_eq!(rtt.smoothed(), Duration::from_micros(10));
        assert_eq!(rtt.silence(Duration::ZERO, 0), MIN_SILENCE);
        assert_eq!(rtt.silence(Duration::from_millis(1), 1), Duration::from_micros(2020));
        assert_eq!(rtt.silence(Duration::ZERO, 40), MAX_SILENCE);
    }

    #[test]
    fn the_shortest_is_forgotten_after_two_windows_with_samples() {
        let mut rtt = Rtt::default();
        let sample = |rtt: &mut Rtt, second: u64, micros| {
            let now = Time::from_nanos(second * 1_000_000_000);
            rtt.sample(now, Duration::from_micros(micros));
            rtt.shortest().unwrap().as_micros()
        };
        assert_eq!(sample(&mut rtt, 1, 20), 20);
        assert_eq!(sample(&mut rtt, 1, 10), 10);
        assert_eq!(sample(&mut rtt, 3, 30), 10);
        assert_eq!(sample(&mut rtt, 60, 40), 30);
    }
}
