//! Requests that a host is given, and what its handlers make of them.

use bytes::Bytes;
use smt_proto::{Body, Event};

use super::Host;
use super::agenda::Task;
use super::shards::Rpc;
use crate::check::delivery::{refusal_code, refusal_text};
use crate::check::pattern::{self, Side};
use crate::check::{CallId, Rule};

impl Host {
    /// A request, or that it was cancelled.
    pub(super) fn on_request_event(&mut self, rpc: Rpc, event: Event) {
        if let Event::Request { body, early, .. } = event {
            return self.on_request(rpc, &body, early);
        }
        self.working.remove(&rpc);
        self.untaken.remove(&rpc);
    }

    fn on_request(&mut self, rpc: Rpc, body: &Body, early: bool) {
        let Some(peer) = self.sessions.get(&rpc.session).map(|known| known.peer) else {
            let detail = "a request of a session that nobody knows".to_owned();
            return self.violated(Rule::Delivery, detail);
        };
        let call = self.watch.report().request(self.id, peer, body, early);
        let Some(call) = call else { return };
        let handler = self.watch.look().call(call).map(|call| call.plan.handler);
        let Some(handler) = handler else { return };
        self.working.insert(rpc, call);
        if handler.is_zero() {
            self.answer(rpc, call);
        } else {
            let at = self.watch.look().now + handler;
            self.agenda.add(at, Task::Answer(rpc, call));
        }
    }

    /// Answers a request, unless nobody waits for it any more.
    pub(super) fn answer(&mut self, rpc: Rpc, call: CallId) {
        if self.working.remove(&rpc).is_none() {
            return;
        }
        let (seed, plan) = {
            let watch = self.watch.look();
            (watch.pattern, watch.call(call).map(|call| (call.plan.response_len, call.plan.refuse)))
        };
        let Some((len, refuse)) = plan else { return };
        let endpoint = &mut self.shards[rpc.shard].endpoint;
        let answered = if refuse {
            endpoint.refuse(rpc.id, refusal_code(call), &refusal_text(call))
        } else {
            let body = pattern::body(seed, call, Side::Response, len);
            endpoint.reply(rpc.id, Bytes::from(body))
        };
        if !answered {
            self.untaken.insert(rpc, call);
        }
    }

    /// All events have happened: what no cancellation explains is wrong.
    pub(super) fn check_untaken(&mut self) {
        if let Some((_, call)) = self.untaken.pop_first() {
            let detail = format!("nobody takes the answer to RPC {call}, which was not cancelled");
            self.violated(Rule::Delivery, detail);
        }
    }
}
