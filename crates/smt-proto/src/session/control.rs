//! Authentic control packets.

use super::feed::{resend_holes, schedule};
use super::{Session, State, Which, outgoing};
use crate::endpoint::{Notice, Shared};
use crate::error::{CallError, CloseReason};
use crate::message::send::OutMessage;
use crate::rpc::InState;
use crate::time::Time;
use crate::timer::Wake;
use crate::wire::{
    AckRanges, CancelCode, Control, ControlBody, MAX_ACK_RANGES, MIN_CONTROL_LEN, UnknownCode,
};

impl Session {
    pub(crate) fn on_control(&mut self, cx: &mut Shared, now: Time, control: &Control) {
        // To a lane its own ID is what 0 is to a session of one.
        let id = match control.header.message_id {
            id if id == self.lane.own_id() => 0,
            id => id,
        };
        match &control.body {
            ControlBody::Cutoffs { cutoffs, version, unscheduled } => {
                let declared = self.peer.unscheduled;
                self.told.update(control.number, (*cutoffs, *version), *unscheduled, declared);
            }
            ControlBody::NeedAck => self.on_need_ack(cx, id),
            ControlBody::Ack(ranges) => self.on_ack(cx, now, ranges),
            ControlBody::Cancel(code) if id == 0 => self.on_close(cx, *code),
            ControlBody::Update { epoch } => self.on_update(cx, now, *epoch),
            body => {
                let Some(which) = self.rpc_of(id) else {
                    cx.stats.dropped_unexpected += 1;
                    return;
                };
                match *body {
                    ControlBody::Grant { offset, priority } => {
                        self.on_grant(cx, now, which, offset, priority);
                    }
                    ControlBody::Resend { offset, length, priority, pinned } => {
                        cx.stats.resends_received += 1;
                        let range = offset..offset.saturating_add(length);
                        self.on_resend(cx, now, which, range, (priority, pinned));
                    }
                    ControlBody::Unknown(code) => self.on_unknown(cx, now, which, code),
                    ControlBody::Busy => self.on_busy(cx, now, which),
                    ControlBody::Cancel(CancelCode::Request) => {
                        self.on_cancel(cx, now, id, which);
                    }
                    ControlBody::Cancel(CancelCode::Confirmed) => {
                        let cancelling = which.ours
                            && self.out.get(which.number).is_some_and(|rpc| rpc.cancelling);
                        if cancelling {
                            self.finish(cx, which.number, Err(CallError::Cancelled));
                        }
                    }
                    _ => cx.stats.dropped_unexpected += 1,
                }
            }
        }
    }

    fn on_grant(&mut self, cx: &mut Shared, now: Time, which: Which, offset: u32, priority: u8) {
        let session = self.id;
        if let Some(message) = self.outgoing(which) {
            message.grant(offset, priority);
            cx.enqueue(session, message);
            self.heard_about(cx, now, which);
        }
    }

    fn on_resend(
        &mut self,
        cx: &mut Shared,
        now: Time,
        which: Which,
        range: core::ops::Range<u32>,
        (priority, pinned): (u8, bool),
    ) {
        let session = self.id;
        let id = self.request_id(which.ours, which.number) | u64::from(which.response);
        let max_ranges = cx.config.limits.max_resend_ranges;
        self.segments_asked(cx, now, id, &range);
        if let Some(message) = self.outgoing(which) {
            let end = range.end.min(message.layout().wire_len);
            let unsent = message.sent() < end && message.ticket != 0;
            if !message.ask_again(range, pinned, priority, max_ranges) {
                cx.stats.limit_resend_ranges += 1;
            }
            cx.enqueue(session, message);
            if unsent {
                // It waits its turn here; the receiver must not take that for loss.
                cx.stats.busy_sent += 1;
                cx.send_control(session, id, Notice::Busy);
            }
            self.heard_about(cx, now, which);
            return;
        }
        if !which.ours && which.response {
            self.on_poll(cx, now, id, which.number);
        }
    }

    /// The caller of RPC `number` asks for a response that does not exist yet.
    fn on_poll(&mut self, cx: &mut Shared, now: Time, response_id: u64, number: u64) {
        let request_id = response_id & !1;
        let session = self.id;
        let pace = self.rtt.smoothed();
        let horizon = self.horizon();
        match self.inc.get_mut(number).map(|rpc| &mut rpc.state) {
            Some(InState::Receiving(message)) => {
                let key = (session, request_id);
                let paced = message.may_ask(now, &cx.granter.meter)
                    && cx.granter.meter.book_now(now, message.missing());
                let limit = message.granted();
                if paced && resend_holes(message, cx, now, key, limit, pace) == 0 {
                    // Nothing is missing below the grant: then perhaps the grant was.
                    let place = cx.granter.place(key, message.remaining());
                    let priority = place.map_or(0, |place| place.priority);
                    let body = Notice::Grant { offset: limit, priority };
                    cx.send_control(session, request_id, body);
                    schedule(message, cx, key, horizon);
                }
                cx.stats.busy_sent += 1;
                cx.send_control(session, response_id, Notice::Busy);
            }
            Some(InState::Executing | InState::Responding(_)) => {
                cx.stats.busy_sent += 1;
                cx.send_control(session, response_id, Notice::Busy);
            }
            None => {
                let forgotten = self.seen.contains(number);
                let code =
                    if forgotten { UnknownCode::Forgotten } else { UnknownCode::NeverAccepted };
                cx.send_control(session, response_id, Notice::Unknown(code));
            }
        }
    }

    fn on_unknown(&mut self, cx: &mut Shared, now: Time, which: Which, code: UnknownCode) {
        if !which.ours {
            return;
        }
        let session = self.id;
        let due = now + self.silence(0);
        let Some(rpc) = self.out.get_mut(which.number) else { return };
        match code {
            // Answered meanwhile: the UNKNOWN is late.
            UnknownCode::NeverAccepted if rpc.response.is_some() => {}
            UnknownCode::NeverAccepted if !rpc.cancelling => {
                rpc.sent_at = None;
                rpc.busy = 0;
                rpc.silent_at = due;
                rpc.mark = cx.granter.meter.mark(now, due);
                rpc.timer.set(&mut cx.timers, Wake::Out(session, which.number), due);
                rpc.request.restart();
                let id = rpc.request.id();
                cx.enqueue(session, &mut rpc.request);
                // It has nothing of all that.
                self.segments_asked(cx, now, id, &(0..u32::MAX));
            }
            UnknownCode::Forgotten => {
                self.finish(cx, which.number, Err(CallError::OutcomeUnknown));
            }
            _ => cx.stats.dropped_unexpected += 1,
        }
    }

    fn on_busy(&mut self, cx: &mut Shared, now: Time, which: Which) {
        let session = self.id;
        if which.ours {
            let Some(rpc) = self.out.get_mut(which.number) else { return };
            if rpc.cancelling {
                return;
            }
            if let Some(response) = &mut rpc.response {
                response.silences = 0;
            }
            let wait = core::time::Duration::from_millis(1 << rpc.busy.min(7))
                .min(crate::rtt::MAX_SILENCE);
            if rpc.busy > 0 && rpc.silences == 0 {
                // One of several that one burst of ours has caused.
                return;
            }
            rpc.busy = rpc.busy.saturating_add(1);
            rpc.silences = 0;
            rpc.silent_at = now + wait;
            rpc.mark = cx.granter.meter.mark(now, rpc.silent_at);
            let due = rpc.silent_at.min(rpc.deadline);
            rpc.timer.set(&mut cx.timers, Wake::Out(session, which.number), due);
            return;
        }
        let due = now + self.silence(0);
        if let Some(rpc) = self.inc.get_mut(which.number)
            && let InState::Receiving(message) = &mut rpc.state
        {
            rpc.silences = 0;
            message.silences = 0;
            rpc.mark = cx.granter.meter.mark(now, due);
            rpc.timer.set(&mut cx.timers, Wake::In(session, which.number), due);
        }
    }

    fn on_cancel(&mut self, cx: &mut Shared, now: Time, id: u64, which: Which) {
        if which.ours || which.response {
            cx.stats.dropped_unexpected += 1;
            return;
        }
        if !self.seen.contains(which.number) {
            if which.number - self.seen.floor() >= self.window() {
                return self.violation(cx, now);
            }
            self.seen.insert(which.number);
        }
        self.forget(cx, which.number);
        cx.send_control(self.id, id, Notice::Cancel(CancelCode::Confirmed));
    }

    fn on_need_ack(&mut self, cx: &mut Shared, id: u64) {
        let finished = match self.rpc_of(id) {
            Some(Which { ours: true, number, .. }) => {
                self.finished.contains(number) || !self.out.contains(number)
            }
            _ => id == 0,
        };
        if finished {
            cx.send_control(self.id, id, Notice::Ack);
        }
    }

    /// Which RPCs of ours are finished: those below the floor, and from the interval that holds
    /// `about` on as many as an ACK takes.
    pub(crate) fn ack_ranges(&self, about: u64) -> AckRanges {
        let mut ranges = AckRanges::new(self.request_id(true, self.finished.floor()));
        let intervals = self.finished.intervals();
        let from = intervals.partition_point(|interval| interval.1 <= about);
        for &(start, end) in intervals.iter().skip(from).take(MAX_ACK_RANGES) {
            if !ranges.push(self.request_id(true, start), self.request_id(true, end - 1)) {
                break;
            }
        }
        ranges
    }

    fn on_ack(&mut self, cx: &mut Shared, now: Time, ranges: &AckRanges) {
        let number = |session: &Session, id| match session.rpc_of(id) {
            Some(Which { ours: false, response: false, number }) => Some(number),
            _ => None,
        };
        let Some(floor) = number(self, ranges.floor) else { return self.violation(cx, now) };
        if !self.acks_are_possible(floor, 0) && !self.believe_acks(floor, 0) {
            return self.violation(cx, now);
        }
        self.on_acks(cx, floor, 0);
        for (first, last) in ranges.iter() {
            let (Some(first), Some(last)) = (number(self, first), number(self, last)) else {
                return self.violation(cx, now);
            };
            if !self.on_acked_range(cx, first, last) {
                return self.violation(cx, now);
            }
        }
    }

    fn on_close(&mut self, cx: &mut Shared, code: CancelCode) {
        match (code, &self.state) {
            (CancelCode::Request, State::Closing { .. })
            | (CancelCode::Confirmed, State::Closing { .. }) => {
                if code == CancelCode::Request {
                    self.confirm_close(cx);
                }
                self.end(cx, None);
            }
            (CancelCode::Request, _) => {
                self.confirm_close(cx);
                self.end(cx, Some(CloseReason::Peer));
            }
            (CancelCode::Confirmed, _) => cx.stats.dropped_unexpected += 1,
        }
    }

    /// Confirms the peer's CANCEL of the session: at once, for there will be no session to write it when
    /// its turn to leave comes.
    fn confirm_close(&mut self, cx: &mut Shared) {
        let mut packet = [0; MIN_CONTROL_LEN];
        let Shared { sizes, stats, .. } = cx;
        let confirmed = (0, Notice::Cancel(CancelCode::Confirmed));
        if self.write_control(sizes.cutoffs(), stats, confirmed, &mut packet).is_some() {
            cx.send_last(self.path, self.lane.index(), packet);
        }
    }

    /// The message of ours that an ID means, if it is being sent or kept.
    pub(crate) fn outgoing(&mut self, which: Which) -> Option<&mut OutMessage> {
        outgoing(&mut self.out, &mut self.inc, which)
    }

    /// The receiver of one of our messages is alive: silence starts anew.
    fn heard_about(&mut self, cx: &mut Shared, now: Time, which: Which) {
        let session = self.id;
        let due = now + self.silence(0);
        if which.ours
            && let Some(rpc) = self.out.get_mut(which.number)
        {
            rpc.silences = 0;
            rpc.busy = 0;
            rpc.sent_at = None;
            rpc.silent_at = due;
            rpc.mark = cx.granter.meter.mark(now, due);
            let due = due.min(rpc.deadline);
            rpc.timer.set(&mut cx.timers, Wake::Out(session, which.number), due);
        }
    }
}
