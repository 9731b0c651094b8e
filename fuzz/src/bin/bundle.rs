#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| smt_fuzz::targets::bundle::run(input));
