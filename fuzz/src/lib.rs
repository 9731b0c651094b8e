//! The targets, which the tests of smt-proto share; `src/bin` hands them to libFuzzer.

#[path = "../../crates/smt-proto/tests/fuzz/targets/mod.rs"]
pub mod targets;
