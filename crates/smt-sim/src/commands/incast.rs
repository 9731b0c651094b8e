//! `smt-sim incast`: hundreds of hosts send to one at the same time.

use std::error::Error;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::rack::{cores, positive};
use crate::net::NetConfig;
use crate::rack::incast::{Direction, Incast, IncastReport};
use crate::rack::parallel;
use crate::table::{Cell, Table};

/// Hundreds of hosts send to one at the same time: responses to its calls, or requests of their own
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "\
Responses are run twice: with requests that say how much of a response may come without grants,
and without.

Exit status: 0 done; 1 a message was lost; 2 wrong usage.")]
pub struct Args {
    /// Numbers of hosts that send
    #[arg(long, value_delimiter = ',', default_values_t = SENDERS,
          value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub senders: Vec<u32>,
    /// Application bytes that each sends
    #[arg(long, default_value_t = 10_000)]
    pub bytes: u32,
    /// How often each run has everybody send
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Link bandwidth of the hosts, in Gb/s
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub gbps: f64,
    /// Buffer of each switch port, in bytes
    #[arg(long, default_value_t = NetConfig::default().buffer_bytes)]
    pub buffer: u32,
    /// What the cores draw from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object for each run instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Numbers of hosts that send, by default.
pub const SENDERS: [u32; 6] = [50, 100, 200, 400, 700, 1000];

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
    Ok(ExitCode::from(u8::from(!reports.iter().all(IncastReport::is_sound))))
}

/// Makes the runs, on all cores.
///
/// # Errors
/// A run that cannot be made.
pub fn reports(args: &Args) -> Result<Vec<IncastReport>, Box<dyn Error>> {
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
    let reports = parallel::map(&incasts.collect::<Vec<_>>(), cores(), Incast::run);
    let reports = reports.into_iter().map(|report| match report {
        Some(report) => report.map_err(Box::from),
        None => Err(Box::from("a run stopped half-way")),
    });
    reports.collect()
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
        let what = match (report.incast.direction, report.incast.control) {
            (Direction::Responses, true) => "responses, bounded",
            (Direction::Responses, false) => "responses, not bounded",
            (Direction::Requests, _) => "requests",
        };
        table.row([
            Cell::from(what),
            report.incast.senders.into(),
            (report.mean_us / 1e3).into(),
            (report.longest_us / 1e3).into(),
            (report.ideal_us / 1e3).into(),
            report.goodput_gbps.into(),
            report.traffic.dropped.into(),
            report.traffic.largest_queue.into(),
            report.traffic.retransmitted.into(),
            report.unfinished.into(),
        ]);
    }
    table
}
