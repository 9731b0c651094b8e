//! Post-handshake messages.

use bytes::Bytes;
use smt_proto::error::StartError;
use smt_proto::wire::{WANTS_SMT_TICKET, WANTS_TLS_TICKETS};
use smt_proto::{Config, Limits};

use crate::driver::{MILLI, SECOND, World};
use crate::net::{CLIENT, SERVER, Seeded};

fn established() -> World {
    let mut world = World::new([Config::default(), Config::default()]);
    world.run(SECOND);
    assert_eq!(world.established, [true, true]);
    world
}

#[test]
fn messages_come_once_whatever_is_lost() {
    for seed in 0..20 {
        let mut random = Seeded(seed);
        let mut world = established();
        let server = world.server.unwrap();
        let messages = [vec![1; 30], vec![2; 5000], vec![3; 64 << 10]];
        for body in &messages {
            let body = Bytes::from(body.clone());
            world.ends[SERVER].send_post(world.now, server, body).unwrap();
        }
        assert_eq!(world.ends[SERVER].outstanding(server), 0, "no calls");
        world.pump();
        world.run_with(5 * SECOND, |_| [0, 1, 1, 2][random.below(4) as usize]);
        world.posts.sort();
        assert_eq!(world.posts, messages, "seed {seed}");
        assert!(world.requests.is_empty() && world.ended.is_empty(), "seen as calls");
        world.run(SECOND);
        for (end, session) in [(SERVER, server), (CLIENT, world.client)] {
            assert_eq!(world.ends[end].in_flight(session), 0);
            assert_eq!(world.ends[end].incoming_bytes(), 0);
        }
        assert_eq!(world.ends[SERVER].stats().posts_sent, 3);
        assert_eq!(world.ends[CLIENT].stats().posts_received, 3);
    }
}

#[test]
fn so_many_messages_are_handed_out_and_no_more() {
    let config =
        Config { limits: Limits { max_posts: 2, ..Limits::default() }, ..Config::default() };
    let mut world = World::new([config, Config::default()]);
    world.run(SECOND);
    let server = world.server.unwrap();
    for body in [&[1], &[2], &[3]] {
        world.ends[SERVER].send_post(world.now, server, Bytes::from_static(body)).unwrap();
        world.pump();
        world.run(SECOND);
    }
    assert_eq!(world.posts, [[1], [2]]);
    assert_eq!(world.ends[CLIENT].stats().limit_posts, 1);
    assert_eq!(world.ends[SERVER].in_flight(server), 0, "confirmed all the same");
}

#[test]
fn only_servers_of_established_sessions_send_them() {
    let mut world = established();
    let body = Bytes::from_static(&[1, 2, 3]);
    let now = world.now;
    let client = world.client;
    assert_eq!(world.ends[CLIENT].send_post(now, client, body.clone()), Err(StartError::NoSession));
    let server = world.server.unwrap();
    world.ends[SERVER].close(now, server);
    assert_eq!(world.ends[SERVER].send_post(now, server, body), Err(StartError::NoSession));
}

#[test]
fn a_message_is_bounded_at_both_ends() {
    let limits = |max_post| Limits { max_post, ..Limits::default() };
    let config = |max_post| Config { limits: limits(max_post), ..Config::default() };
    for (len, taken) in [(5000, true), (5001, false)] {
        let mut world = World::new([config(5000), config(6000)]);
        world.run(SECOND);
        let server = world.server.unwrap();
        let now = world.now;
        let too_large = world.ends[SERVER].send_post(now, server, vec![1; 6001].into());
        assert_eq!(too_large, Err(StartError::TooLarge { limit: 6000 }));
        assert_eq!(world.ends[SERVER].stats().limit_post, 1);
        world.ends[SERVER].send_post(now, server, vec![1; len].into()).unwrap();
        world.pump();
        world.run(SECOND);
        assert_eq!(world.posts.len(), usize::from(taken));
        assert_eq!(world.ends[CLIENT].stats().limit_post, u64::from(!taken));
        assert_eq!(world.ends[CLIENT].stats().violations, u64::from(!taken));
        assert_eq!(world.ends[CLIENT].incoming_bytes(), 0);
    }
}

#[test]
fn a_client_that_does_not_answer_is_given_up() {
    let mut world = established();
    let server = world.server.unwrap();
    world.ends[SERVER].send_post(world.now, server, Bytes::from_static(b"x")).unwrap();
    world.pump();
    world.run_with(11 * SECOND, |sent| usize::from(sent.to == CLIENT));
    world.run(SECOND);
    assert_eq!(world.ends[SERVER].in_flight(server), 0);
    assert_eq!(world.posts.len(), 1);
    assert!(world.ended.is_empty());
}

#[test]
fn a_client_says_what_it_wants() {
    let wants = WANTS_TLS_TICKETS | WANTS_SMT_TICKET;
    let mut world = World::new([Config { wants, ..Config::default() }, Config::default()]);
    world.run(MILLI);
    assert_eq!(world.ends[SERVER].peer_wants(world.server.unwrap()), wants);
    assert_eq!(world.ends[CLIENT].peer_wants(world.client), 0);
}
