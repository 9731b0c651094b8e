//! RPCs as bars: each contender where it is best.

use super::super::plot::{Bar, chart};
use super::report::{Row, rows, size};
use super::{Contender, Outcome, Part};
use crate::commands::Error;
use crate::commands::datapath::DatapathChoice;

/// Draws a part at an MTU as SVG. Round trips of 64 bytes and of 64 KB do not fit one axis: they are drawn beside those
/// of TLS, and written beside the names.
///
/// # Errors
/// The plotting library refuses.
pub fn bars(outcome: &Outcome, part: Part, mtu: u32) -> Result<String, Error> {
    let rows = rows(outcome, part, mtu);
    let bars = rows.iter().filter(|row| row.best).filter_map(|row| bar(row, part));
    let (unit, what) = match part {
        Part::Rtt => ("of TLS 1.3/TCP", " (medians, TLS 1.3/TCP = 1)"),
        Part::Mixed => ("microseconds", " (99th percentiles)"),
        Part::Cpu => ("microseconds", ""),
        Part::Rate => ("thousand RPC/s", ""),
        Part::Goodput => ("Gbit/s", ""),
    };
    chart(&format!("{}, MTU {mtu}{what}", part.title()), unit, &bars.collect::<Vec<_>>())
}

/// `None` for a round trip without one of TLS to compare with.
fn bar(row: &Row<'_>, part: Part) -> Option<Bar> {
    let value = part.value(row.sample);
    let name = format!("{}, {}", row.contender.name(), row.bed.name());
    let bytes = size(row.cell.size);
    let (name, value) = match part {
        Part::Rtt => {
            let is_tls = row.contender == Contender::Tls;
            let relative = if is_tls { Some(1.0) } else { row.to_tls() };
            (format!("{bytes}: {name}: {:.1} us", value / 1e3), relative?)
        }
        Part::Rate => (format!("{bytes} x {}: {name}", row.cell.outstanding), value / 1e3),
        Part::Mixed | Part::Cpu => (format!("{bytes}: {name}"), value / 1e3),
        Part::Goodput => (format!("{bytes}: {name}"), value / 1e9),
    };
    Some(Bar { name, place: place(row.contender), value, tail: None })
}

/// The place of its colour. SMT's datapaths share one; the names tell them apart.
fn place(contender: Contender) -> usize {
    match contender {
        Contender::Smt(DatapathChoice::Udp) => 5,
        Contender::Smt(_) => 0,
        Contender::Tls | Contender::TlsOne => 1,
        Contender::Tcp | Contender::TcpOne => 3,
        Contender::Bare(_) | Contender::Floor(_) => 4,
    }
}
