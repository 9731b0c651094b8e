//! A message being sent: its frozen plaintext, what of it was sent, granted, asked for again.

use alloc::vec::Vec;
use core::ops::Range;

use bytes::Bytes;

use crate::cutoffs::HIGHEST;
use crate::endpoint::queue::Ticket;
use crate::keys::EpochKeys;
use crate::record::{self, Layout};
use crate::session::SessionId;
use crate::wire::{Kind, PREAMBLE_LEN, Preamble};

/// The longest segment at the start of a long message, in bytes: sealing it takes longer than handing it
/// over does.
const PIPELINED: u32 = 32 << 10;
/// Messages of less than two times so many bytes are not cut for the receiver to begin earlier.
const WORTH_A_SEGMENT: u32 = 12 << 10;

/// What the first seal fixes for ever (spec 3.3).
#[derive(Debug)]
struct Frozen {
    epoch: u32,
    preamble: [u8; PREAMBLE_LEN],
}

/// One packet's worth of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) retransmit: bool,
    pub(crate) pinned: bool,
    pub(crate) priority: u8,
}

/// The key and the place of a message's records in the nonce space.
#[derive(Clone, Copy)]
pub(crate) struct Sealer<'a> {
    pub(crate) keys: &'a EpochKeys,
    pub(crate) id: u64,
    pub(crate) id_bits: u8,
}

/// The record that was sealed last in pieces, so that those of its pieces that leave one after the other
/// cost one sealing.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Session, message, epoch and record.
    of: Option<(SessionId, u64, u32, u32)>,
    wire: Vec<u8>,
}

/// A message being sent or kept for retransmission.
#[derive(Debug)]
pub(crate) struct OutMessage {
    id: u64,
    kind: Kind,
    body: Bytes,
    layout: Layout,
    /// Wire bytes per packet as cut at first: whole records, or a part of one that all have alike.
    segment: u32,
    frozen: Option<Frozen>,
    sent: u32,
    granted: u32,
    /// Bytes from the start that need no grant, and their priority.
    unscheduled: (u32, u8),
    /// The furthest grant and the priority it gives to what needs one.
    scheduled: (u32, u8),
    /// What was asked for again, and whether pinned.
    resend: Vec<(Range<u32>, bool)>,
    /// Priority to repeat bytes at that needed a grant.
    resend_priority: u8,
    /// Its place in the endpoint's send queue; 0: none.
    pub(crate) ticket: Ticket,
}

impl OutMessage {
    /// A message of `body` under `layout`, of which so many bytes go without a grant, at a priority.
    #[inline]
    pub(crate) fn new(
        id: u64,
        kind: Kind,
        body: Bytes,
        layout: Layout,
        segment: u32,
        unscheduled: (u32, u8),
    ) -> Self {
        let granted = layout.wire_len.min(unscheduled.0);
        let resend = Vec::new();
        let frozen = None;
        OutMessage {
            id,
            kind,
            body,
            layout,
            segment,
            frozen,
            sent: 0,
            granted,
            unscheduled,
            scheduled: (granted, 0),
            resend,
            resend_priority: 0,
            ticket: 0,
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn segment(&self) -> u32 {
        self.segment
    }

    pub(crate) fn granted(&self) -> u32 {
        self.granted
    }

    /// Wire bytes that went out at least once.
    pub(crate) fn sent(&self) -> u32 {
        self.sent
    }

    pub(crate) fn body_len(&self) -> u64 {
        self.body.len() as u64
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it may leave in a bundle (spec 4.5): it is one record in one packet, without padding, and
    /// nothing of it was sent.
    pub(crate) fn fits_bundle(&self) -> bool {
        self.frozen.is_none()
            && self.layout.records == 1
            && self.is_small()
            && self.layout.plain_len as usize == PREAMBLE_LEN + self.body.len()
    }

    /// It leaves whole, in a bundle. What is sent of it again is sealed for itself, with the preamble that
    /// freezes now. Returns its priority.
    pub(crate) fn leave_bundled(&mut self, epoch: u32, oldest_epoch: u32, acks: Acks) -> u8 {
        self.freeze(epoch, oldest_epoch, acks);
        self.sent = self.layout.wire_len;
        self.granted = self.sent;
        self.ticket = 0;
        self.unscheduled.1
    }

    pub(crate) fn is_small(&self) -> bool {
        self.layout.wire_len <= self.segment
    }

    /// Bytes that it has left to send, granted or not.
    pub(crate) fn left(&self) -> u32 {
        // What was asked for may overlap, and come to more than a message can have.
        let again = self.resend.iter().map(|(range, _)| range.end - range.start);
        again.fold(self.layout.wire_len - self.sent, u32::saturating_add)
    }

    pub(crate) fn all_sent(&self) -> bool {
        self.sent == self.layout.wire_len && self.resend.is_empty()
    }

    /// Whether something may be sent now.
    pub(crate) fn sendable(&self) -> bool {
        self.sent < self.granted || !self.resend.is_empty()
    }

    /// The epoch it was frozen in, if it was.
    pub(crate) fn epoch(&self) -> Option<u32> {
        self.frozen.as_ref().map(|frozen| frozen.epoch)
    }

    /// Begins anew, as if nothing had been sent: what was frozen was refused for good. Of `unscheduled`
    /// bytes from the start at a priority.
    pub(crate) fn unfreeze(&mut self, unscheduled: (u32, u8)) {
        self.frozen = None;
        self.resend.clear();
        self.sent = 0;
        self.granted = self.layout.wire_len.min(unscheduled.0);
        self.unscheduled = unscheduled;
        self.scheduled = (self.granted, 0);
    }

    /// Fixes epoch and preamble. Does nothing if they are fixed already.
    pub(crate) fn freeze(&mut self, epoch: u32, oldest_epoch: u32, acks: Acks) {
        if self.frozen.is_some() {
            return;
        }
        let preamble = Preamble {
            kind: self.kind,
            record_size: self.layout.record_size,
            app_len: u32::try_from(self.body.len()).unwrap_or(u32::MAX),
            wire_len: self.layout.wire_len,
            highest_peer_epoch: acks.highest_peer_epoch,
            oldest_epoch,
            response_limit: acks.response_limit,
            ack_floor: acks.floor,
            ack_bitmap: acks.bitmap,
        };
        let mut frozen = Frozen { epoch, preamble: [0; PREAMBLE_LEN] };
        preamble.emit(&mut frozen.preamble);
        self.frozen = Some(frozen);
    }

    /// Lets bytes below `offset` be sent at `priority`; never takes a grant back, and a grant that was
    /// overtaken by a further one says nothing.
    pub(crate) fn grant(&mut self, offset: u32, priority: u8) {
        if offset >= self.scheduled.0 {
            self.scheduled = (offset, priority.min(HIGHEST));
        }
        self.granted = self.granted.max(offset.min(self.layout.wire_len));
    }

    /// Asks for `range` again. Bytes not sent yet are granted instead. False if the list is full.
    pub(crate) fn ask_again(
        &mut self,
        range: Range<u32>,
        pinned: bool,
        priority: u8,
        max_ranges: usize,
    ) -> bool {
        self.granted = self.granted.max(range.end.min(self.layout.wire_len));
        self.resend_priority = priority.min(HIGHEST);
        let again = range.start..range.end.min(self.sent);
        if again.is_empty() {
            return true;
        }
        let touching = |(r, p): &&mut (Range<u32>, bool)| {
            *p == pinned && r.start <= again.end && again.start <= r.end
        };
        if let Some((r, _)) = self.resend.iter_mut().find(touching) {
            *r = r.start.min(again.start)..r.end.max(again.end);
            return true;
        }
        if self.resend.len() >= max_ranges {
            return false;
        }
        self.resend.push((again, pinned));
        true
    }

    /// Sends everything below the grant again: the receiver has none of it.
    pub(crate) fn restart(&mut self) {
        self.resend.clear();
        if self.sent > 0 {
            self.resend.push((0..self.sent, false));
        }
    }

    /// Length of what [`next_piece`](Self::next_piece) would take.
    pub(crate) fn next_len(&self, room: u32) -> u32 {
        let left = match self.resend.first() {
            Some((range, _)) => range.end - range.start,
            None => self.layout.wire_len - self.sent,
        };
        let first = self.resend.first().map_or(self.sent, |(range, _)| range.start);
        left.min(self.packet_len(first, room))
    }

    /// Takes whole records of which nothing was sent, for a segment of more than one packet with at most
    /// `most` payload bytes, or one record if that is more but not more than `limit`. As with packets, one
    /// that begins below the grant may go whole. `None` if there is no such segment now.
    ///
    /// Segments are short enough that the receiver works on one while the next is sealed: at most about
    /// half of the message (or [`WORTH_A_SEGMENT`]), and the first ones [`PIPELINED`] bytes, later ones no more than all before them; but a
    /// last record that is not a full one goes with that before it.
    pub(crate) fn next_segment(&mut self, room: u32, limit: u32, most: u32) -> Option<Piece> {
        let Layout { wire_len, .. } = self.layout;
        let stride = self.layout.stride();
        if !self.resend.is_empty() || room < self.segment || !self.sent.is_multiple_of(stride) {
            return None;
        }
        let (unscheduled, unscheduled_priority) = self.unscheduled;
        let needs_grant = self.sent >= unscheduled;
        let granted = if needs_grant { self.granted } else { self.granted.min(unscheduled) };
        let packets = granted.checked_sub(self.sent)?.div_ceil(self.segment);
        let end = self.sent.saturating_add(packets.saturating_mul(self.segment)).min(wire_len);
        let half = (wire_len / 2).max(WORTH_A_SEGMENT);
        let half = (half + stride / 2) / stride * stride;
        let pipelined = self.sent.max(PIPELINED).min(half).min(most).max(stride);
        let last = wire_len - wire_len % stride;
        let end = match self.sent.saturating_add(pipelined.min(limit)) {
            cut if cut >= last && wire_len - self.sent <= limit.min(most) => end,
            cut => end.min(cut),
        };
        let ends_within = if end < wire_len { (end - self.sent) % stride } else { 0 };
        let len = end - ends_within - self.sent;
        if len <= self.segment {
            return None;
        }
        let priority = if needs_grant { self.scheduled.1 } else { unscheduled_priority };
        let piece = Piece { offset: self.sent, len, retransmit: false, pinned: false, priority };
        self.sent += len;
        self.granted = self.granted.max(self.sent);
        Some(piece)
    }

    /// The most that a packet which begins at `offset` may have: where records were cut for segments, it
    /// belongs to one.
    fn packet_len(&self, offset: u32, room: u32) -> u32 {
        let most = self.segment.min(room).max(1);
        let stride = self.layout.stride();
        if stride > self.segment { most.min(stride - offset % stride) } else { most }
    }

    /// Takes the next packet's worth, of at most `room` payload bytes.
    pub(crate) fn next_piece(&mut self, room: u32) -> Option<Piece> {
        let (unscheduled, unscheduled_priority) = self.unscheduled;
        let first = self.resend.first().map_or(self.sent, |(range, _)| range.start);
        let most = self.packet_len(first, room);
        if let Some((range, pinned)) = self.resend.first_mut() {
            let needed_grant = range.start >= unscheduled;
            let piece = Piece {
                offset: range.start,
                len: (range.end - range.start).min(most),
                retransmit: true,
                pinned: *pinned,
                priority: if needed_grant { self.resend_priority } else { unscheduled_priority },
            };
            range.start += piece.len;
            if range.start == range.end {
                self.resend.remove(0);
            }
            return Some(piece);
        }
        if self.sent >= self.granted {
            return None;
        }
        // A packet is whole or the last: grants let it run to its end.
        let len = (self.layout.wire_len - self.sent).min(most);
        let needs_grant = self.sent >= unscheduled;
        let priority = if needs_grant { self.scheduled.1 } else { unscheduled_priority };
        let piece = Piece { offset: self.sent, len, retransmit: false, pinned: false, priority };
        self.sent += len;
        self.granted = self.granted.max(self.sent);
        Some(piece)
    }

    /// Writes the wire bytes of `piece` into `out` (of `piece.len` bytes). The message must be of the
    /// session, and frozen under the epoch of the keys. Records that straddle the piece are sealed in
    /// `scratch`. Returns the number of records sealed.
    pub(crate) fn write(
        &self,
        piece: Piece,
        (session, Sealer { keys, id, id_bits }): (SessionId, Sealer<'_>),
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> u32 {
        let Some(frozen) = &self.frozen else { return 0 };
        let window = piece.offset..piece.offset + piece.len;
        let mut index = self.layout.record_at(window.start);
        let mut sealed = 0;
        while index < self.layout.records {
            let wire = self.layout.wire_range(index);
            if wire.start >= window.end {
                break;
            }
            // The layout was checked against the ID bits when the message was made.
            let Some(seq) = record::sequence_number(id, id_bits, index) else { break };
            let plain = self.layout.plain_range(index);
            if wire.start >= window.start && wire.end <= window.end {
                let to = (wire.start - window.start) as usize..(wire.end - window.start) as usize;
                let Some(to) = out.get_mut(to) else { break };
                self.seal(frozen, plain, keys, seq, to);
                sealed += 1;
            } else {
                let of = Some((session, self.id, frozen.epoch, index));
                if scratch.of != of {
                    scratch.of = of;
                    scratch.wire.resize((wire.end - wire.start) as usize, 0);
                    self.seal(frozen, plain, keys, seq, &mut scratch.wire);
                    sealed += 1;
                }
                let (start, end) = (wire.start.max(window.start), wire.end.min(window.end));
                let (from, to) = (
                    (start - wire.start) as usize..(end - wire.start) as usize,
                    (start - window.start) as usize..(end - window.start) as usize,
                );
                let (from, to) = (scratch.wire.get(from), out.get_mut(to));
                if let (Some(from), Some(to)) = (from, to) {
                    to.copy_from_slice(from);
                }
            }
            index += 1;
        }
        sealed
    }

    fn seal(
        &self,
        frozen: &Frozen,
        plain: Range<u32>,
        keys: &EpochKeys,
        seq: u64,
        wire: &mut [u8],
    ) {
        const HEADER: usize = 5;
        let len = (plain.end - plain.start) as usize;
        if let Some(room) = wire.get_mut(HEADER..HEADER + len) {
            self.copy_plain(frozen, plain.start as usize, room);
        }
        record::seal(keys, seq, wire);
    }

    /// Copies the plaintext from `start` on: preamble, body, zero padding.
    fn copy_plain(&self, frozen: &Frozen, start: usize, out: &mut [u8]) {
        let mut at = start;
        let mut out = out;
        if let Some(preamble) = frozen.preamble.get(at..) {
            let n = preamble.len().min(out.len());
            let (head, tail) = out.split_at_mut(n);
            head.copy_from_slice(&preamble[..n]);
            out = tail;
            at += n;
        }
        if let Some(body) = self.body.get(at.saturating_sub(PREAMBLE_LEN)..) {
            let n = body.len().min(out.len());
            let (head, tail) = out.split_at_mut(n);
            head.copy_from_slice(&body[..n]);
            out = tail;
        }
        out.fill(0);
    }
}

/// What a preamble says about the sender's view of its peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Acks {
    pub(crate) highest_peer_epoch: u32,
    pub(crate) floor: u64,
    pub(crate) bitmap: u64,
    /// Bytes of the response that may come without grants; 0: as usual.
    pub(crate) response_limit: u32,
}
