//! Registers of the offers made, so that each is accepted once (spec 5.7).

mod memory;
#[cfg(feature = "redis")]
mod redis;

use std::fmt;

pub use memory::{DEFAULT_STRIKES, MAX_STRIKES, MemoryRegister};
#[cfg(feature = "redis")]
pub use redis::{MAX_IDLE_CONNECTIONS, REDIS_TIMEOUT, RedisError, RedisRegister};

use super::error::RegisterError;

/// Length of what a register knows an offer by, in bytes.
pub const STRIKE_LEN: usize = 16;

/// An offer that a server is about to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// What the offer is known by.
    pub key: [u8; STRIKE_LEN],
    /// The client's time in it, in milliseconds since 1970.
    pub time_ms: u64,
    /// The server's time, in milliseconds since 1970; never goes back.
    pub now_ms: u64,
    /// By how much the two may differ: a register forgets an offer only when the server's time is
    /// more than this past the client's.
    pub window_ms: u64,
}

/// What a register knows of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It was not made before, and is taken down now.
    Fresh,
    /// It was made before.
    Seen,
}

/// A register of offers. All servers that have a ticket's key must share one.
pub trait StrikeRegister: fmt::Debug + Send + Sync {
    /// Takes an offer down. Of any number of claims of one key, however they come together,
    /// exactly one is [`Claim::Fresh`].
    ///
    /// # Errors
    /// [`RegisterError`] whenever it cannot be sure. The offer is then refused.
    fn claim(&self, strike: &Strike) -> Result<Claim, RegisterError>;

    /// Whether `claim` may block, for some milliseconds at most. It is then called on the threads of the
    /// handshake pool alone, and otherwise also on the thread that moves packets. Default: yes.
    fn may_block(&self) -> bool {
        true
    }
}
