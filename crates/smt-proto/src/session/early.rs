//! Early data (spec 5.7): requests that a client sends, and responses that a server gives, before the
//! handshake has given keys. Epoch 1 has keys of its own in both directions, which never change.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use bytes::Bytes;

use super::answer::Unanswered;
use super::calls::NewCall;
use super::update::{note_failed, note_opened};
use super::{AeadLimits, Role, Session, SessionId, SessionKeys, State};
use crate::crypto::Suite;
use crate::endpoint::{EarlyData, Shared};
use crate::error::{CallError, StartError};
use crate::event::Event;
use crate::keys::{EpochKeys, HeaderKey, Secret, answered_secret};
use crate::record::RECORD_OVERHEAD;
use crate::replay::IdSet;
use crate::rpc::{InState, OutRpc, Sort};
use crate::stats::Stats;
use crate::tag::ControlWindow;
use crate::time::Time;
use crate::timer::Wake;
use crate::wire::{Block, DATA_LEN, EARLY_EPOCH, Kind, PREAMBLE_LEN, Preamble};

/// Bytes sent per byte received before the client's address is proven.
const AMPLIFICATION: usize = super::handshake::AMPLIFICATION as usize;
/// Shortest packet of a message, in bytes.
const MIN_PACKET: usize = DATA_LEN + PREAMBLE_LEN + RECORD_OVERHEAD as usize;

/// The keys of epoch 1 and what is bound to them.
pub(crate) struct EarlyKeys {
    /// Sending keys; none once nothing of ours can need them.
    tx: Option<EpochKeys>,
    /// Receiving keys; none once nothing of the peer's can need them.
    rx: Option<EpochKeys>,
    tx_header: HeaderKey,
    /// With the receiving keys, but not wiped with them.
    pub(super) rx_header: Option<HeaderKey>,
    /// At a client until flight 1 is whole: what the receiving keys follow from.
    pub(super) unanswered: Option<Unanswered>,
    limits: AeadLimits,
    records: u64,
    blocks: u64,
    failed_opens: u64,
    /// Numbers of the peer's control packets under epoch 1: who has the ticket's key alone must not
    /// spend those of epoch 3.
    control_in: ControlWindow,
    /// Wire bytes of requests that epoch 1 may still carry.
    budget: u32,
    /// Messages of ours frozen under epoch 1 that live.
    frozen: u32,
    /// RPCs whose responses the amplification limit holds back.
    held: BTreeSet<u64>,
    /// When the keys go, whatever still needs them; known once there are keys of epoch 3.
    until: Option<Time>,
}

impl EarlyKeys {
    fn new(suite: &'static dyn Suite, tx: Secret, limits: Option<AeadLimits>, budget: u32) -> Self {
        EarlyKeys {
            tx_header: HeaderKey::derive(suite, &tx),
            rx_header: None,
            tx: Some(EpochKeys::new(suite, tx, EARLY_EPOCH)),
            rx: None,
            unanswered: None,
            limits: limits.unwrap_or(AeadLimits::of(suite.id())),
            records: 0,
            blocks: 0,
            failed_opens: 0,
            control_in: ControlWindow::default(),
            budget,
            frozen: 0,
            held: BTreeSet::new(),
            until: None,
        }
    }

    /// Makes the receiving keys.
    pub(super) fn receive_under(&mut self, suite: &'static dyn Suite, rx: Secret) {
        self.rx_header = Some(HeaderKey::derive(suite, &rx));
        self.rx = Some(EpochKeys::new(suite, rx, EARLY_EPOCH));
    }

    /// Sending keys.
    pub(crate) fn tx(&self) -> Option<&EpochKeys> {
        self.tx.as_ref()
    }

    /// The key of our header tags under epoch 1.
    pub(crate) fn tx_header(&self) -> &HeaderKey {
        &self.tx_header
    }

    /// Takes `bytes` of a request off the budget. False if there are not as many left.
    fn spend(&mut self, bytes: u32) -> bool {
        let left = self.budget.checked_sub(bytes);
        self.budget = left.unwrap_or(self.budget);
        left.is_some()
    }

    /// Counts a message of ours that is frozen under epoch 1 from now on. False, and it is not, if the
    /// key may not seal so much, or is gone: it waits for epoch 3.
    pub(crate) fn freeze(&mut self, records: u32, bytes: u32) -> bool {
        let blocks = u64::from(bytes).div_ceil(16) + u64::from(records);
        let (records, blocks) = (self.records + u64::from(records), self.blocks + blocks);
        let fits = records <= self.limits.records && blocks <= self.limits.blocks;
        let may = fits && self.tx.is_some();
        if may {
            (self.records, self.blocks) = (records, blocks);
            self.frozen += 1;
        }
        may
    }
}

/// The keys that open a peer's records: those of epoch 1 and of the application epochs, as far as there
/// are any.
pub(super) struct Openers<'a> {
    pub(super) early: Option<&'a mut EarlyKeys>,
    pub(super) app: Option<&'a mut SessionKeys>,
}

impl Openers<'_> {
    /// Which epoch a packet's epoch byte means.
    pub(super) fn epoch(&mut self, byte: u8) -> Option<u32> {
        if u32::from(byte) == EARLY_EPOCH {
            return self.early.as_ref().and_then(|early| early.rx.as_ref()).map(EpochKeys::epoch);
        }
        self.app.as_deref_mut()?.rx_epoch(byte)
    }

    /// The keys of `epoch`, unless they are gone or have failed too often.
    pub(super) fn of(&self, stats: &mut Stats, epoch: u32) -> Option<&EpochKeys> {
        let (may_open, keys) = match (epoch, &self.early, &self.app) {
            (EARLY_EPOCH, Some(early), _) => {
                (early.failed_opens < early.limits.failed_opens, early.rx.as_ref())
            }
            (EARLY_EPOCH, None, _) | (_, _, None) => return None,
            (_, _, Some(app)) => (app.receive.may_open(epoch), app.receive.keys(epoch)),
        };
        stats.limit_failed_opens += u64::from(!may_open);
        keys.filter(|_| may_open)
    }

    /// Records of `epoch` opened.
    pub(super) fn opened(&mut self, cx: &mut Shared, now: Time, session: SessionId, epoch: u32) {
        if let Some(app) = self.app.as_deref_mut().filter(|_| epoch != EARLY_EPOCH) {
            note_opened(app, cx, now, session, epoch);
        }
    }

    /// Records of `epoch`, so many, did not open.
    pub(super) fn failed(
        &mut self,
        cx: &mut Shared,
        now: Time,
        session: SessionId,
        (epoch, records): (u32, u32),
    ) {
        if let Some(app) = self.app.as_deref_mut().filter(|_| epoch != EARLY_EPOCH) {
            return note_failed(app, cx, now, session, (epoch, records));
        }
        cx.stats.records_not_authentic += u64::from(records);
        if let Some(early) = self.early.as_deref_mut() {
            early.failed_opens += u64::from(records);
        }
    }
}

impl Session {
    /// Installs the secrets of epoch 1. A client goes by the parameters of the ticket until flight 1 tells
    /// the server's own. A server's block with its answer is made.
    pub(crate) fn install_early(&mut self, cx: &Shared, early: EarlyData) {
        let EarlyData { suite, client_secret, server_secret, peer, max_early, alone } = early;
        let new = |tx| EarlyKeys::new(suite, tx, cx.config.aead_limits, max_early);
        let keys = match self.role {
            Role::Client => {
                if let Some(peer) = peer {
                    self.set_peer(peer);
                }
                let (secret, block) = (server_secret, Vec::new());
                let unanswered = Some(Unanswered { suite, secret, alone, block });
                EarlyKeys { unanswered, ..new(client_secret) }
            }
            Role::Server => {
                let Some(handshake) = self.handshake.as_deref() else { return };
                let mut keys = new(answered_secret(suite, &server_secret, &handshake.local_block));
                keys.receive_under(suite, client_secret);
                keys
            }
        };
        self.early = Some(alloc::boxed::Box::new(keys));
    }

    /// Whether a block says nothing less of a server than the ticket by which it takes early data.
    pub(crate) fn keeps_its_word(&self, block: &Block<'_>) -> bool {
        let bound = self.role == Role::Client && block.answer.is_some() && self.early.is_some();
        !bound || block.params.cover(&self.peer)
    }

    /// Whether messages move: there are keys for them, and the session has not failed.
    pub(crate) fn moves_messages(&self) -> bool {
        self.is_working() || (matches!(self.state, State::Handshaking) && self.early.is_some())
    }

    /// Whether the header key that a packet's epoch byte asks for exists, and `check` holds for it.
    pub(crate) fn checks(&self, epoch: u8, check: impl Fn(&HeaderKey) -> bool) -> bool {
        match u32::from(epoch) {
            EARLY_EPOCH => {
                self.early.as_ref().is_some_and(|keys| keys.rx_header.as_ref().is_some_and(check))
            }
            _ => self.keys.as_ref().is_some_and(|keys| check(&keys.rx_header)),
        }
    }

    /// Takes the number of an authentic control packet once.
    pub(crate) fn accept_control(&mut self, epoch: u32, number: u64) -> bool {
        match self.early.as_deref_mut() {
            Some(early) if epoch == EARLY_EPOCH => early.control_in.accept(number),
            _ => self.control_in.accept(number),
        }
    }

    /// Starts a call that leaves at once under epoch 1; returns its number. With keys of epoch 3 it is a
    /// call as any other.
    pub(crate) fn start_early_call(
        &mut self,
        cx: &mut Shared,
        body: Bytes,
        deadline: Time,
        user: u64,
    ) -> Result<u64, StartError> {
        if self.keys.is_some() {
            return self.start_call(cx, body, deadline, user);
        }
        if self.role != Role::Client || !self.moves_messages() {
            let unready = matches!(self.state, State::Handshaking) && self.role == Role::Client;
            return Err(if unready { StartError::NotReady } else { StartError::NoSession });
        }
        self.start(cx, NewCall { sort: Sort::Early, body, deadline, user })
    }

    /// Takes `bytes` of a request off what epoch 1 may carry. False if there are not as many left.
    pub(super) fn spend_early(&mut self, cx: &mut Shared, bytes: u32) -> bool {
        let fits = self.early.as_deref_mut().is_some_and(|early| early.spend(bytes));
        cx.stats.limit_early_data += u64::from(!fits);
        fits
    }

    /// The server does not take our early data: its calls wait for epoch 3, and begin anew there. Those
    /// that do not fit the server's true parameters end. False if the handshake cannot go
    /// on.
    pub(crate) fn refuse_early(&mut self, cx: &mut Shared, fits: bool) -> bool {
        if self.early.take().is_none() {
            return true;
        }
        cx.stats.early_refused += 1;
        if let Some(handshake) = self.handshake.as_deref_mut() {
            handshake.take_early(|epoch| epoch == EARLY_EPOCH);
        }
        cx.events.push_back(Event::EarlyRefused { session: self.id });
        for number in self.early_calls() {
            let Some(rpc) = self.out.get_mut(number) else { continue };
            // Whoever has the ticket's key may have begun a response: the server's is another.
            let response = rpc.response.take();
            (rpc.silences, rpc.busy) = (0, 0);
            cx.dequeue(&mut rpc.request);
            rpc.sent_early = rpc.was_sent();
            let error = match rpc.sent_early {
                true => CallError::OutcomeUnknown,
                false => CallError::NotRun,
            };
            let priority = self.told.priority(rpc.request.layout().wire_len);
            rpc.request.unfreeze((self.told.unscheduled(), priority));
            rpc.sent_at = None;
            if let Some(mut response) = response {
                self.release_incoming(cx, self.request_id(true, number) | 1, &mut response);
            }
            if !fits {
                self.finish(cx, number, Err(error));
            }
        }
        self.begin_numbers_again(cx)
    }

    /// Nothing of this session's RPCs is known to a server that refuses early data, though others, or it
    /// before it lost its memory, may have answered some: what is over is cancelled, for it must be known
    /// there before it can be said to be finished (spec 5.7). False if there are more than it takes.
    fn begin_numbers_again(&mut self, cx: &mut Shared) -> bool {
        if self.next_number > self.lane.share(self.peer.max_rpcs.into()) {
            return false;
        }
        self.finished = IdSet::default();
        let due = cx.now + self.silence(0);
        for number in 0..self.next_number {
            if self.out.contains(number) {
                continue;
            }
            let id = self.request_id(true, number);
            let Ok(nothing) = self.new_message(cx, id, Kind::Application, Bytes::new(), 0) else {
                return false;
            };
            let rpc = OutRpc { cancelling: true, ..OutRpc::new(Sort::Early, 0, nothing, due) };
            let rpc = self.out.insert(number, rpc);
            rpc.timer.set(&mut cx.timers, Wake::Out(self.id, number), due);
            cx.calls += 1;
        }
        true
    }

    /// The first flight goes again to a server that has kept nothing: so does what went with it.
    pub(crate) fn repeat_early(&mut self, cx: &mut Shared) {
        let session = self.id;
        for number in self.early_calls() {
            if let Some(rpc) = self.out.get_mut(number).filter(|rpc| !rpc.cancelling) {
                rpc.sent_at = None;
                rpc.request.restart();
                cx.enqueue(session, &mut rpc.request);
            }
        }
    }

    /// Queues whatever can be sent and is not queued: what held it back is gone.
    pub(crate) fn release(&mut self, cx: &mut Shared) {
        let session = self.id;
        if let Some(early) = self.early.as_deref_mut() {
            early.held.clear();
        }
        for number in self.early_calls() {
            if let Some(rpc) = self.out.get_mut(number).filter(|rpc| !rpc.cancelling) {
                cx.enqueue(session, &mut rpc.request);
            }
        }
        let mut responding: Vec<u64> = self.inc.iter().map(|(number, _)| number).collect();
        responding.sort_unstable();
        for number in responding {
            if let Some(InState::Responding(response)) =
                self.inc.get_mut(number).map(|rpc| &mut rpc.state)
            {
                cx.enqueue(session, response);
            }
        }
    }

    /// The response to RPC `number` could not be sent for want of bytes from an address not proven yet.
    pub(super) fn hold(&mut self, cx: &mut Shared, number: u64) {
        cx.stats.limit_amplification += 1;
        if let Some(early) = self.early.as_deref_mut() {
            early.held.insert(number);
        }
    }

    /// Queues as many responses held back as `len` bytes more from the client can pay a packet of.
    fn release_held(&mut self, cx: &mut Shared, len: usize) {
        for _ in 0..=len * AMPLIFICATION / MIN_PACKET {
            let Some(number) = self.early.as_deref_mut().and_then(|early| early.held.pop_first())
            else {
                return;
            };
            if let Some(InState::Responding(response)) =
                self.inc.get_mut(number).map(|rpc| &mut rpc.state)
            {
                cx.enqueue(self.id, response);
            }
        }
    }

    /// A packet of `len` bytes came for this session. Before the client's address is proven it pays for
    /// what the server may send.
    pub(crate) fn count_in(&mut self, cx: &mut Shared, len: usize) {
        if self.role != Role::Server || !matches!(self.state, State::Handshaking) {
            return;
        }
        let Some(handshake) = self.handshake.as_deref_mut() else { return };
        handshake.count_in(len);
        if handshake.go_on() {
            self.queue_flight(cx);
        }
        self.release_held(cx, len);
    }

    /// Whether a request of `wire_len` bytes that begins under epoch 1 keeps to what it may carry, with all
    /// those of which nothing has opened yet.
    pub(super) fn fits_early(&self, wire_len: u32) -> bool {
        let begun = self.inc.iter().map(|(number, rpc)| match &rpc.state {
            InState::Receiving(message)
                if message.epoch == EARLY_EPOCH && !self.seen.contains(number) =>
            {
                u64::from(message.layout().wire_len)
            }
            _ => 0,
        });
        let left = self.early.as_deref().map_or(0, |early| early.budget);
        begun.sum::<u64>() + u64::from(wire_len) <= u64::from(left)
    }

    /// Whether a packet of `len` bytes may go to the peer's address, as far as it is proven.
    pub(super) fn may_send(&self, len: usize) -> bool {
        match self.handshake.as_deref() {
            Some(handshake) if matches!(self.state, State::Handshaking) => handshake.may_send(len),
            _ => true,
        }
    }

    /// A packet of `len` bytes, not of a flight, goes out.
    pub(super) fn count_out(&mut self, len: usize) {
        if let Some(handshake) = self.handshake.as_deref_mut() {
            handshake.count_out(len);
        }
    }

    /// A preamble under an application epoch tells under which epochs its sender may still send.
    pub(super) fn note_oldest(&mut self, preamble: &Preamble) {
        if self.role == Role::Server
            && preamble.oldest_epoch > EARLY_EPOCH
            && let Some(early) = self.early.as_deref_mut()
        {
            early.rx = None;
            self.drop_idle_early();
        }
    }

    /// A message of ours that was frozen under epoch 1 will not be sent any more.
    pub(super) fn early_is_over(&mut self) {
        if let Some(early) = self.early.as_deref_mut() {
            early.frozen = early.frozen.saturating_sub(1);
            self.drop_idle_early();
        }
    }

    /// Drops keys of epoch 1 that nothing needs any more. A client has no use for them once its calls
    /// are over; a server may still be sent what was lost.
    pub(super) fn drop_idle_early(&mut self) {
        let Some(early) = self.early.as_deref_mut() else { return };
        if early.frozen > 0 || !matches!(self.state, State::Established) {
            return;
        }
        early.tx = None;
        if self.role == Role::Client || early.rx.is_none() {
            self.early = None;
        }
    }

    /// There are keys of epoch 3: from now on the time of epoch 1 is limited.
    pub(super) fn limit_early(&mut self, until: Time) {
        if let Some(early) = self.early.as_deref_mut() {
            early.until = Some(until);
        }
    }

    /// When the keys of epoch 1 go at the latest.
    pub(super) fn early_until(&self) -> Option<Time> {
        self.early.as_ref()?.until
    }

    /// The time of epoch 1 is over: what still needs its keys fails.
    pub(super) fn end_early(&mut self, cx: &mut Shared, now: Time) {
        self.early = None;
        let stuck = |epoch| epoch == Some(EARLY_EPOCH);
        for number in self.early_calls() {
            if self.out.get(number).is_some_and(|rpc| stuck(rpc.request.epoch())) {
                self.cancel(cx, now, number, CallError::OutcomeUnknown);
            }
        }
        let stragglers = self.inc.iter().filter(|(_, rpc)| match &rpc.state {
            InState::Receiving(message) => message.epoch == EARLY_EPOCH,
            InState::Responding(response) => stuck(response.epoch()),
            InState::Executing => false,
        });
        let mut stragglers: Vec<u64> = stragglers.map(|(number, _)| number).collect();
        stragglers.sort_unstable();
        for number in stragglers {
            self.forget(cx, number);
        }
    }

    /// Calls that were started as early ones and are not over, in the order of their numbers.
    fn early_calls(&self) -> Vec<u64> {
        let early = self.out.iter().filter(|(_, rpc)| rpc.sort == Sort::Early);
        let mut numbers: Vec<u64> = early.map(|(number, _)| number).collect();
        numbers.sort_unstable();
        numbers
    }
}
