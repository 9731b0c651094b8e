//! The handshake's transport: TLS flights as messages of epoch 0, repeated whole until answered
//! (spec 5.1). What is in them is the TLS stack's business.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use crate::crypto::Suite;
use crate::keys::{early_context, key_context};
use crate::limits::Limits;
use crate::ranges::RangeSet;
use crate::session::Role;
use crate::time::Time;
use crate::wire::{DATA_LEN, EARLY_EPOCH, peek};

/// First interval after which a client repeats its flight.
pub(crate) const FIRST_REPEAT: Duration = Duration::from_millis(5);
/// Longest such interval.
pub(crate) const MAX_REPEAT: Duration = Duration::from_millis(250);
/// A server repeats its flight at most this often.
pub(crate) const ANSWER_PACE: Duration = Duration::from_millis(1);
/// Bytes a server sends per byte received before the client's address is proven.
pub(crate) const AMPLIFICATION: u64 = 3;

/// What goes into the hash that binds keys to this very handshake (spec 5.1).
#[derive(Clone, Debug)]
pub struct KeyContext {
    client_port: u16,
    server_port: u16,
    client_block: Vec<u8>,
    server_block: Vec<u8>,
}

impl KeyContext {
    /// The context value for the negotiated `suite` and `alpn`, for the TLS exporter.
    pub fn compute(&self, suite: &dyn Suite, alpn: &[u8]) -> Vec<u8> {
        let (client, server) = (&self.client_block, &self.server_block);
        key_context(suite, alpn, self.client_port, self.server_port, client, server).to_vec()
    }
}

/// What goes into the hash that binds the keys of early data to the client's first flight (spec 5.7).
#[derive(Clone, Debug)]
pub struct EarlyBinding {
    /// The client's SMT port.
    pub client_port: u16,
    /// The server's SMT port.
    pub server_port: u16,
    /// The client's parameter block as sent.
    pub client_block: Vec<u8>,
    /// The TLS bytes of flight 0.
    pub tls_flight0: Vec<u8>,
}

impl EarlyBinding {
    /// The context value for the `suite` and `alpn` of `ticket`.
    ///
    /// # Panics
    /// If `alpn` is longer than 255 bytes.
    pub fn context(&self, suite: &dyn Suite, ticket: &[u8], alpn: &[u8]) -> Vec<u8> {
        let ports = (self.client_port, self.server_port);
        let (block, flight) = (&self.client_block, &self.tls_flight0);
        early_context(suite, alpn, ports.0, ports.1, ticket, block, flight)
    }
}

/// A packet that came before there were keys to check it.
#[derive(Debug)]
pub(crate) struct Early {
    pub(crate) ip_id: Option<u16>,
    pub(crate) packet: Vec<u8>,
}

/// One packet's worth of our flight.
pub(crate) struct FlightPiece<'a> {
    pub(crate) number: u32,
    /// Length of the flight.
    pub(crate) total: u32,
    pub(crate) offset: u32,
    pub(crate) bytes: &'a [u8],
}

/// A flight being received.
#[derive(Debug)]
struct Assembly {
    bytes: Vec<u8>,
    have: RangeSet,
}

/// What a packet of epoch 0 did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FlightStep {
    /// More is missing, or it was of no use.
    Nothing,
    /// The peer repeats a flight we hold: it may have missed ours.
    Repeated,
    /// Flight `number` is complete.
    Complete { number: u32, bytes: Vec<u8> },
    /// A bound was broken.
    TooLarge,
}

/// Transport state of one handshake.
#[derive(Debug)]
pub(crate) struct Handshake {
    role: Role,
    pub(crate) local_block: Vec<u8>,
    pub(crate) peer_block: Vec<u8>,
    /// TLS bytes of a client's flight 0 that offers early data, until we answer.
    pub(crate) peer_hello: Option<Vec<u8>>,
    /// Early data is taken: the server's block, which says so, is made.
    pub(crate) accepted: bool,
    /// Whether the endpoint's queue of answers holds it.
    pub(crate) answer_queued: bool,
    /// Our latest flight, block included, and its number.
    flight: Option<(u32, Vec<u8>)>,
    /// How far the flight has been handed to the datapath.
    send_from: Option<u32>,
    /// Where the amplification limit stopped it: the client's next packets pay for the rest, or a
    /// flight longer than the limit would never come to its end.
    stopped_at: Option<u32>,
    /// Whether the endpoint's queue of flights holds it.
    pub(crate) queued: bool,
    next_receive: u32,
    assembly: Option<Assembly>,
    pub(crate) deadline: Time,
    pub(crate) repeat_at: Time,
    repeat_interval: Duration,
    answered_at: Option<Time>,
    bytes_in: u64,
    bytes_out: u64,
    /// At a server: the client's address is proven, and nothing is held back (spec 5.8).
    pub(crate) proven: bool,
    /// At a client: a RETRY was taken.
    retried: bool,
    /// Packets that came before we had keys.
    pub(crate) early: Vec<Early>,
    /// Parameter blocks of the peer's that made no sense.
    pub(crate) bad_blocks: u32,
    /// When our latest flight first went out, for a first RTT sample; `None` if it was repeated.
    pub(crate) sent_at: Option<Time>,
    repeated: bool,
}

impl Handshake {
    pub(crate) fn new(role: Role, local_block: Vec<u8>, now: Time, deadline: Time) -> Self {
        Handshake {
            role,
            local_block,
            peer_block: Vec::new(),
            peer_hello: None,
            accepted: false,
            answer_queued: false,
            flight: None,
            send_from: None,
            stopped_at: None,
            queued: false,
            next_receive: if role == Role::Client { 1 } else { 0 },
            assembly: None,
            deadline,
            repeat_at: now + FIRST_REPEAT,
            repeat_interval: FIRST_REPEAT,
            answered_at: None,
            bytes_in: 0,
            bytes_out: 0,
            proven: false,
            retried: false,
            early: Vec::new(),
            bad_blocks: 0,
            sent_at: None,
            repeated: false,
        }
    }

    /// Makes `bytes` our next flight.
    pub(crate) fn set_flight(&mut self, bytes: Vec<u8>, now: Time) {
        let number = match (&self.flight, self.role) {
            (Some((number, _)), _) => number + 2,
            (None, Role::Client) => 0,
            (None, Role::Server) => 1,
        };
        self.flight = Some((number, bytes));
        self.send_from = Some(0);
        self.stopped_at = None;
        self.repeat_interval = FIRST_REPEAT;
        self.repeat_at = now + FIRST_REPEAT;
        self.sent_at = None;
        self.repeated = false;
    }

    /// Whether no flight of ours was set yet.
    pub(crate) fn is_first_flight(&self) -> bool {
        self.flight.is_none()
    }

    /// Whether the peer's first flight is here, and made sense.
    pub(crate) fn is_answered(&self) -> bool {
        !self.peer_block.is_empty()
    }

    /// Sends the latest flight again from its start.
    pub(crate) fn repeat(&mut self, now: Time) {
        if self.flight.is_some() && self.send_from.is_none() {
            self.send_from = Some(self.stopped_at.take().unwrap_or(0));
        }
        self.sent_at = None;
        self.repeated = true;
        self.repeat_interval = (self.repeat_interval * 2).min(MAX_REPEAT);
        self.repeat_at = now + self.repeat_interval;
    }

    /// Sends flight 0 again at once, for a RETRY (spec 5.8), and returns when it is due again. `None` if
    /// a RETRY was taken before, or something of the server's first flight has come.
    pub(crate) fn begin_again(&mut self, now: Time) -> Option<Time> {
        let waits = matches!(self.flight, Some((0, _)))
            && self.next_receive == 1
            && self.assembly.is_none();
        if !waits || core::mem::replace(&mut self.retried, true) {
            return None;
        }
        self.send_from = Some(0);
        self.repeat_interval = FIRST_REPEAT;
        self.repeat_at = now + FIRST_REPEAT;
        Some(self.repeat_at.min(self.deadline))
    }

    /// Whether the server's pace allows to answer a repeated flight now.
    pub(crate) fn may_answer(&mut self, now: Time) -> bool {
        let due = self.answered_at.is_none_or(|at| now.since(at) >= ANSWER_PACE);
        if due {
            self.answered_at = Some(now);
        }
        due && self.send_from.is_none()
    }

    /// A packet of our flight goes out.
    pub(crate) fn note_sent(&mut self, now: Time) {
        if !self.repeated {
            self.sent_at.get_or_insert(now);
        }
    }

    /// Takes the flight that was completed last as not received: it was spoiled on its way.
    pub(crate) fn reject_flight(&mut self) {
        self.next_receive -= 2;
        self.bad_blocks += 1;
    }

    /// Keeps a packet that came before there are keys. False if there is no room for it.
    pub(crate) fn keep_early(&mut self, limits: &Limits, packet: Early) -> bool {
        let held: usize = self.early.iter().map(|early| early.packet.len()).sum();
        let fits = self.early.len() < limits.max_early_packets
            && held + packet.packet.len() <= limits.max_early_bytes;
        if fits {
            self.early.push(packet);
        }
        fits
    }

    /// Takes the packets kept whose epoch byte fits.
    pub(crate) fn take_early(&mut self, fits: impl Fn(u32) -> bool) -> Vec<Early> {
        let epoch = |early: &Early| peek(&early.packet).map_or(0, |(_, header)| header.epoch);
        let kept = core::mem::take(&mut self.early);
        let (taken, kept) = kept.into_iter().partition(|early| fits(epoch(early).into()));
        self.early = kept;
        taken
    }

    /// The first answer goes out: early data that was not taken is refused.
    pub(crate) fn refuse_unanswered(&mut self) {
        self.peer_hello = None;
        if !self.accepted {
            self.take_early(|epoch| epoch == EARLY_EPOCH);
        }
    }

    /// Whether packets of our flight wait to be sent.
    pub(crate) fn has_to_send(&self) -> bool {
        self.send_from.is_some()
    }

    /// The next piece of our flight, of at most `room` bytes. `Err` when the amplification limit
    /// stops it until the client says more.
    pub(crate) fn next_piece(&mut self, room: usize) -> Result<Option<FlightPiece<'_>>, ()> {
        let (Some(from), Some((number, flight))) = (self.send_from, &self.flight) else {
            return Ok(None);
        };
        let rest = flight.get(from as usize..).unwrap_or_default();
        let piece = rest.get(..room.min(rest.len())).unwrap_or_default();
        if !self.may_send(DATA_LEN + piece.len()) {
            self.stopped_at = self.send_from.take();
            return Err(());
        }
        self.bytes_out += (DATA_LEN + piece.len()) as u64;
        let end = from as usize + piece.len();
        self.send_from = if end < flight.len() { u32::try_from(end).ok() } else { None };
        let total = u32::try_from(flight.len()).unwrap_or(u32::MAX);
        Ok(Some(FlightPiece { number: *number, total, offset: from, bytes: piece }))
    }

    /// The piece of flight 1 that must go before anything under the keys of a server's answer: the
    /// flight's first, or its block alone as long as TLS has nothing to say. None if that has gone, or
    /// is longer than `room`.
    pub(crate) fn answering_piece(&mut self, room: usize) -> Result<Option<FlightPiece<'_>>, ()> {
        if self.flight.is_some() {
            return if self.send_from == Some(0) { self.next_piece(room) } else { Ok(None) };
        }
        let len = self.local_block.len();
        if !self.accepted || len > room || !self.may_send(DATA_LEN + len) {
            return Ok(None);
        }
        self.bytes_out += (DATA_LEN + len) as u64;
        let total = u32::try_from(len).unwrap_or(u32::MAX);
        Ok(Some(FlightPiece { number: 1, total, offset: 0, bytes: &self.local_block }))
    }

    /// Whether a packet of `len` bytes may go to the peer's address: a client's must be proven, by a
    /// RETRY or by its Finished, or have paid for it.
    pub(crate) fn may_send(&self, len: usize) -> bool {
        self.role == Role::Client
            || self.proven
            || self.bytes_out + len as u64 <= AMPLIFICATION.saturating_mul(self.bytes_in)
    }

    /// A packet of `len` bytes that is not of a flight goes out.
    pub(crate) fn count_out(&mut self, len: usize) {
        self.bytes_out += len as u64;
    }

    /// A packet of `len` bytes that is not of a flight came.
    pub(crate) fn count_in(&mut self, len: usize) {
        self.bytes_in += len as u64;
    }

    /// Whether a client has not got the whole of flight 1 yet.
    pub(crate) fn awaits_flight_1(&self) -> bool {
        self.role == Role::Client && self.next_receive == 1
    }

    /// Takes up a flight where the amplification limit stopped it. True if there is one.
    pub(crate) fn go_on(&mut self) -> bool {
        if let Some(at) = self.stopped_at.take() {
            self.send_from = Some(at);
            return true;
        }
        false
    }

    /// What the keys of early data are bound to: of a client once its first flight is set and no other,
    /// of a server until it answers an offer.
    pub(crate) fn early_binding(&self, client_port: u16, server_port: u16) -> Option<EarlyBinding> {
        let (client_block, tls_flight0) = match self.role {
            Role::Client => {
                let (_, flight) = self.flight.as_ref().filter(|(number, _)| *number == 0)?;
                (self.local_block.clone(), flight.get(self.local_block.len()..)?.to_vec())
            }
            Role::Server => (self.peer_block.clone(), self.peer_hello.clone()?),
        };
        Some(EarlyBinding { client_port, server_port, client_block, tls_flight0 })
    }

    /// Takes a packet of flight `number`, whose whole length is `total`.
    pub(crate) fn receive(
        &mut self,
        number: u64,
        total: u32,
        offset: u32,
        payload: &[u8],
        limits: &Limits,
    ) -> FlightStep {
        self.bytes_in += (DATA_LEN + payload.len()) as u64;
        if number != u64::from(self.next_receive) {
            let old = number < u64::from(self.next_receive);
            return if old { FlightStep::Repeated } else { FlightStep::Nothing };
        }
        if total > limits.max_flight {
            return FlightStep::TooLarge;
        }
        let assembly = self.assembly.get_or_insert_with(|| Assembly {
            bytes: vec![0; total as usize],
            have: RangeSet::default(),
        });
        if assembly.bytes.len() != total as usize {
            return FlightStep::Nothing;
        }
        if assembly.have.count() > limits.max_gaps {
            return FlightStep::TooLarge;
        }
        let end = offset.saturating_add(u32::try_from(payload.len()).unwrap_or(u32::MAX));
        let Some(to) = assembly.bytes.get_mut(offset as usize..end as usize) else {
            return FlightStep::Nothing;
        };
        for hole in assembly.have.holes(offset..end) {
            let part = (hole.start - offset) as usize..(hole.end - offset) as usize;
            if let (Some(to), Some(from)) = (to.get_mut(part.clone()), payload.get(part)) {
                to.copy_from_slice(from);
            }
        }
        assembly.have.insert(offset..end);
        if !assembly.have.covers(&(0..total)) {
            return FlightStep::Nothing;
        }
        let number = self.next_receive;
        self.next_receive += 2;
        match self.assembly.take() {
            Some(assembly) => FlightStep::Complete { number, bytes: assembly.bytes },
            None => FlightStep::Nothing,
        }
    }

    /// What keys of this handshake are bound to, once both blocks are known.
    pub(crate) fn context(&self, client_port: u16, server_port: u16) -> Option<KeyContext> {
        if self.peer_block.is_empty() {
            return None;
        }
        let (client_block, server_block) = match self.role {
            Role::Client => (self.local_block.clone(), self.peer_block.clone()),
            Role::Server => (self.peer_block.clone(), self.local_block.clone()),
        };
        Some(KeyContext { client_port, server_port, client_block, server_block })
    }
}
