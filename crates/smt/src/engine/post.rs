//! Post-handshake messages (spec 5.9): the tickets that a server gives to clients which want them.

use std::collections::HashMap;
use std::time::SystemTime;

use smt_proto::SessionId;
use smt_proto::wire::{WANTS_SMT_TICKET, WANTS_TLS_TICKETS};

use super::handshakes::Done;
use super::{Engine, Event};
use crate::ticket::{Ticket, TicketError, VerifiedTicket};
use crate::tls::ClientHandshake;

/// The body is TLS records: NewSessionTicket messages.
const TLS_RECORDS: u8 = 1;
/// The body is an SMT-ticket.
const SMT_TICKET: u8 = 2;
/// Sessions of a client that wait for TLS tickets: each keeps its TLS handshake, some 20 KB, until
/// they come. Sessions beyond them take none, and are not resumed later.
pub const MAX_WAITING_FOR_TICKETS: usize = 1024;

/// What clients keep until their servers' tickets have come.
#[derive(Default)]
pub(super) struct Posts {
    waiting: HashMap<SessionId, Waiting>,
    /// How many of them have a TLS handshake.
    handshakes: usize,
}

struct Waiting {
    /// Until TLS tickets have come.
    handshake: Option<Box<ClientHandshake>>,
    server_name: String,
}

/// A ticket that a server has issued in a session, verified.
pub(super) struct NewTicket(VerifiedTicket);

impl Posts {
    /// Keeps what tickets in a client's session are read by. `handshake` is none if there are no TLS
    /// tickets to wait for. False if it could not be kept.
    pub(super) fn keep(
        &mut self,
        session: SessionId,
        handshake: Option<Box<ClientHandshake>>,
        server_name: String,
    ) -> bool {
        let room = self.handshakes < MAX_WAITING_FOR_TICKETS;
        let (kept, lost) = if room { (handshake, None) } else { (None, handshake) };
        self.handshakes += usize::from(kept.is_some());
        self.waiting.insert(session, Waiting { handshake: kept, server_name });
        lost.is_none()
    }

    /// Gives a session's handshake away.
    fn take(&mut self, session: SessionId) -> Option<Box<ClientHandshake>> {
        let handshake = self.waiting.get_mut(&session)?.handshake.take()?;
        self.handshakes -= 1;
        Some(handshake)
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        drop(self.take(session));
        self.waiting.remove(&session);
    }
}

impl Engine {
    /// Sends a client that has just authenticated the tickets it wants. What cannot be sent now is not
    /// sent: the next session is then as this one was.
    pub(super) fn send_posts(&mut self, session: SessionId, tls_tickets: Option<Vec<u8>>) {
        let wants = self.core.peer_wants(session);
        if let Some(tickets) = tls_tickets.filter(|_| wants & WANTS_TLS_TICKETS != 0) {
            self.send_post(session, TLS_RECORDS, &tickets);
        }
        if wants & WANTS_SMT_TICKET == 0 {
            return;
        }
        let early = self.handshakes.server.as_ref().and_then(|server| server.early_data());
        match early.map(|early| early.issuer().ticket(SystemTime::now())) {
            Some(Ok(ticket)) => self.send_post(session, SMT_TICKET, ticket.bytes()),
            Some(Err(error)) => tracing::warn!(%error, "no ticket for a client"),
            None => {}
        }
    }

    fn send_post(&mut self, session: SessionId, kind: u8, bytes: &[u8]) {
        let now = self.now();
        let body = [&[kind], bytes].concat();
        if let Err(error) = self.core.send_post(now, session, body.into()) {
            tracing::debug!(?error, "a post-handshake message was not sent");
        }
    }

    /// A server's post-handshake message. What is wrong with it harms nobody but the next session.
    pub(super) fn on_post(&mut self, session: SessionId, body: &[u8]) {
        let Some((&kind, bytes)) = body.split_first() else { return };
        let bytes = bytes.to_vec();
        match kind {
            TLS_RECORDS => self.on_tls_tickets(session, bytes),
            SMT_TICKET => self.on_smt_ticket(session, bytes),
            // Types to come are for clients that know them.
            _ => {}
        }
    }

    fn on_tls_tickets(&mut self, session: SessionId, bytes: Vec<u8>) {
        let Some(mut handshake) = self.handshakes.posts.take(session) else { return };
        let job = Box::new(move || {
            if let Err(error) = handshake.post(&bytes) {
                tracing::debug!(%error, "TLS tickets refused");
            }
            Done::Post(None)
        });
        self.handshakes.submit(session, job);
    }

    fn on_smt_ticket(&mut self, session: SessionId, bytes: Vec<u8>) {
        let Some(waiting) = self.handshakes.posts.waiting.get(&session) else { return };
        let Some(tls) = self.handshakes.client.clone() else { return };
        let Some(path) = self.core.path(session) else { return };
        let (name, port) = (waiting.server_name.clone(), path.remote_port);
        let job = Box::new(move || match verify(&tls, &bytes, &name, port) {
            Ok(ticket) => Done::Post(ticket),
            Err(error) => {
                tracing::warn!(%error, server = name, "a server's ticket was refused");
                Done::Post(None)
            }
        });
        self.handshakes.submit(session, job);
    }

    /// A post-handshake message was taken.
    pub(super) fn on_post_taken(&mut self, session: SessionId, ticket: Option<NewTicket>) {
        if let Some(NewTicket(ticket)) = ticket {
            self.events.push_back(Event::NewTicket { session, ticket });
        }
    }
}

/// Verifies a ticket and stores it. `None` if it is there already.
fn verify(
    tls: &crate::tls::ClientTls,
    bytes: &[u8],
    server_name: &str,
    port: u16,
) -> Result<Option<NewTicket>, TicketError> {
    let ticket = Ticket::parse(bytes)?;
    let now = SystemTime::now();
    // The store first: what is replaced meanwhile must not get a ticket that the old one vouched for.
    let store = tls.tickets();
    let held = store.get(server_name, port, now);
    if held.is_some_and(|held| held.ticket() == &ticket) {
        return Ok(None);
    }
    let verified = tls.verify_ticket(&ticket, server_name, now)?;
    store.put(port, verified.clone());
    Ok(Some(NewTicket(verified)))
}
