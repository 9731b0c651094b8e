//! Numbers on the command line: read with their bounds, so that errors can name them.

use std::ops::RangeInclusive;

use crate::net::Spread;

/// Bytes of a switch port's buffer: at least a full packet.
pub(super) const BUFFER: RangeInclusive<i64> = 1_600..=u32::MAX as i64;
/// Seeds: what scenario files can hold.
pub(super) const SEEDS: RangeInclusive<u64> = 0..=i64::MAX as u64;
/// The most memory that can be allowed, in MiB.
pub(super) const MIB: u64 = 1 << 30;

/// A rate of hosts' links, in Gb/s.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.01..=1000.0, "a rate is 0.01 to 1000 Gb/s")
}

/// A fraction of links' bandwidth.
pub(super) fn load(text: &str) -> Result<f64, String> {
    within(text, 0.01..=1.5, "a load is 0.01 to 1.5")
}

/// A probability of loss with which calls still end.
pub(super) fn loss(text: &str) -> Result<f64, String> {
    within(text, 0.0..=0.5, "a probability of loss is 0 to 0.5 here")
}

/// A round-trip time in microseconds.
pub(super) fn round_trip(text: &str) -> Result<f64, String> {
    within(text, 1.0..=1e6, "a round trip is 1 to 1000000 us")
}

/// A number above 0.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    within(text, f64::MIN_POSITIVE..=1e9, "it must be above 0, and at most 10^9")
}

/// Hosts in four racks.
pub(super) fn racks(text: &str) -> Result<u32, String> {
    let hosts: u32 = text.parse().map_err(|_| "not a whole number".to_owned())?;
    let fits = hosts.is_multiple_of(4) && (8..=400).contains(&hosts);
    fits.then_some(hosts).ok_or_else(|| "hosts are a multiple of 4, 8 to 400".to_owned())
}

/// A way to spread packets, by its name.
pub(super) fn spread(text: &str) -> Result<Spread, String> {
    match text {
        "flow" => Ok(Spread::Flow),
        "packet" => Ok(Spread::Packet),
        "message" => Ok(Spread::Message),
        _ => Err("spreads are flow, packet and message".to_owned()),
    }
}

fn within(text: &str, bounds: RangeInclusive<f64>, what: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    bounds.contains(&number).then_some(number).ok_or_else(|| what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_bounds() {
        assert_eq!(rate("100"), Ok(100.0));
        assert_eq!(racks("40"), Ok(40));
        for bad in ["0", "-1", "nan", "inf", "many", ""] {
            assert!(rate(bad).is_err() && load(bad).is_err() && racks(bad).is_err(), "{bad}");
            assert!(positive(bad).is_err() && round_trip(bad).is_err(), "{bad}");
        }
        assert!(loss("0").is_ok() && loss("2").is_err() && loss("nan").is_err());
        assert!(racks("42").is_err());
    }
}
