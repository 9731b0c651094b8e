//! What must hold in every run, whatever the network and attackers do. Each file is one rule; the
//! hosts report to it what happens, and the first violation ends the run.

pub mod authentic;
pub mod delivery;
pub mod early;
pub mod leftovers;
pub mod liveness;
pub mod memory;
pub mod nonces;
pub mod once;
pub mod pattern;
pub mod prefix;
pub mod sessions;

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

use smt_proto::Time;

use crate::packet::HostId;
use crate::scenario::{CallPlan, Scenario};
use delivery::Call;
use sessions::{Facts, SessionKey};

/// Number of an RPC in a run.
pub type CallId = u32;

/// What a run must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Messages arrive whole and unchanged, calls end once and with what the situation allows.
    Delivery,
    /// No RPC runs twice; one that succeeded ran once; one that was not started did not run.
    AtMostOnce,
    /// No key and nonce seal two plaintexts.
    Nonces,
    /// What an endpoint holds stays within its limits.
    Memory,
    /// What is not authentic changes nothing.
    Authenticity,
    /// What is here of a message is always the beginning of the right one.
    Prefix,
    /// Everything ends in time once faults have ceased.
    Liveness,
    /// Nothing stays behind.
    Leftovers,
    /// Sessions end only for a reason.
    Sessions,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Delivery => "delivery",
            Rule::AtMostOnce => "at most once",
            Rule::Nonces => "nonces",
            Rule::Memory => "memory",
            Rule::Authenticity => "authenticity",
            Rule::Prefix => "order and completeness",
            Rule::Liveness => "liveness",
            Rule::Leftovers => "leftovers",
            Rule::Sessions => "sessions",
        })
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// At which host.
    pub host: HostId,
    /// When, by the time of the run.
    pub at: Time,
    /// What happened.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.at.as_nanos() as f64 / 1e6;
        write!(f, "{}, at host {} after {ms:.6} ms: {}", self.rule, self.host, self.detail)
    }
}

/// What all hosts of a run report to.
#[derive(Debug)]
pub struct Watch {
    /// Time of the run, set before each step.
    pub now: Time,
    /// The host at work.
    pub at_work: HostId,
    /// The first violation.
    pub violation: Option<Violation>,
    /// All RPCs of the run.
    pub calls: Vec<Call>,
    /// Those not over yet.
    pub open: u32,
    /// All sessions with keys, as both ends see them.
    pub sessions: BTreeMap<SessionKey, Facts>,
    /// Offers of early data that were taken, by service.
    pub taken: BTreeSet<(HostId, Vec<u8>)>,
    /// Post-handshake messages on their way.
    pub posts: BTreeMap<SessionKey, Vec<Vec<u8>>>,
    /// Which service each host belongs to.
    pub services: Vec<HostId>,
    /// How often each host has begun anew.
    pub incarnations: Vec<u32>,
    /// Faults of hosts that have struck: pauses, crashes, operators' doings, cores that stand still,
    /// wrong steering.
    pub host_faults: [u64; 5],
    /// Tells the seed of what bodies consist of.
    pub pattern: u64,
}

/// A [`Watch`] in the hands of all hosts.
#[derive(Clone, Debug)]
pub struct Shared(Rc<RefCell<Watch>>);

impl Shared {
    /// For a run of `scenario`.
    pub fn new(scenario: &Scenario) -> Shared {
        Shared(Rc::new(RefCell::new(Watch {
            now: Time::ZERO,
            at_work: 0,
            violation: None,
            calls: Vec::new(),
            open: 0,
            sessions: BTreeMap::new(),
            taken: BTreeSet::new(),
            posts: BTreeMap::new(),
            services: scenario.services(),
            incarnations: vec![0; scenario.hosts.len()],
            host_faults: [0; 5],
            pattern: scenario.seed,
        })))
    }

    /// To look at.
    pub fn look(&self) -> Ref<'_, Watch> {
        self.0.borrow()
    }

    /// To report to.
    pub fn report(&self) -> RefMut<'_, Watch> {
        self.0.borrow_mut()
    }
}

impl Watch {
    /// A host sets to work.
    pub fn begin(&mut self, now: Time, host: HostId) {
        self.now = now;
        self.at_work = host;
    }

    /// Notes that a rule was broken; only the first counts.
    pub fn violated(&mut self, rule: Rule, host: HostId, detail: String) {
        let at = self.now;
        self.violation.get_or_insert(Violation { rule, host, at, detail });
    }

    /// Notes an RPC that is to be.
    pub fn plan(&mut self, plan: CallPlan) -> CallId {
        let id = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        self.calls.push(Call::new(plan));
        self.open += 1;
        id
    }

    /// An RPC of the run.
    pub fn call(&self, id: CallId) -> Option<&Call> {
        self.calls.get(id as usize)
    }
}

#[cfg(test)]
mod tests;
