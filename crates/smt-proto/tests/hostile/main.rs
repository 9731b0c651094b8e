//! Strings of bytes as the life of an endpoint: random ones, and those that once broke it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(unreachable_pub, reason = "shared with the fuzz target")]

mod input;
mod machine;
mod plain;

#[path = "../net/mod.rs"]
mod net;

use net::Seeded;

#[test]
fn random_lives_end_well() {
    for seed in 0..400 {
        let mut random = Seeded(seed);
        let len = random.below(2000) as usize;
        let input = random.bytes(len);
        let life = std::panic::catch_unwind(|| machine::run(&input));
        assert!(life.is_ok(), "seed {seed}");
    }
}

#[test]
fn lives_full_of_bundles_end_well() {
    for seed in 0..200 {
        let mut random = Seeded(seed);
        let len = random.below(3000) as usize;
        let mut input = random.bytes(len);
        for byte in &mut input {
            // The step that is a bundle.
            if random.below(5) == 0 {
                *byte = 255;
            }
        }
        let life = std::panic::catch_unwind(|| machine::run(&input));
        assert!(life.is_ok(), "seed {seed}");
    }
}

/// A flight without bytes went out as a message of length 0, which is malformed.
#[test]
fn an_empty_flight_is_not_sent() {
    machine::run(&[0xff, 0x5b, 0xff, 0xfb, 0xff, 0xfc, 0xff, 0x06]);
}
