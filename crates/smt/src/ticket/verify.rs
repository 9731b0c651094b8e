//! The client's end: verifying a ticket, and encapsulating to its key.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use smt_proto::crypto::{Suite, SuiteId};
use smt_proto::wire::Params;

use super::error::TicketError;
use super::format::Ticket;
use super::hpke::Exporter;
use super::offer::Offer;
use super::secrets::{Agreed, EarlySecrets, StaticSecrets, info};
use super::{unix_ms, unix_seconds};
use crate::tls::{ClientTls, PeerIdentity, Vouched};

/// By how much a ticket may begin in the future of the client's clock.
pub const MAX_SKEW: Duration = Duration::from_secs(60);
/// Most encapsulations kept ready for one ticket.
pub const MAX_STOCK: usize = 16;

impl ClientTls {
    /// Checks that `ticket` is the word of the server named `server_name`, by everything that a
    /// certificate is checked by in a handshake of this configuration, and that it can be used
    /// now. Takes as long as a handshake's verification does: a few hundred microseconds.
    ///
    /// # Errors
    /// [`TicketError`] with the reason; the ticket must then be thrown away.
    pub fn verify_ticket(
        &self,
        ticket: &Ticket,
        server_name: &str,
        now: SystemTime,
    ) -> Result<VerifiedTicket, TicketError> {
        let now = unix_seconds(now);
        let (not_before, not_after) = ticket.validity();
        if not_before > now.saturating_add(MAX_SKEW.as_secs()) {
            return Err(TicketError::NotYetValid { now, not_before });
        }
        if now > not_after {
            return Err(TicketError::Expired { now, not_after });
        }
        if !self.speaks(ticket.alpn()) {
            let alpn = String::from_utf8_lossy(ticket.alpn()).into_owned();
            return Err(TicketError::WrongAlpn { alpn });
        }
        let chain: Vec<_> = ticket.certificates().collect();
        let vouched =
            self.verify_chain(server_name, &chain, now).map_err(TicketError::Untrusted)?;
        let (scheme, message, signature) = ticket.signature();
        if !vouched.has_signed(scheme, &message, signature) {
            return Err(TicketError::BadSignature);
        }
        let verified = VerifiedTicket(Arc::new(Inner {
            ticket: ticket.clone(),
            server_name: server_name.to_ascii_lowercase(),
            not_after: not_after.min(vouched.not_after),
            vouched,
            info: info(ticket.bytes()),
            stock: Mutex::new(Stock { process: std::process::id(), ready: Vec::new() }),
        }));
        // A key that nothing can be encapsulated to is found now, not in a call.
        let first = verified.make().ok_or(TicketError::BadKey)?;
        verified.stock().ready.push(first);
        Ok(verified)
    }
}

/// A ticket that a client has verified. Cheap to clone; clones share their stock.
#[derive(Clone)]
pub struct VerifiedTicket(Arc<Inner>);

struct Inner {
    ticket: Ticket,
    server_name: String,
    not_after: u64,
    vouched: Vouched,
    info: Vec<u8>,
    stock: Mutex<Stock>,
}

/// Encapsulations made ahead, each taken out once. Those of a parent process are not used by its
/// child: both would offer the same key.
struct Stock {
    process: u32,
    ready: Vec<Encapsulated>,
}

struct Encapsulated {
    key: Vec<u8>,
    exporter: Exporter,
}

impl VerifiedTicket {
    /// The ticket.
    #[must_use]
    pub fn ticket(&self) -> &Ticket {
        &self.0.ticket
    }

    /// For which server it was verified, in lower case.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.0.server_name
    }

    /// Who the server is, by the ticket's certificate.
    #[must_use]
    pub fn peer(&self) -> &PeerIdentity {
        &self.0.vouched.identity
    }

    /// What the server declares of itself; the first ID in it means nothing.
    #[must_use]
    pub fn params(&self) -> Params {
        self.0.ticket.params()
    }

    /// How many bytes of early requests the server takes per session, counted on the wire.
    #[must_use]
    pub fn max_early(&self) -> u32 {
        self.0.ticket.max_early()
    }

    /// The cipher suite of early data.
    #[must_use]
    pub fn suite(&self) -> SuiteId {
        self.0.ticket.suite()
    }

    /// The application protocol of early data.
    #[must_use]
    pub fn alpn(&self) -> &[u8] {
        self.0.ticket.alpn()
    }

    /// The last second it can be used in, since 1970: of the ticket or of its certificate.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.0.not_after
    }

    /// Whether it can be used at `now`.
    #[must_use]
    pub fn is_valid(&self, now: SystemTime) -> bool {
        unix_seconds(now) <= self.0.not_after
    }

    /// The ticket, if it can be used for `server_name` by what `tls` trusts now: as it is if that has
    /// verified it, else verified anew.
    pub(crate) fn trusted_by(
        &self,
        tls: &ClientTls,
        server_name: &str,
        now: SystemTime,
    ) -> Option<VerifiedTicket> {
        if !self.is_valid(now) || self.server_name() != server_name.to_ascii_lowercase() {
            return None;
        }
        if self.0.vouched.is_word_of(tls) {
            return Some(self.clone());
        }
        tls.verify_ticket(self.ticket(), server_name, now).ok()
    }

    /// Agrees on a fresh secret with the server: one made ahead if there is one, which costs
    /// nothing, else a new one, up to some 250 microseconds.
    ///
    /// # Errors
    /// [`TicketError::BadKey`] never comes for a ticket that passed verification.
    pub fn encapsulate(&self) -> Result<Encapsulation, TicketError> {
        let ready = self.stock().ready.pop();
        let made = ready.or_else(|| self.make()).ok_or(TicketError::BadKey)?;
        Ok(Encapsulation { ticket: self.clone(), key: made.key, exporter: made.exporter })
    }

    /// Makes encapsulations ahead until `count` are ready, at most [`MAX_STOCK`]; for idle times.
    pub fn fill_stock(&self, count: usize) {
        let count = count.min(MAX_STOCK);
        while self.stocked() < count {
            let Some(made) = self.make() else { return };
            let mut stock = self.stock();
            if stock.ready.len() < count {
                stock.ready.push(made);
            }
        }
    }

    /// How many encapsulations are ready.
    #[must_use]
    pub fn stocked(&self) -> usize {
        self.stock().ready.len()
    }

    fn make(&self) -> Option<Encapsulated> {
        let ticket = &self.0.ticket;
        let (key, exporter) = ticket.kem().encapsulate(ticket.public_key(), &self.0.info)?;
        Some(Encapsulated { key, exporter })
    }

    fn stock(&self) -> std::sync::MutexGuard<'_, Stock> {
        let mut stock = self.0.stock.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        if stock.process != process {
            *stock = Stock { process, ready: Vec::new() };
        }
        stock
    }
}

impl fmt::Debug for VerifiedTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedTicket")
            .field("server_name", &self.0.server_name)
            .field("not_after", &self.0.not_after)
            .field("ticket", &self.0.ticket)
            .finish_non_exhaustive()
    }
}

/// One secret agreed on with a server, for one handshake.
pub struct Encapsulation {
    ticket: VerifiedTicket,
    key: Vec<u8>,
    exporter: Exporter,
}

impl Encapsulation {
    /// The ticket it was made of.
    #[must_use]
    pub fn ticket(&self) -> &VerifiedTicket {
        &self.ticket
    }

    /// The offer for the client's parameter block (spec 5.1, entry 9). `static_session`: no TLS
    /// follows, the session is to live on this secret.
    #[must_use]
    pub fn offer(&self, now: SystemTime, static_session: bool) -> Vec<u8> {
        let ticket_id = *self.ticket.ticket().id();
        Offer { ticket_id, static_session, time_ms: unix_ms(now), key: &self.key }.emit()
    }

    /// The secrets, once flight 0 with the offer is made. `context` makes the early context of
    /// suite, ticket and application protocol ([`smt_proto::keys::early_context`]).
    #[must_use]
    pub fn agree(self, context: impl FnOnce(&dyn Suite, &[u8], &[u8]) -> Vec<u8>) -> ClientEarly {
        ClientEarly(Agreed::new(self.exporter, self.ticket.ticket(), context))
    }
}

impl fmt::Debug for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encapsulation").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

/// What a client shares with the server by its offer.
#[derive(Debug)]
pub struct ClientEarly(Agreed);

impl ClientEarly {
    /// The secrets of early data.
    #[must_use]
    pub fn secrets(&self) -> EarlySecrets {
        self.0.early()
    }

    /// The secrets of a session without TLS, once both parameter blocks are known. `key_context`
    /// is that of [`smt_proto::keys::key_context`].
    #[must_use]
    pub fn static_secrets(&self, key_context: &[u8]) -> StaticSecrets {
        self.0.static_secrets(key_context)
    }
}
