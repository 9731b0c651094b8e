//! The processes between which round trips are measured: SMT's ends as lean loops around an engine, and those of its
//! peers.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustls::pki_types::ServerName;
use smt::{Engine, SessionId};

use super::host::{
    CLIENT_NAME, SERVER_NAME, Tasks, authority, engine, pki_failed, say, session, settle,
};
use super::messages::{Report, Setup, Task, Transport};
use crate::baseline::{self, Plan, tcp, tls};
use crate::commands::Error;
use crate::pki::Profile;

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
        let plan = Plan::counted(size, warmup, count, wait(setup));
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
            Pinger::Smt(engine, session) => baseline::smt::ping(engine, *session, plan),
            Pinger::Tcp => tcp::ping_tcp(setup.server, plan).map_err(failed),
            Pinger::Tls(config) => {
                let name = ServerName::try_from(SERVER_NAME)
                    .map_err(|error| Error::Failed(error.to_string()))?;
                tls::ping_tls(setup.server, name, config, plan).map_err(failed)
            }
        }
    }
}

fn serve_smt(setup: &Setup, tasks: &Tasks) -> Result<(), Error> {
    let mut engine = engine(setup)?;
    session(&mut engine, setup, tasks)?;
    baseline::smt::serve(&mut engine, wait(setup), || tasks.ended())
}

fn wait(setup: &Setup) -> baseline::Wait {
    if setup.spin { baseline::Wait::Spin } else { baseline::Wait::Block }
}
