//! Bundles: short messages that wait to be sent for the first time leave together, in one packet and under
//! one record (spec 4.5). They do so because they wait; nothing waits for them.

use alloc::collections::VecDeque;

use super::transmit::Written;
use super::update::{Seals, step};
use super::{Rpcs, Session, State};
use crate::endpoint::Shared;
use crate::endpoint::deferred::SentBundle;
use crate::endpoint::queue::Ticket;
use crate::message::send::{Acks, OutMessage};
use crate::record::{self, RECORD_HEADER_LEN, RECORD_OVERHEAD};
use crate::rpc::{InRpc, InState, OutRpc};
use crate::time::Time;
use crate::timer::Wake;
use crate::wire::{
    BUNDLE_ENTRY_LEN, BUNDLE_HEAD_LEN, BundleEntry, BundleHead, DATA_LEN, Data, Header,
    MAX_RECORD_SIZE, MIN_RECORD_SIZE, PREAMBLE_LEN, epoch_to_wire,
};

/// The new messages of a session that may leave together, in the order they came. While there are any the
/// session has an entry in the endpoint's send queue.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    list: VecDeque<Place>,
}

/// A message that waits. Its RPC may have ended meanwhile.
#[derive(Clone, Copy, Debug)]
struct Place {
    id: u64,
    /// We started its RPC; the RPC's number.
    rpc: (bool, u64),
    ticket: Ticket,
    /// Application bytes.
    len: usize,
}

impl Waiting {
    /// Adds a message with the ticket it has; true if it is the first.
    pub(crate) fn push(&mut self, message: &OutMessage, rpc: (bool, u64)) -> bool {
        let is_first = self.list.is_empty();
        let (id, ticket, len) = (message.id(), message.ticket, message.body().len());
        self.list.push_back(Place { id, rpc, ticket, len });
        is_first
    }

    /// Gives back memory that a burst has left unused.
    pub(super) fn shrink(&mut self) {
        self.list.shrink_to_fit();
    }

    /// Whether the first two fit one plaintext of `room` bytes.
    fn is_worth_it(&self, room: usize) -> bool {
        let mut first_two = self.list.iter().take(2);
        let (Some(one), Some(other)) = (first_two.next(), first_two.next()) else { return false };
        let len = BUNDLE_HEAD_LEN + 2 * BUNDLE_ENTRY_LEN + one.len + other.len;
        len.max(MIN_RECORD_SIZE.into()) <= room
    }
}

/// A message of ours that waits under `ticket`, and what its entry says of the response.
fn find<'a>(
    out: &'a mut Rpcs<OutRpc>,
    inc: &'a mut Rpcs<InRpc>,
    place: &Place,
    request_limit: u32,
) -> Option<(&'a mut OutMessage, u32)> {
    let (ours, number) = place.rpc;
    let (message, limit) = if ours {
        (&mut out.get_mut(number)?.request, request_limit)
    } else {
        let rpc = inc.get_mut(number)?;
        let InState::Responding(response) = &mut rpc.state else { return None };
        (response, u32::from(rpc.early))
    };
    (message.ticket == place.ticket).then_some((message, limit))
}

impl Session {
    /// Ticket and length of the first message that waits for the session's turn.
    pub(crate) fn next_waiting(&self) -> Option<(Ticket, u32)> {
        let first = self.waiting.list.front()?;
        let left = PREAMBLE_LEN + RECORD_OVERHEAD as usize + first.len;
        Some((first.ticket, u32::try_from(left).unwrap_or(u32::MAX)))
    }

    /// Writes a packet of messages that wait into `frame`: a bundle of those that fit, or the first alone. If
    /// packets have become shorter than that one, the rest of it is to be [queued](Self::queue_rest).
    pub(crate) fn write_waiting(
        &mut self,
        cx: &mut Shared,
        now: Time,
        frame: &mut [u8],
    ) -> (Written, Option<u64>) {
        let room = self.room.min(frame.len()).saturating_sub(DATA_LEN + RECORD_OVERHEAD as usize);
        let room = room.min(MAX_RECORD_SIZE.into());
        if matches!(self.state, State::Established)
            && self.waiting.is_worth_it(room)
            && let Some(written) = self.write_bundle(cx, now, room, frame)
        {
            return (written, None);
        }
        let Some(Place { id, ticket, .. }) = self.waiting.list.pop_front() else {
            return (Written::Nothing, None);
        };
        let written = self.write_data(cx, now, (id, ticket), frame);
        (written, matches!(written, Written::Packet { left: Some(_), .. }).then_some(id))
    }

    /// Queues what is left of a message that was to leave in one packet.
    pub(crate) fn queue_rest(&mut self, cx: &mut Shared, id: u64) {
        let (session, which) = (self.id, self.rpc_of(id));
        if let Some(message) = which.and_then(|which| self.outgoing(which)) {
            message.ticket = 0;
            cx.enqueue(session, message);
        }
    }

    /// Writes a bundle whose plaintext takes at most `room` bytes. `None` if the key may not seal it.
    fn write_bundle(
        &mut self,
        cx: &mut Shared,
        now: Time,
        room: usize,
        frame: &mut [u8],
    ) -> Option<Written> {
        let header = self.header(0);
        let floor = self.request_id(true, self.finished.floor());
        let id_bits = self.local.id_bits;
        let is_early = self.early.as_ref().is_some_and(|early| early.tx().is_some());
        let Session { id: session, out, inc, keys, waiting, finished, told, .. } = self;
        let session = *session;
        let keys = keys.as_deref_mut()?;
        let most = waiting.list.len().min(cx.config.limits.max_bundled.into());
        // With what each may take for itself, which is longer by what it has of its own then.
        let longer = PREAMBLE_LEN + RECORD_OVERHEAD as usize - BUNDLE_ENTRY_LEN;
        let most_bytes = 2 * room + RECORD_OVERHEAD as usize + most * longer;
        if !step(keys, cx, session, Seals::of_bundle(most, most_bytes)) {
            return None;
        }
        let epoch = keys.send.current();
        let oldest = if is_early { crate::wire::EARLY_EPOCH } else { keys.send.oldest() };
        let highest = keys.receive.highest_opened();
        let acks = Acks {
            highest_peer_epoch: highest,
            floor,
            bitmap: finished.bitmap(),
            response_limit: 0,
        };
        let request_limit = cx.response_limit();
        let wire = frame.get_mut(DATA_LEN..)?;
        let plain = wire.get_mut(RECORD_HEADER_LEN..RECORD_HEADER_LEN + room)?;
        let SentBundle { session: of, now: at, rpcs } = &mut cx.deferred.bundle;
        (*of, *at) = (Some(session), now);
        let (mut len, mut alone) = (BUNDLE_HEAD_LEN, 0);
        let mut first = None;
        while rpcs.len() < most
            && let Some(place) = waiting.list.front().copied()
        {
            let end = len + BUNDLE_ENTRY_LEN + place.len;
            if end > room {
                break;
            }
            waiting.list.pop_front();
            let Some((message, response_limit)) = find(out, inc, &place, request_limit) else {
                continue;
            };
            let (entry, bytes) = plain.get_mut(len..end)?.split_first_chunk_mut()?;
            let app_len = u16::try_from(place.len).ok()?;
            let kind = message.kind();
            BundleEntry { message_id: place.id, kind, app_len, response_limit }.emit(entry);
            bytes.copy_from_slice(message.body());
            let acks = Acks { response_limit, ..acks };
            let priority = message.leave_bundled(epoch, oldest, acks);
            first = first.or(Some((place.id, priority)));
            alone += PREAMBLE_LEN + RECORD_OVERHEAD as usize + place.len;
            rpcs.push(place.rpc);
            len = end;
        }
        let count = rpcs.len();
        let Some((first, priority)) = first else {
            *of = None;
            return Some(Written::Nothing);
        };
        keys.send.reserve(Seals::of_bundle(count, RECORD_OVERHEAD as usize + len + alone));
        let head = BundleHead {
            count: u16::try_from(count).unwrap_or(u16::MAX),
            highest_peer_epoch: highest,
            oldest_epoch: oldest,
            ack_floor: floor,
            ack_bitmap: acks.bitmap,
        };
        head.emit(plain.first_chunk_mut()?);
        let filled = len.max(MIN_RECORD_SIZE.into());
        plain.get_mut(len..filled)?.fill(0);
        let record = filled + RECORD_OVERHEAD as usize;
        let number = record::bundle_sequence_number(cx.config.nonce_id(first), id_bits)?;
        record::seal(keys.send.keys(epoch)?, number, wire.get_mut(..record)?);
        let header = Header { epoch: epoch_to_wire(epoch), message_id: first, ..header };
        let data = Data::of_bundle(header, u16::try_from(record).ok()?, told.version);
        let packet = frame.get_mut(..DATA_LEN + record)?;
        data.emit(packet.first_chunk_mut()?);
        keys.tx_header.write_data_tag(packet);
        cx.stats.records_sealed += 1;
        cx.stats.bundles_sent += 1;
        cx.stats.bundled_sent += count as u64;
        Some(Written::Packet { len: DATA_LEN + record, segment: None, priority, left: None })
    }

    /// A bundle went out: sets the timers that wait for the answers.
    pub(crate) fn sent_bundle(&mut self, cx: &mut Shared, sent: &SentBundle) {
        let (session, now) = (self.id, sent.now);
        let silent_at = now + self.silence(0);
        let mark = cx.granter.meter.mark(now, silent_at);
        for (ours, number) in sent.rpcs.iter().copied() {
            if !ours {
                self.response_sent(cx, now, number);
            } else if let Some(rpc) = self.out.get_mut(number).filter(|rpc| !rpc.cancelling) {
                rpc.sent_at = Some(now);
                rpc.silent_at = silent_at;
                rpc.mark = mark;
                let due = silent_at.min(rpc.deadline);
                rpc.timer.set(&mut cx.timers, Wake::Out(session, number), due);
            }
        }
    }
}
