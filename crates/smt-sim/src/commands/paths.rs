//! `smt-sim paths`: how packets spread over the spines, and what that does to latency.

use std::error::Error;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::rack::Common;
use crate::net::{NetConfig, Spread};
use crate::rack::experiment::{Experiment, Kind};

/// Ways to spread packets over the spines: by flow, by packet, by message
#[derive(Clone, Debug, ClapArgs)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Runs the load of `smt-sim rack` with SMT three times. Flow: all packets between two hosts take one \
path. Packet: each takes one by chance. Message: each message keeps to the uplink that had the least \
to do when it began.

Exit status: 0 done; 1 a message was lost or starved; 2 not done (wrong usage, too much memory).

Example:
  smt-sim paths --workload w3 --messages 100000"
)]
pub struct Args {
    /// What to offer.
    #[command(flatten)]
    pub common: Common,
}

/// Runs the command.
///
/// # Errors
/// Wrong usage, or more memory needed than allowed.
pub fn run(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    args.common.compare(experiments(&args.common))
}

/// A run for each way to spread packets.
pub fn experiments(common: &Common) -> Vec<(String, Experiment)> {
    let spreads =
        [("flow", Spread::Flow), ("packet", Spread::Packet), ("message", Spread::Message)];
    let with = |(name, spread): (&str, Spread)| {
        let net = NetConfig { spread, ..common.net() };
        (name.to_owned(), common.experiment(net, Kind::Smt))
    };
    spreads.into_iter().map(with).collect()
}
