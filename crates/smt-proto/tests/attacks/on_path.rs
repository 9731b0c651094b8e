//! An attacker who reads, drops, changes, repeats and makes packets, but has no keys.

use std::time::Duration;

use smt_proto::Config;
use smt_proto::crypto::SuiteId;
use smt_proto::wire::{
    AckRanges, CancelCode, Control, ControlBody, Data, Header, MAX_CONTROL_LEN, UnknownCode,
};

use crate::net::{CLIENT, Net, PORTS, SERVER, Seeded};

const SECOND: Duration = Duration::from_secs(1);

/// Everything that nobody but the peers may make happen.
fn effects(net: &Net, host: usize) -> (usize, usize, u64, usize, u64) {
    let stats = net.hosts[host].endpoint.stats();
    (
        net.hosts[host].executed.len(),
        net.ended(host),
        stats.records_opened,
        net.hosts[host].endpoint.session_count(),
        stats.violations,
    )
}

fn assert_once(net: &Net) {
    for host in &net.hosts {
        assert!(host.executed.values().all(|times| *times == 1), "a request ran twice");
        assert!(host.closed.is_none(), "closed: {:?}", host.closed);
    }
}

/// A conversation with messages of several sizes in both directions, and its packets.
fn conversation(net: &mut Net, first_user: u64) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    net.record();
    let mut random = Seeded(first_user);
    for (user, size) in (first_user..).zip([10, 1000, 5000, 200_000]) {
        for host in [CLIENT, SERVER] {
            let mut body = random.bytes(size);
            body.extend(user.to_be_bytes());
            net.call(host, body, user);
        }
    }
    let all = net.ended(CLIENT) + 4;
    net.run_until(10 * SECOND, |net| net.ended(CLIENT) >= all && net.ended(SERVER) >= all);
    net.run_for(Duration::from_millis(50));
    let to_server = net.recorded_to(SERVER);
    (net.recorded_to(CLIENT), to_server)
}

#[test]
fn replayed_conversations_have_no_effect() {
    let mut net = Net::new(1, Config::default());
    let (to_client, to_server) = conversation(&mut net, 0);
    // Into the other direction, too, with the ports that belong there.
    let mirrored = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
        let turn = |p: &Vec<u8>| [&p[2..4], &p[..2], &p[4..]].concat();
        packets.iter().map(turn).collect()
    };
    let (back_to_server, back_to_client) = (mirrored(&to_client), mirrored(&to_server));
    let mut random = Seeded(77);
    for round in 0..3 {
        let before = [effects(&net, CLIENT), effects(&net, SERVER)];
        let sent = net.sent;
        let mut packets: Vec<(usize, &Vec<u8>)> = Vec::new();
        packets.extend(to_client.iter().map(|p| (CLIENT, p)));
        packets.extend(to_server.iter().map(|p| (SERVER, p)));
        packets.extend(back_to_server.iter().map(|p| (SERVER, p)));
        packets.extend(back_to_client.iter().map(|p| (CLIENT, p)));
        if round > 0 {
            for i in (1..packets.len()).rev() {
                packets.swap(i, random.below(i as u64 + 1) as usize);
            }
        }
        for (to, packet) in packets {
            net.inject(to, packet.clone());
        }
        assert_eq!(before, [effects(&net, CLIENT), effects(&net, SERVER)]);
        assert_eq!(net.sent, sent, "an answer to a replay");
        net.run_for(Duration::from_secs(2));
    }
    conversation(&mut net, 100);
    assert_once(&net);
    net.assert_clean();
}

#[test]
fn every_flipped_bit_is_noticed_and_all_completes() {
    // Of a request in several packets, a response, and all control packets that flow meanwhile.
    let mut net = Net::new(2, Config::default());
    net.hosts[SERVER].echo = false;
    net.call(CLIENT, vec![7; 100_000], 1);
    let mut tried = std::collections::BTreeSet::new();
    for _ in 0..400 {
        let packets = net.take_in_flight();
        if packets.is_empty() {
            net.step();
        }
        for packet in packets {
            let shape = (packet.to, packet.bytes[11], packet.bytes.len());
            if tried.insert(shape) {
                for bit in 0..packet.bytes.len().min(120) * 8 {
                    // Flags and checksum are the NIC's.
                    if matches!(bit / 8, 13 | 16 | 17) {
                        continue;
                    }
                    let before = effects(&net, packet.to);
                    let mut changed = packet.bytes.clone();
                    changed[bit / 8] ^= 1 << (bit % 8);
                    net.inject(packet.to, changed);
                    assert_eq!(before, effects(&net, packet.to), "bit {bit} of {shape:?}");
                }
            }
            net.inject(packet.to, packet.bytes);
        }
    }
    let kinds: Vec<u8> = tried.iter().map(|shape| shape.1).collect();
    assert!(kinds.contains(&0x10) && kinds.contains(&0x11), "{tried:?}");
    net.run_until(10 * SECOND, |net| net.hosts[SERVER].requests.len() == 1);
    let (rpc, body) = net.hosts[SERVER].requests.pop_front().unwrap();
    assert!(net.hosts[SERVER].endpoint.reply(rpc, bytes::Bytes::from(body.into_vec())));
    net.pump(SERVER);
    net.run_until(10 * SECOND, |net| net.ended(CLIENT) == 1);
    assert_eq!(net.hosts[CLIENT].ended[&1], Ok(vec![7; 100_000]));
    let stats = net.hosts[SERVER].endpoint.stats();
    assert!(stats.dropped_bad_tag > 100 && stats.records_not_authentic > 100, "{stats:?}");
    assert_once(&net);
    net.assert_clean();
}

#[test]
fn rewritten_lengths_are_refused() {
    let mut net = Net::new(3, Config::default());
    net.call(CLIENT, vec![1; 10_000], 1);
    let packets = net.take_in_flight();
    let stride = u32::from(u16::from_be_bytes([packets[0].bytes[9], packets[0].bytes[10]])) + 22;
    for records in 1..8 {
        for packet in &packets {
            let mut cut = packet.bytes.clone();
            cut[28..32].copy_from_slice(&(records * stride).to_be_bytes());
            cut[32..36].copy_from_slice(&(records * stride).to_be_bytes());
            net.inject(SERVER, cut.clone());
            cut[9..11].copy_from_slice(&((records * stride - 22) as u16).to_be_bytes());
            net.inject(SERVER, cut);
        }
    }
    assert_eq!(net.hosts[SERVER].endpoint.incoming_bytes(), 0);
    assert_eq!(net.hosts[SERVER].endpoint.stats().records_opened, 0);
    net.run_until(10 * SECOND, |net| net.ended(CLIENT) == 1);
    assert_eq!(net.hosts[CLIENT].ended[&1], Ok(vec![1; 10_000]));
    net.assert_clean();
}

#[test]
fn records_do_not_move_between_messages_or_sessions() {
    let mut nets = [Net::new(4, Config::default()), Net::new(5, Config::default())];
    for net in &mut nets {
        net.call(CLIENT, vec![1; 3000], 1);
        net.call(CLIENT, vec![2; 3000], 2);
    }
    let [mut net, mut other] = nets;
    let (own, foreign) = (net.take_in_flight(), other.take_in_flight());
    // Every header with every other payload of its length, of this session and of the other one.
    for (i, header) in own.iter().enumerate() {
        let payloads = own.iter().chain(&foreign).enumerate();
        for (j, payload) in payloads {
            if i != j && payload.bytes.len() == header.bytes.len() {
                let mut spliced = header.bytes[..52].to_vec();
                spliced.extend_from_slice(&payload.bytes[52..]);
                net.inject(SERVER, spliced);
            }
        }
        // And whole packets of the other session.
    }
    for packet in &foreign {
        net.inject(SERVER, packet.bytes.clone());
    }
    assert_eq!(net.hosts[SERVER].endpoint.stats().records_opened, 0);
    assert!(net.hosts[SERVER].executed.is_empty());
    for packet in own {
        net.inject(packet.to, packet.bytes);
    }
    net.run_until(10 * SECOND, |net| net.ended(CLIENT) == 2);
    assert_eq!(net.hosts[CLIENT].ended[&2], Ok(vec![2; 3000]));
    assert_once(&net);
    net.assert_clean();
}

/// For each packet of a message that is resealed over several packets, a forgery comes first.
#[test]
fn pinned_packets_win_against_forgeries_that_race() {
    for seed in 0..10 {
        let mut net =
            Net::with(seed, [Config::default(), Config::default()], SuiteId::Aes128GcmSha256, 8980);
        net.call(CLIENT, vec![9; 60_000], 1);
        // The path shrinks after the message was cut: each record takes many packets from now on.
        let session = net.hosts[CLIENT].session;
        net.hosts[CLIENT].endpoint.set_room(session, 1480);
        net.take_in_flight();
        let mut random = Seeded(seed);
        let mut pinned = 0;
        for _ in 0..2000 {
            for packet in net.take_in_flight() {
                let is_data = packet.bytes[11] == 0x10 && packet.to == SERVER;
                if is_data {
                    pinned += u32::from(packet.bytes[48] & 4 != 0);
                    let mut forged = packet.bytes.clone();
                    let at = 52 + random.below(forged.len() as u64 - 52) as usize;
                    forged[at] ^= 0x55;
                    // Many at once: they must not put off what the receiver does in its own time.
                    for _ in 0..3 {
                        net.inject(SERVER, forged.clone());
                    }
                }
                net.inject(packet.to, packet.bytes);
            }
            if net.ended(CLIENT) == 1 {
                break;
            }
            net.step();
        }
        assert_eq!(net.hosts[CLIENT].ended.get(&1), Some(&Ok(vec![9; 60_000])), "seed {seed}");
        assert!(pinned > 0, "seed {seed}: nothing was pinned");
        assert_once(&net);
        net.assert_clean();
    }
}

/// Forged whole records under a real header, faster than any timer, while the real packet is lost
/// once: the receiver must still ask for it.
#[test]
fn a_stream_of_forgeries_does_not_put_off_recovery() {
    let mut net = Net::new(6, Config::default());
    net.call(CLIENT, vec![1; 5000], 1);
    let mut packets = net.take_in_flight();
    let lost = packets.remove(1);
    for packet in packets {
        net.inject(SERVER, packet.bytes);
    }
    let mut forged = lost.bytes;
    forged[60] ^= 1;
    for _ in 0..2000 {
        net.inject(SERVER, forged.clone());
        net.run_for(Duration::from_micros(10));
    }
    assert_eq!(net.hosts[CLIENT].ended.get(&1), Some(&Ok(vec![1; 5000])));
    net.assert_clean();
}

fn forged_controls(random: &mut Seeded, from: usize, id: u64) -> Vec<Vec<u8>> {
    let mut ack = AckRanges::new(id & !1);
    assert!(ack.push(id & !1, (id & !1) + 400));
    let (offset, length) = (random.next() as u32, random.next() as u32);
    let bodies = [
        ControlBody::Grant { offset, priority: 0 },
        ControlBody::Resend { offset, length, priority: 0, pinned: false },
        ControlBody::Resend { offset: 0, length: u32::MAX, priority: 0, pinned: true },
        ControlBody::Unknown(UnknownCode::NeverAccepted),
        ControlBody::Unknown(UnknownCode::Forgotten),
        ControlBody::Busy,
        ControlBody::Cutoffs { cutoffs: [1; 8], version: 1, unscheduled: 1 },
        ControlBody::NeedAck,
        ControlBody::Ack(ack),
        ControlBody::Cancel(CancelCode::Request),
        ControlBody::Cancel(CancelCode::Confirmed),
    ];
    let header =
        Header { src_port: PORTS[from], dst_port: PORTS[1 - from], epoch: 3, message_id: id };
    bodies
        .into_iter()
        .map(|body| {
            let control = Control { header, body, number: random.next() >> 20 };
            let mut packet = vec![0; MAX_CONTROL_LEN];
            let len = control.emit(&mut packet);
            packet.truncate(len);
            let tag = random.next().to_be_bytes();
            packet[len - 8..].copy_from_slice(&tag);
            packet
        })
        .collect()
}

#[test]
fn forged_control_packets_have_no_effect() {
    let mut net = Net::new(7, Config::default());
    net.hosts[SERVER].echo = false;
    net.call(CLIENT, vec![3; 100_000], 1);
    net.record();
    net.run_for(Duration::from_millis(30));
    let mut old: Vec<(usize, Vec<u8>)> = net.recorded.clone();
    old.retain(|(_, packet)| packet[11] != 0x10);
    let mut random = Seeded(8);
    let sent = net.sent;
    let before = [effects(&net, CLIENT), effects(&net, SERVER)];
    for round in 0..100 {
        let first = net.params[CLIENT].first_id;
        for id in [0, first, first | 1, first + 4, net.params[SERVER].first_id, random.next()] {
            for from in [CLIENT, SERVER] {
                for packet in forged_controls(&mut random, from, id) {
                    net.inject(1 - from, packet);
                }
            }
        }
        for (to, packet) in &old {
            // Replayed as it was, and with a new number under the old tag.
            net.inject(*to, packet.clone());
            let mut renumbered = packet.clone();
            let at = packet.len() - 16;
            renumbered[at..at + 8].copy_from_slice(&(10_000 + round as u64).to_be_bytes());
            net.inject(*to, renumbered);
        }
    }
    assert_eq!(before, [effects(&net, CLIENT), effects(&net, SERVER)]);
    assert_eq!(net.sent, sent, "an answer to a forgery");
    let (rpc, body) = net.hosts[SERVER].requests.pop_front().unwrap();
    assert!(net.hosts[SERVER].endpoint.reply(rpc, bytes::Bytes::from(body.into_vec())));
    net.pump(SERVER);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 1);
    assert!(net.hosts[CLIENT].ended[&1].is_ok());
    net.assert_clean();
}

fn no_session(from: usize, id: u64) -> Vec<u8> {
    let header =
        Header { src_port: PORTS[from], dst_port: PORTS[1 - from], epoch: 0, message_id: id };
    let body = ControlBody::Unknown(UnknownCode::NoSession);
    let mut packet = vec![0; MAX_CONTROL_LEN];
    let len = Control { header, body, number: 0 }.emit(&mut packet);
    packet.truncate(len);
    packet
}

#[test]
fn a_flood_of_no_session_costs_probes_and_nothing_else() {
    let mut net = Net::new(9, Config::default());
    net.hosts[SERVER].echo = false;
    net.call(CLIENT, b"slow".to_vec(), 1);
    net.run_for(Duration::from_millis(10));
    let id = net.params[CLIENT].first_id;
    let sent = net.sent;
    for _ in 0..10_000 {
        net.inject(CLIENT, no_session(SERVER, id));
        net.inject(CLIENT, no_session(SERVER, id | 1));
        net.inject(CLIENT, no_session(SERVER, 0));
        net.inject(SERVER, no_session(CLIENT, id));
        net.run_for(Duration::from_micros(1));
    }
    assert!(net.sent - sent < 1000, "{} packets caused by 40000 forged", net.sent - sent);
    assert!(net.hosts[CLIENT].endpoint.stats().probes_sent > 0);
    let (rpc, _) = net.hosts[SERVER].requests.pop_front().unwrap();
    assert!(net.hosts[SERVER].endpoint.reply(rpc, bytes::Bytes::new()));
    net.pump(SERVER);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 1);
    assert!(net.hosts[CLIENT].ended[&1].is_ok());
    assert_once(&net);
}

#[test]
fn a_live_peer_that_stops_for_a_while_is_not_declared_dead_by_a_forgery() {
    let mut net = Net::new(10, Config::default());
    net.hosts[SERVER].echo = false;
    for user in 0..50 {
        net.hosts[SERVER].echo = true;
        net.call(CLIENT, vec![1; 10], user);
        net.run_until(SECOND, |net| net.ended(CLIENT) as u64 == user + 1);
    }
    net.hosts[SERVER].echo = false;
    net.call(CLIENT, b"slow".to_vec(), 99);
    net.run_for(Duration::from_millis(5));
    // The server's process is stopped for 100 ms: nothing gets there or back.
    net.faults.drop = 1.0;
    net.inject(CLIENT, no_session(SERVER, net.params[CLIENT].first_id + 4 * 50));
    net.run_for(Duration::from_millis(100));
    net.faults.drop = 0.0;
    net.run_for(Duration::from_millis(500));
    assert_eq!(net.hosts[CLIENT].closed, None);
    // But a peer that is gone is found out soon.
    net.faults.drop = 1.0;
    net.inject(CLIENT, no_session(SERVER, net.params[CLIENT].first_id + 4 * 50));
    net.run_for(Duration::from_millis(600));
    assert!(net.hosts[CLIENT].closed.is_some());
}

#[test]
fn replayed_data_does_not_keep_a_dead_peer_alive() {
    let mut net = Net::new(11, Config::default());
    net.record();
    net.call(CLIENT, vec![1; 10], 1);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 1);
    let replay = net.recorded_to(CLIENT).remove(0);
    net.faults.drop = 1.0;
    for _ in 0..70 {
        net.run_for(SECOND);
        net.inject(CLIENT, replay.clone());
    }
    assert!(net.hosts[CLIENT].closed.is_some());
}

#[test]
fn garbage_of_every_length_is_dropped() {
    let mut net = Net::new(12, Config::default());
    let mut random = Seeded(13);
    net.call(CLIENT, vec![1; 100], 1);
    let packets = net.take_in_flight();
    let real = packets.into_iter().find(|p| p.bytes[11] == 0x10).unwrap().bytes;
    for len in 0..1600 {
        for host in [CLIENT, SERVER] {
            let mut garbage = random.bytes(len);
            net.inject(host, garbage.clone());
            // With a plausible header in front, for this session and for handshakes.
            let plausible = len.min(52);
            garbage[..plausible].copy_from_slice(&real[..plausible]);
            net.inject(host, garbage.clone());
            if len > 36 {
                garbage[36] ^= 1;
                net.inject(host, garbage.clone());
            }
            if len >= 52 {
                let mut flight = Data::parse(&real).unwrap();
                flight.header.epoch = 0;
                flight.record_size = 0;
                flight.header.message_id = random.below(3);
                flight.sequence = random.below(200) as u32;
                flight.message_len = random.next() as u32 >> random.below(31);
                flight.message_len = flight.message_len.max(1);
                flight.incoming = flight.message_len;
                flight.emit((&mut garbage[..52]).try_into().unwrap());
                net.inject(host, garbage);
            }
        }
    }
    net.run_for(30 * SECOND);
    assert!(net.hosts[CLIENT].ended[&1].is_ok());
    assert_eq!(net.hosts[SERVER].endpoint.session_count(), 1, "half-open ones time out");
    assert_once(&net);
    net.assert_clean();
}
