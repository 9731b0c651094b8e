//! Why a ticket, an offer of early data or a claim is refused.

use std::time::Duration;

use super::shared::KeyFileError;
use crate::tls::TlsError;

/// Why a ticket cannot be used. Without one a client makes a full handshake, so none of these
/// keeps it from its server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// The ticket ends too early.
    #[error("the ticket is cut short")]
    Truncated,
    /// The ticket breaks a rule of its format (spec 5.7).
    #[error("the ticket is malformed: {detail}")]
    Malformed {
        /// The rule.
        detail: &'static str,
    },
    /// The ticket is of a version that this implementation does not know.
    #[error("this is no ticket, or one of a later release (its version is {version})")]
    UnknownVersion {
        /// The version in the ticket.
        version: u16,
    },
    /// The ticket's key is for a KEM that this implementation does not know.
    #[error("the ticket's key is for the unknown KEM {kem:#06x}")]
    UnknownKem {
        /// HPKE's number of the KEM.
        kem: u16,
    },
    /// The ticket names a cipher suite that this implementation does not know.
    #[error("the ticket names the unknown cipher suite {suite:#06x}")]
    UnknownSuite {
        /// The suite's number in TLS.
        suite: u16,
    },
    /// The ticket is longer than [`MAX_TICKET_LEN`](super::MAX_TICKET_LEN).
    #[error("the ticket is {len} bytes long, more than any may be")]
    TooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// The ticket says to be valid for longer than [`MAX_VALIDITY`](super::MAX_VALIDITY).
    #[error("the ticket is to be valid for {seconds} s, longer than any may be")]
    ValidityTooLong {
        /// Its validity, in seconds.
        seconds: u64,
    },
    /// The ticket becomes valid in the future, by more than clocks may differ.
    #[error("the ticket becomes valid only in {} s; are both clocks right?", .not_before.saturating_sub(*.now))]
    NotYetValid {
        /// This end's clock, in seconds since 1970.
        now: u64,
        /// When the ticket becomes valid, in seconds since 1970.
        not_before: u64,
    },
    /// The ticket, or the certificate that vouches for it, is no longer valid.
    #[error("the ticket expired {} s ago", .now.saturating_sub(*.not_after))]
    Expired {
        /// This end's clock, in seconds since 1970.
        now: u64,
        /// End of the validity, in seconds since 1970.
        not_after: u64,
    },
    /// The signature is not the one of the certificate's key over this ticket.
    #[error("the ticket is not signed by the key of its certificate")]
    BadSignature,
    /// The certificate is not accepted: wrong name, unknown CA, expired, revoked.
    #[error("the ticket's certificate is refused: {0}")]
    Untrusted(#[source] TlsError),
    /// The ticket is for an application protocol that this client does not speak.
    #[error("the ticket is for the application protocol `{alpn}`, which is not spoken here")]
    WrongAlpn {
        /// The protocol in the ticket.
        alpn: String,
    },
    /// The ticket's public key is not one of its KEM.
    #[error("the ticket's public key cannot be used")]
    BadKey,
    /// The ticket's file cannot be read.
    #[error("cannot read the ticket {path}: {detail}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        detail: String,
    },
    /// DNS has no ticket under this name.
    #[error("DNS has no ticket at {name}")]
    NoRecord {
        /// The name that was asked for.
        name: String,
    },
    /// DNS could not be asked.
    #[error("cannot ask DNS for {name}: {detail}")]
    Dns {
        /// The name that was asked for.
        name: String,
        /// What went wrong.
        detail: String,
    },
}

/// Why a server makes no ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The lifetime is out of bounds.
    #[error("a ticket's lifetime is {least} to {most} seconds", least = .least.as_secs(), most = .most.as_secs())]
    Lifetime {
        /// The shortest one.
        least: Duration,
        /// The longest one.
        most: Duration,
    },
    /// The application protocol is not `smt/1` or `smt/1+<application>`.
    #[error("`{alpn}` is not an application protocol of SMT")]
    BadAlpn {
        /// The protocol as given.
        alpn: String,
    },
    /// The certificate chain is too long for a ticket.
    #[error("a ticket of this certificate chain has {len} bytes, more than any may have")]
    TooLong {
        /// How long the ticket would be, in bytes.
        len: usize,
    },
    /// The certificate's key cannot sign, or the chain cannot be used.
    #[error("the ticket cannot be signed: {0}")]
    Sign(#[source] TlsError),
    /// The certificate is not valid now, so neither would a ticket be.
    #[error("the certificate is not valid at this time")]
    CertificateNotValid,
    /// The file that servers share their tickets' keys by cannot be used.
    #[error("the file of tickets' keys cannot be used: {0}")]
    KeyFile(#[source] KeyFileError),
    /// The thread that rotates the keys cannot be started.
    #[error("the thread that rotates the ticket's keys cannot be started: {detail}")]
    Thread {
        /// What the system says.
        detail: String,
    },
}

/// Why a server refuses early data. The handshake goes on without it in every case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EarlyRefusal {
    /// The offer breaks a rule of its format (spec 5.7).
    #[error("the offer is malformed")]
    Malformed,
    /// The ticket is not one of this server's, or its key is gone.
    #[error("the ticket is not known here (it is old, or another server's)")]
    UnknownTicket,
    /// The ticket is no longer valid.
    #[error("the ticket has expired")]
    Expired,
    /// The client's clock differs by more than the window.
    #[error("the client's clock differs by {difference_ms} ms, or the offer was held back")]
    ClockSkew {
        /// Client's time less server's, in milliseconds.
        difference_ms: i64,
    },
    /// The encapsulated key cannot be decapsulated.
    #[error("the encapsulated key is wrong")]
    BadKey,
    /// The same offer came before.
    #[error("the offer was made before: a replay")]
    Replayed,
    /// The register of offers does not answer.
    #[error("the strike register is not available: {detail}")]
    RegisterUnavailable {
        /// What went wrong.
        detail: String,
    },
    /// The register of offers is full.
    #[error("the strike register is full")]
    RegisterFull,
    /// The register was started so lately that it may have forgotten this offer.
    #[error("the strike register was started after this offer may have been made first")]
    Restarted,
    /// While the offer was decided on, the register forgot those of its time.
    #[error("the decision on the offer took too long")]
    TooLate,
    /// As many offers as may wait for a decision do.
    #[error("{limit} offers wait for a decision already (limit max_waiting)")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// Clients must show who they are, which nobody can in early data.
    #[error("clients must authenticate here, and early requests are anonymous")]
    PolicyClientAuth,
    /// The client wants a session without TLS, which this server does not take.
    #[error("sessions without TLS are not accepted here")]
    PolicyStatic,
}

/// Why a strike register cannot decide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// It does not answer, or not in time.
    #[error("the strike register is not available: {detail}")]
    Unavailable {
        /// What went wrong.
        detail: String,
    },
    /// It holds as many claims as it may.
    #[error("the strike register is full")]
    Full,
    /// It was started so lately that it may have forgotten this claim.
    #[error("the strike register was started too lately")]
    Restarted,
    /// It has forgotten claims of this one's time already: the decision on the offer took so long that
    /// others, made later, were claimed before.
    #[error("the strike register has forgotten claims of that time")]
    TooLate,
}

impl From<RegisterError> for EarlyRefusal {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Unavailable { detail } => Self::RegisterUnavailable { detail },
            RegisterError::Full => Self::RegisterFull,
            RegisterError::Restarted => Self::Restarted,
            RegisterError::TooLate => Self::TooLate,
        }
    }
}
