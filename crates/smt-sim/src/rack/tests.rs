//! Whole runs, small ones.

use super::experiment::{Experiment, Kind, leaf_spine};
use super::framing::Framing;
use super::journal::{Entry, Journal};
use super::mesh::{Mesh, settle, zeros};
use super::offered::Demand;
use crate::net::{NetConfig, Spread};
use crate::workload::Workload;
use crate::world::World;

/// Nanoseconds that a lone message takes, and how long it should.
fn alone(net: &NetConfig, bytes: u32) -> (u64, u64) {
    let journal = Journal::new(net.hosts());
    let mesh = Mesh {
        hosts: net.hosts(),
        config: super::experiment::config(net),
        zeros: zeros(bytes),
        response: 0,
        seed: 1,
    };
    let hosts = mesh.build(&journal, |_, _| true).unwrap();
    let (from, to) = (0, net.hosts() - 1);
    let mut world = World::new(net, hosts, 1);
    settle(&mut world);
    let start = world.now();
    world.hosts[from as usize].send(start, to, bytes, 0);
    world.poke(from);
    let mut entries = Vec::new();
    while world.step() {
        journal.take(&mut entries);
        if let Some(Entry::Arrived { message: 0, at }) = entries.first() {
            return (
                at.since(start).as_nanos() as u64,
                Framing::of(bytes).unwrap().ideal_ns(net, from, to),
            );
        }
    }
    panic!("{bytes} bytes never arrived");
}

#[test]
fn a_lone_message_takes_its_ideal_time() {
    for gbps in [10.0, 100.0] {
        // On one path: over several, a short last packet overtakes the one before it.
        let net = NetConfig { spread: Spread::Flow, ..leaf_spine(40, gbps) };
        for bytes in [0, 100, 1366, 1367, 5000, 9000, 60_000, 1_000_000] {
            let (took, ideal) = alone(&net, bytes);
            // Grants go the other way and keep ahead; a nanosecond is lost to rounding.
            assert!(took.abs_diff(ideal) <= 1 + ideal / 1000, "{bytes} bytes: {took}, {ideal}");
        }
    }
}

fn small(workload: Workload, transport: Kind) -> Experiment {
    let net = leaf_spine(8, 10.0);
    let demand = Demand { workload, load: 0.5, messages: 2000, hosts: 8, link_gbps: 10.0, seed: 3 };
    Experiment { net, demand, transport }
}

#[test]
fn every_message_of_a_small_run_arrives() {
    let report = small(Workload::W3, Kind::Smt).run(&|_| ()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.outcome.all.messages, 1600);
    assert_eq!(report.outcome.by_size.len(), 10);
    assert!(report.outcome.all.p50 >= 1.0 && report.outcome.all.p99 >= report.outcome.all.p50);
    assert!(report.traffic.packets > 4000 && report.traffic.dropped == 0);
}

#[test]
fn streams_carry_the_same_messages() {
    let report = small(Workload::W3, Kind::Stream).run(&|_| ()).unwrap();
    assert_eq!(report.outcome.unfinished, 0, "{report:?}");
    assert_eq!(report.outcome.all.messages, 1600);
}

#[test]
fn the_same_run_comes_out_the_same() {
    let run = || small(Workload::W2, Kind::Smt).run(&|_| ()).unwrap();
    assert_eq!(run(), run());
}

#[test]
fn no_message_beats_the_ideal() {
    let report = small(Workload::W1, Kind::Smt).run(&|_| ()).unwrap();
    let fastest = report.outcome.by_size.iter().map(|group| group.p50).fold(f64::MAX, f64::min);
    assert!(fastest >= 0.999, "{fastest}");
}
