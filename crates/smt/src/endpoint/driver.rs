//! The task that moves an endpoint's packets, and the tables by which events find their futures.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use smt_proto::error::reply_code;
use smt_proto::{Body, RpcId, SessionId};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{Handle, Shared};
use crate::engine::{ConnectId, Engine, Event, SessionInfo};
use crate::error::{CallError, ConnectError};

/// Polls in a row before other tasks get their turn.
const POLLS_PER_TURN: u32 = 16;

pub(super) type ConnectResult = Result<(SessionId, Arc<SessionInfo>), ConnectError>;
pub(super) type CallResult = Result<Body, CallError>;

/// A request on its way to whoever accepts it. Queues hold no handles of the endpoint: those would
/// keep it alive, and need its lock when they are dropped under it.
pub(super) struct Request {
    pub(super) rpc: RpcId,
    pub(super) body: Body,
    pub(super) early: bool,
}

/// A session on its way to whoever accepts it.
pub(super) struct NewSession {
    pub(super) id: SessionId,
    pub(super) info: Arc<SessionInfo>,
    pub(super) requests: mpsc::UnboundedReceiver<Request>,
    /// What the whole handshake established, once it is complete.
    pub(super) confirmed: watch::Receiver<Option<Arc<SessionInfo>>>,
}

/// The engine and who waits for what in it.
pub(super) struct Driven {
    pub(super) engine: Engine,
    pub(super) connects:
        HashMap<ConnectId, (oneshot::Sender<ConnectResult>, mpsc::UnboundedSender<Request>)>,
    calls: Vec<Option<oneshot::Sender<CallResult>>>,
    free_calls: Vec<u64>,
    sessions: HashMap<SessionId, SessionEntry>,
    accepted: Option<mpsc::UnboundedSender<NewSession>>,
    failed: bool,
    /// Nobody drives the engine any more.
    pub(super) closed: bool,
}

struct SessionEntry {
    requests: mpsc::UnboundedSender<Request>,
    /// Told when a call ended, so that one that found no room can try again.
    room: Arc<Notify>,
    /// Told when the handshake of a session that was accepted early is complete.
    confirmed: watch::Sender<Option<Arc<SessionInfo>>>,
}

impl SessionEntry {
    fn new(
        requests: mpsc::UnboundedSender<Request>,
        confirmed: Option<Arc<SessionInfo>>,
    ) -> SessionEntry {
        SessionEntry { requests, room: Arc::default(), confirmed: watch::Sender::new(confirmed) }
    }
}

impl Driven {
    pub(super) fn new(engine: Engine, accepted: mpsc::UnboundedSender<NewSession>) -> Driven {
        Driven {
            engine,
            connects: HashMap::new(),
            calls: Vec::new(),
            free_calls: Vec::new(),
            sessions: HashMap::new(),
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
        if let Err(error) = self.engine.flush().and_then(|_| self.engine.arm()) {
            tracing::error!(%error, "the datapath failed");
            self.failed = true;
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

    pub(super) fn dispatch(&mut self) {
        while let Some(event) = self.engine.next_event() {
            match event {
                Event::Connected { connect, session, info } => {
                    let Some((sender, requests)) = self.connects.remove(&connect) else {
                        self.engine.close(session);
                        continue;
                    };
                    let entry = SessionEntry::new(requests, Some(Arc::clone(&info)));
                    self.sessions.insert(session, entry);
                    if sender.send(Ok((session, info))).is_err() {
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
                    let entry = SessionEntry::new(requests, complete);
                    let confirmed = entry.confirmed.subscribe();
                    let new = NewSession { id: session, info, requests: receiver, confirmed };
                    let taken = self.accepted.as_ref().is_some_and(|a| a.send(new).is_ok());
                    if taken {
                        self.sessions.insert(session, entry);
                    } else {
                        self.engine.close(session);
                    }
                }
                Event::Confirmed { session, info } => {
                    if let Some(entry) = self.sessions.get(&session) {
                        entry.confirmed.send_replace(Some(info));
                    }
                }
                Event::HandshakeFailed { remote, error } => {
                    tracing::info!(%remote, %error, "a client's handshake failed");
                }
                Event::Request { rpc, body, early } => {
                    let entry = self.sessions.get(&rpc.session);
                    let request = Request { rpc, body, early };
                    if entry.is_none_or(|entry| entry.requests.send(request).is_err()) {
                        let text = "the server takes no requests in this session";
                        self.engine.refuse(rpc, reply_code::REFUSED, text);
                    }
                }
                // Of shards there is one here.
                Event::Joined { .. } | Event::ShardGone { .. } => {}
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
                }
                Event::Closed { session, .. } => {
                    if let Some(entry) = self.sessions.remove(&session) {
                        entry.room.notify_waiters();
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

/// Moves packets until the endpoint is closed or nobody uses it.
pub(super) async fn drive(shared: Arc<Shared>, fd: AsyncFd<OwnedFd>, handle: Weak<Handle>) {
    let mut polls: u32 = 0;
    loop {
        let mut ready = tokio::select! {
            biased;
            () = shared.shutdown.notified() => break,
            ready = fd.readable() => match ready {
                Ok(ready) => ready,
                Err(_) => break,
            },
        };
        if handle.strong_count() == 0 {
            break;
        }
        let worked = {
            let mut driven = shared.lock();
            let worked = driven.engine.poll();
            driven.dispatch();
            driven.flush();
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
    let mut driven = shared.lock();
    driven.engine.close_sessions();
    driven.flush();
    driven.give_up();
    drop(driven);
    shared.closed.send_replace(true);
}
