//! The task that moves an endpoint's packets, and the tables by which events find their futures.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use smt_proto::error::reply_code;
use smt_proto::{Body, RpcId, SessionId};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::shards::{Common, Registry, Route};
use super::{Handle, Shared};
use crate::engine::{ConnectId, Engine, Event, SessionInfo, SharedId};
use crate::error::{CallError, ConnectError};

/// Polls in a row before other tasks get their turn.
const POLLS_PER_TURN: u32 = 16;
/// Sessions of which a turn looks how much still waits in them.
const LOOKS_PER_TURN: usize = 16;

/// A session of ours, and what was established about it.
pub(super) type Made = (Arc<Route>, Arc<SessionInfo>);
pub(super) type ConnectResult = Result<Made, ConnectError>;
pub(super) type CallResult = Result<Body, CallError>;

/// A request on its way to whoever accepts it. Queues hold no handles of the endpoint: those would
/// keep it alive, and need its lock when they are dropped under it.
pub(super) struct Request {
    pub(super) rpc: RpcId,
    pub(super) body: Body,
    pub(super) early: bool,
    /// Where it came, and is to be answered.
    pub(super) shard: usize,
}

/// A session on its way to whoever accepts it.
pub(super) struct NewSession {
    pub(super) route: Arc<Route>,
    pub(super) info: Arc<SessionInfo>,
    pub(super) requests: mpsc::UnboundedReceiver<Request>,
    /// What the whole handshake established, once it is complete.
    pub(super) confirmed: watch::Receiver<Option<Arc<SessionInfo>>>,
}

/// The engine of a shard and who waits for what in it.
pub(super) struct Driven {
    pub(super) engine: Engine,
    shard: usize,
    registry: Arc<Registry>,
    pub(super) connects:
        HashMap<ConnectId, (oneshot::Sender<ConnectResult>, mpsc::UnboundedSender<Request>)>,
    calls: Vec<Option<oneshot::Sender<CallResult>>>,
    free_calls: Vec<u64>,
    sessions: HashMap<SessionId, SessionEntry>,
    /// Sessions in which something waited when it was last told to the other shards.
    busy: VecDeque<SessionId>,
    accepted: Option<mpsc::UnboundedSender<NewSession>>,
    failed: bool,
    /// Nobody drives the engine any more.
    pub(super) closed: bool,
}

struct SessionEntry {
    requests: Requests,
    common: Option<(SharedId, Arc<Common>)>,
    /// It is among the busy ones.
    is_busy: bool,
    /// Told when a call ended, so that one that found no room can try again.
    room: Arc<Notify>,
    /// Told when the handshake of a session that was accepted early is complete.
    confirmed: watch::Sender<Option<Arc<SessionInfo>>>,
}

/// Where the requests of a session go.
enum Requests {
    /// At the first shard.
    To(mpsc::UnboundedSender<Request>, Arc<Route>),
    /// Where the first shard says.
    AsTold(Arc<Common>),
}

impl SessionEntry {
    fn new(requests: Requests, confirmed: Option<Arc<SessionInfo>>) -> SessionEntry {
        SessionEntry {
            requests,
            common: None,
            is_busy: false,
            room: Arc::default(),
            confirmed: watch::Sender::new(confirmed),
        }
    }

    /// Hands on a request; false if nobody takes it.
    fn put(&self, request: Request) -> bool {
        match &self.requests {
            Requests::To(requests, _) => requests.send(request).is_ok(),
            Requests::AsTold(common) => common.put(request),
        }
    }
}

impl Driven {
    pub(super) fn new(
        engine: Engine,
        accepted: mpsc::UnboundedSender<NewSession>,
        registry: Arc<Registry>,
    ) -> Driven {
        Driven {
            shard: engine.shard().0,
            engine,
            registry,
            connects: HashMap::new(),
            calls: Vec::new(),
            free_calls: Vec::new(),
            sessions: HashMap::new(),
            busy: VecDeque::new(),
            accepted: Some(accepted),
            failed: false,
            closed: false,
        }
    }

    pub(super) fn stop_accepting(&mut self) {
        self.accepted = None;
    }

    /// Puts what waits on the wire and sets the timer for what may follow.
    pub(super) fn flush(&mut self) {
        loop {
            if let Err(error) = self.engine.flush() {
                tracing::error!(%error, "the datapath failed");
                self.failed = true;
                return;
            }
            if !self.engine.has_events() {
                return;
            }
            self.dispatch();
        }
    }

    /// A place for a call's result; its index is the engine's user value.
    pub(super) fn reserve_call(&mut self) -> (u64, oneshot::Receiver<CallResult>) {
        let (sender, receiver) = oneshot::channel();
        let index = self.free_calls.pop().unwrap_or_else(|| {
            self.calls.push(None);
            self.calls.len() as u64 - 1
        });
        if let Some(slot) = self.calls.get_mut(index as usize) {
            *slot = Some(sender);
        }
        (index, receiver)
    }

    /// Frees the place of a call that was not started.
    pub(super) fn release_call(&mut self, index: u64) -> Option<oneshot::Sender<CallResult>> {
        let sender = self.calls.get_mut(index as usize)?.take()?;
        self.free_calls.push(index);
        Some(sender)
    }

    /// Who tells that a session has room for another call.
    pub(super) fn room(&self, session: SessionId) -> Option<Arc<Notify>> {
        self.sessions.get(&session).map(|entry| Arc::clone(&entry.room))
    }

    /// A session works at the first shard: calls of it may go to the others, and their requests here.
    fn link(&mut self, session: SessionId) {
        let Some(id) = self.engine.shared_id(session) else { return };
        let Some(entry) = self.sessions.get_mut(&session) else { return };
        if let (Requests::To(requests, route), None) = (&entry.requests, &entry.common) {
            let common = self.registry.enter(id);
            common.settle(self.shard, session);
            common.claim(requests);
            route.open(&common);
            entry.common = Some((id, common));
        }
    }

    /// Tells the other shards how much waits here in a session, now that this has changed.
    pub(super) fn tell_waiting(&mut self, session: SessionId) {
        if self.registry.shards() == 1 {
            return;
        }
        let Some(entry) = self.sessions.get_mut(&session) else { return };
        let Some((_, common)) = &entry.common else { return };
        let waiting = self.engine.waiting_bytes(session);
        common.set_waiting(self.shard, waiting);
        if waiting > 0 && !entry.is_busy {
            entry.is_busy = true;
            self.busy.push_back(session);
        }
    }

    /// Looks whether what waited is gone: not every packet that takes it away makes an event.
    fn look_at_busy(&mut self) {
        for _ in 0..self.busy.len().min(LOOKS_PER_TURN) {
            let Some(session) = self.busy.pop_front() else { return };
            if let Some(entry) = self.sessions.get_mut(&session) {
                entry.is_busy = false;
                self.tell_waiting(session);
            }
        }
    }

    pub(super) fn dispatch(&mut self) {
        while let Some(event) = self.engine.next_event() {
            match event {
                Event::Connected { connect, session, info } => {
                    let Some((sender, requests)) = self.connects.remove(&connect) else {
                        self.engine.close(session);
                        continue;
                    };
                    let route = Arc::new(Route::new(session));
                    let requests = Requests::To(requests, Arc::clone(&route));
                    let entry = SessionEntry::new(requests, Some(Arc::clone(&info)));
                    self.sessions.insert(session, entry);
                    self.link(session);
                    if sender.send(Ok((route, info))).is_err() {
                        self.engine.close(session);
                    }
                }
                Event::ConnectFailed { connect, error } => {
                    if let Some((sender, _)) = self.connects.remove(&connect) {
                        let _ = sender.send(Err(error));
                    }
                }
                Event::Accepted { session, info } => {
                    let (requests, receiver) = mpsc::unbounded_channel();
                    let complete = (!info.early).then(|| Arc::clone(&info));
                    let route = Arc::new(Route::new(session));
                    let requests = Requests::To(requests, Arc::clone(&route));
                    let entry = SessionEntry::new(requests, complete);
                    let confirmed = entry.confirmed.subscribe();
                    let new = NewSession { route, info, requests: receiver, confirmed };
                    let taken = self.accepted.as_ref().is_some_and(|a| a.send(new).is_ok());
                    if taken {
                        self.sessions.insert(session, entry);
                        self.link(session);
                    } else {
                        self.engine.close(session);
                    }
                }
                Event::Confirmed { session, info } => {
                    if let Some(entry) = self.sessions.get(&session) {
                        entry.confirmed.send_replace(Some(info));
                    }
                    self.link(session);
                }
                Event::HandshakeFailed { remote, error } => {
                    tracing::info!(%remote, %error, "a client's handshake failed");
                }
                Event::Request { rpc, body, early } => {
                    let entry = self.sessions.get(&rpc.session);
                    let request = Request { rpc, body, early, shard: self.shard };
                    if !entry.is_some_and(|entry| entry.put(request)) {
                        let text = "the server takes no requests in this session";
                        self.engine.refuse(rpc, reply_code::REFUSED, text);
                    }
                    self.tell_waiting(rpc.session);
                }
                Event::Joined { session, shared, info } => {
                    let common = self.registry.enter(shared);
                    let requests = Requests::AsTold(Arc::clone(&common));
                    let mut entry = SessionEntry::new(requests, Some(info));
                    entry.common = Some((shared, Arc::clone(&common)));
                    self.sessions.insert(session, entry);
                    common.settle(self.shard, session);
                }
                // All engines end together.
                Event::ShardGone { .. } => {}
                Event::RequestCancelled { .. }
                | Event::NewTicket { .. }
                | Event::KeyUpdateWanted { .. } => {}
                Event::EarlyCallFailed { user, error } => {
                    if let Some(sender) = self.release_call(user) {
                        let _ = sender.send(Err(error));
                    }
                }
                Event::Response { rpc, user, result } => {
                    if let Some(sender) = self.release_call(user) {
                        let _ = sender.send(result);
                    }
                    if let Some(entry) = self.sessions.get(&rpc.session) {
                        entry.room.notify_waiters();
                    }
                    self.tell_waiting(rpc.session);
                }
                Event::Closed { session, .. } => {
                    if let Some(entry) = self.sessions.remove(&session) {
                        entry.room.notify_waiters();
                        if let Some((id, _)) = entry.common {
                            self.registry.leave(id);
                        }
                    }
                }
            }
        }
    }

    /// Ends everything that still waits.
    fn give_up(&mut self) {
        self.connects.clear();
        self.calls.clear();
        self.free_calls.clear();
        self.sessions.clear();
        self.accepted = None;
        self.closed = true;
    }
}

/// Registers the engine's descriptor with the runtime.
#[allow(
    deprecated,
    reason = "an OwnedFd is open for as long as it is registered, which is all that the unsafe \
              replacement asks for"
)]
pub(super) fn watch(engine: &mut Engine) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(engine.fd()?.as_fd().try_clone_to_owned()?)
}

/// Moves a shard's packets until the endpoint is closed or nobody uses it.
pub(super) async fn drive(
    shared: Arc<Shared>,
    shard: usize,
    fd: AsyncFd<OwnedFd>,
    handle: Weak<Handle>,
) {
    let Some(part) = shared.parts.get(shard) else { return };
    let mut polls: u32 = 0;
    loop {
        let mut ready = tokio::select! {
            biased;
            () = part.shutdown.notified() => break,
            ready = fd.readable() => match ready {
                Ok(ready) => ready,
                Err(_) => break,
            },
        };
        if handle.strong_count() == 0 {
            break;
        }
        let worked = {
            let mut driven = part.lock();
            let worked = driven.engine.poll();
            driven.dispatch();
            driven.flush();
            driven.look_at_busy();
            if driven.failed { Err(()) } else { worked.map_err(|_| ()) }
        };
        match worked {
            Ok(true) => {}
            Ok(false) => ready.clear_ready(),
            Err(()) => break,
        }
        polls = polls.wrapping_add(1);
        if polls.is_multiple_of(POLLS_PER_TURN) {
            tokio::task::yield_now().await;
        }
    }
    let mut driven = part.lock();
    driven.engine.close_sessions();
    driven.flush();
    driven.give_up();
    drop(driven);
    shared.driver_ended();
}
