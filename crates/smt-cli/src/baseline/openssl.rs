//! The RPC over TLS 1.3 on TCP, by the host's OpenSSL: AES-128-GCM, X25519, certificates on both sides.
//!
//! OpenSSL reads from memory what was taken from the kernel in one call; by itself it would make two for each record.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode,
    SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use rustls::pki_types::CertificateDer;

use super::buffered::Buffered;
use super::connection::Unwaiting;
use super::fleet::{self, Room};
use super::pipe::{Link, Pipe, accept_each};
use super::{Channel, Pipeline, Plan, SILENCE, Wait, ping, serve};
use crate::pki::Identity;

/// Taken from the kernel at a time where messages come one after the other.
const INCOMING_BYTES: usize = 256 * 1024;

/// Configures a server that shows `identity` and takes clients certified by `authority`.
///
/// # Errors
///
/// OpenSSL does not take one of them, or has no X25519.
pub fn server_context(
    authority: &CertificateDer<'static>,
    identity: &Identity,
) -> Result<SslContext, ErrorStack> {
    let mut builder = builder(authority, identity)?;
    // Nobody here resumes, so tickets would only add records to the first RPC.
    builder.set_num_tickets(0)?;
    builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    Ok(builder.build())
}

/// Configures a client that shows `identity` and takes servers certified by `authority`.
///
/// # Errors
///
/// OpenSSL does not take one of them, or has no X25519.
pub fn client_context(
    authority: &CertificateDer<'static>,
    identity: &Identity,
) -> Result<SslContext, ErrorStack> {
    let mut builder = builder(authority, identity)?;
    builder.set_verify(SslVerifyMode::PEER);
    Ok(builder.build())
}

fn builder(
    authority: &CertificateDer<'static>,
    identity: &Identity,
) -> Result<SslContextBuilder, ErrorStack> {
    let mut builder = SslContext::builder(SslMethod::tls())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_ciphersuites("TLS_AES_128_GCM_SHA256")?;
    builder.set_groups_list("X25519")?;
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_options(SslOptions::NO_TICKET);
    let mut store = X509StoreBuilder::new()?;
    store.add_cert(X509::from_der(authority)?)?;
    builder.set_cert_store(store.build());
    let certificate = X509::from_der(&identity.certificate())?;
    let key = PKey::private_key_from_pkcs8(identity.key().secret_der())?;
    builder.set_certificate(&certificate)?;
    builder.set_private_key(&key)?;
    Ok(builder)
}

/// Serves the clients of `listener`, one after the other, until `stop` becomes true.
///
/// Clients may connect as soon as `listener` exists.
///
/// # Errors
///
/// The listener fails; a connection that fails is dropped.
pub fn serve_openssl(
    listener: &TcpListener,
    context: &SslContext,
    wait: Wait,
    stop: &AtomicBool,
) -> io::Result<()> {
    accept_each(listener, wait, stop, |pipe| {
        serve(&mut server_channel(pipe, context, INCOMING_BYTES)?)
    })
}

/// Connects to the server at `server`, whose certificate has to name it `name`; what it returns measures round trips
/// on that one connection, in nanoseconds, in order. Whatever a plan says of waiting, it waits as told here.
///
/// # Errors
///
/// No connection, or a failed handshake; then no answer for ten seconds, or a wrong answer.
pub fn pinger_openssl(
    server: SocketAddr,
    name: &str,
    context: &SslContext,
    wait: Wait,
) -> io::Result<impl FnMut(&Plan) -> io::Result<Vec<u64>> + use<>> {
    let pipe = Pipe::connect(server, wait, SILENCE)?;
    let mut channel = client_channel(pipe, name, context, INCOMING_BYTES)?;
    channel.stream.do_handshake().map_err(io_error)?;
    Ok(move |plan: &Plan| ping(&mut channel, plan))
}

/// Serves all clients of `listener`, many RPCs at a time, as [`fleet::serve_tls`] does.
///
/// # Errors
///
/// The listener or epoll fails; a connection that fails is dropped.
pub fn serve_fleet(
    listener: &TcpListener,
    context: &SslContext,
    room: Room,
    wait: Wait,
    stop: &AtomicBool,
) -> io::Result<()> {
    fleet::serve(listener, room, wait, stop, |link| server_channel(link, context, room.read))
}

/// A client with `count` connections to [`serve_fleet`].
///
/// # Errors
///
/// No connection, or a failed handshake.
pub fn connect_fleet(
    server: SocketAddr,
    name: &str,
    context: &SslContext,
    count: usize,
    room: Room,
    wait: Wait,
) -> io::Result<Box<dyn Pipeline>> {
    fleet::connect(server, count, room, wait, |link| {
        let mut channel = client_channel(link, name, context, room.read)?;
        fleet::finish(|| channel.stream.do_handshake().map_err(io_error))?;
        Ok(channel)
    })
}

/// A server's end over any link, which goes through the handshake while it receives.
fn server_channel<L: Link>(
    link: L,
    context: &SslContext,
    incoming_bytes: usize,
) -> io::Result<OpensslChannel<L>> {
    let mut ssl = Ssl::new(context)?;
    ssl.set_accept_state();
    OpensslChannel::new(ssl, link, incoming_bytes)
}

/// A client's end over any link, before its handshake.
fn client_channel<L: Link>(
    link: L,
    name: &str,
    context: &SslContext,
    incoming_bytes: usize,
) -> io::Result<OpensslChannel<L>> {
    let mut ssl = Ssl::new(context)?;
    ssl.set_hostname(name)?;
    ssl.param_mut().set_host(name)?;
    ssl.set_connect_state();
    OpensslChannel::new(ssl, link, incoming_bytes)
}

/// TLS over any link.
pub(super) struct OpensslChannel<L> {
    stream: SslStream<Ciphertext<L>>,
}

impl<L: Link> OpensslChannel<L> {
    fn new(ssl: Ssl, link: L, incoming_bytes: usize) -> io::Result<OpensslChannel<L>> {
        let ciphertext = Ciphertext { link, bytes: vec![0; incoming_bytes], start: 0, end: 0 };
        Ok(OpensslChannel { stream: SslStream::new(ssl, ciphertext)? })
    }
}

impl<L: Link> Channel for OpensslChannel<L> {
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = self.stream.ssl_write(bytes).map_err(io_error)?;
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            let free = into.get_mut(filled..).unwrap_or_default();
            match self.stream.ssl_read(free) {
                Ok(bytes) => filled += bytes,
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => return Ok(filled),
                Err(error) => match io_error(error) {
                    error if error.kind() == ErrorKind::WouldBlock && filled > 0 => {
                        return Ok(filled);
                    }
                    error => return Err(error),
                },
            }
            // Every record that is here is opened: epoll would not tell of those that are left.
            if filled == into.len() || !self.stream.get_ref().has_some() {
                return Ok(filled);
            }
        }
    }
}

impl Unwaiting for OpensslChannel<Buffered> {
    fn link(&mut self) -> io::Result<&mut Buffered> {
        Ok(&mut self.stream.get_mut().link)
    }
}

/// A link, and bytes from it that OpenSSL has not taken yet: `bytes[start..end]`.
struct Ciphertext<L> {
    link: L,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl<L> Ciphertext<L> {
    fn has_some(&self) -> bool {
        self.start < self.end
    }
}

impl<L: Link> Read for Ciphertext<L> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.has_some() {
            (self.start, self.end) = (0, self.link.read(&mut self.bytes)?);
        }
        let mut some = self.bytes.get(self.start..self.end).unwrap_or_default();
        let taken = some.read(into)?;
        self.start += taken;
        Ok(taken)
    }
}

impl<L: Link> Write for Ciphertext<L> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.link.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As rustls's ends tell it: `WouldBlock` where a link that does not wait has nothing.
fn io_error(error: openssl::ssl::Error) -> io::Error {
    match error.code() {
        ErrorCode::WANT_READ | ErrorCode::WANT_WRITE => ErrorKind::WouldBlock.into(),
        _ => error
            .into_io_error()
            .unwrap_or_else(|error| io::Error::new(ErrorKind::InvalidData, error)),
    }
}
