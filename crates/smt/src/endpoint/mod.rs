//! The transport for tokio: [`Engine`]s, one per shard, each of which a task drives, and futures for what
//! happens in them.
//!
//! There is no channel between the packets and the caller: a call takes an engine's lock, puts
//! its request on the wire itself and waits for the driver to hand it the response.

mod call;
mod connecting;
mod driver;
mod incoming;
mod session;
mod shards;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use crate::engine::{ConnectOptions, Engine};
use crate::error::ConnectError;
use driver::{Driven, Made, NewSession, Request};
use shards::Registry;

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
///
/// With several [`shards`](crate::Builder::shards) it has an engine and a driver for each, which the
/// threads of a runtime work on at the same time. A call goes to the shard where the fewest bytes of its
/// session wait.
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
        self.shared.shut_down();
    }
}

/// What handles and the drivers share.
struct Shared {
    /// One per shard; sessions are made at the first.
    parts: Vec<Part>,
    /// Drivers that have not ended.
    running: AtomicUsize,
    /// Whether all drivers have ended.
    closed: watch::Sender<bool>,
    accepted: tokio::sync::Mutex<mpsc::UnboundedReceiver<NewSession>>,
}

/// A shard, and what ends its driver.
struct Part {
    driven: Mutex<Driven>,
    shutdown: Notify,
}

impl Part {
    fn lock(&self) -> MutexGuard<'_, Driven> {
        // A panic under the lock leaves counters at worst; packets are checked one by one.
        self.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn shut_down(&self) {
        for part in &self.parts {
            part.shutdown.notify_one();
        }
    }

    /// A driver has ended: the others follow.
    fn driver_ended(&self) {
        self.shut_down();
        if self.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.closed.send_replace(true);
        }
    }
}

impl Endpoint {
    /// Of all the engines of an endpoint, in order; at least one.
    pub(crate) fn new(mut engines: Vec<Engine>) -> io::Result<Endpoint> {
        let fds = engines.iter_mut().map(driver::watch).collect::<io::Result<Vec<_>>>()?;
        let (accepted, accepted_receiver) = mpsc::unbounded_channel();
        let registry = Arc::new(Registry::new(engines.len()));
        let part = |engine| {
            let driven = Driven::new(engine, accepted.clone(), Arc::clone(&registry));
            Part { driven: Mutex::new(driven), shutdown: Notify::new() }
        };
        let shared = Arc::new(Shared {
            parts: engines.into_iter().map(part).collect(),
            running: AtomicUsize::new(fds.len()),
            closed: watch::Sender::new(false),
            accepted: tokio::sync::Mutex::new(accepted_receiver),
        });
        let endpoint = Endpoint { handle: Arc::new(Handle { shared: Arc::clone(&shared) }) };
        for (shard, fd) in fds.into_iter().enumerate() {
            let weak = Arc::downgrade(&endpoint.handle);
            tokio::spawn(driver::drive(Arc::clone(&shared), shard, fd, weak));
        }
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

    /// How many shards it has.
    pub fn shard_count(&self) -> usize {
        self.parts().len()
    }

    /// Counters of the protocol, over all shards.
    pub fn stats(&self) -> smt_proto::Stats {
        let mut sum = smt_proto::Stats::default();
        for part in self.parts() {
            sum += *part.lock().engine.stats();
        }
        sum
    }

    /// Counters of the protocol, of each shard. A session counts at each of them.
    pub fn shard_stats(&self) -> Vec<smt_proto::Stats> {
        self.parts().iter().map(|part| *part.lock().engine.stats()).collect()
    }

    /// How often limits were hit that are not the protocol's, over all shards.
    pub fn limit_stats(&self) -> crate::engine::LimitStats {
        let mut sum = crate::engine::LimitStats::default();
        for part in self.parts() {
            sum += part.lock().engine.limit_stats();
        }
        sum
    }

    /// Counters of the datapath, over all shards.
    pub fn datapath_stats(&self) -> smt_datapath::DatapathStats {
        let mut sum = smt_datapath::DatapathStats::default();
        for part in self.parts() {
            sum += part.lock().engine.datapath_stats();
        }
        sum
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
        // What is closed at the first shard is closed at all.
        self.with(|driven| driven.engine.close_sessions());
        self.wait_until(|driven| driven.engine.session_count() == 0).await;
        self.handle.shared.shut_down();
    }

    async fn wait_until(&self, done: impl Fn(&Driven) -> bool) {
        let wait = async {
            while !self.parts().iter().all(|part| done(&part.lock())) {
                tokio::time::sleep(CLOSE_PACE).await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_PATIENCE, wait).await;
    }

    fn parts(&self) -> &[Part] {
        &self.handle.shared.parts
    }

    /// The first shard, where sessions are made.
    fn lock(&self) -> MutexGuard<'_, Driven> {
        self.lock_at(0)
    }

    fn lock_at(&self, shard: usize) -> MutexGuard<'_, Driven> {
        self.parts()[shard].lock()
    }

    /// Does something with the engine of the first shard and puts on the wire what came of it.
    fn with<R>(&self, act: impl FnOnce(&mut Driven) -> R) -> R {
        self.with_at(0, act)
    }

    /// Does something with the engine of a shard and puts on the wire what came of it.
    fn with_at<R>(&self, shard: usize, act: impl FnOnce(&mut Driven) -> R) -> R {
        let mut driven = self.lock_at(shard);
        let result = act(&mut driven);
        driven.flush();
        result
    }

    async fn connect_raw(
        &self,
        remote: SocketAddr,
        options: ConnectOptions,
        requests: mpsc::UnboundedSender<Request>,
    ) -> Result<Made, ConnectError> {
        connecting::Pending::begin(self, remote, options, requests).await
    }
}
