//! Servers: each a thread on the server's host and core, until it is told to stop.

use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use smt_testbed::Namespace;

use super::ground::{Ground, stay_on};
use crate::commands::Error;

/// How often a server that waits looks whether it is over.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a server may take to get ready, and to be done with a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a client sleeps before it looks again whether the server is done.
const NAP: Duration = Duration::from_micros(100);

/// A server's thread, as seen from outside.
pub struct Server {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<(), Error>>,
}

/// A server's thread, as seen from inside.
pub struct Serving {
    shared: Arc<Shared>,
    ready: SyncSender<()>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    served: AtomicU64,
}

impl Server {
    /// Runs `serve` on the server's host and core; returns once it is [`ready`](Serving::ready).
    ///
    /// # Errors
    /// It failed before it was, or the thread cannot go there.
    pub fn start(
        ground: &Ground,
        serve: impl FnOnce(&Serving) -> Result<(), Error> + Send + 'static,
    ) -> Result<Server, Error> {
        Server::start_on(Some(&ground.pair.b), ground.cores.map(|[_, server]| server), serve)
    }

    /// Runs `serve` on a host, or where this process is, on one core if there is one for it; returns once it is [`ready`](Serving::ready).
    ///
    /// # Errors
    /// It failed before it was, or the thread cannot go there.
    pub fn start_on(
        host: Option<&Namespace>,
        core: Option<usize>,
        serve: impl FnOnce(&Serving) -> Result<(), Error> + Send + 'static,
    ) -> Result<Server, Error> {
        let shared = Arc::new(Shared::default());
        let (ready, is_ready) = sync_channel(1);
        let serving = Serving { shared: Arc::clone(&shared), ready };
        let work = move || stay_on(core).and_then(|()| serve(&serving));
        let thread = match host {
            Some(host) => host.spawn(work),
            None => thread::Builder::new().spawn(work),
        };
        let thread = thread.map_err(Error::io("no thread"))?;
        let server = Server { shared, thread };
        match is_ready.recv_timeout(PATIENCE) {
            Ok(()) => Ok(server),
            Err(_) => {
                server.stop()?;
                Err(Error::Failed("a server did not get ready".to_owned()))
            }
        }
    }

    /// Connections it is done with.
    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Acquire)
    }

    /// Sleeps until it is done with `count` connections.
    ///
    /// # Errors
    /// It takes too long.
    pub fn await_served(&self, count: u64) -> Result<(), Error> {
        let until = Instant::now() + PATIENCE;
        while self.served() < count {
            if Instant::now() > until {
                return Err(Error::Failed("a server is not done with a client".to_owned()));
            }
            thread::sleep(NAP);
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// What it failed with.
    pub fn stop(self) -> Result<(), Error> {
        self.shared.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    }
}

impl Serving {
    /// Says that clients may come.
    pub fn ready(&self) {
        // Nobody waits only if there is nobody any more.
        let _ = self.ready.try_send(());
    }

    /// Becomes true when it is to end.
    pub fn over(&self) -> &AtomicBool {
        &self.shared.over
    }

    /// Whether to end.
    pub fn is_over(&self) -> bool {
        self.shared.over.load(Ordering::Relaxed)
    }

    /// Takes note that a connection is over.
    pub fn done(&self) {
        self.shared.served.fetch_add(1, Ordering::AcqRel);
    }
}
