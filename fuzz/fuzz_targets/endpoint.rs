//! The life of an endpoint between a hostile peer, strangers and its application: it never panics,
//! keeps to its limits, sends only sound packets, and when nobody says anything more nothing is left.
#![no_main]

#[path = "../../crates/smt-proto/tests/hostile/input.rs"]
mod input;
#[path = "../../crates/smt-proto/tests/hostile/machine.rs"]
mod machine;
#[path = "../../crates/smt-proto/tests/hostile/plain.rs"]
mod plain;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| machine::run(input));
