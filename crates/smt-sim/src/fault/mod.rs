//! Faults of the network, as rules that compose: what goes wrong, for whom, and from when until
//! when.
//!
//! The rules act in their order on each packet as it leaves its sender. A packet that one of them
//! drops takes its duplicates with it; delays add up. Each rule draws from a generator of its own,
//! so that adding a rule does not change what the others do.

mod state;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smt_proto::Time;

use crate::packet::{HostId, Packet};
use crate::rng::Rng;
use crate::tap::{Tap, Verdict};
use state::{Effect, State};

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What goes wrong.
    pub fault: Fault,
    /// Whose packets it concerns; by default everybody's.
    #[serde(default)]
    pub place: Place,
    /// When it begins, in microseconds; by default at once.
    #[serde(default)]
    pub from_us: u64,
    /// When it ends, in microseconds; by default never.
    #[serde(default = "never")]
    pub until_us: u64,
}

/// What goes wrong. Probabilities are of [0, 1], for each packet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Packets are lost, each for itself.
    Loss {
        /// Probability.
        p: f64,
    },
    /// Packets are lost in bursts: each sender's link is good or bad.
    GilbertElliott {
        /// Probability that a good link turns bad at a packet.
        p_enter: f64,
        /// Probability that a bad link turns good at a packet.
        p_leave: f64,
        /// Probability of loss while it is bad.
        loss_bad: f64,
        /// Probability of loss while it is good.
        loss_good: f64,
    },
    /// Packets are held back while others overtake them.
    Reorder {
        /// Probability.
        p: f64,
        /// Longest delay, in microseconds.
        max_delay_us: u64,
    },
    /// Packets arrive twice.
    Duplicate {
        /// Probability.
        p: f64,
        /// Longest delay of the second, in microseconds.
        max_delay_us: u64,
    },
    /// Bits of packets are flipped, anywhere; the origin of such packets is
    /// [`Corrupted`](crate::packet::Origin::Corrupted).
    Corrupt {
        /// Probability.
        p: f64,
        /// Most bits flipped in one packet; at least one is.
        max_bits: u32,
    },
    /// The network stalls now and then: what is sent during a stall goes on at its end.
    DelaySpike {
        /// Mean time between stalls, in microseconds.
        period_us: u64,
        /// Length of each, in microseconds.
        duration_us: u64,
    },
    /// These hosts are cut off from all others, both ways.
    Partition {
        /// The hosts; they reach each other.
        hosts: Vec<HostId>,
    },
    /// The link of each host is slow: the link from it if the place is [`Place::From`], else that
    /// towards it.
    Clog {
        /// Rate, in Gb/s.
        gbps: f64,
        /// Bytes that can wait; more are lost.
        queue_bytes: u32,
    },
}

/// Whose packets a rule concerns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Everybody's.
    #[default]
    All,
    /// Those from these hosts.
    From(Vec<HostId>),
    /// Those to these hosts.
    To(Vec<HostId>),
    /// Those between one of the first and one of the second hosts, both ways.
    Between(Vec<HostId>, Vec<HostId>),
}

/// The faults of a run.
pub struct Faults {
    rules: Vec<(Rule, State)>,
    struck: Struck,
}

/// How often each rule of some [`Faults`] has struck; stays readable while they are at work.
#[derive(Clone, Debug)]
pub struct Struck(Rc<[Cell<u64>]>);

fn never() -> u64 {
    u64::MAX
}

impl Fault {
    /// Its name, as configurations call it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Loss { .. } => "loss",
            Self::GilbertElliott { .. } => "gilbert_elliott",
            Self::Reorder { .. } => "reorder",
            Self::Duplicate { .. } => "duplicate",
            Self::Corrupt { .. } => "corrupt",
            Self::DelaySpike { .. } => "delay_spike",
            Self::Partition { .. } => "partition",
            Self::Clog { .. } => "clog",
        }
    }
}

impl From<Fault> for Rule {
    /// For everybody, all the time.
    fn from(fault: Fault) -> Self {
        Rule { fault, place: Place::All, from_us: 0, until_us: never() }
    }
}

impl Rule {
    fn applies(&self, now: Time, packet: &Packet) -> bool {
        let now_us = now.as_nanos() / 1000;
        (self.from_us..self.until_us).contains(&now_us) && self.place.has(packet.src, packet.dst)
    }
}

impl Place {
    fn has(&self, src: HostId, dst: HostId) -> bool {
        match self {
            Self::All => true,
            Self::From(hosts) => hosts.contains(&src),
            Self::To(hosts) => hosts.contains(&dst),
            Self::Between(a, b) => {
                a.contains(&src) && b.contains(&dst) || b.contains(&src) && a.contains(&dst)
            }
        }
    }
}

impl Faults {
    /// Faults by these rules, with chance decided by the seed.
    #[must_use]
    pub fn new(rules: Vec<Rule>, seed: u64) -> Self {
        let struck = Struck(rules.iter().map(|_| Cell::new(0)).collect());
        let rng = Rng::new(seed);
        let with_state = |(index, rule)| (rule, State::new(rng.fork(index)));
        Self { rules: (1..).zip(rules).map(with_state).collect(), struck }
    }

    /// How often the rules strike from now on and have struck.
    #[must_use]
    pub fn struck(&self) -> Struck {
        self.struck.clone()
    }
}

impl Struck {
    /// The counts, in the order of the rules: packets lost, held back, doubled or changed.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(Cell::get)
    }

    /// The count of one rule; 0 if there is no such rule.
    #[must_use]
    pub fn get(&self, rule: usize) -> u64 {
        self.0.get(rule).map_or(0, Cell::get)
    }
}

impl Tap for Faults {
    fn packet(
        &mut self,
        now: Time,
        packet: &mut Packet,
        extra: &mut Vec<(Duration, Packet)>,
    ) -> Verdict {
        let others = extra.len();
        let mut delay = Duration::ZERO;
        for ((rule, state), struck) in self.rules.iter_mut().zip(&*self.struck.0) {
            if !rule.applies(now, packet) {
                continue;
            }
            let effect = state.strike(rule, now, packet);
            struck.set(struck.get() + u64::from(effect != Effect::None));
            match effect {
                Effect::None | Effect::Changed => {}
                Effect::Lost => {
                    extra.truncate(others);
                    return Verdict::Drop;
                }
                Effect::Late(by) => delay += by,
                Effect::Twice(after) => extra.push((delay + after, packet.clone())),
            }
        }
        if delay.is_zero() { Verdict::Pass } else { Verdict::Delay(delay) }
    }
}

#[cfg(test)]
mod tests;
