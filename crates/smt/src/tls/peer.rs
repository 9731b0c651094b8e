//! Who the peer is, by its verified certificate.

use std::collections::BTreeSet;
use std::net::IpAddr;

use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::error::TlsError;
use super::spiffe::SpiffeId;

/// The peer's identity: the names in its certificate, which a trusted CA vouches for. Empty for a
/// client that showed no certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    chain: Vec<Vec<u8>>,
    dns_names: Vec<String>,
    uris: Vec<String>,
    ips: Vec<IpAddr>,
    common_name: Option<String>,
}

impl PeerIdentity {
    /// The identity in a certificate that was verified already.
    pub(super) fn from_verified(chain: Vec<Vec<u8>>) -> Result<Self, TlsError> {
        let unreadable = |detail: x509_cert::der::Error| TlsError::BadCertificate {
            detail: format!("its names cannot be read: {detail}"),
        };
        let Some(end_entity) = chain.first() else { return Ok(Self::default()) };
        let certificate = Certificate::from_der(end_entity).map_err(unreadable)?;
        let certificate = certificate.tbs_certificate();
        let common_name =
            certificate.subject().common_name().map_err(unreadable)?.map(String::from);
        let names = certificate.get_extension::<SubjectAltName>().map_err(unreadable)?;
        let mut identity = Self { common_name, ..Self::default() };
        for name in names.map_or(Vec::new(), |(_critical, names)| names.0) {
            identity.add(&name);
        }
        identity.chain = chain;
        Ok(identity)
    }

    fn add(&mut self, name: &GeneralName) {
        match name {
            GeneralName::DnsName(name) => self.dns_names.push(name.as_str().to_owned()),
            GeneralName::UniformResourceIdentifier(uri) => self.uris.push(uri.as_str().to_owned()),
            GeneralName::IpAddress(octets) => self.ips.extend(ip_address(octets.as_bytes())),
            _ => {}
        }
    }

    /// Whether the peer showed no certificate, as clients may where the server does not ask.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.chain.is_empty()
    }

    /// The certificates as the peer sent them, DER, its own first.
    #[must_use]
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// DNS names (subject alternative names); wildcards appear as they are.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// URIs (subject alternative names), SPIFFE IDs among them.
    #[must_use]
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// The SPIFFE ID, if the certificate is an X.509-SVID: it has exactly one URI, and that is a
    /// well-formed SPIFFE ID.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<SpiffeId<'_>> {
        match self.uris.as_slice() {
            [uri] => SpiffeId::parse(uri),
            _ => None,
        }
    }

    /// IP addresses (subject alternative names).
    #[must_use]
    pub fn ips(&self) -> &[IpAddr] {
        &self.ips
    }

    /// Whether both certificates have the same names, whatever their order: all DNS names, URIs
    /// and IP addresses. A renewed certificate is of the same peer in this sense; one that has a
    /// name more or less is not.
    #[must_use]
    pub fn has_names_of(&self, other: &PeerIdentity) -> bool {
        let names = |identity: &PeerIdentity| {
            let dns: BTreeSet<_> =
                identity.dns_names.iter().map(|name| name.to_ascii_lowercase()).collect();
            let uris: BTreeSet<_> = identity.uris.iter().cloned().collect();
            let ips: BTreeSet<_> = identity.ips.iter().copied().collect();
            (dns, uris, ips)
        };
        names(self) == names(other)
    }

    /// The subject's common name, for people to read and for certificates of people. Names of
    /// machines belong to the other fields.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }
}

fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}
