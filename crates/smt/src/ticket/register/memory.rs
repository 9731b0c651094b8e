//! A register of one process.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::{Claim, STRIKE_LEN, Strike, StrikeRegister};
use crate::ticket::error::RegisterError;
use crate::ticket::unix_ms;

/// Default of how many offers a register holds: some 13 000 a second at the default window.
pub const DEFAULT_STRIKES: usize = 262_144;
/// Most offers that a register can be made to hold, some 100 bytes each.
pub const MAX_STRIKES: usize = 16 << 20;

/// A register in this process's memory. What was accepted before the process started it cannot
/// know, so it refuses every offer that may be so old.
#[derive(Debug)]
pub struct MemoryRegister {
    held: Mutex<Held>,
    started_ms: u64,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Held {
    keys: HashSet<[u8; STRIKE_LEN]>,
    /// The same keys by the time from which on each may be forgotten, each with its offer's time.
    ends: BinaryHeap<Reverse<(u64, u64, [u8; STRIKE_LEN])>>,
    /// The latest time of an offer that was forgotten: whether one that is no later was made before,
    /// nobody can tell any more. A claim may come after others that were decided on later.
    forgotten_ms: Option<u64>,
}

impl Default for MemoryRegister {
    fn default() -> Self {
        Self::new(DEFAULT_STRIKES)
    }
}

impl MemoryRegister {
    /// An empty register of at most `capacity` offers, 1 to [`MAX_STRIKES`], that starts now.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::started_at(capacity, SystemTime::now())
    }

    /// An empty register that was started at `start`: offers made until a window after it are
    /// refused. With [`UNIX_EPOCH`](std::time::UNIX_EPOCH) it takes offers at once, which is right where
    /// nothing can have been taken before: for an issuer that has just made its keys, and shares them
    /// with nobody.
    #[must_use]
    pub fn started_at(capacity: usize, start: SystemTime) -> Self {
        let capacity = capacity.clamp(1, MAX_STRIKES);
        Self { held: Mutex::default(), started_ms: unix_ms(start), capacity }
    }

    /// How many offers it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held().keys.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StrikeRegister for MemoryRegister {
    fn claim(&self, strike: &Strike) -> Result<Claim, RegisterError> {
        if strike.time_ms <= self.started_ms.saturating_add(strike.window_ms) {
            return Err(RegisterError::Restarted);
        }
        let mut held = self.held();
        held.forget(strike.now_ms);
        if held.keys.contains(&strike.key) {
            return Ok(Claim::Seen);
        }
        if held.forgotten_ms.is_some_and(|forgotten| strike.time_ms <= forgotten) {
            return Err(RegisterError::TooLate);
        }
        if held.keys.len() >= self.capacity {
            return Err(RegisterError::Full);
        }
        let end = strike.time_ms.saturating_add(strike.window_ms);
        held.keys.insert(strike.key);
        held.ends.push(Reverse((end, strike.time_ms, strike.key)));
        Ok(Claim::Fresh)
    }

    fn may_block(&self) -> bool {
        false
    }
}

impl Held {
    /// Forgets what would be refused for its time at `now_ms`.
    fn forget(&mut self, now_ms: u64) {
        while let Some(&Reverse((end, time, key))) = self.ends.peek() {
            if end >= now_ms {
                return;
            }
            self.ends.pop();
            self.keys.remove(&key);
            self.forgotten_ms = self.forgotten_ms.max(Some(time));
        }
    }
}
