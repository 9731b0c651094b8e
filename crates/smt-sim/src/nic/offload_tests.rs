use bytes::Bytes;
use smt_proto::crypto::{SuiteId, aws_lc};
use smt_proto::keys::Secret;
use smt_proto::record::{Layout, open, sequence_number};
use smt_proto::wire::{Data, RECORD_OVERHEAD};
use smt_proto::{Config, Endpoint, Event, External, PacketMeta, Path, Role, Time, Updates};

use super::*;
use crate::net::address;
use crate::rng::Rng;

const EPOCH: u32 = 3;
const ID_BITS: u8 = 48;

fn secret(session: u64) -> Secret {
    Secret::new(&[session as u8 + 1; 32])
}

fn keys(session: u64) -> EpochKeys {
    EpochKeys::new(aws_lc::suite(SuiteId::Aes128GcmSha256), secret(session), EPOCH)
}

/// A packet as the core sealed it, and as a driver would get it.
struct Sent {
    sealed: Vec<u8>,
    unsealed: Unsealed,
}

/// What the client of a session sends, calls of `sizes` one after the other, as far as it is whole records.
fn session(number: u64, sizes: &[usize]) -> Vec<Sent> {
    let mut ends =
        [0, 1].map(|me: u64| Endpoint::new(Config::default(), Box::new(Rng::new(2 * number + me))));
    let roles = [Role::Client, Role::Server];
    let params = [0, 1].map(|me| ends[me].parameters(roles[me]));
    let sessions = [0, 1].map(|me| {
        let external = External {
            path: Path {
                remote: address(1 - me as u32),
                remote_port: 2 - me as u16,
                local_port: 1 + me as u16,
                local: None,
            },
            role: roles[me],
            suite: aws_lc::suite(SuiteId::Aes128GcmSha256),
            client_secret: secret(number),
            server_secret: secret(100 + number),
            local: params[me],
            peer: params[1 - me],
            room: 1480,
            updates: Updates::Derived,
        };
        let session = ends[me].add_session(Time::ZERO, external).unwrap();
        ends[me].set_segment_limit(session, 65_515);
        session
    });
    let (mut all, mut frame, mut now) = (Vec::new(), vec![0; 65_535], 0);
    let mut waiting = sizes.iter();
    let mut open_calls = 0;
    loop {
        let mut quiet = true;
        for me in [0, 1] {
            now += 10_000;
            let time = Time::from_nanos(now);
            while let Some(sent) = ends[me].poll_transmit(time, &mut frame) {
                quiet = false;
                if me == 0 {
                    all.extend(unseal(number, &frame[..sent.len]));
                }
                let (remote, local) = (address(me as u32), address(1 - me as u32).ip());
                let meta = PacketMeta { remote, local, ip_id: Some(0) };
                ends[1 - me].handle_packet(time, &meta, &mut frame[..sent.len]);
            }
            while let Some(event) = ends[me].poll_event() {
                match event {
                    Event::Request { rpc, .. } => assert!(ends[me].reply(rpc, Bytes::new())),
                    Event::Response { .. } => open_calls -= 1,
                    _ => {}
                }
            }
        }
        if quiet && open_calls == 0 {
            let Some(size) = waiting.next() else { break };
            let deadline = Time::from_nanos(now + 1_000_000_000);
            ends[0].start_call(sessions[0], vec![7; *size].into(), deadline, 0).unwrap();
            open_calls += 1;
        }
    }
    assert_eq!(ends[0].stats().tso_confirmed, 1);
    assert!(ends[0].stats().tso_segments_sent > 1);
    all
}

/// Takes the seals off a DATA packet of whole records.
fn unseal(session: u64, sealed: &[u8]) -> Option<Sent> {
    let data = Data::parse(sealed).ok()?;
    let layout = Layout::from_wire(data.record_size, data.message_len, ID_BITS).ok()?;
    let (header, payload) = sealed.split_at(DATA_LEN);
    let wire = layout.wire_range(data.tso_offset);
    if data.sequence != wire.start {
        return None;
    }
    let first = sequence_number(data.header.message_id, ID_BITS, data.tso_offset)?;
    let (mut packet, mut rest, mut number) = (header.to_vec(), payload, first);
    while !rest.is_empty() {
        let len = record_len(rest).filter(|len| *len <= rest.len())?;
        let (record, others) = rest.split_at(len);
        let mut plain = vec![0; len - RECORD_OVERHEAD as usize + 1];
        open(&keys(session), number, record, &mut plain).unwrap();
        packet.extend_from_slice(&record[..RECORD_HEADER_LEN]);
        packet.extend_from_slice(&plain[..plain.len() - 1]);
        packet.extend_from_slice(&[0; 17]);
        (rest, number) = (others, number + 1);
    }
    let unsealed = Unsealed { session: (session, EPOCH), first, packet };
    Some(Sent { sealed: sealed.to_vec(), unsealed })
}

/// Lets a device read its queues in an order by chance until they are empty; what left by each.
fn drain(device: &mut Device, rng: &mut Rng) -> Vec<Vec<Vec<u8>>> {
    let mut left = vec![Vec::new(); device.queues()];
    loop {
        let waiting: Vec<usize> =
            (0..device.queues()).filter(|queue| device.is_waiting(*queue)).collect();
        let Some(queue) = rng.pick(&waiting).copied() else { return left };
        left[queue].extend(device.read(queue));
    }
}

const SIZES: [usize; 9] = [9000, 100, 60_000, 40_000, 20, 3000, 100_000, 1407, 15_000];

#[test]
fn segments_sealed_by_a_device_are_those_that_software_seals_in_whatever_order_queues_are_read() {
    let sessions: Vec<Vec<Sent>> = (0..3).map(|number| session(number, &SIZES)).collect();
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let (queues, contexts) = (rng.between(1, 4) as usize, rng.between(0, 12) as usize);
        let mut driver = Driver::new(Device::new(queues, contexts));
        let mut expected = vec![Vec::new(); queues];
        let mut left = vec![Vec::new(); queues];
        let mut next = [0; 3];
        while let Some(of) = {
            let some: Vec<usize> = (0..3).filter(|of| next[*of] < sessions[*of].len()).collect();
            rng.pick(&some).copied()
        } {
            let sent = &sessions[of][next[of]];
            next[of] += 1;
            // Messages spread over the queues, and packets of one message, too.
            let queue = rng.below(queues as u64) as usize;
            driver.send(queue, sent.unsealed.clone(), || keys(of as u64));
            expected[queue].push(sent.sealed.clone());
            if rng.chance(0.05) {
                let now = drain(&mut driver.device, &mut rng);
                left.iter_mut().zip(now).for_each(|(all, now)| all.extend(now));
            }
        }
        let now = drain(&mut driver.device, &mut rng);
        left.iter_mut().zip(now).for_each(|(all, now)| all.extend(now));
        assert!(left == expected, "seed {seed}: {queues} queues, {contexts} contexts");
        let all: usize = sessions.iter().map(Vec::len).sum();
        let [by_software, resyncs] = driver.counts;
        assert_eq!(by_software == all as u64, contexts == 0, "seed {seed}");
        if contexts >= 3 * queues {
            assert_eq!(by_software, 0, "one for each queue and session");
            assert!(resyncs > 0);
            assert!((0..3).all(|of| driver.forget((of, EPOCH))));
        }
    }
}

#[test]
fn messages_in_order_need_no_resync_within() {
    let sent = session(0, &[9000, 9000, 200_000]);
    let mut driver = Driver::new(Device::new(1, 1));
    let (mut messages, mut last) = (0, 0);
    for packet in &sent {
        let data = Data::parse(&packet.sealed).unwrap();
        messages += u64::from(std::mem::replace(&mut last, data.header.message_id) != last);
        driver.send(0, packet.unsealed.clone(), || keys(0));
    }
    // The records of packets that held no whole one leave holes, which cost one each.
    let holes = sent.windows(2).filter(|pair| {
        let (a, b) = (&pair[0].unsealed, &pair[1].unsealed);
        a.first + count_records(&a.packet[DATA_LEN..]) != b.first
    });
    assert_eq!(driver.counts, [0, holes.count() as u64]);
    assert!(driver.counts[1] >= messages - 1);
}

#[test]
fn contexts_are_not_taken_from_what_waits() {
    let sent = [session(0, &SIZES), session(1, &SIZES)];
    let mut driver = Driver::new(Device::new(1, 1));
    driver.send(0, sent[0][0].unsealed.clone(), || keys(0));
    driver.send(0, sent[1][0].unsealed.clone(), || keys(1));
    assert_eq!(driver.counts[0], 1, "the only context is in use");
    assert!(!driver.forget((0, EPOCH)));
    let left = drain(&mut driver.device, &mut Rng::new(1));
    assert!(left[0] == [sent[0][0].sealed.clone(), sent[1][0].sealed.clone()]);
    driver.send(0, sent[1][1].unsealed.clone(), || keys(1));
    assert_eq!(driver.counts[0], 1, "now it is free");
    assert!(driver.forget((0, EPOCH)) && !driver.forget((1, EPOCH)));
}

/// Two segments of a session by two queues, with one context between them, as a scheme has it that numbers
/// all records of a session in one row; read in the order `reads`. Which came out as software seals them.
fn one_context(resync: bool, reads: &[usize]) -> [bool; 2] {
    let sent = session(0, &[9000, 30_000, 30_000]);
    let whole: Vec<&Sent> = sent.iter().filter(|sent| sent.sealed.len() > 20_000).collect();
    let (first, second) = (&whole[0], &whole[1]);
    let mut device = Device::new(2, 1);
    // Sealed under consecutive numbers, as the scheme would.
    let mut software = Context { keys: keys(0), next: 1000 };
    let mut expected = [first.unsealed.packet.clone(), second.unsealed.packet.clone()];
    let starts = expected.each_mut().map(|packet| {
        let start = software.next;
        software.seal(&mut packet[DATA_LEN..]);
        start
    });
    let context = device.add_context(keys(0), 1000).unwrap();
    for (queue, sent) in [first, second].into_iter().enumerate() {
        if resync {
            device.post(queue, Descriptor::Resync(context, starts[queue]));
        }
        device.post(queue, Descriptor::Seal(context, sent.unsealed.packet.clone()));
    }
    let mut same = [false; 2];
    for queue in reads {
        if let Some(packet) = device.read(*queue) {
            same[*queue] = packet == expected[*queue];
        }
    }
    same
}

#[test]
fn one_sequence_for_all_records_of_a_session_breaks_as_soon_as_there_are_two_queues() {
    assert_eq!(one_context(false, &[0, 1]), [true, true], "in the order of posting all is well");
    assert_eq!(one_context(false, &[1, 0]), [false, false]);
    // Resyncs do not help: reading them and the packet behind is not one step.
    assert_eq!(one_context(true, &[0, 0, 1, 1]), [true, true]);
    assert_eq!(one_context(true, &[1, 1, 0, 0]), [true, true]);
    assert_eq!(one_context(true, &[0, 1, 0, 1]), [false, false]);
    assert_eq!(one_context(true, &[0, 1, 1, 0]), [false, true]);
}
