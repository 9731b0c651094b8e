//! The transport for tokio: an [`Engine`] that a task drives, and futures for what happens in it.
//!
//! There is no channel between the packets and the caller: a call takes the engine's lock, puts
//! its request on the wire itself and waits for the driver to hand it the response.

mod call;
mod connecting;
mod driver;
mod incoming;
mod session;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smt_proto::SessionId;
use tokio::sync::{Notify, mpsc, watch};

use crate::engine::{ConnectOptions, Engine, SessionInfo};
use crate::error::ConnectError;
use driver::{Driven, NewSession, Request};

pub use call::Call;
pub use connecting::{Connecting, EarlyCall};
pub use incoming::Incoming;
pub use session::Session;

/// How long [`Endpoint::close`] lets RPCs in flight end, and peers confirm.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// How often it looks.
const CLOSE_PACE: Duration = Duration::from_millis(2);

/// An endpoint under tokio. Clones are handles to the same endpoint; it ends when it is closed, or
/// when the last handle, session and call of it is dropped.
#[derive(Clone)]
pub struct Endpoint {
    handle: Arc<Handle>,
}

/// Ends the driver when the last user is gone.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.shutdown.notify_one();
    }
}

/// What handles and the driver share.
struct Shared {
    driven: Mutex<Driven>,
    shutdown: Notify,
    /// Whether the driver has ended.
    closed: watch::Sender<bool>,
    accepted: tokio::sync::Mutex<mpsc::UnboundedReceiver<NewSession>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Driven> {
        // A panic under the lock leaves counters at worst; packets are checked one by one.
        self.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoint {
    pub(crate) fn new(mut engine: Engine) -> io::Result<Endpoint> {
        let fd = driver::watch(&mut engine)?;
        let (accepted, accepted_receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            driven: Mutex::new(Driven::new(engine, accepted)),
            shutdown: Notify::new(),
            closed: watch::Sender::new(false),
            accepted: tokio::sync::Mutex::new(accepted_receiver),
        });
        let endpoint = Endpoint { handle: Arc::new(Handle { shared: Arc::clone(&shared) }) };
        let weak = Arc::downgrade(&endpoint.handle);
        tokio::spawn(driver::drive(shared, fd, weak));
        Ok(endpoint)
    }

    /// Address and SMT port where sessions are taken, if they are.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.lock().engine.listen_address()
    }

    /// Makes a session with the server at `remote` (address and SMT port), whose certificate must be
    /// valid for `server_name`.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        &self,
        remote: SocketAddr,
        server_name: &str,
    ) -> Result<Session, ConnectError> {
        self.connect_with(remote, ConnectOptions::new(server_name)).await
    }

    /// As [`connect`](Self::connect), with all that can be chosen.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect_with(
        &self,
        remote: SocketAddr,
        options: ConnectOptions,
    ) -> Result<Session, ConnectError> {
        Connecting::new(self.clone(), remote, options).session().await
    }

    /// As [`connect`](Self::connect), for calls that leave with the first packet: if there is a ticket
    /// of the server's, [`Connecting::call_early`] sends them at once, under keys made with it. Without
    /// one they leave as soon as the handshake allows. Must be called in a tokio runtime; never blocks.
    pub fn connect_early(&self, remote: SocketAddr, server_name: &str) -> Connecting {
        let options = ConnectOptions::new(server_name).early(true);
        self.connect_early_with(remote, options)
    }

    /// As [`connect_early`](Self::connect_early), with all that can be chosen.
    pub fn connect_early_with(&self, remote: SocketAddr, options: ConnectOptions) -> Connecting {
        Connecting::new(self.clone(), remote, options)
    }

    /// The next session that a client has made with this endpoint; `None` once it is closed. Only
    /// for endpoints with a server's TLS configuration. A session of a client with a ticket comes before
    /// its handshake is complete ([`Session::confirmed`]).
    pub async fn accept(&self) -> Option<Session> {
        let new = self.handle.shared.accepted.lock().await.recv().await?;
        Some(Session::accepted(self.clone(), new))
    }

    /// Counters of the protocol.
    pub fn stats(&self) -> smt_proto::Stats {
        *self.lock().engine.stats()
    }

    /// How often limits were hit that are not the protocol's.
    pub fn limit_stats(&self) -> crate::engine::LimitStats {
        self.lock().engine.limit_stats()
    }

    /// Counters of the datapath.
    pub fn datapath_stats(&self) -> smt_datapath::DatapathStats {
        self.lock().engine.datapath_stats()
    }

    /// Sessions, half-open ones included.
    pub fn session_count(&self) -> usize {
        self.lock().engine.session_count()
    }

    /// Closes gracefully: no new sessions, a second for RPCs in flight to end, then all sessions
    /// are closed and their peers told. Calls still outstanding then end with
    /// [`CallError::SessionClosed`](crate::CallError::SessionClosed).
    pub async fn close(&self) {
        self.lock().stop_accepting();
        self.wait_until(|driven| driven.engine.in_flight() == 0).await;
        self.with(|driven| driven.engine.close_sessions());
        self.wait_until(|driven| driven.engine.session_count() == 0).await;
        self.handle.shared.shutdown.notify_one();
    }

    async fn wait_until(&self, done: impl Fn(&Driven) -> bool) {
        let wait = async {
            while !done(&self.lock()) {
                tokio::time::sleep(CLOSE_PACE).await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_PATIENCE, wait).await;
    }

    fn lock(&self) -> MutexGuard<'_, Driven> {
        self.handle.shared.lock()
    }

    /// Does something with the engine and puts on the wire what came of it.
    fn with<R>(&self, act: impl FnOnce(&mut Driven) -> R) -> R {
        let mut driven = self.lock();
        let result = act(&mut driven);
        driven.flush();
        result
    }

    async fn connect_raw(
        &self,
        remote: SocketAddr,
        options: ConnectOptions,
        requests: mpsc::UnboundedSender<Request>,
    ) -> Result<(SessionId, Arc<SessionInfo>), ConnectError> {
        connecting::Pending::begin(self, remote, options, requests).await
    }
}
