//! `smt-sim rack`: a rack of hosts under the load of a workload.

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};

use crate::net::{NetConfig, Spread};
use crate::rack::experiment::{Experiment, Kind, Report, leaf_spine};
use crate::rack::offered::{Demand, Offered};
use crate::rack::{memory, parallel, show};
use crate::workload::Workload;

/// Packets that a run has by default, counted at their senders, roughly.
const DEFAULT_PACKETS: f64 = 3e6;
/// Messages of a run by default, at least and at most.
const DEFAULT_MESSAGES: (f64, f64) = (4_000.0, 400_000.0);

/// A rack of hosts under the load of a workload: slowdown by message size, for SMT and for streams
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "\
Slowdown is one-way time, from the call to the whole request at its receiver, over what the same
message takes through the idle network. Load counts everything that DATA packets take on the wire,
responses, headers and gaps included.

Exit status: 0 done; 1 a message of SMT was lost or starved; 2 wrong usage.")]
pub struct Args {
    /// Message sizes: w1 to w5
    #[arg(long, default_value = "w4")]
    pub workload: Workload,
    /// Fraction of the hosts' link bandwidth to use
    #[arg(long, default_value_t = 0.8, value_parser = fraction)]
    pub load: f64,
    /// Link bandwidth of the hosts, in Gb/s
    #[arg(long, default_value_t = 10.0)]
    pub gbps: f64,
    /// Hosts, in four racks
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(8..=400))]
    pub hosts: u32,
    /// Messages to send [default: as many as make about 3 million packets]
    #[arg(long, conflicts_with = "seconds", value_parser = clap::value_parser!(u32).range(1..))]
    pub messages: Option<u32>,
    /// Simulated seconds in which messages start, instead of their number
    #[arg(long)]
    pub seconds: Option<f64>,
    /// What decides sizes, times and pairs
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// smt, stream, or both
    #[arg(long, default_value = "both", value_parser = ["smt", "stream", "both"])]
    pub transport: String,
    /// How packets spread over the spines: flow, packet or message
    #[arg(long, default_value = "packet", value_parser = spread)]
    pub spread: Spread,
    /// Have switches cut the payload off packets that find no room
    #[arg(long)]
    pub trim: bool,
    /// Buffer of each switch port, in bytes
    #[arg(long, default_value_t = NetConfig::default().buffer_bytes)]
    pub buffer: u32,
    /// Memory that may be used, in GiB
    #[arg(long, default_value_t = 4.0)]
    pub max_memory: f64,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// Wrong usage, or more memory needed than allowed.
pub fn run(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    let experiments = args.experiments();
    let started = Instant::now();
    let reports = run_all(&experiments, args.max_memory, 1)?;
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        println!("{}", serde_json::to_string(&reports)?);
    } else {
        print(&args, &reports, seconds);
    }
    Ok(exit_code(&reports))
}

impl Args {
    /// The runs asked for.
    fn experiments(&self) -> Vec<Experiment> {
        let mut net = leaf_spine(self.hosts, self.gbps);
        net.spread = self.spread;
        net.trim = self.trim;
        net.buffer_bytes = self.buffer;
        let mut demand = Demand {
            workload: self.workload,
            load: self.load,
            messages: 0,
            hosts: net.hosts(),
            link_gbps: self.gbps,
            seed: self.seed,
        };
        demand.messages = match (self.messages, self.seconds) {
            (Some(messages), _) => messages,
            (None, Some(seconds)) => Offered::count(&demand, seconds),
            (None, None) => default_messages(self.workload, 1.0),
        };
        let kinds = [Kind::Smt, Kind::Stream];
        let wanted = |kind: &Kind| self.transport == "both" || self.transport == kind.to_string();
        let experiment = |transport| Experiment { net: net.clone(), demand, transport };
        kinds.into_iter().filter(wanted).map(experiment).collect()
    }
}

/// As many messages of a workload as make `scale` times the usual number of packets.
pub fn default_messages(workload: Workload, scale: f64) -> u32 {
    let packets = workload.mean() / 1400.0 + 2.0;
    let (least, most) = DEFAULT_MESSAGES;
    ((DEFAULT_PACKETS / packets).clamp(least, most) * scale).max(100.0) as u32
}

/// Makes runs on all cores, under a progress bar if standard error is a terminal.
///
/// # Errors
/// More memory needed than allowed (in GiB), or a run that cannot be made.
pub fn run_all(
    experiments: &[Experiment],
    max_memory_gib: f64,
    threads_at_most: usize,
) -> Result<Vec<Report>, Box<dyn Error>> {
    let threads = cores().max(threads_at_most).min(experiments.len());
    let estimates: Vec<u64> =
        experiments.iter().map(|experiment| memory::estimate(&experiment.demand)).collect();
    memory::check(&estimates, threads, (max_memory_gib * f64::from(1 << 30)) as u64)?;
    let all = experiments.iter().map(|experiment| u64::from(experiment.demand.messages)).sum();
    let bar = progress_bar(all);
    let run = |experiment: &Experiment| {
        let told = std::cell::Cell::new(0);
        let report = experiment.run(&|started| {
            bar.inc(started.saturating_sub(told.get()));
            told.set(started);
        });
        bar.inc(u64::from(experiment.demand.messages).saturating_sub(told.get()));
        report
    };
    let reports = parallel::map(experiments, threads, run);
    bar.finish_and_clear();
    let reports = reports.into_iter().map(|report| match report {
        Some(report) => report.map_err(Box::from),
        None => Err(Box::from("a run stopped half-way")),
    });
    reports.collect()
}

/// A progress bar over messages; nothing unless standard error is a terminal.
pub fn progress_bar(messages: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {eta} left");
    ProgressBar::new(messages).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Cores of this machine.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// 1 if a run of SMT lost a message or let one starve.
pub fn exit_code(reports: &[Report]) -> ExitCode {
    let smt = |report: &&Report| report.experiment.transport == Kind::Smt;
    ExitCode::from(u8::from(!reports.iter().filter(smt).all(Report::is_sound)))
}

fn print(args: &Args, reports: &[Report], seconds: f64) {
    let about = args.workload.about();
    println!(
        "{} ({about}), load {}, {} hosts, {} Gb/s",
        args.workload, args.load, args.hosts, args.gbps
    );
    let names: Vec<String> =
        reports.iter().map(|report| report.experiment.transport.to_string()).collect();
    let all: Vec<&Report> = reports.iter().collect();
    println!("\nSlowdown by size; the last lines are the longest hundredth, and all.\n");
    print!("{}", show::by_size(&all, &names).text());
    println!();
    print!("{}", show::traffic(&all, &names).text());
    println!();
    for (report, name) in reports.iter().zip(&names) {
        let p99 = report.outcome.short_half.p99;
        println!("{name}: P99 slowdown of the shortest half of messages: {p99:.2}");
        for line in show::complaints(report) {
            println!("{name}: {line}");
        }
    }
    let packets: u64 = reports.iter().map(|report| report.traffic.packets).sum();
    let rate = packets as f64 / seconds / 1e6;
    println!("{packets} packets in {seconds:.1} s, {rate:.2} million a second");
}

fn fraction(text: &str) -> Result<f64, String> {
    let load: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if load > 0.0 && load <= 1.5 {
        Ok(load)
    } else {
        Err("a load is above 0, at most 1.5".to_owned())
    }
}

/// Reads a [`Spread`].
///
/// # Errors
/// Its names.
pub fn spread(text: &str) -> Result<Spread, String> {
    match text {
        "flow" => Ok(Spread::Flow),
        "packet" => Ok(Spread::Packet),
        "message" => Ok(Spread::Message),
        _ => Err("spreads are flow, packet and message".to_owned()),
    }
}
