//! What a run will hold, before it starts.

use super::experiment::{Experiment, Kind};

/// What a session costs at each of its ends, and a pair of hosts in tables, in bytes.
const PER_PAIR: u64 = 8 << 10;
/// What is kept of a message until the run is over: its start, its arrival, its number.
const PER_MESSAGE: u64 = 96;
/// Packet buffers and queues of a host, and of its switch ports.
const PER_HOST: u64 = 4 << 20;
/// Longest messages that a host of SMT holds in part at the same time, when load is high; streams
/// count bytes and hold none.
const LONG_MESSAGES: f64 = 2.5;

/// Bytes that a run may take.
pub fn estimate(experiment: &Experiment) -> u64 {
    let demand = &experiment.demand;
    let hosts = u64::from(demand.hosts);
    let longest = f64::from(demand.workload.quantile(1.0));
    let received = match experiment.transport {
        Kind::Smt => (longest * LONG_MESSAGES) as u64,
        Kind::Stream => 0,
    };
    u64::from(demand.messages) * PER_MESSAGE + hosts * (hosts * PER_PAIR + PER_HOST + received)
}

/// Refuses a run of several experiments at a time that may take more than `limit` bytes.
///
/// # Errors
/// What to do about it, in words.
pub fn check(estimates: &[u64], at_once: usize, limit: u64) -> Result<(), String> {
    let mut largest = estimates.to_vec();
    largest.sort_unstable_by(|a, b| b.cmp(a));
    let needed: u64 = largest.iter().take(at_once.max(1)).sum();
    if needed <= limit {
        return Ok(());
    }
    let mib = |bytes: u64| bytes >> 20;
    let gib = needed as f64 / f64::from(1 << 30);
    Err(format!(
        "this may need {} MiB of memory, more than the {} MiB allowed: ask for less (fewer or shorter \
         messages, fewer hosts), or allow more with --max-memory {}",
        mib(needed),
        mib(limit),
        (gib * 10.0).ceil().max(1.0) / 10.0
    ))
}

#[cfg(test)]
mod tests {
    use super::super::experiment::leaf_spine;
    use super::super::offered::Demand;
    use super::*;
    use crate::workload::Workload;

    fn experiment(messages: u32) -> Experiment {
        let workload = Workload::W1;
        let demand = Demand { workload, load: 0.8, messages, hosts: 40, link_gbps: 10.0, seed: 1 };
        Experiment { net: leaf_spine(40, 10.0), demand, transport: Kind::Smt }
    }

    #[test]
    fn too_many_messages_are_refused() {
        let small = estimate(&experiment(1_000_000));
        assert!(check(&[small, small], 2, 4 << 30).is_ok());
        let large = estimate(&experiment(100_000_000));
        let refused = check(&[small, large], 2, 4 << 30).unwrap_err();
        assert!(refused.contains("--max-memory"), "{refused}");
    }
}
