//! How many packets a second the engine carries, with stacks that do nothing: an all-to-all load on
//! one switch and on racks, at several loads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use smt_proto::Time;
use smt_sim::net::{NetConfig, Spread, Topology};
use smt_sim::packet::Packet;
use smt_sim::rng::Rng;
use smt_sim::stack::Stack;
use smt_sim::world::World;

/// Bytes of a packet.
const LEN: usize = 1480;

/// Packets of a measurement.
const PACKETS: u64 = 1_000_000;

/// A host that sends packets to others at random, with a mean gap.
struct Source {
    hosts: u64,
    mean_gap_ns: f64,
    next: Time,
    /// Packets whose time has come.
    due: u32,
    rng: Rng,
    received: u64,
}

impl Stack for Source {
    fn receive(&mut self, _now: Time, packet: &mut Packet) {
        self.received += packet.bytes.len() as u64;
    }

    fn timeout(&mut self, now: Time) {
        while self.next <= now {
            self.due += 1;
            let gap = self.rng.exponential(self.mean_gap_ns) as u64;
            self.next = self.next + Duration::from_nanos(gap.max(1));
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        Some(self.next)
    }

    fn transmit(&mut self, _now: Time, packet: &mut Packet) -> bool {
        if self.due == 0 {
            return false;
        }
        self.due -= 1;
        packet.bytes.resize(LEN, 0);
        // SMT DATA of one of many messages, for switches that look.
        (packet.bytes[8], packet.bytes[11]) = (3, 0x10);
        (packet.bytes[27], packet.bytes[29]) = (self.due as u8, 1);
        packet.dst = self.rng.below(self.hosts) as u32;
        packet.priority = (self.rng.next_u64() % 8) as u8;
        true
    }
}

fn run(name: &str, net: &NetConfig, load: f64) {
    let hosts = net.hosts();
    let wire_ns = (LEN as f64 + 58.0) * 8.0 / net.link_gbps;
    let source = |host: u32| Source {
        hosts: u64::from(hosts),
        mean_gap_ns: wire_ns / load,
        next: Time::ZERO,
        due: 0,
        rng: Rng::new(1).fork(u64::from(host) + 1),
        received: 0,
    };
    let mut world = World::new(net, (0..hosts).map(source).collect(), 1);
    (0..hosts).for_each(|host| world.poke(host));
    world.run_until(Time::from_nanos(500_000));
    let before = (world.stats().delivered, world.stats().hops);
    let start = cpu_time();
    while world.stats().delivered < before.0 + PACKETS {
        world.run_until(world.now() + Duration::from_micros(100));
    }
    let seconds = (cpu_time() - start).as_secs_f64();
    let stats = world.stats();
    println!(
        "{name:<34} load {:>3.0} %  {:>6.2} M packets/s  {:>6.2} M hops/s  {:>5} in flight",
        load * 100.0,
        (stats.delivered - before.0) as f64 / seconds / 1e6,
        (stats.hops - before.1) as f64 / seconds / 1e6,
        world.in_flight(),
    );
}

/// What this thread has used of a processor: others on the machine do not count. Where that is not
/// known, the time.
fn cpu_time() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    let used = fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = used.and_then(|text| text.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| START.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}

fn main() {
    let switch = |hosts| NetConfig { topology: Topology::Switch { hosts }, ..NetConfig::default() };
    let racks = |spread| NetConfig {
        topology: Topology::LeafSpine {
            leaves: 9,
            hosts_per_leaf: 16,
            spines: 4,
            uplink_gbps: 400.0,
        },
        spread,
        ..NetConfig::default()
    };
    for load in [0.1, 0.5, 0.8] {
        run("switch, 2 hosts", &switch(2), load);
        run("switch, 16 hosts", &switch(16), load);
        run("switch, 40 hosts", &switch(40), load);
        run("9 racks of 16, by flow", &racks(Spread::Flow), load);
        run("9 racks of 16, by packet", &racks(Spread::Packet), load);
        run("9 racks of 16, by message", &racks(Spread::Message), load);
    }
}
