use super::*;
use crate::packet::Origin;

const SECOND: u64 = 1_000_000_000;

fn packet(src: HostId, dst: HostId) -> Packet {
    Packet { src, dst, bytes: vec![0; 1000], ..Packet::default() }
}

/// What becomes of packets from host 0 to host 1, one each microsecond.
fn strike(faults: &mut Faults, packets: u64) -> Vec<(Verdict, Packet, usize)> {
    let mut extra = Vec::new();
    (0..packets)
        .map(|n| {
            let mut packet = packet(0, 1);
            extra.clear();
            let verdict = faults.packet(Time::from_nanos(n * 1000), &mut packet, &mut extra);
            (verdict, packet, extra.len())
        })
        .collect()
}

fn one(fault: Fault) -> Faults {
    Faults::new(vec![fault.into()], 42)
}

#[track_caller]
fn near(count: usize, expected: f64) {
    let (low, high) = (expected * 0.8, expected * 1.2);
    assert!((low..high).contains(&(count as f64)), "{count} for {expected}");
}

#[test]
fn losses_have_their_rate_and_are_counted() {
    let mut faults = one(Fault::Loss { p: 0.05 });
    let struck = faults.struck();
    let fates = strike(&mut faults, 100_000);
    let lost = fates.iter().filter(|fate| fate.0 == Verdict::Drop).count();
    near(lost, 5000.0);
    assert_eq!(struck.get(0), lost as u64);
    assert_eq!(struck.iter().collect::<Vec<_>>(), [lost as u64]);
    assert_eq!(struck.get(1), 0);
}

#[test]
fn bursts_have_their_length_and_share() {
    let (p_enter, p_leave) = (0.01, 0.1);
    let fault = Fault::GilbertElliott { p_enter, p_leave, loss_bad: 1.0, loss_good: 0.0 };
    let fates = strike(&mut one(fault), 200_000);
    let lost: Vec<bool> = fates.iter().map(|fate| fate.0 == Verdict::Drop).collect();
    near(lost.iter().filter(|&&lost| lost).count(), 200_000.0 / 11.0);
    let bursts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count();
    near(bursts, 200_000.0 / 110.0);
}

#[test]
fn each_sender_has_a_link_of_its_own() {
    let fault = Fault::GilbertElliott { p_enter: 1.0, p_leave: 0.0, loss_bad: 1.0, loss_good: 0.0 };
    let place = Place::From(vec![0]);
    let mut faults = Faults::new(vec![Rule { place, ..fault.into() }], 1);
    let mut pass = |src| faults.packet(Time::ZERO, &mut packet(src, 2), &mut Vec::new());
    assert_eq!((pass(0), pass(1)), (Verdict::Drop, Verdict::Pass));
}

#[test]
fn packets_are_held_back_and_doubled_within_their_bounds() {
    let reorder = Fault::Reorder { p: 0.5, max_delay_us: 10 };
    let duplicate = Fault::Duplicate { p: 0.25, max_delay_us: 5 };
    let mut faults = Faults::new(vec![reorder.into(), duplicate.into()], 3);
    let fates = strike(&mut faults, 10_000);
    let late = fates.iter().filter_map(|fate| match fate.0 {
        Verdict::Delay(by) => Some(by),
        _ => None,
    });
    assert!(late.clone().all(|by| !by.is_zero() && by <= Duration::from_micros(10)));
    near(late.count(), 5000.0);
    near(fates.iter().map(|fate| fate.2).sum(), 2500.0);
}

#[test]
fn a_lost_packet_takes_its_duplicates_with_it() {
    let duplicate = Fault::Duplicate { p: 1.0, max_delay_us: 5 };
    let mut faults = Faults::new(vec![duplicate.into(), Fault::Loss { p: 1.0 }.into()], 3);
    assert!(strike(&mut faults, 10).iter().all(|fate| fate.0 == Verdict::Drop && fate.2 == 0));
}

#[test]
fn corruption_always_changes_bytes_and_says_so() {
    let fates = strike(&mut one(Fault::Corrupt { p: 0.5, max_bits: 4 }), 10_000);
    let mut corrupted = 0;
    for (verdict, packet, _) in fates {
        assert_eq!(verdict, Verdict::Pass);
        let flipped: u32 = packet.bytes.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(packet.origin == Origin::Corrupted, flipped > 0);
        assert!(flipped <= 4);
        corrupted += usize::from(flipped > 0);
    }
    near(corrupted, 5000.0);
}

#[test]
fn what_is_sent_during_a_stall_goes_on_at_its_end() {
    let fault = Fault::DelaySpike { period_us: 900, duration_us: 100 };
    let fates = strike(&mut one(fault), 100_000);
    let mut ends = std::collections::BTreeSet::new();
    let mut late = 0;
    for (n, fate) in (0..).zip(&fates) {
        if let Verdict::Delay(by) = fate.0 {
            late += 1;
            assert!(by <= Duration::from_micros(100));
            ends.insert(Time::from_nanos(n * 1000) + by);
        }
    }
    near(late, 10_000.0);
    near(ends.len(), 100.0);
}

#[test]
fn a_partition_cuts_both_ways_until_it_heals() {
    let fault = Fault::Partition { hosts: vec![0, 1] };
    let rule = Rule { from_us: 10, until_us: 20, ..fault.into() };
    let mut faults = Faults::new(vec![rule], 1);
    let mut dropped = |src, dst, us: u64| {
        let now = Time::from_nanos(us * 1000);
        faults.packet(now, &mut packet(src, dst), &mut Vec::new()) == Verdict::Drop
    };
    assert!(dropped(0, 2, 10) && dropped(2, 1, 19));
    assert!(!dropped(0, 1, 15) && !dropped(2, 3, 15));
    assert!(!dropped(0, 2, 9) && !dropped(0, 2, 20));
}

#[test]
fn a_clogged_link_delays_and_then_drops() {
    // A packet of 1058 bytes on the wire takes 8464 ns at 1 Gb/s; two fit behind the first.
    let mut faults = one(Fault::Clog { gbps: 1.0, queue_bytes: 2200 });
    let mut pass =
        |dst, ns| faults.packet(Time::from_nanos(ns), &mut packet(0, dst), &mut Vec::new());
    for turn in 1..=3 {
        assert_eq!(pass(1, 0), Verdict::Delay(Duration::from_nanos(8464 * turn)));
    }
    assert_eq!(pass(1, 0), Verdict::Drop);
    assert_eq!(pass(2, 0), Verdict::Delay(Duration::from_nanos(8464)));
    assert_eq!(pass(1, SECOND), Verdict::Delay(Duration::from_nanos(8464)));
}

#[test]
fn places_choose_packets() {
    let between = Place::Between(vec![0], vec![1, 2]);
    assert!(between.has(0, 2) && between.has(1, 0) && !between.has(1, 2) && !between.has(0, 3));
    assert!(Place::From(vec![4]).has(4, 0) && !Place::From(vec![4]).has(0, 4));
    assert!(Place::To(vec![4]).has(0, 4) && !Place::To(vec![4]).has(4, 0));
}

#[test]
fn adding_a_rule_leaves_the_others_alone() {
    let fates = |rules| {
        let fates = strike(&mut Faults::new(rules, 9), 1000);
        fates.into_iter().map(|fate| fate.1.bytes).collect::<Vec<_>>()
    };
    let corrupt = Rule::from(Fault::Corrupt { p: 0.1, max_bits: 3 });
    let reorder = Rule::from(Fault::Reorder { p: 0.1, max_delay_us: 3 });
    assert_eq!(fates(vec![corrupt.clone()]), fates(vec![corrupt, reorder]));
}

#[test]
fn rules_are_read_and_written() {
    let text = r#"[
        {"fault": {"loss": {"p": 0.1}}},
        {"fault": {"clog": {"gbps": 1.0, "queue_bytes": 10000}}, "place": {"to": [3]}, "until_us": 5},
        {"fault": {"partition": {"hosts": [1]}}, "place": {"between": [[1], [2]]}, "from_us": 7}
    ]"#;
    let rules: Vec<Rule> = serde_json::from_str(text).unwrap();
    assert_eq!(rules[0], Fault::Loss { p: 0.1 }.into());
    assert_eq!((rules[1].until_us, rules[2].from_us), (5, 7));
    let again = serde_json::to_string(&rules).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Rule>>(&again).unwrap(), rules);
    assert!(serde_json::from_str::<Rule>(r#"{"fault": {"loss": {"p": 1, "q": 2}}}"#).is_err());
}
