//! `smt bench flood`: what a flood of first flights does to a server.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::{advance, bar};
use crate::bench::flood::{self, Measured, Plan, Stretch};
use crate::bench::ground::{Credentials, Ground};
use crate::commands::Error;
use crate::output::{Printer, bytes, number, time};
use crate::stop::Stop;

const ABOUT: &str = "\
Measure what a flood of first flights does to a server

A session has calls of 64 bytes made in it at a fixed rate, before, during and after a flood: first flights of \
handshakes, whole and valid, sent as fast as the client's host can, each under another address of 2^20 that nobody \
has. Tells how many calls were answered while each of the three lasted, and how many only later; how soon, counted \
from when each was due; how much memory the process came \
to need; what the server answered to the flood; and how soon other clients that came meanwhile had their first RPC \
answered. The flood has the lowest priority on the client's core, so that it takes what the server does not.";

const AFTER: &str = "\
Examples:
  smt bench flood
  smt bench flood --load 20000 --packets 1000000
  smt bench flood --quick --json

JSON: {\"bench\": \"flood\", packets, packets_per_second, retries_sent, handshakes_started, before: {offered, within, \
failed, per_second, p50_ns, p99_ns, ...}, during, after, throughput_ratio, newcomers: {failed, ...}, memory_before, \
memory_most}; memory in bytes.";

/// The arguments of `smt bench flood`.
#[derive(Debug, Args)]
#[command(about = "Measure what a flood of first flights does to a server", long_about = ABOUT, after_help = AFTER)]
pub struct Arguments {
    /// Calls a second in the established session
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    load: u32,
    /// First flights
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    packets: u64,
    /// Seconds before the flood, and after it
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = crate::commands::options::seconds)]
    seconds: f64,
    /// About a second for everything: shows that it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// One JSON object per line on standard output, for programs
    #[arg(long)]
    pub json: bool,
}

/// Measures and tells.
///
/// # Errors
/// Hosts cannot be made, or the session does not survive.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    let printer = Printer::new(arguments.json);
    let ground = Ground::new(&Arc::new(Credentials::new()?), Duration::ZERO)?;
    let plan = Plan {
        load: arguments.load,
        packets: if arguments.quick { arguments.packets.min(5000) } else { arguments.packets },
        calm: Duration::from_secs_f64(if arguments.quick { 0.2 } else { arguments.seconds }),
    };
    let bar = bar(arguments.json, "flood");
    let measured = flood::measure(&ground, &plan, &stop, &|part| advance(&bar, part))?;
    bar.finish_and_clear();
    tell(&measured, arguments.load, &printer)
}

fn tell(measured: &Measured, load: u32, printer: &Printer) -> Result<(), Error> {
    let Measured { before, during, after, newcomers, stats, .. } = measured;
    let rate = measured.sent as f64 / during.time.as_secs_f64().max(1e-9);
    let ratio = during.per_second() / before.per_second().max(1e-9);
    let title = format!("A session with {} calls a second, and a flood", number(load.into()));
    printer.text(printer.bold(title))?;
    printer.text(format!(
        "{:<8} {:>9} {:>9} {:>9} {:>7} {:>10} {:>10} {:>10}",
        "", "seconds", "answered", "later", "failed", "a second", "p50", "p99"
    ))?;
    for (name, stretch) in [("before", before), ("during", during), ("after", after)] {
        printer.text(format!(
            "{name:<8} {:>9.2} {:>9} {:>9} {:>7} {:>10.0} {:>10} {:>10}",
            stretch.time.as_secs_f64(),
            stretch.within,
            stretch.times.count().saturating_sub(stretch.within),
            stretch.failed,
            stretch.per_second(),
            time(stretch.times.quantile_ns(0.50)),
            time(stretch.times.quantile_ns(0.99)),
        ))?;
    }
    printer.text(format!(
        "throughput during the flood: {:.1} % of before\n\
         flood: {} first flights, {} a second; the server answered {} with RETRY and began {} handshakes\n\
         clients that came meanwhile: {} served, {} not; first RPC p50 {}, p99 {}\n\
         memory of the whole process: {} before, at most {}",
        100.0 * ratio,
        number(measured.sent),
        number(rate as u64),
        number(stats.retries_sent),
        number(stats.handshakes_started),
        newcomers.count(),
        measured.newcomers_failed,
        time(newcomers.quantile_ns(0.50)),
        time(newcomers.quantile_ns(0.99)),
        bytes(measured.memory_before),
        bytes(measured.memory_most),
    ))?;
    let mut newcomers = newcomers.to_json();
    newcomers["failed"] = json!(measured.newcomers_failed);
    Ok(printer.object(&json!({
        "bench": "flood", "packets": measured.sent, "packets_per_second": rate,
        "retries_sent": stats.retries_sent, "handshakes_started": stats.handshakes_started,
        "limit_half_open": stats.limit_half_open, "before": object(before), "during": object(during),
        "after": object(after), "throughput_ratio": ratio, "newcomers": newcomers,
        "memory_before": measured.memory_before, "memory_most": measured.memory_most,
    }))?)
}

fn object(stretch: &Stretch) -> Value {
    let mut object = stretch.times.to_json();
    object["offered"] = json!(stretch.offered);
    object["within"] = json!(stretch.within);
    object["failed"] = json!(stretch.failed);
    object["per_second"] = json!(stretch.per_second());
    object["seconds"] = json!(stretch.time.as_secs_f64());
    object
}
