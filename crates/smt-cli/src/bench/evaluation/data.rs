//! What was kept of runs, put together: of each result the newest.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde_json::Value;

use super::super::eval::Part;
use super::super::peers::{Role, Transport};
use super::super::saved::{Record, Run};

/// A row of a table: everything that is the same for all transports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The command's name.
    pub bench: String,
    /// How RPCs followed each other.
    pub part: Part,
    /// Largest packets in bytes.
    pub mtu: u32,
    /// Packets lost of a million.
    pub loss: Option<u32>,
    /// Who cut.
    pub tso: Option<String>,
    /// Bytes.
    pub size: usize,
    /// RPCs at a time.
    pub outstanding: usize,
    /// RPCs a second.
    pub rate: Option<u32>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Data {
    records: BTreeMap<(Row, String, String), Record>,
    /// Who was not available, by command: names and why.
    pub not_available: BTreeMap<String, BTreeMap<String, String>>,
    /// The newest command of each bench, as it was given.
    pub commands: BTreeMap<String, String>,
    /// The environments of all runs, oldest first.
    pub environments: Vec<Value>,
    /// Results of commands that compare no transports, by the command's name: those of its newest run.
    pub others: BTreeMap<String, Vec<Value>>,
}

impl Data {
    /// Puts runs together, oldest first.
    pub fn new(runs: Vec<Run>) -> Data {
        let mut data = Data::default();
        for run in runs {
            if let Some(command) = run.environment["command"].as_str() {
                data.commands.insert(run.bench.clone(), command.to_owned());
            }
            data.environments.push(run.environment);
            if run.records.is_empty() {
                data.others.insert(run.bench.clone(), run.lines);
            }
            let missing = data.not_available.entry(run.bench).or_default();
            for record in run.records {
                match &record.not_available {
                    Some(why) => {
                        missing.insert(record.transport.clone(), why.clone());
                    }
                    None => {
                        let key = (row(&record), record.transport.clone(), record.link.clone());
                        data.records.insert(key, record);
                    }
                }
            }
        }
        let measured: Vec<(String, String)> =
            data.records.keys().map(|(row, who, _)| (row.bench.clone(), who.clone())).collect();
        for (bench, missing) in &mut data.not_available {
            missing.retain(|who, _| !measured.contains(&(bench.clone(), who.clone())));
        }
        data
    }

    /// The rows of a bench, in order.
    pub fn rows(&self, bench: &str) -> Vec<Row> {
        let of = self.records.keys().filter(|(row, ..)| row.bench == bench);
        let mut rows: Vec<Row> = of.map(|(row, ..)| row.clone()).collect();
        rows.dedup();
        rows
    }

    /// What a transport did in a row on the link where it was best.
    pub fn best(&self, row: &Row, transport: &str) -> Option<&Record> {
        let mut best: Option<&Record> = None;
        for record in self.links(row, transport) {
            if best.is_none_or(|best| row.part.is_better(record.value, best.value)) {
                best = Some(record);
            }
        }
        best.filter(|best| best.value > 0.0)
    }

    /// What it did on each link.
    pub fn links(&self, row: &Row, transport: &str) -> Vec<&Record> {
        let of = self.records.iter().filter(|((at, who, _), _)| at == row && who == transport);
        of.map(|(_, record)| record).collect()
    }

    /// The best of SMT's datapaths in a row.
    pub fn best_smt(&self, row: &Row) -> Option<&Record> {
        let mut best: Option<&Record> = None;
        for name in self.transports(std::slice::from_ref(row)) {
            if is_smt(&name)
                && let Some(record) = self.best(row, &name)
                && best.is_none_or(|best| row.part.is_better(record.value, best.value))
            {
                best = Some(record);
            }
        }
        best
    }

    /// Who was measured in some of these rows, in the order of tables.
    pub fn transports(&self, rows: &[Row]) -> Vec<String> {
        let of = self.records.keys().filter(|(row, ..)| rows.contains(row));
        let mut names: Vec<String> = of.map(|(_, who, _)| who.clone()).collect();
        names.sort_by_key(|name| (place(name), name.clone()));
        names.dedup();
        names
    }
}

fn row(record: &Record) -> Row {
    Row {
        bench: record.bench.clone(),
        part: record.part,
        mtu: record.mtu,
        loss: record.loss_percent.map(|percent| (percent * 1e4).round() as u32),
        tso: record.tso.clone(),
        size: record.size,
        outstanding: record.outstanding,
        rate: record.rate,
    }
}

/// Whose name it is, if anybody's.
fn transport(name: &str) -> Option<Transport> {
    Transport::from_str(name, false).ok()
}

/// In which colour. What lies under SMT is not drawn, and takes none.
pub fn colour(name: &str) -> usize {
    let drawn = |who: &&Transport| !matches!(who.role(), Role::Bare(_) | Role::Floor(_));
    let mut all = Transport::ALL.iter().filter(drawn);
    let count = all.clone().count();
    transport(name).and_then(|who| all.position(|one| *one == who)).unwrap_or(count)
}

/// Where in tables.
pub fn place(name: &str) -> usize {
    let all = Transport::ALL;
    transport(name).and_then(|who| all.iter().position(|one| *one == who)).unwrap_or(all.len())
}

/// Whether it is SMT over one of its datapaths as such.
pub fn is_smt(name: &str) -> bool {
    transport(name).is_some_and(|who| matches!(who.role(), Role::Smt(_)))
}

/// Whether it is what SMT is compared with, rather than SMT in some form or a part of it.
pub fn is_peer(name: &str) -> bool {
    transport(name).is_none_or(|who| matches!(who.role(), Role::Other | Role::OtherOne))
}

/// Whether it is a datapath of SMT's alone, or with encryption and nothing else.
pub fn is_floor(name: &str) -> bool {
    transport(name).is_some_and(|who| matches!(who.role(), Role::Bare(_) | Role::Floor(_)))
}
