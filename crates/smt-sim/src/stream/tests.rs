//! Stream hosts in a network.

use std::collections::BTreeMap;

use super::*;
use crate::fault::{Fault, Faults, Place, Rule};
use crate::net::{NetConfig, Spread, Topology};
use crate::world::World;

const MS: u64 = 1_000_000;

fn net(hosts: u32) -> NetConfig {
    NetConfig {
        topology: Topology::Switch { hosts },
        link_gbps: 10.0,
        priorities: 1,
        mark_bytes: 100_000,
        spread: Spread::Flow,
        ..NetConfig::default()
    }
}

fn world(net: &NetConfig, config: &StreamConfig) -> World<StreamHost> {
    let hosts = (0..net.hosts()).map(|me| StreamHost::new(me, net.hosts(), config.clone()));
    World::new(net, hosts.collect(), 1)
}

fn send(world: &mut World<StreamHost>, from: HostId, to: HostId, bytes: u32, message: u64) {
    let now = world.now();
    world.hosts[from as usize].send(now, to, bytes, message);
    world.poke(from);
}

fn delivered(world: &mut World<StreamHost>, to: HostId) -> Vec<Delivered> {
    let host = &mut world.hosts[to as usize];
    core::iter::from_fn(|| host.next_delivered()).collect()
}

/// Runs until nothing happens any more.
fn settle(world: &mut World<StreamHost>) {
    for _ in 0..20_000_000 {
        if !world.step() {
            return;
        }
    }
    panic!("it does not end");
}

fn faults(rules: &[Fault]) -> Box<Faults> {
    let rule = |fault: &Fault| Rule {
        fault: fault.clone(),
        place: Place::All,
        from_us: 0,
        until_us: u64::MAX,
    };
    Box::new(Faults::new(rules.iter().map(rule).collect(), 5))
}

/// Sends messages of many sizes from two hosts to two, and checks that all arrive once, whole, and
/// in the order sent. Returns the hosts' retransmissions.
fn all_arrives(rules: &[Fault]) -> u64 {
    let mut world = world(&net(3), &StreamConfig::default());
    world.add_tap(faults(rules));
    let mut rng = crate::rng::Rng::new(9);
    let mut sizes = BTreeMap::new();
    for number in 0..600 {
        let from = number as u32 % 2;
        let bytes = match number % 20 {
            0 => 200_000,
            1 => 0,
            _ => rng.below(4000) as u32,
        };
        sizes.insert(number, (from, bytes));
        send(&mut world, from, 2, bytes, number);
    }
    settle(&mut world);
    let mut next = [0, 1];
    let delivered = delivered(&mut world, 2);
    assert_eq!(delivered.len(), sizes.len());
    for message in delivered {
        assert_eq!(sizes[&message.message], (message.from, message.bytes));
        assert_eq!(message.message, next[message.from as usize], "in order");
        next[message.from as usize] += 2;
    }
    for host in &world.hosts {
        assert!(host.senders.iter().all(|s| s.can_send(&host.config) || s.timeout_at.is_none()));
    }
    world.hosts.iter().map(StreamHost::retransmissions).sum()
}

#[test]
fn all_arrives_in_order_and_nothing_is_sent_twice_without_need() {
    assert_eq!(all_arrives(&[]), 0);
}

#[test]
fn all_arrives_in_order_whatever_is_lost() {
    assert!(all_arrives(&[Fault::Loss { p: 0.01 }]) > 0);
    assert!(all_arrives(&[Fault::Loss { p: 0.2 }]) > 0);
}

#[test]
fn all_arrives_in_order_despite_duplicates_disorder_and_damage() {
    let rules = [
        Fault::Duplicate { p: 0.05, max_delay_us: 50 },
        Fault::Reorder { p: 0.05, max_delay_us: 50 },
        Fault::Corrupt { p: 0.02, max_bits: 1 },
    ];
    assert!(all_arrives(&rules) > 0);
}

#[test]
fn one_long_message_fills_a_link() {
    let mut world = world(&net(2), &StreamConfig::default());
    let bytes = 20_000_000;
    send(&mut world, 0, 1, bytes, 1);
    settle(&mut world);
    let done = delivered(&mut world, 1)[0].at;
    let gbps = f64::from(bytes) * 8.0 / done.as_nanos() as f64;
    // At most 1460 of 1538 bytes on the wire are the stream's: 9.49 Gb/s.
    assert!(gbps > 9.35, "{gbps}");
    assert_eq!(world.hosts[0].retransmissions(), 0);
}

#[test]
fn two_senders_share_a_link_and_dctcp_keeps_its_queue_short() {
    let net = net(3);
    let mut world = world(&net, &StreamConfig::default());
    for from in [0, 1] {
        for number in 0..400 {
            send(&mut world, from, 2, 100_000, number);
        }
    }
    world.run_until(Time::from_nanos(40 * MS));
    let mut bytes = [0u64; 2];
    for message in delivered(&mut world, 2) {
        bytes[message.from as usize] += u64::from(message.bytes);
    }
    let ratio = bytes[0] as f64 / bytes[1] as f64;
    assert!((0.8..1.25).contains(&ratio), "{bytes:?}");
    let gbps = (bytes[0] + bytes[1]) as f64 * 8.0 / (40 * MS) as f64;
    assert!(gbps > 9.2, "{gbps}");
    assert!(world.stats().largest_queue_bytes < 3 * net.mark_bytes, "{:?}", world.stats());
}

#[test]
fn connections_of_one_host_share_its_nic_and_a_message_waits_for_those_before_it() {
    let mut world = world(&net(3), &StreamConfig::default());
    send(&mut world, 0, 1, 1_000_000, 1);
    send(&mut world, 0, 1, 100, 2);
    send(&mut world, 0, 2, 100, 3);
    settle(&mut world);
    let behind = delivered(&mut world, 1)[1].at;
    let beside = delivered(&mut world, 2)[0].at;
    assert!(behind.as_nanos() > 800_000 && beside.as_nanos() < 20_000, "{behind:?} {beside:?}");
}

#[test]
fn a_full_buffer_costs_segments_but_not_the_link() {
    // Without marks only loss shrinks the window.
    let net = NetConfig { mark_bytes: 0, buffer_bytes: 100_000, ..net(5) };
    let mut world = world(&net, &StreamConfig::default());
    for from in 0..4 {
        send(&mut world, from, 4, 10_000_000, from.into());
    }
    settle(&mut world);
    let done = delivered(&mut world, 4).iter().map(|m| m.at.as_nanos()).max().unwrap();
    let gbps = 4e7 * 8.0 / done as f64;
    assert!(gbps > 8.0, "{gbps}");
    assert!(world.hosts.iter().map(StreamHost::retransmissions).sum::<u64>() > 0);
}

#[test]
fn a_partition_is_survived() {
    let mut world = world(&net(2), &StreamConfig::default());
    let rule =
        Rule { fault: Fault::Loss { p: 1.0 }, place: Place::All, from_us: 200, until_us: 5000 };
    world.add_tap(Box::new(Faults::new(vec![rule], 1)));
    send(&mut world, 0, 1, 2_000_000, 1);
    settle(&mut world);
    let done = delivered(&mut world, 1)[0].at.as_nanos();
    assert!((5 * MS..20 * MS).contains(&done), "{done}");
    assert!(world.hosts[0].timeouts() >= 2);
}
