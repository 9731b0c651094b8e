//! Round-trip time estimation (RFC 6298 arithmetic), in the core's nanoseconds.

use core::time::Duration;

/// Smoothed round-trip time and its mean deviation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rtt {
    srtt_ns: u64,
    rttvar_ns: u64,
    sampled: bool,
}

/// Silence never counts as loss before this.
pub(crate) const MIN_SILENCE: Duration = Duration::from_micros(200);
/// The longest silence timer, whatever the backoff.
pub(crate) const MAX_SILENCE: Duration = Duration::from_millis(100);

impl Default for Rtt {
    fn default() -> Self {
        Rtt { srtt_ns: 1_000_000, rttvar_ns: 500_000, sampled: false }
    }
}

impl Rtt {
    /// Takes one measurement.
    pub(crate) fn sample(&mut self, rtt: Duration) {
        let ns = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX).min(1_000_000_000);
        if !self.sampled {
            *self = Rtt { srtt_ns: ns, rttvar_ns: ns / 2, sampled: true };
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

    /// How long to wait before silence means loss (spec 6.3), `backoff` times doubled.
    pub(crate) fn silence(&self, peer_wake_delay: Duration, backoff: u32) -> Duration {
        let base = Duration::from_nanos(self.srtt_ns.saturating_add(4 * self.rttvar_ns))
            .saturating_add(peer_wake_delay)
            .max(MIN_SILENCE);
        base.saturating_mul(1 << backoff.min(10)).min(MAX_SILENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settles_on_a_constant_rtt_and_backs_off_to_the_cap() {
        let mut rtt = Rtt::default();
        for _ in 0..100 {
            rtt.sample(Duration::from_micros(50));
        }
        assert_eq!(rtt.smoothed(), Duration::from_micros(50));
        assert_eq!(rtt.silence(Duration::ZERO, 0), MIN_SILENCE);
        assert_eq!(rtt.silence(Duration::from_millis(1), 1), Duration::from_micros(2100));
        assert_eq!(rtt.silence(Duration::ZERO, 40), MAX_SILENCE);
    }
}
