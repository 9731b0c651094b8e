//! One test host: a network namespace and the means to work in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic;
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns, unshare};

use crate::netlink::Netlink;
use crate::privilege::explain;

/// A network namespace: interfaces, addresses, routes and sockets of one test host.
///
/// Clones name the same host. The kernel removes it, with its interfaces, when the last handle, thread, process
/// and socket in it are gone.
#[derive(Debug, Clone)]
pub struct Namespace {
    file: Arc<OwnedFd>,
}

/// A host of its own with nothing but a loopback interface: 127.0.0.1 and ::1, MTU 65536 bytes.
///
/// # Errors
///
/// As [`Namespace::new`].
pub fn loopback() -> io::Result<Namespace> {
    Namespace::new()
}

impl Namespace {
    /// Makes a host with its loopback interface up. The calling thread stays where it is.
    ///
    /// # Errors
    ///
    /// The process may not make network namespaces ([`enter`](crate::enter) was not called or failed), or the
    /// kernel is out of resources.
    pub fn new() -> io::Result<Namespace> {
        // A thread belongs to one network namespace, so making one takes a thread to spare.
        on_new_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| explain("cannot make a network namespace", errno.into()))?;
            let file = File::open("/proc/thread-self/ns/net")?;
            Netlink::open()?.set_loopback_up()?;
            Ok(Namespace { file: Arc::new(OwnedFd::from(file)) })
        })?
    }

    /// Moves the calling thread into this host, for the rest of its life or until it enters another.
    ///
    /// Sockets it opens and threads and processes it starts from now on belong to this host; sockets it has
    /// already opened stay where they are.
    ///
    /// An ordinary user cannot come back to the machine's own network: use [`Namespace::run`] to work in a host
    /// for a while.
    ///
    /// # Errors
    ///
    /// The process has lost the right to do so (see [`enter`](crate::enter)).
    pub fn enter(&self) -> io::Result<()> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
    }

    /// Runs `work` on a new thread inside this host, waits for it and returns its value.
    ///
    /// # Errors
    ///
    /// The thread could not be started or could not enter the host.
    ///
    /// # Panics
    ///
    /// With the panic of `work`, if it panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_new_thread(|| self.enter().map(|()| work()))?
    }

    /// Starts `work` on a new thread inside this host.
    ///
    /// # Errors
    ///
    /// The thread could not be started or could not enter the host.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        // A thread inherits its namespace from its parent, so a thread inside the host starts the real one.
        self.run(|| thread::Builder::new().spawn(work))?
    }

    /// Starts a program inside this host.
    ///
    /// As always, dropping the [`Child`] neither ends nor reaps the process. A parent-death signal would fire at
    /// once here, because the thread that starts the process ends right after.
    ///
    /// # Errors
    ///
    /// Those of [`Command::spawn`], and those of [`Namespace::enter`].
    pub fn command(&self, mut command: Command) -> io::Result<Child> {
        self.run(move || command.spawn())?
    }
}

impl AsFd for Namespace {
    /// The namespace file, as setns(2) takes it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `work` on a thread of its own; a panic in it continues here.
fn on_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().spawn_scoped(scope, work)?;
        thread.join().map_or_else(|payload| panic::resume_unwind(payload), Ok)
    })
}
