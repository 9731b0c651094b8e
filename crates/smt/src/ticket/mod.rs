//! SMT-tickets: 0-RTT to servers that signed a key ahead (spec 5.7).
//!
//! A *ticket* is a public key with which a client encrypts its first requests, signed by the key
//! of the server's certificate. Tickets come from DNS, from a file, or from the server itself at
//! the end of a handshake.
//!
//! The order of calls:
//!
//! - Server: a [`TicketIssuer`] makes tickets; [`EarlyData`] decides on the offers of clients by
//!   the issuer's keys and a [`StrikeRegister`].
//! - Client: [`ClientTls::verify_ticket`](crate::tls::ClientTls::verify_ticket) checks a ticket;
//!   [`VerifiedTicket::encapsulate`] and [`Encapsulation::offer`] give what goes into flight 0,
//!   [`Encapsulation::agree`] the secrets. A [`TicketStore`] keeps verified tickets.
//!
//! Whatever goes wrong leads to a full handshake, never to a failed connection.

mod accept;
#[cfg(feature = "dns")]
pub mod dns;
mod error;
mod format;
mod hpke;
mod issue;
mod kem;
mod live;
mod offer;
mod register;
mod secrets;
pub mod shared;
mod store;
mod verify;

use std::time::{SystemTime, UNIX_EPOCH};

pub use accept::{
    AcceptedEarly, Admission, DEFAULT_MAX_WAITING, DEFAULT_WINDOW, EarlyData, EarlyStats,
    MAX_WINDOW,
};
pub use error::{EarlyRefusal, IssueError, RegisterError, TicketError};
pub use format::{MAX_CERTIFICATES, MAX_TICKET_LEN, MAX_VALIDITY, TICKET_ID_LEN, Ticket};
pub use hpke::Kem;
pub use issue::{DEFAULT_MAX_EARLY, MIN_LIFETIME, TicketIssuer, TicketIssuerBuilder};
pub use register::{
    Claim, DEFAULT_STRIKES, MAX_STRIKES, MemoryRegister, STRIKE_LEN, Strike, StrikeRegister,
};
#[cfg(feature = "redis")]
pub use register::{MAX_IDLE_CONNECTIONS, REDIS_TIMEOUT, RedisError, RedisRegister};
pub use secrets::{EarlySecrets, STATIC_FINISHED_LEN, StaticSecrets};
pub use store::{MAX_STORED_TICKETS, TicketStore};
pub use verify::{ClientEarly, Encapsulation, MAX_SKEW, MAX_STOCK, VerifiedTicket};

/// Whole seconds since 1970; 0 before.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whole milliseconds since 1970; 0 before.
fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests;
