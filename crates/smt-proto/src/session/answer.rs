//! A server's answer to an offer of early data (spec 5.7), at the client: what opens early responses
//! follows from it.

use alloc::vec::Vec;

use super::handshake::Handshake;
use super::{Role, Session, State};
use crate::crypto::Suite;
use crate::keys::{Secret, answered_secret};

/// What a client needs for the keys of the server's direction, beside the server's answer.
pub(super) struct Unanswered {
    pub(super) suite: &'static dyn Suite,
    pub(super) secret: Secret,
    /// The session has no TLS: flight 1 is a block and nothing else.
    pub(super) alone: bool,
    /// The server's block, as far as it was heard; the keys are those of this one.
    pub(super) block: Vec<u8>,
}

impl Session {
    /// Whether a client that has made an offer waits for flight 1, whole; if so, whether that is a block
    /// and nothing else.
    pub(crate) fn expects_answer(&self) -> Option<bool> {
        let alone = self.early.as_deref()?.unanswered.as_ref()?.alone;
        let waits = self.handshake.as_deref().is_some_and(Handshake::awaits_flight_1);
        (waits && matches!(self.state, State::Handshaking)).then_some(alone)
    }

    /// The server's block that a client's receiving keys follow from, as long as there is a handshake.
    pub(crate) fn answer(&self) -> Option<&[u8]> {
        let early = self.early.as_deref().filter(|_| !self.is_unanswered())?;
        match &early.unanswered {
            Some(unanswered) => Some(&unanswered.block),
            None if self.role == Role::Client => Some(&self.handshake.as_deref()?.peer_block),
            None => None,
        }
    }

    /// The server's answer is in this `block` of its; the keys of its direction follow. Until flight 1 is
    /// `whole` another block may take its place: none of them is authentic, but nothing opens under keys
    /// of a wrong one, and nothing is sealed.
    pub(crate) fn take_answer(&mut self, block: &[u8], whole: bool) {
        let Some(early) = self.early.as_deref_mut() else { return };
        let Some(unanswered) = early.unanswered.as_mut() else { return };
        let suite = unanswered.suite;
        if unanswered.block != block {
            unanswered.block = block.to_vec();
            let secret = answered_secret(suite, &unanswered.secret, block);
            early.receive_under(suite, secret);
        }
        if whole {
            early.unanswered = None;
        }
    }

    /// Whether a client with an offer has heard no answer to it yet.
    pub(crate) fn is_unanswered(&self) -> bool {
        self.role == Role::Client
            && self.early.as_ref().is_some_and(|keys| keys.rx_header.is_none())
    }
}
