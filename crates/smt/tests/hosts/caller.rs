//! A client that always has calls in flight, whatever happens to its network.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use smt::{Builder, CallOptions, Engine, Event, SessionId, Stats};

use crate::bed::{NAME, pattern};

/// Nothing takes this long; waiting for less would make slow machines fail.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Caller {
    pub(crate) engine: Engine,
    session: SessionId,
    /// Bytes of the calls, one after the other.
    sizes: &'static [usize],
    in_flight: usize,
    waiting: HashMap<u64, usize>,
    next: u64,
    pub(crate) done: u64,
}

impl Caller {
    /// Connects. There will be `in_flight` calls at a time, of `sizes` bytes in turn.
    pub(crate) fn new(
        builder: Builder,
        to: SocketAddr,
        sizes: &'static [usize],
        in_flight: usize,
    ) -> Caller {
        let mut engine = builder.call_deadline(2 * PATIENCE).engine().unwrap();
        engine.connect(to, NAME).unwrap();
        let session = match engine.next(Some(PATIENCE)).unwrap() {
            Some(Event::Connected { session, .. }) => session,
            other => panic!("{other:?}"),
        };
        let waiting = HashMap::new();
        Caller { engine, session, sizes, in_flight, waiting, next: 0, done: 0 }
    }

    pub(crate) fn stats(&self) -> Stats {
        *self.engine.stats()
    }

    /// Has `count` more responses come, each the bytes of its request.
    pub(crate) fn go_on(&mut self, count: u64) {
        let until = self.done + count;
        while self.done < until {
            self.call();
            self.take();
        }
    }

    /// Goes on until `holds` of what the core has done.
    pub(crate) fn go_on_until(&mut self, holds: impl Fn(&Stats) -> bool) {
        let start = Instant::now();
        while !holds(&self.stats()) {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.stats());
            self.go_on(1);
        }
    }

    /// Has all responses come.
    pub(crate) fn finish(&mut self) {
        while !self.waiting.is_empty() {
            self.take();
        }
    }

    fn call(&mut self) {
        while self.waiting.len() < self.in_flight {
            let (user, len) = (self.next, self.sizes[self.next as usize % self.sizes.len()]);
            let options = CallOptions { user, ..CallOptions::default() };
            self.engine.call(self.session, pattern(user, len), options).unwrap();
            self.waiting.insert(user, len);
            self.next += 1;
        }
    }

    fn take(&mut self) {
        match self.engine.next(Some(PATIENCE)).unwrap() {
            Some(Event::Response { user, result, .. }) => {
                let len = self.waiting.remove(&user).unwrap();
                assert!(*result.unwrap() == *pattern(user, len), "call {user} of {len} bytes");
                self.done += 1;
            }
            other => panic!("{other:?} after {} calls: {:?}", self.done, self.stats()),
        }
    }
}
