//! A peer with real keys that breaks every rule it can.

use std::time::Duration;

use smt_proto::error::{CallError, CloseReason};
use smt_proto::record::Layout;
use smt_proto::wire::{AckRanges, CancelCode, ControlBody, Data, Kind, Preamble, UnknownCode};
use smt_proto::{Config, Limits};

use crate::net::script::{RECORD, Script, Sent};
use crate::net::{CLIENT, SERVER};

fn server() -> Script {
    Script::new(SERVER, Config::default())
}

fn assert_violation(script: &Script) {
    let host = &script.net.hosts[SERVER];
    assert_eq!(host.closed, Some(CloseReason::Violation));
    assert_eq!(host.endpoint.stats().violations, 1);
    assert_eq!(host.endpoint.incoming_bytes(), 0, "charge left over");
    assert!(host.executed.is_empty(), "a broken request ran");
    assert!(host.cancelled.is_empty(), "told of a request it never had");
}

fn layout(plain: u32) -> Layout {
    Layout::from_plain(RECORD, u64::from(plain), 48).unwrap()
}

#[test]
fn a_right_message_is_taken() {
    let mut script = server();
    for packet in script.message(script.my_id(0), &[1; 2500]) {
        script.give(&packet);
    }
    assert_eq!(script.net.hosts[SERVER].requests.len(), 1);
}

#[test]
fn ids_beyond_the_window_close_the_session() {
    for number in [4096, 1 << 20, 1 << 43] {
        let mut script = server();
        let id = script.my_id(number);
        let data = script.data_header(id, &layout(100), 0);
        let packet = script.data(data, &[0; 122]);
        script.give(&packet);
        assert_violation(&script);
        let mut script = server();
        script.give_control(script.my_id(number), ControlBody::Cancel(CancelCode::Request));
        assert_violation(&script);
    }
    let mut script = server();
    let packets = script.message(script.my_id(4095), b"last");
    script.give(&packets[0]);
    assert_eq!(script.net.hosts[SERVER].requests.len(), 1);
}

#[test]
fn preambles_that_contradict_close_the_session() {
    type Change = fn(&mut Preamble);
    let changes: [Change; 10] = [
        |p| p.record_size += 1,
        |p| p.wire_len += 1,
        |p| p.app_len += 1_000_000,
        |p| p.app_len += 11,
        |p| p.kind = Kind::Post,
        |p| p.kind = Kind::Error,
        |p| p.ack_floor += 2,
        |p| p.ack_floor += 400,
        |p| p.highest_peer_epoch = 4,
        |p| p.oldest_epoch = 4,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        for size in [10, 3000] {
            let mut script = server();
            let id = script.my_id(0);
            let layout = layout(40 + size + 10);
            let mut preamble = script.preamble(&layout, size);
            change(&mut preamble);
            let stream = script.seal(id, &layout, preamble, &vec![0; size as usize]);
            script.give_records(id, &layout, &stream, 0..layout.records);
            assert_eq!(
                script.net.hosts[SERVER].closed,
                Some(CloseReason::Violation),
                "change {index}, {size} bytes"
            );
            assert_violation(&script);
        }
    }
}

#[test]
fn padding_that_is_not_zero_closes_the_session() {
    let mut script = server();
    let id = script.my_id(0);
    let layout = layout(40 + 10 + 5);
    let preamble = script.preamble(&layout, 10);
    let stream = script.seal(id, &layout, preamble, &[1; 11]);
    let data = script.data_header(id, &layout, 0);
    let packet = script.data(data, &stream);
    script.give(&packet);
    assert_violation(&script);
}

#[test]
fn lengths_beyond_the_declared_close_the_session_before_memory_is_taken() {
    let mut script = server();
    let id = script.my_id(0);
    for plain in [(64 << 20) + 41, 1u32 << 29] {
        let mut script = server();
        let layout = Layout::from_plain(16_384, plain.into(), 48).unwrap();
        let data = script.data_header(id, &layout, 0);
        let packet = script.data(data, &[]);
        script.give(&packet);
        assert_violation(&script);
        assert_eq!(script.net.most_incoming, 0);
    }
    // A length that no message has is just dropped.
    let mut data = script.data_header(id, &layout(100), 0);
    data.message_len = 1022 + 22;
    let packet = script.data(data, &[]);
    script.give(&packet);
    assert_eq!(script.net.hosts[SERVER].endpoint.stats().dropped_malformed, 1);
}

#[test]
fn announcements_without_end_stay_within_the_limits() {
    let limits = Limits { max_incoming_bytes: 10 << 20, ..Limits::default() };
    let mut script = Script::new(SERVER, Config { limits, ..Config::default() });
    for number in 0..4096 {
        let id = script.my_id(number);
        let data = script.data_header(id, &layout(1 << 20), 0);
        let packet = script.data(Data { incoming: 0, ..data }, &[]);
        script.give(&packet);
    }
    assert!(script.net.most_incoming <= 10 << 20);
    assert!(script.net.most_incoming > 8 << 20);
    // The peer never sends any of it: all is given up again.
    script.wait(Duration::from_secs(60));
    assert_eq!(script.net.hosts[SERVER].endpoint.incoming_bytes(), 0);
}

#[test]
fn gaps_without_end_are_bounded() {
    let mut script = server();
    let id = script.my_id(0);
    let layout = layout(1 << 20);
    let preamble = script.preamble(&layout, (1 << 20) - 40);
    let stream = script.seal(id, &layout, preamble, &vec![0; (1 << 20) - 40]);
    for at in (0..layout.wire_len).step_by(3) {
        let data = script.data_header(id, &layout, at);
        let packet = script.data(data, &stream[at as usize..=at as usize]);
        script.give(&packet);
    }
    let stats = script.net.hosts[SERVER].endpoint.stats();
    assert!(stats.limit_gaps > 300_000, "{stats:?}");
    // Sent properly it still gets there.
    script.give_records(id, &layout, &stream, 0..layout.records);
    assert_eq!(script.net.hosts[SERVER].requests.len(), 1);
}

#[test]
fn records_in_pieces_without_end_are_bounded() {
    let mut script = server();
    let id = script.my_id(0);
    let layout = layout(1 << 20);
    let preamble = script.preamble(&layout, (1 << 20) - 40);
    let mut stream = script.seal(id, &layout, preamble, &vec![0; (1 << 20) - 40]);
    let give = |script: &mut Script, stream: &[u8], from: u32, to: u32, pinned| {
        let data = Data { pinned, ..script.data_header(id, &layout, from) };
        let packet = script.data(data, &stream[from as usize..to as usize]);
        script.give(&packet);
    };
    let odd: Vec<_> = (1..layout.records - 1).step_by(2).map(|r| layout.wire_range(r)).collect();
    let half = |wire: &std::ops::Range<u32>| (wire.start + wire.end) / 2;
    // Every second record comes in halves and does not open. The packets go from one half to the
    // next, so that each follows on what is held and none seems to make a hole.
    for wire in &odd {
        stream[wire.start as usize + 9] ^= 1;
    }
    give(&mut script, &stream, 0, half(&odd[0]), false);
    for pair in odd.windows(2) {
        give(&mut script, &stream, half(&pair[0]), half(&pair[1]), false);
    }
    for wire in &odd {
        stream[wire.start as usize + 9] ^= 1;
    }
    assert_eq!(script.net.hosts[SERVER].endpoint.stats().limit_gaps, 0);
    assert!(odd.len() > 500);
    // Now only pinned pieces count for them, and each goes into a hole that is there already.
    for wire in &odd {
        give(&mut script, &stream, wire.start, half(wire), true);
    }
    let refused = script.net.hosts[SERVER].endpoint.stats().limit_gaps;
    assert!(refused as usize >= odd.len() - 260, "{refused} of {}", odd.len());
    // Sent properly it still gets there.
    for record in 0..layout.records {
        let wire = layout.wire_range(record);
        give(&mut script, &stream, wire.start, wire.end, false);
    }
    assert_eq!(script.net.hosts[SERVER].requests.len(), 1);
}

#[test]
fn acks_of_what_never_came_close_the_session() {
    let acks = |script: &Script, floor: u64, ranges: &[(u64, u64)]| {
        let mut acks = AckRanges::new(script.my_id(floor));
        for (first, last) in ranges {
            assert!(acks.push(script.my_id(*first), script.my_id(*last)));
        }
        ControlBody::Ack(acks)
    };
    for (floor, ranges) in
        [(1, vec![]), (1 << 40, vec![]), (0, vec![(0, 1 << 44)]), (0, vec![(5000, 5000)])]
    {
        let mut script = server();
        let body = acks(&script, floor, &ranges);
        script.give_control(0, body);
        assert_violation(&script);
    }
    // A bitmap about requests that never came, and ranges that are only partly of some that did.
    for bit in [0, 5, 63] {
        let mut script = server();
        let layout = layout(50);
        let mut preamble = script.preamble(&layout, 10);
        preamble.ack_bitmap = 1 << bit;
        let id = script.my_id(0);
        let stream = script.seal(id, &layout, preamble, &[1; 10]);
        let packet = script.data(script.data_header(id, &layout, 0), &stream);
        script.give(&packet);
        assert_eq!(script.net.hosts[SERVER].closed, Some(CloseReason::Violation), "bit {bit}");
    }
    for (range, sound) in [((2, 3), true), ((2, 4), false), ((1, 3), false), ((4, 4), false)] {
        let mut script = server();
        for number in [2, 3] {
            script.give_control(script.my_id(number), ControlBody::Cancel(CancelCode::Request));
        }
        let body = acks(&script, 0, &[range]);
        script.give_control(0, body);
        assert_eq!(script.net.hosts[SERVER].closed.is_none(), sound, "{range:?}");
    }
    // IDs of another kind, and beyond 2^60.
    let mut script = server();
    script.give_control(0, ControlBody::Ack(AckRanges::new(1 << 62)));
    assert_violation(&script);
    let mut script = server();
    let body = ControlBody::Ack(AckRanges::new(script.its_id(0)));
    script.give_control(0, body);
    assert_violation(&script);
}

#[test]
fn wide_ack_ranges_cost_no_work() {
    let mut script = server();
    // A high floor: every RPC so far was cancelled.
    for number in 0..200_000 {
        script.give_control(script.my_id(number), ControlBody::Cancel(CancelCode::Request));
    }
    // 12.8 billion numbers, were they gone through one by one: minutes instead of a moment.
    for _ in 0..2000 {
        let mut acks = AckRanges::new(script.my_id(0));
        for _ in 0..32 {
            assert!(acks.push(script.my_id(0), script.my_id(199_999)));
        }
        script.give_control(0, ControlBody::Ack(acks));
    }
    assert_eq!(script.net.hosts[SERVER].closed, None);
}

#[test]
fn epoch_bytes_that_jump_are_dropped() {
    let mut script = server();
    for epoch in [5, 6, 7, 255, 252] {
        script.enter_epoch(epoch);
        for packet in script.message(script.my_id(u64::from(epoch)), b"from the future") {
            script.give(&packet);
        }
    }
    assert!(script.net.hosts[SERVER].requests.is_empty());
    script.enter_epoch(4);
    for packet in script.message(script.my_id(0), b"the next epoch") {
        script.give(&packet);
    }
    assert_eq!(script.net.hosts[SERVER].requests.len(), 1);
    // A message that changes its epoch in the middle never completes.
    let first = script.message(script.my_id(1), &[1; 1500]);
    script.enter_epoch(5);
    let second = script.message(script.my_id(1), &[1; 1500]);
    script.give(&first[0]);
    script.give(&second[1]);
    assert_eq!(script.net.hosts[SERVER].requests.len(), 1);
    assert_eq!(script.net.hosts[SERVER].closed, None);
}

/// The core under test is a client with a call, its peer a server that misbehaves.
fn client_with_call(size: usize) -> Script {
    let mut script = Script::new(CLIENT, Config::default());
    script.net.call(CLIENT, vec![1; size], 1);
    script.taken();
    script
}

#[test]
fn storms_of_resends_and_grants_send_only_what_there_is() {
    let mut script = client_with_call(200_000);
    let id = script.its_id(0);
    let mut sent = Vec::new();
    for i in 0..2000u32 {
        let (offset, length) = (i.wrapping_mul(0x9e37_79b9), i.wrapping_mul(0x85eb_ca6b));
        sent.extend(script.give_control(
            id,
            ControlBody::Resend { offset, length, priority: 0, pinned: i % 2 == 0 },
        ));
        sent.extend(script.give_control(id, ControlBody::Grant { offset: length, priority: 0 }));
        sent.extend(script.give_control(id, ControlBody::Grant { offset: 0, priority: 0 }));
    }
    for packet in sent {
        if let Sent::Data { offset, len, .. } = packet {
            assert!(offset as usize + len <= 210_000 && len > 0);
        }
    }
    assert_eq!(script.net.hosts[CLIENT].closed, None);
}

#[test]
fn every_answer_a_hostile_server_has_ends_or_keeps_the_call() {
    let bodies = [
        ControlBody::Busy,
        ControlBody::Unknown(UnknownCode::NeverAccepted),
        ControlBody::NeedAck,
        ControlBody::Cancel(CancelCode::Confirmed),
        ControlBody::Cancel(CancelCode::Request),
        ControlBody::Cutoffs { cutoffs: [0; 8], version: 9, unscheduled: 0 },
    ];
    for body in bodies {
        let mut script = client_with_call(100);
        let id = script.its_id(0);
        // Ceaselessly: the deadline still ends the call, and no packet storm comes of it.
        let mut sent = 0;
        for _ in 0..6200 {
            for id in [id, id | 1, script.its_id(7), script.my_id(3) | 1] {
                sent += script.give_control(id, body.clone()).len();
            }
            sent += script.wait(Duration::from_millis(10)).len();
        }
        let result = script.net.hosts[CLIENT].ended.get(&1);
        assert_eq!(result, Some(&Err(CallError::DeadlineExceeded)), "{body:?}");
        assert!(sent < 70_000, "{sent} packets after {body:?}");
    }
    let mut script = client_with_call(100);
    let id = script.its_id(0);
    script.give_control(id | 1, ControlBody::Unknown(UnknownCode::Forgotten));
    assert_eq!(script.net.hosts[CLIENT].ended[&1], Err(CallError::OutcomeUnknown));
}

#[test]
fn responses_nobody_waits_for_are_dropped() {
    let mut script = client_with_call(100);
    for number in [1, 2, 4096, 1 << 40] {
        for packet in script.message(script.its_id(number) | 1, b"unasked") {
            script.give(&packet);
        }
    }
    // A request of ours sent back to us, a response as request.
    for id in [script.its_id(0), script.my_id(0) | 1] {
        for packet in script.message(id, b"mirrored") {
            script.give(&packet);
        }
    }
    assert!(script.net.hosts[CLIENT].ended.is_empty());
    assert!(script.net.hosts[CLIENT].requests.is_empty());
    assert_eq!(script.net.most_incoming, 0);
    script.ack_floor = script.my_id(0);
    for packet in script.message(script.its_id(0) | 1, b"asked") {
        script.give(&packet);
    }
    assert_eq!(script.net.hosts[CLIENT].ended[&1], Ok(b"asked".to_vec()));
}

#[test]
fn senders_that_owe_bytes_do_not_starve_the_others() {
    let mut script = Script::new(SERVER, Config::default());
    // Eight short messages that never come to their end hold all places among the granted.
    for number in 0..8 {
        let layout = layout(300_000);
        let data = script.data_header(script.my_id(number), &layout, 0);
        let packet = script.data(Data { incoming: 0, ..data }, &[]);
        script.give(&packet);
    }
    let id = script.my_id(8);
    let long = layout(600_000);
    let data = script.data_header(id, &long, 0);
    let packet = script.data(Data { incoming: 0, ..data }, &[]);
    let mut sent = script.give(&packet);
    sent.extend(script.wait(Duration::from_millis(100)).into_iter().map(|(_, sent)| sent));
    let granted = sent
        .iter()
        .any(|sent| matches!(sent, Sent::Control { id: of, body: ControlBody::Grant { .. } } if *of == id));
    assert!(granted, "no grant while others stall");
}

#[test]
fn no_more_is_promised_than_the_credit_and_the_unscheduled_bytes() {
    const CREDIT: u32 = 100_000;
    let limits = Limits { unscheduled: 1000, ..Limits::default() };
    let config = Config { limits, receive_credit: CREDIT, ..Config::default() };
    let mut script = Script::new(SERVER, config);
    let promised = |script: &Script| script.net.hosts[SERVER].endpoint.promised_bytes();
    // Each is shorter than those before it and takes their place; each claims that all of it comes
    // by itself.
    let mut granted = 0;
    for number in 0..100 {
        let layout = layout(400_000 - number * 1000);
        let mut data = script.data_header(script.my_id(number.into()), &layout, 0);
        // Announced, not trimmed by a switch.
        data.segment_size = 0;
        let packet = script.data(data, &[]);
        for sent in script.give(&packet) {
            let Sent::Control { body: ControlBody::Grant { offset, .. }, .. } = sent else {
                panic!("{sent:?}");
            };
            granted += u64::from(offset - 1000);
        }
        let unscheduled = 1000 * (u64::from(number) + 1);
        assert_eq!(promised(&script), granted + unscheduled);
        assert!(granted <= u64::from(CREDIT) + (16 << 10), "{granted} granted");
    }
    // None sends anything: all are given up, and so is what was promised.
    script.wait(Duration::from_secs(60));
    assert_eq!(promised(&script), 0);
}

#[test]
fn a_request_that_waits_for_our_grants_is_not_given_up() {
    let config = Config { receive_credit: 64 << 10, ..Config::default() };
    let mut script = Script::new(SERVER, config);
    let id = script.my_id(8);
    let long = layout(600_000);
    let preamble = script.preamble(&long, 599_960);
    let stream = script.seal(id, &long, preamble, &vec![0; 599_960]);
    // Shorter ones in front of it, which keep sending a byte now and then.
    for number in 0..8 {
        let data = script.data_header(script.my_id(number), &layout(300_000), 0);
        let packet = script.data(Data { incoming: 0, ..data }, &[]);
        script.give(&packet);
    }
    let wire = long.wire_range(0);
    let data = script.data_header(id, &long, 0);
    let packet = script.data(Data { incoming: wire.end, ..data }, &stream[..wire.end as usize]);
    script.give(&packet);
    for at in 0..2000 {
        for number in 0..8 {
            let data = script.data_header(script.my_id(number), &layout(300_000), at);
            let packet = script.data(Data { incoming: at + 1, ..data }, &[0]);
            script.give(&packet);
        }
        script.wait(Duration::from_millis(5));
    }
    // After ten seconds of that the request is still known: a poll is not answered with UNKNOWN.
    let answer = script.give_control(
        id | 1,
        ControlBody::Resend { offset: 0, length: 1000, priority: 0, pinned: false },
    );
    let unknown = |sent: &Sent| matches!(sent, Sent::Control { body: ControlBody::Unknown(_), .. });
    assert!(!answer.iter().any(unknown), "{answer:?}");
}
