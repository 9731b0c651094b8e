//! Round trips as a plan has them: how many, until when, and how far apart.

use std::thread;
use std::time::{Duration, Instant};

use super::Plan;
use crate::output::nanoseconds;

/// Most times that room is made for before there are any.
const EXPECTED: usize = 1 << 16;

/// Counts the round trips of a plan and keeps the times of those that are measured.
pub(crate) struct Rounds<'a> {
    plan: &'a Plan,
    round: usize,
    /// When the first measured one began.
    since: Option<Instant>,
    /// When the last one ended.
    last: Instant,
    due: Instant,
    times: Vec<u64>,
}

impl<'a> Rounds<'a> {
    pub(crate) fn new(plan: &'a Plan) -> Rounds<'a> {
        let now = Instant::now();
        let times = Vec::with_capacity(plan.count.min(EXPECTED));
        Rounds { plan, round: 0, since: None, last: now, due: now, times }
    }

    /// The number of the round trip to begin, once it is time; `None` when there will be no more.
    pub(crate) fn next(&mut self) -> Option<usize> {
        let Plan { warmup, count, time, every, .. } = *self.plan;
        let measured = self.round.saturating_sub(warmup);
        let spent = self.since.map_or(Duration::ZERO, |since| self.last - since);
        if self.round >= warmup.saturating_add(count)
            || (measured > 0 && time.is_some_and(|time| spent >= time))
        {
            return None;
        }
        if let Some(every) = every {
            // Whoever is late does not make up for it: that would not be a fixed rate.
            self.due = (self.due + every).max(self.last);
            thread::sleep(self.due.saturating_duration_since(Instant::now()));
        }
        let round = self.round;
        self.round += 1;
        Some(round)
    }

    /// The round trip is over.
    pub(crate) fn over(&mut self, start: Instant, end: Instant) {
        self.last = end;
        if self.round > self.plan.warmup {
            self.since.get_or_insert(start);
            self.times.push(nanoseconds(end - start));
        }
    }

    /// The measured times in nanoseconds, in order.
    pub(crate) fn into_times(self) -> Vec<u64> {
        self.times
    }
}

#[cfg(test)]
mod tests {
    use super::super::Wait;
    use super::*;

    fn carry_out(plan: &Plan) -> (usize, Vec<u64>) {
        let mut rounds = Rounds::new(plan);
        let mut begun = 0;
        while let Some(round) = rounds.next() {
            assert_eq!(round, begun);
            begun += 1;
            let start = Instant::now();
            rounds.over(start, start + Duration::from_micros(5));
        }
        (begun, rounds.into_times())
    }

    #[test]
    fn only_what_follows_the_warm_up_is_measured() {
        let (begun, times) = carry_out(&Plan::counted(1, 3, 4, Wait::Spin));
        assert_eq!((begun, times), (7, vec![5_000; 4]));
    }

    #[test]
    fn time_ends_it_but_not_before_the_first() {
        let mut plan = Plan { time: Some(Duration::ZERO), ..Plan::counted(1, 2, 100, Wait::Spin) };
        assert_eq!(carry_out(&plan).0, 3);
        plan.time = Some(Duration::from_secs(3600));
        assert_eq!(carry_out(&plan).0, 102);
    }

    #[test]
    fn a_pace_is_kept() {
        let every = Duration::from_millis(2);
        let plan = Plan { every: Some(every), ..Plan::counted(1, 0, 3, Wait::Block) };
        let start = Instant::now();
        carry_out(&plan);
        assert!(start.elapsed() >= 3 * every);
    }
}
