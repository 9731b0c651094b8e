//! RPCs of established sessions: SMT over each of its datapaths, beside TCP and TLS 1.3 on TCP, all in one run.
//!
//! Every contender comes up in every round, in another place of the order each time, so that what disturbs the machine
//! for a while disturbs all alike. Each has hosts of its own, on each bed: an XDP program on a link, for one, would slow
//! down everybody else on it.

mod bare;
mod load;
pub mod plot;
pub mod report;
mod visit;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use smt_testbed::{PairOptions, Wire};

use super::ground::{Credentials, Ground};
use crate::commands::Error;
use crate::commands::datapath::DatapathChoice;
use crate::stop::Stop;
use crate::times::Times;

/// Bytes of a message whose goodput is measured, or beside which RPCs are.
pub const BULK_BYTES: usize = 1 << 20;
/// Such messages outstanding where goodput is measured.
pub const BULK_OUTSTANDING: usize = 4;
/// Such messages outstanding beside RPCs.
pub const MIXED_BULK: usize = 2;
/// Bytes of the RPCs beside them.
pub const MIXED_BYTES: usize = super::RPC_BYTES;
/// RPCs up to this many bytes are also put on one connection, where they leave together.
pub const PIPELINED_UP_TO: usize = 64;
/// RPCs up to this many bytes are also carried without protocol, many at a time: they are a packet each.
pub const FLOOR_UP_TO: usize = 1024;
/// RPCs a second where processor time is measured.
pub const CPU_RATE: u32 = 2_000;

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Round trips, one RPC at a time
    Rtt,
    /// RPCs a second, many at a time
    Rate,
    /// Bits a second in messages of 1 MB
    Goodput,
    /// Round trips of small RPCs while messages of 1 MB stream beside them
    Mixed,
    /// Processor time per RPC at a fixed rate, both ends asleep in between
    Cpu,
}

/// What joins the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Bed {
    /// A veth pair
    Veth,
    /// Two macvlan devices on a bridge, which take TCP segmentation from user space
    Macvlan,
}

impl Bed {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Bed::Veth => "veth",
            Bed::Macvlan => "macvlan",
        }
    }
}

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contender {
    /// SMT over a datapath.
    Smt(DatapathChoice),
    /// The datapath alone.
    Bare(DatapathChoice),
    /// The datapath and the AEAD work: the floor under SMT over it.
    Floor(DatapathChoice),
    /// Plain TCP; with many RPCs at a time, a connection for each.
    Tcp,
    /// The same with TLS 1.3 by rustls.
    Tls,
    /// Plain TCP, all RPCs on one connection.
    TcpOne,
    /// The same with TLS 1.3.
    TlsOne,
}

/// One row of the tables, for all contenders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The part it belongs to.
    pub part: Part,
    /// MTU of the link in bytes.
    pub mtu: u32,
    /// Bytes of requests, and of responses where they are echoed.
    pub size: usize,
    /// RPCs at a time.
    pub outstanding: usize,
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Parts, in order.
    pub parts: Vec<Part>,
    /// SMT's datapaths.
    pub datapaths: Vec<DatapathChoice>,
    /// Links.
    pub beds: Vec<Bed>,
    /// MTUs of the links.
    pub mtus: Vec<u32>,
    /// Bytes of RPCs one at a time.
    pub rtt_sizes: Vec<usize>,
    /// Bytes of RPCs many at a time, and of those whose processor time is measured.
    pub rate_sizes: Vec<usize>,
    /// How many at a time.
    pub outstanding: Vec<usize>,
    /// Time for each contender in each row, in all rounds together.
    pub time: Duration,
    /// Rounds.
    pub rounds: u32,
}

/// What one contender did on one bed in one cell.
#[derive(Debug, Default)]
pub struct Sample {
    /// Round trips, where they are measured.
    pub times: Times,
    /// RPCs.
    pub count: u64,
    /// Messages of [`BULK_BYTES`].
    pub bulk: u64,
    /// Time that RPCs and messages took.
    pub elapsed: Duration,
    /// Processor time of client and server, where it is measured, in nanoseconds.
    pub cpu_ns: [u64; 2],
}

/// A contender on a bed, in a part of the benchmark at one MTU.
pub type Entry = (Part, u32, Contender, Bed);

/// What was measured.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Of each contender on each bed.
    pub samples: BTreeMap<(Cell, Contender, Bed), Sample>,
    /// What was not, and why.
    pub not_measured: BTreeMap<Entry, String>,
    /// Whether both ends spun, each on its own core.
    pub spins: bool,
}

impl Sample {
    fn merge(&mut self, other: &Sample) {
        self.times.merge(&other.times);
        self.count += other.count;
        self.bulk += other.bulk;
        self.elapsed += other.elapsed;
        for (all, more) in self.cpu_ns.iter_mut().zip(other.cpu_ns) {
            *all += more;
        }
    }
}

impl Plan {
    /// The rows of a part.
    fn cells(&self, part: Part, mtu: u32) -> Vec<Cell> {
        let cell = |size, outstanding| Cell { part, mtu, size, outstanding };
        match part {
            Part::Rtt => self.rtt_sizes.iter().map(|&size| cell(size, 1)).collect(),
            Part::Cpu => self.rate_sizes.iter().map(|&size| cell(size, 1)).collect(),
            Part::Goodput => vec![cell(BULK_BYTES, BULK_OUTSTANDING)],
            Part::Mixed => vec![cell(MIXED_BYTES, 1)],
            Part::Rate => {
                let of_size = |&size| self.outstanding.iter().map(move |&n| cell(size, n));
                self.rate_sizes.iter().flat_map(of_size).collect()
            }
        }
    }

    /// Who takes part in a part. Goodput and mixed loads are on one connection anyway.
    fn contenders(&self, part: Part) -> Vec<Contender> {
        let mut all: Vec<_> = self.datapaths.iter().copied().map(Contender::Smt).collect();
        if part == Part::Rtt {
            all.extend(self.datapaths.iter().copied().map(Contender::Bare));
        }
        if matches!(part, Part::Rtt | Part::Rate) {
            all.extend(self.datapaths.iter().copied().map(Contender::Floor));
        }
        all.extend([Contender::Tcp, Contender::Tls]);
        if part == Part::Rate {
            all.extend([Contender::TcpOne, Contender::TlsOne]);
        }
        all
    }
}

impl Contender {
    /// Whether it takes part in a row.
    fn fits(self, cell: Cell) -> bool {
        match self {
            Contender::TcpOne | Contender::TlsOne => cell.size <= PIPELINED_UP_TO,
            Contender::Floor(_) => cell.part != Part::Rate || cell.size <= FLOOR_UP_TO,
            _ => true,
        }
    }

    /// What has a link of its own.
    fn link(self) -> Link {
        match self {
            Contender::Smt(datapath) | Contender::Bare(datapath) | Contender::Floor(datapath) => {
                Some(datapath.name())
            }
            _ => None,
        }
    }
}

/// The name of the datapath that a link is for, `None` for TCP and TLS.
type Link = Option<String>;

/// Measures. `progress` is told the part done, 0 to 1, and what is measured at the moment.
///
/// # Errors
/// `stop` is set. What cannot be measured is told in the outcome.
pub fn measure(
    credentials: &Arc<Credentials>,
    plan: &Plan,
    stop: &Stop,
    progress: &dyn Fn(f64, Part),
) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    let all = (plan.mtus.len() * plan.parts.len()) as f64;
    let mut done = 0.0;
    for &mtu in &plan.mtus {
        let mut grounds = Grounds { credentials, mtu, made: HashMap::new() };
        for &part in &plan.parts {
            let told = |share: f64| progress((done + share) / all, part);
            measure_part(plan, part, &mut grounds, &mut outcome, stop, &told)?;
            done += 1.0;
        }
    }
    Ok(outcome)
}

fn measure_part(
    plan: &Plan,
    part: Part,
    grounds: &mut Grounds<'_>,
    outcome: &mut Outcome,
    stop: &Stop,
    progress: &dyn Fn(f64),
) -> Result<(), Error> {
    let cells = plan.cells(part, grounds.mtu);
    let in_bed = |&bed: &Bed| plan.contenders(part).into_iter().map(move |who| (who, bed));
    let all: Vec<(Contender, Bed)> = plan.beds.iter().flat_map(in_bed).collect();
    let turns = plan.rounds as usize * all.len();
    for turn in 0..turns {
        if stop.is_set() {
            return Err(Error::Failed("interrupted".to_owned()));
        }
        progress(turn as f64 / turns as f64);
        // Everybody has every place in the order once in a while.
        let place = (turn + turn / all.len()) % all.len();
        let Some(&(contender, bed)) = all.get(place) else { continue };
        let entry = (part, grounds.mtu, contender, bed);
        let cells: Vec<Cell> = cells.iter().copied().filter(|cell| contender.fits(*cell)).collect();
        if cells.is_empty() || outcome.not_measured.contains_key(&entry) {
            continue;
        }
        let measured = grounds.get(contender, bed).and_then(|ground| {
            outcome.spins = ground.cores.is_some();
            visit::measure(ground, contender, &cells, plan)
        });
        match measured {
            Ok(samples) => {
                for (cell, sample) in cells.into_iter().zip(samples) {
                    outcome.samples.entry((cell, contender, bed)).or_default().merge(&sample);
                }
            }
            Err(error) => {
                // Half of the rounds would be half of the truth.
                outcome
                    .samples
                    .retain(|(cell, who, on), _| (cell.part, cell.mtu, *who, *on) != entry);
                outcome.not_measured.insert(entry, error.explain());
            }
        }
    }
    Ok(())
}

/// The links of one MTU, made when they are first needed.
struct Grounds<'a> {
    credentials: &'a Arc<Credentials>,
    mtu: u32,
    made: HashMap<(Link, Bed), Ground>,
}

impl Grounds<'_> {
    fn get(&mut self, contender: Contender, bed: Bed) -> Result<&Ground, Error> {
        let wire = match bed {
            Bed::Veth => Wire::Veth,
            Bed::Macvlan => Wire::Macvlan,
        };
        let key = (contender.link(), bed);
        if !self.made.contains_key(&key) {
            let options = PairOptions { wire, mtu: self.mtu, ..PairOptions::default() };
            self.made.insert(key.clone(), Ground::on(self.credentials, options)?);
        }
        self.made.get(&key).ok_or_else(|| Error::Failed("no hosts".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_rows_and_its_contenders() {
        let plan = Plan {
            parts: vec![Part::Rtt, Part::Rate],
            datapaths: vec![DatapathChoice::Raw, DatapathChoice::Udp],
            beds: vec![Bed::Veth],
            mtus: vec![1500],
            rtt_sizes: vec![64, 1024],
            rate_sizes: vec![64, 8192],
            outstanding: vec![50, 100, 200],
            time: Duration::from_secs(1),
            rounds: 1,
        };
        let cells = [Part::Rtt, Part::Rate, Part::Goodput, Part::Mixed, Part::Cpu]
            .map(|part| (plan.cells(part, 1500).len(), plan.contenders(part).len()));
        assert_eq!(cells, [(2, 8), (6, 8), (1, 4), (1, 4), (2, 4)]);
        let large = plan.cells(Part::Rate, 1500)[5];
        assert!(Contender::Tls.fits(large) && !Contender::TlsOne.fits(large));
    }
}
