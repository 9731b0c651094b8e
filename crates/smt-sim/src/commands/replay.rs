//! `smt-sim replay`: one run of the swarm again, from its seed or a file, with log and capture.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;

use crate::capture::Capture;
use crate::log;
use crate::scenario::Scenario;
use crate::swarm::{self, Options, Report};

/// Run one hostile network again, with a log of its packets or a capture
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "\
The same seed or file gives the same run on any machine; the digest tells.

Exit status: 0 no rule was broken; 1 one was; 2 wrong usage.")]
pub struct Args {
    /// The seed that draws the scenario
    #[arg(long, required_unless_present = "scenario", conflicts_with = "scenario")]
    pub seed: Option<u64>,
    /// A file with the scenario (TOML)
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Print the scenario as such a file, and run nothing
    #[arg(long)]
    pub show: bool,
    /// Write what happens to each packet, a line each
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Write the packets that hosts receive, for Wireshark
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Print a JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// The most memory the run may need, in MiB
    #[arg(long, default_value_t = 1024)]
    pub max_memory: u64,
    /// Plant a bug in the core of all hosts
    #[cfg(feature = "mutations")]
    #[arg(long, value_parser = mutation)]
    pub mutation: Option<smt_proto::mutation::Mutation>,
}

/// A planted bug by its name.
///
/// # Errors
/// The names there are.
#[cfg(feature = "mutations")]
pub fn mutation(name: &str) -> Result<smt_proto::mutation::Mutation, String> {
    let all = smt_proto::mutation::Mutation::ALL;
    let found = all.into_iter().find(|mutation| format!("{mutation:?}") == name);
    found.ok_or_else(|| format!("one of {all:?}"))
}

/// Runs the command.
///
/// # Errors
/// The scenario file is missing or wrong, the run would need too much memory, or a file cannot be
/// written.
pub fn run(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    let scenario = scenario(&args)?;
    if args.show {
        print!("{}", scenario.to_toml()?);
        return Ok(ExitCode::SUCCESS);
    }
    scenario.fits(args.max_memory << 20)?;
    let mut observers = Vec::new();
    if let Some(path) = &args.log {
        observers.push(log::observer(create(path)?));
    }
    if let Some(path) = &args.pcap {
        observers.push(Capture::new(create(path)?)?.into_observer());
    }
    let options = Options {
        observers,
        #[cfg(feature = "mutations")]
        mutation: args.mutation,
    };
    let report = swarm::run(&scenario, options);
    if args.json {
        println!("{}", as_json(&scenario, &report));
    } else {
        print(&report);
    }
    Ok(if report.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn scenario(args: &Args) -> Result<Scenario, Box<dyn Error>> {
    let Some(path) = &args.scenario else { return Ok(Scenario::draw(args.seed.unwrap_or(0))) };
    let text = std::fs::read_to_string(path).map_err(|error| in_file(path, &error))?;
    Ok(Scenario::from_toml(&text).map_err(|error| in_file(path, &error))?)
}

fn create(path: &Path) -> Result<BufWriter<File>, String> {
    File::create(path).map(BufWriter::new).map_err(|error| in_file(path, &error))
}

fn in_file(path: &Path, error: &dyn Error) -> String {
    format!("{}: {error}", path.display())
}

fn print(report: &Report) {
    match &report.violation {
        Some(violation) => println!("broken: {violation}"),
        None => println!("no rule was broken"),
    }
    println!("calls: {:?}", report.calls);
    println!("faults: {:?}", report.faults);
    println!("attacks: {:?}", report.attacks);
    println!("packets sent {}, delivered {}", report.sent, report.delivered);
    println!("virtual time {:.6} ms", report.virtual_ns as f64 / 1e6);
    println!("digest {:016x}", report.digest);
}

fn as_json(scenario: &Scenario, report: &Report) -> serde_json::Value {
    serde_json::json!({
        "seed": scenario.seed,
        "violation": report.violation.as_ref().map(ToString::to_string),
        "calls": report.calls,
        "faults": report.faults,
        "attacks": report.attacks,
        "packets_sent": report.sent,
        "packets_delivered": report.delivered,
        "virtual_ns": report.virtual_ns,
        "digest": format!("{:016x}", report.digest),
    })
}
