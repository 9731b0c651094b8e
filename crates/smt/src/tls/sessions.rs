//! The tickets that a client keeps to resume sessions with.

use std::sync::Arc;

use rustls::client::{ClientSessionMemoryCache, ClientSessionStore};
use rustls::pki_types::ServerName;

use super::config::MAX_TICKETS;

/// Most servers, by name, whose tickets a client configuration keeps; the one known longest makes
/// room. Of each it keeps the newest [`MAX_TICKETS`], and uses each once.
pub const MAX_TICKETED_SERVERS: usize = 256;

/// Tickets in memory, by server name.
#[derive(Clone, Debug)]
pub(super) struct ClientSessions(pub(super) Arc<ClientSessionMemoryCache>);

impl ClientSessions {
    pub(super) fn new() -> Self {
        Self(Arc::new(ClientSessionMemoryCache::new(MAX_TICKETED_SERVERS * MAX_TICKETS)))
    }

    /// Throws the tickets of one server away.
    pub(super) fn forget(&self, name: &ServerName<'static>) {
        while self.0.take_tls13_ticket(name).is_some() {}
    }
}
