//! A session as tokio users see it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use smt_proto::SessionId;
use tokio::sync::{Notify, mpsc, watch};

use super::driver::{Made, NewSession, Request};
use super::shards::Route;
use super::{Call, Endpoint, Incoming};
use crate::engine::{ConnectOptions, SessionInfo};
use crate::error::{CallError, ConnectError, StartError};
use crate::tls::PeerIdentity;

/// A lost session is made again at most this often (spec 5.6).
const RECONNECT_PACE: Duration = Duration::from_secs(1);

/// A session with a peer. Clones are handles to the same session.
///
/// A session made by [`Endpoint::connect`] outlives its server: when the server was restarted, calls
/// in flight end with [`CallError::OutcomeUnknown`] and the next call connects anew by itself.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    current: Mutex<Current>,
    /// Where to connect again; `None` for a session that a client made with us.
    target: Option<Target>,
    requests: tokio::sync::Mutex<mpsc::UnboundedReceiver<Request>>,
    /// What the whole handshake established, of a session that a client made with us.
    confirmed: Option<watch::Receiver<Option<Arc<SessionInfo>>>>,
    /// Told when this end closes the session.
    closed: Notify,
    /// When the last attempt to reconnect began.
    reconnect: tokio::sync::Mutex<Option<Instant>>,
}

struct Current {
    route: Arc<Route>,
    info: Arc<SessionInfo>,
    closed: bool,
}

/// A server to connect to, and where its requests go.
pub(super) struct Target {
    pub(super) remote: SocketAddr,
    pub(super) options: ConnectOptions,
    pub(super) requests: mpsc::UnboundedSender<Request>,
}

impl Session {
    /// A session made by us.
    pub(super) fn connected(
        endpoint: Endpoint,
        (route, info): Made,
        target: Target,
        requests: mpsc::UnboundedReceiver<Request>,
    ) -> Session {
        Session::new(endpoint, Current { route, info, closed: false }, Some(target), requests, None)
    }

    /// A session that a client made with us.
    pub(super) fn accepted(endpoint: Endpoint, new: NewSession) -> Session {
        let NewSession { route, info, requests, confirmed } = new;
        let current = Current { route, info, closed: false };
        Session::new(endpoint, current, None, requests, Some(confirmed))
    }

    fn new(
        endpoint: Endpoint,
        current: Current,
        target: Option<Target>,
        requests: mpsc::UnboundedReceiver<Request>,
        confirmed: Option<watch::Receiver<Option<Arc<SessionInfo>>>>,
    ) -> Session {
        Session {
            inner: Arc::new(Inner {
                endpoint,
                current: Mutex::new(current),
                target,
                requests: tokio::sync::Mutex::new(requests),
                confirmed,
                closed: Notify::new(),
                reconnect: tokio::sync::Mutex::new(None),
            }),
        }
    }

    /// Waits until the handshake is complete, and returns what it established. That is at once, but
    /// for a session accepted on a ticket, whose client's early requests are answered before: only then
    /// is it known who the client is.
    ///
    /// Early requests are anybody's even then ([`Incoming::is_early`]).
    ///
    /// # Errors
    /// [`CallError::SessionClosed`] if the handshake fails, or the session ends before.
    pub async fn confirmed(&self) -> Result<Arc<SessionInfo>, CallError> {
        let Some(mut confirmed) = self.inner.confirmed.clone() else { return Ok(self.info()) };
        let complete = confirmed.wait_for(Option::is_some).await;
        let info = complete.ok().and_then(|info| info.clone());
        info.ok_or(CallError::SessionClosed)
    }

    /// Sends a request and waits for its response. Awaiting the [`Call`] starts it; dropping the
    /// future cancels it.
    pub fn call(&self, body: impl Into<Bytes>) -> Call {
        Call::new(self.clone(), body.into())
    }

    /// As [`call`](Self::call), with a request that `write` writes.
    pub fn call_with(&self, write: impl FnOnce(&mut Vec<u8>)) -> Call {
        let mut body = Vec::new();
        write(&mut body);
        self.call(body)
    }

    /// The next request of the peer's; `None` once the session is over.
    pub async fn accept(&self) -> Option<Incoming> {
        let endpoint = &self.inner.endpoint;
        let mut endpoint_closed = endpoint.handle.shared.closed.subscribe();
        let closed = self.inner.closed.notified();
        let next = async {
            if self.current().closed { None } else { self.inner.requests.lock().await.recv().await }
        };
        let request = tokio::select! {
            biased;
            next = next => next?,
            () = closed => return None,
            _ = endpoint_closed.wait_for(|closed| *closed) => return None,
        };
        Some(Incoming::new(endpoint.clone(), request))
    }

    /// Who the peer is, by its verified certificate; anonymous if it showed none, or none yet
    /// ([`confirmed`](Self::confirmed)).
    pub fn peer(&self) -> PeerIdentity {
        self.info().peer.clone()
    }

    /// What the handshake has established so far.
    pub fn info(&self) -> Arc<SessionInfo> {
        let confirmed = self.inner.confirmed.as_ref().and_then(|info| info.borrow().clone());
        confirmed.unwrap_or_else(|| Arc::clone(&self.current().info))
    }

    /// The peer's address and SMT port.
    pub fn remote(&self) -> SocketAddr {
        self.info().remote
    }

    /// Closes the session now: outstanding calls of both ends fail with
    /// [`CallError::SessionClosed`]. The peer is told. Await your calls first.
    pub fn close(&self) {
        self.current().closed = true;
        let id = self.route().head();
        self.inner.endpoint.with(|driven| driven.engine.close(id));
        self.inner.closed.notify_waiters();
    }

    pub(super) fn route(&self) -> Arc<Route> {
        Arc::clone(&self.current().route)
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// Connects anew, unless another call has done so since session `lost` was lost.
    pub(super) async fn reconnect(&self, lost: SessionId) -> Result<(), CallError> {
        let no_session = CallError::NotStarted(StartError::NoSession);
        let Some(target) = &self.inner.target else { return Err(no_session) };
        let mut last = self.inner.reconnect.lock().await;
        {
            let current = self.current();
            if current.closed {
                return Err(no_session);
            }
            if current.route.head() != lost {
                return Ok(());
            }
        }
        if let Some(at) = *last {
            tokio::time::sleep(RECONNECT_PACE.saturating_sub(at.elapsed())).await;
        }
        *last = Some(Instant::now());
        let endpoint = &self.inner.endpoint;
        let requests = target.requests.clone();
        let options = target.options.clone();
        let connected = endpoint.connect_raw(target.remote, options, requests).await;
        let (route, info) = connected.map_err(|error| match error {
            ConnectError::EndpointClosed => no_session,
            error => CallError::NotConnected(error),
        })?;
        let mut current = self.current();
        current.route = route;
        current.info = info;
        Ok(())
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.inner.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let current = self.current.get_mut().unwrap_or_else(PoisonError::into_inner);
        let id = current.route.head();
        self.endpoint.with(|driven| driven.engine.close(id));
    }
}
