//! The program `smt`: every subcommand is a module of [`smt_cli::commands`].

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;
use smt_cli::commands::{Error, bench, call, demo, doctor, ping, pki, serve, ticket};
use smt_cli::output::{self, Printer};
use tracing_subscriber::EnvFilter;

/// Secure Message Transport: RPCs protected by TLS 1.3 over an IP protocol of their own
#[derive(Debug, Parser)]
#[command(version, after_help = HELP, subcommand_required = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Arguments),
    Doctor(doctor::Arguments),
    Serve(serve::Arguments),
    Call(call::Arguments),
    Ping(ping::Arguments),
    Pki(pki::Arguments),
    Ticket(ticket::Arguments),
    Bench(bench::Arguments),
    /// One host of the demonstration, told what to do on standard input
    #[command(hide = true)]
    DemoHost,
}

const HELP: &str = "\
Exit status:
  0  done
  1  failed; standard error says why
  2  wrong usage
  3  no session with the server; standard error says why and what helps

First steps:
  smt demo             # what SMT promises, between two hosts on one machine
  smt doctor           # which datapaths work here, and what would make them faster
  smt pki dev certs    # certificates to try it with, in certs/
  smt serve --help     # a server that echoes
  smt ping --help      # how long a round trip takes

Every command has --json: one object per line on standard output, for programs.
RUST_LOG=debug (or warn, smt=trace, ...) writes a log to standard error.
Native packets need CAP_NET_RAW: be root, or `sudo setcap cap_net_raw+ep` the program, or take \
--datapath udp at both ends. `smt demo` needs neither.";

fn main() -> ExitCode {
    // What happens to watched files, `smt serve` tells by itself.
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("error,smt::tls::watch=off"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    log.with_ansi(output::has_colours(&io::stderr())).init();
    let command = match Arguments::try_parse() {
        Ok(arguments) => arguments.command,
        Err(error) => return wrong_usage(&error),
    };
    let json = command.is_json();
    match command.run() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(Error::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let text = error.explain();
            let object = json!({
                "event": "error", "exit_status": error.exit_status(), "text": text,
            });
            // If nobody reads standard output either, the exit status has to do.
            let _ = Printer::new(json).object(&object);
            eprintln!("smt: {text}");
            ExitCode::from(error.exit_status())
        }
    }
}

/// Help and version are asked for like this, too.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    let status = u8::try_from(error.exit_code()).unwrap_or(2);
    if status != 0 && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let first = text.split("\n\n").next().unwrap_or_default();
        let words: Vec<&str> = first.trim_start_matches("error: ").split_whitespace().collect();
        let object = json!({"event": "error", "exit_status": status, "text": words.join(" ")});
        let _ = Printer::new(true).object(&object);
    }
    let _ = error.print();
    ExitCode::from(status)
}

impl Command {
    fn run(self) -> Result<(), Error> {
        match self {
            Command::Demo(arguments) => demo::run(&arguments),
            Command::Doctor(arguments) => doctor::run(&arguments),
            Command::Serve(arguments) => serve::run(&arguments),
            Command::Call(arguments) => call::run(&arguments),
            Command::Ping(arguments) => ping::run(&arguments),
            Command::Pki(arguments) => {
                pki::run(&arguments).map_err(|error| Error::Failed(error.to_string()))
            }
            Command::Ticket(arguments) => ticket::run(&arguments),
            Command::Bench(arguments) => bench::run(&arguments),
            Command::DemoHost => demo::host::run(),
        }
    }

    fn is_json(&self) -> bool {
        match self {
            Command::Demo(arguments) => arguments.json,
            Command::Doctor(arguments) => arguments.json,
            Command::Serve(arguments) => arguments.transport.json,
            Command::Call(arguments) => arguments.transport.json,
            Command::Ping(arguments) => arguments.transport.json,
            Command::Bench(arguments) => arguments.is_json(),
            Command::Pki(arguments) => arguments.is_json(),
            Command::Ticket(arguments) => arguments.is_json(),
            Command::DemoHost => false,
        }
    }
}
