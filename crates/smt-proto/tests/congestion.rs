//! What a sender sends, when and at which priority; what a receiver tells it about that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod net;

use std::time::Duration;

use bytes::Bytes;
use net::script::{RECORD, Script, Sent};
use net::{CLIENT, SERVER};
use smt_proto::record::Layout;
use smt_proto::wire::{ControlBody, Data};
use smt_proto::{Config, Time};

/// A packet as the driver sees it.
#[derive(Debug, PartialEq, Eq)]
struct Packet {
    id: u64,
    offset: u32,
    priority: u8,
    cutoffs: u16,
}

/// All DATA packets that the core under test has to send now.
fn transmit(script: &mut Script) -> Vec<Packet> {
    let (tested, now) = (script.tested, script.net.now);
    let endpoint = &mut script.net.hosts[tested].endpoint;
    let mut frame = vec![0; 2048];
    let mut packets = Vec::new();
    while let Some(sent) = endpoint.poll_transmit(now, &mut frame) {
        if let Ok(Data { header, sequence: offset, cutoffs, .. }) = Data::parse(&frame[..sent.len])
        {
            let (id, priority) = (header.message_id, sent.priority);
            packets.push(Packet { id, offset, priority, cutoffs });
        }
    }
    packets
}

/// Starts a call of the core under test, and sends nothing yet.
fn start(script: &mut Script, len: usize) {
    let (tested, session) = (script.tested, script.net.hosts[script.tested].session);
    let deadline = script.net.now + Duration::from_secs(9);
    let endpoint = &mut script.net.hosts[tested].endpoint;
    endpoint.start_call(session, Bytes::from(vec![1; len]), deadline, 0).unwrap();
}

fn ids(packets: &[Packet]) -> Vec<u64> {
    let mut ids: Vec<u64> = packets.iter().map(|packet| packet.id).collect();
    ids.dedup();
    ids
}

#[test]
fn the_shortest_message_goes_first_at_the_priority_of_its_length() {
    let mut script = Script::new(CLIENT, Config::default());
    for len in [20_000, 100, 5000] {
        start(&mut script, len);
    }
    let packets = transmit(&mut script);
    let [long, short, middle] = [0, 1, 2].map(|number| script.its_id(number));
    assert_eq!(ids(&packets[..5]), [short, middle]);
    assert_eq!(ids(&packets[5..]), [long]);
    let priority = |id| packets.iter().find(|packet| packet.id == id).unwrap().priority;
    assert_eq!([short, middle, long].map(priority), [7, 5, 4]);
}

#[test]
fn what_was_granted_goes_at_the_priority_of_the_furthest_grant() {
    let mut script = Script::new(CLIENT, Config::default());
    start(&mut script, 200_000);
    assert!(transmit(&mut script).iter().all(|packet| packet.priority == 4));
    let id = script.its_id(0);
    for (offset, priority) in [(90_000, 3), (80_000, 6), (90_000, 2)] {
        let packet = script.control(id, ControlBody::Grant { offset, priority });
        deliver(&mut script, &packet);
    }
    let packets = transmit(&mut script);
    assert!(packets.len() > 10 && packets.iter().all(|packet| packet.priority == 2));
}

/// Gives the core a packet, and lets it send nothing yet.
fn deliver(script: &mut Script, packet: &[u8]) {
    let meta = smt_proto::PacketMeta {
        remote: net::address(1 - script.tested),
        local: net::address(script.tested).ip(),
        ip_id: None,
    };
    let mut packet = packet.to_vec();
    script.net.hosts[script.tested].endpoint.handle_packet(script.net.now, &meta, &mut packet);
}

#[test]
fn long_messages_wait_for_what_the_host_has_not_sent() {
    let mut script = Script::new(CLIENT, Config { max_backlog: 10_000, ..Config::default() });
    let now = script.net.now;
    script.net.hosts[CLIENT].endpoint.set_backlog(now, 10_000);
    start(&mut script, 50_000);
    start(&mut script, 100);
    let [long, short] = [0, 1].map(|number| script.its_id(number));
    assert_eq!(ids(&transmit(&mut script)), [short]);
    let endpoint = &mut script.net.hosts[CLIENT].endpoint;
    assert!(!endpoint.wants_transmit());
    assert_eq!(endpoint.stats().pacing_stalls, 1);
    // The driver is asked to look again, and again.
    for _ in 0..3 {
        endpoint.settle();
        let due = endpoint.poll_timeout().unwrap();
        assert!(due > Time::ZERO && due <= now + Duration::from_micros(60));
        endpoint.handle_timeout(due);
    }
    endpoint.set_backlog(now, 4000);
    assert!(endpoint.wants_transmit());
    // As much as makes the backlog full, to the end of a packet.
    let packets = transmit(&mut script);
    assert_eq!((ids(&packets), packets.len()), (vec![long], 5));
}

#[test]
fn a_receivers_cutoffs_and_limit_are_heeded_and_their_version_told_back() {
    let mut script = Script::new(CLIENT, Config::default());
    let cutoffs = |version, unscheduled| ControlBody::Cutoffs {
        cutoffs: [0, 0, u32::MAX, 1000, 0, 0, 0, 0],
        version,
        unscheduled,
    };
    let old = script.control(0, cutoffs(6, 60_000));
    let new = script.control(0, cutoffs(7, 3000));
    deliver(&mut script, &new);
    deliver(&mut script, &old);
    start(&mut script, 20_000);
    start(&mut script, 500);
    let packets = transmit(&mut script);
    let [long, short] = [0, 1].map(|number| script.its_id(number));
    let expected = |id, offset, priority| Packet { id, offset, priority, cutoffs: 7 };
    let stride = packets[2].offset;
    assert_eq!(
        packets,
        [
            expected(short, 0, 3),
            expected(long, 0, 2),
            expected(long, stride, 2),
            expected(long, 2 * stride, 2)
        ]
    );
    // A limit without sense is one packet; one above the declared is the declared.
    for (unscheduled, count) in [(0, 1), (u32::MAX, (68 << 10) / stride as usize + 1)] {
        let packet = script.control(0, cutoffs(8, unscheduled));
        deliver(&mut script, &packet);
        start(&mut script, 100_000);
        assert_eq!(transmit(&mut script).len(), count);
    }
}

#[test]
fn a_sender_that_goes_by_another_version_is_told_once_a_round_trip() {
    let mut script = Script::new(SERVER, Config::default());
    let layout = Layout::from_plain(RECORD, 100_000, 48).unwrap();
    let told = |sent: &[Sent]| {
        let told = |sent: &&Sent| {
            matches!(sent, Sent::Control { id: 0, body: ControlBody::Cutoffs { version: 0, .. } })
        };
        sent.iter().filter(told).count()
    };
    let give = |script: &mut Script, cutoffs| {
        let mut data = script.data_header(script.my_id(0), &layout, 0);
        data.cutoffs = cutoffs;
        let packet = script.data(data, &[0; 100]);
        let sent = script.give(&packet);
        told(&sent)
    };
    assert_eq!(give(&mut script, 9), 1);
    assert_eq!(give(&mut script, 9), 0);
    script.wait(Duration::from_millis(1));
    assert_eq!(give(&mut script, 0), 0);
    script.wait(Duration::from_millis(1));
    assert_eq!(give(&mut script, 9), 1);
}

#[test]
fn a_response_comes_without_grants_only_as_far_as_its_request_says() {
    for (response_limit, most) in [(0, 68 << 10), (1, 1), (5000, 5000), (u32::MAX, 68 << 10)] {
        let mut script = Script::new(SERVER, Config::default());
        let layout = Layout::from_plain(RECORD, 41, 48).unwrap();
        let mut preamble = script.preamble(&layout, 1);
        preamble.response_limit = response_limit;
        let id = script.my_id(0);
        let stream = script.seal(id, &layout, preamble, b"x");
        let packet = script.data(script.data_header(id, &layout, 0), &stream);
        script.give(&packet);
        let (rpc, _) = script.net.hosts[SERVER].requests.pop_front().unwrap();
        let endpoint = &mut script.net.hosts[SERVER].endpoint;
        assert!(endpoint.reply(rpc, Bytes::from(vec![1; 200_000])));
        let last = transmit(&mut script).last().unwrap().offset;
        assert!(last < most && last + 2000 > most, "{last} of {most}");
    }
}

#[test]
fn callers_with_many_calls_bound_what_comes_by_itself() {
    let limit_of = |incast_control, calls: u64| {
        let config = Config { receive_credit: 100_000, incast_control, ..Config::default() };
        // What its requests say is seen by an honest peer's response.
        let mut net = net::Net::new(1, config);
        net.hosts[SERVER].echo = false;
        for user in 0..calls {
            net.call(CLIENT, vec![1], user);
        }
        net.run_until(Duration::from_secs(1), |net| {
            net.hosts[SERVER].requests.len() as u64 == calls
        });
        let (rpc, _) = net.hosts[SERVER].requests.pop_back().unwrap();
        net.take_in_flight();
        assert!(net.hosts[SERVER].endpoint.reply(rpc, Bytes::from(vec![1; 200_000])));
        net.record();
        net.pump(SERVER);
        net.recorded_to(CLIENT).iter().filter(|packet| Data::parse(packet).is_ok()).count()
    };
    assert_eq!(limit_of(true, 1), limit_of(false, 1));
    assert_eq!(limit_of(false, 50), limit_of(false, 1));
    // A share of 2000 bytes, to the end of its packet.
    assert_eq!(limit_of(true, 50), 2);
}
