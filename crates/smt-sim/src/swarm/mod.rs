//! Many runs, each drawn by a seed of its own, on several threads; what a failing one needs to be
//! understood.

mod actor;
mod run;
mod shrink;
mod sum;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use crate::scenario::Scenario;

pub use actor::Actor;
pub use run::{Options, Report, run};
pub use shrink::{Shrunk, shrink};
pub use sum::Sum;

/// Which runs a swarm has.
#[derive(Clone, Copy, Debug)]
pub struct Swarm {
    /// The first seed.
    pub first: u64,
    /// How many there are; each is one more than the one before.
    pub seeds: u64,
    /// Threads at work.
    pub jobs: usize,
    /// Whether a violation ends the swarm.
    pub stop_at_first: bool,
    /// The most memory a run may need, in bytes; drawn runs need far less.
    pub max_memory: u64,
    /// A bug planted in the core of all hosts.
    #[cfg(feature = "mutations")]
    pub mutation: Option<smt_proto::mutation::Mutation>,
}

impl Swarm {
    /// What each run is made with.
    pub fn options(&self) -> Options {
        Options {
            #[cfg(feature = "mutations")]
            mutation: self.mutation,
            ..Options::default()
        }
    }

    /// Runs all seeds; `done` is told the number of those that are over. The sum does not depend on
    /// the number of threads, unless the first violation stops them.
    pub fn run(&self, mut done: impl FnMut(u64)) -> Sum {
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let (sender, receiver) = mpsc::channel();
        let mut sum = Sum::default();
        thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                let sender = sender.clone();
                scope.spawn(|| self.work(&next, &stop, sender));
            }
            drop(sender);
            // In the order of seeds, whatever the order in which they are done.
            let mut early: BTreeMap<u64, Report> = BTreeMap::new();
            let mut expected = 0;
            for (index, report) in receiver {
                early.insert(index, report);
                while let Some(report) = early.remove(&expected) {
                    sum.add(self.first.wrapping_add(expected), report);
                    expected += 1;
                    done(expected);
                }
            }
        });
        sum
    }

    fn work(&self, next: &AtomicU64, stop: &AtomicBool, sender: mpsc::Sender<(u64, Report)>) {
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= self.seeds {
                return;
            }
            let scenario = Scenario::draw(self.first.wrapping_add(index));
            let report = match scenario.fits(self.max_memory) {
                Ok(()) => run(&scenario, self.options()),
                Err(_) => Report { refused: true, ..Report::default() },
            };
            if report.violation.is_some() && self.stop_at_first {
                stop.store(true, Ordering::Relaxed);
            }
            if sender.send((index, report)).is_err() {
                return;
            }
        }
    }
}
