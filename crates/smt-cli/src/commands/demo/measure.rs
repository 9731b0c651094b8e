//! The processes between which round trips are measured: SMT's ends as lean loops around an engine, and those of its
//! peers.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::pki_types::ServerName;
use smt::{CallError, CallOptions, Engine, Event, SessionId};

use super::host::{
    CLIENT_NAME, SERVER_NAME, Tasks, authority, datapath_failed, engine, pki_failed, say, session,
    settle,
};
use super::messages::{Report, Setup, Task, Transport};
use crate::baseline::{self, Plan, tcp, tls};
use crate::commands::Error;
use crate::output::nanoseconds;
use crate::pki::Profile;

/// Polls between looks whether to end: often enough in time, rarely enough to cost nothing.
const POLLS_PER_LOOK: u32 = 1 << 12;
/// How long an end that sleeps does so before it looks whether to end.
const NAP: Duration = Duration::from_millis(50);

/// Echoes until standard input ends.
pub(super) fn serve(setup: &Setup, transport: Transport, tasks: &Tasks) -> Result<(), Error> {
    if transport == Transport::Smt {
        return serve_smt(setup, tasks);
    }
    let stopped = |error| Error::io("the server failed")(error);
    let listener = TcpListener::bind(setup.server).map_err(Error::io("cannot listen"))?;
    let stop = Arc::new(AtomicBool::new(false));
    settle(setup)?;
    say(&Report::Ready)?;
    thread::scope(|scope| {
        let stop = &stop;
        let server = scope.spawn(move || match transport {
            Transport::Smt | Transport::Tcp => {
                tcp::serve_tcp(&listener, wait(setup), stop).map_err(stopped)
            }
            Transport::Tls => {
                let authority = authority(setup)?;
                let identity = authority.server(&[SERVER_NAME], Profile::default());
                let config =
                    tls::server_config(authority.certificate(), &identity.map_err(pki_failed)?)
                        .map_err(|error| Error::Failed(error.to_string()))?;
                tls::serve_tls(&listener, &config, wait(setup), stop).map_err(stopped)
            }
        });
        // The tasks end with standard input.
        while tasks.wait().is_some() {}
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap_or_else(|_| Err(Error::Failed("the server panicked".to_owned())))
    })
}

/// Measures what it is told to.
pub(super) fn ping(setup: &Setup, transport: Transport, tasks: &Tasks) -> Result<(), Error> {
    let mut pinger = match transport {
        Transport::Smt => {
            let mut engine = engine(setup)?;
            let session = session(&mut engine, setup, tasks)?;
            Pinger::Smt(Box::new(engine), session)
        }
        Transport::Tcp => Pinger::Tcp,
        Transport::Tls => {
            let authority = authority(setup)?;
            let identity = authority.client(CLIENT_NAME, Profile::default()).map_err(pki_failed)?;
            let config = tls::client_config(authority.certificate(), &identity)
                .map_err(|error| Error::Failed(error.to_string()))?;
            Pinger::Tls(config)
        }
    };
    settle(setup)?;
    while let Some(task) = tasks.wait() {
        let Task::Measure { size, warmup, count } = task else { continue };
        let plan = Plan { size, warmup, count, wait: wait(setup) };
        say(&Report::Times { ns: pinger.measure(setup, &plan)? })?;
    }
    Ok(())
}

enum Pinger {
    Smt(Box<Engine>, SessionId),
    Tcp,
    Tls(Arc<rustls::ClientConfig>),
}

impl Pinger {
    fn measure(&mut self, setup: &Setup, plan: &Plan) -> Result<Vec<u64>, Error> {
        let failed = |error| Error::io("the connection failed")(error);
        match self {
            Pinger::Smt(engine, session) => ping_smt(engine, *session, plan),
            Pinger::Tcp => tcp::ping_tcp(setup.server, plan).map_err(failed),
            Pinger::Tls(config) => {
                let name = ServerName::try_from(SERVER_NAME)
                    .map_err(|error| Error::Failed(error.to_string()))?;
                tls::ping_tls(setup.server, name, config, plan).map_err(failed)
            }
        }
    }
}

/// One call after the other; all responses are compared, as the peers do, before and in part while measuring.
fn ping_smt(engine: &mut Engine, session: SessionId, plan: &Plan) -> Result<Vec<u64>, Error> {
    let request: Bytes = (0..=250_u8).cycle().take(plan.size).collect();
    let mut times = Vec::with_capacity(plan.count);
    for round in 0..plan.warmup + plan.count {
        let start = Instant::now();
        engine.call(session, request.clone(), CallOptions::default()).map_err(CallError::from)?;
        let response = loop {
            match next(engine, plan.wait)? {
                Some(Event::Response { result, .. }) => break result?,
                Some(Event::Closed { .. }) => return Err(CallError::SessionClosed.into()),
                _ => {}
            }
        };
        let elapsed = start.elapsed();
        let compared = if round < plan.warmup { request.len() } else { request.len().min(8) };
        if response.len() != request.len() || response[..compared] != request[..compared] {
            return Err(Error::Failed("the response is not the request".to_owned()));
        }
        if round >= plan.warmup {
            times.push(nanoseconds(elapsed));
        }
    }
    Ok(times)
}

fn serve_smt(setup: &Setup, tasks: &Tasks) -> Result<(), Error> {
    let mut engine = engine(setup)?;
    session(&mut engine, setup, tasks)?;
    let mut polls: u32 = 0;
    loop {
        if let Some(Event::Request { rpc, body, .. }) = next(&mut engine, wait(setup))? {
            engine.reply(rpc, body.into_vec());
            engine.flush().map_err(datapath_failed)?;
        }
        polls = polls.wrapping_add(1);
        let look = !setup.spin || polls.is_multiple_of(POLLS_PER_LOOK);
        if look && tasks.ended() {
            return Ok(());
        }
    }
}

/// The next event: after one look if spinning, else after a nap at most.
fn next(engine: &mut Engine, wait: baseline::Wait) -> Result<Option<Event>, Error> {
    match wait {
        baseline::Wait::Spin => {
            if let Some(event) = engine.next_event() {
                return Ok(Some(event));
            }
            engine.poll().map_err(datapath_failed)?;
            Ok(engine.next_event())
        }
        baseline::Wait::Block => engine.next(Some(NAP)).map_err(datapath_failed),
    }
}

fn wait(setup: &Setup) -> baseline::Wait {
    if setup.spin { baseline::Wait::Spin } else { baseline::Wait::Block }
}
