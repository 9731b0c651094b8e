//! Calls of a host: started when there is a session and room, and checked when they end.

use std::time::Duration;

use bytes::Bytes;
use smt_proto::error::{CallError, CloseReason, StartError};
use smt_proto::{Body, Endpoint, RpcId, SessionId};

use super::Host;
use super::agenda::Task;
use super::shards::Rpc;
use crate::check::delivery::{Outcome, Situation};
use crate::check::pattern::{self, Side};
use crate::check::{CallId, Rule};
use crate::packet::HostId;
use crate::scenario::CallPlan;

/// How soon calls that wait for room are looked at again.
const TRY_AGAIN: Duration = Duration::from_millis(3);
/// Responses above this may come in several packets, whose beginnings are looked at.
const LONG: u32 = 300;
/// How many of those are looked at each time.
const LOOKS: usize = 4;

impl Host {
    fn plan(&self, call: CallId) -> Option<CallPlan> {
        self.watch.look().call(call).map(|call| call.plan.clone())
    }

    /// The time has come for a call.
    pub(super) fn begin(&mut self, call: CallId) {
        let Some(plan) = self.plan(call) else { return };
        self.waiting.entry(plan.peer).or_default().push_back(call);
        self.agenda.add(plan.at + plan.deadline, Task::GiveUp(call));
        self.start_waiting(plan.peer);
    }

    /// Gives up a call that has not started.
    pub(super) fn give_up(&mut self, call: CallId) {
        let Some(plan) = self.plan(call) else { return };
        let Some(queue) = self.waiting.get_mut(&plan.peer) else { return };
        let before = queue.len();
        queue.retain(|waiting| *waiting != call);
        if queue.len() < before {
            self.end(call, &plan, Outcome::NotStarted);
        }
    }

    /// Starts what waits for a peer, as far as there is a session and room.
    pub(super) fn start_waiting(&mut self, peer: HostId) {
        self.trying.remove(&peer);
        while let Some(call) = self.waiting.get(&peer).and_then(|queue| queue.front().copied()) {
            let Some(session) = self.session_to(peer) else {
                self.connect(peer);
                return self.start_early(peer);
            };
            match self.start_one(session, call, false) {
                Ok(()) => {}
                Err(StartError::TooLarge { .. }) => {}
                Err(StartError::NoSession) => {
                    // The core has closed it; its event is on its way.
                    self.drop_session(session);
                    continue;
                }
                Err(StartError::Exhausted) => {
                    if let Some(known) = self.sessions.get_mut(&session) {
                        known.spent = true;
                    }
                    continue;
                }
                Err(_) => return self.try_later(peer),
            }
            if let Some(queue) = self.waiting.get_mut(&peer) {
                queue.pop_front();
            }
        }
    }

    /// Looks at the calls that wait for a peer again soon.
    pub(super) fn try_later(&mut self, peer: HostId) {
        if self.trying.insert(peer) {
            let at = self.watch.look().now + TRY_AGAIN;
            self.agenda.add(at, Task::Try(peer));
        }
    }

    /// Bytes of a body that a peer can surely send here, and this host to the peer.
    fn surely_fits(&self, peer: HostId) -> [u32; 2] {
        self.largest.get(peer as usize).copied().unwrap_or_default()
    }

    /// Starts a call; an early one in a session that is on its way.
    pub(super) fn start_one(
        &mut self,
        session: SessionId,
        call: CallId,
        early: bool,
    ) -> Result<(), StartError> {
        let Some(plan) = self.plan(call) else { return Ok(()) };
        let (now, seed) = {
            let watch = self.watch.look();
            (watch.now, watch.pattern)
        };
        let body = pattern::body(seed, call, Side::Request, plan.request_len);
        let deadline = self.clock.local(plan.at) + plan.deadline;
        let started = self.start_somewhere(session, early, |endpoint, id| {
            let (body, user) = (Bytes::from(body.clone()), u64::from(call));
            match early {
                true => endpoint.start_early_call(id, body, deadline, user),
                false => endpoint.start_call(id, body, deadline, user),
            }
        });
        // A ticket may promise less than its server.
        if let (Err(StartError::TooLarge { .. }), false) = (started, early) {
            if plan.request_len <= self.surely_fits(plan.peer)[1] {
                let detail = format!("RPC {call} of {} bytes is too large", plan.request_len);
                self.violated(Rule::Delivery, detail);
            }
            self.end(call, &plan, Outcome::NotStarted);
        }
        let rpc = started?;
        if let Some(call) = self.watch.report().calls.get_mut(call as usize) {
            call.started = Some(now);
            call.early = early;
        }
        self.started.insert(call, rpc);
        if let Some(after) = plan.cancel_after {
            self.agenda.add(now + after, Task::Cancel(call));
        }
        if plan.response_len > LONG && plan.response_len <= self.surely_fits(plan.peer)[0] {
            self.long.insert(call);
        }
        Ok(())
    }

    /// Starts a call at some shard that has the session; an early one at the first, which makes the
    /// session.
    fn start_somewhere(
        &mut self,
        session: SessionId,
        early: bool,
        start: impl Fn(&mut Endpoint, SessionId) -> Result<RpcId, StartError>,
    ) -> Result<Rpc, StartError> {
        let mut shards = if early { vec![0] } else { self.usable_at(session) };
        shards.retain(|shard| !self.is_stalled(*shard));
        if shards.len() > 1 {
            let turn = self.rng.below(shards.len() as u64) as usize;
            shards.rotate_left(turn);
        }
        // A core that stands still takes no call.
        let mut result = Err(StartError::Backpressure);
        for shard in shards {
            let Some(id) = self.name_at(shard, session) else { continue };
            let started = start(&mut self.shards[shard].endpoint, id);
            result = started.map(|id| Rpc { shard, session, id });
            // Others may have room where one has none.
            if !matches!(result, Err(StartError::TooManyOutstanding | StartError::Backpressure)) {
                break;
            }
        }
        result
    }

    pub(super) fn cancel(&mut self, call: CallId) {
        let Some(rpc) = self.started.get(&call).copied() else { return };
        if let Some(until) = self.stalled_until(rpc.shard) {
            return self.agenda.add(until, Task::Cancel(call));
        }
        if let Some(call) = self.watch.report().calls.get_mut(call as usize) {
            call.cancelled = true;
        }
        let local = self.local();
        self.shards[rpc.shard].endpoint.cancel(local, rpc.id);
        self.drain();
        if self.started.contains_key(&call) {
            self.violated(Rule::Delivery, format!("RPC {call} was cancelled and has not ended"));
        }
    }

    /// A call is over.
    pub(super) fn on_response(
        &mut self,
        call: CallId,
        result: Result<Body, CallError>,
        ended: &[(SessionId, CloseReason)],
    ) {
        let Some(plan) = self.plan(call) else { return };
        self.long.remove(&call);
        let Some(rpc) = self.started.remove(&call) else {
            let detail = format!("RPC {call} ended and was not under way");
            return self.violated(Rule::Delivery, detail);
        };
        match result {
            Ok(body) => self.watch.report().response(self.id, call, &body),
            Err(error) => {
                let situation = self.situation(rpc, &plan, ended);
                self.watch.report().error(self.id, call, &error, situation);
                let spent = matches!(error, CallError::OutcomeUnknown | CallError::Exhausted);
                if let Some(known) = self.sessions.get_mut(&rpc.session).filter(|_| spent) {
                    known.spent = true;
                }
                self.repeat_late(call, &plan);
            }
        }
        if self.waiting.get(&plan.peer).is_some_and(|queue| !queue.is_empty()) {
            self.try_later(plan.peer);
        }
    }

    /// What is known when a call of ours ends in an error.
    fn situation(
        &self,
        rpc: Rpc,
        plan: &CallPlan,
        ended: &[(SessionId, CloseReason)],
    ) -> Situation {
        let known = self.sessions.get(&rpc.session);
        let closed = known.is_none_or(|known| {
            let facts = self.watch.look().facts(known.key);
            let other = known.role.other();
            !known.established || facts.was_closed_by(other, known.lanes.len()) || known.was_told()
        });
        Situation {
            deadline_passed: self.local() >= self.clock.local(plan.at) + plan.deadline,
            session_died: ended.contains(&(rpc.session, CloseReason::Dead)),
            session_closed: closed,
            early_over: known.is_some_and(|known| {
                let since = known.keyed_at.map_or(Duration::ZERO, |at| self.local().since(at));
                known.early && since >= self.core.limits.handshake_timeout
            }),
            short_keys: [self.id, plan.peer].iter().any(|host| self.short_keys.contains(host)),
            largest_response: self.surely_fits(plan.peer)[0],
        }
    }

    fn end(&mut self, call: CallId, plan: &CallPlan, outcome: Outcome) {
        let mut watch = self.watch.report();
        watch.end(self.id, call, outcome);
        drop(watch);
        self.repeat_late(call, plan);
    }

    /// A call after all faults must succeed: another takes its place, until the run's patience ends.
    fn repeat_late(&mut self, call: CallId, plan: &CallPlan) {
        let outcome = self.watch.look().call(call).and_then(|call| call.outcome);
        let failed =
            matches!(outcome, Some(Outcome::Unknown | Outcome::NotStarted | Outcome::Late));
        if !plan.late || !failed {
            return;
        }
        let at = self.watch.look().now + Duration::from_millis(20);
        let again = self.watch.report().plan(CallPlan { at, ..plan.clone() });
        self.agenda.add(at, Task::Call(again));
    }

    /// A server that had taken early data says that it has not, as one that was started again does:
    /// what came of responses is dropped (spec 5.7).
    pub(super) fn prefixes_begin_anew(&mut self, session: SessionId) {
        let calls = self.started.iter().filter(|(_, rpc)| rpc.session == session);
        let calls: Vec<CallId> = calls.map(|(call, _)| *call).collect();
        let mut watch = self.watch.report();
        calls.into_iter().for_each(|call| watch.prefix_begins_anew(call));
    }

    /// Looks at what has come of some long responses.
    pub(super) fn look_at_prefixes(&mut self) {
        if self.long.is_empty() {
            return;
        }
        let after = self.long.range(self.look_from..).chain(self.long.range(..self.look_from));
        let mut last = None;
        for call in after.take(LOOKS) {
            last = Some(*call);
            let Some(rpc) = self.started.get(call) else { continue };
            let prefix = self.shards[rpc.shard].endpoint.response_prefix(rpc.id);
            self.watch.report().prefix(self.id, *call, prefix);
        }
        if let Some(last) = last {
            self.look_from = last.wrapping_add(1);
        }
    }
}
