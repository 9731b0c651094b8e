//! How an issuer and its key file are kept together.

use std::sync::{Mutex, PoisonError};

use super::file::KeyFile;
use super::{KeyEntry, KeyFileError, MAX_SHARED_TICKETS, emit};
use crate::ticket::format::{MAX_VALIDITY, TICKET_ID_LEN, Ticket};
use crate::ticket::issue::{State, lock};
use crate::ticket::live::LiveTickets;

/// An issuer's end of its key file.
pub(in crate::ticket) struct Follower {
    file: KeyFile,
    /// Why the last look failed. Whoever looks holds it: looks of one issuer do not mix.
    last_error: Mutex<Option<KeyFileError>>,
}

impl Follower {
    pub(in crate::ticket) fn new(file: KeyFile) -> Self {
        Self { file, last_error: Mutex::default() }
    }

    pub(in crate::ticket) fn last_error(&self) -> Option<KeyFileError> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has `state` know what the file knows, and the other way round.
    pub(in crate::ticket) fn look(
        &self,
        state: &Mutex<State>,
        now: u64,
    ) -> Result<(), KeyFileError> {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.sync(state, now);
        match &result {
            Err(error) if last.as_ref() != Some(error) => {
                tracing::error!(%error, "tickets' keys are not shared: going on with those at hand");
            }
            Ok(()) if last.is_some() => tracing::info!("tickets' keys are shared again"),
            _ => {}
        }
        *last = result.clone().err();
        result
    }

    /// Forgets all tickets, and has those with the same file forget them.
    pub(in crate::ticket) fn forget_all(&self, state: &Mutex<State>) -> Result<(), KeyFileError> {
        let _turn = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        *lock(state).live() = LiveTickets::default();
        let locked = self.file.lock()?;
        self.file.write(&locked, &emit(&[]))
    }

    fn sync(&self, state: &Mutex<State>, now: u64) -> Result<(), KeyFileError> {
        let content = self.file.read()?;
        if !lock(state).learn(&content, now)? {
            return Ok(());
        }
        let locked = self.file.lock()?;
        let content = self.file.read_locked(&locked)?;
        let (entries, left_out) = {
            let mut state = lock(state);
            state.learn(&content, now)?;
            state.make_wanted(now);
            merge(content, state.live(), now)
        };
        if let Some(entries) = entries {
            self.file.write(&locked, &emit(&entries))?;
            let mut state = lock(state);
            for KeyEntry { ticket, .. } in &entries {
                if let Some(live) = state.live().find(ticket.id()) {
                    live.is_in_file(true);
                }
            }
        }
        match left_out {
            true => Err(KeyFileError::TooMany { most: MAX_SHARED_TICKETS }),
            false => Ok(()),
        }
    }
}

impl State {
    /// Goes by what the file holds. True if the file should be another one.
    fn learn(&mut self, content: &[KeyEntry], now: u64) -> Result<bool, KeyFileError> {
        self.live().wipe_expired(now);
        let in_file = |id: &[u8; TICKET_ID_LEN]| content.iter().any(|e| e.ticket.id() == id);
        self.live().forget_vanished(in_file);
        self.take(content, now, true)?;
        self.adopt(now);
        let unshared = self.live().iter().any(|live| !in_file(live.ticket.id()));
        let live = self.live();
        let stale = content.iter().any(|entry| is_stale(&entry.ticket, live, now));
        Ok(unshared || stale || self.wants_ticket(now))
    }
}

/// What the file should hold, if that is another than it does: tickets of others, of other
/// certificates too, until they end, and ours. Also whether some of ours had to be left out.
fn merge(content: Vec<KeyEntry>, live: &LiveTickets, now: u64) -> (Option<Vec<KeyEntry>>, bool) {
    let before = content.len();
    let mut entries = content;
    entries.retain(|entry| !is_stale(&entry.ticket, live, now));
    let mut changed = entries.len() != before;
    let mut left_out = false;
    for own in live.iter() {
        if entries.iter().any(|entry| entry.ticket.id() == own.ticket.id()) {
            continue;
        }
        if entries.len() >= MAX_SHARED_TICKETS {
            left_out = true;
            continue;
        }
        entries.push(own.entry());
        changed = true;
    }
    (changed.then_some(entries), left_out)
}

/// Whether a ticket has expired, by the clock or as far as `live` knows, or is so far ahead that some
/// clock was wrong when it was made.
fn is_stale(ticket: &Ticket, live: &LiveTickets, now: u64) -> bool {
    let (not_before, not_after) = ticket.validity();
    let ahead = not_before > now.saturating_add(MAX_VALIDITY.as_secs());
    now > not_after || ahead || live.has_ended(ticket.id())
}
