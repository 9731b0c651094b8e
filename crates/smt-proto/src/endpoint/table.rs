//! The sessions of an endpoint, by identity and by path.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::SocketAddr;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::session::{Path, Session, SessionId};

/// What a packet says about where it belongs.
type PathKey = (SocketAddr, u16, u16);

struct Slot {
    generation: u32,
    session: Option<Box<Session>>,
}

/// All sessions. Those sharing a path form a chain, newest first.
#[derive(Default)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    newest: HashMap<PathKey, SessionId, FxBuildHasher>,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        let slot = self.slots.get(id.index as usize)?;
        slot.session.as_deref().filter(|_| slot.generation == id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        let slot = self.slots.get_mut(id.index as usize)?;
        slot.session.as_deref_mut().filter(|_| slot.generation == id.generation)
    }

    /// The newest session on a path; follow `older` for the others.
    pub(crate) fn newest(
        &self,
        remote: SocketAddr,
        remote_port: u16,
        local_port: u16,
    ) -> Option<SessionId> {
        self.newest.get(&(remote, remote_port, local_port)).copied()
    }

    /// How many sessions share a path.
    pub(crate) fn chain_len(&self, path: &Path) -> usize {
        let first = self.newest(path.remote, path.remote_port, path.local_port);
        core::iter::successors(first, |id| self.get(*id)?.older).count()
    }

    /// Puts a session in; `make` gets its identity.
    pub(crate) fn insert(&mut self, make: impl FnOnce(SessionId) -> Session) -> SessionId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, session: None });
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let generation = self.slots.get(index as usize).map_or(0, |slot| slot.generation);
        let id = SessionId { index, generation };
        let mut session = make(id);
        session.older = self.newest.insert(key(&session.path), id);
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.session = Some(Box::new(session));
        }
        id
    }

    /// Takes a session out.
    pub(crate) fn remove(&mut self, id: SessionId) -> Option<Box<Session>> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let session = slot.session.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        self.unlink(&session);
        Some(session)
    }

    /// All sessions' identities.
    pub(crate) fn ids(&self) -> Vec<SessionId> {
        self.slots
            .iter()
            .filter_map(|slot| slot.session.as_ref())
            .map(|session| session.id)
            .collect()
    }

    fn unlink(&mut self, gone: &Session) {
        let key = key(&gone.path);
        let Some(first) = self.newest.get(&key).copied() else { return };
        if first == gone.id {
            match gone.older {
                Some(older) => self.newest.insert(key, older),
                None => self.newest.remove(&key),
            };
            return;
        }
        let mut at = first;
        while let Some(session) = self.get_mut(at) {
            match session.older {
                Some(older) if older == gone.id => {
                    session.older = gone.older;
                    return;
                }
                Some(older) => at = older,
                None => return,
            }
        }
    }
}

fn key(path: &Path) -> PathKey {
    (path.remote, path.remote_port, path.local_port)
}
