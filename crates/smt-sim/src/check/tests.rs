//! The checkers themselves, given what must not happen.

use smt_proto::Time;
use smt_proto::error::CallError;

use super::delivery::{Outcome, Situation, refusal_code, refusal_text};
use super::pattern::{self, Side};
use super::{CallId, Rule, Shared, Watch};
use crate::scenario::Scenario;

/// What is broken when a call from host 0 to host 1 was started and `happens`.
fn broken(happens: impl FnOnce(&mut Watch, CallId)) -> Option<Rule> {
    let mut scenario = Scenario::draw(1);
    scenario.hosts.truncate(2);
    let shared = Shared::new(&scenario);
    let mut watch = shared.report();
    let mut plan = scenario.calls(0).remove(0);
    (plan.peer, plan.request_len, plan.response_len, plan.refuse) = (1, 50, 100, false);
    let call = watch.plan(plan);
    watch.calls[call as usize].started = Some(Time::ZERO);
    happens(&mut watch, call);
    watch.violation.as_ref().map(|violation| violation.rule)
}

fn request(watch: &mut Watch, call: CallId) {
    let body = pattern::body(watch.pattern, call, Side::Request, 50);
    watch.request(1, 0, &body, false);
}

fn response(watch: &mut Watch, call: CallId) {
    let body = pattern::body(watch.pattern, call, Side::Response, 100);
    watch.response(0, call, &body);
}

fn error(watch: &mut Watch, call: CallId, error: CallError) {
    watch.error(0, call, &error, Situation::default());
}

#[test]
fn a_call_that_runs_and_ends_once_breaks_nothing() {
    let right = broken(|watch, call| {
        request(watch, call);
        response(watch, call);
        assert_eq!(watch.open, 0);
    });
    assert_eq!(right, None);
}

#[test]
fn wrong_bytes_and_lengths_break_delivery() {
    for (len, at) in [(49, None), (51, None), (50, Some(49)), (50, Some(4))] {
        let rule = broken(|watch, call| {
            let mut body = pattern::body(watch.pattern, call, Side::Request, len);
            if let Some(at) = at {
                body[at] ^= 1;
            }
            watch.request(1, 0, &body, false);
        });
        assert_eq!(rule, Some(Rule::Delivery));
    }
    // From the wrong host, at the wrong host, of no RPC.
    for (host, peer, id) in [(1, 1, 0), (0, 0, 0), (1, 0, 7)] {
        let rule = broken(|watch, _| {
            let body = pattern::body(watch.pattern, id, Side::Request, 50);
            watch.request(host, peer, &body, false);
        });
        assert_eq!(rule, Some(Rule::Delivery));
    }
}

#[test]
fn errors_need_a_reason() {
    for wrong in [
        CallError::DeadlineExceeded,
        CallError::Cancelled,
        CallError::OutcomeUnknown,
        CallError::SessionClosed,
        CallError::Exhausted,
        CallError::Refused { code: refusal_code(0), text: refusal_text(0) },
        CallError::Refused { code: 2, text: String::new() },
    ] {
        assert_eq!(broken(|watch, call| error(watch, call, wrong)), Some(Rule::Delivery));
    }
    let refused = broken(|watch, call| {
        watch.calls[call as usize].plan.refuse = true;
        request(watch, call);
        let (code, text) = (refusal_code(call), refusal_text(call));
        error(watch, call, CallError::Refused { code, text });
    });
    assert_eq!(refused, None);
}

#[test]
fn a_second_end_and_a_second_execution_are_found() {
    let twice = broken(|watch, call| {
        request(watch, call);
        response(watch, call);
        response(watch, call);
    });
    assert_eq!(twice, Some(Rule::Delivery));
    let runs_twice = broken(|watch, call| {
        request(watch, call);
        request(watch, call);
    });
    assert_eq!(runs_twice, Some(Rule::AtMostOnce));
    assert_eq!(broken(response), Some(Rule::AtMostOnce));
    let not_started = broken(|watch, call| {
        watch.end(0, call, Outcome::NotStarted);
        request(watch, call);
    });
    assert_eq!(not_started, Some(Rule::AtMostOnce));
    let exhausted = broken(|watch, call| {
        request(watch, call);
        let situation = Situation { short_keys: true, ..Situation::default() };
        watch.error(0, call, &CallError::Exhausted, situation);
    });
    assert_eq!(exhausted, Some(Rule::AtMostOnce));
}

#[test]
fn a_prefix_must_be_right_and_grow() {
    let look = |steps: &[usize], spoil: Option<usize>| {
        broken(|watch, call| {
            let mut body = pattern::body(watch.pattern, call, Side::Response, 100);
            if let Some(at) = spoil {
                body[at] ^= 1;
            }
            steps.iter().for_each(|len| watch.prefix(0, call, &body[..*len]));
        })
    };
    assert_eq!(look(&[0, 10, 10, 100], None), None);
    assert_eq!(look(&[10, 9], None), Some(Rule::Prefix));
    assert_eq!(look(&[10, 50], Some(20)), Some(Rule::Prefix));
    assert_eq!(look(&[10, 20], Some(20)), None);
}

#[test]
fn a_call_that_does_not_end_breaks_liveness() {
    let patience = std::time::Duration::from_secs(1);
    assert_eq!(broken(|watch, _| watch.all_must_be_over(patience)), Some(Rule::Liveness));
    let over = broken(|watch, call| {
        request(watch, call);
        response(watch, call);
        watch.all_must_be_over(patience);
    });
    assert_eq!(over, None);
}
