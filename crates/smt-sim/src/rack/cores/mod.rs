//! Cores as a resource: a server and a client of several cores, whose work takes time, and one session
//! between them, of which each core has some lanes (spec 3.5); or a connection for each core.

mod cost;
mod host;
mod load;
mod workers;

use core::fmt;
use std::time::Duration;

use serde::Serialize;
use smt_proto::error::HandshakeError;
use smt_proto::{Config, Endpoint, Role, Shard as Which, Time};

pub use cost::Costs;
use host::{CoreHost, Worker};
use load::Load;
use workers::{Connection, Shard};

use super::experiment::{Error, config};
use super::mesh::external;
use super::{baseline, framing};
use crate::net::{NetConfig, Topology};
use crate::packet::HostId;
use crate::rng::Rng;
use crate::stream::{StreamConfig, StreamHost};
use crate::world::World;

const CLIENT: HostId = 0;
const SERVER: HostId = 1;
/// Application bytes of every response, and of short requests.
pub const RESPONSE: u32 = 64;
/// What is not counted at the start of a run, as a part of it.
const WARM_UP: u32 = 5;
/// How long calls may take to end once no more begin.
const PATIENCE: Duration = Duration::from_secs(2);

/// What hosts speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// One session of SMT.
    Smt,
    /// A connection for each core of the server.
    Streams,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Transport::Smt => "SMT",
            Transport::Streams => "streams",
        })
    }
}

/// Runs to make with one number of cores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cores {
    /// Cores of the server.
    pub cores: u32,
    /// Cores of the client.
    pub client_cores: u32,
    /// What hosts speak.
    pub transport: Transport,
    /// What work costs.
    pub costs: Costs,
    /// Short calls under way, for each core of the server, when the rate is measured.
    pub outstanding: u32,
    /// Bytes of long requests.
    pub long_bytes: u32,
    /// Short calls a second for each core of the server, when latency is.
    pub short_per_second: u32,
    /// Links of the hosts, in Gb/s.
    pub link_gbps: f64,
    /// Time of each run, in milliseconds.
    pub millis: u32,
    /// What decides where and when calls are made.
    pub seed: u64,
}

/// What came of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoresReport {
    /// What was run.
    pub cores: Cores,
    /// Short RPCs a second.
    pub rate: f64,
    /// The most packets that a core of the server received, over what it would be if all received as
    /// many.
    pub spread: f64,
    /// Share of their time that the server's cores worked.
    pub busy: f64,
    /// Share of the time that the server's link was in use, in the busier direction.
    pub link: f64,
    /// How long short RPCs took with nothing beside them, in microseconds: median and 99th percentile.
    pub alone_us: [f64; 2],
    /// The same while long ones were under way at some of the cores.
    pub beside_us: [f64; 2],
    /// Of those, the ones at other cores; none if there are none.
    pub apart_us: Option<[f64; 2]>,
    /// Cores at which long ones were under way.
    pub occupied: u32,
    /// Bytes of long requests that arrived, in Gb/s.
    pub long_gbps: f64,
    /// Calls that never ended.
    pub unfinished: u64,
    /// Packets that found no room at their core.
    pub lost: u64,
}

impl CoresReport {
    /// Whether all calls ended.
    pub fn is_sound(&self) -> bool {
        self.unfinished == 0
    }
}

/// What one run has shown.
struct Run {
    load: Load,
    busy: f64,
    spread: f64,
    link: f64,
    lost: u64,
}

impl Cores {
    /// Makes the runs.
    ///
    /// # Errors
    /// [`Error`]; nothing was run.
    pub fn run(&self) -> Result<CoresReport, Error> {
        let net = self.net();
        net.check().map_err(Error::Net)?;
        let cores = self.lines();
        let until = Time::ZERO + Duration::from_millis(self.millis.into());
        let from = Time::ZERO + (until.since(Time::ZERO) / WARM_UP);
        let outstanding = self.outstanding as usize * self.cores as usize;
        let occupied = (self.cores / 4).max(1);
        let every =
            Duration::from_secs(1) / self.short_per_second.saturating_mul(self.cores).max(1);
        let mixed = |occupied| {
            let (short, long) = ((RESPONSE, every), (self.long_bytes, occupied));
            Load::mixed(self.seed, cores, short, long, until)
        };
        let busiest =
            self.run_with(&net, Load::rate(self.seed, cores, RESPONSE, outstanding, until), until)?;
        let alone = self.run_with(&net, mixed(0), until)?;
        let beside = self.run_with(&net, mixed(occupied as usize), until)?;
        let seconds = until.since(from).as_secs_f64();
        let [short, _] = busiest.load.ended_between(from);
        let [_, long] = beside.load.ended_between(from);
        let apart = beside.load.short_us(from, |core| core >= occupied as usize);
        let runs = [&busiest, &alone, &beside];
        Ok(CoresReport {
            cores: self.clone(),
            rate: short as f64 / seconds,
            spread: busiest.spread,
            busy: busiest.busy,
            link: busiest.link,
            alone_us: quantiles(&alone.load.short_us(from, |_| true)),
            beside_us: quantiles(&beside.load.short_us(from, |_| true)),
            apart_us: (!apart.is_empty()).then(|| quantiles(&apart)),
            occupied,
            long_gbps: long as f64 * f64::from(self.long_bytes) * 8.0 / seconds / 1e9,
            unfinished: runs.iter().map(|run| run.load.unfinished()).sum(),
            lost: runs.iter().map(|run| run.lost).sum(),
        })
    }

    fn net(&self) -> NetConfig {
        let net = NetConfig {
            topology: Topology::Switch { hosts: 2 },
            link_gbps: self.link_gbps,
            ..NetConfig::default()
        };
        match self.transport {
            Transport::Smt => net,
            Transport::Streams => baseline::network(&net),
        }
    }

    /// Among how many cores of the client calls choose: with streams, connections.
    fn lines(&self) -> usize {
        match self.transport {
            Transport::Smt => self.client_cores as usize,
            Transport::Streams => self.cores as usize,
        }
    }

    fn run_with(&self, net: &NetConfig, load: Load, until: Time) -> Result<Run, Error> {
        match self.transport {
            Transport::Smt => {
                let [client, server] = self.shards(net).map_err(|_| Error::Sessions)?;
                Ok(self.drive(net, (client, server), load, until))
            }
            Transport::Streams => {
                let connections = |to: HostId| {
                    let stream = || StreamHost::new(1 - to, 2, StreamConfig::default());
                    let one = |_| Connection::new(to, to == CLIENT, stream());
                    (0..self.cores).map(one).collect::<Vec<_>>()
                };
                Ok(self.drive(net, (connections(SERVER), connections(CLIENT)), load, until))
            }
        }
    }

    /// The shards of both hosts, with one session.
    fn shards(&self, net: &NetConfig) -> Result<[Vec<Shard>; 2], HandshakeError> {
        let rng = Rng::new(self.seed);
        let endpoint = |me: HostId, index: u32, count: u32| {
            let (index, count) = (index as u8, count as u8);
            // Cores have queues, whose length peers are to take for no loss.
            let wake_delay = Config::default().wake_delay;
            let config = Config { shard: Which { index, count }, wake_delay, ..config(net) };
            let random = Box::new(rng.fork(u64::from(me) << 8 | u64::from(index)));
            Endpoint::new(config, random)
        };
        let counts = [self.client_cores, self.cores];
        let mut hosts = [CLIENT, SERVER].map(|me| {
            let count = counts.get(me as usize).copied().unwrap_or(1);
            (0..count).map(|index| endpoint(me, index, count)).collect::<Vec<_>>()
        });
        let roles = [Role::Client, Role::Server];
        let mut params = Vec::new();
        for (endpoints, role) in hosts.iter_mut().zip(roles) {
            params.extend(endpoints.first_mut().map(|first| first.parameters(role)));
        }
        let [client, server] = params.as_slice() else {
            return Err(HandshakeError::BadParameters);
        };
        let mut shards = [Vec::new(), Vec::new()];
        for (((me, endpoints), role), shards) in
            [CLIENT, SERVER].into_iter().zip(hosts).zip(roles).zip(&mut shards)
        {
            let both = if me == CLIENT { (*client, *server) } else { (*server, *client) };
            let mut lanes = None;
            for mut endpoint in endpoints {
                let session = match &lanes {
                    Some(lanes) => endpoint.add_lanes(Time::ZERO, lanes)?,
                    None => {
                        endpoint.add_session(Time::ZERO, external(1, role, (me, 1 - me), both))?
                    }
                };
                lanes = lanes.or_else(|| Some(*endpoint.take_lanes(session)?));
                shards.push(Shard::new(me, endpoint, session));
            }
        }
        Ok(shards)
    }

    fn drive<W: Worker>(
        &self,
        net: &NetConfig,
        (client, server): (Vec<W>, Vec<W>),
        load: Load,
        until: Time,
    ) -> Run {
        let hosts = vec![
            CoreHost::new(client, self.costs, load),
            CoreHost::new(server, self.costs, Load::none()),
        ];
        let mut world = World::new(net, hosts, self.seed);
        (CLIENT..=SERVER).for_each(|host| world.poke(host));
        world.run_until(until);
        let millis = f64::from(self.millis);
        let (mut busy, mut spread) = (0.0, 0.0);
        if let Some(server) = world.hosts.get(SERVER as usize) {
            let worked: u64 = server.busy_ns().iter().sum();
            busy = worked as f64 / 1e6 / millis / f64::from(self.cores);
            let received = server.received();
            let (most, all) = (received.iter().max(), received.iter().sum::<u64>());
            spread = most.copied().unwrap_or(0) as f64 * received.len() as f64 / all.max(1) as f64;
        }
        let most = world.stats().up_bytes.iter().max().copied().unwrap_or(0);
        let link = most as f64 * 8.0 / (self.link_gbps * 1e6 * millis);
        world.run_until(until + PATIENCE);
        let lost = world.hosts.iter().map(|host| host.lost).sum();
        let load = world.hosts.into_iter().next().map_or_else(Load::none, |client| client.load);
        Run { load, busy, spread, link, lost }
    }
}

/// Median and 99th percentile of what is in order.
fn quantiles(sorted: &[f64]) -> [f64; 2] {
    [0.5, 0.99].map(|q| {
        let at = (q * sorted.len() as f64) as usize;
        sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    })
}

/// What a run of so many cores may take, in bytes: messages on their way and records of calls.
pub fn memory(cores: &Cores) -> u64 {
    let calls = u64::from(cores.millis) * 1000 * u64::from(cores.cores) * 64;
    let packets = framing::Framing::of(cores.long_bytes).map_or(0, |framing| framing.packets());
    (u64::from(cores.cores) + 1) * (4 << 20) + u64::from(packets) * 4096 + calls
}

#[cfg(test)]
mod tests;
