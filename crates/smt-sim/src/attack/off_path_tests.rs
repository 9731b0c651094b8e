use std::collections::BTreeSet;

use super::super::samples::flight;
use super::super::sight::see;
use super::*;

fn host(spoof: Spoof, max_packets: u32) -> OffPath {
    let plan = OffPathPlan { salt: 1, max_packets, per_ms: 100, spoof };
    let all = Plan { until_us: 10_000, ..Plan::default() };
    OffPath::new(plan, &all, 2, 2, Rng::new(1), Tally::default())
}

/// All that it sends of its own accord, and when.
fn run(host: &mut OffPath) -> Vec<(Time, Packet)> {
    let mut sent = Vec::new();
    while let Some(due) = host.next_timeout() {
        host.timeout(due);
        let mut packet = Packet::default();
        while host.transmit(due, &mut packet) {
            sent.push((due, packet.clone()));
        }
    }
    sent
}

#[test]
fn sends_at_its_rate_under_other_names_until_the_end() {
    for spoof in [Spoof::Packets, Spoof::Garbage, Spoof::NoSession] {
        let sent = run(&mut host(spoof, 5000));
        assert!((800..1200).contains(&sent.len()), "{spoof:?}: {}", sent.len());
        let names: BTreeSet<HostId> = sent.iter().map(|(_, packet)| packet.src).collect();
        assert_eq!(names, [0, 1, 2].into());
        for (at, packet) in sent {
            assert!(at < Time::from_nanos(10_000_000) && packet.dst < 2);
            assert_eq!(packet.origin, Origin::Forged);
        }
        assert_eq!(run(&mut host(spoof, 50)).len(), 50);
    }
}

#[test]
fn packets_are_of_every_type_and_well_formed_and_garbage_is_of_every_length() {
    let sent = run(&mut host(Spoof::Packets, 5000));
    let kinds: BTreeSet<u8> = sent.iter().map(|(_, packet)| packet.bytes[11]).collect();
    for kind in [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x17, 0x18, 0x20] {
        assert!(kinds.contains(&kind), "{kind:#x}");
    }
    let formed = sent.iter().filter(|(_, packet)| see(&packet.bytes).is_some()).count();
    assert!(formed * 10 > sent.len() * 9);

    let sent = run(&mut host(Spoof::Garbage, 5000));
    let lens: BTreeSet<usize> = sent.iter().map(|(_, packet)| packet.bytes.len()).collect();
    assert!(lens.len() > 400 && *lens.first().unwrap() < 30 && *lens.last().unwrap() > 1450);
}

#[test]
fn hellos_come_from_many_places_and_visits_from_its_own() {
    let tokens = |spoof, own: bool| {
        let sent = run(&mut host(spoof, 1000));
        let mut tokens = BTreeSet::new();
        for (_, packet) in sent {
            let data = Data::parse(&packet.bytes).unwrap();
            assert_eq!((data.header.epoch, data.header.dst_port), (0, 4433));
            assert!(!own || packet.src == 2);
            tokens.insert((data.tag, data.header.src_port, packet.src));
        }
        tokens.len()
    };
    assert!(tokens(Spoof::Hellos, false) > 300);
    assert!(tokens(Spoof::Visits, true) > 300);
}

#[test]
fn a_visitor_answers_flights_with_garbage_and_others_answer_nothing() {
    let mut answer = flight(77, 1);
    (answer.src, answer.dst) = (1, 2);
    for (spoof, answers) in [(Spoof::Visits, true), (Spoof::Packets, false)] {
        let mut host = host(spoof, 1000);
        for _ in 0..20 {
            host.receive(Time::ZERO, &mut answer);
        }
        let mut packet = Packet::default();
        let mut count = 0;
        while host.transmit(Time::ZERO, &mut packet) {
            count += 1;
            assert_eq!((packet.src, packet.dst, packet.origin), (2, 1, Origin::Forged));
            let data = Data::parse(&packet.bytes).unwrap();
            assert!(data.header.epoch == 3 || data.tag == 77);
        }
        assert_eq!(count > 5, answers);
    }
}
