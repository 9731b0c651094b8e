//! What the shards of an endpoint have in common: under which name a session lives at each, how much waits
//! there, and where its requests go.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use smt_proto::SessionId;
use tokio::sync::mpsc;

use super::driver::Request;
use crate::engine::SharedId;

/// The sessions that live at several shards, each until the last shard has left it.
pub(super) struct Registry {
    shards: usize,
    sessions: Mutex<HashMap<SharedId, (Arc<Common>, usize)>>,
}

impl Registry {
    pub(super) fn new(shards: usize) -> Registry {
        Registry { shards, sessions: Mutex::default() }
    }

    pub(super) fn shards(&self) -> usize {
        self.shards
    }

    /// What a session has in common, for a shard that comes to know it.
    pub(super) fn enter(&self, id: SharedId) -> Arc<Common> {
        let mut sessions = lock(&self.sessions);
        let (common, users) =
            sessions.entry(id).or_insert_with(|| (Arc::new(Common::new(self.shards)), 0));
        *users += 1;
        Arc::clone(common)
    }

    /// The session is over at a shard that had entered.
    pub(super) fn leave(&self, id: SharedId) {
        let mut sessions = lock(&self.sessions);
        if let Some((_, users)) = sessions.get_mut(&id) {
            *users -= 1;
            if *users == 0 {
                sessions.remove(&id);
            }
        }
    }
}

/// What the shards share of one session.
pub(super) struct Common {
    places: Box<[Place]>,
    /// From where the next call looks for the least busy shard.
    turn: AtomicUsize,
    requests: OnceLock<mpsc::UnboundedSender<Request>>,
    /// Requests that came before the first shard told where they go. They are as few as the session may
    /// have RPCs.
    early: Mutex<Vec<Request>>,
}

/// A session at one shard.
#[derive(Default)]
struct Place {
    id: OnceLock<SessionId>,
    /// Bytes of messages that wait there, when it was last looked at.
    waiting: AtomicU64,
}

impl Common {
    fn new(shards: usize) -> Common {
        Common {
            places: (0..shards).map(|_| Place::default()).collect(),
            turn: AtomicUsize::new(0),
            requests: OnceLock::new(),
            early: Mutex::default(),
        }
    }

    /// The session can be used at a shard.
    pub(super) fn settle(&self, shard: usize, id: SessionId) {
        if let Some(place) = self.places.get(shard) {
            let _ = place.id.set(id);
        }
    }

    /// How much waits at a shard.
    pub(super) fn set_waiting(&self, shard: usize, bytes: u64) {
        if let Some(place) = self.places.get(shard) {
            place.waiting.store(bytes, Ordering::Relaxed);
        }
    }

    /// Tells where requests go.
    pub(super) fn claim(&self, requests: &mpsc::UnboundedSender<Request>) {
        let mut early = lock(&self.early);
        let _ = self.requests.set(requests.clone());
        for request in early.drain(..) {
            // Who takes none has closed the session.
            let _ = requests.send(request);
        }
    }

    /// Hands on a request; false if nobody takes it.
    pub(super) fn put(&self, request: Request) -> bool {
        if let Some(requests) = self.requests.get() {
            return requests.send(request).is_ok();
        }
        let mut early = lock(&self.early);
        match self.requests.get() {
            Some(requests) => requests.send(request).is_ok(),
            None => {
                early.push(request);
                true
            }
        }
    }

    /// The shard where least waits; of equals, each in its turn.
    fn least_busy(&self) -> usize {
        let (count, start) = (self.places.len(), self.turn.fetch_add(1, Ordering::Relaxed));
        let waiting = |shard: &usize| {
            let place = self.places.get(*shard).filter(|place| place.id.get().is_some());
            place.map_or(u64::MAX, |place| place.waiting.load(Ordering::Relaxed))
        };
        (0..count).map(|step| start.wrapping_add(step) % count).min_by_key(waiting).unwrap_or(0)
    }
}

/// The way to a session: to its shards, or to the only one.
pub(super) struct Route {
    /// Its name at the first shard.
    head: SessionId,
    /// Not before all shards may use it.
    common: OnceLock<Arc<Common>>,
}

impl Route {
    pub(super) fn new(head: SessionId) -> Route {
        Route { head, common: OnceLock::new() }
    }

    pub(super) fn head(&self) -> SessionId {
        self.head
    }

    /// All shards may use it.
    pub(super) fn open(&self, common: &Arc<Common>) {
        let _ = self.common.set(Arc::clone(common));
    }

    /// Where the next call may go, by shard and name: first where least waits.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, SessionId)> + '_ {
        let common = self.common.get();
        let (first, count) = common.map_or((0, 1), |c| (c.least_busy(), c.places.len()));
        (0..count).filter_map(move |step| {
            let shard = (first + step) % count;
            let id = match common {
                Some(common) => *common.places.get(shard)?.id.get()?,
                None => self.head,
            };
            Some((shard, id))
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whatever is changed under these locks is changed whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use smt_proto::{Body, RpcId};

    use super::*;

    fn session(n: u64) -> SessionId {
        SessionId::from_bits(n)
    }

    #[test]
    fn calls_go_where_least_waits_and_by_turns_where_that_is_nowhere() {
        let common = Arc::new(Common::new(4));
        let route = Route::new(session(1));
        assert_eq!(route.places().collect::<Vec<_>>(), [(0, session(1))]);
        route.open(&common);
        common.settle(0, session(1));
        assert!((0..8).all(|_| route.places().collect::<Vec<_>>() == [(0, session(1))]));
        for shard in 1..4 {
            common.settle(shard, session(10 + shard as u64));
        }
        let first = || route.places().next().unwrap();
        let mut times = [0; 4];
        for _ in 0..400 {
            times[first().0] += 1;
        }
        assert_eq!(times, [100; 4]);
        for shard in 0..4 {
            common.set_waiting(shard, if shard == 2 { 9 } else { 10 });
        }
        assert!((0..8).all(|_| first() == (2, session(12))));
        let all: Vec<_> = route.places().map(|(shard, _)| shard).collect();
        assert_eq!(all, [2, 3, 0, 1]);
    }

    #[test]
    fn requests_wait_until_the_first_shard_says_where_they_go() {
        let common = Common::new(2);
        let request = |number| Request {
            rpc: RpcId { session: session(1), ours: false, number },
            body: Body::default(),
            early: false,
            shard: 1,
        };
        assert!(common.put(request(0)) && common.put(request(1)));
        let (requests, mut receiver) = mpsc::unbounded_channel();
        common.claim(&requests);
        assert!(common.put(request(2)));
        let numbers = std::iter::from_fn(|| receiver.try_recv().ok()).map(|r| r.rpc.number);
        assert_eq!(numbers.collect::<Vec<_>>(), [0, 1, 2]);
        drop(receiver);
        assert!(!common.put(request(3)));
    }
}
