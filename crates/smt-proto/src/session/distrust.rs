//! What epoch 1 may not do to what other keys protect: whoever has got hold of a ticket's key can say
//! anything under it (spec 5.7).

use super::{Role, Session, State};
use crate::endpoint::Shared;
use crate::error::CallError;
use crate::time::Time;
use crate::wire::{Control, ControlBody, EARLY_EPOCH, Preamble};

/// Whether a response with this preamble, under `epoch`, is to a request that came under epoch 1, while
/// ours, frozen in `request`, is another.
pub(super) fn answers_another(request: Option<u32>, preamble: &Preamble, epoch: u32) -> bool {
    epoch != EARLY_EPOCH && preamble.response_limit != 0 && request != Some(EARLY_EPOCH)
}

impl Session {
    /// The peer contradicts itself under `epoch`. Once there are other keys, that is the end of epoch 1
    /// and no more: it may not be the peer, but who has the ticket's key.
    pub(super) fn violation_under(&mut self, cx: &mut Shared, now: Time, epoch: u32) {
        if epoch != EARLY_EPOCH || self.keys.is_none() {
            return self.violation(cx, now);
        }
        cx.stats.violations += 1;
        self.end_early(cx, now);
    }

    /// The server took the request of somebody who has the ticket's key for that of RPC `number`.
    pub(super) fn spoiled(&mut self, cx: &mut Shared, now: Time, number: u64) {
        cx.stats.dropped_unexpected += 1;
        self.cancel(cx, now, number, CallError::OutcomeUnknown);
    }

    /// An authentic control packet of epoch 1. Only what is about an RPC of the client's means anything,
    /// and only while there may be no keys of epoch 3 at its sender: who has the ticket's key alone must
    /// not touch what epoch 3 protects.
    pub(crate) fn on_early_control(&mut self, cx: &mut Shared, now: Time, control: &Control) {
        let which = self.rpc_of(control.header.message_id);
        let takes = match self.role {
            Role::Client => which.is_some_and(|which| {
                which.ours
                    && !matches!(self.state, State::Established)
                    && !matches!(control.body, ControlBody::Ack(_) | ControlBody::Cutoffs { .. })
                    && self
                        .out
                        .get(which.number)
                        .is_some_and(|rpc| rpc.request.epoch() == Some(EARLY_EPOCH))
            }),
            Role::Server => {
                which.is_some_and(|which| !which.ours)
                    && self.keys.is_none()
                    && !matches!(control.body, ControlBody::Cutoffs { .. })
            }
        };
        if !takes {
            cx.stats.dropped_unexpected += 1;
            return;
        }
        self.on_control(cx, now, control);
    }
}
