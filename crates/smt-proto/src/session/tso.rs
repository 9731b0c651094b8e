//! Whether messages leave as segments that a device cuts into packets (TSO): tried with one, used when
//! it has arrived, left alone for a while when they get lost (spec 4.3.1).

use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use super::{Session, Which};
use crate::endpoint::Shared;
use crate::record;
use crate::stats::Stats;
use crate::time::Time;
use crate::wire::{DATA_LEN, RECORD_OVERHEAD};

/// The largest SMT packet that an IPv4 packet holds, in bytes.
const MAX_SEGMENT: usize = 65_535 - 20;
/// Packets of a segment that is sent to see whether it arrives: few, because it may be lost.
const PROBE_PACKETS: u32 = 4;
/// Losses in a row after which no more segments are sent for a while.
const MAX_LOST: u32 = 2;
/// How long none are sent then.
const OFF_FOR: Duration = Duration::from_secs(120);
/// Segments whose fate is watched at a time; what became of older ones is not learned.
const MAX_WATCHED: usize = 16;

/// What is known of segments on a session's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing, or nothing new: the next segment is a probe.
    Untried,
    /// A probe is on its way.
    Probing,
    /// They arrive.
    Confirmed,
    /// They get lost: none until then.
    Off { until: Time },
}

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

/// Segments on the path of a session whose device takes them.
#[derive(Debug)]
pub(crate) struct Tso {
    /// Largest SMT packet that may be handed to the device as a segment, in bytes; 0: none, for now.
    limit: usize,
    state: State,
    /// Losses since a segment arrived, and when the last was noticed. What was sent before that says
    /// nothing new: one full queue can cost many segments.
    lost: u32,
    noticed: Time,
    watched: Vec<Watched>,
}

/// What a RESEND says about a segment.
enum Verdict {
    /// Nothing: it was asked for other bytes.
    None,
    /// It was lost.
    Lost,
    /// It came in part, or what was asked for had not had time to arrive.
    Unclear,
}

impl Tso {
    fn new(limit: usize) -> Self {
        Tso { limit, state: State::Untried, lost: 0, noticed: Time::ZERO, watched: Vec::new() }
    }

    /// The record size of messages of more than one packet, for packets of `packet` usable bytes: so
    /// that a record is whole packets (spec 4.2). `None`: as everywhere.
    pub(crate) fn record_size_for(&self, packet: u32) -> Option<u16> {
        if self.state != State::Confirmed {
            return None;
        }
        let size = record::tso_record_size_for(packet as usize)?;
        let record = u32::from(size) + RECORD_OVERHEAD;
        let fits = record as usize + DATA_LEN <= self.limit;
        (fits && record.is_multiple_of(packet)).then_some(size)
    }

    /// Payload bytes that a segment of packets of `packet` bytes each may have now; `None`: no segment.
    pub(crate) fn allowance(&mut self, now: Time, packet: u32) -> Option<u32> {
        let most = u32::try_from(self.limit.saturating_sub(DATA_LEN)).unwrap_or(u32::MAX);
        match self.state {
            _ if most == 0 => None,
            State::Confirmed => Some(most),
            State::Probing => None,
            State::Off { until } if now < until => None,
            State::Untried | State::Off { .. } => Some(most.min(PROBE_PACKETS * packet)),
        }
    }

    /// A segment of bytes `range` of message `id` went out, in packets of `packet` bytes.
    pub(crate) fn sent(&mut self, now: Time, id: u64, range: Range<u32>, packet: u32) {
        if self.state != State::Confirmed {
            self.state = State::Probing;
            self.watched.clear();
        }
        if self.watched.len() >= MAX_WATCHED {
            self.watched.remove(0);
        }
        let rest = range.start.saturating_add(packet).min(range.end)..range.end;
        self.watched.push(Watched { id, rest, start: range.start, sent_at: now, asked: 0 });
    }

    /// Bytes `range` of message `id` were asked for again; answers take `srtt`.
    pub(crate) fn asked_again(
        &mut self,
        (now, srtt): (Time, Duration),
        id: u64,
        range: &Range<u32>,
        stats: &mut Stats,
    ) {
        if self.state == State::Confirmed {
            // Holes are asked for from the first on: what lies before this one is there.
            let before = |segment: &Watched| segment.id == id && segment.rest.end <= range.start;
            let fresh = |segment: &Watched| {
                segment.asked == 0
                    && segment.sent_at >= self.noticed
                    && now.since(segment.sent_at) >= srtt
            };
            if self.watched.iter().any(|segment| before(segment) && fresh(segment)) {
                self.lost = 0;
            }
        }
        let mut at = 0;
        while let Some(segment) = self.watched.get_mut(at) {
            let verdict = if segment.id == id {
                segment.asked_for(range, now.since(segment.sent_at) >= srtt)
            } else {
                Verdict::None
            };
            match verdict {
                Verdict::None => at += 1,
                Verdict::Unclear if self.state == State::Confirmed => at += 1,
                Verdict::Unclear => {
                    self.watched.remove(at);
                }
                Verdict::Lost => {
                    let sent_at = segment.sent_at;
                    self.watched.remove(at);
                    self.was_lost(now, sent_at, stats);
                }
            }
        }
        self.probe_is_over();
    }

    /// The messages of which `which` holds have arrived whole.
    pub(crate) fn arrived(&mut self, which: impl Fn(u64) -> bool, stats: &mut Stats) {
        let (state, lost, noticed) = (&mut self.state, &mut self.lost, self.noticed);
        self.watched.retain(|segment| {
            let over = which(segment.id);
            if over && segment.asked == 0 && segment.sent_at >= noticed {
                *lost = 0;
                if *state == State::Probing {
                    *state = State::Confirmed;
                    stats.tso_confirmed += 1;
                }
            }
            !over
        });
        self.probe_is_over();
    }

    /// Message `id` is over, or begins anew, and nobody knows what arrived of it.
    pub(crate) fn gone(&mut self, id: u64) {
        self.watched.retain(|segment| segment.id != id);
        self.probe_is_over();
    }

    /// A probe of which nothing more will be learned is followed by another.
    fn probe_is_over(&mut self) {
        if self.state == State::Probing && self.watched.is_empty() {
            self.state = State::Untried;
        }
    }

    fn was_lost(&mut self, now: Time, sent_at: Time, stats: &mut Stats) {
        stats.tso_segments_lost += 1;
        if self.lost > 0 && sent_at < self.noticed {
            return;
        }
        self.lost = self.lost.saturating_add(1);
        self.noticed = now;
        if self.lost >= MAX_LOST {
            stats.tso_given_up += u64::from(!matches!(self.state, State::Off { .. }));
            self.state = State::Off { until: now + OFF_FOR };
            self.watched.clear();
        }
    }
}

impl Watched {
    /// What it says that `range` of the message is asked for, if an answer to the segment can have
    /// come.
    fn asked_for(&mut self, range: &Range<u32>, in_time: bool) -> Verdict {
        let len = |from: u32, to: u32| to.min(range.end).saturating_sub(from.max(range.start));
        if len(self.start, self.rest.end) == 0 {
            return Verdict::None;
        }
        self.asked = self.asked.max(1);
        if !in_time {
            return Verdict::Unclear;
        }
        self.asked = self.asked.saturating_add(len(self.rest.start, self.rest.end));
        let half = (self.rest.end - self.rest.start) / 2;
        if self.asked > half { Verdict::Lost } else { Verdict::Unclear }
    }
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
            None => self.tso = Some(alloc::boxed::Box::new(Tso::new(limit))),
        }
    }

    /// Responses of ours that `finished` holds of, by the number of their RPC, have arrived.
    pub(super) fn responses_arrived(&mut self, cx: &mut Shared, finished: impl Fn(u64) -> bool) {
        let Some(mut tso) = self.tso.take() else { return };
        let arrived = |id| {
            let ours = |which: &Which| !which.ours && which.response;
            self.rpc_of(id).filter(ours).is_some_and(|which| finished(which.number))
        };
        tso.arrived(arrived, &mut cx.stats);
        self.tso = Some(tso);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: u32 = 1000;
    const SRTT: Duration = Duration::from_micros(10);

    fn at(micros: u64) -> Time {
        Time::from_nanos(micros * 1000)
    }

    struct Test {
        tso: Tso,
        stats: Stats,
    }

    impl Test {
        fn new() -> Self {
            Test { tso: Tso::new(60_000), stats: Stats::default() }
        }

        /// Sends a segment of message `id`, as long as may be; false if there may be none.
        fn send(&mut self, micros: u64, id: u64) -> bool {
            let Some(most) = self.tso.allowance(at(micros), PACKET) else { return false };
            self.tso.sent(at(micros), id, 0..most, PACKET);
            true
        }

        fn resend(&mut self, micros: u64, id: u64, range: Range<u32>) {
            self.tso.asked_again((at(micros), SRTT), id, &range, &mut self.stats);
        }

        fn confirmed(&self) -> bool {
            self.tso.state == State::Confirmed
        }

        fn arrive(&mut self, id: u64) {
            self.tso.arrived(|other| other == id, &mut self.stats);
        }
    }

    #[test]
    fn one_small_segment_is_tried_and_when_its_message_is_there_the_others_follow() {
        let mut test = Test::new();
        assert_eq!(test.tso.allowance(at(0), PACKET), Some(4000));
        assert!(test.send(0, 4));
        assert!(!test.send(1, 4), "one at a time");
        test.arrive(8);
        assert!(!test.send(1, 4), "that was another message");
        test.resend(50, 4, 4000..9000);
        test.arrive(4);
        assert!(test.confirmed(), "nothing of the segment was asked for");
        assert_eq!(test.tso.allowance(at(60), PACKET), Some(60_000 - 52));
        assert_eq!((test.stats.tso_confirmed, test.stats.tso_given_up), (1, 0));
    }

    #[test]
    fn a_probe_of_which_nothing_is_learned_is_followed_by_another() {
        let mut test = Test::new();
        for (id, range) in [(4, 0..9000), (8, 0..9000), (12, 1000..1900)] {
            assert!(test.send(100 * id, id));
            // Asked for before an answer could come, or little of it.
            let wait = if id == 12 { 20 } else { 3 };
            test.resend(100 * id + wait, id, range);
            test.arrive(id);
            assert!(!test.confirmed());
        }
        assert!(test.send(2000, 16));
        test.tso.gone(16);
        assert!(test.send(2001, 20));
        assert_eq!(test.stats, Stats::default());
    }

    #[test]
    fn two_lost_in_a_row_end_it_for_a_while_and_then_one() {
        let mut test = Test::new();
        test.send(0, 4);
        // A device that does not count packets lets the first arrive.
        test.resend(20, 4, 1000..4000);
        assert!(test.send(30, 8), "one may be chance");
        test.resend(50, 8, 0..4000);
        assert!(!test.send(60, 12));
        assert_eq!((test.stats.tso_segments_lost, test.stats.tso_given_up), (2, 1));
        let later = 50 + OFF_FOR.as_micros() as u64;
        assert!(!test.send(later - 1, 12));
        assert!(test.send(later, 12), "tried again");
        test.resend(later + 20, 12, 0..4000);
        assert!(!test.send(later + 30, 16), "three in a row");
        assert!(test.send(2 * later, 20));
        test.arrive(20);
        assert!(test.confirmed());
    }

    #[test]
    fn in_use_it_survives_single_losses_and_watches_only_so_many() {
        let mut test = Test::new();
        test.send(0, 4);
        test.arrive(4);
        for id in 1..200 {
            let micros = 100 * id;
            test.send(micros, id);
            test.resend(micros + 20, id, 0..60_000);
            test.send(micros + 30, id + 1000);
            test.resend(micros + 60, id + 1000, 5000..6000);
            test.arrive(id + 1000);
            assert!(test.confirmed() || id > 1);
            test.send(micros + 70, id + 2000);
            test.arrive(id + 2000);
        }
        assert!(test.confirmed(), "never two in a row");
        for id in 0..100 {
            test.send(50_000, 5000 + id);
            assert!(test.tso.watched.len() <= MAX_WATCHED);
        }
        test.resend(60_000, 5099, 0..60_000);
        test.resend(60_000, 5098, 0..60_000);
        assert!(test.confirmed(), "one loss");
        test.send(60_010, 6000);
        test.resend(61_000, 5097, 0..60_000);
        assert!(test.confirmed(), "it was sent before");
        test.resend(61_000, 6000, 0..60_000);
        assert_eq!(test.tso.allowance(at(61_000), PACKET), None);
        assert_eq!(test.stats.tso_given_up, 1);
    }

    #[test]
    fn a_long_message_survives_losses_that_others_of_its_segments_lie_between() {
        let mut test = Test::new();
        test.send(0, 4);
        test.arrive(4);
        let sent = |test: &mut Test, micros, n: u32| {
            test.tso.sent(at(micros), 8, n * 20_000..(n + 1) * 20_000, PACKET);
        };
        (0..4).for_each(|n| sent(&mut test, 1, n));
        test.resend(100, 8, 20_000..60_000);
        assert!(test.confirmed(), "two at once are one loss");
        (4..8).for_each(|n| sent(&mut test, 101, n));
        test.resend(200, 8, 120_000..140_000);
        assert!(test.confirmed(), "those before it are there");
        (8..10).for_each(|n| sent(&mut test, 201, n));
        test.resend(300, 8, 160_000..200_000);
        assert!(!test.confirmed(), "nothing since has arrived");
    }
}
