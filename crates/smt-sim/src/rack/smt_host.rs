//! A host that speaks SMT: the real core, and an application that calls and answers.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use smt_proto::error::StartError;
use smt_proto::{Endpoint, Event, PacketMeta, SessionId, Time};

use super::journal::{Entry, Journal};
use crate::net::{address, host_of};
use crate::packet::{HostId, Packet};
use crate::rng::mix;
use crate::stack::Stack;

/// Longer than any run.
const NO_DEADLINE: Duration = Duration::from_secs(1 << 20);

/// A message that its session has no room for yet.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    to: HostId,
    bytes: u32,
    message: u64,
}

/// A host with sessions to others. Its application answers every request at once.
pub struct SmtHost {
    /// The core.
    pub endpoint: Endpoint,
    me: HostId,
    /// By host; `None` where there is no session.
    sessions: Vec<Option<SessionId>>,
    /// By session, in the order of their ids.
    peers: Vec<(SessionId, HostId)>,
    waiting: VecDeque<Waiting>,
    /// As many zeros as the longest message; bodies are slices of it.
    zeros: Bytes,
    /// Application bytes of every response.
    response: u32,
    /// Where packets are written, as long as the largest. All hosts have the same, which stays in the
    /// cache.
    frame: Rc<RefCell<Vec<u8>>>,
    journal: Rc<Journal>,
}

impl SmtHost {
    /// Host `me` around a core without sessions. Messages may be as long as `zeros`,
    /// packets as long as `frame`.
    pub fn new(
        me: HostId,
        endpoint: Endpoint,
        frame: Rc<RefCell<Vec<u8>>>,
        zeros: Bytes,
        response: u32,
        journal: Rc<Journal>,
    ) -> SmtHost {
        let (sessions, peers, waiting) = (Vec::new(), Vec::new(), VecDeque::new());
        SmtHost { endpoint, me, sessions, peers, waiting, zeros, response, frame, journal }
    }

    /// Tells which session leads to which host.
    pub fn add_peer(&mut self, peer: HostId, session: SessionId) {
        let at = peer as usize;
        if self.sessions.len() <= at {
            self.sessions.resize(at + 1, None);
        }
        if let Some(slot) = self.sessions.get_mut(at) {
            *slot = Some(session);
        }
        let at = self.peers.partition_point(|(other, _)| *other < session);
        self.peers.insert(at, (session, peer));
    }

    /// Calls `to` with a request of `bytes` application bytes. A session without room for it has it
    /// wait, in order.
    pub fn send(&mut self, now: Time, to: HostId, bytes: u32, message: u64) {
        let waiting = Waiting { to, bytes, message };
        let queued = self.waiting.iter().any(|other| other.to == to);
        if queued || !self.start(now, waiting) {
            self.waiting.push_back(waiting);
        }
        self.settle(now);
    }

    /// Messages that wait for room in their session.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Starts a call; false if its session has no room for it now.
    fn start(&mut self, now: Time, call: Waiting) -> bool {
        let Waiting { to, bytes, message } = call;
        let failed = Entry::Ended { message, at: now, ok: false };
        let Some(session) = self.sessions.get(to as usize).copied().flatten() else {
            self.journal.note(failed);
            return true;
        };
        let body = self.zeros.slice(..(bytes as usize).min(self.zeros.len()));
        match self.endpoint.start_call(session, body, now + NO_DEADLINE, message) {
            Ok(_) => self.journal.number(self.me, to, message),
            Err(StartError::TooManyOutstanding | StartError::Backpressure) => return false,
            Err(_) => self.journal.note(failed),
        }
        true
    }

    /// Starts what waited, as far as there is room now.
    fn start_waiting(&mut self, now: Time) {
        let mut full: Vec<HostId> = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(call) = self.waiting.pop_front() else { return };
            if full.contains(&call.to) || !self.start(now, call) {
                full.push(call.to);
                self.waiting.push_back(call);
            }
        }
    }

    /// Answers, notes and tidies up: nothing is left for later but packets and timers.
    fn settle(&mut self, now: Time) {
        self.endpoint.settle();
        while let Some(event) = self.endpoint.poll_event() {
            self.on_event(now, event);
            self.endpoint.settle();
        }
    }

    fn on_event(&mut self, now: Time, event: Event) {
        match event {
            Event::Request { rpc, .. } => {
                let peer = self.peer_of(rpc.session);
                let message = peer.and_then(|peer| self.journal.message(peer, self.me, rpc.number));
                if let Some(message) = message {
                    self.journal.note(Entry::Arrived { message, at: now });
                }
                let response = (self.response as usize).min(self.zeros.len());
                self.endpoint.reply(rpc, self.zeros.slice(..response));
            }
            Event::Response { user: message, result, .. } => {
                self.journal.note(Entry::Ended { message, at: now, ok: result.is_ok() });
                if !self.waiting.is_empty() {
                    self.start_waiting(now);
                }
            }
            Event::Closed { .. } => self.journal.session_lost(),
            _ => {}
        }
    }

    fn peer_of(&self, session: SessionId) -> Option<HostId> {
        let at = self.peers.binary_search_by_key(&session, |(session, _)| *session).ok()?;
        self.peers.get(at).map(|(_, peer)| *peer)
    }
}

impl Stack for SmtHost {
    fn receive(&mut self, now: Time, packet: &mut Packet) {
        let meta =
            PacketMeta { remote: address(packet.src), local: address(self.me).ip(), ip_id: None };
        self.endpoint.handle_packet(now, &meta, &mut packet.bytes);
        self.settle(now);
    }

    fn timeout(&mut self, now: Time) {
        self.endpoint.handle_timeout(now);
        self.settle(now);
    }

    fn next_timeout(&self) -> Option<Time> {
        self.endpoint.poll_timeout()
    }

    fn transmit(&mut self, now: Time, packet: &mut Packet) -> bool {
        if !self.endpoint.wants_transmit() {
            return false;
        }
        let mut frame = self.frame.borrow_mut();
        let Some(transmit) = self.endpoint.poll_transmit(now, &mut frame) else {
            drop(frame);
            self.settle(now);
            return false;
        };
        packet.bytes.extend_from_slice(frame.get(..transmit.len).unwrap_or_default());
        drop(frame);
        packet.src = self.me;
        packet.priority = transmit.priority;
        packet.dst = host_of(transmit.remote.ip()).unwrap_or(self.me);
        packet.flow = mix(u64::from(packet.src) << 32 | u64::from(packet.dst));
        self.settle(now);
        true
    }
}
