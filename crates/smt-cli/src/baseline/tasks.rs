//! What the peers that run on tokio have in common: a runtime of one thread that spins or sleeps, one RPC after the
//! other on it, many at a time as a task each, and a server that ends when it is told to.
//!
//! A runtime that spins never sleeps in epoll: it asks epoll whether something has come, over and over, and runs the
//! tasks for whom something has. The sockets are the peer's own, so that this question stands before each packet. One
//! that waits adaptively sleeps once it has had no RPC for a while, and spins again when something has woken it.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::{self, Runtime};
use tokio::sync::Notify;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use super::rounds::Rounds;
use super::{Idle, Pipeline, Plan, SILENCE, Wait, ended, invalid};
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

thread_local! {
    /// Requests and responses that the runtime of this thread has seen.
    static WORK: Cell<u64> = const { Cell::new(0) };
}

/// Takes note of a request or a response, so that this thread's runtime goes on spinning.
pub(super) fn worked() {
    WORK.set(WORK.get().wrapping_add(1));
}

/// A runtime of the calling thread alone.
pub(super) struct Turns {
    runtime: Runtime,
    wait: Wait,
    /// Something has woken the thread.
    woken: Arc<Notify>,
}

impl Turns {
    pub(super) fn new(wait: Wait) -> io::Result<Turns> {
        let woken = Arc::new(Notify::new());
        let mut builder = runtime::Builder::new_current_thread();
        if wait == Wait::Adaptive {
            let woken = Arc::clone(&woken);
            builder.on_thread_unpark(move || woken.notify_one());
        }
        Ok(Turns { runtime: builder.enable_all().build()?, wait, woken })
    }

    /// Runs `work`, and all tasks beside it, until `work` is done.
    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        match self.wait {
            Wait::Block => self.runtime.block_on(work),
            Wait::Spin | Wait::Adaptive => self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    done = work => done,
                    never = spin(self.wait, &self.woken) => match never {},
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

/// Keeps the runtime from sleeping, as long as it is not to.
async fn spin(wait: Wait, woken: &Notify) -> Infallible {
    let mut idle = Idle::default();
    let mut work = WORK.get();
    loop {
        if std::mem::replace(&mut work, WORK.get()) != work {
            idle.worked();
        }
        if idle.may_sleep(wait) {
            woken.notified().await;
            idle.worked();
        }
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
            worked();
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
    idle: Idle,
}

impl<C: Caller> Tasks<C> {
    pub(super) fn new(turns: Turns, caller: C) -> Tasks<C> {
        Tasks { turns, caller, running: JoinSet::new(), idle: Idle::default() }
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
        let Tasks { turns, running, idle, .. } = self;
        let sleeps = idle.may_sleep(turns.wait);
        let first = turns.runtime.block_on(async {
            if sleeps {
                return timeout(NAP, running.join_next()).await.ok().flatten();
            }
            for _ in 0..LOOKS_PER_TURN {
                if let Some(done) = running.try_join_next() {
                    return Some(done);
                }
                yield_now().await;
            }
            None
        });
        if first.is_some() {
            idle.worked();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers after the runtime has had others' turn: with the request, or something else.
    #[derive(Clone, Copy)]
    struct Near {
        more: usize,
        flipped: u8,
    }

    impl Caller for Near {
        async fn call(&self, request: Bytes) -> Result<Bytes, Failure> {
            yield_now().await;
            let mut response = request.to_vec();
            response.resize(request.len() + self.more, 0);
            if let Some(last) = response.last_mut() {
                *last ^= self.flipped;
            }
            Ok(response.into())
        }
    }

    const HONEST: Near = Near { more: 0, flipped: 0 };

    #[test]
    fn echoes_are_measured_and_wrong_ones_noticed() {
        for wait in [Wait::Spin, Wait::Adaptive, Wait::Block] {
            let turns = Turns::new(wait).unwrap();
            let plan = Plan::counted(100, 2, 5, wait);
            assert_eq!(ping(&turns, &HONEST, &plan).unwrap().len(), 5);
            for liar in [Near { more: 1, ..HONEST }, Near { flipped: 1, ..HONEST }] {
                let error = ping(&turns, &liar, &plan).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            }
        }
    }

    #[test]
    fn many_are_under_way_and_told_with_their_length() {
        for wait in [Wait::Spin, Wait::Adaptive, Wait::Block] {
            let caller = Near { more: 3, ..HONEST };
            let mut tasks = Tasks::new(Turns::new(wait).unwrap(), caller);
            let request = tasks.request(&[7; 10]);
            (0..20).for_each(|tag| tasks.call(&request, tag).unwrap());
            let mut over = Vec::new();
            while over.len() < 20 {
                tasks.turn(&mut over).unwrap();
            }
            over.sort_unstable();
            assert_eq!(over, (0..20).map(|tag| (tag, 13)).collect::<Vec<_>>());
            tasks.turn(&mut over).unwrap();
            assert_eq!(over.len(), 20);
        }
    }

    #[test]
    fn a_server_ends_when_it_is_told_to() {
        for wait in [Wait::Spin, Wait::Adaptive, Wait::Block] {
            let stop = AtomicBool::new(true);
            let turns = Turns::new(wait).unwrap();
            turns.serve(std::future::pending(), &stop, async {}).unwrap();
            let fails = async { Err(Failure::from("no socket")) };
            assert!(turns.serve(fails, &AtomicBool::new(false), async {}).is_err());
        }
    }
}
