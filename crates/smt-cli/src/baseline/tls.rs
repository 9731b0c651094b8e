//! The RPC over TLS 1.3 on TCP, by rustls: AES-128-GCM, X25519, certificates on both sides.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustls::client::{ClientConnectionData, Resumption, UnbufferedClientConnection};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::version::TLS13;
use rustls::{ClientConfig, ExtractedSecrets, RootCertStore, ServerConfig};

use super::pipe::{Link, Pipe, accept_each};
use super::{Channel, Plan, SILENCE, Wait, ping, serve};
use crate::pki::Identity;

/// Room for received records: what a socket hands over in one call, and a record begun.
const INCOMING_BYTES: usize = 256 * 1024;

/// Plaintext sealed and written in one go. A record is at most this long in TLS; writing each at once lets the
/// receiver open it while the next is being sealed.
const CHUNK_BYTES: usize = 16 * 1024;

/// Room for what is sent: one sealed chunk, or one flight of the handshake.
const OUTGOING_BYTES: usize = 2 * CHUNK_BYTES;

/// Configures a server that shows `identity` and takes clients certified by `authority`.
///
/// # Errors
///
/// The certificates or keys are of a kind rustls does not take.
pub fn server_config(
    authority: CertificateDer<'static>,
    identity: &Identity,
) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(authority)?, provider.clone()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate()], identity.key())?;
    // Nobody here resumes, so tickets would only add records to the first RPC.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Configures a client that shows `identity` and takes servers certified by `authority`.
///
/// # Errors
///
/// The certificates or keys are of a kind rustls does not take.
pub fn client_config(
    authority: CertificateDer<'static>,
    identity: &Identity,
) -> Result<Arc<ClientConfig>, Box<dyn std::error::Error + Send + Sync>> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots(authority)?)
        .with_client_auth_cert(vec![identity.certificate()], identity.key())?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![kx_group::X25519],
        ..default_provider()
    }
}

fn roots(authority: CertificateDer<'static>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority)?;
    Ok(Arc::new(roots))
}

/// Serves the clients of `listener`, one after the other, until `stop` becomes true.
///
/// Clients may connect as soon as `listener` exists.
///
/// # Errors
///
/// The listener fails; a connection that fails is dropped.
pub fn serve_tls(
    listener: &TcpListener,
    config: &Arc<ServerConfig>,
    wait: Wait,
    stop: &AtomicBool,
) -> io::Result<()> {
    accept_each(listener, wait, stop, |pipe| {
        serve(&mut server_channel(pipe, config, INCOMING_BYTES)?)
    })
}

/// Measures round trips to the server at `server`, whose certificate has to name it `name`; returns them in
/// nanoseconds, in order. The handshake is not among them.
///
/// # Errors
///
/// No connection, a failed handshake, no answer for ten seconds, or a wrong answer.
pub fn ping_tls(
    server: SocketAddr,
    name: ServerName<'static>,
    config: &Arc<ClientConfig>,
    plan: &Plan,
) -> io::Result<Vec<u64>> {
    pinger_tls(server, name, config, plan.wait)?(plan)
}

/// Connects to the server at `server`; what it returns measures as [`ping_tls`] does, on that one connection. Whatever
/// a plan says of waiting, it waits as told here.
///
/// # Errors
///
/// No connection, or a failed handshake.
pub fn pinger_tls(
    server: SocketAddr,
    name: ServerName<'static>,
    config: &Arc<ClientConfig>,
    wait: Wait,
) -> io::Result<impl FnMut(&Plan) -> io::Result<Vec<u64>> + use<>> {
    let pipe = Pipe::connect(server, wait, SILENCE)?;
    let mut channel = client_channel(pipe, config, name, INCOMING_BYTES)?;
    channel.handshake()?;
    Ok(move |plan: &Plan| ping(&mut channel, plan))
}

/// A server's end over any link, which goes through the handshake while it receives. It takes up to `incoming_bytes`
/// from the link at a time.
pub(super) fn server_channel<L: Link>(
    link: L,
    config: &Arc<ServerConfig>,
    incoming_bytes: usize,
) -> io::Result<TlsChannel<L, UnbufferedServerConnection>> {
    let tls = UnbufferedServerConnection::new(config.clone()).map_err(tls_error)?;
    Ok(TlsChannel::new(link, tls, incoming_bytes))
}

/// A client's end over any link, before its handshake. It takes up to `incoming_bytes` from the link at a time.
pub(super) fn client_channel<L: Link>(
    link: L,
    config: &Arc<ClientConfig>,
    name: ServerName<'static>,
    incoming_bytes: usize,
) -> io::Result<TlsChannel<L, UnbufferedClientConnection>> {
    let tls = UnbufferedClientConnection::new(config.clone(), name).map_err(tls_error)?;
    Ok(TlsChannel::new(link, tls, incoming_bytes))
}

/// The client's and the server's connection, which rustls keeps as two types, as one.
pub(super) trait Tls: Sized {
    type Data;

    /// The keys of an established connection whose configuration lets them out.
    fn into_secrets(self) -> Result<ExtractedSecrets, rustls::Error>;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Tls for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn into_secrets(self) -> Result<ExtractedSecrets, rustls::Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, _)| secrets)
    }

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(incoming)
    }
}

impl Tls for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn into_secrets(self) -> Result<ExtractedSecrets, rustls::Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, _)| secrets)
    }

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(incoming)
    }
}

pub(super) struct TlsChannel<L, T> {
    pipe: L,
    tls: T,
    established: bool,
    incoming: Incoming,
    outgoing: Vec<u8>,
    /// Bytes at the start of `outgoing` that rustls has put there and not yet asked to send.
    encoded: usize,
}

/// What one look at the connection's state came to.
enum Step {
    /// Something was done; look again.
    Done,
    /// So many bytes of plaintext were received.
    Plaintext(usize),
    /// The handshake waits for the peer.
    Blocked,
    /// The handshake is over, and all received records are opened.
    Ready,
    /// The peer has ended the stream.
    Closed,
}

impl<L: Link, T: Tls> TlsChannel<L, T> {
    fn new(pipe: L, tls: T, incoming_bytes: usize) -> TlsChannel<L, T> {
        TlsChannel {
            pipe,
            tls,
            established: false,
            incoming: Incoming { bytes: vec![0; incoming_bytes], start: 0, end: 0 },
            outgoing: vec![0; OUTGOING_BYTES],
            encoded: 0,
        }
    }

    pub(super) fn link(&mut self) -> &mut L {
        &mut self.pipe
    }

    /// The link and the keys of an established connection, for somebody else to go on with.
    pub(super) fn into_secrets(self) -> io::Result<(L, ExtractedSecrets)> {
        if !self.incoming.is_empty() {
            return Err(io::Error::new(ErrorKind::InvalidData, "data behind the handshake"));
        }
        Ok((self.pipe, self.tls.into_secrets().map_err(tls_error)?))
    }

    /// Completes the handshake. A client has to, whose peer stays silent until the first request; a server that goes on
    /// with this channel goes through it while it waits for that request.
    pub(super) fn handshake(&mut self) -> io::Result<()> {
        while !self.established {
            match self.step(&mut [])? {
                Step::Done | Step::Ready => {}
                Step::Blocked if self.incoming.fill(&mut self.pipe)? > 0 => {}
                Step::Blocked | Step::Closed | Step::Plaintext(_) => {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
        }
        Ok(())
    }

    /// Takes the connection one state further; plaintext goes to the start of `into`.
    fn step(&mut self, into: &mut [u8]) -> io::Result<Step> {
        let UnbufferedStatus { mut discard, state, .. } = self.tls.process(self.incoming.unread());
        let step = match state.map_err(tls_error)? {
            ConnectionState::ReadTraffic(mut traffic) => {
                let mut filled = 0;
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(tls_error)?;
                    let end = filled + record.payload.len();
                    into.get_mut(filled..end)
                        .ok_or_else(|| io::Error::from(ErrorKind::InvalidData))?
                        .copy_from_slice(record.payload);
                    filled = end;
                    discard += record.discard;
                }
                Step::Plaintext(filled)
            }
            ConnectionState::EncodeTlsData(mut data) => {
                let free = self.outgoing.get_mut(self.encoded..).unwrap_or_default();
                self.encoded += data.encode(free).map_err(io::Error::other)?;
                Step::Done
            }
            ConnectionState::TransmitTlsData(data) => {
                self.pipe.write_all(self.outgoing.get(..self.encoded).unwrap_or_default())?;
                self.encoded = 0;
                data.done();
                Step::Done
            }
            ConnectionState::BlockedHandshake => Step::Blocked,
            ConnectionState::WriteTraffic(_) => {
                self.established = true;
                Step::Ready
            }
            ConnectionState::PeerClosed | ConnectionState::Closed => Step::Closed,
            other => return Err(io::Error::other(format!("unexpected TLS state {other:?}"))),
        };
        self.incoming.discard(discard);
        Ok(step)
    }
}

impl<L: Link, T: Tls> Channel for TlsChannel<L, T> {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            let sealed = match self.tls.process(&mut []).state.map_err(tls_error)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    traffic.encrypt(chunk, &mut self.outgoing).map_err(io::Error::other)?
                }
                other => return Err(io::Error::other(format!("unexpected TLS state {other:?}"))),
            };
            self.pipe.write_all(self.outgoing.get(..sealed).unwrap_or_default())?;
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            // Established and with no bytes to look at, the connection has nothing to do but wait.
            let step = if self.established && self.incoming.is_empty() {
                Step::Ready
            } else {
                self.step(into.get_mut(filled..).unwrap_or_default())?
            };
            match step {
                // Every record that is here is opened: epoll would not tell of those that are left.
                Step::Plaintext(bytes) => filled += bytes,
                Step::Done => {}
                Step::Ready | Step::Blocked | Step::Closed if filled > 0 => return Ok(filled),
                Step::Closed => return Ok(0),
                Step::Ready | Step::Blocked => {
                    if self.incoming.fill(&mut self.pipe)? == 0 {
                        return Ok(0);
                    }
                }
            }
        }
    }
}

/// Bytes from the socket that TLS has not taken yet: `bytes[start..end]`.
struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn unread(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.end).unwrap_or_default()
    }

    fn discard(&mut self, bytes: usize) {
        self.start = self.end.min(self.start + bytes);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Waits for bytes; returns how many, 0 at the end of the stream.
    fn fill(&mut self, pipe: &mut impl Link) -> io::Result<usize> {
        if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start.., 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let free = self.bytes.get_mut(self.end..).unwrap_or_default();
        if free.is_empty() {
            return Err(ErrorKind::InvalidData.into());
        }
        let read = pipe.read(free)?;
        self.end += read;
        Ok(read)
    }
}

fn tls_error(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
