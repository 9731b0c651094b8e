//! Once faults have ceased, everything ends within a bound that follows from the timers.

use std::time::Duration;

use smt_proto::Time;

use super::{Rule, Watch};
use crate::scenario::Scenario;

/// The longest any one timer of a session waits before it acts: NEED_ACK, connect attempts with
/// their pauses, and the five probes, after which work begins anew.
const TIMERS: Duration = Duration::from_secs(5);
/// How much slower than its links a network may be that has lost, queued and shared.
const SHARE: f64 = 40.0;
/// How long one RPC may wait for another to make room where room is short: a poll after BUSY.
const TURN: Duration = Duration::from_millis(100);

impl Scenario {
    /// How long after faults have ceased the last call must have ended.
    pub fn patience(&self) -> Duration {
        let calls: u32 = self.hosts.iter().map(|host| host.calls).sum();
        let bits = f64::from(calls) * 2.0 * self.workload.mean() * 8.0;
        let transfer = SHARE * bits / (self.net.link_gbps * 1e9);
        let handshake = self.hosts.iter().map(|host| host.handshake_timeout_ms).max();
        let handshake = Duration::from_millis(handshake.unwrap_or(0));
        let tight = self.hosts.iter().any(|host| {
            host.max_incoming_bytes < 16 * u64::from(self.workload.largest())
                || host.max_incoming_bytes_total < 64 * u64::from(self.workload.largest())
                || host.max_outgoing_bytes < 16 * u64::from(self.workload.largest())
                || host.max_rpcs < 16
        });
        let turns = if tight { TURN * calls.min(600) } else { Duration::ZERO };
        TIMERS + 2 * handshake + Duration::from_secs_f64(transfer) + turns
    }

    /// When the last call must have ended.
    pub fn last_end(&self) -> Time {
        self.faults_stop() + self.patience()
    }
}

impl Watch {
    /// The run has reached the time at which all calls must be over.
    pub fn all_must_be_over(&mut self, patience: Duration) {
        if self.open == 0 {
            return;
        }
        let first = self.calls.iter().enumerate().find(|(_, call)| call.outcome.is_none());
        let Some((id, call)) = first else { return };
        let state = match (call.started, call.executions) {
            (None, _) => "not started",
            (Some(_), 0) => "not executed",
            (Some(_), _) => "executed",
        };
        let (host, plan) = (call.plan.host, &call.plan);
        let detail = format!(
            "{} calls have not ended {patience:?} after faults ceased; RPC {id} to host {} ({} + {} bytes) is {state}",
            self.open, plan.peer, plan.request_len, plan.response_len
        );
        self.violated(Rule::Liveness, host, detail);
    }
}
