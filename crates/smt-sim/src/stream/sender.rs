//! The sending side of a connection: the stream's segments, which of them the network holds, and
//! which are lost.

use core::ops::Range;
use core::time::Duration;
use std::collections::VecDeque;

use smt_proto::Time;

use super::config::StreamConfig;
use super::window::{Progress, Window};
use super::wire::{Ack, START_LEN, Start};
use crate::packet::Packet;

/// Segments this far below the highest one that arrived are lost.
const REORDERING: usize = 3;
/// The most by which timeouts in a row lengthen the next, as a power of two.
const MAX_BACKOFF: u32 = 6;

/// The sending side of a connection.
#[derive(Debug)]
pub(super) struct Sender {
    window: Window,
    /// Messages of which not all is acknowledged.
    messages: VecDeque<Start>,
    /// Length of the stream as far as it is written.
    written: u64,
    /// All below this has been sent at least once.
    sent: u64,
    /// Segments sent and not acknowledged in order.
    segments: VecDeque<Segment>,
    /// Bytes that the network holds, as far as is known.
    in_flight: u64,
    /// How many segments are lost and not sent again, and below which offset there is none.
    lost: usize,
    lost_from: u64,
    /// Below this it is decided which segments are lost.
    judged: u64,
    /// Losses are being repaired until all below this is acknowledged.
    recover_until: u64,
    /// They were found by a timeout, after which the window may grow.
    timed_out: bool,
    /// Smoothed round trip and its deviation, in nanoseconds; 0 before the first.
    round_trip: f64,
    deviation: f64,
    backoff: u32,
    /// When the oldest segment counts as lost.
    pub(super) timeout_at: Option<Time>,
    /// Segments sent again, and times that nothing came back for too long.
    pub(super) retransmissions: u64,
    pub(super) timeouts: u64,
}

#[derive(Clone, Debug)]
struct Segment {
    range: Range<u64>,
    sent_at: Time,
    state: State,
    /// Sent more than once: its acknowledgment says nothing about the round trip.
    again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InFlight,
    /// It has arrived, out of order.
    Arrived,
    Lost,
}

impl Sender {
    pub(super) fn new(config: &StreamConfig) -> Self {
        Sender {
            window: Window::new(config),
            messages: VecDeque::new(),
            written: 0,
            sent: 0,
            segments: VecDeque::new(),
            in_flight: 0,
            lost: 0,
            lost_from: 0,
            judged: 0,
            recover_until: 0,
            timed_out: false,
            round_trip: 0.0,
            deviation: 0.0,
            backoff: 0,
            timeout_at: None,
            retransmissions: 0,
            timeouts: 0,
        }
    }

    /// Appends a message to the stream.
    pub(super) fn write(&mut self, config: &StreamConfig, message: u64, bytes: u32) {
        self.messages.push_back(Start { offset: self.written, message, bytes });
        self.written += config.stream_len(bytes);
    }

    /// Whether there is something to send and the window allows it.
    pub(super) fn can_send(&self, config: &StreamConfig) -> bool {
        let something = self.lost > 0 || self.written > self.sent;
        let next = u64::from(config.mss).min(self.written - self.sent);
        let next = if self.lost > 0 { u64::from(config.mss) } else { next };
        something && (self.in_flight == 0 || self.in_flight + next <= self.window.bytes())
    }

    /// The next segment to send; what is lost comes first. To be called if [`Self::can_send`].
    pub(super) fn next_segment(&mut self, now: Time, config: &StreamConfig) -> Option<Range<u64>> {
        let range = if self.lost > 0 { self.send_again(now)? } else { self.send_new(now, config)? };
        self.in_flight += range.end - range.start;
        if self.timeout_at.is_none() {
            self.arm(now, config);
        }
        Some(range)
    }

    /// Writes a segment.
    pub(super) fn write_segment(&self, packet: &mut Packet, range: &Range<u64>) {
        let first = self.messages.partition_point(|start| start.offset < range.start);
        let starts = self.messages.iter().skip(first).take_while(|s| s.offset < range.end);
        super::wire::write_segment(packet, range, starts.copied());
    }

    /// Takes an acknowledgment.
    pub(super) fn acknowledged(&mut self, now: Time, config: &StreamConfig, ack: &Ack) {
        let in_flight = self.in_flight;
        let acked = self.take_acked(now, ack.below.min(self.sent));
        let highest = self.note_arrived(ack);
        let below = self.acked_below();
        self.judge(highest, config);
        let recovering = below < self.recover_until && !self.timed_out;
        if acked > 0 {
            self.forget_messages(config, below);
            self.backoff = 0;
            self.timeout_at = None;
            if !self.segments.is_empty() {
                self.arm(now, config);
            }
            let (marked, sent) = (ack.marked, self.sent);
            let progress = Progress { acked, marked, below, sent, in_flight, recovering };
            self.window.acknowledged(config, progress);
        }
        if below >= self.recover_until {
            self.timed_out = false;
        }
    }

    /// If nothing has come back for too long: all that has not arrived is lost.
    pub(super) fn timeout(&mut self, now: Time, config: &StreamConfig) {
        self.timeout_at = None;
        if self.segments.is_empty() {
            return;
        }
        self.timeouts += 1;
        self.window.timed_out(config, self.in_flight);
        for segment in self.segments.iter_mut().filter(|s| s.state == State::InFlight) {
            segment.state = State::Lost;
            self.lost += 1;
        }
        self.in_flight = 0;
        self.lost_from = self.acked_below();
        self.judged = self.sent;
        self.recover_until = self.sent;
        self.timed_out = true;
        self.backoff = (self.backoff + 1).min(MAX_BACKOFF);
        self.arm(now, config);
    }

    /// All below this is acknowledged.
    fn acked_below(&self) -> u64 {
        self.segments.front().map_or(self.sent, |segment| segment.range.start)
    }

    fn send_again(&mut self, now: Time) -> Option<Range<u64>> {
        let from = self.segments.partition_point(|s| s.range.start < self.lost_from);
        let segment = self.segments.iter_mut().skip(from).find(|s| s.state == State::Lost)?;
        (segment.state, segment.again, segment.sent_at) = (State::InFlight, true, now);
        self.lost -= 1;
        self.lost_from = segment.range.end;
        self.retransmissions += 1;
        Some(segment.range.clone())
    }

    /// A segment ends before a message's frame rather than within it.
    fn send_new(&mut self, now: Time, config: &StreamConfig) -> Option<Range<u64>> {
        let longest = u64::from(config.mss).max(START_LEN as u64);
        let mut end = self.written.min(self.sent + longest);
        let starts_before = self.messages.partition_point(|start| start.offset < end);
        if let Some(last) = starts_before.checked_sub(1).and_then(|i| self.messages.get(i))
            && last.offset > self.sent
            && last.offset + START_LEN as u64 > end
        {
            end = last.offset;
        }
        let range = self.sent..end;
        if range.is_empty() {
            return None;
        }
        let state = State::InFlight;
        self.segments.push_back(Segment {
            range: range.clone(),
            sent_at: now,
            state,
            again: false,
        });
        self.sent = end;
        Some(range)
    }

    /// Drops the segments below what is acknowledged; returns their bytes.
    fn take_acked(&mut self, now: Time, below: u64) -> u64 {
        let mut acked = 0;
        let mut round_trip = None;
        while let Some(segment) = self.segments.front() {
            if segment.range.end > below {
                break;
            }
            let len = segment.range.end - segment.range.start;
            acked += len;
            match segment.state {
                State::InFlight => self.in_flight -= len,
                State::Lost => self.lost -= 1,
                State::Arrived => {}
            }
            if !segment.again && segment.state == State::InFlight {
                round_trip = Some(now.since(segment.sent_at));
            }
            self.segments.pop_front();
        }
        if let Some(round_trip) = round_trip {
            self.measured(round_trip);
        }
        acked
    }

    /// Notes which segments have arrived out of order; returns the number of the highest.
    fn note_arrived(&mut self, ack: &Ack) -> Option<usize> {
        let mut highest = None;
        for block in ack.blocks.iter().filter(|block| block.start < block.end) {
            let from = self.segments.partition_point(|s| s.range.start < block.start);
            let within = self.segments.iter_mut().enumerate().skip(from);
            for (i, segment) in within.take_while(|(_, s)| s.range.end <= block.end) {
                match segment.state {
                    State::InFlight => self.in_flight -= segment.range.end - segment.range.start,
                    State::Lost => self.lost -= 1,
                    State::Arrived => {}
                }
                segment.state = State::Arrived;
                highest = highest.max(Some(i));
            }
        }
        highest
    }

    /// Decides which segments are lost, each once: those sent again are left to the timeout.
    fn judge(&mut self, highest: Option<usize>, config: &StreamConfig) {
        let Some(last) = highest.and_then(|i| i.checked_sub(REORDERING)) else { return };
        let from = self.segments.partition_point(|s| s.range.start < self.judged);
        let mut found = None;
        for segment in self.segments.iter_mut().take(last + 1).skip(from) {
            self.judged = segment.range.end;
            if segment.state == State::InFlight {
                segment.state = State::Lost;
                self.in_flight -= segment.range.end - segment.range.start;
                self.lost += 1;
                found = found.or(Some(segment.range.start));
            }
        }
        let Some(found) = found else { return };
        self.lost_from = self.lost_from.min(found);
        if self.acked_below() >= self.recover_until {
            self.recover_until = self.sent;
            self.window.lost(config);
        }
    }

    fn forget_messages(&mut self, config: &StreamConfig, below: u64) {
        while let Some(first) = self.messages.front() {
            if first.offset + config.stream_len(first.bytes) > below {
                return;
            }
            self.messages.pop_front();
        }
    }

    /// RFC 6298, 2.
    fn measured(&mut self, round_trip: Duration) {
        let sample = round_trip.as_nanos() as f64;
        if self.round_trip == 0.0 {
            (self.round_trip, self.deviation) = (sample, sample / 2.0);
        } else {
            self.deviation += ((sample - self.round_trip).abs() - self.deviation) / 4.0;
            self.round_trip += (sample - self.round_trip) / 8.0;
        }
    }

    fn arm(&mut self, now: Time, config: &StreamConfig) {
        let measured = (self.round_trip + 4.0 * self.deviation) as u64;
        let least = measured.max(config.min_rto_us.saturating_mul(1000)).max(1);
        self.timeout_at = Some(now + Duration::from_nanos(least.saturating_mul(1 << self.backoff)));
    }
}
