//! Step 6: the first RPC of a session, by how the session begins.

use std::collections::BTreeMap;

use serde_json::json;

use super::latency::{quantile, ratio};
use super::messages::{Beginning, Part, Report, Task, Transport};
use super::screen::{Screen, Step, Told};
use super::stage::Stage;
use crate::commands::Error;
use crate::output::time;

/// Sessions of each kind.
const COUNT: usize = 60;

/// Runs the step.
pub(super) fn run(stage: &Stage, screen: &mut Screen) -> Result<(), Error> {
    let title = "the first RPC of a session, from nothing to its response";
    let step = screen.begin("first_rpcs", title);
    let outcome = measure(stage, &step).and_then(|samples| {
        let mut told = Told { lines: Vec::new(), object: json!({"count": COUNT}) };
        let median = |beginning| samples.get(&beginning).map_or(0, |ns| quantile(ns, 0.5));
        for beginning in Beginning::ALL {
            let ns = samples.get(&beginning).map(Vec::as_slice).unwrap_or_default();
            let (p50, p99) = (quantile(ns, 0.5), quantile(ns, 0.99));
            screen.printer.object(&json!({
                "step": "first_rpc", "ok": true, "beginning": beginning.tag(),
                "count": ns.len(), "p50_ns": p50, "p99_ns": p99,
            }))?;
            let text = match beginning {
                Beginning::Full => "after a full handshake",
                Beginning::Resumed => "after a resumed one",
                Beginning::Early => "in the first packet",
            };
            let (p50, p99) = (time(p50), time(p99));
            told.lines.push(format!("{text:23} p50 {p50:>8}, p99 {p99:>8}"));
        }
        let part = ratio(median(Beginning::Early), median(Beginning::Full));
        told.lines.push(
            "mutual TLS 1.3 with X25519MLKEM768, 64 B, both ends sleep; early ones on a ticket"
                .to_owned(),
        );
        told.object["p50_early_to_full"] = json!(part);
        Ok(told)
    });
    screen.end(step, title, outcome)
}

fn measure(stage: &Stage, step: &Step) -> Result<BTreeMap<Beginning, Vec<u64>>, Error> {
    let parts = [Part::EchoServer(Transport::Smt), Part::FirstRpcs];
    let mut both = stage.start(parts, 0.0, None)?;
    both.client.tell(&Task::FirstRpcs { count: COUNT })?;
    let all = COUNT * Beginning::ALL.len();
    let mut samples: BTreeMap<Beginning, Vec<u64>> = BTreeMap::new();
    for done in 0..all {
        step.progress(done as u64, all as u64);
        let (beginning, ns) = both.client.wait_for("a first RPC", |report| match report {
            Report::FirstRpc { beginning, ns } => Some((*beginning, *ns)),
            _ => None,
        })?;
        samples.entry(beginning).or_default().push(ns);
    }
    both.finish();
    samples.values_mut().for_each(|ns| ns.sort_unstable());
    Ok(samples)
}
