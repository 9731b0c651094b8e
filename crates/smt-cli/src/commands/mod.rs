//! The subcommands of `smt`, one file each: `Arguments` as clap reads them, and `run`.

pub mod bench;
pub mod call;
pub mod datapath;
pub mod demo;
pub mod doctor;
pub mod early;
pub mod options;
pub mod ping;
pub mod pki;
pub mod policy;
pub mod serve;
pub mod ticket;
pub mod upkeep;

use std::io::{self, ErrorKind};

use smt::datapath::OpenError;
use smt::tls::{Alert, ConfigError, TlsError};
use smt::{BindError, CallError, ConnectError};

/// Why a subcommand did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The arguments contradict each other.
    #[error("{0}")]
    Usage(String),
    /// Certificates, keys or TLS options cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// This host does not let us send and receive.
    #[error("{error}{}", bind_hint(.0), error = .0)]
    Bind(#[from] BindError),
    /// There is no session with the server.
    #[error("no session with {target}: {error}{}", hint(.error))]
    Connect {
        /// The server as the user named it.
        target: String,
        /// Why.
        error: ConnectError,
    },
    /// The server's name has no address.
    #[error("cannot find the address of `{host}`")]
    Resolve {
        /// The name as the user gave it.
        host: String,
        /// Why it was not found.
        source: io::Error,
    },
    /// A call has no response.
    #[error("the call has no response: {0}")]
    Call(#[from] CallError),
    /// A file could not be read or written, or the host refused something else.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Standard output could not be written.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
    /// Something else did not hold.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// The program's exit status: 1 failed, 2 wrong usage, 3 no session.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Connect { .. } | Error::Resolve { .. } => 3,
            _ => 1,
        }
    }

    /// The message with its causes.
    pub fn explain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        text
    }

    /// For `map_err`: the host refused to do `what`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { what: what.into(), source }
    }
}

/// What the user of this program can do about a failed connect, where the error itself does not say.
fn hint(error: &ConnectError) -> &'static str {
    match error {
        // Authorities of one name are told apart by their signatures alone.
        ConnectError::Tls(TlsError::UnknownIssuer | TlsError::BadSignature) => {
            "; is --ca the authority that issued the server's certificate?"
        }
        ConnectError::Tls(TlsError::NameMismatch { .. }) => "; give one of them with --name",
        ConnectError::Tls(TlsError::NoClientCertificate) => "; give it with --cert and --key",
        ConnectError::Tls(TlsError::RevocationUnknown) => {
            "; give the authority's list with --crl, or no list at all"
        }
        ConnectError::Tls(TlsError::PeerAlert(Alert::ACCESS_DENIED)) => {
            "; does one of the server's --allow fit this client's certificate?"
        }
        ConnectError::Tls(TlsError::PeerAlert(Alert::CERTIFICATE_REVOKED)) => {
            "; get another certificate"
        }
        ConnectError::Tls(TlsError::PeerAlert(Alert::UNSUPPORTED_CERTIFICATE)) => {
            "; is --cert a client's certificate (smt pki client), not a server's?"
        }
        ConnectError::Tls(TlsError::PeerAlert(_)) => {
            "; was this client's certificate issued by the server's --client-ca?"
        }
        ConnectError::TimedOut(_) | ConnectError::Refused => {
            " (--datapath and --protocol must be as at the server)"
        }
        _ => "",
    }
}

/// What the user of this program can do about an address that cannot be had.
fn bind_hint(error: &BindError) -> &'static str {
    match error {
        BindError::Datapath(OpenError::PortInUse(_)) => " (by --listen)",
        BindError::Datapath(OpenError::Io { source, .. })
            if source.kind() == ErrorKind::PermissionDenied =>
        {
            " (UDP ports below 1024 need CAP_NET_BIND_SERVICE: take a higher one with --listen)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_authority_is_named_with_the_option_to_change() {
        let error = ConnectError::Tls(TlsError::UnknownIssuer);
        let error = Error::Connect { target: "localhost:4433".to_owned(), error };
        assert_eq!(error.exit_status(), 3);
        let text = error.explain();
        assert!(text.contains("localhost:4433") && text.contains("--ca"), "{text}");
    }

    #[test]
    fn causes_are_told_once() {
        let source = io::Error::other("disk on fire");
        let text = Error::Io { what: "cannot read x".to_owned(), source }.explain();
        assert_eq!(text, "cannot read x: disk on fire");
    }
}
