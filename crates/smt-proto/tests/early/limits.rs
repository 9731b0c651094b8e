//! What early data may not do: more than the ticket lets it, more than its address has paid for, twice
//! what it did once, anything to what epoch 3 protects, and last.

use smt_proto::error::{CallError, HandshakeError, StartError};
use smt_proto::keys::{EpochKeys, HeaderKey, Secret};
use smt_proto::record::{self, Layout};
use smt_proto::wire::{
    Block, CancelCode, Control, ControlBody, DATA_LEN, Data, EARLY_EPOCH, Header, Kind,
    MAX_CONTROL_LEN, PREAMBLE_LEN, Preamble,
};
use smt_proto::{AeadLimits, Config, Limits};

use crate::driver::{MILLI, SECOND, Sent, World, early_secrets, suite};
use crate::net::{CLIENT, PORTS, SERVER};

/// Wire bytes of a request of 100.
const WIRE: u32 = 40 + 100 + 22;

fn world() -> World {
    World::new([Config::default(), Config::default()])
}

fn limited(client: u32, server: u32) -> World {
    World::start([Config::default(), Config::default()], [300, 700, 100], [client, server])
}

/// Everything arrives but the client's last flight.
fn no_finished(sent: &Sent) -> usize {
    usize::from(sent.to == CLIENT || sent.bytes[27] != 2)
}

#[test]
fn a_client_keeps_to_what_the_ticket_lets_go_early() {
    let mut world = limited(2 * WIRE, 2 * WIRE);
    world.call_early(&[1; 100], 1).unwrap();
    world.call_early(&[2; 100], 2).unwrap();
    assert_eq!(world.call_early(&[3; 100], 3), Err(StartError::EarlyLimit));
    assert_eq!(world.call_early(b"", 3), Err(StartError::EarlyLimit));
    assert_eq!(world.ends[CLIENT].stats().limit_early_data, 2);
    world.run(SECOND);
    assert_eq!(world.ended.len(), 2);
    assert_eq!(world.ends[SERVER].stats().violations, 0);
    world.call_early(&[3; 100], 3).unwrap();
    world.run(SECOND);
    assert_eq!(world.ended.len(), 3);
}

#[test]
fn a_client_beyond_the_limit_is_at_fault() {
    for (allowed, in_pieces) in [(2 * WIRE, false), (3 * WIRE - 1, false), (2 * WIRE, true)] {
        let mut world = limited(64 << 10, allowed);
        world.call_early(&[1; 100], 1).unwrap();
        world.call_early(&[2; 100], 2).unwrap();
        world.run_with(4 * MILLI, no_finished);
        assert_eq!(world.ended.len(), 2, "{allowed}");
        let third = if in_pieces { vec![3; 3000] } else { vec![3; 100] };
        // Under epoch 1, as if it had not heard of flight 1.
        let packets = forged_request(&world, 2, &third);
        for packet in packets {
            world.deliver(SERVER, packet);
        }
        assert_eq!(world.failed, [(SERVER, HandshakeError::Violation)], "{allowed}");
        let stats = world.ends[SERVER].stats();
        assert_eq!((stats.violations, stats.limit_early_data), (1, 1));
        assert_eq!(world.requests.len(), 2);
        assert_eq!(
            (world.ends[SERVER].session_count(), world.ends[SERVER].incoming_bytes()),
            (0, 0)
        );
    }
    let mut world = limited(64 << 10, 3 * WIRE);
    for number in 0..3 {
        world.call_early(&[number; 100], number.into()).unwrap();
    }
    world.run(SECOND);
    assert_eq!((world.ended.len(), world.ends[SERVER].stats().violations), (3, 0));
}

#[test]
fn a_post_handshake_message_under_epoch_1_is_a_violation() {
    let mut world = world();
    world.call_early(b"one", 1).unwrap();
    world.run_with(2 * MILLI, no_finished);
    world.deliver(
        SERVER,
        forged(&world, CLIENT, early_id(&world, 1), Kind::Post, b"\x01").remove(0),
    );
    assert_eq!(world.failed, [(SERVER, HandshakeError::Violation)]);
    assert_eq!(world.requests.len(), 1);
}

#[test]
fn what_an_attacker_spoils_does_not_use_up_the_limit() {
    let mut world = limited(WIRE, WIRE);
    world.call_early(&[1; 100], 1).unwrap();
    let position = world.link.iter().position(|sent| sent.epoch() == 1).unwrap();
    let early = world.link.remove(position).unwrap();
    world.run_with(4 * MILLI, |sent| usize::from(sent.epoch() == 0 && no_finished(sent) == 1));
    let mut spoiled = early.bytes.clone();
    *spoiled.last_mut().unwrap() ^= 1;
    for _ in 0..100 {
        world.deliver(SERVER, spoiled.clone());
    }
    assert_eq!(world.ends[SERVER].stats().records_not_authentic, 100);
    world.deliver(SERVER, early.bytes);
    assert_eq!(world.executions(&[1; 100]), 1);
    assert!(world.failed.is_empty());
}

#[test]
fn all_that_an_unproven_address_is_sent_is_within_three_times_its_bytes() {
    for (certificate, response) in [(700, 30_000), (3000, 3000), (3300, 100), (9000, 9000)] {
        let mut world =
            World::with([Config::default(), Config::default()], [300, certificate, 100]);
        world.echo = false;
        world.call_early(b"one", 1).unwrap();
        let (mut received, mut sent) = (0, 0);
        let mut largest = 0;
        let mut count = |packet: &Sent, deliver: bool| {
            match packet.to {
                SERVER if deliver => received += packet.bytes.len(),
                CLIENT => sent += packet.bytes.len(),
                _ => {}
            }
            assert!(sent <= 3 * received, "{sent} for {received}");
            largest = largest.max(sent);
            usize::from(deliver)
        };
        world.run_with(MILLI, |sent| count(sent, no_finished(sent) == 1));
        let (rpc, ..) = world.requests[0];
        world.ends[SERVER].reply(rpc, vec![7; response].into());
        world.pump();
        // The client hears nothing, and repeats what it said: that pays for more.
        world
            .run_with(100 * MILLI, |sent| count(sent, sent.to == SERVER && no_finished(sent) == 1));
        assert_eq!(world.established, [false, false]);
        assert!(world.ended.is_empty());
        world.run(2 * SECOND);
        assert_eq!(world.ended, [(1, Ok(vec![7; response]))], "{certificate}, {response}");
    }
}

#[test]
fn a_response_that_was_held_back_goes_on_with_more_early_data() {
    let mut world = world();
    world.echo = false;
    world.call_early(b"one", 1).unwrap();
    let only_early = |sent: &Sent| usize::from(sent.to == SERVER && sent.bytes[27] != 2);
    world.run_with(MILLI, only_early);
    let (rpc, ..) = world.requests[0];
    world.ends[SERVER].reply(rpc, vec![7; 9000].into());
    world.pump();
    world.link.clear();
    assert!(world.ends[SERVER].stats().limit_amplification > 0);
    let before = world.epochs_to(CLIENT).len();
    world.call_early(&[2; 1000], 2).unwrap();
    world.run_with(MILLI / 10, only_early);
    let after = world.epochs_to(CLIENT).len();
    assert!(before > 0 && after >= before + 2, "{before} packets, then {after}");
}

#[test]
fn replayed_early_packets_run_once() {
    let mut world = world();
    world.call_early(b"one", 1).unwrap();
    world.call_early(&[2; 3000], 2).unwrap();
    world.run_with(4 * MILLI, no_finished);
    let early: Vec<Sent> =
        world.sent.iter().filter(|sent| sent.to == SERVER && sent.epoch() <= 1).cloned().collect();
    for _ in 0..3 {
        for sent in &early {
            world.deliver(SERVER, sent.bytes.clone());
        }
    }
    world.run(SECOND);
    for sent in &early {
        world.deliver(SERVER, sent.bytes.clone());
    }
    assert_eq!((world.executions(b"one"), world.executions(&[2; 3000])), (1, 1));
    assert_eq!(world.ends[SERVER].session_count(), 1);
}

#[test]
fn packets_of_epoch_1_never_confirm_a_session() {
    let mut world = world();
    world.echo = false;
    world.call_early(b"one", 1).unwrap();
    world.run_with(2 * MILLI, no_finished);
    // The client has keys of epoch 3 now, and hears its server under epoch 1.
    let (rpc, ..) = world.requests[0];
    world.ends[SERVER].reply(rpc, bytes::Bytes::from_static(b"answer"));
    world.pump();
    world.run_with(MILLI, no_finished);
    let need_ack = control(&world, SERVER, 1000, early_id(&world, 0), ControlBody::NeedAck);
    world.deliver(CLIENT, need_ack);
    assert_eq!(world.ended, [(1, Ok(b"answer".to_vec()))]);
    assert_eq!(world.established, [false, false]);
    assert!(world.epochs_to(CLIENT).iter().all(|epoch| *epoch == 1));
}

#[test]
fn forged_packets_of_epoch_1_are_dropped() {
    let mut world = world();
    world.call_early(b"one", 1).unwrap();
    world.run_with(2 * MILLI, no_finished);
    let early = world.sent.iter().find(|sent| sent.to == SERVER && sent.epoch() == 1).unwrap();
    let answer = world.sent.iter().find(|sent| sent.to == CLIENT && sent.epoch() == 1).unwrap();
    let (early, answer) = (early.bytes.clone(), answer.bytes.clone());
    let before: Vec<u64> = world.ends.iter().map(|end| end.stats().dropped_bad_tag).collect();
    for at in [4, 9, 14, 21, 30, 36, 49] {
        for (to, packet) in [(SERVER, &early), (CLIENT, &answer)] {
            let mut packet = packet.clone();
            packet[at] ^= 1;
            world.deliver(to, packet);
        }
    }
    // Another epoch byte asks for another key.
    for (to, packet) in [(SERVER, &early), (CLIENT, &answer)] {
        let mut packet = packet.clone();
        packet[8] = 3;
        world.deliver(to, packet);
    }
    let after: Vec<u64> = world.ends.iter().map(|end| end.stats().dropped_bad_tag).collect();
    assert_eq!((after[CLIENT] - before[CLIENT], after[SERVER] - before[SERVER]), (8, 7));
    // The server keeps the last: the client's Finished may still be on its way.
    world.run(SECOND);
    assert_eq!(world.ended, [(1, Ok(b"one".to_vec()))]);
    assert_eq!(world.executions(b"one"), 1);
}

#[test]
fn who_has_only_the_tickets_key_touches_nothing_of_epoch_3() {
    let mut world = world();
    world.echo = false;
    world.call_early(b"early", 1).unwrap();
    world.run_with(2 * MILLI, no_finished);
    // The client is not established yet, and has a call under epoch 3.
    world.call(b"late", 2);
    let late = early_id(&world, 1);
    for (number, (id, body)) in [
        (0, ControlBody::Cancel(CancelCode::Request)),
        (0, ControlBody::Cutoffs { cutoffs: [9; 8], version: 1, unscheduled: 1 }),
        (late, ControlBody::Cancel(CancelCode::Confirmed)),
        (late | 1, ControlBody::Unknown(smt_proto::wire::UnknownCode::Forgotten)),
    ]
    .into_iter()
    .enumerate()
    {
        let packet = control(&world, SERVER, 1000 + number as u64, id, body);
        world.deliver(CLIENT, packet);
    }
    assert_eq!(world.ends[CLIENT].stats().dropped_unexpected, 4);
    for packet in forged(&world, SERVER, late | 1, Kind::Application, b"a lie") {
        world.deliver(CLIENT, packet);
    }
    // Nor does a server start RPCs under epoch 1.
    for packet in forged(&world, SERVER, 6, Kind::Application, b"a request") {
        world.deliver(CLIENT, packet);
    }
    assert_eq!(world.ends[CLIENT].stats().dropped_unexpected, 6);
    assert!(world.ended.is_empty() && world.closed.is_empty());

    // Once established, nothing under epoch 1 is heeded that is not bytes of a message.
    world.run(SECOND);
    let before = world.ends.each_ref().map(|end| end.stats().dropped_unexpected);
    let first = early_id(&world, 0);
    let cancel = control(&world, CLIENT, 2000, first, ControlBody::Cancel(CancelCode::Request));
    world.deliver(SERVER, cancel);
    let unknown = ControlBody::Unknown(smt_proto::wire::UnknownCode::Forgotten);
    let packet = control(&world, SERVER, 2000, first | 1, unknown);
    world.deliver(CLIENT, packet);
    let after = world.ends.each_ref().map(|end| end.stats().dropped_unexpected);
    assert_eq!((after[0] - before[0], after[1] - before[1]), (1, 1));
    assert!(world.cancelled.is_empty());
    for (rpc, body, _) in world.requests.clone() {
        world.ends[SERVER].reply(rpc, body.into());
    }
    world.pump();
    world.run(SECOND);
    assert_eq!(world.ended.len(), 2);
}

#[test]
fn early_keys_go_when_nothing_needs_them() {
    let mut world = world();
    world.call_early(b"one", 1).unwrap();
    world.run(5 * MILLI);
    assert_eq!((world.established, world.ended.len()), ([true, true], 1));
    let early = |world: &World, to| {
        let mut sent = world.sent.iter().filter(|sent| sent.to == to && sent.is_data());
        sent.find(|sent| sent.epoch() == 1).unwrap().bytes.clone()
    };
    let (request, response) = (early(&world, SERVER), early(&world, CLIENT));
    // The client's went with its last early call.
    let before = world.ends[CLIENT].stats().dropped_bad_tag;
    world.deliver(CLIENT, response);
    assert_eq!(world.ends[CLIENT].stats().dropped_bad_tag, before + 1);
    // The server has to take what was lost, until the client says that it sends no more.
    let before = world.ends[SERVER].stats().dropped_bad_tag;
    world.deliver(SERVER, request.clone());
    assert_eq!(world.ends[SERVER].stats().dropped_bad_tag, before);
    world.call(b"two", 2);
    world.run(5 * MILLI);
    world.deliver(SERVER, request);
    assert_eq!(world.ends[SERVER].stats().dropped_bad_tag, before + 1);
}

#[test]
fn lost_early_packets_are_repeated_after_finished() {
    let mut world = world();
    let large = vec![5; 4000];
    world.call_early(&large, 1).unwrap();
    // All but the first packet of the request is lost until the session is established.
    let mut seen = 0;
    world.run_with(MILLI, |sent| {
        let early = sent.to == SERVER && sent.is_data() && sent.epoch() == 1;
        seen += u32::from(early);
        usize::from(!early || seen == 1)
    });
    assert_eq!((world.established, world.ended.len()), ([true, true], 0));
    world.run(SECOND);
    assert_eq!(world.ended, [(1, Ok(large.clone()))]);
    assert!(world.requests[0].2);
    assert!(world.epochs_to(SERVER).iter().all(|epoch| *epoch == 1));
    assert!(world.epochs_to(CLIENT).iter().all(|epoch| *epoch == 3));
}

#[test]
fn early_keys_last_ten_seconds_at_most() {
    let mut world = world();
    world.echo = false;
    world.call_early(b"never arrives", 1).unwrap();
    world.call_early(b"never answered", 2).unwrap();
    // Nothing of the first call gets through, and no response under epoch 1 to the second.
    let first = early_id(&world, 0).to_be_bytes();
    let mut fate = |sent: &Sent| {
        let of_first = sent.bytes[20..28] == first && sent.is_data();
        usize::from(sent.epoch() != 1 || (sent.to == SERVER && !of_first))
    };
    world.run_with(MILLI / 5, |sent| usize::from(no_finished(sent) == 1 && fate(sent) == 1));
    let (rpc, ..) = world.requests[0];
    world.ends[SERVER].reply(rpc, bytes::Bytes::from_static(b"answer"));
    world.pump();
    assert_eq!(world.epochs_to(CLIENT), [1]);
    world.run_with(9 * SECOND, &mut fate);
    assert_eq!((world.established, world.ended.len()), ([true, true], 0));
    assert_eq!(world.ends[SERVER].in_flight(world.server.unwrap()), 1);
    world.run_with(2 * SECOND, &mut fate);
    world.ended.sort_by_key(|(user, _)| *user);
    let unknown = Err(CallError::OutcomeUnknown);
    assert_eq!(world.ended, [(1, unknown.clone()), (2, unknown)]);
    assert_eq!(world.ends[SERVER].in_flight(world.server.unwrap()), 0);
    assert_eq!(world.ends[CLIENT].in_flight(world.client), 0);
    // The session itself goes on.
    world.echo = true;
    world.call(b"three", 3);
    world.run(SECOND);
    assert_eq!(world.ended[2], (3, Ok(b"three".to_vec())));
}

#[test]
fn an_early_key_seals_no_more_than_it_may() {
    let limits = AeadLimits { records: 2, ..AeadLimits::of(suite().id()) };
    let config = Config { aead_limits: Some(limits), ..Config::default() };
    let mut world = World::new([config, Config::default()]);
    for number in 0..3 {
        world.call_early(&[number; 10], number.into()).unwrap();
    }
    assert_eq!(world.epochs_to(SERVER), [1, 1]);
    assert_eq!(world.ends[CLIENT].stats().limit_aead, 1);
    world.run(SECOND);
    assert_eq!(world.ended.len(), 3);
    assert_eq!(world.epochs_to(SERVER), [1, 1, 3]);
}

#[test]
fn early_packets_that_wait_are_bounded() {
    let limits = Limits { max_early_packets: 3, ..Limits::default() };
    let server = Config { limits, ..Config::default() };
    // The hello takes several packets, so that early ones come before it is whole.
    let mut world = World::with([Config::default(), server], [3000, 700, 100]);
    for number in 0..10 {
        world.call_early(&[number; 10], number.into()).unwrap();
    }
    world.link.rotate_left(1);
    let first = world.link.pop_back().unwrap();
    world.link.push_front(first);
    let last_flight = world.link.remove(2).unwrap();
    world.link.push_back(last_flight);
    world.run(SECOND);
    assert_eq!(world.ends[SERVER].stats().limit_early_packets, 7);
    assert_eq!(world.ended.len(), 10);
}

/// Message ID of the client's request `number`.
pub(crate) fn early_id(world: &World, number: u64) -> u64 {
    let begins = world.sent.iter().find(|sent| sent.epoch() == 1 && sent.to == SERVER).unwrap();
    u64::from_be_bytes(begins.bytes[20..28].try_into().unwrap()) + 4 * number
}

/// The secret that `from` seals under: a server's follows from its answer.
pub(crate) fn early_secret(world: &World, from: usize) -> Secret {
    let secret = agreed_secret(world, from);
    if from == CLIENT {
        return secret;
    }
    let answers = |sent: &&Sent| sent.is_data() && sent.epoch() == 0 && sent.to == CLIENT;
    let block = match world.sent.iter().find(answers) {
        Some(sent) => {
            let (_, len) = smt_proto::wire::Params::parse(&sent.bytes[DATA_LEN..]).unwrap();
            sent.bytes[DATA_LEN..][..len].to_vec()
        }
        None => thiefs_block(world),
    };
    smt_proto::keys::answered_secret(suite(), &secret, &block)
}

/// What a thief of the ticket's key says for a server that has not spoken yet.
fn thiefs_block(world: &World) -> Vec<u8> {
    Block { params: world.ticket, offer: None, answer: Some([0x7e; 32]) }.emit(0)
}

/// The packet in which he says it.
pub(crate) fn thiefs_answer(world: &World) -> Vec<u8> {
    let hello = world.sent.iter().find(|sent| sent.epoch() == 0).unwrap();
    let block = thiefs_block(world);
    let data = Data {
        header: Header { epoch: 0, ..header(SERVER, 1) },
        sequence: 0,
        record_size: 0,
        segment_size: 1000,
        message_len: block.len() as u32,
        incoming: block.len() as u32,
        tag: Data::parse(&hello.bytes).unwrap().tag,
        cutoffs: 0,
        retransmit: false,
        explicit: true,
        pinned: false,
        bundle: false,
        tso_offset: 0,
    };
    let mut packet = vec![0; DATA_LEN];
    data.emit((&mut packet[..]).try_into().unwrap());
    [packet, block].concat()
}

/// The secret that follows from ticket and flight 0.
fn agreed_secret(world: &World, from: usize) -> Secret {
    let hello = world.sent.iter().find(|sent| sent.epoch() == 0).unwrap();
    let (_, block) = smt_proto::wire::Params::parse(&hello.bytes[DATA_LEN..]).unwrap();
    let flight = &hello.bytes[DATA_LEN..];
    let binding = smt_proto::EarlyBinding {
        client_port: PORTS[CLIENT],
        server_port: PORTS[SERVER],
        client_block: flight[..block].to_vec(),
        tls_flight0: flight[block..].to_vec(),
    };
    Secret::new(&early_secrets(&binding)[from])
}

/// A control packet of `from` under epoch 1.
pub(crate) fn control(
    world: &World,
    from: usize,
    number: u64,
    id: u64,
    body: ControlBody,
) -> Vec<u8> {
    let mut packet = vec![0; MAX_CONTROL_LEN];
    let len = Control { header: header(from, id), body, number }.emit(&mut packet);
    packet.truncate(len);
    let key = HeaderKey::derive(suite(), &early_secret(world, from));
    key.write_control_tag(&mut packet);
    packet
}

pub(crate) fn header(from: usize, message_id: u64) -> Header {
    let (src_port, dst_port) = (PORTS[from], PORTS[1 - from]);
    Header { src_port, dst_port, epoch: EARLY_EPOCH as u8, message_id }
}

fn forged_request(world: &World, number: u64, body: &[u8]) -> Vec<Vec<u8>> {
    forged(world, CLIENT, early_id(world, number), Kind::Application, body)
}

/// The packets of a message of `from` under epoch 1, of at most 1000 bytes of plaintext each.
pub(crate) fn forged(world: &World, from: usize, id: u64, kind: Kind, body: &[u8]) -> Vec<Vec<u8>> {
    forged_with(world, from, id, body, |preamble| preamble.kind = kind)
}

/// The same, with what `change` makes of the preamble.
pub(crate) fn forged_with(
    world: &World,
    from: usize,
    id: u64,
    body: &[u8],
    change: impl Fn(&mut Preamble),
) -> Vec<Vec<u8>> {
    let secret = early_secret(world, from);
    let layout = Layout::from_plain(1000, (PREAMBLE_LEN + body.len()) as u64, 48).unwrap();
    let mut preamble = Preamble {
        kind: Kind::Application,
        record_size: 1000,
        app_len: body.len() as u32,
        wire_len: layout.wire_len,
        highest_peer_epoch: 0,
        oldest_epoch: EARLY_EPOCH,
        response_limit: 0,
        ack_floor: if from == CLIENT { early_id(world, 0) } else { 6 },
        ack_bitmap: 0,
    };
    change(&mut preamble);
    let mut plain = vec![0; PREAMBLE_LEN];
    preamble.emit((&mut plain[..]).try_into().unwrap());
    plain.extend_from_slice(body);
    let header_key = HeaderKey::derive(suite(), &secret);
    let keys = EpochKeys::new(suite(), secret, EARLY_EPOCH);
    (0..layout.records)
        .map(|index| {
            let (wire, range) = (layout.wire_range(index), layout.plain_range(index));
            let data = Data {
                header: header(from, id),
                sequence: wire.start,
                record_size: 1000,
                segment_size: 1022,
                message_len: layout.wire_len,
                incoming: layout.wire_len,
                tag: 0,
                cutoffs: 0,
                retransmit: false,
                explicit: true,
                pinned: false,
                bundle: false,
                tso_offset: index,
            };
            let mut packet = vec![0; DATA_LEN + wire.len()];
            data.emit((&mut packet[..DATA_LEN]).try_into().unwrap());
            let plain = &plain[range.start as usize..range.end as usize];
            packet[DATA_LEN + 5..][..plain.len()].copy_from_slice(plain);
            let seq = record::sequence_number(id, 48, index).unwrap();
            record::seal(&keys, seq, &mut packet[DATA_LEN..]);
            header_key.write_data_tag(&mut packet);
            packet
        })
        .collect()
}
