//! `smt bench agent`: the far end of benchmarks between two machines.

use std::net::SocketAddr;

use clap::Args;
use serde_json::json;

use crate::bench::agent;
use crate::commands::Error;
use crate::output::Printer;
use crate::stop::Stop;

const ABOUT: &str = "\
Serve benchmarks run on another machine

Prints a token, which the other machine passes with --agent-token: the hash of a certificate made for this run, and a \
secret. Over a control channel of TLS 1.3 the client asks for servers, of whatever transport it measures, on TCP, UDP and \
SMT port 4433 of the address that it reached the agent by; one client at a time. Whoever has the token can have such servers \
started, and nothing else. On Ctrl-C it ends.

Needs the privileges of the datapaths that are measured: see smt doctor.";

const AFTER: &str = "\
Example:
  there$ smt bench agent --listen 192.0.2.2:4500
  here$  smt bench rtt --link 192.0.2.2:4500 --agent-token TOKEN";

/// The arguments of `smt bench agent`.
#[derive(Debug, Args)]
#[command(about = "Serve benchmarks run on another machine", long_about = ABOUT, after_help = AFTER)]
pub struct Arguments {
    /// Where to listen for the control channel
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// One JSON object per line on standard output, for programs
    #[arg(long)]
    pub json: bool,
}

/// Serves until Ctrl-C.
///
/// # Errors
/// The agent cannot listen.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    let printer = Printer::new(arguments.json);
    agent::run(arguments.listen, &stop, |address, token| {
        let text = format!("listening on {address}\ntoken {token}");
        printer.say(
            text,
            &json!({ "event": "listening", "address": address, "token": token.to_string() }),
        )
    })
}
