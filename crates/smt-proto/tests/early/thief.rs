//! Who has got hold of a ticket's key, and sees and sends packets, or just has a ticket: what is lost
//! is what went early, and nothing that other keys protect. Nor does memory follow from what a stranger
//! declares.

use bytes::Bytes;
use smt_proto::error::{CallError, HandshakeError, StartError};
use smt_proto::keys::{HeaderKey, Secret};
use smt_proto::record::Layout;
use smt_proto::wire::{AckRanges, CancelCode, ControlBody, DATA_LEN, Data, Kind, UnknownCode};
use smt_proto::{AeadLimits, Config, EarlyData, Limits};

use crate::driver::{MILLI, SECOND, Sent, World, suite};
use crate::limits::{control, early_id, early_secret, forged, forged_with, header, thiefs_answer};
use crate::net::{CLIENT, SERVER};

fn world() -> World {
    World::new([Config::default(), Config::default()])
}

fn no_finished(sent: &Sent) -> usize {
    usize::from(sent.to == CLIENT || sent.bytes[27] != 2)
}

fn no_early_request(sent: &Sent) -> usize {
    usize::from(sent.to == CLIENT || sent.epoch() != 1)
}

fn give(world: &mut World, to: usize, packets: Vec<Vec<u8>>) {
    for packet in packets {
        world.deliver(to, packet);
    }
}

/// One packet of a request of `plain_len` bytes under epoch 1, authentic but for its payload.
fn declared(world: &World, number: u64, plain_len: u32) -> Vec<u8> {
    let id = early_id(world, number);
    let layout = Layout::from_plain(1000, plain_len.into(), 48).unwrap();
    let data = Data {
        header: header(CLIENT, id),
        sequence: 0,
        record_size: 1000,
        segment_size: 1022,
        message_len: layout.wire_len,
        incoming: layout.wire_len.min(1022),
        tag: 0,
        cutoffs: 0,
        retransmit: false,
        explicit: true,
        pinned: false,
        bundle: false,
        tso_offset: 0,
    };
    let mut packet = vec![0; DATA_LEN + 1];
    data.emit((&mut packet[..DATA_LEN]).try_into().unwrap());
    HeaderKey::derive(suite(), &early_secret(world, CLIENT)).write_data_tag(&mut packet);
    packet
}

#[test]
fn the_answer_to_a_stolen_number_is_not_taken_for_that_of_the_call_that_has_it() {
    for large in [false, true] {
        let mut world = world();
        world.echo = false;
        world.call_early(b"early", 1).unwrap();
        world.run_with(2 * MILLI, no_finished);
        // A request that the client never made, under the number of its next call.
        let theirs = forged(&world, CLIENT, early_id(&world, 1), Kind::Application, b"evil");
        give(&mut world, SERVER, theirs);
        assert_eq!(world.requests.len(), 2);
        world.run(20 * MILLI);
        assert_eq!(world.established, [true, true]);
        world.call(b"the true one", 2);
        let answer = if large { vec![6; 5000] } else { vec![6; 10] };
        for (rpc, body, early) in world.requests.clone() {
            assert!(early && body != b"the true one");
            assert!(world.ends[SERVER].reply(rpc, Bytes::from(answer.clone())));
        }
        world.pump();
        world.run(SECOND);
        world.ended.sort_by_key(|(user, _)| *user);
        assert_eq!(world.ended, [(1, Ok(answer)), (2, Err(CallError::OutcomeUnknown))]);
        // The session goes on, and nothing is left of either.
        world.echo = true;
        world.call(b"next", 3);
        world.run(SECOND);
        assert_eq!(world.ended.last(), Some(&(3, Ok(b"next".to_vec()))));
        assert!(world.closed.is_empty());
        for end in &world.ends {
            assert_eq!((end.incoming_bytes(), end.promised_bytes()), (0, 0));
        }
    }
}

#[test]
fn a_violation_under_epoch_1_ends_no_session_that_has_other_keys() {
    type Forge = fn(&World) -> Vec<Vec<u8>>;
    let to_server: [Forge; 3] = [
        |world| forged(world, CLIENT, early_id(world, 2), Kind::Post, b"\x01"),
        |world| forged(world, CLIENT, early_id(world, 5000), Kind::Application, b"far"),
        |world| vec![declared(world, 2, 60 << 20)],
    ];
    let to_client: [Forge; 1] =
        [|world| forged(world, SERVER, early_id(world, 0) | 1, Kind::Post, b"\x01")];
    let cases = to_server.map(|forge| (SERVER, forge)).into_iter();
    for (to, forge) in cases.chain(to_client.map(|forge| (CLIENT, forge))) {
        let mut world = world();
        world.echo = false;
        world.call_early(b"early", 1).unwrap();
        world.run_with(MILLI, no_finished);
        world.run(20 * MILLI);
        assert_eq!(world.established, [true, true]);
        world.call(b"late", 2);
        world.run(MILLI);
        // The server still takes what the client may have sent early: no preamble under epoch 3 has said
        // that nothing more comes, since the early call is not over.
        let packets = forge(&world);
        give(&mut world, to, packets);
        assert_eq!(world.ends[to].stats().violations, 1);
        world.run(MILLI);
        for (rpc, body, _) in world.requests.clone() {
            world.ends[SERVER].reply(rpc, Bytes::from(body));
        }
        world.pump();
        world.run(SECOND);
        assert!(world.closed.is_empty() && world.failed.is_empty());
        assert!(world.ended.contains(&(2, Ok(b"late".to_vec()))), "{:?}", world.ended);
        assert_eq!(world.ended.len(), 2);
    }
}

#[test]
fn epoch_1_acknowledges_nothing_once_there_are_other_keys() {
    let mut world = world();
    world.echo = false;
    world.call_early(b"early", 1).unwrap();
    world.run_with(MILLI, no_finished);
    world.run(20 * MILLI);
    world.call(b"late", 2);
    world.run(MILLI);
    assert_eq!(world.requests.len(), 2);
    let floor = early_id(&world, 2);
    let ack = control(&world, CLIENT, 900, floor, ControlBody::Ack(AckRanges::new(floor)));
    world.deliver(SERVER, ack);
    let id = early_id(&world, 2);
    let packets = forged_with(&world, CLIENT, id, b"ack", |preamble| preamble.ack_floor = floor);
    give(&mut world, SERVER, packets);
    assert!(world.cancelled.is_empty());
    for (rpc, body, _) in world.requests.clone() {
        world.ends[SERVER].reply(rpc, Bytes::from(body));
    }
    world.pump();
    world.run(SECOND);
    assert!(world.ended.contains(&(2, Ok(b"late".to_vec()))), "{:?}", world.ended);
    assert!(world.closed.is_empty());
}

#[test]
fn what_a_thief_ends_does_not_make_the_client_contradict_itself() {
    // The server takes the offer, and never has the requests, which the thief answers, or forgets.
    for forget in [false, true] {
        let mut world = world();
        for number in 0..3 {
            world.call_early(&[number; 10], number.into()).unwrap();
        }
        world.run_with(MILLI, |sent| usize::from(no_early_request(sent) + no_finished(sent) == 2));
        for number in [0, 2] {
            let id = early_id(&world, number) | 1;
            let packets = if forget {
                let body = ControlBody::Unknown(UnknownCode::Forgotten);
                vec![control(&world, SERVER, 900 + number, id, body)]
            } else {
                forged(&world, SERVER, id, Kind::Application, b"a lie")
            };
            give(&mut world, CLIENT, packets);
        }
        assert_eq!(world.ended.len(), 2);
        world.run_with(5 * MILLI, no_early_request);
        assert_eq!(world.established, [true, true]);
        world.call(b"late", 9);
        world.run(SECOND);
        assert_eq!(world.ended.len(), 4, "{:?}", world.ended);
        assert_eq!(world.ends[SERVER].stats().violations, 0);
        assert!(world.closed.is_empty());
        // What is over at the client does not run late.
        let early: Vec<Vec<u8>> = world
            .sent
            .iter()
            .filter(|sent| sent.to == SERVER && sent.epoch() == 1)
            .map(|sent| sent.bytes.clone())
            .collect();
        give(&mut world, SERVER, early);
        assert_eq!((world.executions(&[0; 10]), world.executions(&[2; 10])), (0, 0));
    }
}

#[test]
fn who_offered_nothing_may_not_acknowledge_what_never_came() {
    use crate::net::script::Script;
    let mut script = Script::new(SERVER, Config::default());
    let floor = script.my_id(3);
    script.give_control(floor, ControlBody::Ack(AckRanges::new(floor)));
    assert_eq!(script.net.hosts[SERVER].endpoint.stats().violations, 1);
}

#[test]
fn a_response_begun_by_a_thief_does_not_outlive_the_refusal() {
    let mut world = world();
    world.accepts = false;
    world.call_early(b"one", 1).unwrap();
    // The first packet of a response of several, before the server's flight.
    let answer = thiefs_answer(&world);
    world.deliver(CLIENT, answer);
    let mut lie = forged(&world, SERVER, early_id(&world, 0) | 1, Kind::Application, &[9; 5000]);
    lie.truncate(1);
    give(&mut world, CLIENT, lie);
    assert!(world.ends[CLIENT].incoming_bytes() > 0);
    world.run(SECOND);
    assert_eq!(world.refused, 1);
    assert_eq!(world.ended, [(1, Ok(b"one".to_vec()))]);
    assert_eq!(world.ends[CLIENT].incoming_bytes(), 0);
}

#[test]
fn control_packets_of_epoch_1_end_no_call_that_waits_for_epoch_3() {
    let limits = AeadLimits { records: 1, ..AeadLimits::of(suite().id()) };
    let config = Config { aead_limits: Some(limits), ..Config::default() };
    let mut world = World::new([config, Config::default()]);
    world.call_early(b"one", 1).unwrap();
    world.call_early(b"two", 2).unwrap();
    world.run_with(MILLI, no_finished);
    // The second goes under epoch 3, before the client is established.
    assert_eq!(world.epochs_to(SERVER), [1, 3]);
    let id = early_id(&world, 1) | 1;
    let unknown = ControlBody::Unknown(UnknownCode::Forgotten);
    let packet = control(&world, SERVER, 900, id, unknown);
    world.deliver(CLIENT, packet);
    assert_eq!(world.ended.len(), 1);
    world.run(SECOND);
    assert_eq!(world.ended, [(1, Ok(b"one".to_vec())), (2, Ok(b"two".to_vec()))]);
}

#[test]
fn keys_of_epoch_1_are_installed_once() {
    let again = |world: &mut World| {
        let early = EarlyData {
            suite: suite(),
            client_secret: Secret::new(&[1; 32]),
            server_secret: Secret::new(&[2; 32]),
            peer: None,
            max_early: 9999,
            alone: false,
        };
        world.ends[CLIENT].install_early(world.now, world.client, early);
        world.pump();
    };
    // After a refusal they would seal what was refused once more, in other words.
    let mut world = world();
    (world.accepts, world.stalls) = (false, true);
    world.call_early(b"one", 1).unwrap();
    world.run_with(MILLI, |_| 1);
    assert_eq!((world.refused, world.epochs_to(SERVER)), (1, vec![1]));
    again(&mut world);
    assert_eq!(world.call_early(b"two", 2), Err(StartError::NotReady));
    assert_eq!(world.epochs_to(SERVER), [1]);

    // Twice in a row what may go early would be counted anew.
    let mut world = World::start([Config::default(), Config::default()], [300, 700, 100], [100; 2]);
    world.call_early(b"one", 1).unwrap();
    again(&mut world);
    assert_eq!(world.call_early(b"two", 2), Err(StartError::EarlyLimit));
}

#[test]
fn what_strangers_declare_early_reserves_no_more_than_the_ticket_lets_go() {
    let mut world = world();
    world.call_early(b"one", 1).unwrap();
    world.run_with(MILLI, no_finished);
    // One packet each of messages that fit alone, but not together.
    for number in 1..=3 {
        let packet = declared(&world, number, 20_000);
        world.deliver(SERVER, packet);
    }
    assert!(world.failed.is_empty());
    assert!(world.ends[SERVER].incoming_bytes() <= 64 << 10);
    let packet = declared(&world, 4, 20_000);
    world.deliver(SERVER, packet);
    assert_eq!(world.failed, [(SERVER, HandshakeError::Violation)]);
    assert_eq!(world.ends[SERVER].incoming_bytes(), 0);

    let mut world = self::world();
    world.call_early(b"one", 1).unwrap();
    world.run_with(MILLI, no_finished);
    let packet = declared(&world, 1, 60 << 20);
    world.deliver(SERVER, packet);
    assert_eq!(world.failed, [(SERVER, HandshakeError::Violation)]);
    assert_eq!(world.ends[SERVER].stats().limit_early_data, 1);
}

#[test]
fn responses_to_an_unproven_address_are_not_heaped_up() {
    let limits = Limits { max_early_bytes: 10_000, ..Limits::default() };
    let mut world = World::new([Config::default(), Config { limits, ..Config::default() }]);
    world.echo = false;
    world.call_early(&[0; 10], 0).unwrap();
    world.run_with(MILLI, no_finished);
    for number in 1..50u8 {
        for (rpc, ..) in world.requests.clone() {
            world.ends[SERVER].reply(rpc, Bytes::from(vec![1; 5000]));
        }
        let packets =
            forged(&world, CLIENT, early_id(&world, number.into()), Kind::Application, b"more");
        give(&mut world, SERVER, packets);
    }
    assert_eq!(world.requests.len(), 3);
    assert!(world.ends[SERVER].stats().limit_outgoing_bytes > 40);
    assert!(world.failed.is_empty());
    // Once the client is known it goes on.
    world.echo = true;
    world.run(SECOND);
    assert_eq!(world.established, [true, true]);
}

#[test]
fn a_cancelled_early_call_never_runs_and_harms_nothing() {
    let mut world = world();
    let rpc = world.call_early(b"one", 1).unwrap();
    world.link.retain(|sent| sent.epoch() != 1);
    world.ends[CLIENT].cancel(world.now, rpc);
    world.pump();
    let cancel = control(
        &world,
        SERVER,
        900,
        early_id(&world, 0),
        ControlBody::Cancel(CancelCode::Confirmed),
    );
    // Confirmed by a thief; the server never heard of it.
    world.link.retain(|sent| sent.epoch() != 1);
    world.deliver(CLIENT, cancel);
    world.run(MILLI);
    world.call(b"two", 2);
    world.run(SECOND);
    assert_eq!(world.ended[1], (2, Ok(b"two".to_vec())));
    assert_eq!(world.ends[SERVER].stats().violations, 0);
    assert!(world.closed.is_empty());
}
