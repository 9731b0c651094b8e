//! What the program `smt` is made of, as a library for its tests, its demo and its benchmarks.

#![forbid(unsafe_code)]

pub mod allow;
pub mod baseline;
pub mod bench;
pub mod commands;
pub mod cores;
pub mod output;
pub mod pki;
pub mod revocation;
pub mod stop;
pub mod times;
