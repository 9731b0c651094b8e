//! The work of a scenario: which RPCs there are, when, how large, and what becomes of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use smt_proto::Time;

use super::{Scenario, host::bounded};
use crate::packet::HostId;
use crate::rng::Rng;

/// The least bytes of a request: its number and a check of it.
const MIN_REQUEST: u32 = 8;
/// RPCs of each host that begin when all faults are over, and must succeed.
const LATE_CALLS: u32 = 2;

/// How RPCs are drawn, the same for all hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Mean time between bursts of a host, in microseconds.
    #[serde(deserialize_with = "bounded::<_, _, 1, 10_000_000>")]
    pub interval_us: u64,
    /// RPCs started at once.
    #[serde(deserialize_with = "bounded::<_, _, 1, 10_000>")]
    pub burst: u32,
    /// Most bytes of a small message.
    #[serde(deserialize_with = "bounded::<_, _, 8, 67_108_864>")]
    pub small_bytes: u32,
    /// Share of messages that are of medium size.
    pub medium_share: f64,
    /// Most bytes of those.
    #[serde(deserialize_with = "bounded::<_, _, 8, 67_108_864>")]
    pub medium_bytes: u32,
    /// Share of messages that are large.
    pub large_share: f64,
    /// Most bytes of those.
    #[serde(deserialize_with = "bounded::<_, _, 8, 67_108_864>")]
    pub large_bytes: u32,
    /// The longest a handler takes, in microseconds.
    #[serde(deserialize_with = "bounded::<_, _, 0, 1_000_000>")]
    pub handler_us: u64,
    /// Share of requests that the application refuses.
    pub refuse_share: f64,
    /// Share of calls that are cancelled.
    pub cancel_share: f64,
    /// The longest a caller waits before it cancels, in microseconds.
    #[serde(deserialize_with = "bounded::<_, _, 0, 10_000_000>")]
    pub cancel_us: u64,
    /// Share of calls with a short deadline.
    pub hasty_share: f64,
    /// The longest a short deadline is, in microseconds.
    #[serde(deserialize_with = "bounded::<_, _, 1, 10_000_000>")]
    pub hasty_us: u64,
    /// All other deadlines, in milliseconds.
    #[serde(deserialize_with = "bounded::<_, _, 1, 1_000_000>")]
    pub deadline_ms: u64,
    /// Whether only host 0 is called.
    pub one_server: bool,
}

impl Workload {
    /// # Errors
    /// The field that is no share, and what is wrong with it.
    pub(super) fn validate(&self) -> Result<(), (&'static str, String)> {
        for (name, share) in [
            ("medium_share", self.medium_share),
            ("large_share", self.large_share),
            ("refuse_share", self.refuse_share),
            ("cancel_share", self.cancel_share),
            ("hasty_share", self.hasty_share),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err((name, format!("{share} is not one of 0..=1")));
            }
        }
        Ok(())
    }

    /// The largest body that it draws, in bytes.
    pub fn largest(&self) -> u32 {
        let mut largest = self.small_bytes;
        if self.medium_share > 0.0 {
            largest = largest.max(self.medium_bytes);
        }
        if self.large_share > 0.0 {
            largest = largest.max(self.large_bytes);
        }
        largest
    }

    /// Mean bytes of a body, about.
    pub fn mean(&self) -> f64 {
        let small = f64::from(self.small_bytes) / 2.0;
        let medium = self.medium_share * f64::from(self.medium_bytes) / 2.0;
        small + medium + self.large_share * f64::from(self.large_bytes) / 2.0
    }

    fn size(&self, rng: &mut Rng) -> u32 {
        let kind = rng.unit();
        let most = if kind < self.large_share {
            self.large_bytes
        } else if kind < self.large_share + self.medium_share {
            self.medium_bytes
        } else {
            self.small_bytes
        };
        u32::try_from(rng.between(0, u64::from(most))).unwrap_or(most)
    }
}

/// One RPC that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallPlan {
    /// Who starts it.
    pub host: HostId,
    /// Whom it calls.
    pub peer: HostId,
    /// When.
    pub at: Time,
    /// Application bytes of the request.
    pub request_len: u32,
    /// Application bytes of the response.
    pub response_len: u32,
    /// How long its handler takes.
    pub handler: Duration,
    /// The handler refuses it.
    pub refuse: bool,
    /// The caller cancels it after this.
    pub cancel_after: Option<Duration>,
    /// Its deadline, from when it was to start.
    pub deadline: Duration,
    /// It goes early if it can.
    pub early: bool,
    /// It begins after all faults, and must succeed in the end.
    pub late: bool,
}

impl Scenario {
    /// When faults cease.
    pub fn faults_stop(&self) -> Time {
        Time::from_nanos(self.faults_stop_us * 1000)
    }

    /// All RPCs of a host, by the time they begin.
    pub fn calls(&self, host: HostId) -> Vec<CallPlan> {
        let calls = self.hosts.get(host as usize).map_or(0, |host| host.calls);
        let root = Rng::new(self.seed).fork(0x776f_726b ^ u64::from(host) << 32);
        let mut arrivals = root.fork(u64::MAX);
        let mut at = Time::ZERO;
        let mut plans = Vec::new();
        for n in 0..calls {
            if n % self.workload.burst == 0 {
                let gap = arrivals.exponential(self.workload.interval_us as f64 * 1000.0);
                at = at + Duration::from_nanos(gap as u64);
            }
            plans.push(self.call(host, at, &mut root.fork(u64::from(n))));
        }
        for n in 0..LATE_CALLS {
            let mut rng = root.fork(1 << 40 | u64::from(n));
            let at = self.faults_stop() + Duration::from_micros(1 + rng.below(100_000));
            plans.push(self.late_call(host, at, &mut rng));
        }
        plans.sort_by_key(|plan| plan.at);
        plans
    }

    fn peer_of(&self, host: HostId, rng: &mut Rng) -> HostId {
        let honest = self.honest();
        if self.workload.one_server && host != 0 {
            return 0;
        }
        let peer = u32::try_from(rng.below(u64::from(honest.max(2)) - 1)).unwrap_or(0);
        if peer >= host { peer + 1 } else { peer }
    }

    fn is_early(&self, rng: &mut Rng) -> bool {
        self.early.as_ref().is_some_and(|early| rng.chance(early.share))
    }

    fn call(&self, host: HostId, at: Time, rng: &mut Rng) -> CallPlan {
        let work = &self.workload;
        let peer = self.peer_of(host, rng);
        let request_len = work.size(rng).max(MIN_REQUEST);
        let response_len = work.size(rng);
        let handler = Duration::from_micros(rng.below(work.handler_us + 1));
        let refuse = rng.chance(work.refuse_share);
        let cancel_after = Duration::from_micros(rng.below(work.cancel_us + 1));
        let cancel_after = rng.chance(work.cancel_share).then_some(cancel_after);
        let hasty = Duration::from_micros(1 + rng.below(work.hasty_us));
        let deadline = match rng.chance(work.hasty_share) {
            true => hasty,
            false => Duration::from_millis(work.deadline_ms),
        };
        CallPlan {
            host,
            peer,
            at,
            request_len,
            response_len,
            handler,
            refuse,
            cancel_after,
            deadline,
            early: self.is_early(rng),
            late: false,
        }
    }

    fn late_call(&self, host: HostId, at: Time, rng: &mut Rng) -> CallPlan {
        // A message under a key that opens nothing more ends with its deadline, and another follows.
        let worn = self.keys_may_fail();
        CallPlan {
            host,
            peer: self.peer_of(host, rng),
            at,
            request_len: MIN_REQUEST + u32::try_from(rng.below(50)).unwrap_or(0),
            response_len: u32::try_from(rng.below(50)).unwrap_or(0),
            handler: Duration::from_micros(10),
            refuse: false,
            cancel_after: None,
            deadline: if worn { Duration::from_millis(300) } else { Duration::from_secs(100) },
            early: self.is_early(rng),
            late: true,
        }
    }
}
