//! Any flight: parsing its parameter block never panics, and what it says survives a round trip.

use smt_proto::wire::Params;

pub fn run(flight: &[u8]) {
    if let Ok((params, len)) = Params::parse(flight) {
        assert!(len <= flight.len());
        assert_eq!(Params::parse(&flight[..len]), Ok((params, len)));
        let again = params.emit(len);
        assert_eq!(Params::parse(&again), Ok((params, again.len())));
    }
}
