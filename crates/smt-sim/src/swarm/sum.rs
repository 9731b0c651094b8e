//! What many runs came to.

use std::collections::BTreeMap;

use super::Report;
use crate::check::Violation;

/// The sum of many runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sum {
    /// Runs.
    pub seeds: u64,
    /// Runs refused because they would need too much memory.
    pub refused: u64,
    /// Seeds that broke a rule.
    pub violations: Vec<(u64, Violation)>,
    /// Numbers of all runs together; the violation and the digest in it mean nothing.
    pub total: Report,
    /// A hash of the digests of all runs in order.
    pub digest: u64,
}

impl Sum {
    /// Adds the run of a seed.
    pub fn add(&mut self, seed: u64, report: Report) {
        self.seeds += 1;
        self.refused += u64::from(report.refused);
        self.digest = crate::rng::mix(self.digest ^ report.digest);
        if let Some(violation) = report.violation {
            self.violations.push((seed, violation));
        }
        let total = &mut self.total;
        merge(&mut total.calls, report.calls);
        merge(&mut total.faults, report.faults);
        merge(&mut total.attacks, report.attacks);
        total.sent += report.sent;
        total.delivered += report.delivered;
        total.added += report.added;
        total.retransmitted += report.retransmitted;
        total.sessions += report.sessions;
        total.sessions_dead += report.sessions_dead;
        total.handshakes_failed += report.handshakes_failed;
        total.retries += report.retries;
        total.key_updates += report.key_updates;
        total.early_accepted += report.early_accepted;
        total.early_refused += report.early_refused;
        total.early_requests += report.early_requests;
        total.posts += report.posts;
        total.updates_asked += report.updates_asked;
        let bundles = total.bundles.iter_mut().zip(report.bundles);
        bundles.for_each(|(sum, seen)| *sum += seen);
        let segments = total.segments.iter_mut().zip(report.segments);
        segments.for_each(|(sum, seen)| *sum += seen);
        total.failed_opens += report.failed_opens;
        total.lanes += report.lanes;
        total.wrong_lanes += report.wrong_lanes;
        total.nonces += report.nonces;
        total.bad_tags += report.bad_tags;
        total.virtual_ns += report.virtual_ns;
    }

    /// Calls that ended so.
    pub fn calls(&self, outcome: &str) -> u64 {
        self.total.calls.get(outcome).copied().unwrap_or(0)
    }
}

fn merge(to: &mut BTreeMap<&'static str, u64>, from: BTreeMap<&'static str, u64>) {
    for (name, count) in from {
        *to.entry(name).or_default() += count;
    }
}
