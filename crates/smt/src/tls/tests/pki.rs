//! Certificates for tests.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SignatureAlgorithm, date_time_ymd,
};

use crate::tls::{ClientAuth, ClientTls, ClientTlsBuilder, Identity, Roots, ServerTls};

pub(super) const SERVER: &str = "server.example";
pub(super) const ECDSA: &SignatureAlgorithm = &rcgen::PKCS_ECDSA_P256_SHA256;
pub(super) const ED25519: &SignatureAlgorithm = &rcgen::PKCS_ED25519;

pub(super) struct Ca {
    pub(super) pem: String,
    pub(super) der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(ECDSA).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().to_vec(),
            issuer: Issuer::new(params, key),
        }
    }

    pub(super) fn roots(&self) -> Roots {
        Roots::from_pem(self.pem.as_bytes()).unwrap()
    }

    /// A certificate and its key, as PEM.
    pub(super) fn issue_pem(
        &self,
        params: &CertificateParams,
        algorithm: &'static SignatureAlgorithm,
    ) -> (String, String) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    pub(super) fn issue(
        &self,
        params: &CertificateParams,
        algorithm: &'static SignatureAlgorithm,
    ) -> Identity {
        let (certificate, key) = self.issue_pem(params, algorithm);
        Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap()
    }

    /// A revocation list of these serial numbers, as PEM.
    pub(super) fn crl(&self, serials: &[u64]) -> String {
        let long_ago = date_time_ymd(2000, 1, 1);
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: long_ago,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: long_ago,
            next_update: date_time_ymd(2001, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    pub(super) fn server_identity(&self) -> Identity {
        self.issue(&named(SERVER), ECDSA)
    }
}

pub(super) fn named(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

/// A certificate's parameters with this serial number.
pub(super) fn numbered(name: &str, serial: u64) -> CertificateParams {
    let mut params = named(name);
    params.serial_number = Some(serial.into());
    params
}

pub(super) fn valid_between(name: &str, first_year: i32, last_year: i32) -> CertificateParams {
    let mut params = named(name);
    params.not_before = date_time_ymd(first_year, 1, 1);
    params.not_after = date_time_ymd(last_year, 1, 1);
    params
}

/// A client that trusts `ca`.
pub(super) fn client(ca: &Ca) -> ClientTlsBuilder {
    ClientTls::builder(ca.roots())
}

/// Both ends with certificates of one CA, which both of them trust.
pub(super) fn mutual_pair(ca: &Ca) -> (ClientTls, ServerTls) {
    let client = client(ca).identity(ca.issue(&named("client.example"), ECDSA)).build().unwrap();
    let server = ServerTls::builder(ca.server_identity())
        .client_auth(ClientAuth::Required(ca.roots()))
        .build()
        .unwrap();
    (client, server)
}
