//! RETRY: above a number of half-open handshakes a server makes clients prove their address before it
//! keeps anything of them (spec 5.8).

use alloc::collections::VecDeque;
use core::hash::Hasher;
use core::net::IpAddr;
use core::time::Duration;

use siphasher::sip::SipHasher24;
use zeroize::Zeroizing;

use super::transmit::URGENT;
use super::{Endpoint, Transmit};
use crate::crypto::Random;
use crate::limits::Limits;
use crate::session::{Path, Role, Session, SessionId, State};
use crate::stats::Stats;
use crate::time::Time;
use crate::wire::{RETRY_LEN, Retry};

/// For how long the same tokens are given out, in nanoseconds. They are taken for as long again.
const SLOT: u64 = 16_000_000_000;
/// Tokens that a 5-tuple has in a slot, so that a client's next handshake can be told from one under a
/// token that it has used already.
const VARIANTS: u8 = 4;

/// What a server gives out and takes as proof of an address, and the RETRYs that wait to be sent.
pub(super) struct Retries {
    key: Zeroizing<[u8; 16]>,
    /// Where to, and the token to echo.
    waiting: VecDeque<(Path, u64)>,
    /// RETRYs queued in the second that began at the time.
    recent: (Time, u32),
}

impl Retries {
    pub(super) fn new(random: &mut dyn Random) -> Self {
        let mut key = Zeroizing::new([0; 16]);
        random.fill(&mut *key);
        Retries { key, waiting: VecDeque::new(), recent: (Time::ZERO, 0) }
    }

    /// Whether RETRYs wait to be sent.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether `token` shows that what we sent to the peer's address was received there: it is one of
    /// those that we give out now, or gave out in the slot before.
    pub(super) fn proves(&self, now: Time, path: &Path, token: u64) -> bool {
        let slot = now.as_nanos() / SLOT;
        (0..VARIANTS).any(|variant| {
            token == self.token(path, slot, variant)
                || slot > 0 && token == self.token(path, slot - 1, variant)
        })
    }

    /// Queues a RETRY that echoes `token`, within the limits.
    fn push(&mut self, now: Time, limits: &Limits, stats: &mut Stats, path: Path, token: u64) {
        if now.since(self.recent.0) >= Duration::from_secs(1) {
            self.recent = (now, 0);
        }
        if self.recent.1 >= limits.max_retries_per_second
            || self.waiting.len() >= limits.max_retries_waiting
        {
            stats.limit_retries += 1;
            return;
        }
        self.recent.1 += 1;
        self.waiting.push_back((path, token));
    }

    fn token(&self, path: &Path, slot: u64, variant: u8) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        let local = path.local.map_or([0; 16], address_bytes);
        hasher.write(&address_bytes(path.remote.ip()));
        hasher.write(&local);
        for port in [path.remote.port(), path.remote_port, path.local_port] {
            hasher.write(&port.to_be_bytes());
        }
        hasher.write(&slot.to_be_bytes());
        hasher.write(&[variant]);
        hasher.finish()
    }
}

/// All addresses in the form of IPv6; those of IPv4 mapped.
fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

impl Endpoint {
    /// Answers the first packet of a new client's first flight by a RETRY; keeps nothing of it.
    pub(super) fn ask_for_proof(&mut self, now: Time, path: Path, token: u64) {
        let limits = self.shared.config.limits;
        self.retries.push(now, &limits, &mut self.shared.stats, path, token);
    }

    /// Writes the next RETRY.
    pub(super) fn transmit_retry(&mut self, now: Time, frame: &mut [u8]) -> Option<Transmit> {
        let out = frame.first_chunk_mut::<RETRY_LEN>()?;
        while let Some((path, token)) = self.retries.waiting.pop_front() {
            let Some(new_token) = self.unused_token(now, &path) else {
                self.shared.stats.limit_retries += 1;
                continue;
            };
            let (src_port, dst_port) = (path.local_port, path.remote_port);
            Retry { src_port, dst_port, new_token, token }.emit(out);
            self.shared.stats.retries_sent += 1;
            return Some(Transmit::new(&path, 0, RETRY_LEN, URGENT));
        }
        None
    }

    /// Takes a RETRY: the handshake that it is about begins again, once.
    pub(super) fn handle_retry(&mut self, now: Time, first: Option<SessionId>, packet: &[u8]) {
        let Ok(retry) = Retry::parse(packet) else {
            self.shared.stats.dropped_malformed += 1;
            return;
        };
        let is_meant = |session: &Session| {
            #[cfg(feature = "mutations")]
            if self.shared.config.has(crate::mutation::Mutation::RetryForAnyToken) {
                return session.role == Role::Client;
            }
            session.role == Role::Client && session.token == retry.token
        };
        let Some(id) = self.find(first, 0, is_meant) else {
            self.shared.stats.dropped_bad_token += 1;
            return;
        };
        let Some(session) = self.sessions.get_mut(id) else { return };
        // Who has answered asks for no proof any more.
        let waits = session.early.is_none() || session.is_unanswered();
        let handshaking = matches!(session.state, State::Handshaking) && waits;
        let due = session
            .handshake
            .as_deref_mut()
            .filter(|_| handshaking)
            .and_then(|handshake| handshake.begin_again(now));
        let Some(due) = due else {
            self.shared.stats.dropped_unexpected += 1;
            return;
        };
        session.token = retry.new_token;
        session.wake_at(&mut self.shared, due);
        session.queue_flight(&mut self.shared);
        session.repeat_early(&mut self.shared);
        self.shared.stats.retries_received += 1;
    }

    /// A token for the path that none of its sessions has; `None` if they have all there are.
    fn unused_token(&self, now: Time, path: &Path) -> Option<u64> {
        let slot = now.as_nanos() / SLOT;
        let first = self.sessions.newest(path.remote, path.remote_port, path.local_port);
        (0..VARIANTS)
            .map(|variant| self.retries.token(path, slot, variant))
            .find(|token| self.find(first, 0, |session| session.token == *token).is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddr;
    use std::vec::Vec;

    struct Counting(u8);

    impl Random for Counting {
        fn fill(&mut self, out: &mut [u8]) {
            for byte in out {
                self.0 = self.0.wrapping_add(1);
                *byte = self.0;
            }
        }
    }

    fn path() -> Path {
        Path {
            remote: SocketAddr::from(([10, 0, 0, 1], 0)),
            remote_port: 40_000,
            local_port: 4791,
            local: Some(IpAddr::from([10, 0, 0, 2])),
        }
    }

    /// The time at which a slot begins.
    fn slot(number: u64) -> Time {
        Time::from_nanos(number * SLOT)
    }

    #[test]
    fn tokens_hold_for_this_slot_and_the_one_before() {
        let retries = Retries::new(&mut Counting(0));
        let token = retries.token(&path(), 7, 0);
        let taken: Vec<bool> =
            (5..11).map(|number| retries.proves(slot(number), &path(), token)).collect();
        assert_eq!(taken, [false, false, true, true, false, false]);
        let last = Time::from_nanos(9 * SLOT - 1);
        assert!(retries.proves(last, &path(), token));
        // Before time began nothing was given out.
        assert!(!retries.proves(slot(0), &path(), retries.token(&path(), u64::MAX, 0)));
    }

    #[test]
    fn tokens_hold_for_one_path_of_one_endpoint() {
        let retries = Retries::new(&mut Counting(0));
        let token = retries.token(&path(), 7, 3);
        let others = [
            Path { remote: SocketAddr::from(([10, 0, 0, 3], 0)), ..path() },
            Path { remote: SocketAddr::from(([10, 0, 0, 1], 9)), ..path() },
            Path { remote_port: 40_001, ..path() },
            Path { local_port: 4792, ..path() },
            Path { local: Some(IpAddr::from([10, 0, 0, 4])), ..path() },
            Path { local: None, ..path() },
        ];
        assert!(retries.proves(slot(7), &path(), token));
        for other in others {
            assert!(!retries.proves(slot(7), &other, token), "{other:?}");
        }
        assert!(!Retries::new(&mut Counting(1)).proves(slot(7), &path(), token));
        // A stranger's own token is not one of ours.
        assert!((0..1000).all(|token| !retries.proves(slot(7), &path(), token)));
    }

    #[test]
    fn so_many_go_in_a_second_and_so_many_wait() {
        let limits =
            Limits { max_retries_per_second: 5, max_retries_waiting: 3, ..Limits::default() };
        let mut retries = Retries::new(&mut Counting(0));
        let mut stats = Stats::default();
        for _ in 0..4 {
            retries.push(slot(1), &limits, &mut stats, path(), 1);
        }
        assert_eq!((retries.waiting.len(), stats.limit_retries), (3, 1));
        retries.waiting.clear();
        for _ in 0..4 {
            retries.push(slot(1), &limits, &mut stats, path(), 1);
        }
        assert_eq!((retries.waiting.len(), stats.limit_retries), (2, 3));
        retries.push(slot(1) + Duration::from_secs(1), &limits, &mut stats, path(), 1);
        assert_eq!((retries.waiting.len(), stats.limit_retries), (3, 3));
    }
}
