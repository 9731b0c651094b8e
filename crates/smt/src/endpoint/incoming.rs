//! A request to be answered.

use std::ops::Deref;

use bytes::Bytes;
use smt_proto::error::reply_code;
use smt_proto::{Body, RpcId};

use super::Endpoint;
use super::driver::Request;

/// A request of the peer's. Dropping it unanswered tells the caller that it was refused.
pub struct Incoming {
    endpoint: Endpoint,
    rpc: Option<RpcId>,
    body: Body,
    early: bool,
    shard: usize,
}

impl Incoming {
    pub(super) fn new(endpoint: Endpoint, request: Request) -> Incoming {
        let Request { rpc, body, early, shard } = request;
        Incoming { endpoint, rpc: Some(rpc), body, early, shard }
    }

    /// Whether the request came as early data: its keys have no forward secrecy of this handshake, and
    /// the caller is not known: nor is it whoever the session's peer turns out to be
    /// ([`Session::confirmed`](super::Session::confirmed)), for a thief of the ticket's key can put requests
    /// of his own among a client's. Only what is idempotent, and what anybody may ask for, should be done.
    pub fn is_early(&self) -> bool {
        self.early
    }

    /// The request.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Takes the request out, to be kept or sent on.
    pub fn take_body(&mut self) -> Body {
        std::mem::take(&mut self.body)
    }

    /// Answers. False if the caller no longer waits.
    pub fn reply(mut self, body: impl Into<Bytes>) -> bool {
        let rpc = self.rpc.take();
        rpc.is_some_and(|rpc| {
            self.endpoint.with_at(self.shard, |driven| {
                let waited_for = driven.engine.reply(rpc, body);
                driven.tell_waiting(rpc.session);
                waited_for
            })
        })
    }

    /// Answers with an error. Codes from 256 on are the application's own.
    pub fn refuse(mut self, code: u32, text: &str) -> bool {
        let rpc = self.rpc.take();
        rpc.is_some_and(|rpc| {
            self.endpoint.with_at(self.shard, |driven| driven.engine.refuse(rpc, code, text))
        })
    }
}

impl Deref for Incoming {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.body()
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(rpc) = self.rpc.take() {
            let text = "the server dropped the request without answering";
            self.endpoint
                .with_at(self.shard, |driven| driven.engine.refuse(rpc, reply_code::REFUSED, text));
        }
    }
}
