//! The transport without a runtime: everything to do with packets runs on the caller's thread.
//!
//! The usual loop takes events until there is none and lets the engine wait for more:
//!
//! ```no_run
//! # fn run(mut engine: smt::Engine) -> std::io::Result<()> {
//! while let Some(event) = engine.next(None)? {
//!     if let smt::Event::Request { rpc, body, .. } = event {
//!         engine.reply(rpc, body.into_vec());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! In an event loop of its own, a program watches [`Engine::fd`] for reading and then calls
//! [`Engine::poll`] and [`Engine::next_event`]. What was called in between ([`Engine::call`],
//! [`Engine::reply`]) leaves with the next `poll`, or at once with [`Engine::flush`].
//!
//! TLS handshakes run on a worker thread beside the caller's, so that certificate checks do not
//! stall established sessions ([`Builder::handshakes_inline`](crate::Builder::handshakes_inline)
//! keeps them on the caller's thread).

mod calls;
mod connects;
mod early;
mod event;
mod external;
mod habit;
mod handshakes;
mod idle;
mod packets;
mod paths;
mod post;
pub(crate) mod shards;
mod wait;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smt_datapath::{Caps, Datapath, DatapathStats, Opened};
use smt_proto::crypto::aws_lc::OsRandom;
use smt_proto::{Config, Endpoint as Core, RpcId, SessionId, Stats, Time};

use crate::builder::{Builder, Wait};
use crate::error::{CallError, ConnectError, StartError};
use calls::{EarlyCalls, QueuedCall};
use connects::Connects;
use habit::{Exactness, Habit};
use handshakes::Handshakes;
use paths::PathMtus;
use shards::{Group, Shards};
use wait::Waiter;

pub use calls::MAX_QUEUED_CALLS;
pub use connects::ConnectOptions;
pub use event::{ConnectId, Event, SessionInfo};
pub use external::{ExternalOffer, TrafficSecrets};
pub use post::MAX_WAITING_FOR_TICKETS;
pub use shards::{MAX_INBOX, MAX_PATH_ERRORS, SharedId};

/// What a call may be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// How long it may take; `None` is the builder's default.
    pub deadline: Option<Duration>,
    /// The caller's own name for the call, returned in [`Event::Response`].
    pub user: u64,
}

/// How often an engine has come to limits that are not the protocol's
/// ([`Stats`] counts those).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitStats {
    /// Calls that failed because [`MAX_QUEUED_CALLS`] waited for the same session.
    pub queued_calls: u64,
    /// A client's sessions that take no TLS tickets because [`MAX_WAITING_FOR_TICKETS`] others waited
    /// for theirs.
    pub waiting_for_tickets: u64,
    /// Sessions that ended as soon as they were made because [`MAX_INBOX`] others waited to be added at
    /// another shard, or that had ended.
    pub inbox: u64,
    /// Path errors that another shard was not told, because [`MAX_PATH_ERRORS`] others waited there.
    pub path_errors: u64,
}

impl std::ops::AddAssign for LimitStats {
    fn add_assign(&mut self, other: Self) {
        let Self { queued_calls, waiting_for_tickets, inbox, path_errors } = other;
        self.queued_calls += queued_calls;
        self.waiting_for_tickets += waiting_for_tickets;
        self.inbox += inbox;
        self.path_errors += path_errors;
    }
}

/// An endpoint that the caller drives.
pub struct Engine {
    core: Core,
    datapath: Box<dyn Datapath>,
    caps: Caps,
    origin: Instant,
    waiter: Waiter,
    wait: Wait,
    habit: Habit,
    exactness: Exactness,
    handshakes: Handshakes,
    connects: Connects,
    early_calls: EarlyCalls,
    /// What is known of the sessions that work.
    sessions: HashMap<SessionId, Arc<SessionInfo>>,
    /// What later secrets of sessions are bound to that have theirs registered.
    registered: HashMap<SessionId, external::Binding>,
    events: VecDeque<Event>,
    listen: Option<SocketAddr>,
    local: IpAddr,
    client_ports: Range<u16>,
    next_port: u16,
    connect_timeout: Duration,
    call_deadline: Duration,
    overruns: u64,
    /// TSO segments that it has refused so far.
    segment_errors: u64,
    limits: LimitStats,
    /// Polls so far, for what only some of them do.
    polls: u32,
    /// What packets took of the receive buffer since timers were looked at, in bytes, about.
    taken: usize,
    /// Polls in a row that found few packets, since then.
    short_polls: u32,
    /// Whether the last poll received anything.
    has_received: bool,
    /// Whether the last look for packets found one at most, so that another would find none.
    is_quiet: bool,
    path_looked_at: Time,
    mtus: PathMtus,
    /// Of an engine that shares its sessions with others.
    shards: Option<Box<Shards>>,
}

impl Engine {
    pub(crate) fn new(builder: Builder, config: Config, opened: Opened) -> io::Result<Engine> {
        let Opened { datapath, listen, client_ports } = opened;
        let waiter = Waiter::new()?;
        let local = builder.bind_address();
        let Builder { wait, connect_timeout, call_deadline, handshake_pool, .. } = builder;
        let waker = waiter.waker();
        let handshakes = Handshakes::new(builder.server, builder.client, handshake_pool, waker);
        #[cfg(feature = "null-cipher")]
        let handshakes = handshakes.null_cipher(builder.null_cipher);
        let mut random = [0; 2];
        smt_proto::crypto::Random::fill(&mut OsRandom, &mut random);
        let span = client_ports.len().max(1) as u16;
        let mut engine = Engine {
            core: Core::new(config, Box::new(OsRandom)),
            caps: datapath.caps(),
            datapath,
            origin: Instant::now(),
            waiter,
            wait,
            habit: Habit::default(),
            exactness: Exactness::new(),
            handshakes,
            connects: Connects::default(),
            early_calls: EarlyCalls::default(),
            sessions: HashMap::new(),
            registered: HashMap::new(),
            events: VecDeque::new(),
            listen,
            local,
            next_port: u16::from_be_bytes(random) % span,
            client_ports,
            connect_timeout,
            call_deadline,
            overruns: 0,
            segment_errors: 0,
            limits: LimitStats::default(),
            polls: 0,
            taken: 0,
            short_polls: 0,
            has_received: false,
            is_quiet: true,
            path_looked_at: Time::ZERO,
            mtus: PathMtus::default(),
            shards: None,
        };
        engine.declare_in_tickets();
        Ok(engine)
    }

    /// Makes it shard `index` of a group.
    pub(crate) fn join_group(&mut self, index: usize, group: Arc<Group>) {
        self.shards = Some(Box::new(Shards::new(index, group, self.waiter.waker())));
    }

    /// Address and SMT port where sessions are taken, if they are.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.listen
    }

    /// Name of the datapath in use: `raw`, `packet`, `udp`, or what became of `xdp` (`xdp`, `xdp-zerocopy`,
    /// `xdp-generic`).
    pub fn datapath_name(&self) -> &'static str {
        self.caps.name
    }

    /// Starts to connect to the server at `remote` (address and SMT port), whose certificate must be
    /// valid for `server_name`. [`Event::Connected`] or [`Event::ConnectFailed`] follows.
    ///
    /// # Errors
    /// [`ConnectError::NotAClient`], [`ConnectError::Unreachable`], [`ConnectError::Limit`].
    pub fn connect(
        &mut self,
        remote: SocketAddr,
        server_name: &str,
    ) -> Result<ConnectId, ConnectError> {
        self.connect_with(remote, ConnectOptions::new(server_name))
    }

    /// As [`connect`](Self::connect), with all that can be chosen.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect).
    pub fn connect_with(
        &mut self,
        remote: SocketAddr,
        options: ConnectOptions,
    ) -> Result<ConnectId, ConnectError> {
        self.begin_connect(remote, options)
    }

    /// Gives up an attempt to connect. No event follows but those of its calls.
    pub fn cancel_connect(&mut self, connect: ConnectId) {
        let Some(connect) = self.connects.remove(connect) else { return };
        for call in connect.waiting {
            self.call_failed(call.user, CallError::Cancelled);
        }
        if let Some(session) = connect.session {
            self.handshakes.forget_session(session);
            self.core.close(self.now(), session);
        }
    }

    /// Starts a call in a session; [`Event::Response`] follows.
    ///
    /// # Errors
    /// [`StartError`]; nothing was sent.
    pub fn call(
        &mut self,
        session: SessionId,
        body: impl Into<Bytes>,
        options: CallOptions,
    ) -> Result<RpcId, StartError> {
        let deadline = self.now() + options.deadline.unwrap_or(self.call_deadline);
        let body = body.into();
        self.before_message(session, body.len());
        self.core.start_call(session, body, deadline, options.user)
    }

    /// Queues a call for a session that is still being made: its request leaves right behind the
    /// client's Finished, one round trip before [`Event::Connected`]. [`Event::Response`] follows, or
    /// [`Event::EarlyCallFailed`]. The deadline counts from now. At most [`MAX_QUEUED_CALLS`] wait per
    /// connect; what is more fails with [`StartError::NotReady`].
    pub fn call_queued(
        &mut self,
        connect: ConnectId,
        body: impl Into<Bytes>,
        options: CallOptions,
    ) {
        self.call_before(connect, body.into(), options, false);
    }

    /// Makes a call that is idempotent in a session that is still being made. If early data is
    /// [offered](ConnectOptions::early) and the request fits what the ticket allows, it leaves with the
    /// first packet, encrypted under the ticket's key: without forward secrecy, and with the weaker
    /// promise that it may be executed more than once. Otherwise it leaves as that of
    /// [`call_queued`](Self::call_queued). If the server refuses early data or an attempt to connect
    /// fails, it is made again. One [`Event::Response`] or [`Event::EarlyCallFailed`] follows; its RPC is
    /// that of the last time.
    pub fn call_early(&mut self, connect: ConnectId, body: impl Into<Bytes>, options: CallOptions) {
        self.call_before(connect, body.into(), options, true);
    }

    fn call_before(&mut self, connect: ConnectId, body: Bytes, options: CallOptions, early: bool) {
        let deadline = self.now() + options.deadline.unwrap_or(self.call_deadline);
        self.place_call(connect, QueuedCall { body, deadline, user: options.user, early });
    }

    /// Answers a request. False if nobody waits for the answer any more.
    pub fn reply(&mut self, rpc: RpcId, body: impl Into<Bytes>) -> bool {
        let body = body.into();
        self.before_message(rpc.session, body.len());
        self.core.reply(rpc, body)
    }

    /// Answers a request with an error. Codes from 256 on are the application's own.
    pub fn refuse(&mut self, rpc: RpcId, code: u32, text: &str) -> bool {
        self.core.refuse(rpc, code, text)
    }

    /// Gives up a call. Its [`Event::Response`] follows.
    pub fn cancel(&mut self, rpc: RpcId) {
        let now = self.now();
        self.core.cancel(now, rpc);
    }

    /// Closes a session: its calls end, the peer is told.
    pub fn close(&mut self, session: SessionId) {
        let now = self.now();
        self.core.close(now, session);
    }

    /// Lets what is in flight end, closes all sessions, and waits until the peers have confirmed it,
    /// all within `patience`. Requests that still arrive are not answered.
    ///
    /// # Errors
    /// Those of [`poll`](Self::poll).
    pub fn close_all(&mut self, patience: Duration) -> io::Result<()> {
        let until = Instant::now() + patience;
        self.drain(patience)?;
        self.close_sessions();
        self.poll_until(until, |engine| engine.core.session_count() == 0)
    }

    /// Lets what is in flight end, within `patience`, without taking events: requests that still arrive are
    /// not answered. Of several shards each does this before one of them closes the sessions of all.
    ///
    /// # Errors
    /// Those of [`poll`](Self::poll).
    pub fn drain(&mut self, patience: Duration) -> io::Result<()> {
        self.poll_until(Instant::now() + patience, |engine| engine.in_flight() == 0)
    }

    /// RPCs not over, in all sessions and both directions, unacknowledged responses included.
    pub(crate) fn in_flight(&self) -> usize {
        self.core.sessions().into_iter().map(|session| self.core.in_flight(session)).sum()
    }

    pub(crate) fn close_sessions(&mut self) {
        for session in self.core.sessions() {
            self.close(session);
        }
    }

    /// What is known of a session that works.
    pub fn session_info(&self, session: SessionId) -> Option<&Arc<SessionInfo>> {
        self.sessions.get(&session)
    }

    /// Moves a session's sending direction to its next key, with the first message after the peer has
    /// been seen to use the current one. False if there is no such session.
    pub fn update_keys(&mut self, session: SessionId) -> bool {
        self.core.update_keys(session)
    }

    /// Asks the peer of a session to move its sending direction to its next key, at most once per
    /// 100 ms. False if there is no such session.
    pub fn request_update(&mut self, session: SessionId) -> bool {
        let now = self.now();
        self.core.request_update(now, session)
    }

    /// Calls of a session that are not over.
    pub fn outstanding(&self, session: SessionId) -> usize {
        self.core.outstanding(session)
    }

    /// Progress of a call in bytes on the wire: request sent, request in all, response received,
    /// response in all (0 while unknown). `None` once it is over.
    pub fn progress(&self, rpc: RpcId) -> Option<[u32; 4]> {
        self.core.progress(rpc)
    }

    /// Bytes of a call's response that are here already, decrypted, without a hole from the start. Those of
    /// an early call begin anew if the server takes back, restarted for instance, that it took early data.
    pub fn response_prefix(&self, rpc: RpcId) -> &[u8] {
        self.core.response_prefix(rpc)
    }

    /// Sessions, half-open ones included.
    pub fn session_count(&self) -> usize {
        self.core.session_count()
    }

    /// Counters of the protocol.
    pub fn stats(&self) -> &Stats {
        self.core.stats()
    }

    /// How often the engine's own limits were hit.
    pub fn limit_stats(&self) -> LimitStats {
        self.limits
    }

    /// Counters of the datapath.
    pub fn datapath_stats(&self) -> DatapathStats {
        self.datapath.stats()
    }

    /// The next event that is already there.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(crate) fn call_deadline(&self) -> Duration {
        self.call_deadline
    }

    /// Largest packet towards `remote`, SMT header included.
    fn room(&mut self, remote: SocketAddr) -> Option<usize> {
        let (now, datapath) = (self.now(), &mut self.datapath);
        let mtu = self.mtus.get(now, remote.ip(), || datapath.path_mtu(remote.ip()).ok())?;
        let overhead = self.caps.overhead[usize::from(remote.is_ipv6())];
        Some(mtu.saturating_sub(overhead).min(self.caps.max_packet))
    }

    fn now(&self) -> Time {
        let nanos = self.origin.elapsed().as_nanos();
        Time::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}
