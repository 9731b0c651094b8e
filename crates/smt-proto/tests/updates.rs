//! Key updates, played packet by packet and under traffic (spec 5.2).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod net;

use std::time::Duration;

use bytes::Bytes;
use net::script::{RECORD, Script, Sent};
use net::{CLIENT, Faults, Net, SERVER};
use smt_proto::crypto::{SuiteId, aws_lc};
use smt_proto::error::{CallError, CloseReason, UpdateError};
use smt_proto::keys::Secret;
use smt_proto::record::Layout;
use smt_proto::wire::{CancelCode, Control, ControlBody, DATA_LEN};
use smt_proto::{AeadLimits, Config, Direction, Stats, Updates};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

fn limits(records: u64, failed_opens: u64) -> Config {
    let limits = AeadLimits { records, blocks: u64::MAX, failed_opens };
    Config { aead_limits: Some(limits), ..Config::default() }
}

fn stats(net: &Net, host: usize) -> Stats {
    *net.hosts[host].endpoint.stats()
}

fn want_update(net: &mut Net, host: usize) {
    let session = net.hosts[host].session;
    assert!(net.hosts[host].endpoint.update_keys(session));
}

/// A client under test, whose calls the played server answers.
struct Client(Script);

impl Client {
    fn new(config: Config) -> Client {
        Client(Script::new(CLIENT, config))
    }

    fn want_update(&mut self) {
        want_update(&mut self.0.net, CLIENT);
    }

    /// Starts call `number` of a byte; the epoch byte it went under.
    fn call(&mut self, number: u64) -> u8 {
        self.0.net.record();
        self.0.net.call(CLIENT, b"x".to_vec(), number);
        let sent = self.0.net.recorded_to(SERVER);
        self.0.taken();
        let id = self.0.its_id(number).to_be_bytes();
        let data = sent.iter().find(|packet| packet[11] == 0x10 && packet[20..28] == id);
        data.expect("nothing sent")[8]
    }

    /// Answers call `number`, saying that epochs to `opened` were opened.
    fn answer(&mut self, number: u64, opened: u32) {
        self.0.opened = opened;
        let response = self.0.message(self.0.its_id(number) | 1, b"y");
        self.0.give(&response[0]);
        assert!(self.0.net.hosts[CLIENT].ended[&number].is_ok());
    }

    fn update(&mut self, epoch: u32) -> Vec<Sent> {
        self.0.give_control(0, ControlBody::Update { epoch })
    }

    fn stats(&self) -> Stats {
        stats(&self.0.net, CLIENT)
    }
}

#[test]
fn an_update_comes_with_the_next_message_once_the_peer_has_opened_the_epoch() {
    let mut client = Client::new(Config::default());
    client.want_update();
    assert_eq!(client.call(0), 3, "nothing of 3 was opened yet");
    client.answer(0, 3);
    assert_eq!(client.stats().key_updates, 0, "not before a message needs it");
    assert_eq!(client.call(1), 4);
    client.want_update();
    assert_eq!(client.call(2), 4);
    client.answer(1, 3);
    assert_eq!(client.call(3), 4, "4 was not opened yet");
    client.answer(2, 4);
    assert_eq!(client.call(4), 5);
    assert_eq!(client.call(5), 5, "one wish, one update");
    assert_eq!(client.stats().key_updates, 2);
}

#[test]
fn a_peer_may_ask_for_the_current_epoch_to_be_left() {
    let mut client = Client::new(Config::default());
    assert_eq!(client.call(0), 3);
    assert!(client.update(3).is_empty());
    assert_eq!(client.call(1), 4, "who asks for it takes the next");
    // Left meanwhile.
    assert!(client.update(3).is_empty());
    assert_eq!(client.call(2), 4);
    assert!(client.update(4).is_empty());
    assert_eq!(client.call(3), 5);
    assert_eq!(client.stats().violations, 0);
}

#[test]
fn to_ask_for_an_epoch_that_never_was_is_a_violation() {
    let mut client = Client::new(Config::default());
    let closes = Sent::Control { id: 0, body: ControlBody::Cancel(CancelCode::Request) };
    assert_eq!(client.update(4), [closes]);
    assert_eq!(client.0.net.hosts[CLIENT].closed, Some(CloseReason::Violation));
}

#[test]
fn forged_and_replayed_updates_do_nothing() {
    let mut client = Client::new(Config::default());
    client.call(0);
    client.answer(0, 3);
    let packet = client.0.control(0, ControlBody::Update { epoch: 3 });
    assert_eq!(packet.len(), 48);
    for at in (28..48).chain([4, 8, 20, 27]) {
        let mut forged = packet.clone();
        forged[at] ^= 1;
        assert!(client.0.give(&forged).is_empty());
    }
    assert_eq!(client.call(1), 3);
    let dropped = client.stats();
    assert_eq!(dropped.dropped_bad_tag + dropped.dropped_malformed, 24);
    client.0.give(&packet);
    assert_eq!(client.call(2), 4);
    client.answer(2, 4);
    client.0.give(&packet);
    assert_eq!(client.stats().dropped_replayed_control, 1);
    assert_eq!(client.call(3), 4);
}

#[test]
fn what_claims_an_epoch_opened_that_never_was_is_a_violation() {
    let mut client = Client::new(Config::default());
    client.call(0);
    client.0.opened = 4;
    let response = client.0.message(client.0.its_id(0) | 1, b"y");
    client.0.give(&response[0]);
    assert_eq!(client.0.net.hosts[CLIENT].closed, Some(CloseReason::Violation));
}

/// Gives a server under test request `number`, under the epoch that the script is in; whether it came
/// through.
fn request(script: &mut Script, number: u64) -> bool {
    let before = script.net.hosts[SERVER].requests.len();
    let packets = script.message(script.my_id(number), b"x");
    script.give(&packets[0]);
    script.net.hosts[SERVER].requests.len() > before
}

#[test]
fn a_peer_that_skips_repeats_or_reorders_epochs_gets_no_further_than_it_may() {
    let mut script = Script::new(SERVER, Config::default());
    assert!(request(&mut script, 0));
    script.enter_epoch(5);
    assert!(!request(&mut script, 1), "skipped 4");
    script.enter_epoch(4);
    assert!(request(&mut script, 1));
    // A message frozen in 3 that comes late.
    script.enter_epoch(3);
    assert!(request(&mut script, 2));
    script.enter_epoch(5);
    assert!(request(&mut script, 3));
    for (epoch, number) in [(6, 4), (7, 5)] {
        script.enter_epoch(epoch);
        assert!(request(&mut script, number));
    }
    script.enter_epoch(3);
    assert!(!request(&mut script, 6), "four are newer");
    script.enter_epoch(4);
    assert!(request(&mut script, 6));
    // The peer says that it left all below 6, then repeats itself.
    script.enter_epoch(7);
    script.oldest = 6;
    assert!(request(&mut script, 7));
    script.enter_epoch(5);
    script.oldest = 3;
    assert!(!request(&mut script, 8), "its keys are gone");
    assert_eq!(script.net.hosts[SERVER].endpoint.incoming_bytes(), 8 * 41);
    script.enter_epoch(6);
    assert!(request(&mut script, 8));
    assert_eq!(stats(&script.net, SERVER).violations, 0);
    assert_eq!(stats(&script.net, SERVER).dropped_unexpected, 3);
    // An oldest epoch above the message's own contradicts itself.
    script.oldest = 7;
    assert!(!request(&mut script, 9));
    assert_eq!(script.net.hosts[SERVER].closed, Some(CloseReason::Violation));
}

/// Packets with the right header of request `number`, whose record does not open.
fn forge(script: &mut Script, number: u64, count: usize) -> Vec<Sent> {
    let id = script.my_id(number);
    let packet = script.message(id, b"x").swap_remove(0);
    let mut bad = packet;
    *bad.last_mut().unwrap() ^= 1;
    (0..count).flat_map(|_| script.give(&bad)).collect()
}

#[test]
fn failed_opens_ask_for_an_update_at_half_and_stop_the_key_at_the_limit() {
    let mut script = Script::new(SERVER, limits(1 << 20, 20));
    let update = |epoch| Sent::Control { id: 0, body: ControlBody::Update { epoch } };
    assert!(request(&mut script, 0));
    assert!(forge(&mut script, 1, 9).is_empty());
    assert_eq!(forge(&mut script, 1, 5), [update(3)], "half, and once");
    script.wait(100 * MILLI);
    assert_eq!(forge(&mut script, 1, 1), [update(3)]);
    script.wait(100 * MILLI);
    assert!(request(&mut script, 1), "the key opens what is right");
    // That was of the old epoch again: the peer is asked once more.
    assert_eq!(stats(&script.net, SERVER).key_updates_asked, 3);
    assert!(forge(&mut script, 2, 5).is_empty());
    assert_eq!(stats(&script.net, SERVER).limit_failed_opens, 0);
    assert!(!request(&mut script, 2), "the limit");
    let layout = Layout::from_plain(RECORD, 5 * u64::from(RECORD), 48).unwrap();
    let stream = script.seal(script.my_id(3), &layout, script.preamble(&layout, 4960), &[0; 4960]);
    script.give_records(script.my_id(3), &layout, &stream, 0..1);
    let now = stats(&script.net, SERVER);
    assert_eq!((now.limit_failed_opens, now.records_not_authentic), (2, 20));
    // What the peer was told may have been lost.
    script.wait(100 * MILLI);
    assert!(!request(&mut script, 2));
    assert_eq!(stats(&script.net, SERVER).key_updates_asked, 4);
    // In the next epoch everything goes on.
    script.enter_epoch(4);
    assert!(request(&mut script, 2));
    assert!(forge(&mut script, 4, 9).is_empty(), "it counts anew");
    script.enter_epoch(3);
    assert!(!request(&mut script, 4));
    assert_eq!(stats(&script.net, SERVER).key_updates_asked, 4);
}

#[test]
fn an_epoch_whose_every_record_was_spoiled_in_both_directions_is_left() {
    let mut net = Net::new(23, limits(1 << 20, 4));
    net.call(CLIENT, b"a".to_vec(), 0);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 1);
    want_update(&mut net, CLIENT);
    want_update(&mut net, SERVER);
    net.faults.spoil = 1.0;
    net.call(CLIENT, b"b".to_vec(), 1);
    net.call(SERVER, b"b".to_vec(), 1);
    net.run_for(SECOND);
    for host in [CLIENT, SERVER] {
        assert!(stats(&net, host).limit_failed_opens > 0, "no key is used up");
    }
    net.faults.spoil = 0.0;
    net.call(CLIENT, b"c".to_vec(), 2);
    net.call(SERVER, b"c".to_vec(), 2);
    net.run_for(SECOND);
    for host in [CLIENT, SERVER] {
        assert!(net.hosts[host].ended[&2].is_ok(), "host {host}");
    }
}

#[test]
fn an_application_may_ask_its_peer() {
    let mut net = Net::new(21, Config::default());
    net.call(CLIENT, b"a".to_vec(), 1);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 1);
    let session = net.hosts[SERVER].session;
    let now = net.now;
    assert!(net.hosts[SERVER].endpoint.request_update(now, session));
    assert!(net.hosts[SERVER].endpoint.request_update(now, session));
    net.pump(SERVER);
    assert_eq!(stats(&net, SERVER).key_updates_asked, 1, "once per 100 ms");
    for user in 2..5 {
        net.call(CLIENT, b"b".to_vec(), user);
        net.run_until(SECOND, |net| net.ended(CLIENT) as u64 == user);
    }
    assert_eq!((stats(&net, CLIENT).key_updates, stats(&net, SERVER).key_updates), (1, 0));
}

#[test]
fn a_request_to_update_that_was_lost_is_repeated_while_the_old_epoch_goes_on() {
    let mut net = Net::new(22, Config::default());
    net.call(CLIENT, b"a".to_vec(), 0);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 1);
    let (now, session) = (net.now, net.hosts[SERVER].session);
    net.hosts[SERVER].endpoint.request_update(now, session);
    net.faults.drop = 1.0;
    net.pump(SERVER);
    net.faults.drop = 0.0;
    for user in 1..5 {
        net.run_for(100 * MILLI);
        net.call(CLIENT, b"b".to_vec(), user);
        net.run_until(SECOND, |net| net.ended(CLIENT) as u64 == user + 1);
    }
    assert_eq!((stats(&net, CLIENT).key_updates, stats(&net, SERVER).key_updates_asked), (1, 2));
}

#[test]
fn a_limit_in_the_middle_of_a_message_is_that_of_the_next_epoch() {
    let (mut client, body) = (Client::new(limits(40, u64::MAX)), vec![1; 30 * 1000]);
    client.call(0);
    client.answer(0, 3);
    // 22 records of a kilobyte and more each, then 22 more, which the key has not left.
    for (number, epoch) in [(1, 3), (2, 4)] {
        client.0.net.record();
        client.0.net.call(CLIENT, body.clone(), number);
        let sent = client.0.net.recorded_to(SERVER);
        assert!(sent.len() > 20 && sent.iter().all(|packet| packet[8] == epoch), "{number}");
    }
    client.0.taken();
    // The first goes on under its own key, whose limit it was counted against before.
    client.0.net.record();
    let resend = ControlBody::Resend { offset: 0, length: 1 << 16, priority: 0, pinned: false };
    assert_eq!(client.0.give_control(client.0.its_id(1), resend).len(), 22);
    assert!(client.0.net.recorded_to(SERVER).iter().all(|packet| packet[8] == 3));
    // Without evidence of 4 a third fails before anything of it is sent.
    client.0.net.record();
    client.0.net.call(CLIENT, body, 3);
    assert_eq!(client.0.net.hosts[CLIENT].ended[&3], Err(CallError::Exhausted));
    assert!(client.0.net.recorded_to(SERVER).iter().all(|packet| packet.len() < DATA_LEN));
    assert_eq!((client.stats().key_updates, client.stats().limit_aead), (1, 1));
}

/// A client under test that has a call of many packets, half of it sent, and three updates since.
fn with_straggler(config: Config) -> Client {
    let mut client = Client::new(config);
    client.0.net.call(CLIENT, vec![1; 200_000], 0);
    client.0.taken();
    for number in 1..=4 {
        assert_eq!(u64::from(client.call(number)), 2 + number.max(1));
        client.answer(number, 2 + number as u32);
        client.want_update();
    }
    client
}

#[test]
fn an_update_waits_for_a_message_whose_keys_it_would_take() {
    let mut client = with_straggler(Config::default());
    assert_eq!(client.call(5), 6, "the straggler of 3 lives");
    client.answer(5, 6);
    let granted = ControlBody::Grant { offset: 200_000, priority: 0 };
    assert!(client.0.give_control(client.0.its_id(0), granted).len() > 50);
    client.answer(0, 6);
    assert_eq!(client.call(6), 7);
    assert_eq!(client.stats().key_updates, 4);
}

#[test]
fn near_a_limit_a_straggler_loses_its_keys_and_may_have_run() {
    let mut client = with_straggler(limits(400, u64::MAX));
    let mut number = 5;
    loop {
        let epoch = client.call(number);
        client.answer(number, u32::from(epoch));
        if epoch == 7 {
            break;
        }
        number += 1;
    }
    assert!((340..=355).contains(&number), "at 7/8 of 400: {number}");
    assert!(!client.0.net.hosts[CLIENT].ended.contains_key(&0), "not yet: perhaps it is answered");
    let id = client.0.its_id(0);
    let sent = client.0.give_control(id, ControlBody::Grant { offset: 200_000, priority: 0 });
    let cancel = Sent::Control { id, body: ControlBody::Cancel(CancelCode::Request) };
    assert_eq!(sent, [cancel]);
    assert_eq!(client.0.net.hosts[CLIENT].ended[&0], Err(CallError::OutcomeUnknown));
}

#[test]
fn directions_update_independently_under_traffic() {
    let mut net = Net::new(23, Config::default());
    net.faults = Faults { drop: 0.02, reorder: 0.1, ..Faults::default() };
    for user in 0..600u64 {
        net.call((user % 2) as usize, vec![user as u8; (user * 37 % 4000) as usize], user);
        if user % 3 == 0 {
            want_update(&mut net, SERVER);
        }
        if user % 60 == 0 {
            want_update(&mut net, CLIENT);
        }
        if user % 6 == 5 {
            net.run_for(Duration::from_micros(300));
        }
    }
    net.run_until(10 * SECOND, |net| net.ended(CLIENT) + net.ended(SERVER) == 600);
    for host in &net.hosts {
        assert!(host.ended.values().all(Result::is_ok));
    }
    let [client, server] = [CLIENT, SERVER].map(|host| stats(&net, host).key_updates);
    assert!((5..=10).contains(&client) && server > 2 * client, "{client} {server}");
    net.assert_clean();
}

#[test]
fn a_thousand_updates_in_a_row_fail_no_call_whatever_is_lost() {
    let mut net = Net::new(24, Config::default());
    net.faults =
        Faults { drop: 0.05, duplicate: 0.02, reorder: 0.1, corrupt: 0.01, ..Faults::default() };
    let (mut calls, mut rounds) = (0u64, 0);
    while stats(&net, CLIENT).key_updates.min(stats(&net, SERVER).key_updates) < 1000 {
        rounds += 1;
        assert!(rounds < 40_000, "{:?}", stats(&net, CLIENT));
        for host in [CLIENT, SERVER] {
            want_update(&mut net, host);
            // Some are large enough to outlive several epochs.
            let size = if calls % 97 < 2 { 60_000 } else { (calls * 131 % 3000) as usize };
            if calls < 40 + (net.ended(CLIENT) + net.ended(SERVER)) as u64 {
                net.call(host, vec![calls as u8; size], calls);
                calls += 1;
            }
        }
        net.run_for(Duration::from_micros(60));
    }
    net.run_until(60 * SECOND, |net| (net.ended(CLIENT) + net.ended(SERVER)) as u64 == calls);
    for host in &net.hosts {
        assert!(host.ended.values().all(Result::is_ok));
    }
    net.faults = Faults::default();
    net.assert_clean();
}

fn registered(seed: u64) -> Net {
    let suite = aws_lc::suite(SuiteId::Aes128GcmSha256);
    let configs = [limits(100, u64::MAX), limits(100, u64::MAX)];
    Net::with_updates(seed, configs, suite, 1480, Updates::Registered)
}

fn register(net: &mut Net, host: usize, direction: Direction, n: u8) -> Result<(), UpdateError> {
    let session = net.hosts[host].session;
    net.hosts[host].endpoint.register_update(session, direction, Secret::new(&[n; 32]))
}

fn calls_to(net: &mut Net, from: u64, to: u64) {
    for user in from..to {
        net.call(CLIENT, vec![user as u8; 100], user);
        net.run_until(5 * SECOND, |net| net.ended(CLIENT) as u64 == user + 1);
        assert!(net.hosts[CLIENT].ended[&user].is_ok());
    }
}

#[test]
fn registered_secrets_are_entered_when_due_and_asked_for_when_missing() {
    let mut net = registered(25);
    calls_to(&mut net, 0, 50);
    assert_eq!(net.hosts[CLIENT].secrets_wanted, 0);
    calls_to(&mut net, 50, 60);
    assert_eq!(net.hosts[CLIENT].secrets_wanted, 1, "at half, and once");
    assert_eq!(stats(&net, CLIENT).key_updates, 0);
    register(&mut net, SERVER, Direction::Receive, 1).unwrap();
    register(&mut net, CLIENT, Direction::Send, 1).unwrap();
    calls_to(&mut net, 60, 70);
    assert_eq!((stats(&net, CLIENT).key_updates, stats(&net, SERVER).key_updates), (1, 0));
    // The same for the server, whose peer wants it.
    let session = net.hosts[CLIENT].session;
    register(&mut net, CLIENT, Direction::Receive, 2).unwrap();
    register(&mut net, SERVER, Direction::Send, 2).unwrap();
    let now = net.now;
    assert!(net.hosts[CLIENT].endpoint.request_update(now, session));
    net.pump(CLIENT);
    calls_to(&mut net, 70, 75);
    assert_eq!(stats(&net, SERVER).key_updates, 1);
}

#[test]
fn what_comes_before_its_secret_is_dropped_and_repeated() {
    let mut net = registered(26);
    calls_to(&mut net, 0, 2);
    register(&mut net, CLIENT, Direction::Send, 1).unwrap();
    want_update(&mut net, CLIENT);
    net.call(CLIENT, b"early".to_vec(), 2);
    net.run_for(50 * MILLI);
    assert_eq!(net.ended(CLIENT), 2);
    assert_eq!(stats(&net, CLIENT).key_updates, 1);
    register(&mut net, SERVER, Direction::Receive, 1).unwrap();
    net.run_until(SECOND, |net| net.ended(CLIENT) == 3);
    assert_eq!(net.hosts[CLIENT].ended[&2], Ok(b"early".to_vec()));
    assert_eq!(stats(&net, SERVER).violations, 0);
}

#[test]
fn secrets_are_taken_only_where_they_belong() {
    let mut net = registered(27);
    for n in 0..4 {
        assert_eq!(register(&mut net, CLIENT, Direction::Send, n), Ok(()));
    }
    assert_eq!(register(&mut net, CLIENT, Direction::Send, 4), Err(UpdateError::TooMany));
    assert_eq!(register(&mut net, CLIENT, Direction::Receive, 4), Ok(()));
    let (short, session) = (Secret::new(&[1; 31]), net.hosts[CLIENT].session);
    let endpoint = &mut net.hosts[CLIENT].endpoint;
    let refused = endpoint.register_update(session, Direction::Receive, short);
    assert_eq!(refused, Err(UpdateError::WrongLength));
    let mut derived = Net::new(28, Config::default());
    assert_eq!(register(&mut derived, CLIENT, Direction::Send, 1), Err(UpdateError::Derived));
    let closed = derived.hosts[CLIENT].session;
    derived.hosts[CLIENT].endpoint.close(derived.now, closed);
    derived.pump(CLIENT);
    derived.run_for(SECOND);
    assert_eq!(register(&mut derived, CLIENT, Direction::Send, 1), Err(UpdateError::NoSession));
    assert!(!derived.hosts[CLIENT].endpoint.update_keys(closed));
    assert!(!derived.hosts[CLIENT].endpoint.request_update(derived.now, closed));
}

#[test]
fn the_session_says_which_epoch_it_wants_left() {
    let mut net = Net::new(29, Config::default());
    net.record();
    let (now, session) = (net.now, net.hosts[CLIENT].session);
    net.hosts[CLIENT].endpoint.request_update(now, session);
    net.pump(CLIENT);
    let sent = net.recorded_to(SERVER);
    let (control, _) = Control::parse(&sent[0]).unwrap();
    assert_eq!((control.header.message_id, control.body), (0, ControlBody::Update { epoch: 3 }));
    assert_eq!(Bytes::from(sent[0].clone()).len(), 48);
}
