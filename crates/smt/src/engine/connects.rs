//! What the application asked to be connected, over all attempts (spec 5.1).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use smt_proto::error::HandshakeError;
use smt_proto::{Path, SessionId, Time};

use super::calls::{QueuedCall, Takes};
use super::{ConnectId, Engine, Event};
use crate::error::ConnectError;
use crate::ticket::VerifiedTicket;
use crate::tls::TlsError;

/// Attempts after which a definite cause is believed (spec 5.1).
const MAX_ATTEMPTS: u32 = 3;
/// Pause before the next attempt after those, doubling up to the longest (spec 5.1).
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How to connect.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// The name for which the server's certificate must be valid: a DNS name or an IP address.
    pub server_name: String,
    /// Offers early data if there is a ticket. Default: false.
    pub early: bool,
    /// The server's ticket; else, if `early`, the newest valid one of the client configuration's store.
    pub ticket: Option<VerifiedTicket>,
    /// Whether a TLS handshake follows early data. Without one, which the server must allow, a session
    /// costs neither end a signature or a key exchange, but whoever learns the ticket's key later can
    /// read all of it, and the client stays anonymous. Without a ticket, or where the server refuses,
    /// there is a TLS handshake all the same. Default: true.
    pub forward_secrecy: bool,
}

impl ConnectOptions {
    /// The defaults, for the server of this name.
    #[must_use]
    pub fn new(server_name: &str) -> Self {
        ConnectOptions {
            server_name: server_name.to_owned(),
            early: false,
            ticket: None,
            forward_secrecy: true,
        }
    }

    /// Sets [`early`](Self::early).
    #[must_use]
    pub fn early(mut self, early: bool) -> Self {
        self.early = early;
        self
    }

    /// Offers early data with this ticket.
    #[must_use]
    pub fn ticket(mut self, ticket: VerifiedTicket) -> Self {
        self.ticket = Some(ticket);
        self.early(true)
    }

    /// Sets [`forward_secrecy`](Self::forward_secrecy).
    #[must_use]
    pub fn forward_secrecy(mut self, forward_secrecy: bool) -> Self {
        self.forward_secrecy = forward_secrecy;
        self
    }
}

/// What the application asked for.
pub(super) struct Connect {
    pub(super) remote: SocketAddr,
    pub(super) options: ConnectOptions,
    pub(super) deadline: Time,
    pub(super) attempts: u32,
    /// That of the attempt at hand.
    pub(super) session: Option<SessionId>,
    pub(super) last_error: Option<TlsError>,
    /// What that session takes, and the calls that wait for it to take them.
    pub(super) takes: Takes,
    pub(super) waiting: Vec<QueuedCall>,
    /// The server has refused early data: there is no use in offering it again.
    pub(super) refused: bool,
}

/// All connects that are not over.
#[derive(Default)]
pub(super) struct Connects {
    running: HashMap<ConnectId, Connect>,
    last_id: u64,
    /// The sessions that came of those that are over, as long as they live, and the reverse.
    made: HashMap<ConnectId, SessionId>,
    made_by: HashMap<SessionId, ConnectId>,
    /// Those that pause before their next attempt, and until when.
    paused: Vec<(Time, ConnectId)>,
}

impl Connects {
    pub(super) fn get_mut(&mut self, id: ConnectId) -> Option<&mut Connect> {
        self.running.get_mut(&id)
    }

    pub(super) fn is_running(&self, id: ConnectId) -> bool {
        self.running.contains_key(&id)
    }

    pub(super) fn remove(&mut self, id: ConnectId) -> Option<Connect> {
        self.running.remove(&id)
    }

    /// A connect has come to its end: a session.
    pub(super) fn established(&mut self, id: ConnectId, session: SessionId) -> Option<Connect> {
        self.made.insert(id, session);
        self.made_by.insert(session, id);
        self.running.remove(&id)
    }

    /// The session that came of a connect, if it still lives.
    pub(super) fn session_of(&self, id: ConnectId) -> Option<SessionId> {
        self.made.get(&id).copied()
    }

    /// A session is over.
    pub(super) fn forget_session(&mut self, session: SessionId) {
        if let Some(id) = self.made_by.remove(&session) {
            self.made.remove(&id);
        }
    }

    /// When the next one wants to try again.
    pub(super) fn next_attempt(&self) -> Option<Time> {
        self.paused.iter().map(|(at, _)| *at).min()
    }

    fn add(&mut self, remote: SocketAddr, options: ConnectOptions, deadline: Time) -> ConnectId {
        self.last_id += 1;
        let id = ConnectId(self.last_id);
        let connect = Connect {
            remote,
            options,
            deadline,
            attempts: 0,
            session: None,
            last_error: None,
            takes: Takes::Nothing,
            waiting: Vec::new(),
            refused: false,
        };
        self.running.insert(id, connect);
        id
    }
}

impl Engine {
    pub(super) fn begin_connect(
        &mut self,
        remote: SocketAddr,
        options: ConnectOptions,
    ) -> Result<ConnectId, ConnectError> {
        if !self.handshakes.is_client() {
            return Err(ConnectError::NotAClient);
        }
        if !self.makes_sessions() {
            return Err(ConnectError::Limit(
                "sessions are made at the first shard, while all live",
            ));
        }
        let deadline = self.now() + self.connect_timeout;
        let id = self.connects.add(remote, options, deadline);
        let started = self.start_attempt(id);
        if started.is_err() {
            self.connects.remove(id);
        }
        started.map(|()| id)
    }

    /// Begins the next attempt of a connect: a new session from a fresh port.
    fn start_attempt(&mut self, id: ConnectId) -> Result<(), ConnectError> {
        let Some(connect) = self.connects.get_mut(id) else { return Ok(()) };
        let (remote, deadline) = (connect.remote, connect.deadline);
        let room = self.room(remote).ok_or(ConnectError::Unreachable)?;
        let path = self.fresh_path(remote).ok_or(ConnectError::Limit("client ports"))?;
        let now = self.now();
        let session = self
            .core
            .connect(now, path, room, deadline)
            .map_err(|_| ConnectError::Limit("max_sessions"))?;
        let Some(connect) = self.connects.get_mut(id) else { return Ok(()) };
        connect.attempts += 1;
        connect.session = Some(session);
        connect.takes = Takes::Nothing;
        let options = connect.options.clone();
        let early = options.early && !connect.refused;
        self.begin_client(session, id, options, early)
    }

    /// A 5-tuple towards `remote` that no session uses, from the next of our client ports.
    fn fresh_path(&mut self, remote: SocketAddr) -> Option<Path> {
        let outer = self.outer(remote);
        let local = Some(self.local).filter(|local| !local.is_unspecified());
        let path =
            |local_port| Path { remote: outer, remote_port: remote.port(), local_port, local };
        self.client_port(|engine, port| !engine.core.has_path(&path(port))).map(path)
    }

    /// The peer's address as the datapath wants it, of its address and SMT port.
    pub(super) fn outer(&self, remote: SocketAddr) -> SocketAddr {
        let encapsulated = self.caps.name == "udp";
        SocketAddr::new(remote.ip(), if encapsulated { remote.port() } else { 0 })
    }

    /// The next of our client ports that is `free`.
    pub(super) fn client_port(&mut self, free: impl Fn(&Engine, u16) -> bool) -> Option<u16> {
        let span = u16::try_from(self.client_ports.len()).unwrap_or(u16::MAX);
        (0..span).find_map(|_| {
            let port = self.client_ports.start + self.next_port % span;
            self.next_port = (self.next_port + 1) % span;
            free(self, port).then_some(port)
        })
    }

    /// TLS has failed in an attempt: another one may succeed, unless the cause is definite.
    pub(super) fn attempt_failed(&mut self, id: ConnectId, error: TlsError) {
        let now = self.now();
        let Some(connect) = self.connects.get_mut(id) else { return };
        connect.session = None;
        connect.takes = Takes::Nothing;
        // After `UnlikeTicket` another attempt might succeed, and hide whose early responses those were.
        let hopeless =
            matches!(error, TlsError::InvalidServerName { .. } | TlsError::UnlikeTicket { .. });
        let attempts_left = !hopeless && (!error.is_definite() || connect.attempts < MAX_ATTEMPTS);
        connect.last_error = Some(error.clone());
        if !attempts_left || now >= connect.deadline {
            return self.connect_failed(id, ConnectError::Tls(error));
        }
        tracing::debug!(%error, attempt = connect.attempts, "handshake failed, trying again");
        let pause = match connect.attempts.checked_sub(MAX_ATTEMPTS) {
            None => Duration::ZERO,
            Some(times) => (FIRST_PAUSE * (1 << times.min(8))).min(LONGEST_PAUSE),
        };
        let at = (now + pause).min(connect.deadline);
        self.connects.paused.push((at, id));
        self.try_again(now);
    }

    /// The server does without TLS no longer, or not yet: the next attempt, at once, is an ordinary one.
    pub(super) fn try_with_tls(&mut self, id: ConnectId) {
        let now = self.now();
        let Some(connect) = self.connects.get_mut(id) else { return };
        connect.session = None;
        connect.takes = Takes::Nothing;
        self.connects.paused.push((now, id));
        self.try_again(now);
    }

    /// Begins the next attempts of connects whose pause is over; fails those out of time.
    pub(super) fn try_again(&mut self, now: Time) {
        while let Some(at) = self.connects.paused.iter().position(|(at, _)| *at <= now) {
            let (_, id) = self.connects.paused.swap_remove(at);
            let Some(connect) = self.connects.get_mut(id) else { continue };
            let result = match connect.last_error.clone().filter(|_| connect.deadline <= now) {
                Some(cause) => Err(ConnectError::Tls(cause)),
                None => self.start_attempt(id),
            };
            if let Err(error) = result {
                self.connect_failed(id, error);
            }
        }
    }

    /// The transport has given an attempt up, and with it the connect.
    pub(super) fn attempt_ended(&mut self, id: ConnectId, error: HandshakeError) {
        let last = self.connects.get_mut(id).and_then(|connect| connect.last_error.take());
        let error = match (error, last) {
            (HandshakeError::TimedOut, Some(cause)) => ConnectError::Tls(cause),
            (HandshakeError::TimedOut, None) => ConnectError::TimedOut(self.connect_timeout),
            (HandshakeError::Refused, _) => ConnectError::Refused,
            (HandshakeError::Unreachable, _) => ConnectError::Unreachable,
            (HandshakeError::BadParameters | HandshakeError::Violation, _) => {
                ConnectError::BadParameters
            }
            (HandshakeError::TooManySessions, _) => ConnectError::Limit("max_sessions"),
        };
        self.connect_failed(id, error);
    }

    fn connect_failed(&mut self, id: ConnectId, error: ConnectError) {
        let Some(connect) = self.connects.remove(id) else { return };
        self.waiting_calls_failed(connect.waiting, &error);
        self.events.push_back(Event::ConnectFailed { connect: id, error });
    }
}
