//! Packets out: control first, then flights, RETRYs, and messages by the bytes they have left.

use core::net::{IpAddr, SocketAddr};

use super::queue::Entry;
use super::{Endpoint, PendingControl, Shared};
use crate::cutoffs::HIGHEST;
use crate::session::Path;
use crate::session::lanes::Lane;
use crate::session::transmit::Written;
use crate::time::Time;
use crate::wire::{Control, ControlBody, DATA_LEN, Header, MAX_LANES, UnknownCode};

/// A packet written into the frame that was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where it goes; port 0, or the peer's UDP port under UDP.
    pub remote: SocketAddr,
    /// The address to send from, if it matters.
    pub local: Option<IpAddr>,
    /// Its length in bytes.
    pub len: usize,
    /// Payload bytes per packet if the device is to cut it into packets: what follows the first 52 bytes
    /// is cut, those are put in front of each piece, and the pieces' IPv4 IDs count from 0 (spec 4.3).
    /// Only in sessions with a [segment limit](Endpoint::set_segment_limit).
    pub segment: Option<u16>,
    /// Its priority in the network, 0..=7; 7 is the highest (spec 6.9).
    pub priority: u8,
    /// Which lane of its session it belongs to (spec 3.5): packets of several may be for several sockets
    /// of the peer. 0 in sessions of one lane.
    pub lane: u8,
}

/// Priority of what others wait for: control packets and flights.
pub(super) const URGENT: u8 = HIGHEST;

impl Transmit {
    /// One packet.
    pub(super) fn new(path: &Path, lane: u8, len: usize, priority: u8) -> Self {
        Transmit { remote: path.remote, local: path.local, len, segment: None, priority, lane }
    }

    /// How many packets it becomes.
    fn packets(&self) -> u64 {
        let cut = |size: u16| (self.len - DATA_LEN).div_ceil(usize::from(size.max(1))) as u64;
        self.segment.map_or(1, cut)
    }
}

impl Endpoint {
    /// Writes the next packet or segment to send into `frame`; `None` when there is none now. A frame
    /// shorter than the path's packets makes packets shorter; no segment is longer than the frame. A call that can no longer be sent ends here: look
    /// for its event.
    pub fn poll_transmit(&mut self, now: Time, frame: &mut [u8]) -> Option<Transmit> {
        if self.shared.deferred.has_sent() {
            self.settle();
        }
        if self.shared.queue.wants_purge() {
            let Endpoint { sessions, shared, .. } = self;
            shared.queue.purge(|entry| {
                sessions.get_mut(entry.session).is_some_and(|session| session.is_queued(entry))
            });
        }
        let transmit = self
            .transmit_answer(now, frame)
            .or_else(|| self.transmit_control(frame))
            .or_else(|| self.transmit_flight(now, frame))
            .or_else(|| self.transmit_retry(now, frame))
            .or_else(|| self.transmit_message(now, frame))
            // What could not be sent is cancelled, and what came free is granted to others.
            .or_else(|| {
                self.sweep();
                self.transmit_control(frame)
            })?;
        self.shared.pacer.sent(transmit.len);
        self.shared.stats.packets_sent += transmit.packets();
        Some(transmit)
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) may have something.
    pub fn wants_transmit(&self) -> bool {
        let shared = &self.shared;
        !shared.control.is_empty()
            || shared.regrant
            || !shared.flights.is_empty()
            || !shared.answers.is_empty()
            || self.retries.is_waiting()
            || shared.queue.has_small()
            || (shared.queue.has_large() && !shared.pacer.is_full())
    }

    /// What a client must have before anything under the keys of a server's answer makes sense.
    fn transmit_answer(&mut self, now: Time, frame: &mut [u8]) -> Option<Transmit> {
        while let Some(id) = self.shared.answers.pop_front() {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            let written = session.write_flight(&mut self.shared, now, frame, true);
            if let Written::Packet { len, .. } = written {
                return Some(Transmit::new(&session.path, session.lane.index(), len, URGENT));
            }
        }
        None
    }

    fn transmit_control(&mut self, frame: &mut [u8]) -> Option<Transmit> {
        while let Some(pending) = self.shared.control.pop_front() {
            match pending {
                PendingControl::Session(session, id, notice) => {
                    let Some(session) = self.sessions.get_mut(session) else { continue };
                    let Shared { sizes, stats, .. } = &mut self.shared;
                    let written =
                        session.write_control(sizes.cutoffs(), stats, (id, notice), frame);
                    if let Some(len) = written {
                        return Some(Transmit::new(
                            &session.path,
                            session.lane.index(),
                            len,
                            URGENT,
                        ));
                    }
                }
                PendingControl::Last(last) => {
                    let (path, lane, packet) = *last;
                    if let Some(room) = frame.get_mut(..packet.len()) {
                        room.copy_from_slice(&packet);
                        return Some(Transmit::new(&path, lane, packet.len(), URGENT));
                    }
                }
                PendingControl::NoSession(path, message_id) => {
                    let header = Header {
                        src_port: path.local_port,
                        dst_port: path.remote_port,
                        epoch: 0,
                        message_id,
                    };
                    let body = ControlBody::Unknown(UnknownCode::NoSession);
                    let len = Control { header, body, number: 0 }.emit(frame);
                    // As far as the ID tells: nobody here knows how many lanes there are.
                    let lane = Lane::new(0, MAX_LANES).of_id(message_id);
                    return Some(Transmit::new(&path, lane, len, URGENT));
                }
            }
        }
        None
    }

    fn transmit_flight(&mut self, now: Time, frame: &mut [u8]) -> Option<Transmit> {
        while let Some(id) = self.shared.flights.pop_front() {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            match session.write_flight(&mut self.shared, now, frame, false) {
                Written::Packet { len, left, .. } => {
                    let more = left.is_some();
                    if more {
                        self.shared.flights.push_front(id);
                    }
                    session.flight_queued(more);
                    return Some(Transmit::new(&session.path, session.lane.index(), len, URGENT));
                }
                Written::Nothing | Written::Gone => session.flight_queued(false),
            }
        }
        None
    }

    fn transmit_message(&mut self, now: Time, frame: &mut [u8]) -> Option<Transmit> {
        let full = self.shared.pacer.is_full();
        while let Some(turn) = self.shared.queue.next(full) {
            let Entry { session, id, ticket, .. } = turn.entry;
            let Some(session) = self.sessions.get_mut(session) else {
                self.shared.queue.was_dead(turn);
                continue;
            };
            if turn.entry.is_of_session() {
                let (written, cut_short) = session.write_waiting(&mut self.shared, now, frame);
                self.shared.queue.served_session(turn, session.next_waiting());
                if let Some(id) = cut_short {
                    session.queue_rest(&mut self.shared, id);
                }
                if let Written::Packet { len, priority, .. } = written {
                    return Some(Transmit::new(&session.path, session.lane.index(), len, priority));
                }
                continue;
            }
            match session.write_data(&mut self.shared, now, (id, ticket), frame) {
                Written::Packet { len, segment, priority, left } => {
                    self.shared.queue.served(turn, left);
                    let transmit =
                        Transmit::new(&session.path, session.lane.index(), len, priority);
                    return Some(Transmit { segment, ..transmit });
                }
                Written::Nothing => self.shared.queue.served(turn, None),
                Written::Gone => self.shared.queue.was_dead(turn),
            }
        }
        if full && self.shared.queue.has_large() {
            self.shared.pacer.stalled(&mut self.shared.stats);
        }
        None
    }
}
