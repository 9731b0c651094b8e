//! Why a handshake failed, in words a user can act upon.

use rustls::{CertificateError, Error, PeerIncompatible};

use super::alert::Alert;
use super::verify::take_refusal;

/// Why a handshake failed. Each end has its own view: what one end finds wrong in its peer, the
/// other learns from an alert, as [`TlsError::PeerAlert`] or, where the alert leaves no doubt, as
/// the same cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The server name given to connect is neither a DNS name nor an IP address.
    #[error("`{name}` is neither a DNS name nor an IP address")]
    InvalidServerName {
        /// The name as given.
        name: String,
    },
    /// The peer's certificate chain does not lead to one of the trusted CAs.
    #[error("the peer's certificate was not issued by a CA that is trusted here")]
    UnknownIssuer,
    /// The server's certificate is valid, but for other names.
    #[error(
        "the server's certificate is not valid for `{expected}`, only for {}",
        list(.presented)
    )]
    NameMismatch {
        /// The name that was to be reached.
        expected: String,
        /// The names in the certificate.
        presented: Vec<String>,
    },
    /// The peer's certificate is no longer valid.
    #[error("the peer's certificate expired {} before now", age(*.now, *.not_after))]
    Expired {
        /// This end's clock, in seconds since 1970.
        now: u64,
        /// End of the certificate's validity, in seconds since 1970.
        not_after: u64,
    },
    /// The peer's certificate becomes valid in the future.
    #[error(
        "the peer's certificate becomes valid only in {} (are both clocks right?)",
        age(*.not_before, *.now)
    )]
    NotYetValid {
        /// This end's clock, in seconds since 1970.
        now: u64,
        /// Start of the certificate's validity, in seconds since 1970.
        not_before: u64,
    },
    /// A signature by the peer's key, or on its certificate, is wrong.
    #[error(
        "a signature in the peer's certificate chain or handshake is wrong (is the trusted CA \
         another one of the same name?)"
    )]
    BadSignature,
    /// The peer's certificate cannot be accepted for another reason.
    #[error("the peer's certificate cannot be accepted: {detail}")]
    BadCertificate {
        /// The reason.
        detail: String,
    },
    /// The peer's certificate was revoked by its CA.
    #[error("the peer's certificate was revoked by its CA")]
    Revoked,
    /// Revocation lists are in use, and there is none for a CA of the peer's certificate chain.
    #[error(
        "there is no revocation list that covers the peer's certificate: every CA of its chain \
         needs one once one is given"
    )]
    RevocationUnknown,
    /// The peer is who it says it is, and the application does not let it in.
    #[error("the peer is not authorised: {reason}")]
    NotAuthorised {
        /// The application's words.
        reason: String,
    },
    /// The server requires a client certificate, and the client sent none.
    #[error("the server requires a client certificate, and the client sent none")]
    NoClientCertificate,
    /// The peer does not speak TLS 1.3.
    #[error("the peer does not speak TLS 1.3")]
    NoCommonVersion,
    /// Both ends have no cipher suite in common.
    #[error("both ends have no cipher suite in common")]
    NoCommonCipher,
    /// Both ends have no key exchange group in common.
    #[error("both ends have no key exchange in common")]
    NoCommonKeyExchange,
    /// The key of this end's certificate cannot sign in a way that the peer takes.
    #[error("both ends have no signature algorithm in common for the certificate's key")]
    NoCommonSignature,
    /// Both ends have no application protocol (ALPN) in common.
    #[error("both ends have no application protocol (ALPN) in common")]
    NoCommonAlpn,
    /// Early data was accepted by a ticket, and the handshake that followed shows a server of other
    /// names (spec 5.7.1). Who answered early requests may be another than that.
    #[error("early data was accepted for `{ticket}`, and the handshake is with `{found}`")]
    UnlikeTicket {
        /// The names in the ticket's certificate.
        ticket: String,
        /// Those in the handshake's.
        found: String,
    },
    /// The peer gave up and said why.
    #[error("{0}")]
    PeerAlert(Alert),
    /// Bytes that make no sense: damaged on the way, tampered with, or a faulty TLS stack.
    #[error("the peer's TLS bytes are damaged or wrong: {detail}")]
    Corrupt {
        /// What was wrong with them.
        detail: String,
    },
    /// This end could not go on, for lack of random numbers for instance, or was called out of
    /// order.
    #[error("the TLS handshake failed on this side: {detail}")]
    Internal {
        /// What happened.
        detail: String,
    },
}

impl TlsError {
    /// Whether trying again cannot help (spec 5.1): the client gives up after 3 attempts for a
    /// definite cause, and goes on until its deadline for the others, which a bit that flipped
    /// on the way may have caused.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::Internal { .. } => false,
            Self::PeerAlert(alert) => alert.is_definite(),
            _ => true,
        }
    }

    /// The alert that tells the peer, for a cause that TLS did not find itself.
    pub(crate) fn alert(&self) -> Alert {
        match self {
            Self::Revoked => Alert::CERTIFICATE_REVOKED,
            Self::Expired { .. } | Self::NotYetValid { .. } => Alert::CERTIFICATE_EXPIRED,
            Self::UnknownIssuer | Self::RevocationUnknown => Alert::UNKNOWN_CA,
            Self::NotAuthorised { .. } => Alert::ACCESS_DENIED,
            Self::NoClientCertificate => Alert::CERTIFICATE_REQUIRED,
            Self::NoCommonAlpn => Alert::NO_APPLICATION_PROTOCOL,
            Self::Corrupt { .. } => Alert::DECODE_ERROR,
            _ => Alert::CERTIFICATE_UNKNOWN,
        }
    }

    pub(crate) fn corrupt(detail: impl Into<String>) -> Self {
        Self::Corrupt { detail: detail.into() }
    }

    pub(super) fn internal(detail: impl Into<String>) -> Self {
        Self::Internal { detail: detail.into() }
    }
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidCertificate(cause) => from_certificate(cause),
            Error::PeerIncompatible(cause) => from_incompatible(cause),
            Error::AlertReceived(alert) => from_alert(alert.into()),
            Error::NoCertificatesPresented => Self::NoClientCertificate,
            Error::NoApplicationProtocol => Self::NoCommonAlpn,
            Error::General(_)
            | Error::FailedToGetCurrentTime
            | Error::FailedToGetRandomBytes
            | Error::HandshakeNotComplete
            | Error::EncryptError
            | Error::BadMaxFragmentSize
            | Error::InconsistentKeys(_)
            | Error::Other(_) => Self::internal(error.to_string()),
            _ => Self::corrupt(error.to_string()),
        }
    }
}

/// The alerts that leave no doubt become the cause itself, so that both ends report the same.
fn from_alert(alert: Alert) -> TlsError {
    match alert {
        Alert::CERTIFICATE_REQUIRED => TlsError::NoClientCertificate,
        Alert::NO_APPLICATION_PROTOCOL => TlsError::NoCommonAlpn,
        Alert::PROTOCOL_VERSION => TlsError::NoCommonVersion,
        _ => TlsError::PeerAlert(alert),
    }
}

fn from_certificate(cause: CertificateError) -> TlsError {
    match cause {
        CertificateError::UnknownIssuer => TlsError::UnknownIssuer,
        CertificateError::BadSignature => TlsError::BadSignature,
        CertificateError::Revoked => TlsError::Revoked,
        CertificateError::UnknownRevocationStatus => TlsError::RevocationUnknown,
        CertificateError::ApplicationVerificationFailure => {
            TlsError::NotAuthorised { reason: take_refusal() }
        }
        CertificateError::ExpiredContext { time, not_after } => {
            TlsError::Expired { now: time.as_secs(), not_after: not_after.as_secs() }
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            TlsError::NotYetValid { now: time.as_secs(), not_before: not_before.as_secs() }
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            TlsError::NameMismatch {
                expected: expected.to_str().into_owned(),
                presented: presented.iter().map(|name| plain_name(name).to_owned()).collect(),
            }
        }
        other => TlsError::BadCertificate { detail: other.to_string() },
    }
}

fn from_incompatible(cause: PeerIncompatible) -> TlsError {
    match cause {
        PeerIncompatible::NoCipherSuitesInCommon => TlsError::NoCommonCipher,
        PeerIncompatible::NoKxGroupsInCommon => TlsError::NoCommonKeyExchange,
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => {
            TlsError::NoCommonSignature
        }
        PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => TlsError::NoCommonVersion,
        other => TlsError::corrupt(Error::PeerIncompatible(other).to_string()),
    }
}

/// The verifier names its finds as `DnsName("a.example")` or `IpAddress(10.0.0.1)`.
fn plain_name(presented: &str) -> &str {
    presented
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'))
        .map_or(presented, |name| name.trim_matches('"'))
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") }
}

/// The time between two Unix times, coarse enough to be read.
fn age(later: u64, earlier: u64) -> String {
    let seconds = later.saturating_sub(earlier);
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
