//! How long messages are: the five workloads by which Homa was evaluated.

mod tables;

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::rng::Rng;
use tables::Point;

/// A distribution of message sizes, in the order of their means.
///
/// Between two published points the logarithm of the size grows evenly with the share of messages
/// (`size = a * (b / a)^t`), rounded up to a whole byte; the first point is a step, so that its
/// share of the messages has exactly its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// A memcached pool at Facebook: nearly all below 1,000 bytes.
    W1,
    /// A search application at Google.
    W2,
    /// All RPCs of a datacenter of Google.
    W3,
    /// A Hadoop cluster at Facebook.
    W4,
    /// Web search, as in the paper on DCTCP: most bytes in messages of megabytes.
    W5,
}

impl Workload {
    /// All five.
    pub const ALL: [Workload; 5] = [Self::W1, Self::W2, Self::W3, Self::W4, Self::W5];

    /// Draws the size of a message, in bytes.
    pub fn sample(self, rng: &mut Rng) -> u32 {
        self.quantile(rng.unit())
    }

    /// The mean size of a message, in bytes.
    pub fn mean(self) -> f64 {
        let points = self.points();
        let step = points.first().map_or(0.0, |&(size, share)| f64::from(size) * share);
        step + points.windows(2).map(mean_between).sum::<f64>()
    }

    /// The size, in bytes, that a share `q` of the messages does not exceed; the smallest for
    /// `q <= 0`, the largest for `q >= 1`.
    pub fn quantile(self, q: f64) -> u32 {
        let points = self.points();
        let above = points.partition_point(|&(_, share)| share < q);
        let Some(&(b, high)) = points.get(above).or(points.last()) else { return 0 };
        let Some(&(a, low)) = above.checked_sub(1).and_then(|i| points.get(i)) else { return b };
        if above == points.len() {
            return b;
        }
        let t = (q - low) / (high - low);
        let size = f64::from(a) * (f64::from(b) / f64::from(a)).powf(t);
        // Errors of rounding must not turn the size at a point into the next one.
        ((size - 1e-6).ceil() as u32).clamp(a, b)
    }

    /// What it stands for, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Workload::W1 => "Facebook memcached (ETC)",
            Workload::W2 => "Google search",
            Workload::W3 => "all RPCs at Google",
            Workload::W4 => "Facebook Hadoop",
            Workload::W5 => "web search (DCTCP)",
        }
    }

    fn points(self) -> &'static [Point] {
        match self {
            Workload::W1 => tables::W1,
            Workload::W2 => tables::W2,
            Workload::W3 => tables::W3,
            Workload::W4 => tables::W4,
            Workload::W5 => tables::W5,
        }
    }
}

/// What the messages between two points add to the mean: that of a logarithm spread evenly, and
/// half a byte for rounding up.
fn mean_between(pair: &[Point]) -> f64 {
    let &[(a, low), (b, high)] = pair else { return 0.0 };
    let (a, b) = (f64::from(a), f64::from(b));
    let size = if b - a <= 1.0 { b } else { (b - a) / (b / a).ln() + 0.5 };
    (high - low) * size
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Workload::W1 => "w1",
            Workload::W2 => "w2",
            Workload::W3 => "w3",
            Workload::W4 => "w4",
            Workload::W5 => "w5",
        })
    }
}

/// A name that is not that of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWorkload(String);

impl fmt::Display for UnknownWorkload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no workload is called {:?}; there are", self.0)?;
        for (i, workload) in Workload::ALL.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma} {workload} ({})", workload.about())?;
        }
        Ok(())
    }
}

impl core::error::Error for UnknownWorkload {}

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Workload::ALL.into_iter().find(|w| w.to_string().eq_ignore_ascii_case(name));
        known.ok_or_else(|| UnknownWorkload(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_cumulative_and_go_up_to_one() {
        for workload in Workload::ALL {
            let points = workload.points();
            for pair in points.windows(2) {
                assert!(pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1, "{workload}: {pair:?}");
            }
            assert!(points[0].0 > 0 && points[0].1 >= 0.0, "{workload}");
            assert_eq!(points[points.len() - 1].1, 1.0, "{workload}");
        }
    }

    #[test]
    fn means_are_near_the_published_ones() {
        // As written in the published files; W5 is there 1,744.7 packets of 1,442 bytes. Published
        // points stand for all messages since the point before, so that their mean is a little
        // higher than that of what lies between.
        let published = [185.0, 440.8, 2927.4, 127_796.6, 1744.7 * 1442.0];
        for (workload, published) in Workload::ALL.into_iter().zip(published) {
            let ratio = workload.mean() / published;
            assert!((0.94..1.01).contains(&ratio), "{workload}: {ratio}");
        }
    }

    #[test]
    fn quantiles_at_the_points_are_the_points() {
        for workload in Workload::ALL {
            for &(size, share) in workload.points() {
                assert_eq!(workload.quantile(share), size, "{workload} at {share}");
            }
            let last = workload.points().last().unwrap().0;
            assert_eq!(workload.quantile(-1.0), workload.points()[0].0);
            assert_eq!(workload.quantile(2.0), last);
        }
    }

    #[test]
    fn the_mean_is_that_of_all_quantiles() {
        for workload in Workload::ALL {
            let n = 1_000_000;
            let sizes = (0..n).map(|i| workload.quantile((f64::from(i) + 0.5) / f64::from(n)));
            let ratio = sizes.map(f64::from).sum::<f64>() / f64::from(n) / workload.mean();
            assert!((0.999..1.001).contains(&ratio), "{workload}: {ratio}");
        }
    }

    #[test]
    fn samples_have_the_quantiles() {
        for workload in Workload::ALL {
            let mut rng = Rng::new(3);
            let mut sizes: Vec<u32> = (0..100_000).map(|_| workload.sample(&mut rng)).collect();
            sizes.sort_unstable();
            for q in [0.1, 0.25, 0.5, 0.75, 0.9, 0.99] {
                let sampled = sizes[(q * sizes.len() as f64) as usize];
                let near = workload.quantile(q - 0.006)..=workload.quantile(q + 0.006);
                assert!(near.contains(&sampled), "{workload} at {q}: {sampled} not in {near:?}");
            }
        }
    }

    #[test]
    fn names_are_read_and_errors_help() {
        for workload in Workload::ALL {
            assert_eq!(workload.to_string().parse(), Ok(workload));
            assert_eq!(workload.to_string().to_uppercase().parse(), Ok(workload));
        }
        let error = "w6".parse::<Workload>().unwrap_err().to_string();
        assert!(error.contains("\"w6\"") && error.contains("w4 (Facebook Hadoop)"), "{error}");
    }
}
