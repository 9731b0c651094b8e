//! `smt-sim trim`: small switch buffers, with and without switches that cut payloads off.

use std::error::Error;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::rack::Common;
use crate::net::{NetConfig, Spread};
use crate::rack::experiment::{Experiment, Kind};

/// Small switch buffers: packets dropped, or trimmed to their headers
#[derive(Clone, Debug, ClapArgs)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Runs the load of `smt-sim rack` with SMT four times: what finds no room is dropped, or its payload is \
cut off and its header forwarded; either with packets spread one by one, or with messages that keep \
to the uplink that had the least to do when they began (\"message\").

Exit status: 0 done; 1 a message was lost or starved; 2 not done (wrong usage, too much memory).

Example:
  smt-sim trim --buffer 32768 --messages 20000"
)]
pub struct Args {
    /// What to offer.
    #[command(flatten)]
    pub common: Common,
    /// Buffer of each switch port, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = BUFFER,
          value_parser = clap::value_parser!(u32).range(super::numbers::BUFFER))]
    pub buffer: u32,
}

/// What overflows now and then.
pub const BUFFER: u32 = 64 << 10;

/// Runs the command.
///
/// # Errors
/// Wrong usage, or more memory needed than allowed.
pub fn run(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    args.common.compare(experiments(&args.common, args.buffer))
}

/// With and without trimming, packets and messages spread.
pub fn experiments(common: &Common, buffer_bytes: u32) -> Vec<(String, Experiment)> {
    let ways = [
        ("drop", Spread::Packet, false),
        ("trim", Spread::Packet, true),
        ("drop, message", Spread::Message, false),
        ("trim, message", Spread::Message, true),
    ];
    let with = |(name, spread, trim): (&str, Spread, bool)| {
        let net = NetConfig { spread, trim, buffer_bytes, ..common.net() };
        (name.to_owned(), common.experiment(net, Kind::Smt))
    };
    ways.into_iter().map(with).collect()
}
