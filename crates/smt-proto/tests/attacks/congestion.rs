//! A peer with real keys, and an attacker on the path, against congestion control: grants and credit,
//! priorities, measured rate and round trip, trimmed packets, silence.

use std::time::Duration;

use smt_proto::record::Layout;
use smt_proto::wire::{AckRanges, CancelCode, ControlBody, Data, Preamble};
use smt_proto::{Config, Limits, PacketMeta};

use crate::net::script::{RECORD, Script, Sent};
use crate::net::{CLIENT, SERVER, address};

const DEFAULT_CUTOFFS: [u32; 8] = [0, 0, 0, 0, u32::MAX, 15_000, 2_800, 300];

fn server() -> Script {
    Script::new(SERVER, Config::default())
}

fn layout(plain: u32) -> Layout {
    Layout::from_plain(RECORD, u64::from(plain), 48).unwrap()
}

/// Announces message `number` of `plain` bytes, of which `incoming` come by themselves.
fn announce(script: &mut Script, number: u64, plain: u32, incoming: u32) -> Vec<Sent> {
    let data = script.data_header(script.my_id(number), &layout(plain), 0);
    let packet = script.data(Data { incoming, segment_size: 0, ..data }, &[]);
    script.give(&packet)
}

/// Gives byte `at` of message `number` of `plain` bytes: anything, it is a piece of a record.
fn drip(script: &mut Script, number: u64, plain: u32, at: u32) -> Vec<Sent> {
    let data = script.data_header(script.my_id(number), &layout(plain), at);
    let packet = script.data(Data { incoming: at + 1, ..data }, &[0]);
    script.give(&packet)
}

/// How far message `id` was granted.
fn granted(sent: &[Sent], id: u64) -> u32 {
    let offsets = sent.iter().filter_map(|sent| match sent {
        Sent::Control { id: of, body: ControlBody::Grant { offset, .. } } if *of == id => {
            Some(*offset)
        }
        _ => None,
    });
    offsets.max().unwrap_or(0)
}

fn resends(sent: &[Sent]) -> usize {
    let resend =
        |sent: &&Sent| matches!(sent, Sent::Control { body: ControlBody::Resend { .. }, .. });
    sent.iter().filter(resend).count()
}

/// The CUTOFFS among what was sent.
fn told(sent: &[Sent]) -> Vec<([u32; 8], u16, u32)> {
    let told = sent.iter().filter_map(|sent| match sent {
        Sent::Control { body: ControlBody::Cutoffs { cutoffs, version, unscheduled }, .. } => {
            Some((*cutoffs, *version, *unscheduled))
        }
        _ => None,
    });
    told.collect()
}

/// An honest message among hostile ones: sends what it is granted, as soon as it is.
struct Honest {
    id: u64,
    layout: Layout,
    stream: Vec<u8>,
    sent: u32,
    granted: u32,
}

impl Honest {
    fn new(script: &Script, number: u64, plain: u32) -> Honest {
        let (id, layout) = (script.my_id(number), layout(plain));
        let preamble = script.preamble(&layout, plain - 40);
        let stream = script.seal(id, &layout, preamble, &vec![7; plain as usize - 40]);
        Honest { id, layout, stream, sent: 0, granted: 1 }
    }

    /// Sends on, after the receiver has sent `answers`; until there is no grant.
    fn go_on(&mut self, script: &mut Script, answers: Vec<Sent>) {
        self.granted = self.granted.max(granted(&answers, self.id));
        while self.sent < self.granted {
            let wire = self.layout.wire_range(self.layout.record_at(self.sent));
            let data = script.data_header(self.id, &self.layout, wire.start);
            let bytes = &self.stream[wire.start as usize..wire.end as usize];
            let packet = script.data(Data { incoming: self.granted.max(wire.end), ..data }, bytes);
            self.sent = wire.end;
            let answers = script.give(&packet);
            self.granted = self.granted.max(granted(&answers, self.id));
        }
    }
}

/// Eight hostile messages hold places and credit, kept so by `keep` every half millisecond; an honest
/// one of 600 KB waits behind them. Returns how much of it came in a second.
fn comes_beside(plain: u32, mut keep: impl FnMut(&mut Script, u64, u32) -> Vec<Sent>) -> u32 {
    let mut script = server();
    for number in 0..8 {
        announce(&mut script, number, plain, 0);
        drip(&mut script, number, plain, 0);
    }
    let mut honest = Honest::new(&script, 8, 600_000);
    honest.go_on(&mut script, Vec::new());
    for round in 1..2000 {
        let mut sent = Vec::new();
        for number in 0..8 {
            sent.extend(keep(&mut script, number, round));
        }
        let waited = script.wait(Duration::from_micros(500));
        sent.extend(waited.into_iter().map(|(_, sent)| sent));
        honest.go_on(&mut script, sent);
        assert_eq!(script.net.hosts[SERVER].closed, None);
    }
    honest.sent
}

#[test]
fn senders_that_only_say_busy_lose_places_and_credit() {
    let came = comes_beside(300_000, |script, number, _| {
        script.give_control(script.my_id(number), ControlBody::Busy)
    });
    assert!(came > 599_000, "{came} bytes came");
}

#[test]
fn senders_that_repeat_themselves_lose_places_and_credit() {
    let came = comes_beside(300_000, |script, number, _| drip(script, number, 300_000, 0));
    assert!(came > 599_000, "{came} bytes came");
}

#[test]
fn senders_that_drip_do_not_starve_the_others() {
    let came = comes_beside(300_000, |script, number, round| drip(script, number, 300_000, round));
    assert!(came > 599_000, "{came} bytes came");
}

#[test]
fn messages_announced_without_end_do_not_starve_an_honest_one() {
    let mut script = server();
    // All shorter, all promise 64 KiB by themselves, none sends them.
    for number in 0..800 {
        announce(&mut script, number, 100_000, 64 << 10);
    }
    let mut honest = Honest::new(&script, 800, 600_000);
    honest.go_on(&mut script, Vec::new());
    for (fresh, round) in (801..).zip(0..1000) {
        // New ones come, old ones are repeated and cancelled.
        let mut sent = announce(&mut script, fresh, 100_000, 64 << 10);
        sent.extend(announce(&mut script, round % 800, 100_000, 64 << 10));
        let id = script.my_id(fresh);
        sent.extend(script.give_control(id, ControlBody::Cancel(CancelCode::Request)));
        let waited = script.wait(Duration::from_millis(1));
        sent.extend(waited.into_iter().map(|(_, sent)| sent));
        honest.go_on(&mut script, sent);
    }
    assert!(honest.sent > 599_000, "{} bytes came", honest.sent);
}

#[test]
fn announcements_do_not_move_the_cutoffs() {
    let mut script = server();
    let mut sent = Vec::new();
    // The longest there are, given up as soon as they are announced; then the same in other lengths.
    for number in 0..4000u64 {
        let plain = if number < 2000 { 60 << 20 } else { 100 };
        sent.extend(announce(&mut script, number, plain, 1));
        let id = script.my_id(number);
        sent.extend(script.give_control(id, ControlBody::Cancel(CancelCode::Request)));
        script.net.now = script.net.now + Duration::from_micros(100);
    }
    assert_eq!(script.net.hosts[SERVER].closed, None);
    for (cutoffs, _, _) in told(&sent) {
        assert_eq!(cutoffs, DEFAULT_CUTOFFS);
    }
}

#[test]
fn cutoffs_are_told_once_a_round_trip_however_versions_jump() {
    let mut script = server();
    let mut sent = Vec::new();
    for number in 0..2000u64 {
        let data = script.data_header(script.my_id(number), &layout(50_000), 0);
        let cutoffs = (number as u16).wrapping_mul(0x9e37) | 1;
        let packet = script.data(Data { incoming: 1, cutoffs, ..data }, &[0]);
        sent.extend(script.give(&packet));
        script.net.now = script.net.now + Duration::from_micros(10);
    }
    // 20 ms at an assumed round trip of 1 ms.
    assert!(told(&sent).len() <= 21, "{}", told(&sent).len());
}

#[test]
fn nonsense_in_cutoffs_costs_only_whoever_said_it() {
    for (cutoffs, unscheduled) in [
        ([0; 8], 0),
        ([u32::MAX; 8], u32::MAX),
        ([7, 6, 5, 4, 3, 2, 1, 0], 1),
        ([0, u32::MAX, 0, 5, 0, 1 << 31, 0, 1], 1 << 31),
    ] {
        let limits = Limits { unscheduled: 5000, ..Limits::default() };
        let mut script = Script::new(CLIENT, Config { limits, ..Config::default() });
        for version in [0, 1, u16::MAX, 3, 0] {
            script.give_control(0, ControlBody::Cutoffs { cutoffs, version, unscheduled });
        }
        script.net.call(CLIENT, vec![1; 100_000], 1);
        let sent: usize = script
            .taken()
            .iter()
            .map(|sent| if let Sent::Data { len, .. } = sent { *len } else { 0 })
            .sum();
        // One packet at least, the declared limit and the rest of a packet at most.
        assert!((1..5000 + 1500).contains(&sent), "{sent} bytes at once, limit {unscheduled}");
        assert_eq!(script.net.hosts[CLIENT].closed, None);
    }
}

#[test]
fn an_overtaken_cutoffs_says_nothing() {
    let mut script = Script::new(CLIENT, Config::default());
    let say = |script: &mut Script, unscheduled| {
        script.control(0, ControlBody::Cutoffs { cutoffs: [0; 8], version: 1, unscheduled })
    };
    let (early, late) = (say(&mut script, 60_000), say(&mut script, 1));
    // Once overtaken, once repeated by an attacker.
    for packet in [late, early.clone(), early] {
        script.give(&packet);
    }
    script.net.call(CLIENT, vec![1; 50_000], 1);
    assert_eq!(script.taken().len(), 1);
}

#[test]
fn response_limits_of_any_kind_send_a_packet_and_no_more_than_declared() {
    for limit in [1, 2, 10_000, u32::MAX] {
        let mut script = server();
        let id = script.my_id(0);
        let layout = layout(50);
        let preamble = script.preamble(&layout, 10);
        let preamble = Preamble { response_limit: limit, ..preamble };
        let stream = script.seal(id, &layout, preamble, &[1; 10]);
        let packet = script.data(script.data_header(id, &layout, 0), &stream);
        script.give(&packet);
        let host = &mut script.net.hosts[SERVER];
        let (rpc, _) = host.requests.pop_front().unwrap();
        assert!(host.endpoint.reply(rpc, vec![5; 300_000].into()));
        script.net.pump(SERVER);
        let sent: usize = script
            .taken()
            .iter()
            .map(|sent| if let Sent::Data { len, .. } = sent { *len } else { 0 })
            .sum();
        assert!((1..(68 << 10) + 1500).contains(&sent), "{sent} bytes under limit {limit}");
        assert!(sent < limit as usize + 1500, "{sent} bytes under limit {limit}");
    }
}

#[test]
fn ranges_asked_for_may_overlap_to_more_than_lengths_can_count() {
    let limits = Limits { max_message: 80 << 20, unscheduled: 80 << 20, ..Limits::default() };
    let mut script = Script::new(CLIENT, Config { limits, ..Config::default() });
    script.net.call(CLIENT, vec![1; 72 << 20], 1);
    script.taken();
    let id = script.its_id(0);
    let mut packets = Vec::new();
    let resend =
        |offset, length| ControlBody::Resend { offset, length, priority: 255, pinned: false };
    // Apart at first, from the end on; then each stretched to the start, the last one first.
    for n in 0..64u32 {
        packets.push(script.control(id, resend((72 << 20) - 2000 * n, 1)));
    }
    for n in (0..64u32).rev() {
        packets.push(script.control(id, resend(0, (72 << 20) - 2000 * n + 1)));
    }
    let meta = PacketMeta { remote: address(SERVER), local: address(CLIENT).ip(), ip_id: None };
    let (host, now) = (&mut script.net.hosts[CLIENT], script.net.now);
    for mut packet in packets {
        host.endpoint.handle_packet(now, &meta, &mut packet);
    }
    let mut frame = [0; 2048];
    for _ in 0..100 {
        assert!(host.endpoint.poll_transmit(now, &mut frame).is_some());
    }
}

#[test]
fn priorities_beyond_the_highest_are_the_highest() {
    let mut script = Script::new(CLIENT, Config::default());
    script.net.call(CLIENT, vec![1; 200_000], 1);
    let id = script.its_id(0);
    let meta = PacketMeta { remote: address(SERVER), local: address(CLIENT).ip(), ip_id: None };
    for mut packet in [
        script.control(id, ControlBody::Grant { offset: 150_000, priority: 200 }),
        script.control(
            id,
            ControlBody::Resend { offset: 100_000, length: 9, priority: 99, pinned: false },
        ),
    ] {
        let now = script.net.now;
        let endpoint = &mut script.net.hosts[CLIENT].endpoint;
        endpoint.handle_packet(now, &meta, &mut packet);
        let mut frame = [0; 2048];
        while let Some(sent) = endpoint.poll_transmit(now, &mut frame) {
            assert!(sent.priority <= 7);
        }
    }
}

#[test]
fn trimmed_headers_of_a_byte_each_ask_for_little() {
    let mut script = server();
    let plain = 10 << 20;
    let layout = layout(plain);
    let id = script.my_id(0);
    // A megabyte comes whole, so that the next round trip may ask for as much again.
    let stream = script.seal(
        id,
        &layout,
        script.preamble(&layout, plain - 40),
        &vec![0; plain as usize - 40],
    );
    for record in 0..1000 {
        let wire = layout.wire_range(record);
        let data = script.data_header(id, &layout, wire.start);
        let packet = script.data(data, &stream[wire.start as usize..wire.end as usize]);
        script.give(&packet);
        script.net.now = script.net.now + Duration::from_micros(10);
    }
    let trim = |script: &Script, offset: u32| {
        script.data(Data { segment_size: 1, ..script.data_header(id, &layout, offset) }, &[])
    };
    script.net.now = script.net.now + Duration::from_millis(2);
    let mut asked = 0;
    for n in 0..200_000u32 {
        // From the end on, so that each goes before all others.
        let packet = trim(&script, (9 << 20) - 2 * n);
        asked += resends(&script.give(&packet));
    }
    assert!(asked <= 300, "{asked} bytes asked for one by one in a round trip");
    // And it still gets there.
    script.give_records(id, &layout, &stream, 1000..layout.records);
    assert_eq!(script.net.hosts[SERVER].requests.len(), 1);
}

#[test]
fn trimmed_headers_repeated_put_off_no_timer_and_are_given_up() {
    let mut script = server();
    let data = script.data_header(script.my_id(0), &layout(20_000), 0);
    let packet = script.data(data, &[]);
    let mut asked = resends(&script.give(&packet));
    for _ in 0..10_000 {
        asked += resends(&script.give(&packet));
        let waited = script.wait(Duration::from_millis(1));
        asked += waited.iter().filter(|(_, sent)| resends(std::slice::from_ref(sent)) > 0).count();
    }
    // Nothing else ever came: the request is forgotten and begun anew, again and again, at most one
    // packet asked for a millisecond.
    assert!(asked <= 11_000, "{asked}");
    script.wait(Duration::from_secs(10));
    assert_eq!(script.net.hosts[SERVER].endpoint.incoming_bytes(), 0);
}

#[test]
fn other_traffic_puts_off_silence_by_a_factor_and_not_for_ever() {
    let mut script = server();
    let id = script.my_id(0);
    announce(&mut script, 0, 20_000, 20_000);
    let start = script.net.now;
    let mut asked = None;
    let (mut number, mut gone) = (1, None);
    // A message of three packets every 20 us, another 50 MB/s; for the rest of the time.
    for _ in 0..120_000 {
        let mut sent = Vec::new();
        for packet in script.message(script.my_id(number), &[0; 2500]) {
            sent.extend(script.give(&packet));
        }
        if let Some((rpc, _)) = script.net.hosts[SERVER].requests.pop_front() {
            script.net.hosts[SERVER].endpoint.refuse(rpc, 1, "");
            script.net.pump(SERVER);
            script.taken();
        }
        number += 1;
        script.ack_floor = id;
        let floor = script.my_id(number);
        if number % 1000 == 0 {
            // All but the first are finished.
            let mut acks = AckRanges::new(id);
            assert!(acks.push(script.my_id(1), floor - 4));
            script.give_control(0, ControlBody::Ack(acks));
        }
        if number >= 4000 {
            break;
        }
        let waited = script.wait(Duration::from_micros(50));
        sent.extend(waited.into_iter().map(|(_, sent)| sent));
        if resends(&sent) > 0 && asked.is_none() {
            asked = Some(script.net.now.since(start));
        }
        gone = gone.or((script.net.hosts[SERVER].endpoint.incoming_bytes() == 0)
            .then(|| script.net.now.since(start)));
    }
    // 3.1 ms of silence, not more than 16 times.
    assert!(asked.is_some_and(|asked| asked < Duration::from_millis(60)), "{asked:?}");
    assert_eq!(script.net.hosts[SERVER].closed, None);
    script.wait(Duration::from_secs(60));
    assert_eq!(script.net.hosts[SERVER].endpoint.incoming_bytes(), 0);
}

#[test]
fn a_peer_that_claims_grants_before_they_come_gives_no_storm() {
    let mut script = server();
    let id = script.my_id(0);
    let long = layout(1 << 20);
    let stream =
        script.seal(id, &long, script.preamble(&long, (1 << 20) - 40), &vec![0; (1 << 20) - 40]);
    let mut sent = 0;
    // Every packet says that all is granted: the round trip seems to be nothing at all.
    for record in 0..long.records {
        let wire = long.wire_range(record);
        let data = script.data_header(id, &long, wire.start);
        let packet = script.data(Data { incoming: long.wire_len, segment_size: 0, ..data }, &[]);
        sent += script.give(&packet).len();
        if record % 2 == 0 {
            let packet = script.data(data, &stream[wire.start as usize..wire.end as usize]);
            sent += script.give(&packet).len();
        }
    }
    // A second of silence.
    sent += script.wait(Duration::from_secs(1)).len();
    assert!(sent < 5000, "{sent} packets for {}", long.records * 3 / 2);
}

#[test]
fn bytes_owed_and_dripped_for_seconds_do_not_make_the_link_slow() {
    let mut script = server();
    announce(&mut script, 0, 100_000, 64 << 10);
    // One byte a millisecond for twenty seconds, and 50 us between some: the only rate there is.
    for at in 0..20_000 {
        drip(&mut script, 0, 100_000, at);
        script.wait(Duration::from_millis(1));
    }
    // Another is granted, and told, some packets at least.
    let mut honest = Honest::new(&script, 1, 600_000);
    for _ in 0..2000 {
        let sent = script.wait(Duration::from_micros(20));
        honest.go_on(&mut script, sent.into_iter().map(|(_, sent)| sent).collect());
    }
    assert!(honest.sent > 599_000, "{} bytes came", honest.sent);
    // And small ones, too, still come by themselves.
    let sent = announce(&mut script, 2, 100_000, 8 << 10);
    assert!(told(&sent).iter().all(|(_, _, unscheduled)| *unscheduled >= 8 << 10));
}

#[test]
fn polls_do_not_keep_an_honest_caller_from_its_answer() {
    let mut script = server();
    let resend =
        |id| (id | 1, ControlBody::Resend { offset: 0, length: 1, priority: 7, pinned: false });
    // So that a rate is known.
    for number in 0..3 {
        let mut long = Honest::new(&script, number, 600_000);
        for _ in 0..400 {
            let sent = script.wait(Duration::from_micros(30));
            long.go_on(&mut script, sent.into_iter().map(|(_, sent)| sent).collect());
        }
    }
    // Thousands that owe bytes and are to be asked, and polls about requests that never were.
    for number in 1000..1500 {
        announce(&mut script, number, 100_000, 64 << 10);
    }
    let mine = script.my_id(4000);
    let mut answered = false;
    for round in 0..3000u64 {
        for n in 0..20 {
            let (id, body) = resend(script.my_id(2000 + (20 * round + n) % 1500));
            script.give_control(id, body);
        }
        script.wait(Duration::from_micros(200));
        if round % 100 == 99 {
            let (id, body) = resend(mine);
            let sent = script.give_control(id, body);
            answered |= sent
                .iter()
                .any(|sent| matches!(sent, Sent::Control { body: ControlBody::Unknown(_), .. }));
        }
    }
    assert!(answered, "30 polls in 600 ms, and never told that the request is not here");
}
