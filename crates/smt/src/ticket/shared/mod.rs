//! Tickets and their private keys, for servers that share a name (spec 5.7.1).
//!
//! Clients know a server by its name, and may send early data to any instance of it by a ticket
//! of any other. Instances that have each other's keys take it. They MUST share a
//! [`StrikeRegister`](super::StrikeRegister) too, one that outlives them, or a first packet can be
//! replayed once to each. A [`MemoryRegister`](super::MemoryRegister) does only for a server that
//! has the keys for itself, over its restarts, and only if it knows when it began.
//!
//! On one host, or on a file system that has locks for all: [`KeyFile`], given to
//! [`TicketIssuerBuilder::key_file`](super::TicketIssuerBuilder::key_file). Elsewhere
//! [`TicketIssuer::export`](super::TicketIssuer::export) and
//! [`TicketIssuer::import`](super::TicketIssuer::import), over a channel that is as secret as the
//! keys are.
//!
//! # Format
//!
//! ```text
//! keys = "SMT-KEYS", 8 bytes | version (16) = 1 | count (8)
//!      | count times: len16 ticket (5.7.1) | len16 private key
//!      | SHA-256 of all bytes before, 32 bytes
//! ```
//!
//! The private key of X25519 is 32 bytes; that of X-Wing the expanded one of ML-KEM-768 (FIPS 203),
//! 2400 bytes, and that of X25519. Nothing follows the hash, which is against damage, not against
//! attackers: what protects the keys protects them from being replaced as well.

mod file;
mod format;
mod sync;

pub use file::{KeyFile, LOCK_PATIENCE};
pub use format::MAX_SHARED_TICKETS;
pub(super) use format::{KeyEntry, emit, parse};
pub(super) use sync::Follower;

/// Why shared keys cannot be used, or not be shared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The bytes are cut short, or not what was written.
    #[error("tickets' keys are damaged: {detail}")]
    Damaged {
        /// What is wrong with them.
        detail: &'static str,
    },
    /// The format has a version that this implementation does not know.
    #[error("tickets' keys have the unknown version {version}")]
    UnknownVersion {
        /// The version.
        version: u16,
    },
    /// A ticket says that it is of this server's certificate, and is not signed by its key, or has
    /// another private key than its own.
    #[error("a ticket under this server's certificate is not what it says: {detail}")]
    Forged {
        /// What is wrong with it.
        detail: &'static str,
    },
    /// There are more tickets than may be shared; [`MAX_SHARED_TICKETS`].
    #[error("there are more than {most} tickets to share")]
    TooMany {
        /// The most.
        most: usize,
    },
    /// Others than the file's owner may read or write it.
    #[error(
        "{path} has the mode {mode:04o}: others than its owner can get at the keys (chmod 600)"
    )]
    Exposed {
        /// The file.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// The file is somebody else's.
    #[error("{path} belongs to user {owner}, this process to user {own}")]
    ForeignOwner {
        /// The file.
        path: String,
        /// Who owns it.
        owner: u32,
        /// As whom this process runs.
        own: u32,
    },
    /// There is something else in the file's place: a directory, a symbolic link, a device.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The path.
        path: String,
    },
    /// Another process has held the file's lock for longer than [`LOCK_PATIENCE`].
    #[error("{path} is locked by another process")]
    Locked {
        /// The file that is locked.
        path: String,
    },
    /// The system refuses something.
    #[error("cannot {what} {path}: {detail}")]
    Io {
        /// What was to be done.
        what: &'static str,
        /// To which file.
        path: String,
        /// What the system says.
        detail: String,
    },
}
