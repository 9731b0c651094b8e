//! TLS beside the packets: each step of a handshake is a job for the worker pool; results come
//! back here and move the session on.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use smt_proto::crypto::aws_lc;
use smt_proto::error::HandshakeError;
use smt_proto::keys::Secret;
use smt_proto::{KeyContext, SessionId};

use super::{ConnectId, Engine, Event, SessionInfo};
use crate::error::ConnectError;
use crate::tls::key_shares;
use crate::tls::pool::{Completed, Job, Pool, PoolConfig, Waker};
use crate::tls::{
    ClientHandshake, ClientTls, Established, HandshakeState, Progress, ServerHandshake, ServerTls,
    TlsError,
};

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
        let progress = Progress { send: None, post: None, state: HandshakeState::Failed(error) };
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

/// All handshakes of an engine.
pub(super) struct Handshakes {
    server: Option<ServerTls>,
    client: Option<ClientTls>,
    pool: Pool<SessionId, Step>,
    running: HashMap<SessionId, Running>,
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
            pool: Pool::new(pool, waker).with_idle_work(key_shares::refill),
            running: HashMap::new(),
        }
    }

    pub(super) fn is_client(&self) -> bool {
        self.client.is_some()
    }

    pub(super) fn forget_session(&mut self, session: SessionId) {
        self.running.remove(&session);
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
    /// Begins the handshake of an attempt to connect.
    pub(super) fn begin_client(
        &mut self,
        session: SessionId,
        connect: ConnectId,
        server_name: String,
    ) -> Result<(), ConnectError> {
        let Some(tls) = self.handshakes.client.clone() else {
            return Err(ConnectError::NotAClient);
        };
        let running = Running {
            tls: None,
            waiting: VecDeque::new(),
            connect: Some(connect),
            done: false,
            info: None,
        };
        self.handshakes.running.insert(session, running);
        let job = Box::new(move || match ClientHandshake::start(&tls, &server_name) {
            Ok((handshake, flight)) => Step {
                tls: Some(Tls::Client(Box::new(handshake))),
                progress: Progress {
                    send: Some(flight),
                    post: None,
                    state: HandshakeState::Continue,
                },
                established: None,
            },
            Err(error) => Step::failed(error),
        });
        if !self.handshakes.submit(session, job) {
            self.handshakes.running.remove(&session);
            let now = self.now();
            self.core.fail_handshake(now, session, None);
            return Err(ConnectError::Limit("handshake steps waiting"));
        }
        Ok(())
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
        let Step { progress: Progress { send, state, .. }, established, .. } = step;
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
        let Established { suite, client_secret, server_secret, alpn, peer, .. } = established;
        let Some(remote) = self.remote_of(session) else { return };
        let info = Arc::new(SessionInfo { remote, peer, suite, alpn });
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        running.done = true;
        running.info = Some(info);
        let connect = running.connect;
        let (client, server) = (Secret::new(&client_secret), Secret::new(&server_secret));
        self.core.install_keys(now, session, aws_lc::suite(suite), client, server);
        if let Some(connect) = connect {
            self.start_queued_calls(connect, session);
        }
    }

    pub(super) fn on_established(&mut self, session: SessionId) {
        let Some(running) = self.handshakes.running.remove(&session) else { return };
        let Some(info) = running.info else { return };
        self.sessions.insert(session, Arc::clone(&info));
        let event = match running.connect {
            Some(connect) => {
                self.connects.remove(connect);
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
        match (running.connect, remote) {
            (Some(connect), _) => self.attempt_failed(connect, error),
            (None, Some(remote)) => {
                self.events.push_back(Event::HandshakeFailed { remote, error });
            }
            (None, None) => {}
        }
    }

    pub(super) fn on_handshake_failed(&mut self, session: SessionId, error: HandshakeError) {
        let Some(running) = self.handshakes.running.remove(&session) else { return };
        if let Some(connect) = running.connect {
            self.attempt_ended(connect, error);
        }
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
            Progress { send: None, post: None, state }
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
