//! What is here of a message is always the beginning of the right one, and never becomes less, unless a
//! server takes back that it took early data.

use super::pattern::{self, Side};
use super::{CallId, Rule, Watch};
use crate::packet::HostId;

impl Watch {
    /// What has come of the response of a call was dropped, as may be with early data alone.
    pub fn prefix_begins_anew(&mut self, id: CallId) {
        if let Some(call) = self.calls.get_mut(id as usize) {
            call.prefix = 0;
        }
    }

    /// Checks what has come of the response of a call.
    pub fn prefix(&mut self, host: HostId, id: CallId, prefix: &[u8]) {
        let Some(call) = self.calls.get_mut(id as usize) else { return };
        let known = call.prefix;
        call.prefix = prefix.len();
        let all = call.plan.response_len as usize;
        // Padding follows the body; that of a refusal is other text.
        let within = prefix.get(known..prefix.len().min(all)).unwrap_or_default();
        let refused = call.plan.refuse;
        if prefix.len() < known {
            let detail =
                format!("{} bytes of the response of RPC {id} became {}", known, prefix.len());
            self.violated(Rule::Prefix, host, detail);
        } else if !refused
            && let Some(at) = pattern::differs(self.pattern, id, Side::Response, known, within)
        {
            let detail = format!("the response of RPC {id} shows a wrong byte {at} before its end");
            self.violated(Rule::Prefix, host, detail);
        }
    }
}
