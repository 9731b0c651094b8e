//! What befalls a host: pauses, crashes, and what its operator does.

use std::time::Duration;

use smt_proto::{SessionId, Time};

use super::agenda::Task;
use super::shards::{Shard, config_of};
use super::{Host, Power};
use crate::check::delivery::Outcome;
use crate::check::sessions::SessionKey;
use crate::packet::HostId;
use crate::scenario::HostFaultKind;

impl Host {
    pub(super) fn perform(&mut self, task: Task) {
        match task {
            Task::Call(call) => self.begin(call),
            Task::GiveUp(call) => self.give_up(call),
            Task::Cancel(call) => self.cancel(call),
            Task::Answer(rpc, call) => match self.stalled_until(rpc.shard) {
                Some(until) => self.agenda.add(until, task),
                None => self.answer(rpc, call),
            },
            Task::Speak(session) => match self.stalled_until(0) {
                Some(until) => self.agenda.add(until, task),
                None => self.speak(session),
            },
            Task::Try(peer) => self.start_waiting(peer),
            Task::Reconnect(peer) => {
                self.connecting.remove(&peer);
                self.start_waiting(peer);
            }
            Task::Mishap(kind) => self.mishap(kind),
        }
    }

    fn mishap(&mut self, kind: HostFaultKind) {
        let now = self.watch.look().now;
        let counted = match kind {
            HostFaultKind::Pause { .. } => 0,
            HostFaultKind::Crash { .. } => 1,
            HostFaultKind::Stall { .. } => 3,
            HostFaultKind::Misdirect { .. } => 4,
            _ => 2,
        };
        if let Some(count) = self.watch.report().host_faults.get_mut(counted) {
            *count += 1;
        }
        match kind {
            HostFaultKind::Pause { us } => {
                self.power = Power::Paused(now + Duration::from_micros(us));
            }
            HostFaultKind::Crash { us } => {
                self.crash();
                self.power = Power::Down(now + Duration::from_micros(us));
            }
            HostFaultKind::Stall { shard, us } => {
                // What has happened so far has happened.
                self.drain();
                let shard = shard as usize % self.shards.len();
                self.shards[shard].stalled = Some(now + Duration::from_micros(us));
            }
            HostFaultKind::Misdirect { us } => {
                self.misdirected = Some(now + Duration::from_micros(us));
            }
            HostFaultKind::Close { peer } => self.close_all(Some(peer)),
            HostFaultKind::Room { bytes } => {
                self.room = bytes as usize;
                for Shard { endpoint, .. } in &mut self.shards {
                    for session in endpoint.sessions() {
                        endpoint.set_room(session, self.room);
                    }
                }
            }
            HostFaultKind::Segments { bytes } => {
                self.segment_bytes = bytes as usize;
                let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
                sessions.into_iter().for_each(|session| self.set_segment_limit(session));
            }
            HostFaultKind::UpdateKeys => self.at_all_places(|shard, session, _| {
                shard.endpoint.update_keys(session);
            }),
            HostFaultKind::AskUpdate => self.at_all_places(|shard, session, local| {
                shard.endpoint.request_update(local, session);
            }),
            HostFaultKind::RotateTickets => self.rotate_tickets(),
            HostFaultKind::Overrun => {
                self.shards.iter_mut().for_each(|shard| shard.endpoint.receive_overrun());
            }
        }
    }

    /// Does something in all sessions, at all shards that have them and do not stand still.
    fn at_all_places(&mut self, act: impl Fn(&mut Shard, SessionId, Time)) {
        let local = self.local();
        let places = self.sessions.keys().flat_map(|session| self.places(*session));
        let places: Vec<(usize, SessionId)> = places.collect();
        for (at, id) in places {
            if !self.is_stalled(at) {
                act(&mut self.shards[at], id, local);
            }
        }
    }

    /// Tells the core of a session what the card takes.
    pub(super) fn set_segment_limit(&mut self, session: SessionId) {
        if self.config.nic.is_some() {
            for (at, id) in self.places(session) {
                self.shards[at].endpoint.set_segment_limit(id, self.segment_bytes);
            }
        }
    }

    /// Goes on after a pause: takes what has arrived before it looks at the clock.
    pub(super) fn power_up(&mut self, now: Time) {
        match self.power {
            Power::Paused(until) if until <= now => {
                self.power = Power::On;
                (0..self.shards.len()).for_each(|shard| self.catch_up(shard));
            }
            Power::Down(until) if until <= now => self.power = Power::On,
            _ => {}
        }
        if self.power == Power::On {
            for shard in 0..self.shards.len() {
                if self.stalled_until(shard).is_some_and(|until| until <= now) {
                    self.shards[shard].stalled = None;
                    self.catch_up(shard);
                }
            }
        }
    }

    /// A shard takes what has arrived while it stood still.
    fn catch_up(&mut self, shard: usize) {
        if self.is_stalled(shard) {
            return;
        }
        if self.shards[shard].ring.len() >= self.config.ring_packets as usize {
            self.shards[shard].endpoint.receive_overrun();
        }
        while let Some(mut packet) = self.shards[shard].ring.pop_front() {
            self.take(shard, &mut packet);
        }
    }

    /// Forgets everything. Calls of this life are over as far as anybody can tell.
    fn crash(&mut self) {
        self.past = self.stats();
        let count = self.config.shards;
        for (index, shard) in self.shards.iter_mut().enumerate() {
            let random = Box::new(self.rng.fork(self.rng.clone().next_u64()));
            self.rng.next_u64();
            *shard = Shard::new(config_of(&self.core, index, count), random);
        }
        let mut watch = self.watch.report();
        for call in self.started.keys() {
            watch.end(self.id, *call, Outcome::Lost);
        }
        for call in self.waiting.values().flatten() {
            watch.end(self.id, *call, Outcome::NotStarted);
        }
        watch.crashed(self.id);
        drop(watch);
        self.sessions.clear();
        self.waiting.clear();
        self.connecting.clear();
        self.started.clear();
        self.long.clear();
        self.working.clear();
        self.cut.clear();
        self.trying.clear();
        self.agenda.crash();
        self.lose_tickets();
    }

    /// Closes all sessions, or those with a peer.
    pub fn close_all(&mut self, peer: Option<HostId>) {
        let local = self.local();
        let some: Vec<(SessionId, SessionKey)> = self
            .sessions
            .iter()
            .filter(|(_, known)| !known.over && peer.is_none_or(|peer| peer == known.peer))
            .map(|(id, known)| (*id, known.key))
            .collect();
        for (session, key) in some {
            // Any shard can say so.
            let shards = self.usable_at(session);
            let Some(shard) = self.rng.pick(&shards).copied() else { continue };
            let Some(id) = self.name_at(shard, session) else { continue };
            self.watch.report().closing(key);
            self.shards[shard].endpoint.close(local, id);
            self.drain();
            // One without keys goes without a word.
            self.drop_session(session);
        }
        self.drain();
    }
}

/// Adds the counters of a life to those before it, as far as anybody asks for them.
pub(super) fn add(past: &mut smt_proto::Stats, life: &smt_proto::Stats) {
    past.packets_sent += life.packets_sent;
    past.packets_received += life.packets_received;
    past.bundles_received += life.bundles_received;
    past.bundled_received += life.bundled_received;
    past.tso_segments_sent += life.tso_segments_sent;
    past.tso_segments_lost += life.tso_segments_lost;
    past.tso_segments_spurious += life.tso_segments_spurious;
    past.tso_confirmed += life.tso_confirmed;
    past.tso_given_up += life.tso_given_up;
    past.packets_retransmitted += life.packets_retransmitted;
    past.resends_sent += life.resends_sent;
    past.handshakes_started += life.handshakes_started;
    past.handshakes_completed += life.handshakes_completed;
    past.handshakes_failed += life.handshakes_failed;
    past.retries_sent += life.retries_sent;
    past.retries_received += life.retries_received;
    past.sessions_dead += life.sessions_dead;
    past.early_accepted += life.early_accepted;
    past.early_refused += life.early_refused;
    past.early_requests_received += life.early_requests_received;
    past.posts_received += life.posts_received;
    past.key_updates += life.key_updates;
    past.key_updates_asked += life.key_updates_asked;
    past.limit_failed_opens += life.limit_failed_opens;
    past.records_sealed += life.records_sealed;
    past.records_not_authentic += life.records_not_authentic;
    past.dropped_bad_tag += life.dropped_bad_tag;
    past.dropped_replayed_control += life.dropped_replayed_control;
    past.dropped_replayed_request += life.dropped_replayed_request;
    past.grants_sent += life.grants_sent;
    past.busy_sent += life.busy_sent;
    past.probes_sent += life.probes_sent;
    past.violations += life.violations;
    past.lanes_opened += life.lanes_opened;
    past.dropped_wrong_lane += life.dropped_wrong_lane;
}
