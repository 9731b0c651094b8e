//! The plots of each command.

use super::super::eval::Part;
use super::super::eval::table::size;
use super::data::{Data, Row, colour, is_floor, is_smt};
use super::document::Block;
use super::sections::heading;
use super::svg::{Axis, Line, Points, plot};
use crate::output::number;

/// The parts of a distribution that are drawn.
const PARTS: usize = 200;

/// The plots of a command.
pub(super) fn of(data: &Data, bench: &str) -> Vec<Block> {
    let rows = data.rows(bench);
    match bench {
        "rtt" => {
            let mut blocks = by_size(data, &rows, "latency by size", "median, us", 1e3);
            blocks.extend(distribution(data, rows.first()));
            blocks
        }
        "load" => by_outstanding(data, &rows),
        "bulk" => by_size(data, &rows, "goodput by size", "Gbit/s", 1e9),
        "mixed" => distribution(data, rows.first()),
        "loss" => by_loss(data, &rows),
        _ => Vec::new(),
    }
}

/// Who is drawn: everybody but what lies under SMT, which tables tell.
fn drawn(data: &Data, rows: &[Row]) -> Vec<String> {
    let names = data.transports(rows).into_iter();
    names.filter(|name| !is_floor(name)).collect()
}

fn line(name: &str, points: Vec<(f64, f64)>) -> Line {
    Line { name: name.to_owned(), place: colour(name), is_faint: !is_smt(name), points }
}

fn log(title: &str, label: fn(f64) -> String, marks: Vec<f64>) -> Axis {
    Axis { title: title.to_owned(), is_log: true, label, marks }
}

fn plain(title: &str, label: fn(f64) -> String) -> Axis {
    Axis { title: title.to_owned(), is_log: false, label, marks: Vec::new() }
}

fn block(shows: String, name: String, svg: Option<String>) -> Vec<Block> {
    svg.map(|svg| Block::Plot(shows, name, svg)).into_iter().collect()
}

fn bytes(value: f64) -> String {
    size(value as usize)
}

fn shortly(value: f64) -> String {
    if value >= 10_000.0 { number(value as u64) } else { format!("{value}") }
}

fn by_size(data: &Data, rows: &[Row], what: &str, unit: &str, scale: f64) -> Vec<Block> {
    let Some(first) = rows.first() else { return Vec::new() };
    let lines: Vec<Line> = drawn(data, rows)
        .iter()
        .map(|name| {
            let point = |row: &Row| {
                data.best(row, name).map(|record| (row.size as f64, record.value / scale))
            };
            line(name, rows.iter().filter_map(point).collect())
        })
        .collect();
    let marks = rows.iter().map(|row| row.size as f64).collect();
    let title = format!("{}: {what}", first.bench);
    let y = match first.part {
        Part::Bulk => plain(unit, shortly),
        _ => log(unit, shortly, Vec::new()),
    };
    let svg = plot(&title, &log("bytes", bytes, marks), &y, &lines, Points::Drawn);
    block(title, format!("{}-by-size", first.bench), svg)
}

fn by_outstanding(data: &Data, rows: &[Row]) -> Vec<Block> {
    let mut sizes: Vec<usize> =
        rows.iter().filter(|row| row.part == Part::Load).map(|row| row.size).collect();
    sizes.dedup();
    let mut blocks = Vec::new();
    for bytes in sizes {
        let of: Vec<Row> = rows
            .iter()
            .filter(|row| (row.part, row.size) == (Part::Load, bytes))
            .cloned()
            .collect();
        let lines: Vec<Line> = drawn(data, &of)
            .iter()
            .map(|name| {
                let point = |row: &Row| {
                    data.best(row, name).map(|record| (row.outstanding as f64, record.value / 1e3))
                };
                line(name, of.iter().filter_map(point).collect())
            })
            .collect();
        let marks = of.iter().map(|row| row.outstanding as f64).collect();
        let title = format!("load: throughput by concurrency, {}", size(bytes));
        let (x, y) = (log("RPCs outstanding", shortly, marks), plain("thousand RPC/s", shortly));
        let svg = plot(&title, &x, &y, &lines, Points::Drawn);
        blocks.extend(block(title, format!("load-{bytes}"), svg));
    }
    blocks
}

fn by_loss(data: &Data, rows: &[Row]) -> Vec<Block> {
    let mut sizes: Vec<usize> = rows.iter().map(|row| row.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut blocks = Vec::new();
    for bytes in sizes {
        let of: Vec<Row> = rows.iter().filter(|row| row.size == bytes).cloned().collect();
        let lines: Vec<Line> = drawn(data, &of)
            .iter()
            .map(|name| {
                let point = |row: &Row| {
                    let percent = f64::from(row.loss.unwrap_or(0)) / 1e4;
                    data.best(row, name).map(|record| (percent, record.value / 1e3))
                };
                line(name, of.iter().filter_map(point).collect())
            })
            .collect();
        let title = format!("loss: 99th percentiles, {}", size(bytes));
        let (x, y) = (plain("per cent of packets lost", shortly), log("us", shortly, Vec::new()));
        let svg = plot(&title, &x, &y, &lines, Points::Drawn);
        blocks.extend(block(title, format!("loss-{bytes}"), svg));
    }
    blocks
}

/// How many RPCs of a row took at most so long.
fn distribution(data: &Data, row: Option<&Row>) -> Vec<Block> {
    let Some(row) = row else { return Vec::new() };
    // The slowest thousandth is told by percentiles; drawn, it would leave no room for the rest.
    let parts: Vec<f64> = (1..PARTS).map(|part| part as f64 / PARTS as f64).collect();
    let lines: Vec<Line> = drawn(data, std::slice::from_ref(row))
        .iter()
        .filter_map(|name| {
            let times = data.best(row, name)?.times()?;
            let points = times.points(&parts).into_iter();
            Some(line(name, points.map(|(ns, part)| (ns as f64 / 1e3, 100.0 * part)).collect()))
        })
        .collect();
    let title = format!("{}: RPCs of {} by time", row.bench, heading(row));
    let (x, y) = (log("us, at most", shortly, Vec::new()), plain("per cent of RPCs", shortly));
    let svg = plot(&title, &x, &y, &lines, Points::Hidden);
    block(title, format!("{}-cdf", row.bench), svg)
}
