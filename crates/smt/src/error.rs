//! What users of the crate are told when something does not work.

use std::time::Duration;

pub use smt_proto::error::{CloseReason, StartError, UpdateError};

use crate::tls::TlsError;

/// Why there is no session with a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// TLS failed; the cause says who is at fault and what helps.
    #[error("handshake failed: {0}")]
    Tls(TlsError),
    /// No answer within the connect timeout.
    #[error(
        "no answer within {0:?}: is the server running, is the port right, and does the network \
         carry SMT's IP protocol (a network that does not needs the UDP datapath)?"
    )]
    TimedOut(Duration),
    /// The server's host says that nobody there takes SMT packets.
    #[error("refused: nothing on that host takes SMT packets (is the server running?)")]
    Refused,
    /// There is no way to the server's host.
    #[error("unreachable: no route to the server's host, or it is down")]
    Unreachable,
    /// The server's transport parameters do not fit ours.
    #[error("the server's transport parameters do not fit ours")]
    BadParameters,
    /// A limit of this endpoint is reached.
    #[error("the endpoint has reached its limit of {0}")]
    Limit(&'static str),
    /// This endpoint was built without a client's TLS configuration or client ports.
    #[error("this endpoint cannot connect: give its builder a client TLS configuration")]
    NotAClient,
    /// The endpoint was closed.
    #[error("the endpoint is closed")]
    EndpointClosed,
}

/// A server's refusal to answer a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer answered with error {code}: {text}")]
pub struct ErrorReply {
    /// 256 and above belong to the application; those below are in spec section 7.
    pub code: u32,
    /// The peer's words.
    pub text: String,
}

/// Why a call has no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The deadline passed. The request may or may not have been executed.
    #[error("the deadline passed; the request may or may not have been executed")]
    DeadlineExceeded,
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The peer restarted or is gone. The request may or may not have been executed.
    #[error("the peer restarted or is gone; the request may or may not have been executed")]
    OutcomeUnknown,
    /// The session was closed. The request may or may not have been executed.
    #[error("the session was closed; the request may or may not have been executed")]
    SessionClosed,
    /// The peer answered with an error.
    #[error(transparent)]
    Refused(ErrorReply),
    /// The call was not started: nothing was sent.
    #[error("not started: {}", start_error_text(.0))]
    NotStarted(StartError),
    /// The connection that the call needs could not be made: nothing was sent, but for an early call,
    /// which may have been executed.
    #[error("not connected: {0}")]
    NotConnected(ConnectError),
}

impl From<smt_proto::error::CallError> for CallError {
    fn from(error: smt_proto::error::CallError) -> Self {
        use smt_proto::error::CallError as Core;
        match error {
            Core::DeadlineExceeded => CallError::DeadlineExceeded,
            Core::Cancelled => CallError::Cancelled,
            Core::OutcomeUnknown => CallError::OutcomeUnknown,
            Core::SessionClosed => CallError::SessionClosed,
            Core::Refused { code, text } => CallError::Refused(ErrorReply { code, text }),
            Core::NotRun => CallError::NotStarted(StartError::NoSession),
            Core::Exhausted => CallError::NotStarted(StartError::Exhausted),
        }
    }
}

impl From<StartError> for CallError {
    fn from(error: StartError) -> Self {
        CallError::NotStarted(error)
    }
}

/// A sentence for a [`StartError`].
fn start_error_text(error: &StartError) -> String {
    match error {
        StartError::NoSession => "the session is closed".into(),
        StartError::NotReady => "the handshake is not complete".into(),
        StartError::TooLarge { limit } => {
            format!("the peer takes messages of at most {limit} bytes")
        }
        StartError::TooManyOutstanding => "as many calls are outstanding as the peer allows".into(),
        StartError::Backpressure => "too many bytes wait to be sent".into(),
        StartError::EarlyLimit => "the ticket lets no more bytes go early".into(),
        StartError::Exhausted => "the session is used up; connect again".into(),
    }
}
