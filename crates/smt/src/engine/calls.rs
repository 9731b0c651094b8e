//! Calls made before their session is there: queued ones wait for its keys; early ones leave with the
//! first packet if there is a ticket, and are retried until one attempt has brought a result.

use std::collections::HashMap;

use bytes::Bytes;
use smt_proto::error::CallError as CoreError;
use smt_proto::{Body, RpcId, Time};

use super::{ConnectId, Engine, Event};
use crate::error::{CallError, ConnectError, StartError};

/// Calls of one connect that may wait for its session at a time. Early ones under way are not among
/// them, but come back to them if their attempt fails.
pub const MAX_QUEUED_CALLS: usize = 1024;

/// A call made before its session was there.
#[derive(Clone)]
pub(super) struct QueuedCall {
    pub(super) body: Bytes,
    pub(super) deadline: Time,
    pub(super) user: u64,
    /// It is idempotent: it may leave with the first packet, and be sent again.
    pub(super) early: bool,
}

/// What the session of an attempt takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing yet.
    #[default]
    Nothing,
    /// Early calls: their keys are there.
    Early,
    /// All calls.
    All,
}

/// Early calls that are under way.
#[derive(Default)]
pub(super) struct EarlyCalls {
    sent: HashMap<RpcId, Sent>,
}

struct Sent {
    connect: ConnectId,
    call: QueuedCall,
}

impl Engine {
    /// Starts a call as soon as the session at hand takes it.
    pub(super) fn place_call(&mut self, id: ConnectId, call: QueuedCall) {
        let Some(connect) = self.connects.get_mut(id) else {
            return self.call_in_session(id, call);
        };
        let started = match (connect.takes, connect.session) {
            (Takes::All, Some(session)) => {
                self.core.start_call(session, call.body.clone(), call.deadline, call.user)
            }
            (Takes::Early, Some(session)) if call.early => {
                self.core.start_early_call(session, call.body.clone(), call.deadline, call.user)
            }
            _ => Err(StartError::NotReady),
        };
        match started {
            Ok(rpc) if call.early => {
                self.early_calls.sent.insert(rpc, Sent { connect: id, call });
            }
            Ok(_) => {}
            Err(error) => self.keep_call(id, call, error),
        }
    }

    /// Starts a call that has come after its session was there.
    fn call_in_session(&mut self, id: ConnectId, call: QueuedCall) {
        let QueuedCall { body, deadline, user, .. } = call;
        let started = match self.connects.session_of(id) {
            Some(session) => self.core.start_call(session, body, deadline, user),
            None => Err(StartError::NoSession),
        };
        if let Err(error) = started {
            self.call_failed(user, error.into());
        }
    }

    /// Keeps a call that could not be started for `error`, if it may be later.
    fn keep_call(&mut self, id: ConnectId, call: QueuedCall, error: StartError) {
        let Some(connect) = self.connects.get_mut(id) else { return };
        // A session that is gone makes room for that of the next attempt.
        let later = connect.takes != Takes::All || error == StartError::NoSession;
        if later && connect.waiting.len() < MAX_QUEUED_CALLS {
            return connect.waiting.push(call);
        }
        self.limits.queued_calls += u64::from(later);
        self.call_failed(call.user, error.into());
    }

    /// The session of a connect takes more than before: starts what waits.
    pub(super) fn start_waiting_calls(&mut self, id: ConnectId, takes: Takes) {
        let Some(connect) = self.connects.get_mut(id) else { return };
        connect.takes = takes;
        for call in std::mem::take(&mut connect.waiting) {
            self.place_call(id, call);
        }
    }

    /// Hands on how a call has ended; an early one whose session is gone is made again.
    pub(super) fn call_ended(&mut self, rpc: RpcId, user: u64, result: Result<Body, CoreError>) {
        let sent = &mut self.early_calls.sent;
        // Mostly there is none, and a look costs a hash.
        let early = if sent.is_empty() { None } else { sent.remove(&rpc) };
        let Some(Sent { connect, mut call }) = early else {
            let result = result.map_err(CallError::from);
            return self.events.push_back(Event::Response { rpc, user, result });
        };
        let lost = matches!(
            result,
            Err(CoreError::SessionClosed | CoreError::OutcomeUnknown | CoreError::NotRun)
        );
        if lost && self.connects.is_running(connect) {
            return self.place_call(connect, call);
        }
        if lost && self.sessions.contains_key(&rpc.session) {
            // What came too late for the early keys goes once more, as an ordinary call.
            call.early = false;
            let QueuedCall { body, deadline, user, .. } = call;
            if self.core.start_call(rpc.session, body, deadline, user).is_ok() {
                return;
            }
        }
        let result = result.map_err(CallError::from);
        self.events.push_back(Event::Response { rpc, user, result });
    }

    /// A connect has failed: its calls that wait fail with it. Those under way follow by themselves.
    pub(super) fn waiting_calls_failed(&mut self, waiting: Vec<QueuedCall>, error: &ConnectError) {
        for call in waiting {
            self.call_failed(call.user, CallError::NotConnected(error.clone()));
        }
    }

    pub(super) fn call_failed(&mut self, user: u64, error: CallError) {
        self.events.push_back(Event::EarlyCallFailed { user, error });
    }
}
