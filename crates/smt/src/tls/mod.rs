//! TLS 1.3 for SMT's handshake (spec 5.1): configuration, handshakes as state machines, and the
//! identity of the peer. rustls is named nowhere but in this module, and none of its types leave it.
//!
//! SMT takes from TLS what TLS is good at, authentication and key agreement, and nothing else: the
//! bytes of each flight are carried by SMT's own packets of epoch 0, and the keys of SMT come from
//! the TLS exporter. TLS's own record keys protect nothing but the handshake itself.
//!
//! The order of calls, at either end:
//!
//! 1. [`ClientHandshake::start`] gives flight 0; a server makes a [`ServerHandshake`].
//! 2. `read_flight` for each whole flight of the peer; whatever its [`Progress::send`] holds is
//!    sent as this end's next flight, also when the handshake has failed (it is the alert then).
//! 3. `finish`, once, after [`HandshakeState::Done`], gives the secrets and the peer's identity.
//! 4. A client keeps its handshake until the server has proved that it has keys, and shows flights
//!    that still arrive to [`ClientHandshake::late_flight`]: a server that refuses the client's
//!    certificate says so only then.
//! 5. A server's [`Progress::post`] goes to a client that wants tickets, in a post-handshake
//!    message; the client gives it to [`ClientHandshake::post`]. Its next handshake with the same
//!    server name resumes, at the server's discretion.
//!
//! Every call is CPU work of up to a few milliseconds and does no IO; [`pool`] runs it beside the
//! packets.

mod alert;
mod config;
mod credentials;
mod error;
mod exporter;
mod handshake;
mod key_log;
pub(crate) mod key_shares;
mod options;
mod peer;
pub mod pool;
mod sessions;
mod spiffe;
mod ticket;
mod ticket_keys;
mod verified_chains;
mod verify;
mod watch;

pub use alert::Alert;
pub use config::{
    ClientAuth, ClientTls, ClientTlsBuilder, DEFAULT_TICKETS, MAX_TICKETS, ServerTls,
    ServerTlsBuilder, TlsStats,
};
pub use credentials::{ConfigError, Identity, Roots};
pub use error::TlsError;
pub use exporter::Established;
pub use handshake::{ClientHandshake, HandshakeState, Progress, ServerHandshake};
pub use key_shares::{KeyShareStats, MAX_KEY_SHARE_AGE, MAX_KEY_SHARES, key_share_stats};
pub(crate) use options::is_smt_alpn;
pub use options::{DEFAULT_ALPN, KeyExchange};
pub use peer::PeerIdentity;
pub use sessions::{MAX_TICKETED_SERVERS, MAX_TLS_TICKETS_LEN};
pub use spiffe::SpiffeId;
pub(crate) use ticket::Vouched;
pub use ticket_keys::TICKET_KEY_ROTATION;
pub use verified_chains::{MAX_VERIFIED_AGE_SECS, MAX_VERIFIED_CHAINS};
pub use watch::{WATCH_INTERVAL, Watch, WatchStats};

#[cfg(test)]
mod tests;
