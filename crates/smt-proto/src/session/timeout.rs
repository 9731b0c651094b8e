//! What a session does when time passes.

use core::time::Duration;

use super::feed::chase;
use super::{Session, State};
use crate::cutoffs::HIGHEST;
use crate::endpoint::{Notice, Shared};
use crate::error::{CallError, CloseReason, HandshakeError};
use crate::event::Event;
use crate::rpc::InState;
use crate::time::Time;
use crate::timer::Wake;
use crate::wire::CancelCode;

/// Parameter blocks without sense after which a server is taken to mean them.
const MAX_BAD_BLOCKS: u32 = 3;
/// How long the answer to a first probe may take (spec 5.6).
const MIN_PROBE_WAIT: Duration = Duration::from_millis(20);
/// Shortest time before a server that took early data asks its client again to show keys of epoch 3; then
/// as long as it has asked already.
pub(super) const MIN_ASK_WAIT: Duration = Duration::from_millis(100);

impl Session {
    /// A wake-up for RPC `number` of ours came up.
    pub(crate) fn on_out_timer(&mut self, cx: &mut Shared, now: Time, number: u64) {
        let session = self.id;
        let who = Wake::Out(session, number);
        let Some(rpc) = self.out.get_mut(number) else { return };
        if !rpc.timer.fired(&mut cx.timers, who, now) {
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
        if !rpc.cancelling {
            let later = cx.granter.meter.silent_at(rpc.mark);
            if later > now {
                rpc.silent_at = later;
                rpc.timer.set(&mut cx.timers, who, later.min(rpc.deadline));
                return;
            }
            let turn = rpc.response.as_mut().map(|m| m.repair_at(now, &mut cx.granter.meter));
            if let Some(turn) = turn.filter(|turn| *turn > now) {
                rpc.silent_at = turn;
                rpc.timer.set(&mut cx.timers, who, turn.min(rpc.deadline));
                return;
            }
        }
        rpc.silences += 1;
        let silences = rpc.silences;
        let due = now + self.silence(silences);
        // A peer that lets nothing come by itself asks for the first packet, at least.
        let length = self.local.unscheduled.max(1);
        let (horizon, pace) = (self.horizon(), self.rtt.smoothed());
        let request_id = self.request_id(true, number);
        let Some(rpc) = self.out.get_mut(number) else { return };
        if rpc.cancelling {
            cx.send_control(session, request_id, Notice::Cancel(CancelCode::Request));
            rpc.timer.set(&mut cx.timers, who, due);
            return;
        }
        rpc.silent_at = due;
        rpc.mark = cx.granter.meter.mark(now, due);
        rpc.timer.set(&mut cx.timers, who, due.min(rpc.deadline));
        rpc.sent_at = None;
        let key = (session, request_id | 1);
        let asked = match &mut rpc.response {
            Some(response) => chase(response, cx, now, key, (horizon, pace)),
            None => false,
        };
        // A request still waiting in our own queue cannot be answered yet.
        if !asked && rpc.response.is_none() && (rpc.request.sent() > 0) {
            cx.stats.resends_sent += 1;
            let body = Notice::Resend { offset: 0, length, priority: HIGHEST, pinned: false };
            cx.send_control(session, request_id | 1, body);
        }
    }

    /// A wake-up for RPC `number` of the peer's came up.
    pub(crate) fn on_in_timer(&mut self, cx: &mut Shared, now: Time, number: u64) {
        let session = self.id;
        let who = Wake::In(session, number);
        let Some(rpc) = self.inc.get_mut(number) else { return };
        if !rpc.timer.fired(&mut cx.timers, who, now) {
            return;
        }
        if let InState::Receiving(message) = &mut rpc.state {
            let meter = &mut cx.granter.meter;
            let mut later = meter.silent_at(rpc.mark);
            if later <= now {
                later = message.repair_at(now, meter);
            }
            if later > now {
                rpc.timer.set(&mut cx.timers, who, later);
                return;
            }
        }
        rpc.silences += 1;
        let silences = rpc.silences;
        let max_silence = cx.config.limits.max_silence;
        let due = now + self.silence(silences);
        let request_id = self.request_id(false, number);
        let (horizon, pace) = (self.horizon(), self.rtt.smoothed());
        let Some(rpc) = self.inc.get_mut(number) else { return };
        match &mut rpc.state {
            InState::Receiving(message) if message.silences >= max_silence => {
                self.forget(cx, number);
            }
            InState::Receiving(message) => {
                rpc.mark = cx.granter.meter.mark(now, due);
                rpc.timer.set(&mut cx.timers, who, due);
                chase(message, cx, now, (session, request_id), (horizon, pace));
            }
            InState::Executing => {}
            InState::Responding(_) => {
                let wait = Duration::from_millis(10).saturating_mul(1 << silences.min(7));
                rpc.timer.set(&mut cx.timers, who, now + wait);
                cx.send_control(session, request_id, Notice::NeedAck);
            }
        }
    }

    /// A wake-up for the session itself came up.
    pub(crate) fn on_session_timer(&mut self, cx: &mut Shared, now: Time) {
        if !self.timer.fired(&mut cx.timers, Wake::Session(self.id), now) {
            return;
        }
        if self.early_until().is_some_and(|until| until <= now) {
            self.end_early(cx, now);
        }
        match self.state {
            State::Handshaking | State::Unconfirmed | State::Failed => self.handshake_due(cx, now),
            State::Established => self.probe_due(cx, now),
            State::Closing { tries } => {
                if tries >= cx.config.limits.max_probes {
                    return self.end(cx, None);
                }
                self.state = State::Closing { tries: tries + 1 };
                cx.send_control(self.id, 0, Notice::Cancel(CancelCode::Request));
                self.wake_at(cx, now + self.silence(tries + 1));
            }
        }
    }

    pub(crate) fn wake_at(&mut self, cx: &mut Shared, due: Time) {
        let due = self.early_until().map_or(due, |until| due.min(until));
        self.timer.set(&mut cx.timers, Wake::Session(self.id), due);
    }

    pub(crate) fn clear_timer(&mut self, cx: &mut Shared) {
        self.timer.clear(&mut cx.timers);
    }

    fn handshake_due(&mut self, cx: &mut Shared, now: Time) {
        let Some(handshake) = self.handshake.as_deref_mut() else { return };
        if handshake.deadline <= now {
            if matches!(self.state, State::Failed) {
                return self.end(cx, None);
            }
            let error = match handshake.bad_blocks {
                0 => HandshakeError::TimedOut,
                _ => HandshakeError::BadParameters,
            };
            return self.handshake_failed(cx, error);
        }
        let is_client = self.role == super::Role::Client;
        if is_client && !matches!(self.state, State::Failed) && handshake.repeat_at <= now {
            handshake.repeat(now);
            self.queue_flight(cx);
        }
        let Some(handshake) = self.handshake.as_deref() else { return };
        let repeats = is_client && !matches!(self.state, State::Failed);
        let due =
            if repeats { handshake.deadline.min(handshake.repeat_at) } else { handshake.deadline };
        self.wake_at(cx, due);
    }

    fn probe_due(&mut self, cx: &mut Shared, now: Time) {
        if let Some(due) = self.probe_at.filter(|due| *due > now) {
            return self.wake_at(cx, due);
        }
        if self.probe_at.is_none() {
            let due = self.last_heard + cx.config.limits.idle_probe;
            if now < due && self.untold {
                // Not a probe: nobody is taken for dead who is far away.
                cx.send_control(self.id, 0, Notice::NeedAck);
                let wait = now.since(self.last_heard).max(MIN_ASK_WAIT);
                return self.wake_at(cx, due.min(now + wait));
            }
            if now < due {
                return self.wake_at(cx, due);
            }
            self.shrink();
            cx.shrink(now);
        }
        if self.probes >= cx.config.limits.max_probes {
            cx.stats.sessions_dead += 1;
            return self.end(cx, Some(CloseReason::Dead));
        }
        self.probes += 1;
        cx.stats.probes_sent += 1;
        cx.send_control(self.id, 0, Notice::NeedAck);
        let due = now + self.probe_wait();
        self.probe_at = Some(due);
        self.wake_at(cx, due);
    }

    /// How long to wait for the answer to the latest probe. Never as short as a silence timer: a host
    /// that stops for some milliseconds is not dead.
    pub(crate) fn probe_wait(&self) -> Duration {
        self.silence(self.probes).max(MIN_PROBE_WAIT * (1 << self.probes.clamp(1, 4)) / 2)
    }

    /// The peer's parameters make no sense. A flipped bit may be the cause: a client waits for the
    /// server to repeat itself, some times; a server waits for a new first flight.
    pub(crate) fn bad_parameters(&mut self, cx: &mut Shared) {
        match self.handshake.as_deref_mut() {
            Some(handshake)
                if self.role == super::Role::Client && handshake.bad_blocks < MAX_BAD_BLOCKS =>
            {
                handshake.reject_flight();
            }
            _ => self.handshake_failed(cx, HandshakeError::BadParameters),
        }
    }

    pub(crate) fn handshake_failed(&mut self, cx: &mut Shared, error: HandshakeError) {
        cx.stats.handshakes_failed += 1;
        // First its calls, if there were any.
        self.end(cx, None);
        cx.events.push_back(Event::HandshakeFailed { session: self.id, error });
    }
}
