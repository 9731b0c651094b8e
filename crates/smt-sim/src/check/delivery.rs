//! Messages arrive whole, byte for byte; each call ends exactly once, with the right response or
//! an error that the situation allows.

use std::collections::BTreeMap;

use smt_proto::Time;
use smt_proto::error::{CallError, reply_code};

use super::pattern::{self, Side};
use super::{CallId, Rule, Watch};
use crate::packet::HostId;
use crate::scenario::CallPlan;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With its response.
    Answered,
    /// The handler refused it.
    Refused,
    /// Its caller cancelled it.
    Cancelled,
    /// Its deadline passed.
    Late,
    /// It may or may not have run.
    Unknown,
    /// It was never started.
    NotStarted,
    /// Its caller crashed.
    Lost,
}

impl Outcome {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Refused => "refused",
            Outcome::Cancelled => "cancelled",
            Outcome::Late => "deadline",
            Outcome::Unknown => "unknown",
            Outcome::NotStarted => "not started",
            Outcome::Lost => "lost in a crash",
        }
    }
}

/// An RPC and what has become of it.
#[derive(Clone, Debug)]
pub struct Call {
    /// What it was to be.
    pub plan: CallPlan,
    /// How often its handler was called, early runs not counted.
    pub executions: u32,
    /// It was started as an early call.
    pub early: bool,
    /// How often each service ran it under the keys of early data.
    pub early_runs: BTreeMap<HostId, u32>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// When its core began with it.
    pub started: Option<Time>,
    /// Its caller has cancelled it.
    pub cancelled: bool,
    /// Bytes of its response that were seen to be right.
    pub prefix: usize,
}

impl Call {
    pub(super) fn new(plan: CallPlan) -> Call {
        Call {
            plan,
            executions: 0,
            early: false,
            early_runs: BTreeMap::new(),
            outcome: None,
            started: None,
            cancelled: false,
            prefix: 0,
        }
    }

    /// How often its handler was called in all.
    pub(super) fn runs(&self) -> u32 {
        self.executions + self.early_runs.values().sum::<u32>()
    }

    /// Whether it ran as often as one that has an answer: once, or, called early, at least once.
    pub(super) fn ran(&self) -> bool {
        if self.early { self.runs() > 0 } else { self.executions == 1 }
    }

    pub(super) fn is_not_started(&self) -> bool {
        self.outcome == Some(Outcome::NotStarted)
    }
}

/// What the caller's host knows when a call ends in an error.
#[derive(Clone, Copy, Debug, Default)]
pub struct Situation {
    /// The deadline has passed by the caller's clock.
    pub deadline_passed: bool,
    /// The session of the call was declared dead just now.
    pub session_died: bool,
    /// One of its ends has closed the session, or it never came to be.
    pub session_closed: bool,
    /// Keys of the session live short: messages may be too old for them.
    pub short_keys: bool,
    /// It was called early, and the keys of early data have had their time.
    pub early_over: bool,
    /// Largest response that surely fits, in bytes.
    pub largest_response: u32,
}

impl Watch {
    /// Checks a request that was given to the application of `host`, from the host `peer`. Says which
    /// RPC it is.
    pub fn request(
        &mut self,
        host: HostId,
        peer: HostId,
        body: &[u8],
        early: bool,
    ) -> Option<CallId> {
        let id = pattern::call_of(body);
        let Some((id, call)) = id.and_then(|id| Some((id, self.call(id)?))) else {
            let detail = format!("a request of {} bytes that nobody sent", body.len());
            self.violated(Rule::Delivery, host, detail);
            return None;
        };
        let plan = &call.plan;
        // Whoever holds up a first flight can have it taken by another host of the service.
        let service = |host: HostId| self.services.get(host as usize).copied().unwrap_or(host);
        let here = plan.peer == host || (early && service(plan.peer) == service(host));
        if plan.host != peer || !here || call.started.is_none() {
            let detail = format!("the request of RPC {id}, which host {peer} did not send here");
            self.violated(Rule::Delivery, host, detail);
            return None;
        }
        let (expected, service) = (plan.request_len, service(host));
        self.body(host, id, Side::Request, expected, body);
        match early {
            true => self.executed_early(host, service, id),
            false => self.executed(host, id),
        }
        Some(id)
    }

    /// Checks the response of a call.
    pub fn response(&mut self, host: HostId, id: CallId, body: &[u8]) {
        let Some(call) = self.call(id) else { return };
        let (expected, refuse) = (call.plan.response_len, call.plan.refuse);
        if refuse {
            let detail = format!("RPC {id} was refused and has a response");
            self.violated(Rule::Delivery, host, detail);
        }
        self.body(host, id, Side::Response, expected, body);
        self.must_have_run(host, id);
        self.end(host, id, Outcome::Answered);
    }

    /// Checks the error of a call.
    pub fn error(&mut self, host: HostId, id: CallId, error: &CallError, situation: Situation) {
        let Some(call) = self.call(id) else { return };
        let (allowed, outcome) = match error {
            CallError::DeadlineExceeded => (situation.deadline_passed, Outcome::Late),
            CallError::Cancelled => (call.cancelled, Outcome::Cancelled),
            CallError::OutcomeUnknown => {
                let early = situation.early_over || (call.early && situation.session_closed);
                let why = situation.session_died || situation.short_keys || early;
                (why, Outcome::Unknown)
            }
            CallError::NotRun => (call.early && situation.session_closed, Outcome::NotStarted),
            CallError::SessionClosed => (situation.session_closed, Outcome::Unknown),
            CallError::Exhausted => (situation.short_keys, Outcome::NotStarted),
            CallError::Refused { code: reply_code::TOO_LARGE, .. } => {
                let too_large = call.plan.response_len > situation.largest_response;
                (too_large && call.ran(), Outcome::Refused)
            }
            CallError::Refused { code, text } => {
                let right = *code == refusal_code(id) && *text == refusal_text(id);
                (call.plan.refuse && call.ran() && right, Outcome::Refused)
            }
        };
        if !allowed {
            let detail = format!(
                "RPC {id} to host {} ended with {error:?}, for which there is no reason ({situation:?})",
                call.plan.peer
            );
            self.violated(Rule::Delivery, host, detail);
        }
        if outcome == Outcome::NotStarted {
            self.must_not_have_run(host, id);
        }
        self.end(host, id, outcome);
    }

    /// A call is over without a word of the core: it was not started, or its caller is gone.
    pub fn end(&mut self, host: HostId, id: CallId, outcome: Outcome) {
        let Some(call) = self.calls.get_mut(id as usize) else { return };
        let before = call.outcome.replace(outcome);
        match before {
            None => self.open -= 1,
            Some(before) => {
                let detail = format!("RPC {id} ended twice: {before:?}, then {outcome:?}");
                self.violated(Rule::Delivery, host, detail);
            }
        }
    }

    fn body(&mut self, host: HostId, id: CallId, side: Side, expected: u32, body: &[u8]) {
        if body.len() != expected as usize {
            let detail = format!("{side:?} of RPC {id}: {} bytes of {expected}", body.len());
            self.violated(Rule::Delivery, host, detail);
        } else if let Some(at) = pattern::differs(self.pattern, id, side, 0, body) {
            let detail = format!("{side:?} of RPC {id} is wrong from byte {at} of {expected} on");
            self.violated(Rule::Delivery, host, detail);
        }
    }
}

/// The code with which the handler of an RPC refuses.
pub fn refusal_code(id: CallId) -> u32 {
    reply_code::APPLICATION + id % 100
}

/// The words with which it does.
pub fn refusal_text(id: CallId) -> String {
    format!("RPC {id} is not wanted")
}
