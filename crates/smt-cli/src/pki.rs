//! A certificate authority for development and tests.
//!
//! An [`Authority`] issues certificates for TLS 1.3 with mutual authentication: [`Authority::server`] for those
//! who are called, [`Authority::client`] for those who call. Everything stays in memory; writing files is up to
//! the caller. What an authority takes back is listed by [`crate::revocation`]. There is no intermediate authority and
//! no protection of the authority's key beyond file modes: do not use it in production.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ParsedCertificate;

/// Certificates are valid from this long before they are made, for peers whose clocks are behind.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// The longest validity this module issues, in days: 100 years.
pub const MAX_DAYS: u32 = 36_525;

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A name is neither a DNS name, a URI nor (for servers) an IP address.
    #[error("`{0}` is neither {1}")]
    Name(String, &'static str),
    /// The validity is not between 1 and [`MAX_DAYS`] days.
    #[error("{0} days of validity: at least 1 and at most {MAX_DAYS} are possible")]
    Days(u32),
    /// A certificate, key or list, read from PEM, is not one.
    #[error("cannot read the {0}: {1}")]
    Parse(&'static str, String),
    /// A certificate that is to be revoked is another authority's.
    #[error("this authority has not issued that certificate")]
    NotIssuedHere,
    /// The authority's key is not the one its certificate names.
    #[error("the authority's key does not belong to its certificate")]
    KeyMismatch,
    /// The cryptographic library refused.
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

/// The kind of a key pair and of the signatures made with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
#[non_exhaustive]
pub enum Algorithm {
    /// ECDSA on the curve P-256 with SHA-256: understood by every TLS 1.3 stack, and fast to sign.
    #[default]
    #[value(alias = "p256")]
    EcdsaP256,
    /// Ed25519: smaller and faster to verify, not understood everywhere.
    #[value(name = "ed25519")]
    Ed25519,
}

impl Algorithm {
    fn generate(self) -> Result<KeyPair, PkiError> {
        Ok(match self {
            Algorithm::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            Algorithm::Ed25519 => KeyPair::generate_for(&PKCS_ED25519)?,
        })
    }
}

/// A certificate and its private key.
#[derive(Debug)]
pub struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Identity {
    /// The certificate in DER.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// The private key in DER (PKCS #8).
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    /// The certificate in PEM.
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The private key in PEM (PKCS #8). Keep it secret.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// What a new key and certificate are like, apart from their name.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// The kind of key.
    pub algorithm: Algorithm,
    /// Validity in days from now: 1 to [`MAX_DAYS`].
    pub days: u32,
}

impl Default for Profile {
    /// ECDSA P-256, one year.
    fn default() -> Self {
        Profile { algorithm: Algorithm::EcdsaP256, days: 365 }
    }
}

/// A development authority: a self-signed certificate and the key that issues others.
pub struct Authority {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority called `name`.
    ///
    /// # Errors
    ///
    /// [`PkiError::Days`], or the library cannot make keys.
    pub fn new(name: &str, profile: Profile) -> Result<Authority, PkiError> {
        let mut params = parameters(name, profile.days)?;
        // No authorities below this one: whoever holds an issued key cannot issue.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = profile.algorithm.generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Authority {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads an authority back from the PEM texts of its certificate and key.
    ///
    /// # Errors
    ///
    /// One of the texts is not what it should be, or they do not belong together.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Authority, PkiError> {
        let key = KeyPair::from_pem(key_pem)
            .map_err(|error| PkiError::Parse("authority's private key", error.to_string()))?;
        let parse = |text: String| PkiError::Parse("authority's certificate", text);
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| parse(error.to_string()))?;
        let named_key = ParsedCertificate::try_from(&certificate)
            .map_err(|error| parse(error.to_string()))?
            .subject_public_key_info();
        if *named_key != *key.subject_public_key_info() {
            return Err(PkiError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| parse(error.to_string()))?;
        Ok(Authority { certificate, certificate_pem: certificate_pem.to_owned(), issuer })
    }

    /// The authority's certificate in DER: what the other side trusts.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// The authority's certificate in PEM.
    pub fn certificate_pem(&self) -> String {
        self.certificate_pem.clone()
    }

    /// The authority's private key in PEM (PKCS #8). Whoever has it can be anybody.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The authority's name and key, for signing.
    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Issues a server certificate (extended key usage serverAuth) for `names`: DNS names, `*.` wildcards and
    /// IP addresses, as clients will call the server, and URIs such as a SPIFFE ID (with `://`).
    ///
    /// # Errors
    ///
    /// No name or an unusable one, or [`PkiError::Days`].
    pub fn server(&self, names: &[&str], profile: Profile) -> Result<Identity, PkiError> {
        let sans = names.iter().map(|name| server_name(name)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = names.first() else {
            return Err(PkiError::Name(String::new(), SERVER_NAMES));
        };
        self.issue(first, sans, ExtendedKeyUsagePurpose::ServerAuth, profile)
    }

    /// Issues a client certificate (extended key usage clientAuth) for `name`: a URI if it has a scheme, such as
    /// `spiffe://example.org/billing`, otherwise a DNS name such as `billing`. Servers find it in the subject
    /// alternative name.
    ///
    /// # Errors
    ///
    /// An unusable name, or [`PkiError::Days`].
    pub fn client(&self, name: &str, profile: Profile) -> Result<Identity, PkiError> {
        let san = client_name(name)?;
        self.issue(name, vec![san], ExtendedKeyUsagePurpose::ClientAuth, profile)
    }

    fn issue(
        &self,
        name: &str,
        sans: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        profile: Profile,
    ) -> Result<Identity, PkiError> {
        let mut params = parameters(name, profile.days)?;
        params.subject_alt_names = sans;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = profile.algorithm.generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate, key })
    }
}

fn parameters(common_name: &str, days: u32) -> Result<CertificateParams, PkiError> {
    if !(1..=MAX_DAYS).contains(&days) {
        return Err(PkiError::Days(days));
    }
    let now = SystemTime::now();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + Duration::from_secs(u64::from(days) * 86_400)).into();
    Ok(params)
}

/// What servers are called, for [`PkiError::Name`].
const SERVER_NAMES: &str = "a DNS name, an IP address nor a URI (scheme://rest)";

fn server_name(name: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    if is_uri(name) && name.contains("://") {
        let wrong = |_| PkiError::Name(name.to_owned(), SERVER_NAMES);
        return Ia5String::try_from(name).map(SanType::URI).map_err(wrong);
    }
    let bare = name.strip_prefix("*.").unwrap_or(name);
    dns_name(bare)
        .and_then(|_| Ia5String::try_from(name).ok())
        .map(SanType::DnsName)
        .ok_or_else(|| PkiError::Name(name.to_owned(), SERVER_NAMES))
}

fn client_name(name: &str) -> Result<SanType, PkiError> {
    let wrong = || PkiError::Name(name.to_owned(), "a DNS name nor a URI (scheme:rest)");
    let ia5 = Ia5String::try_from(name).map_err(|_| wrong())?;
    if is_uri(name) {
        return Ok(SanType::URI(ia5));
    }
    dns_name(name).map(|_| SanType::DnsName(ia5)).ok_or_else(wrong)
}

fn dns_name(name: &str) -> Option<DnsName<'_>> {
    DnsName::try_from(name).ok()
}

/// Whether `name` has the outer shape of a URI (RFC 3986 section 3): a scheme, a colon, and no blanks.
fn is_uri(name: &str) -> bool {
    name.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
            && !rest.is_empty()
            && rest.chars().all(|c| c.is_ascii_graphic())
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::server::WebPkiClientVerifier;
    use rustls::server::danger::ClientCertVerifier;

    use super::*;

    fn roots(authority: &Authority) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate()).unwrap();
        Arc::new(roots)
    }

    fn server_verifier(authority: &Authority) -> Arc<WebPkiServerVerifier> {
        let provider = Arc::new(default_provider());
        WebPkiServerVerifier::builder_with_provider(roots(authority), provider).build().unwrap()
    }

    fn client_verifier(authority: &Authority) -> Arc<dyn ClientCertVerifier> {
        let provider = Arc::new(default_provider());
        WebPkiClientVerifier::builder_with_provider(roots(authority), provider).build().unwrap()
    }

    fn accepts_server(authority: &Authority, identity: &Identity, name: &str) -> bool {
        let name = ServerName::try_from(name).unwrap();
        server_verifier(authority)
            .verify_server_cert(&identity.certificate(), &[], &name, &[], UnixTime::now())
            .is_ok()
    }

    fn accepts_client(authority: &Authority, identity: &Identity) -> bool {
        let certificate = identity.certificate();
        client_verifier(authority).verify_client_cert(&certificate, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn servers_are_accepted_under_their_names_alone() {
        for algorithm in [Algorithm::EcdsaP256, Algorithm::Ed25519] {
            let profile = Profile { algorithm, days: 1 };
            let authority = Authority::new("test", profile).unwrap();
            let names = ["localhost", "10.0.0.2", "fd00::2", "*.example.org", "spiffe://a/b"];
            let server = authority.server(&names, profile).unwrap();
            for name in ["localhost", "10.0.0.2", "fd00::2", "a.example.org"] {
                assert!(accepts_server(&authority, &server, name), "{name}");
            }
            assert!(!accepts_server(&authority, &server, "example.org"));
            assert!(!accepts_client(&authority, &server));
        }
    }

    #[test]
    fn clients_are_accepted_as_clients_alone() {
        let authority = Authority::new("test", Profile::default()).unwrap();
        for name in ["alice", "spiffe://example.org/billing"] {
            let client = authority.client(name, Profile::default()).unwrap();
            assert!(accepts_client(&authority, &client), "{name}");
            assert!(!accepts_server(&authority, &client, "alice"), "{name}");
        }
    }

    #[test]
    fn another_authority_is_not_trusted() {
        let authority = Authority::new("test", Profile::default()).unwrap();
        let other = Authority::new("test", Profile::default()).unwrap();
        let client = other.client("alice", Profile::default()).unwrap();
        assert!(!accepts_client(&authority, &client));
    }

    #[test]
    fn an_authority_read_back_issues_the_same() {
        for algorithm in [Algorithm::EcdsaP256, Algorithm::Ed25519] {
            let authority = Authority::new("test", Profile { algorithm, days: 1 }).unwrap();
            let read = Authority::from_pem(&authority.certificate_pem(), &authority.key_pem());
            let server = read.unwrap().server(&["localhost"], Profile::default()).unwrap();
            assert!(accepts_server(&authority, &server, "localhost"));
        }
    }

    #[test]
    fn a_key_of_another_authority_is_refused() {
        let [one, other] = ["a", "b"].map(|name| Authority::new(name, Profile::default()).unwrap());
        let mixed = Authority::from_pem(&one.certificate_pem(), &other.key_pem());
        assert!(matches!(mixed, Err(PkiError::KeyMismatch)));
        let swapped = Authority::from_pem(&one.key_pem(), &one.certificate_pem());
        assert!(matches!(swapped, Err(PkiError::Parse(..))));
    }

    #[test]
    fn nonsense_is_refused() {
        let authority = Authority::new("test", Profile::default()).unwrap();
        for name in ["", "two words", "a..b", "under score", "é", "10.0.0.1:80"] {
            assert!(authority.server(&[name], Profile::default()).is_err(), "{name}");
            assert!(authority.client(name, Profile::default()).is_err(), "{name}");
        }
        assert!(authority.server(&[], Profile::default()).is_err());
        for days in [0, MAX_DAYS + 1] {
            let profile = Profile { days, ..Profile::default() };
            assert!(matches!(authority.client("a", profile), Err(PkiError::Days(_))));
        }
    }
}
