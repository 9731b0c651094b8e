//! Reports as tables.

use super::experiment::Report;
use super::outcome::Slowdown;
use crate::table::{Cell, Table};

/// Slowdown by message size of several runs of the same messages, side by side. `names` are those
/// of the runs.
pub fn by_size(reports: &[&Report], names: &[String]) -> Table {
    let mut columns = vec!["bytes".to_owned()];
    for name in names {
        columns.extend(["P50", "P99", "mean"].map(|what| format!("{name} {what}")));
    }
    let mut table = Table::new(columns);
    let rows = reports.first().map_or(0, |report| report.outcome.by_size.len());
    for row in 0..rows {
        let groups: Vec<Slowdown> = reports
            .iter()
            .map(|report| report.outcome.by_size.get(row).copied().unwrap_or_default())
            .collect();
        table.row(cells(&groups));
    }
    let whole = |pick: fn(&Report) -> Slowdown| {
        reports.iter().map(|report| pick(report)).collect::<Vec<_>>()
    };
    table.row(cells(&whole(|report| report.outcome.longest)));
    table.row(cells(&whole(|report| report.outcome.all)));
    table
}

fn cells(groups: &[Slowdown]) -> Vec<Cell> {
    let first = groups.first().copied().unwrap_or_default();
    let mut cells = vec![Cell::from(format!("{}-{}", first.from_bytes, first.to_bytes))];
    for group in groups {
        cells.extend([group.p50, group.p99, group.mean].map(Cell::from));
    }
    cells
}

/// One line for each run: the shorter half of its messages, loads, and what the network saw.
pub fn traffic(reports: &[&Report], names: &[String]) -> Table {
    let mut table = Table::new([
        "run",
        "short half P99",
        "offered",
        "achieved",
        "links used",
        "packets",
        "dropped",
        "trimmed",
        "largest queue",
        "sent again",
        "RESENDs",
        "duplicates",
        "GRANTs",
        "BUSYs",
        "unfinished",
        "starved",
    ]);
    for (report, name) in reports.iter().zip(names) {
        let (outcome, traffic) = (&report.outcome, &report.traffic);
        table.row([
            Cell::from(name.as_str()),
            outcome.short_half.p99.into(),
            outcome.offered_load.into(),
            outcome.achieved_load.into(),
            traffic.utilisation.into(),
            traffic.packets.into(),
            traffic.dropped.into(),
            traffic.trimmed.into(),
            traffic.largest_queue.into(),
            traffic.retransmitted.into(),
            traffic.resends.into(),
            traffic.duplicates.into(),
            traffic.grants.into(),
            traffic.busy.into(),
            outcome.unfinished.into(),
            outcome.starved.into(),
        ]);
    }
    table
}

/// What is wrong with a run, one line each; none if nothing is.
pub fn complaints(report: &Report) -> Vec<String> {
    let outcome = &report.outcome;
    let mut lines = Vec::new();
    if outcome.backlog_grows() {
        lines.push(format!(
            "the backlog grows: {:.0} bytes per host in the second quarter, {:.0} in the last; the \
             network carries less than is offered",
            outcome.backlog_early, outcome.backlog_late
        ));
    }
    if outcome.unfinished > 0 {
        lines.push(format!("{} messages have not arrived", outcome.unfinished));
    }
    if outcome.failed > 0 {
        lines.push(format!("{} calls failed", outcome.failed));
    }
    if report.traffic.sessions_lost > 0 {
        lines.push(format!("{} ends of sessions closed", report.traffic.sessions_lost));
    }
    for starved in &outcome.starved_first {
        lines.push(format!(
            "starved: {} bytes from host {} to host {} at {:.3} ms took {:.3} ms; alone it takes {:.3} \
             ms",
            starved.bytes,
            starved.from,
            starved.to,
            starved.start_ns as f64 / 1e6,
            starved.took_ns as f64 / 1e6,
            starved.ideal_ns as f64 / 1e6
        ));
    }
    if outcome.starved > outcome.starved_first.len() as u64 {
        lines.push(format!("{} messages starved in all", outcome.starved));
    }
    lines
}
