//! The RPC over SMT: lean loops around an engine at both ends, one call at a time or many in one session.

use std::time::{Duration, Instant};

use bytes::Bytes;
use smt::{CallError, CallOptions, Engine, Event, SessionId, StartError};

use super::rounds::Rounds;
use super::{Pipeline, Plan, Wait, receipt};
use crate::commands::Error;

/// Polls between looks whether to end: often enough in time, rarely enough to cost nothing.
const POLLS_PER_LOOK: u32 = 1 << 12;
/// How long an end that sleeps does so before it looks whether to end.
const NAP: Duration = Duration::from_millis(50);

/// Echoes requests of up to [`ECHO_UP_TO`](super::ECHO_UP_TO) bytes, and acknowledges longer ones, until `is_over`. An engine that is to
/// block was built to.
///
/// # Errors
/// The datapath fails.
pub fn serve(engine: &mut Engine, wait: Wait, is_over: impl Fn() -> bool) -> Result<(), Error> {
    let mut polls: u32 = 0;
    loop {
        let mut event = next(engine, wait)?;
        let worked = event.is_some();
        while let Some(some) = event {
            if let Event::Request { rpc, body, .. } = some {
                let response = receipt(&body, true).map(Bytes::copy_from_slice);
                let response = response.unwrap_or_else(|| body.into());
                engine.reply(rpc, response);
            }
            event = engine.next_event();
        }
        if worked {
            engine.flush().map_err(datapath_failed)?;
        }
        polls = polls.wrapping_add(1);
        if (wait != Wait::Spin || polls.is_multiple_of(POLLS_PER_LOOK)) && is_over() {
            return Ok(());
        }
    }
}

/// One call after the other; all responses are compared, as the peers do, before and in part while measuring. Returns
/// the round trips in nanoseconds, in order.
///
/// # Errors
/// A call fails, or has a wrong response.
pub fn ping(engine: &mut Engine, session: SessionId, plan: &Plan) -> Result<Vec<u64>, Error> {
    let request: Bytes = (0..=250_u8).cycle().take(plan.size).collect();
    let mut rounds = Rounds::new(plan);
    while let Some(round) = rounds.next() {
        let start = Instant::now();
        engine.call(session, request.clone(), CallOptions::default()).map_err(CallError::from)?;
        let response = loop {
            match next(engine, plan.wait)? {
                Some(Event::Response { result, .. }) => break result?,
                Some(Event::Closed { .. }) => return Err(CallError::SessionClosed.into()),
                _ => {}
            }
        };
        let end = Instant::now();
        let compared = if round < plan.warmup { request.len() } else { request.len().min(8) };
        if response.len() != request.len() || response[..compared] != request[..compared] {
            return Err(Error::Failed("the response is not the request".to_owned()));
        }
        rounds.over(start, end);
    }
    Ok(rounds.into_times())
}

/// The next event: after one look if spinning, else after a nap at most.
fn next(engine: &mut Engine, wait: Wait) -> Result<Option<Event>, Error> {
    match wait {
        Wait::Spin => {
            if let Some(event) = engine.next_event() {
                return Ok(Some(event));
            }
            engine.poll().map_err(datapath_failed)?;
            Ok(engine.next_event())
        }
        Wait::Adaptive | Wait::Block => engine.next(Some(NAP)).map_err(datapath_failed),
    }
}

fn datapath_failed(source: std::io::Error) -> Error {
    Error::io("the datapath failed")(source)
}

/// Many calls at a time in one session.
pub struct Calls {
    engine: Engine,
    session: SessionId,
    wait: Wait,
}

impl Calls {
    /// In a session that works.
    pub fn new(engine: Engine, session: SessionId, wait: Wait) -> Calls {
        Calls { engine, session, wait }
    }
}

impl Pipeline for Calls {
    fn request(&self, body: &[u8]) -> Bytes {
        Bytes::copy_from_slice(body)
    }

    fn call(&mut self, request: &Bytes, tag: usize) -> Result<(), Error> {
        let options = CallOptions { user: tag as u64, ..CallOptions::default() };
        match self.engine.call(self.session, request.clone(), options) {
            Ok(_) => Ok(()),
            Err(StartError::NoSession) => Err(CallError::SessionClosed.into()),
            Err(error) => Err(CallError::from(error).into()),
        }
    }

    fn turn(&mut self, over: &mut Vec<(usize, usize)>) -> Result<(), Error> {
        let mut event = next(&mut self.engine, self.wait)?;
        while let Some(some) = event {
            match some {
                Event::Response { user, result, .. } => over.push((user as usize, result?.len())),
                Event::Closed { .. } => return Err(CallError::SessionClosed.into()),
                _ => {}
            }
            event = self.engine.next_event();
        }
        Ok(())
    }
}
