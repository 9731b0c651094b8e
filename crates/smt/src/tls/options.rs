//! Which algorithms and application protocols a handshake may use.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, SupportedCipherSuite};
use smt_proto::crypto::SuiteId;

use super::credentials::ConfigError;
use super::key_shares::{SECP256R1, X25519, X25519MLKEM768};

/// The application protocol of SMT without an application's own: what both ends use by default.
pub const DEFAULT_ALPN: &str = "smt/1";

/// Longest ALPN protocol name, in bytes (RFC 7301, 3.1).
const MAX_ALPN_LEN: usize = 255;

/// How both ends agree on a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyExchange {
    /// X25519MLKEM768, which a future quantum computer cannot undo, or else X25519 or P-256.
    #[default]
    HybridPostQuantum,
    /// X25519MLKEM768 and nothing else: peers without it are refused.
    HybridOnly,
    /// X25519 or P-256. Smaller flights and less CPU.
    Classic,
    /// P-256 and nothing else, where rules ask for NIST's curves.
    NistP256,
}

impl KeyExchange {
    fn groups(self) -> Vec<&'static dyn SupportedKxGroup> {
        match self {
            Self::HybridPostQuantum => {
                vec![&X25519MLKEM768, &X25519, &SECP256R1]
            }
            Self::HybridOnly => vec![&X25519MLKEM768],
            Self::Classic => vec![&X25519, &SECP256R1],
            Self::NistP256 => vec![&SECP256R1],
        }
    }
}

/// What client and server configure alike.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) suites: Vec<SuiteId>,
    pub(super) key_exchange: KeyExchange,
    pub(super) alpn: Vec<String>,
    pub(super) key_log_from_env: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            suites: vec![
                SuiteId::Aes128GcmSha256,
                SuiteId::Aes256GcmSha384,
                SuiteId::ChaCha20Poly1305Sha256,
            ],
            key_exchange: KeyExchange::default(),
            alpn: vec![DEFAULT_ALPN.to_owned()],
            key_log_from_env: false,
        }
    }
}

impl Options {
    pub(super) fn provider(&self) -> Result<Arc<CryptoProvider>, ConfigError> {
        if self.suites.is_empty() {
            return Err(ConfigError::Empty { what: "cipher suites" });
        }
        Ok(Arc::new(CryptoProvider {
            cipher_suites: self.suites.iter().map(|&id| suite(id)).collect(),
            kx_groups: self.key_exchange.groups(),
            ..aws_lc_rs::default_provider()
        }))
    }

    pub(super) fn alpn_protocols(&self) -> Result<Vec<Vec<u8>>, ConfigError> {
        if self.alpn.is_empty() {
            return Err(ConfigError::Empty { what: "application protocols" });
        }
        self.alpn
            .iter()
            .map(|alpn| {
                if is_smt_alpn(alpn) {
                    Ok(alpn.clone().into_bytes())
                } else {
                    Err(ConfigError::BadAlpn { alpn: alpn.clone() })
                }
            })
            .collect()
    }
}

/// Whether `alpn` is `smt/1` or `smt/1+<application>`.
pub(crate) fn is_smt_alpn(alpn: &str) -> bool {
    let application = alpn.strip_prefix(DEFAULT_ALPN);
    alpn.len() <= MAX_ALPN_LEN
        && application.is_some_and(|rest| {
            rest.is_empty() || rest.strip_prefix('+').is_some_and(|name| !name.is_empty())
        })
}

fn suite(id: SuiteId) -> SupportedCipherSuite {
    match id {
        SuiteId::Aes128GcmSha256 => cipher_suite::TLS13_AES_128_GCM_SHA256,
        SuiteId::Aes256GcmSha384 => cipher_suite::TLS13_AES_256_GCM_SHA384,
        SuiteId::ChaCha20Poly1305Sha256 => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    }
}

/// The suite of a negotiated code point and the length of its hash, in bytes.
pub(super) fn suite_id(suite: CipherSuite) -> Option<(SuiteId, usize)> {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Some((SuiteId::Aes128GcmSha256, 32)),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Some((SuiteId::Aes256GcmSha384, 48)),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some((SuiteId::ChaCha20Poly1305Sha256, 32)),
        _ => None,
    }
}
