use std::net::SocketAddr;

use super::*;
use crate::memory::{Memory, pair};

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
const LONG: Duration = Duration::from_secs(3600);

fn send(from: &mut impl Datapath, values: impl IntoIterator<Item = u8>) {
    for value in values {
        let Some(frame) = from.frame() else { panic!("burst too long for the test") };
        frame[..100].fill(value);
        from.commit(TxMeta {
            dst: SocketAddr::new(B, 0),
            src: None,
            len: 100,
            priority: 7,
            segment: None,
            lane: 0,
        });
    }
    from.flush().unwrap();
}

/// First bytes of all packets there are.
fn receive(by: &mut impl Datapath) -> Vec<u8> {
    let mut values = Vec::new();
    loop {
        let count = by.recv().unwrap();
        values.extend((0..count).map(|index| by.packet(index).1[99]));
        if count == 0 {
            return values;
        }
    }
}

fn faulty_sender(rules: Rules) -> (Faulty<Memory>, Memory) {
    let (left, right) = pair(A, B, 1500).unwrap();
    (Faulty::new(left, 1, Rules::NONE, rules), right)
}

#[test]
fn without_rules_all_packets_pass_in_order() {
    let (mut left, mut right) = faulty_sender(Rules::NONE);
    send(&mut left, 0..64);
    assert_eq!(receive(&mut right), (0..64).collect::<Vec<_>>());
    assert_eq!(left.handle().tx(), FaultCounts::default());
    assert_eq!(left.next_due(), None);
}

#[test]
fn certain_loss_loses_all_and_counts() {
    let (mut left, mut right) = faulty_sender(Rules { drop: 1.0, ..Rules::NONE });
    let handle = left.handle();
    send(&mut left, 0..10);
    assert_eq!(receive(&mut right), []);
    assert_eq!(handle.tx().dropped, 10);
    assert_eq!(handle.rx().dropped, 0);
}

#[test]
fn the_seed_alone_decides_who_suffers() {
    let rules = Rules { drop: 0.3, duplicate: 0.3, ..Rules::NONE };
    let run = |seed| {
        let (left, mut right) = pair(A, B, 1500).unwrap();
        let mut left = Faulty::new(left, seed, Rules::NONE, rules);
        send(&mut left, 0..60);
        (receive(&mut right), left.handle().tx())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).0, run(8).0);
    let counts = run(7).1;
    assert!((5..35).contains(&counts.dropped), "{counts:?}");
}

#[test]
fn duplicates_come_beyond_a_full_burst() {
    let (mut left, mut right) = faulty_sender(Rules { duplicate: 1.0, ..Rules::NONE });
    send(&mut left, 0..64);
    assert_eq!(receive(&mut right), (0..64).flat_map(|v| [v, v]).collect::<Vec<_>>());
    let (mut left, right) = pair(A, B, 1500).unwrap();
    let mut right = Faulty::new(right, 1, Rules { duplicate: 1.0, ..Rules::NONE }, Rules::NONE);
    send(&mut left, 0..64);
    assert_eq!(right.recv().unwrap(), 64);
    assert!(right.next_due().is_some());
    assert_eq!(receive(&mut right), (32..64).flat_map(|v| [v, v]).collect::<Vec<_>>());
}

#[test]
fn damage_is_one_bit() {
    let (mut left, mut right) = faulty_sender(Rules { corrupt: 1.0, ..Rules::NONE });
    send(&mut left, [0; 50]);
    assert_eq!(right.recv().unwrap(), 50);
    for index in 0..50 {
        let ones: u32 = right.packet(index).1.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(ones, 1);
    }
}

#[test]
fn held_packets_are_overtaken_by_as_many_as_asked() {
    let mut line = Line::new(
        Rules { reorder: 1.0, hold_packets: 2, hold_limit: LONG, ..Rules::NONE },
        Random(1),
        Arc::default(),
    );
    let mut out = Vec::new();
    line.offer(0, &[0], &mut out);
    line.rules.reorder = 0.0;
    for value in 1..5 {
        line.offer(value, &[0], &mut out);
    }
    assert_eq!(out.iter().map(|(value, _)| *value).collect::<Vec<_>>(), [1, 2, 0, 3, 4]);
    assert_eq!(line.counters.read().reordered, 1);
}

#[test]
fn a_held_packet_comes_out_when_no_others_pass() {
    let rules = Rules { reorder: 1.0, hold_limit: Duration::ZERO, ..Rules::NONE };
    let (mut left, mut right) = faulty_sender(rules);
    send(&mut left, [9]);
    left.recv().unwrap();
    assert_eq!(receive(&mut right), [9]);
}

#[test]
fn waiting_ends_when_a_delayed_packet_is_due() {
    let rules = Rules { delay: 1.0, delay_by: Duration::from_millis(5), ..Rules::NONE };
    let (mut left, right) = pair(A, B, 1500).unwrap();
    let mut right = Faulty::new(right, 1, rules, Rules::NONE);
    send(&mut left, [9]);
    assert_eq!(right.recv().unwrap(), 0);
    let due = right.next_due().unwrap();
    while Instant::now() < due {
        right.wait(Some(LONG)).unwrap();
    }
    assert_eq!(receive(&mut right), [9]);
    assert_eq!(right.next_due(), None);
}

#[test]
fn delayed_packets_leave_without_another_flush() {
    let rules = Rules { delay: 1.0, delay_by: Duration::from_millis(5), ..Rules::NONE };
    let (mut left, mut right) = faulty_sender(rules);
    send(&mut left, [9]);
    let due = left.next_due().unwrap();
    while Instant::now() < due {
        left.wait(Some(LONG)).unwrap();
    }
    assert_eq!(left.recv().unwrap(), 0);
    assert_eq!(receive(&mut right), [9]);
}
