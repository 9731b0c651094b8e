//! The subcommands of the program `smt-sim`, one module each.

pub mod incast;
pub mod loss;
pub mod paths;
pub mod rack;
pub mod replay;
pub mod report;
pub mod swarm;
pub mod trim;
