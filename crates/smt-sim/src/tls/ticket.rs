//! A stand-in for SMT-tickets and what servers keep against replay (spec 5.7). Secrets come from what
//! all honest hosts know, the ticket, and bytes that the client draws, which stand for an encapsulated
//! key: nobody else can work them out, and they depend on all that an offer is bound to.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use smt_proto::EarlyBinding;
use smt_proto::crypto::{Random, Suite};
use smt_proto::wire::Params;

use super::{ALPN, Secrets, Trust};
use crate::packet::HostId;
use crate::rng::Rng;

const ID_LEN: usize = 16;
/// Length of what stands for an encapsulated key, in bytes.
const ENC_LEN: usize = 32;
/// What comes before it in an offer: ticket ID, flags, time.
const OFFER_HEAD: usize = ID_LEN + 1 + 8;

/// A ticket of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Whose: the name of the service.
    pub service: HostId,
    /// Tickets of a service that come one after another.
    pub generation: u32,
    /// Bytes of requests that may go early.
    pub max_early: u32,
    /// What the client goes by until the server tells its own.
    pub params: Params,
}

impl Ticket {
    fn id(&self) -> [u8; ID_LEN] {
        ticket_id(self.service, self.generation)
    }

    /// The ticket as it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.id().to_vec();
        bytes.extend_from_slice(&self.max_early.to_be_bytes());
        bytes.extend_from_slice(&self.params.emit(0));
        bytes
    }

    /// Reads a ticket; `None` if it makes no sense.
    pub fn parse(bytes: &[u8]) -> Option<Ticket> {
        let (id, rest) = bytes.split_first_chunk::<ID_LEN>()?;
        let (max_early, rest) = rest.split_first_chunk::<4>()?;
        let (params, len) = Params::parse(rest).ok()?;
        let service = HostId::from_be_bytes(*id.first_chunk()?);
        let generation = u32::from_be_bytes(*id.get(4..)?.first_chunk()?);
        let max_early = u32::from_be_bytes(*max_early);
        let ticket = Ticket { service, generation, max_early, params };
        (len == rest.len() && ticket.id() == *id).then_some(ticket)
    }

    /// A new offer of this ticket at this time, in microseconds, and what stands for its key.
    pub fn offer(&self, rng: &mut Rng, time: u64) -> Offer {
        let mut enc = [0; ENC_LEN];
        rng.fill(&mut enc);
        Offer { id: self.id(), time, enc }
    }
}

fn ticket_id(service: HostId, generation: u32) -> [u8; ID_LEN] {
    let mut id = [0x7c; ID_LEN];
    id[..4].copy_from_slice(&service.to_be_bytes());
    id[4..8].copy_from_slice(&generation.to_be_bytes());
    id
}

/// A client's offer of early data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    id: [u8; ID_LEN],
    /// The client's clock, in microseconds.
    pub time: u64,
    /// What stands for the encapsulated key.
    pub enc: [u8; ENC_LEN],
}

impl Offer {
    /// The offer as it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        [&self.id[..], &[0], &self.time.to_be_bytes(), &self.enc].concat()
    }

    /// Reads an offer; `None` if it makes no sense.
    pub fn parse(bytes: &[u8]) -> Option<Offer> {
        let (head, enc) = bytes.split_first_chunk::<OFFER_HEAD>()?;
        let (id, rest) = head.split_first_chunk::<ID_LEN>()?;
        let (flags, time) = rest.split_first()?;
        let time = u64::from_be_bytes(time.try_into().ok()?);
        (*flags == 0).then_some(Offer { id: *id, time, enc: enc.try_into().ok()? })
    }

    /// Whether it is an offer of this ticket.
    pub fn is_of(&self, ticket: &Ticket) -> bool {
        self.id == ticket.id()
    }
}

impl Trust {
    /// The secrets of early data.
    pub fn early(
        &self,
        suite: &dyn Suite,
        ticket: &Ticket,
        offer: &Offer,
        binding: &EarlyBinding,
    ) -> Secrets {
        let context = binding.context(suite, &ticket.bytes(), ALPN);
        self.secrets(suite, &[b"early", &ticket.id(), &offer.enc], &context)
    }
}

/// Why an offer is not taken, or that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is the first with this key.
    Fresh,
    /// It was taken before.
    Replayed,
    /// There is no room to remember it.
    Full,
    /// It may have been taken before the memory of it was lost.
    Restarted,
    /// Its time is too far from the server's.
    Skewed,
}

/// What a service remembers of offers that it has taken, so that it takes each once.
#[derive(Clone, Debug)]
pub struct Register {
    claims: BTreeMap<[u8; ENC_LEN], u64>,
    /// How far a client's clock may be from the server's, in microseconds.
    window: u64,
    room: usize,
    restarted: Option<u64>,
}

impl Register {
    fn new(window: u64, room: usize) -> Register {
        Register { claims: BTreeMap::new(), window, room, restarted: None }
    }

    /// Takes an offer at `now`, in microseconds, unless it may have been taken before.
    pub fn claim(&mut self, offer: &Offer, now: u64) -> Claim {
        if offer.time.abs_diff(now) > self.window {
            return Claim::Skewed;
        }
        if self.restarted.is_some_and(|at| offer.time <= at + self.window) {
            return Claim::Restarted;
        }
        self.claims.retain(|_, time| *time + self.window >= now);
        if self.claims.contains_key(&offer.enc) {
            return Claim::Replayed;
        }
        if self.claims.len() >= self.room {
            return Claim::Full;
        }
        self.claims.insert(offer.enc, offer.time);
        Claim::Fresh
    }

    /// Forgets everything, and when.
    pub fn restart(&mut self, now: u64) {
        self.claims.clear();
        self.restarted = Some(now);
    }

    /// Forgets everything, and that it did: a planted bug.
    #[cfg(feature = "mutations")]
    pub fn forget(&mut self) {
        self.claims.clear();
    }
}

/// The registers of all services of a run; hosts of one service share theirs.
#[derive(Clone, Debug, Default)]
pub struct Registers(Rc<RefCell<BTreeMap<HostId, Register>>>);

impl Registers {
    /// Lets something be done with the register of a service, made with this window, in microseconds,
    /// and room if there is none yet.
    pub fn with<T>(
        &self,
        service: HostId,
        (window, room): (u64, usize),
        then: impl FnOnce(&mut Register) -> T,
    ) -> T {
        let mut registers = self.0.borrow_mut();
        then(registers.entry(service).or_insert_with(|| Register::new(window, room)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        let params = Params {
            id_bits: 48,
            first_id: 6,
            max_rpcs: 9,
            max_message: 1000,
            unscheduled: 100,
            wake_delay_us: 0,
            max_id_bits: 56,
            wants: 0,
            lanes: 1,
        };
        Ticket { service: 3, generation: 5, max_early: 4000, params }
    }

    #[test]
    fn tickets_and_offers_are_read_as_written() {
        let ticket = ticket();
        assert_eq!(Ticket::parse(&ticket.bytes()), Some(ticket.clone()));
        assert_eq!(Ticket::parse(&ticket.bytes()[1..]), None);
        let offer = ticket.offer(&mut Rng::new(1), 77);
        assert_eq!(Offer::parse(&offer.bytes()), Some(offer));
        assert!(offer.is_of(&ticket) && !offer.is_of(&Ticket { generation: 6, ..ticket }));
        assert_eq!(Offer::parse(&offer.bytes()[..40]), None);
    }

    #[test]
    fn an_offer_is_taken_once_whatever_happens() {
        let mut rng = Rng::new(1);
        let mut register = Register::new(100, 2);
        let mut at = |time| ticket().offer(&mut rng, time);
        let first = at(1000);
        assert_eq!(register.claim(&first, 1100), Claim::Fresh);
        assert_eq!(register.claim(&first, 1100), Claim::Replayed);
        assert_eq!(register.claim(&first, 1101), Claim::Skewed);
        assert_eq!(register.claim(&at(1200), 1100), Claim::Fresh);
        assert_eq!(register.claim(&at(1100), 1100), Claim::Full);
        register.restart(1150);
        assert_eq!(register.claim(&at(1250), 1150), Claim::Restarted);
        assert_eq!(register.claim(&at(1251), 1160), Claim::Fresh);
    }
}
