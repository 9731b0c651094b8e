//! What must hold of cores, whatever they cost.

use super::*;

fn cores(cores: u32, transport: Transport) -> Cores {
    Cores {
        cores,
        client_cores: cores,
        transport,
        costs: Costs::default(),
        outstanding: 64,
        long_bytes: 1 << 20,
        short_per_second: 20_000,
        link_gbps: 100.0,
        millis: 10,
        seed: 1,
    }
}

fn report(cores: &Cores) -> CoresReport {
    let report = cores.run().unwrap();
    assert!(report.is_sound() && report.lost == 0, "{report:?}");
    report
}

#[test]
fn the_rate_grows_with_cores_and_they_share_evenly() {
    let one = report(&cores(1, Transport::Smt));
    assert!(one.busy > 0.8 && one.spread == 1.0, "{one:?}");
    for n in [2, 4, 8] {
        let many = report(&cores(n, Transport::Smt));
        assert!(many.rate > 0.8 * f64::from(n) * one.rate, "{n}: {} of {}", many.rate, one.rate);
        assert!(many.rate < 1.3 * f64::from(n) * one.rate, "{n}: {} of {}", many.rate, one.rate);
        assert!(many.spread < 1.25, "{n}: {}", many.spread);
    }
}

#[test]
fn a_full_link_bounds_the_rate() {
    let slow = Cores { link_gbps: 1.0, ..cores(4, Transport::Smt) };
    let (slow, fast) = (report(&slow), report(&cores(4, Transport::Smt)));
    assert!(slow.link > 0.9 && slow.link <= 1.01, "{slow:?}");
    assert!(slow.rate < 0.9 * fast.rate && fast.link < 0.5, "{slow:?}, {fast:?}");
}

#[test]
fn short_rpcs_do_not_wait_for_long_ones_at_other_cores() {
    let smt = report(&cores(4, Transport::Smt));
    let [p50, p99] = smt.alone_us;
    let [apart_p50, apart_p99] = smt.apart_us.unwrap();
    assert!(apart_p50 < 1.2 * p50 && apart_p99 < 1.5 * p99, "{smt:?}");
    assert!(smt.long_gbps > 1.0, "{smt:?}");
    // Nor long at the same one, where a stream has them wait for whole messages.
    let streams = report(&cores(4, Transport::Streams));
    assert!(smt.beside_us[1] < streams.beside_us[1] / 5.0, "{smt:?}, {streams:?}");
    let [one, other] = [Transport::Smt, Transport::Streams].map(|kind| report(&cores(1, kind)));
    assert!(
        one.apart_us.is_none() && one.beside_us[0] < other.beside_us[0] / 5.0,
        "{one:?}, {other:?}"
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for kind in [Transport::Smt, Transport::Streams] {
        let short = Cores { millis: 3, ..cores(4, kind) };
        assert_eq!(report(&short), report(&short));
    }
}

#[test]
fn hosts_may_have_other_numbers_of_cores() {
    for (client, server) in [(1, 4), (4, 1), (2, 8)] {
        let short = Cores { client_cores: client, millis: 3, ..cores(server, Transport::Smt) };
        assert!(report(&short).rate > 10_000.0);
    }
}
