//! The tickets that a server accepts at present, with their keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::format::{TICKET_ID_LEN, Ticket};
use super::hpke::PrivateKey;
use super::issue::ROTATION_CHECK;
use super::shared::{KeyEntry, KeyFileError, MAX_SHARED_TICKETS};
use crate::tls::Identity;

/// A ticket and its key.
pub(super) struct LiveTicket {
    pub(super) ticket: Ticket,
    pub(super) key: PrivateKey,
    /// Whether the key file has held it: it goes when it vanishes from there.
    in_file: AtomicBool,
    /// By a clock that nobody sets.
    issued: Instant,
}

impl LiveTicket {
    pub(super) fn new(ticket: Ticket, key: PrivateKey) -> Self {
        Self { ticket, key, in_file: AtomicBool::new(false), issued: Instant::now() }
    }

    /// Whether its time is over, whatever was done to the clock meanwhile.
    pub(super) fn is_over(&self, now: u64, at: Instant) -> bool {
        let (not_before, not_after) = self.ticket.validity();
        let lifetime = Duration::from_secs(not_after.saturating_sub(not_before));
        now > not_after || at.saturating_duration_since(self.issued) > lifetime + ROTATION_CHECK
    }

    /// A ticket that another instance has made, if the key of `identity`'s certificate signed it
    /// and the private key belongs to it.
    pub(super) fn from_entry(
        entry: &KeyEntry,
        identity: &Identity,
        now: u64,
    ) -> Result<Self, KeyFileError> {
        let forged = |detail| KeyFileError::Forged { detail };
        let KeyEntry { ticket, key } = entry;
        let (scheme, message, signature) = ticket.signature();
        if !identity.has_signed(scheme, &message, signature) {
            return Err(forged("its signature is wrong"));
        }
        let key = PrivateKey::from_bytes(ticket.kem(), key)
            .filter(|key| key.public_key() == ticket.public_key())
            .ok_or(forged("its private key is another one's"))?;
        let age = Duration::from_secs(now.saturating_sub(ticket.validity().0));
        let live = Self::new(ticket.clone(), key);
        let issued = live.issued.checked_sub(age).unwrap_or(live.issued);
        Ok(Self { issued, ..live })
    }

    pub(super) fn entry(&self) -> KeyEntry {
        KeyEntry { ticket: self.ticket.clone(), key: self.key.to_bytes() }
    }

    /// Notes that the key file holds it, if it does.
    pub(super) fn is_in_file(&self, in_file: bool) {
        self.in_file.fetch_or(in_file, Ordering::Relaxed);
    }
}

/// The live tickets of an issuer.
#[derive(Default)]
pub(super) struct LiveTickets {
    current: Option<Arc<LiveTicket>>,
    previous: Option<Arc<LiveTicket>>,
    /// Those of other instances, and own ones that made room for theirs. Bounded by
    /// [`MAX_SHARED_TICKETS`].
    others: Vec<Arc<LiveTicket>>,
    /// What was over and may still be in the key file: it must not come back from there, whatever
    /// was done to the clock. Bounded by what the file holds.
    ended: Vec<[u8; TICKET_ID_LEN]>,
}

impl LiveTickets {
    /// The ticket that is handed out.
    pub(super) fn current(&self) -> Option<&Arc<LiveTicket>> {
        self.current.as_ref()
    }

    pub(super) fn others(&self) -> impl Iterator<Item = &Arc<LiveTicket>> {
        self.others.iter()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<LiveTicket>> {
        [&self.current, &self.previous].into_iter().flatten().chain(&self.others)
    }

    pub(super) fn find(&self, id: &[u8; TICKET_ID_LEN]) -> Option<&Arc<LiveTicket>> {
        self.iter().find(|live| live.ticket.id() == id)
    }

    /// Whether a ticket was over once.
    pub(super) fn has_ended(&self, id: &[u8; TICKET_ID_LEN]) -> bool {
        self.ended.contains(id)
    }

    pub(super) fn wipe_expired(&mut self, now: u64) {
        let at = Instant::now();
        let over = |live: &Arc<LiveTicket>| {
            let shared = live.in_file.load(Ordering::Relaxed);
            (shared && live.is_over(now, at)).then(|| *live.ticket.id())
        };
        let ended: Vec<_> = self.iter().filter_map(over).collect();
        self.ended.extend(ended);
        self.keep(|live| !live.is_over(now, at));
    }

    /// Forgets what the key file has held and holds no more; `in_file` tells what it holds.
    pub(super) fn forget_vanished(&mut self, in_file: impl Fn(&[u8; TICKET_ID_LEN]) -> bool) {
        self.keep(|live| !live.in_file.load(Ordering::Relaxed) || in_file(live.ticket.id()));
        self.ended.retain(in_file);
    }

    /// The current ticket becomes the previous one, whose key goes.
    pub(super) fn retire(&mut self) {
        if let Some(current) = self.current.take() {
            self.previous = Some(current);
        }
    }

    /// A new ticket of this instance's own.
    pub(super) fn replace_current(&mut self, live: LiveTicket) {
        self.retire();
        self.current = Some(Arc::new(live));
    }

    /// One of the others is handed out from now on.
    pub(super) fn make_current(&mut self, other: &Arc<LiveTicket>) {
        self.others.retain(|live| !Arc::ptr_eq(live, other));
        // There is room: one has just gone.
        self.others.extend(self.current.replace(Arc::clone(other)));
    }

    /// Takes in tickets of other instances: all of them, or none if they are too many.
    pub(super) fn add(&mut self, new: Vec<Arc<LiveTicket>>) -> Result<(), KeyFileError> {
        if self.others.len() + new.len() > MAX_SHARED_TICKETS {
            return Err(KeyFileError::TooMany { most: MAX_SHARED_TICKETS });
        }
        self.others.extend(new);
        Ok(())
    }

    fn keep(&mut self, good: impl Fn(&LiveTicket) -> bool) {
        for live in [&mut self.current, &mut self.previous] {
            if live.as_ref().is_some_and(|live| !good(live)) {
                *live = None;
            }
        }
        self.others.retain(|live| good(live));
    }
}
