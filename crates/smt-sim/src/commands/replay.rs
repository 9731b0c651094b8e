//! `smt-sim replay`: one run of the swarm again, from its seed or a file, with log and capture.

use std::cell::RefCell;
use std::error::Error;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use clap::Args as ClapArgs;

use super::numbers;
use super::output::{line, print};
use crate::capture::Capture;
use crate::log;
use crate::scenario::Scenario;
use crate::swarm::{self, Options, Report};

/// Bytes of the longest file that is read as a scenario.
const LONGEST_FILE: u64 = 16 << 20;

/// One hostile network again, with a log of its packets or a capture
#[derive(Clone, Debug, ClapArgs)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
The same seed or file gives the same run on any machine; the digest, a hash of everything that \
happened, tells.

A line of the log: time in nanoseconds; sent, added (by a fault or an attacker), received or dropped; \
sender>receiver; what the packet says; its priority (p0 to p7); and what was done to it. Hosts count \
from 0; those after the scenario's are attackers.

The capture shows packets over IPv4 (protocol 253; host n is 10.0.0.n+1), as they leave their senders, \
and what faults and attackers add.

Exit status: 0 no rule was broken; 1 one was; 2 not done (wrong usage, a file, too much memory).

Examples:
  smt-sim replay --seed 77 --log run.txt
  smt-sim replay --seed 77 --show > my.toml    # edit it, and then:
  smt-sim replay --scenario my.toml --pcap run.pcap"
)]
pub struct Args {
    /// The seed that draws the scenario
    #[arg(long, value_name = "N", required_unless_present = "scenario", conflicts_with = "scenario",
          value_parser = clap::value_parser!(u64).range(numbers::SEEDS))]
    pub seed: Option<u64>,
    /// A file with the scenario (TOML)
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Print the scenario as such a file, and run nothing
    #[arg(long, conflicts_with_all = ["log", "pcap", "json"])]
    pub show: bool,
    /// Write what happens to each packet, a line each
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Write the packets to a capture file, for Wireshark or tcpdump
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Print a JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// The most memory the run may need, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024,
          value_parser = clap::value_parser!(u64).range(1..=numbers::MIB))]
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
        print(scenario.to_toml()?)?;
        return Ok(ExitCode::SUCCESS);
    }
    scenario.fits(args.max_memory << 20)?;
    let failed = Failed::default();
    let mut observers = Vec::new();
    if let Some(path) = &args.log {
        observers.push(log::observer(Output::create(path, &failed)?));
    }
    if let Some(path) = &args.pcap {
        observers.push(Capture::new(Output::create(path, &failed)?)?.into_observer());
    }
    let options = Options {
        observers,
        #[cfg(feature = "mutations")]
        mutation: args.mutation,
    };
    let report = swarm::run(&scenario, options);
    if args.json {
        print(format_args!("{}\n", as_json(&scenario, &report)))?;
    } else {
        print(text(&report))?;
    }
    if let Some(error) = failed.take() {
        return Err(error.into());
    }
    Ok(if report.violation.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn scenario(args: &Args) -> Result<Scenario, Box<dyn Error>> {
    let Some(path) = &args.scenario else { return Ok(Scenario::draw(args.seed.unwrap_or(0))) };
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(LONGEST_FILE + 1).read_to_end(&mut bytes));
    read.map_err(|error| in_file(path, error))?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(in_file(path, "longer than 16 MiB, and so no scenario").into());
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| in_file(path, "not text in UTF-8, and so no scenario"))?;
    Ok(Scenario::from_toml(&text).map_err(|error| in_file(path, error))?)
}

fn in_file(path: &Path, what: impl Display) -> String {
    format!("{}: {what}", path.display())
}

/// What went wrong first with a file that a run writes. Observers cannot say so themselves.
type Failed = Rc<RefCell<Option<String>>>;

/// A file that a run writes; it remembers a failure, also one that only shows when it is closed.
struct Output {
    file: BufWriter<File>,
    path: PathBuf,
    failed: Failed,
}

impl Output {
    fn create(path: &Path, failed: &Failed) -> Result<Output, String> {
        let file = File::create(path).map_err(|error| in_file(path, error))?;
        Ok(Output { file: BufWriter::new(file), path: path.to_owned(), failed: failed.clone() })
    }

    fn remember<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.failed.borrow_mut().get_or_insert_with(|| in_file(&self.path, error));
        }
        result
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes);
        self.remember(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.file.flush();
        self.remember(flushed)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // What fails is remembered.
        let _ = self.flush();
    }
}

fn text(report: &Report) -> String {
    let mut out = match &report.violation {
        Some(violation) => format!("broken: {violation}\n"),
        None => "no rule was broken\n".to_owned(),
    };
    for (kind, counts) in
        [("calls", &report.calls), ("fault", &report.faults), ("attack", &report.attacks)]
    {
        for (name, count) in counts {
            out += &line(&format!("{kind} {name}"), count);
        }
    }
    out += &line("packets sent", report.sent);
    out += &line("packets added", report.added);
    out += &line("packets delivered", report.delivered);
    out += &line("virtual time", format_args!("{:.6} ms", report.virtual_ns as f64 / 1e6));
    out + &line("digest", format_args!("{:016x}", report.digest))
}

fn as_json(scenario: &Scenario, report: &Report) -> serde_json::Value {
    serde_json::json!({
        "seed": scenario.seed,
        "violation": report.violation.as_ref().map(ToString::to_string),
        "calls": report.calls,
        "faults": report.faults,
        "attacks": report.attacks,
        "packets_sent": report.sent,
        "packets_added": report.added,
        "packets_delivered": report.delivered,
        "virtual_ns": report.virtual_ns,
        "digest": format!("{:016x}", report.digest),
    })
}
