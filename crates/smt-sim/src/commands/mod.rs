//! The subcommands of the program `smt-sim`, one module each.

pub mod rack;
