//! Key shares made ahead of time, so that a handshake does not wait for one.
//!
//! A share is an ephemeral key pair: it is used once, thrown away when it has lain too long, and
//! never used in another process than the one it was made in, since a forked child would share its
//! secrets with its parent. The stock is one per key exchange group and process; it is filled by
//! handshake workers that have nothing else to do, and grows with demand.

use std::collections::VecDeque;
use std::fmt;
use std::process;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs::kx_group;
use rustls::crypto::{ActiveKeyExchange, CompletedKeyExchange, SupportedKxGroup};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::{Error, NamedGroup, ProtocolVersion};

/// Most shares in stock per group: some KB of keys each in the hybrid group.
pub const MAX_KEY_SHARES: usize = 64;
/// How long a share may lie in stock.
pub const MAX_KEY_SHARE_AGE: Duration = Duration::from_secs(600);
/// What is stocked after the first handshake; each handshake that finds nothing doubles it.
const FIRST_TARGET: usize = 2;

/// What became of the shares of all groups in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyShareStats {
    /// Shares in stock.
    pub in_stock: u64,
    /// Handshakes that took one from stock.
    pub taken: u64,
    /// Handshakes that made their own since there was none.
    pub missed: u64,
    /// Shares that were thrown away: too old, or made before a fork.
    pub discarded: u64,
}

/// X25519 and ML-KEM-768.
pub(super) static X25519MLKEM768: StockedGroup =
    StockedGroup::new(|| kx_group::X25519MLKEM768, Server::Encapsulates);
/// X25519.
pub(super) static X25519: StockedGroup = StockedGroup::new(|| kx_group::X25519, Server::MakesShare);
/// NIST's P-256.
pub(super) static SECP256R1: StockedGroup =
    StockedGroup::new(|| kx_group::SECP256R1, Server::MakesShare);

const ALL: [&StockedGroup; 3] = [&X25519MLKEM768, &X25519, &SECP256R1];

/// What became of the shares of all groups in this process.
#[must_use]
pub fn key_share_stats() -> KeyShareStats {
    let mut all = KeyShareStats::default();
    for group in ALL {
        let stock = group.lock();
        all.in_stock += stock.shares.len() as u64;
        all.taken += stock.stats.taken;
        all.missed += stock.stats.missed;
        all.discarded += stock.stats.discarded;
    }
    all
}

/// Puts one share in stock where one is wanted. False if none is: there is nothing to do until the
/// next handshake.
pub(crate) fn refill() -> bool {
    ALL.into_iter().any(StockedGroup::refill)
}

/// Whether a handshake that begins with `group` finds a share in stock.
pub(super) fn is_stocked(group: NamedGroup) -> bool {
    let stocked = ALL.into_iter().find(|stocked| stocked.name() == group);
    stocked.is_some_and(|stocked| !stocked.lock().shares.is_empty())
}

/// What a server does with a client's share.
#[derive(Clone, Copy, Debug)]
enum Server {
    /// Makes one like it.
    MakesShare,
    /// Encapsulates to it, for which nothing can be prepared.
    Encapsulates,
}

/// A key exchange group with shares in stock.
pub(super) struct StockedGroup {
    group: fn() -> &'static dyn SupportedKxGroup,
    server: Server,
    stock: Mutex<Stock>,
}

impl StockedGroup {
    const fn new(group: fn() -> &'static dyn SupportedKxGroup, server: Server) -> Self {
        Self { group, server, stock: Mutex::new(Stock::new()) }
    }

    fn refill(&self) -> bool {
        let pid = process::id();
        if !self.lock().is_short(Instant::now(), pid) {
            return false;
        }
        // Not under the lock: handshakes of other threads go on meanwhile.
        match (self.group)().start() {
            Ok(share) => {
                self.lock().put(Instant::now(), pid, share);
                true
            }
            Err(_) => false,
        }
    }

    /// Nothing panics under the lock, so that what a poisoned one guards is still consistent.
    fn lock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StockedGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StockedGroup").field(&(self.group)().name()).finish()
    }
}

impl SupportedKxGroup for StockedGroup {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let taken = self.lock().take(Instant::now(), process::id());
        taken.map_or_else(|| (self.group)().start(), Ok)
    }

    fn start_and_complete(&self, peer_pub_key: &[u8]) -> Result<CompletedKeyExchange, Error> {
        match self.server {
            Server::Encapsulates => (self.group)().start_and_complete(peer_pub_key),
            Server::MakesShare => {
                let share = self.start()?;
                let (group, pub_key) = (share.group(), share.pub_key().to_vec());
                Ok(CompletedKeyExchange { group, pub_key, secret: share.complete(peer_pub_key)? })
            }
        }
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        (self.group)().ffdhe_group()
    }

    fn name(&self) -> NamedGroup {
        (self.group)().name()
    }

    fn fips(&self) -> bool {
        (self.group)().fips()
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        (self.group)().usable_for_version(version)
    }
}

/// The shares of one group, and how many there should be.
struct Stock {
    /// The process that made them.
    pid: u32,
    target: usize,
    /// Oldest first, each with the time it was made.
    shares: VecDeque<(Instant, Box<dyn ActiveKeyExchange>)>,
    stats: KeyShareStats,
}

impl Stock {
    const fn new() -> Self {
        let stats = KeyShareStats { in_stock: 0, taken: 0, missed: 0, discarded: 0 };
        Self { pid: 0, target: 0, shares: VecDeque::new(), stats }
    }

    fn take(&mut self, now: Instant, pid: u32) -> Option<Box<dyn ActiveKeyExchange>> {
        self.discard(now, pid);
        match self.shares.pop_front() {
            Some((_, share)) => {
                self.stats.taken += 1;
                Some(share)
            }
            None => {
                self.stats.missed += 1;
                self.target = (2 * self.target).clamp(FIRST_TARGET, MAX_KEY_SHARES);
                None
            }
        }
    }

    fn is_short(&mut self, now: Instant, pid: u32) -> bool {
        self.discard(now, pid);
        self.shares.len() < self.target
    }

    fn put(&mut self, now: Instant, pid: u32, share: Box<dyn ActiveKeyExchange>) {
        if self.pid == pid && self.shares.len() < self.target {
            self.shares.push_back((now, share));
        }
    }

    /// Throws away what must not be used. Shares that grew old were too many.
    fn discard(&mut self, now: Instant, pid: u32) {
        if self.pid != pid {
            self.stats.discarded += self.shares.len() as u64;
            self.shares.clear();
            (self.pid, self.target) = (pid, 0);
        }
        let too_old =
            |(made, _): &(Instant, _)| now.saturating_duration_since(*made) > MAX_KEY_SHARE_AGE;
        let before = self.shares.len();
        while self.shares.front().is_some_and(too_old) {
            self.shares.pop_front();
        }
        if self.shares.len() < before {
            self.stats.discarded += (before - self.shares.len()) as u64;
            self.target /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 7;

    fn share() -> Box<dyn ActiveKeyExchange> {
        kx_group::X25519.start().unwrap()
    }

    /// As long as the stock is short, as a worker with nothing else to do.
    fn fill(stock: &mut Stock, now: Instant) {
        while stock.is_short(now, stock.pid) {
            stock.put(now, stock.pid, share());
        }
    }

    #[test]
    fn nothing_is_made_before_the_first_handshake() {
        let mut stock = Stock::new();
        assert!(!stock.is_short(Instant::now(), PID));
        assert!(stock.take(Instant::now(), PID).is_none());
        assert!(stock.is_short(Instant::now(), PID));
    }

    #[test]
    fn each_share_is_used_once_oldest_first() {
        let (mut stock, now) = (Stock::new(), Instant::now());
        assert!(stock.take(now, PID).is_none());
        fill(&mut stock, now);
        let made: Vec<Vec<u8>> = stock.shares.iter().map(|(_, s)| s.pub_key().to_vec()).collect();
        for expected in made {
            assert_eq!(stock.take(now, PID).unwrap().pub_key(), expected);
        }
        assert!(stock.take(now, PID).is_none());
        let KeyShareStats { taken, missed, .. } = stock.stats;
        assert_eq!((taken, missed), (FIRST_TARGET as u64, 2));
    }

    #[test]
    fn the_stock_grows_to_its_limit() {
        let (mut stock, now) = (Stock::new(), Instant::now());
        for _ in 0..20 {
            while stock.take(now, PID).is_some() {}
            fill(&mut stock, now);
        }
        assert_eq!(stock.shares.len(), MAX_KEY_SHARES);
        stock.put(now, PID, share());
        assert_eq!(stock.shares.len(), MAX_KEY_SHARES);
    }

    #[test]
    fn old_shares_are_thrown_away_and_the_stock_shrinks() {
        let (mut stock, now) = (Stock::new(), Instant::now());
        assert!(stock.take(now, PID).is_none());
        fill(&mut stock, now);
        assert!(!stock.is_short(now + MAX_KEY_SHARE_AGE, PID));
        assert_eq!(stock.shares.len(), FIRST_TARGET);
        let later = now + MAX_KEY_SHARE_AGE + Duration::from_nanos(1);
        fill(&mut stock, later);
        assert_eq!(stock.stats.discarded, FIRST_TARGET as u64);
        assert!(stock.shares.iter().all(|(made, _)| *made == later));
        assert_eq!(stock.shares.len(), FIRST_TARGET / 2);
    }

    #[test]
    fn a_forked_child_uses_none_of_its_parents_shares() {
        let (mut stock, now) = (Stock::new(), Instant::now());
        assert!(stock.take(now, PID).is_none());
        fill(&mut stock, now);
        let child = PID + 1;
        assert!(stock.take(now, child).is_none());
        assert!(stock.shares.is_empty());
        // Nor does one that was begun before the fork get into the child's stock.
        stock.put(now, PID, share());
        assert!(stock.shares.is_empty());
    }

    #[test]
    fn stocked_groups_agree_with_plain_ones() {
        for group in ALL {
            let plain = (group.group)();
            assert_eq!(group.name(), plain.name());
            for _ in 0..3 {
                refill();
                let client = group.start().unwrap();
                let server = plain.start_and_complete(client.pub_key()).unwrap();
                let secret = client.complete(&server.pub_key).unwrap();
                assert_eq!(secret.secret_bytes(), server.secret.secret_bytes());
                let client = plain.start().unwrap();
                let server = group.start_and_complete(client.pub_key()).unwrap();
                let secret = client.complete(&server.pub_key).unwrap();
                assert_eq!(secret.secret_bytes(), server.secret.secret_bytes());
                assert!(group.start_and_complete(b"short").is_err());
            }
        }
        assert!(key_share_stats().taken > 0);
    }
}
