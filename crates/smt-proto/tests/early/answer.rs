//! The server's answer to an offer: a random from which the keys of its direction of epoch 1 follow.

use std::ops::Range;

use smt_proto::error::{CallError, HandshakeError};
use smt_proto::wire::{ANSWER_LEN, Block, DATA_LEN, PREAMBLE_LEN};
use smt_proto::{Config, Endpoint};

use crate::driver::{MILLI, SECOND, Sent, World};
use crate::net::{CLIENT, SERVER, Seeded};

const MESSAGE_LEN: Range<usize> = 28..32;
const INCOMING: Range<usize> = 32..36;
/// Bytes of a record before its plaintext.
const RECORD_HEAD: usize = 5;

fn world() -> World {
    World::new([Config::default(), Config::default()])
}

/// A world in which the server's TLS takes its time.
fn slow() -> World {
    World { speaks: false, ..world() }
}

/// Whether a packet begins the server's first flight.
fn answers(sent: &Sent) -> bool {
    sent.to == CLIENT && sent.is_data() && sent.epoch() == 0 && sent.bytes[4..8] == [0; 4]
}

fn block(sent: &Sent) -> (Block<'_>, &[u8]) {
    let flight = &sent.bytes[DATA_LEN..];
    let (block, len) = Block::parse(flight).unwrap();
    (block, &flight[..len])
}

/// Gives the client another random than the server's.
fn altered(sent: &mut Sent) -> usize {
    if answers(sent) {
        let last = DATA_LEN + block(sent).1.len() - 1;
        sent.bytes[last] ^= 1;
    }
    1
}

/// Takes a byte off the answer.
fn shortened(sent: &mut Sent) -> usize {
    if answers(sent) {
        let entry = DATA_LEN + block(sent).1.len() - ANSWER_LEN - 4;
        sent.bytes.remove(entry + 4);
        sent.bytes[entry + 3] -= 1;
        sent.bytes[DATA_LEN + 1] -= 1;
        for field in [MESSAGE_LEN, INCOMING] {
            let value = u32::from_be_bytes(sent.bytes[field.clone()].try_into().unwrap());
            sent.bytes[field].copy_from_slice(&(value - 1).to_be_bytes());
        }
    }
    1
}

#[test]
fn two_acceptances_of_one_offer_seal_under_two_keys() {
    let keystream = |seed| {
        let mut world = world();
        world.ends[SERVER] = Endpoint::new(Config::default(), Box::new(Seeded(seed)));
        world.call_early(&[7; 200], 1).unwrap();
        let offer: Vec<Vec<u8>> = world.sent.iter().map(|sent| sent.bytes.clone()).collect();
        world.run_with(MILLI, |sent| usize::from(sent.to == SERVER && sent.epoch() < 3));
        assert_eq!(world.executions(&[7; 200]), 1);
        let response = world.sent.iter().find(|sent| sent.to == CLIENT && sent.epoch() == 1);
        let text = &response.unwrap().bytes[DATA_LEN + RECORD_HEAD + PREAMBLE_LEN..][..200];
        let stream: Vec<u8> = text.iter().map(|byte| byte ^ 7).collect();
        let random = world.sent.iter().find(|sent| answers(sent)).map(|sent| block(sent).0.answer);
        (offer, random, stream)
    };
    let (one, two) = (keystream(101), keystream(102));
    assert!(one.0 == two.0, "it is the same offer");
    assert!(one.1 != two.1 && one.1.is_some_and(|random| random.is_some()));
    let same = one.2.iter().zip(&two.2).filter(|(a, b)| a == b).count();
    assert!(same < 20, "{same} of 200 bytes are the same");
}

#[test]
fn the_answer_goes_ahead_of_a_flight_that_takes_its_time() {
    let mut world = slow();
    world.call_early(b"one", 1).unwrap();
    world.run(MILLI);
    assert_eq!(world.ended, [(1, Ok(b"one".to_vec()))]);
    let first = world.sent.iter().find(|sent| sent.to == CLIENT).unwrap().clone();
    assert!(answers(&first));
    assert_eq!(first.bytes.len(), DATA_LEN + block(&first).1.len());
    // It was no flight: the client asks on, and hears the same.
    assert_eq!(world.established, [false; 2]);
    world.run(20 * MILLI);
    let answered: Vec<_> = world.sent.iter().filter(|sent| answers(sent)).map(block).collect();
    assert!(answered.len() > 1 && answered.iter().all(|block| *block == answered[0]));
    world.speak();
    world.run(SECOND);
    assert_eq!(world.established, [true; 2]);
    let whole = world.sent.iter().rfind(|sent| answers(sent)).unwrap();
    assert!(whole.bytes.len() > first.bytes.len());
    assert_eq!(block(whole), block(&first));
    world.call(b"two", 2);
    world.run(SECOND);
    assert_eq!(world.ended[1], (2, Ok(b"two".to_vec())));
}

#[test]
fn nothing_under_epoch_1_precedes_the_answer() {
    for speaks in [true, false] {
        // The request takes grants: control packets, which else go before flights.
        let mut world = World { speaks, ..world() };
        let body = vec![5; 40_000];
        world.call_early(&body, 1).unwrap();
        world.run(20 * MILLI);
        let mut to_client = world.sent.iter().filter(|sent| sent.to == CLIENT);
        assert!(answers(to_client.next().unwrap()));
        assert_eq!(world.ended, [(1, Ok(body))]);
    }
}

#[test]
fn early_responses_that_overtake_the_answer_are_kept_for_it() {
    let mut world = slow();
    for number in 0..5 {
        world.call_early(&[number; 10], number.into()).unwrap();
    }
    world.run_with(MILLI, |sent| usize::from(!answers(sent)));
    assert_eq!(world.ended, []);
    world.speak();
    world.run(MILLI);
    assert_eq!(world.ended.len(), 5);
    assert_eq!(world.ends[CLIENT].stats().dropped_bad_tag, 0);
}

#[test]
fn what_overtakes_the_answer_is_bounded_and_repaired() {
    let mut client = Config::default();
    client.limits.max_early_packets = 3;
    let mut world = World { speaks: false, ..World::new([client, Config::default()]) };
    for number in 0..10 {
        world.call_early(&[number; 10], number.into()).unwrap();
    }
    world.run_with(MILLI, |sent| usize::from(!answers(sent)));
    assert_eq!(world.ends[CLIENT].stats().limit_early_packets, 7);
    world.speak();
    world.run(MILLI);
    assert_eq!(world.ended.len(), 3);
    world.run(SECOND);
    assert_eq!(world.ended.len(), 10);
    assert!(world.ended.iter().all(|(_, result)| result.is_ok()));
}

#[test]
fn an_altered_answer_makes_early_responses_opaque_and_fails_the_handshake() {
    for speaks in [true, false] {
        let mut world = World { speaks, ..world() };
        world.call_early(b"one", 1).unwrap();
        world.run_changed(MILLI, altered);
        assert_eq!((world.executions(b"one"), world.ended.len()), (1, 0));
        assert!(world.ends[CLIENT].stats().dropped_bad_tag > 0);
        if !speaks {
            world.speak();
        }
        world.run_changed(6 * SECOND, altered);
        assert_eq!(world.failed[0].0, CLIENT);
        assert_eq!(world.ended, [(1, Err(CallError::OutcomeUnknown))]);
        assert!(!world.established[CLIENT]);
    }
}

#[test]
fn an_altered_answer_ahead_is_corrected_by_the_flight() {
    let mut world = slow();
    world.call_early(b"one", 1).unwrap();
    world.run_changed(MILLI, altered);
    assert_eq!(world.ended, []);
    world.speak();
    world.run(SECOND);
    assert_eq!(world.ended, [(1, Ok(b"one".to_vec()))]);
    assert_eq!(world.established, [true; 2]);
}

#[test]
fn an_answer_of_a_wrong_length_is_no_answer() {
    for speaks in [true, false] {
        let mut world = World { speaks, ..world() };
        world.call_early(b"one", 1).unwrap();
        world.run_changed(MILLI, shortened);
        if !speaks {
            world.speak();
        }
        world.run_changed(6 * SECOND, shortened);
        assert_eq!(world.failed, [(CLIENT, HandshakeError::BadParameters)]);
        assert_eq!(world.ended, [(1, Err(CallError::OutcomeUnknown))]);
        assert_eq!(world.established, [false; 2]);
    }
}

#[test]
fn a_session_without_tls_has_a_first_flight_of_the_block_alone() {
    let mut world = World::with([Config::default(), Config::default()], [300, 0, 100]);
    world.call_early(b"one", 1).unwrap();
    world.run(SECOND);
    assert_eq!(world.ended, [(1, Ok(b"one".to_vec()))]);
    assert_eq!(world.established, [true; 2]);
    assert_eq!(world.sent.iter().filter(|sent| answers(sent)).count(), 1);
}
