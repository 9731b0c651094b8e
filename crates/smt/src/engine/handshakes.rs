//! TLS beside the packets: each step of a handshake is a job for the worker pool; results come
//! back here and move the session on.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use smt_proto::crypto::{Suite, SuiteId, aws_lc};
use smt_proto::error::{CloseReason, HandshakeError};
use smt_proto::keys::Secret;
use smt_proto::{KeyContext, SessionId, Time};

use super::calls::Takes;
use super::early::{Decision, EarlyState, FirstFlight};
use super::post::{NewTicket, Posts};
use super::{ConnectId, ConnectOptions, Engine, Event, SessionInfo};
use crate::error::ConnectError;
use crate::tls::key_shares;
use crate::tls::pool::{Completed, Job, Pool, PoolConfig, Waker};
use crate::tls::{
    ClientHandshake, ClientTls, Established, HandshakeState, Progress, ServerHandshake, ServerTls,
    TlsError,
};

/// A handshake object on its way through the pool.
pub(super) enum Tls {
    Client(Box<ClientHandshake>),
    Server(Box<ServerHandshake>),
}

/// What a job of the pool came to.
pub(super) enum Done {
    /// A step of a TLS handshake.
    Step(Box<Step>),
    /// A client's first flight with an offer of early data.
    FirstFlight(Result<Box<FirstFlight>, TlsError>),
    /// A server's look at such an offer.
    Decision(Box<Decision>),
    /// A client has taken a post-handshake message; it may have brought a ticket.
    Post(Option<NewTicket>),
}

/// What a step came to.
pub(super) struct Step {
    tls: Option<Tls>,
    progress: Progress,
    established: Option<Established>,
}

impl Step {
    pub(super) fn failed(error: TlsError) -> Step {
        let progress = Progress { send: None, post: None, state: HandshakeState::Failed(error) };
        Step { tls: None, progress, established: None }
    }
}

/// A handshake of one session.
pub(super) struct Running {
    /// `None` while a step is in the pool, and in a handshake without TLS.
    pub(super) tls: Option<Tls>,
    /// Flights that came meanwhile.
    pub(super) waiting: VecDeque<Vec<u8>>,
    /// Ours, for a client.
    pub(super) connect: Option<ConnectId>,
    /// Keys are installed; only a refusal can still come.
    pub(super) done: bool,
    pub(super) early: EarlyState,
    pub(super) info: Option<Arc<SessionInfo>>,
    /// TLS tickets for the client, to be sent once the session works.
    pub(super) tickets: Option<Vec<u8>>,
}

impl Running {
    fn new(connect: Option<ConnectId>) -> Running {
        Running {
            tls: None,
            waiting: VecDeque::new(),
            connect,
            done: false,
            early: EarlyState::None,
            info: None,
            tickets: None,
        }
    }
}

/// All handshakes of an engine.
pub(super) struct Handshakes {
    pub(super) server: Option<ServerTls>,
    pub(super) client: Option<ClientTls>,
    pool: Pool<SessionId, Done>,
    /// Jobs whose results were not taken yet.
    jobs: usize,
    pub(super) running: HashMap<SessionId, Running>,
    /// Sessions in which early requests are answered before TLS begins, and until when at the latest.
    pub(super) later: Vec<(Time, SessionId)>,
    /// When an offer may be decided on the engine's own thread again.
    pub(super) next_decision: Time,
    pub(super) posts: Posts,
    /// Records are not encrypted.
    #[cfg(feature = "null-cipher")]
    null_cipher: bool,
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
            jobs: 0,
            running: HashMap::new(),
            later: Vec::new(),
            next_decision: Time::ZERO,
            posts: Posts::default(),
            #[cfg(feature = "null-cipher")]
            null_cipher: false,
        }
    }

    /// Whether records are not encrypted.
    #[cfg(feature = "null-cipher")]
    pub(super) fn null_cipher(self, null_cipher: bool) -> Self {
        Handshakes { null_cipher, ..self }
    }

    /// What seals and opens the records of a session.
    fn record_suite(&self, suite: SuiteId) -> &'static dyn Suite {
        #[cfg(feature = "null-cipher")]
        if self.null_cipher {
            return crate::null_cipher::suite(suite);
        }
        aws_lc::suite(suite)
    }

    /// Whether a thread of the pool may wake the engine.
    pub(super) fn has_jobs(&self) -> bool {
        self.jobs > 0
    }

    pub(super) fn is_client(&self) -> bool {
        self.client.is_some()
    }

    pub(super) fn forget_session(&mut self, session: SessionId) {
        self.running.remove(&session);
        self.posts.forget(session);
    }

    /// Has the pool do something for a session. False if the pool is full.
    pub(super) fn submit(&mut self, session: SessionId, job: Job<Done>) -> bool {
        match self.pool.submit(session, job) {
            Ok(()) => {
                self.jobs += 1;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "handshake dropped");
                false
            }
        }
    }
}

impl Engine {
    /// Begins the handshake of an attempt to connect, with early data if `early` and there is a ticket.
    pub(super) fn begin_client(
        &mut self,
        session: SessionId,
        connect: ConnectId,
        options: ConnectOptions,
        early: bool,
    ) -> Result<(), ConnectError> {
        let Some(tls) = self.handshakes.client.clone() else {
            return Err(ConnectError::NotAClient);
        };
        self.handshakes.running.insert(session, Running::new(Some(connect)));
        if early && self.begin_early(session, &tls, &options) {
            return Ok(());
        }
        let job = Box::new(move || {
            Done::Step(Box::new(match ClientHandshake::start(&tls, &options.server_name) {
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
            }))
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
    pub(super) fn on_flight(
        &mut self,
        session: SessionId,
        number: u32,
        bytes: Vec<u8>,
        offer: Option<Vec<u8>>,
    ) {
        if number == 0 {
            return self.on_client_hello(session, bytes, offer);
        }
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        if running.early.is_static() {
            return self.on_static_flight(session, &bytes);
        }
        running.waiting.push_back(bytes);
        self.next_step(session);
    }

    fn on_client_hello(&mut self, session: SessionId, bytes: Vec<u8>, offer: Option<Vec<u8>>) {
        let now = self.now();
        let server = self.handshakes.server.clone().filter(|_| self.makes_sessions());
        let Some(tls) = server else {
            return self.core.fail_handshake(now, session, None);
        };
        if let Some(path) = self.core.path(session)
            && let Some(room) = self.room(path.remote)
        {
            self.core.set_room(session, room);
        }
        let mut running = Running::new(None);
        running.tls = Some(Tls::Server(Box::new(ServerHandshake::new(&tls))));
        running.waiting.push_back(bytes);
        self.handshakes.running.insert(session, running);
        if let Some(offer) = offer
            && self.decide_early(session, offer)
        {
            return;
        }
        self.next_step(session);
    }

    /// Gives the pool the next flight of a session, if both it and the handshake are at hand.
    pub(super) fn next_step(&mut self, session: SessionId) {
        let context = self.core.key_context(session);
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        if running.tls.is_none() || running.early.is_undecided() {
            return;
        }
        let Some(flight) = running.waiting.pop_front() else { return };
        let Some(tls) = running.tls.take() else { return };
        let done = running.done;
        let job =
            Box::new(move || Done::Step(Box::new(step(tls, &flight, context.as_ref(), done))));
        if !self.handshakes.submit(session, job) {
            let error = TlsError::Internal { detail: "too many handshake steps wait".into() };
            self.on_tls_failure(session, error, None);
        }
    }

    /// Takes what the pool has finished. True if there was something.
    pub(super) fn take_handshake_results(&mut self) -> bool {
        if self.handshakes.jobs == 0 {
            return false;
        }
        let mut any = false;
        while let Some(Completed { tag: session, result }) = self.handshakes.pool.take_completed() {
            any = true;
            self.handshakes.jobs -= 1;
            match result {
                Ok(Done::Step(step)) => self.on_step(session, *step),
                Ok(Done::FirstFlight(first)) => self.on_first_flight(session, first),
                Ok(Done::Decision(decision)) => self.on_decision(session, *decision),
                Ok(Done::Post(ticket)) => self.on_post_taken(session, ticket),
                Err(panic) => {
                    tracing::error!(%panic, "handshake step");
                    let error = TlsError::Internal { detail: panic.to_string() };
                    self.on_step(session, Step::failed(error));
                }
            }
        }
        any
    }

    fn on_step(&mut self, session: SessionId, step: Step) {
        let now = self.now();
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        running.tls = step.tls;
        let Step { progress: Progress { send, post, state }, established, .. } = step;
        if post.is_some() {
            running.tickets = post;
        }
        if let HandshakeState::Failed(error) = state {
            return self.on_tls_failure(session, error, send.as_deref());
        }
        let contradiction = established.as_ref().and_then(|it| running.early.contradiction(it));
        if let Some(error) = contradiction {
            // A client's last flight is kept back: it would complete the server's handshake.
            return self.on_contradiction(session, error);
        }
        if let Some(flight) = send {
            self.core.send_flight(now, session, &flight);
        }
        if let Some(established) = established {
            self.on_tls_done(session, established);
        }
        self.next_step(session);
    }

    fn on_tls_done(&mut self, session: SessionId, established: Established) {
        let Established { suite, client_secret, server_secret, alpn, peer, resumed } = established;
        let Some(remote) = self.remote_of(session) else { return };
        if !self.fits_early_protocol(session, &alpn) {
            let error = TlsError::NoCommonAlpn;
            let alert = error.alert().plaintext_record();
            return self.on_tls_failure(session, error, Some(&alert));
        }
        let Some(running) = self.handshakes.running.get(&session) else { return };
        let early = running.early.is_accepted();
        let info = SessionInfo { remote, peer, suite, alpn, resumed, early, forward_secret: true };
        self.install(session, info, Secret::new(&client_secret), Secret::new(&server_secret));
    }

    /// Installs the secrets of epoch 3.
    pub(super) fn install(
        &mut self,
        session: SessionId,
        info: SessionInfo,
        client: Secret,
        server: Secret,
    ) {
        let now = self.now();
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        let (suite, connect) = (info.suite, running.connect);
        running.done = true;
        running.info = Some(Arc::new(info));
        let suite = self.handshakes.record_suite(suite);
        self.core.install_keys(now, session, suite, client, server);
        self.share(session);
        if let Some(connect) = connect {
            self.start_waiting_calls(connect, Takes::All);
        }
    }

    pub(super) fn on_established(&mut self, session: SessionId) {
        let Some(running) = self.handshakes.running.remove(&session) else { return };
        let Some(info) = running.info else { return };
        self.sessions.insert(session, Arc::clone(&info));
        self.share_confirmed(session, &info);
        let event = match running.connect {
            Some(connect) => {
                self.refill(session, &running.early);
                let wants = self.handshakes.client.as_ref().is_some_and(ClientTls::wants_tickets);
                let handshake = match running.tls {
                    Some(Tls::Client(handshake)) if wants => Some(handshake),
                    _ => None,
                };
                if let Some(asked) = self.connects.established(connect, session) {
                    let name = asked.options.server_name;
                    let kept = self.handshakes.posts.keep(session, handshake, name);
                    self.limits.waiting_for_tickets += u64::from(!kept);
                }
                Event::Connected { connect, session, info }
            }
            None => {
                self.send_posts(session, running.tickets);
                match info.early {
                    true => Event::Confirmed { session, info },
                    false => Event::Accepted { session, info },
                }
            }
        };
        self.events.push_back(event);
    }

    /// TLS has failed at this end, or the peer says that it has at its own.
    pub(super) fn on_tls_failure(
        &mut self,
        session: SessionId,
        error: TlsError,
        alert: Option<&[u8]>,
    ) {
        let now = self.now();
        let remote = self.remote_of(session);
        self.share_failed(session);
        let Some(running) = self.handshakes.running.remove(&session) else { return };
        self.core.fail_handshake(now, session, alert);
        match (running.connect, remote) {
            (Some(connect), _) => self.attempt_failed(connect, error),
            (None, Some(remote)) => {
                self.events.push_back(Event::HandshakeFailed { remote, error });
                self.end_unconfirmed(session);
            }
            (None, None) => self.end_unconfirmed(session),
        }
    }

    /// A session that was accepted on a ticket is over before its handshake was complete.
    fn end_unconfirmed(&mut self, session: SessionId) {
        if self.sessions.remove(&session).is_some() {
            self.events.push_back(Event::Closed { session, reason: CloseReason::Dead });
        }
    }

    pub(super) fn on_handshake_failed(&mut self, session: SessionId, error: HandshakeError) {
        self.share_failed(session);
        let Some(running) = self.handshakes.running.remove(&session) else { return };
        match running.connect {
            Some(connect) => self.attempt_ended(connect, error),
            None => self.end_unconfirmed(session),
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
