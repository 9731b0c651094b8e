//! `smt demo`: two hosts on this machine, and what SMT promises between them.

mod eavesdrop;
mod first;
mod first_table;
pub mod host;
mod latency;
mod measure;
mod messages;
mod random;
mod screen;
mod stage;
mod traffic;

use clap::Args;
use serde_json::json;

use super::Error;
use crate::output::{duration, nanoseconds};
use crate::stop::Stop;
use screen::Screen;
use stage::Stage;

const ABOUT: &str = "\
See SMT work between two hosts on this machine

Makes two hosts out of network namespaces joined by a virtual Ethernet link (as root, or as an ordinary user in a user \
namespace), starts a server on one and a client on the other, with certificates on both sides and packets straight \
over IP, and shows in some thirty seconds:

  1. 10,000 echo RPCs of 64 B to 64 KB from both ends at once, all compared
  2. a message of 50 MB, compared by SHA-256
  3. the same with 5 % of the packets lost each way
  4. 10,000 RPCs more while both ends change their keys all the time
  5. what an eavesdropper on the link sees of a message
  6. the first RPC of a session: full handshake, resumed, first packet (0-RTT)
  7. round-trip times of SMT, TCP and TLS 1.3 on TCP, side by side

Nothing is left behind: the hosts vanish with the processes, keys are never written to disk, and the capture of step 5 \
goes to a private temporary directory that is removed.";

const AFTER: &str = "\
Examples:
  smt demo
  smt demo --json | jq 'select(.step == \"rtt\")'

Exit status: 0 if every step held, 1 if one did not or the hosts cannot be made (the text says what helps), 2 for \
wrong usage.

JSON: one object per step, {\"step\", \"ok\", ...}, with \"why\" where ok is false. Steps: setup; rpcs, bulk; loss_rpcs, \
loss_bulk, loss; key_updates; \
capture; first_rpc {beginning: full|resumed|early, p50_ns, p99_ns}; first_rpcs; rtt {transport: smt|tcp|tls, size, p50_ns, p99_ns}; rtt_ratio {size, p50_smt_to_tls, ...}; \
rtt_table; done {ok, failed, ns}.";

/// The arguments of `smt demo`.
#[derive(Debug, Args)]
#[command(about = "See SMT work between two hosts on this machine", long_about = ABOUT, after_help = AFTER)]
pub struct Arguments {
    /// One JSON object per step on standard output, for programs
    #[arg(long)]
    pub json: bool,
}

/// Runs all steps, also those after one that has failed.
///
/// # Errors
/// The hosts cannot be made, or a step did not hold.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let start = std::time::Instant::now();
    let mut screen = Screen::new(arguments.json);
    let stage = set_up(&mut screen)?;
    let steps = [
        traffic::on_clean_link,
        traffic::on_lossy_link,
        traffic::with_key_updates,
        eavesdrop::run,
        first_table::run,
        latency::run,
    ];
    for step in steps {
        if stage.is_stopped() {
            return Err(Error::Failed("interrupted".to_owned()));
        }
        step(&stage, &mut screen)?;
    }
    let failed = screen.failed();
    let text = match failed {
        0 => format!("  Every step held, in {}.", duration(start.elapsed())),
        _ => String::new(),
    };
    screen.printer.say(
        text,
        &json!({
            "step": "done", "ok": failed == 0, "failed": failed,
            "ns": nanoseconds(start.elapsed()),
        }),
    )?;
    if failed == 0 { Ok(()) } else { Err(Error::Failed(format!("{failed} steps did not hold"))) }
}

fn set_up(screen: &mut Screen) -> Result<Stage, Error> {
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    screen.printer.text(screen.printer.bold("SMT between two hosts on this machine"))?;
    let stage = match Stage::new(stop) {
        Ok(stage) => stage,
        Err(error) => {
            let why = error.explain();
            screen.printer.object(&json!({"step": "setup", "ok": false, "why": why}))?;
            return Err(error);
        }
    };
    let (client, server) = (stage.client_address(), stage.server_address());
    let wait = if stage.spins() { "spin" } else { "block" };
    let waiting = match wait {
        "spin" => "waiting by spinning, each host on a core of its own",
        _ => "waiting by sleeping, for want of a second core",
    };
    screen.printer.say(
        format!(
            "  {} client {client} and server {server}, joined by a link;\n    packets of IP protocol 253, {waiting}",
            screen.printer.good("✓")
        ),
        &json!({
            "step": "setup", "ok": true, "client": client, "server": server, "datapath": "raw",
            "protocol": 253, "wait": wait,
        }),
    )?;
    Ok(stage)
}
