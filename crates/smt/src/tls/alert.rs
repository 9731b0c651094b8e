//! TLS alerts as a user reads them (RFC 8446, 6).

use std::fmt;

use rustls::AlertDescription;

/// What the peer said when it gave up the handshake: a TLS alert, by its registered number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Alert(pub u8);

impl Alert {
    /// The peer closed the connection in the midst of the handshake.
    pub const CLOSE_NOTIFY: Self = Self(0);
    /// No common parameters: cipher suite, key exchange or signature algorithm.
    pub const HANDSHAKE_FAILURE: Self = Self(40);
    /// The certificate could not be used, for a name it does not carry for instance.
    pub const BAD_CERTIFICATE: Self = Self(42);
    /// The certificate is of a type, or for a purpose, that the peer does not take.
    pub const UNSUPPORTED_CERTIFICATE: Self = Self(43);
    /// The certificate has been revoked.
    pub const CERTIFICATE_REVOKED: Self = Self(44);
    /// The certificate is not valid now.
    pub const CERTIFICATE_EXPIRED: Self = Self(45);
    /// The certificate is not acceptable for some other reason.
    pub const CERTIFICATE_UNKNOWN: Self = Self(46);
    /// The certificate was not issued by a CA that the peer trusts.
    pub const UNKNOWN_CA: Self = Self(48);
    /// The certificate is valid, but its holder is not allowed in.
    pub const ACCESS_DENIED: Self = Self(49);
    /// A field contradicts another, or what was agreed on before.
    pub const ILLEGAL_PARAMETER: Self = Self(47);
    /// Some field could not be decoded.
    pub const DECODE_ERROR: Self = Self(50);
    /// Something that proves knowledge of a secret is wrong.
    pub const DECRYPT_ERROR: Self = Self(51);
    /// No common TLS version.
    pub const PROTOCOL_VERSION: Self = Self(70);
    /// The peer asks for stronger parameters than were offered.
    pub const INSUFFICIENT_SECURITY: Self = Self(71);
    /// The peer has no certificate for the requested server name.
    pub const UNRECOGNIZED_NAME: Self = Self(112);
    /// The peer requires a client certificate.
    pub const CERTIFICATE_REQUIRED: Self = Self(116);
    /// No common application protocol.
    pub const NO_APPLICATION_PROTOCOL: Self = Self(120);

    /// Whether the alert names a cause that repeating the handshake does not remove. Alerts that
    /// a damaged flight may have caused (`decode_error`, `illegal_parameter`, `bad_record_mac`,
    /// `decrypt_error`, `unexpected_message`, `internal_error` and so on) are not definite.
    #[must_use]
    pub fn is_definite(self) -> bool {
        matches!(
            self,
            Self::HANDSHAKE_FAILURE
                | Self::BAD_CERTIFICATE
                | Self::UNSUPPORTED_CERTIFICATE
                | Self::CERTIFICATE_REVOKED
                | Self::CERTIFICATE_EXPIRED
                | Self::CERTIFICATE_UNKNOWN
                | Self::UNKNOWN_CA
                | Self::ACCESS_DENIED
                | Self::PROTOCOL_VERSION
                | Self::INSUFFICIENT_SECURITY
                | Self::UNRECOGNIZED_NAME
                | Self::CERTIFICATE_REQUIRED
                | Self::NO_APPLICATION_PROTOCOL
        )
    }

    /// The name in the registry of alerts, `alert` if it is in none.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            22 => "record_overflow",
            40 => "handshake_failure",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            86 => "inappropriate_fallback",
            90 => "user_canceled",
            109 => "missing_extension",
            110 => "unsupported_extension",
            112 => "unrecognized_name",
            113 => "bad_certificate_status_response",
            115 => "unknown_psk_identity",
            116 => "certificate_required",
            120 => "no_application_protocol",
            _ => "alert",
        }
    }

    /// The alert as a plaintext TLS record, for failures that rustls does not notice itself. A
    /// peer believes it only while it has not yet seen an encrypted record.
    pub(crate) fn plaintext_record(self) -> Vec<u8> {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        vec![ALERT, 3, 3, 0, 2, FATAL, self.0]
    }

    fn explanation(self) -> &'static str {
        match self {
            Self::HANDSHAKE_FAILURE => {
                "both ends have no cipher suite, key exchange or signature algorithm in common"
            }
            Self::BAD_CERTIFICATE => "the peer refuses our certificate: damaged or for other names",
            Self::UNSUPPORTED_CERTIFICATE => {
                "the peer refuses our certificate: its type or its purpose (extended key usage) \
                 does not fit"
            }
            Self::CERTIFICATE_REVOKED => "the peer refuses our certificate: revoked",
            Self::CERTIFICATE_EXPIRED => {
                "the peer refuses our certificate: expired or not yet valid by the peer's clock"
            }
            Self::CERTIFICATE_UNKNOWN => "the peer refuses our certificate",
            Self::UNKNOWN_CA => {
                "the peer refuses our certificate: not issued by a CA which the peer trusts"
            }
            Self::ACCESS_DENIED => "the peer knows our certificate and does not let us in",
            Self::PROTOCOL_VERSION => "the peer does not speak TLS 1.3",
            Self::INSUFFICIENT_SECURITY => "the peer asks for stronger algorithms than we offer",
            Self::UNRECOGNIZED_NAME => "the peer does not serve the requested server name",
            Self::CERTIFICATE_REQUIRED => "the peer requires a certificate and got none",
            Self::NO_APPLICATION_PROTOCOL => "both ends have no application protocol in common",
            _ => "the peer gave up the TLS handshake",
        }
    }
}

impl From<AlertDescription> for Alert {
    fn from(alert: AlertDescription) -> Self {
        Self(u8::from(alert))
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (TLS alert {}, {})", self.explanation(), self.0, self.name())
    }
}
