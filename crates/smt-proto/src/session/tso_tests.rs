//! What a session makes of the fate of its segments.

use super::*;

const PACKET: u32 = 1000;
const SRTT: Duration = Duration::from_micros(10);
const WAY: Way = (None, core::net::IpAddr::V4(core::net::Ipv4Addr::new(192, 0, 2, 1)));

fn at(micros: u64) -> Time {
    Time::from_nanos(micros * 1000)
}

#[derive(Default)]
struct Host {
    segments: Segments,
    stats: Stats,
}

struct Test {
    tso: Tso,
    host: Host,
    given_up: Option<Duration>,
}

impl Test {
    fn new() -> Self {
        Test { tso: Tso::new(WAY, 60_000), host: Host::default(), given_up: None }
    }

    /// One whose segments are known to arrive.
    fn confirmed() -> Self {
        let mut test = Test::new();
        test.send(0, 4);
        test.arrive(1, 4);
        assert!(test.is_confirmed());
        test
    }

    fn allowance(&self, micros: u64) -> Option<u32> {
        self.tso.allowance(&self.host.segments, at(micros), PACKET)
    }

    fn send_range(&mut self, micros: u64, id: u64, range: Range<u32>) {
        let Host { segments, stats } = &mut self.host;
        self.tso.sent((segments, stats, 8), at(micros), id, range, PACKET);
    }

    /// Sends a segment of message `id`, as long as may be; false if there may be none.
    fn send(&mut self, micros: u64, id: u64) -> bool {
        let Some(most) = self.allowance(micros) else { return false };
        self.send_range(micros, id, 0..most);
        true
    }

    fn resend(&mut self, micros: u64, id: u64, range: Range<u32>) {
        let Host { segments, stats } = &mut self.host;
        let times = (at(micros), SRTT);
        let given_up = self.tso.asked_again((segments, stats), times, id, &range);
        self.given_up = given_up.or(self.given_up);
    }

    fn arrive(&mut self, micros: u64, id: u64) {
        let Host { segments, stats } = &mut self.host;
        let times = (at(micros), SRTT);
        let given_up = self.tso.arrived((segments, stats), times, |other| other == id);
        self.given_up = given_up.or(self.given_up);
    }

    /// A segment of message `id` is asked for, sent again in packets, and then is there.
    fn lose(&mut self, micros: u64, id: u64) {
        assert!(self.send(micros, id), "{id}");
        self.resend(micros + 20, id, 0..60_000);
        self.tso.packet_sent(at(micros + 21), id, 0..1000, true);
        self.arrive(micros + 40, id);
    }

    fn is_confirmed(&self) -> bool {
        self.host.segments.is_confirmed(WAY)
    }

    /// Segments lost, asked for in vain, and how often they were given up.
    fn counts(&self) -> (u64, u64, u64) {
        let stats = &self.host.stats;
        (stats.tso_segments_lost, stats.tso_segments_spurious, stats.tso_given_up)
    }
}

#[test]
fn one_small_segment_is_tried_and_when_its_message_is_there_the_others_follow() {
    let mut test = Test::new();
    assert_eq!(test.allowance(0), Some(4000));
    assert!(test.send(0, 4));
    assert!(!test.send(1, 4), "one at a time");
    test.arrive(2, 8);
    assert!(!test.send(3, 4), "that was another message");
    test.resend(50, 4, 4000..9000);
    test.arrive(51, 4);
    assert!(test.is_confirmed(), "nothing of the segment was asked for");
    assert_eq!(test.allowance(60), Some(60_000 - 52));
    assert_eq!((test.host.stats.tso_confirmed, test.counts()), (1, (0, 0, 0)));
}

#[test]
fn a_new_session_knows_what_others_have_learned() {
    let mut test = Test::confirmed();
    test.tso = Tso::new(WAY, 60_000);
    assert_eq!(test.allowance(10), Some(60_000 - 52));
    assert_eq!(test.tso.record_size_for(&test.host.segments, 1428), Some(11 * 1428 - 22));
    test.lose(100, 8);
    test.tso = Tso::new(WAY, 60_000);
    test.lose(200, 12);
    assert_eq!(test.given_up, Some(OFF_FIRST));
    test.tso = Tso::new(WAY, 60_000);
    assert!(!test.send(300, 16));
}

#[test]
fn a_probe_of_which_nothing_is_learned_is_followed_by_another() {
    let mut test = Test::new();
    for (id, range) in [(4, 0..9000), (8, 0..9000), (12, 1000..1900)] {
        assert!(test.send(100 * id, id));
        // Asked for before an answer could come, or little of it.
        let wait = if id == 12 { 20 } else { 3 };
        test.resend(100 * id + wait, id, range);
        test.arrive(100 * id + wait + 20, id);
        assert!(!test.is_confirmed());
    }
    assert!(test.send(2000, 16));
    test.tso.gone(&mut test.host.segments, 16);
    assert!(test.send(2001, 20));
    assert_eq!(test.host.stats, Stats::default());
}

#[test]
fn two_lost_in_a_row_end_it_for_a_while_and_then_one() {
    let mut test = Test::new();
    test.send(0, 4);
    // A device that does not count packets lets the first arrive.
    test.resend(20, 4, 1000..4000);
    assert!(!test.send(21, 8), "it is not clear yet");
    test.tso.packet_sent(at(22), 4, 1000..2000, true);
    test.arrive(40, 4);
    test.lose(50, 8);
    assert!(!test.send(100, 12), "one may be chance, two are not");
    assert_eq!((test.counts(), test.given_up), ((2, 0, 1), Some(OFF_FIRST)));
    let later = 90 + OFF_FIRST.as_micros() as u64;
    assert!(!test.send(later - 1, 12));
    test.lose(later, 12);
    let later = later + 40 + 2 * OFF_FIRST.as_micros() as u64;
    assert!(!test.send(later - 1, 16), "three in a row");
    assert!(test.send(later, 20));
    test.arrive(later + 20, 20);
    assert!(test.is_confirmed());
}

#[test]
fn what_arrived_before_it_was_sent_again_was_not_lost() {
    let mut test = Test::confirmed();
    for (id, repeated) in (8..28).zip([true, false].into_iter().cycle()) {
        let micros = 100 * id;
        assert!(test.send(micros, id));
        test.resend(micros + 20, id, 0..60_000);
        if repeated {
            test.tso.packet_sent(at(micros + 30), id, 0..1000, true);
        }
        test.arrive(micros + 39, id);
    }
    assert_eq!((test.is_confirmed(), test.counts()), (true, (0, 20, 0)));
    // A probe is confirmed like that as well.
    let mut test = Test::new();
    test.send(0, 4);
    test.resend(20, 4, 0..9000);
    test.arrive(21, 4);
    assert!(test.is_confirmed());
}

#[test]
fn what_gets_lost_together_with_packets_is_no_evidence() {
    let mut test = Test::confirmed();
    for id in 8..40 {
        let micros = 100 * id;
        assert!(test.send(micros, id));
        test.tso.packet_sent(at(micros + 1), id + 1000, 0..500, false);
        test.resend(micros + 20, id, 0..60_000);
        if id % 2 == 0 {
            test.resend(micros + 21, id + 1000, 0..500);
        }
        test.tso.packet_sent(at(micros + 22), id, 0..1000, true);
        if id % 2 == 1 {
            // Lost again, as packets.
            test.resend(micros + 40, id, 0..60_000);
        }
        test.arrive(micros + 80, id);
    }
    assert_eq!((test.is_confirmed(), test.counts()), (true, (0, 0, 0)));
    for id in 50..52 {
        test.tso.packet_sent(at(100 * id - 10), id + 1000, 0..500, false);
        test.resend(100 * id, id + 1000, 0..500);
        test.lose(100 * id + 1, id);
    }
    assert_eq!(test.counts(), (2, 0, 1), "packets lost before say nothing");
}

#[test]
fn two_that_seem_lost_have_the_others_wait_until_it_is_clear() {
    let mut test = Test::confirmed();
    assert!(test.send(100, 8));
    test.resend(120, 8, 0..60_000);
    assert!(test.send(130, 12));
    test.resend(150, 12, 0..60_000);
    assert!(!test.send(160, 16));
    test.arrive(161, 12);
    assert!(test.send(162, 16), "that one was there");
    test.resend(180, 16, 0..60_000);
    assert!(!test.send(181, 20));
    assert!(test.send(180 + OFF_FIRST.as_micros() as u64, 20), "not for ever");
    assert_eq!(test.counts(), (0, 1, 0));
}

#[test]
fn in_use_it_survives_single_losses_and_watches_only_so_many() {
    let mut test = Test::confirmed();
    for id in 1..200 {
        let micros = 200 * id;
        test.lose(micros, id);
        test.send(micros + 50, id + 1000);
        test.resend(micros + 80, id + 1000, 5000..6000);
        test.arrive(micros + 100, id + 1000);
        test.send(micros + 110, id + 2000);
        test.arrive(micros + 130, id + 2000);
        assert!(test.is_confirmed(), "never two in a row");
    }
    for id in 0..100 {
        test.send(50_000, 5000 + id);
        test.tso.packet_sent(at(50_001), 9000 + id, 0..500, false);
        assert!(test.tso.watched.len() <= MAX_WATCHED && test.tso.packets.len() <= MAX_PACKETS);
    }
    for id in 5080..5100 {
        test.resend(60_000, id, 0..60_000);
        assert!(test.tso.suspects.len() <= MAX_WATCHED);
    }
    test.tso.packet_sent(at(60_001), 5099, 0..1000, true);
    test.arrive(60_020, 5099);
    assert_eq!((test.is_confirmed(), test.counts()), (true, (200, 0, 0)));
    test.lose(60_030, 6000);
    assert_eq!((test.allowance(61_000), test.counts()), (None, (201, 0, 1)));
}

#[test]
fn a_long_message_survives_losses_that_others_of_its_segments_lie_between() {
    let mut test = Test::confirmed();
    let sent = |test: &mut Test, micros, n: u32| {
        test.send_range(micros, 8, n * 20_000..(n + 1) * 20_000);
    };
    let repeated = |test: &mut Test, micros, n: u32| {
        test.tso.packet_sent(at(micros), 8, n * 20_000..n * 20_000 + 1000, true);
    };
    (0..4).for_each(|n| sent(&mut test, 1, n));
    test.resend(100, 8, 20_000..60_000);
    assert!(test.allowance(101).is_some(), "two at once are one loss");
    (1..3).for_each(|n| repeated(&mut test, 101, n));
    (4..8).for_each(|n| sent(&mut test, 102, n));
    test.resend(200, 8, 120_000..140_000);
    assert_eq!(test.counts(), (2, 0, 0), "now the others are there");
    repeated(&mut test, 201, 6);
    (8..10).for_each(|n| sent(&mut test, 202, n));
    test.resend(300, 8, 160_000..200_000);
    assert!(test.is_confirmed() && test.allowance(301).is_none(), "nothing since has arrived");
    (8..10).for_each(|n| repeated(&mut test, 302, n));
    test.arrive(400, 8);
    assert_eq!((test.is_confirmed(), test.counts()), (false, (5, 0, 1)));
}
