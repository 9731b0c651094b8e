//! The tickets that a client keeps to resume sessions with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::client::{ClientSessionMemoryCache, ClientSessionStore};
use rustls::pki_types::ServerName;

use super::config::MAX_TICKETS;

/// Most servers, by name, whose tickets a client configuration keeps; the one known longest makes
/// room. Of each it keeps the newest [`MAX_TICKETS`], and uses each once.
pub const MAX_TICKETED_SERVERS: usize = 256;

/// Most bytes of TLS records with tickets that a client looks at in one session; it keeps none of
/// longer ones, and the next session is a full handshake. A ticket is as long as the certificates of
/// the client that it vouches for, some KB at most, and travels in the next ClientHello.
pub const MAX_TLS_TICKETS_LEN: usize = 32 << 10;

/// Tickets in memory, by server name.
#[derive(Clone, Debug)]
pub(super) struct ClientSessions {
    pub(super) store: Arc<ClientSessionMemoryCache>,
    too_long: Arc<AtomicU64>,
}

impl ClientSessions {
    pub(super) fn new() -> Self {
        let store = ClientSessionMemoryCache::new(MAX_TICKETED_SERVERS * MAX_TICKETS);
        Self { store: Arc::new(store), too_long: Arc::default() }
    }

    /// Throws the tickets of one server away.
    pub(super) fn forget(&self, name: &ServerName<'static>) {
        while self.store.take_tls13_ticket(name).is_some() {}
    }

    /// Whether tickets of `len` bytes of records are to be looked at; if not, they are counted.
    pub(super) fn takes(&self, len: usize) -> bool {
        let takes = len <= MAX_TLS_TICKETS_LEN;
        if !takes {
            self.too_long.fetch_add(1, Ordering::Relaxed);
        }
        takes
    }

    /// How often tickets were too long.
    pub(super) fn too_long(&self) -> u64 {
        self.too_long.load(Ordering::Relaxed)
    }
}
