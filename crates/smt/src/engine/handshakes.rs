//! TLS beside the packets: each step of a handshake is a job for the worker pool; results come
//! back here and move the session on.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smt_proto::crypto::aws_lc;
use smt_proto::error::HandshakeError;
use smt_proto::keys::Secret;
use smt_proto::{KeyContext, Path, SessionId, Time};

use super::{ConnectId, Engine, Event, SessionInfo};
use crate::error::{CallError, ConnectError};
use crate::tls::pool::{Completed, Job, Pool, PoolConfig, Waker};
use crate::tls::{
    ClientHandshake, ClientTls, Established, HandshakeState, Progress, ServerHandshake, ServerTls,
    TlsError,
};

/// Attempts after which a definite cause is believed (spec 5.1).
const MAX_ATTEMPTS: u32 = 3;
/// Pause before the next attempt after those, doubling up to the longest (spec 5.1).
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Early calls kept per connect.
const MAX_EARLY_CALLS: usize = 1024;

/// A call made before its session was there.
pub(super) struct EarlyCall {
    pub(super) body: Bytes,
    pub(super) deadline: Time,
    pub(super) user: u64,
}

/// A handshake object on its way through the pool.
enum Tls {
    Client(Box<ClientHandshake>),
    Server(Box<ServerHandshake>),
}

/// What a step came to.
struct Step {
    tls: Option<Tls>,
    progress: Progress,
    established: Option<Established>,
}

impl Step {
    fn failed(error: TlsError) -> Step {
        let progress = Progress { send: None, state: HandshakeState::Failed(error) };
        Step { tls: None, progress, established: None }
    }
}

/// A handshake of one session.
struct Running {
    /// `None` while a step is in the pool.
    tls: Option<Tls>,
    /// Flights that came meanwhile.
    waiting: VecDeque<Vec<u8>>,
    /// Ours, for a client.
    connect: Option<ConnectId>,
    /// Keys are installed; only a refusal can still come.
    done: bool,
    info: Option<Arc<SessionInfo>>,
}

/// What the application asked for, over all attempts.
struct Connect {
    remote: SocketAddr,
    server_name: String,
    deadline: Time,
    attempts: u32,
    session: Option<SessionId>,
    last_error: Option<TlsError>,
    early: Vec<EarlyCall>,
}

/// All handshakes of an engine.
pub(super) struct Handshakes {
    server: Option<ServerTls>,
    client: Option<ClientTls>,
    pool: Pool<SessionId, Step>,
    running: HashMap<SessionId, Running>,
    connects: HashMap<ConnectId, Connect>,
    next_connect: u64,
    /// Connects that pause before their next attempt, and until when.
    paused: Vec<(Time, ConnectId)>,
}

impl Handshakes {
    pub(super) fn new(
        server: Option<ServerTls>,
        client: Option<ClientTls>,
        pool: PoolConfig,
        waker: Waker,
    ) -> Self {
        Handshakes {
            server,
            client,
            pool: Pool::new(pool, waker),
            running: HashMap::new(),
            connects: HashMap::new(),
            next_connect: 0,
            paused: Vec::new(),
        }
    }

    pub(super) fn new_connect(
        &mut self,
        remote: SocketAddr,
        server_name: &str,
        deadline: Time,
    ) -> Result<ConnectId, ConnectError> {
        if self.client.is_none() {
            return Err(ConnectError::NotAClient);
        }
        self.next_connect += 1;
        let id = ConnectId(self.next_connect);
        let connect = Connect {
            remote,
            server_name: server_name.to_owned(),
            deadline,
            attempts: 0,
            session: None,
            last_error: None,
            early: Vec::new(),
        };
        self.connects.insert(id, connect);
        Ok(id)
    }

    pub(super) fn forget_connect(&mut self, id: ConnectId) -> Option<SessionId> {
        let session = self.connects.remove(&id)?.session?;
        self.running.remove(&session);
        Some(session)
    }

    pub(super) fn forget_session(&mut self, session: SessionId) {
        self.running.remove(&session);
    }

    pub(super) fn queue_early(&mut self, id: ConnectId, call: EarlyCall) -> Result<(), EarlyCall> {
        match self.connects.get_mut(&id) {
            Some(connect) if connect.early.len() < MAX_EARLY_CALLS => connect.early.push(call),
            _ => return Err(call),
        }
        Ok(())
    }

    /// When the next connect wants to try again.
    pub(super) fn next_attempt(&self) -> Option<Time> {
        self.paused.iter().map(|(at, _)| *at).min()
    }

    /// Has the pool do a step of a session's handshake. False if the pool is full.
    fn submit(&mut self, session: SessionId, job: Job<Step>) -> bool {
        match self.pool.submit(session, job) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "handshake dropped");
                false
            }
        }
    }
}

impl Engine {
    /// Begins the next attempt of a connect: a new session from a fresh port.
    pub(super) fn start_attempt(&mut self, id: ConnectId) -> Result<(), ConnectError> {
        let Some(tls) = self.handshakes.client.clone() else {
            return Err(ConnectError::NotAClient);
        };
        let Some(connect) = self.handshakes.connects.get(&id) else { return Ok(()) };
        let (remote, deadline) = (connect.remote, connect.deadline);
        let room = self.room(remote).ok_or(ConnectError::Unreachable)?;
        let path = self.fresh_path(remote).ok_or(ConnectError::Limit("client ports"))?;
        let now = self.now();
        let session = self
            .core
            .connect(now, path, room, deadline)
            .map_err(|_| ConnectError::Limit("max_sessions"))?;
        let Some(connect) = self.handshakes.connects.get_mut(&id) else { return Ok(()) };
        connect.attempts += 1;
        connect.session = Some(session);
        let name = connect.server_name.clone();
        let running = Running {
            tls: None,
            waiting: VecDeque::new(),
            connect: Some(id),
            done: false,
            info: None,
        };
        self.handshakes.running.insert(session, running);
        let job = Box::new(move || match ClientHandshake::start(&tls, &name) {
            Ok((handshake, flight)) => Step {
                tls: Some(Tls::Client(Box::new(handshake))),
                progress: Progress { send: Some(flight), state: HandshakeState::Continue },
                established: None,
            },
            Err(error) => Step::failed(error),
        });
        if !self.handshakes.submit(session, job) {
            self.core.fail_handshake(now, session, None);
            return Err(ConnectError::Limit("handshake steps waiting"));
        }
        Ok(())
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

    /// A flight of the peer's is complete.
    pub(super) fn on_flight(&mut self, session: SessionId, number: u32, bytes: Vec<u8>) {
        if number == 0 {
            return self.on_client_hello(session, bytes);
        }
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        running.waiting.push_back(bytes);
        self.next_step(session);
    }

    fn on_client_hello(&mut self, session: SessionId, bytes: Vec<u8>) {
        let now = self.now();
        let Some(tls) = self.handshakes.server.clone() else {
            return self.core.fail_handshake(now, session, None);
        };
        if let Some(path) = self.core.path(session)
            && let Some(room) = self.room(path.remote)
        {
            self.core.set_room(session, room);
        }
        let handshake = Tls::Server(Box::new(ServerHandshake::new(&tls)));
        let running = Running {
            tls: Some(handshake),
            waiting: VecDeque::from([bytes]),
            connect: None,
            done: false,
            info: None,
        };
        self.handshakes.running.insert(session, running);
        self.next_step(session);
    }

    /// Gives the pool the next flight of a session, if both it and the handshake are at hand.
    fn next_step(&mut self, session: SessionId) {
        let context = self.core.key_context(session);
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        if running.tls.is_none() {
            return;
        }
        let Some(flight) = running.waiting.pop_front() else { return };
        let Some(tls) = running.tls.take() else { return };
        let done = running.done;
        let job = Box::new(move || step(tls, &flight, context.as_ref(), done));
        if !self.handshakes.submit(session, job) {
            self.handshakes.running.remove(&session);
            let now = self.now();
            self.core.fail_handshake(now, session, None);
        }
    }

    /// Takes what the pool has finished. True if there was something.
    pub(super) fn take_handshake_results(&mut self) -> bool {
        if self.handshakes.running.is_empty() {
            return false;
        }
        let mut any = false;
        while let Some(Completed { tag: session, result }) = self.handshakes.pool.take_completed() {
            any = true;
            let step = result.unwrap_or_else(|panic| {
                tracing::error!(%panic, "handshake step");
                Step::failed(TlsError::Internal { detail: panic.to_string() })
            });
            self.on_step(session, step);
        }
        any
    }

    fn on_step(&mut self, session: SessionId, step: Step) {
        let now = self.now();
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        running.tls = step.tls;
        let Step { progress: Progress { send, state }, established, .. } = step;
        if let HandshakeState::Failed(error) = state {
            return self.on_tls_failure(session, error, send.as_deref());
        }
        if let Some(flight) = send {
            self.core.send_flight(now, session, &flight);
        }
        if let Some(established) = established {
            self.install(session, established);
        }
        self.next_step(session);
    }

    fn install(&mut self, session: SessionId, established: Established) {
        let now = self.now();
        let Established { suite, client_secret, server_secret, alpn, peer } = established;
        let Some(remote) = self.remote_of(session) else { return };
        let info = Arc::new(SessionInfo { remote, peer, suite, alpn });
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        running.done = true;
        running.info = Some(info);
        let connect = running.connect;
        let (client, server) = (Secret::new(&client_secret), Secret::new(&server_secret));
        self.core.install_keys(now, session, aws_lc::suite(suite), client, server);
        let early = connect.and_then(|id| self.handshakes.connects.get_mut(&id));
        for call in early.map(|connect| std::mem::take(&mut connect.early)).unwrap_or_default() {
            let started = self.core.start_call(session, call.body, call.deadline, call.user);
            if let Err(error) = started {
                let error = CallError::NotStarted(error);
                self.events.push_back(Event::EarlyCallFailed { user: call.user, error });
            }
        }
    }

    pub(super) fn on_established(&mut self, session: SessionId) {
        let Some(running) = self.handshakes.running.remove(&session) else { return };
        let Some(info) = running.info else { return };
        self.sessions.insert(session, Arc::clone(&info));
        let event = match running.connect {
            Some(connect) => {
                self.handshakes.connects.remove(&connect);
                Event::Connected { connect, session, info }
            }
            None => Event::Accepted { session, info },
        };
        self.events.push_back(event);
    }

    /// TLS has failed at this end, or the peer says that it has at its own.
    fn on_tls_failure(&mut self, session: SessionId, error: TlsError, alert: Option<&[u8]>) {
        let now = self.now();
        let remote = self.remote_of(session);
        let Some(running) = self.handshakes.running.remove(&session) else { return };
        self.core.fail_handshake(now, session, alert);
        let Some(id) = running.connect else {
            if let Some(remote) = remote {
                self.events.push_back(Event::HandshakeFailed { remote, error });
            }
            return;
        };
        let Some(connect) = self.handshakes.connects.get_mut(&id) else { return };
        connect.session = None;
        let hopeless = matches!(error, TlsError::InvalidServerName { .. });
        let attempts_left = !hopeless && (!error.is_definite() || connect.attempts < MAX_ATTEMPTS);
        connect.last_error = Some(error.clone());
        if attempts_left && now < connect.deadline {
            tracing::debug!(%error, attempt = connect.attempts, "handshake failed, trying again");
            let pause = match connect.attempts.checked_sub(MAX_ATTEMPTS) {
                None => Duration::ZERO,
                Some(times) => (FIRST_PAUSE * (1 << times.min(8))).min(LONGEST_PAUSE),
            };
            let at = (now + pause).min(connect.deadline);
            self.handshakes.paused.push((at, id));
            return self.try_again(now);
        }
        self.connect_failed(id, ConnectError::Tls(error));
    }

    /// Begins the next attempts of connects whose pause is over; fails those out of time.
    pub(super) fn try_again(&mut self, now: Time) {
        while let Some(at) = self.handshakes.paused.iter().position(|(at, _)| *at <= now) {
            let (_, id) = self.handshakes.paused.swap_remove(at);
            let Some(connect) = self.handshakes.connects.get_mut(&id) else { continue };
            let result = match connect.last_error.clone().filter(|_| connect.deadline <= now) {
                Some(cause) => Err(ConnectError::Tls(cause)),
                None => self.start_attempt(id),
            };
            if let Err(error) = result {
                self.connect_failed(id, error);
            }
        }
    }

    pub(super) fn on_handshake_failed(&mut self, session: SessionId, error: HandshakeError) {
        let Some(running) = self.handshakes.running.remove(&session) else { return };
        let Some(id) = running.connect else { return };
        let last = self.handshakes.connects.get_mut(&id).and_then(|c| c.last_error.take());
        let error = match (error, last) {
            (HandshakeError::TimedOut, Some(cause)) => ConnectError::Tls(cause),
            (HandshakeError::TimedOut, None) => ConnectError::TimedOut(self.connect_timeout),
            (HandshakeError::Refused, _) => ConnectError::Refused,
            (HandshakeError::Unreachable, _) => ConnectError::Unreachable,
            (HandshakeError::BadParameters, _) => ConnectError::BadParameters,
            (HandshakeError::TooManySessions, _) => ConnectError::Limit("max_sessions"),
        };
        self.connect_failed(id, error);
    }

    fn connect_failed(&mut self, id: ConnectId, error: ConnectError) {
        let Some(connect) = self.handshakes.connects.remove(&id) else { return };
        for call in connect.early {
            let error = CallError::NotConnected(error.clone());
            self.events.push_back(Event::EarlyCallFailed { user: call.user, error });
        }
        self.events.push_back(Event::ConnectFailed { connect: id, error });
    }
}

/// One step of a handshake, on a worker thread.
fn step(mut tls: Tls, flight: &[u8], context: Option<&KeyContext>, done: bool) -> Step {
    let progress = match &mut tls {
        Tls::Client(client) if done => {
            let state = match client.late_flight(flight) {
                Some(error) => HandshakeState::Failed(error),
                None => HandshakeState::Continue,
            };
            Progress { send: None, state }
        }
        Tls::Client(client) => client.read_flight(flight),
        Tls::Server(server) => server.read_flight(flight),
    };
    let mut step = Step { tls: None, progress, established: None };
    if !done && step.progress.state == HandshakeState::Done {
        let Some(context) = context else {
            return Step::failed(TlsError::Internal { detail: "no parameters of the peer".into() });
        };
        let compute = |suite, alpn: &[u8]| context.compute(aws_lc::suite(suite), alpn);
        let established = match &mut tls {
            Tls::Client(client) => client.finish(compute),
            Tls::Server(server) => server.finish(compute),
        };
        match established {
            Ok(established) => step.established = Some(established),
            Err(error) => step.progress.state = HandshakeState::Failed(error),
        }
    }
    step.tls = Some(tls);
    step
}
