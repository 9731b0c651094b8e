//! `smt bench rekey`: what key updates cost the RPCs around them.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{advance, bar};
use crate::bench::ground::{Credentials, Ground};
use crate::bench::rekey::{self, Measured, Plan};
use crate::commands::Error;
use crate::output::{Printer, number, time};
use crate::stop::Stop;

const ABOUT: &str = "\
Measure what key updates cost the RPCs around them

Keeps four calls outstanding in a session. In turn, for a tenth of the time each, keys stay as they are and both ends \
ask for a key update many times a second. Tells the round trips of both, and their ratio. An update happens when the \
next message is sealed and the peer has opened the last one, so that there may be fewer than were asked for. No call \
may fail.";

const AFTER: &str = "\
Examples:
  smt bench rekey
  smt bench rekey --updates 1000 --sizes 64 --json

Exit status: 1 if a call failed.

JSON: {\"bench\": \"rekey\", size, calls, failed, updates_client, updates_server, before: {p50_ns, p99_ns, ...}, during: \
{...}, ratio_p50, ratio_p99}.";

/// The arguments of `smt bench rekey`.
#[derive(Debug, Args)]
#[command(about = "Measure what key updates cost the RPCs around them", long_about = ABOUT, after_help = AFTER)]
pub struct Arguments {
    /// Bytes of requests and of responses [default: 64,1024,16384]
    #[arg(long, value_name = "BYTES,...", hide_default_value = true, value_delimiter = ',', default_values_t = [64, 1024, 16_384], value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    sizes: Vec<u32>,
    /// Key updates a second asked for in each direction
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    updates: u32,
    /// Seconds with updates, and as many without, for each size
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
/// Hosts cannot be made, there is no session, or a call failed.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    let printer = Printer::new(arguments.json);
    let ground = Ground::new(&Arc::new(Credentials::new()?), Duration::ZERO)?;
    let plan = Plan {
        sizes: arguments.sizes.iter().map(|&size| size as usize).collect(),
        time: Duration::from_secs_f64(if arguments.quick { 0.15 } else { arguments.seconds }),
        updates_per_second: arguments.updates,
    };
    let bar = bar(arguments.json, "key updates");
    let measured = rekey::measure(&ground, &plan, &stop, &|part| advance(&bar, part))?;
    bar.finish_and_clear();
    let title = format!("RPCs while keys change {} times a second each way", arguments.updates);
    printer.text(printer.bold(title))?;
    printer.text(HEADING)?;
    for row in &measured {
        tell(row, &printer)?;
    }
    match measured.iter().map(|row| row.failed).sum::<u64>() {
        0 => Ok(()),
        failed => Err(Error::Failed(format!("{failed} calls failed"))),
    }
}

const HEADING: &str =
    "  size       calls failed   updates     p50 before    during ratio p99 before    during ratio";

fn tell(row: &Measured, printer: &Printer) -> Result<(), Error> {
    let [still, moving] =
        [&row.still, &row.moving].map(|times| [0.50, 0.99].map(|q| times.quantile_ns(q)));
    let ratio = |index: usize| moving[index] as f64 / still[index].max(1) as f64;
    let calls = row.still.count() + row.moving.count();
    let [client, server] = row.updates;
    let text = format!(
        "{:>6} {:>11} {:>6} {:>9} {:>14} {:>9} {:>5.2} {:>10} {:>9} {:>5.2}",
        row.size,
        number(calls),
        row.failed,
        format!("{client}+{server}"),
        time(still[0]),
        time(moving[0]),
        ratio(0),
        time(still[1]),
        time(moving[1]),
        ratio(1),
    );
    let object = json!({
        "bench": "rekey", "size": row.size, "calls": calls, "failed": row.failed, "updates_client": client,
        "updates_server": server, "before": row.still.to_json(), "during": row.moving.to_json(),
        "ratio_p50": ratio(0), "ratio_p99": ratio(1),
    });
    Ok(printer.say(text, &object)?)
}
