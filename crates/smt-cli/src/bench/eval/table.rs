//! Measurements as people read them: a table for each part and state of the link.

use std::collections::BTreeMap;

use super::super::place::{Cut, LostBy, Scene};
use super::rows::{Row, percent, rows};
use super::{Cell, DISTURBED, Outcome, Part};
use crate::output::number;

/// Columns of a table's text, at most.
pub const WIDTH: usize = 100;

/// What a table shows.
pub fn title(part: Part, scene: Scene, rate: Option<u32>) -> String {
    let cut = match scene.cut {
        None => "",
        Some(Cut::On) => "; cut by the device where it can",
        Some(Cut::Software) => "; cut by the stack",
        Some(Cut::Off) => "; cut by whoever sends",
    };
    let title = part_title(part, scene, rate);
    format!("{title}; MTU {}{cut}", scene.mtu)
}

fn part_title(part: Part, scene: Scene, rate: Option<u32>) -> String {
    match part {
        Part::Loss => {
            let loss = percent(scene.loss.unwrap_or(0));
            let by = LostBy::here().name();
            format!("Round trips in us, {loss} % of packets lost each way (by {by})")
        }
        Part::Rtt => "Round trips in us, one RPC at a time".to_owned(),
        Part::Load => "RPCs a second, many at a time (n)".to_owned(),
        Part::Open => "Times in us at fixed rates, from when each RPC was to begin".to_owned(),
        Part::Bulk => "Goodput of long messages, n at a time".to_owned(),
        Part::Mixed => "Round trips in us beside messages of 1 MB".to_owned(),
        Part::Cpu => {
            let rate = number(rate.unwrap_or(0).into());
            format!("Processor time in us per RPC at {rate} a second, ends asleep")
        }
    }
}

/// The column of what is compared, and two more.
fn headings(part: Part) -> [&'static str; 3] {
    match part {
        Part::Rtt => ["p50", "p99", "p99.9"],
        Part::Loss => ["p99", "p50", "p99.9"],
        Part::Load => ["RPC/s", "p50 us", "p99 us"],
        Part::Open => ["p99", "p50", "p99.9"],
        Part::Bulk => ["Gbit/s", "p50 us", ""],
        Part::Mixed => ["p99", "p50", "Gbit/s"],
        Part::Cpu => ["both", "client", "server"],
    }
}

/// A value of a part, in its unit.
pub fn value(part: Part, value: f64) -> String {
    match part {
        Part::Load => number(value as u64),
        Part::Bulk => gbit(value),
        Part::Rtt | Part::Open | Part::Mixed | Part::Cpu | Part::Loss => us(value),
    }
}

/// The same for a range, where there is little room.
fn short(part: Part, of: f64) -> String {
    match part {
        Part::Load if of >= 1e4 => format!("{:.0}k", of / 1e3),
        _ => value(part, of),
    }
}

fn figures(row: &Row<'_>) -> [String; 3] {
    let (part, all) = (row.cell.part, &row.measured.all);
    // Of fewer RPCs than that, a percentile is the slowest one.
    let quantile = |part: f64| match all.times.count() as f64 * (1.0 - part) >= 1.0 {
        true => us(all.times.quantile_ns(part) as f64),
        false => String::new(),
    };
    let each = |ns: u64| us(ns as f64 / all.count.max(1) as f64);
    let first = value(part, row.measured.median());
    let [second, third] = match part {
        Part::Rtt => [quantile(0.99), quantile(0.999)],
        Part::Load => [quantile(0.50), quantile(0.99)],
        Part::Open | Part::Loss => [quantile(0.50), quantile(0.999)],
        Part::Bulk => [quantile(0.50), String::new()],
        Part::Mixed => [quantile(0.50), gbit(row.beside())],
        Part::Cpu => all.cpu_ns.map(each),
    };
    [first, second, third]
}

/// Lines of a table, the heading first, at most [`WIDTH`] columns wide: each transport on the link where it is best.
pub fn table(outcome: &Outcome, part: Part, scene: Scene) -> Vec<String> {
    let [one, two, three] = headings(part);
    let n = match part {
        Part::Load | Part::Bulk => "n",
        Part::Open => "RPC/s",
        _ => "",
    };
    let ratios = ["/floor", "/TLS", "/TCP"];
    let mut lines = vec![line(["size", n, "", "link", one, "min-max", two, three], ratios, false)];
    let mut last = None;
    let mut disturbed = false;
    for row in rows(outcome, part, scene).iter().filter(|row| row.best) {
        let is_new = last.replace(row.cell) != Some(row.cell);
        let (size, n) =
            if is_new { (size(row.cell.size), many(&row.cell)) } else { Default::default() };
        let [one, two, three] = figures(row);
        let range = match row.measured.rounds.len() {
            0 | 1 => String::new(),
            _ => row.measured.range().map(|end| short(part, end)).join("-"),
        };
        let ratios = [row.to_floors[1], row.to_peers[0], row.to_peers[1]].map(ratio);
        let is_disturbed = row.measured.is_disturbed();
        disturbed |= is_disturbed;
        let cells = [&size, &n, &row.transport.name(), row.link.name(), &one, &range, &two, &three];
        lines.push(line(cells, ratios.each_ref().map(String::as_str), is_disturbed));
    }
    if disturbed {
        let bound = 100.0 * DISTURBED;
        lines.push(format!("  * disturbed: its rounds differ by more than {bound:.0} %"));
    }
    lines
}

/// How many at a time, or a second.
fn many(cell: &Cell) -> String {
    match cell.part {
        Part::Load | Part::Bulk => cell.outstanding.to_string(),
        Part::Open => number(cell.rate.unwrap_or(0).into()),
        _ => String::new(),
    }
}

/// Who of a part was not available in a scene: a line for each reason, as long as it is.
pub fn not_available(outcome: &Outcome, part: Part, scene: Scene) -> Vec<String> {
    let mut by_reason: BTreeMap<&str, BTreeMap<String, Vec<&str>>> = BTreeMap::new();
    for ((of, at, who, link), why) in &outcome.not_available {
        if (*of, *at) == (part, scene) {
            let links = by_reason.entry(why).or_default().entry(who.name()).or_default();
            links.push(link.name());
        }
    }
    let line = |(why, who): (&str, BTreeMap<String, Vec<&str>>)| {
        let who = who.into_iter().map(|(who, links)| format!("{who} ({})", links.join(", ")));
        format!("  not available: {}: {why}", who.collect::<Vec<_>>().join(", "))
    };
    by_reason.into_iter().map(line).collect()
}

fn line(cells: [&str; 8], ratios: [&str; 3], disturbed: bool) -> String {
    let [size, n, name, link, one, range, two, three] = cells;
    let [floor, tls, tcp] = ratios;
    let mark = if disturbed { "*" } else { "" };
    let line = format!(
        "{size:>6} {n:>7} {name:<14} {link:<8} {one:>9}{mark:<1} {range:<13} {two:>8} {three:>8} {floor:>6} {tls:>5} {tcp:>5}"
    );
    line.trim_end().to_owned()
}

/// A message's bytes in the units that suit powers of two.
pub fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KB", bytes >> 10),
        _ => format!("{:.1}K", bytes as f64 / 1024.0),
    }
}

fn us(ns: f64) -> String {
    let us = ns / 1e3;
    if us < 1000.0 { format!("{us:.1}") } else { format!("{us:.0}") }
}

fn gbit(bits: f64) -> String {
    format!("{:.2}", bits / 1e9)
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or(String::new(), |ratio| match ratio {
        ..10.0 => format!("{ratio:.2}"),
        10.0..100.0 => format!("{ratio:.1}"),
        100.0..99_999.0 => format!("{ratio:.0}"),
        _ => ">1e5".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::{PARTS, SCENE, outcome};
    use super::*;

    #[test]
    fn tables_fit_the_screen_and_show_everybody_at_its_best() {
        for part in PARTS {
            let outcome = outcome(part);
            let lines = table(&outcome, part, SCENE);
            for line in &lines {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
            assert_eq!(lines.len(), 7, "{lines:?}");
            assert!(lines[1].contains("smt-raw") && lines[1].contains("macvlan"), "{}", lines[1]);
            assert!(lines[1].contains('*') && lines[6].contains("disturbed"), "{lines:?}");
            assert!(!lines[2].contains('*'), "{}", lines[2]);
            assert!(table(&outcome, part, Scene { mtu: 9000, ..SCENE }).len() == 1);
            let not = not_available(&outcome, part, SCENE);
            assert_eq!(not, ["  not available: tls-rustls-one (veth, macvlan): no such device"]);
        }
    }

    #[test]
    fn sizes_have_units() {
        let told = [64, 1024, 1500, 65_536, 1 << 20].map(size);
        assert_eq!(told, ["64 B", "1 KB", "1.5K", "64 KB", "1 MB"]);
    }
}
