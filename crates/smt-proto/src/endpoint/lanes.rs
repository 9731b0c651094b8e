//! Sessions of several lanes (spec 3.5): how their lanes come to be, which one takes a call, and how they
//! end together.

use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::Bytes;

use super::{Endpoint, Shared};
use crate::error::{CallError, CloseReason, HandshakeError, StartError};
use crate::event::Event;
use crate::session::lanes::{Family, Incoming, Lane};
use crate::session::{Lanes, RpcId, Session, SessionId, State};
use crate::time::Time;

/// Lanes among which the next call chooses, at most: to look at all of many would cost more than it gains.
const CHOICES: usize = 4;

/// That a session of several lanes, known by its first one here, is over.
pub(crate) enum Ending {
    /// A lane other than the first wants it closed.
    Close(SessionId, CloseReason),
    /// A lane other than the first has found it gone.
    End(SessionId, CloseReason),
    /// It is over: the calls of the other lanes end with this error, and the application is told.
    Told(SessionId, CallError, CloseReason),
}

impl Endpoint {
    /// What the other shards of this host need of a session, once it has keys. Once per session, and only
    /// where [`Config::shard`](crate::Config::shard) has a count of more than one: give it to all of them
    /// before another packet is handled or sent here.
    pub fn take_lanes(&mut self, session: SessionId) -> Option<Box<Lanes>> {
        self.sessions.get_mut(session)?.family.as_deref_mut()?.handed.take()
    }

    /// Adds this shard's lanes of a session that was made at shard 0; they work at once. To be called
    /// before packets are handled that came later than `lanes`. The name is this endpoint's own; the
    /// session's end is to be told to all shards.
    ///
    /// # Errors
    /// [`HandshakeError::TooManySessions`]; [`HandshakeError::BadParameters`] at shard 0, and for a session
    /// that has no lane for this shard.
    pub fn add_lanes(&mut self, now: Time, lanes: &Lanes) -> Result<SessionId, HandshakeError> {
        let index = self.shared.config.shard.index;
        let count = lanes.local.lanes.max(lanes.peer.lanes);
        if index == 0 || count < self.shared.config.shard.count {
            return Err(HandshakeError::BadParameters);
        }
        if !self.has_room_for(count, 0) {
            self.shared.stats.limit_sessions += 1;
            return Err(HandshakeError::TooManySessions);
        }
        let limits = self.shared.config.limits;
        let lane = Lane::new(index, count);
        let head = self.sessions.insert(|id| {
            let way = (lanes.path, lanes.role);
            let mut session = Session::new(id, way, lanes.local, &limits, now);
            session.lane = lane;
            session
        });
        self.furnish(now, head, lanes);
        self.open_others(now, head, lanes);
        Ok(head)
    }

    /// Whether those lanes of a session of `count` can be added that belong here, of which so many are
    /// `present`.
    pub(super) fn has_room_for(&self, count: u8, present: usize) -> bool {
        let here = usize::from(count / self.shared.config.shard.count.max(1)).max(1);
        self.sessions.len().saturating_sub(present) + here <= self.shared.config.limits.max_sessions
    }

    /// Makes the lanes of session `head` besides its first, if it has more. `lanes` is what it was made
    /// of, but for the pool.
    pub(super) fn open_family(&mut self, now: Time, head: SessionId, mut lanes: Lanes) {
        let Some(session) = self.sessions.get_mut(head).filter(|head| !head.lane.is_only()) else {
            return;
        };
        lanes.pool = session.incoming.share(session.lane, &self.shared.config.limits);
        self.open_others(now, head, &lanes);
        let has_others = self.shared.config.shard.count > 1;
        if let Some(session) = self.sessions.get_mut(head)
            && let Some(family) = session.family.as_deref_mut()
        {
            family.handed = has_others.then(|| Box::new(lanes));
        }
    }

    /// Makes the lanes that belong here besides the first, `head`.
    fn open_others(&mut self, now: Time, head: SessionId, lanes: &Lanes) {
        let Some(first) = self.sessions.get(head).map(|session| session.lane) else { return };
        let limits = self.shared.config.limits;
        let step = usize::from(self.shared.config.shard.count.max(1));
        let mut family = Vec::from([head]);
        for index in (first.index()..first.count()).step_by(step).skip(1) {
            let lane = Lane::new(index, first.count());
            let id = self.sessions.insert_lane(|id| {
                let way = (lanes.path, lanes.role);
                let mut session = Session::new(id, way, lanes.local, &limits, now);
                (session.lane, session.head) = (lane, head);
                session
            });
            self.furnish(now, id, lanes);
            family.push(id);
        }
        if let Some(session) = self.sessions.get_mut(head) {
            session.family = Some(Box::new(Family { lanes: family, turn: 0, handed: None }));
        }
    }

    /// Gives a new lane what it has of its session.
    fn furnish(&mut self, now: Time, lane: SessionId, lanes: &Lanes) {
        let limits = self.shared.config.limits;
        if let Some(session) = self.sessions.get_mut(lane) {
            session.set_peer(lanes.peer);
            session.room = lanes.room;
            session.incoming = Incoming::pooled(session.lane, &limits, lanes.pool.clone());
            session.open_lane(&mut self.shared, now, lanes);
        }
    }

    /// Starts an RPC in the lane of a session where least waits, of some that take turns in being looked
    /// at; if that is full, in any that is not.
    pub(super) fn start_in_a_lane(
        &mut self,
        head: SessionId,
        body: &Bytes,
        deadline: Time,
        user: u64,
    ) -> Result<RpcId, StartError> {
        let lane = self.choose_lane(head).ok_or(StartError::NoSession)?;
        let first = self.start_in(lane, body, deadline, user);
        if !matches!(first, Err(StartError::TooManyOutstanding | StartError::Backpressure)) {
            return first;
        }
        for lane in self.lanes_of(&head).to_vec() {
            if let Ok(rpc) = self.start_in(lane, body, deadline, user) {
                return Ok(rpc);
            }
        }
        first
    }

    fn start_in(
        &mut self,
        lane: SessionId,
        body: &Bytes,
        deadline: Time,
        user: u64,
    ) -> Result<RpcId, StartError> {
        let session = self.sessions.get_mut(lane).ok_or(StartError::NoSession)?;
        let number = session.start_call(&mut self.shared, body.clone(), deadline, user)?;
        Ok(session.rpc_id(true, number))
    }

    /// The lane for the next call.
    fn choose_lane(&mut self, head: SessionId) -> Option<SessionId> {
        let session = self.sessions.get_mut(head)?;
        if !matches!(session.state, State::Established) {
            // Until the server was heard its other lanes may not be there (spec 3.5).
            return Some(head);
        }
        let family = session.family.as_deref_mut()?;
        let start = family.turn;
        family.turn = (start + 1) % family.lanes.len().max(1);
        let session = self.sessions.get(head)?;
        let lanes = &session.family.as_deref()?.lanes;
        let offered = lanes.iter().cycle().skip(start).take(lanes.len().min(CHOICES));
        let load = |id: &&SessionId| self.sessions.get(**id).map(Session::load);
        offered.min_by_key(load).copied()
    }

    /// Bytes of messages that wait in a session to be sent, acknowledged or received whole.
    pub fn waiting_bytes(&self, session: SessionId) -> u64 {
        let lanes = self.lanes_of(&session).iter().filter_map(|id| self.sessions.get(*id));
        lanes.map(|lane| lane.load().0).sum()
    }

    /// Bytes of a session's messages being received or worked on, against
    /// [`Limits::max_incoming_bytes`](crate::Limits::max_incoming_bytes); with several shards those of the
    /// lanes here.
    pub fn incoming_of(&self, session: SessionId) -> u64 {
        let lanes = self.lanes_of(&session).iter().filter_map(|id| self.sessions.get(*id));
        lanes.map(|lane| lane.incoming.held()).sum()
    }

    /// How many lanes a session has, those at other shards included; 0 if there is no such session.
    pub fn lane_count(&self, session: SessionId) -> u8 {
        self.sessions.get(session).map_or(0, |session| session.lane.count())
    }

    /// Which lane of its session an RPC is in.
    pub fn lane_of(&self, rpc: RpcId) -> Option<u8> {
        self.sessions.see_rpc(rpc).map(|(lane, _)| lane.lane.index())
    }

    /// The lanes here of a session that the application knows.
    fn lanes_of<'a>(&'a self, head: &'a SessionId) -> &'a [SessionId] {
        match self.sessions.get(*head).map(|session| &session.family) {
            Some(Some(family)) => &family.lanes,
            Some(None) => core::slice::from_ref(head),
            None => &[],
        }
    }

    /// Does something with each lane of a session.
    pub(super) fn each_lane(
        &mut self,
        head: SessionId,
        mut act: impl FnMut(&mut Session, &mut Shared),
    ) {
        match self.sessions.get_mut(head) {
            Some(session) if session.family.is_none() => act(session, &mut self.shared),
            None => {}
            Some(_) => {
                for id in self.lanes_of(&head).to_vec() {
                    if let Some(lane) = self.sessions.get_mut(id) {
                        act(lane, &mut self.shared);
                    }
                }
            }
        }
    }

    pub(super) fn sum_of_lanes(&self, head: SessionId, count: impl Fn(&Session) -> usize) -> usize {
        let lanes = self.lanes_of(&head).iter().filter_map(|id| self.sessions.get(*id));
        lanes.map(count).sum()
    }

    /// Ends lanes whose session is over, and sessions that one of their lanes has found over.
    pub(super) fn end_lanes(&mut self) {
        if self.shared.ending.is_empty() && self.shared.ended.is_empty() {
            return;
        }
        let mut at = 0;
        while let Some(ending) = self.shared.ending.get(at) {
            at += 1;
            let now = self.shared.now;
            match *ending {
                Ending::Close(head, reason) => {
                    if self.is_open(head)
                        && let Some(session) = self.sessions.get_mut(head)
                    {
                        session.close(&mut self.shared, now, reason);
                    }
                }
                Ending::End(head, reason) => {
                    if self.is_open(head)
                        && let Some(session) = self.sessions.get_mut(head)
                    {
                        session.end(&mut self.shared, Some(reason));
                    }
                }
                Ending::Told(head, ref error, reason) => {
                    let error = error.clone();
                    self.drop_others(head, &error);
                    self.shared.events.push_back(Event::Closed { session: head, reason });
                }
            }
        }
        self.shared.ending.clear();
        // What ends without a word to the application.
        for at in 0..self.shared.ended.len() {
            if let Some(&id) = self.shared.ended.get(at) {
                self.drop_others(id, &CallError::SessionClosed);
            }
        }
    }

    /// Whether a session is not over yet.
    fn is_open(&self, head: SessionId) -> bool {
        let state = self.sessions.get(head).map(|session| &session.state);
        !self.shared.ended.contains(&head)
            && state.is_some_and(|state| !matches!(state, State::Closing { .. }))
    }

    /// Removes all lanes of a session but the first.
    fn drop_others(&mut self, head: SessionId, error: &CallError) {
        #[cfg(feature = "mutations")]
        if self.shared.config.has(crate::mutation::Mutation::LanesOutliveSession) {
            return;
        }
        let Some(session) = self.sessions.get_mut(head) else { return };
        let Some(family) = session.family.take() else { return };
        for id in family.lanes.into_iter().skip(1) {
            if let Some(lane) = self.sessions.get_mut(id) {
                lane.end_rpcs(&mut self.shared, error.clone());
                self.shared.ended.push(id);
            }
        }
    }
}
