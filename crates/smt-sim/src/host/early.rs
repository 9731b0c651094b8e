//! Early data and post-handshake messages of a host: tickets, offers, and what becomes of them.

use bytes::Bytes;
use smt_proto::crypto::Random;
use smt_proto::keys::answered_secret;
use smt_proto::{Body, SessionId};

use super::{Host, Known};
use crate::check::authentic::Receiver;
use crate::packet::HostId;
use crate::scenario::EarlyData;
use crate::tls::{Claim, Offer, Secrets, Ticket};

/// Type of a post-handshake message: bytes for TLS.
const POST_TLS: u8 = 1;
/// Type of a post-handshake message: a ticket.
const POST_TICKET: u8 = 2;
/// What clocks that tell the date show when a run begins, in microseconds.
const EPOCH: u64 = 1_000_000_000;

impl Host {
    /// The date by this host's clock, in microseconds.
    fn date(&self) -> u64 {
        EPOCH + self.watch.look().now.as_nanos() / 1000 + self.config.skew_us
    }

    /// The ticket that this host gives out.
    fn own_ticket(&self) -> Option<Ticket> {
        let ticket = self.templates.get(&self.service)?.clone();
        Some(Ticket { generation: self.generation, ..ticket })
    }

    /// The register of this host's service.
    fn register_size(&self, early: &EarlyData) -> (u64, usize) {
        (early.window_us, early.entries as usize)
    }

    /// Gives itself the tickets of all others, if the run has it so.
    pub(super) fn know_tickets(&mut self) {
        if self.early.as_ref().is_some_and(|early| early.known) {
            self.tickets = self.templates.clone();
        }
    }

    /// Offers early data with a first flight, if there is a ticket: what to say, and by which.
    pub(super) fn offer_to(&mut self, peer: HostId) -> Option<(Ticket, Offer)> {
        self.early.as_ref()?;
        let service = self.services.get(peer as usize)?;
        let ticket = self.tickets.get(service)?.clone();
        let date = self.date();
        let offer = ticket.offer(&mut self.rng, date);
        Some((ticket, offer))
    }

    /// Installs the secrets of early data that go with an offer.
    pub(super) fn install_early(&mut self, session: SessionId, ticket: &Ticket, offer: &Offer) {
        let Some(binding) = self.shards[0].endpoint.early_binding(session) else { return };
        let Secrets { client, server } = self.trust.early(self.suite, ticket, offer, &binding);
        let Some(known) = self.sessions.get_mut(&session) else { return };
        known.early = true;
        let peer = match known.role {
            smt_proto::Role::Client => {
                known.early_secret = Some(server.clone());
                Some(ticket.params)
            }
            smt_proto::Role::Server => {
                known.early_receiver = Some(Receiver::new(self.suite, &client));
                None
            }
        };
        let early = smt_proto::EarlyData {
            suite: self.suite,
            client_secret: client,
            server_secret: server,
            peer,
            max_early: ticket.max_early,
            alone: false,
        };
        let local = self.local();
        self.shards[0].endpoint.install_early(local, session, early);
    }

    /// Makes what vouches for early responses, if a server's answer has come of which they follow. True if
    /// it has.
    pub(super) fn learn_answer(&mut self, session: SessionId) -> bool {
        let Some(known) = self.sessions.get_mut(&session) else { return false };
        let Some(secret) = &known.early_secret else { return false };
        let Some(block) = self.shards[0].endpoint.early_answer(session) else { return false };
        if known.answer == block {
            return false;
        }
        known.answer = block.to_vec();
        let secret = answered_secret(self.suite, secret, block);
        known.early_receiver = Some(Receiver::new(self.suite, &secret));
        true
    }

    /// Takes a client's offer, if its ticket is ours and it was not taken before.
    pub(super) fn take_offer(&mut self, session: SessionId, offer: &[u8]) {
        let Some(early) = self.early.clone() else { return };
        let (Some(offer), Some(ours)) = (Offer::parse(offer), self.own_ticket()) else { return };
        let before = ours.generation.checked_sub(1);
        let before = before.map(|generation| Ticket { generation, ..ours.clone() });
        let known = [Some(ours), before].into_iter().flatten();
        let Some(ticket) = known.into_iter().find(|ticket| offer.is_of(ticket)) else { return };
        let (now, size) = (self.date(), self.register_size(&early));
        let claim = self.registers.with(self.service, size, |register| register.claim(&offer, now));
        #[cfg(feature = "mutations")]
        let claim = match self.core.mutation {
            Some(smt_proto::mutation::Mutation::StrikeRegisterIgnored) => Claim::Fresh,
            _ => claim,
        };
        if claim == Claim::Fresh {
            self.watch.report().offer_taken(self.id, self.service, &offer.enc);
            self.install_early(session, &ticket, &offer);
        }
    }

    /// Starts the early calls that wait for a peer in the session that is on its way there.
    pub(super) fn start_early(&mut self, peer: HostId) {
        let good = |known: &Known| {
            known.peer == peer && known.early && !known.usable && !known.over && known.is_client()
        };
        let session = self.sessions.iter().find(|(_, known)| good(known)).map(|(id, _)| *id);
        let Some(session) = session else { return };
        let waiting: Vec<_> = self.waiting.get(&peer).into_iter().flatten().copied().collect();
        for call in waiting {
            let early = self.watch.look().call(call).is_some_and(|call| call.plan.early);
            if early
                && self.start_one(session, call, true).is_ok()
                && let Some(queue) = self.waiting.get_mut(&peer)
            {
                queue.retain(|waiting| *waiting != call);
            }
        }
    }

    /// Sends a new client what belongs to no call.
    pub(super) fn send_posts(&mut self, session: SessionId) {
        let (Some(early), Some(ticket)) = (self.early.clone(), self.own_ticket()) else { return };
        let mut bodies = Vec::new();
        for _ in 0..early.posts {
            let mut body = vec![0; 1 + self.rng.below(3000) as usize];
            self.rng.fill(&mut body);
            body[0] = POST_TLS;
            bodies.push(body);
        }
        bodies.push([&[POST_TICKET], &ticket.bytes()[..]].concat());
        let local = self.local();
        for body in bodies {
            let sent = self.shards[0].endpoint.send_post(local, session, Bytes::from(body.clone()));
            let key = self.sessions.get(&session).map(|known| known.key);
            if let (Ok(()), Some(key)) = (sent, key) {
                self.watch.report().posted(key, &body);
            }
        }
    }

    pub(super) fn on_post(&mut self, session: SessionId, body: &Body) {
        let Some((key, peer)) = self.sessions.get(&session).map(|known| (known.key, known.peer))
        else {
            return;
        };
        self.watch.report().post(self.id, key, body);
        if let Some((&POST_TICKET, ticket)) = body.split_first()
            && let Some(ticket) = Ticket::parse(ticket)
            && self.services.get(peer as usize) == Some(&ticket.service)
        {
            self.tickets.insert(ticket.service, ticket);
        }
    }

    /// Gives out new tickets from now on; the last ones stay good.
    pub(super) fn rotate_tickets(&mut self) {
        self.generation += 1;
    }

    /// What a crash does to tickets and the register.
    pub(super) fn lose_tickets(&mut self) {
        self.tickets.clear();
        let Some(early) = self.early.clone() else { return };
        if !early.lasting {
            self.generation += 2;
        }
        let shared = self.services.iter().filter(|service| **service == self.service).count() > 1;
        let (now, size) = (self.date(), self.register_size(&early));
        if !shared {
            self.registers.with(self.service, size, |register| {
                #[cfg(feature = "mutations")]
                if self.core.mutation == Some(smt_proto::mutation::Mutation::RestartForgotten) {
                    return register.forget();
                }
                register.restart(now);
            });
        }
        self.know_tickets();
    }
}
