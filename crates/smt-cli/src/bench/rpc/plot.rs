//! RPCs as bars: each contender where it is best.

use super::super::plot::{Bar, chart};
use super::report::{rows, size};
use super::{Contender, Outcome, Part};
use crate::commands::Error;
use crate::commands::datapath::DatapathChoice;

/// Draws a part at an MTU as SVG.
///
/// # Errors
/// The plotting library refuses.
pub fn bars(outcome: &Outcome, part: Part, mtu: u32) -> Result<String, Error> {
    let rows = rows(outcome, part, mtu);
    let bars = rows.iter().filter(|row| row.best).map(|row| {
        let cell = row.cell;
        let many =
            if part == Part::Rate { format!(" x {}", cell.outstanding) } else { String::new() };
        let (times, value) = (&row.sample.times, part.value(row.sample));
        let (value, tail) = match part {
            Part::Rtt => (value / 1e3, Some(times.quantile_ns(0.99) as f64 / 1e3)),
            Part::Mixed => (value / 1e3, None),
            Part::Cpu => (value / 1e3, None),
            Part::Rate => (value / 1e3, None),
            Part::Goodput => (value / 1e9, None),
        };
        let name =
            format!("{}{many}: {}, {}", size(cell.size), row.contender.name(), row.bed.name());
        Bar { name, place: place(row.contender), value, tail }
    });
    let unit = match part {
        Part::Rtt | Part::Mixed | Part::Cpu => "microseconds",
        Part::Rate => "thousand RPC/s",
        Part::Goodput => "Gbit/s",
    };
    let what = match part {
        Part::Rtt => " (bar: median, line: 99th percentile)",
        Part::Mixed => " (99th percentile)",
        _ => "",
    };
    chart(&format!("{}, MTU {mtu}{what}", part.title()), unit, &bars.collect::<Vec<_>>())
}

/// The place of its colour. SMT's datapaths share one; the names tell them apart.
fn place(contender: Contender) -> usize {
    match contender {
        Contender::Smt(DatapathChoice::Udp) => 5,
        Contender::Smt(_) => 0,
        Contender::Tls | Contender::TlsOne => 1,
        Contender::Tcp | Contender::TcpOne => 3,
        Contender::Bare(_) => 4,
    }
}
