//! How much memory a run will need at most, about, so that one that cannot fit is refused before it
//! starts and not killed in its middle.

use super::Scenario;
use crate::packet::WIRE_OVERHEAD;

/// Bytes of bookkeeping for an RPC: plan, record, states at both ends.
const PER_CALL: u64 = 1200;
/// Bytes kept of each record that was sealed.
const PER_RECORD: u64 = 40;
/// Bytes of a packet beside its own.
const PER_PACKET: u64 = 160;
/// Bytes of an endpoint and its sessions.
const PER_HOST: u64 = 200_000;

/// What a run may need, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Messages on their way: requests, responses, and the buffers that they are received into.
    pub messages: u64,
    /// Packets in queues of switches and hosts.
    pub packets: u64,
    /// What the checkers remember.
    pub records: u64,
}

impl Estimate {
    /// All together.
    pub fn total(&self) -> u64 {
        self.messages.saturating_add(self.packets).saturating_add(self.records)
    }
}

impl Scenario {
    /// What this scenario may need: sure to be an upper bound for messages unless nearly all of them
    /// are of the largest size, a guess for the rest.
    pub fn memory(&self) -> Estimate {
        let hosts = u64::from(self.net.hosts());
        let calls: u64 = self.hosts.iter().map(|host| u64::from(host.calls)).sum();
        // Request and response, each kept by its sender and received by its peer.
        let bodies = calls as f64 * 4.0 * (self.workload.mean() + 64.0);
        let largest = 4 * u64::from(self.workload.largest());
        let shards: u64 = self.hosts.iter().map(|host| u64::from(host.wanted_lanes())).sum();
        let messages = largest.saturating_add(bodies as u64).saturating_add(calls * PER_CALL);
        let smallest = self.hosts.iter().map(|host| u64::from(host.room)).min().unwrap_or(1480);
        let queues = hosts.saturating_mul(u64::from(self.net.buffer_bytes));
        let rings: u64 =
            self.hosts.iter().map(|host| u64::from(host.ring_packets) * u64::from(host.room)).sum();
        let queued = queues / (smallest + u64::from(WIRE_OVERHEAD)) * PER_PACKET;
        let records = (bodies / smallest as f64) as u64 + 2 * calls;
        Estimate {
            messages: messages.saturating_add((hosts + shards) * PER_HOST),
            packets: queues.saturating_add(queued).saturating_add(rings),
            records: records.saturating_mul(PER_RECORD),
        }
    }

    /// Checks the estimate against a bound in bytes.
    ///
    /// # Errors
    /// What it would need, and what for.
    pub fn fits(&self, max_memory: u64) -> Result<(), String> {
        let estimate = self.memory();
        if estimate.total() <= max_memory {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        Err(format!(
            "the run may need {} MiB ({} for messages, {} for packets, {} for checkers), \
             more than the {} MiB allowed (--max-memory); fewer calls, smaller messages or smaller \
             buffers need less",
            mib(estimate.total()),
            mib(estimate.messages),
            mib(estimate.packets),
            mib(estimate.records),
            max_memory >> 20,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_runs_fit_and_huge_ones_are_refused_before_they_start() {
        for seed in 0..1000 {
            Scenario::draw(seed).fits(1 << 30).unwrap();
        }
        let mut scenario = Scenario::draw(1);
        scenario.workload.large_share = 1.0;
        scenario.workload.large_bytes = 64 << 20;
        scenario.hosts.iter_mut().for_each(|host| host.calls = 100);
        let error = scenario.fits(1 << 30).unwrap_err();
        assert!(error.contains("more than the 1024 MiB allowed (--max-memory)"), "{error}");
    }

    #[test]
    fn buffers_of_the_network_count() {
        let mut scenario = Scenario::draw(1);
        scenario.net.buffer_bytes = u32::MAX;
        assert!(scenario.fits(1 << 30).is_err());
    }
}
