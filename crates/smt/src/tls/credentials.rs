//! Certificates and keys, checked when they are loaded rather than at the first handshake.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{Error, RootCertStore};

/// Why a TLS configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file could not be read, or the key log not be opened.
    #[error("cannot open {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A PEM file or text is damaged.
    #[error("{origin} is not valid PEM: {detail}")]
    BadPem {
        /// The file's path, or what the caller passed.
        origin: String,
        /// What is wrong.
        detail: String,
    },
    /// There is no certificate in what should hold at least one.
    #[error("{origin} holds no certificate (looked for BEGIN CERTIFICATE)")]
    NoCertificate {
        /// The file's path, or what the caller passed.
        origin: String,
    },
    /// There is no private key in what should hold one.
    #[error("{origin} holds no private key (looked for BEGIN PRIVATE KEY and its older forms)")]
    NoKey {
        /// The file's path, or what the caller passed.
        origin: String,
    },
    /// A certificate cannot be used.
    #[error("the certificate of {origin} cannot be used: {detail}")]
    BadCertificate {
        /// The file's path, or what the caller passed.
        origin: String,
        /// What is wrong.
        detail: String,
    },
    /// There is no revocation list in what should hold at least one.
    #[error("{origin} holds no revocation list (looked for BEGIN X509 CRL)")]
    NoCrl {
        /// The file's path, or what the caller passed.
        origin: String,
    },
    /// A revocation list cannot be used.
    #[error("the revocation list of {origin} cannot be used: {detail}")]
    BadCrl {
        /// The file's path, or what the caller passed.
        origin: String,
        /// What is wrong.
        detail: String,
    },
    /// The private key is of a kind that cannot be used.
    #[error("the private key of {origin} cannot be used: {detail}")]
    BadKey {
        /// The file's path, or what the caller passed.
        origin: String,
        /// What is wrong.
        detail: String,
    },
    /// The private key is not the one of the certificate.
    #[error("the private key of {key} does not belong to the first certificate of {certificate}")]
    KeyMismatch {
        /// Where the certificate came from.
        certificate: String,
        /// Where the key came from.
        key: String,
    },
    /// An application protocol is not `smt/1` or `smt/1+<application>`, or longer than 255 bytes.
    #[error("application protocol `{alpn}` is not `smt/1` or `smt/1+<application>`")]
    BadAlpn {
        /// The protocol as given.
        alpn: String,
    },
    /// A list that needs at least one element is empty.
    #[error("the list of {what} is empty")]
    Empty {
        /// The list: `cipher suites`, `application protocols`.
        what: &'static str,
    },
    /// The host gave no thread to watch files on.
    #[error("no thread could be started to watch files: {source}")]
    NoThread {
        /// Why not.
        source: io::Error,
    },
    /// TLS refuses the configuration as a whole.
    #[error("TLS refuses this configuration: {detail}")]
    Refused {
        /// Why.
        detail: String,
    },
}

/// A certificate chain, the end entity's first, and its private key.
#[derive(Clone)]
pub struct Identity {
    pub(super) key: Arc<SingleCertAndKey>,
    certificates: usize,
}

impl Identity {
    /// Reads the chain and the key from two PEM files (or twice the same one).
    ///
    /// # Errors
    /// [`ConfigError`] with the path, whatever is wrong with the files or their contents.
    pub fn from_pem_files(
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, ConfigError> {
        let (chain, key) = (chain.as_ref(), key.as_ref());
        let chain_origin = chain.display().to_string();
        let key_origin = key.display().to_string();
        let chain = certificates(&read(chain)?, &chain_origin)?;
        let key = private_key(&read(key)?, &key_origin)?;
        Self::new(chain, key, chain_origin, key_origin)
    }

    /// Takes the chain and the key from PEM text.
    ///
    /// # Errors
    /// [`ConfigError`] if the text holds no usable chain or key, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, ConfigError> {
        let (chain_origin, key_origin) = ("the given chain", "the given key");
        let chain = certificates(chain, chain_origin)?;
        let key = private_key(key, key_origin)?;
        Self::new(chain, key, chain_origin.to_owned(), key_origin.to_owned())
    }

    /// Takes DER: the chain's certificates, the end entity's first, and the key as PKCS #8, SEC 1
    /// or PKCS #1.
    ///
    /// # Errors
    /// [`ConfigError`] if they cannot be used or do not belong together.
    pub fn from_der(chain: Vec<Vec<u8>>, key: Vec<u8>) -> Result<Self, ConfigError> {
        let (chain_origin, key_origin) = ("the given chain".to_owned(), "the given key".to_owned());
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::try_from(key).map_err(|detail| ConfigError::BadKey {
            origin: key_origin.clone(),
            detail: detail.to_owned(),
        })?;
        Self::new(chain, key, chain_origin, key_origin)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        chain_origin: String,
        key_origin: String,
    ) -> Result<Self, ConfigError> {
        if chain.is_empty() {
            return Err(ConfigError::NoCertificate { origin: chain_origin });
        }
        let certificates = chain.len();
        let provider = aws_lc_rs::default_provider();
        let signing_key = provider.key_provider.load_private_key(key).map_err(|e| {
            ConfigError::BadKey { origin: key_origin.clone(), detail: e.to_string() }
        })?;
        let certified = CertifiedKey::new(chain, signing_key);
        match certified.keys_match() {
            Ok(()) => Ok(Self { key: Arc::new(certified.into()), certificates }),
            Err(Error::InconsistentKeys(_)) => {
                Err(ConfigError::KeyMismatch { certificate: chain_origin, key: key_origin })
            }
            Err(e) => {
                Err(ConfigError::BadCertificate { origin: chain_origin, detail: e.to_string() })
            }
        }
    }
}

#[cfg(test)]
impl Identity {
    /// This chain with another's key: what a thief of certificates has.
    pub(super) fn with_key_of(&self, other: &Identity) -> Self {
        use rustls::client::ResolvesClientCert as _;
        let [chain, key] = [self, other].map(|of| of.key.resolve(&[], &[]).unwrap());
        let certified = CertifiedKey::new(chain.cert.clone(), Arc::clone(&key.key));
        Self { key: Arc::new(certified.into()), certificates: self.certificates }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

/// CA certificates that are trusted to vouch for peers, and the lists of what they revoked.
#[derive(Clone)]
pub struct Roots {
    pub(super) store: Arc<RootCertStore>,
    pub(super) crls: Vec<CertificateRevocationListDer<'static>>,
}

impl Roots {
    /// Reads the CA certificates from a PEM file.
    ///
    /// # Errors
    /// [`ConfigError`] with the path, if the file cannot be read, holds no certificate or one that
    /// cannot be used.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let origin = path.display().to_string();
        Self::new(certificates(&read(path)?, &origin)?, origin)
    }

    /// Takes the CA certificates from PEM text.
    ///
    /// # Errors
    /// [`ConfigError`] if there is none or one that cannot be used.
    pub fn from_pem(pem: &[u8]) -> Result<Self, ConfigError> {
        let origin = "the given roots";
        Self::new(certificates(pem, origin)?, origin.to_owned())
    }

    /// Takes the CA certificates as DER.
    ///
    /// # Errors
    /// [`ConfigError`] if there is none or one that cannot be used.
    pub fn from_der(certificates: Vec<Vec<u8>>) -> Result<Self, ConfigError> {
        Self::new(
            certificates.into_iter().map(CertificateDer::from).collect(),
            "the given roots".to_owned(),
        )
    }

    fn new(
        certificates: Vec<CertificateDer<'static>>,
        origin: String,
    ) -> Result<Self, ConfigError> {
        if certificates.is_empty() {
            return Err(ConfigError::NoCertificate { origin });
        }
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            store.add(certificate).map_err(|e| ConfigError::BadCertificate {
                origin: origin.clone(),
                detail: e.to_string(),
            })?;
        }
        Ok(Self { store: Arc::new(store), crls: Vec::new() })
    }

    /// Adds the revocation lists (CRLs) of a PEM file to those given already. Once there is one,
    /// each certificate of a peer's chain must be covered by a list that its CA has signed:
    /// otherwise the peer is refused as [`TlsError::RevocationUnknown`], and if a list names it
    /// as [`TlsError::Revoked`]. A list that is past its next update still counts.
    ///
    /// # Errors
    /// [`ConfigError`] with the path, if the file cannot be read, holds no list or one that cannot
    /// be used.
    ///
    /// [`TlsError::RevocationUnknown`]: super::TlsError::RevocationUnknown
    /// [`TlsError::Revoked`]: super::TlsError::Revoked
    pub fn with_crl_pem_file(self, path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        self.with_crls_of(&read(path)?, &path.display().to_string())
    }

    /// Adds revocation lists of PEM text, as [`with_crl_pem_file`](Self::with_crl_pem_file).
    ///
    /// # Errors
    /// [`ConfigError`] if there is none or one that cannot be used.
    pub fn with_crls(self, pem: &[u8]) -> Result<Self, ConfigError> {
        self.with_crls_of(pem, "the given text")
    }

    fn with_crls_of(mut self, pem_text: &[u8], origin: &str) -> Result<Self, ConfigError> {
        let found: Vec<_> = CertificateRevocationListDer::pem_slice_iter(pem_text)
            .collect::<Result<_, pem::Error>>()
            .map_err(|e| bad_pem(&e, origin))?;
        if found.is_empty() {
            return Err(ConfigError::NoCrl { origin: origin.to_owned() });
        }
        // The lists are read when a verifier is made of them: here, for the error to name them.
        let provider = Arc::new(aws_lc_rs::default_provider());
        WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.store), provider)
            .with_crls(found.iter().cloned())
            .build()
            .map_err(|e| ConfigError::BadCrl {
                origin: origin.to_owned(),
                detail: e.to_string(),
            })?;
        self.crls.extend(found);
        Ok(self)
    }

    /// Whether both trust the same authorities, in the same order.
    pub(super) fn same_authorities(&self, other: &Roots) -> bool {
        self.store.roots == other.store.roots
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots")
            .field("certificates", &self.store.len())
            .field("crls", &self.crls.len())
            .finish()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })
}

fn certificates(
    pem_text: &[u8],
    origin: &str,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem_text)
        .collect::<Result<_, pem::Error>>()
        .map_err(|e| bad_pem(&e, origin))?;
    if found.is_empty() {
        return Err(ConfigError::NoCertificate { origin: origin.to_owned() });
    }
    Ok(found)
}

fn private_key(pem_text: &[u8], origin: &str) -> Result<PrivateKeyDer<'static>, ConfigError> {
    PrivateKeyDer::from_pem_slice(pem_text).map_err(|e| match e {
        pem::Error::NoItemsFound => ConfigError::NoKey { origin: origin.to_owned() },
        other => bad_pem(&other, origin),
    })
}

fn bad_pem(error: &pem::Error, origin: &str) -> ConfigError {
    ConfigError::BadPem { origin: origin.to_owned(), detail: error.to_string() }
}
