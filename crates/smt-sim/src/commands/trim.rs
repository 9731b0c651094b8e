//! `smt-sim trim`: small switch buffers, with and without switches that cut payloads off.

use std::error::Error;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::rack::Common;
use crate::net::{NetConfig, Spread};
use crate::rack::experiment::{Experiment, Kind};

/// Small switch buffers: packets dropped, or their payload cut off and their header forwarded
#[derive(Clone, Debug, ClapArgs)]
#[command(after_help = "\
Each is run twice: with packets spread one by one, and with switches that keep each message on the
uplink that has the least to do, which the plain parts of SMT's headers let them.

Exit status: 0 done; 1 a message was lost or starved; 2 wrong usage.")]
pub struct Args {
    /// What to offer.
    #[command(flatten)]
    pub common: Common,
    /// Buffer of each switch port, in bytes
    #[arg(long, default_value_t = BUFFER)]
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
