//! Whether messages leave as segments that a device cuts into packets (TSO): tried with one, used when
//! it has arrived, left alone for a while when they get lost (spec 4.3.1). Here is what a session sees of
//! its own; what follows is kept for all sessions to the same host ([`crate::endpoint::segments`]).

use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use super::{Session, Which};
use crate::endpoint::Shared;
use crate::endpoint::segments::{Allowed, MAX_LOST, OFF_FIRST, Segments, Way};
use crate::event::Event;
use crate::record;
use crate::stats::Stats;
use crate::time::Time;
use crate::wire::{DATA_LEN, RECORD_OVERHEAD};

/// The largest SMT packet that an IPv4 packet holds, in bytes.
const MAX_SEGMENT: usize = 65_535 - 20;
/// Packets of a segment that is sent to see whether it arrives: few, because it may be lost.
const PROBE_PACKETS: u32 = 4;
/// Segments whose fate is watched at a time; what became of older ones is not learned.
const MAX_WATCHED: usize = 16;
/// Packets beside them that are watched: what gets lost together with packets is no evidence against
/// segments.
const MAX_PACKETS: usize = 16;

/// A segment whose fate is not known.
#[derive(Clone, Debug)]
struct Watched {
    /// The message.
    id: u64,
    /// Its bytes behind the segment's first packet, which arrives even where nobody counts packets.
    rest: Range<u32>,
    start: u32,
    sent_at: Time,
    /// How many bytes of `rest` were asked for again.
    asked: u32,
}

/// A segment most of which was asked for again. Whether it had to be shows when its message is there.
#[derive(Clone, Debug)]
struct Suspect {
    id: u64,
    range: Range<u32>,
    sent_at: Time,
    asked_at: Time,
    /// When the first of it was sent again.
    repeated_at: Option<Time>,
}

/// A packet that went out once while segments were watched.
#[derive(Clone, Debug)]
struct Single {
    id: u64,
    range: Range<u32>,
    sent_at: Time,
}

/// Segments on the path of a session whose device takes them.
#[derive(Debug)]
pub(crate) struct Tso {
    way: Way,
    /// Largest SMT packet that may be handed to the device as a segment, in bytes; 0: none, for now.
    limit: usize,
    /// The probe that is on its way is this session's.
    probing: bool,
    watched: Vec<Watched>,
    suspects: Vec<Suspect>,
    packets: Vec<Single>,
    /// When the last packet left that was asked for again.
    packet_lost: Option<Time>,
}

/// What a RESEND says about a segment.
enum Verdict {
    /// Nothing: it was asked for other bytes.
    None,
    /// It seems lost.
    Lost,
    /// It came in part, or what was asked for had not had time to arrive.
    Unclear,
}

impl Tso {
    fn new(way: Way, limit: usize) -> Self {
        Tso {
            way,
            limit,
            probing: false,
            watched: Vec::new(),
            suspects: Vec::new(),
            packets: Vec::new(),
            packet_lost: None,
        }
    }

    /// The record size of messages of more than one packet, for packets of `packet` usable bytes: so
    /// that a record is whole packets (spec 4.2). `None`: as everywhere.
    pub(crate) fn record_size_for(&self, hosts: &Segments, packet: u32) -> Option<u16> {
        if !hosts.is_confirmed(self.way) {
            return None;
        }
        let size = record::tso_record_size_for(packet as usize)?;
        let record = u32::from(size) + RECORD_OVERHEAD;
        let fits = record as usize + DATA_LEN <= self.limit;
        (fits && record.is_multiple_of(packet)).then_some(size)
    }

    /// Payload bytes that a segment of packets of `packet` bytes each may have now; `None`: no segment.
    pub(crate) fn allowance(&self, hosts: &Segments, now: Time, packet: u32) -> Option<u32> {
        let most = u32::try_from(self.limit.saturating_sub(DATA_LEN)).unwrap_or(u32::MAX);
        match hosts.allowed(self.way, now) {
            _ if most == 0 => None,
            Allowed::None => None,
            Allowed::Probe => Some(most.min(PROBE_PACKETS * packet)),
            Allowed::All if self.must_wait(hosts, now) => None,
            Allowed::All => Some(most),
        }
    }

    /// Whether so many segments seem lost that no more are to follow until it is clear.
    fn must_wait(&self, hosts: &Segments, now: Time) -> bool {
        let Some(last) = self.suspects.last() else { return false };
        let (mut lost, mut noticed) = hosts.losses(self.way);
        for suspect in &self.suspects {
            if lost == 0 || suspect.sent_at >= noticed {
                lost += 1;
                noticed = suspect.asked_at;
            }
        }
        lost >= MAX_LOST && now.since(last.asked_at) < OFF_FIRST
    }

    /// A segment of bytes `range` of message `id` went out, in packets of `packet` bytes. `most` hosts are
    /// kept in mind.
    pub(crate) fn sent(
        &mut self,
        (hosts, stats, most): (&mut Segments, &mut Stats, usize),
        now: Time,
        id: u64,
        range: Range<u32>,
        packet: u32,
    ) {
        if hosts.sent(self.way, now, most, stats) {
            self.probing = true;
            self.watched.clear();
            self.suspects.clear();
        }
        if self.watched.len() >= MAX_WATCHED {
            self.watched.remove(0);
        }
        let rest = range.start.saturating_add(packet).min(range.end)..range.end;
        self.watched.push(Watched { id, rest, start: range.start, sent_at: now, asked: 0 });
    }

    /// Bytes `range` of message `id` went out as a packet, again if `is_repeat`.
    pub(crate) fn packet_sent(&mut self, now: Time, id: u64, range: Range<u32>, is_repeat: bool) {
        if is_repeat {
            for suspect in &mut self.suspects {
                if suspect.id == id && overlap(&suspect.range, &range) > 0 {
                    suspect.repeated_at.get_or_insert(now);
                }
            }
        } else if !self.watched.is_empty() {
            if self.packets.len() >= MAX_PACKETS {
                self.packets.remove(0);
            }
            self.packets.push(Single { id, range, sent_at: now });
        }
    }

    /// Bytes `range` of message `id` were asked for again; answers take `srtt`. Returns for how long no
    /// segments are sent to the host, if that begins now.
    pub(crate) fn asked_again(
        &mut self,
        (hosts, stats): (&mut Segments, &mut Stats),
        (now, srtt): (Time, Duration),
        id: u64,
        range: &Range<u32>,
    ) -> Option<Duration> {
        let way = self.way;
        if hosts.is_confirmed(way) {
            // Holes are asked for from the first on: what lies before this one is there.
            let before = |segment: &&Watched| segment.id == id && segment.rest.end <= range.start;
            let fresh =
                |segment: &&Watched| segment.asked == 0 && now.since(segment.sent_at) >= srtt;
            for segment in self.watched.iter().filter(before).filter(fresh) {
                hosts.arrived(way, now, segment.sent_at, stats);
            }
        }
        let in_time = |sent_at: Time| now.since(sent_at) >= srtt;
        let lost = |packet: &&Single| {
            packet.id == id && overlap(&packet.range, range) > 0 && in_time(packet.sent_at)
        };
        if let Some(packet) = self.packets.iter().rev().find(lost) {
            self.packet_lost = Some(packet.sent_at);
        }
        // What was sent again as packets was lost once more: then it is not for being a segment.
        self.suspects.retain(|suspect| {
            let again = suspect.id == id && overlap(&suspect.range, range) > 0;
            !(again && suspect.repeated_at.is_some_and(in_time))
        });
        let given_up = self.judge((hosts, stats), now, |suspect| {
            let is_filled = suspect.id == id && suspect.range.end <= range.start;
            (is_filled && suspect.repeated_at.is_some_and(in_time)).then_some(false)
        });
        let mut at = 0;
        while let Some(segment) = self.watched.get_mut(at) {
            let verdict = if segment.id == id {
                segment.asked_for(range, in_time(segment.sent_at))
            } else {
                Verdict::None
            };
            match verdict {
                Verdict::None => at += 1,
                Verdict::Unclear if hosts.is_confirmed(way) => at += 1,
                Verdict::Unclear => {
                    self.watched.remove(at);
                }
                Verdict::Lost => {
                    let Watched { id, start, ref rest, sent_at, .. } = *segment;
                    let range = start..rest.end;
                    self.watched.remove(at);
                    if self.suspects.len() >= MAX_WATCHED {
                        self.suspects.remove(0);
                    }
                    let (asked_at, repeated_at) = (now, None);
                    self.suspects.push(Suspect { id, range, sent_at, asked_at, repeated_at });
                }
            }
        }
        self.probe_is_over(hosts);
        given_up
    }

    /// The messages of which `which` holds have arrived whole; no answer takes less than `shortest`.
    /// Returns for how long no segments are sent to the host, if that begins now.
    pub(crate) fn arrived(
        &mut self,
        (hosts, stats): (&mut Segments, &mut Stats),
        (now, shortest): (Time, Duration),
        which: impl Fn(u64) -> bool,
    ) -> Option<Duration> {
        if self.watched.is_empty() && self.suspects.is_empty() {
            return None;
        }
        let way = self.way;
        self.watched.retain(|segment| {
            let over = which(segment.id);
            if over && segment.asked == 0 {
                hosts.arrived(way, now, segment.sent_at, stats);
            }
            !over
        });
        let given_up = self.judge((hosts, stats), now, |suspect| {
            // Sooner than an answer to what was sent again: it was there without that.
            let too_soon = suspect.repeated_at.is_none_or(|at| now.since(at) < shortest);
            which(suspect.id).then_some(too_soon)
        });
        self.probe_is_over(hosts);
        given_up
    }

    /// Ends the suspicion of which `arrived` says whether the segment had arrived after all.
    fn judge(
        &mut self,
        (hosts, stats): (&mut Segments, &mut Stats),
        now: Time,
        arrived: impl Fn(&Suspect) -> Option<bool>,
    ) -> Option<Duration> {
        let (way, packet_lost) = (self.way, self.packet_lost);
        let mut given_up = None;
        self.suspects.retain(|suspect| {
            let Suspect { sent_at, asked_at, .. } = *suspect;
            match arrived(suspect) {
                None => return true,
                Some(true) => {
                    stats.tso_segments_spurious += 1;
                    hosts.arrived(way, now, sent_at, stats);
                }
                Some(false) => {
                    let together = |at| sent_at <= at && at <= asked_at;
                    if !packet_lost.is_some_and(together) {
                        let off = hosts.lost(way, now, (sent_at, asked_at), stats);
                        given_up = given_up.or(off);
                    }
                }
            }
            false
        });
        given_up
    }

    /// Message `id` is over, or begins anew, and nobody knows what arrived of it.
    pub(crate) fn gone(&mut self, hosts: &mut Segments, id: u64) {
        self.watched.retain(|segment| segment.id != id);
        self.suspects.retain(|suspect| suspect.id != id);
        self.probe_is_over(hosts);
    }

    /// A probe of which nothing more will be learned is followed by another.
    fn probe_is_over(&mut self, hosts: &mut Segments) {
        if self.watched.is_empty() && self.suspects.is_empty() {
            self.packets.clear();
            if core::mem::take(&mut self.probing) {
                hosts.probe_is_over(self.way);
            }
        }
    }
}

impl Watched {
    /// What it says that `range` of the message is asked for, if an answer to the segment can have
    /// come.
    fn asked_for(&mut self, range: &Range<u32>, in_time: bool) -> Verdict {
        if overlap(&(self.start..self.rest.end), range) == 0 {
            return Verdict::None;
        }
        self.asked = self.asked.max(1);
        if !in_time {
            return Verdict::Unclear;
        }
        self.asked = self.asked.saturating_add(overlap(&self.rest, range));
        let half = (self.rest.end - self.rest.start) / 2;
        if self.asked > half { Verdict::Lost } else { Verdict::Unclear }
    }
}

/// How many bytes two ranges have in common.
fn overlap(one: &Range<u32>, other: &Range<u32>) -> u32 {
    one.end.min(other.end).saturating_sub(one.start.max(other.start))
}

impl Session {
    /// Learns what the device towards the peer takes as a segment, in bytes; 0: nothing.
    pub(crate) fn set_segment_limit(&mut self, limit: usize) {
        // Of an IPv6 segment only two packets could be told apart: not worth a form of its own.
        let limit = if self.path.remote.is_ipv6() { 0 } else { limit.min(MAX_SEGMENT) };
        match &mut self.tso {
            // What was learned stays: a datapath may not know the way for a moment.
            Some(tso) => tso.limit = limit,
            None if limit == 0 => {}
            None => {
                let way = (self.path.local, self.path.remote.ip());
                self.tso = Some(alloc::boxed::Box::new(Tso::new(way, limit)));
            }
        }
    }

    /// Bytes `range` of message `id` were asked for again.
    pub(super) fn segments_asked(
        &mut self,
        cx: &mut Shared,
        now: Time,
        id: u64,
        range: &Range<u32>,
    ) {
        let Some(tso) = &mut self.tso else { return };
        let times = (now, self.rtt.smoothed());
        let given_up = tso.asked_again((&mut cx.segments, &mut cx.stats), times, id, range);
        self.segments_given_up(cx, given_up);
    }

    /// Messages of which `which` holds have arrived.
    pub(super) fn segments_arrived(&mut self, cx: &mut Shared, which: impl Fn(u64) -> bool) {
        let Some(tso) = &mut self.tso else { return };
        let times = (cx.now, self.rtt.shortest().unwrap_or_default());
        let given_up = tso.arrived((&mut cx.segments, &mut cx.stats), times, which);
        self.segments_given_up(cx, given_up);
    }

    /// What arrived of message `id` will not be known.
    pub(super) fn segments_gone(&mut self, cx: &mut Shared, id: u64) {
        if let Some(tso) = &mut self.tso {
            tso.gone(&mut cx.segments, id);
        }
    }

    fn segments_given_up(&self, cx: &mut Shared, off_for: Option<Duration>) {
        if let Some(off_for) = off_for {
            cx.events.push_back(Event::SegmentsLost { session: self.id, off_for });
        }
    }

    /// Responses of ours that `finished` holds of, by the number of their RPC, have arrived.
    pub(super) fn responses_arrived(&mut self, cx: &mut Shared, finished: impl Fn(u64) -> bool) {
        let Some(mut tso) = self.tso.take() else { return };
        let arrived = |id| {
            let ours = |which: &Which| !which.ours && which.response;
            self.rpc_of(id).filter(ours).is_some_and(|which| finished(which.number))
        };
        let times = (cx.now, self.rtt.shortest().unwrap_or_default());
        let given_up = tso.arrived((&mut cx.segments, &mut cx.stats), times, arrived);
        self.tso = Some(tso);
        self.segments_given_up(cx, given_up);
    }
}

#[cfg(test)]
#[path = "tso_tests.rs"]
mod tests;
