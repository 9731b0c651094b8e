//! Revocation lists of the development authority.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, SubjectKeyIdentifier};

use crate::pki::{Authority, CLOCK_SKEW, MAX_DAYS, PkiError};

/// Serial numbers of revoked certificates, each once, in the order they were revoked.
#[derive(Debug, Default)]
pub struct Revoked(Vec<Vec<u8>>);

impl Revoked {
    /// Reads back the PEM text of a revocation list.
    ///
    /// # Errors
    /// [`PkiError::Parse`] if it is not one.
    pub fn from_pem(pem: &str) -> Result<Revoked, PkiError> {
        let wrong = |error: String| PkiError::Parse("revocation list", error);
        let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| wrong(error.to_string()))?;
        let list = CertificateList::<x509_cert::certificate::Rfc5280>::from_der(&der)
            .map_err(|error| wrong(error.to_string()))?;
        let entries = list.tbs_cert_list.revoked_certificates.unwrap_or_default();
        let serials = entries.iter().map(|entry| entry.serial_number.as_bytes().to_vec());
        Ok(Revoked(serials.collect()))
    }

    /// Adds the certificate of this PEM text, which `authority` must have issued. False if it is
    /// in the list already.
    ///
    /// # Errors
    /// [`PkiError::Parse`], [`PkiError::NotIssuedHere`].
    pub fn add(&mut self, certificate_pem: &str, authority: &Authority) -> Result<bool, PkiError> {
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| PkiError::Parse("certificate", error.to_string()))?;
        let certificate = parse(&der)?;
        if issuer_key(&certificate)? != Some(own_key(&parse(&authority.certificate())?)?) {
            return Err(PkiError::NotIssuedHere);
        }
        let serial = certificate.tbs_certificate().serial_number().as_bytes().to_vec();
        let new = !self.0.contains(&serial);
        if new {
            self.0.push(serial);
        }
        Ok(new)
    }

    /// How many certificates are revoked.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The list, signed by `authority`, in PEM. The next one is announced for `days` from now.
    ///
    /// # Errors
    /// [`PkiError::Days`], or the library refuses.
    pub fn signed_by(&self, authority: &Authority, days: u32) -> Result<String, PkiError> {
        if !(1..=MAX_DAYS).contains(&days) {
            return Err(PkiError::Days(days));
        }
        let now = SystemTime::now();
        let entry = |serial: &Vec<u8>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        // Numbers must grow from list to list; the clock does.
        let number = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let params = CertificateRevocationListParams {
            this_update: (now - CLOCK_SKEW).into(),
            next_update: (now + Duration::from_secs(u64::from(days) * 86_400)).into(),
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: self.0.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(authority.issuer())?.pem()?)
    }
}

fn parse(der: &CertificateDer<'_>) -> Result<Certificate, PkiError> {
    Certificate::from_der(der).map_err(|error| PkiError::Parse("certificate", error.to_string()))
}

/// The identifier of the key that signed a certificate.
fn issuer_key(certificate: &Certificate) -> Result<Option<Vec<u8>>, PkiError> {
    let found = certificate
        .tbs_certificate()
        .get_extension::<AuthorityKeyIdentifier>()
        .map_err(|error| PkiError::Parse("certificate", error.to_string()))?;
    Ok(found.and_then(|(_, id)| id.key_identifier).map(|id| id.as_bytes().to_vec()))
}

/// The identifier of a certificate's own key; empty if it has none.
fn own_key(certificate: &Certificate) -> Result<Vec<u8>, PkiError> {
    let found = certificate
        .tbs_certificate()
        .get_extension::<SubjectKeyIdentifier>()
        .map_err(|error| PkiError::Parse("certificate", error.to_string()))?;
    Ok(found.map(|(_, id)| id.0.as_bytes().to_vec()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Profile;

    #[test]
    fn lists_are_read_back_and_grow() {
        let authority = Authority::new("ca", Profile::default()).unwrap();
        let [one, two] =
            ["one", "two"].map(|name| authority.client(name, Profile::default()).unwrap());
        let mut revoked = Revoked::default();
        assert!(revoked.add(&one.certificate_pem(), &authority).unwrap());
        assert!(!revoked.add(&one.certificate_pem(), &authority).unwrap());
        let pem = revoked.signed_by(&authority, 30).unwrap();
        let mut revoked = Revoked::from_pem(&pem).unwrap();
        assert!(!revoked.add(&one.certificate_pem(), &authority).unwrap());
        assert!(revoked.add(&two.certificate_pem(), &authority).unwrap());
        assert_eq!(revoked.len(), 2);
        let empty = Revoked::default().signed_by(&authority, 30).unwrap();
        assert!(Revoked::from_pem(&empty).unwrap().is_empty());
    }

    #[test]
    fn only_the_authoritys_own_certificates_are_revoked() {
        let [authority, other] =
            ["ca", "ca"].map(|name| Authority::new(name, Profile::default()).unwrap());
        let stranger = other.client("one", Profile::default()).unwrap();
        let mut revoked = Revoked::default();
        let error = revoked.add(&stranger.certificate_pem(), &authority).unwrap_err();
        assert!(matches!(error, PkiError::NotIssuedHere));
        let error = revoked.add("nonsense", &authority).unwrap_err();
        assert!(matches!(error, PkiError::Parse("certificate", _)));
        assert!(matches!(Revoked::from_pem(""), Err(PkiError::Parse("revocation list", _))));
        assert!(matches!(revoked.signed_by(&authority, 0), Err(PkiError::Days(0))));
    }
}
