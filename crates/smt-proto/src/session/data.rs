//! Authentic DATA packets: requests of the peer's, responses to ours.

use alloc::boxed::Box;
use core::ops::Range;

use super::calls::parse_error_body;
use super::distrust::answers_another;
use super::early::Openers;
use super::feed::{Fed, PeerLimits, Progress, ask_for_holes, feed, schedule, unschedule};
use super::{Role, Session, State, Which};
use crate::endpoint::{Notice, Shared};
use crate::error::{CloseReason, HandshakeError};
use crate::event::Event;
use crate::message::Body;
use crate::message::recv::{InMessage, Opener};
use crate::message::whole::{self, Refused};
use crate::record::Layout;
use crate::rpc::{InRpc, InState};
use crate::time::Time;
use crate::timer::Wake;
use crate::wire::{Data, EARLY_EPOCH, Kind, PREAMBLE_LEN, Preamble};

/// Packets past a hole that make it a loss, at least.
pub(crate) const MIN_REORDER_WINDOW: u32 = 3;

/// A DATA packet whose tag is good, its payload and place in the message.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) data: Data,
    pub(crate) offset: u32,
    pub(crate) payload: &'a [u8],
}

impl Packet<'_> {
    /// Whether it holds its message whole.
    fn is_whole(&self) -> bool {
        self.offset == 0 && self.payload.len() == self.data.message_len as usize
    }

    /// The bytes that the network cut off it, if it did (spec 6.3).
    pub(super) fn trimmed(&self) -> Option<Range<u32>> {
        let Data { explicit, segment_size, message_len, .. } = self.data;
        let end = self.offset.saturating_add(u32::from(segment_size)).min(message_len);
        let trimmed = explicit && self.payload.is_empty() && self.offset < end;
        trimmed.then_some(self.offset..end)
    }
}

impl Session {
    pub(crate) fn on_data(&mut self, cx: &mut Shared, now: Time, packet: Packet<'_>) {
        let early = u32::from(packet.data.header.epoch) == EARLY_EPOCH;
        if !early {
            self.consider_telling(cx, now, packet.data.cutoffs);
        }
        if packet.data.bundle {
            return self.on_bundle(cx, now, packet);
        }
        match self.rpc_of(packet.data.header.message_id) {
            Some(Which { ours: true, response: true, number }) => {
                self.on_response(cx, now, number, packet);
            }
            // Only clients have early data.
            Some(Which { ours: false, response: false, number })
                if !early || self.role == Role::Server =>
            {
                self.on_request(cx, now, number, packet);
            }
            _ => cx.stats.dropped_unexpected += 1,
        }
    }

    fn on_request(&mut self, cx: &mut Shared, now: Time, number: u64, packet: Packet<'_>) {
        let id = packet.data.header.message_id;
        let limits = self.peer_limits();
        if let Some(rpc) = self.inc.get_mut(number) {
            let InState::Receiving(message) = &mut rpc.state else {
                cx.stats.duplicates += 1;
                return;
            };
            let keys = Openers { early: self.early.as_deref_mut(), app: self.keys.as_deref_mut() };
            let fed = feed(message, keys, cx, now, self.id, limits, packet);
            let complete = message.is_complete();
            let (epoch, wire_len) = (message.epoch, message.layout().wire_len);
            match fed {
                Fed::Violation => return self.violation_under(cx, now, epoch),
                Fed::Nothing { spurious } => return self.note_spurious(spurious),
                Fed::Progress(progress) => {
                    rpc.silences = 0;
                    if !self.request_progress(cx, now, number, (epoch, wire_len), progress) {
                        return self.violation_under(cx, now, epoch);
                    }
                }
            }
            if complete {
                return self.deliver_request(cx, now, number);
            }
            return self.keep_receiving_request(cx, now, number);
        }
        if self.seen.contains(number) {
            cx.stats.dropped_replayed_request += 1;
            return;
        }
        if self.is_beyond_window(cx, number) {
            return self.violation_under(cx, now, packet.data.header.epoch.into());
        }
        #[cfg(feature = "mutations")]
        if cx.config.has(crate::mutation::Mutation::ReplayMarkedBeforeOpen) {
            self.seen.insert(number);
        }
        let Some((layout, epoch)) = self.admit(cx, now, id, packet) else { return };
        if packet.is_whole() {
            return self.on_whole_request(cx, now, number, layout, epoch, packet);
        }
        let mut message = Box::new(InMessage::new(layout, epoch));
        let keys = Openers { early: self.early.as_deref_mut(), app: self.keys.as_deref_mut() };
        let fed = feed(&mut message, keys, cx, now, self.id, limits, packet);
        let sound = match fed {
            Fed::Violation => false,
            Fed::Nothing { .. } => true,
            Fed::Progress(progress) => {
                self.request_progress(cx, now, number, (epoch, layout.wire_len), progress)
            }
        };
        if !sound {
            unschedule(&mut message, cx, (self.id, id));
            return self.violation_under(cx, now, epoch);
        }
        let charge = message.charge();
        self.charge(cx, charge);
        let state = InState::Receiving(message);
        self.inc.insert(number, InRpc::new(state, charge));
        self.keep_receiving_request(cx, now, number);
    }

    /// A new request, whole in its first packet.
    fn on_whole_request(
        &mut self,
        cx: &mut Shared,
        now: Time,
        number: u64,
        layout: Layout,
        epoch: u32,
        packet: Packet<'_>,
    ) {
        let Some((preamble, body)) = self.open_whole(cx, now, layout, epoch, packet) else {
            return;
        };
        self.seen.insert(number);
        self.heard(cx, now, epoch);
        if (epoch == EARLY_EPOCH && !self.spend_early(cx, layout.wire_len))
            || !self.is_lawful_request(cx, &preamble, epoch)
            || !self.on_preamble(cx, &preamble, epoch)
        {
            return self.violation_under(cx, now, epoch);
        }
        let charge = u64::from(layout.plain_len);
        self.charge(cx, charge);
        let state = InState::Executing;
        let response_limit = preamble.response_limit;
        let early = epoch == EARLY_EPOCH;
        self.inc.insert(number, InRpc { response_limit, early, ..InRpc::new(state, charge) });
        self.hand_out(cx, number, &preamble, epoch, body);
    }

    /// Gives a complete request to whom it is for.
    pub(super) fn hand_out(
        &mut self,
        cx: &mut Shared,
        number: u64,
        preamble: &Preamble,
        epoch: u32,
        body: Body,
    ) {
        if preamble.kind == Kind::Post {
            return self.take_post(cx, number, body);
        }
        let early = epoch == EARLY_EPOCH;
        cx.stats.requests_received += 1;
        cx.stats.early_requests_received += u64::from(early);
        cx.events.push_back(Event::Request { rpc: self.rpc_id(false, number), body, early });
    }

    /// Opens a message that its packet holds whole. `None` if it is to be ignored; the session is
    /// closed if the peer contradicts itself.
    fn open_whole(
        &mut self,
        cx: &mut Shared,
        now: Time,
        layout: Layout,
        epoch: u32,
        packet: Packet<'_>,
    ) -> Option<(Preamble, Body)> {
        let (id, id_bits) = (packet.data.header.message_id, self.peer.id_bits);
        let mut keys = Openers { early: self.early.as_deref_mut(), app: self.keys.as_deref_mut() };
        let id = cx.config.nonce_id(id);
        let Some(epoch_keys) = keys.of(&mut cx.stats, epoch) else {
            keys.failed(cx, now, self.id, (epoch, 0));
            return None;
        };
        let opener = Opener { keys: epoch_keys, id, id_bits };
        match whole::open(layout, packet.payload, opener) {
            Ok((preamble, body)) if preamble.oldest_epoch <= epoch => {
                cx.stats.records_opened += u64::from(layout.records);
                keys.opened(cx, now, self.id, epoch);
                cx.granter.meter.arrived(now, packet.payload.len());
                cx.note_size(layout.wire_len, layout.wire_len);
                Some((preamble, body))
            }
            Err(Refused::NotAuthentic) => {
                keys.failed(cx, now, self.id, (epoch, 1));
                None
            }
            _ => {
                self.violation_under(cx, now, epoch);
                None
            }
        }
    }

    /// Notes what new bytes of request `number`, of so many bytes in an epoch, tell. False: the peer
    /// contradicts itself, or sends more early data than it may.
    fn request_progress(
        &mut self,
        cx: &mut Shared,
        now: Time,
        number: u64,
        (epoch, wire_len): (u32, u32),
        progress: Progress,
    ) -> bool {
        let mut sound = true;
        if progress.opened && self.seen.insert(number) && epoch == EARLY_EPOCH {
            sound = self.spend_early(cx, wire_len);
        }
        self.progress_made(cx, now, &progress, epoch);
        sound
            && progress.preamble.is_none_or(|preamble| {
                self.is_lawful_request(cx, &preamble, epoch)
                    && self.on_preamble(cx, &preamble, epoch)
            })
    }

    /// Notes what new bytes of a message tell about peer and path.
    fn progress_made(&mut self, cx: &mut Shared, now: Time, progress: &Progress, epoch: u32) {
        if progress.opened {
            self.heard(cx, now, epoch);
        }
        if let Some(rtt) = progress.grant_rtt {
            self.rtt.sample(now, rtt);
        }
        if let Some(rtt) = progress.rtt {
            self.rtt.sample(now, rtt);
            // The loss was real: trust the order of packets a little more again.
            self.reorder_window = (self.reorder_window - 1).max(MIN_REORDER_WINDOW);
        }
    }

    /// Hands a complete request to the application.
    fn deliver_request(&mut self, cx: &mut Shared, now: Time, number: u64) {
        let id = self.request_id(false, number);
        let Some(rpc) = self.inc.get_mut(number) else { return };
        rpc.timer.clear(&mut cx.timers);
        let mut message = match core::mem::replace(&mut rpc.state, InState::Executing) {
            InState::Receiving(message) => message,
            other => {
                rpc.state = other;
                return;
            }
        };
        unschedule(&mut message, cx, (self.id, id));
        cx.note_size(message.layout().wire_len, self.telling.content().1);
        let epoch = message.epoch;
        match message.into_body() {
            Some((preamble, body)) => {
                if let Some(rpc) = self.inc.get_mut(number) {
                    rpc.response_limit = preamble.response_limit;
                    rpc.early = epoch == EARLY_EPOCH;
                }
                self.hand_out(cx, number, &preamble, epoch, body);
            }
            _ => {
                // The application never had it, and is not told of its end.
                if let Some(rpc) = self.inc.remove(number) {
                    self.incoming.release(rpc.charge);
                    cx.incoming_bytes -= rpc.charge;
                }
                self.violation_under(cx, now, epoch);
            }
        }
    }

    fn keep_receiving_request(&mut self, cx: &mut Shared, now: Time, number: u64) {
        let id = self.request_id(false, number);
        let due = now + self.silence(0);
        let session = self.id;
        let window = self.reorder_window;
        let pace = self.rtt.smoothed();
        let horizon = self.horizon();
        let age = self.rtt.shortest().unwrap_or_default();
        let Some(rpc) = self.inc.get_mut(number) else { return };
        let InState::Receiving(message) = &mut rpc.state else { return };
        rpc.mark = cx.granter.meter.mark(now, due);
        rpc.timer.set(&mut cx.timers, Wake::In(session, number), due);
        ask_for_holes(message, cx, now, (session, id), (window, age), pace);
        schedule(message, cx, (session, id), horizon);
    }

    fn on_response(&mut self, cx: &mut Shared, now: Time, number: u64, packet: Packet<'_>) {
        let id = packet.data.header.message_id;
        let early = u32::from(packet.data.header.epoch) == EARLY_EPOCH;
        match self.out.get(number) {
            None if number >= self.next_number => {
                cx.stats.dropped_unexpected += 1;
                return;
            }
            None => {
                cx.stats.duplicates += 1;
                return;
            }
            // Whoever has the ticket's key alone must not answer what epoch 3 protects.
            Some(rpc) if early && rpc.request.epoch() != Some(EARLY_EPOCH) => {
                cx.stats.dropped_unexpected += 1;
                return;
            }
            Some(rpc) if rpc.cancelling || rpc.request.sent() == 0 => {
                cx.stats.dropped_unexpected += 1;
                return;
            }
            Some(rpc) if rpc.response.is_none() => {
                let sample = rpc.sent_at;
                let Some((layout, epoch)) = self.admit(cx, now, id, packet) else { return };
                if packet.is_whole() {
                    return self.on_whole_response(
                        cx,
                        now,
                        number,
                        (layout, epoch),
                        sample,
                        packet,
                    );
                }
                let message = Box::new(InMessage::new(layout, epoch));
                self.charge(cx, message.charge());
                if let Some(sent_at) = sample {
                    self.rtt.sample(now, now.since(sent_at));
                }
                if let Some(rpc) = self.out.get_mut(number) {
                    rpc.response = Some(message);
                }
            }
            Some(_) => {}
        }
        let due = now + self.silence(0);
        let window = self.reorder_window;
        let pace = self.rtt.smoothed();
        let horizon = self.horizon();
        let age = self.rtt.shortest().unwrap_or_default();
        let session = self.id;
        let limits = self.peer_limits();
        let keys = Openers { early: self.early.as_deref_mut(), app: self.keys.as_deref_mut() };
        let Some(rpc) = self.out.get_mut(number) else { return };
        let request = rpc.request.epoch();
        let Some(message) = &mut rpc.response else { return };
        let progress = match feed(message, keys, cx, now, self.id, limits, packet) {
            Fed::Violation => {
                return self.violation_under(cx, now, packet.data.header.epoch.into());
            }
            Fed::Nothing { spurious } => return self.note_spurious(spurious),
            Fed::Progress(progress) => progress,
        };
        rpc.silences = 0;
        rpc.busy = 0;
        let epoch = message.epoch;
        if progress.preamble.is_some_and(|preamble| answers_another(request, &preamble, epoch)) {
            self.progress_made(cx, now, &progress, epoch);
            return self.spoiled(cx, now, number);
        }
        if !message.is_complete() {
            rpc.silent_at = due;
            rpc.mark = cx.granter.meter.mark(now, due);
            let due = rpc.silent_at.min(rpc.deadline);
            rpc.timer.set(&mut cx.timers, Wake::Out(session, number), due);
            ask_for_holes(message, cx, now, (session, id), (window, age), pace);
            schedule(message, cx, (session, id), horizon);
        }
        let complete = if message.is_complete() { rpc.response.take() } else { None };
        self.progress_made(cx, now, &progress, epoch);
        if let Some(mut message) = complete {
            self.release_incoming(cx, id, &mut message);
            cx.note_size(message.layout().wire_len, self.telling.content().1);
            match message.into_body() {
                Some((Preamble { kind: Kind::Application, .. }, body)) => {
                    self.finish(cx, number, Ok(body));
                }
                Some((Preamble { kind: Kind::Error, .. }, body)) => {
                    self.finish(cx, number, Err(parse_error_body(&body)));
                }
                _ => return self.violation_under(cx, now, epoch),
            }
        }
        if progress.preamble.is_some_and(|preamble| !self.on_preamble(cx, &preamble, epoch)) {
            self.violation_under(cx, now, epoch);
        }
    }

    /// A response, whole in its first packet.
    fn on_whole_response(
        &mut self,
        cx: &mut Shared,
        now: Time,
        number: u64,
        (layout, epoch): (Layout, u32),
        asked_at: Option<Time>,
        packet: Packet<'_>,
    ) {
        let Some((preamble, body)) = self.open_whole(cx, now, layout, epoch, packet) else {
            return;
        };
        if let Some(asked_at) = asked_at {
            self.rtt.sample(now, now.since(asked_at));
        }
        self.heard(cx, now, epoch);
        let request = self.out.get(number).and_then(|rpc| rpc.request.epoch());
        if answers_another(request, &preamble, epoch) {
            return self.spoiled(cx, now, number);
        }
        match preamble.kind {
            Kind::Application => self.finish(cx, number, Ok(body)),
            Kind::Error => self.finish(cx, number, Err(parse_error_body(&body))),
            Kind::Post => return self.violation_under(cx, now, epoch),
        }
        if !self.on_preamble(cx, &preamble, epoch) {
            self.violation_under(cx, now, epoch);
        }
    }

    /// Checks whether a new message may come in. Not charged yet.
    fn admit(
        &mut self,
        cx: &mut Shared,
        now: Time,
        id: u64,
        packet: Packet<'_>,
    ) -> Option<(Layout, u32)> {
        let data = &packet.data;
        let Ok(layout) = Layout::from_wire(data.record_size, data.message_len, self.peer.id_bits)
        else {
            cx.stats.dropped_malformed += 1;
            return None;
        };
        if !self.is_lawful_length(cx, layout.plain_len) {
            self.violation_under(cx, now, data.header.epoch.into());
            return None;
        }
        if !self.has_room(cx, id, layout.plain_len) {
            return None;
        }
        let is_request = id & 1 == 0;
        let mut keys = Openers { early: self.early.as_deref_mut(), app: self.keys.as_deref_mut() };
        let Some(epoch) = keys.epoch(data.header.epoch) else {
            cx.stats.dropped_unexpected += 1;
            return None;
        };
        if is_request && epoch == EARLY_EPOCH && !self.fits_early(layout.wire_len) {
            cx.stats.limit_early_data += 1;
            self.violation_under(cx, now, epoch);
            return None;
        }
        Some((layout, epoch))
    }

    /// Whether a request has a number that the peer may not have reached yet: a violation.
    pub(super) fn is_beyond_window(&self, cx: &mut Shared, number: u64) -> bool {
        let beyond = number - self.seen.floor() >= self.window();
        cx.stats.limit_rpcs += u64::from(beyond);
        beyond
    }

    /// Whether a message may be as long as that.
    pub(super) fn is_lawful_length(&self, cx: &mut Shared, plain_len: u32) -> bool {
        let most = cx.config.limits.max_message.saturating_add(PREAMBLE_LEN as u32);
        cx.stats.limit_message += u64::from(plain_len > most);
        plain_len <= most
    }

    /// Whether there is room for message `id`, which takes `bytes`; else its sender is told.
    pub(super) fn has_room(&mut self, cx: &mut Shared, id: u64, bytes: u32) -> bool {
        let (limits, more) = (&cx.config.limits, u64::from(bytes));
        if cx.incoming_bytes + more > limits.max_incoming_bytes_total
            || !self.incoming.make_room(more)
        {
            cx.stats.limit_incoming_bytes += 1;
            cx.send_control(self.id, id, Notice::Busy);
            return false;
        }
        let is_request = id & 1 == 0;
        // Before the client is known, its responses are held to less.
        let most = match self.state {
            State::Handshaking => limits.max_outgoing_bytes.min(limits.max_early_bytes as u64),
            _ => self.lane.share(limits.max_outgoing_bytes),
        };
        if is_request && self.outgoing_bytes > most {
            cx.stats.limit_outgoing_bytes += 1;
            cx.send_control(self.id, id, Notice::Busy);
            return false;
        }
        true
    }

    fn peer_limits(&self) -> PeerLimits {
        PeerLimits {
            id_bits: self.peer.id_bits,
            unscheduled: self.local.unscheduled,
            pace: self.rtt.smoothed(),
        }
    }

    pub(super) fn charge(&mut self, cx: &mut Shared, bytes: u64) {
        self.incoming.charge(bytes);
        cx.incoming_bytes += bytes;
    }

    fn note_spurious(&mut self, spurious: bool) {
        if spurious {
            self.reorder_window = (self.reorder_window * 2).min(64);
        }
    }

    pub(crate) fn violation(&mut self, cx: &mut Shared, now: Time) {
        cx.stats.violations += 1;
        if matches!(self.state, State::Handshaking) {
            return self.handshake_failed(cx, HandshakeError::Violation);
        }
        self.close(cx, now, CloseReason::Violation);
    }
}
