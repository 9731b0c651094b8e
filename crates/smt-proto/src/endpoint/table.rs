//! The sessions of an endpoint, by identity and by path.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use core::hash::{BuildHasher, Hash, Hasher};
use core::net::{IpAddr, SocketAddr};

use hashbrown::HashMap;
use siphasher::sip::SipHasher13;

use crate::crypto::Random;
use crate::session::{Path, RpcId, Session, SessionId};

/// What a packet says about where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PathKey {
    remote: SocketAddr,
    remote_port: u16,
    local_port: u16,
}

impl Hash for PathKey {
    /// In one piece, which is faster than field by field. Scopes of IPv6 addresses are left out.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let address = match self.remote.ip() {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let ports = [self.remote.port(), self.remote_port, self.local_port]
            .into_iter()
            .fold(0, |ports, port| ports << 16 | u64::from(port));
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&address.to_le_bytes());
        bytes[16..].copy_from_slice(&ports.to_le_bytes());
        state.write(&bytes);
    }
}

/// Hashes paths under a secret of the endpoint: strangers choose their addresses and ports, and
/// could otherwise make them collide.
#[derive(Clone, Copy)]
struct PathHasher(u64, u64);

impl BuildHasher for PathHasher {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

struct Slot {
    generation: u32,
    session: Option<Box<Session>>,
}

/// All sessions. Those sharing a path form a chain, newest first.
pub(crate) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    newest: HashMap<PathKey, SessionId, PathHasher>,
    /// Lanes that are not the first of their session here.
    others: usize,
    /// What was found last: packets mostly come from where the last one came from.
    last: Cell<Option<(PathKey, SessionId)>>,
}

impl Table {
    /// No sessions; the hash of paths is keyed by `random`.
    pub(crate) fn new(random: &mut dyn Random) -> Self {
        let mut word = || {
            let mut bytes = [0; 8];
            random.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        let hasher = PathHasher(word(), word());
        Table {
            slots: Vec::new(),
            free: Vec::new(),
            newest: HashMap::with_hasher(hasher),
            others: 0,
            last: Cell::new(None),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Sessions, however many lanes they have.
    pub(crate) fn heads(&self) -> usize {
        self.len() - self.others
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
        let key = PathKey { remote, remote_port, local_port };
        if let Some((last, id)) = self.last.get()
            && last == key
        {
            return Some(id);
        }
        let found = self.newest.get(&key).copied();
        if let Some(id) = found {
            self.last.set(Some((key, id)));
        }
        found
    }

    /// How many sessions share a path.
    pub(crate) fn chain_len(&self, path: &Path) -> usize {
        let first = self.newest(path.remote, path.remote_port, path.local_port);
        core::iter::successors(first, |id| self.get(*id)?.older).count()
    }

    /// Lane `index` of the session whose first lane here is `head`, if it is here.
    #[inline]
    pub(crate) fn lane<'a>(&'a self, head: &'a Session, index: u8) -> Option<&'a Session> {
        if head.lane.index() == index {
            return Some(head);
        }
        let lanes = &head.family.as_deref()?.lanes;
        // They are in ascending order, at equal distances.
        let place = usize::from(index) * lanes.len() / usize::from(head.lane.count());
        let lane = self.get(*lanes.get(place)?)?;
        (lane.lane.index() == index).then_some(lane)
    }

    /// The lane that an RPC is in, and its number there.
    pub(crate) fn see_rpc(&self, rpc: RpcId) -> Option<(&Session, u64)> {
        let head = self.get(rpc.session)?;
        let (index, number) = head.lane.local(rpc.number);
        Some((self.lane(head, index)?, number))
    }

    /// As [`see_rpc`](Self::see_rpc), to change it.
    pub(crate) fn of_rpc(&mut self, rpc: RpcId) -> Option<(&mut Session, u64)> {
        let (lane, number) = self.see_rpc(rpc)?;
        let id = lane.id;
        Some((self.get_mut(id)?, number))
    }

    /// Puts a lane in that is not the first of its session here: it is found by way of that.
    pub(crate) fn insert_lane(&mut self, make: impl FnOnce(SessionId) -> Session) -> SessionId {
        self.others += 1;
        self.put(make)
    }

    /// Puts a session in; `make` gets its identity.
    pub(crate) fn insert(&mut self, make: impl FnOnce(SessionId) -> Session) -> SessionId {
        let id = self.put(make);
        let Some(path) = self.get(id).map(|session| key(&session.path)) else { return id };
        let older = self.newest.insert(path, id);
        self.last.set(None);
        if let Some(session) = self.get_mut(id) {
            session.older = older;
        }
        id
    }

    fn put(&mut self, make: impl FnOnce(SessionId) -> Session) -> SessionId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, session: None });
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let generation = self.slots.get(index as usize).map_or(0, |slot| slot.generation);
        let id = SessionId { index, generation };
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.session = Some(Box::new(make(id)));
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
        match session.head == id {
            true => self.unlink(&session),
            false => self.others -= 1,
        }
        Some(session)
    }

    /// The identities of all sessions; of one of several lanes, that of the first lane here.
    pub(crate) fn ids(&self) -> Vec<SessionId> {
        self.slots
            .iter()
            .filter_map(|slot| slot.session.as_ref())
            .filter(|session| session.head == session.id)
            .map(|session| session.id)
            .collect()
    }

    fn unlink(&mut self, gone: &Session) {
        let key = key(&gone.path);
        self.last.set(None);
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
    PathKey { remote: path.remote, remote_port: path.remote_port, local_port: path.local_port }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_hash_depends_on_the_secret_and_on_every_field() {
        let hashes: BTreeSet<u64> = [(1, 2), (1, 3), (4, 2)]
            .into_iter()
            .flat_map(|(a, b)| {
                ["10.0.0.1:0", "10.0.0.1:7", "10.0.1.0:0", "[fd00::1]:0", "[fd00::2]:0"]
                    .into_iter()
                    .flat_map(move |remote| {
                        [(1, 2), (2, 1), (1, 1)].map(|(remote_port, local_port)| {
                            let remote = remote.parse().unwrap();
                            let key = PathKey { remote, remote_port, local_port };
                            PathHasher(a, b).hash_one(key)
                        })
                    })
            })
            .collect();
        assert_eq!(hashes.len(), 3 * 5 * 3);
    }
}
