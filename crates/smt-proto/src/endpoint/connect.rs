//! Handshakes: who may start one, flights in, flights out, keys.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{Endpoint, Notice};
use crate::crypto::Suite;
use crate::error::HandshakeError;
use crate::event::Event;
use crate::keys::Secret;
use crate::session::handshake::{FlightStep, Handshake};
use crate::session::{KeyContext, Path, Role, Session, SessionId, State, Updates};
use crate::time::Time;
use crate::wire::{Block, DATA_LEN, Data, ID_BITS, MAX_FIRST_ID, MAX_LANES, Params};

/// A session whose secrets were negotiated elsewhere (spec 5.1, last rule).
pub struct External {
    /// The 5-tuple.
    pub path: Path,
    /// Our TLS role.
    pub role: Role,
    /// The negotiated suite.
    pub suite: &'static dyn Suite,
    /// Epoch 3 secret of the client's direction.
    pub client_secret: Secret,
    /// Epoch 3 secret of the server's direction.
    pub server_secret: Secret,
    /// Our parameters, as the peer has them.
    pub local: Params,
    /// The peer's parameters.
    pub peer: Params,
    /// Largest SMT packet of the path, in bytes.
    pub room: usize,
    /// Where the secrets of later epochs come from, at both ends.
    pub updates: Updates,
}

impl Endpoint {
    /// Starts a handshake as client over `path`, whose packets take `room` bytes. Next, give the
    /// ClientHello to [`send_flight`](Self::send_flight).
    ///
    /// # Errors
    /// [`HandshakeError::TooManySessions`]; [`HandshakeError::BadParameters`] at other shards than 0,
    /// to which the answer would not come.
    pub fn connect(
        &mut self,
        now: Time,
        path: Path,
        room: usize,
        deadline: Time,
    ) -> Result<SessionId, HandshakeError> {
        if self.shared.config.shard.index != 0 {
            return Err(HandshakeError::BadParameters);
        }
        if self.sessions.len() >= self.shared.config.limits.max_sessions {
            self.shared.stats.limit_sessions += 1;
            return Err(HandshakeError::TooManySessions);
        }
        let mut token = [0; 8];
        self.random.fill(&mut token);
        let id = self.open(now, path, Role::Client, deadline);
        if let Some(session) = self.sessions.get_mut(id) {
            session.token = u64::from_be_bytes(token);
            session.room = room;
            session.wake_at(&mut self.shared, deadline);
        }
        self.shared.stats.handshakes_started += 1;
        Ok(id)
    }

    /// Makes TLS `bytes` our next flight and sends it. Without bytes there is no flight.
    pub fn send_flight(&mut self, now: Time, id: SessionId, bytes: &[u8]) {
        self.send_first_flight(now, id, bytes, None);
    }

    /// Makes TLS `bytes` a client's first flight and sends it, with an `offer` of early data of at most
    /// [`MAX_OFFER`](crate::wire::MAX_OFFER) bytes (spec 5.7). A longer one is left out, as is one with
    /// any other flight.
    pub fn send_first_flight(
        &mut self,
        now: Time,
        id: SessionId,
        bytes: &[u8],
        offer: Option<&[u8]>,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(handshake) = session.handshake.as_deref_mut() else { return };
        let mut flight = Vec::new();
        if handshake.is_first_flight() {
            let block = match session.role {
                Role::Server => {
                    handshake.refuse_unanswered();
                    match handshake.accepted {
                        true => core::mem::take(&mut handshake.local_block),
                        false => session.local.emit(0),
                    }
                }
                Role::Client => {
                    let block = Block { params: session.local, offer, answer: None };
                    let room = session.room.saturating_sub(DATA_LEN).max(1);
                    block.emit(padding_to_fill(&block, bytes.len(), room))
                }
            };
            flight.extend_from_slice(&block);
            handshake.local_block = block;
        }
        flight.extend_from_slice(bytes);
        if flight.is_empty() {
            return;
        }
        handshake.set_flight(flight, now);
        let due = match session.role {
            Role::Client => handshake.repeat_at.min(handshake.deadline),
            Role::Server => handshake.deadline,
        };
        session.wake_at(&mut self.shared, due);
        session.queue_flight(&mut self.shared);
    }

    /// What the keys of a handshake are bound to; known once the peer's first flight is here.
    pub fn key_context(&self, id: SessionId) -> Option<KeyContext> {
        let session = self.sessions.get(id)?;
        let (client, server) = session.tls_ports();
        session.handshake.as_deref()?.context(client, server)
    }

    /// Installs the secrets of a finished handshake. For a client, first give its last flight to
    /// [`send_flight`](Self::send_flight); [`Event::Established`] comes with the server's first
    /// authentic packet, calls may start before.
    pub fn install_keys(
        &mut self,
        now: Time,
        id: SessionId,
        suite: &'static dyn Suite,
        client: Secret,
        server: Secret,
    ) {
        let lanes = self.sessions.get(id).map_or(1, |session| session.lane.count());
        let fits = self.has_room_for(lanes, 1);
        let Some(session) = self.sessions.get_mut(id) else { return };
        if !matches!(session.state, State::Handshaking) {
            return;
        }
        if !fits {
            self.shared.stats.limit_sessions += 1;
            session.handshake_failed(&mut self.shared, HandshakeError::TooManySessions);
            return self.sweep();
        }
        let early = session.handshake.as_deref_mut().map(|h| h.take_early(|_| true));
        if session.role == Role::Server {
            self.half_open -= 1;
        }
        let lanes = session.lanes(suite, (&client, &server), Updates::Derived);
        session.install_keys(&mut self.shared, now, suite, client, server, Updates::Derived);
        let path = session.path;
        if let Some(lanes) = lanes {
            self.open_family(now, id, lanes);
        }
        let mut next = self.sessions.newest(path.remote, path.remote_port, path.local_port);
        while let Some(other) = next.and_then(|other| self.sessions.get_mut(other)) {
            next = other.older;
            if other.id != id {
                other.suspect(&mut self.shared, now);
            }
        }
        self.handle_waiting(now, path, early.unwrap_or_default());
    }

    /// Ends a handshake that TLS failed. The alert, if there is one, is sent, and for a second sent
    /// again to a peer that repeats itself.
    pub fn fail_handshake(&mut self, now: Time, id: SessionId, alert: Option<&[u8]>) {
        self.shared.stats.handshakes_failed += 1;
        if let Some(alert) = alert {
            self.send_flight(now, id, alert);
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let linger = now + core::time::Duration::from_secs(1);
        session.fail_early(&mut self.shared);
        match session.handshake.as_deref_mut() {
            Some(handshake) if alert.is_some() => {
                handshake.deadline = linger;
                if session.counts_as_half_open() {
                    self.half_open -= 1;
                }
                session.state = State::Failed;
                session.wake_at(&mut self.shared, linger);
            }
            _ => session.end(&mut self.shared, None),
        }
        self.sweep();
    }

    /// Adds a session whose secrets were negotiated elsewhere. It works at once.
    ///
    /// # Errors
    /// [`HandshakeError::TooManySessions`], [`HandshakeError::BadParameters`]: also for lanes with
    /// registered updates, for fewer lanes than there are shards, and at other shards than 0.
    pub fn add_session(
        &mut self,
        now: Time,
        external: External,
    ) -> Result<SessionId, HandshakeError> {
        let lanes = external.local.lanes.max(external.peer.lanes);
        if !self.has_room_for(lanes, 0) {
            self.shared.stats.limit_sessions += 1;
            return Err(HandshakeError::TooManySessions);
        }
        let registered = external.updates == Updates::Registered;
        let shard = self.shared.config.shard;
        if !agree(&external.local, &external.peer, external.role)
            || (registered && lanes > 1)
            || lanes < shard.count
            || shard.index != 0
        {
            return Err(HandshakeError::BadParameters);
        }
        let External { path, role, suite, local, peer, room, updates, .. } = external;
        let (client, server) = (external.client_secret, external.server_secret);
        let limits = self.shared.config.limits;
        let way = (path, role);
        let id = self.sessions.insert(|id| Session::new(id, way, local, &limits, now));
        if let Some(session) = self.sessions.get_mut(id) {
            session.set_peer(peer);
            session.room = room;
            let lanes = session.lanes(suite, (&client, &server), updates);
            session.install_keys(&mut self.shared, now, suite, client, server, updates);
            if role == Role::Client {
                session.establish(&mut self.shared);
            }
            if let Some(lanes) = lanes {
                self.open_family(now, id, lanes);
            }
        }
        Ok(id)
    }

    /// Parameters as this endpoint would declare them in a new session of `role`.
    pub fn parameters(&mut self, role: Role) -> Params {
        let mut first = [0; 8];
        self.random.fill(&mut first);
        let config = &self.shared.config;
        let limits = &config.limits;
        let lanes = config.lanes.max(config.shard.count).clamp(1, MAX_LANES).next_power_of_two();
        let first_id = (u64::from_be_bytes(first) % ((1 << 39) - 8) + 4) & !3 | role.id_bit();
        Params {
            id_bits: config.id_bits,
            first_id,
            max_rpcs: limits.max_rpcs,
            max_message: limits.max_message,
            unscheduled: limits.unscheduled,
            wake_delay_us: u32::try_from(config.wake_delay.as_micros()).unwrap_or(u32::MAX),
            max_id_bits: 56,
            wants: if role == Role::Client { config.wants } else { 0 },
            lanes,
        }
    }

    /// A packet of epoch 0.
    pub(super) fn handle_flight_packet(
        &mut self,
        now: Time,
        first: Option<SessionId>,
        path: Path,
        packet: &[u8],
    ) {
        let Ok(data) = Data::parse(packet) else {
            self.shared.stats.dropped_malformed += 1;
            return;
        };
        let mut next = first;
        while let Some(id) = next {
            let Some(session) = self.sessions.get(id) else { break };
            if session.token == data.tag {
                return self.feed_handshake(now, id, &data, packet);
            }
            next = session.older;
        }
        let Some(id) = self.open_half(now, path, &data) else { return };
        self.feed_handshake(now, id, &data, packet);
    }

    /// Opens a half-open session for a client's first packet, if limits allow.
    fn open_half(&mut self, now: Time, path: Path, data: &Data) -> Option<SessionId> {
        let limits = &self.shared.config.limits;
        let stats = &mut self.shared.stats;
        if data.header.message_id != 0 {
            stats.dropped_bad_token += 1;
            return None;
        }
        if data.message_len > limits.max_flight {
            stats.limit_flight += 1;
            return None;
        }
        let proven = self.retries.proves(now, &path, data.tag);
        if !proven && self.half_open >= limits.retry_threshold {
            // One RETRY for a flight, however many packets it has.
            if data.sequence == 0 {
                self.ask_for_proof(now, path, data.tag);
            }
            return None;
        }
        if self.half_open >= limits.max_half_open {
            stats.limit_half_open += 1;
            return None;
        }
        if self.sessions.len() >= limits.max_sessions {
            stats.limit_sessions += 1;
            return None;
        }
        if self.sessions.chain_len(&path) >= limits.max_per_path {
            stats.limit_per_path += 1;
            return None;
        }
        let deadline = now + limits.handshake_timeout;
        let room = self.shared.config.default_room;
        let id = self.open(now, path, Role::Server, deadline);
        self.half_open += 1;
        self.shared.stats.handshakes_started += 1;
        let session = self.sessions.get_mut(id)?;
        session.token = data.tag;
        session.room = room;
        session.wake_at(&mut self.shared, deadline);
        if let Some(handshake) = session.handshake.as_deref_mut() {
            handshake.proven = proven;
        }
        Some(id)
    }

    fn open(&mut self, now: Time, path: Path, role: Role, deadline: Time) -> SessionId {
        let local = self.parameters(role);
        let limits = self.shared.config.limits;
        let id = self.sessions.insert(|id| Session::new(id, (path, role), local, &limits, now));
        if let Some(session) = self.sessions.get_mut(id) {
            session.handshake = Some(Box::new(Handshake::new(role, Vec::new(), now, deadline)));
        }
        id
    }

    fn feed_handshake(&mut self, now: Time, id: SessionId, data: &Data, packet: &[u8]) {
        let payload = packet.get(DATA_LEN..).unwrap_or_default();
        if self.hear_answer(now, id, data, payload) {
            return;
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(handshake) = session.handshake.as_deref_mut() else {
            // Established. A client that repeats its last flight has missed our ACK.
            if session.role == Role::Server && session.may_answer_flight(now) {
                self.shared.send_control(id, 0, Notice::Ack);
            }
            return;
        };
        let number = data.header.message_id;
        let limits = &self.shared.config.limits;
        let step = handshake.receive(number, data.message_len, data.sequence, payload, limits);
        let open = matches!(session.state, State::Handshaking | State::Unconfirmed);
        match step {
            // The handshake has failed or the session closes: TLS wants no more of it.
            FlightStep::Complete { .. } if !open => {}
            FlightStep::Nothing => {}
            FlightStep::TooLarge => self.shared.stats.limit_flight += 1,
            FlightStep::Repeated => {
                if session.role == Role::Server && handshake.may_answer(now) {
                    if handshake.is_first_flight() && handshake.accepted {
                        session.queue_answer(&mut self.shared);
                        return;
                    }
                    handshake.repeat(now);
                    session.queue_flight(&mut self.shared);
                }
            }
            FlightStep::Complete { number, bytes } => {
                if let (Role::Server, 2, Some(sent_at)) = (session.role, number, handshake.sent_at)
                {
                    session.sample_rtt(now, now.since(sent_at));
                }
                self.flight_complete(now, id, number, bytes);
            }
        }
    }

    fn flight_complete(&mut self, now: Time, id: SessionId, number: u32, mut bytes: Vec<u8>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let mut offer = None;
        if number < 2 {
            let parsed = Block::parse(&bytes).ok();
            let Some((block, len)) = parsed
                .filter(|(block, _)| agree(&session.local, &block.params, session.role))
                .filter(|(block, _)| session.keeps_its_word(block))
            else {
                return session.bad_parameters(&mut self.shared);
            };
            let (peer, accepted) = (block.params, block.answer.is_some());
            offer = block.offer.filter(|_| session.role == Role::Server).map(<[u8]>::to_vec);
            session.offered = offer.is_some();
            let tls = bytes.split_off(len.min(bytes.len()));
            if accepted {
                session.take_answer(&bytes, true);
            }
            if let Some(handshake) = session.handshake.as_deref_mut() {
                handshake.peer_block = bytes;
                handshake.peer_hello = offer.as_ref().map(|_| tls.clone());
            }
            let fits = session.early.is_none() || peer.cover(&session.peer);
            session.set_peer(peer);
            let refused = session.role == Role::Client && !accepted;
            if refused && !session.refuse_early(&mut self.shared, fits) {
                return session.handshake_failed(&mut self.shared, HandshakeError::BadParameters);
            }
            bytes = tls;
        }
        self.shared.events.push_back(Event::Flight { session: id, number, bytes, offer });
        if number == 1 {
            self.use_answer(now, id);
        }
    }
}

/// Whether two ends' parameters can work together.
pub(super) fn agree(local: &Params, peer: &Params, role: Role) -> bool {
    ID_BITS.contains(&local.id_bits)
        && ID_BITS.contains(&peer.id_bits)
        && (4..=MAX_FIRST_ID).contains(&local.first_id)
        && (4..=MAX_FIRST_ID).contains(&peer.first_id)
        && local.first_id & 3 == role.id_bit()
        && local.id_bits <= peer.max_id_bits
        && peer.id_bits <= local.max_id_bits
        && peer.first_id & 3 == role.other().id_bit()
        && [local.lanes, peer.lanes].iter().all(|n| n.is_power_of_two() && *n <= MAX_LANES)
}

/// Value bytes of the padding entry that makes block and ClientHello fill whole packets.
fn padding_to_fill(block: &Block<'_>, hello: usize, room: usize) -> usize {
    const ENTRY_HEADER: usize = 4;
    let bare = block.emit(0).len() + hello;
    let fill = (room - bare % room) % room;
    match fill {
        0 => 0,
        // No entry is that short: fill the next packet too.
        1..=ENTRY_HEADER => fill + room - ENTRY_HEADER,
        _ => fill - ENTRY_HEADER,
    }
}
