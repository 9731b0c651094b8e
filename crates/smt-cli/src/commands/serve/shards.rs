//! The shards of `smt serve` beside the first: an engine on a thread each, which echoes too.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use smt::engine::SharedId;
use smt::{Engine, Event, SessionId, Stats};

use super::{PATIENCE, rpcs_and_bytes};
use crate::commands::Error;
use crate::stop::{LOOK_EVERY, Stop};

/// Most shards, as many as a session can have lanes.
const MAX_SHARDS: usize = 64;

/// What a shard has done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) rpcs: u64,
    pub(super) bytes: u64,
    pub(super) early_rpcs: u64,
    pub(super) stats: Stats,
}

impl Done {
    /// In words.
    pub(super) fn text(&self, shard: usize) -> String {
        format!("shard {shard}: {}", rpcs_and_bytes(self.rpcs, self.bytes))
    }

    /// For programs.
    pub(super) fn object(&self, shard: usize) -> Value {
        json!({
            "shard": shard, "rpcs": self.rpcs, "bytes": self.bytes,
            "packets_received": self.stats.packets_received,
            "packets_sent": self.stats.packets_sent,
            "packets_retransmitted": self.stats.packets_retransmitted,
        })
    }
}

/// Requests of one session at the shards beside the first.
#[derive(Default)]
pub(super) struct Counts {
    rpcs: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    /// RPCs, and the bytes of their requests.
    pub(super) fn get(&self) -> (u64, u64) {
        (self.rpcs.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// The sessions that live at several shards, until the first of them has seen the end.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<HashMap<SharedId, Arc<Counts>>>>);

impl Shared {
    /// What the shards beside the first have done in a session.
    pub(super) fn counts(&self, id: SharedId) -> Arc<Counts> {
        Arc::clone(self.lock().entry(id).or_default())
    }

    pub(super) fn forget(&self, id: SharedId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SharedId, Arc<Counts>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads of all shards but the first.
pub(super) struct Workers {
    threads: Vec<JoinHandle<Result<Done, Error>>>,
    /// One of them cannot go on.
    failed: Arc<AtomicBool>,
    /// Where all shards wait until each has answered what it was asked.
    drained: Arc<Barrier>,
}

impl Workers {
    /// Starts a thread for each engine.
    pub(super) fn start(
        engines: Vec<Engine>,
        shared: &Shared,
        stop: &Stop,
    ) -> Result<Workers, Error> {
        let failed = Arc::new(AtomicBool::new(false));
        let drained = Arc::new(Barrier::new(engines.len() + 1));
        let mut threads = Vec::new();
        for engine in engines {
            let worker = Worker {
                sessions: HashMap::new(),
                shared: shared.clone(),
                stop: stop.clone(),
                failed: Arc::clone(&failed),
                done: Done::default(),
            };
            let (shard, drained) = (engine.shard().0, Arc::clone(&drained));
            let thread = std::thread::Builder::new().name(format!("smt-shard-{shard}"));
            let thread = thread
                .spawn(move || worker.run(engine, &drained))
                .map_err(Error::io("cannot start a thread"))?;
            threads.push(thread);
        }
        Ok(Workers { threads, failed, drained })
    }

    /// Whether one of them cannot go on.
    pub(super) fn have_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Lets all of them end, together with the first shard's engine; what they have done.
    pub(super) fn finish(self, first: &mut Engine) -> Result<Vec<Done>, Error> {
        self.failed.store(true, Ordering::Relaxed);
        let ended = drain_and_close(first, &self.drained);
        let mut done = Vec::new();
        for thread in self.threads {
            let result = thread.join();
            done.push(result.map_err(|_| Error::Failed("a shard has panicked".to_owned()))??);
        }
        ended.map(|()| done)
    }
}

/// Answers what has been asked, and closes the sessions when all shards have.
fn drain_and_close(engine: &mut Engine, drained: &Barrier) -> Result<(), Error> {
    let result = engine.drain(PATIENCE);
    // Whatever the result: the others wait here.
    drained.wait();
    result.and_then(|()| engine.close_all(PATIENCE)).map_err(Error::io("the datapath failed"))
}

/// A shard beside the first.
struct Worker {
    sessions: HashMap<SessionId, (SharedId, Arc<Counts>)>,
    shared: Shared,
    stop: Stop,
    failed: Arc<AtomicBool>,
    done: Done,
}

impl Worker {
    fn run(mut self, mut engine: Engine, drained: &Barrier) -> Result<Done, Error> {
        let served = self.serve(&mut engine);
        self.failed.store(true, Ordering::Relaxed);
        let ended = drain_and_close(&mut engine, drained);
        self.done.stats = *engine.stats();
        served.and(ended).map(|()| self.done)
    }

    fn serve(&mut self, engine: &mut Engine) -> Result<(), Error> {
        while !self.stop.is_set() && !self.failed.load(Ordering::Relaxed) {
            let event = engine.next(Some(LOOK_EVERY)).map_err(Error::io("the datapath failed"))?;
            match event {
                Some(Event::Request { rpc, body, early }) => {
                    let bytes = body.len() as u64;
                    self.done.rpcs += 1;
                    self.done.bytes += bytes;
                    self.done.early_rpcs += u64::from(early);
                    if let Some((_, counts)) = self.sessions.get(&rpc.session) {
                        counts.rpcs.fetch_add(1, Ordering::Relaxed);
                        counts.bytes.fetch_add(bytes, Ordering::Relaxed);
                    }
                    engine.reply(rpc, body.into_vec());
                }
                Some(Event::Joined { session, shared, .. }) => {
                    self.sessions.insert(session, (shared, self.shared.counts(shared)));
                }
                Some(Event::Closed { session, .. }) => {
                    if let Some((id, _)) = self.sessions.remove(&session) {
                        self.shared.forget(id);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A number of shards on the command line.
pub(super) fn parse(text: &str) -> Result<u8, String> {
    let count = match text {
        "auto" => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            1 << cores.min(MAX_SHARDS).ilog2()
        }
        number => number.parse().unwrap_or(0),
    };
    let possible = usize::from(count) <= MAX_SHARDS && u8::is_power_of_two(count);
    if possible { Ok(count) } else { Err("must be 1, 2, 4, 8, 16, 32, 64 or auto".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_powers_of_two() {
        assert_eq!((parse("1"), parse("2"), parse("64")), (Ok(1), Ok(2), Ok(64)));
        assert!(parse("auto").is_ok_and(u8::is_power_of_two));
        for nonsense in ["0", "3", "128", "256", "-1", "many", ""] {
            assert!(parse(nonsense).is_err_and(|why| why.contains("auto")), "{nonsense}");
        }
    }
}
