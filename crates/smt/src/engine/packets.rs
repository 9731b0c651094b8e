//! Packets between the datapath and the core.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use smt_datapath::{PathError, PathErrorKind, TxMeta};
use smt_proto::{Event as CoreEvent, PacketMeta, SessionId, Time};

use super::{Engine, Event};

/// Bursts received, and sent, in one poll: then it is the other's turn.
const MAX_BURSTS: usize = 8;
/// Packets sealed before they are handed to the host, so that the receiver works on them while the
/// next are sealed.
const FLUSH_AFTER: usize = 8;
/// Bytes received, and sent, after which it is the other's turn, and that of events, however few bursts
/// they were: small messages wait no longer than large ones take so far.
const TURN_BYTES: usize = 96 << 10;
/// Bytes that are worth a call to the host of their own: a record, say, or several of many packets.
const WORTH_A_CALL: usize = 12 << 10;
/// Packets in a first burst that make another one likely.
const SHORT_BURST: usize = 4;
/// Polls that find few packets each, and never none, of which one looks at the timers all the same.
const MAX_BUSY_POLLS: u32 = 64;
/// What a packet takes of a receive buffer beside its bytes, about.
const PACKET_OVERHEAD: usize = 512;
/// Polls of a spinning caller of which one looks at timers.
pub(super) const LEAN_POLLS: u32 = 8;
/// Bytes of a message that may be more than a packet.
const WORTH_A_SEGMENT: usize = 1024;
/// How often the error queue and the datapath's counters are looked at.
const PATH_PACE: Duration = Duration::from_micros(200);

impl Engine {
    /// Sends what waits, receives what is there, does what is due. True if any packet moved or event
    /// came. Never waits.
    ///
    /// # Errors
    /// Only what makes the datapath unusable.
    pub fn poll(&mut self) -> io::Result<bool> {
        self.poll_after(None)
    }

    /// As [`poll`](Self::poll), after a sleep that has received so many packets, if it was a receive.
    pub(super) fn poll_after(&mut self, mut met: Option<usize>) -> io::Result<bool> {
        let mut worked = self.send()?;
        let (mut drained, mut is_short) = (false, false);
        self.has_received = false;
        let mut taken = 0;
        for burst in 0..MAX_BURSTS {
            let received = match met.take() {
                Some(received) => received,
                None => self.datapath.recv()?,
            };
            drained = received == 0;
            self.is_quiet = received <= 1;
            if drained {
                break;
            }
            (worked, self.has_received) = (true, true);
            taken += self.take_packets(received);
            // A short burst may have been the last, but asking costs a system call: the next poll
            // will know. A lone packet is answered at once.
            is_short = burst == 0 && received < SHORT_BURST;
            if is_short || taken >= TURN_BYTES {
                break;
            }
        }
        self.polls = self.polls.wrapping_add(1);
        worked |= self.take_notes();
        if !worked && !self.waiter.is_watched() && !self.polls.is_multiple_of(LEAN_POLLS) {
            // A spinning caller: most of its turns ask for packets and nothing else.
            return Ok(false);
        }
        // A late wake-up must not pass for loss: first everything received, then the timers. But they do
        // not wait for ever either: when as much was taken as the receive buffer holds, everything that
        // was there when they came due is among it.
        // Few packets that are long may be all that one receive takes of many.
        let is_short = is_short && taken < TURN_BYTES / 4;
        self.short_polls = if is_short { self.short_polls + 1 } else { 0 };
        let busy = self.taken >= self.caps.rx_capacity || self.short_polls >= MAX_BUSY_POLLS;
        if drained || busy {
            (self.taken, self.short_polls) = (0, 0);
            self.do_what_is_due(!worked);
        }
        worked |= self.take_handshake_results();
        worked |= self.take_core_events();
        self.flush()?;
        Ok(worked)
    }

    /// Hands the packets of a burst to the core; returns how many bytes they have.
    fn take_packets(&mut self, received: usize) -> usize {
        // What the first packet in a lane is for was said before it was sent.
        self.take_notes();
        let now = self.now();
        let mut bytes = 0;
        for index in 0..received {
            let (meta, packet) = self.datapath.packet(index);
            let meta = PacketMeta { remote: meta.src, local: meta.dst, ip_id: meta.ip_id };
            bytes += packet.len();
            self.taken += packet.len() + PACKET_OVERHEAD;
            self.core.handle_packet(now, &meta, packet);
        }
        bytes
    }

    /// Timers, and what is beside the packets.
    fn do_what_is_due(&mut self, idle: bool) {
        self.waiter.acknowledge();
        let now = self.now();
        if self.core.poll_timeout().is_some_and(|due| due <= now) {
            self.core.handle_timeout(now);
            if self.core.wants_transmit() {
                self.timer_mattered();
            }
        }
        self.try_again(now);
        if !self.handshakes.later.is_empty() {
            self.begin_tls(now, idle && self.events.is_empty());
        }
        if now.since(self.path_looked_at) >= PATH_PACE {
            self.look_at_path(now);
        }
    }

    /// Sends what waits to be sent. True if there was something.
    ///
    /// # Errors
    /// Only what makes the datapath unusable.
    pub fn flush(&mut self) -> io::Result<bool> {
        let sent = self.send()?;
        // Who watches from outside may not come by again before a packet is lost.
        self.arm()?;
        Ok(sent)
    }

    /// As [`flush`](Self::flush), for who looks at timers later.
    pub(super) fn send(&mut self) -> io::Result<bool> {
        if self.core.is_paced() {
            self.tell_backlog();
        }
        if !self.core.wants_transmit() {
            return Ok(false);
        }
        let now = self.now();
        let mut handed = 0;
        for _ in 0..MAX_BURSTS {
            let mut sealed = 0;
            for _ in 0..FLUSH_AFTER {
                let Some(frame) = self.datapath.frame() else { break };
                let Some(transmit) = self.core.poll_transmit(now, frame) else { break };
                let meta = TxMeta {
                    dst: transmit.remote,
                    src: transmit.local,
                    len: transmit.len,
                    priority: transmit.priority,
                    segment: transmit.segment,
                    lane: transmit.lane,
                };
                self.datapath.commit(meta);
                sealed += transmit.len;
                if sealed >= WORTH_A_CALL || !self.core.wants_transmit() {
                    break;
                }
            }
            self.datapath.flush()?;
            self.core.settle();
            if self.core.is_paced() || (self.core.wants_transmit() && self.core.wants_backlog()) {
                self.tell_backlog();
            }
            handed += sealed;
            if handed >= TURN_BYTES || !self.core.wants_transmit() {
                break;
            }
        }
        // What the core noticed while it sent (a key at its limit) is told at once.
        self.take_core_events();
        Ok(true)
    }

    /// Tells the core what the host has not sent yet: long messages wait until it has.
    fn tell_backlog(&mut self) {
        let now = self.now();
        self.core.set_backlog(now, self.datapath.backlog());
    }

    /// What the network and the datapath say beside packets.
    fn look_at_path(&mut self, now: Time) {
        self.path_looked_at = now;
        while let Some(error) = self.datapath.path_error() {
            self.on_path_error(now, &error);
            self.share_path_error(error);
        }
        let stats = self.datapath.stats();
        if stats.tx_segment_errors > self.segment_errors {
            let segments = stats.tx_segment_errors - self.segment_errors;
            tracing::debug!(segments, "the host refused TSO segments");
            self.segment_errors = stats.tx_segment_errors;
            for session in self.core.sessions() {
                self.tell_segment_limit(session);
            }
        }
        let overruns = stats.rx_overruns;
        if overruns > self.overruns {
            tracing::debug!(packets = overruns - self.overruns, "receive buffer overran");
            self.overruns = overruns;
            self.core.receive_overrun();
        }
    }

    /// What the network said of a packet of this endpoint.
    pub(super) fn on_path_error(&mut self, now: Time, error: &PathError) {
        tracing::debug!(?error.kind, dst = %error.dst, "path error");
        match error.kind {
            PathErrorKind::Refused => {
                self.core.handle_unreachable(now, error.dst, true, &error.quoted);
            }
            PathErrorKind::Unreachable => {
                self.core.handle_unreachable(now, error.dst, false, &error.quoted);
            }
            PathErrorKind::MtuChanged(_) => self.path_changed(error.dst),
        }
    }

    /// The MTU towards a host changed: its sessions get the new one.
    fn path_changed(&mut self, dst: SocketAddr) {
        self.mtus.forget(dst.ip());
        let Some(room) = self.room(dst) else { return };
        for session in self.core.sessions() {
            if self.core.path(session).is_some_and(|path| path.remote.ip() == dst.ip()) {
                self.core.set_room(session, room);
                self.tell_segment_limit(session);
            }
        }
    }

    /// A message of `len` bytes is about to be sent in a session: the datapath may know the way now, or
    /// another one.
    pub(super) fn before_message(&mut self, session: SessionId, len: usize) {
        if len >= WORTH_A_SEGMENT && self.caps.tx_segment > 0 {
            self.tell_segment_limit(session);
        }
    }

    /// Tells the core what the device towards a session's peer takes as a TSO segment.
    fn tell_segment_limit(&mut self, session: SessionId) {
        if let Some(path) = self.core.path(session) {
            let limit = self.datapath.tso(path.remote.ip());
            self.core.set_segment_limit(session, limit);
        }
    }

    /// Hands the core's events on; those of handshakes stay here.
    pub(super) fn take_core_events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.core.poll_event() {
            any = true;
            match event {
                CoreEvent::Flight { session, number, bytes, offer } => {
                    self.on_flight(session, number, bytes, offer);
                }
                CoreEvent::EarlyRefused { session } => self.on_early_refused(session),
                CoreEvent::Post { session, body } => self.on_post(session, &body),
                CoreEvent::Established { session } => self.on_established(session),
                CoreEvent::HandshakeFailed { session, error } => {
                    self.on_handshake_failed(session, error);
                }
                CoreEvent::Request { rpc, body, early } => {
                    self.tell_in(rpc.session, Event::Request { rpc, body, early });
                }
                CoreEvent::RequestCancelled { rpc } => {
                    self.tell_in(rpc.session, Event::RequestCancelled { rpc });
                }
                CoreEvent::Response { rpc, user, result } => self.call_ended(rpc, user, result),
                CoreEvent::SegmentsLost { session, off_for } => {
                    tracing::warn!(
                        remote = ?self.remote_of(session),
                        ?off_for,
                        "segments get lost on the way: sending packets instead"
                    );
                }
                CoreEvent::KeyUpdateWanted { session } => {
                    self.events.push_back(Event::KeyUpdateWanted { session });
                }
                CoreEvent::Closed { session, reason } => {
                    self.sessions.remove(&session);
                    self.registered.remove(&session);
                    self.handshakes.forget_session(session);
                    self.connects.forget_session(session);
                    if let Some(reason) = self.share_closed(session, reason) {
                        self.events.push_back(Event::Closed { session, reason });
                    }
                }
            }
        }
        any
    }

    /// The peer's address with its SMT port in the place of the datapath's.
    pub(super) fn remote_of(&self, session: SessionId) -> Option<SocketAddr> {
        let path = self.core.path(session)?;
        Some(SocketAddr::new(path.remote.ip(), path.remote_port))
    }
}

#[cfg(test)]
#[path = "turn_tests.rs"]
mod tests;
