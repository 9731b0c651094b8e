//! Step 7: round trips over SMT, TCP and TLS on TCP, side by side on the same link.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde_json::{Value, json};

use super::messages::{Part, Report, Task, Transport};
use super::screen::{Screen, Step, Told};
use super::stage::Stage;
use crate::commands::Error;

/// Bodies measured, in bytes.
const SIZES: [usize; 3] = [64, 1024, 16_384];
/// All transports are measured this often, one after the other, so that what disturbs the machine for a while disturbs
/// them alike.
const ROUNDS: u64 = 7;

/// Round trips of each size, per round: before measuring, and measured.
const SPINNING: [usize; 2] = [300, 1_000];
/// The same where both ends sleep, which takes longer.
const SLEEPING: [usize; 2] = [50, 300];

/// Measured times in nanoseconds, sorted.
type Samples = BTreeMap<(usize, Transport), Vec<u64>>;

/// Runs the step.
pub(super) fn run(stage: &Stage, screen: &mut Screen) -> Result<(), Error> {
    let title = "round trips side by side, one RPC at a time";
    let step = screen.begin("rtt_table", title);
    let outcome = measure(stage, &step).and_then(|samples| {
        for object in objects(&samples) {
            screen.printer.object(&object)?;
        }
        Ok(table(stage, &samples))
    });
    screen.end(step, title, outcome)
}

fn measure(stage: &Stage, step: &Step) -> Result<Samples, Error> {
    let [warmup, count] = if stage.spins() { SPINNING } else { SLEEPING };
    let mut samples = Samples::new();
    let all = ROUNDS * Transport::ALL.len() as u64;
    for done in 0..all {
        // Every transport has every place in the order once in a while.
        let place = (done + done / Transport::ALL.len() as u64) as usize;
        let transport = Transport::ALL[place % Transport::ALL.len()];
        step.progress(done, all);
        let parts = [Part::EchoServer(transport), Part::EchoClient(transport)];
        let mut both = stage.start(parts, 0.0, None)?;
        for size in SIZES {
            both.client.tell(&Task::Measure { size, warmup, count })?;
            let times = both.client.wait_for("measuring", |report| {
                if let Report::Times { ns } = report { Some(ns.clone()) } else { None }
            })?;
            samples.entry((size, transport)).or_default().extend(times);
        }
        both.finish();
    }
    samples.values_mut().for_each(|times| times.sort_unstable());
    Ok(samples)
}

/// The time that `part` of the sorted `times` do not exceed.
pub(super) fn quantile(times: &[u64], part: f64) -> u64 {
    let rank = (part * times.len() as f64).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Median and 99th percentile of one row and transport.
fn told(samples: &Samples, size: usize, transport: Transport) -> [u64; 2] {
    let times = samples.get(&(size, transport)).map(Vec::as_slice).unwrap_or_default();
    [quantile(times, 0.50), quantile(times, 0.99)]
}

pub(super) fn ratio(of: u64, to: u64) -> f64 {
    of as f64 / to.max(1) as f64
}

fn objects(samples: &Samples) -> Vec<Value> {
    let mut objects: Vec<Value> = samples
        .iter()
        .map(|(&(size, transport), times)| {
            let [p50, p99] = told(samples, size, transport);
            json!({
                "step": "rtt", "ok": true, "transport": transport.tag(), "size": size,
                "count": times.len(), "p50_ns": p50, "p99_ns": p99,
            })
        })
        .collect();
    for size in SIZES {
        let [smt, tcp, tls] = Transport::ALL.map(|transport| told(samples, size, transport));
        objects.push(json!({
            "step": "rtt_ratio", "ok": true, "size": size,
            "p50_smt_to_tls": ratio(smt[0], tls[0]), "p50_smt_to_tcp": ratio(smt[0], tcp[0]),
            "p99_smt_to_tls": ratio(smt[1], tls[1]), "p99_smt_to_tcp": ratio(smt[1], tcp[1]),
        }));
    }
    objects
}

fn table(stage: &Stage, samples: &Samples) -> Told {
    let waiting = if stage.spins() {
        "both ends spin, each on its own core"
    } else {
        "both ends sleep while they wait, for want of a second core"
    };
    let mut lines = vec![
        format!("{waiting}; {ROUNDS} rounds, taking turns;"),
        "TLS is rustls, AES-128-GCM like SMT".to_owned(),
        String::new(),
        row("p50, p99 in us", &["SMT", "TCP", "TLS 1.3/TCP"], &["SMT/TLS", "SMT/TCP"]),
    ];
    for size in SIZES {
        let all = Transport::ALL.map(|transport| told(samples, size, transport));
        let [smt, tcp, tls] = all;
        let cells =
            all.map(|[p50, p99]| format!("{:.1} {:>6.1}", p50 as f64 / 1e3, p99 as f64 / 1e3));
        let ratios = [tls, tcp].map(|peer| format!("{:.2}", ratio(smt[0], peer[0])));
        let name = if size < 1024 { format!("{size} B") } else { format!("{} KB", size / 1024) };
        lines.push(row(&name, &cells, &ratios));
    }
    let object = json!({
        "rounds": ROUNDS, "wait": if stage.spins() { "spin" } else { "block" },
    });
    Told { lines, object }
}

/// A line of the table; ratios are those of the medians.
fn row(name: &str, times: &[impl Display], ratios: &[impl Display]) -> String {
    let times = times.iter().map(|cell| format!("  {cell:>12}"));
    let ratios = ratios.iter().map(|cell| format!("  {cell:>7}"));
    format!("{name:>14}{}", times.chain(ratios).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let times: Vec<u64> = (1..=100).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|part| quantile(&times, part)), [50, 99, 100]);
        assert_eq!(quantile(&[], 0.5), 0);
        assert_eq!(quantile(&[7], 0.5), 7);
    }
}
