//! What a packet does to a message being received, and what is asked of its sender: bytes again,
//! more bytes (spec 6.2, 6.3).

use core::ops::Range;
use core::time::Duration;

use super::SessionId;
use super::data::Packet;
use super::early::Openers;
use crate::cutoffs;
use crate::endpoint::{Notice, Shared};
use crate::message::recv::{InMessage, Opener, Taken};
use crate::time::Time;
use crate::wire::Preamble;

/// RESENDs sent at once for one message.
const MAX_RESENDS: usize = 16;
/// Silent intervals after which a sender that owes us bytes loses its place among those granted.
const STALLED: u32 = 3;

/// A window is larger by this part of it than what the measured rate brings in a round trip.
const HEADROOM: u32 = 8;
/// How long bytes may be overtaken while no round trip has been measured.
const UNKNOWN_HORIZON: Duration = Duration::from_millis(1);

/// What new bytes of a message brought.
pub(super) struct Progress {
    /// Whether records opened.
    pub(super) opened: bool,
    /// The preamble, if it opened just now.
    pub(super) preamble: Option<Preamble>,
    /// The round trip since these bytes were asked for again.
    pub(super) rtt: Option<Duration>,
    /// The round trip since they were granted.
    pub(super) grant_rtt: Option<Duration>,
}

/// What feeding a packet to a message came to.
pub(super) enum Fed {
    /// New bytes.
    Progress(Progress),
    /// Nothing new; `spurious` if the original of something that we asked for again.
    Nothing { spurious: bool },
    /// The peer contradicts itself in authenticated bytes.
    Violation,
}

/// What bounds the messages of a peer.
#[derive(Clone, Copy)]
pub(super) struct PeerLimits {
    /// Its ID bits.
    pub(super) id_bits: u8,
    /// Bytes of a message that we let it send by itself.
    pub(super) unscheduled: u32,
    /// How long to wait before the same bytes are asked for again.
    pub(super) pace: Duration,
}

/// Takes a packet into a message.
pub(super) fn feed(
    message: &mut InMessage,
    mut keys: Openers<'_>,
    cx: &mut Shared,
    now: Time,
    session: SessionId,
    peer: PeerLimits,
    packet: Packet<'_>,
) -> Fed {
    let data = &packet.data;
    let epoch = keys.epoch(data.header.epoch);
    let layout = message.layout();
    if epoch != Some(message.epoch)
        || data.message_len != layout.wire_len
        || data.record_size != layout.record_size
    {
        cx.stats.dropped_unexpected += 1;
        return Fed::Nothing { spurious: false };
    }
    let Some(epoch_keys) = keys.of(&mut cx.stats, message.epoch) else {
        keys.failed(cx, now, session, (message.epoch, 0));
        return Fed::Nothing { spurious: false };
    };
    let had_preamble = message.preamble().is_some();
    let id_bits = peer.id_bits;
    let id = cx.config.nonce_id(data.header.message_id);
    let opener = Opener { keys: epoch_keys, id, id_bits };
    let max_gaps = cx.config.limits.max_gaps;
    cx.granter.meter.arrived(now, packet.payload.len());
    let before = message.remaining();
    let taken = message.take(packet.offset, packet.payload, data.pinned, max_gaps, opener);
    #[cfg(feature = "mutations")]
    if cx.config.has(crate::mutation::Mutation::ReassemblyOffByOne) {
        message.forgive_last_record();
    }
    if message.scheduled {
        let key = (session, data.header.message_id);
        cx.granter.update(key, Some(before), message.remaining());
    }
    let end = packet.offset.saturating_add(u32::try_from(packet.payload.len()).unwrap_or(u32::MAX));
    message.announced(data.incoming, packet.offset..end, peer.unscheduled);
    if matches!(taken, Taken::New { opened, gathered, .. } if opened + gathered > 0) {
        message.stalls = 0;
    }
    // A stalled sender is not counted on again for what is repeated or forged.
    cx.regrant |= message.promise(&mut cx.granter, now, message.stalls >= STALLED);
    if let Some(range) = packet.trimmed() {
        ask_for_trimmed(message, cx, now, (session, data.header.message_id), range, peer.pace);
    }
    match taken {
        Taken::New { opened, failed, gathered } => {
            cx.stats.records_opened += u64::from(opened);
            if failed > 0 {
                keys.failed(cx, now, session, (message.epoch, failed));
            }
            if opened > 0 {
                keys.opened(cx, now, session, message.epoch);
            }
            if opened + gathered == 0 {
                // A forgery under a real header: whoever races it must not put off our timers.
                return Fed::Nothing { spurious: false };
            }
            message.silences = 0;
            let preamble = if had_preamble { None } else { message.preamble().copied() };
            if preamble.is_some_and(|preamble| preamble.oldest_epoch > message.epoch) {
                return Fed::Violation;
            }
            let rtt = if data.retransmit { message.answered(now) } else { None };
            let (incoming, segment) = (data.incoming, data.segment_size);
            let grant_rtt = match data.retransmit {
                true => None,
                false => message.grant_echoed(now, incoming, segment),
            };
            Fed::Progress(Progress { opened: opened > 0, preamble, rtt, grant_rtt })
        }
        Taken::Duplicate => {
            cx.stats.duplicates += u64::from(!packet.payload.is_empty());
            let spurious = !data.retransmit && message.asked_at.is_some();
            Fed::Nothing { spurious: spurious && !packet.payload.is_empty() }
        }
        Taken::TooManyGaps => {
            cx.stats.limit_gaps += 1;
            Fed::Nothing { spurious: false }
        }
        Taken::Contradiction => Fed::Violation,
    }
}

/// Asks for what a switch cut off a packet: its header came in its place (spec 6.3).
fn ask_for_trimmed(
    message: &mut InMessage,
    cx: &mut Shared,
    now: Time,
    (session, id): (SessionId, u64),
    range: Range<u32>,
    pace: Duration,
) {
    cx.stats.trimmed += 1;
    if message.trimmed(now, range.clone(), pace) {
        cx.stats.resends_sent += 1;
        let (offset, length) = (range.start, range.end - range.start);
        let priority = resend_priority(message, cx);
        cx.send_control(session, id, Notice::Resend { offset, length, priority, pinned: false });
    }
}

/// Asks for holes that enough later packets have passed, at most once per round trip.
pub(super) fn ask_for_holes(
    message: &mut InMessage,
    cx: &mut Shared,
    now: Time,
    (session, id): (SessionId, u64),
    (window, age): (u32, Duration),
    pace: Duration,
) {
    if message.may_ask(now, &cx.granter.meter)
        && message.hole_is_overdue(now, &cx.granter.meter, window, age)
        && cx.granter.meter.book_now(now, message.missing())
    {
        let limit = message.highest();
        resend_holes(message, cx, now, (session, id), limit, pace);
    }
}

/// The priority to send bytes again at: that of the bytes themselves. Were it higher, what was only late
/// would arrive twice, win new grants, and pile up.
fn resend_priority(message: &InMessage, cx: &Shared) -> u8 {
    let unscheduled = || cutoffs::priority(cx.sizes.cutoffs(), message.layout().wire_len);
    message.priority().unwrap_or_else(unscheduled)
}

/// Sends RESENDs for the first holes below `limit`.
pub(super) fn resend_holes(
    message: &mut InMessage,
    cx: &mut Shared,
    now: Time,
    (session, id): (SessionId, u64),
    limit: u32,
    pace: Duration,
) -> usize {
    let mut asked = 0;
    let priority = resend_priority(message, cx);
    for (hole, pinned) in message.holes(limit).take(MAX_RESENDS) {
        let (offset, length) = (hole.start, hole.end - hole.start);
        cx.stats.resends_sent += 1;
        let body = Notice::Resend { offset, length, priority, pinned };
        cx.send_control(session, id, body);
        asked += 1;
    }
    if asked > 0 {
        message.asked_for_holes(now, &cx.granter.meter, pace);
    }
    asked
}

/// Asks a silent sender for what it owes. If it owes nothing it waits for grants, which it gets
/// when its turn comes; if it goes on owing, others may have its grants (spec 6.2).
pub(super) fn chase(
    message: &mut InMessage,
    cx: &mut Shared,
    now: Time,
    key: (SessionId, u64),
    (horizon, pace): (Option<Duration>, Duration),
) -> bool {
    if !message.may_ask(now, &cx.granter.meter) {
        return true;
    }
    let limit = message.granted();
    if resend_holes(message, cx, now, key, limit, pace) == 0 {
        cx.granter.waits_in_vain(now, key, pace);
        schedule(message, cx, key, horizon);
        return false;
    }
    message.silences += 1;
    message.stalls += 1;
    if message.stalls >= STALLED {
        cx.stats.senders_stalled += u64::from(message.promised() > 0);
        unschedule(message, cx, key);
    }
    true
}

/// Enters a message that needs grants into the schedule and grants it what it may have: enough for a
/// round trip of `horizon`, and some more, so that a rate that was measured too low recovers.
pub(super) fn schedule(
    message: &mut InMessage,
    cx: &mut Shared,
    key: (SessionId, u64),
    horizon: Option<Duration>,
) {
    let wire_len = message.layout().wire_len;
    if message.granted() >= wire_len {
        return;
    }
    let left = message.remaining();
    if !message.scheduled {
        message.scheduled = true;
        cx.granter.update(key, None, left);
    }
    let Some(place) = cx.granter.place(key, left) else { return };
    let enough = horizon.and_then(|horizon| cx.granter.meter.bytes_in(horizon));
    let enough = enough.map(|enough| enough.saturating_add(enough / HEADROOM));
    let allowance = cx.granter.allowance(key, place, message.promised(), enough);
    let target = message.received().saturating_add(allowance.outstanding).min(wire_len);
    let step = target.saturating_sub(message.granted());
    if step > 0 && (target == wire_len || step >= allowance.step) {
        let mark = cx.granter.meter.mark(cx.now, cx.now + horizon.unwrap_or(UNKNOWN_HORIZON));
        message.grant_timed(cx.now, target, place.priority, mark);
        message.promise(&mut cx.granter, cx.now, false);
        cx.regrant |= cx.granter.granted(place, step);
        cx.stats.grants_sent += 1;
        cx.stats.grants_fifo += u64::from(place.extra);
        let priority = place.priority;
        cx.send_control(key.0, key.1, Notice::Grant { offset: target, priority });
    }
}

/// Takes a message out of the schedule, and what its sender owed off the credit: it is complete, or
/// nobody wants it any more.
pub(super) fn unschedule(message: &mut InMessage, cx: &mut Shared, key: (SessionId, u64)) {
    cx.regrant |= message.promise(&mut cx.granter, cx.now, true);
    if core::mem::take(&mut message.scheduled) {
        cx.granter.remove(key, message.remaining());
        cx.regrant = true;
    }
}
