//! Measurements between two hosts on this machine, both ends in this process: how soon a first RPC is answered
//! ([`first`]), what key updates cost ([`rekey`]), what a flood of first flights does ([`flood`]), and RPCs of
//! established sessions beside those of others ([`eval`] of [`peers`] in a [`place`]).
//!
//! SMT's peers ([`tls`], [`openssl`], [`quic`]) use the same hosts, certificates, key exchange and cipher suite, and
//! wait in the same way: asleep in the kernel.

pub mod agent;
pub mod contender;
pub mod cores;
pub mod cpu;
pub mod environment;
pub mod eval;
pub mod evaluation;
pub mod first;
pub mod flood;
pub mod ground;
pub mod guard;
pub mod openssl;
pub mod peers;
pub mod place;
pub mod plot;
pub mod quic;
pub mod rekey;
pub mod report;
pub mod saved;
pub mod scale;
pub mod serving;
pub mod smt;
pub mod steps;
pub mod tls;

use std::fmt::Display;

use crate::commands::Error;

/// Bytes of a request and of a response, where nothing else is said.
pub const RPC_BYTES: usize = 64;

/// For `map_err`: what failed, and why.
fn failed<E: Display>(what: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Failed(format!("{what}: {error}"))
}
