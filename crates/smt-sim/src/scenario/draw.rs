//! Scenarios by seed. Each feature is there or not, seed by seed, so that some runs are extreme in
//! one thing and others plain (swarm testing).

use super::{
    EarlyData, HostConfig, HostFault, HostFaultKind, Padding, Scenario, Sessions, Suite, Workload,
};
use crate::attack::Plan;
use crate::fault::{Fault, Place, Rule};
use crate::net::{NetConfig, Spread, Topology};
use crate::nic::CARDS;
use crate::packet::HostId;
use crate::rng::Rng;

impl Scenario {
    /// The scenario of a seed.
    pub fn draw(seed: u64) -> Scenario {
        let root = Rng::new(seed).fork(0x6472_6177);
        let rng = &mut root.fork(1);
        let hosts = draw_hosts(rng);
        let faults_stop_us = rng.between(20_000, 150_000);
        let mut workload = draw_workload(&mut root.fork(2), hosts, faults_stop_us);
        let attack = rng
            .chance(0.5)
            .then(|| Plan::draw(&mut root.fork(3), hosts, faults_stop_us))
            .filter(|plan| !plan.is_none());
        let intruders = attack.as_ref().map_or(0, Plan::off_path_hosts);
        let net = draw_net(&mut root.fork(4), hosts + intruders);
        let host_faults = draw_host_faults(&mut root.fork(7), hosts, faults_stop_us);
        let mut configs = draw_configs(&mut root.fork(5), hosts, &workload);
        draw_cards(&mut root.fork(9), &mut configs);
        draw_cores(&mut root.fork(10), &mut configs);
        if configs.iter().any(|host| host.failed_opens.is_some()) {
            // A message under a key that opens nothing more ends with its deadline.
            workload.deadline_ms = 200;
        }
        Scenario {
            seed,
            faults_stop_us,
            suite: match rng.below(4) {
                0 => Suite::Aes256,
                1 => Suite::Chacha20,
                _ => Suite::Aes128,
            },
            sessions: match rng.below(10) {
                0..=5 => Sessions::Handshake,
                6 | 7 => Sessions::External,
                _ => Sessions::ExternalFrom { first_id: 4 * rng.between(1, 10_000) },
            },
            registered_updates: root.fork(9).chance(0.5),
            early_calls: rng.chance(0.5),
            faults: draw_faults(&mut root.fork(6), hosts, faults_stop_us),
            host_faults,
            workload,
            net,
            early: draw_early(&mut root.fork(8)),
            hosts: configs,
            attack,
        }
    }
}

/// Mostly two or three: with fewer hosts more happens to each session.
fn draw_hosts(rng: &mut Rng) -> u32 {
    match rng.below(10) {
        0..=4 => 2,
        5..=7 => 3,
        8 => 4,
        _ => u32::try_from(rng.between(5, 8)).unwrap_or(5),
    }
}

fn draw_workload(rng: &mut Rng, hosts: u32, faults_stop_us: u64) -> Workload {
    let large = rng.chance(0.15);
    let medium = rng.chance(0.6);
    let burst = if rng.chance(0.3) { rng.between(2, 40) } else { 1 };
    // So that nearly all calls begin while faults are at work.
    let bursts = 1 + 60 / u64::from(hosts) / burst;
    Workload {
        interval_us: (faults_stop_us / (bursts + 1)).max(1),
        burst: u32::try_from(burst).unwrap_or(1),
        small_bytes: if rng.chance(0.5) { 64 } else { 1000 },
        medium_share: if medium { rng.unit() * 0.4 } else { 0.0 },
        medium_bytes: 20_000,
        large_share: if large { 0.01 + rng.unit() * 0.03 } else { 0.0 },
        large_bytes: if rng.chance(0.2) { 1 << 20 } else { 200_000 },
        handler_us: *rng.pick(&[0, 0, 10, 500, 20_000]).unwrap_or(&0),
        refuse_share: if rng.chance(0.3) { 0.1 } else { 0.0 },
        cancel_share: if rng.chance(0.3) { 0.2 } else { 0.0 },
        cancel_us: *rng.pick(&[0, 100, 5000]).unwrap_or(&0),
        hasty_share: if rng.chance(0.3) { 0.2 } else { 0.0 },
        hasty_us: *rng.pick(&[50, 1000, 20_000]).unwrap_or(&1000),
        deadline_ms: *rng.pick(&[200, 5000, 60_000]).unwrap_or(&5000),
        one_server: rng.chance(0.2),
    }
}

fn draw_net(rng: &mut Rng, hosts: u32) -> NetConfig {
    let topology = if rng.chance(0.2) {
        Topology::LeafSpine {
            leaves: 2,
            hosts_per_leaf: hosts.div_ceil(2),
            spines: 2,
            uplink_gbps: if rng.chance(0.5) { 100.0 } else { 2.0 },
        }
    } else {
        Topology::Switch { hosts }
    };
    NetConfig {
        topology,
        link_gbps: *rng.pick(&[100.0, 10.0, 1.0]).unwrap_or(&10.0),
        host_delay_ns: *rng.pick(&[1500, 1500, 20_000, 500_000]).unwrap_or(&1500),
        buffer_bytes: *rng.pick(&[1 << 20, 100_000, 20_000, 5000]).unwrap_or(&(1 << 20)),
        priorities: *rng.pick(&[8, 8, 2, 1]).unwrap_or(&8),
        spread: *rng
            .pick(&[Spread::Flow, Spread::Packet, Spread::Message])
            .unwrap_or(&Spread::Flow),
        trim: rng.chance(0.4),
        nic_queue_bytes: *rng.pick(&[0, 0, 20_000]).unwrap_or(&0),
        ..NetConfig::default()
    }
}

/// Limits are small in some runs: then they are reached all the time.
fn draw_configs(rng: &mut Rng, hosts: u32, workload: &Workload) -> Vec<HostConfig> {
    // What one message takes at most, padding included.
    let largest = workload.largest() + 64;
    let room_for_one = u64::from(largest.next_power_of_two().max(8192)) + 1024;
    let calls = if rng.chance(0.1) { 400 } else { 120 } / hosts;
    let alike = rng.chance(0.5);
    let mut of_all = rng.clone();
    let mut configs = Vec::new();
    for host in 0..hosts {
        let mut own = rng.fork(u64::from(host));
        let rng = if alike { &mut of_all.clone() } else { &mut own };
        configs.push(draw_config(rng, calls, room_for_one));
    }
    of_all.next_u64();
    // Clocks differ even where all else is alike.
    for config in &mut configs {
        if rng.chance(0.5) {
            continue;
        }
        if rng.chance(0.5) {
            config.skew_us = rng.below(5000);
        }
        config.clock_ppm = i16::try_from(rng.below(800)).unwrap_or(0) - 400;
        config.clock_offset_us = rng.below(1_000_000_000);
    }
    configs
}

fn draw_config(rng: &mut Rng, calls: u32, room_for_one: u64) -> HostConfig {
    let tight = |rng: &mut Rng| rng.chance(0.15);
    let mut config = HostConfig {
        calls,
        room: *rng.pick(&[1480, 1480, 600, 1232, 4000, 9000]).unwrap_or(&1480),
        id_bits: u8::try_from(*rng.pick(&[48, 48, 48, 40, 44, 52, 56]).unwrap_or(&48))
            .unwrap_or(48),
        padding: match rng.below(10) {
            0 => Padding::PowerOfTwo,
            1 => Padding::Buckets { sizes: vec![256, 1400, 4096] },
            _ => Padding::None,
        },
        wake_delay_us: *rng.pick(&[100, 0, 1000]).unwrap_or(&100),
        ..HostConfig::default()
    };
    if tight(rng) {
        config.max_rpcs = u32::try_from(rng.between(1, 12)).unwrap_or(1);
    }
    if rng.chance(0.4) {
        config.unscheduled = *rng.pick(&[0, 1000, 5000, 20_000]).unwrap_or(&1000);
    }
    if rng.chance(0.3) {
        config.receive_credit = u32::try_from(rng.between(16 << 10, 100_000)).unwrap_or(16 << 10);
    }
    if tight(rng) {
        config.max_incoming_bytes = room_for_one * rng.between(1, 4);
    }
    if tight(rng) {
        config.max_incoming_bytes_total = room_for_one * rng.between(1, 4);
    }
    if tight(rng) {
        config.max_outgoing_bytes = room_for_one * rng.between(1, 4);
    }
    if tight(rng) {
        config.max_gaps = u32::try_from(rng.between(1, 8)).unwrap_or(1);
    }
    if tight(rng) {
        config.max_control_queue = u32::try_from(rng.between(4, 64)).unwrap_or(4);
    }
    if tight(rng) {
        config.max_resend_ranges = u32::try_from(rng.between(1, 4)).unwrap_or(1);
    }
    if tight(rng) {
        config.max_early_packets = u32::try_from(rng.below(4)).unwrap_or(0);
    }
    if tight(rng) {
        let records = room_for_one / (u64::from(config.room) - 180);
        config.aead_records = Some((3 * records).max(rng.between(20, 300)));
    }
    if tight(rng) {
        config.failed_opens = Some(rng.between(6, 24));
    }
    if rng.chance(0.25) {
        config.retry_threshold = u32::try_from(rng.below(4)).unwrap_or(0);
    }
    config.ring_packets = *rng.pick(&[512, 64, 8]).unwrap_or(&512);
    config
}

/// Cards that take segments, at some hosts of half of the runs.
fn draw_cards(rng: &mut Rng, configs: &mut [HostConfig]) {
    if rng.chance(0.5) {
        return;
    }
    let one_kind = rng.chance(0.5).then(|| rng.pick(&CARDS).copied()).flatten();
    for config in configs {
        let nic = one_kind.or_else(|| rng.pick(&CARDS).copied());
        config.nic = nic.filter(|_| rng.chance(0.8));
        config.segment_bytes = *rng.pick(&[65_515, 65_515, 20_000, 6000]).unwrap_or(&65_515);
    }
}

/// Hosts of several cores, in half of the runs.
fn draw_cores(rng: &mut Rng, configs: &mut [HostConfig]) {
    if rng.chance(0.5) {
        return;
    }
    let cores = |rng: &mut Rng| *rng.pick(&[1, 2, 2, 4, 4, 4, 1, 2, 4, 8]).unwrap_or(&2);
    let alike = rng.chance(0.3).then(|| cores(rng));
    for config in configs {
        config.shards = alike.unwrap_or_else(|| cores(rng));
        config.lanes = if rng.chance(0.1) { *rng.pick(&[2, 8, 16]).unwrap_or(&2) } else { 1 };
        config.inbox_delay_us = *rng.pick(&[0, 10, 1000, 20_000]).unwrap_or(&10);
        // Each shard has its part.
        let total = config.max_incoming_bytes_total.saturating_mul(config.shards.into());
        config.max_incoming_bytes_total = total.min(1 << 30);
    }
}

/// Windows and registers are small enough to matter.
fn draw_early(rng: &mut Rng) -> Option<EarlyData> {
    rng.chance(0.6).then(|| EarlyData {
        share: *rng.pick(&[0.0, 0.3, 1.0]).unwrap_or(&0.3),
        known: rng.chance(0.6),
        lasting: rng.chance(0.6),
        shared: rng.chance(0.5),
        window_us: *rng.pick(&[2000, 20_000, 10_000_000]).unwrap_or(&20_000),
        entries: *rng.pick(&[1000, 1000, 2]).unwrap_or(&1000),
        max_early: *rng.pick(&[65_536, 65_536, 3000]).unwrap_or(&65_536),
        posts: *rng.pick(&[0, 1, 4]).unwrap_or(&0),
    })
}

fn draw_faults(rng: &mut Rng, hosts: u32, stop_us: u64) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut add = |rng: &mut Rng, odds: f64, fault: Fault| {
        if !rng.chance(odds) {
            return;
        }
        let place = match rng.below(6) {
            0 => Place::From(vec![some(rng, hosts)]),
            1 => Place::To(vec![some(rng, hosts)]),
            _ => Place::All,
        };
        let from_us = if rng.chance(0.3) { rng.below(stop_us) } else { 0 };
        let until_us = if rng.chance(0.3) { rng.between(from_us, stop_us) } else { stop_us };
        rules.push(Rule { fault, place, from_us, until_us });
    };
    let p = |rng: &mut Rng| *rng.pick(&[0.001, 0.01, 0.05, 0.2]).unwrap_or(&0.01);
    let delay = |rng: &mut Rng| *rng.pick(&[10, 200, 5000]).unwrap_or(&10);
    let fault = Fault::Loss { p: p(rng) };
    add(rng, 0.4, fault);
    let fault = Fault::GilbertElliott {
        p_enter: p(rng) / 4.0,
        p_leave: 0.05 + rng.unit() / 2.0,
        loss_bad: 0.5 + rng.unit() / 2.0,
        loss_good: 0.0,
    };
    add(rng, 0.2, fault);
    let fault = Fault::Reorder { p: p(rng), max_delay_us: delay(rng) };
    add(rng, 0.4, fault);
    let fault = Fault::Duplicate { p: p(rng), max_delay_us: delay(rng) };
    add(rng, 0.4, fault);
    let fault = Fault::Corrupt { p: p(rng), max_bits: if rng.chance(0.7) { 1 } else { 20 } };
    add(rng, 0.4, fault);
    let fault = Fault::DelaySpike {
        period_us: rng.between(2000, 40_000),
        duration_us: rng.between(50, 10_000),
    };
    add(rng, 0.15, fault);
    let fault = Fault::Clog {
        gbps: 0.05 + rng.unit(),
        queue_bytes: u32::try_from(rng.between(4000, 200_000)).unwrap_or(4000),
    };
    add(rng, 0.1, fault);
    if rng.chance(0.15) {
        let from_us = rng.below(stop_us);
        let until_us = (from_us + rng.between(500, 80_000)).min(stop_us);
        let fault = Fault::Partition { hosts: vec![some(rng, hosts)] };
        rules.push(Rule { fault, place: Place::All, from_us, until_us });
    }
    rules
}

fn draw_host_faults(rng: &mut Rng, hosts: u32, stop_us: u64) -> Vec<HostFault> {
    let mut faults = Vec::new();
    let mut add =
        |rng: &mut Rng, odds: f64, most: u64, kind: &dyn Fn(&mut Rng) -> HostFaultKind| {
            if rng.chance(odds) {
                for _ in 0..rng.between(1, most) {
                    let at_us = rng.below(stop_us * 9 / 10);
                    faults.push(HostFault { host: some(rng, hosts), at_us, kind: kind(rng) });
                }
            }
        };
    let until_stop = stop_us / 10;
    add(rng, 0.25, 4, &|rng| HostFaultKind::Pause { us: rng.between(50, until_stop) });
    add(rng, 0.2, 2, &|rng| HostFaultKind::Crash { us: rng.below(until_stop) });
    add(rng, 0.1, 2, &|rng| HostFaultKind::Close { peer: some(rng, hosts) });
    add(rng, 0.15, 6, &|rng| HostFaultKind::Room {
        bytes: *rng.pick(&[600, 1000, 1480, 3000, 9000]).unwrap_or(&1480),
    });
    add(rng, 0.2, 20, &|_| HostFaultKind::UpdateKeys);
    add(rng, 0.15, 10, &|_| HostFaultKind::AskUpdate);
    add(rng, 0.1, 3, &|_| HostFaultKind::Overrun);
    add(rng, 0.1, 3, &|_| HostFaultKind::RotateTickets);
    add(rng, 0.1, 4, &|rng| HostFaultKind::Segments {
        bytes: *rng.pick(&[0, 0, 65_515, 10_000]).unwrap_or(&0),
    });
    add(rng, 0.15, 4, &|rng| HostFaultKind::Stall {
        shard: u8::try_from(rng.below(8)).unwrap_or(0),
        us: rng.between(50, until_stop),
    });
    add(rng, 0.1, 2, &|rng| HostFaultKind::Misdirect { us: rng.between(50, until_stop) });
    faults.sort_by_key(|fault| fault.at_us);
    faults
}

fn some(rng: &mut Rng, hosts: u32) -> HostId {
    u32::try_from(rng.below(u64::from(hosts))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_valid_and_differs_by_seed() {
        let mut features = [0; 11];
        for seed in 0..1000 {
            let scenario = Scenario::draw(seed);
            scenario.validate().unwrap();
            assert_eq!(scenario.net.check(), Ok(()));
            assert_eq!(scenario, Scenario::draw(seed));
            let crash = |fault: &HostFault| matches!(fault.kind, HostFaultKind::Crash { .. });
            for (count, there) in features.iter_mut().zip([
                scenario.faults.is_empty(),
                scenario.attack.is_some(),
                scenario.host_faults.iter().any(crash),
                matches!(scenario.sessions, Sessions::ExternalFrom { .. }),
                scenario.hosts.iter().any(|host| host.aead_records.is_some()),
                scenario.workload.large_share > 0.0,
                scenario.hosts.iter().any(|host| host.retry_threshold < 4),
                scenario.hosts.iter().any(|host| host.failed_opens.is_some()),
                scenario.hosts.iter().any(|host| host.nic.is_some()),
                scenario.hosts.iter().any(|host| host.shards > 1),
                scenario.hosts.iter().any(|host| host.lanes > host.shards),
            ]) {
                *count += u32::from(there);
            }
        }
        assert!(features.iter().all(|count| (50..950).contains(count)), "{features:?}");
    }

    #[test]
    fn what_surely_fits_can_be_numbered() {
        use smt_proto::record::{Layout, record_size_for};
        use smt_proto::wire::{DATA_LEN, PREAMBLE_LEN};
        for scenario in (0..300).map(Scenario::draw).filter(|it| it.host_faults.is_empty()) {
            for (from, host) in scenario.hosts.iter().enumerate() {
                let fits = scenario.surely_fits(from as u32, from as u32);
                let plain = u64::from(fits) + PREAMBLE_LEN as u64;
                let record_size = record_size_for(host.room as usize - DATA_LEN);
                assert!(Layout::from_plain(record_size, plain, host.id_bits).is_ok(), "{host:?}");
            }
        }
    }
}
