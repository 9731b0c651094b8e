//! The two ends of a handshake as state machines that take and give whole flights (spec 5.1).

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::server::{Accepted, AcceptedAlert, Acceptor};
use rustls::{ClientConnection, ConnectionCommon, ServerConnection, SideData};
use smt_proto::crypto::SuiteId;

use super::alert::Alert;
use super::config::{ClientTls, ServerTls};
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
    /// Where the handshake is now. What is to be sent is sent in every state.
    pub state: HandshakeState,
}

impl Progress {
    fn failed(failure: Failure) -> Self {
        Self { send: failure.alert, state: HandshakeState::Failed(failure.error) }
    }
}

/// A cause, and the alert that tells the peer.
struct Failure {
    error: TlsError,
    alert: Option<Vec<u8>>,
}

impl Failure {
    fn with_alert(error: TlsError, alert: Alert) -> Self {
        Self { error, alert: Some(alert.plaintext_record()) }
    }
}

/// The client's end.
pub struct ClientHandshake {
    tls: ClientTls,
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
        let mut connection = ClientConnection::new(Arc::clone(&tls.config), name)?;
        let flight =
            output(&mut connection).ok_or_else(|| TlsError::internal("TLS gave no ClientHello"))?;
        let client_random = client_random(&flight);
        Ok((Self { tls: tls.clone(), connection, client_random, failed: None }, flight))
    }

    /// Takes the TLS bytes of the server's next flight.
    pub fn read_flight(&mut self, bytes: &[u8]) -> Progress {
        if let Some(error) = &self.failed {
            return Progress { send: None, state: HandshakeState::Failed(error.clone()) };
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
        if progress.state == HandshakeState::Done && self.connection.alpn_protocol().is_none() {
            let alert = Alert::NO_APPLICATION_PROTOCOL;
            return Err(Failure::with_alert(TlsError::NoCommonAlpn, alert));
        }
        Ok(progress)
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
    tls: ServerTls,
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
        Self { tls: tls.clone(), state: ServerState::AwaitsClientHello, client_random: None }
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
        match &mut self.state {
            ServerState::AwaitsClientHello => {
                check_framing(bytes)?;
                self.client_random = client_random(bytes);
                let (accepted, rest) = accept(bytes)?;
                if accepted.client_hello().alpn().is_none() {
                    let alert = Alert::NO_APPLICATION_PROTOCOL;
                    return Err(Failure::with_alert(TlsError::NoCommonAlpn, alert));
                }
                let mut connection = accepted
                    .into_connection(Arc::clone(&self.tls.config))
                    .map_err(|(error, alert)| refusal(error, alert))?;
                let progress = proceed(&mut connection, rest)?;
                self.state = ServerState::Running(Box::new(connection));
                Ok(progress)
            }
            ServerState::Running(connection) => advance(connection, bytes),
            ServerState::Failed(error) => Err(Failure { error: error.clone(), alert: None }),
        }
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
    Ok(Progress { send, state })
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
    Failure::with_alert(TlsError::corrupt(detail), Alert::DECODE_ERROR)
}

fn refusal(error: rustls::Error, mut alert: AcceptedAlert) -> Failure {
    let mut bytes = Vec::new();
    let written = alert.write_all(&mut bytes);
    let alert = (written.is_ok() && !bytes.is_empty()).then_some(bytes);
    Failure { error: error.into(), alert }
}
