//! Early data: an offer is taken once by those who share a register, what runs early was called early,
//! and post-handshake messages come once, to whom they were sent.

use super::sessions::SessionKey;
use super::{CallId, Rule, Watch};
use crate::packet::HostId;

impl Watch {
    /// A server of a service takes the offer with this key.
    pub fn offer_taken(&mut self, host: HostId, service: HostId, enc: &[u8]) {
        if !self.taken.insert((service, enc.to_vec())) {
            let detail = format!("service {service} takes an offer a second time");
            self.violated(Rule::AtMostOnce, host, detail);
        }
    }

    /// An application has been given a request under the keys of early data.
    pub fn executed_early(&mut self, host: HostId, service: HostId, id: CallId) {
        let Some(call) = self.calls.get_mut(id as usize) else { return };
        let (early, not_started) = (call.early, call.is_not_started());
        let runs = call.early_runs.entry(service).or_default();
        *runs += 1;
        let runs = *runs;
        let why = match () {
            () if !early => "was not called early, and runs early".to_owned(),
            () if runs > 1 => format!("runs early {runs} times"),
            () if not_started => "runs early, and its caller was told that it did not".to_owned(),
            () => return,
        };
        self.violated(Rule::AtMostOnce, host, format!("RPC {id} {why}"));
    }

    /// A server sends a post-handshake message.
    pub fn posted(&mut self, key: SessionKey, body: &[u8]) {
        self.posts.entry(key).or_default().push(body.to_vec());
    }

    /// A client is given one.
    pub fn post(&mut self, host: HostId, key: SessionKey, body: &[u8]) {
        let sent = self.posts.entry(key).or_default();
        match sent.iter().position(|sent| sent == body) {
            Some(at) if host == key.client => drop(sent.swap_remove(at)),
            _ => {
                let detail = format!("{key:?}: a post-handshake message that is not on its way");
                self.violated(Rule::Delivery, host, detail);
            }
        }
    }
}
