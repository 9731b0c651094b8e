//! Packets in and out, and what they bring.

use std::time::Duration;

use smt::{CallError, CloseReason, Event};

use crate::abi::{
    CLOSED_DEAD, CLOSED_LOCAL, CLOSED_PEER, CLOSED_VIOLATION, EVENT_CLOSED, EVENT_JOINED,
    EVENT_KEY_UPDATE_WANTED, EVENT_NONE, EVENT_REQUEST, EVENT_REQUEST_CANCELLED, EVENT_RESPONSE,
    EVENT_SHARD_GONE, Versioned, smt_engine, smt_event,
};
use crate::border;
use crate::engine::{Lent, State, session_number, with_engine};
use crate::message::rpc_name;
use crate::status::{Failure, Status, call_status};

impl State {
    /// The next event that C knows; `None` when nothing is left to do and, if `timeout` is not zero,
    /// that time has passed.
    fn next_event(&mut self, timeout: Option<Duration>) -> Result<Option<smt_event>, Failure> {
        loop {
            while let Some(event) = self.engine.next_event() {
                if let Some(event) = self.translate(event) {
                    return Ok(Some(event));
                }
            }
            if !self.engine.poll()? {
                break;
            }
        }
        if timeout == Some(Duration::ZERO) {
            return Ok(None);
        }
        while let Some(event) = self.engine.next(timeout)? {
            if let Some(event) = self.translate(event) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// An event in C's words. What it points to is kept in `self.lent`. `None` for events of
    /// handshakes, of which there are none here but failed ones of strangers.
    fn translate(&mut self, event: Event) -> Option<smt_event> {
        let mut told = smt_event::ZERO;
        match event {
            Event::Request { rpc, body, .. } => {
                told.kind = EVENT_REQUEST;
                told.rpc = rpc_name(rpc);
                self.lent = Lent::Message(body);
            }
            Event::RequestCancelled { rpc } => {
                told.kind = EVENT_REQUEST_CANCELLED;
                told.rpc = rpc_name(rpc);
            }
            Event::Response { rpc, user, result } => {
                told.kind = EVENT_RESPONSE;
                told.rpc = rpc_name(rpc);
                told.user = user;
                match result {
                    Ok(body) => self.lent = Lent::Message(body),
                    Err(error) => {
                        told.status = call_status(&error) as i32;
                        if let CallError::Refused(reply) = error {
                            told.code = reply.code;
                            self.lent = Lent::Text(reply.text);
                        }
                    }
                }
            }
            Event::Closed { session, reason } => {
                told.kind = EVENT_CLOSED;
                told.session = session_number(session);
                told.code = match reason {
                    CloseReason::Local => CLOSED_LOCAL,
                    CloseReason::Peer => CLOSED_PEER,
                    CloseReason::Dead => CLOSED_DEAD,
                    CloseReason::Violation => CLOSED_VIOLATION,
                };
            }
            Event::KeyUpdateWanted { session } => {
                told.kind = EVENT_KEY_UPDATE_WANTED;
                told.session = session_number(session);
            }
            Event::Joined { session, shared, .. } => {
                told.kind = EVENT_JOINED;
                told.session = session_number(session);
                told.user = session_number(shared.at_first());
            }
            Event::ShardGone { shard } => {
                told.kind = EVENT_SHARD_GONE;
                told.code = u32::try_from(shard).unwrap_or(u32::MAX);
            }
            _ => return None,
        }
        if told.session == 0 {
            told.session = told.rpc.session;
        }
        told.data = self.lent.bytes().as_ptr();
        told.len = self.lent.bytes().len();
        Some(told)
    }
}

/// Moves packets, and gives the next event.
///
/// # Safety
/// `event` is null, or as large as its first member says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smt_next_event(
    engine: *mut smt_engine,
    event: *mut smt_event,
    timeout_ms: i32,
) -> i32 {
    with_engine(engine, |state| {
        // SAFETY: the caller's promise. Checked before anything is taken from the engine.
        unsafe { border::read("event", event)? };
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        state.lent = Lent::Nothing;
        let told = state.next_event(timeout)?;
        let nothing = smt_event { kind: EVENT_NONE, status: Status::Ok as i32, ..smt_event::ZERO };
        // SAFETY: the caller's promise.
        unsafe { border::write("event", event, &told.unwrap_or(nothing)) }
    })
}

/// Sends what waits.
#[unsafe(no_mangle)]
pub extern "C" fn smt_flush(engine: *mut smt_engine) -> i32 {
    with_engine(engine, State::flush)
}
