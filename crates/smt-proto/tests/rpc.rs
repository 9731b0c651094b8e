//! RPCs between two endpoints over a network that loses, repeats, reorders and corrupts.

mod net;

use std::time::Duration;

use net::{CLIENT, Faults, Net, SERVER, Seeded};
use smt_proto::crypto::SuiteId;
use smt_proto::error::{CallError, CloseReason, StartError};
use smt_proto::padding::Padding;
use smt_proto::{Config, Limits};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn one_small_rpc_is_two_packets() {
    let mut net = Net::new(1, Config::default());
    net.run_for(Duration::from_millis(1));
    let before = net.sent;
    net.call(CLIENT, b"hello".to_vec(), 7);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 1);
    assert_eq!(net.hosts[CLIENT].ended[&7], Ok(b"hello".to_vec()));
    assert_eq!(net.sent - before, 2);
}

#[test]
fn all_sizes_in_both_directions_and_all_suites() {
    let suites =
        [SuiteId::Aes128GcmSha256, SuiteId::Aes256GcmSha384, SuiteId::ChaCha20Poly1305Sha256];
    for (room, suite) in [1232, 1480, 8980, 65_515].into_iter().zip(suites.into_iter().cycle()) {
        let mut net = Net::with(2, [Config::default(), Config::default()], suite, room);
        let mut random = Seeded(3);
        let sizes =
            [0, 1, 63, 64, 1365, 1366, 1367, 1406, 5000, 16_384, 65_536, 200_000, 3_000_000];
        for (user, size) in sizes.into_iter().enumerate() {
            let body = random.bytes(size);
            for host in [CLIENT, SERVER] {
                net.call(host, body.clone(), user as u64);
            }
            net.run_until(20 * SECOND, |net| net.ended(CLIENT).min(net.ended(SERVER)) > user);
            for host in [CLIENT, SERVER] {
                assert!(net.hosts[host].ended[&(user as u64)] == Ok(body.clone()), "{size} bytes");
            }
        }
    }
}

#[test]
fn many_senders_share_the_credit_and_all_come_to_their_end() {
    for loss in [0.0, 0.05] {
        let limits = Limits { unscheduled: 3000, ..Limits::default() };
        let config = Config { limits, receive_credit: 64 << 10, ..Config::default() };
        let mut net = Net::new(5, config);
        net.faults.drop = loss;
        const CALLS: u64 = 60;
        for user in 0..CALLS {
            net.call(CLIENT, vec![user as u8; 20_000 + 1000 * user as usize], user);
        }
        let most = (64 << 10) + (16 << 10) + CALLS * 3000;
        while (net.ended(CLIENT) as u64) < CALLS {
            assert!(net.step());
            for host in &net.hosts {
                assert!(host.endpoint.promised_bytes() <= most, "{loss}");
            }
        }
        assert!(net.hosts[CLIENT].ended.values().all(Result::is_ok));
        net.faults.drop = 0.0;
        net.assert_clean();
    }
}

fn hostile_network(seed: u64, faults: Faults, calls: u64, largest: u64) -> Net {
    let mut net = Net::new(seed, Config::default());
    net.faults = faults;
    let mut random = Seeded(seed ^ 0x5eed);
    let mut bodies = Vec::new();
    for user in 0..calls {
        let mut body = user.to_be_bytes().to_vec();
        let size = random.below(largest) as usize;
        body.extend(random.bytes(size));
        net.call((user % 2) as usize, body.clone(), user);
        bodies.push(body);
    }
    net.run_until(50 * SECOND, |net| (net.ended(CLIENT) + net.ended(SERVER)) as u64 == calls);
    for (user, body) in bodies.iter().enumerate() {
        let result = &net.hosts[user % 2].ended[&(user as u64)];
        assert!(result.as_ref() == Ok(body), "seed {seed}: call {user}: {result:?}");
    }
    for host in [CLIENT, SERVER] {
        assert!(net.hosts[host].executed.values().all(|times| *times == 1), "a request ran twice");
        assert!(net.hosts[host].closed.is_none());
    }
    net
}

#[test]
fn survives_five_percent_loss() {
    for seed in 0..20 {
        hostile_network(seed, Faults { drop: 0.05, ..Faults::default() }, 200, 20_000);
    }
}

#[test]
fn survives_everything_at_once() {
    for seed in 0..20 {
        let faults =
            Faults { drop: 0.1, duplicate: 0.1, reorder: 0.3, corrupt: 0.1, ..Faults::default() };
        hostile_network(seed, faults, 100, 30_000);
    }
}

#[test]
fn survives_half_of_all_packets_lost() {
    hostile_network(9, Faults { drop: 0.5, ..Faults::default() }, 50, 10_000);
}

#[test]
fn nothing_is_left_once_responses_are_acknowledged() {
    let mut net = hostile_network(4, Faults { drop: 0.05, ..Faults::default() }, 100, 5_000);
    net.faults = Faults::default();
    net.run_for(10 * SECOND);
    for host in &net.hosts {
        assert_eq!(host.endpoint.incoming_bytes(), 0);
        assert_eq!(host.endpoint.outstanding(host.session), 0);
        // Only the idle probe is left to do.
        let next = host.endpoint.poll_timeout().unwrap();
        assert!(next.since(net.now) > 30 * SECOND, "{next:?} at {:?}", net.now);
    }
}

#[test]
fn a_loss_is_repaired_on_the_scale_of_a_round_trip() {
    let mut net = Net::new(5, Config::default());
    for user in 0..50 {
        net.call(CLIENT, vec![1; 100], user);
        net.run_until(SECOND, |net| net.ended(CLIENT) as u64 == user + 1);
    }
    net.call(CLIENT, vec![2; 100], 50);
    assert_eq!(net.take_in_flight().len(), 1);
    let start = net.now;
    net.run_until(SECOND, |net| net.ended(CLIENT) == 51);
    let repair = net.now.since(start);
    assert!(repair < Duration::from_millis(1), "{repair:?} of virtual time");
}

#[test]
fn a_deadline_ends_a_call_and_tells_the_server() {
    let mut net = Net::new(6, Config::default());
    net.hosts[SERVER].echo = false;
    net.call_with_deadline(CLIENT, b"slow".to_vec(), 1, Duration::from_millis(50));
    net.run_until(SECOND, |net| net.ended(CLIENT) == 1);
    assert_eq!(net.hosts[CLIENT].ended[&1], Err(CallError::DeadlineExceeded));
    net.run_for(Duration::from_millis(10));
    assert_eq!(net.hosts[SERVER].cancelled.len(), 1);
    let (rpc, _) = net.hosts[SERVER].requests.pop_front().unwrap();
    assert!(!net.hosts[SERVER].endpoint.reply(rpc, bytes::Bytes::new()));
}

#[test]
fn a_slow_server_is_polled_ever_less_often() {
    let mut net = Net::new(7, Config::default());
    net.hosts[SERVER].echo = false;
    net.call(CLIENT, b"slow".to_vec(), 1);
    net.run_for(5 * SECOND);
    assert!(net.sent < 150, "{} packets in five seconds of waiting", net.sent);
    let (rpc, body) = net.hosts[SERVER].requests.pop_front().unwrap();
    assert!(net.hosts[SERVER].endpoint.reply(rpc, bytes::Bytes::from(body.into_vec())));
    net.pump(SERVER);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 1);
    assert_eq!(net.hosts[CLIENT].ended[&1], Ok(b"slow".to_vec()));
}

#[test]
fn a_refusal_reaches_the_caller() {
    let mut net = Net::new(8, Config::default());
    net.hosts[SERVER].echo = false;
    net.call(CLIENT, b"please".to_vec(), 1);
    net.run_until(SECOND, |net| !net.hosts[SERVER].requests.is_empty());
    let (rpc, _) = net.hosts[SERVER].requests.pop_front().unwrap();
    assert!(net.hosts[SERVER].endpoint.refuse(rpc, 300, "not today"));
    net.pump(SERVER);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 1);
    let refused = CallError::Refused { code: 300, text: "not today".into() };
    assert_eq!(net.hosts[CLIENT].ended[&1], Err(refused));
}

#[test]
fn close_ends_calls_on_both_sides_and_leaves_no_session() {
    let mut net = Net::new(9, Config::default());
    net.hosts[SERVER].echo = false;
    net.call(CLIENT, b"x".to_vec(), 1);
    net.run_until(SECOND, |net| !net.hosts[SERVER].requests.is_empty());
    let session = net.hosts[CLIENT].session;
    net.hosts[CLIENT].endpoint.close(net.now, session);
    net.pump(CLIENT);
    net.run_for(SECOND);
    assert_eq!(net.hosts[CLIENT].ended[&1], Err(CallError::SessionClosed));
    assert_eq!(net.hosts[CLIENT].closed, Some(CloseReason::Local));
    assert_eq!(net.hosts[SERVER].closed, Some(CloseReason::Peer));
    for host in &net.hosts {
        assert_eq!(host.endpoint.session_count(), 0);
        assert_eq!(host.endpoint.incoming_bytes(), 0);
    }
}

#[test]
fn a_dead_peer_is_noticed_through_the_deadline_and_the_idle_probe() {
    let mut net = Net::new(10, Config::default());
    net.run_for(SECOND);
    net.faults.drop = 1.0;
    net.call_with_deadline(CLIENT, b"x".to_vec(), 1, SECOND);
    net.run_until(2 * SECOND, |net| net.ended(CLIENT) == 1);
    assert_eq!(net.hosts[CLIENT].ended[&1], Err(CallError::DeadlineExceeded));
    net.run_for(120 * SECOND);
    for host in &net.hosts {
        assert_eq!(host.closed, Some(CloseReason::Dead));
        assert_eq!(host.endpoint.session_count(), 0);
    }
}

#[test]
fn limits_on_starting_calls_are_typed_errors() {
    let limits =
        Limits { max_rpcs: 4, max_message: 1000, max_outgoing_bytes: 1500, ..Limits::default() };
    let mut net = Net::new(11, Config { limits, ..Config::default() });
    net.hosts[SERVER].echo = false;
    let deadline = net.now + SECOND;
    let session = net.hosts[CLIENT].session;
    let start = |net: &mut Net, size: usize| {
        let body = bytes::Bytes::from(vec![0; size]);
        net.hosts[CLIENT].endpoint.start_call(session, body, deadline, 0)
    };
    assert_eq!(start(&mut net, 1001), Err(StartError::TooLarge { limit: 1000 }));
    assert!(start(&mut net, 1000).is_ok());
    assert_eq!(start(&mut net, 1000), Err(StartError::Backpressure));
    for _ in 0..3 {
        assert!(start(&mut net, 10).is_ok());
    }
    assert_eq!(start(&mut net, 10), Err(StartError::TooManyOutstanding));
    assert_eq!(net.hosts[CLIENT].endpoint.stats().limit_rpcs, 1);
    assert_eq!(net.hosts[CLIENT].endpoint.stats().limit_outgoing_bytes, 1);
}

#[test]
fn a_full_receiver_makes_callers_wait_and_loses_nothing() {
    let limits = Limits { max_incoming_bytes: 100_000, ..Limits::default() };
    let server = Config { limits, ..Config::default() };
    let configs = [Config::default(), server];
    let mut net = Net::with(12, configs, SuiteId::Aes128GcmSha256, 1480);
    net.hosts[SERVER].echo = false;
    for user in 0..10 {
        net.call(CLIENT, vec![user as u8; 40_000], user);
    }
    net.run_for(SECOND);
    assert_eq!(net.hosts[SERVER].requests.len(), 2);
    assert!(net.hosts[SERVER].endpoint.stats().limit_incoming_bytes > 0);
    assert!(net.hosts[SERVER].endpoint.incoming_bytes() <= 100_000);
    net.hosts[SERVER].echo = true;
    while let Some((rpc, body)) = net.hosts[SERVER].requests.pop_front() {
        net.hosts[SERVER].endpoint.reply(rpc, bytes::Bytes::from(body.into_vec()));
    }
    net.pump(SERVER);
    net.run_until(5 * SECOND, |net| net.ended(CLIENT) == 10);
    assert!(net.hosts[CLIENT].ended.values().all(Result::is_ok));
}

#[test]
fn padding_hides_lengths_and_comes_off_again() {
    for padding in [Padding::PowerOfTwo, Padding::Buckets(vec![256, 4096])] {
        let mut net = Net::new(13, Config { padding, ..Config::default() });
        net.recording = true;
        net.call(CLIENT, vec![1; 70], 1);
        net.call(CLIENT, vec![1; 71], 2);
        net.run_until(SECOND, |net| net.ended(CLIENT) == 2);
        assert_eq!(net.hosts[CLIENT].ended[&1], Ok(vec![1; 70]));
        let lengths: Vec<usize> =
            net.recorded.iter().filter(|(_, p)| p[11] == 0x10).map(|(_, p)| p.len()).collect();
        assert_eq!(lengths.len(), 4);
        assert!(lengths.iter().all(|len| *len == lengths[0]), "{lengths:?}");
    }
}

#[test]
fn keys_move_on_at_half_of_the_limit_and_nothing_stalls() {
    let limits = smt_proto::AeadLimits { records: 100, blocks: u64::MAX, failed_opens: u64::MAX };
    let mut net = Net::new(14, Config { aead_limits: Some(limits), ..Config::default() });
    net.faults = Faults { drop: 0.05, ..Faults::default() };
    for user in 0..3000u64 {
        net.call((user % 2) as usize, user.to_be_bytes().to_vec(), user);
        if user % 10 == 9 {
            net.run_until(5 * SECOND, |net| {
                (net.ended(CLIENT) + net.ended(SERVER)) as u64 == user + 1
            });
        }
    }
    for host in &net.hosts {
        assert!(host.ended.values().all(Result::is_ok));
        assert!(host.endpoint.stats().key_updates >= 40, "{:?}", host.endpoint.stats());
        assert_eq!(host.endpoint.stats().limit_aead, 0);
    }
}

#[test]
fn at_the_aead_limit_nothing_is_sealed() {
    let limits = smt_proto::AeadLimits { records: 10, blocks: u64::MAX, failed_opens: u64::MAX };
    let mut net = Net::new(15, Config { aead_limits: Some(limits), ..Config::default() });
    net.run_for(Duration::from_millis(1));
    net.faults.drop = 1.0;
    for user in 0..20 {
        net.call(CLIENT, vec![0; 10], user);
    }
    let ended = &net.hosts[CLIENT].ended;
    assert_eq!(ended.len(), 10);
    assert!(ended.values().all(|result| *result == Err(CallError::Exhausted)));
    assert_eq!(net.hosts[CLIENT].endpoint.stats().limit_aead, 10);
}

#[test]
fn a_shrunken_path_gets_the_same_bytes_in_smaller_packets() {
    let mut net = Net::new(16, Config::default());
    net.hosts[SERVER].echo = false;
    net.call(CLIENT, vec![5; 20_000], 1);
    net.take_in_flight();
    let session = net.hosts[CLIENT].session;
    net.hosts[CLIENT].endpoint.set_room(session, 700);
    net.run_until(SECOND, |net| net.hosts[SERVER].requests.len() == 1);
    assert_eq!(&*net.hosts[SERVER].requests[0].1, &[5; 20_000][..]);
}
