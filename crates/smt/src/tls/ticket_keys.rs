//! The keys that seal a server's TLS tickets. They live in memory alone and rotate by themselves.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

use super::credentials::ConfigError;

/// How long one key seals tickets. It opens them for as long again, and is gone then: what a
/// ticket vouches for, the client's identity, is vouched for no longer than twice this time.
pub const TICKET_KEY_ROTATION: Duration = Duration::from_secs(3600);

/// The ticket keys of a server.
pub(super) struct TicketKeys {
    generations: Mutex<Generations>,
}

struct Generations {
    current: Arc<dyn ProducesTickets>,
    since: Instant,
    previous: Option<Arc<dyn ProducesTickets>>,
}

impl TicketKeys {
    pub(super) fn new() -> Result<Arc<Self>, ConfigError> {
        let generations =
            Generations { current: fresh_key()?, since: Instant::now(), previous: None };
        Ok(Arc::new(Self { generations: Mutex::new(generations) }))
    }

    /// Begins with a new key now; the one before still opens tickets.
    pub(super) fn rotate(&self) -> Result<(), ConfigError> {
        let key = fresh_key()?;
        let mut generations = self.lock();
        generations.since = Instant::now();
        generations.previous = Some(std::mem::replace(&mut generations.current, key));
        Ok(())
    }

    /// The keys for `now`. Without random numbers for a new key, tickets stop.
    fn keys_at(&self, now: Instant) -> Option<MutexGuard<'_, Generations>> {
        let mut generations = self.lock();
        let age = now.saturating_duration_since(generations.since);
        if age >= TICKET_KEY_ROTATION {
            let key = fresh_key().ok()?;
            let old = std::mem::replace(&mut generations.current, key);
            let overdue = age >= 2 * TICKET_KEY_ROTATION;
            generations.previous = (!overdue).then_some(old);
            // From when it was due, not from when it was noticed, which would lengthen lives.
            let due = generations.since + TICKET_KEY_ROTATION;
            generations.since = if overdue { now } else { due };
        }
        Some(generations)
    }

    fn encrypt_at(&self, plain: &[u8], now: Instant) -> Option<Vec<u8>> {
        let current = Arc::clone(&self.keys_at(now)?.current);
        current.encrypt(plain)
    }

    fn decrypt_at(&self, cipher: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (current, previous) = {
            let keys = self.keys_at(now)?;
            (Arc::clone(&keys.current), keys.previous.clone())
        };
        current.decrypt(cipher).or_else(|| previous?.decrypt(cipher))
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fresh_key() -> Result<Arc<dyn ProducesTickets>, ConfigError> {
    Ticketer::new().map_err(|error| ConfigError::Refused { detail: error.to_string() })
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys")
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(2 * TICKET_KEY_ROTATION.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(plain, Instant::now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(cipher, Instant::now())
    }
}

/// The same keys for a handshake that must be a full one: they seal, and open nothing.
#[derive(Debug)]
pub(super) struct SealOnly(pub(super) Arc<TicketKeys>);

impl ProducesTickets for SealOnly {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }

    fn decrypt(&self, _cipher: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_for_twice_its_time_and_no_longer() {
        let keys = TicketKeys::new().unwrap();
        let start = keys.lock().since;
        let after = |rotations: f64| start + TICKET_KEY_ROTATION.mul_f64(rotations);
        let ticket = keys.encrypt_at(b"secret", start).unwrap();
        assert!(!ticket.windows(6).any(|window| window == b"secret"));
        for rotations in [0.0, 0.9, 1.5, 1.9] {
            let opened = keys.decrypt_at(&ticket, after(rotations));
            assert_eq!(opened.as_deref(), Some(b"secret".as_slice()), "{rotations}");
        }
        assert_eq!(keys.decrypt_at(&ticket, after(2.0)), None);
    }

    #[test]
    fn a_key_unused_for_long_is_not_kept() {
        let keys = TicketKeys::new().unwrap();
        let start = keys.lock().since;
        let ticket = keys.encrypt_at(b"secret", start).unwrap();
        assert_eq!(keys.decrypt_at(&ticket, start + 3 * TICKET_KEY_ROTATION), None);
        assert!(keys.lock().previous.is_none());
    }

    #[test]
    fn rotation_by_hand_keeps_one_generation() {
        let keys = TicketKeys::new().unwrap();
        let ticket = keys.encrypt(b"secret").unwrap();
        keys.rotate().unwrap();
        assert!(keys.decrypt(&ticket).is_some());
        assert!(SealOnly(Arc::clone(&keys)).decrypt(&ticket).is_none());
        keys.rotate().unwrap();
        assert!(keys.decrypt(&ticket).is_none());
    }
}
