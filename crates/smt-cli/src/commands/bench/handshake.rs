//! `smt bench handshake`: how soon the first RPC of a session is answered.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::{advance, bar};
use crate::bench::contender::{TRANSPORTS, Transport};
use crate::bench::first::{self, Outcome, Plan};
use crate::bench::ground::Credentials;
use crate::bench::place::Link;
use crate::bench::{environment, plot, report, saved, steps};
use crate::commands::Error;
use crate::output::Printer;
use crate::stop::Stop;

const ABOUT: &str = "\
Measure how soon the first RPC of a session is answered

Makes a session from nothing, sends a request of 64 bytes and waits for the 64 bytes of the response; over and over, \
all transports and variants in turn. For each it tells the median, the 99th percentile and the minimum, the median \
beside that of a full handshake of SMT (/full) and of TLS 1.3 on TCP by rustls (/TLS), both with the same key \
exchange and certificates, and the processor time of the server for each with how many one core could serve (/s/core). \
Both ends sleep while they wait. A round trip is added by a thread between the hosts that holds every packet; it takes \
a core now and then.

Before that it tells what the steps of a handshake take by themselves. Tables are up to 100 columns wide.";

const AFTER: &str = "\
Examples:
  smt bench handshake --quick
  smt bench handshake --rtt 0,200 --count 1000 --svg plots
  smt bench handshake --transports smt,quic --json

JSON: {\"bench\": \"step\", step, who, p50_ns, ...}; {\"bench\": \"link\", rtt_us, p50_ns, p99_ns, late_ns}; {\"bench\": \
\"handshake\", transport, variant, key_exchange, mtls, rtt_us, count, min_ns, p50_ns, p99_ns, max_ns, client_cpu_ns, \
server_cpu_ns, server_per_second_core, ratio_to_smt_full, ratio_to_tls}, or with \"not_measured\" and why.";

/// Longest round trip, in microseconds.
const MAX_RTT_US: u64 = 1_000_000;
/// Time of a quick run for each round trip, of which most goes into getting ready.
const QUICK: Duration = Duration::from_millis(250);

/// The arguments of `smt bench handshake`.
#[derive(Debug, Args)]
#[command(about = "Measure how soon the first RPC of a session is answered", long_about = ABOUT, after_help = AFTER)]
pub struct Arguments {
    /// Round trips that the link adds, in microseconds [default: 0,50,200]
    #[arg(long, value_name = "US,...", hide_default_value = true, value_delimiter = ',', default_values_t = [0, 50, 200], value_parser = clap::value_parser!(u64).range(..=MAX_RTT_US))]
    rtt: Vec<u64>,
    /// Who takes part [default: all]
    #[arg(long, value_name = "NAME,...", hide_default_value = true, value_delimiter = ',', default_values_t = TRANSPORTS, value_enum)]
    transports: Vec<Transport>,
    /// First RPCs of each variant at each round trip
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// SMT's handshakes on the thread of the packets, instead of one beside it on the same core
    #[arg(long)]
    inline: bool,
    /// About a second for everything: shows that it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Also draw a plot for each round trip into this directory
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Also write what was measured to a file in this directory
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// One JSON object per line on standard output, for programs
    #[arg(long)]
    pub json: bool,
}

/// Measures and tells.
///
/// # Errors
/// Hosts cannot be made, a contender fails, or a plot cannot be written.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    let printer = Printer::new(arguments.json);
    let credentials = Arc::new(Credentials::new()?);
    tell_steps(&credentials, arguments.quick, &printer)?;
    let plan = Plan {
        transports: arguments.transports.clone(),
        count: arguments.count,
        warm_up: if arguments.quick { 1 } else { 20 },
        inline: arguments.inline,
        budget: arguments.quick.then_some(QUICK),
    };
    let mut results = Vec::new();
    for &round_trip_us in &arguments.rtt {
        let bar = bar(arguments.json, &format!("round trip {round_trip_us} us"));
        let round_trip = Duration::from_micros(round_trip_us);
        let progress = |part| advance(&bar, part);
        let outcome = first::measure(&credentials, round_trip, &plan, &stop, &progress)?;
        bar.finish_and_clear();
        tell(&outcome, &printer)?;
        results.extend(report::objects(&outcome));
        if let Some(dir) = &arguments.svg {
            draw(&outcome, dir)?;
        }
    }
    if let Some(dir) = &arguments.save {
        let environment = environment::describe(&credentials, &[Link::Veth], &[]);
        let file = saved::write(dir, "handshake", &environment, &results)?;
        printer.text(printer.dim(format!("kept in {}", file.display())))?;
    }
    Ok(())
}

fn tell_steps(credentials: &Credentials, quick: bool, printer: &Printer) -> Result<(), Error> {
    let steps = steps::measure(credentials, if quick { 20 } else { 500 })?;
    printer.text(printer.bold("Steps of a handshake, on one core"))?;
    steps::table(&steps).iter().try_for_each(|line| printer.text(line))?;
    Ok(steps::objects(&steps).iter().try_for_each(|object| printer.object(object))?)
}

fn tell(outcome: &Outcome, printer: &Printer) -> Result<(), Error> {
    let title = format!("First RPC from nothing, round trip {} us", outcome.round_trip.as_micros());
    printer.text(format!("\n{}", printer.bold(title)))?;
    let (text, object) = report::link(outcome);
    printer.say(text, &object)?;
    report::table(outcome).iter().try_for_each(|line| printer.text(line))?;
    Ok(report::objects(outcome).iter().try_for_each(|object| printer.object(object))?)
}

fn draw(outcome: &Outcome, dir: &Path) -> Result<(), Error> {
    let plot = plot::bars(outcome)?;
    let file = dir.join(format!("first-rpc-{}us.svg", outcome.round_trip.as_micros()));
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(&file, plot))
        .map_err(Error::io(format!("cannot write {}", file.display())))
}
