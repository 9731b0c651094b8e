//! What a session does when time passes.

use core::time::Duration;

use super::data::resend_holes;
use super::{Session, State};
use crate::endpoint::Shared;
use crate::error::{CallError, CloseReason, HandshakeError};
use crate::event::Event;
use crate::rpc::InState;
use crate::time::Time;
use crate::timer::Wake;
use crate::wire::{CancelCode, ControlBody};

impl Session {
    /// A wake-up for RPC `number` of ours came up.
    pub(crate) fn on_out_timer(&mut self, cx: &mut Shared, at: Time, now: Time, number: u64) {
        let session = self.id;
        let who = Wake::Out(session, number);
        let Some(rpc) = self.out.get_mut(&number) else { return };
        if !rpc.timer.fired(&mut cx.timers, who, at, now) {
            return;
        }
        if !rpc.cancelling && rpc.deadline <= now {
            return self.cancel(cx, now, number, CallError::DeadlineExceeded);
        }
        if rpc.silent_at > now && !rpc.cancelling {
            let due = rpc.silent_at.min(rpc.deadline);
            rpc.timer.set(&mut cx.timers, who, due);
            return;
        }
        rpc.silences += 1;
        let silences = rpc.silences;
        let due = now + self.silence(silences);
        let unscheduled = self.local.unscheduled;
        let request_id = self.request_id(true, number);
        let Some(rpc) = self.out.get_mut(&number) else { return };
        if rpc.cancelling {
            cx.send_control(session, request_id, ControlBody::Cancel(CancelCode::Request));
            rpc.timer.set(&mut cx.timers, who, due);
            return;
        }
        rpc.silent_at = due;
        rpc.timer.set(&mut cx.timers, who, due.min(rpc.deadline));
        rpc.sent_at = None;
        let key = (session, request_id | 1);
        let asked = match &mut rpc.response {
            Some(response) => {
                let limit = response.granted;
                let asked = resend_holes(response, cx, now, key, limit);
                if asked == 0 && limit < response.layout().wire_len {
                    super::data::schedule(response, cx, key);
                }
                asked
            }
            None => 0,
        };
        // A request still waiting in our own queue cannot be answered yet.
        if asked == 0 && rpc.response.is_none() && (rpc.request.sent() > 0) {
            cx.stats.resends_sent += 1;
            let body =
                ControlBody::Resend { offset: 0, length: unscheduled, priority: 0, pinned: false };
            cx.send_control(session, request_id | 1, body);
        }
    }

    /// A wake-up for RPC `number` of the peer's came up.
    pub(crate) fn on_in_timer(&mut self, cx: &mut Shared, at: Time, now: Time, number: u64) {
        let session = self.id;
        let who = Wake::In(session, number);
        let Some(rpc) = self.inc.get_mut(&number) else { return };
        if !rpc.timer.fired(&mut cx.timers, who, at, now) {
            return;
        }
        rpc.silences += 1;
        let silences = rpc.silences;
        let give_up = silences > cx.config.limits.max_silence;
        let due = now + self.silence(silences);
        let request_id = self.request_id(false, number);
        let Some(rpc) = self.inc.get_mut(&number) else { return };
        match &mut rpc.state {
            InState::Receiving(_) if give_up => self.forget(cx, number),
            InState::Receiving(message) => {
                rpc.timer.set(&mut cx.timers, who, due);
                let limit = message.granted;
                let key = (session, request_id);
                if resend_holes(message, cx, now, key, limit) == 0 {
                    super::data::schedule(message, cx, key);
                }
            }
            InState::Executing => {}
            InState::Responding(_) => {
                let wait = Duration::from_millis(10).saturating_mul(1 << silences.min(7));
                rpc.timer.set(&mut cx.timers, who, now + wait);
                cx.send_control(session, request_id, ControlBody::NeedAck);
            }
        }
    }

    /// A wake-up for the session itself came up.
    pub(crate) fn on_session_timer(&mut self, cx: &mut Shared, at: Time, now: Time) {
        if !self.timer.fired(&mut cx.timers, Wake::Session(self.id), at, now) {
            return;
        }
        match self.state {
            State::Handshaking | State::Unconfirmed | State::Failed => self.handshake_due(cx, now),
            State::Established => self.probe_due(cx, now),
            State::Closing { tries } => {
                if tries >= cx.config.limits.max_probes {
                    return self.end(cx, None);
                }
                self.state = State::Closing { tries: tries + 1 };
                cx.send_control(self.id, 0, ControlBody::Cancel(CancelCode::Request));
                self.wake_at(cx, now + self.silence(tries + 1));
            }
        }
    }

    pub(crate) fn wake_at(&mut self, cx: &mut Shared, due: Time) {
        self.timer.set(&mut cx.timers, Wake::Session(self.id), due);
    }

    fn handshake_due(&mut self, cx: &mut Shared, now: Time) {
        let Some(handshake) = self.handshake.as_deref_mut() else { return };
        if handshake.deadline <= now {
            if matches!(self.state, State::Failed) {
                return self.end(cx, None);
            }
            return self.handshake_failed(cx, HandshakeError::TimedOut);
        }
        let is_client = self.role == super::Role::Client;
        if is_client && !matches!(self.state, State::Failed) && handshake.repeat_at <= now {
            handshake.repeat(now);
            cx.flights.push_back(self.id);
        }
        let due = if is_client {
            handshake.deadline.min(handshake.repeat_at)
        } else {
            handshake.deadline
        };
        self.wake_at(cx, due);
    }

    fn probe_due(&mut self, cx: &mut Shared, now: Time) {
        if self.probe_at.is_none() {
            let idle = cx.config.limits.idle_probe;
            if now.since(self.last_heard) < idle {
                return self.wake_at(cx, self.last_heard + idle);
            }
        }
        if self.probes >= cx.config.limits.max_probes {
            cx.stats.sessions_dead += 1;
            return self.end(cx, Some(CloseReason::Dead));
        }
        self.probes += 1;
        cx.stats.probes_sent += 1;
        cx.send_control(self.id, 0, ControlBody::NeedAck);
        let due = now + self.silence(self.probes);
        self.probe_at = Some(due);
        self.wake_at(cx, due);
    }

    pub(crate) fn handshake_failed(&mut self, cx: &mut Shared, error: HandshakeError) {
        cx.stats.handshakes_failed += 1;
        cx.events.push_back(Event::HandshakeFailed { session: self.id, error });
        self.end(cx, None);
    }
}
