//! Handshakes of both ends in memory.

mod config;
mod failures;
mod pki;
mod policy;
mod resumption;
mod rotation;
mod success;

use std::fs;
use std::path::PathBuf;

use super::*;
use smt_proto::crypto::SuiteId;

const SUITES: [SuiteId; 3] =
    [SuiteId::Aes128GcmSha256, SuiteId::Aes256GcmSha384, SuiteId::ChaCha20Poly1305Sha256];

/// A directory of its own, removed in the end.
struct TempDir(PathBuf);

impl TempDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("smt-tls-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What both ends came to.
#[derive(Debug)]
struct Outcome {
    client: Result<Established, TlsError>,
    server: Result<Established, TlsError>,
    /// Flights sent, by either end.
    flights: usize,
    /// Bytes of all flights.
    bytes: usize,
}

impl Outcome {
    fn expect_established(self) -> (Established, Established, usize) {
        (self.client.expect("client"), self.server.expect("server"), self.flights)
    }

    fn expect_failed(self) -> (TlsError, TlsError) {
        (self.client.expect_err("client"), self.server.expect_err("server"))
    }
}

fn context(suite: SuiteId, alpn: &[u8]) -> Vec<u8> {
    let mut context = (suite as u16).to_be_bytes().to_vec();
    context.extend_from_slice(alpn);
    context
}

fn handshake(client: &ClientTls, server_name: &str, server: &ServerTls) -> Outcome {
    handshake_through(client, server_name, server, |_, _| {})
}

/// Runs a handshake to its end; `network` may change each flight, which it gets by number.
fn handshake_through(
    client: &ClientTls,
    server_name: &str,
    server: &ServerTls,
    mut network: impl FnMut(usize, &mut Vec<u8>),
) -> Outcome {
    let (mut client, flight) = ClientHandshake::start(client, server_name).unwrap();
    let mut server = ServerHandshake::new(server);
    let (mut client_state, mut server_state) = (HandshakeState::Continue, HandshakeState::Continue);
    let mut refused = None;
    let mut next = Some(flight);
    let mut flights = 0;
    let mut bytes = 0;
    let mut post = None;
    while let Some(mut flight) = next.take() {
        network(flights, &mut flight);
        bytes += flight.len();
        if flights % 2 == 0 {
            let progress = server.read_flight(&flight);
            server_state = progress.state;
            next = progress.send;
            post = progress.post;
        } else if client_state == HandshakeState::Done {
            refused = client.late_flight(&flight);
        } else {
            let progress = client.read_flight(&flight);
            client_state = progress.state;
            next = progress.send;
        }
        flights += 1;
        assert!(flights < 10, "a handshake without end");
    }
    let end = |state: HandshakeState, finished: Result<Established, TlsError>| match state {
        HandshakeState::Done => finished,
        HandshakeState::Continue => Err(TlsError::internal("still waits for a flight")),
        HandshakeState::Failed(error) => {
            assert_eq!(finished.unwrap_err(), error);
            Err(error)
        }
    };
    if let Some(post) = post
        && refused.is_none()
    {
        client.post(&post).unwrap();
    }
    let mut client_end = end(client_state, client.finish(context));
    if let Some(error) = refused {
        client_end = Err(error);
    }
    let server_end = end(server_state, server.finish(context));
    Outcome { client: client_end, server: server_end, flights, bytes }
}
