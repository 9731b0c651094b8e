//! The clock of a host, which runs a little too fast or too slow.

use smt_proto::Time;

/// Converts between the time of the run and that of a host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    offset_ns: u64,
    ppm: i64,
}

impl Clock {
    pub(super) fn new(offset_us: u64, ppm: i16) -> Clock {
        Clock { offset_ns: offset_us.saturating_mul(1000), ppm: i64::from(ppm) }
    }

    /// What the clock shows at a time of the run.
    pub(super) fn local(self, now: Time) -> Time {
        let now = now.as_nanos();
        let drift = i128::from(now) * i128::from(self.ppm) / 1_000_000;
        let shown = i128::from(self.offset_ns) + i128::from(now) + drift;
        Time::from_nanos(u64::try_from(shown).unwrap_or(0))
    }

    /// The first time of the run at which the clock shows `local` or more.
    pub(super) fn global(self, local: Time) -> Time {
        let since = local.as_nanos().saturating_sub(self.offset_ns);
        let rate = 1_000_000 + i128::from(self.ppm);
        let about = i128::from(since) * 1_000_000 / rate.max(1);
        let mut now = u64::try_from(about).unwrap_or(u64::MAX).saturating_sub(2);
        while self.local(Time::from_nanos(now)) < local {
            now += 1;
        }
        Time::from_nanos(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_never_early_and_at_most_some_nanoseconds_late() {
        for ppm in [-500, -1, 0, 1, 300] {
            let clock = Clock::new(7_000_000, ppm);
            for step in 0..2000u64 {
                let wanted = Time::from_nanos(7_000_000_000 + step * 999_983);
                let at = clock.global(wanted);
                assert!(clock.local(at) >= wanted);
                let before = Time::from_nanos(at.as_nanos().saturating_sub(4));
                assert!(clock.local(before) < wanted || at == Time::ZERO);
            }
        }
    }
}
