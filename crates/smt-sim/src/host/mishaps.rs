//! What befalls a host: pauses, crashes, and what its operator does.

use std::time::Duration;

use smt_proto::{Endpoint, SessionId, Time};

use super::agenda::Task;
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
            Task::Answer(rpc, call) => self.answer(rpc, call),
            Task::Speak(session) => self.speak(session),
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
            HostFaultKind::Close { peer } => self.close_all(Some(peer)),
            HostFaultKind::Room { bytes } => {
                self.room = bytes as usize;
                for session in self.endpoint.sessions() {
                    self.endpoint.set_room(session, self.room);
                }
            }
            HostFaultKind::Segments { bytes } => {
                self.segment_bytes = bytes as usize;
                for session in self.endpoint.sessions() {
                    self.set_segment_limit(session);
                }
            }
            HostFaultKind::UpdateKeys => {
                for session in self.sessions.keys() {
                    self.endpoint.update_keys(*session);
                }
            }
            HostFaultKind::AskUpdate => {
                let local = self.local();
                for session in self.sessions.keys() {
                    self.endpoint.request_update(local, *session);
                }
            }
            HostFaultKind::RotateTickets => self.rotate_tickets(),
            HostFaultKind::Overrun => self.endpoint.receive_overrun(),
        }
    }

    /// Tells the core of a session what the card takes.
    pub(super) fn set_segment_limit(&mut self, session: SessionId) {
        if self.config.nic.is_some() {
            self.endpoint.set_segment_limit(session, self.segment_bytes);
        }
    }

    /// Goes on after a pause: takes what has arrived before it looks at the clock.
    pub(super) fn power_up(&mut self, now: Time) {
        match self.power {
            Power::Paused(until) if until <= now => {
                self.power = Power::On;
                if self.ring.len() >= self.config.ring_packets as usize {
                    self.endpoint.receive_overrun();
                }
                while let Some(mut packet) = self.ring.pop_front() {
                    self.take(&mut packet);
                }
            }
            Power::Down(until) if until <= now => self.power = Power::On,
            _ => {}
        }
    }

    /// Forgets everything. Calls of this life are over as far as anybody can tell.
    fn crash(&mut self) {
        add(&mut self.past, self.endpoint.stats());
        let random = Box::new(self.rng.fork(self.rng.clone().next_u64()));
        self.rng.next_u64();
        self.endpoint = Endpoint::new(self.core.clone(), random);
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
        self.ring.clear();
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
        for (id, key) in some {
            self.watch.report().closing(key);
            self.endpoint.close(local, id);
            self.drain();
            // One without keys goes without a word.
            self.drop_session(id);
        }
        self.drain();
    }
}

/// Adds the counters of a life to those before it, as far as anybody asks for them.
fn add(past: &mut smt_proto::Stats, life: &smt_proto::Stats) {
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
}
