//! Tickets in DNS (spec 5.7): a resolver for clients, and an authoritative server.
//!
//! DNS is only a way for tickets to come: whoever forges or replaces an answer can deny a client
//! its early data, and nothing else, because a ticket is believed for its certificate and
//! signature alone.

mod client;
mod server;

use hickory_resolver::proto::rr::{Name, RecordType};

pub use client::{LOOKUP_TIMEOUT, MAX_RECORDS, TicketResolver};
pub use server::{MAX_TTL, TCP_IDLE, TicketServer, TicketZone};

use super::error::TicketError;

/// The resource record type of tickets, of those for private use (RFC 6895).
pub const RECORD_TYPE: u16 = 65400;

fn record_type() -> RecordType {
    RecordType::Unknown(RECORD_TYPE)
}

/// `_smt.HOST.`, below which the names of a host's tickets are.
fn apex(host: &str) -> Result<Name, TicketError> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let name = format!("_smt.{host}.");
    let parsed = Name::from_ascii(&name);
    parsed.map_err(|e| TicketError::Dns { name, detail: e.to_string() })
}

/// `_PORT._smt.HOST.`, which owns the tickets of the server at SMT port `port` of `host`.
fn owner(host: &str, port: u16) -> Result<Name, TicketError> {
    let apex = apex(host)?;
    apex.prepend_label(format!("_{port}"))
        .map_err(|e| TicketError::Dns { name: apex.to_string(), detail: e.to_string() })
}
