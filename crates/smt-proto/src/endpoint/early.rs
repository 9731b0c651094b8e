//! Early data (spec 5.7): its secrets, and the server's answer, from which those of its own direction
//! follow.

use alloc::vec::Vec;

use super::Endpoint;
use super::connect::agree;
use crate::crypto::Suite;
use crate::keys::Secret;
use crate::session::handshake::Early;
use crate::session::{EarlyBinding, Path, Role, SessionId, State};
use crate::time::Time;
use crate::wire::{ANSWER_LEN, Block, Data, EARLY_EPOCH, Params};

/// The secrets of early data, and what its ticket says.
pub struct EarlyData {
    /// The ticket's suite.
    pub suite: &'static dyn Suite,
    /// The secret of the client's direction.
    pub client_secret: Secret,
    /// The early secret of the server's direction: with the random of the server's answer it gives the one that
    /// protects packets ([`answered_secret`](crate::keys::answered_secret)).
    pub server_secret: Secret,
    /// At a client: the server's parameters in the ticket. None: those that we would declare.
    pub peer: Option<Params>,
    /// Bytes on the wire that requests under epoch 1 may take.
    pub max_early: u32,
    /// There is no TLS in this session: the server's first flight is its parameter block alone.
    pub alone: bool,
}

impl Endpoint {
    /// What the keys of early data are bound to: of a client right after
    /// [`send_first_flight`](Self::send_first_flight), of a server from an
    /// [`Event::Flight`](crate::Event::Flight) with an offer until its first flight.
    pub fn early_binding(&self, id: SessionId) -> Option<EarlyBinding> {
        let session = self.sessions.get(id)?;
        let (client, server) = session.tls_ports();
        session.handshake.as_deref()?.early_binding(client, server)
    }

    /// Installs the secrets of early data (spec 5.7). A client does so right after
    /// [`send_first_flight`](Self::send_first_flight); a server on an
    /// [`Event::Flight`](crate::Event::Flight) with an offer, before its first flight. Its answer, with a
    /// random of its own, then goes out before anything else. At any other time nothing happens.
    pub fn install_early(&mut self, now: Time, id: SessionId, early: EarlyData) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        // Never twice: what was refused must not be frozen again under the same keys.
        let may = matches!(session.state, State::Handshaking) && session.early.is_none();
        let Some(handshake) = session.handshake.as_deref_mut().filter(|_| may) else {
            return;
        };
        match session.role {
            Role::Client if handshake.is_first_flight() || handshake.is_answered() => return,
            Role::Client => return session.install_early(&self.shared, early),
            Role::Server if !handshake.is_first_flight() || handshake.peer_hello.is_none() => {
                return;
            }
            Role::Server => {}
        }
        let mut answer = [0; ANSWER_LEN];
        self.random.fill(&mut answer);
        let block = Block { params: session.local, offer: None, answer: Some(answer) };
        handshake.local_block = block.emit(0);
        handshake.accepted = true;
        self.shared.stats.early_accepted += 1;
        let waiting = handshake.take_early(|epoch| epoch == EARLY_EPOCH);
        session.install_early(&self.shared, early);
        session.queue_answer(&mut self.shared);
        let path = session.path;
        self.handle_waiting(now, path, waiting);
    }

    /// The server's parameter block that the keys of its direction of epoch 1 follow from, as far as it is known:
    /// at a client that has made an offer, from the first packet of flight 1 until that flight is whole.
    pub fn early_answer(&self, id: SessionId) -> Option<&[u8]> {
        self.sessions.get(id)?.answer()
    }

    /// A packet of a handshake: if it begins a server's first flight, a client that has made an offer need not
    /// wait for the rest to open early responses. True if it is nothing else than that beginning.
    pub(super) fn hear_answer(
        &mut self,
        now: Time,
        id: SessionId,
        data: &Data,
        payload: &[u8],
    ) -> bool {
        if data.header.message_id != 1 || data.sequence != 0 {
            return false;
        }
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Some(alone) = session.expects_answer() else { return false };
        let Ok((block, len)) = Block::parse(payload) else { return false };
        if block.answer.is_none()
            || !agree(&session.local, &block.params, session.role)
            || !session.keeps_its_word(&block)
        {
            return false;
        }
        session.take_answer(payload.get(..len).unwrap_or_default(), false);
        self.use_answer(now, id);
        !alone && data.message_len as usize == len
    }

    /// Takes the early responses that were here before the server's answer, if it is here now.
    pub(super) fn use_answer(&mut self, now: Time, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.role != Role::Client || session.early.is_none() || session.is_unanswered() {
            return;
        }
        let Some(handshake) = session.handshake.as_deref_mut() else { return };
        let waiting = handshake.take_early(|epoch| epoch == EARLY_EPOCH);
        let path = session.path;
        self.handle_waiting(now, path, waiting);
    }

    /// Takes packets that came before there were keys to check them.
    pub(super) fn handle_waiting(&mut self, now: Time, path: Path, waiting: Vec<Early>) {
        for Early { ip_id, mut packet } in waiting {
            let local = path.local.unwrap_or(path.remote.ip());
            let meta = super::receive::PacketMeta { remote: path.remote, local, ip_id };
            self.handle_packet(now, &meta, &mut packet);
        }
    }
}
