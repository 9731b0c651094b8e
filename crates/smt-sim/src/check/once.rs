//! No RPC runs twice, across loss, replay, crash and restart; one that succeeded ran exactly once, and
//! one that was not started did not run.

use super::{CallId, Rule, Watch};
use crate::packet::HostId;

impl Watch {
    /// An application has been given the request of an RPC.
    pub fn executed(&mut self, host: HostId, id: CallId) {
        let Some(call) = self.calls.get_mut(id as usize) else { return };
        call.executions += 1;
        let (times, not_started) = (call.executions, call.is_not_started());
        if times > 1 {
            let detail = format!("RPC {id} of host {} runs {times} times", call.plan.host);
            self.violated(Rule::AtMostOnce, host, detail);
        } else if not_started {
            let detail = format!("RPC {id} runs, and its caller was told that it did not start");
            self.violated(Rule::AtMostOnce, host, detail);
        }
    }

    /// Checks a call whose response was delivered.
    pub(super) fn must_have_run(&mut self, host: HostId, id: CallId) {
        let Some(call) = self.call(id) else { return };
        let times = call.runs();
        if !call.ran() {
            self.violated(
                Rule::AtMostOnce,
                host,
                format!("RPC {id} succeeded and ran {times} times"),
            );
        }
    }

    /// Checks a call that is said not to have started.
    pub(super) fn must_not_have_run(&mut self, host: HostId, id: CallId) {
        if self.call(id).is_some_and(|call| call.runs() > 0) {
            let detail = format!("RPC {id} is said not to have started, and ran");
            self.violated(Rule::AtMostOnce, host, detail);
        }
    }
}
