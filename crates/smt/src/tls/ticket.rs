//! What SMT-tickets need of TLS: signing with a certificate's key, and verifying as a handshake
//! does.

use std::sync::Arc;
use std::time::Duration;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

use super::config::ClientTls;
use super::credentials::Identity;
use super::error::TlsError;
use super::peer::PeerIdentity;
use super::verify::ServerVerifier;
use crate::ticket::TicketStore;

/// The schemes that TLS 1.3 has for certificates' keys, in order of preference.
const SCHEMES: [SignatureScheme; 7] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

impl Identity {
    /// The chain's certificates, DER, the end entity's first.
    pub(crate) fn certificates(&self) -> Vec<Vec<u8>> {
        self.certified().map_or(Vec::new(), |key| key.cert.iter().map(|c| c.to_vec()).collect())
    }

    /// From when until when all certificates of the chain are valid, in seconds since 1970.
    pub(crate) fn validity(&self) -> Result<(u64, u64), TlsError> {
        let mut common = (0, u64::MAX);
        for certificate in self.certificates() {
            let (from, until) = validity(&certificate)?;
            common = (common.0.max(from), common.1.min(until));
        }
        Ok(common)
    }

    /// Signs `message` with the certificate's key; returns TLS's number of the scheme, too.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<(u16, Vec<u8>), TlsError> {
        let key = self.certified().ok_or(TlsError::NoCommonSignature)?;
        let signer = key.key.choose_scheme(&SCHEMES).ok_or(TlsError::NoCommonSignature)?;
        Ok((signer.scheme().into(), signer.sign(message)?))
    }

    /// Whether the certificate's key made `signature` over `message`, by the scheme that TLS
    /// numbers `scheme`.
    pub(crate) fn has_signed(&self, scheme: u16, message: &[u8], signature: &[u8]) -> bool {
        let chain = self.certificates();
        chain.first().is_some_and(|own| is_signed(own, scheme, message, signature).is_some())
    }

    /// Whether both have the same names: [`PeerIdentity::has_names_of`].
    pub(crate) fn has_names_of(&self, other: &Identity) -> bool {
        let names = |identity: &Identity| PeerIdentity::from_verified(identity.certificates());
        match (names(self), names(other)) {
            (Ok(own), Ok(others)) => own.has_names_of(&others),
            _ => false,
        }
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.key.resolve(&[], &SCHEMES)
    }
}

impl ClientTls {
    /// The tickets of servers that this client may send early data to. There is one store per
    /// configuration: a [replacement](Self::replace) has its own, since it may trust others.
    #[must_use]
    pub fn tickets(&self) -> Arc<TicketStore> {
        Arc::clone(&self.state().early_tickets)
    }

    /// Whether `alpn` is one of this configuration's application protocols.
    pub(crate) fn speaks(&self, alpn: &[u8]) -> bool {
        self.state().config.alpn_protocols.iter().any(|own| own == alpn)
    }

    /// Verifies a certificate chain as that of `server_name`, as in a handshake.
    pub(crate) fn verify_chain(
        &self,
        server_name: &str,
        chain: &[&[u8]],
        now: u64,
    ) -> Result<Vouched, TlsError> {
        let name = ServerName::try_from(server_name)
            .map_err(|_| TlsError::InvalidServerName { name: server_name.to_owned() })?;
        let certificates: Vec<_> = chain.iter().map(|der| CertificateDer::from(*der)).collect();
        let Some((end_entity, intermediates)) = certificates.split_first() else {
            return Err(TlsError::UnknownIssuer);
        };
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let verifier = &self.state().verifier;
        verifier.verify_server_cert(end_entity, intermediates, &name, &[], time)?;
        let (_, not_after) = validity(end_entity)?;
        let identity = PeerIdentity::from_verified(chain.iter().map(|c| c.to_vec()).collect())?;
        Ok(Vouched { identity, not_after, by: Arc::clone(verifier) })
    }
}

/// A server that a certificate vouches for.
pub(crate) struct Vouched {
    pub(crate) identity: PeerIdentity,
    /// When its certificate ends, in seconds since 1970.
    pub(crate) not_after: u64,
    /// What has found it so.
    by: Arc<ServerVerifier>,
}

impl Vouched {
    /// Whether it was found by what `tls` has now: the same authorities, revocation lists and rule.
    pub(crate) fn is_word_of(&self, tls: &ClientTls) -> bool {
        Arc::ptr_eq(&self.by, &tls.state().verifier)
    }

    /// Whether the certificate's key made `signature` over `message` by the scheme that TLS
    /// numbers `scheme`.
    pub(crate) fn has_signed(&self, scheme: u16, message: &[u8], signature: &[u8]) -> bool {
        let chain = self.identity.chain();
        chain.first().is_some_and(|own| is_signed(own, scheme, message, signature).is_some())
    }
}

/// `Some` if the key of `certificate` made the signature.
fn is_signed(certificate: &[u8], scheme: u16, message: &[u8], signature: &[u8]) -> Option<()> {
    let scheme = SCHEMES.into_iter().find(|known| u16::from(*known) == scheme)?;
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    // As in TLS 1.3, where a scheme fixes the curve: the first algorithm is the one.
    let (_, algorithms) = algorithms.mapping.iter().find(|(known, _)| *known == scheme)?;
    let algorithm = algorithms.first()?;
    let certificate = Certificate::from_der(certificate).ok()?;
    let key = certificate.tbs_certificate().subject_public_key_info();
    let mut id = Vec::new();
    key.algorithm.oid.encode_to_vec(&mut id).ok()?;
    if let Some(parameters) = &key.algorithm.parameters {
        parameters.encode_to_vec(&mut id).ok()?;
    }
    if id != algorithm.public_key_alg_id().as_ref() {
        return None;
    }
    let key = key.subject_public_key.as_bytes()?;
    algorithm.verify_signature(key, message, signature).ok()
}

/// From when until when a certificate is valid, in seconds since 1970.
fn validity(certificate: &[u8]) -> Result<(u64, u64), TlsError> {
    let certificate = Certificate::from_der(certificate)
        .map_err(|e| TlsError::BadCertificate { detail: format!("it cannot be read: {e}") })?;
    let validity = certificate.tbs_certificate().validity();
    let seconds = |time: &x509_cert::time::Time| time.to_unix_duration().as_secs();
    Ok((seconds(&validity.not_before), seconds(&validity.not_after)))
}
