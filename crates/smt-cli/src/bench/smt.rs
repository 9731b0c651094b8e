//! SMT's two ends, each an engine as by default but asleep while it waits. Its thread for handshakes stays on the same
//! core.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smt::proto::crypto::SuiteId;
use smt::tls::{ClientAuth, ClientTls, Identity, KeyExchange, Roots, ServerTls};
use smt::{Builder, CallOptions, ConnectError, Engine, Event, SessionId, Wait};

use super::RPC_BYTES;
use super::contender::{Both, Client, Exchange, Variant, What};
use super::ground::{Credentials, Ground, SERVER_NAME};
use super::serving::{LOOK_EVERY, Server, Serving};
use crate::commands::Error;
use crate::pki;

/// What SMT offers.
pub(super) const VARIANTS: &[Variant] = &[Variant::Full];

/// The IP protocol of the first contender. Each has one of its own, so that the kernel does not show every packet to
/// the sockets of all; 148 to 252 are unassigned.
pub(super) const FIRST_PROTOCOL: u8 = 150;
/// The SMT port of servers.
pub(super) const PORT: u16 = 4433;
/// How long a session may take to be made and answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts a server and makes a client.
pub(super) fn enter(ground: &Ground, what: What, index: u16) -> Result<Both, Error> {
    let address = ground.server_address(PORT);
    let (server, client) = builders(ground, what, index)?;
    let server = Server::start(ground, move |serving| {
        let mut engine = server.wait(Wait::Block).engine()?;
        serving.ready();
        serve(&mut engine, serving)
    })?;
    let engine = client.wait(Wait::Block).engine()?;
    let client = SmtClient { engine, address, request: Bytes::from_static(&[7; RPC_BYTES]) };
    Ok((server, Box::new(client)))
}

/// A server and a client for it, to be made with the rest as by default.
pub(super) fn builders(
    ground: &Ground,
    what: What,
    index: u16,
) -> Result<(Builder, Builder), Error> {
    let protocol = FIRST_PROTOCOL.saturating_add(u8::try_from(index).unwrap_or(u8::MAX));
    let builder = || Builder::new().protocol(protocol);
    let credentials = &ground.credentials;
    let server = builder().bind(ground.server_address(PORT).ip());
    let server = server.server(PORT, server_tls(credentials, what)?);
    Ok((server, builder().client(client_tls(credentials, what)?)))
}

fn key_exchange(what: What) -> KeyExchange {
    match what.exchange {
        Exchange::X25519 => KeyExchange::Classic,
        Exchange::Hybrid => KeyExchange::HybridOnly,
    }
}

fn server_tls(credentials: &Credentials, what: What) -> Result<ServerTls, Error> {
    let mut tls = ServerTls::builder(identity(credentials.server())?)
        .key_exchange(key_exchange(what))
        .cipher_suites(&[SuiteId::Aes128GcmSha256]);
    if what.variant == Variant::Full {
        tls = tls.tickets(0);
    }
    if what.mtls {
        tls = tls.client_auth(ClientAuth::Required(roots(credentials)?));
    }
    Ok(tls.build()?)
}

fn client_tls(credentials: &Credentials, what: What) -> Result<ClientTls, Error> {
    let mut tls = ClientTls::builder(roots(credentials)?)
        .key_exchange(key_exchange(what))
        .cipher_suites(&[SuiteId::Aes128GcmSha256])
        .resumption(what.variant != Variant::Full);
    if what.mtls {
        tls = tls.identity(identity(credentials.client())?);
    }
    Ok(tls.build()?)
}

pub(super) fn roots(credentials: &Credentials) -> Result<Roots, Error> {
    Ok(Roots::from_der(vec![credentials.authority().to_vec()])?)
}

pub(super) fn identity(identity: &pki::Identity) -> Result<Identity, Error> {
    let key = identity.key().secret_der().to_vec();
    Ok(Identity::from_der(vec![identity.certificate().to_vec()], key)?)
}

/// Echoes until it is over.
pub(super) fn serve(engine: &mut Engine, serving: &Serving) -> Result<(), Error> {
    while !serving.is_over() {
        let event = engine.next(Some(LOOK_EVERY)).map_err(Error::io("the datapath failed"))?;
        match event {
            Some(Event::Request { rpc, body, .. }) => {
                engine.reply(rpc, body.into_vec());
                engine.flush().map_err(Error::io("the datapath failed"))?;
            }
            Some(Event::Closed { .. }) => serving.done(),
            _ => {}
        }
    }
    Ok(())
}

struct SmtClient {
    engine: Engine,
    address: SocketAddr,
    request: Bytes,
}

impl Client for SmtClient {
    fn first_rpc(&mut self) -> Result<Duration, Error> {
        let start = Instant::now();
        first_rpc(&mut self.engine, self.address, &self.request)?;
        let elapsed = start.elapsed();
        self.engine.close_all(PATIENCE).map_err(Error::io("the datapath failed"))?;
        Ok(elapsed)
    }
}

/// Connects, sends `request` as early as possible, and takes the response.
pub(super) fn first_rpc(
    engine: &mut Engine,
    server: SocketAddr,
    request: &Bytes,
) -> Result<(), Error> {
    let failed = |error| no_session(server, error);
    let until = Instant::now() + PATIENCE;
    let connect = engine.connect(server, SERVER_NAME).map_err(failed)?;
    engine.call_queued(connect, request.clone(), CallOptions::default());
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        match engine.next(Some(left)).map_err(Error::io("the datapath failed"))? {
            Some(Event::Response { result, .. }) => {
                return if result?[..] == request[..] {
                    Ok(())
                } else {
                    Err(Error::Failed("the response is not the request".to_owned()))
                };
            }
            Some(Event::ConnectFailed { error, .. }) => return Err(failed(error)),
            Some(Event::EarlyCallFailed { error, .. }) => return Err(error.into()),
            _ => {}
        }
    }
    Err(Error::Failed("no response".to_owned()))
}

/// Makes a session.
pub(super) fn connect(engine: &mut Engine, server: SocketAddr) -> Result<SessionId, Error> {
    let failed = |error| no_session(server, error);
    engine.connect(server, SERVER_NAME).map_err(failed)?;
    loop {
        match engine.next(Some(PATIENCE)).map_err(Error::io("the datapath failed"))? {
            Some(Event::Connected { session, .. }) => return Ok(session),
            Some(Event::ConnectFailed { error, .. }) => return Err(failed(error)),
            Some(_) => {}
            None => return Err(Error::Failed("the server does not answer".to_owned())),
        }
    }
}

fn no_session(server: SocketAddr, error: ConnectError) -> Error {
    Error::Connect { target: server.to_string(), error }
}
