//! `smt-sim loss`: small RPCs through a network that loses packets.

use std::error::Error;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::rack::{cores, positive};
use crate::rack::lossy::{Lossy, LossyReport};
use crate::rack::parallel;
use crate::table::{Cell, Table};

/// Small RPCs through a network that loses packets: how many round trips they take
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "\
Times are in round trips: RPC time over that of an RPC that is alone and loses nothing.

Exit status: 0 done; 1 a call failed; 2 wrong usage.")]
pub struct Args {
    /// Probability that a packet is lost
    #[arg(long, default_value_t = 0.01)]
    pub loss: f64,
    /// Hosts, each of which calls each other
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=100))]
    pub hosts: u32,
    /// Numbers of calls that each host has under way to each other
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16],
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub outstanding: Vec<u32>,
    /// Application bytes of requests and responses
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub bytes: u32,
    /// Calls of each run
    #[arg(long, default_value_t = 100_000)]
    pub calls: u64,
    /// Round-trip time, in microseconds
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub rtt_us: f64,
    /// Link bandwidth of the hosts, in Gb/s
    #[arg(long, default_value_t = 100.0, value_parser = positive)]
    pub gbps: f64,
    /// What decides losses
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object for each run instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// Wrong usage.
pub fn run(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    let reports = reports(&args)?;
    if args.json {
        for report in &reports {
            println!("{}", serde_json::to_string(report)?);
        }
    } else {
        print!("{}", table(&reports).text());
    }
    Ok(ExitCode::from(u8::from(!reports.iter().all(LossyReport::is_sound))))
}

/// Makes the runs, on all cores.
///
/// # Errors
/// A run that cannot be made.
pub fn reports(args: &Args) -> Result<Vec<LossyReport>, Box<dyn Error>> {
    let runs = args.outstanding.iter().map(|&outstanding| Lossy {
        hosts: args.hosts,
        outstanding,
        bytes: args.bytes,
        loss: args.loss.clamp(0.0, 0.9),
        calls: args.calls,
        link_gbps: args.gbps,
        rtt_us: args.rtt_us,
        seed: args.seed,
    });
    let reports = parallel::map(&runs.collect::<Vec<_>>(), cores(), Lossy::run);
    let reports = reports.into_iter().map(|report| match report {
        Some(report) => report.map_err(Box::from),
        None => Err(Box::from("a run stopped half-way")),
    });
    reports.collect()
}

/// A row for each run.
pub fn table(reports: &[LossyReport]) -> Table {
    let mut table = Table::new([
        "calls at once",
        "RTT us",
        "P50",
        "P99",
        "P99.9",
        "longest",
        "mean",
        "calls",
        "failed",
        "packets lost",
        "sent again",
        "duplicates",
    ]);
    for report in reports {
        table.row([
            Cell::from(format!("{} per pair", report.lossy.outstanding)),
            report.rtt_us.into(),
            report.p50.into(),
            report.p99.into(),
            report.p999.into(),
            report.longest.into(),
            report.mean.into(),
            report.calls.into(),
            report.failed.into(),
            report.traffic.lost.into(),
            report.traffic.retransmitted.into(),
            report.traffic.duplicates.into(),
        ]);
    }
    table
}
