//! Early data that the server takes.

use smt_proto::Config;

use crate::driver::{MILLI, SECOND, Sent, World};
use crate::net::{CLIENT, SERVER};

fn world() -> World {
    World::new([Config::default(), Config::default()])
}

/// Whoever is on the path may send the ClientHello of another client behind an offer of his own: TLS
/// completes, and the one who has authenticated is not the one whose early requests were delivered.
#[test]
fn finished_alone_does_not_vouch_for_early_requests() {
    let mut world = world();
    world.call_early(b"hello", 1).unwrap();
    // The last flight arrives, and nothing that is sealed or tagged under epoch 3.
    world.run_with(SECOND, |sent| usize::from(sent.to == CLIENT || sent.epoch() < 3));
    assert_eq!(world.executions(b"hello"), 1);
    assert_eq!(world.ends[SERVER].stats().handshakes_completed, 1);
    assert!(!world.established[SERVER]);

    let mut world = self::world();
    world.call_early(b"hello", 1).unwrap();
    // The client has nothing more to say, and is asked, until an answer comes.
    let mut answers = 0;
    world.run_with(SECOND, |sent| {
        let answer = sent.to == SERVER && sent.epoch() >= 3;
        answers += usize::from(answer);
        usize::from(!answer || answers > 3)
    });
    assert!(world.established[SERVER]);
}

#[test]
fn a_request_goes_with_the_first_flight_and_its_response_before_any_finished() {
    let mut world = world();
    world.call_early(b"hello", 1).unwrap();
    // Nothing of the client's last flight, nor anything under epoch 3, arrives.
    world.run_with(4 * MILLI, |sent| usize::from(sent.to == CLIENT || sent.bytes[27] != 2));
    assert_eq!(world.ended, [(1, Ok(b"hello".to_vec()))]);
    assert!(world.requests[0].2, "marked as early");
    assert_eq!(world.established, [false, false]);
    assert_eq!(world.epochs_to(SERVER), [1]);
    assert_eq!(world.epochs_to(CLIENT), [1]);

    world.run(SECOND);
    assert_eq!(world.established, [true, true]);
    world.call(b"and then", 2);
    world.run(MILLI);
    assert_eq!(world.ended[1], (2, Ok(b"and then".to_vec())));
    assert!(!world.requests[1].2);
    assert_eq!(world.ends[CLIENT].stats().early_requests_sent, 1);
    assert_eq!(world.ends[SERVER].stats().early_requests_received, 1);
    assert_eq!(world.ends[SERVER].stats().early_accepted, 1);
}

#[test]
fn early_packets_may_come_before_the_flight_and_before_it_is_judged() {
    let mut world = world();
    world.call_early(b"hello", 1).unwrap();
    world.link.make_contiguous().reverse();
    world.run(SECOND);
    assert_eq!(world.ended, [(1, Ok(b"hello".to_vec()))]);
    assert_eq!(world.executions(b"hello"), 1);
}

#[test]
fn a_response_goes_under_epoch_3_once_there_are_its_keys() {
    let mut world = world();
    world.echo = false;
    world.call_early(b"hello", 1).unwrap();
    world.run(100 * MILLI);
    assert_eq!(world.established, [true, true]);
    let (rpc, ..) = world.requests[0];
    world.ends[SERVER].reply(rpc, bytes::Bytes::from_static(b"later"));
    world.pump();
    world.run(100 * MILLI);
    assert_eq!(world.ended, [(1, Ok(b"later".to_vec()))]);
    assert_eq!(world.epochs_to(SERVER), [1]);
    assert_eq!(world.epochs_to(CLIENT), [3]);
}

#[test]
fn whatever_is_lost_repeated_or_reordered_runs_once() {
    for seed in 0..60 {
        let mut random = crate::net::Seeded(seed);
        let mut world = World::with(
            [Config::default(), Config::default()],
            [300, 700 + 100 * seed as usize, 900],
        );
        world.accepts = seed % 4 != 0;
        let small = [seed as u8; 20];
        let large = vec![seed as u8 ^ 0xff; 9000];
        world.call_early(&small, 1).unwrap();
        world.call_early(&large, 2).unwrap();
        for _ in 0..40 {
            world.run_with(100 * MILLI, |_: &Sent| [0, 1, 1, 2][random.below(4) as usize]);
            world.link.make_contiguous().reverse();
        }
        world.run(SECOND);
        world.ended.sort_by_key(|(user, _)| *user);
        assert_eq!(world.ended, [(1, Ok(small.to_vec())), (2, Ok(large.clone()))], "seed {seed}");
        assert_eq!((world.executions(&small), world.executions(&large)), (1, 1), "seed {seed}");
        assert_eq!(world.refused, u32::from(!world.accepts), "seed {seed}");
    }
}
