//! How sessions get keys, prove to be alive, and end.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use super::lanes::Pool;
use super::timeout::MIN_ASK_WAIT;
use super::{Lanes, Role, Session, SessionKeys, State, Updates};
use crate::crypto::Suite;
use crate::endpoint::lanes::Ending;
use crate::endpoint::{Notice, Shared};
use crate::error::{CallError, CloseReason};
use crate::event::Event;
use crate::keys::{Secret, lane_secret};
use crate::rpc::{InState, OutRpc, Sort};
use crate::time::Time;
use crate::wire::{CancelCode, EARLY_EPOCH};

impl Session {
    /// Installs the epoch 3 secrets of both directions. A server works from here on; a client
    /// sends from here on and is established with the first authentic packet.
    pub(crate) fn install_keys(
        &mut self,
        cx: &mut Shared,
        now: Time,
        suite: &'static dyn Suite,
        client: Secret,
        server: Secret,
        updates: Updates,
    ) {
        let (tx, rx) = match self.role {
            Role::Client => (client, server),
            Role::Server => (server, client),
        };
        let limits = cx.config.aead_limits;
        self.keys = Some(Box::new(SessionKeys::new(suite, tx, rx, updates, limits)));
        self.last_heard = now;
        self.limit_early(now + cx.config.limits.handshake_timeout);
        match self.role {
            Role::Client => {
                self.state = State::Unconfirmed;
                if let Some(due) = self.handshake.as_ref().map(|handshake| handshake.repeat_at) {
                    self.wake_at(cx, due);
                }
            }
            Role::Server => {
                cx.send_control(self.id, 0, Notice::Ack);
                self.establish(cx);
            }
        }
        self.release(cx);
    }

    /// Queues our flight for sending, unless it is queued.
    pub(crate) fn queue_flight(&mut self, cx: &mut Shared) {
        if let Some(handshake) = self.handshake.as_deref_mut()
            && !core::mem::replace(&mut handshake.queued, true)
        {
            cx.flights.push_back(self.id);
        }
    }

    /// Has a server's answer to an offer go before all else.
    pub(crate) fn queue_answer(&mut self, cx: &mut Shared) {
        if let Some(handshake) = self.handshake.as_deref_mut()
            && !core::mem::replace(&mut handshake.answer_queued, true)
        {
            cx.answers.push_back(self.id);
        }
    }

    /// Notes whether the queue of flights still holds ours.
    pub(crate) fn flight_queued(&mut self, queued: bool) {
        if let Some(handshake) = self.handshake.as_deref_mut() {
            handshake.queued = queued;
        }
    }

    /// Whether a repeated last flight may be answered now: at most once per millisecond.
    pub(crate) fn may_answer_flight(&mut self, now: Time) -> bool {
        let due = now >= self.next_flight_answer;
        if due {
            self.next_flight_answer = now + super::handshake::ANSWER_PACE;
        }
        due
    }

    /// Takes one measurement of the round-trip time.
    pub(crate) fn sample_rtt(&mut self, now: Time, rtt: Duration) {
        self.rtt.sample(now, rtt);
    }

    /// The session works without a handshake of ours (secrets negotiated elsewhere).
    pub(crate) fn establish(&mut self, cx: &mut Shared) {
        self.state = State::Established;
        self.handshake = None;
        cx.stats.handshakes_completed += 1;
        // Finished proves who the client is, not that it made this session's parameter block, offer
        // included: a handshake can be copied behind the offer of somebody else. Keys of epoch 3 are
        // bound to the block, so the first packet under them does.
        self.untold = self.role == Role::Server && self.early.is_some();
        let mut due = self.last_heard + cx.config.limits.idle_probe;
        if self.untold {
            cx.send_control(self.id, 0, Notice::NeedAck);
            due = due.min(self.last_heard + MIN_ASK_WAIT);
        } else {
            cx.events.push_back(Event::Established { session: self.id });
        }
        self.drop_idle_early();
        self.wake_at(cx, due);
    }

    /// An authentic packet of `epoch` came. Early data proves nothing: its keys may be known to
    /// whoever has got hold of the ticket's.
    pub(crate) fn heard(&mut self, cx: &mut Shared, now: Time, epoch: u32) {
        #[cfg(feature = "mutations")]
        let epoch = match cx.config.has(crate::mutation::Mutation::EarlyConfirms) {
            true => crate::wire::FIRST_EPOCH,
            false => epoch,
        };
        if epoch == EARLY_EPOCH {
            return;
        }
        self.last_heard = now;
        if matches!(self.state, State::Unconfirmed) {
            if let Some(sent_at) = self.handshake.as_ref().and_then(|handshake| handshake.sent_at) {
                self.rtt.sample(now, now.since(sent_at));
            }
            self.establish(cx);
        }
        if core::mem::take(&mut self.untold) {
            cx.events.push_back(Event::Established { session: self.id });
        }
        if self.probe_at.take().is_some() {
            self.probes = 0;
            self.wake_at(cx, now + cx.config.limits.idle_probe);
        }
    }

    /// Something unauthentic says that the peer is gone: ask the peer (spec 5.6).
    pub(crate) fn suspect(&mut self, cx: &mut Shared, now: Time) {
        if matches!(self.state, State::Established) && self.probe_at.is_none() {
            self.probes = 1;
            cx.stats.probes_sent += 1;
            cx.send_control(self.id, 0, Notice::NeedAck);
            let due = now + self.probe_wait();
            self.probe_at = Some(due);
            self.wake_at(cx, due);
        }
    }

    /// Whether an UNKNOWN without a session, about `id`, may concern us (spec 5.6).
    pub(crate) fn may_be_unknown(&self, id: u64) -> bool {
        if id == self.lane.own_id() {
            return self.probe_at.is_some() || matches!(self.state, State::Closing { .. });
        }
        self.rpc_of(id).is_some_and(|which| match which.ours {
            true => self.out.contains(which.number),
            // A response of ours, or our question whether it has come.
            false => self
                .inc
                .get(which.number)
                .is_some_and(|rpc| matches!(rpc.state, InState::Responding(_))),
        })
    }

    /// Starts to close: calls end now, the peer is told until it confirms.
    pub(crate) fn close(&mut self, cx: &mut Shared, now: Time, reason: CloseReason) {
        if self.head != self.id {
            return cx.ending.push(Ending::Close(self.head, reason));
        }
        if self.keys.is_none() || matches!(self.state, State::Closing { .. }) {
            return self.end(cx, None);
        }
        self.end_rpcs(cx, CallError::SessionClosed);
        self.tell_closed(cx, CallError::SessionClosed, reason);
        self.state = State::Closing { tries: 1 };
        self.probe_at = None;
        self.early = None;
        cx.send_control(self.id, 0, Notice::Cancel(CancelCode::Request));
        let due = now + self.silence(0);
        self.wake_at(cx, due);
    }

    /// Ends the session at once; the endpoint removes it. `reason` if the user is to be told.
    pub(crate) fn end(&mut self, cx: &mut Shared, reason: Option<CloseReason>) {
        if self.head != self.id {
            return cx.ending.extend(reason.map(|reason| Ending::End(self.head, reason)));
        }
        let error = match reason {
            Some(CloseReason::Dead) => CallError::OutcomeUnknown,
            _ => CallError::SessionClosed,
        };
        self.end_rpcs(cx, error.clone());
        if let Some(reason) = reason {
            self.tell_closed(cx, error, reason);
        }
        cx.ended.push(self.id);
    }

    /// Tells the application that the session is over, when the calls of all lanes are.
    fn tell_closed(&self, cx: &mut Shared, error: CallError, reason: CloseReason) {
        match self.family {
            Some(_) => cx.ending.push(Ending::Told(self.id, error, reason)),
            None => cx.events.push_back(Event::Closed { session: self.id, reason }),
        }
    }

    /// What the session's lanes are made of, if it has several.
    pub(crate) fn lanes(
        &self,
        suite: &'static dyn Suite,
        (client, server): (&Secret, &Secret),
        updates: Updates,
    ) -> Option<Lanes> {
        (!self.lane.is_only()).then(|| Lanes {
            path: self.path,
            role: self.role,
            suite,
            client: client.clone(),
            server: server.clone(),
            local: self.local,
            peer: self.peer,
            room: self.room,
            updates,
            pool: Pool::default(),
        })
    }

    /// Gives a lane its keys, from the session's own secrets. It works from here on, and the
    /// application has heard of its session or will.
    pub(crate) fn open_lane(&mut self, cx: &mut Shared, now: Time, lanes: &Lanes) {
        let index = self.lane.index();
        #[cfg(feature = "mutations")]
        let index = match cx.config.has(crate::mutation::Mutation::LaneKeysAlike) {
            true => 0,
            false => index,
        };
        let of_lane = |secret| lane_secret(lanes.suite, secret, index);
        let (client, server) = (of_lane(&lanes.client), of_lane(&lanes.server));
        let (tx, rx) = match self.role {
            Role::Client => (client, server),
            Role::Server => (server, client),
        };
        let limits = cx.config.aead_limits;
        self.keys = Some(Box::new(SessionKeys::new(lanes.suite, tx, rx, lanes.updates, limits)));
        self.state = State::Established;
        self.last_heard = now;
        cx.stats.lanes_opened += 1;
        self.wake_at(cx, now + cx.config.limits.idle_probe);
    }

    /// Gives back memory that a burst of RPCs has left unused.
    pub(crate) fn shrink(&mut self) {
        self.out.shrink_to_fit();
        self.inc.shrink_to_fit();
        self.waiting.shrink();
        self.finished.shrink();
        self.seen.shrink();
    }

    /// Ends all RPCs of both directions.
    pub(crate) fn end_rpcs(&mut self, cx: &mut Shared, error: CallError) {
        let mut ours: Vec<u64> = self.out.iter().map(|(number, _)| number).collect();
        ours.sort_unstable();
        let unfinished = self.handshake.is_some();
        for number in ours {
            let early = self.out.get(number).filter(|rpc| unfinished && rpc.sort == Sort::Early);
            let error = match early.map(OutRpc::was_sent) {
                Some(false) => CallError::NotRun,
                Some(true) => CallError::OutcomeUnknown,
                None => error.clone(),
            };
            self.finish(cx, number, Err(error));
        }
        self.forget_range(cx, 0..=u64::MAX);
    }

    /// The handshake has failed here: early data comes to nothing.
    pub(crate) fn fail_early(&mut self, cx: &mut Shared) {
        self.end_rpcs(cx, CallError::SessionClosed);
        self.early = None;
    }
}
