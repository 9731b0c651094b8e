//! Any flight: parsing its parameter block never panics, and what it says survives a round trip.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smt_proto::wire::Params;

fuzz_target!(|flight: &[u8]| {
    if let Ok((params, len)) = Params::parse(flight) {
        assert!(len <= flight.len());
        assert_eq!(Params::parse(&flight[..len]), Ok((params, len)));
        let again = params.emit(len);
        assert_eq!(Params::parse(&again), Ok((params, again.len())));
    }
});
