//! Packets of a session, written into the frames that leave.

use super::early::Openers;
use super::handshake::FlightPiece;
use super::update::reserve;
use super::{Session, SessionId, State, Which, outgoing};
use crate::cutoffs::{Cutoffs, HIGHEST};
use crate::endpoint::deferred::Sent;
use crate::endpoint::queue::{Entry, Ticket};
use crate::endpoint::{Notice, Shared};
use crate::error::CallError;
use crate::message::send::{Acks, OutMessage, Sealer};
use crate::record::Layout;
use crate::rpc::OutRpc;
use crate::stats::Stats;
use crate::time::Time;
use crate::timer::Wake;
use crate::wire::{Control, ControlBody, DATA_LEN, Data, EARLY_EPOCH, Header, Kind};

/// What came of an attempt to send a packet of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// A packet of this length and priority, to be cut into packets of so much payload if that is said;
    /// the bytes left if there is more to send now.
    Packet { len: usize, segment: Option<u16>, priority: u8, left: Option<u32> },
    /// Nothing: the message has nothing to send.
    Nothing,
    /// Nothing: the message had left the queue before.
    Gone,
}

/// What came of an attempt to freeze a message.
enum Froze {
    Now,
    /// There will be other keys.
    Later,
    /// The keys are used up.
    Never,
}

/// Fixes the epoch of a message: the current one, or 1 before there is another.
fn freeze(
    message: &mut OutMessage,
    cx: &mut Shared,
    session: SessionId,
    Openers { early, app }: Openers<'_>,
    acks: Acks,
) -> Froze {
    let layout = message.layout();
    let is_early = early.as_ref().is_some_and(|early| early.tx().is_some());
    let Some(keys) = app else {
        let Layout { records, wire_len, .. } = layout;
        if !early.is_some_and(|early| early.freeze(records, wire_len)) {
            cx.stats.limit_aead += 1;
            return Froze::Later;
        }
        message.freeze(EARLY_EPOCH, EARLY_EPOCH, acks);
        return Froze::Now;
    };
    if !reserve(keys, cx, session, layout) {
        return Froze::Never;
    }
    let oldest = if is_early { EARLY_EPOCH } else { keys.send.oldest() };
    message.freeze(keys.send.current(), oldest, acks);
    Froze::Now
}

/// How long a responder waits for the ack of its response before it asks (spec 6.6).
const NEED_ACK_AFTER: core::time::Duration = core::time::Duration::from_millis(10);

impl Session {
    /// Whether the send queue's entry is that of a message, not of one that has left the queue.
    pub(crate) fn is_queued(&mut self, entry: &Entry) -> bool {
        if entry.is_of_session() {
            return self.next_waiting().is_some();
        }
        let which = self.rpc_of(entry.id);
        let message = which.and_then(|which| self.outgoing(which));
        message.is_some_and(|message| message.ticket == entry.ticket)
    }

    /// Writes the next packet or segment of message `id`, which is in the send queue under `ticket`, into `frame`.
    pub(crate) fn write_data(
        &mut self,
        cx: &mut Shared,
        now: Time,
        (id, ticket): (u64, Ticket),
        frame: &mut [u8],
    ) -> Written {
        let Some(which) = self.rpc_of(id) else { return Written::Gone };
        let header = self.header(id);
        let ack_floor = self.request_id(true, self.finished.floor());
        let room = u32::try_from(self.room.min(frame.len()).saturating_sub(DATA_LEN)).unwrap_or(0);
        let id_bits = self.local.id_bits;
        if !self.moves_messages() && !matches!(self.state, State::Closing { .. }) {
            return Written::Gone;
        }
        if matches!(self.state, State::Handshaking) && self.must_hold(cx, which, ticket, room) {
            return Written::Nothing;
        }
        // Said under later keys only: those of epoch 1 say it themselves.
        let of_early = !which.ours
            && self.keys.is_some()
            && self.inc.get(which.number).is_some_and(|rpc| rpc.early);
        // The message and the keys are different fields, which a method of the session would hide.
        let may_segment = matches!(self.state, State::Established);
        let Session { out, inc, keys, early, finished, tso, .. } = self;
        let message = outgoing(out, inc, which);
        let message = message.filter(|message| message.ticket == ticket);
        let Some(message) = message else { return Written::Gone };
        message.ticket = 0;
        if message.epoch().is_none() {
            let acks = Acks {
                highest_peer_epoch: keys.as_ref().map_or(0, |keys| keys.receive.highest_opened()),
                floor: ack_floor,
                bitmap: finished.bitmap(),
                response_limit: if which.ours { cx.response_limit() } else { u32::from(of_early) },
            };
            let keys = Openers { early: early.as_deref_mut(), app: keys.as_deref_mut() };
            match freeze(message, cx, self.id, keys, acks) {
                Froze::Now => {}
                Froze::Later => return Written::Nothing,
                Froze::Never => {
                    self.exhausted(cx, now, which.ours, which.number);
                    return Written::Nothing;
                }
            }
        }
        let key = match message.epoch() {
            Some(EARLY_EPOCH) => early.as_deref().and_then(|e| Some((e.tx()?, e.tx_header()))),
            Some(epoch) => keys.as_deref().and_then(|k| Some((k.send.keys(epoch)?, &k.tx_header))),
            None => None,
        };
        let Some((epoch_keys, header_key)) = key else {
            // Its epoch is gone (spec 5.2): a straggler fails.
            self.exhausted(cx, now, which.ours, which.number);
            return Written::Nothing;
        };
        let mut tso =
            tso.as_deref_mut().filter(|_| may_segment && epoch_keys.epoch() != EARLY_EPOCH);
        let segment = tso.as_deref_mut().and_then(|tso| {
            let packet = message.segment();
            let frame_room =
                u32::try_from(frame.len().saturating_sub(DATA_LEN)).unwrap_or(u32::MAX);
            let limit = tso.allowance(&cx.segments, now, packet)?.min(frame_room);
            let paced = u32::try_from(cx.pacer.room()).unwrap_or(u32::MAX);
            let piece = message.next_segment(room, limit, paced)?;
            let most = cx.config.limits.max_segment_hosts;
            let range = piece.offset..piece.offset + piece.len;
            tso.sent((&mut cx.segments, &mut cx.stats, most), now, id, range, packet);
            Some(piece)
        });
        let is_segment = segment.is_some();
        let Some(piece) = segment.or_else(|| message.next_piece(room)) else {
            return Written::Nothing;
        };
        if let Some(tso) = tso.filter(|_| !is_segment) {
            tso.packet_sent(now, id, piece.offset..piece.offset + piece.len, piece.retransmit);
        }
        let len = DATA_LEN + piece.len as usize;
        let Some((head, payload)) =
            frame.get_mut(..len).and_then(|frame| frame.split_first_chunk_mut::<DATA_LEN>())
        else {
            return Written::Nothing;
        };
        let sealer = Sealer { keys: epoch_keys, id: cx.config.nonce_id(id), id_bits };
        let place = (self.id, sealer);
        let sealed = message.write(piece, place, &mut cx.scratch, payload);
        let layout = message.layout();
        let segment_size = u16::try_from(message.segment()).unwrap_or(0);
        let data = Data {
            header: Header { epoch: crate::wire::epoch_to_wire(epoch_keys.epoch()), ..header },
            sequence: piece.offset,
            record_size: layout.record_size,
            segment_size,
            message_len: layout.wire_len,
            incoming: message.granted(),
            tag: 0,
            cutoffs: self.told.version,
            retransmit: piece.retransmit,
            explicit: !is_segment,
            pinned: piece.pinned,
            bundle: false,
            tso_offset: layout.record_at(piece.offset),
        };
        data.emit(head);
        if let Some(packet) = frame.get_mut(..len) {
            header_key.write_data_tag(packet);
        }
        cx.stats.records_sealed += u64::from(sealed);
        cx.stats.packets_retransmitted += u64::from(piece.retransmit);
        cx.stats.tso_segments_sent += u64::from(is_segment);
        let (more, all_sent) = (message.sendable(), message.all_sent());
        let left = more.then(|| message.left());
        if more {
            message.ticket = ticket;
        }
        cx.deferred.sent = Some(Sent {
            session: self.id,
            now,
            ours: which.ours,
            number: which.number,
            all_sent,
            timed: all_sent && !piece.retransmit,
        });
        if matches!(self.state, State::Handshaking) {
            self.count_out(len);
        }
        let segment = is_segment.then_some(segment_size);
        Written::Packet { len, segment, priority: piece.priority, left }
    }

    /// Whether the next packet of a message has to wait until the client has sent more; it has left the
    /// send queue then.
    fn must_hold(&mut self, cx: &mut Shared, which: Which, ticket: Ticket, room: u32) -> bool {
        let message = self.outgoing(which).filter(|message| message.ticket == ticket);
        let Some(len) = message.map(|message| message.next_len(room)) else { return false };
        if self.may_send(DATA_LEN + len as usize) {
            return false;
        }
        if let Some(message) = self.outgoing(which) {
            message.ticket = 0;
        }
        self.hold(cx, which.number);
        true
    }

    /// Writes a control packet into `frame`; `None` if the session has no keys, or may not send it.
    pub(crate) fn write_control(
        &mut self,
        cutoffs: &Cutoffs,
        stats: &mut Stats,
        (id, notice): (u64, Notice),
        frame: &mut [u8],
    ) -> Option<usize> {
        if matches!(self.state, State::Closing { .. }) && !matches!(notice, Notice::Cancel(_)) {
            // An ACK would say that the calls ended by closing are finished, of which the peer may
            // never have heard.
            return None;
        }
        let header = self.header(if id == 0 { self.lane.own_id() } else { id });
        let body = match notice {
            Notice::Grant { offset, priority } => ControlBody::Grant { offset, priority },
            Notice::Resend { offset, length, priority, pinned } => {
                ControlBody::Resend { offset, length, priority, pinned }
            }
            Notice::Unknown(code) => ControlBody::Unknown(code),
            Notice::Busy => ControlBody::Busy,
            Notice::NeedAck => ControlBody::NeedAck,
            Notice::Ack => {
                let about = self.rpc_of(id).map_or(0, |which| which.number);
                ControlBody::Ack(self.ack_ranges(about))
            }
            Notice::Cancel(code) => ControlBody::Cancel(code),
            Notice::Update { epoch } => ControlBody::Update { epoch },
            Notice::Cutoffs => {
                let (version, unscheduled) = self.telling.content();
                ControlBody::Cutoffs { cutoffs: *cutoffs, version, unscheduled }
            }
        };
        let header_key = match (&self.keys, &self.early) {
            (Some(keys), _) => &keys.tx_header,
            (None, Some(early)) => early.tx_header(),
            (None, None) => return None,
        };
        self.control_out += 1;
        let control = Control { header, body, number: self.control_out };
        let len = control.emit(frame);
        header_key.write_control_tag(frame.get_mut(..len)?);
        if matches!(self.state, State::Handshaking) {
            if !self.may_send(len) {
                // Timers make up for it.
                stats.limit_amplification += 1;
                return None;
            }
            self.count_out(len);
        }
        Some(len)
    }

    /// Writes the next packet of the current flight into `frame`; of an `answer` the one that goes ahead.
    pub(crate) fn write_flight(
        &mut self,
        cx: &mut Shared,
        now: Time,
        frame: &mut [u8],
        answer: bool,
    ) -> Written {
        let room = self.room.min(frame.len()).saturating_sub(DATA_LEN);
        let mut header = self.header(0);
        header.epoch = 0;
        let token = self.token;
        let Some(handshake) = self.handshake.as_deref_mut() else { return Written::Nothing };
        if answer {
            handshake.answer_queued = false;
        }
        if !handshake.is_first_flight() {
            handshake.note_sent(now);
        }
        let piece =
            if answer { handshake.answering_piece(room) } else { handshake.next_piece(room) };
        let FlightPiece { number, total, offset, bytes: piece } = match piece {
            Ok(Some(piece)) => piece,
            Ok(None) => return Written::Nothing,
            Err(()) => {
                cx.stats.limit_amplification += 1;
                return Written::Nothing;
            }
        };
        header.message_id = u64::from(number);
        let len = DATA_LEN + piece.len();
        let Some((head, payload)) =
            frame.get_mut(..len).and_then(|frame| frame.split_first_chunk_mut::<DATA_LEN>())
        else {
            return Written::Nothing;
        };
        payload.copy_from_slice(piece);
        let data = Data {
            header,
            sequence: offset,
            record_size: 0,
            segment_size: u16::try_from(room).unwrap_or(u16::MAX),
            message_len: total,
            incoming: total,
            tag: token,
            cutoffs: 0,
            retransmit: false,
            explicit: true,
            pinned: false,
            bundle: false,
            tso_offset: 0,
        };
        data.emit(head);
        let left = handshake.has_to_send().then_some(0);
        Written::Packet { len, segment: None, priority: HIGHEST, left }
    }

    /// A packet of an RPC's message went out: sets the timers that wait for the answer.
    pub(crate) fn sent(&mut self, cx: &mut Shared, sent: Sent) {
        let Sent { session, now, ours, number, all_sent, timed } = sent;
        if ours {
            let silent_at = now + self.silence(0);
            if let Some(rpc) = self.out.get_mut(number).filter(|rpc| !rpc.cancelling) {
                rpc.sent_at = timed.then_some(now);
                rpc.silent_at = silent_at;
                rpc.mark = cx.granter.meter.mark(now, silent_at);
                let due = silent_at.min(rpc.deadline);
                rpc.timer.set(&mut cx.timers, Wake::Out(session, number), due);
            }
        } else if all_sent {
            self.response_sent(cx, now, number);
        }
    }

    /// All of a response went out.
    pub(super) fn response_sent(&mut self, cx: &mut Shared, now: Time, number: u64) {
        let Some(rpc) = self.inc.get_mut(number) else { return };
        #[cfg(feature = "mutations")]
        if cx.config.has(crate::mutation::Mutation::ResponseForgottenBeforeAck) {
            return self.forget(cx, number);
        }
        let due = now + NEED_ACK_AFTER * (1 << rpc.silences.min(7));
        rpc.timer.set(&mut cx.timers, Wake::In(self.id, number), due);
    }

    /// A message cannot be sealed any more: its RPC fails. One that was sent in part may have been
    /// sent in whole, and run.
    fn exhausted(&mut self, cx: &mut Shared, now: Time, ours: bool, number: u64) {
        if !ours {
            return self.forget(cx, number);
        }
        let sent = self.out.get(number).is_some_and(OutRpc::was_sent);
        let error = if sent { CallError::OutcomeUnknown } else { CallError::Exhausted };
        self.cancel(cx, now, number, error);
    }

    /// Sends a request again that the responder never accepted, or an error in place of a request.
    pub(crate) fn refuse(&mut self, cx: &mut Shared, number: u64, code: u32, text: &str) -> bool {
        self.reply(cx, number, Kind::Error, super::calls::error_body(code, text))
    }
}
