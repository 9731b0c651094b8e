//! Round-trip times: collected in bounded memory, told as percentiles.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde_json::{Value, json};

/// Longest time told exactly: an hour, in nanoseconds.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// Any number of durations, kept to three digits.
#[derive(Debug)]
pub struct Times {
    /// `None` only if the histogram's fixed bounds were refused, which they are not.
    histogram: Option<Histogram<u64>>,
}

impl Default for Times {
    fn default() -> Self {
        Times { histogram: Histogram::new_with_bounds(1, LONGEST_NS, 3).ok() }
    }
}

impl Times {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Adds all of another's.
    pub fn merge(&mut self, other: &Times) {
        if let (Some(histogram), Some(other)) = (&mut self.histogram, &other.histogram) {
            // Both have the same bounds, so nothing can be out of them.
            let _ = histogram.add(other);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.histogram.as_ref().map_or(0, Histogram::len)
    }

    /// The time that `part` (0 to 1) of them do not exceed, in nanoseconds; 0 if there are none.
    pub fn quantile_ns(&self, part: f64) -> u64 {
        self.histogram.as_ref().map_or(0, |histogram| histogram.value_at_quantile(part))
    }

    /// The shortest, in nanoseconds; 0 if there are none.
    pub fn min_ns(&self) -> u64 {
        self.histogram.as_ref().map_or(0, Histogram::min)
    }

    /// The longest, in nanoseconds; 0 if there are none.
    pub fn max_ns(&self) -> u64 {
        self.histogram.as_ref().map_or(0, Histogram::max)
    }

    /// All of them as a compressed HDR histogram (V2) in base64; empty if there are none.
    pub fn to_base64(&self) -> String {
        let mut bytes = Vec::new();
        let Some(histogram) = self.histogram.as_ref().filter(|histogram| !histogram.is_empty())
        else {
            return String::new();
        };
        match V2DeflateSerializer::new().serialize(histogram, &mut bytes) {
            Ok(_) => STANDARD.encode(bytes),
            Err(_) => String::new(),
        }
    }

    /// What [`Times::to_base64`] told; `None` if it is not that.
    pub fn from_base64(text: &str) -> Option<Times> {
        if text.is_empty() {
            return Some(Times::default());
        }
        let bytes = STANDARD.decode(text).ok()?;
        let histogram = Deserializer::new().deserialize(&mut bytes.as_slice()).ok()?;
        let mut times = Times::default();
        times.histogram.as_mut()?.add(&histogram).ok()?;
        Some(times)
    }

    /// Points of the distribution: the time that a part of them does not exceed, in nanoseconds, and that part (0 to
    /// 1), at steps that suit `parts`.
    pub fn points(&self, parts: &[f64]) -> Vec<(u64, f64)> {
        parts.iter().map(|&part| (self.quantile_ns(part), part)).collect()
    }

    /// Minimum, median, 99th percentile and maximum as members of a JSON object.
    pub fn to_json(&self) -> Value {
        json!({
            "count": self.count(),
            "min_ns": self.min_ns(),
            "p50_ns": self.quantile_ns(0.50),
            "p99_ns": self.quantile_ns(0.99),
            "max_ns": self.max_ns(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_hundred() {
        let mut times = Times::default();
        assert_eq!((times.count(), times.quantile_ns(0.5)), (0, 0));
        (1..=100).for_each(|ns| times.add(Duration::from_nanos(ns)));
        let told =
            [times.min_ns(), times.quantile_ns(0.5), times.quantile_ns(0.99), times.max_ns()];
        assert_eq!(told, [1, 50, 99, 100]);
        let mut both = Times::default();
        both.add(Duration::from_nanos(200));
        both.merge(&times);
        assert_eq!((both.count(), both.max_ns()), (101, 200));
        let again = Times::from_base64(&both.to_base64()).unwrap();
        assert_eq!((again.count(), again.max_ns()), (101, 200));
        assert_eq!(again.points(&[0.5]), [(both.quantile_ns(0.5), 0.5)]);
        assert_eq!(Times::from_base64(&Times::default().to_base64()).unwrap().count(), 0);
        assert!(Times::from_base64("AAAA").is_none() && Times::from_base64("#").is_none());
    }
}
