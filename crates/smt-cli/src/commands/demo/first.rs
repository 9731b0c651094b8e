//! The process that makes one session after the other, each for one RPC, and measures how long the first response takes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use smt::engine::SessionInfo;
use smt::tls::ClientTls;
use smt::{Builder, CallOptions, ConnectOptions, Engine, Event, SessionId, Wait};

use super::host::{SERVER_NAME, Tasks, client_tls, datapath_failed, say};
use super::messages::{Beginning, Report, Setup, Task};
use crate::commands::Error;
use crate::output::nanoseconds;

/// The request, in the size of a small RPC.
const REQUEST: [u8; 64] = [7; 64];
/// How long a session's end, and its tickets, may take.
const PATIENCE: Duration = Duration::from_millis(300);
/// Sessions that may begin otherwise than they should, for want of a ticket that came in time.
const MAX_AGAIN: usize = 100;

/// Measures what it is told to.
pub(super) fn measure(setup: &Setup, tasks: &Tasks) -> Result<(), Error> {
    let full = client_tls(setup)?.resumption(false).build()?;
    let again = client_tls(setup)?.build()?;
    let mut ends = [client(full, false)?, client(again, true)?];
    while let Some(task) = tasks.wait() {
        let Task::FirstRpcs { count } = task else { continue };
        // The first sessions bring the tickets for the others.
        for end in &mut ends {
            first_rpc(end, setup, Beginning::Full)?;
        }
        let mut left: VecDeque<Beginning> =
            Beginning::ALL.into_iter().cycle().take(count * Beginning::ALL.len()).collect();
        let mut again = 0;
        while let Some(beginning) = left.pop_front() {
            let [full, resuming] = &mut ends;
            let end = if beginning == Beginning::Full { full } else { resuming };
            let (ns, info) = first_rpc(end, setup, beginning)?;
            if is(beginning, &info) {
                say(&Report::FirstRpc { beginning, ns })?;
            } else {
                again += 1;
                left.push_back(beginning);
            }
            if again > MAX_AGAIN {
                let text = format!("sessions do not begin as they should: {}", beginning.tag());
                return Err(Error::Failed(text));
            }
        }
    }
    Ok(())
}

fn client(tls: ClientTls, tickets: bool) -> Result<Engine, Error> {
    Ok(Builder::new().wait(Wait::Block).client(tls).smt_tickets(tickets).engine()?)
}

/// Whether a session began as it should.
fn is(beginning: Beginning, info: &SessionInfo) -> bool {
    match beginning {
        Beginning::Full => !info.resumed && !info.early,
        Beginning::Resumed => info.resumed && !info.early,
        Beginning::Early => info.early,
    }
}

/// Makes a session for one RPC; the time counts from nothing to the response.
fn first_rpc(
    engine: &mut Engine,
    setup: &Setup,
    beginning: Beginning,
) -> Result<(u64, SessionInfo), Error> {
    let failed = |error| Error::Connect { target: setup.server.to_string(), error };
    let early = beginning == Beginning::Early;
    let start = Instant::now();
    let options = ConnectOptions::new(SERVER_NAME).early(early);
    let connect = engine.connect_with(setup.server, options).map_err(failed)?;
    if early {
        engine.call_early(connect, REQUEST.to_vec(), CallOptions::default());
    } else {
        engine.call_queued(connect, REQUEST.to_vec(), CallOptions::default());
    }
    let (mut ns, mut made) = (None, None);
    let (ns, session, info) = loop {
        match engine.next(Some(PATIENCE)).map_err(datapath_failed)? {
            Some(Event::Response { result, .. }) => {
                ns = Some(nanoseconds(start.elapsed()));
                if result?[..] != REQUEST {
                    return Err(Error::Failed("the response is not the request".to_owned()));
                }
            }
            Some(Event::Connected { session, info, .. }) => made = Some((session, info)),
            Some(Event::ConnectFailed { error, .. }) => return Err(failed(error)),
            Some(Event::EarlyCallFailed { error, .. }) => return Err(error.into()),
            _ => {}
        }
        if let (Some(ns), Some((session, info))) = (ns, &made) {
            break (ns, *session, SessionInfo::clone(info));
        }
    };
    end(engine, session)?;
    Ok((ns, info))
}

/// Lets the session's tickets come, and ends it.
fn end(engine: &mut Engine, session: SessionId) -> Result<(), Error> {
    let until = Instant::now() + Duration::from_millis(3);
    while Instant::now() < until {
        engine.next(Some(Duration::from_millis(1))).map_err(datapath_failed)?;
    }
    engine.close(session);
    while engine.session_count() > 0 {
        engine.next(Some(Duration::from_millis(1))).map_err(datapath_failed)?;
    }
    Ok(())
}
