//! `smt-sim report`: all experiments on congestion control, written into the documentation.

use std::error::Error;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args as ClapArgs, ValueEnum};

use super::numbers::positive;
use super::output::print;
use super::rack::{Common, complain, default_messages, exit_code, run_all};
use super::{cores, incast, loss, paths, trim};
use crate::plot::{Point, Series, slowdown};
use crate::rack::cores::{CoresReport, Costs};
use crate::rack::document::replace;
use crate::rack::experiment::{Experiment, Kind, Report};
use crate::rack::incast::IncastReport;
use crate::rack::lossy::LossyReport;
use crate::rack::show;
use crate::table::{Cell, Table};
use crate::workload::Workload;

/// Loads of the hosts' links.
const LOADS: [f64; 2] = [0.8, 0.5];
/// Links of the hosts, in Gb/s.
const RATES: [f64; 2] = [10.0, 100.0];
/// Workload of the experiments on paths and trimming.
const ELSEWHERE: Workload = Workload::W4;

/// All experiments on congestion control, written into the documentation
#[derive(Clone, Debug, ClapArgs)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Writes tables between the markers of simulation.md in the directory --docs, touching nothing else \
in it, and plots to simulation/*.svg beside it. The same seed and scale give the same files. At \
full scale this takes long; --scale 0.01 is a quick trial.

Exit status: 0 done; 1 done, and a message of SMT was lost or starved; 2 not done (wrong usage, a \
file, too much memory).

Example:
  cp -r docs /tmp/docs && smt-sim report --docs /tmp/docs --scale 0.01
  smt-sim report --only cores"
)]
pub struct Args {
    /// Where docs/ is
    #[arg(long, value_name = "DIR", default_value = "docs")]
    pub docs: PathBuf,
    /// Make these experiments alone, separated by commas, and leave the rest of the document as it is
    #[arg(long, value_name = "PART,..", value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Messages of each run, over the usual number
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = positive)]
    pub scale: f64,
    /// What decides sizes, times, pairs and losses
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Memory that may be used, in GiB; if more may be needed, nothing is run
    #[arg(long, value_name = "GIB", default_value_t = 8.0, value_parser = positive)]
    pub max_memory: f64,
}

/// A part of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// All workloads, at all rates and loads
    Racks,
    /// Ways to spread packets
    Paths,
    /// Small buffers that trim
    Trim,
    /// Hundreds of senders
    Incast,
    /// Networks that lose packets
    Loss,
    /// Hosts of several cores
    Cores,
}

/// Runs the command.
///
/// # Errors
/// The document cannot be read or written, or lacks a marker; more memory needed than allowed.
pub fn run(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    let path = args.docs.join("simulation.md");
    let mut document = fs::read_to_string(&path).map_err(|error| at(&path, error))?;
    let plan = args.plan();
    let wants = |part| args.wants(part);
    for name in args.markers() {
        replace(&mut document.clone(), &name, "").map_err(|error| at(&path, error))?;
    }
    let directory = args.docs.join("simulation");
    fs::create_dir_all(&directory).map_err(|error| at(&directory, error))?;
    let experiments: Vec<Experiment> =
        plan.iter().map(|(_, experiment)| experiment.clone()).collect();
    let reports = run_all(&experiments, args.max_memory)?;
    let mut parts = Parts { document: &mut document, plots: Vec::new() };
    if wants(Part::Racks) {
        parts.racks(&plan, &reports)?;
    }
    if wants(Part::Paths) {
        parts.variants("paths", &plan, &reports)?;
    }
    if wants(Part::Trim) {
        parts.variants("trim", &plan, &reports)?;
    }
    let mut sound = true;
    if wants(Part::Incast) {
        let incasts = incast::reports(&args.incasts())?;
        parts.table("incast", &incast::table(&incasts))?;
        sound &= incasts.iter().all(IncastReport::is_sound);
    }
    if wants(Part::Loss) {
        let losses = loss::reports(&args.losses())?;
        parts.table("loss", &loss::table(&losses))?;
        sound &= losses.iter().all(LossyReport::is_sound);
    }
    if wants(Part::Cores) {
        let of_cores = cores::reports(&args.cores())?;
        parts.table("cores", &cores::table(&of_cores))?;
        parts.plots.extend(cores::plots(&of_cores)?);
        sound &= of_cores.iter().all(CoresReport::is_sound);
    }
    let plots = parts.plots;
    for (name, svg) in &plots {
        let path = directory.join(name);
        fs::write(&path, svg).map_err(|error| at(&path, error))?;
    }
    fs::write(&path, document).map_err(|error| at(&path, error))?;
    complain(&plan, &reports);
    print(format_args!("{}: tables, and {} plots beside it\n", path.display(), plots.len()))?;
    Ok(if sound { exit_code(&reports) } else { ExitCode::FAILURE })
}

fn at(path: &Path, error: impl Display) -> String {
    format!("{}: {error}", path.display())
}

impl Args {
    /// Whether a part is to be made.
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// All runs under load that are wanted, each with the name of its part.
    fn plan(&self) -> Vec<(String, Experiment)> {
        let mut plan = Vec::new();
        let rates = RATES.iter().filter(|_| self.wants(Part::Racks));
        for (gbps, load) in rates.flat_map(|gbps| LOADS.map(|load| (*gbps, load))) {
            for workload in Workload::ALL {
                let common = self.common(workload, gbps, load);
                for kind in [Kind::Smt, Kind::Stream] {
                    plan.push((rack_name(gbps, load), common.experiment(common.net(), kind)));
                }
            }
        }
        let common = self.common(ELSEWHERE, 10.0, 0.8);
        let of = |part: &str, runs: Vec<(String, Experiment)>| {
            let part = part.to_owned();
            runs.into_iter().map(move |(name, run)| (format!("{part}: {name}"), run))
        };
        if self.wants(Part::Paths) {
            plan.extend(of("paths", paths::experiments(&common)));
        }
        if self.wants(Part::Trim) {
            plan.extend(of("trim", trim::experiments(&common, trim::BUFFER)));
        }
        plan
    }

    fn common(&self, workload: Workload, gbps: f64, load: f64) -> Common {
        Common {
            workload,
            load,
            gbps,
            hosts: 40,
            messages: Some(default_messages(workload, self.scale)),
            seconds: None,
            seed: self.seed,
            max_memory: self.max_memory,
            json: false,
        }
    }

    /// The names of all generated parts of the document.
    fn markers(&self) -> Vec<String> {
        let racks = RATES.iter().flat_map(|gbps| LOADS.map(|load| rack_name(*gbps, load)));
        let sizes = Workload::ALL.map(|workload| format!("{}-{workload}", rack_name(10.0, 0.8)));
        racks
            .chain(sizes)
            .chain(["paths", "trim", "incast", "loss", "cores"].map(str::to_owned))
            .collect()
    }

    fn incasts(&self) -> incast::Args {
        incast::Args {
            senders: incast::SENDERS.to_vec(),
            bytes: 10_000,
            rounds: 5,
            gbps: 10.0,
            buffer: crate::net::NetConfig::default().buffer_bytes,
            seed: self.seed,
            max_memory: self.max_memory,
            json: false,
        }
    }

    fn cores(&self) -> cores::Args {
        let costs = Costs::default();
        cores::Args {
            cores: cores::CORES.to_vec(),
            client_cores: None,
            outstanding: 64,
            long: 1 << 20,
            short_rate: 20_000,
            packet_ns: costs.packet,
            record_ns: costs.record,
            message_ns: costs.message,
            kib_ns: costs.kib,
            gbps: 100.0,
            // Shorter ones would hardly have begun.
            millis: ((50.0 * self.scale) as u32).clamp(10, 10_000),
            seed: self.seed,
            max_memory: self.max_memory,
            json: false,
        }
    }

    fn losses(&self) -> loss::Args {
        loss::Args {
            loss: 0.01,
            hosts: 8,
            outstanding: vec![1, 4, 16],
            bytes: 100,
            calls: (100_000.0 * self.scale) as u64,
            rtt_us: 10.0,
            gbps: 100.0,
            seed: self.seed,
            max_memory: self.max_memory,
            json: false,
        }
    }
}

/// Name of the runs at one rate and load, as in marker and file names.
fn rack_name(gbps: f64, load: f64) -> String {
    format!("rack-{gbps:.0}g-{:.0}", load * 100.0)
}

/// The generated parts of the document.
struct Parts<'a> {
    document: &'a mut String,
    /// File names and contents.
    plots: Vec<(String, String)>,
}

impl Parts<'_> {
    fn table(&mut self, name: &str, table: &Table) -> Result<(), Box<dyn Error>> {
        Ok(replace(self.document, name, &table.markdown())?)
    }

    /// A table of all workloads for each rate and load, a plot of each workload, and slowdown by size
    /// where the load is high and links are slow.
    fn racks(
        &mut self,
        plan: &[(String, Experiment)],
        reports: &[Report],
    ) -> Result<(), Box<dyn Error>> {
        for (gbps, load) in RATES.iter().flat_map(|gbps| LOADS.map(|load| (*gbps, load))) {
            let name = rack_name(gbps, load);
            let named = plan.iter().zip(reports).filter(|((part, _), _)| *part == name);
            let some: Vec<&Report> = named.map(|(_, report)| report).collect();
            self.table(&name, &workloads(&some))?;
            for pair in some.chunks(2) {
                let Some(first) = pair.first() else { continue };
                let workload = first.experiment.demand.workload;
                self.plot(&format!("{name}-{workload}.svg"), first, pair)?;
                if (gbps, load) == (10.0, 0.8) {
                    self.table(&format!("{name}-{workload}"), &show::by_size(pair, &names(pair)))?;
                }
            }
        }
        Ok(())
    }

    fn plot(&mut self, file: &str, first: &Report, all: &[&Report]) -> Result<(), Box<dyn Error>> {
        let demand = first.experiment.demand;
        let title = format!(
            "{} ({}), {:.0} % load, {:.0} Gb/s",
            demand.workload,
            demand.workload.about(),
            demand.load * 100.0,
            demand.link_gbps
        );
        let series: Vec<Series> =
            all.iter().zip(names(all)).map(|(r, name)| series(r, name)).collect();
        self.plots.push((file.to_owned(), slowdown(&title, &series)?));
        Ok(())
    }

    /// The runs of one part side by side: slowdown by size, and what the network saw.
    fn variants(
        &mut self,
        part: &str,
        plan: &[(String, Experiment)],
        reports: &[Report],
    ) -> Result<(), Box<dyn Error>> {
        let named = plan.iter().zip(reports).filter_map(|((name, _), report)| {
            let name = name.strip_prefix(part)?.strip_prefix(": ")?;
            Some((name.to_owned(), report))
        });
        let (names, some): (Vec<String>, Vec<&Report>) = named.unzip();
        let by_size = show::by_size(&some, &names).markdown();
        let traffic = show::traffic(&some, &names).markdown();
        replace(self.document, part, &format!("{by_size}\n{traffic}"))?;
        let series: Vec<Series> =
            some.iter().zip(names).map(|(report, name)| series(report, name)).collect();
        self.plots.push((format!("{part}.svg"), slowdown(part, &series)?));
        Ok(())
    }
}

fn names(reports: &[&Report]) -> Vec<String> {
    reports.iter().map(|report| report.experiment.transport.to_string()).collect()
}

fn series(report: &Report, name: String) -> Series {
    let point = |group: &crate::rack::outcome::Slowdown| Point {
        label: short(group.to_bytes),
        p50: group.p50,
        p99: group.p99,
    };
    Series { name, points: report.outcome.by_size.iter().map(point).collect() }
}

/// A size with a unit: 950, 1.4k, 29M.
fn short(bytes: u32) -> String {
    let (number, unit) = match bytes {
        0..1000 => return bytes.to_string(),
        1000..1_000_000 => (f64::from(bytes) / 1e3, "k"),
        _ => (f64::from(bytes) / 1e6, "M"),
    };
    if number < 9.95 { format!("{number:.1}{unit}") } else { format!("{number:.0}{unit}") }
}

/// A row for each workload, given runs of SMT and streams in turn.
fn workloads(reports: &[&Report]) -> Table {
    let mut table = Table::new([
        "workload",
        "messages",
        "SMT short half P99",
        "streams",
        "SMT longest 1 % P50",
        "streams",
        "links used",
        "dropped",
        "sent again",
        "largest queue",
        "starved",
    ]);
    for pair in reports.chunks(2) {
        let &[smt, stream] = pair else { continue };
        table.row([
            Cell::from(smt.experiment.demand.workload.to_string()),
            smt.experiment.demand.messages.into(),
            smt.outcome.short_half.p99.into(),
            stream.outcome.short_half.p99.into(),
            smt.outcome.longest.p50.into(),
            stream.outcome.longest.p50.into(),
            smt.traffic.utilisation.into(),
            smt.traffic.dropped.into(),
            smt.traffic.retransmitted.into(),
            smt.traffic.largest_queue.into(),
            (smt.outcome.starved + smt.outcome.unfinished).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_alone_makes_no_other_runs() {
        let plan = |only: &[Part]| {
            let (docs, only) = (PathBuf::new(), only.to_vec());
            Args { docs, only, scale: 0.01, seed: 1, max_memory: 1.0 }.plan().len()
        };
        assert_eq!((plan(&[Part::Cores]), plan(&[Part::Paths])), (0, 3));
        assert_eq!(plan(&[]), plan(&[Part::Racks, Part::Paths, Part::Trim]));
    }

    #[test]
    fn sizes_are_short() {
        let sizes = [7, 999, 1400, 10_000, 9_999_999, 28_809_515];
        assert_eq!(sizes.map(short), ["7", "999", "1.4k", "10k", "10M", "29M"]);
    }
}
