//! What SMT takes out of a complete handshake (spec 5.1): secrets and names.

use std::fmt;

use rustls::{ConnectionCommon, HandshakeKind};
use smt_proto::crypto::SuiteId;
use zeroize::Zeroizing;

use super::error::TlsError;
use super::key_log::KeyLogFile;
use super::options::suite_id;
use super::peer::PeerIdentity;

const CLIENT_LABEL: &[u8] = b"EXPORTER-SMT-1 client";
const SERVER_LABEL: &[u8] = b"EXPORTER-SMT-1 server";

/// The result of a complete handshake.
pub struct Established {
    /// The negotiated cipher suite.
    pub suite: SuiteId,
    /// The client's secret of epoch 3, as long as the suite's hash.
    pub client_secret: Zeroizing<Vec<u8>>,
    /// The server's secret of epoch 3, as long as the suite's hash.
    pub server_secret: Zeroizing<Vec<u8>>,
    /// The negotiated application protocol.
    pub alpn: Vec<u8>,
    /// Who the peer is. In a resumed session it is who it was when it last showed its certificate,
    /// which was checked again.
    pub peer: PeerIdentity,
    /// Whether an earlier session was resumed (spec 5.9): no certificates were exchanged. The
    /// secrets are as fresh and as forward secret as those of a full handshake.
    pub resumed: bool,
}

impl fmt::Debug for Established {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Established")
            .field("suite", &self.suite)
            .field("alpn", &String::from_utf8_lossy(&self.alpn))
            .field("peer", &self.peer)
            .field("resumed", &self.resumed)
            .finish_non_exhaustive()
    }
}

/// Where the secrets are logged, if anywhere.
pub(super) struct KeyLogLines<'a> {
    pub(super) log: Option<&'a KeyLogFile>,
    pub(super) client_random: Option<[u8; 32]>,
}

impl KeyLogLines<'_> {
    fn secret(&self, label: &str, secret: &[u8]) {
        if let (Some(log), Some(random)) = (self.log, &self.client_random) {
            log.line(label, random, secret);
        }
    }
}

/// Exports the secrets; `context` makes the exporter's context of the suite and the ALPN.
pub(super) fn export<D>(
    connection: &ConnectionCommon<D>,
    key_log: &KeyLogLines<'_>,
    context: impl FnOnce(SuiteId, &[u8]) -> Vec<u8>,
) -> Result<Established, TlsError> {
    if connection.is_handshaking() {
        return Err(TlsError::internal("the handshake is not complete"));
    }
    let (suite, hash_len) = connection
        .negotiated_cipher_suite()
        .and_then(|suite| suite_id(suite.suite()))
        .ok_or_else(|| TlsError::internal("the cipher suite is not one of SMT's"))?;
    let alpn = connection.alpn_protocol().ok_or(TlsError::NoCommonAlpn)?.to_vec();
    let chain = connection.peer_certificates().unwrap_or_default();
    let peer = PeerIdentity::from_verified(chain.iter().map(|c| c.to_vec()).collect())?;
    let context = context(suite, &alpn);
    let secret = |label| {
        let mut out = Zeroizing::new(vec![0; hash_len]);
        connection.export_keying_material(out.as_mut_slice(), label, Some(&context))?;
        Ok::<_, rustls::Error>(out)
    };
    let (client_secret, server_secret) = (secret(CLIENT_LABEL)?, secret(SERVER_LABEL)?);
    key_log.secret("SMT_CLIENT_SECRET_3", &client_secret);
    key_log.secret("SMT_SERVER_SECRET_3", &server_secret);
    let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    Ok(Established { suite, client_secret, server_secret, alpn, peer, resumed })
}
