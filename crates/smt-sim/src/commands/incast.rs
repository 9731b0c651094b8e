//! `smt-sim incast`: hundreds of hosts send to one at the same time.

use std::error::Error;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::numbers::{self, positive, rate};
use super::output::print;
use super::runs;
use crate::net::NetConfig;
use crate::rack::incast::{Direction, Incast, IncastReport};
use crate::table::{Cell, Table};

/// Hundreds of hosts send to one at the same time, as responses or unasked
#[derive(Clone, Debug, ClapArgs)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Each number of senders is run three times: as responses to calls that say how much of a response may \
come without grants (\"bounded\"), to calls that do not say, and as requests of the senders' own.

Times are from the start of a round until the one host has everything, in milliseconds: the mean and \
the longest of all rounds, and what its link needs at least. \"queue\" is the most that waited at a \
switch port, in bytes; \"again\" are packets sent again, \"missing\" messages that never came.

Exit status: 0 done; 1 a message was lost; 2 not done (wrong usage, too much memory).

Example:
  smt-sim incast --senders 100,1000 --bytes 50000"
)]
pub struct Args {
    /// Numbers of hosts that send, 1 to 5000, separated by commas
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = SENDERS,
          value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub senders: Vec<u32>,
    /// Application bytes that each sends, 1 to 10,000,000
    #[arg(long, value_name = "BYTES", default_value_t = 10_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub bytes: u32,
    /// How often each run has everybody send
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Link bandwidth of the hosts, in Gb/s
    #[arg(long, value_name = "RATE", default_value_t = 10.0, value_parser = rate)]
    pub gbps: f64,
    /// Buffer of each switch port, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = NetConfig::default().buffer_bytes,
          value_parser = clap::value_parser!(u32).range(numbers::BUFFER))]
    pub buffer: u32,
    /// What the cores draw from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Memory that may be used, in GiB; runs that may need more are refused
    #[arg(long, value_name = "GIB", default_value_t = 4.0, value_parser = positive)]
    pub max_memory: f64,
    /// Print one JSON object for each run instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What a sender takes beside its message, and what the target keeps of it, in bytes: measured with
/// 5,000 of them, and rounded up.
const PER_SENDER: u64 = 160 << 10;

/// Numbers of hosts that send, by default.
pub const SENDERS: [u32; 6] = [50, 100, 200, 400, 700, 1000];

/// Runs the command.
///
/// # Errors
/// More memory needed than allowed, or standard output cannot be written.
pub fn run(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    let reports = reports(&args)?;
    if args.json {
        runs::print_json(&reports)?;
    } else {
        print(text(&reports))?;
    }
    Ok(ExitCode::from(u8::from(!reports.iter().all(IncastReport::is_sound))))
}

/// Makes the runs, on all cores.
///
/// # Errors
/// More memory needed than allowed, or a run that cannot be made.
pub fn reports(args: &Args) -> Result<Vec<IncastReport>, Box<dyn Error>> {
    let estimate = |senders: &u32| u64::from(*senders) * (PER_SENDER + u64::from(args.bytes));
    let estimates: Vec<u64> = args.senders.iter().map(estimate).flat_map(|one| [one; 3]).collect();
    let ways =
        [(Direction::Responses, true), (Direction::Responses, false), (Direction::Requests, true)];
    let incasts = ways.into_iter().flat_map(|(direction, control)| {
        args.senders.iter().map(move |&senders| Incast {
            senders,
            bytes: args.bytes,
            direction,
            control,
            rounds: args.rounds,
            link_gbps: args.gbps,
            buffer_bytes: args.buffer,
            seed: args.seed,
        })
    });
    runs::run_all(&incasts.collect::<Vec<_>>(), &estimates, args.max_memory, Incast::run)
}

/// A table for each way to send, narrow enough for terminals.
fn text(reports: &[IncastReport]) -> String {
    let mut out = String::new();
    for some in reports.chunk_by(|a, b| what(a) == what(b)) {
        let mut table = Table::new([
            "senders", "ms", "longest", "at least", "Gb/s", "dropped", "queue", "again", "missing",
        ]);
        for report in some {
            table.row(cells(report));
        }
        let what = some.first().map_or("", what);
        out += &format!("{}{what}\n{}", if out.is_empty() { "" } else { "\n" }, table.text());
    }
    out
}

fn what(report: &IncastReport) -> &'static str {
    match (report.incast.direction, report.incast.control) {
        (Direction::Responses, true) => "responses, bounded",
        (Direction::Responses, false) => "responses, not bounded",
        (Direction::Requests, _) => "requests",
    }
}

fn cells(report: &IncastReport) -> [Cell; 9] {
    [
        report.incast.senders.into(),
        (report.mean_us / 1e3).into(),
        (report.longest_us / 1e3).into(),
        (report.ideal_us / 1e3).into(),
        report.goodput_gbps.into(),
        report.traffic.dropped.into(),
        report.traffic.largest_queue.into(),
        report.traffic.retransmitted.into(),
        report.unfinished.into(),
    ]
}

/// A row for each run.
pub fn table(reports: &[IncastReport]) -> Table {
    let mut table = Table::new([
        "what",
        "senders",
        "ms",
        "longest ms",
        "link needs ms",
        "Gb/s",
        "dropped",
        "largest queue",
        "sent again",
        "unfinished",
    ]);
    for report in reports {
        table.row([Cell::from(what(report))].into_iter().chain(cells(report)));
    }
    table
}
