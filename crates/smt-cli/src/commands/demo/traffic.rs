//! Steps 1 to 4: many RPCs from both ends at once, and one large message; both again on a lossy link; and RPCs while
//! keys change.

use serde_json::json;

use super::messages::{Part, Report, Task};
use super::screen::{Screen, Step, Told};
use super::stage::{Both, Stage};
use crate::commands::Error;
use crate::output::{bytes, number, time};

/// RPCs of each end; together the 10,000 that are promised.
const RPCS_PER_END: u64 = 5_000;
/// RPCs of an end after which it wants new keys.
const RPCS_PER_UPDATE: u64 = 25;
/// The least number of updates that must come of it, at each end.
const LEAST_UPDATES: u64 = 20;
/// The large message.
const BULK_BYTES: usize = 50_000_000;
/// The part of the packets that each end drops on the lossy link.
const LOSS: f64 = 0.05;
/// The least part that must then really be missing.
const LEAST_LOSS: f64 = 0.03;

/// Names of the steps.
struct Tags {
    rpcs: &'static str,
    bulk: &'static str,
    packets: Option<&'static str>,
}

/// On a link that loses nothing.
pub(super) fn on_clean_link(stage: &Stage, screen: &mut Screen) -> Result<(), Error> {
    run(stage, screen, 0.0, &Tags { rpcs: "rpcs", bulk: "bulk", packets: None })
}

/// With 5 % of the packets dropped each way.
pub(super) fn on_lossy_link(stage: &Stage, screen: &mut Screen) -> Result<(), Error> {
    let packets = Some("loss");
    run(stage, screen, LOSS, &Tags { rpcs: "loss_rpcs", bulk: "loss_bulk", packets })
}

fn run(stage: &Stage, screen: &mut Screen, loss: f64, tags: &Tags) -> Result<(), Error> {
    let percent = format!(", {:.0} % lost", loss * 100.0);
    let suffix = if loss > 0.0 { percent.as_str() } else { "" };

    let all = 2 * RPCS_PER_END;
    let title = format!("{} RPCs of 64 B to 64 KB, from both ends at once{suffix}", number(all));
    let step = screen.begin(tags.rpcs, &title);
    let mut both = None;
    let outcome = stage.start([Part::Server, Part::Client], loss, None).and_then(|started| {
        let handshake = started.connected()?;
        let told = rpcs(both.insert(started), &step, handshake, loss);
        if told.is_err() {
            both = None;
        }
        told
    });
    screen.end(step, &title, outcome)?;

    let title = format!("one message of {}, compared by SHA-256{suffix}", bytes(BULK_BYTES as u64));
    let step = screen.begin(tags.bulk, &title);
    // A session that a step before has broken is not used again.
    let outcome = match both.take() {
        Some(both) => Ok(both),
        None => stage.start([Part::Server, Part::Client], loss, None),
    };
    let outcome = outcome.and_then(|started| bulk(both.insert(started), &step, loss));
    screen.end(step, &title, outcome)?;

    if let (Some(tag), Some(mut both)) = (tags.packets, both) {
        let title = "the link really was lossy, and what was lost was sent again";
        let step = screen.begin(tag, title);
        let outcome = packets(&mut both, loss);
        screen.end(step, title, outcome)?;
        both.finish();
    }
    Ok(())
}

/// What RPCs from both ends came to.
struct Done {
    client: u64,
    server: u64,
    bytes: u64,
    ns: u64,
}

/// Has both ends call at once, and waits for all responses.
fn run_rpcs(both: &mut Both, step: &Step, update_after: Option<u64>) -> Result<Done, Error> {
    both.server.tell(&Task::Rpcs { count: RPCS_PER_END, seed: 1, update_after })?;
    both.client.tell(&Task::Rpcs { count: RPCS_PER_END, seed: 2, update_after })?;
    let mut done = [0; 2];
    let mut results = [None; 2];
    while results.iter().any(Option::is_none) {
        let ends = [&both.client, &both.server];
        for ((process, done), result) in ends.into_iter().zip(&mut done).zip(&mut results) {
            if result.is_some() {
                continue;
            }
            let report = process.wait_for("RPCs", |report| match report {
                Report::Progress { .. } | Report::Rpcs { .. } => Some(report.clone()),
                _ => None,
            })?;
            match report {
                Report::Progress { done: so_far } => *done = so_far,
                Report::Rpcs { count, bytes, ns } => {
                    *done = count;
                    *result = Some((count, bytes, ns));
                }
                _ => {}
            }
        }
        step.progress(done.iter().sum(), 2 * RPCS_PER_END);
    }
    let [client, server] = results.map(Option::unwrap_or_default);
    let (bytes, ns) = (client.1 + server.1, client.2.max(server.2));
    Ok(Done { client: client.0, server: server.0, bytes, ns })
}

fn rpcs(
    both: &mut Both,
    step: &Step,
    (handshake_ns, suite): (u64, String),
    loss: f64,
) -> Result<Told, Error> {
    let Done { client, server, bytes: total, ns } = run_rpcs(both, step, None)?;
    let count = client + server;
    let rate = count as f64 / (ns as f64 / 1e9);
    Ok(Told {
        lines: vec![
            format!("mutual TLS 1.3, {suite}, handshake {}", time(handshake_ns)),
            format!(
                "{} from each end in one session, every response compared",
                number(RPCS_PER_END)
            ),
            format!("{} each way, {} RPC/s", bytes(total), number(rate as u64)),
        ],
        object: json!({
            "loss": loss, "count": count, "from_client": client, "from_server": server,
            "bytes_each_way": total, "ns": ns, "handshake_ns": handshake_ns, "suite": suite,
        }),
    })
}

fn bulk(both: &mut Both, step: &Step, loss: f64) -> Result<Told, Error> {
    both.client.tell(&Task::Bulk { bytes: BULK_BYTES, seed: 3 })?;
    let all = BULK_BYTES as u64;
    let (sha256, ns) = both.client.wait_for("the message", |report| match report {
        Report::Progress { done } => {
            step.progress(*done, all);
            None
        }
        Report::Bulk { sha256, ns } => Some((sha256.clone(), *ns)),
        _ => None,
    })?;
    let rate = all as f64 / (ns as f64 / 1e9);
    Ok(Told {
        lines: vec![
            format!("{} in {}: {}/s, hashing included", bytes(all), time(ns), bytes(rate as u64)),
            format!("SHA-256 at both ends {}...", sha256.get(..32).unwrap_or(&sha256)),
        ],
        object: json!({
            "loss": loss, "bytes": all, "ns": ns, "bytes_per_s": rate, "sha256": sha256,
        }),
    })
}

/// With keys that change all the time.
pub(super) fn with_key_updates(stage: &Stage, screen: &mut Screen) -> Result<(), Error> {
    let title = "new keys under load, without a failed RPC";
    let step = screen.begin("key_updates", title);
    let outcome = stage.start([Part::Server, Part::Client], 0.0, None).and_then(|mut both| {
        both.connected()?;
        let told = update_keys(&mut both, &step);
        both.finish();
        told
    });
    screen.end(step, title, outcome)
}

fn update_keys(both: &mut Both, step: &Step) -> Result<Told, Error> {
    let Done { client, server, .. } = run_rpcs(both, step, Some(RPCS_PER_UPDATE))?;
    let mut updates = [0; 2];
    for (process, updates) in [&mut both.client, &mut both.server].into_iter().zip(&mut updates) {
        process.tell(&Task::Count)?;
        *updates = process.wait_for("counting", |report| match report {
            Report::Counters { key_updates, .. } => Some(*key_updates),
            _ => None,
        })?;
    }
    if updates.iter().any(|&updates| updates < LEAST_UPDATES) {
        let text = format!("keys changed only {} and {} times", updates[0], updates[1]);
        return Err(Error::Failed(text));
    }
    let count = client + server;
    Ok(Told {
        lines: vec![format!(
            "{} RPCs, {} and {} key updates, every response compared",
            number(count),
            number(updates[0]),
            number(updates[1])
        )],
        object: json!({
            "count": count, "failed": 0, "client_updates": updates[0],
            "server_updates": updates[1],
        }),
    })
}

/// Compares what each end has sent with what reached the other.
fn packets(both: &mut Both, loss: f64) -> Result<Told, Error> {
    let mut counters = [[0; 3]; 2];
    for (process, counters) in [&mut both.client, &mut both.server].into_iter().zip(&mut counters) {
        process.tell(&Task::Count)?;
        *counters = process.wait_for("counting", |report| match report {
            Report::Counters { sent, received, again, .. } => Some([*sent, *received, *again]),
            _ => None,
        })?;
    }
    let [client, server] = counters;
    let missing =
        |sent: u64, received: u64| sent.saturating_sub(received) as f64 / sent.max(1) as f64;
    let lost = [missing(client[0], server[1]), missing(server[0], client[1])];
    if lost.iter().any(|&part| part < LEAST_LOSS) {
        let text = format!("only {:.1} % and {:.1} % were missing", lost[0] * 1e2, lost[1] * 1e2);
        return Err(Error::Failed(text));
    }
    let again = client[2] + server[2];
    Ok(Told {
        lines: vec![
            format!(
                "each end (Builder::faults) drops {:.0} % of what it sends, at random",
                loss * 100.0
            ),
            format!(
                "missing: {:.1} % of {} packets to the server, {:.1} % of {} back",
                lost[0] * 1e2,
                number(client[0]),
                lost[1] * 1e2,
                number(server[0])
            ),
            format!("{} sent again", number(again)),
        ],
        object: json!({
            "by": "fault injector at both senders", "loss": loss,
            "client_to_server": {"sent": client[0], "missing": lost[0]},
            "server_to_client": {"sent": server[0], "missing": lost[1]},
            "sent_again": again,
        }),
    })
}
