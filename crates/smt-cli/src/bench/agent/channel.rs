//! Lines of JSON over TLS 1.3.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs::default_provider, verify_tls12_signature,
    verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::failed;
use super::Token;
use crate::commands::Error;
use crate::pki::Identity;

/// The name in the agent's certificate.
pub(super) const NAME: &str = "agent.bench";
/// Bytes of a line, at most.
const MAX_LINE: usize = 16 << 10;
/// Bytes taken at a time.
const READ: usize = 1024;

/// A byte stream of either end.
trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// One end of a control channel.
pub(super) struct Channel {
    stream: Box<dyn Stream>,
    /// The connection below, to set timeouts.
    socket: TcpStream,
    received: Vec<u8>,
}

/// Configures an agent.
pub(super) fn server_config(identity: &Identity) -> Result<Arc<ServerConfig>, Error> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![identity.certificate()], identity.key())
        });
    config.map(Arc::new).map_err(failed("cannot use the certificate"))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

impl Channel {
    /// The agent's end. The handshake is made while it first receives.
    pub(super) fn accept(
        socket: TcpStream,
        config: &Arc<ServerConfig>,
        patience: Duration,
    ) -> Result<Channel, Error> {
        let tls = ServerConnection::new(Arc::clone(config)).map_err(failed("no TLS"))?;
        Channel::over(socket, patience, |socket| Box::new(StreamOwned::new(tls, socket)))
    }

    /// The client's end.
    pub(super) fn connect(
        agent: SocketAddr,
        token: &Token,
        patience: Duration,
    ) -> Result<Channel, Error> {
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let pinned = Arc::new(Pinned { token: token.clone(), algorithms });
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(failed("no TLS"))?
            .dangerous()
            .with_custom_certificate_verifier(pinned)
            .with_no_client_auth();
        let name = ServerName::try_from(NAME).map_err(failed("no name"))?;
        let tls = ClientConnection::new(Arc::new(config), name).map_err(failed("no TLS"))?;
        let socket = TcpStream::connect_timeout(&agent, patience)
            .map_err(Error::io(format!("no agent at {agent}")))?;
        Channel::over(socket, patience, |socket| Box::new(StreamOwned::new(tls, socket)))
    }

    fn over(
        socket: TcpStream,
        patience: Duration,
        stream: impl FnOnce(TcpStream) -> Box<dyn Stream>,
    ) -> Result<Channel, Error> {
        socket
            .set_nonblocking(false)
            .and_then(|()| socket.set_nodelay(true))
            .and_then(|()| socket.set_write_timeout(Some(patience)))
            .map_err(lost)?;
        let stream = stream(socket.try_clone().map_err(lost)?);
        let channel = Channel { stream, socket, received: Vec::new() };
        channel.set_patience(patience)?;
        Ok(channel)
    }

    /// How long to wait for something to receive.
    pub(super) fn set_patience(&self, patience: Duration) -> Result<(), Error> {
        self.socket.set_read_timeout(Some(patience)).map_err(lost)
    }

    /// The address that this end has.
    pub(super) fn local_address(&self) -> Result<SocketAddr, Error> {
        self.socket.local_addr().map_err(lost)
    }

    pub(super) fn send(&mut self, message: &impl Serialize) -> Result<(), Error> {
        let mut line = serde_json::to_vec(message).map_err(failed("no message"))?;
        line.push(b'\n');
        self.stream.write_all(&line).and_then(|()| self.stream.flush()).map_err(lost)
    }

    /// The next message; `None` if the other end has ended the connection.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(failed("no message"));
            }
            if self.received.len() > MAX_LINE {
                return Err(Error::Failed("a message is too long".to_owned()));
            }
            let mut bytes = [0; READ];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(more) => self.received.extend_from_slice(bytes.get(..more).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Whoever goes need not say goodbye.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(lost(error)),
            }
        }
    }
}

fn lost(source: std::io::Error) -> Error {
    Error::io("the control channel failed")(source)
}

/// Takes the one certificate that the token is of, whoever issued it.
#[derive(Debug)]
struct Pinned {
    token: Token,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.token.fits(end_entity) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::General("the agent is not the token's".to_owned())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
