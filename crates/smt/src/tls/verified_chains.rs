//! Certificate chains that were found valid, so that an unchanged one is not checked again in each
//! handshake.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::Error;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// Most chains remembered per configuration; the one remembered longest makes room.
pub const MAX_VERIFIED_CHAINS: usize = 1024;
/// Longest time, in seconds, that a chain is remembered: after it, it is checked in full again.
pub const MAX_VERIFIED_AGE_SECS: u64 = 3600;

/// SHA-256 over a chain and the name it was checked for.
type Key = [u8; 32];

/// Seconds since 1970 between which a chain counts as valid.
#[derive(Clone, Copy)]
struct Validity {
    from: u64,
    until: u64,
}

/// The chains that one configuration has found valid.
#[derive(Default)]
pub(super) struct VerifiedChains {
    known: Mutex<Known>,
    checked: AtomicU64,
    remembered: AtomicU64,
}

#[derive(Default)]
struct Known {
    chains: HashMap<Key, Validity>,
    /// Oldest first; the same keys as in `chains`.
    order: VecDeque<Key>,
}

impl VerifiedChains {
    /// Passes if the chain is known to be valid for `name` at `now`; otherwise if `verify` does,
    /// which is remembered then.
    pub(super) fn check(
        &self,
        chain: &[CertificateDer<'_>],
        name: &[u8],
        now: UnixTime,
        verify: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (key, now) = (key(chain, name), now.as_secs());
        if self.lock().is_valid(&key, now) {
            self.remembered.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        self.checked.fetch_add(1, Ordering::Relaxed);
        verify()?;
        if let Some(until) = end_of_validity(chain) {
            let until = until.min(now.saturating_add(MAX_VERIFIED_AGE_SECS));
            self.lock().remember(key, Validity { from: now, until });
        }
        Ok(())
    }

    /// How often a chain was checked in full, and how often one was remembered.
    pub(super) fn checks(&self) -> (u64, u64) {
        (self.checked.load(Ordering::Relaxed), self.remembered.load(Ordering::Relaxed))
    }

    /// Nothing panics under the lock, so that what a poisoned one guards is still consistent.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for VerifiedChains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedChains").field("known", &self.lock().chains.len()).finish()
    }
}

impl Known {
    /// A clock that was set back finds nothing valid that was checked in its future.
    fn is_valid(&self, key: &Key, now: u64) -> bool {
        self.chains.get(key).is_some_and(|valid| (valid.from..=valid.until).contains(&now))
    }

    fn remember(&mut self, key: Key, validity: Validity) {
        if self.chains.insert(key, validity).is_some() {
            self.order.retain(|other| *other != key);
        } else if self.chains.len() > MAX_VERIFIED_CHAINS
            && let Some(oldest) = self.order.pop_front()
        {
            self.chains.remove(&oldest);
        }
        self.order.push_back(key);
    }
}

/// Every part goes in behind its length, so that no two inputs look alike.
fn key(chain: &[CertificateDer<'_>], name: &[u8]) -> Key {
    let mut hash = Context::new(&SHA256);
    for part in std::iter::once(name).chain(chain.iter().map(|certificate| certificate.as_ref())) {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut key = Key::default();
    key.copy_from_slice(hash.finish().as_ref());
    key
}

/// The first of the ends of validity in the chain, in seconds since 1970; `None` if one cannot be
/// read, which a verified chain rules out for all but certificates that lie in it unused.
fn end_of_validity(chain: &[CertificateDer<'_>]) -> Option<u64> {
    let mut first = u64::MAX;
    for certificate in chain {
        let certificate = Certificate::from_der(certificate).ok()?;
        let end = certificate.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
        first = first.min(end);
    }
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const REVOKED: Error = Error::InvalidCertificate(rustls::CertificateError::Revoked);

    fn at(secs: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(secs))
    }

    /// A self-signed certificate, valid until 4096, and its time now.
    fn certificate() -> (CertificateDer<'static>, u64) {
        let key = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        (key.cert.der().clone(), UnixTime::now().as_secs())
    }

    #[test]
    fn a_chain_is_checked_once_per_name_and_hour() {
        let cache = VerifiedChains::default();
        let (certificate, now) = certificate();
        let chain = [certificate];
        cache.check(&chain, b"a", at(now), || Ok(())).unwrap();
        let unwanted = || panic!("checked again");
        cache.check(&chain, b"a", at(now), unwanted).unwrap();
        cache.check(&chain, b"a", at(now + MAX_VERIFIED_AGE_SECS), unwanted).unwrap();
        assert_eq!(cache.checks(), (1, 2));
        for (name, time) in [("b", now), ("a", now - 1), ("a", now + MAX_VERIFIED_AGE_SECS + 1)] {
            let error = cache.check(&chain, name.as_bytes(), at(time), || Err(REVOKED));
            assert_eq!(error, Err(REVOKED), "{name} at {time}");
        }
        let twice = [chain[0].clone(), chain[0].clone()];
        assert_eq!(cache.check(&twice, b"a", at(now), || Err(REVOKED)), Err(REVOKED));
    }

    #[test]
    fn nothing_is_remembered_of_a_failure_or_beyond_the_certificate() {
        let cache = VerifiedChains::default();
        let (certificate, now) = certificate();
        let chain = [certificate];
        for _ in 0..2 {
            assert_eq!(cache.check(&chain, b"a", at(now), || Err(REVOKED)), Err(REVOKED));
        }
        let end = end_of_validity(&chain).unwrap();
        cache.check(&chain, b"a", at(end - 10), || Ok(())).unwrap();
        assert_eq!(cache.check(&chain, b"a", at(end + 1), || Err(REVOKED)), Err(REVOKED));
        let unreadable = [CertificateDer::from(vec![1, 2, 3])];
        cache.check(&unreadable, b"a", at(now), || Ok(())).unwrap();
        assert_eq!(cache.check(&unreadable, b"a", at(now), || Err(REVOKED)), Err(REVOKED));
    }

    #[test]
    fn the_oldest_makes_room_at_the_limit() {
        let cache = VerifiedChains::default();
        let (certificate, now) = certificate();
        let chain = [certificate];
        for n in 0..=MAX_VERIFIED_CHAINS as u64 {
            cache.check(&chain, &n.to_be_bytes(), at(now), || Ok(())).unwrap();
        }
        {
            let known = cache.lock();
            assert_eq!(known.chains.len(), MAX_VERIFIED_CHAINS);
            assert_eq!(known.order.len(), MAX_VERIFIED_CHAINS);
        }
        let unwanted = || panic!("checked again");
        cache.check(&chain, &1_u64.to_be_bytes(), at(now), unwanted).unwrap();
        let error = cache.check(&chain, &0_u64.to_be_bytes(), at(now), || Err(REVOKED));
        assert_eq!(error, Err(REVOKED));
    }
}
