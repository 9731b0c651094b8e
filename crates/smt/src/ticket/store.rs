//! Where a client keeps its verified tickets.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::verify::VerifiedTicket;

/// Most tickets in a store.
pub const MAX_STORED_TICKETS: usize = 1024;

/// The verified tickets of a client, one for each server: the one that is valid for longest.
#[derive(Debug)]
pub struct TicketStore {
    tickets: Mutex<HashMap<(String, u16), VerifiedTicket>>,
    capacity: usize,
    evicted: AtomicU64,
}

impl Default for TicketStore {
    fn default() -> Self {
        Self::with_capacity(MAX_STORED_TICKETS)
    }
}

impl TicketStore {
    /// A store of at most `capacity` tickets, at least 1 and at most [`MAX_STORED_TICKETS`].
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            tickets: Mutex::default(),
            capacity: capacity.clamp(1, MAX_STORED_TICKETS),
            evicted: AtomicU64::new(0),
        }
    }

    /// Keeps `ticket` for the server it was verified for, at SMT port `port`, unless the one that
    /// is there is valid for longer. A full store loses the ticket that ends first.
    pub fn put(&self, port: u16, ticket: VerifiedTicket) {
        let mut tickets = self.tickets();
        let server = (ticket.server_name().to_owned(), port);
        if let Some(held) = tickets.get_mut(&server) {
            if ticket.not_after() >= held.not_after() {
                *held = ticket;
            }
            return;
        }
        if tickets.len() >= self.capacity {
            let first = tickets.iter().min_by_key(|(_, held)| held.not_after());
            if let Some(server) = first.map(|(server, _)| server.clone()) {
                tickets.remove(&server);
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
        tickets.insert(server, ticket);
    }

    /// The ticket of the server `server_name` at `port`, if there is one that is valid at `now`.
    #[must_use]
    pub fn get(&self, server_name: &str, port: u16, now: SystemTime) -> Option<VerifiedTicket> {
        let server = (server_name.to_ascii_lowercase(), port);
        let mut tickets = self.tickets();
        let held = tickets.get(&server)?;
        if held.is_valid(now) {
            return Some(held.clone());
        }
        tickets.remove(&server);
        None
    }

    /// Removes the ticket of a server, after the server refused it for instance.
    pub fn remove(&self, server_name: &str, port: u16) {
        self.tickets().remove(&(server_name.to_ascii_lowercase(), port));
    }

    /// Removes all, as when the roots or revocation lists change that they were verified by.
    pub fn clear(&self) {
        self.tickets().clear();
    }

    /// How many tickets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tickets().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tickets had to go because the store was full.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    fn tickets(&self) -> MutexGuard<'_, HashMap<(String, u16), VerifiedTicket>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
