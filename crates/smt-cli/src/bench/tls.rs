//! TLS 1.3 on TCP by rustls. The client's request leaves in one segment with its Finished.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};

use super::contender::{Both, Client, Exchange, Variant, What};
use super::ground::{Credentials, Ground, server_name};
use super::serving::{LOOK_EVERY, Server, Serving};
use super::{RPC_BYTES, failed};
use crate::commands::Error;

/// The TCP port of the first contender.
const FIRST_PORT: u16 = 5000;
/// How long a socket may be silent.
const SILENCE: Duration = Duration::from_secs(5);

/// Starts a server and makes a client.
pub(super) fn enter(ground: &Ground, what: What, index: u16) -> Result<Both, Error> {
    let address = ground.server_address(FIRST_PORT + index);
    let config = Arc::new(server_config(&ground.credentials, what)?);
    let server = Server::start(ground, move |serving| {
        accept_each(address, serving, |mut stream| {
            let mut tls = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
            let mut request = [0; RPC_BYTES];
            let mut stream = rustls::Stream::new(&mut tls, &mut stream);
            stream.read_exact(&mut request)?;
            stream.write_all(&request)?;
            // Until the client has left.
            stream.read(&mut [0]).map(|_| ())
        })
    })?;
    let config = Arc::new(client_config(&ground.credentials, what)?);
    let resumes = what.variant == Variant::Resumed;
    let client = TlsClient { config, name: server_name()?, address, resumes };
    Ok((server, Box::new(client)))
}

/// AES-128-GCM and one way of agreeing on a secret.
pub(super) fn provider(exchange: Exchange) -> CryptoProvider {
    let group = match exchange {
        Exchange::X25519 => kx_group::X25519,
        Exchange::Hybrid => kx_group::X25519MLKEM768,
    };
    CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![group],
        ..default_provider()
    }
}

pub(super) fn server_config(credentials: &Credentials, what: What) -> Result<ServerConfig, Error> {
    let cannot = failed("rustls refuses the server's configuration");
    let provider = Arc::new(provider(what.exchange));
    let verifier = if what.mtls {
        WebPkiClientVerifier::builder_with_provider(credentials.roots()?, Arc::clone(&provider))
            .build()
            .map_err(failed("rustls refuses the authority"))?
    } else {
        WebPkiClientVerifier::no_client_auth()
    };
    let identity = credentials.server();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(&cannot)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate()], identity.key())
        .map_err(&cannot)?;
    if what.variant == Variant::Full {
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

pub(super) fn client_config(credentials: &Credentials, what: What) -> Result<ClientConfig, Error> {
    let cannot = failed("rustls refuses the client's configuration");
    let trusting = ClientConfig::builder_with_provider(Arc::new(provider(what.exchange)))
        .with_protocol_versions(&[&TLS13])
        .map_err(&cannot)?
        .with_root_certificates(credentials.roots()?);
    let identity = credentials.client();
    let mut config = if what.mtls {
        trusting
            .with_client_auth_cert(vec![identity.certificate()], identity.key())
            .map_err(&cannot)?
    } else {
        trusting.with_no_client_auth()
    };
    if what.variant == Variant::Full {
        config.resumption = Resumption::disabled();
    }
    Ok(config)
}

/// Serves one client after the other until it is over. A connection that fails does not end the server: its client
/// finds out for itself.
pub(super) fn accept_each(
    address: SocketAddr,
    serving: &Serving,
    mut serve: impl FnMut(TcpStream) -> io::Result<()>,
) -> Result<(), Error> {
    let cannot = |error| Error::io("cannot accept connections")(error);
    let listener = TcpListener::bind(address).map_err(cannot)?;
    listener.set_nonblocking(true).map_err(cannot)?;
    serving.ready();
    let nap = Timespec::try_from(LOOK_EVERY).map_err(|error| cannot(io::Error::other(error)))?;
    while !serving.is_over() {
        match listener.accept() {
            Ok((stream, _)) => {
                let _ = set_up(&stream).and_then(|()| serve(stream));
                serving.done();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // Interrupted or not, the next look tells.
                let _ = poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&nap));
            }
            Err(error) => return Err(cannot(error)),
        }
    }
    Ok(())
}

/// Connects, and says when the stream is ready for TLS.
pub(super) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, SILENCE)?;
    set_up(&stream)?;
    Ok(stream)
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))
}

struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    address: SocketAddr,
    resumes: bool,
}

impl Client for TlsClient {
    fn first_rpc(&mut self) -> Result<Duration, Error> {
        let cannot = |error| Error::io("TLS on TCP")(error);
        let (elapsed, kind) = self.once().map_err(cannot)?;
        if self.resumes && kind != Some(HandshakeKind::Resumed) {
            // The first time there is nothing to resume.
            let (elapsed, kind) = self.once().map_err(cannot)?;
            return if kind == Some(HandshakeKind::Resumed) {
                Ok(elapsed)
            } else {
                Err(Error::Failed("rustls did not resume".to_owned()))
            };
        }
        Ok(elapsed)
    }
}

impl TlsClient {
    fn once(&self) -> io::Result<(Duration, Option<HandshakeKind>)> {
        let request = [7; RPC_BYTES];
        let mut response = [0; RPC_BYTES];
        let start = Instant::now();
        let mut socket = connect(self.address)?;
        let mut tls = ClientConnection::new(Arc::clone(&self.config), self.name.clone())
            .map_err(io::Error::other)?;
        // Kept until there are keys, and then sent behind Finished.
        tls.writer().write_all(&request)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        rustls::Stream::new(&mut tls, &mut socket).read_exact(&mut response)?;
        let elapsed = start.elapsed();
        if response != request {
            return Err(io::Error::new(ErrorKind::InvalidData, "the response is not the request"));
        }
        tls.send_close_notify();
        tls.write_tls(&mut socket)?;
        Ok((elapsed, tls.handshake_kind()))
    }
}
