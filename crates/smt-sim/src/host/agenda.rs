//! What a host has before it, by time.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use smt_proto::{SessionId, Time};

use super::shards::Rpc;
use crate::check::CallId;
use crate::packet::HostId;
use crate::scenario::HostFaultKind;

/// Something that the application, or fate, does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Task {
    /// Start an RPC.
    Call(CallId),
    /// Give up one that has not started by its deadline.
    GiveUp(CallId),
    /// Cancel a call.
    Cancel(CallId),
    /// Answer a request.
    Answer(Rpc, CallId),
    /// Send what a server's TLS has to say first.
    Speak(SessionId),
    /// Try again to start what waits for a peer.
    Try(HostId),
    /// Look for a session again after an attempt has failed.
    Reconnect(HostId),
    /// Something goes wrong.
    Mishap(HostFaultKind),
}

/// Tasks by time, and in the order they were added.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    tasks: BTreeMap<(Time, u64), Task>,
    added: u64,
}

impl Agenda {
    pub(super) fn add(&mut self, at: Time, task: Task) {
        self.tasks.insert((at, self.added), task);
        self.added += 1;
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.tasks.first_key_value().map(|(key, _)| key.0)
    }

    /// The next task that is due.
    pub(super) fn pop(&mut self, now: Time) -> Option<Task> {
        let first = self.tasks.first_entry()?;
        (Reverse(first.key().0) >= Reverse(now)).then(|| first.remove())
    }

    /// Forgets what only a host remembers that has not crashed.
    pub(super) fn crash(&mut self) {
        self.tasks.retain(|_, task| matches!(task, Task::Call(_) | Task::Mishap(_)));
    }
}
