//! `smt bench scale`: cost by sessions, and what lies under the cost of bytes.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::Value;
use smt_testbed::PairOptions;

use super::compare::RTT_SIZES;
use super::{advance, bar};
use crate::bench::ground::{Credentials, Ground};
use crate::bench::place::Link;
use crate::bench::scale::{self, MAX_SESSIONS};
use crate::bench::{environment, eval::table, saved};
use crate::commands::Error;
use crate::output::{Printer, bytes, number, time};
use crate::stop::Stop;

const ABOUT: &str = "\
Cost by sessions: memory, round trips, and how many are made a second

One client and one server, over UDP on a veth pair, with more and more sessions, of which all but one are idle. Memory is \
that of both ends together; sessions are made 32 at a time by full handshakes with certificates. Before that: what AES-GCM \
and copying alone take in memory for a round trip, by message size.";

/// The arguments of `smt bench scale`.
#[derive(Debug, Args)]
#[command(about = "Cost by sessions: memory, round trips, and how many are made a second", long_about = ABOUT)]
pub struct Arguments {
    /// Numbers of sessions
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 10, 100, 1000, 10_000, 100_000], value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SESSIONS)))]
    sessions: Vec<u32>,
    /// No more than 1,000 sessions
    #[arg(long)]
    quick: bool,
    /// Also write what was measured to a file in this directory
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// One JSON object per line on standard output, for programs
    #[arg(long)]
    pub json: bool,
}

/// Sessions of a quick run, at most.
const QUICK: u32 = 1000;
/// Times that steps are taken.
const ROUNDS: usize = 300;

/// Measures and tells.
///
/// # Errors
/// Hosts or sessions cannot be made.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    let printer = Printer::new(arguments.json);
    let mut counts = arguments.sessions.clone();
    counts.sort_unstable();
    counts.dedup();
    if arguments.quick {
        counts.retain(|&count| count <= QUICK);
    }
    let mut results = scale::steps(&RTT_SIZES.map(|size| size as usize), ROUNDS)?;
    tell_steps(&results, &printer)?;
    let credentials = Arc::new(Credentials::new()?);
    let ground = Ground::on(&credentials, PairOptions::default())?;
    let bar = bar(arguments.json, "sessions");
    let points = scale::sessions(&ground, &counts, &stop, &|part| advance(&bar, part))?;
    bar.finish_and_clear();
    printer.text(format!("\n{}", printer.bold("Sessions, all idle but one; smt-udp on veth")))?;
    printer.text("  sessions  memory each  p50 of 64 B       p99  made a second")?;
    for point in &points {
        let memory = point.memory.map_or_else(String::new, bytes);
        let quantile = |part| time(point.times.quantile_ns(part));
        let line = format!(
            "{:>10} {memory:>12} {:>12} {:>9} {:>14}",
            number(point.sessions.into()),
            quantile(0.50),
            quantile(0.99),
            number(point.per_second as u64)
        );
        printer.say(line, &point.to_json())?;
        results.push(point.to_json());
    }
    if let Some(dir) = &arguments.save {
        let environment = environment::describe(&credentials, &[Link::Veth], &[]);
        let file = saved::write(dir, "scale", &environment, &results)?;
        printer.text(printer.dim(format!("kept in {}", file.display())))?;
    }
    Ok(())
}

fn tell_steps(steps: &[Value], printer: &Printer) -> Result<(), Error> {
    printer.text(printer.bold("In memory, for a round trip (both ends, both ways)"))?;
    for step in steps {
        let size = table::size(step["size"].as_u64().unwrap_or(0) as usize);
        let name = match step["step"].as_str() {
            Some("aead") => "AES-GCM, sealed and opened",
            _ => "copied once at each end",
        };
        let text =
            format!("  {size:>6}  {name:<28} {:>10}", time(step["ns"].as_u64().unwrap_or(0)));
        printer.say(text, step)?;
    }
    Ok(())
}
