//! `smt bench`: what SMT's sessions cost, beside what others cost.

pub mod agent;
mod common;
pub mod compare;
pub mod cores;
pub mod flood;
pub mod guard;
pub mod handshake;
pub mod links;
pub mod rekey;
pub mod report;
pub mod scale;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal};

use self::common::Common;
use super::Error;

const AFTER: &str = "\
Examples:
  smt bench handshake
  smt bench handshake --rtt 50 --json | jq 'select(.ratio_to_tls)'
  smt bench rtt --quick
  smt bench load --sizes 64 --peers smt,tls-rustls
  smt bench load --rate 10000,100000 --outstanding 200
  smt bench cores --datapath raw,udp
  smt bench rekey --quick
  smt bench flood

Hosts are network namespaces joined by a virtual link, made as root or, where the kernel allows it, as anybody. \
Numbers mean something only from a release build on an otherwise idle machine; two cores are enough.";

/// The arguments of `smt bench`.
#[derive(Debug, Args)]
#[command(about = "Measure RPCs beside TCP and TLS, handshakes, key updates and floods", after_help = AFTER)]
pub struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    Rtt(compare::Rtt),
    Load(compare::Load),
    Bulk(compare::Bulk),
    Mixed(compare::Mixed),
    Cpu(compare::Cpu),
    Loss(links::Loss),
    Tso(links::Tso),
    Mtu(links::Mtu),
    Cores(cores::Arguments),
    Handshake(handshake::Arguments),
    Rekey(rekey::Arguments),
    Flood(flood::Arguments),
    Scale(scale::Arguments),
    Report(report::Arguments),
    Guard(guard::Arguments),
    Agent(agent::Arguments),
}

impl Bench {
    /// Whether it makes hosts of its own.
    fn needs_hosts(&self) -> bool {
        match self {
            Bench::Report(_) | Bench::Agent(_) => false,
            bench => bench.common().is_none_or(Common::needs_hosts),
        }
    }

    /// What commands that compare transports have in common.
    fn common(&self) -> Option<&Common> {
        match self {
            Bench::Rtt(arguments) => Some(arguments.common()),
            Bench::Load(arguments) => Some(arguments.common()),
            Bench::Bulk(arguments) => Some(arguments.common()),
            Bench::Mixed(arguments) => Some(arguments.common()),
            Bench::Cpu(arguments) => Some(arguments.common()),
            Bench::Loss(arguments) => Some(arguments.common()),
            Bench::Tso(arguments) => Some(arguments.common()),
            Bench::Mtu(arguments) => Some(arguments.common()),
            _ => None,
        }
    }
}

impl Arguments {
    /// Whether programs read the output.
    pub fn is_json(&self) -> bool {
        match &self.bench {
            Bench::Cores(arguments) => arguments.json,
            Bench::Handshake(arguments) => arguments.json,
            Bench::Rekey(arguments) => arguments.json,
            Bench::Flood(arguments) => arguments.json,
            Bench::Scale(arguments) => arguments.json,
            Bench::Report(arguments) => arguments.json,
            Bench::Guard(arguments) => arguments.json,
            Bench::Agent(arguments) => arguments.json,
            bench => bench.common().is_some_and(|common| common.json),
        }
    }
}

/// Runs one of them.
///
/// # Errors
/// Hosts cannot be made, or what is measured does not work.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    if arguments.bench.needs_hosts() {
        smt_testbed::enter().map_err(Error::io("the benchmark needs hosts of its own"))?;
    }
    match &arguments.bench {
        Bench::Rtt(arguments) => arguments.run(),
        Bench::Load(arguments) => arguments.run(),
        Bench::Bulk(arguments) => arguments.run(),
        Bench::Mixed(arguments) => arguments.run(),
        Bench::Cpu(arguments) => arguments.run(),
        Bench::Loss(arguments) => arguments.run(),
        Bench::Tso(arguments) => arguments.run(),
        Bench::Mtu(arguments) => arguments.run(),
        Bench::Cores(arguments) => cores::run(arguments),
        Bench::Handshake(arguments) => handshake::run(arguments),
        Bench::Rekey(arguments) => rekey::run(arguments),
        Bench::Flood(arguments) => flood::run(arguments),
        Bench::Scale(arguments) => scale::run(arguments),
        Bench::Report(arguments) => report::run(arguments),
        Bench::Guard(arguments) => guard::run(arguments),
        Bench::Agent(arguments) => agent::run(arguments),
    }
}

/// Steps of a bar.
const STEPS: u64 = 1000;

/// A bar on standard error, if that is a terminal and people read the output.
fn bar(json: bool, title: &str) -> ProgressBar {
    if json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("  {msg} {bar:30} {percent} %  {eta} left");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(STEPS).with_style(style).with_message(title.to_owned())
}

/// Shows that this part, 0 to 1, is done.
fn advance(bar: &ProgressBar, part: f64) {
    bar.set_position((part * STEPS as f64) as u64);
}
