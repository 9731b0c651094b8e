//! The two ends of a handshake as state machines that take and give whole flights (spec 5.1).

use std::sync::Arc;

use rustls::SideData;
use rustls::pki_types::ServerName;
use rustls::server::{Accepted, AcceptedAlert, Acceptor};
use rustls::{ClientConnection, ConnectionCommon, HandshakeKind, ServerConfig, ServerConnection};
use smt_proto::crypto::SuiteId;

use super::alert::Alert;
use super::config::{ClientState, ClientTls, ServerState as Configured, ServerTls};
use super::error::TlsError;
use super::exporter::{Established, KeyLogLines, export};
use super::key_log::client_random;

/// Where a handshake is after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeState {
    /// The peer's next flight is awaited.
    Continue,
    /// Complete: `finish` gives the secrets. A client may yet hear that the server refused it.
    Done,
    /// Failed for good.
    Failed(TlsError),
}

/// What a step of a handshake came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The TLS bytes of this end's next flight, if it has one: the alert, after a failure.
    pub send: Option<Vec<u8>>,
    /// A server's TLS tickets, once its handshake is done: for clients that want them, in a
    /// post-handshake message (spec 5.9) rather than a flight.
    pub post: Option<Vec<u8>>,
    /// Where the handshake is now. What is to be sent is sent in every state.
    pub state: HandshakeState,
}

impl Progress {
    fn failed(failure: Failure) -> Self {
        Self { send: failure.alert, post: None, state: HandshakeState::Failed(failure.error) }
    }
}

/// A cause, and the alert that tells the peer.
struct Failure {
    error: TlsError,
    alert: Option<Vec<u8>>,
}

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Self {
        let alert = Some(error.alert().plaintext_record());
        Self { error, alert }
    }
}

/// The client's end.
pub struct ClientHandshake {
    tls: Arc<ClientState>,
    name: ServerName<'static>,
    connection: ClientConnection,
    client_random: Option<[u8; 32]>,
    failed: Option<TlsError>,
}

impl ClientHandshake {
    /// Starts a handshake with the server named `server_name`, a DNS name or an IP address, and
    /// returns it with the TLS bytes of flight 0. Each attempt needs a handshake of its own.
    ///
    /// # Errors
    /// [`TlsError::InvalidServerName`]; [`TlsError::Internal`] if there are no random numbers.
    pub fn start(tls: &ClientTls, server_name: &str) -> Result<(Self, Vec<u8>), TlsError> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| TlsError::InvalidServerName { name: server_name.to_owned() })?;
        let tls = tls.state();
        let mut connection = ClientConnection::new(Arc::clone(&tls.config), name.clone())?;
        let flight =
            output(&mut connection).ok_or_else(|| TlsError::internal("TLS gave no ClientHello"))?;
        let client_random = client_random(&flight);
        Ok((Self { tls, name, connection, client_random, failed: None }, flight))
    }

    /// Takes the TLS bytes of the server's next flight.
    pub fn read_flight(&mut self, bytes: &[u8]) -> Progress {
        if let Some(error) = &self.failed {
            let state = HandshakeState::Failed(error.clone());
            return Progress { send: None, post: None, state };
        }
        match self.step(bytes) {
            Ok(progress) => progress,
            Err(failure) => {
                self.failed = Some(failure.error.clone());
                Progress::failed(failure)
            }
        }
    }

    fn step(&mut self, bytes: &[u8]) -> Result<Progress, Failure> {
        let progress = advance(&mut self.connection, bytes)?;
        if progress.state != HandshakeState::Done {
            return Ok(progress);
        }
        if self.connection.alpn_protocol().is_none() {
            return Err(TlsError::NoCommonAlpn.into());
        }
        if self.connection.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.check_resumption()?;
        }
        Ok(progress)
    }

    /// In a resumed handshake TLS asks nobody about the certificate that the server once showed. If
    /// that is valid no longer, neither are the tickets: the next attempt is a full handshake.
    fn check_resumption(&self) -> Result<(), Failure> {
        let chain = self.connection.peer_certificates().unwrap_or_default();
        self.tls.verifier.check_resumption(chain, &self.name).map_err(|error| {
            if let Some(sessions) = &self.tls.sessions {
                sessions.forget(&self.name);
            }
            Failure::from(error)
        })
    }

    /// Gives the secrets and the server's identity once the handshake is done. `context` makes
    /// the exporter's context (spec 5.1) of the cipher suite and the application protocol.
    ///
    /// # Errors
    /// The cause, if the handshake has failed; [`TlsError::Internal`] if it is not done yet;
    /// [`TlsError::BadCertificate`] if the names in the peer's certificate cannot be read.
    pub fn finish(
        &mut self,
        context: impl FnOnce(SuiteId, &[u8]) -> Vec<u8>,
    ) -> Result<Established, TlsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let log = self.tls.key_log.as_deref();
        let lines = KeyLogLines { log, client_random: self.client_random };
        export(&self.connection, &lines, context)
    }

    /// Takes the TLS bytes of a post-handshake message (spec 5.9), tickets to resume with, any time
    /// after the handshake was done here and before it is dropped.
    ///
    /// # Errors
    /// [`TlsError::Corrupt`] for bytes that are anything else, or more than
    /// [`MAX_TLS_TICKETS_LEN`](super::MAX_TLS_TICKETS_LEN); [`TlsError::Internal`] before the
    /// handshake is done. The session's keys are not TLS's and are good all the same; this object
    /// is of no further use.
    pub fn post(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.connection.is_handshaking() {
            return Err(TlsError::internal("the handshake is not complete"));
        }
        if self.tls.sessions.as_ref().is_some_and(|sessions| !sessions.takes(bytes.len())) {
            return Err(TlsError::corrupt("the server's TLS tickets are too long"));
        }
        let taken = advance(&mut self.connection, bytes).map_err(|failure| failure.error);
        let answers = matches!(&taken, Ok(Progress { send: Some(_), .. }));
        let taken = match taken {
            // A request to change TLS's own keys, which nothing is sent under any more.
            Ok(_) if answers => Err(TlsError::corrupt("a post-handshake message asks for answers")),
            other => other.map(drop),
        };
        self.failed = taken.clone().err();
        taken
    }

    /// Takes the TLS bytes of a flight that arrives after the handshake was done here: a server
    /// which refuses the client's Finished or certificate answers with an alert. `None` if the
    /// flight says nothing of the kind. After an error the handshake is of no further use.
    pub fn late_flight(&mut self, bytes: &[u8]) -> Option<TlsError> {
        if self.failed.is_none() {
            self.failed = advance(&mut self.connection, bytes).err().map(|failure| failure.error);
        }
        self.failed.clone()
    }
}

/// The server's end.
pub struct ServerHandshake {
    tls: Arc<Configured>,
    state: ServerState,
    client_random: Option<[u8; 32]>,
}

enum ServerState {
    AwaitsClientHello,
    Running(Box<ServerConnection>),
    Failed(TlsError),
}

impl ServerHandshake {
    /// A handshake that awaits flight 0.
    #[must_use]
    pub fn new(tls: &ServerTls) -> Self {
        Self { tls: tls.state(), state: ServerState::AwaitsClientHello, client_random: None }
    }

    /// Takes the TLS bytes of the client's next flight.
    pub fn read_flight(&mut self, bytes: &[u8]) -> Progress {
        match self.step(bytes) {
            Ok(progress) => progress,
            Err(failure) => {
                self.state = ServerState::Failed(failure.error.clone());
                Progress::failed(failure)
            }
        }
    }

    fn step(&mut self, bytes: &[u8]) -> Result<Progress, Failure> {
        let mut progress = match &mut self.state {
            ServerState::AwaitsClientHello => {
                check_framing(bytes)?;
                self.client_random = client_random(bytes);
                let (connection, progress) = self.answer_hello(bytes)?;
                self.state = ServerState::Running(Box::new(connection));
                progress
            }
            ServerState::Running(connection) => advance(connection, bytes)?,
            ServerState::Failed(error) => {
                return Err(Failure { error: error.clone(), alert: None });
            }
        };
        if progress.state == HandshakeState::Done {
            progress.post = progress.send.take();
        }
        Ok(progress)
    }

    /// Answers a ClientHello. TLS resumes whatever its ticket keys open, and asks nobody about the
    /// client; if that client would not be let in now, its ticket counts for nothing, and the same
    /// ClientHello is answered again as one without. So is one that needs another key share, since
    /// its second version can no longer be answered twice.
    fn answer_hello(&self, bytes: &[u8]) -> Result<(ServerConnection, Progress), Failure> {
        self.tls.verifier.check_unasked()?;
        let answered = answer_hello_with(&self.tls.config, bytes)?;
        let (connection, _) = &answered;
        let usable = match connection.handshake_kind() {
            Some(HandshakeKind::Full) => true,
            Some(HandshakeKind::Resumed) => {
                let chain = connection.peer_certificates().unwrap_or_default();
                self.tls.verifier.check_resumption(chain).is_ok()
            }
            _ => false,
        };
        if usable { Ok(answered) } else { answer_hello_with(&self.tls.full, bytes) }
    }

    /// Gives the secrets and the client's identity once the handshake is done. `context` makes
    /// the exporter's context (spec 5.1) of the cipher suite and the application protocol.
    ///
    /// # Errors
    /// The cause, if the handshake has failed; [`TlsError::Internal`] if it is not done yet;
    /// [`TlsError::BadCertificate`] if the names in the peer's certificate cannot be read.
    pub fn finish(
        &mut self,
        context: impl FnOnce(SuiteId, &[u8]) -> Vec<u8>,
    ) -> Result<Established, TlsError> {
        match &self.state {
            ServerState::AwaitsClientHello => {
                Err(TlsError::internal("the handshake has not begun"))
            }
            ServerState::Failed(error) => Err(error.clone()),
            ServerState::Running(connection) => {
                let log = self.tls.key_log.as_deref();
                let lines = KeyLogLines { log, client_random: self.client_random };
                export(connection, &lines, context)
            }
        }
    }
}

fn answer_hello_with(
    config: &Arc<ServerConfig>,
    bytes: &[u8],
) -> Result<(ServerConnection, Progress), Failure> {
    let (accepted, rest) = accept(bytes)?;
    if accepted.client_hello().alpn().is_none() {
        return Err(TlsError::NoCommonAlpn.into());
    }
    let mut connection = accepted
        .into_connection(Arc::clone(config))
        .map_err(|(error, alert)| refusal(error, alert))?;
    let progress = proceed(&mut connection, rest)?;
    Ok((connection, progress))
}

/// Reads the ClientHello, and returns it with the bytes behind it that were not taken yet.
fn accept(bytes: &[u8]) -> Result<(Accepted, &[u8]), Failure> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        match acceptor.read_tls(&mut rest) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(undecodable(error.to_string())),
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok((accepted, rest)),
            Ok(None) => {}
            Err((error, alert)) => return Err(refusal(error, alert)),
        }
    }
    Err(undecodable("the flight holds no whole ClientHello"))
}

/// Lets the connection take a whole flight and collects what it answers.
fn advance<D: SideData>(
    connection: &mut ConnectionCommon<D>,
    bytes: &[u8],
) -> Result<Progress, Failure> {
    check_framing(bytes)?;
    proceed(connection, bytes)
}

/// As [`advance`], with what is left of a flight.
fn proceed<D: SideData>(
    connection: &mut ConnectionCommon<D>,
    rest: &[u8],
) -> Result<Progress, Failure> {
    if let Err(error) = feed(connection, rest) {
        return Err(Failure { error, alert: output(connection) });
    }
    let send = output(connection);
    let state = if connection.is_handshaking() {
        if send.is_none() {
            // A whole flight always moves a handshake on. Waiting would be for ever.
            return Err(undecodable("the flight ends inside a TLS message"));
        }
        HandshakeState::Continue
    } else {
        HandshakeState::Done
    };
    Ok(Progress { send, post: None, state })
}

fn feed<D: SideData>(connection: &mut ConnectionCommon<D>, bytes: &[u8]) -> Result<(), TlsError> {
    let mut rest = bytes;
    loop {
        // First what the connection was given already: it may have come out of an `Acceptor`.
        let state = connection.process_new_packets()?;
        if state.peer_has_closed() {
            return Err(TlsError::PeerAlert(Alert::CLOSE_NOTIFY));
        }
        if state.plaintext_bytes_to_read() > 0 {
            return Err(TlsError::corrupt("application data inside the handshake"));
        }
        if rest.is_empty() {
            return Ok(());
        }
        match connection.read_tls(&mut rest) {
            Ok(0) => return Err(TlsError::corrupt("bytes behind the end of the TLS connection")),
            Ok(_) => {}
            Err(error) => return Err(TlsError::corrupt(error.to_string())),
        }
    }
}

/// Takes what TLS wants sent, alerts included.
fn output<D: SideData>(connection: &mut ConnectionCommon<D>) -> Option<Vec<u8>> {
    let mut flight = Vec::new();
    while connection.wants_write() {
        match connection.write_tls(&mut flight) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    (!flight.is_empty()).then_some(flight)
}

/// A flight consists of whole TLS records. TLS itself, made for streams, would wait for the rest
/// of the last one, which never comes.
fn check_framing(flight: &[u8]) -> Result<(), Failure> {
    const HEADER_LEN: usize = 5;
    let mut rest = flight;
    loop {
        let Some((&[_, _, _, high, low], body)) = rest.split_first_chunk::<HEADER_LEN>() else {
            return Err(undecodable("the flight does not consist of whole TLS records"));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        rest = match body.get(length..) {
            Some([]) => return Ok(()),
            Some(next) => next,
            None => return Err(undecodable("the flight ends inside a TLS record")),
        };
    }
}

fn undecodable(detail: impl Into<String>) -> Failure {
    TlsError::corrupt(detail).into()
}

fn refusal(error: rustls::Error, mut alert: AcceptedAlert) -> Failure {
    let mut bytes = Vec::new();
    let written = alert.write_all(&mut bytes);
    let alert = (written.is_ok() && !bytes.is_empty()).then_some(bytes);
    Failure { error: error.into(), alert }
}
