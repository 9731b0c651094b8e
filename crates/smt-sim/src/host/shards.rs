//! The cores of a host, each of which runs one shard of its endpoint (spec 3.5): packets are steered as a
//! kernel's filter does it, and shards tell each other what happens to whole sessions, as engines do.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use smt_proto::crypto::Random;
use smt_proto::{Config, Endpoint, Event, Lanes, RpcId, SessionId, Shard as Which, Time};

use super::Host;
use crate::packet::Packet;

/// Where a packet's header tells whose it is: epoch, type, last byte of the message ID.
const EPOCH: usize = 8;
const TYPE: usize = 11;
const LAST_OF_ID: usize = 27;
const UNKNOWN: u8 = 0x13;

/// Which of so many shards a packet is steered to; `None` if it is too short to tell.
pub fn steer(packet: &[u8], shards: usize) -> Option<usize> {
    if shards <= 1 {
        return Some(0);
    }
    match (packet.get(EPOCH)?, packet.get(TYPE)?) {
        (0, kind) if *kind != UNKNOWN => Some(0),
        _ => Some(usize::from(packet.get(LAST_OF_ID)? >> 2) % shards),
    }
}

/// An RPC of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rpc {
    /// Where it is handled.
    pub(super) shard: usize,
    /// Its session, by the name that the first shard has for it.
    pub(super) session: SessionId,
    /// What its shard calls it.
    pub(super) id: RpcId,
}

/// What one shard tells the others of a session, by the name that the first has for it.
#[derive(Clone)]
pub(super) enum Note {
    /// It has keys.
    Open(SessionId, Rc<Lanes>),
    /// It works.
    Confirmed(SessionId),
    /// It is over.
    Close(SessionId),
}

/// One shard, and the core that runs it.
pub(super) struct Shard {
    pub(super) endpoint: Endpoint,
    /// What it calls the sessions, and what the first shard does.
    names: BTreeMap<SessionId, SessionId>,
    inbox: VecDeque<Note>,
    /// When it looks into its inbox, if no packet comes before.
    look_at: Option<Time>,
    /// Its core stands still until then.
    pub(super) stalled: Option<Time>,
    /// Packets that have arrived while it or its host stands still.
    pub(super) ring: VecDeque<Packet>,
}

impl Shard {
    pub(super) fn new(config: Config, random: Box<dyn Random>) -> Shard {
        Shard {
            endpoint: Endpoint::new(config, random),
            names: BTreeMap::new(),
            inbox: VecDeque::new(),
            look_at: None,
            stalled: None,
            ring: VecDeque::new(),
        }
    }
}

/// The configuration of shard `index` of `count`: limits on the whole endpoint are divided.
pub(super) fn config_of(host: &Config, index: usize, count: u8) -> Config {
    let mut config = host.clone();
    config.shard = Which { index: u8::try_from(index).unwrap_or(0), count };
    config.limits.max_incoming_bytes_total /= u64::from(count.max(1));
    config
}

/// A session at one shard.
#[derive(Debug)]
pub(super) struct Place {
    /// Its name there.
    pub(super) id: SessionId,
    /// What has happened before the session was known to work, kept back until then.
    pub(super) held: Option<Vec<Event>>,
    /// Another shard has said that it is over.
    pub(super) told: bool,
    /// It is over there.
    pub(super) ended: bool,
}

impl Place {
    pub(super) fn new(id: SessionId, held: Option<Vec<Event>>) -> Place {
        Place { id, held, told: false, ended: false }
    }

    /// The application can call in it there.
    fn is_usable(&self) -> bool {
        self.held.is_none() && !self.told && !self.ended
    }
}

impl Host {
    /// Which shard a packet arrives at.
    pub(super) fn steer(&mut self, packet: &[u8], now: Time) -> Option<usize> {
        let right = steer(packet, self.shards.len())?;
        if self.shards.len() > 1 && self.misdirected.is_some_and(|until| now < until) {
            return usize::try_from(self.rng.below(self.shards.len() as u64)).ok();
        }
        Some(right)
    }

    /// The core of a shard stands still.
    pub(super) fn is_stalled(&self, shard: usize) -> bool {
        self.stalled_until(shard).is_some()
    }

    /// Until when it does.
    pub(super) fn stalled_until(&self, shard: usize) -> Option<Time> {
        self.shards.get(shard).and_then(|shard| shard.stalled)
    }

    /// The name that all shards have for a session of one of them.
    pub(super) fn shared_name(&self, shard: usize, session: SessionId) -> Option<SessionId> {
        match shard {
            0 => Some(session),
            _ => self.shards.get(shard)?.names.get(&session).copied(),
        }
    }

    /// The name that a shard has for a session.
    pub(super) fn name_at(&self, shard: usize, session: SessionId) -> Option<SessionId> {
        Some(self.sessions.get(&session)?.places.get(shard)?.as_ref()?.id)
    }

    /// Shards where a session has a place, and its names there.
    pub(super) fn places(&self, session: SessionId) -> Vec<(usize, SessionId)> {
        let places = self.sessions.get(&session).into_iter().flat_map(|known| &known.places);
        places.enumerate().filter_map(|(at, place)| Some((at, place.as_ref()?.id))).collect()
    }

    /// Shards at which the application can do something in a session now.
    pub(super) fn usable_at(&self, session: SessionId) -> Vec<usize> {
        let places = self.sessions.get(&session).into_iter().flat_map(|known| &known.places);
        let usable = |(at, place): (usize, &Option<Place>)| {
            let good = place.as_ref().is_some_and(Place::is_usable) && !self.is_stalled(at);
            good.then_some(at)
        };
        places.enumerate().filter_map(usable).collect()
    }

    /// A session has keys at the first shard: the others get their lanes before a packet leaves.
    pub(super) fn share(&mut self, session: SessionId) {
        if let Some(lanes) = self.shards[0].endpoint.take_lanes(session) {
            self.tell_others(0, &Note::Open(session, Rc::from(lanes)));
        }
    }

    /// Puts a note into the inboxes of all other shards.
    pub(super) fn tell_others(&mut self, from: usize, note: &Note) {
        #[cfg(feature = "mutations")]
        if matches!(note, Note::Close(_))
            && self.core.mutation == Some(smt_proto::mutation::Mutation::ShardsNotTold)
        {
            return;
        }
        let now = self.watch.look().now;
        let delay = u64::from(self.config.inbox_delay_us);
        for (at, shard) in self.shards.iter_mut().enumerate() {
            if at != from {
                let look_at = now + Duration::from_micros(self.rng.between(0, delay));
                shard.inbox.push_back(note.clone());
                shard.look_at.get_or_insert(look_at);
            }
        }
    }

    /// When a shard wants to look into its inbox.
    pub(super) fn looks_at(&self, shard: usize) -> Option<Time> {
        self.shards.get(shard).and_then(|shard| shard.look_at)
    }

    /// A shard does what the others have told it.
    pub(super) fn take_notes(&mut self, shard: usize) {
        self.shards[shard].look_at = None;
        while let Some(note) = self.shards[shard].inbox.pop_front() {
            match note {
                Note::Open(session, lanes) => self.join(shard, session, &lanes),
                Note::Confirmed(session) => self.joined(shard, session),
                Note::Close(session) => self.leave(shard, session),
            }
        }
    }

    fn join(&mut self, shard: usize, session: SessionId, lanes: &Lanes) {
        let local = self.local();
        match self.shards[shard].endpoint.add_lanes(local, lanes) {
            Ok(id) => {
                self.shards[shard].names.insert(id, session);
                self.shards[shard].endpoint.set_room(id, self.room);
                let known = self.sessions.get_mut(&session);
                if let Some(place) = known.and_then(|known| known.places.get_mut(shard)) {
                    *place = Some(Place::new(id, Some(Vec::new())));
                }
                self.set_segment_limit(session);
            }
            Err(_) => self.tell_others(shard, &Note::Close(session)),
        }
    }

    fn joined(&mut self, shard: usize, session: SessionId) {
        let Some(known) = self.sessions.get_mut(&session) else { return };
        let peer = known.peer;
        let place = known.places.get_mut(shard).and_then(Option::as_mut);
        let held = place.filter(|place| !place.ended).and_then(|place| place.held.take());
        for event in held.unwrap_or_default() {
            self.happens(shard, event, &[]);
        }
        self.start_waiting(peer);
    }

    fn leave(&mut self, shard: usize, session: SessionId) {
        let local = self.local();
        let known = self.sessions.get_mut(&session);
        let place = known.and_then(|known| known.places.get_mut(shard)).and_then(Option::as_mut);
        if let Some(place) = place.filter(|place| !place.ended) {
            place.told = true;
            let id = place.id;
            self.shards[shard].endpoint.close(local, id);
        }
    }

    /// Forgets sessions that no shard has any more, nor will have.
    pub(super) fn forget_sessions(&mut self) {
        if self.shards.iter().any(|shard| !shard.inbox.is_empty()) {
            return;
        }
        let (shards, count) = (&self.shards, self.sessions.len());
        self.sessions.retain(|_, known| {
            let mut places = shards.iter().zip(&known.places);
            let there = |(shard, place): (&Shard, &Option<Place>)| {
                place.as_ref().is_some_and(|place| shard.endpoint.path(place.id).is_some())
            };
            !known.over || places.any(there)
        });
        if self.sessions.len() < count {
            let sessions = &self.sessions;
            for shard in &mut self.shards {
                shard.names.retain(|_, session| sessions.contains_key(session));
            }
        }
    }

    /// Whether every shard has each session that works, and has been told of each that is over; what is
    /// wrong if not. To be asked when nothing has happened for longer than notes take.
    pub fn uneven(&self) -> Option<String> {
        if self.shards.iter().any(|shard| !shard.inbox.is_empty()) {
            return Some("shards have not looked into their inboxes".to_owned());
        }
        for known in self.sessions.values() {
            let at = |good: fn(&Place) -> bool| {
                known.places.iter().filter(|place| place.as_ref().is_some_and(good)).count()
            };
            let (usable, ended) = (at(Place::is_usable), at(|place| place.ended || place.told));
            let (key, all) = (known.key, self.shards.len());
            if known.established && !known.over && usable < all {
                return Some(format!("{key:?} works at {usable} of {all} shards"));
            }
            if known.over && known.is_keyed() && usable > 0 {
                return Some(format!("{key:?} is over at {ended} of {all} shards"));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_steered_by_their_lane_and_handshakes_to_the_first_shard() {
        let packet = |epoch: u8, kind: u8, id: u8| {
            let mut packet = [0; 28];
            (packet[EPOCH], packet[TYPE], packet[LAST_OF_ID]) = (epoch, kind, id);
            packet
        };
        for shards in [1, 2, 4, 8] {
            for id in 0..=255 {
                let lane = usize::from(id >> 2) % shards;
                assert_eq!(steer(&packet(3, 0x10, id), shards), Some(lane));
                assert_eq!(steer(&packet(0, UNKNOWN, id), shards), Some(lane));
                assert_eq!(steer(&packet(0, 0x10, id), shards), Some(0));
            }
        }
        assert_eq!(steer(&packet(3, 0x10, 4)[..27], 2), None);
        assert_eq!(steer(&[], 1), Some(0));
    }
}
