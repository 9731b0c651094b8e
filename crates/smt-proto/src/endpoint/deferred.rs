//! Work that the peer need not wait for: what follows from a packet sent, and the acks that came
//! with one received. It is put off until the next packet has left (`settle`), so that it is not
//! part of a round trip. At most one of each waits.

use alloc::vec::Vec;

use super::Endpoint;
use crate::session::SessionId;
use crate::time::Time;

/// A packet of an RPC's message went out.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) session: SessionId,
    pub(crate) now: Time,
    pub(crate) ours: bool,
    pub(crate) number: u64,
    /// Nothing of the message waits to be sent any more.
    pub(crate) all_sent: bool,
    /// The answer to it gives a sample of the round-trip time.
    pub(crate) timed: bool,
}

/// A packet with several messages went out, each whole.
#[derive(Default)]
pub(crate) struct SentBundle {
    pub(crate) session: Option<SessionId>,
    pub(crate) now: Time,
    /// Whether we started it, and its number, of each RPC.
    pub(crate) rpcs: Vec<(bool, u64)>,
}

/// A preamble's word about which of the peer's RPCs are finished.
#[derive(Clone, Copy)]
pub(crate) struct Acks {
    pub(crate) session: SessionId,
    pub(crate) floor: u64,
    pub(crate) bitmap: u64,
}

/// What waits.
#[derive(Default)]
pub(crate) struct Deferred {
    pub(crate) sent: Option<Sent>,
    pub(crate) bundle: SentBundle,
    pub(crate) acks: Option<Acks>,
}

impl Deferred {
    pub(super) fn is_empty(&self) -> bool {
        !self.has_sent() && self.acks.is_none()
    }

    pub(super) fn has_sent(&self) -> bool {
        self.sent.is_some() || self.bundle.session.is_some()
    }
}

impl Endpoint {
    /// Does the bookkeeping put off by [`poll_transmit`](Self::poll_transmit) and
    /// [`handle_packet`](Self::handle_packet). Call it when packets have left; whatever needs it done
    /// does it by itself.
    pub fn settle(&mut self) {
        if self.shared.deferred.is_empty() {
            return;
        }
        if let Some(sent) = self.shared.deferred.sent.take()
            && let Some(session) = self.sessions.get_mut(sent.session)
        {
            session.sent(&mut self.shared, sent);
        }
        if let Some(id) = self.shared.deferred.bundle.session.take() {
            // Its vector is used again.
            let mut bundle = core::mem::take(&mut self.shared.deferred.bundle);
            if let Some(session) = self.sessions.get_mut(id) {
                session.sent_bundle(&mut self.shared, &bundle);
            }
            bundle.rpcs.clear();
            self.shared.deferred.bundle = bundle;
        }
        if let Some(acks) = self.shared.deferred.acks.take()
            && let Some(session) = self.sessions.get_mut(acks.session)
        {
            session.on_acks(&mut self.shared, acks.floor, acks.bitmap);
        }
        self.sweep();
    }
}
