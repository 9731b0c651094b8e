//! Bundles (spec 4.5): short messages that wait leave together, and what peers and attackers make of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod net;

use std::time::Duration;

use bytes::Bytes;
use net::script::{Script, Sent};
use net::{CLIENT, Faults, Net, SERVER, Seeded};
use smt_proto::error::{CallError, CloseReason};
use smt_proto::padding::Padding;
use smt_proto::wire::{CancelCode, ControlBody, DATA_LEN, Data, Kind, UnknownCode};
use smt_proto::{AeadLimits, Config, Limits, Stats, Time};

const SECOND: Duration = Duration::from_secs(1);

fn stats(net: &Net, host: usize) -> Stats {
    *net.hosts[host].endpoint.stats()
}

fn bodies(count: u64, len: usize) -> impl Iterator<Item = (u64, Vec<u8>)> {
    (0..count).map(move |user| {
        let mut body = vec![7; len.max(8)];
        body[..8].copy_from_slice(&user.to_be_bytes());
        (user, body)
    })
}

fn assert_echoed(net: &Net, host: usize, count: u64, len: usize) {
    for (user, body) in bodies(count, len) {
        assert_eq!(net.hosts[host].ended.get(&user), Some(&Ok(body)), "call {user}");
    }
    assert!(net.hosts[1 - host].executed.values().all(|times| *times == 1), "one ran twice");
}

#[test]
fn calls_that_wait_leave_together_and_so_do_their_responses() {
    let mut net = Net::new(1, Config::default());
    net.run_for(Duration::from_millis(1));
    let before = net.sent;
    net.calls_at_once(CLIENT, bodies(50, 64));
    net.run_until(SECOND, |net| net.ended(CLIENT) == 50);
    assert_echoed(&net, CLIENT, 50, 64);
    // 17 messages of 64 bytes fit a packet.
    let client = stats(&net, CLIENT);
    assert_eq!((client.bundles_sent, client.bundled_sent), (3, 50));
    let server = stats(&net, SERVER);
    assert_eq!((server.bundles_received, server.bundled_received), (3, 50));
    assert_eq!((server.bundles_sent, server.bundled_sent), (3, 50));
    assert_eq!((client.bundles_received, client.bundled_received), (3, 50));
    assert_eq!(net.sent - before, 6);
    assert_eq!((client.requests_sent, client.responses_received), (50, 50));
    net.assert_clean();
}

#[test]
fn one_that_waits_alone_leaves_alone() {
    let mut net = Net::new(1, Config::default());
    for (user, body) in bodies(20, 64) {
        net.call(CLIENT, body, user);
    }
    // Two of which no two fit a packet.
    net.calls_at_once(CLIENT, [(100, vec![1; 1000]), (101, vec![2; 1000])]);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 22);
    assert_eq!(stats(&net, CLIENT).bundles_sent, 0);
    net.assert_clean();
}

#[test]
fn what_does_not_fit_a_bundle_goes_its_own_way_beside_it() {
    let mut net = Net::new(3, Config::default());
    let sizes = [0, 1, 64, 900, 1300, 1362, 1363, 1400, 2000, 70_000, 0, 5];
    let calls = sizes.iter().zip(0..).map(|(size, user)| (user, vec![user as u8; *size]));
    net.calls_at_once(CLIENT, calls);
    net.run_until(SECOND, |net| net.ended(CLIENT) == sizes.len());
    for (user, size) in (0..).zip(sizes) {
        assert_eq!(net.hosts[CLIENT].ended[&user], Ok(vec![user as u8; size]));
    }
    assert!(stats(&net, CLIENT).bundles_sent >= 2);
    net.assert_clean();
}

#[test]
fn both_directions_share_bundles() {
    let mut net = Net::new(4, Config::default());
    net.hosts[SERVER].echo = false;
    net.calls_at_once(CLIENT, bodies(5, 64));
    net.run_until(SECOND, |net| net.hosts[SERVER].requests.len() == 5);
    while let Some((rpc, body)) = net.hosts[SERVER].requests.pop_front() {
        assert!(net.hosts[SERVER].endpoint.reply(rpc, Bytes::from(body)));
    }
    net.calls_at_once(SERVER, bodies(5, 64));
    assert_eq!((stats(&net, SERVER).bundles_sent, stats(&net, SERVER).bundled_sent), (1, 10));
    net.run_until(SECOND, |net| net.ended(CLIENT) == 5 && net.ended(SERVER) == 5);
    assert_echoed(&net, CLIENT, 5, 64);
    net.assert_clean();
}

#[test]
fn the_limit_of_a_bundle_and_padding_are_kept_to() {
    let bundled = |config: Config| {
        let mut net = Net::new(5, config);
        net.calls_at_once(CLIENT, bodies(12, 20));
        net.run_until(SECOND, |net| net.ended(CLIENT) == 12);
        assert_echoed(&net, CLIENT, 12, 20);
        (stats(&net, CLIENT).bundles_sent, stats(&net, CLIENT).bundled_sent)
    };
    let most = |max_bundled| Limits { max_bundled, ..Limits::default() };
    assert_eq!(bundled(Config { limits: most(5), ..Config::default() }), (3, 12));
    assert_eq!(bundled(Config { limits: most(1), ..Config::default() }), (0, 0));
    assert_eq!(bundled(Config { limits: most(0), ..Config::default() }), (0, 0));
    assert_eq!(bundled(Config { padding: Padding::PowerOfTwo, ..Config::default() }), (0, 0));
}

#[test]
fn paths_of_any_mtu_carry_bundles() {
    for room in [140, 200, 576, 1480, 8980, 16_500, 65_000] {
        let mut net = Net::new(6, Config::default());
        for host in 0..2 {
            let session = net.hosts[host].session;
            net.hosts[host].endpoint.set_room(session, room);
        }
        net.calls_at_once(CLIENT, bodies(600, 8));
        net.run_until(SECOND, |net| net.ended(CLIENT) == 600);
        assert_echoed(&net, CLIENT, 600, 8);
        let stats = stats(&net, CLIENT);
        let each = (room - 52 - 22).min(16_384).saturating_sub(28) / 24;
        let expected = match each.min(256) as u64 {
            0 | 1 => 0,
            each => 600_u64.div_ceil(each),
        };
        assert_eq!(stats.bundles_sent, expected, "{room}");
        net.assert_clean();
    }
}

#[test]
fn a_path_that_shrinks_under_what_waits_is_no_harm() {
    let mut net = Net::new(7, Config::default());
    let session = net.hosts[CLIENT].session;
    let deadline = net.now + SECOND;
    for (user, body) in bodies(3, 1000) {
        net.hosts[CLIENT].endpoint.start_call(session, body.into(), deadline, user).unwrap();
    }
    net.hosts[CLIENT].endpoint.set_room(session, 400);
    net.pump(CLIENT);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 3);
    assert_echoed(&net, CLIENT, 3, 1000);
    net.assert_clean();
}

#[test]
fn what_was_cancelled_while_it_waited_is_left_out() {
    for cancelled in [&[0][..], &[1, 2], &[0, 1, 2], &[0, 1, 2, 3]] {
        let mut net = Net::new(8, Config::default());
        let session = net.hosts[CLIENT].session;
        let deadline = net.now + SECOND;
        let endpoint = &mut net.hosts[CLIENT].endpoint;
        let rpcs: Vec<_> = bodies(4, 30)
            .map(|(user, body)| endpoint.start_call(session, body.into(), deadline, user).unwrap())
            .collect();
        for index in cancelled {
            endpoint.cancel(Time::ZERO, rpcs[*index]);
        }
        net.pump(CLIENT);
        net.run_until(SECOND, |net| net.ended(CLIENT) == 4);
        for (user, _) in bodies(4, 30) {
            let was = cancelled.contains(&(user as usize));
            let ended = &net.hosts[CLIENT].ended[&user];
            assert_eq!(ended == &Err(CallError::Cancelled), was, "{user} of {cancelled:?}");
        }
        assert_eq!(net.hosts[SERVER].executed.len(), 4 - cancelled.len());
        net.assert_clean();
    }
}

#[test]
fn all_arrives_once_whatever_the_network_does() {
    for seed in 0..12 {
        let limits = AeadLimits { records: 600, blocks: u64::MAX, failed_opens: u64::MAX };
        let config = Config { aead_limits: Some(limits), ..Config::default() };
        let mut net = Net::new(seed, config);
        net.faults = Faults { drop: 0.1, duplicate: 0.1, reorder: 0.3, corrupt: 0.02, spoil: 0.05 };
        let mut random = Seeded(seed);
        let mut user = 0;
        for round in 0..20 {
            let count = 1 + random.below(60);
            let calls: Vec<_> = (user..user + count)
                .map(|user| {
                    let len = 8 + random.below(200) as usize;
                    let mut body = random.bytes(len);
                    body.extend(user.to_be_bytes());
                    (user, body)
                })
                .collect();
            user += count;
            net.calls_at_once((round % 2) as usize, calls);
            net.run_until(30 * SECOND, |net| {
                (net.ended(CLIENT) + net.ended(SERVER)) as u64 == user
            });
        }
        for host in &net.hosts {
            assert!(host.ended.values().all(Result::is_ok), "seed {seed}");
            assert!(host.executed.values().all(|times| *times == 1), "seed {seed}");
        }
        let stats = stats(&net, CLIENT);
        assert!(stats.bundles_sent > 10 && stats.packets_retransmitted > 0, "{stats:?}");
        assert!(stats.key_updates > 0, "{stats:?}");
        net.faults = Faults::default();
        net.assert_clean();
    }
}

#[test]
fn what_is_lost_in_a_bundle_is_sent_again_for_itself() {
    let mut net = Net::new(9, Config::default());
    net.run_for(Duration::from_millis(1));
    net.calls_at_once(CLIENT, bodies(10, 64));
    let lost = net.take_in_flight();
    assert_eq!(lost.len(), 1);
    net.record();
    net.run_until(SECOND, |net| net.ended(CLIENT) == 10);
    assert_echoed(&net, CLIENT, 10, 64);
    assert_eq!(stats(&net, CLIENT).packets_retransmitted, 10);
    for packet in net.recorded_to(SERVER) {
        let data = Data::parse(&packet);
        assert!(data.is_err() || data.is_ok_and(|data| data.retransmit && !data.bundle));
    }
    // And when it comes at last, it brings nothing new.
    let before = stats(&net, SERVER);
    for packet in lost {
        net.inject(SERVER, packet.bytes);
    }
    assert_eq!(stats(&net, SERVER).requests_received, before.requests_received);
    net.assert_clean();
}

#[test]
fn a_trimmed_bundle_is_found_by_silence() {
    let mut net = Net::new(10, Config::default());
    net.run_for(Duration::from_millis(1));
    net.calls_at_once(CLIENT, bodies(10, 64));
    for packet in net.take_in_flight() {
        let sent = net.sent;
        net.inject(SERVER, packet.bytes[..DATA_LEN].to_vec());
        net.inject(SERVER, packet.bytes[..DATA_LEN + 500].to_vec());
        assert_eq!(net.sent, sent, "an answer");
    }
    assert_eq!(stats(&net, SERVER).trimmed, 1);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 10);
    assert_echoed(&net, CLIENT, 10, 64);
    net.assert_clean();
}

#[test]
fn an_unsealed_bit_or_byte_spoils_the_whole_bundle_and_nothing_else() {
    let mut net = Net::new(11, Config::default());
    net.run_for(Duration::from_millis(1));
    net.calls_at_once(CLIENT, bodies(4, 16));
    let [packet] = &net.take_in_flight()[..] else { panic!("not one packet") };
    let bundle = packet.bytes.clone();
    for bit in 0..bundle.len() * 8 {
        // Flags and checksum are the NIC's.
        if matches!(bit / 8, 13 | 16 | 17) {
            continue;
        }
        let mut changed = bundle.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        net.inject(SERVER, changed);
        assert_eq!(stats(&net, SERVER).bundles_received, 0, "bit {bit}");
    }
    assert!(net.hosts[SERVER].executed.is_empty() && net.hosts[SERVER].closed.is_none());
    net.inject(SERVER, bundle);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 4);
    net.assert_clean();
}

#[test]
fn a_bundle_that_is_replayed_does_nothing() {
    let mut net = Net::new(12, Config::default());
    net.record();
    net.calls_at_once(CLIENT, bodies(30, 64));
    net.run_until(SECOND, |net| net.ended(CLIENT) == 30);
    net.run_for(Duration::from_millis(100));
    let recorded = std::mem::take(&mut net.recorded);
    net.recording = false;
    let told = |net: &Net, host: usize| {
        let stats = stats(net, host);
        (stats.requests_received, stats.responses_received, stats.busy_sent)
    };
    let before = [told(&net, CLIENT), told(&net, SERVER)];
    let sent = net.sent;
    for _ in 0..3 {
        for (to, packet) in &recorded {
            net.inject(*to, packet.clone());
        }
    }
    assert_eq!(before, [told(&net, CLIENT), told(&net, SERVER)]);
    assert_eq!(net.sent, sent, "an answer to a replay");
    assert_echoed(&net, CLIENT, 30, 64);
    net.assert_clean();
}

#[test]
fn replayed_bundles_do_not_prove_that_the_peer_lives() {
    let mut net = Net::new(13, Config::default());
    net.record();
    net.calls_at_once(CLIENT, bodies(10, 64));
    net.run_until(SECOND, |net| net.ended(CLIENT) == 10);
    net.run_for(Duration::from_millis(100));
    let bundles = net.recorded_to(SERVER);
    let bundles: Vec<_> =
        bundles.into_iter().filter(|p| Data::parse(p).is_ok_and(|data| data.bundle)).collect();
    assert_eq!(bundles.len(), 1);
    // The peer is gone, and somebody plays its packets again.
    let mut quoted = bundles[0].clone();
    quoted.swap(0, 2);
    quoted.swap(1, 3);
    let remote = net::address(CLIENT);
    net.hosts[SERVER].endpoint.handle_unreachable(net.now, remote, true, &quoted);
    net.faults.drop = 1.0;
    for _ in 0..1000 {
        net.inject(SERVER, bundles[0].clone());
        net.run_for(Duration::from_millis(1));
    }
    assert_eq!(net.hosts[SERVER].closed, Some(CloseReason::Dead));
}

fn server() -> Script {
    Script::new(SERVER, Config::default())
}

fn requests(script: &Script) -> Vec<Vec<u8>> {
    script.net.hosts[SERVER].requests.iter().map(|(_, body)| body.to_vec()).collect()
}

#[test]
fn an_id_that_is_in_a_bundle_twice_runs_once() {
    let mut script = server();
    let (one, two) = (script.my_id(0), script.my_id(1));
    let packet = script.bundle(&[(one, b"first"), (one, b"again"), (two, b"other")]);
    assert!(script.give(&packet).is_empty());
    assert_eq!(requests(&script), [b"first".to_vec(), b"other".to_vec()]);
    let stats = stats(&script.net, SERVER);
    assert_eq!((stats.duplicates, stats.bundled_received, stats.violations), (1, 3, 0));
}

#[test]
fn entries_of_nobody_are_dropped_alone() {
    let mut script = server();
    // A response nobody waits for, a request of the receiver's own, an ID of no RPC, one that was had.
    let [mine, next] = [script.my_id(0), script.my_id(1)];
    let strange = [script.its_id(0) | 1, script.its_id(0), script.my_id(0) | 1, 0, u64::MAX];
    let mut messages = vec![(mine, &b"taken"[..])];
    messages.extend(strange.map(|id| (id, &b"strange"[..])));
    messages.push((next, b"taken, too"));
    let packet = script.bundle(&messages);
    assert!(script.give(&packet).is_empty());
    assert_eq!(requests(&script), [b"taken".to_vec(), b"taken, too".to_vec()]);
    assert_eq!(stats(&script.net, SERVER).dropped_unexpected, 5);
    // A bundle that begins with such a one is not even opened.
    let opened = stats(&script.net, SERVER).records_opened;
    for id in strange {
        if id >> 48 == 0 && id != strange[0] {
            let packet = script.bundle(&[(id, b"strange"), (script.my_id(2), b"not taken")]);
            assert!(script.give(&packet).is_empty());
        }
    }
    assert_eq!(stats(&script.net, SERVER).records_opened, opened);
    assert_eq!(script.net.hosts[SERVER].closed, None);
}

#[test]
fn entries_beyond_a_limit_are_what_packets_beyond_it_are() {
    // Room for some: the others are told to wait, each for itself.
    let limits = Limits { max_incoming_bytes: 500, ..Limits::default() };
    let mut script = Script::new(SERVER, Config { limits, ..Config::default() });
    let ids: Vec<u64> = (0..4).map(|number| script.my_id(number)).collect();
    let messages: Vec<_> = ids.iter().map(|id| (*id, &[1; 20][..])).collect();
    // 28 and 4 times 36 bytes, which each of them may keep.
    let packet = script.bundle(&messages);
    let busy = |id| Sent::Control { id, body: ControlBody::Busy };
    assert_eq!(script.give(&packet), [busy(ids[2]), busy(ids[3])]);
    assert_eq!(requests(&script).len(), 2);
    assert_eq!(script.net.hosts[SERVER].endpoint.incoming_bytes(), 2 * (28 + 4 * 36));
    assert_eq!(stats(&script.net, SERVER).limit_incoming_bytes, 2);
    // Those that were refused may come again; those that were not are had.
    while let Some((rpc, _)) = script.net.hosts[SERVER].requests.pop_front() {
        assert!(script.net.hosts[SERVER].endpoint.reply(rpc, Bytes::new()));
    }
    script.net.pump(SERVER);
    script.taken();
    assert!(script.give(&packet).is_empty());
    assert_eq!(requests(&script).len(), 2);

    // Longer than what was declared, and beyond the window of numbers.
    let limits = Limits { max_message: 30, max_rpcs: 8, ..Limits::default() };
    for (number, len, sound) in [(7, 30, true), (1, 31, false), (9, 30, false), (1 << 40, 1, false)]
    {
        let mut script = Script::new(SERVER, Config { limits, ..Config::default() });
        let body = vec![1; len];
        let packet = script.bundle(&[(script.my_id(0), b"first"), (script.my_id(number), &body)]);
        script.give(&packet);
        let closed = script.net.hosts[SERVER].closed;
        assert_eq!(closed, (!sound).then_some(CloseReason::Violation), "{number}, {len}");
        assert_eq!(stats(&script.net, SERVER).violations, u64::from(!sound));
    }
}

#[test]
fn plaintexts_that_contradict_close_the_session_before_any_of_it_is_delivered() {
    type Change = fn(&mut Vec<u8>);
    let changes: [Change; 13] = [
        |p| p[0] = 2,
        |p| p[1] = 1,
        |p| p[3] += 1,
        |p| p[3] -= 1,
        |p| p[7] = 4,
        |p| p[11] = 4,
        |p| p[19] ^= 2,
        |p| p[17] += 1,
        |p| p[35] ^= 4,
        |p| p[28 + 8] = 3,
        |p| p[28 + 46 + 9] = 1,
        |p| p[28 + 46 + 11] += 1,
        |p| p.push(0),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut script = server();
        let ids = [script.my_id(0), script.my_id(1)];
        let body = [5; 30];
        let messages = ids.map(|id| (script.entry(id, &body), &body[..]));
        let mut plain = script.bundle_text(&messages);
        change(&mut plain);
        let packet = script.bundle_of(ids[0], &plain);
        script.give(&packet);
        let host = &script.net.hosts[SERVER];
        assert_eq!(host.closed, Some(CloseReason::Violation), "change {index}");
        assert!(host.requests.is_empty() && host.executed.is_empty(), "change {index}");
        assert_eq!(host.endpoint.incoming_bytes(), 0, "change {index}");
    }
    // Kinds that a peer's requests do not have; those before them are as those of packets before.
    for kind in [Kind::Post, Kind::Error] {
        let mut script = server();
        let id = script.my_id(0);
        let entry = smt_proto::wire::BundleEntry { kind, ..script.entry(id, b"0123456789") };
        let plain = script.bundle_text(&[(entry, b"0123456789")]);
        let packet = script.bundle_of(id, &plain);
        script.give(&packet);
        assert_eq!(script.net.hosts[SERVER].closed, Some(CloseReason::Violation), "{kind:?}");
        assert!(script.net.hosts[SERVER].requests.is_empty());
    }
}

#[test]
fn bundles_and_records_do_not_pass_for_each_other() {
    let mut script = server();
    let (one, two) = (script.my_id(0), script.my_id(1));
    let messages = [(one, &b"twenty bytes of text"[..]), (two, b"twenty bytes of text")];
    let bundle = script.bundle(&messages);
    // The record of a message under the header of a bundle, and the other way round.
    let mut data = Data::parse(&bundle).unwrap();
    (data.bundle, data.tag) = (false, 0);
    let as_message = script.data(data, &bundle[DATA_LEN..]);
    assert!(script.give(&as_message).is_empty());
    let message = &script.message(one, &[9; 100])[0];
    let payload = message[DATA_LEN..].to_vec();
    let len = payload.len() as u32;
    let as_bundle = Data {
        bundle: true,
        record_size: (len - 22) as u16,
        segment_size: len as u16,
        message_len: len,
        incoming: len,
        ..data
    };
    let as_bundle = script.data(as_bundle, &payload);
    assert!(script.give(&as_bundle).is_empty());
    // A bundle under the header of another, with the second half of another.
    let other = script.bundle(&[(two, b"twenty bytes of text"), (one, b"twenty bytes of text")]);
    let spliced = [&bundle[..DATA_LEN], &other[DATA_LEN..]].concat();
    assert!(script.give(&spliced).is_empty());
    let half = DATA_LEN + (bundle.len() - DATA_LEN) / 2;
    let spliced = [&bundle[..half], &other[half..]].concat();
    assert!(script.give(&spliced).is_empty());
    assert_eq!(stats(&script.net, SERVER).records_not_authentic, 4);
    assert!(requests(&script).is_empty() && script.net.hosts[SERVER].closed.is_none());
    assert!(script.give(&bundle).is_empty());
    assert_eq!(requests(&script).len(), 2);
}

#[test]
fn a_server_answers_polls_about_what_a_bundle_brought_and_what_it_lost() {
    let mut script = server();
    let (one, two) = (script.my_id(0), script.my_id(1));
    let packet = script.bundle(&[(one, b"here")]);
    script.give(&packet);
    let poll = |script: &mut Script, id| {
        let length = 1000;
        let body = ControlBody::Resend { offset: 0, length, priority: 7, pinned: false };
        script.give_control(id | 1, body)
    };
    assert_eq!(poll(&mut script, one), [Sent::Control { id: one | 1, body: ControlBody::Busy }]);
    let body = ControlBody::Unknown(UnknownCode::NeverAccepted);
    assert_eq!(poll(&mut script, two), [Sent::Control { id: two | 1, body }]);
}

#[test]
fn a_client_takes_responses_and_errors_from_bundles_and_asks_again_for_none() {
    let mut script = Script::new(CLIENT, Config::default());
    script.net.calls_at_once(CLIENT, (0..4).map(|user| (user, vec![1; 10])));
    script.net.pump(CLIENT);
    let sent = script.taken();
    let [Sent::Data { id, offset: 0, retransmit: false, pinned: false, .. }] = sent[..] else {
        panic!("{sent:?}");
    };
    assert_eq!(id, script.its_id(0));
    script.ack_floor = script.my_id(0);
    let ids: Vec<u64> = (0..4).map(|number| script.its_id(number) | 1).collect();
    let refused = [&300_u32.to_be_bytes()[..], b"no"].concat();
    let mut entries: Vec<_> =
        ids.iter().map(|id| (script.entry(*id, b"response"), &b"response"[..])).collect();
    entries[1] = (script.entry(ids[1], &refused), &refused);
    entries[1].0.kind = Kind::Error;
    let plain = script.bundle_text(&entries[..3]);
    let packet = script.bundle_of(ids[0], &plain);
    assert!(script.give(&packet).is_empty());
    let ended = &script.net.hosts[CLIENT].ended;
    assert_eq!(ended[&0], Ok(b"response".to_vec()));
    assert_eq!(ended[&1], Err(CallError::Refused { code: 300, text: "no".to_owned() }));
    assert_eq!(ended.len(), 3);
    // The fourth is polled for; a request of it again is an ordinary packet.
    let polls = script.wait(Duration::from_millis(1));
    assert!(
        polls.iter().all(|(_, sent)| matches!(sent, Sent::Control { id, .. } if *id == ids[3]))
    );
    let body = ControlBody::Unknown(UnknownCode::NeverAccepted);
    let again = script.give_control(ids[3], body);
    let [Sent::Data { id, offset: 0, len, retransmit: true, .. }] = again[..] else {
        panic!("{again:?}");
    };
    assert_eq!((id, len), (ids[3] & !1, 22 + 40 + 10));
    // A cancelled call takes no response any more.
    script.net.calls_at_once(CLIENT, [(9, vec![1; 10])]);
    let rpc = smt_proto::RpcId { session: script.net.hosts[CLIENT].session, ours: true, number: 4 };
    script.net.hosts[CLIENT].endpoint.cancel(script.net.now, rpc);
    script.net.pump(CLIENT);
    let cancel = ControlBody::Cancel(CancelCode::Request);
    assert!(script.taken().contains(&Sent::Control { id: script.its_id(4), body: cancel }));
    let packet = script.bundle(&[(script.its_id(4) | 1, b"late")]);
    script.give(&packet);
    assert_eq!(script.net.hosts[CLIENT].ended[&9], Err(CallError::Cancelled));
}
