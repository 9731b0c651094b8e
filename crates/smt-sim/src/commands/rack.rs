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
const DEFAULT_PACKETS: f64 = 4e6;
/// Messages of a run by default, at least and at most.
const DEFAULT_MESSAGES: (f64, f64) = (4_000.0, 1_000_000.0);

/// What runs under the load of a workload have in common.
#[derive(Clone, Debug, ClapArgs)]
pub struct Common {
    /// Message sizes: w1 to w5
    #[arg(long, default_value = "w4")]
    pub workload: Workload,
    /// Fraction of the hosts' link bandwidth to use
    #[arg(long, default_value_t = 0.8, value_parser = fraction)]
    pub load: f64,
    /// Link bandwidth of the hosts, in Gb/s
    #[arg(long, default_value_t = 10.0)]
    pub gbps: f64,
    /// Hosts, in four racks: a multiple of 4
    #[arg(long, default_value_t = 40, value_parser = racks)]
    pub hosts: u32,
    /// Messages to send [default: as many as make about 4 million packets]
    #[arg(long, conflicts_with = "seconds", value_parser = clap::value_parser!(u32).range(1..))]
    pub messages: Option<u32>,
    /// Simulated seconds in which messages start, instead of their number
    #[arg(long, value_parser = positive)]
    pub seconds: Option<f64>,
    /// What decides sizes, times and pairs
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Memory that may be used, in GiB
    #[arg(long, default_value_t = 4.0, value_parser = positive)]
    pub max_memory: f64,
    /// Print one JSON object for each run instead of tables
    #[arg(long)]
    pub json: bool,
}

/// A rack of hosts under the load of a workload: slowdown by message size, for SMT and for streams
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "\
Slowdown is one-way time, from the call to the whole request at its receiver, over what the same
message takes through the idle network. Load counts everything that DATA packets take on the wire,
responses, headers and gaps included.

Exit status: 0 done; 1 a message of SMT was lost or starved; 2 wrong usage.")]
pub struct Args {
    /// What to offer.
    #[command(flatten)]
    pub common: Common,
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
}

/// Runs the command.
///
/// # Errors
/// Wrong usage, or more memory needed than allowed.
pub fn run(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    let mut net = args.common.net();
    net.spread = args.spread;
    net.trim = args.trim;
    net.buffer_bytes = args.buffer;
    let wanted = |kind: &Kind| args.transport == "both" || args.transport == kind.to_string();
    let kinds = [Kind::Smt, Kind::Stream].into_iter().filter(wanted);
    let named = kinds.map(|kind| (kind.to_string(), args.common.experiment(net.clone(), kind)));
    args.common.compare(named.collect())
}

impl Common {
    /// The network, as it is by default.
    pub fn net(&self) -> NetConfig {
        leaf_spine(self.hosts, self.gbps)
    }

    /// A run through `net`.
    pub fn experiment(&self, net: NetConfig, transport: Kind) -> Experiment {
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
        Experiment { net, demand, transport }
    }

    /// Makes runs and prints them side by side.
    ///
    /// # Errors
    /// More memory needed than allowed, or a run that cannot be made.
    pub fn compare(&self, named: Vec<(String, Experiment)>) -> Result<ExitCode, Box<dyn Error>> {
        let (names, experiments): (Vec<String>, Vec<Experiment>) = named.into_iter().unzip();
        let started = Instant::now();
        let reports = run_all(&experiments, self.max_memory)?;
        let seconds = started.elapsed().as_secs_f64();
        if self.json {
            for report in &reports {
                println!("{}", serde_json::to_string(report)?);
            }
        } else {
            self.print(&reports, &names, seconds);
        }
        Ok(exit_code(&reports))
    }

    fn print(&self, reports: &[Report], names: &[String], seconds: f64) {
        let Common { workload, load, hosts, gbps, .. } = self;
        println!("{workload} ({}), load {load}, {hosts} hosts, {gbps} Gb/s", workload.about());
        let all: Vec<&Report> = reports.iter().collect();
        println!("\nSlowdown by size; the last lines are the longest hundredth, and all.\n");
        print!("{}", show::by_size(&all, names).text());
        println!();
        print!("{}", show::traffic(&all, names).text());
        println!();
        for (report, name) in reports.iter().zip(names) {
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
) -> Result<Vec<Report>, Box<dyn Error>> {
    let threads = cores().min(experiments.len());
    let estimates: Vec<u64> = experiments.iter().map(memory::estimate).collect();
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

fn fraction(text: &str) -> Result<f64, String> {
    let load: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if load > 0.0 && load <= 1.5 {
        Ok(load)
    } else {
        Err("a load is above 0, at most 1.5".to_owned())
    }
}

/// Reads a number above 0.
///
/// # Errors
/// It is none.
pub fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number > 0.0 && number.is_finite() { Ok(number) } else { Err("not above 0".to_owned()) }
}

fn racks(text: &str) -> Result<u32, String> {
    let hosts: u32 = text.parse().map_err(|_| "not a number".to_owned())?;
    let fits = hosts.is_multiple_of(4) && (8..=400).contains(&hosts);
    if fits { Ok(hosts) } else { Err("hosts are a multiple of 4, 8 to 400".to_owned()) }
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
