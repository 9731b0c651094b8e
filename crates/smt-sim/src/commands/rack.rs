//! `smt-sim rack`: a rack of hosts under the load of a workload.

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};

use super::numbers::{self, load, positive, racks, rate, spread};
use super::output::{WIDTH, note, print, wrapped};
use super::runs;
use crate::net::{NetConfig, Spread};
use crate::rack::experiment::{Experiment, Kind, Report, leaf_spine};
use crate::rack::offered::{Demand, Offered};
use crate::rack::{memory, show};
use crate::table::Table;
use crate::workload::Workload;

/// Packets that a run has by default, counted at their senders, roughly.
const DEFAULT_PACKETS: f64 = 4e6;
/// Messages of a run by default, at least and at most.
const DEFAULT_MESSAGES: (f64, f64) = (4_000.0, 1_000_000.0);

/// What runs under the load of a workload have in common.
#[derive(Clone, Debug, ClapArgs)]
pub struct Common {
    /// Message sizes: w1 to w5, from memcached (short) to web search (long)
    #[arg(long, value_name = "NAME", default_value = "w4")]
    pub workload: Workload,
    /// Fraction of the hosts' link bandwidth to use, 0.01 to 1.5
    #[arg(long, value_name = "FRACTION", default_value_t = 0.8, value_parser = load)]
    pub load: f64,
    /// Link bandwidth of the hosts, in Gb/s
    #[arg(long, value_name = "RATE", default_value_t = 10.0, value_parser = rate)]
    pub gbps: f64,
    /// Hosts, in four racks: a multiple of 4, 8 to 400
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = racks)]
    pub hosts: u32,
    /// Messages to send, at least 100 [default: as many as make about 4 million packets, 4,000 to
    /// 1,000,000]
    #[arg(long, value_name = "N", conflicts_with = "seconds",
          value_parser = clap::value_parser!(u32).range(100..))]
    pub messages: Option<u32>,
    /// Simulated seconds in which messages start, instead of their number
    #[arg(long, value_name = "S", value_parser = positive)]
    pub seconds: Option<f64>,
    /// What decides sizes, times and pairs
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Memory that may be used, in GiB; runs that may need more are refused
    #[arg(long, value_name = "GIB", default_value_t = 4.0, value_parser = positive)]
    pub max_memory: f64,
    /// Print one JSON object for each run instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Racks of hosts under load: slowdown by message size, for SMT and for streams
#[derive(Clone, Debug, ClapArgs)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Slowdown is one-way time, from the call to the whole request at its receiver, over what the same \
message takes through the idle network; 1 is the best there is. Load counts everything that DATA \
packets take on the wire, responses, headers and gaps included. The first and the last tenth of the \
messages do not count.

Streams are what RPCs over TLS over TCP would do: DCTCP, one connection for each pair of hosts.

Exit status: 0 done; 1 a message of SMT was lost or starved; 2 not done (wrong usage, too much memory).

Examples:
  smt-sim rack --workload w3 --messages 100000
  smt-sim rack --workload w1 --gbps 100 --load 0.5 --transport smt --json"
)]
pub struct Args {
    /// What to offer.
    #[command(flatten)]
    pub common: Common,
    /// Whose turn it is
    #[arg(long, value_name = "WHICH", default_value = "both", value_parser = ["smt", "stream", "both"])]
    pub transport: String,
    /// How packets spread over the spines: flow, packet or message
    #[arg(long, value_name = "HOW", default_value = "packet", value_parser = spread)]
    pub spread: Spread,
    /// Have switches cut the payload off packets that find no room
    #[arg(long)]
    pub trim: bool,
    /// Buffer of each switch port, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = NetConfig::default().buffer_bytes,
          value_parser = clap::value_parser!(u32).range(numbers::BUFFER))]
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
            runs::print_json(&reports)?;
        } else {
            print(self.text(&reports, &names, seconds))?;
        }
        Ok(exit_code(&reports))
    }

    fn text(&self, reports: &[Report], names: &[String], seconds: f64) -> String {
        let Common { workload, load, hosts, gbps, .. } = self;
        let all: Vec<&Report> = reports.iter().collect();
        let mut out = format!(
            "{workload} ({}), load {load}, {hosts} hosts, {gbps} Gb/s\n\n\
             Slowdown by size; the last lines are the longest hundredth, and all.\n\n",
            workload.about()
        );
        for table in narrow(show::by_size(&all, names)) {
            out += &format!("{}\n", table.text());
        }
        out += &format!("{}\n", show::traffic(&all, names).transposed().text());
        for (report, name) in reports.iter().zip(names) {
            for line in show::complaints(report) {
                out += &wrapped(&format!("{name}: {line}"));
            }
        }
        let packets: u64 = reports.iter().map(|report| report.traffic.packets).sum();
        let rate = packets as f64 / seconds / 1e6;
        out + &format!("{packets} packets in {seconds:.1} s, {rate:.2} million a second\n")
    }
}

/// A table of slowdowns as it is, or, if lines of a terminal are too short for it, as one for each
/// statistic.
fn narrow(table: Table) -> Vec<Table> {
    if table.text().lines().all(|line| line.chars().count() <= WIDTH) {
        return vec![table];
    }
    let of = |what: &str| table.only(|column| column == "bytes" || column.ends_with(what));
    [" P50", " P99", " mean"].map(of).into()
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
    let estimates: Vec<u64> = experiments.iter().map(memory::estimate).collect();
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
    let reports = runs::run_all(experiments, &estimates, max_memory_gib, run);
    bar.finish_and_clear();
    reports
}

/// A progress bar over messages; nothing unless standard error is a terminal.
pub fn progress_bar(messages: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {eta} left");
    ProgressBar::new(messages).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What is wrong with runs, on standard error.
pub fn complain(named: &[(String, Experiment)], reports: &[Report]) {
    for ((name, experiment), report) in named.iter().zip(reports) {
        for line in show::complaints(report) {
            note(format_args!(
                "{name}, {}, {}: {line}",
                experiment.demand.workload, experiment.transport
            ));
        }
    }
}

/// 1 if a run of SMT lost a message or let one starve.
pub fn exit_code(reports: &[Report]) -> ExitCode {
    let smt = |report: &&Report| report.experiment.transport == Kind::Smt;
    ExitCode::from(u8::from(!reports.iter().filter(smt).all(Report::is_sound)))
}
