//! The program `smt-sim`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use smt_sim::commands::{incast, loss, paths, rack, replay, report, swarm, trim};

/// Simulates SMT: hostile networks drawn by seed, and whole racks under load.
#[derive(Parser)]
#[command(name = "smt-sim", version, about, max_term_width = 100)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Swarm(swarm::Args),
    Replay(replay::Args),
    Rack(rack::Args),
    Incast(incast::Args),
    Loss(loss::Args),
    Paths(paths::Args),
    Trim(trim::Args),
    Report(report::Args),
}

fn main() -> ExitCode {
    match run(Program::parse().command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("smt-sim: {error}");
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
        Command::Loss(args) => loss::run(args),
        Command::Paths(args) => paths::run(args),
        Command::Trim(args) => trim::run(args),
        Command::Report(args) => report::run(args),
    }
}
