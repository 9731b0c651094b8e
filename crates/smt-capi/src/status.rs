//! What functions say when something does not work, and the words for it.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

use smt::datapath::OpenError;
use smt::{BindError, CallError, ConnectError, StartError};

/// The numbers of `smt_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Status {
    Ok = 0,
    Invalid = 1,
    Handle = 2,
    Busy = 3,
    Bug = 4,
    Privilege = 16,
    PortInUse = 17,
    Address = 18,
    Io = 19,
    Role = 32,
    Parameters = 33,
    Unreachable = 34,
    Limit = 35,
    NoSession = 48,
    NotReady = 49,
    TooLarge = 50,
    Outstanding = 51,
    Backpressure = 52,
    Exhausted = 53,
    Deadline = 64,
    Cancelled = 65,
    OutcomeUnknown = 66,
    Closed = 67,
    Refused = 68,
    Gone = 80,
}

/// Every status and its sentence.
const TEXTS: &[(Status, &CStr)] = &[
    (Status::Ok, c"success"),
    (Status::Invalid, c"an argument is invalid"),
    (Status::Handle, c"no such handle, or it was freed"),
    (Status::Busy, c"another thread is using the engine"),
    (Status::Bug, c"a mistake of the library"),
    (Status::Privilege, c"raw IP sockets need CAP_NET_RAW"),
    (Status::PortInUse, c"the port is in use"),
    (Status::Address, c"no interface has the address"),
    (Status::Io, c"the host refused an operation"),
    (Status::Role, c"the engine was not made for this role, or has no port left"),
    (Status::Parameters, c"the peer's parameter block is damaged or does not fit ours"),
    (Status::Unreachable, c"no route to the peer"),
    (Status::Limit, c"the engine has as many sessions as it may"),
    (Status::NoSession, c"the session is closed or never was"),
    (Status::NotReady, c"not possible yet"),
    (Status::TooLarge, c"the message is longer than the peer takes"),
    (Status::Outstanding, c"as many calls are outstanding as the peer allows"),
    (Status::Backpressure, c"too many bytes wait to be sent"),
    (Status::Exhausted, c"the session is used up"),
    (Status::Deadline, c"the deadline passed; the request may or may not have run"),
    (Status::Cancelled, c"cancelled; the request may or may not have run"),
    (Status::OutcomeUnknown, c"the peer restarted or is gone; the request may or may not have run"),
    (Status::Closed, c"the session was closed; the request may or may not have run"),
    (Status::Refused, c"the peer answered with an error"),
    (Status::Gone, c"nobody waits for the answer any more"),
];

/// Why a function does not return `SMT_OK`.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(status: Status, text: impl Into<String>) -> Failure {
        Failure { status, text: text.into() }
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Failure {
        Failure::new(Status::Invalid, text)
    }

    fn of(status: Status, error: &dyn std::error::Error) -> Failure {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Failure { status, text }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::of(Status::Io, &error)
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        let status = match &error {
            BindError::Datapath(OpenError::MissingPrivilege { program }) => {
                let program = program.display();
                let text = format!(
                    "raw IP sockets need CAP_NET_RAW, which this process lacks: grant it to the \
                     program (`setcap cap_net_raw+ep {program}`), or use SMT_UDP at both ends"
                );
                return Failure::new(Status::Privilege, text);
            }
            BindError::Datapath(OpenError::ForeignProtocol(_)) => Status::Invalid,
            BindError::Datapath(OpenError::PortInUse(_) | OpenError::NoFreePorts) => {
                Status::PortInUse
            }
            BindError::Datapath(OpenError::AddressNotAvailable(_)) => Status::Address,
            _ => Status::Io,
        };
        Failure::of(status, &error)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let status = match &error {
            ConnectError::Unreachable | ConnectError::Refused => Status::Unreachable,
            ConnectError::BadParameters => Status::Parameters,
            ConnectError::Limit(_) => Status::Limit,
            ConnectError::NotAClient => {
                let text = "the engine was not made for this role, or all its client ports are in \
                            use";
                return Failure::new(Status::Role, text);
            }
            _ => Status::Bug,
        };
        Failure::of(status, &error)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Failure { status: start_status(&error), text: CallError::from(error).to_string() }
    }
}

fn start_status(error: &StartError) -> Status {
    match error {
        StartError::NoSession => Status::NoSession,
        StartError::NotReady => Status::NotReady,
        StartError::TooLarge { .. } => Status::TooLarge,
        StartError::TooManyOutstanding => Status::Outstanding,
        StartError::Backpressure => Status::Backpressure,
        StartError::EarlyLimit => Status::Limit,
        StartError::Exhausted => Status::Exhausted,
    }
}

/// How a call ended, in a number.
pub(crate) fn call_status(error: &CallError) -> Status {
    match error {
        CallError::DeadlineExceeded => Status::Deadline,
        CallError::Cancelled => Status::Cancelled,
        CallError::SessionClosed => Status::Closed,
        CallError::Refused(_) => Status::Refused,
        CallError::NotStarted(error) => start_status(error),
        _ => Status::OutcomeUnknown,
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Keeps the words of a failure for [`smt_last_error`].
pub(crate) fn remember(failure: Failure) -> i32 {
    let Failure { status, text } = failure;
    let mut bytes = text.into_bytes();
    bytes.retain(|&byte| byte != 0);
    let text = CString::new(bytes).unwrap_or_default();
    // A thread that is ending may have no such place any more: then the status has to do.
    let _ = LAST.try_with(|last| last.replace(text));
    status as i32
}

/// The details of what failed last in this thread.
#[unsafe(no_mangle)]
pub extern "C" fn smt_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// A sentence for a status.
#[unsafe(no_mangle)]
pub extern "C" fn smt_strerror(status: i32) -> *const c_char {
    let known = TEXTS.iter().find(|(known, _)| *known as i32 == status);
    known.map_or(c"unknown status", |(_, text)| text).as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_remembered_without_zeros() {
        assert_eq!(remember(Failure::new(Status::Io, "a\0b")), 19);
        // SAFETY: the text is this thread's, ends with 0, and no call fails before it is read.
        let text = unsafe { CStr::from_ptr(smt_last_error()) };
        assert_eq!(text, c"ab");
    }

    #[test]
    fn every_sentence_says_something_of_its_own() {
        let mut texts: Vec<_> = TEXTS.iter().map(|(_, text)| text.to_bytes()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), TEXTS.len());
        // SAFETY: sentences are static and end with 0.
        let unknown = unsafe { CStr::from_ptr(smt_strerror(-1)) };
        assert_eq!(unknown, c"unknown status");
    }
}
