//! Transports compared: RPCs of established sessions of SMT, over each of its datapaths, beside those of its peers, all
//! in one run.
//!
//! Everybody comes up in every round, in another place of the order each time, so that what disturbs the machine for a
//! while disturbs all alike. Transports that may leave something on their link have hosts of their own.

mod load;
pub mod rows;
pub mod table;
mod turn;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::peers::{Role, Transport};
use super::place::{Link, Places, Scene};
use crate::baseline::Wait;
use crate::commands::Error;
use crate::stop::Stop;
use crate::times::Times;

/// Bytes of a message beside which small RPCs are measured.
pub const BESIDE_BYTES: usize = 1 << 20;
/// Such messages outstanding.
pub const BESIDE: usize = 2;
/// RPCs up to this many bytes are also put on one connection, where they leave together.
pub const ONE_UP_TO: usize = 64;
/// RPCs up to this many bytes are also carried without protocol, many at a time: they are a packet each.
pub const FLOOR_UP_TO: usize = 1024;
/// Rounds whose results differ by more than this part of their median were disturbed.
pub const DISTURBED: f64 = 0.30;
/// Fewer rounds than this tell nothing of how much they differ.
const ENOUGH_ROUNDS: usize = 3;

/// A command: what is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bench {
    /// Round trips, one RPC at a time.
    Rtt,
    /// RPCs a second, many at a time; or their times at fixed rates.
    Load,
    /// Bits a second in long messages.
    Bulk,
    /// Round trips of small RPCs beside long messages.
    Mixed,
    /// Processor time per RPC at a fixed rate, both ends asleep in between.
    Cpu,
    /// Round trips on links that lose packets.
    Loss,
    /// Round trips with long messages cut by the device, by the stack, by whoever sends.
    Tso,
    /// Round trips and RPCs a second with packets of several lengths.
    Mtu,
}

/// How RPCs follow each other, and what is told of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// One at a time; the median.
    Rtt,
    /// So many outstanding, always; how many a second.
    Load,
    /// So many begin each second; the 99th percentile.
    Open,
    /// Long messages, so many outstanding; bits a second.
    Bulk,
    /// Small ones, one at a time, beside long ones; the 99th percentile.
    Mixed,
    /// One at a time at a fixed rate; processor time.
    Cpu,
    /// One at a time on a link that loses packets; the 99th percentile.
    Loss,
}

/// One row of the tables, for all transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// How RPCs follow each other.
    pub part: Part,
    /// The state of the link.
    pub scene: Scene,
    /// Bytes of requests, and of responses where they are echoed.
    pub size: usize,
    /// RPCs at a time.
    pub outstanding: usize,
    /// RPCs a second, where that is fixed.
    pub rate: Option<u32>,
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The command.
    pub bench: Bench,
    /// The rows.
    pub cells: Vec<Cell>,
    /// Who takes part.
    pub transports: Vec<Transport>,
    /// Links, everybody on each.
    pub links: Vec<Link>,
    /// How ends wait.
    pub wait: Wait,
    /// Time for each transport in each row, in all rounds together.
    pub time: Duration,
    /// Rounds.
    pub rounds: u32,
    /// No further round begins that would not be over within this time; one always does.
    pub budget: Option<Duration>,
}

/// What one transport did on one link in one row, in one turn or in all.
#[derive(Debug, Default)]
pub struct Sample {
    /// How long RPCs took.
    pub times: Times,
    /// RPCs.
    pub count: u64,
    /// Long messages.
    pub beside: u64,
    /// Time that RPCs and messages took.
    pub elapsed: Duration,
    /// Processor time of client and server, where it is measured, in nanoseconds.
    pub cpu_ns: [u64; 2],
    /// RPCs that were to begin, and could not.
    pub not_begun: u64,
}

/// All turns of one transport on one link in one row.
#[derive(Debug, Default)]
pub struct Measured {
    /// All together.
    pub all: Sample,
    /// What is compared, by round.
    pub rounds: Vec<f64>,
}

/// A transport on a link, in one part in one state of the link.
pub type Entry = (Part, Scene, Transport, Link);

/// What was measured.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Of each transport on each link.
    pub measured: BTreeMap<(Cell, Transport, Link), Measured>,
    /// What was not available, and why.
    pub not_available: BTreeMap<Entry, String>,
    /// How ends waited in fact.
    pub wait: Option<Wait>,
}

impl Bench {
    /// Its name, as of the command.
    pub fn name(self) -> &'static str {
        match self {
            Bench::Rtt => "rtt",
            Bench::Load => "load",
            Bench::Bulk => "bulk",
            Bench::Mixed => "mixed",
            Bench::Cpu => "cpu",
            Bench::Loss => "loss",
            Bench::Tso => "tso",
            Bench::Mtu => "mtu",
        }
    }
}

impl Part {
    /// What is compared of a row: nanoseconds, or something a second. 0 if nothing was over in time.
    pub fn value(self, size: usize, sample: &Sample) -> f64 {
        let a_second = |amount: u64| amount as f64 / sample.elapsed.as_secs_f64().max(1e-9);
        match self {
            Part::Rtt => sample.times.quantile_ns(0.50) as f64,
            Part::Open | Part::Mixed | Part::Loss => sample.times.quantile_ns(0.99) as f64,
            Part::Load => a_second(sample.count),
            Part::Bulk => a_second(8 * sample.count * size as u64),
            Part::Cpu => sample.cpu_ns.iter().sum::<u64>() as f64 / sample.count.max(1) as f64,
        }
    }

    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        matches!(self, Part::Load | Part::Bulk)
    }

    /// Whether one value is better than another; 0 is no value.
    pub fn is_better(self, one: f64, other: f64) -> bool {
        match self.more_is_better() {
            true => one > other,
            false => one > 0.0 && (one < other || other == 0.0),
        }
    }

    /// Whether there is one RPC at a time, and nothing beside it.
    fn is_one_at_a_time(self) -> bool {
        matches!(self, Part::Rtt | Part::Cpu | Part::Loss)
    }
}

impl Cell {
    /// Whether a transport takes part in a row.
    pub fn suits(&self, transport: Transport) -> bool {
        match transport.role() {
            Role::Smt(_) | Role::Variant | Role::Other => true,
            Role::OtherOne => {
                matches!(self.part, Part::Load | Part::Open) && self.size <= ONE_UP_TO
            }
            Role::Bare(_) => self.part == Part::Rtt,
            Role::Floor(_) => match self.part {
                Part::Rtt => true,
                Part::Load => self.size <= FLOOR_UP_TO,
                _ => false,
            },
        }
    }
}

impl Sample {
    fn merge(&mut self, other: &Sample) {
        self.times.merge(&other.times);
        self.count += other.count;
        self.beside += other.beside;
        self.elapsed += other.elapsed;
        self.not_begun += other.not_begun;
        for (all, more) in self.cpu_ns.iter_mut().zip(other.cpu_ns) {
            *all += more;
        }
    }
}

impl Measured {
    /// Takes a round in.
    pub fn add(&mut self, value: f64, sample: &Sample) {
        self.all.merge(sample);
        self.rounds.push(value);
    }

    /// The median of the rounds; 0 without any.
    pub fn median(&self) -> f64 {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
        if sorted.len() % 2 == 1 {
            at(middle)
        } else {
            (at(middle.wrapping_sub(1)) + at(middle)) / 2.0
        }
    }

    /// The least and the greatest of the rounds.
    pub fn range(&self) -> [f64; 2] {
        let least = self.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = self.rounds.iter().copied().fold(0.0, f64::max);
        [if least.is_finite() { least } else { 0.0 }, greatest]
    }

    /// By what part of their median the rounds differ; `None` of few rounds.
    pub fn spread(&self) -> Option<f64> {
        let [least, greatest] = self.range();
        let median = self.median();
        (self.rounds.len() >= ENOUGH_ROUNDS && median > 0.0).then(|| (greatest - least) / median)
    }

    /// Whether the rounds differ so much that something must have disturbed them.
    pub fn is_disturbed(&self) -> bool {
        self.spread().is_some_and(|spread| spread > DISTURBED)
    }
}

impl Plan {
    /// Has everything be over within about `budget`, half of which is for measuring, as far as that goes.
    pub fn within(&mut self, budget: Duration) {
        let turns = |transport: &Transport| {
            self.cells.iter().filter(|cell| cell.suits(*transport)).count() * self.links.len()
        };
        let all: usize = self.transports.iter().map(turns).sum();
        let share = budget / u32::try_from(all.max(1)).unwrap_or(u32::MAX);
        self.time = self.time.min(share / 2);
        self.budget = Some(budget);
    }

    /// Scenes with the parts measured in them, in order.
    fn groups(&self) -> Vec<(Scene, Part, Vec<Cell>)> {
        let mut groups: Vec<(Scene, Part, Vec<Cell>)> = Vec::new();
        for &cell in &self.cells {
            match groups
                .iter_mut()
                .find(|(scene, part, _)| (*scene, *part) == (cell.scene, cell.part))
            {
                Some((.., cells)) => cells.push(cell),
                None => groups.push((cell.scene, cell.part, vec![cell])),
            }
        }
        groups
    }
}

/// Measures. `progress` is told the part done, 0 to 1, and who is measured at the moment.
///
/// # Errors
/// `stop` is set. What cannot be measured is told in the outcome.
pub fn measure(
    mut places: Places,
    plan: &Plan,
    stop: &Stop,
    progress: &dyn Fn(f64, Transport),
) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    let groups = plan.groups();
    for (index, (scene, part, cells)) in groups.iter().enumerate() {
        places.keep_only(*scene);
        let told = |share: f64, who| progress((index as f64 + share) / groups.len() as f64, who);
        let budget = plan.budget.map(|budget| budget / u32::try_from(groups.len()).unwrap_or(1));
        let (scene, part) = (*scene, *part);
        let mut group = Group { plan, scene, part, cells, budget, outcome: &mut outcome };
        group.measure(&mut places, stop, &told)?;
    }
    Ok(outcome)
}

/// The rows of one part in one state of the link.
struct Group<'a> {
    plan: &'a Plan,
    scene: Scene,
    part: Part,
    cells: &'a [Cell],
    budget: Option<Duration>,
    outcome: &'a mut Outcome,
}

impl Group<'_> {
    fn measure(
        &mut self,
        places: &mut Places,
        stop: &Stop,
        progress: &dyn Fn(f64, Transport),
    ) -> Result<(), Error> {
        let all: Vec<(Transport, Link)> = self
            .plan
            .links
            .iter()
            .flat_map(|&link| self.plan.transports.iter().map(move |&who| (who, link)))
            .filter(|(who, _)| self.cells.iter().any(|cell| cell.suits(*who)))
            .collect();
        for &(who, link) in &all {
            if let Err(why) = who.peer().available() {
                self.outcome.not_available.insert((self.part, self.scene, who, link), why);
            }
        }
        let turns = self.plan.rounds as usize * all.len();
        let start = Instant::now();
        for turn in 0..turns {
            let rounds = u32::try_from(turn / all.len()).unwrap_or(u32::MAX);
            if turn % all.len() == 0 && rounds > 0 {
                let with_one_more = start.elapsed() / rounds * (rounds + 1);
                if self.budget.is_some_and(|budget| with_one_more > budget) {
                    break;
                }
            }
            // Everybody has every place in the order once in a while.
            let place = (turn + turn / all.len()) % all.len();
            let Some(&(who, link)) = all.get(place) else { continue };
            if stop.is_set() {
                return Err(Error::Failed("interrupted".to_owned()));
            }
            progress(turn as f64 / turns as f64, who);
            if !self.outcome.not_available.contains_key(&(self.part, self.scene, who, link)) {
                self.turn(places, who, link);
            }
        }
        Ok(())
    }

    fn turn(&mut self, places: &mut Places, who: Transport, link: Link) {
        let (plan, part, scene) = (self.plan, self.part, self.scene);
        let cells: Vec<Cell> = self.cells.iter().copied().filter(|cell| cell.suits(who)).collect();
        let outcome = &mut *self.outcome;
        let measured = places.get(who, link, scene).and_then(|place| {
            let wait = turn::wait(place, part, plan.wait);
            outcome.wait = Some(wait);
            turn::measure(place, who, &cells, wait, plan.time / plan.rounds.max(1))
        });
        match measured {
            Ok(samples) => {
                for (cell, sample) in cells.into_iter().zip(samples) {
                    let value = part.value(cell.size, &sample);
                    outcome.measured.entry((cell, who, link)).or_default().add(value, &sample);
                }
            }
            Err(error) => {
                // Half of the rounds would be half of the truth.
                let entry = (part, scene, who, link);
                outcome
                    .measured
                    .retain(|(cell, who, on), _| (cell.part, cell.scene, *who, *on) != entry);
                outcome.not_available.insert(entry, error.explain());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rounds: &[f64]) -> Measured {
        Measured { rounds: rounds.to_vec(), ..Measured::default() }
    }

    #[test]
    fn rounds_have_a_median_a_range_and_a_spread() {
        let three = measured(&[3.0, 1.0, 2.0]);
        assert_eq!((three.median(), three.range(), three.spread()), (2.0, [1.0, 3.0], Some(1.0)));
        assert!(three.is_disturbed() && !measured(&[10.0, 11.0, 12.0]).is_disturbed());
        assert_eq!((measured(&[1.0, 2.0]).median(), measured(&[]).median()), (1.5, 0.0));
        assert_eq!((measured(&[1.0, 9.0]).spread(), measured(&[]).range()), (None, [0.0, 0.0]));
    }

    #[test]
    fn whoever_suits_a_row_takes_part() {
        let scene = Scene::PLAIN;
        let cell = |part, size| Cell { part, scene, size, outstanding: 1, rate: None };
        let who = |part, size| {
            let cell = cell(part, size);
            Transport::ALL.iter().filter(|who| cell.suits(**who)).count()
        };
        let is_other = |who: &&Transport| matches!(who.role(), Role::Variant | Role::Other);
        let others = Transport::ALL.iter().filter(is_other).count();
        assert_eq!(who(Part::Rtt, 64), 12 + others);
        assert_eq!(who(Part::Bulk, 1 << 20), 4 + others);
        assert_eq!(who(Part::Load, 8192), 4 + others);
        assert!(cell(Part::Load, 64).suits(Transport::TcpOne));
        assert!(!cell(Part::Load, 65).suits(Transport::TcpOne));
    }
}
