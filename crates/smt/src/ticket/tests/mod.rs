//! Tickets of both ends in memory.

mod accept;
#[cfg(feature = "dns")]
mod dns;
mod format;
mod issue;
mod pki;
#[cfg(feature = "redis")]
mod redis;
mod register;
mod shared;
mod store;
mod vectors;
mod verify;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use smt_proto::crypto::Suite;
use smt_proto::keys::early_context;

use super::*;
use pki::{Ca, SERVER};

/// A moment in the life of all certificates here, on a whole second.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A register that was started long before `now()`.
fn register() -> Arc<MemoryRegister> {
    Arc::new(MemoryRegister::started_at(DEFAULT_STRIKES, now() - seconds(3600)))
}

/// The context of a handshake whose flight 0 is `flight`.
fn context(flight: &[u8]) -> impl FnOnce(&dyn Suite, &[u8], &[u8]) -> Vec<u8> {
    let flight = flight.to_vec();
    move |suite, ticket, alpn| early_context(suite, alpn, 40_000, 443, ticket, b"block", &flight)
}

/// A server's early data, and a client's verified ticket for it.
fn pair(kem: Kem) -> (Ca, EarlyData, VerifiedTicket) {
    let ca = Ca::new("CA");
    let issuer = TicketIssuer::builder(ca.server_identity()).kem(kem).build().unwrap();
    let early = EarlyData::new(issuer, register());
    let ticket = early.issuer().ticket(now()).unwrap();
    let verified = ca.client().verify_ticket(&ticket, SERVER, now()).unwrap();
    (ca, early, verified)
}
