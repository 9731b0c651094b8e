//! What the peers that run on tokio have in common: a runtime of one thread that spins or sleeps, one RPC after the
//! other on it, many at a time as a task each, and a server that ends when it is told to.
//!
//! A runtime that spins never sleeps in epoll: it asks epoll whether something has come, over and over, and runs the
//! tasks for whom something has. The sockets are the peer's own, so that this question stands before each packet.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::{self, Runtime};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use super::rounds::Rounds;
use super::{Pipeline, Plan, SILENCE, Wait, ended, invalid};
use crate::commands::Error;

/// How often an end that sleeps looks whether it should stop.
const NAP: Duration = Duration::from_millis(50);
/// Looks at epoll in a turn in which nothing comes.
const LOOKS_PER_TURN: usize = 64;
/// How long the ends of a peer may take to part.
const PARTING: Duration = Duration::from_secs(1);

/// Why an RPC, a connection or an end of it failed.
pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A client's end of a connection that works.
pub(super) trait Caller: Clone + Send + 'static {
    /// Carries out one RPC; returns the whole response.
    fn call(&self, request: Bytes) -> impl Future<Output = Result<Bytes, Failure>> + Send;
}

/// A runtime of the calling thread alone.
pub(super) struct Turns {
    runtime: Runtime,
    wait: Wait,
}

impl Turns {
    pub(super) fn new(wait: Wait) -> io::Result<Turns> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Turns { runtime, wait })
    }

    /// Runs `work`, and all tasks beside it, until `work` is done.
    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        match self.wait {
            Wait::Block => self.runtime.block_on(work),
            Wait::Spin => self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    done = work => done,
                    never = spin() => match never {},
                }
            }),
        }
    }

    /// Runs `work`, which may take [`SILENCE`].
    pub(super) fn run_in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> io::Result<T> {
        self.run(async { timeout(SILENCE, work).await.map_err(|_| silent())?.map_err(failed) })
    }

    /// Runs a server until it fails or `stop` becomes true, then what parts from its clients.
    pub(super) fn serve(
        &self,
        server: impl Future<Output = Result<(), Failure>>,
        stop: &AtomicBool,
        part: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let outcome = self.run(async {
            tokio::select! {
                outcome = server => outcome.map_err(failed),
                () = over(stop) => Ok(()),
            }
        });
        // Whoever does not hear of it finds out by its own timeout.
        let _ = self.runtime.block_on(async { timeout(PARTING, part).await });
        outcome
    }
}

/// Keeps the runtime from sleeping.
async fn spin() -> Infallible {
    loop {
        yield_now().await;
    }
}

async fn over(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        sleep(NAP).await;
    }
}

/// Carries out `plan`, one RPC after the other; returns the round-trip times in nanoseconds, in order. Between RPCs at
/// a fixed pace the whole thread sleeps, since tokio's clock counts milliseconds.
pub(super) fn ping(turns: &Turns, caller: &impl Caller, plan: &Plan) -> io::Result<Vec<u64>> {
    if plan.size > super::MAX_MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    let request: Bytes = (0..=250_u8).cycle().take(plan.size).collect();
    let begun = Cell::new(0);
    let work = async {
        let mut rounds = Rounds::new(plan);
        while let Some(round) = rounds.next() {
            begun.set(round);
            let start = Instant::now();
            let response = caller.call(request.clone()).await.map_err(failed)?;
            let end = Instant::now();
            let compared = if round < plan.warmup { request.len() } else { request.len().min(8) };
            if response.len() != request.len() || response[..compared] != request[..compared] {
                return Err(invalid("the response is not the request"));
            }
            rounds.over(start, end);
        }
        Ok(rounds.into_times())
    };
    turns.run(async {
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = silence(&begun) => Err(silent()),
        }
    })
}

/// Over once the same RPC has been under way all the time. One timer for all of them: each of its own would cost time.
async fn silence(begun: &Cell<usize>) {
    loop {
        let before = begun.get();
        sleep(SILENCE).await;
        if begun.get() == before {
            return;
        }
    }
}

/// Many RPCs at a time, a task each.
pub(super) struct Tasks<C> {
    turns: Turns,
    caller: C,
    running: JoinSet<(usize, Result<usize, Failure>)>,
}

impl<C: Caller> Tasks<C> {
    pub(super) fn new(turns: Turns, caller: C) -> Tasks<C> {
        Tasks { turns, caller, running: JoinSet::new() }
    }
}

impl<C: Caller> Pipeline for Tasks<C> {
    fn request(&self, body: &[u8]) -> Bytes {
        Bytes::copy_from_slice(body)
    }

    fn call(&mut self, request: &Bytes, tag: usize) -> Result<(), Error> {
        let (caller, request) = (self.caller.clone(), request.clone());
        let task = async move { (tag, caller.call(request).await.map(|response| response.len())) };
        self.running.spawn_on(task, self.turns.runtime.handle());
        Ok(())
    }

    fn turn(&mut self, over: &mut Vec<(usize, usize)>) -> Result<(), Error> {
        let Tasks { turns, running, .. } = self;
        let first = turns.runtime.block_on(async {
            match turns.wait {
                Wait::Block => timeout(NAP, running.join_next()).await.ok().flatten(),
                Wait::Spin => {
                    for _ in 0..LOOKS_PER_TURN {
                        if let Some(done) = running.try_join_next() {
                            return Some(done);
                        }
                        yield_now().await;
                    }
                    None
                }
            }
        });
        let mut next = first;
        while let Some(done) = next {
            let (tag, outcome) = done.map_err(|_| Error::io("an RPC was given up")(ended()))?;
            let bytes = outcome.map_err(|error| Error::io("an RPC failed")(failed(error)))?;
            over.push((tag, bytes));
            next = running.try_join_next();
        }
        Ok(())
    }
}

pub(super) fn failed(error: Failure) -> io::Error {
    io::Error::other(error)
}

fn silent() -> io::Error {
    io::ErrorKind::TimedOut.into()
}
