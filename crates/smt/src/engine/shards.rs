//! Several engines that share a port and the sessions made there, each with its own lanes of them (spec
//! 3.5) on a thread of its own. They share an inbox each, in which the others say what happens to whole
//! sessions; no packet and no call passes there.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use smt_datapath::PathError;
use smt_proto::error::CloseReason;
use smt_proto::{Lanes, SessionId};

use super::{Engine, Event, SessionInfo};
use crate::tls::pool::Waker;

/// Sessions that may wait in a shard's inbox to be added there. A handshake that would add another ends
/// its session: that shard does not keep up. What is said about sessions that are there always finds
/// room, since it comes once for each.
pub const MAX_INBOX: usize = 4096;

/// Path errors that may wait in a shard's inbox. More are dropped: to the protocol they are hints.
pub const MAX_PATH_ERRORS: usize = 64;

/// Names a session at all shards of an endpoint alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedId(SessionId);

impl SharedId {
    /// Its name at the first shard.
    #[must_use]
    pub fn at_first(self) -> SessionId {
        self.0
    }
}

/// What one shard tells another.
enum Note {
    /// A session has keys.
    Open(SharedId, Arc<Lanes>),
    /// It works.
    Confirmed(SharedId, Arc<SessionInfo>),
    /// It is over.
    Close(SharedId, CloseReason),
    /// What the network said of a packet of one of the shards.
    Path(PathError),
    /// That shard was dropped.
    Gone(usize),
}

/// Where one shard is told things.
#[derive(Default)]
struct Inbox {
    /// Whether there is something; looked at without the lock.
    waiting: AtomicBool,
    notes: Mutex<Notes>,
    waker: OnceLock<Waker>,
}

#[derive(Default)]
struct Notes {
    queue: VecDeque<Note>,
    /// Sessions among them that are to be added.
    opens: usize,
    /// Path errors among them.
    path_errors: usize,
    /// Its shard was dropped.
    closed: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Notes> {
        // Each note is put in or taken out whole.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a note in; false if it finds no room, or nobody.
    fn put(&self, note: Note) -> bool {
        let mut notes = self.lock();
        let is_open = matches!(note, Note::Open(..));
        let is_path = matches!(note, Note::Path(_));
        if notes.closed
            || (is_open && notes.opens >= MAX_INBOX)
            || (is_path && notes.path_errors >= MAX_PATH_ERRORS)
        {
            return false;
        }
        notes.opens += usize::from(is_open);
        notes.path_errors += usize::from(is_path);
        notes.queue.push_back(note);
        self.waiting.store(true, Ordering::SeqCst);
        drop(notes);
        if let Some(wake) = self.waker.get() {
            wake();
        }
        true
    }

    fn take(&self) -> VecDeque<Note> {
        let mut notes = self.lock();
        self.waiting.store(false, Ordering::SeqCst);
        (notes.opens, notes.path_errors) = (0, 0);
        std::mem::take(&mut notes.queue)
    }
}

/// The inboxes of all shards.
#[derive(Default)]
pub(crate) struct Group {
    inboxes: Vec<Inbox>,
}

impl Group {
    pub(crate) fn new(count: usize) -> Arc<Group> {
        Arc::new(Group { inboxes: (0..count).map(|_| Inbox::default()).collect() })
    }
}

/// What is known of a session at a shard.
struct Known {
    id: SharedId,
    /// What happened before the session was known to work, kept back until then; not at shard 0.
    held: Option<Vec<Event>>,
}

/// A shard's part in its group.
pub(crate) struct Shards {
    index: usize,
    group: Arc<Group>,
    known: HashMap<SessionId, Known>,
    names: HashMap<SharedId, SessionId>,
    /// Sessions that another shard says are over, and why.
    told: HashMap<SessionId, CloseReason>,
    /// Another shard was dropped: there are no new sessions.
    broken: bool,
}

impl Shards {
    pub(super) fn new(index: usize, group: Arc<Group>, waker: Waker) -> Shards {
        if let Some(inbox) = group.inboxes.get(index) {
            let _ = inbox.waker.set(waker);
        }
        Shards {
            index,
            group,
            known: HashMap::new(),
            names: HashMap::new(),
            told: HashMap::new(),
            broken: false,
        }
    }

    /// Whether something was said to this shard.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        let inbox = self.group.inboxes.get(self.index);
        inbox.is_some_and(|inbox| inbox.waiting.load(Ordering::SeqCst))
    }

    fn add(&mut self, session: SessionId, known: Known) {
        self.names.insert(known.id, session);
        self.known.insert(session, known);
    }

    fn others(&self) -> impl Iterator<Item = &Inbox> {
        let index = self.index;
        self.group.inboxes.iter().enumerate().filter(move |(at, _)| *at != index).map(|(_, i)| i)
    }

    /// Tells all others that a session is over, unless one of them has said so.
    fn forget(&mut self, session: SessionId, reason: CloseReason) -> Option<(Known, CloseReason)> {
        let known = self.known.remove(&session)?;
        self.names.remove(&known.id);
        if let Some(reason) = self.told.remove(&session) {
            return Some((known, reason));
        }
        for inbox in self.others() {
            inbox.put(Note::Close(known.id, reason));
        }
        Some((known, reason))
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        if let Some(inbox) = self.group.inboxes.get(self.index) {
            inbox.lock().closed = true;
            inbox.take();
        }
        for inbox in self.others() {
            inbox.put(Note::Gone(self.index));
        }
    }
}

impl Engine {
    /// Which shard of its endpoint this engine is, and how many there are: 0 of 1 unless it was made by
    /// [`Builder::engines`](crate::Builder::engines).
    pub fn shard(&self) -> (usize, usize) {
        self.shards.as_ref().map_or((0, 1), |shards| (shards.index, shards.group.inboxes.len()))
    }

    /// By which name the other shards know a session; `None` in an endpoint of one shard, and for sessions
    /// that do not work yet.
    pub fn shared_id(&self, session: SessionId) -> Option<SharedId> {
        let known = self.shards.as_ref()?.known.get(&session)?;
        Some(known.id)
    }

    /// The session that the other shards know by a name, while it lives here.
    pub fn session_of(&self, id: SharedId) -> Option<SessionId> {
        self.shards.as_ref()?.names.get(&id).copied()
    }

    /// How many lanes a session has, at all shards together (spec 3.5).
    pub fn lane_count(&self, session: SessionId) -> u8 {
        self.core.lane_count(session)
    }

    /// Bytes of messages that wait in this engine's lanes of a session to be sent, acknowledged or
    /// received whole.
    pub fn waiting_bytes(&self, session: SessionId) -> u64 {
        self.core.waiting_bytes(session)
    }

    /// Whether sessions can be made: at the first shard, as long as all others are there.
    pub(super) fn makes_sessions(&self) -> bool {
        self.shards.as_ref().is_none_or(|shards| shards.index == 0 && !shards.broken)
    }

    /// A session at the first shard has keys: the others get their lanes of it before another packet is
    /// sent.
    pub(super) fn share(&mut self, session: SessionId) {
        let Some(shards) = self.shards.as_deref_mut() else { return };
        let Some(lanes) = self.core.take_lanes(session) else { return };
        let (id, lanes) = (SharedId(session), Arc::from(lanes));
        shards.add(session, Known { id, held: None });
        let told = shards.others().all(|inbox| inbox.put(Note::Open(id, Arc::clone(&lanes))));
        if !told {
            self.limits.inbox += 1;
            self.close(session);
        }
    }

    /// A session at the first shard works: the others may use it.
    pub(super) fn share_confirmed(&mut self, session: SessionId, info: &Arc<SessionInfo>) {
        let Some(shards) = self.shards.as_deref() else { return };
        let Some(known) = shards.known.get(&session) else { return };
        for inbox in shards.others() {
            inbox.put(Note::Confirmed(known.id, Arc::clone(info)));
        }
    }

    /// No session came of a handshake after all.
    pub(super) fn share_failed(&mut self, session: SessionId) {
        if let Some(shards) = self.shards.as_deref_mut() {
            shards.forget(session, CloseReason::Dead);
        }
    }

    /// A session is over here: so it is at the other shards. What the application is to hear of it, if
    /// it knows the session.
    pub(super) fn share_closed(
        &mut self,
        session: SessionId,
        reason: CloseReason,
    ) -> Option<CloseReason> {
        let Some(shards) = self.shards.as_deref_mut() else { return Some(reason) };
        match shards.forget(session, reason) {
            Some((Known { held: Some(_), .. }, _)) => None,
            Some((_, reason)) => Some(reason),
            None => Some(reason),
        }
    }

    /// Tells the application, or keeps it for when it has heard of the session.
    pub(super) fn tell_in(&mut self, session: SessionId, event: Event) {
        let known = self.shards.as_deref_mut().and_then(|shards| shards.known.get_mut(&session));
        match known.and_then(|known| known.held.as_mut()) {
            Some(held) => held.push(event),
            None => self.events.push_back(event),
        }
    }

    /// Does what the other shards say. True if they did.
    pub(super) fn take_notes(&mut self) -> bool {
        let Some(shards) = self.shards.as_deref().filter(|shards| shards.is_waiting()) else {
            return false;
        };
        let Some(inbox) = shards.group.inboxes.get(shards.index) else { return false };
        for note in inbox.take() {
            match note {
                Note::Open(id, lanes) => self.join(id, &lanes),
                Note::Confirmed(id, info) => self.joined(id, info),
                Note::Close(id, reason) => self.leave(id, reason),
                Note::Path(error) => {
                    let now = self.now();
                    self.on_path_error(now, &error);
                }
                Note::Gone(shard) => {
                    tracing::warn!(shard, "a shard has ended, and all sessions with it");
                    if let Some(shards) = self.shards.as_deref_mut() {
                        shards.broken = true;
                    }
                    self.close_sessions();
                    self.events.push_back(Event::ShardGone { shard });
                }
            }
        }
        true
    }

    /// Tells the other shards what the network said, if they have not heard: of a UDP port that several
    /// sockets share, the kernel tells any of them.
    pub(super) fn share_path_error(&mut self, error: PathError) {
        let Some(shards) = self.shards.as_deref().filter(|_| self.caps.name == "udp") else {
            return;
        };
        let told = shards.others().filter(|inbox| inbox.put(Note::Path(error.clone()))).count();
        self.limits.path_errors += (shards.group.inboxes.len() - 1 - told) as u64;
    }

    fn join(&mut self, id: SharedId, lanes: &Lanes) {
        let now = self.now();
        let added = self.core.add_lanes(now, lanes);
        let Some(shards) = self.shards.as_deref_mut() else { return };
        match added {
            Ok(session) => shards.add(session, Known { id, held: Some(Vec::new()) }),
            Err(error) => {
                tracing::warn!(?error, "a session is not shared");
                for inbox in shards.others() {
                    inbox.put(Note::Close(id, CloseReason::Local));
                }
            }
        }
    }

    fn joined(&mut self, id: SharedId, info: Arc<SessionInfo>) {
        let Some(shards) = self.shards.as_deref_mut() else { return };
        let Some(&session) = shards.names.get(&id) else { return };
        let held = shards.known.get_mut(&session).and_then(|known| known.held.take());
        self.sessions.insert(session, Arc::clone(&info));
        self.events.push_back(Event::Joined { session, shared: id, info });
        self.events.extend(held.unwrap_or_default());
    }

    fn leave(&mut self, id: SharedId, reason: CloseReason) {
        let Some(shards) = self.shards.as_deref_mut() else { return };
        let Some(&session) = shards.names.get(&id) else { return };
        shards.told.insert(session, reason);
        self.close(session);
        self.take_core_events();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_is_bounded_by_sessions_to_be_added_and_refuses_when_closed() {
        let inbox = Inbox::default();
        let info = |n| SharedId(SessionId::from_bits(n));
        let path = smt_proto::Path {
            remote: ([127, 0, 0, 1], 0).into(),
            remote_port: 1,
            local_port: 2,
            local: None,
        };
        let lanes = lanes_for_tests(path);
        for n in 0..MAX_INBOX as u64 {
            assert!(inbox.put(Note::Open(info(n), Arc::clone(&lanes))));
        }
        assert!(!inbox.put(Note::Open(info(0), Arc::clone(&lanes))));
        assert!(inbox.put(Note::Close(info(0), CloseReason::Local)), "that always finds room");
        assert_eq!(inbox.take().len(), MAX_INBOX + 1);
        assert!(inbox.put(Note::Open(info(0), lanes)));
        inbox.lock().closed = true;
        assert!(!inbox.put(Note::Gone(1)));
    }

    #[test]
    fn path_errors_in_an_inbox_are_bounded() {
        let inbox = Inbox::default();
        let error = PathError {
            dst: ([127, 0, 0, 1], 7).into(),
            kind: smt_datapath::PathErrorKind::Refused,
            quoted: Vec::new(),
        };
        for _ in 0..MAX_PATH_ERRORS {
            assert!(inbox.put(Note::Path(error.clone())));
        }
        assert!(!inbox.put(Note::Path(error.clone())));
        assert!(inbox.put(Note::Gone(1)), "that always finds room");
        inbox.take();
        assert!(inbox.put(Note::Path(error)));
    }

    /// Lanes as a core makes them.
    fn lanes_for_tests(path: smt_proto::Path) -> Arc<Lanes> {
        use smt_proto::crypto::{SuiteId, aws_lc};
        use smt_proto::keys::Secret;
        use smt_proto::{Config, Endpoint, External, Role, Shard, Time, Updates};
        let config = Config { shard: Shard { index: 0, count: 2 }, ..Config::default() };
        let mut core = Endpoint::new(config, Box::new(aws_lc::OsRandom));
        let (local, peer) = (core.parameters(Role::Server), core.parameters(Role::Client));
        let external = External {
            path,
            role: Role::Server,
            suite: aws_lc::suite(SuiteId::Aes128GcmSha256),
            client_secret: Secret::new(&[1; 32]),
            server_secret: Secret::new(&[2; 32]),
            local,
            peer,
            room: 1400,
            updates: Updates::Derived,
        };
        let session = core.add_session(Time::ZERO, external).unwrap();
        Arc::from(core.take_lanes(session).unwrap())
    }
}
