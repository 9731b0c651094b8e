//! What the application does with RPCs, and how they end.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use bytes::Bytes;

use super::feed::unschedule;
use super::{Session, State};
use crate::endpoint::{Notice, Shared};
use crate::error::{CallError, StartError, reply_code};
use crate::event::Event;
use crate::message::Body;
use crate::message::recv::InMessage;
use crate::message::send::OutMessage;
use crate::record::{self, Layout, RECORD_OVERHEAD};
use crate::rpc::{InState, OutRpc, Sort};
use crate::time::Time;
use crate::timer::Wake;
use crate::wire::{DATA_LEN, EARLY_EPOCH, Kind, PREAMBLE_LEN};

/// An RPC to start.
pub(super) struct NewCall {
    pub(super) sort: Sort,
    pub(super) body: Bytes,
    pub(super) deadline: Time,
    pub(super) user: u64,
}

impl Session {
    /// Starts a call; returns its number.
    pub(crate) fn start_call(
        &mut self,
        cx: &mut Shared,
        body: Bytes,
        deadline: Time,
        user: u64,
    ) -> Result<u64, StartError> {
        if self.keys.is_none() && self.handshake.is_some() {
            return Err(StartError::NotReady);
        }
        if !self.is_working() {
            return Err(StartError::NoSession);
        }
        self.start(cx, NewCall { sort: Sort::Call, body, deadline, user })
    }

    /// Starts an RPC in a session where messages move; returns its number.
    pub(super) fn start(&mut self, cx: &mut Shared, call: NewCall) -> Result<u64, StartError> {
        let NewCall { sort, body, deadline, user } = call;
        let limits = &cx.config.limits;
        let number = self.next_number;
        let window = self.lane.share(self.peer.max_rpcs.min(limits.max_rpcs).into());
        // Early data may be refused, and then nothing is finished.
        let floor = if sort == Sort::Early { 0 } else { self.finished.floor() };
        if number - floor >= window {
            cx.stats.limit_rpcs += 1;
            return Err(StartError::TooManyOutstanding);
        }
        if body.len() as u64 > u64::from(self.peer.max_message) {
            return Err(StartError::TooLarge { limit: u64::from(self.peer.max_message) });
        }
        let waiting = self.outgoing_bytes;
        if waiting > 0 && waiting + body.len() as u64 > self.lane.share(limits.max_outgoing_bytes) {
            cx.stats.limit_outgoing_bytes += 1;
            return Err(StartError::Backpressure);
        }
        let id = self.request_id(true, number);
        let usable_bits = self.local.id_bits.min(self.peer.id_bits);
        if id >> usable_bits != 0 {
            return Err(StartError::Exhausted);
        }
        let kind = if sort == Sort::Post { Kind::Post } else { Kind::Application };
        let request = self.new_message(cx, id, kind, body, 0)?;
        if sort == Sort::Early && !self.spend_early(cx, request.layout().wire_len) {
            return Err(StartError::EarlyLimit);
        }
        self.next_number += 1;
        self.outgoing_bytes += request.body_len();
        let rpc = OutRpc::new(sort, user, request, deadline);
        let rpc = self.out.insert(number, rpc);
        rpc.timer.set(&mut cx.timers, Wake::Out(self.id, number), deadline);
        let bundles = sort != Sort::Early && matches!(self.state, State::Established);
        match bundles {
            true => {
                cx.enqueue_new(self.id, &mut self.waiting, &mut rpc.request, (true, number));
            }
            false => cx.enqueue(self.id, &mut rpc.request),
        }
        cx.calls += 1;
        self.posts += usize::from(sort == Sort::Post);
        cx.stats.requests_sent += u64::from(sort != Sort::Post);
        cx.stats.early_requests_sent += u64::from(sort == Sort::Early);
        Ok(number)
    }

    /// Answers RPC `number` of the peer's. False if it is not waiting for an answer.
    pub(crate) fn reply(&mut self, cx: &mut Shared, number: u64, kind: Kind, body: Bytes) -> bool {
        let executing = self.inc.get(number).filter(|rpc| matches!(rpc.state, InState::Executing));
        let Some(limit) = executing.map(|rpc| rpc.response_limit) else { return false };
        let id = self.request_id(false, number) | 1;
        let response = if body.len() as u64 > u64::from(self.peer.max_message) {
            Err(StartError::TooLarge { limit: u64::from(self.peer.max_message) })
        } else {
            self.new_message(cx, id, kind, body, limit)
        };
        let response = response.or_else(|_| {
            let text = "the response is larger than the caller or the session takes";
            self.new_message(cx, id, Kind::Error, error_body(reply_code::TOO_LARGE, text), limit)
        });
        let Ok(mut response) = response else { return false };
        self.outgoing_bytes += response.body_len();
        match self.state {
            State::Established => {
                cx.enqueue_new(self.id, &mut self.waiting, &mut response, (false, number));
            }
            _ => cx.enqueue(self.id, &mut response),
        }
        if let Some(rpc) = self.inc.get_mut(number) {
            self.incoming.release(rpc.charge);
            cx.incoming_bytes -= rpc.charge;
            rpc.charge = 0;
            rpc.silences = 0;
            rpc.state = InState::Responding(response);
        }
        cx.stats.responses_sent += 1;
        true
    }

    /// Gives up RPC `number` of ours; the caller is told `error` at once.
    pub(crate) fn cancel(&mut self, cx: &mut Shared, now: Time, number: u64, error: CallError) {
        let Some(rpc) = self.out.get_mut(number).filter(|rpc| !rpc.cancelling) else { return };
        rpc.cancelling = true;
        rpc.silences = 0;
        let (user, frozen, is_post) = (rpc.user, rpc.request.epoch(), rpc.sort == Sort::Post);
        cx.dequeue(&mut rpc.request);
        let response = rpc.response.take();
        let due = now + self.silence(0);
        if let Some(rpc) = self.out.get_mut(number) {
            rpc.timer.set(&mut cx.timers, Wake::Out(self.id, number), due);
        }
        self.release_epoch(frozen);
        let id = self.request_id(true, number);
        if let Some(mut response) = response {
            self.release_incoming(cx, id | 1, &mut response);
        }
        cx.send_control(self.id, id, Notice::Cancel(crate::wire::CancelCode::Request));
        if !is_post {
            let rpc = self.rpc_id(true, number);
            cx.events.push_back(Event::Response { rpc, user, result: Err(error) });
        }
    }

    /// Ends RPC `number` of ours and tells the caller, if it was not told before.
    pub(crate) fn finish(&mut self, cx: &mut Shared, number: u64, result: Result<Body, CallError>) {
        let Some(rpc) = self.out.get_mut(number) else { return };
        rpc.timer.clear(&mut cx.timers);
        cx.dequeue(&mut rpc.request);
        let OutRpc { sort, user, cancelling, .. } = *rpc;
        let (id, epoch) = (rpc.request.id(), rpc.request.epoch());
        self.outgoing_bytes -= rpc.request.body_len();
        let response = rpc.response.take();
        self.out.drop_one(number);
        cx.calls -= 1;
        self.posts -= usize::from(sort == Sort::Post);
        self.finished.insert(number);
        match result {
            Ok(_) | Err(CallError::Refused { .. }) => {
                self.segments_arrived(cx, |other| other == id)
            }
            Err(_) => self.segments_gone(cx, id),
        }
        if let Some(mut response) = response {
            self.release_incoming(cx, self.request_id(true, number) | 1, &mut response);
        }
        if cancelling {
            return;
        }
        self.release_epoch(epoch);
        if sort != Sort::Post {
            if result.is_ok() {
                cx.stats.responses_received += 1;
            }
            let rpc = self.rpc_id(true, number);
            cx.events.push_back(Event::Response { rpc, user, result });
        }
    }

    /// Forgets RPC `number` of the peer's, telling the application if it has the request.
    pub(crate) fn forget(&mut self, cx: &mut Shared, number: u64) {
        let Some(rpc) = self.inc.get_mut(number) else { return };
        rpc.timer.clear(&mut cx.timers);
        self.incoming.release(rpc.charge);
        cx.incoming_bytes -= rpc.charge;
        match &mut rpc.state {
            InState::Receiving(_) => {
                let Some(rpc) = self.inc.remove(number) else { return };
                let InState::Receiving(mut message) = rpc.state else { return };
                let id = self.request_id(false, number);
                unschedule(&mut message, cx, (self.id, id));
            }
            InState::Executing => {
                self.inc.drop_one(number);
                let rpc = self.rpc_id(false, number);
                cx.events.push_back(Event::RequestCancelled { rpc });
            }
            InState::Responding(response) => {
                cx.dequeue(response);
                let (id, epoch) = (response.id(), response.epoch());
                self.outgoing_bytes -= response.body_len();
                self.inc.drop_one(number);
                self.segments_gone(cx, id);
                self.release_epoch(epoch);
            }
        }
    }

    /// A message of ours will not be sent any more: it no longer keeps the epoch alive that it is frozen
    /// in, if it is.
    fn release_epoch(&mut self, frozen: Option<u32>) {
        match (frozen, self.keys.as_deref_mut()) {
            (Some(EARLY_EPOCH), _) => self.early_is_over(),
            (Some(epoch), Some(keys)) => keys.send.release(epoch),
            _ => {}
        }
    }

    /// Forgets RPCs of the peer's, however many numbers the range has.
    pub(crate) fn forget_range(&mut self, cx: &mut Shared, range: RangeInclusive<u64>) {
        let mut gone: Vec<u64> =
            self.inc.iter().map(|(number, _)| number).filter(|n| range.contains(n)).collect();
        // In the order of their numbers, so that what happens does not hang on the hash map.
        gone.sort_unstable();
        for number in gone {
            self.forget(cx, number);
        }
    }

    /// Gives back what a message being received was charged.
    pub(crate) fn release_incoming(&mut self, cx: &mut Shared, id: u64, message: &mut InMessage) {
        self.incoming.release(message.charge());
        cx.incoming_bytes -= message.charge();
        unschedule(message, cx, (self.id, id));
    }

    /// Grants a message of ours to receive what it may have now.
    pub(crate) fn regrant(&mut self, cx: &mut Shared, id: u64) {
        let Some(which) = self.rpc_of(id) else { return };
        let horizon = self.horizon();
        let message = if which.ours {
            self.out.get_mut(which.number).and_then(|rpc| rpc.response.as_deref_mut())
        } else {
            self.inc.get_mut(which.number).and_then(|rpc| match &mut rpc.state {
                InState::Receiving(message) => Some(&mut **message),
                _ => None,
            })
        };
        if let Some(message) = message {
            super::feed::schedule(message, cx, (self.id, id), horizon);
        }
    }

    /// Bytes of the response to RPC `number` that are here, without a hole from the start.
    pub(crate) fn response_prefix(&self, number: u64) -> &[u8] {
        self.out
            .get(number)
            .and_then(|rpc| rpc.response.as_ref())
            .map_or(&[], |response| response.prefix())
    }

    /// Wire bytes of RPC `number` of ours: request sent, request in all, response received,
    /// response in all (0 while unknown).
    pub(crate) fn progress(&self, number: u64) -> Option<[u32; 4]> {
        let rpc = self.out.get(number)?;
        let (received, total) =
            rpc.response.as_ref().map_or((0, 0), |r| (r.received(), r.layout().wire_len));
        Some([rpc.request.sent(), rpc.request.layout().wire_len, received, total])
    }

    pub(super) fn new_message(
        &mut self,
        cx: &Shared,
        id: u64,
        kind: Kind,
        body: Bytes,
        response_limit: u32,
    ) -> Result<OutMessage, StartError> {
        let room = self.room.saturating_sub(DATA_LEN);
        if self.cut.room != room {
            self.cut = Cut::of(room, self.local.id_bits);
        }
        let Cut { record_size, countable, mut segment, .. } = self.cut;
        // What the peer takes, and what record indices and lengths can count.
        let most = countable.min(self.peer.max_message.saturating_add(PREAMBLE_LEN as u32));
        let too_large = StartError::TooLarge { limit: u64::from(most) - PREAMBLE_LEN as u64 };
        let plain = u32::try_from(PREAMBLE_LEN + body.len()).map_err(|_| too_large)?;
        let most = most.max(plain);
        let padded = cx.config.padding.padded_len(plain).clamp(plain, most);
        let cut = |record_size| {
            Layout::from_plain(record_size, u64::from(padded), self.local.id_bits)
                .map_err(|_| too_large)
        };
        let mut layout = cut(record_size)?;
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        // Where segments arrive, records are for segments (spec 4.2).
        if layout.wire_len > segment
            && let Some(tso) = &self.tso
            && let Some(record_size) = tso.record_size_for(&cx.segments, room)
        {
            (layout, segment) = (cut(record_size)?, room);
        }
        let unscheduled = match response_limit {
            0 => self.told.unscheduled(),
            limit => self.told.unscheduled().min(limit),
        };
        let priority = self.told.priority(layout.wire_len);
        Ok(OutMessage::new(id, kind, body, layout, segment, (unscheduled, priority)))
    }
}

/// How messages are cut for packets of so much payload, kept because it takes divisions to find out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    room: usize,
    record_size: u16,
    /// The longest plaintext that record indices and lengths can count.
    countable: u32,
    /// Wire bytes of a packet of whole records.
    segment: u32,
}

impl Cut {
    pub(super) fn of(room: usize, id_bits: u8) -> Self {
        let record_size = record::record_size_for(room);
        let record = u32::from(record_size) + RECORD_OVERHEAD;
        let payload = u32::try_from(room).unwrap_or(u32::MAX);
        Cut {
            room,
            record_size,
            countable: record::max_plain_len(record_size, id_bits),
            segment: (payload / record).max(1) * record,
        }
    }
}

/// Body of an error reply (spec 4.1).
pub(crate) fn error_body(code: u32, text: &str) -> Bytes {
    let mut body = Vec::from(code.to_be_bytes());
    body.extend_from_slice(text.as_bytes());
    Bytes::from(body)
}

/// The call error that an error reply means.
pub(crate) fn parse_error_body(body: &[u8]) -> CallError {
    let (code, text) = body.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    let text = String::from_utf8_lossy(text).into_owned();
    CallError::Refused { code: u32::from_be_bytes(*code), text }
}
