//! A TCP connection whose reads and writes wait as told, and can be called off.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Idle, Wait};

/// How often an end that sleeps in the kernel looks whether it should stop.
const NAP: Duration = Duration::from_millis(50);

/// How many fruitless tries an end that spins makes between looks at the clock.
const TRIES_PER_LOOK: u32 = 1 << 14;

/// Carries bytes between two ends.
pub(super) trait Link {
    /// Puts bytes that have come at the start of `into`; returns how many, 0 if there will be no more. One that does
    /// not wait fails with `WouldBlock` if there are none.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Sends all of `bytes`, or keeps what cannot leave yet.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A TCP connection that sends at once and waits in one way.
pub(super) struct Pipe<'a> {
    stream: TcpStream,
    wait: Wait,
    stop: &'a AtomicBool,
    silence: Option<Duration>,
}

impl<'a> Pipe<'a> {
    /// A server's end: ends when `stop` becomes true.
    fn accepted(stream: TcpStream, wait: Wait, stop: &'a AtomicBool) -> io::Result<Pipe<'a>> {
        set_up(&stream, wait)?;
        Ok(Pipe { stream, wait, stop, silence: None })
    }

    /// A client's end: connects to `server`, and fails if it hears nothing for `silence`.
    pub(super) fn connect(
        server: SocketAddr,
        wait: Wait,
        silence: Duration,
    ) -> io::Result<Pipe<'static>> {
        static NEVER: AtomicBool = AtomicBool::new(false);
        let stream = TcpStream::connect_timeout(&server, silence)?;
        set_up(&stream, wait)?;
        Ok(Pipe { stream, wait, stop: &NEVER, silence: Some(silence) })
    }

    /// Repeats `attempt` until it moves bytes or fails; `None` when called off.
    fn retry(
        &mut self,
        interest: PollFlags,
        mut attempt: impl FnMut(&mut TcpStream) -> io::Result<usize>,
    ) -> io::Result<Option<usize>> {
        let mut tries: u32 = 0;
        let mut since = None;
        let mut idle = Idle::default();
        loop {
            match attempt(&mut self.stream) {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            // A stream that blocks has slept in the call itself.
            let sleeps = self.wait == Wait::Adaptive && idle.may_sleep(self.wait);
            if sleeps {
                nap(&mut [PollFd::new(&self.stream, interest)])?;
            }
            tries = tries.wrapping_add(1);
            if (sleeps || self.wait == Wait::Block || tries.is_multiple_of(TRIES_PER_LOOK))
                && let Some(silence) = self.silence
                && since.get_or_insert_with(Instant::now).elapsed() > silence
            {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Link for Pipe<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.retry(PollFlags::IN, |stream| stream.read(into)).map(Option::unwrap_or_default)
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self
                .retry(PollFlags::OUT, |stream| stream.write(bytes))?
                .ok_or_else(|| io::Error::from(ErrorKind::Interrupted))?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }
}

impl AsFd for Pipe<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Accepts connections and has `serve` serve them one after the other, until `stop` becomes true.
///
/// A connection that fails does not end the server: its client finds out for itself.
pub(super) fn accept_each(
    listener: &TcpListener,
    wait: Wait,
    stop: &AtomicBool,
    mut serve: impl FnMut(Pipe<'_>) -> io::Result<()>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let _ = Pipe::accepted(stream, wait, stop).and_then(&mut serve);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                nap(&mut [PollFd::new(listener, PollFlags::IN)])?;
            }
            // The client was gone before its connection was accepted.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted || is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sleeps until one of them is ready, or for a nap.
fn nap(watched: &mut [PollFd<'_>]) -> io::Result<()> {
    let nap = Timespec::try_from(NAP).map_err(io::Error::other)?;
    match poll(watched, Some(&nap)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn set_up(stream: &TcpStream, wait: Wait) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(wait != Wait::Block)?;
    if wait == Wait::Block {
        stream.set_read_timeout(Some(NAP))?;
        stream.set_write_timeout(Some(NAP))?;
    }
    Ok(())
}

/// Whether trying again can help.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
