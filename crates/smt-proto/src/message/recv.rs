//! A message being received: records opened straight into its buffer as they complete, in any
//! order; pieces of records that arrive apart are gathered first (spec 4.4).

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use super::Body;
use super::trim::TrimRound;
use crate::grant::Granter;
use crate::keys::EpochKeys;
use crate::ranges::RangeSet;
use crate::rate::{Mark, Meter};
use crate::record::{self, Layout};
use crate::time::Time;
use crate::wire::{PREAMBLE_LEN, Preamble};

/// A record of which only some bytes have come.
#[derive(Debug)]
struct Partial {
    record: u32,
    wire: Vec<u8>,
}

/// What a packet did to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Took new bytes, or records that failed: how many records opened, how many failed to, how many
    /// pieces of records were gathered.
    New { opened: u32, failed: u32, gathered: u32 },
    /// Nothing new in it.
    Duplicate,
    /// It would have made one hole, or one record in pieces, too many.
    TooManyGaps,
    /// The preamble contradicts the header: the peer is at fault.
    Contradiction,
}

/// The key and the place of a message's records in the nonce space.
#[derive(Clone, Copy)]
pub(crate) struct Opener<'a> {
    pub(crate) keys: &'a EpochKeys,
    pub(crate) id: u64,
    pub(crate) id_bits: u8,
}

/// A message being received.
#[derive(Debug)]
pub(crate) struct InMessage {
    layout: Layout,
    /// The epoch its records are sealed under.
    pub(crate) epoch: u32,
    /// Plaintext as far as records have opened, and one byte more that the last one's inner type
    /// spills into. Room for all is reserved, but no memory touched before its bytes come.
    buffer: Vec<u8>,
    /// Wire bytes held, opened or gathered.
    have: RangeSet,
    have_len: u32,
    partial: Vec<Partial>,
    /// Records that failed after being gathered: only pinned pieces count for them now.
    suspect: Vec<u32>,
    opened: u32,
    preamble: Option<Preamble>,
    /// Bytes the sender may send: unscheduled or granted.
    granted: u32,
    /// Bytes the sender owes us as the grant scheduler has counted them.
    promised: u32,
    /// Highest byte seen, and packets that came since the first hole was noticed.
    highest: u32,
    packets_past_hole: u32,
    /// Where the first hole is, and since when.
    hole: (u32, Mark),
    /// Bytes below this may be overtaken by later ones that were granted a higher priority, until they
    /// have been silent since the mark.
    raised: (u32, Mark),
    /// Priority of the latest grant, if there was one.
    priority: Option<u8>,
    /// When bytes were last asked for, for RTT samples and pacing of requests.
    pub(crate) asked_at: Option<Time>,
    /// Its turn to have what is missing sent again, once it has booked one.
    repair_at: Option<Time>,
    /// What the network trimmed and was asked for in this round trip; most messages have none.
    trimmed: Option<Box<TrimRound>>,
    /// The latest grant: its end, where the one before ended, and when it was given.
    timed_grant: Option<(u32, u32, Time)>,
    /// Before this has been quiet for long enough, holes are not asked for again; and how often they
    /// were in vain.
    asked: (Mark, u32),
    /// How often bytes were asked for since the last came that had been sent again.
    asks: u32,
    /// Silent intervals in a row in which the sender owed us bytes.
    pub(crate) silences: u32,
    /// The same, however often the sender said BUSY meanwhile: it lives, but does not send.
    pub(crate) stalls: u32,
    /// Whether the grant scheduler knows it.
    pub(crate) scheduled: bool,
}

impl InMessage {
    /// A message of `layout` under `epoch`, of which nothing is here or announced yet.
    pub(crate) fn new(layout: Layout, epoch: u32) -> Self {
        InMessage {
            layout,
            epoch,
            buffer: Vec::with_capacity(layout.plain_len as usize + 1),
            have: RangeSet::default(),
            have_len: 0,
            partial: Vec::new(),
            suspect: Vec::new(),
            opened: 0,
            preamble: None,
            granted: 0,
            promised: 0,
            highest: 0,
            packets_past_hole: 0,
            hole: (0, Mark::default()),
            raised: (0, Mark::default()),
            priority: None,
            asked_at: None,
            repair_at: None,
            trimmed: None,
            timed_grant: None,
            asked: (Mark::default(), 0),
            asks: 0,
            silences: 0,
            stalls: 0,
            scheduled: false,
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Bytes of memory it may come to hold.
    pub(crate) fn charge(&self) -> u64 {
        u64::from(self.layout.plain_len)
    }

    /// Wire bytes held.
    pub(crate) fn received(&self) -> u32 {
        self.have_len
    }

    /// Bytes that the sender may send by itself or by our grants.
    pub(crate) fn granted(&self) -> u32 {
        self.granted
    }

    /// Lets the sender send bytes below `offset`.
    pub(crate) fn grant(&mut self, offset: u32) {
        self.granted = self.granted.max(offset.min(self.layout.wire_len));
    }

    /// Grants bytes below `offset` at `priority`; the first packet that knows of it gives a round trip.
    /// If the priority is higher than before, `mark` tells when order can be relied on again.
    pub(crate) fn grant_timed(&mut self, now: Time, offset: u32, priority: u8, mark: Mark) {
        if self.priority.is_some_and(|before| priority > before) {
            self.raised = (self.granted, mark);
        }
        self.priority = Some(priority);
        self.timed_grant = Some((offset, self.granted, now));
        self.grant(offset);
    }

    /// The priority that its latest grant gave it.
    pub(crate) fn priority(&self) -> Option<u8> {
        self.priority
    }

    /// The round trip since the latest grant, if a packet with this `incoming` shows that the grant had
    /// arrived. A sender may have run over the one before by less than a segment (spec 6.1).
    pub(crate) fn grant_echoed(
        &mut self,
        now: Time,
        incoming: u32,
        segment: u16,
    ) -> Option<Duration> {
        let (offset, before, at) = self.timed_grant?;
        if incoming < offset {
            return None;
        }
        self.timed_grant = None;
        (offset - before > u32::from(segment)).then(|| now.since(at))
    }

    /// Takes the sender's word in a packet of `range` that bytes below `incoming` come by themselves:
    /// as far as it may send them so, or did so in a packet begun where it might (spec 6.1).
    pub(crate) fn announced(&mut self, incoming: u32, range: Range<u32>, unscheduled: u32) {
        let begun_in_time = range.start < self.granted.max(unscheduled);
        let run_over = if begun_in_time { range.end } else { 0 };
        self.grant(incoming.min(unscheduled.max(run_over)));
    }

    /// Brings what it owes under `granter` up to date; `stalled` senders are not counted on. True if
    /// others should be looked at again.
    pub(crate) fn promise(&mut self, granter: &mut Granter, now: Time, stalled: bool) -> bool {
        let owed = if stalled { 0 } else { self.granted.saturating_sub(self.have_len) };
        let before = core::mem::replace(&mut self.promised, owed);
        before != owed && granter.promise(now, before, owed)
    }

    /// Bytes it owes as counted.
    pub(crate) fn promised(&self) -> u32 {
        self.promised
    }

    /// Wire bytes still missing.
    pub(crate) fn remaining(&self) -> u32 {
        self.layout.wire_len - self.have_len
    }

    /// The planted bug: one record still missing is as good as none.
    #[cfg(feature = "mutations")]
    pub(crate) fn forgive_last_record(&mut self) {
        if self.preamble.is_some() && self.opened + 1 == self.layout.records {
            self.opened += 1;
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.opened == self.layout.records
    }

    /// The preamble, once record 0 has opened.
    pub(crate) fn preamble(&self) -> Option<&Preamble> {
        self.preamble.as_ref()
    }

    /// Application bytes from the start of the message that are opened without a hole.
    pub(crate) fn prefix(&self) -> &[u8] {
        let Some(preamble) = &self.preamble else { return &[] };
        let wire_end = self.have.first().filter(|r| r.start == 0).map_or(0, |r| r.end);
        let whole = wire_end / self.layout.stride();
        let first_partial = self.partial.iter().map(|p| p.record).min().unwrap_or(u32::MAX);
        let records =
            if self.is_complete() { self.layout.records } else { whole.min(first_partial) };
        let Some(last) = records.checked_sub(1) else { return &[] };
        let app_end = PREAMBLE_LEN + preamble.app_len as usize;
        let end = (self.layout.plain_range(last).end as usize).min(app_end);
        self.buffer.get(PREAMBLE_LEN..end).unwrap_or_default()
    }

    /// Takes the payload of a packet at `offset`.
    pub(crate) fn take(
        &mut self,
        offset: u32,
        payload: &[u8],
        pinned: bool,
        max_gaps: usize,
        opener: Opener<'_>,
    ) -> Taken {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let range = offset..offset.saturating_add(len).min(self.layout.wire_len);
        if range.is_empty() {
            return Taken::Duplicate;
        }
        if !pinned && self.have.covers(&range) {
            return Taken::Duplicate;
        }
        let makes_gap = range.start > 0 && !self.have.overlaps(&(range.start - 1..range.start));
        if makes_gap && self.have.count() >= max_gaps {
            return Taken::TooManyGaps;
        }
        self.note_order(&range);
        let (mut opened, mut failed, mut fresh, mut too_many) = (0, 0, 0, false);
        let mut index = self.layout.record_at(range.start);
        while index < self.layout.records {
            let wire = self.layout.wire_range(index);
            if wire.start >= range.end {
                break;
            }
            let part = wire.start.max(range.start)..wire.end.min(range.end);
            let bytes = (part.start - range.start) as usize..(part.end - range.start) as usize;
            let Some(bytes) = payload.get(bytes) else { break };
            if part != wire && self.partial.len() >= max_gaps && self.partial_of(index).is_none() {
                too_many = true;
                break;
            }
            match self.take_part(index, part, bytes, pinned, opener) {
                Part::Nothing => {}
                Part::Gathered => fresh += 1,
                Part::Opened => opened += 1,
                Part::Failed => failed += 1,
            }
            index += 1;
        }
        self.have_len = self.have.len();
        if opened + failed + fresh == 0 {
            return if too_many { Taken::TooManyGaps } else { Taken::Duplicate };
        }
        if self.preamble.is_none() && self.have_record_zero() && !self.read_preamble() {
            return Taken::Contradiction;
        }
        Taken::New { opened, failed, gathered: fresh }
    }

    /// The holes to ask for again below `limit`, each with whether it must come pinned.
    pub(crate) fn holes(&self, limit: u32) -> impl Iterator<Item = (Range<u32>, bool)> + '_ {
        self.have.holes(0..limit.min(self.layout.wire_len)).map(|hole| {
            let first = self.layout.record_at(hole.start);
            let pinned = self
                .suspect
                .iter()
                .any(|&record| record >= first && self.layout.wire_range(record).start < hole.end);
            (hole, pinned)
        })
    }

    /// Whether at least `window` packets have come past the first hole since it was last asked for, and
    /// it is at least `age` old. Bytes that later ones may overtake at a higher priority are not overdue.
    pub(crate) fn hole_is_overdue(
        &mut self,
        now: Time,
        meter: &Meter,
        window: u32,
        age: Duration,
    ) -> bool {
        let Some(first) = self.have.holes(0..self.highest).next() else { return false };
        if self.hole.0 != first.start {
            self.hole = (first.start, meter.mark(now, now + age));
            self.packets_past_hole = 1;
        }
        self.packets_past_hole >= window
            && meter.silent_at(self.hole.1) <= now
            && (first.start >= self.raised.0 || meter.silent_at(self.raised.1) <= now)
    }

    /// Where the data seen so far ends.
    pub(crate) fn highest(&self) -> u32 {
        self.highest
    }

    /// Starts counting packets past the hole anew.
    pub(crate) fn asked(&mut self, now: Time) {
        self.packets_past_hole = 0;
        self.asked_at = Some(now);
        self.asks += 1;
    }

    /// Holes were asked for: not again before `pace`, doubling, has passed in which nothing else came.
    pub(crate) fn asked_for_holes(&mut self, now: Time, meter: &Meter, pace: Duration) {
        self.asked(now);
        let (mark, times) = &mut self.asked;
        *mark = meter.mark(now, now + pace * (1 << (*times).min(4)));
        *times += 1;
    }

    /// Bytes that the sender may send and that are not here.
    pub(crate) fn missing(&self) -> u32 {
        self.granted.saturating_sub(self.have_len)
    }

    /// When what is missing may be asked for: its turn among all messages (spec 6.3).
    pub(crate) fn repair_at(&mut self, now: Time, meter: &mut Meter) -> Time {
        let slot = self.repair_at.take().unwrap_or_else(|| meter.book(now, self.missing()));
        if slot > now {
            self.repair_at = Some(slot);
        }
        slot.max(now)
    }

    /// Whether holes may be asked for.
    pub(crate) fn may_ask(&self, now: Time, meter: &Meter) -> bool {
        self.asked.1 == 0 || meter.silent_at(self.asked.0) <= now
    }

    /// The network cut the bytes of `range` off their packet. Whether to ask for them now.
    pub(crate) fn trimmed(&mut self, now: Time, range: Range<u32>, pace: Duration) -> bool {
        if self.have.covers(&range) {
            return false;
        }
        let round = self.trimmed.get_or_insert_default();
        let ask = round.may_ask(now, range, pace, self.have_len);
        if ask {
            self.asked(now);
        }
        ask
    }

    /// Bytes came that had been sent again: a round trip since they were asked for, unless it is
    /// not clear which request they answer.
    pub(crate) fn answered(&mut self, now: Time) -> Option<Duration> {
        self.asked.1 = 0;
        let asks = core::mem::take(&mut self.asks);
        self.asked_at.filter(|_| asks == 1).map(|at| now.since(at))
    }

    /// The application bytes of a complete message; `None` if its padding is not zero.
    pub(crate) fn into_body(mut self) -> Option<(Preamble, Body)> {
        let preamble = self.preamble?;
        let end = PREAMBLE_LEN + preamble.app_len as usize;
        self.buffer.resize(self.layout.plain_len as usize, 0);
        let padding = self.buffer.get(end..)?;
        if padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        self.buffer.truncate(end);
        Some((preamble, Body::new(self.buffer, PREAMBLE_LEN)))
    }

    fn take_part(
        &mut self,
        index: u32,
        part: Range<u32>,
        bytes: &[u8],
        pinned: bool,
        opener: Opener<'_>,
    ) -> Part {
        let wire = self.layout.wire_range(index);
        let held = self.partial_of(index);
        if held.is_none() && self.have.covers(&wire) {
            return Part::Nothing;
        }
        if part == wire {
            // A whole record opens straight from the packet; what was gathered is not needed.
            if !self.open_record(index, bytes, opener) {
                return Part::Failed;
            }
            if let Some(at) = held {
                self.partial.swap_remove(at);
            }
            self.record_opened(index, wire);
            return Part::Opened;
        }
        if !pinned && (self.suspect.contains(&index) || self.have.covers(&part)) {
            return Part::Nothing;
        }
        let at = held.unwrap_or_else(|| {
            let wire = vec![0; (wire.end - wire.start) as usize];
            self.partial.push(Partial { record: index, wire });
            self.partial.len() - 1
        });
        let Some(partial) = self.partial.get_mut(at) else { return Part::Nothing };
        let missing: Vec<Range<u32>> =
            if pinned { vec![part.clone()] } else { self.have.holes(part.clone()).collect() };
        for hole in missing {
            let from = (hole.start - part.start) as usize..(hole.end - part.start) as usize;
            let to = (hole.start - wire.start) as usize..(hole.end - wire.start) as usize;
            if let (Some(from), Some(to)) = (bytes.get(from), partial.wire.get_mut(to)) {
                to.copy_from_slice(from);
            }
        }
        self.have.insert(part);
        if !self.have.covers(&wire) {
            return Part::Gathered;
        }
        let gathered = self.partial.swap_remove(at);
        if self.open_record(index, &gathered.wire, opener) {
            self.record_opened(index, wire);
            return Part::Opened;
        }
        self.have.remove(&wire);
        if !self.suspect.contains(&index) {
            self.suspect.push(index);
        }
        Part::Failed
    }

    /// Where the pieces of a record are gathered.
    fn partial_of(&self, index: u32) -> Option<usize> {
        self.partial.iter().position(|partial| partial.record == index)
    }

    fn open_record(&mut self, index: u32, wire: &[u8], opener: Opener<'_>) -> bool {
        let Some(seq) = record::sequence_number(opener.id, opener.id_bits, index) else {
            return false;
        };
        let plain = self.layout.plain_range(index);
        let end = plain.end as usize + 1;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        let Some(out) = self.buffer.get_mut(plain.start as usize..end) else {
            return false;
        };
        record::open(opener.keys, seq, wire, out).is_ok()
    }

    fn record_opened(&mut self, index: u32, wire: Range<u32>) {
        self.have.insert(wire);
        self.suspect.retain(|suspect| *suspect != index);
        self.opened += 1;
    }

    fn have_record_zero(&self) -> bool {
        self.have.covers(&self.layout.wire_range(0))
            && !self.partial.iter().any(|partial| partial.record == 0)
    }

    /// Reads and checks the preamble against the header (spec 4.1).
    fn read_preamble(&mut self) -> bool {
        let Ok(preamble) = Preamble::parse(&self.buffer) else { return false };
        self.preamble = Some(preamble);
        self.layout.agrees(&preamble)
    }

    fn note_order(&mut self, range: &Range<u32>) {
        let has_hole = self.have.count() > 1 || self.have.first().is_some_and(|r| r.start > 0);
        if range.start > self.highest || (has_hole && range.end > self.highest) {
            self.packets_past_hole += 1;
        }
        self.highest = self.highest.max(range.end);
    }
}

/// What a piece of a record did.
enum Part {
    Nothing,
    Gathered,
    Opened,
    Failed,
}
