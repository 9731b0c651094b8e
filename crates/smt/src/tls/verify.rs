//! Whether a peer is let in: its certificate chain, and then whoever the application allows.
//!
//! A chain is checked once and remembered for a while ([`VerifiedChains`]); what is remembered
//! belongs to one configuration, so that other roots or revocation lists begin with nothing. The
//! signature in CertificateVerify is checked in every handshake, and the application is asked in
//! every handshake, resumed ones included.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::error::TlsError;
use super::peer::PeerIdentity;
use super::verified_chains::VerifiedChains;

/// The application's own rule about who may be talked to.
#[derive(Clone)]
pub(super) struct Authorise(pub(super) Arc<Rule>);

type Rule = dyn Fn(&PeerIdentity) -> Result<(), String> + Send + Sync;

impl fmt::Debug for Authorise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorise")
    }
}

thread_local! {
    /// Why the application has just refused a peer: TLS's own error, which carries the refusal
    /// out of the verifier, has no room for words. Set and taken inside one call into TLS.
    static REFUSAL: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// The words of the refusal that TLS has just reported.
pub(super) fn take_refusal() -> String {
    REFUSAL.take().unwrap_or_default()
}

fn authorise(rule: Option<&Authorise>, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
    let Some(Authorise(rule)) = rule else { return Ok(()) };
    let chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
    let peer = PeerIdentity::from_verified(chain)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    rule(&peer).map_err(|reason| {
        REFUSAL.set(Some(reason));
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
    })
}

fn whole_chain<'a>(
    end_entity: &CertificateDer<'a>,
    intermediates: &[CertificateDer<'a>],
) -> Vec<CertificateDer<'a>> {
    std::iter::once(end_entity).chain(intermediates).cloned().collect()
}

/// What a client holds against servers.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    inner: Arc<WebPkiServerVerifier>,
    verified: VerifiedChains,
    rule: Option<Authorise>,
}

impl ServerVerifier {
    pub(super) fn new(inner: Arc<WebPkiServerVerifier>, rule: Option<Authorise>) -> Self {
        Self { inner, verified: VerifiedChains::default(), rule }
    }

    /// Whether the chain, the end entity's certificate first, is valid for `name` now. The
    /// application is not asked.
    pub(super) fn check_chain(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some((end_entity, intermediates)) = chain.split_first() else {
            return Err(Error::NoCertificatesPresented);
        };
        self.verified.check(chain, name.to_str().as_bytes(), now, || {
            self.inner.verify_server_cert(end_entity, intermediates, name, &[], now).map(drop)
        })
    }

    /// Whether a session with the server of this chain may be resumed.
    pub(super) fn check_resumption(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> Result<(), TlsError> {
        self.check_chain(chain, name, UnixTime::now())?;
        Ok(authorise(self.rule.as_ref(), chain)?)
    }

    /// Chains that were checked in full so far, and those that were remembered.
    pub(super) fn checks(&self) -> (u64, u64) {
        self.verified.checks()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = whole_chain(end_entity, intermediates);
        self.check_chain(&chain, server_name, now)?;
        authorise(self.rule.as_ref(), &chain)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// What a server holds against clients.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    verified: VerifiedChains,
    rule: Option<Authorise>,
}

impl ClientVerifier {
    pub(super) fn new(inner: Arc<dyn ClientCertVerifier>, rule: Option<Authorise>) -> Self {
        Self { inner, verified: VerifiedChains::default(), rule }
    }

    /// Whether the application decides on clients.
    pub(super) fn has_rule(&self) -> bool {
        self.rule.is_some()
    }

    fn check_chain(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let Some((end_entity, intermediates)) = chain.split_first() else {
            return Err(Error::NoCertificatesPresented);
        };
        self.verified.check(chain, &[], now, || {
            self.inner.verify_client_cert(end_entity, intermediates, now).map(drop)
        })
    }

    /// Whether clients are asked who they are at all. If not, they can be refused at once.
    pub(super) fn check_unasked(&self) -> Result<(), TlsError> {
        if self.inner.offer_client_auth() {
            return Ok(());
        }
        Ok(authorise(self.rule.as_ref(), &[])?)
    }

    /// Whether a session with the client of this chain may be resumed; an empty chain is that of
    /// an anonymous client.
    pub(super) fn check_resumption(&self, chain: &[CertificateDer<'_>]) -> Result<(), TlsError> {
        let asked = self.inner.offer_client_auth();
        match chain {
            [] if asked && self.inner.client_auth_mandatory() => {
                return Err(TlsError::NoClientCertificate);
            }
            [] => {}
            // What was shown under another configuration is no longer asked for: begin anew.
            _ if !asked => return Err(TlsError::UnknownIssuer),
            chain => self.check_chain(chain, UnixTime::now())?,
        }
        Ok(authorise(self.rule.as_ref(), chain)?)
    }

    /// Chains that were checked in full so far, and those that were remembered.
    pub(super) fn checks(&self) -> (u64, u64) {
        self.verified.checks()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    /// A client that may stay anonymous, but whom the application refuses as anonymous, is told
    /// that it needs a certificate.
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory() || authorise(self.rule.as_ref(), &[]).is_err()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = whole_chain(end_entity, intermediates);
        self.check_chain(&chain, now)?;
        authorise(self.rule.as_ref(), &chain)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
