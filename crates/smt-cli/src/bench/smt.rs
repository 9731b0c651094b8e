//! SMT's two ends, each an engine as by default but asleep while it waits. Its thread for handshakes stays on the same
//! core, or there is none.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use smt::engine::SessionInfo;
use smt::proto::crypto::SuiteId;
use smt::ticket::{DEFAULT_STRIKES, EarlyData, Kem, MemoryRegister, TicketIssuer, VerifiedTicket};
use smt::tls::{ClientAuth, ClientTls, Identity, KeyExchange, Roots, ServerTls};
use smt::{Builder, CallOptions, ConnectError, ConnectOptions, Engine, Event, SessionId, Wait};

use super::contender::{Both, Client, Exchange, Variant, What};
use super::ground::{Credentials, Ground, SERVER_NAME};
use super::serving::{LOOK_EVERY, Server, Serving};
use super::{RPC_BYTES, failed};
use crate::commands::Error;
use crate::pki;

/// What SMT offers.
pub(super) const VARIANTS: &[Variant] =
    &[Variant::Full, Variant::Resumed, Variant::Early, Variant::Static];

/// The IP protocol of the first contender. Each has one of its own, so that the kernel does not show every packet to
/// the sockets of all; 148 to 252 are unassigned.
pub(super) const FIRST_PROTOCOL: u8 = 150;
/// The SMT port of servers.
pub(super) const PORT: u16 = 4433;
/// How long a session may take to be made and answered.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client stays for tickets, which come right behind the response or before it.
const FOR_TICKETS: Duration = Duration::from_millis(2);
/// Attempts to get what the variant needs from the session before.
const ATTEMPTS: usize = 3;

/// Starts a server and makes a client.
pub(super) fn enter(ground: &Ground, what: What, index: u16, inline: bool) -> Result<Both, Error> {
    let address = ground.server_address(PORT);
    let Ends { mut server, mut client, tls, early } = ends(ground, what, index)?;
    if inline {
        (server, client) = (server.handshakes_inline(), client.handshakes_inline());
    }
    let server = Server::start(ground, move |serving| {
        let mut engine = server.wait(Wait::Block).engine()?;
        serving.ready();
        serve(&mut engine, serving)
    })?;
    let ticket = early.map(|early| ticket(&early, &tls)).transpose()?;
    let client = SmtClient {
        engine: client.wait(Wait::Block).engine()?,
        address,
        what,
        ticket,
        request: Bytes::from_static(&[7; RPC_BYTES]),
    };
    Ok((server, Box::new(client)))
}

/// A server and a client for it, to be made with the rest as by default.
pub(super) struct Ends {
    pub(super) server: Builder,
    pub(super) client: Builder,
    tls: ClientTls,
    early: Option<EarlyData>,
}

/// The ends of contender `index`.
pub(super) fn ends(ground: &Ground, what: What, index: u16) -> Result<Ends, Error> {
    ends_at(&ground.credentials, ground.server_address(PORT).ip(), what, index)
}

/// The same with the server at an address.
pub(super) fn ends_at(
    credentials: &Credentials,
    server: IpAddr,
    what: What,
    index: u16,
) -> Result<Ends, Error> {
    let protocol = FIRST_PROTOCOL.saturating_add(u8::try_from(index).unwrap_or(u8::MAX));
    let builder = || Builder::new().protocol(protocol);
    let early = match what.variant {
        Variant::Full | Variant::Resumed => None,
        Variant::Early | Variant::Static => Some(early_data(credentials, what)?),
    };
    let tls = client_tls(credentials, what)?;
    let server = builder().bind(server);
    let server = server.server(PORT, server_tls(credentials, what, early.clone())?);
    let client = builder().client(tls.clone());
    Ok(Ends { server, client, tls, early })
}

/// Early data by tickets of the kind that suits the key exchange.
fn early_data(credentials: &Credentials, what: What) -> Result<EarlyData, Error> {
    let kem = match what.exchange {
        Exchange::X25519 => Kem::X25519,
        Exchange::Hybrid => Kem::XWing,
    };
    let issuer = TicketIssuer::builder(identity(credentials.server())?).kem(kem);
    let issuer = issuer.build().map_err(failed("no tickets"))?;
    // The keys are as new as the register, so that nothing can have been forgotten.
    let register = MemoryRegister::started_at(DEFAULT_STRIKES, UNIX_EPOCH);
    let early = EarlyData::new(issuer, Arc::new(register));
    Ok(early.anonymous_ok(what.mtls).static_ok(what.variant == Variant::Static))
}

/// A ticket as a client would have it from DNS, verified. The server's engine has to be there already: the ticket
/// carries its parameters.
fn ticket(early: &EarlyData, tls: &ClientTls) -> Result<VerifiedTicket, Error> {
    let now = SystemTime::now();
    let ticket = early.issuer().ticket(now).map_err(failed("no ticket"))?;
    tls.verify_ticket(&ticket, SERVER_NAME, now).map_err(failed("the ticket is refused"))
}

fn key_exchange(what: What) -> KeyExchange {
    match what.exchange {
        Exchange::X25519 => KeyExchange::Classic,
        Exchange::Hybrid => KeyExchange::HybridOnly,
    }
}

fn server_tls(
    credentials: &Credentials,
    what: What,
    early: Option<EarlyData>,
) -> Result<ServerTls, Error> {
    let mut tls = ServerTls::builder(identity(credentials.server())?)
        .key_exchange(key_exchange(what))
        .cipher_suites(&[SuiteId::Aes128GcmSha256]);
    if what.variant != Variant::Resumed {
        tls = tls.tickets(0);
    }
    if let Some(early) = early {
        tls = tls.early_data(early);
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
        .resumption(what.variant == Variant::Resumed);
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
    what: What,
    /// For early data.
    ticket: Option<VerifiedTicket>,
    request: Bytes,
}

impl Client for SmtClient {
    fn first_rpc(&mut self) -> Result<Duration, Error> {
        for _ in 0..ATTEMPTS {
            let mut options = ConnectOptions::new(SERVER_NAME);
            if let Some(ticket) = self.ticket.clone() {
                options = options.early(true).ticket(ticket);
                options = options.forward_secrecy(self.what.variant == Variant::Early);
            }
            let start = Instant::now();
            let info = first_rpc(&mut self.engine, self.address, options, &self.request)?;
            let elapsed = start.elapsed();
            let info = self.settle(info)?;
            self.engine.close_all(PATIENCE).map_err(Error::io("the datapath failed"))?;
            if self.is_meant(&info) {
                return Ok(elapsed);
            }
        }
        Err(Error::Failed("the session was not made in the way to be measured".to_owned()))
    }
}

impl SmtClient {
    /// Waits for the end of the handshake, and for tickets where they are needed for the next time.
    fn settle(&mut self, mut info: Option<Arc<SessionInfo>>) -> Result<Arc<SessionInfo>, Error> {
        let wants_tickets = self.what.variant == Variant::Resumed;
        loop {
            let patience = if info.is_none() { PATIENCE } else { FOR_TICKETS };
            if let Some(info) = info.clone().filter(|_| !wants_tickets) {
                return Ok(info);
            }
            match self.engine.next(Some(patience)).map_err(Error::io("the datapath failed"))? {
                Some(Event::Connected { info: new, .. }) => info = Some(new),
                Some(Event::ConnectFailed { error, .. }) => {
                    return Err(no_session(self.address, error));
                }
                Some(_) => {}
                None => return info.ok_or_else(|| Error::Failed("no session".to_owned())),
            }
        }
    }

    fn is_meant(&self, info: &SessionInfo) -> bool {
        match self.what.variant {
            Variant::Full => !info.resumed && !info.early,
            Variant::Resumed => info.resumed,
            Variant::Early => info.early && info.forward_secret,
            Variant::Static => info.early && !info.forward_secret,
        }
    }
}

/// Connects, sends `request` as early as possible, and takes the response; says what was established, if it was by
/// then.
pub(super) fn first_rpc(
    engine: &mut Engine,
    server: SocketAddr,
    options: ConnectOptions,
    request: &Bytes,
) -> Result<Option<Arc<SessionInfo>>, Error> {
    let failed = |error| no_session(server, error);
    let until = Instant::now() + PATIENCE;
    let connect = engine.connect_with(server, options).map_err(failed)?;
    engine.call_early(connect, request.clone(), CallOptions::default());
    let mut established = None;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        match engine.next(Some(left)).map_err(Error::io("the datapath failed"))? {
            Some(Event::Response { result, .. }) => {
                return if result?[..] == request[..] {
                    Ok(established)
                } else {
                    Err(Error::Failed("the response is not the request".to_owned()))
                };
            }
            Some(Event::Connected { info, .. }) => established = Some(info),
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
