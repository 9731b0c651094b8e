//! Waiting for the next event, in the builder's way.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use smt_proto::Time;

use super::habit::ADAPTIVE_SPIN;
use super::{Engine, Event, packets};
use crate::builder::Wait;

/// How long to sleep when nothing is due.
const FAR: Duration = Duration::from_secs(3600);

/// A time that is to be kept and is as many of the kernel's ticks away, or less, is none that a receive
/// can sleep until: it knows nothing but ticks.
const SOON_IN_TICKS: u32 = 4;

/// When to wake up.
struct Due {
    /// Up to two ticks late will do.
    coarse: Option<Instant>,
    exact: Option<Instant>,
}

/// What an engine has done since it last had something to do.
#[derive(Clone, Copy)]
struct Idle {
    since: Instant,
    /// Until when it spins; `None` if it sleeps at once.
    spin_until: Option<Instant>,
    has_slept: bool,
}

impl Engine {
    /// The next event, waiting for it in the builder's way. `None` when `timeout` has passed.
    ///
    /// # Errors
    /// Those of [`poll`](Self::poll).
    pub fn next(&mut self, timeout: Option<Duration>) -> io::Result<Option<Event>> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        let now = Instant::now();
        let until = timeout.map(|timeout| now + timeout);
        let mut idle = self.idle(now);
        loop {
            let mut met = None;
            if self.wait != Wait::Spin && self.is_quiet && self.may_sleep(&idle) {
                // To look for packets first would mostly be in vain: sleeping ends when there are any.
                self.before_sleep()?;
                if let Some(event) = self.events.pop_front() {
                    return Ok(Some(event));
                }
                met = self.sleep(until)?;
                idle.has_slept = true;
            }
            let worked = self.poll_after(met)?;
            if self.wait == Wait::Adaptive && self.has_received {
                self.learn(idle);
            }
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let now = Instant::now();
            if until.is_some_and(|until| now >= until) {
                if idle.spin_until.is_some_and(|until| now >= until) {
                    self.habit.spun(false);
                }
                return Ok(None);
            }
            if self.has_received {
                idle = self.idle(now);
            } else if !worked {
                std::hint::spin_loop();
            }
        }
    }

    /// Nothing to do from now on.
    fn idle(&self, now: Instant) -> Idle {
        let spins = self.wait == Wait::Adaptive && self.habit.spins();
        let spin_until = spins.then(|| now + ADAPTIVE_SPIN);
        Idle { since: now, spin_until, has_slept: false }
    }

    fn may_sleep(&self, idle: &Idle) -> bool {
        idle.has_slept || idle.spin_until.is_none_or(|until| Instant::now() >= until)
    }

    /// A packet has ended a time without.
    fn learn(&mut self, idle: Idle) {
        if idle.spin_until.is_some() {
            self.habit.spun(!idle.has_slept);
        } else {
            self.habit.slept(idle.since.elapsed());
        }
    }

    /// Leaves nothing undone that would not wake it.
    fn before_sleep(&mut self) -> io::Result<()> {
        self.send()?;
        self.core.settle();
        self.take_handshake_results();
        self.take_core_events();
        Ok(())
    }

    /// Sleeps until something happens, a timer is due, or `until`. Returns how many packets have been
    /// received, if the sleep was a receive.
    fn sleep(&mut self, until: Option<Instant>) -> io::Result<Option<usize>> {
        let now = Instant::now();
        let due = self.due(now);
        let exact = [due.exact, until].into_iter().flatten().min();
        let wake = [due.coarse, exact].into_iter().flatten().min().unwrap_or(now + FAR);
        let timeout = wake.saturating_duration_since(now);
        // Whatever woke it, the next poll looks at everything.
        self.polls = packets::LEAN_POLLS - 1;
        if timeout.is_zero() {
            return Ok(None);
        }
        let is_soon = exact.is_some_and(|due| due < now + SOON_IN_TICKS * self.exactness.tick());
        if !is_soon
            && !self.may_be_woken()
            && let Some(received) = self.datapath.recv_or_sleep(timeout)?
        {
            return Ok(Some(received));
        }
        self.waiter.wait(self.datapath.fd(), timeout)?;
        Ok(None)
    }

    /// Whether another thread may have something for this one before a packet comes.
    fn may_be_woken(&self) -> bool {
        self.handshakes.has_jobs() || self.shards.is_some()
    }

    /// A descriptor that becomes readable when [`poll`](Self::poll) has something to do, timers
    /// included.
    ///
    /// # Errors
    /// When the host refuses another descriptor.
    pub fn fd(&mut self) -> io::Result<BorrowedFd<'_>> {
        self.waiter.watch(self.datapath.fd())?;
        self.arm()?;
        self.waiter.fd().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes the descriptor readable when the next timer is due, if anybody watches it. There may be events
    /// afterwards.
    pub(super) fn arm(&mut self) -> io::Result<()> {
        if self.waiter.is_watched() {
            // What can wait until a packet has left would be due at once, and a timer for it costs more than
            // all else that a small RPC does.
            self.core.settle();
            self.take_core_events();
            let due = self.next_due(Instant::now());
            self.waiter.set_timer(due)?;
        }
        Ok(())
    }

    /// Polls until `done` or `until`; events are thrown away.
    pub(super) fn poll_until(
        &mut self,
        until: Instant,
        done: impl Fn(&Engine) -> bool,
    ) -> io::Result<()> {
        let mut met = None;
        loop {
            self.poll_after(met)?;
            self.events.clear();
            if done(self) || Instant::now() >= until {
                return Ok(());
            }
            met = self.sleep(Some(until))?;
        }
    }

    /// A timer of the protocol's found something to send.
    pub(super) fn timer_mattered(&mut self) {
        self.exactness.timer_mattered(Instant::now());
    }

    /// When the engine next has to wake up by itself.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        let Due { coarse, exact } = self.due(now);
        [coarse, exact].into_iter().flatten().min()
    }

    /// When the engine has to wake up, and how exactly.
    fn due(&self, now: Instant) -> Due {
        if self.core.wants_transmit() {
            // Its turn was over before all had left.
            return Due { coarse: None, exact: Some(now) };
        }
        let core = self.core.poll_timeout().map(|due| self.instant(due));
        // Loss may be noticed a little late. What else waits for a time waits for that time.
        let (coarse, core) = match self.core.is_paced() || self.exactness.is_exact(now) {
            true => (None, core),
            false => (core.map(|due| self.exactness.wake_at(now, due)), None),
        };
        let tls = self.handshakes.later.iter().map(|(due, _)| *due).min();
        let own = [self.connects.next_attempt(), tls].into_iter().flatten().min();
        let own = own.map(|due| self.instant(due));
        let exact = [core, own, self.datapath.next_due()].into_iter().flatten().min();
        Due { coarse, exact }
    }

    fn instant(&self, time: Time) -> Instant {
        self.origin + Duration::from_nanos(time.as_nanos())
    }
}

#[cfg(test)]
#[path = "idle_tests.rs"]
pub(super) mod tests;
