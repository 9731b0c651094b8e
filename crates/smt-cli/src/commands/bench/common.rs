//! What `smt bench rtt`, `load`, `bulk`, `mixed`, `cpu` and others have in common: options, and how results are told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{advance, bar};
use crate::baseline::Wait;
use crate::bench::agent::{Agent, Token};
use crate::bench::eval::{self, Bench, Cell, Outcome, Part, Plan, rows, table};
use crate::bench::ground::Credentials;
use crate::bench::peers::{Role, Transport};
use crate::bench::place::{Link, Places, Scene};
use crate::bench::{environment, saved};
use crate::commands::Error;
use crate::output::Printer;
use crate::stop::Stop;

/// Time of a quick run.
const QUICK: Duration = Duration::from_secs(40);
/// Bytes of a quick run's messages, at most: longer ones take longer than there is time.
const QUICK_UP_TO: usize = 16 << 20;
/// Rounds of a quick run.
const QUICK_ROUNDS: u32 = 3;

/// What all of them take.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Who takes part: names as in the tables, smt (all its datapaths), floors (the datapaths alone, and with encryption), all
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "all", value_parser = peers)]
    peers: Vec<Peers>,
    /// Links: veth, macvlan (takes TCP segmentation from user space), loopback, or ADDRESS:PORT of a machine with smt bench agent
    #[arg(long, value_name = "LINK,...", value_delimiter = ',', default_values_t = Link::USUAL)]
    link: Vec<Link>,
    /// The token that the agent at ADDRESS:PORT has printed
    #[arg(long, value_name = "TOKEN")]
    agent_token: Option<Token>,
    /// How both ends wait; with fewer than two cores, and in cpu, they block
    #[arg(long, value_name = "HOW", default_value = "spin", value_enum)]
    wait: Wait,
    /// Seconds for each contender in each row, all rounds together
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = crate::commands::options::seconds)]
    duration: f64,
    /// Rounds; in each, everybody comes up once, in another place of the order
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Everything within a minute on an idle machine, messages up to 16 MB: readable, but less to be relied on
    #[arg(long)]
    quick: bool,
    /// Also write what was measured, with distributions and environment, to a file in this directory
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// One JSON object per line on standard output, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// Transports by a name on the command line.
#[derive(Debug, Clone)]
struct Peers(Vec<Transport>);

fn peers(name: &str) -> Result<Peers, String> {
    let is_meant = |one: &Transport| match name {
        "all" => true,
        "smt" => matches!(one.role(), Role::Smt(_)),
        "floors" => matches!(one.role(), Role::Bare(_) | Role::Floor(_)),
        name => one.name() == name,
    };
    let found: Vec<Transport> = Transport::ALL.iter().copied().filter(is_meant).collect();
    if found.is_empty() {
        let names: Vec<String> = Transport::ALL.iter().map(|one| one.name()).collect();
        return Err(format!("it is none of all, smt, floors, {}", names.join(", ")));
    }
    Ok(Peers(found))
}

impl Common {
    fn plan(&self, bench: Bench, cells: Vec<Cell>) -> Plan {
        let mut plan = Plan {
            bench,
            cells,
            transports: unique(self.peers.iter().flat_map(|peers| peers.0.clone()).collect()),
            links: unique(self.link.clone()),
            wait: self.wait,
            time: Duration::from_secs_f64(self.duration),
            rounds: self.rounds,
            budget: None,
        };
        if bench == Bench::Loss {
            // Links that lose packets are of one kind.
            plan.links = vec![Link::Veth];
        }
        if self.quick {
            plan.cells.retain(|cell| cell.size <= QUICK_UP_TO);
            plan.within(QUICK);
            plan.rounds = plan.rounds.min(QUICK_ROUNDS);
        }
        plan
    }

    /// Whether hosts on this machine are needed.
    pub(super) fn needs_hosts(&self) -> bool {
        !self.link.iter().all(|link| matches!(link, Link::Remote(_)))
    }

    /// The agent at the far end of a remote link.
    fn agent(&self) -> Result<Option<Arc<Agent>>, Error> {
        let mut agents = self.link.iter().filter_map(|link| match link {
            Link::Remote(address) => Some(*address),
            _ => None,
        });
        let Some(address) = agents.next() else { return Ok(None) };
        if agents.next().is_some() {
            return Err(Error::Usage("one agent at a time".to_owned()));
        }
        let Some(token) = &self.agent_token else {
            return Err(Error::Usage("an agent takes --agent-token, as it prints it".to_owned()));
        };
        Agent::connect(address, token).map(Arc::new).map(Some)
    }

    /// Measures and tells.
    pub(super) fn run(&self, bench: Bench, cells: Vec<Cell>) -> Result<(), Error> {
        let plan = self.plan(bench, cells);
        if plan.cells.is_empty() {
            return Err(Error::Usage("a quick run has messages up to 16 MB".to_owned()));
        }
        let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
        let printer = Printer::new(self.json);
        let credentials = Arc::new(Credentials::new()?);
        let bar = bar(self.json, "");
        let progress = |share: f64, who: Transport| {
            bar.set_message(format!("{:<14}", who.name()));
            advance(&bar, share);
        };
        let places = Places::new(&credentials, self.agent()?);
        let outcome = eval::measure(places, &plan, &stop, &progress)?;
        bar.finish_and_clear();
        let mut told = Vec::new();
        for cell in &plan.cells {
            let group = (cell.part, cell.scene);
            if !told.contains(&group) {
                told.push(group);
                tell(bench, &outcome, cell, &printer)?;
            }
        }
        if let Some(dir) = &self.save {
            let links: &[Link] = if bench == Bench::Loss { &[] } else { &plan.links };
            let environment = environment::describe(&credentials, links, &plan.transports);
            let rows =
                |(part, scene): &(Part, Scene)| rows::objects(bench, &outcome, *part, *scene, true);
            let results: Vec<Value> = told.iter().flat_map(rows).collect();
            let file = saved::write(dir, bench.name(), &environment, &results)?;
            printer.text(printer.dim(format!("kept in {}", file.display())))?;
        }
        if outcome.measured.is_empty() {
            let why = outcome.not_available.values().next().map_or("", String::as_str);
            return Err(Error::Failed(format!("nothing could be measured: {why}")));
        }
        Ok(())
    }
}

fn tell(bench: Bench, outcome: &Outcome, cell: &Cell, printer: &Printer) -> Result<(), Error> {
    let (part, scene) = (cell.part, cell.scene);
    let title = table::title(part, scene, cell.rate);
    let wait = outcome.wait.map_or("", Wait::name);
    let title = printer.bold(format!("{title}; ends {wait}"));
    printer.text(format!("\n{title}"))?;
    table::table(outcome, part, scene).iter().try_for_each(|line| printer.text(line))?;
    table::not_available(outcome, part, scene).iter().try_for_each(|line| printer.text(line))?;
    let objects = rows::objects(bench, outcome, part, scene, false);
    Ok(objects.iter().try_for_each(|object| printer.object(object))?)
}

fn unique<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort_unstable();
    all.dedup();
    all
}
