//! The endpoint: all sessions behind one datapath, as a state machine.
//!
//! Order of calls: [`Endpoint::handle_packet`] for each packet received, [`Endpoint::handle_timeout`]
//! when [`Endpoint::poll_timeout`] has passed, then [`Endpoint::poll_event`] until there is none and
//! [`Endpoint::poll_transmit`] until there is none. Receive everything there is before looking at
//! timers: a late wake-up must not pass for loss. Call [`Endpoint::settle`] when packets have left:
//! it does the bookkeeping that no peer waits for.

mod connect;
pub(crate) mod deferred;
mod early;
pub(crate) mod lanes;
pub(crate) mod pacer;
pub(crate) mod queue;
mod receive;
mod retry;
pub(crate) mod segments;
mod table;
mod transmit;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::config::Config;
use crate::crypto::Random;
use crate::error::{CallError, CloseReason, StartError, UpdateError};
use crate::event::Event;
use crate::grant::Granter;
use crate::keys::Secret;
use crate::message::send::{OutMessage, Scratch};
use crate::padding::Padding;
use crate::session::bundle::Waiting;
use crate::session::telling::Active;
use crate::session::{Direction, Path, RpcId, Session, SessionId};
use crate::sizes::Sizes;
use crate::stats::Stats;
use crate::time::Time;
use crate::timer::{Timers, Wake};
use crate::wire::{CancelCode, Kind, MIN_CONTROL_LEN, UnknownCode};
use pacer::Pacer;
use queue::SendQueue;
use retry::Retries;
use segments::Segments;
use table::Table;

pub use connect::External;
pub use early::EarlyData;
pub use receive::PacketMeta;
pub use transmit::Transmit;

/// What a control packet waiting to be sent says. The ranges of an ACK are looked up when it is
/// written: entries stay small, and it tells the latest.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Notice {
    Grant { offset: u32, priority: u8 },
    Resend { offset: u32, length: u32, priority: u8, pinned: bool },
    Unknown(UnknownCode),
    Busy,
    NeedAck,
    Ack,
    Cancel(CancelCode),
    Cutoffs,
    Update { epoch: u32 },
}

/// A control packet waiting to be sent.
#[derive(Debug)]
pub(crate) enum PendingControl {
    /// Of a session, about a message ID.
    Session(SessionId, u64, Notice),
    /// UNKNOWN to a packet of no session, echoing its message ID.
    NoSession(Path, u64),
    /// The last of a lane that is over, as it was written.
    Last(Box<(Path, u8, [u8; MIN_CONTROL_LEN])>),
}

const _: () = assert!(size_of::<PendingControl>() <= 64);

/// What all sessions of an endpoint share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) stats: Stats,
    pub(crate) timers: Timers,
    pub(crate) events: VecDeque<Event>,
    pub(crate) control: VecDeque<PendingControl>,
    pub(crate) flights: VecDeque<SessionId>,
    /// Servers' sessions that have taken an offer and not said so yet.
    pub(crate) answers: VecDeque<SessionId>,
    queue: SendQueue,
    pub(crate) pacer: Pacer,
    pub(crate) granter: Granter,
    pub(crate) segments: Segments,
    pub(crate) sizes: Sizes,
    pub(crate) active: Active,
    /// The latest time told.
    pub(crate) now: Time,
    /// A favoured message is complete: others may be granted now.
    pub(crate) regrant: bool,
    pub(crate) incoming_bytes: u64,
    /// Calls of ours that are not over.
    pub(crate) calls: u32,
    pub(crate) deferred: deferred::Deferred,
    pub(crate) scratch: Scratch,
    /// Sessions that ended and are to be removed.
    pub(crate) ended: Vec<SessionId>,
    /// Sessions of several lanes, or lanes of them, that are over.
    pub(crate) ending: Vec<lanes::Ending>,
    /// When memory that bursts left unused was given back last.
    shrunk_at: Time,
}

impl Shared {
    /// Queues a message for sending, unless it is queued or has nothing to send.
    pub(crate) fn enqueue(&mut self, session: SessionId, message: &mut OutMessage) {
        if message.ticket == 0 && message.sendable() {
            let (id, small, left) = (message.id(), message.is_small(), message.left());
            message.ticket = self.queue.push(session, id, small, left);
        }
    }

    /// Queues a new message: it waits in its session for the session's turn if it may leave together with
    /// others (spec 4.5), else like all others. `rpc`: we started it, its number.
    pub(crate) fn enqueue_new(
        &mut self,
        session: SessionId,
        waiting: &mut Waiting,
        message: &mut OutMessage,
        rpc: (bool, u64),
    ) {
        let Config { padding, limits, .. } = &self.config;
        let bundles = limits.max_bundled > 1 && *padding == Padding::None;
        if !bundles || !message.fits_bundle() {
            return self.enqueue(session, message);
        }
        let ticket = self.queue.ticket_of_session();
        message.ticket = ticket;
        if waiting.push(message, rpc) {
            self.queue.push_session(session, ticket, message.left());
        }
    }

    /// What a request says about how much of its response may come without grants: our share for each
    /// response that may come, if that is less than every message may send; else 0. However little it
    /// is, one packet comes.
    pub(crate) fn response_limit(&self) -> u32 {
        let share = (self.granter.credit() / self.calls.max(1)).max(1);
        let limits = self.config.incast_control && share < self.config.limits.unscheduled;
        if limits { share } else { 0 }
    }

    /// A message of `wire_len` bytes has come in, `unscheduled` of them without grants. Only whole ones
    /// count, so that a peer weighs as much as it has sent, whatever it announces.
    pub(crate) fn note_size(&mut self, wire_len: u32, unscheduled: u32) {
        let generation = self.sizes.generation();
        self.sizes.note(wire_len, unscheduled);
        if self.sizes.generation() != generation {
            self.granter.set_levels(self.sizes.scheduled_levels());
        }
    }

    /// Nothing of a message is to be sent any more.
    pub(crate) fn dequeue(&mut self, message: &mut OutMessage) {
        let ticket = core::mem::take(&mut message.ticket);
        if ticket != 0 {
            self.queue.abandon(ticket);
        }
    }

    /// Queues a control packet, unless the queue is full: timers make up for it.
    pub(crate) fn send_control(&mut self, session: SessionId, id: u64, notice: Notice) {
        self.push_control(PendingControl::Session(session, id, notice));
    }

    /// Queues the last packet of a lane of a session that will be over when its turn comes.
    pub(crate) fn send_last(&mut self, path: Path, lane: u8, packet: [u8; MIN_CONTROL_LEN]) {
        self.push_control(PendingControl::Last(Box::new((path, lane, packet))));
    }

    /// Gives back memory that bursts have left unused, now and then.
    pub(crate) fn shrink(&mut self, now: Time) {
        if now.since(self.shrunk_at) < self.config.limits.idle_probe {
            return;
        }
        self.shrunk_at = now;
        self.timers.shrink();
        self.events.shrink_to_fit();
        self.control.shrink_to_fit();
        self.flights.shrink_to_fit();
        self.answers.shrink_to_fit();
        self.queue.shrink();
        self.ended.shrink_to_fit();
        self.scratch = Scratch::default();
    }

    fn push_control(&mut self, control: PendingControl) {
        if self.control.len() >= self.config.limits.max_control_queue {
            self.stats.limit_control_queue += 1;
            return;
        }
        self.control.push_back(control);
    }
}

/// All sessions behind one datapath.
pub struct Endpoint {
    sessions: Table,
    half_open: usize,
    shared: Shared,
    random: Box<dyn Random>,
    /// UNKNOWN answers given in the second that began at the time.
    no_session: (Time, u32),
    retries: Retries,
}

impl Endpoint {
    /// An endpoint without sessions.
    pub fn new(config: Config, mut random: Box<dyn Random>) -> Self {
        let mut granter = Granter::new(config.receive_credit, config.overcommit);
        let sizes = Sizes::default();
        granter.set_levels(sizes.scheduled_levels());
        let pacer = Pacer::new(config.max_backlog);
        let shared = Shared {
            config,
            stats: Stats::default(),
            timers: Timers::default(),
            events: VecDeque::new(),
            control: VecDeque::new(),
            flights: VecDeque::new(),
            answers: VecDeque::new(),
            queue: SendQueue::default(),
            pacer,
            granter,
            segments: Segments::default(),
            sizes,
            active: Active::default(),
            now: Time::ZERO,
            regrant: false,
            incoming_bytes: 0,
            calls: 0,
            deferred: deferred::Deferred::default(),
            scratch: Scratch::default(),
            ended: Vec::new(),
            ending: Vec::new(),
            shrunk_at: Time::ZERO,
        };
        let no_session = (Time::ZERO, 0);
        let sessions = Table::new(&mut *random);
        let retries = Retries::new(&mut *random);
        Endpoint { sessions, half_open: 0, shared, random, no_session, retries }
    }

    /// Starts an RPC. `user` comes back in [`Event::Response`].
    ///
    /// # Errors
    /// [`StartError`]; nothing was sent.
    pub fn start_call(
        &mut self,
        session: SessionId,
        body: Bytes,
        deadline: Time,
        user: u64,
    ) -> Result<RpcId, StartError> {
        let Some(found) = self.sessions.get_mut(session) else { return Err(StartError::NoSession) };
        if found.family.is_some() {
            return self.start_in_a_lane(session, &body, deadline, user);
        }
        let number = found.start_call(&mut self.shared, body, deadline, user)?;
        Ok(found.rpc_id(true, number))
    }

    /// Starts an RPC that leaves at once, under the keys of early data (spec 5.7): anybody on the path can
    /// have its request run again, once per server that takes the ticket, so it must be idempotent.
    /// Refused, it goes again by itself when the handshake is over, where an ordinary call would start.
    ///
    /// # Errors
    /// [`StartError`]; nothing was sent. [`StartError::NotReady`]: no early data is offered, or it was
    /// refused; [`StartError::EarlyLimit`]: of what the ticket lets go early not enough is left.
    pub fn start_early_call(
        &mut self,
        session: SessionId,
        body: Bytes,
        deadline: Time,
        user: u64,
    ) -> Result<RpcId, StartError> {
        let Some(found) = self.sessions.get_mut(session) else { return Err(StartError::NoSession) };
        let number = found.start_early_call(&mut self.shared, body, deadline, user)?;
        Ok(found.rpc_id(true, number))
    }

    /// Sends a post-handshake message to the client of a session (spec 5.9): its type (8 bits) and what
    /// belongs to it. It comes out there as [`Event::Post`]; if it cannot be brought there in
    /// `handshake_timeout`, nobody is told.
    ///
    /// # Errors
    /// [`StartError`]; nothing was sent. [`StartError::NoSession`] also for a client's session, and before
    /// it is established.
    pub fn send_post(
        &mut self,
        now: Time,
        session: SessionId,
        body: Bytes,
    ) -> Result<(), StartError> {
        let Some(found) = self.sessions.get_mut(session) else { return Err(StartError::NoSession) };
        found.send_post(&mut self.shared, now, body)
    }

    /// What the client of a session wants to be sent after the handshake (spec 5.9): bits of
    /// [`wire::WANTS_TLS_TICKETS`](crate::wire::WANTS_TLS_TICKETS) and
    /// [`wire::WANTS_SMT_TICKET`](crate::wire::WANTS_SMT_TICKET). Known to a server with flight 0.
    pub fn peer_wants(&self, session: SessionId) -> u8 {
        self.sessions.get(session).map_or(0, |session| session.peer.wants)
    }

    /// Answers a request given out by [`Event::Request`]. False if nobody waits for it any more.
    pub fn reply(&mut self, rpc: RpcId, body: Bytes) -> bool {
        let Some((session, number)) = self.sessions.of_rpc(rpc) else { return false };
        !rpc.ours && session.reply(&mut self.shared, number, Kind::Application, body)
    }

    /// Answers a request with an error: `code` as in spec 7, `text` for people.
    pub fn refuse(&mut self, rpc: RpcId, code: u32, text: &str) -> bool {
        let Some((session, number)) = self.sessions.of_rpc(rpc) else { return false };
        !rpc.ours && session.refuse(&mut self.shared, number, code, text)
    }

    /// Gives up a call; its [`Event::Response`] with [`CallError::Cancelled`] comes at once.
    pub fn cancel(&mut self, now: Time, rpc: RpcId) {
        self.settle();
        if let Some((session, number)) = self.sessions.of_rpc(rpc)
            && rpc.ours
        {
            session.cancel(&mut self.shared, now, number, CallError::Cancelled);
        }
    }

    /// Closes a session: its calls end with [`CallError::SessionClosed`] and the peer is told.
    pub fn close(&mut self, now: Time, session: SessionId) {
        self.settle();
        if let Some(session) = self.sessions.get_mut(session) {
            session.close(&mut self.shared, now, CloseReason::Local);
        }
        self.sweep();
    }

    /// Wants the next sending epoch of a session: it is entered with the first message after the peer
    /// has told that it opened the current one, and as long as four epochs live whose oldest has
    /// messages of ours that are not over, it waits for them (spec 5.2). False if there is no such
    /// session, or it has no keys yet.
    pub fn update_keys(&mut self, session: SessionId) -> bool {
        let mut any = false;
        self.each_lane(session, |lane, shared| any |= lane.want_update(shared));
        any
    }

    /// Asks the peer of a session to leave its current sending epoch, at most once per 100 ms; while
    /// messages of that epoch come it is asked again. False if there is no such session, or it has no
    /// keys yet.
    pub fn request_update(&mut self, now: Time, session: SessionId) -> bool {
        let mut any = false;
        self.each_lane(session, |lane, shared| any |= lane.request_update(shared, now));
        any
    }

    /// Gives the secret of the next epoch of a session with [`Updates::Registered`](crate::Updates::Registered): secret\[e+1\] of
    /// spec 5.1. Each call gives one further epoch of that direction, in order. To send, the epoch is
    /// entered when an update is wanted ([`update_keys`](Self::update_keys), or at half of an AEAD
    /// limit); packets of the peer's under an epoch that was not registered are dropped, and repeated by
    /// it.
    ///
    /// # Errors
    /// [`UpdateError`]; nothing has changed.
    pub fn register_update(
        &mut self,
        session: SessionId,
        direction: Direction,
        secret: Secret,
    ) -> Result<(), UpdateError> {
        let found = self.sessions.get_mut(session).ok_or(UpdateError::NoSession)?;
        found.register_update(direction, secret)
    }

    /// Bytes of the response to a call that have arrived and opened, without a hole from the start. They
    /// become no fewer, except those of an early call with [`Event::EarlyRefused`]: it begins anew.
    pub fn response_prefix(&self, rpc: RpcId) -> &[u8] {
        let found = self.sessions.see_rpc(rpc);
        found.map_or(&[], |(session, number)| session.response_prefix(number))
    }

    /// Progress of a call in wire bytes: request sent, request in all, response received, response
    /// in all (0 while unknown).
    pub fn progress(&self, rpc: RpcId) -> Option<[u32; 4]> {
        let (session, number) = self.sessions.see_rpc(rpc)?;
        session.progress(number)
    }

    /// Calls of a session that are not over.
    pub fn outstanding(&self, session: SessionId) -> usize {
        self.sum_of_lanes(session, Session::outstanding)
    }

    /// Sessions, half-open ones included. One of several lanes counts once.
    pub fn session_count(&self) -> usize {
        self.sessions.heads()
    }

    /// Bytes of messages being received or worked on.
    pub fn incoming_bytes(&self) -> u64 {
        self.shared.incoming_bytes
    }

    /// Bytes that peers may send by themselves or by our grants and that are not here yet; senders
    /// that have stalled are not counted on.
    pub fn promised_bytes(&self) -> u64 {
        self.shared.granter.promised()
    }

    /// The 5-tuple of a session.
    pub fn path(&self, session: SessionId) -> Option<Path> {
        self.sessions.get(session).map(|session| session.path)
    }

    /// Whether a session uses this 5-tuple.
    pub fn has_path(&self, path: &Path) -> bool {
        self.sessions.newest(path.remote, path.remote_port, path.local_port).is_some()
    }

    /// Requests of a session that were handed out and are not answered.
    pub fn working_on(&self, session: SessionId) -> usize {
        self.sum_of_lanes(session, Session::working_on)
    }

    /// RPCs of both directions that are not over, responses not acknowledged yet included.
    pub fn in_flight(&self, session: SessionId) -> usize {
        self.sum_of_lanes(session, Session::in_flight)
    }

    /// All sessions, in no particular order.
    pub fn sessions(&self) -> Vec<SessionId> {
        self.sessions.ids()
    }

    /// Tells the largest SMT packet that the path of a session takes, in bytes.
    pub fn set_room(&mut self, session: SessionId, room: usize) {
        self.each_lane(session, |lane, _| lane.room = room);
    }

    /// Tells the largest SMT packet, header included, that the device towards the peer of a session takes
    /// as a segment and cuts into packets by itself ([`Transmit::segment`]), in bytes; 0, as at first:
    /// none. Whether segments arrive is found out by sending one (spec 4.3.1), and remembered while the
    /// limit is 0. Nothing comes of it over IPv6, nor where packets are larger than records.
    pub fn set_segment_limit(&mut self, session: SessionId, bytes: usize) {
        self.each_lane(session, |lane, _| lane.set_segment_limit(bytes));
    }

    /// The receiving datapath dropped packets for want of room.
    pub fn receive_overrun(&mut self) {
        self.shared.granter.overrun();
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        if !self.shared.deferred.is_empty() {
            // Timers may follow from it.
            return Some(Time::ZERO);
        }
        let paced = self.shared.pacer.look_again().filter(|_| self.shared.queue.has_large());
        self.shared.timers.next().into_iter().chain(paced).min()
    }

    /// Tells how many bytes that were handed to the datapath have not left the host. Once this was
    /// called, no more than [`Config::max_backlog`] of them come to wait: beyond it
    /// [`poll_transmit`](Self::poll_transmit) has only control packets, flights and messages of one
    /// packet, and [`poll_timeout`](Self::poll_timeout) asks for the next call soon, so that the backlog
    /// is looked at again.
    pub fn set_backlog(&mut self, now: Time, bytes: usize) {
        self.shared.pacer.set(now, bytes);
    }

    /// Whether [`set_backlog`](Self::set_backlog) would tell something that matters: so much was sent
    /// since the last time that little room may be left, or nothing is known yet.
    pub fn wants_backlog(&self) -> bool {
        self.shared.pacer.wants_look()
    }

    /// Whether messages wait for the backlog: [`set_backlog`](Self::set_backlog) may let them go.
    pub fn is_paced(&self) -> bool {
        self.shared.pacer.is_full() && self.shared.queue.has_large()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        self.settle();
        self.shared.now = now;
        self.shared.pacer.handle_timeout(now);
        while let Some(wake) = self.shared.timers.pop(now) {
            let (Wake::Session(id) | Wake::Out(id, _) | Wake::In(id, _)) = wake;
            let Some(session) = self.sessions.get_mut(id) else { continue };
            match wake {
                Wake::Session(_) => session.on_session_timer(&mut self.shared, now),
                Wake::Out(_, number) => session.on_out_timer(&mut self.shared, now, number),
                Wake::In(_, number) => session.on_in_timer(&mut self.shared, now, number),
            }
        }
        self.sweep();
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop_front()
    }

    /// Counters so far.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Removes sessions that ended, and grants what they no longer need to others.
    #[inline]
    fn sweep(&mut self) {
        let Shared { ending, ended, regrant, .. } = &self.shared;
        if *regrant || !ending.is_empty() || !ended.is_empty() {
            self.sweep_all();
        }
    }

    #[inline(never)]
    fn sweep_all(&mut self) {
        self.end_lanes();
        while let Some(id) = self.shared.ended.pop() {
            if let Some(mut session) = self.sessions.remove(id) {
                session.clear_timer(&mut self.shared);
                self.half_open -= usize::from(session.counts_as_half_open());
            }
        }
        if core::mem::take(&mut self.shared.regrant) {
            for (session, id) in self.shared.granter.chosen().into_iter().flatten() {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.regrant(&mut self.shared, id);
                }
            }
        }
    }
}
