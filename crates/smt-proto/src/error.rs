//! What can go wrong, sorted by who is to blame.

use alloc::string::String;

/// Why a call could not be started. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// The session is unknown, closing or gone.
    NoSession,
    /// The handshake has not given keys yet.
    NotReady,
    /// The peer takes messages of at most `limit` bytes.
    TooLarge {
        /// The peer's limit, in bytes.
        limit: u64,
    },
    /// As many RPCs are outstanding as the peer allows. Wait for one to finish.
    TooManyOutstanding,
    /// As many bytes wait to be sent as `max_outgoing_bytes` allows. Wait for a call to finish.
    Backpressure,
    /// The ticket lets no more bytes of requests go before the handshake is over.
    EarlyLimit,
    /// The session has used up its message IDs or its key's AEAD limit. Make a new session.
    Exhausted,
}

/// Why a call ended without a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The deadline passed. The RPC may or may not have run.
    DeadlineExceeded,
    /// The caller cancelled.
    Cancelled,
    /// The peer restarted, died or forgot: the RPC may or may not have run.
    OutcomeUnknown,
    /// The session came to nothing before the request could run: calling again is safe.
    NotRun,
    /// The session was closed before the response came. The RPC may or may not have run.
    SessionClosed,
    /// The peer answered with an error.
    Refused {
        /// Spec 7; 256 and above belong to the application.
        code: u32,
        /// The peer's words.
        text: String,
    },
    /// The session used up the AEAD limit of its key before the message was sent.
    Exhausted,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// This end closed it.
    Local,
    /// The peer closed it.
    Peer,
    /// The peer no longer answers, or answers that it does not know the session.
    Dead,
    /// The peer broke the protocol in an authenticated packet.
    Violation,
}

/// Why a handshake ended without a session. Causes inside TLS are the TLS stack's to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The connect deadline passed without an answer.
    TimedOut,
    /// The network says that nobody takes the packets (ICMP).
    Refused,
    /// The network says that there is no way to the peer (ICMP).
    Unreachable,
    /// The peer's parameters are not ones we can work with.
    BadParameters,
    /// The peer broke the protocol in authentic early data.
    Violation,
    /// The endpoint's session limit is reached.
    TooManySessions,
}

/// Why the secret of a later epoch was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateError {
    /// The session is unknown, gone, or has no keys yet.
    NoSession,
    /// The session derives its secrets: none are registered.
    Derived,
    /// Four secrets of this direction wait to be used already.
    TooMany,
    /// The secret is not as long as the suite's hash.
    WrongLength,
}

/// Error reply codes of the transport (spec 7).
pub mod reply_code {
    /// The application dropped the request without answering it.
    pub const REFUSED: u32 = 1;
    /// The response is larger than the caller takes.
    pub const TOO_LARGE: u32 = 2;
    /// The server cannot take the request now.
    pub const OVERLOADED: u32 = 3;
    /// The server does not know what to do with the request.
    pub const NOT_SUPPORTED: u32 = 4;
    /// The first code that belongs to the application.
    pub const APPLICATION: u32 = 256;
}
