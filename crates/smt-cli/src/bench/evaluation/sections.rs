//! A section for each command: its question, the command, a table of values, one of ratios, plots.

use super::super::eval::table::{size, value};
use super::super::eval::{DISTURBED, Part};
use super::super::saved::Record;
use super::data::{Data, Row, is_peer, is_smt, place};
use super::document::{Block, Cell, Table};
use super::plots;

/// The commands in the order of the report, and what each answers.
const SECTIONS: [(&str, &str, &str); 8] = [
    (
        "rtt",
        "Unloaded round trips",
        "One RPC at a time, request and response of one size; microseconds, medians.",
    ),
    (
        "load",
        "Many RPCs at a time",
        "So many RPCs outstanding, in one session of SMT, on as many connections of the \
      others (`-one`: all on one); RPCs a second. With a rate, RPCs begin whether or not earlier ones are over, and \
      99th percentiles in microseconds count from when each was to begin.",
    ),
    ("bulk", "Long messages", "A few outstanding, each answered by 8 bytes; Gbit/s."),
    (
        "mixed",
        "Small RPCs beside long messages",
        "One small RPC at a time while messages of 1 MB are outstanding in the \
      same session or on the same connection; microseconds, 99th percentiles: head-of-line blocking.",
    ),
    (
        "loss",
        "Links that lose packets",
        "One RPC at a time, ends asleep, packets lost at random in each direction, the \
      same way for everybody; microseconds, 99th percentiles.",
    ),
    (
        "cpu",
        "Processor time",
        "One RPC at a time at a fixed rate, ends asleep in between; microseconds of both ends \
      together for each RPC.",
    ),
    (
        "tso",
        "Who cuts long messages",
        "Round trips of long messages: cut by the device where it can (on), by the stack \
      (software), by whoever sends (off); microseconds, medians.",
    ),
    (
        "mtu",
        "Longer packets",
        "Round trips (microseconds, medians) and RPCs a second with packets of several lengths.",
    ),
];

/// Sections of all commands that were run.
pub(super) fn all(data: &Data) -> Vec<Block> {
    let of = SECTIONS.iter().filter(|(bench, ..)| !data.rows(bench).is_empty());
    let mut blocks: Vec<Block> =
        of.flat_map(|(bench, title, question)| section(data, bench, title, question)).collect();
    blocks.extend(handshakes(data));
    blocks
}

fn section(data: &Data, bench: &str, title: &str, question: &str) -> Vec<Block> {
    let mut blocks = vec![Block::Heading(2, title.to_owned()), Block::Text(question.to_owned())];
    blocks.extend(data.commands.get(bench).map(|command| Block::Code(format!("$ {command}"))));
    for rows in groups(data.rows(bench)) {
        let Some(first) = rows.first() else { continue };
        let about = about(first);
        if !about.is_empty() {
            blocks.push(Block::Text(about));
        }
        blocks.push(Block::Table(values(data, &rows)));
        let ratios = ratios(data, &rows);
        if ratios.rows.len() > 1 {
            let better = if first.part.more_is_better() { "above" } else { "below" };
            blocks.push(Block::Text(format!(
                "SMT at its best beside each peer at its best; {better} 1 SMT is better:"
            )));
            blocks.push(Block::Table(ratios));
        }
    }
    if let Some(missing) = data.not_available.get(bench).filter(|missing| !missing.is_empty()) {
        let items = missing.iter().map(|(who, why)| format!("`{who}`: not available: {why}"));
        blocks.push(Block::List(items.collect()));
    }
    blocks.extend(plots::of(data, bench));
    blocks
}

/// Rows that share a table: of one part on links in one state, unless that is what rows differ in.
fn groups(rows: Vec<Row>) -> Vec<Vec<Row>> {
    let mut groups: Vec<Vec<Row>> = Vec::new();
    for row in rows {
        let fits = |group: &Vec<Row>| {
            group.first().is_some_and(|first| {
                (first.part, first.mtu, &first.tso) == (row.part, row.mtu, &row.tso)
                    && (first.part != Part::Loss || first.size == row.size)
            })
        };
        match groups.iter_mut().find(|group| fits(group)) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// What all rows of a table share.
fn about(row: &Row) -> String {
    let mut parts = Vec::new();
    match row.part {
        Part::Open => {
            parts.push(format!("At fixed rates, at most {} outstanding", row.outstanding))
        }
        Part::Loss => parts.push(size(row.size)),
        _ => {}
    }
    if row.bench == "mtu" {
        let what = if row.part == Part::Load { "RPCs a second" } else { "Round trips" };
        parts.push(format!("{what}, packets of {} bytes", row.mtu));
    }
    if let Some(tso) = &row.tso {
        parts.push(format!("Segmentation: {tso}"));
    }
    if parts.is_empty() { String::new() } else { parts.join("; ") + ":" }
}

/// What tells a row from the others of its table.
pub(super) fn heading(row: &Row) -> String {
    match row.part {
        Part::Load => format!("{} x {}", size(row.size), row.outstanding),
        Part::Open => format!("{}, {}/s", size(row.size), row.rate.unwrap_or(0)),
        Part::Loss => format!("{} %", f64::from(row.loss.unwrap_or(0)) / 1e4),
        _ => size(row.size),
    }
}

fn values(data: &Data, rows: &[Row]) -> Table {
    let mut table = Table { columns: vec!["transport".to_owned()], rows: Vec::new() };
    table.columns.extend(rows.iter().map(heading));
    for name in data.transports(rows) {
        let mut cells = vec![Cell::from(format!("`{name}`"))];
        for row in rows {
            cells.push(data.best(row, &name).map_or_else(Cell::default, |record| {
                let shown = |of| value(row.part, of);
                let range = match record.value_min < record.value_max {
                    true => format!(" ({}-{})", shown(record.value_min), shown(record.value_max)),
                    false => String::new(),
                };
                let mark = if record.disturbed { " disturbed" } else { "" };
                Cell {
                    text: format!("{}{range}{mark}", shown(record.value)),
                    data: vec![
                        ("bench", row.bench.clone()),
                        ("transport", name.clone()),
                        ("size", row.size.to_string()),
                        ("outstanding", row.outstanding.to_string()),
                        ("link", record.link.clone()),
                        ("value", record.value.to_string()),
                    ],
                }
            }));
        }
        table.rows.push(cells);
    }
    table
}

fn ratios(data: &Data, rows: &[Row]) -> Table {
    let mut table = Table { columns: vec!["SMT beside".to_owned()], rows: Vec::new() };
    table.columns.extend(rows.iter().map(heading));
    for name in data.transports(rows).into_iter().filter(|name| is_peer(name)) {
        let mut cells = vec![Cell::from(format!("`{name}`"))];
        cells.extend(rows.iter().map(|row| {
            let both = data.best_smt(row).zip(data.best(row, &name));
            both.map_or_else(Cell::default, |(smt, peer)| {
                Cell::from(format!("{:.2}", smt.value / peer.value))
            })
        }));
        table.rows.push(cells);
    }
    let mut by = vec![Cell::from("SMT's best")];
    by.extend(rows.iter().map(|row| {
        data.best_smt(row).map_or_else(Cell::default, |smt| format!("`{}`", smt.transport).into())
    }));
    table.rows.push(by);
    table
}

/// An honest summary: how often SMT is behind each peer, and where most.
pub(super) fn losses(data: &Data) -> Vec<Block> {
    let rows: Vec<Row> = SECTIONS.iter().flat_map(|(bench, ..)| data.rows(bench)).collect();
    let mut items = Vec::new();
    let mut peers: Vec<String> =
        data.transports(&rows).into_iter().filter(|name| is_peer(name)).collect();
    peers.sort_by_key(|name| place(name));
    for peer in &peers {
        let (mut compared, mut behind) = (0, Vec::new());
        for row in &rows {
            let Some((smt, other)) = data.best_smt(row).zip(data.best(row, peer)) else { continue };
            compared += 1;
            let cost = match row.part.more_is_better() {
                true => other.value / smt.value,
                false => smt.value / other.value,
            };
            if cost > 1.0 {
                behind.push((cost, row, smt, other));
            }
        }
        if compared == 0 {
            continue;
        }
        // What proves nothing comes last.
        let is_disturbed =
            |(_, _, smt, other): &(f64, &Row, &Record, &Record)| smt.disturbed || other.disturbed;
        behind.sort_by(|one, other| {
            is_disturbed(one).cmp(&is_disturbed(other)).then(other.0.total_cmp(&one.0))
        });
        let disturbed = behind.iter().filter(|one| is_disturbed(one)).count();
        let worst = behind.iter().take(WORST).map(|(cost, row, smt, other)| {
            let mark = if smt.disturbed || other.disturbed { ", disturbed" } else { "" };
            format!(
                "{} {}: {} against {} ({cost:.2} times worse{mark})",
                row.bench,
                told(row),
                value(row.part, smt.value),
                value(row.part, other.value)
            )
        });
        let worst: Vec<String> = worst.collect();
        items.push(match worst.is_empty() {
            true => format!("`{peer}`: ahead in all {compared} rows"),
            false => {
                let of = behind.len();
                let mark = match disturbed {
                    0 => String::new(),
                    _ => format!(", {disturbed} of them disturbed"),
                };
                let worst = worst.join("; ");
                format!("`{peer}`: behind in {of} of {compared} rows{mark}, most in {worst}")
            }
        });
    }
    let mut each = Vec::new();
    for name in data.transports(&rows).into_iter().filter(|name| is_smt(name)) {
        let pairs = rows.iter().filter_map(|row| {
            let both = data.best(row, &name).zip(data.best(row, "tls-rustls"));
            both.map(|(smt, tls)| row.part.is_better(tls.value, smt.value))
        });
        let pairs: Vec<bool> = pairs.collect();
        let behind = pairs.iter().filter(|behind| **behind).count();
        if !pairs.is_empty() {
            each.push(format!("`{name}` in {behind} of {}", pairs.len()));
        }
    }
    let mut blocks = vec![
        Block::Heading(2, "Where SMT is behind".to_owned()),
        Block::Text(
            "SMT by whichever of its datapaths was best in a row, beside each peer at its best; computed from all \
             results below:"
                .to_owned(),
        ),
        Block::List(items),
    ];
    if !each.is_empty() {
        blocks.push(Block::Text(format!(
            "A single datapath for everything is behind TLS by rustls more often: {}.",
            each.join(", ")
        )));
    }
    blocks.push(Block::Text(format!(
        "Rows are `disturbed` if their rounds differ by more than {:.0} %: neither side of them proves anything.",
        100.0 * DISTURBED
    )));
    blocks
}

/// Rows named in the summary for each peer.
const WORST: usize = 4;

fn told(row: &Row) -> String {
    let mut told = match row.part {
        Part::Loss => format!("{} at {} loss", size(row.size), heading(row)),
        _ => heading(row),
    };
    if row.bench == "mtu" {
        let what = if row.part == Part::Load { "rate" } else { "round trip" };
        told = format!("{what} {told} at MTU {}", row.mtu);
    }
    if let Some(tso) = &row.tso {
        told = format!("{told} ({tso})");
    }
    told
}

/// First RPCs of sessions, which have no transport's names but ways of getting there.
fn handshakes(data: &Data) -> Vec<Block> {
    let lines = data.others.get("handshake").map(Vec::as_slice).unwrap_or_default();
    let columns = ["first RPC", "added round trip, us", "p50, us", "p99, us", "/ TLS"];
    let mut table = Table { columns: columns.map(str::to_owned).to_vec(), rows: Vec::new() };
    for line in lines.iter().filter(|line| line["p50_ns"].is_u64()) {
        let text = |name: &str| line[name].as_str().unwrap_or_default();
        let us =
            |name: &str| line[name].as_f64().map_or_else(String::new, |ns| value(Part::Rtt, ns));
        let mtls = if line["mtls"] == true { ", mTLS" } else { "" };
        let what =
            format!("{} {}, {}{mtls}", text("transport"), text("variant"), text("key_exchange"));
        let ratio = line["ratio_to_tls"].as_f64();
        table.rows.push(vec![
            what.into(),
            line["rtt_us"].to_string().into(),
            us("p50_ns").into(),
            us("p99_ns").into(),
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")).into(),
        ]);
    }
    if table.rows.is_empty() {
        return Vec::new();
    }
    let question = "From nothing to the response of the first RPC: connection or session, request of 64 bytes, \
                    response; `handshakes.md` explains the variants.";
    let mut blocks = vec![
        Block::Heading(2, "First RPC of a session".to_owned()),
        Block::Text(question.to_owned()),
    ];
    blocks
        .extend(data.commands.get("handshake").map(|command| Block::Code(format!("$ {command}"))));
    blocks.push(Block::Table(table));
    blocks
}
