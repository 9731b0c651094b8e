//! What the fuzz targets do with their inputs, one function each. libFuzzer calls them from the
//! workspace `fuzz`; the tests here replay the inputs it has found.
#![allow(unreachable_pub, dead_code, reason = "shared with the fuzz targets")]

pub mod bundle;
mod checked;
pub mod control;
#[path = "../../hostile/input.rs"]
mod input;
pub mod layout;
#[path = "../../hostile/machine.rs"]
pub mod machine;
pub mod numbers;
pub mod offset;
pub mod packet;
pub mod pair;
pub mod params;
#[path = "../../hostile/plain.rs"]
mod plain;
pub mod preamble;
pub mod reassembly;
pub mod record;

/// A target: takes any bytes, and panics where a promise is broken.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 12] = [
    ("packet", packet::run),
    ("control", control::run),
    ("offset", offset::run),
    ("layout", layout::run),
    ("numbers", numbers::run),
    ("params", params::run),
    ("preamble", preamble::run),
    ("bundle", bundle::run),
    ("record", record::run),
    ("reassembly", reassembly::run),
    ("endpoint", machine::run),
    ("pair", pair::run),
];
