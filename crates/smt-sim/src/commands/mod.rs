//! The subcommands of the program `smt-sim`, one module each, and what they share.

pub mod cores;
pub mod incast;
pub mod loss;
mod numbers;
pub mod output;
pub mod paths;
pub mod rack;
pub mod replay;
pub mod report;
mod runs;
pub mod swarm;
pub mod trim;
