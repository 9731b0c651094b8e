//! Packet scripts: exact packets in, exact packets out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod net;

use std::time::Duration;

use bytes::Bytes;
use net::script::{RECORD, Script, Sent};
use net::{CLIENT, SERVER};
use smt_proto::Config;
use smt_proto::error::{CallError, CloseReason};
use smt_proto::record::Layout;
use smt_proto::wire::{AckRanges, CancelCode, ControlBody, UnknownCode};

const STRIDE: u32 = RECORD as u32 + 22;
const MILLI: Duration = Duration::from_millis(1);

fn control(id: u64, body: ControlBody) -> Sent {
    Sent::Control { id, body }
}

/// About a message of some kilobytes: the priority it has by the first cutoffs.
fn resend(offset: u32, length: u32) -> ControlBody {
    ControlBody::Resend { offset, length, priority: 5, pinned: false }
}

/// A server under test, and the packets of a request of `records` records.
fn server_and_request(records: usize) -> (Script, u64, Vec<Vec<u8>>) {
    let script = Script::new(SERVER, Config::default());
    let id = script.my_id(0);
    let packets = script.message(id, &vec![1; records * usize::from(RECORD) - 40]);
    (script, id, packets)
}

/// A client under test with one call, its request ID and what it sent.
fn client_with_call(size: usize, deadline: Duration) -> (Script, u64, Vec<Sent>) {
    let mut script = Script::new(CLIENT, Config::default());
    script.net.call_with_deadline(CLIENT, vec![1; size], 1, deadline);
    let sent = script.taken();
    let id = script.its_id(0);
    (script, id, sent)
}

fn silence(script: &mut Script) -> Vec<Sent> {
    // Not sampled yet: srtt 1 ms, four times 0.5 ms, the peer's wake-up delay of 0.1 ms.
    assert!(script.wait(Duration::from_micros(3099)).is_empty());
    script.wait(Duration::from_micros(1)).into_iter().map(|(_, sent)| sent).collect()
}

#[test]
fn a_hole_that_three_packets_have_passed_is_asked_for_at_once() {
    let (mut script, id, packets) = server_and_request(6);
    for index in [0, 2, 3] {
        assert!(script.give(&packets[index]).is_empty());
    }
    assert_eq!(script.give(&packets[4]), [control(id, resend(STRIDE, STRIDE))]);
    assert!(script.give(&packets[5]).is_empty());
    assert!(script.give(&packets[1]).is_empty());
    assert_eq!(script.net.hosts[SERVER].requests.len(), 1);
}

#[test]
fn a_tail_that_is_missing_is_asked_for_after_silence() {
    let (mut script, id, packets) = server_and_request(6);
    for packet in &packets[..3] {
        assert!(script.give(packet).is_empty());
    }
    let length = 6 * STRIDE - 3 * STRIDE;
    assert_eq!(silence(&mut script), [control(id, resend(3 * STRIDE, length))]);
    // And again, ever later.
    let again: Vec<u64> = script.wait(100 * MILLI).iter().map(|(at, _)| *at).collect();
    assert_eq!(again, [6200, 18_600, 43_400, 93_000]);
}

#[test]
fn a_round_trip_is_measured_when_bytes_come_again() {
    let (mut script, id, packets) = server_and_request(6);
    for packet in &packets[..3] {
        script.give(packet);
    }
    assert_eq!(silence(&mut script).len(), 1);
    script.wait(Duration::from_micros(50));
    let mut again = packets[3].clone();
    let layout = Layout::from_plain(RECORD, 6 * u64::from(RECORD), 48).unwrap();
    let mut data = script.data_header(id, &layout, 3 * STRIDE);
    data.retransmit = true;
    again = script.data(data, &again.split_off(52));
    assert!(script.give(&again).is_empty());
    // 50 us, and 4 times 25: the least silence applies, plus the wake-up delay never below 200 us.
    let next = script.wait(100 * MILLI).first().map(|(at, _)| *at);
    assert_eq!(next, Some(250));
}

#[test]
fn grants_follow_what_arrives() {
    let config = Config { receive_credit: 40_000, ..Config::default() };
    let mut script = Script::new(SERVER, config);
    let id = script.my_id(0);
    let packets = script.message(id, &vec![1; 200 * usize::from(RECORD) - 40]);
    let layout = Layout::from_plain(RECORD, 200 * u64::from(RECORD), 48).unwrap();
    let mut grants = Vec::new();
    for (index, packet) in packets.iter().enumerate() {
        let mut data = script.data_header(id, &layout, index as u32 * STRIDE);
        data.incoming = 20 * STRIDE;
        let packet = script.data(data, &packet[52..]);
        for sent in script.give(&packet) {
            let Sent::Control { id: of, body: ControlBody::Grant { offset, .. } } = sent else {
                panic!("{sent:?}");
            };
            assert_eq!(of, id);
            let received = (index as u32 + 1) * STRIDE;
            assert!(offset <= received + 40_000 && offset > received, "{offset} at {received}");
            grants.push(offset);
        }
    }
    assert_eq!(grants.first(), Some(&(STRIDE + 40_000)));
    assert_eq!(grants.last(), Some(&(200 * STRIDE)));
    // A quarter of the window apart, not one for each packet.
    assert!((16..=22).contains(&grants.len()), "{grants:?}");
}

#[test]
fn a_sender_stops_at_the_grant_and_goes_on_with_the_next() {
    let (mut script, id, sent) = client_with_call(200_000, Duration::from_secs(9));
    let end = |sent: &[Sent]| match sent.last() {
        Some(Sent::Data { offset, len, .. }) => *offset as usize + len,
        other => panic!("{other:?}"),
    };
    // The unscheduled limit, to the end of its packet.
    let unscheduled = end(&sent);
    assert!((69_632..69_632 + 1428).contains(&unscheduled));
    assert!(script.give_control(id, ControlBody::Grant { offset: 1000, priority: 0 }).is_empty());
    let sent = script.give_control(id, ControlBody::Grant { offset: 72_000, priority: 0 });
    assert!((72_000..73_428).contains(&end(&sent)));
    let sent = script.give_control(id, ControlBody::Grant { offset: u32::MAX, priority: 0 });
    assert!(end(&sent) > 200_000);
    assert!(script.give_control(id, ControlBody::Grant { offset: 90_000, priority: 0 }).is_empty());
}

#[test]
fn a_silent_response_is_polled_and_busy_backs_the_polling_off() {
    let (mut script, id, sent) = client_with_call(100, Duration::from_secs(9));
    assert_eq!(sent.len(), 1);
    let body = ControlBody::Resend { offset: 0, length: 68 << 10, priority: 7, pinned: false };
    let poll = control(id | 1, body);
    assert_eq!(silence(&mut script), std::slice::from_ref(&poll));
    for wait in [1u64, 2, 4, 8, 16, 32, 64, 100, 100] {
        assert!(script.give_control(id | 1, ControlBody::Busy).is_empty());
        assert!(script.give_control(id | 1, ControlBody::Busy).is_empty());
        assert!(script.wait(MILLI * wait as u32 - Duration::from_micros(1)).is_empty());
        assert_eq!(script.wait(Duration::from_micros(1)), [(1, poll.clone())]);
    }
}

#[test]
fn a_request_that_was_never_accepted_is_sent_again_with_the_same_bytes() {
    let mut script = Script::new(CLIENT, Config::default());
    script.net.record();
    script.net.call(CLIENT, vec![1; 3000], 1);
    script.taken();
    let first = script.net.recorded_to(SERVER);
    let id = script.its_id(0);
    script.net.record();
    let sent = script.give_control(id | 1, ControlBody::Unknown(UnknownCode::NeverAccepted));
    let again = script.net.recorded_to(SERVER);
    assert_eq!((sent.len(), first.len(), again.len()), (3, 3, 3));
    for (first, again) in first.iter().zip(&again) {
        assert_eq!(first[52..], again[52..]);
        assert_eq!(again[48] & 1, 1, "marked RETRANSMIT");
    }
}

#[test]
fn a_forgotten_request_ends_as_outcome_unknown_even_in_the_middle_of_its_response() {
    let (mut script, id, _) = client_with_call(100, Duration::from_secs(9));
    let response = script.message(id | 1, &[2; 5000]);
    script.give(&response[0]);
    script.give_control(id | 1, ControlBody::Unknown(UnknownCode::NeverAccepted));
    assert!(script.net.hosts[CLIENT].ended.is_empty(), "late, for the response is here");
    script.give_control(id | 1, ControlBody::Unknown(UnknownCode::Forgotten));
    assert_eq!(script.net.hosts[CLIENT].ended[&1], Err(CallError::OutcomeUnknown));
    assert_eq!(script.net.hosts[CLIENT].endpoint.incoming_bytes(), 0);
}

#[test]
fn a_response_is_kept_and_asked_after_until_it_is_acknowledged() {
    let (mut script, id, packets) = server_and_request(1);
    script.give(&packets[0]);
    let (rpc, _) = script.net.hosts[SERVER].requests.pop_front().unwrap();
    assert!(script.net.hosts[SERVER].endpoint.reply(rpc, Bytes::from_static(b"yes")));
    script.net.pump(SERVER);
    let len = 3 + 40 + 22;
    let data = Sent::Data { id: id | 1, offset: 0, len, retransmit: false, pinned: false };
    assert_eq!(script.taken(), [data]);
    let asks = script.wait(200 * MILLI);
    assert!(asks.iter().all(|(_, sent)| *sent == control(id, ControlBody::NeedAck)));
    let times: Vec<u64> = asks.iter().map(|(at, _)| at / 1000).collect();
    assert_eq!(times, [10, 30, 70, 150]);
    // Lost, it comes again with the same bytes.
    let again = script.give_control(id | 1, resend(0, 1000));
    let data = Sent::Data { id: id | 1, offset: 0, len, retransmit: true, pinned: false };
    assert_eq!(again, [data]);
    let mut acks = AckRanges::new(id);
    assert!(acks.push(id, id));
    assert!(script.give_control(id, ControlBody::Ack(acks)).is_empty());
    assert!(script.wait(Duration::from_secs(2)).is_empty());
    // Acknowledged, it is forgotten.
    let forgotten = control(id | 1, ControlBody::Unknown(UnknownCode::Forgotten));
    assert_eq!(script.give_control(id | 1, resend(0, 1000)), [forgotten]);
}

#[test]
fn need_ack_is_answered_with_the_range_in_question_however_many_there_are() {
    let mut script = Script::new(CLIENT, Config::default());
    for user in 0..100 {
        script.net.call(CLIENT, vec![1], user);
    }
    script.taken();
    script.ack_floor = script.my_id(0);
    // Every second call ends: 50 ranges, more than an ACK takes.
    for number in (1..100).step_by(2) {
        let response = script.message(script.its_id(number) | 1, b"r");
        script.give(&response[0]);
    }
    let id = script.its_id(99);
    let sent = script.give_control(id, ControlBody::NeedAck);
    let [Sent::Control { body: ControlBody::Ack(ranges), .. }] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert_eq!(ranges.floor, script.its_id(0));
    assert!(ranges.iter().any(|range| range == (id, id)), "{ranges:?}");
    // About one that is not over there is nothing to say.
    assert!(script.give_control(script.its_id(98), ControlBody::NeedAck).is_empty());
    let sent = script.give_control(0, ControlBody::NeedAck);
    let [Sent::Control { id: 0, body: ControlBody::Ack(ranges) }] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert_eq!(ranges.iter().len(), 32);
}

#[test]
fn a_cancel_that_overtakes_its_request_keeps_it_from_running() {
    let (mut script, id, packets) = server_and_request(1);
    let confirmed = control(id, ControlBody::Cancel(CancelCode::Confirmed));
    for _ in 0..2 {
        let sent = script.give_control(id, ControlBody::Cancel(CancelCode::Request));
        assert_eq!(sent, std::slice::from_ref(&confirmed));
    }
    assert!(script.give(&packets[0]).is_empty());
    assert!(script.net.hosts[SERVER].requests.is_empty());
    assert_eq!(script.net.hosts[SERVER].endpoint.stats().dropped_replayed_request, 1);
}

#[test]
fn a_deadline_cancels_until_confirmed() {
    let (mut script, id, _) = client_with_call(100, 2 * MILLI);
    let cancel = control(id, ControlBody::Cancel(CancelCode::Request));
    let sent = script.wait(10 * MILLI);
    assert_eq!(sent, [(2000, cancel.clone()), (5100, cancel)]);
    assert_eq!(script.net.hosts[CLIENT].ended[&1], Err(CallError::DeadlineExceeded));
    script.give_control(id, ControlBody::Cancel(CancelCode::Confirmed));
    assert!(script.wait(Duration::from_secs(2)).is_empty());
    let host = &script.net.hosts[CLIENT];
    assert_eq!(host.endpoint.outstanding(host.session), 0);
}

#[test]
fn polls_are_answered_by_what_is_known() {
    let (mut script, id, packets) = server_and_request(3);
    let poll = |script: &mut Script| script.give_control(id | 1, resend(0, 64 << 10));
    let never = control(id | 1, ControlBody::Unknown(UnknownCode::NeverAccepted));
    let busy = control(id | 1, ControlBody::Busy);
    assert_eq!(poll(&mut script), [never]);
    script.give(&packets[0]);
    let missing = control(id, resend(STRIDE, 2 * STRIDE));
    assert_eq!(poll(&mut script), [missing, busy.clone()]);
    script.give(&packets[1]);
    script.give(&packets[2]);
    assert_eq!(poll(&mut script), [busy]);
}

#[test]
fn an_idle_session_is_probed_and_a_silent_one_dies() {
    let mut script = Script::new(SERVER, Config::default());
    let probe = control(0, ControlBody::NeedAck);
    let sent = script.wait(Duration::from_secs(60));
    assert_eq!(sent, [(60_000_000, probe.clone())]);
    // An answer gives another minute.
    script.give_control(0, ControlBody::Ack(AckRanges::new(script.my_id(0))));
    let sent = script.wait(Duration::from_secs(61));
    let times: Vec<u64> = sent.iter().map(|(at, _)| at / 1000 - 60_000).collect();
    assert_eq!(times, [0, 20, 60, 140, 300]);
    assert!(sent.iter().all(|(_, sent)| *sent == probe));
    assert_eq!(script.net.hosts[SERVER].closed, Some(CloseReason::Dead));
}

#[test]
fn closing_is_told_until_confirmed_and_confirmed_when_told() {
    let mut script = Script::new(SERVER, Config::default());
    let session = script.net.hosts[SERVER].session;
    script.net.hosts[SERVER].endpoint.close(script.net.now, session);
    script.net.pump(SERVER);
    let cancel = control(0, ControlBody::Cancel(CancelCode::Request));
    assert_eq!(script.taken(), std::slice::from_ref(&cancel));
    assert_eq!(silence(&mut script), [cancel]);
    assert!(script.give_control(0, ControlBody::Cancel(CancelCode::Confirmed)).is_empty());
    assert_eq!(script.net.hosts[SERVER].endpoint.session_count(), 0);
    let mut script = Script::new(SERVER, Config::default());
    script.give_control(0, ControlBody::Cancel(CancelCode::Request));
    assert_eq!(script.net.hosts[SERVER].closed, Some(CloseReason::Peer));
}

#[test]
fn a_sender_that_says_busy_keeps_its_request_but_not_others_waiting() {
    let mut script = Script::new(SERVER, Config::default());
    let layout = Layout::from_plain(RECORD, 300_000, 48).unwrap();
    let first_record = |script: &mut Script, number| {
        let id = script.my_id(number);
        let preamble = script.preamble(&layout, 300_000 - 40);
        let stream = script.seal(id, &layout, preamble, &[]);
        let mut data = script.data_header(id, &layout, 0);
        data.incoming = STRIDE;
        let packet = script.data(data, &stream[..STRIDE as usize]);
        script.give(&packet);
    };
    // Eight have the grants, a ninth waits for its turn.
    for number in 0..9 {
        first_record(&mut script, number);
    }
    let grant_of = |number: u64, sent: &Sent, script: &Script| {
        let Sent::Control { id, body: ControlBody::Grant { .. } } = sent else { return false };
        *id == script.my_id(number)
    };
    let mut granted = false;
    for _ in 0..60 {
        for number in 0..8 {
            script.give_control(script.my_id(number), ControlBody::Busy);
        }
        for (_, sent) in script.wait(10 * MILLI) {
            granted |= grant_of(8, &sent, &script);
        }
    }
    assert!(granted, "others wait for senders that say they are busy");
    for number in 0..9 {
        let id = script.my_id(number);
        let known = script.give_control(id | 1, resend(0, 1000));
        assert!(known.contains(&control(id | 1, ControlBody::Busy)), "{number}: {known:?}");
    }
}
