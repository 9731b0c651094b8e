//! How far from what the machine can do, and how cost grows.

use serde_json::Value;

use super::super::eval::Part;
use super::super::eval::table::size;
use super::data::{Data, Row, is_smt};
use super::document::{Block, Cell, Table};
use crate::output::{bytes, number, time};

/// The section; what was not measured is left out.
pub(super) fn section(data: &Data) -> Vec<Block> {
    let mut blocks = vec![Block::Heading(2, "Limits".to_owned())];
    blocks.extend(floors(data));
    blocks.extend(by_size(data));
    blocks.extend(by_outstanding(data));
    blocks.extend(scale(data));
    if blocks.len() == 1 {
        blocks.push(Block::Text(
            "Nothing was measured that tells (`rtt`, `load`, `scale`).".to_owned(),
        ));
    }
    blocks
}

/// A round trip in its parts: what the bare datapath takes, what encryption adds, what is left.
fn floors(data: &Data) -> Vec<Block> {
    let steps = steps(data);
    let mut table = Table {
        columns: [
            "round trip",
            "SMT",
            "bare datapath",
            "+ AEAD",
            "what is left",
            "AES-GCM alone",
            "copies alone",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows: Vec::new(),
    };
    for row in data.rows("rtt") {
        for name in data.transports(std::slice::from_ref(&row)).iter().filter(|name| is_smt(name)) {
            let datapath = name.trim_start_matches("smt-");
            let (bare, floor) = (format!("bare-{datapath}"), format!("floor-{datapath}"));
            let Some(smt) = data.best(&row, name) else { continue };
            // On one link, or the difference would be that of links.
            let on_link =
                |who: &str| data.links(&row, who).into_iter().find(|of| of.link == smt.link);
            let Some((bare, floor)) = on_link(&bare).zip(on_link(&floor)) else { continue };
            let is_disturbed = [smt, bare, floor].iter().any(|of| of.disturbed);
            let mark = if is_disturbed { ", disturbed" } else { "" };
            let (bare, floor) = (bare.value, floor.value);
            let us = |ns: f64| Cell::from(format!("{:.1}", ns / 1e3));
            let step = |kind: &str| {
                let found = steps.iter().find(|(of, bytes, _)| (*of, *bytes) == (kind, row.size));
                found.map_or_else(Cell::default, |(.., ns)| us(*ns))
            };
            table.rows.push(vec![
                format!("{}, `{name}`, {}{mark}", size(row.size), smt.link).into(),
                us(smt.value),
                us(bare),
                us(floor - bare),
                us(smt.value - floor),
                step("aead"),
                step("copy"),
            ]);
        }
    }
    if table.rows.is_empty() {
        return Vec::new();
    }
    vec![
        Block::Heading(3, "Distance to the floor".to_owned()),
        Block::Text(
            "Microseconds of a round trip. The bare datapath carries as many bytes without protocol; with the AEAD work \
             it seals and opens the records that SMT would cut them into; what is left is SMT's own: protocol, events, \
             copies. AES-GCM and copies alone are what sealing and opening, or \
             copying once at each end, take in memory (`smt bench scale`), both ways."
                .to_owned(),
        ),
        Block::Table(table),
    ]
}

/// Kind, bytes, nanoseconds of what `smt bench scale` measured in memory.
fn steps(data: &Data) -> Vec<(&str, usize, f64)> {
    let lines = data.others.get("scale").map(Vec::as_slice).unwrap_or_default();
    let step = |line| {
        let line: &Value = line;
        let bytes = usize::try_from(line["size"].as_u64()?).ok()?;
        Some((line["step"].as_str()?, bytes, line["ns"].as_f64()?))
    };
    lines.iter().filter_map(step).collect()
}

fn by_size(data: &Data) -> Vec<Block> {
    let rows = data.rows("rtt");
    let ends = rows.first().zip(rows.last()).filter(|(first, last)| last.size > first.size);
    let Some((first, last)) = ends else { return Vec::new() };
    let mut table = Table {
        columns: [
            "transport".to_owned(),
            format!("{}, us", size(first.size)),
            format!("{}, us", size(last.size)),
            "ns for each further KB, both ways".to_owned(),
        ]
        .to_vec(),
        rows: Vec::new(),
    };
    for name in data.transports(&rows) {
        let Some((short, long)) = data.best(first, &name).zip(data.best(last, &name)) else {
            continue;
        };
        let per_kb = (long.value - short.value) / ((last.size - first.size) as f64 / 1024.0);
        let us = |ns: f64| Cell::from(format!("{:.1}", ns / 1e3));
        table.rows.push(vec![
            format!("`{name}`").into(),
            us(short.value),
            us(long.value),
            format!("{per_kb:.0}").into(),
        ]);
    }
    vec![Block::Heading(3, "Cost by message size".to_owned()), Block::Table(table)]
}

fn by_outstanding(data: &Data) -> Vec<Block> {
    let rows: Vec<Row> =
        data.rows("load").into_iter().filter(|row| row.part == Part::Load).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let mut table = Table { columns: vec!["ns for each RPC".to_owned()], rows: Vec::new() };
    table
        .columns
        .extend(rows.iter().map(|row| format!("{} x {}", size(row.size), row.outstanding)));
    for name in data.transports(&rows) {
        let mut cells = vec![Cell::from(format!("`{name}`"))];
        cells.extend(rows.iter().map(|row| {
            data.best(row, &name)
                .map_or_else(Cell::default, |of| number((1e9 / of.value) as u64).into())
        }));
        table.rows.push(cells);
    }
    vec![Block::Heading(3, "Cost by RPCs outstanding".to_owned()), Block::Table(table)]
}

/// Sessions: how much memory, how soon answered, how many a second.
fn scale(data: &Data) -> Vec<Block> {
    let lines = data.others.get("scale").map(Vec::as_slice).unwrap_or_default();
    let mut table = Table {
        columns: [
            "sessions",
            "memory of both ends, for each",
            "round trip of 64 B in one of them, p50",
            "p99",
            "sessions made a second",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows: Vec::new(),
    };
    for line in lines.iter().filter(|line| line["sessions"].is_u64()) {
        let count = |name: &str| line[name].as_u64();
        let told = |value: Option<u64>, how: fn(u64) -> String| {
            Cell::from(value.map_or_else(String::new, how))
        };
        let sessions = Cell {
            text: number(count("sessions").unwrap_or(0)),
            data: vec![("sessions", count("sessions").unwrap_or(0).to_string())],
        };
        table.rows.push(vec![
            sessions,
            told(count("memory_bytes_per_session"), bytes),
            told(count("p50_ns"), time),
            told(count("p99_ns"), time),
            told(line["sessions_per_second"].as_f64().map(|rate| rate as u64), number),
        ]);
    }
    if table.rows.is_empty() {
        return Vec::new();
    }
    let mut blocks = vec![Block::Heading(3, "Cost by sessions".to_owned())];
    blocks.extend(data.commands.get("scale").map(|command| Block::Code(format!("$ {command}"))));
    blocks.push(Block::Table(table));
    blocks
}
