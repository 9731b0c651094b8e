//! What a run will hold, before it starts.

use super::offered::Demand;

/// What a session costs at each of its ends, and a pair of hosts in tables, in bytes.
const PER_PAIR: u64 = 8 << 10;
/// What is kept of a message until the run is over: its start, its arrival, its number.
const PER_MESSAGE: u64 = 96;
/// Packet buffers and queues of a host, and of its switch ports.
const PER_HOST: u64 = 4 << 20;
/// Messages of which a host may hold nearly all bytes at the same time, as a rule.
const LONG_MESSAGES: u64 = 8;

/// Bytes that a run may take.
pub fn estimate(demand: &Demand) -> u64 {
    let hosts = u64::from(demand.hosts);
    let longest = u64::from(demand.workload.quantile(1.0));
    let messages = u64::from(demand.messages) * PER_MESSAGE;
    let received = hosts * longest.saturating_mul(LONG_MESSAGES).min(1 << 30);
    messages + hosts * hosts * PER_PAIR + hosts * PER_HOST + received / 4
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
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Err(format!(
        "this may take {:.1} GiB of memory, more than --max-memory allows ({:.1} GiB): ask for fewer \
         messages or hosts, or allow more",
        gib(needed),
        gib(limit)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;

    #[test]
    fn too_many_messages_are_refused() {
        let demand = Demand {
            workload: Workload::W1,
            load: 0.8,
            messages: 1_000_000,
            hosts: 40,
            link_gbps: 10.0,
            seed: 1,
        };
        let small = estimate(&demand);
        assert!(check(&[small, small], 2, 4 << 30).is_ok());
        let large = estimate(&Demand { messages: 100_000_000, ..demand });
        let refused = check(&[small, large], 2, 4 << 30).unwrap_err();
        assert!(refused.contains("--max-memory"), "{refused}");
    }
}
