//! One run: a network, what is offered to it, a transport, and what came of it.

use core::fmt;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use smt_proto::{Config, Stats};

use super::baseline;
use super::drive::{Transport, drive};
use super::framing::{Framing, ROOM};
use super::journal::Journal;
use super::mesh::{Mesh, zeros};
use super::offered::{Demand, Offered};
use super::outcome::Outcome;
use crate::net::{ConfigError, NetConfig, NetStats, Topology};
use crate::packet::WIRE_OVERHEAD;
use crate::world::World;

/// How long a run goes on after the last message has started.
const DRAIN: Duration = Duration::from_secs(2);
/// Bytes of a GRANT (spec 2.3).
const GRANT_LEN: u32 = 52;
/// Racks, and spines between them.
const LEAVES: u32 = 4;

/// Who carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The real core.
    Smt,
    /// Streams, as TCP has them.
    Stream,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Smt => "smt",
            Kind::Stream => "stream",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "smt" => Ok(Kind::Smt),
            "stream" => Ok(Kind::Stream),
            _ => Err("transports are smt and stream".to_owned()),
        }
    }
}

/// A run to make.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Experiment {
    /// The network.
    pub net: NetConfig,
    /// What is offered to it.
    pub demand: Demand,
    /// Who carries it.
    pub transport: Kind,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What was run.
    pub experiment: Experiment,
    /// What became of the messages.
    pub outcome: Outcome,
    /// What the network and the cores counted.
    pub traffic: Traffic,
}

/// Counters of a run, over all hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// Packets that hosts sent.
    pub packets: u64,
    /// Packets dropped because a buffer was full.
    pub dropped: u64,
    /// Packets dropped by faults of the network.
    pub lost: u64,
    /// Packets whose payload a switch cut off.
    pub trimmed: u64,
    /// Most bytes that waited at a switch port.
    pub largest_queue: u32,
    /// Bytes on the wire towards hosts, over what their links carry until the last start.
    pub utilisation: f64,
    /// DATA packets sent again.
    pub retransmitted: u64,
    /// RESENDs sent.
    pub resends: u64,
    /// DATA packets that brought nothing new.
    pub duplicates: u64,
    /// GRANTs sent.
    pub grants: u64,
    /// BUSYs sent.
    pub busy: u64,
    /// Sessions that ended, counted at both ends.
    pub sessions_lost: u64,
}

/// Why a run could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no such network.
    Net(ConfigError),
    /// The core refuses its sessions.
    Sessions,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Net(error) => error.fmt(f),
            Error::Sessions => f.write_str("more sessions than an endpoint takes"),
        }
    }
}

impl core::error::Error for Error {}

/// Four racks of equally many hosts, and spines that carry whatever the hosts send.
pub fn leaf_spine(hosts: u32, link_gbps: f64) -> NetConfig {
    let hosts_per_leaf = hosts.div_ceil(LEAVES);
    let uplink_gbps = link_gbps * f64::from(hosts_per_leaf) / f64::from(LEAVES);
    let topology =
        Topology::LeafSpine { leaves: LEAVES, hosts_per_leaf, spines: LEAVES, uplink_gbps };
    NetConfig { topology, link_gbps, ..NetConfig::default() }
}

/// Bytes that a sender puts on the wire until a grant for the first packet can be back: what may go
/// without one, so that a lone message is never held up.
pub fn unscheduled(net: &NetConfig) -> u32 {
    let Some(full) = Framing::of(u32::from(u16::MAX)) else { return 0 };
    let last = net.hosts().saturating_sub(1);
    let packet = full.sizes().first().copied().unwrap_or(0);
    let rtt =
        net.one_way_ns(0, last, &[packet]) + net.one_way_ns(last, 0, &[GRANT_LEN + WIRE_OVERHEAD]);
    let packets = (rtt as f64 * net.link_gbps / 8.0 / f64::from(packet)).ceil() as u32;
    packets * full.segment
}

/// The core's configuration in a network.
pub fn config(net: &NetConfig) -> Config {
    let mut config = Config { wake_delay: Duration::ZERO, default_room: ROOM, ..Config::default() };
    config.limits.unscheduled = unscheduled(net);
    config
}

impl Experiment {
    /// Makes the run. `progress` is told how many messages have started.
    ///
    /// # Errors
    /// [`Error`]; nothing was run.
    pub fn run(&self, progress: &dyn Fn(u64)) -> Result<Report, Error> {
        self.net.check().map_err(Error::Net)?;
        match self.transport {
            Kind::Smt => self.run_smt(progress),
            Kind::Stream => Ok(self.run_stream(progress)),
        }
    }

    fn run_smt(&self, progress: &dyn Fn(u64)) -> Result<Report, Error> {
        let journal = Journal::new(self.net.hosts());
        let longest = self.demand.workload.quantile(1.0);
        let mesh = Mesh {
            hosts: self.net.hosts(),
            config: config(&self.net),
            zeros: zeros(longest),
            response: 0,
            seed: self.demand.seed,
        };
        let hosts = mesh.build(&journal, |_, _| true).map_err(|_| Error::Sessions)?;
        let mut world = World::new(&self.net, hosts, self.demand.seed);
        let mut report = self.carry(&mut world, &journal, progress);
        for host in &world.hosts {
            report.traffic.add(host.endpoint.stats());
        }
        report.traffic.sessions_lost = journal.sessions_lost();
        Ok(report)
    }

    fn run_stream(&self, progress: &dyn Fn(u64)) -> Report {
        let net = baseline::network(&self.net);
        let mut world = World::new(&net, baseline::hosts(&net), self.demand.seed);
        let mut report = self.carry(&mut world, &Journal::new(0), progress);
        report.traffic.retransmitted = baseline::retransmitted(&world.hosts);
        report
    }

    fn carry<T: Transport>(
        &self,
        world: &mut World<T>,
        journal: &Rc<Journal>,
        progress: &dyn Fn(u64),
    ) -> Report {
        let offered = Offered::draw(&self.demand);
        let record = drive(world, journal, &offered, DRAIN, progress);
        let capacity = record.last_start.as_nanos() as f64 * self.net.link_gbps / 8.0
            * f64::from(self.net.hosts());
        let mut traffic = Traffic::of(world.stats());
        traffic.utilisation = if capacity > 0.0 { record.carried as f64 / capacity } else { 0.0 };
        let outcome = Outcome::of(&self.net, &self.demand, &offered, &record);
        Report { experiment: self.clone(), outcome, traffic }
    }
}

impl Report {
    /// Whether every message arrived, none starved, and no session ended.
    pub fn is_sound(&self) -> bool {
        self.outcome.is_sound() && self.traffic.sessions_lost == 0
    }
}

impl Traffic {
    /// What a network has counted.
    pub fn of(net: &NetStats) -> Traffic {
        Traffic {
            packets: net.sent,
            dropped: net.dropped_full,
            lost: net.dropped_tap,
            trimmed: net.trimmed,
            largest_queue: net.largest_queue_bytes,
            ..Traffic::default()
        }
    }

    /// Adds what the core of a host has counted.
    pub fn add(&mut self, stats: &Stats) {
        self.retransmitted += stats.packets_retransmitted;
        self.resends += stats.resends_sent;
        self.duplicates += stats.duplicates;
        self.grants += stats.grants_sent;
        self.busy += stats.busy_sent;
    }
}
