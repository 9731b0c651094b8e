//! `smt-sim loss`: small RPCs through a network that loses packets.

use std::error::Error;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::numbers::{loss, positive, rate, round_trip};
use super::output::print;
use super::runs;
use crate::rack::lossy::{Lossy, LossyReport};
use crate::table::{Cell, Table};

/// Small RPCs while packets are lost: how many round trips they take
#[derive(Clone, Debug, ClapArgs)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Times are in round trips (P50 to mean): RPC time over that of an RPC that is alone and loses nothing.

Exit status: 0 done; 1 a call failed; 2 not done (wrong usage, too much memory).

Example:
  smt-sim loss --loss 0.05 --outstanding 1,64 --calls 20000"
)]
pub struct Args {
    /// Probability that a packet is lost, 0 to 0.5
    #[arg(long, value_name = "P", default_value_t = 0.01, value_parser = loss)]
    pub loss: f64,
    /// Hosts, each of which calls each other, 2 to 100
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=100))]
    pub hosts: u32,
    /// Numbers of calls that each host has under way to each other, 1 to 1000, separated by commas
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = [1, 4, 16],
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub outstanding: Vec<u32>,
    /// Application bytes of requests and of responses, up to 1,000,000
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub bytes: u32,
    /// Calls of each run, up to 10,000,000
    #[arg(long, value_name = "N", default_value_t = 100_000,
          value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub calls: u64,
    /// Round-trip time, in microseconds
    #[arg(long, value_name = "US", default_value_t = 10.0, value_parser = round_trip)]
    pub rtt_us: f64,
    /// Link bandwidth of the hosts, in Gb/s
    #[arg(long, value_name = "RATE", default_value_t = 100.0, value_parser = rate)]
    pub gbps: f64,
    /// What decides losses
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Memory that may be used, in GiB; runs that may need more are refused
    #[arg(long, value_name = "GIB", default_value_t = 4.0, value_parser = positive)]
    pub max_memory: f64,
    /// Print one JSON object for each run instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// More memory needed than allowed, or standard output cannot be written.
pub fn run(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    let reports = reports(&args)?;
    if args.json {
        runs::print_json(&reports)?;
    } else {
        print(table(&reports).transposed().text())?;
    }
    Ok(ExitCode::from(u8::from(!reports.iter().all(LossyReport::is_sound))))
}

/// Makes the runs, on all cores.
///
/// # Errors
/// More memory needed than allowed, or a run that cannot be made.
pub fn reports(args: &Args) -> Result<Vec<LossyReport>, Box<dyn Error>> {
    let estimates: Vec<u64> = args.outstanding.iter().map(|&n| args.estimate(n)).collect();
    let lossy = args.outstanding.iter().map(|&outstanding| Lossy {
        hosts: args.hosts,
        outstanding,
        bytes: args.bytes,
        loss: args.loss,
        calls: args.calls,
        link_gbps: args.gbps,
        rtt_us: args.rtt_us,
        seed: args.seed,
    });
    runs::run_all(&lossy.collect::<Vec<_>>(), &estimates, args.max_memory, Lossy::run)
}

impl Args {
    /// Bytes that a run may take: sessions, calls under way with request and response at both ends,
    /// and times kept until the end.
    fn estimate(&self, outstanding: u32) -> u64 {
        let pairs = u64::from(self.hosts) * u64::from(self.hosts);
        let under_way = (pairs * u64::from(outstanding)).min(self.calls);
        pairs * (16 << 10) + under_way * (2048 + 4 * u64::from(self.bytes)) + self.calls * 64
    }
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
