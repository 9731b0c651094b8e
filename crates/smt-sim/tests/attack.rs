//! Plans of attackers: drawn, written, shrunk, and the same attack for the same seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::Duration;

use smt_proto::Time;
use smt_proto::wire::{Control, ControlBody, DATA_LEN, Data, Header};
use smt_sim::attack::{Field, Plan, Tally};
use smt_sim::packet::{Origin, Packet};
use smt_sim::rng::Rng;
use smt_sim::stack::Stack;
use smt_sim::tap::{Tap, Verdict};

const HONEST: u32 = 3;
const UNTIL_US: u64 = 5_000;

fn plans(seeds: u64) -> impl Iterator<Item = Plan> {
    (0..seeds).map(|seed| Plan::draw(&mut Rng::new(seed), HONEST, UNTIL_US))
}

#[test]
fn drawn_plans_cover_every_kind_and_sometimes_have_none() {
    let mut names = BTreeSet::new();
    let mut none = 0;
    for plan in plans(200) {
        none += u32::from(plan.is_none());
        names.extend(plan.on_path.iter().map(|attacker| attacker.act.name()));
        names.extend(plan.off_path.iter().map(|attacker| attacker.spoof.name()));
        let packets = plan.on_path.iter().map(|attacker| attacker.max_packets).sum::<u32>()
            + plan.off_path.iter().map(|attacker| attacker.max_packets).sum::<u32>();
        assert!(packets <= 4000);
    }
    // 15 that do not change packets, 5 changes and one for each field, 6 off the path.
    assert_eq!(names.len(), 15 + 5 + Field::ALL.len() + 6, "{names:?}");
    assert!((20..100).contains(&none), "{none}");
}

#[test]
fn a_plan_survives_json_and_says_what_it_does_not_know() {
    for plan in plans(100) {
        let json = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan, "{json}");
    }
    assert_eq!(serde_json::from_str::<Plan>("{}").unwrap(), Plan::default());
    assert!(serde_json::from_str::<Plan>(r#"{"unheard_of": 1}"#).is_err());
    let act = r#"{"on_path": [{"salt": 1, "max_packets": 1, "act": {"trim": {"permil": 1}}}]}"#;
    assert!(serde_json::from_str::<Plan>(act).is_err());
}

#[test]
fn a_plan_shrinks_part_by_part() {
    for plan in plans(100) {
        for part in 0..plan.parts() {
            let smaller = plan.without(part);
            assert_eq!(smaller.parts(), plan.parts() - 1);
            assert!(smaller.on_path.iter().all(|attacker| plan.on_path.contains(attacker)));
            assert!(smaller.off_path.iter().all(|attacker| plan.off_path.contains(attacker)));
        }
        assert_eq!(plan.without(plan.parts()), plan);
    }
}

/// What is told of a packet: after which time it goes on, and how it is then.
type Told = (Option<Verdict>, Duration, u32, u32, Origin, bool, Vec<u8>);

fn tell(verdict: Option<Verdict>, after: Duration, packet: &Packet) -> Told {
    let Packet { src, dst, origin, trimmed, .. } = *packet;
    (verdict, after, src, dst, origin, trimmed, packet.bytes.clone())
}

/// Everything that a plan's attackers make of some traffic, in order.
fn outcome(plan: &Plan, seed: u64) -> (Vec<Told>, Tally) {
    let tally = Tally::default();
    let mut taps = plan.taps(HONEST, seed, &tally);
    let mut log = Vec::new();
    for step in 0..600u64 {
        let now = Time::from_nanos(step * 10_000);
        through(&mut taps, now, packet(step), &mut log);
        for tap in &mut taps {
            while tap.next_timeout().is_some_and(|due| due <= now) {
                let mut extra = Vec::new();
                tap.timeout(now, &mut extra);
                log.extend(extra.iter().map(|(after, made)| tell(None, *after, made)));
            }
        }
    }
    for index in 0..plan.off_path_hosts() {
        let mut host = plan.off_path(index, HONEST + index, HONEST, seed, &tally);
        while let Some(due) = host.next_timeout() {
            host.timeout(due);
            let mut packet = Packet::default();
            while host.transmit(due, &mut packet) {
                log.push(tell(None, due.since(Time::ZERO), &packet));
            }
        }
    }
    (log, tally)
}

/// Sends a packet through all taps; what one adds is seen by those after it.
fn through(taps: &mut [Box<dyn Tap>], now: Time, mut packet: Packet, log: &mut Vec<Told>) {
    let genuine = packet.clone();
    for at in 0..taps.len() {
        let mut extra: Vec<(Duration, Packet)> = Vec::new();
        let verdict = taps[at].packet(now, &mut packet, &mut extra);
        for (delay, made) in extra {
            assert!(matches!(made.origin, Origin::Replayed | Origin::Forged));
            log.push(tell(None, delay, &made));
            through(&mut taps[at + 1..], now, made, log);
        }
        log.push(tell(Some(verdict), Duration::ZERO, &packet));
        if verdict == Verdict::Drop {
            return;
        }
    }
    if packet.origin == Origin::Genuine && packet.bytes.len() == genuine.bytes.len() {
        let differs = |at: &usize| packet.bytes[*at] != genuine.bytes[*at];
        assert!((0..packet.bytes.len()).filter(differs).all(|at| [13, 16, 17].contains(&at)));
    }
}

#[test]
fn the_same_seed_gives_the_same_attack_and_another_seed_another() {
    let mut busy = 0;
    for plan in plans(30) {
        let (first, tally) = outcome(&plan, 5);
        let (second, again) = outcome(&plan, 5);
        assert_eq!(first, second);
        assert_eq!(tally.counts(), again.counts());
        if tally.total() > 100 {
            busy += 1;
            assert_ne!(first, outcome(&plan, 6).0);
        }
    }
    assert!(busy >= 10, "{busy}");
}

#[test]
fn nothing_is_done_after_the_end() {
    for plan in plans(30) {
        let plan = Plan { until_us: 0, ..plan };
        let (_, tally) = outcome(&plan, 1);
        assert_eq!(tally.total(), 0);
    }
}

/// Handshakes, messages and control packets between the honest hosts.
fn packet(step: u64) -> Packet {
    let (src, dst) = ((step % 3) as u32, ((step + 1) % 3) as u32);
    let header =
        Header { src_port: 40_000, dst_port: 4433, epoch: 3, message_id: 4 + 4 * (step / 8) };
    let mut bytes = vec![0; 100];
    if step % 4 == 3 {
        let body = ControlBody::Grant { offset: step as u32, priority: 0 };
        let len = Control { header, body, number: step }.emit(&mut bytes);
        bytes.truncate(len);
    } else {
        bytes.resize(DATA_LEN + 1000, step as u8);
        let flight = step % 4 == 2;
        let data = Data {
            header: if flight { Header { epoch: 0, message_id: 0, ..header } } else { header },
            sequence: (step % 8) as u32 * 1000,
            record_size: if flight { 0 } else { 978 },
            segment_size: 1000,
            message_len: 8000,
            incoming: 8000,
            tag: step,
            cutoffs: 0,
            retransmit: step % 16 == 1,
            explicit: true,
            pinned: false,
            bundle: false,
            tso_offset: 0,
        };
        data.emit(bytes.first_chunk_mut().unwrap());
    }
    Packet { bytes, src, dst, ..Packet::default() }
}
