//! What the application of a host calls, where and when, and how long that took.

use std::collections::VecDeque;
use std::time::Duration;

use smt_proto::Time;

use crate::rng::Rng;

/// A call to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// At which core.
    pub(super) core: usize,
    /// Bytes of its request.
    pub(super) bytes: u32,
    /// Its number.
    pub(super) message: u64,
}

/// A call that was made.
#[derive(Clone, Copy, Debug)]
struct Made {
    at: Time,
    core: usize,
    bytes: u32,
    took: Option<Duration>,
}

/// The calls of a host.
#[derive(Debug)]
pub(super) struct Load {
    rng: Rng,
    cores: usize,
    /// Short and long requests, in bytes.
    short: u32,
    long: u32,
    /// Whether a short call follows each that has ended.
    closed: bool,
    /// Calls to be made, by time.
    plan: VecDeque<(Time, usize, u32)>,
    made: Vec<Made>,
    until: Time,
}

impl Load {
    /// None at all.
    pub(super) fn none() -> Load {
        Load {
            rng: Rng::new(0),
            cores: 1,
            short: 0,
            long: 0,
            closed: false,
            plan: VecDeque::new(),
            made: Vec::new(),
            until: Time::ZERO,
        }
    }

    /// So many short calls under way all the time `until` then, each at a core that chance decides.
    pub(super) fn rate(
        seed: u64,
        cores: usize,
        short: u32,
        outstanding: usize,
        until: Time,
    ) -> Load {
        let mut load =
            Load { rng: Rng::new(seed), cores, short, closed: true, until, ..Load::none() };
        for _ in 0..outstanding {
            let core = load.any_core();
            load.plan.push_back((Time::ZERO, core, short));
        }
        load
    }

    /// Short calls at cores and times that chance decides, `every` so long on average, and beside them
    /// one long call after the other at each of the first `occupied` cores.
    pub(super) fn mixed(
        seed: u64,
        cores: usize,
        (short, every): (u32, Duration),
        (long, occupied): (u32, usize),
        until: Time,
    ) -> Load {
        let mut load = Load { rng: Rng::new(seed), cores, short, long, until, ..Load::none() };
        load.plan.extend((0..occupied).map(|core| (Time::ZERO, core, long)));
        let mut at = Time::ZERO;
        loop {
            let wait = -(1.0 - load.rng.unit()).ln() * every.as_secs_f64();
            at = at + Duration::from_secs_f64(wait);
            if at >= until {
                return load;
            }
            let core = load.any_core();
            load.plan.push_back((at, core, short));
        }
    }

    fn any_core(&mut self) -> usize {
        self.rng.below(self.cores as u64) as usize
    }

    /// When the next call is due.
    pub(super) fn next_at(&self) -> Option<Time> {
        self.plan.front().map(|(at, ..)| *at)
    }

    /// The next call that is due.
    pub(super) fn next_call(&mut self, now: Time) -> Option<Call> {
        let (at, core, bytes) = *self.plan.front().filter(|(at, ..)| *at <= now)?;
        self.plan.pop_front();
        let message = self.made.len() as u64;
        self.made.push(Made { at, core, bytes, took: None });
        Some(Call { core, bytes, message })
    }

    /// A call has ended: perhaps another one follows.
    pub(super) fn ended(&mut self, now: Time, message: u64) {
        let Some(made) = self.made.get_mut(message as usize) else { return };
        made.took = Some(now.since(made.at));
        let Made { core, bytes, .. } = *made;
        if now >= self.until {
            return;
        }
        if bytes == self.long {
            self.plan.push_front((now, core, bytes));
        } else if self.closed {
            let core = self.any_core();
            self.plan.push_front((now, core, bytes));
        }
    }

    /// Short calls made from `from` on that have ended, at the cores for which `at` holds: how long each
    /// took, the shortest first, in microseconds.
    pub(super) fn short_us(&self, from: Time, at: impl Fn(usize) -> bool) -> Vec<f64> {
        let some = self.made.iter().filter(|made| {
            made.bytes == self.short && made.bytes != self.long && made.at >= from && at(made.core)
        });
        let mut took: Vec<f64> =
            some.filter_map(|made| Some(made.took?.as_nanos() as f64 / 1e3)).collect();
        took.sort_by(f64::total_cmp);
        took
    }

    /// Calls that ended from `from` on and before the end, short and long ones.
    pub(super) fn ended_between(&self, from: Time) -> [u64; 2] {
        let mut counts = [0; 2];
        for made in &self.made {
            let Some(took) = made.took else { continue };
            let at = made.at + took;
            if at >= from && at < self.until {
                let [short, long] = &mut counts;
                *if made.bytes == self.long { long } else { short } += 1;
            }
        }
        counts
    }

    /// Calls that have not ended.
    pub(super) fn unfinished(&self) -> u64 {
        self.made.iter().filter(|made| made.took.is_none()).count() as u64
    }
}
