//! The program `smt-sim`: every subcommand is a module of [`smt_sim::commands`].
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use smt_sim::commands::{cores, incast, loss, output, paths, rack, replay, report, swarm, trim};

/// Messages of all sizes come and go all the time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Runs SMT in simulated networks: hostile ones drawn by seed, and whole racks under load
#[derive(Parser)]
#[command(name = "smt-sim", version, about, max_term_width = 100, after_help = HELP)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "\
Runs are deterministic: the same arguments give the same results on any machine, with any number \
of cores.

Exit status:
  0  done, and all was well
  1  done, and something was not: a rule broken, a message lost or starved
  2  not done: wrong usage, a file, too much memory; standard error says why

First steps:
  smt-sim swarm                   # 1,000 hostile networks: rules broken?
  smt-sim replay --seed 77        # one of them
  smt-sim rack --workload w3      # slowdown under load, SMT beside streams

Every command has --help. All but report have --json, for programs.";

#[derive(Subcommand)]
enum Command {
    Swarm(swarm::Args),
    Replay(replay::Args),
    Rack(rack::Args),
    Incast(incast::Args),
    Paths(paths::Args),
    Trim(trim::Args),
    Loss(loss::Args),
    Cores(cores::Args),
    Report(report::Args),
}

fn main() -> ExitCode {
    match run(Program::parse().command) {
        Ok(status) => status,
        Err(error) => {
            output::note(format_args!("smt-sim: {error}"));
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Swarm(args) => swarm::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Rack(args) => rack::run(args),
        Command::Incast(args) => incast::run(args),
        Command::Paths(args) => paths::run(args),
        Command::Trim(args) => trim::run(args),
        Command::Loss(args) => loss::run(args),
        Command::Cores(args) => cores::run(args),
        Command::Report(args) => report::run(args),
    }
}
