//! The far end of a link between machines: `smt bench agent` serves whichever transport the client asks for.
//!
//! Both talk over a control channel of TLS 1.3 on TCP, a line of JSON for each request and each answer. The agent is
//! known by the hash of its certificate, the client by a secret; both are in the token that the agent prints. Whoever has
//! it can have servers of these benchmarks started, and nothing else.

mod channel;
mod client;
mod token;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::channel::{Channel, server_config};
pub use self::client::{Agent, Service};
pub use self::token::Token;
use super::ground::Credentials;
use super::peers::{Shape, Site, Transport};
use super::place::Scene;
use super::serving::Server;
use crate::baseline::Wait;
use crate::commands::Error;
use crate::cores;
use crate::pki::{Authority, Profile};
use crate::stop::Stop;

/// How long the agent waits for a client that has connected to show the token.
const TO_SHOW_TOKEN: Duration = Duration::from_secs(10);
/// How long a client may ask nothing.
const IDLE: Duration = Duration::from_secs(3600);
/// How often the agent looks whether to end.
const NAP: Duration = Duration::from_millis(100);

/// What a client asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Request {
    /// First of all, to be believed.
    Secret(String),
    /// A server, in place of the one that there may be.
    Serve {
        transport: Transport,
        wait: Wait,
        /// The client's address; the server's is the one that the client reached the agent by.
        client: IpAddr,
        /// For many RPCs at a time.
        shape: Option<Shape>,
    },
    /// The end of the server.
    Stop,
}

/// What the agent answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Answer {
    /// The secret is right; who issues certificates for this run.
    Welcome { authority: String, key: String },
    /// It is done.
    Done,
    /// It is not, and why.
    Failed(String),
}

/// Serves clients, one after the other, until told to stop. `told` is given the address and the token.
///
/// # Errors
/// The agent cannot listen, or make certificates.
pub fn run(
    listen: SocketAddr,
    stop: &Stop,
    told: impl FnOnce(SocketAddr, &Token) -> io::Result<()>,
) -> Result<(), Error> {
    let cannot = super::failed("cannot make certificates");
    let profile = Profile::default();
    let authority = Authority::new("SMT benchmark agent", profile).map_err(&cannot)?;
    let identity = authority.server(&[channel::NAME], profile).map_err(&cannot)?;
    let token = Token::new(&identity.certificate())?;
    let config = server_config(&identity)?;
    let listener = TcpListener::bind(listen).map_err(Error::io("cannot listen"))?;
    listener.set_nonblocking(true).map_err(Error::io("cannot listen"))?;
    told(listener.local_addr().map_err(Error::io("cannot listen"))?, &token)?;
    let credentials = Arc::new(Credentials::issued_by(&authority)?);
    while !stop.is_set() {
        match listener.accept() {
            Ok((stream, _)) => {
                // A client that fails ends nothing but its own servers.
                if let Err(error) = attend(stream, &config, &token, &authority, &credentials) {
                    eprintln!("a client has gone: {}", error.explain());
                }
            }
            Err(_) => std::thread::sleep(NAP),
        }
    }
    Ok(())
}

/// One client, until it ends the connection.
fn attend(
    stream: TcpStream,
    config: &Arc<rustls::ServerConfig>,
    token: &Token,
    authority: &Authority,
    credentials: &Arc<Credentials>,
) -> Result<(), Error> {
    let here = stream.local_addr().map_err(Error::io("no address"))?.ip();
    let mut channel = Channel::accept(stream, config, TO_SHOW_TOKEN)?;
    match channel.receive::<Request>()? {
        Some(Request::Secret(secret)) if token.is_secret(&secret) => {}
        _ => return Err(Error::Failed("it does not know the token".to_owned())),
    }
    channel.send(&Answer::Welcome {
        authority: authority.certificate_pem(),
        key: authority.key_pem(),
    })?;
    channel.set_patience(IDLE)?;
    let mut running: Option<Server> = None;
    while let Some(request) = channel.receive::<Request>()? {
        let ended = running.take().map_or(Ok(()), Server::stop);
        let answer = match request {
            Request::Stop => ended,
            Request::Serve { transport, wait, client, shape } => {
                let (mtu, credentials) = (Scene::PLAIN.mtu, Arc::clone(credentials));
                let site = Site { server: here, client, credentials, mtu, wait };
                serve(transport, &site, shape).map(|server| running = Some(server))
            }
            Request::Secret(_) => Err(Error::Failed("the token was shown already".to_owned())),
        };
        channel.send(&match answer {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Failed(error.explain()),
        })?;
    }
    running.map_or(Ok(()), Server::stop)
}

fn serve(transport: Transport, site: &Site, shape: Option<Shape>) -> Result<Server, Error> {
    let peer = transport.peer();
    peer.available().map_err(Error::Failed)?;
    let serve = match shape {
        Some(shape) => peer.serve_many(site, shape)?,
        None => peer.serve_one(site)?,
    };
    // A client on the same machine, as in tests, stays on the first core.
    Server::start_on(None, cores::allowed().ok().and_then(|all| all.last().copied()), serve)
}
