//! `smt-sim swarm`: many hostile networks, each drawn by a seed.

use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::numbers;
use super::output::{line, note, print};
use crate::check::Violation;
use crate::rack::parallel;
use crate::scenario::Scenario;
use crate::swarm::{Sum, Swarm, shrink};

/// Failing seeds that are shrunk.
const SHRUNK: usize = 3;

/// Many hostile networks, each drawn by a seed, with every rule checked
#[derive(Clone, Debug, ClapArgs)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
A seed that breaks a rule is told on standard error with the command that replays it. The first \
three are shrunk: the smallest scenario found that breaks the same rule is written to seed-N.toml, \
for `smt-sim replay --scenario`. What the rules are, docs/simulation.md tells.

The digest at the end is a hash of everything that happened; with the same seeds it is the same on \
any machine and with any number of threads.

Exit status: 0 no rule was broken; 1 one was; 2 not done (wrong usage, a file, runs refused for memory).

Examples:
  smt-sim swarm --seeds 100000 --first 1000000
  smt-sim swarm --stop --json | jq .violations"
)]
pub struct Args {
    /// Seeds to run
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub seeds: u64,
    /// The first seed; the others follow it
    #[arg(long, value_name = "SEED", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(..=1_000_000_000_000_000_000))]
    pub first: u64,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// Print a JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// End soon after the first seed that breaks a rule
    #[arg(long)]
    pub stop: bool,
    /// Runs spent on making a failing scenario smaller; 0 leaves it as it is
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub shrink: u32,
    /// Directory for the scenarios of failing seeds; it must exist
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: std::path::PathBuf,
    /// The most memory a run may need, in MiB; those that may need more are not run
    #[arg(long, value_name = "MIB", default_value_t = 1024,
          value_parser = clap::value_parser!(u64).range(1..=numbers::MIB))]
    pub max_memory: u64,
    /// Plant a bug in the core of all hosts: the swarm must find it
    #[cfg(feature = "mutations")]
    #[arg(long, value_parser = super::replay::mutation)]
    pub mutation: Option<smt_proto::mutation::Mutation>,
}

/// Runs the command.
///
/// # Errors
/// The directory is missing, a scenario of a failing seed or standard output cannot be written, or runs
/// were refused because they might need too much memory.
pub fn run(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    if args.shrink > 0 && !args.out.is_dir() {
        return Err(format!("{}: no such directory (--out)", args.out.display()).into());
    }
    let jobs = args.jobs.map_or_else(parallel::threads, usize::from);
    let swarm = Swarm {
        first: args.first,
        seeds: args.seeds,
        jobs,
        stop_at_first: args.stop,
        max_memory: args.max_memory << 20,
        #[cfg(feature = "mutations")]
        mutation: args.mutation,
    };
    let bar = bar(args.seeds);
    let begun = Instant::now();
    let sum = swarm.run(|done| bar.set_position(done));
    bar.finish_and_clear();
    for (n, (seed, violation)) in sum.violations.iter().enumerate() {
        note(format_args!("seed {seed}: {violation}"));
        note(format_args!("  replay: smt-sim replay --seed {seed}{}", planted(&args)));
        if n < SHRUNK && args.shrink > 0 {
            smaller(&args, &swarm, *seed, violation)?;
        }
    }
    let took = begun.elapsed();
    if args.json {
        print(format_args!("{}\n", as_json(&sum, took)))?;
    } else {
        print(text(&sum, took))?;
    }
    if sum.refused > 0 && sum.violations.is_empty() {
        return Err(format!(
            "{} of {} runs were refused, since they may need more than {} MiB: allow more with \
             --max-memory",
            sum.refused, sum.seeds, args.max_memory
        )
        .into());
    }
    Ok(if sum.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(feature = "mutations")]
fn planted(args: &Args) -> String {
    args.mutation.map(|bug| format!(" --mutation {bug:?}")).unwrap_or_default()
}

#[cfg(not(feature = "mutations"))]
fn planted(_: &Args) -> String {
    String::new()
}

/// Shrinks a failing seed and writes what is left of it.
fn smaller(
    args: &Args,
    swarm: &Swarm,
    seed: u64,
    violation: &Violation,
) -> Result<(), Box<dyn Error>> {
    let shrunk = shrink(&Scenario::draw(seed), violation, args.shrink, || swarm.options());
    let path = args.out.join(format!("seed-{seed}.toml"));
    std::fs::write(&path, shrunk.scenario.to_toml()?)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    note(format_args!("  smallest of {} tries: {}", shrunk.tries, shrunk.violation));
    note(format_args!("  replay: smt-sim replay --scenario {}{}", path.display(), planted(args)));
    Ok(())
}

/// A bar on a terminal, nothing elsewhere.
fn bar(seeds: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(seeds);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn text(sum: &Sum, took: Duration) -> String {
    let total = &sum.total;
    let mut out = String::new();
    let mut line = |name: &str, value: String| out += &line(name, value);
    line("seeds", sum.seeds.to_string());
    line("rules broken", sum.violations.len().to_string());
    if sum.refused > 0 {
        line("refused for memory", sum.refused.to_string());
    }
    for (name, count) in &total.calls {
        line(&format!("calls {name}"), count.to_string());
    }
    for (name, count) in &total.faults {
        line(&format!("fault {name}"), count.to_string());
    }
    for (name, count) in &total.attacks {
        line(&format!("attack {name}"), count.to_string());
    }
    line("packets sent", total.sent.to_string());
    line("packets added", total.added.to_string());
    line("packets delivered", total.delivered.to_string());
    line("packets sent again", total.retransmitted.to_string());
    let [bundles, bundled] = total.bundles;
    line("bundles received", bundles.to_string());
    line("messages in them", bundled.to_string());
    let [segments, confirmed, given_up] = total.segments;
    line("segments sent", segments.to_string());
    line("cards found to work", confirmed.to_string());
    line("cards given up", given_up.to_string());
    line("lanes made", total.lanes.to_string());
    line("handshakes misdirected", total.wrong_lanes.to_string());
    line("tags wrong", total.bad_tags.to_string());
    line("nonces used", total.nonces.to_string());
    line("handshakes begun again", total.retries.to_string());
    line("early data taken", total.early_accepted.to_string());
    line("early data refused", total.early_refused.to_string());
    line("early requests", total.early_requests.to_string());
    line("post-handshake messages", total.posts.to_string());
    line("key updates", total.key_updates.to_string());
    line("key updates asked for", total.updates_asked.to_string());
    line("keys that failed too often", total.failed_opens.to_string());
    line("session ends made", total.sessions.to_string());
    line("session ends lost", total.sessions_dead.to_string());
    line("handshake ends failed", total.handshakes_failed.to_string());
    line("virtual time", format!("{:.1} s", total.virtual_ns as f64 / 1e9));
    line("time", format!("{:.1} s", took.as_secs_f64()));
    let rate = total.delivered as f64 / took.as_secs_f64().max(1e-9);
    line("packets per second", format!("{rate:.0}"));
    line("digest", format!("{:016x}", sum.digest));
    out
}

fn as_json(sum: &Sum, took: Duration) -> serde_json::Value {
    let total = &sum.total;
    let violations: Vec<_> = sum
        .violations
        .iter()
        .map(|(seed, violation)| {
            json!({
                "seed": seed,
                "rule": violation.rule.to_string(),
                "host": violation.host,
                "at_ns": violation.at.as_nanos(),
                "detail": violation.detail,
            })
        })
        .collect();
    json!({
        "seeds": sum.seeds,
        "violations": violations,
        "refused": sum.refused,
        "calls": total.calls,
        "faults": total.faults,
        "attacks": total.attacks,
        "packets_sent": total.sent,
        "packets_added": total.added,
        "packets_delivered": total.delivered,
        "packets_retransmitted": total.retransmitted,
        "bundles_received": total.bundles[0],
        "messages_in_bundles": total.bundles[1],
        "segments_sent": total.segments[0],
        "segments_confirmed": total.segments[1],
        "segments_given_up": total.segments[2],
        "lanes_made": total.lanes,
        "handshake_packets_misdirected": total.wrong_lanes,
        "bad_tags": total.bad_tags,
        "nonces": total.nonces,
        "retries": total.retries,
        "early_accepted": total.early_accepted,
        "early_refused": total.early_refused,
        "early_requests": total.early_requests,
        "posts": total.posts,
        "key_updates": total.key_updates,
        "key_updates_asked": total.updates_asked,
        "keys_failed": total.failed_opens,
        "session_ends_made": total.sessions,
        "session_ends_dead": total.sessions_dead,
        "handshake_ends_failed": total.handshakes_failed,
        "virtual_seconds": total.virtual_ns as f64 / 1e9,
        "seconds": took.as_secs_f64(),
        "digest": format!("{:016x}", sum.digest),
    })
}
