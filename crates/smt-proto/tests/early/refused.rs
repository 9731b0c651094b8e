//! Early data that the server does not take, and handshakes that come to nothing.

use smt_proto::error::{CallError, HandshakeError, StartError};
use smt_proto::{Config, Limits};

use crate::driver::{MILLI, ROOM, SECOND, World};
use crate::net::{CLIENT, PORTS, SERVER, address};

fn refusing() -> World {
    let mut world = World::new([Config::default(), Config::default()]);
    world.accepts = false;
    world
}

#[test]
fn refused_calls_go_again_under_epoch_3() {
    let mut world = refusing();
    let large = vec![3; 5000];
    world.call_early(b"one", 1).unwrap();
    world.call_early(&large, 2).unwrap();
    world.run(SECOND);
    assert_eq!(world.refused, 1);
    world.ended.sort_by_key(|(user, _)| *user);
    assert_eq!(world.ended, [(1, Ok(b"one".to_vec())), (2, Ok(large.clone()))]);
    assert_eq!((world.executions(b"one"), world.executions(&large)), (1, 1));
    assert!(world.requests.iter().all(|(_, _, early)| !early));
    assert!(world.epochs_to(CLIENT).iter().all(|epoch| *epoch == 3));
    // The same RPCs, from their first byte on.
    let ids = |epoch: u8| -> Vec<Vec<u8>> {
        let to_server = world.sent.iter().filter(|sent| sent.to == SERVER && sent.is_data());
        let begins = to_server.filter(|sent| sent.epoch() == epoch && sent.bytes[4..8] == [0; 4]);
        begins.map(|sent| sent.bytes[20..28].to_vec()).collect()
    };
    assert_eq!(ids(1), ids(3));
    assert_eq!(ids(3).len(), 2);
    assert_eq!(world.ends[CLIENT].stats().early_refused, 1);
    assert_eq!(world.ends[SERVER].stats().violations, 0);
}

#[test]
fn what_ran_early_before_a_server_lost_its_memory_is_not_said_to_be_finished() {
    let mut world = World::new([Config::default(), Config::default()]);
    for user in 1..=3 {
        world.call_early(b"early", user).unwrap();
    }
    // The server is gone before its TLS has said anything.
    world.speaks = false;
    world.run(3 * MILLI);
    assert_eq!(world.ended.len(), 3);
    let random = Box::new(crate::net::Seeded(99));
    world.ends[SERVER] = smt_proto::Endpoint::new(Config::default(), random);
    (world.accepts, world.speaks) = (false, true);
    world.call_early(b"again", 4).unwrap();
    world.run(SECOND);
    assert_eq!((world.refused, world.established), (1, [true; 2]));
    for user in 5..10 {
        world.call(b"later", user);
    }
    world.run(SECOND);
    assert_eq!(world.ended.len(), 9);
    assert!(world.ended.iter().all(|(_, result)| result.is_ok()));
    assert_eq!((world.executions(b"early"), world.executions(b"again")), (3, 1));
    assert_eq!(world.ends[SERVER].stats().violations, 0);
    assert!(world.closed.is_empty() && world.cancelled.is_empty());
}

#[test]
fn no_more_calls_go_early_than_a_server_takes_that_refuses_them() {
    let server = Limits { max_rpcs: 4, ..Limits::default() };
    let server = Config { limits: server, ..Config::default() };
    let mut world = World::new([Config::default(), server]);
    for user in 1..=4 {
        world.speaks = false;
        world.call_early(b"early", user).unwrap();
        world.run(MILLI);
    }
    assert_eq!(world.ended.len(), 4);
    assert_eq!(world.call_early(b"early", 5), Err(StartError::TooManyOutstanding));
}

#[test]
fn once_refused_nothing_goes_early() {
    let mut world = refusing();
    assert!(world.call_early(b"one", 1).is_ok());
    world.run(MILLI);
    // With keys of epoch 3 an early call is a call as any other.
    assert!(world.call_early(b"two", 2).is_ok());
    world.run(SECOND);
    assert_eq!(world.ended.len(), 2);
    assert!(world.requests.iter().all(|(_, _, early)| !early));

    // Without an offer there is none.
    let mut world = refusing();
    let path = smt_proto::Path {
        remote: address(SERVER),
        remote_port: PORTS[SERVER],
        local_port: PORTS[CLIENT] + 1,
        local: None,
    };
    let deadline = world.now + SECOND;
    let id = world.ends[CLIENT].connect(world.now, path, ROOM, deadline).unwrap();
    world.ends[CLIENT].send_flight(world.now, id, &[1; 300]);
    let body = bytes::Bytes::from_static(b"early");
    let refused = world.ends[CLIENT].start_early_call(id, body, deadline, 9);
    assert_eq!(refused, Err(StartError::NotReady));
}

#[test]
fn a_server_that_declares_less_than_its_ticket_is_not_believed() {
    let less = Limits { max_message: 1000, ..Limits::default() };
    let server = Config { limits: less, ..Config::default() };
    let mut world = World::promising([Config::default(), server.clone()], 100_000);
    world.call_early(b"one", 1).unwrap();
    world.run(6 * SECOND);
    assert_eq!(world.failed, [(CLIENT, HandshakeError::BadParameters)]);

    // If it refuses, it is just another server. Somebody may have had a copy of the offer taken.
    let mut world = World::promising([Config::default(), server], 100_000);
    world.accepts = false;
    world.call_early(&[1; 2000], 1).unwrap();
    world.run(SECOND);
    assert_eq!(world.ended, [(1, Err(CallError::OutcomeUnknown))]);
    assert_eq!(world.established, [true, true]);
    assert!(world.requests.is_empty());
}

#[test]
fn a_handshake_that_fails_tells_whether_the_request_may_have_run() {
    // Nobody answers.
    let mut world = refusing();
    world.call_early(b"sent", 1).unwrap();
    world.run_with(6 * SECOND, |_| 0);
    assert_eq!(world.ended, [(1, Err(CallError::OutcomeUnknown))]);
    assert_eq!(world.failed, [(CLIENT, HandshakeError::TimedOut)]);

    // It is over before a packet of the request has left.
    let mut world = refusing();
    let deadline = world.now + SECOND;
    let body = bytes::Bytes::from_static(b"not sent");
    world.ends[CLIENT].start_early_call(world.client, body, deadline, 1).unwrap();
    let quoted = world.link[0].bytes.clone();
    world.ends[CLIENT].handle_unreachable(world.now, address(SERVER), true, &quoted);
    world.pump();
    assert_eq!(world.ended, [(1, Err(CallError::NotRun))]);
    assert_eq!(world.failed, [(CLIENT, HandshakeError::Refused)]);
}

#[test]
fn a_server_whose_tls_fails_gives_up_early_requests() {
    let mut world = World::new([Config::default(), Config::default()]);
    world.echo = false;
    world.finishes = false;
    world.call_early(b"one", 1).unwrap();
    world.run(SECOND);
    assert_eq!(world.executions(b"one"), 1);
    assert_eq!(world.cancelled, [world.requests[0].0]);
    assert_eq!(world.ended, [(1, Err(CallError::OutcomeUnknown))]);
    world.run(5 * SECOND);
    for end in &world.ends {
        assert_eq!((end.session_count(), end.incoming_bytes()), (0, 0));
    }
}

#[test]
fn a_server_forgets_early_requests_with_the_handshake() {
    let mut world = World::new([Config::default(), Config::default()]);
    world.echo = false;
    world.call_early(b"one", 1).unwrap();
    world.run_with(12 * SECOND, |sent| usize::from(sent.to == CLIENT || sent.bytes[27] != 2));
    assert_eq!(world.cancelled, [world.requests[0].0]);
    assert!(world.failed.contains(&(SERVER, HandshakeError::TimedOut)));
    assert_eq!(world.ends[SERVER].incoming_bytes(), 0);
}

#[test]
fn a_retry_takes_early_data_with_it() {
    let limits = Limits { retry_threshold: 0, ..Limits::default() };
    let mut world = World::new([Config::default(), Config { limits, ..Config::default() }]);
    world.call_early(b"one", 1).unwrap();
    world.run_with(4 * MILLI, |sent| usize::from(sent.to == CLIENT || sent.bytes[27] != 2));
    assert_eq!(world.ends[CLIENT].stats().retries_received, 1);
    assert_eq!(world.ended, [(1, Ok(b"one".to_vec()))]);
    assert_eq!(world.established, [false, false]);
    assert_eq!(world.executions(b"one"), 1);
}
