//! Incast: many hosts send to one at the same time.

use core::fmt;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use smt_proto::Config;

use super::experiment::{Error, Traffic, config};
use super::framing::Framing;
use super::journal::{Entry, Journal};
use super::mesh::{Mesh, settle, zeros};
use super::smt_host::SmtHost;
use crate::net::{NetConfig, Topology};
use crate::packet::HostId;
use crate::world::World;

/// The host that all others send to.
const TARGET: HostId = 0;
/// When a round is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// Application bytes of messages that only ask.
const ASKING: u32 = 100;

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The target calls all others at once; their responses meet at its link.
    Responses,
    /// All others call the target at once; nobody has asked for their requests.
    Requests,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Direction::Responses => "responses",
            Direction::Requests => "requests",
        })
    }
}

impl FromStr for Direction {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "responses" => Ok(Direction::Responses),
            "requests" => Ok(Direction::Requests),
            _ => Err("directions are responses and requests".to_owned()),
        }
    }
}

/// An incast to make.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Incast {
    /// How many send.
    pub senders: u32,
    /// Application bytes of what each sends.
    pub bytes: u32,
    /// Who begins.
    pub direction: Direction,
    /// Whether requests bound what of their responses comes without grants.
    pub control: bool,
    /// How often, one after the other.
    pub rounds: u32,
    /// Links of the hosts, all at one switch.
    pub link_gbps: f64,
    /// Buffer of each switch port, in bytes.
    pub buffer_bytes: u32,
    /// What cores draw from.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IncastReport {
    /// What was run.
    pub incast: Incast,
    /// Mean time until the target had everything, in microseconds.
    pub mean_us: f64,
    /// The longest, in microseconds.
    pub longest_us: f64,
    /// How long its link needs for the packets of everybody, in microseconds.
    pub ideal_us: f64,
    /// Application bytes over the time that they took, in Gb/s.
    pub goodput_gbps: f64,
    /// Messages that never came.
    pub unfinished: u64,
    /// What the network and the cores counted.
    pub traffic: Traffic,
}

impl Incast {
    /// Makes the run.
    ///
    /// # Errors
    /// [`Error`]; nothing was run.
    pub fn run(&self) -> Result<IncastReport, Error> {
        let net = self.net();
        net.check().map_err(Error::Net)?;
        let journal = Journal::new(net.hosts());
        let mesh = Mesh {
            hosts: net.hosts(),
            config: Config { incast_control: self.control, ..config(&net) },
            zeros: zeros(self.bytes.max(ASKING)),
            response: if self.direction == Direction::Responses { self.bytes } else { 0 },
            seed: self.seed,
        };
        let hosts =
            mesh.build(&journal, |client, _| client == TARGET).map_err(|_| Error::Sessions)?;
        let mut world = World::new(&net, hosts, self.seed);
        settle(&mut world);
        let rounds = (0..self.rounds).map(|_| self.round(&mut world, &journal));
        let rounds: Vec<Round> = rounds.collect();
        Ok(self.report(&net, &world, &journal, &rounds))
    }

    fn net(&self) -> NetConfig {
        NetConfig {
            topology: Topology::Switch { hosts: self.senders + 1 },
            link_gbps: self.link_gbps,
            buffer_bytes: self.buffer_bytes,
            ..NetConfig::default()
        }
    }

    /// Everybody sends once.
    fn round(&self, world: &mut World<SmtHost>, journal: &Rc<Journal>) -> Round {
        let start = world.now();
        for sender in 1..=self.senders {
            let (from, to, bytes) = match self.direction {
                Direction::Responses => (TARGET, sender, ASKING),
                Direction::Requests => (sender, TARGET, self.bytes),
            };
            if let Some(host) = world.hosts.get_mut(from as usize) {
                host.send(start, to, bytes, u64::from(sender));
            }
        }
        (0..=self.senders).for_each(|host| world.poke(host));
        let mut round = Round { left: u64::from(self.senders), took: Duration::ZERO };
        let mut open = round.left;
        let mut entries = Vec::new();
        // The round is over when the calls are; what counts is when the target had everything.
        while open > 0 && world.now() < start + PATIENCE && world.step() {
            journal.take(&mut entries);
            for entry in &entries {
                let (at, here) = match (*entry, self.direction) {
                    (Entry::Arrived { at, .. }, Direction::Requests) => (at, true),
                    (Entry::Ended { at, ok, .. }, Direction::Responses) => (at, ok),
                    (Entry::Arrived { at, .. } | Entry::Ended { at, .. }, _) => (at, false),
                };
                open -= u64::from(matches!(entry, Entry::Ended { .. }));
                if here {
                    round.left -= 1;
                    round.took = at.since(start);
                }
            }
        }
        round
    }

    fn report(
        &self,
        net: &NetConfig,
        world: &World<SmtHost>,
        journal: &Journal,
        rounds: &[Round],
    ) -> IncastReport {
        let took: Vec<f64> = rounds.iter().map(|r| r.took.as_nanos() as f64 / 1e3).collect();
        let mean_us = took.iter().sum::<f64>() / took.len().max(1) as f64;
        let on_wire = Framing::of(self.bytes).map_or(0, |framing| framing.on_wire());
        let bits = f64::from(self.senders) * f64::from(self.bytes) * 8.0;
        let mut traffic = Traffic::of(world.stats());
        world.hosts.iter().for_each(|host| traffic.add(host.endpoint.stats()));
        traffic.sessions_lost = journal.sessions_lost();
        IncastReport {
            incast: self.clone(),
            mean_us,
            longest_us: took.iter().copied().fold(0.0, f64::max),
            ideal_us: (on_wire * u64::from(self.senders)) as f64 * 8.0 / net.link_gbps / 1e3,
            goodput_gbps: if mean_us > 0.0 { bits / mean_us / 1e3 } else { 0.0 },
            unfinished: rounds.iter().map(|round| round.left).sum(),
            traffic,
        }
    }
}

/// One time that everybody has sent.
struct Round {
    /// Messages that have not come.
    left: u64,
    /// Until the last of those that have.
    took: Duration,
}

impl IncastReport {
    /// Whether everything came and no session ended.
    pub fn is_sound(&self) -> bool {
        self.unfinished == 0 && self.traffic.sessions_lost == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_incast_fills_the_link() {
        for direction in [Direction::Responses, Direction::Requests] {
            let incast = Incast {
                senders: 20,
                bytes: 10_000,
                direction,
                control: true,
                rounds: 2,
                link_gbps: 10.0,
                buffer_bytes: 1 << 20,
                seed: 1,
            };
            let report = incast.run().unwrap();
            assert!(report.is_sound(), "{report:?}");
            assert_eq!(report.traffic.dropped, 0);
            assert!(report.mean_us >= report.ideal_us, "{report:?}");
            assert!(report.mean_us < 1.5 * report.ideal_us, "{report:?}");
        }
    }
}
