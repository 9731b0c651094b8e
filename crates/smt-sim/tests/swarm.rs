//! Seeds without a planted bug are clean, each planted bug is found within a thousand seeds, and a
//! seed always gives the same run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use smt_proto::mutation::Mutation;
use smt_sim::net::{NetConfig, Topology};
use smt_sim::scenario::{HostConfig, HostFault, HostFaultKind, Scenario};
use smt_sim::swarm::{Sum, Swarm, run, shrink};

/// The most seeds that a planted bug may take to be found.
const SEEDS: u64 = 1000;

fn swarm(seeds: u64, mutation: Option<Mutation>) -> Sum {
    let swarm = Swarm {
        first: 1,
        seeds,
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        stop_at_first: true,
        max_memory: 1 << 30,
        mutation,
    };
    swarm.run(|_| {})
}

#[test]
fn two_hundred_seeds_are_clean_and_reach_everything() {
    let sum = swarm(200, None);
    assert_eq!(sum.violations, []);
    assert_eq!((sum.seeds, sum.refused), (200, 0));
    let total = &sum.total;
    for outcome in [
        "answered",
        "refused",
        "cancelled",
        "deadline",
        "unknown",
        "not started",
        "lost in a crash",
    ] {
        assert!(sum.calls(outcome) > 0, "{outcome}: {:?}", total.calls);
    }
    assert_eq!(sum.calls("open"), 0);
    for fault in
        ["loss", "gilbert_elliott", "reorder", "duplicate", "corrupt", "delay_spike", "clog"]
            .into_iter()
            .chain(["partition", "pause", "crash", "operator", "full queue", "trim"])
            .chain(["stall", "misdirect"])
    {
        assert!(total.faults.get(fault).is_some_and(|count| *count > 0), "{fault}");
    }
    assert!(total.attacks.len() > 20, "{:?}", total.attacks);
    assert!(total.retransmitted > 1000 && total.key_updates > 20 && total.bad_tags > 500);
    assert!(total.retries > 50 && total.updates_asked > 100 && total.posts > 500);
    assert!(total.early_accepted > 50 && total.early_refused > 10 && total.early_requests > 50);
    let [bundles, bundled] = total.bundles;
    assert!(bundles > 50 && bundled >= 2 * bundles, "{:?}", total.bundles);
    let [segments, confirmed, given_up] = total.segments;
    assert!(segments > 1000 && confirmed > 100 && given_up > 10, "{:?}", total.segments);
    assert!(total.sessions_dead > 10 && total.handshakes_failed > 10);
    assert!(total.lanes > 1000 && total.wrong_lanes > 0, "{}, {}", total.lanes, total.wrong_lanes);
}

#[test]
fn a_seed_always_gives_the_same_run() {
    for seed in 1..20 {
        let scenario = Scenario::draw(seed);
        let options = Default::default;
        let (first, second) = (run(&scenario, options()), run(&scenario, options()));
        assert_eq!(first, second, "seed {seed}");
        assert_ne!(first.digest, run(&Scenario::draw(seed + 1), options()).digest);
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let sums = [1, 3].map(|jobs| {
        let swarm = Swarm {
            first: 40,
            seeds: 12,
            jobs,
            stop_at_first: false,
            max_memory: 1 << 30,
            mutation: None,
        };
        swarm.run(|_| {})
    });
    assert_eq!(sums[0], sums[1]);
}

/// The seed that finds a bug, which is clean without it.
fn found(mutation: Mutation) -> u64 {
    let sum = swarm(SEEDS, Some(mutation));
    let Some((seed, violation)) = sum.violations.first() else {
        panic!("{mutation:?} is not found in {SEEDS} seeds")
    };
    println!("{mutation:?}: seed {seed}, {violation}");
    let clean = run(&Scenario::draw(*seed), Default::default());
    assert_eq!(clean.violation, None, "seed {seed} without {mutation:?}");
    *seed
}

#[test]
fn a_nonce_without_role_is_found() {
    found(Mutation::NonceWithoutRole);
}

#[test]
fn a_replay_mark_before_opening_is_found() {
    found(Mutation::ReplayMarkedBeforeOpen);
}

#[test]
fn a_response_forgotten_before_its_ack_is_found() {
    found(Mutation::ResponseForgottenBeforeAck);
}

#[test]
fn an_unauthenticated_grant_is_found() {
    found(Mutation::UnauthenticatedGrant);
}

#[test]
fn an_update_without_evidence_is_found() {
    found(Mutation::UpdateWithoutEvidence);
}

#[test]
fn a_retry_for_any_token_is_found() {
    found(Mutation::RetryForAnyToken);
}

#[test]
fn a_session_confirmed_by_early_data_is_found() {
    found(Mutation::EarlyConfirms);
}

#[test]
fn an_ignored_strike_register_is_found() {
    found(Mutation::StrikeRegisterIgnored);
}

#[test]
fn a_register_that_forgets_its_restart_is_found() {
    found(Mutation::RestartForgotten);
}

#[test]
fn lanes_with_the_same_keys_are_found() {
    found(Mutation::LaneKeysAlike);
}

#[test]
fn lanes_that_outlive_their_session_are_found() {
    found(Mutation::LanesOutliveSession);
}

#[test]
fn shards_that_keep_a_session_are_found() {
    found(Mutation::ShardsNotTold);
}

/// Two hosts of so many cores, between which nothing goes wrong but what `kind` does to the second.
fn hosts_of_cores(shards: [u8; 2], kind: Option<HostFaultKind>) -> Scenario {
    let mut scenario = Scenario::draw(1);
    let host = |shards| HostConfig { calls: 200, shards, ..HostConfig::default() };
    scenario.hosts = shards.into_iter().map(host).collect();
    scenario.net = NetConfig { topology: Topology::Switch { hosts: 2 }, ..NetConfig::default() };
    scenario.faults.clear();
    (scenario.attack, scenario.early) = (None, None);
    scenario.faults_stop_us = 30_000;
    let fault = |kind| HostFault { host: 1, at_us: 5000, kind };
    scenario.host_faults = kind.into_iter().map(fault).collect();
    let workload = &mut scenario.workload;
    (workload.refuse_share, workload.cancel_share, workload.hasty_share) = (0.0, 0.0, 0.0);
    (workload.interval_us, workload.burst, workload.deadline_ms) = (100, 1, 60_000);
    scenario.validate().unwrap();
    scenario
}

#[test]
fn hosts_of_any_numbers_of_cores_talk_and_wrong_steering_costs_packets_only() {
    for shards in [[1, 1], [1, 4], [4, 1], [2, 8], [4, 4]] {
        let plain = run(&hosts_of_cores(shards, None), Default::default());
        assert_eq!(plain.violation, None, "{shards:?}");
        assert!(plain.calls["answered"] >= 400 && plain.calls.len() == 1, "{:?}", plain.calls);
        let lanes = u64::from(shards[0].max(shards[1]));
        let sessions = plain.sessions / 2;
        assert_eq!(plain.lanes, 2 * sessions * (lanes - 1), "{shards:?}");
        let misdirect = HostFaultKind::Misdirect { us: 3000 };
        let lost = run(&hosts_of_cores(shards, Some(misdirect)), Default::default());
        assert_eq!(lost.violation, None, "{shards:?}");
        assert_eq!(lost.calls, plain.calls, "{shards:?}");
        match shards[1] {
            1 => assert_eq!(lost.retransmitted, plain.retransmitted),
            _ => assert!(lost.retransmitted > plain.retransmitted, "{shards:?}"),
        }
        let stall = HostFaultKind::Stall { shard: 0, us: 3000 };
        let stalled = run(&hosts_of_cores(shards, Some(stall)), Default::default());
        assert_eq!((stalled.violation, stalled.calls), (None, plain.calls), "{shards:?}");
    }
}

#[test]
fn a_reassembly_off_by_one_is_found_and_shrunk() {
    let seed = found(Mutation::ReassemblyOffByOne);
    let scenario = Scenario::draw(seed);
    let options = || smt_sim::swarm::Options {
        mutation: Some(Mutation::ReassemblyOffByOne),
        ..Default::default()
    };
    let violation = run(&scenario, options()).violation.unwrap();
    let shrunk = shrink(&scenario, &violation, 40, options);
    let calls = |scenario: &Scenario| scenario.hosts.iter().map(|host| host.calls).sum::<u32>();
    assert!(calls(&shrunk.scenario) < calls(&scenario));
    // What is left of it is a file that breaks the same rule.
    let file = shrunk.scenario.to_toml().unwrap();
    let again = run(&Scenario::from_toml(&file).unwrap(), options()).violation.unwrap();
    assert_eq!(again, shrunk.violation);
    assert_eq!(again.rule, violation.rule);
}
