//! RPCs of one packet through a network that loses some: how long repair takes.

use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use smt_proto::Time;

use super::experiment::{Error, Traffic, config};
use super::framing::Framing;
use super::journal::{Entry, Journal};
use super::mesh::{Mesh, settle, zeros};
use super::outcome::percentile;
use super::smt_host::SmtHost;
use crate::fault::{Fault, Faults};
use crate::net::{NetConfig, Topology};
use crate::packet::HostId;
use crate::world::World;

/// When a run is given up, if so long nothing has ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// A run to make.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lossy {
    /// Hosts at one switch, each of which calls each other.
    pub hosts: u32,
    /// Calls of each host to each other at the same time.
    pub outstanding: u32,
    /// Application bytes of requests and responses.
    pub bytes: u32,
    /// Probability that a packet is lost.
    pub loss: f64,
    /// Calls to make, in all.
    pub calls: u64,
    /// Links of the hosts.
    pub link_gbps: f64,
    /// Time of an RPC when nothing else is under way: hosts are made as slow as that takes.
    pub rtt_us: f64,
    /// What decides losses.
    pub seed: u64,
}

/// What came of it. Times are in round trips: RPC time over that of an RPC alone without loss.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LossyReport {
    /// What was run.
    pub lossy: Lossy,
    /// Time of an RPC alone, in microseconds.
    pub rtt_us: f64,
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// The longest.
    pub longest: f64,
    /// Mean.
    pub mean: f64,
    /// Calls that ended with a response.
    pub calls: u64,
    /// Calls that failed, or never ended.
    pub failed: u64,
    /// What the network and the cores counted.
    pub traffic: Traffic,
}

impl Lossy {
    /// Makes the run.
    ///
    /// # Errors
    /// [`Error`]; nothing was run.
    pub fn run(&self) -> Result<LossyReport, Error> {
        let net = self.net();
        net.check().map_err(Error::Net)?;
        let journal = Journal::new(net.hosts());
        let mesh = Mesh {
            hosts: self.hosts,
            config: config(&net),
            zeros: zeros(self.bytes),
            response: self.bytes,
            seed: self.seed,
        };
        let hosts = mesh.build(&journal, |_, _| true).map_err(|_| Error::Sessions)?;
        let mut world = World::new(&net, hosts, self.seed);
        settle(&mut world);
        let loss = Fault::Loss { p: self.loss };
        world.add_tap(Box::new(Faults::new(vec![loss.into()], self.seed)));
        let mut calls = Calls { lossy: self, started: Vec::new(), took: Vec::new(), failed: 0 };
        calls.run(&mut world, &journal);
        let Calls { started, mut took, failed, .. } = calls;
        let rtt_us = self.rtt_ns(&net) as f64 / 1e3;
        let mut traffic = Traffic::of(world.stats());
        world.hosts.iter().for_each(|host| traffic.add(host.endpoint.stats()));
        traffic.sessions_lost = journal.sessions_lost();
        let never = started.len() - took.len() - failed;
        took.sort_unstable();
        let took: Vec<f64> = took.into_iter().map(|ns| ns as f64 / 1e3 / rtt_us).collect();
        Ok(LossyReport {
            lossy: self.clone(),
            rtt_us,
            p50: percentile(&took, 0.5),
            p99: percentile(&took, 0.99),
            p999: percentile(&took, 0.999),
            longest: took.last().copied().unwrap_or(0.0),
            mean: took.iter().sum::<f64>() / took.len().max(1) as f64,
            calls: took.len() as u64,
            failed: (failed + never) as u64,
            traffic,
        })
    }

    /// A network in which an RPC takes as long as asked for.
    fn net(&self) -> NetConfig {
        let topology = Topology::Switch { hosts: self.hosts };
        let mut net = NetConfig { topology, link_gbps: self.link_gbps, ..NetConfig::default() };
        net.host_delay_ns = 0;
        let spare = (self.rtt_us * 1e3) as u64;
        net.host_delay_ns = spare.saturating_sub(self.rtt_ns(&net)) / 2;
        net
    }

    /// Request and response, each in as many packets as it takes.
    fn rtt_ns(&self, net: &NetConfig) -> u64 {
        Framing::of(self.bytes).map_or(0, |framing| 2 * framing.ideal_ns(net, 0, 1))
    }

    /// Calls that are under way at the same time.
    fn at_once(&self) -> u64 {
        u64::from(self.hosts)
            * u64::from(self.hosts.saturating_sub(1))
            * u64::from(self.outstanding)
    }
}

/// A call: who calls whom, since when.
type Call = (HostId, HostId, Time);

struct Calls<'a> {
    lossy: &'a Lossy,
    /// By message.
    started: Vec<Call>,
    /// Nanoseconds.
    took: Vec<u64>,
    failed: usize,
}

impl Calls<'_> {
    /// Starts as many calls as are to be under way, and another for each that ends.
    fn run(&mut self, world: &mut World<SmtHost>, journal: &Rc<Journal>) {
        let hosts = self.lossy.hosts;
        for number in 0..self.lossy.at_once().min(self.lossy.calls) as u32 {
            let from = number % hosts;
            let to = (from + 1 + number / hosts % (hosts - 1)) % hosts;
            self.start(world, from, to);
        }
        let mut last = world.now();
        let mut entries = Vec::new();
        while self.took.len() + self.failed < self.started.len()
            && world.now() < last + PATIENCE
            && world.step()
        {
            journal.take(&mut entries);
            for entry in &entries {
                let Entry::Ended { message, at, ok } = *entry else { continue };
                let Some(&(from, to, start)) = self.started.get(message as usize) else { continue };
                last = at;
                match ok {
                    true => self.took.push(at.since(start).as_nanos() as u64),
                    false => self.failed += 1,
                }
                if (self.started.len() as u64) < self.lossy.calls {
                    self.start(world, from, to);
                }
            }
        }
    }

    fn start(&mut self, world: &mut World<SmtHost>, from: HostId, to: HostId) {
        let now = world.now();
        if let Some(host) = world.hosts.get_mut(from as usize) {
            host.send(now, to, self.lossy.bytes, self.started.len() as u64);
            self.started.push((from, to, now));
            world.poke(from);
        }
    }
}

impl LossyReport {
    /// Whether every call was answered and no session ended.
    pub fn is_sound(&self) -> bool {
        self.failed == 0 && self.traffic.sessions_lost == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSSY: Lossy = Lossy {
        hosts: 2,
        outstanding: 1,
        bytes: 100,
        loss: 0.0,
        calls: 500,
        link_gbps: 100.0,
        rtt_us: 10.0,
        seed: 1,
    };

    #[test]
    fn without_loss_a_call_takes_a_round_trip() {
        let report = LOSSY.run().unwrap();
        assert!(report.is_sound() && report.calls == 500);
        assert!((report.rtt_us - 10.0).abs() < 0.01, "{}", report.rtt_us);
        assert!(report.longest < 1.05, "{report:?}");
    }

    #[test]
    fn every_loss_is_repaired() {
        let report = Lossy { loss: 0.05, hosts: 3, outstanding: 2, ..LOSSY }.run().unwrap();
        assert!(report.is_sound() && report.calls == 500, "{report:?}");
        assert!(report.traffic.lost > 0 && report.longest > 1.5);
    }
}
