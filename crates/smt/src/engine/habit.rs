//! What an engine learns about its own waiting: whether spinning pays, and how exact timers must be.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_getres};

/// How long an adaptive engine busy-polls before it sleeps, if that has paid of late. About what it costs
/// to sleep and to be woken.
pub(super) const ADAPTIVE_SPIN: Duration = Duration::from_micros(50);
/// Spins in vain, one after the other, until it sleeps at once: 10 ms of them, since two ends that the
/// kernel has put on one core spin in vain until it moves one of them to another.
const MOST_CREDIT: u8 = 200;
/// Spins in vain that one that was not makes up for: it saves a little less than the others cost.
const CREDIT_PER_HIT: u8 = 4;
/// A packet that ends a sleep as short as this might have been met while spinning: waking up is part of it.
const SHORT_SLEEP: Duration = Duration::from_micros(100);
/// Short sleeps after which it spins once, to find out.
const SLEEPS_PER_TRIAL: u8 = 32;
/// For how long timers are exact once one of them had something to send.
const EXACT_FOR: Duration = Duration::from_millis(100);

/// Whether busy-polling for the next packet pays, by whether it has of late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Habit {
    credit: u8,
    short_sleeps: u8,
}

impl Default for Habit {
    fn default() -> Self {
        Habit { credit: MOST_CREDIT, short_sleeps: 0 }
    }
}

impl Habit {
    /// Whether to spin before sleeping.
    pub(super) fn spins(self) -> bool {
        self.credit > 0 || self.short_sleeps >= SLEEPS_PER_TRIAL
    }

    /// It spun, until a packet came or in vain.
    pub(super) fn spun(&mut self, met: bool) {
        self.short_sleeps = 0;
        self.credit = match met {
            true => (self.credit + CREDIT_PER_HIT).min(MOST_CREDIT),
            false => self.credit.saturating_sub(1),
        };
    }

    /// It slept without having spun, and a packet came after so long.
    pub(super) fn slept(&mut self, time: Duration) {
        if time <= SHORT_SLEEP {
            self.short_sleeps = self.short_sleeps.saturating_add(1);
        }
    }
}

/// How exact the protocol's timers are while the engine sleeps: to the kernel's tick, as those of its own
/// TCP. Nearly all of them are set against a loss that does not happen, and an exact one makes the kernel
/// program the processor's timer twice, which costs a virtual machine more than all else that SMT does for
/// a small RPC. Once one of them did find something to send, they are exact for a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exactness {
    tick: Duration,
    exact_until: Option<Instant>,
}

impl Exactness {
    pub(super) fn new() -> Exactness {
        // What this clock counts are ticks.
        let tick = clock_getres(ClockId::MonotonicCoarse);
        let nanos = u64::try_from(tick.tv_nsec).unwrap_or(0);
        Exactness { tick: Duration::from_nanos(nanos), exact_until: None }
    }

    /// What this clock counts.
    pub(super) fn tick(&self) -> Duration {
        self.tick
    }

    /// Whether timers are exact now.
    pub(super) fn is_exact(&self, now: Instant) -> bool {
        self.exact_until.is_some_and(|until| now < until)
    }

    /// A timer found something to send.
    pub(super) fn timer_mattered(&mut self, now: Instant) {
        self.exact_until = Some(now + EXACT_FOR);
    }

    /// When to wake up for a timer that is due at `due`.
    pub(super) fn wake_at(&self, now: Instant, due: Instant) -> Instant {
        if due <= now || self.is_exact(now) { due } else { due.max(now + self.tick) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_spins_as_long_as_it_pays_and_finds_out_when_it_does_again() {
        let mut habit = Habit::default();
        for _ in 0..MOST_CREDIT {
            assert!(habit.spins());
            habit.spun(false);
        }
        assert!(!habit.spins());
        for _ in 0..1000 {
            habit.slept(Duration::from_millis(1));
        }
        assert!(!habit.spins());
        for _ in 0..SLEEPS_PER_TRIAL {
            assert!(!habit.spins());
            habit.slept(SHORT_SLEEP);
        }
        assert!(habit.spins());
        let mut in_vain = habit;
        in_vain.spun(false);
        assert!(!in_vain.spins());
        habit.spun(true);
        for _ in 0..CREDIT_PER_HIT {
            assert!(habit.spins());
            habit.spun(false);
        }
        assert!(!habit.spins());
    }

    #[test]
    fn timers_are_exact_only_where_they_have_mattered() {
        let mut exactness = Exactness::new();
        let tick = exactness.tick;
        assert!(
            tick >= Duration::from_micros(100) && tick <= Duration::from_millis(10),
            "{tick:?}"
        );
        let now = Instant::now();
        let [soon, late] = [tick / 10, tick * 10].map(|after| now + after);
        assert_eq!(exactness.wake_at(now, soon), now + tick);
        assert_eq!(exactness.wake_at(now, late), late);
        assert_eq!(exactness.wake_at(soon, now), now);
        exactness.timer_mattered(now);
        assert_eq!(exactness.wake_at(now, soon), soon);
        let later = now + EXACT_FOR;
        assert_eq!(exactness.wake_at(later, later + tick / 10), later + tick);
    }
}
