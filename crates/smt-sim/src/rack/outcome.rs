//! What a run shows: slowdown by message size, starvation, and what the network saw.

use std::time::Duration;

use serde::Serialize;

use super::drive::Record;
use super::framing::Framing;
use super::offered::{Demand, Message, Offered, wire_of};
use crate::net::NetConfig;
use crate::packet::HostId;

/// Messages started in the first part of a run, before queues have their usual length, and in the
/// last part, some of which travel when no others start any more, do not count.
const MEASURED: core::ops::Range<f64> = 0.1..0.9;
/// Groups of messages by size, equally many in each.
const GROUPS: usize = 10;
/// A message starves when it takes longer than this many times its ideal time, and ...
const STARVED_FACTOR: u64 = 100;
/// ... this long.
const STARVED_AFTER: Duration = Duration::from_millis(50);
/// Starving messages that are named.
const NAMED: usize = 10;

/// Slowdown of the messages of a range of sizes: one-way time over that of the same message when
/// nothing else is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Slowdown {
    /// Smallest message, in application bytes.
    pub from_bytes: u32,
    /// Largest message, in application bytes.
    pub to_bytes: u32,
    /// How many.
    pub messages: u64,
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Mean.
    pub mean: f64,
}

/// A message that waited out of all proportion.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Starved {
    /// Caller.
    pub from: HostId,
    /// Server.
    pub to: HostId,
    /// Application bytes.
    pub bytes: u32,
    /// When it started, in nanoseconds.
    pub start_ns: u64,
    /// How long it took, or had waited when the run ended, in nanoseconds.
    pub took_ns: u64,
    /// How long it takes when nothing else is under way, in nanoseconds.
    pub ideal_ns: u64,
}

/// The outcome of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// By size, equally many messages in each group.
    pub by_size: Vec<Slowdown>,
    /// Of the shorter half of all messages.
    pub short_half: Slowdown,
    /// Of the longest hundredth.
    pub longest: Slowdown,
    /// Of all.
    pub all: Slowdown,
    /// Bytes on the wire that the messages measured take, over what the hosts' links carry in that
    /// time.
    pub offered_load: f64,
    /// The same of messages that arrived in that time.
    pub achieved_load: f64,
    /// Messages that have not arrived.
    pub unfinished: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Application bytes started and not arrived: mean of the second quarter of the run, in bytes per
    /// host.
    pub backlog_early: f64,
    /// The same of its last quarter.
    pub backlog_late: f64,
    /// How many starved.
    pub starved: u64,
    /// The first of them.
    pub starved_first: Vec<Starved>,
    /// Simulated time, in milliseconds.
    pub simulated_ms: f64,
}

impl Outcome {
    /// Sums up a run of `offered` through `net`.
    pub fn of(net: &NetConfig, demand: &Demand, offered: &Offered, record: &Record) -> Outcome {
        let timed = time_all(net, offered, record);
        let mut measured: Vec<Timed> = middle(&timed).iter().copied().filter(|t| t.done).collect();
        measured.sort_by_key(|timed| timed.message.bytes);
        let (half, most) = (measured.len() / 2, measured.len() - measured.len() / 100);
        let part = |range| slowdown(measured.get(range).unwrap_or_default());
        let groups = (0..GROUPS)
            .map(|i| part(measured.len() * i / GROUPS..measured.len() * (i + 1) / GROUPS));
        let starved: Vec<Starved> = timed.iter().filter_map(Timed::starved).collect();
        let quarter = |n: usize| {
            let samples = record.backlog.len();
            let some = record.backlog.get(samples * n / 4..samples * (n + 1) / 4);
            mean(some.unwrap_or_default().iter().map(|n| *n as f64)) / f64::from(demand.hosts)
        };
        let (offered_load, achieved_load) = loads(demand, &timed);
        Outcome {
            by_size: groups.collect(),
            short_half: part(0..half),
            longest: part(most.min(measured.len().saturating_sub(1))..measured.len()),
            all: part(0..measured.len()),
            offered_load,
            achieved_load,
            unfinished: timed.iter().filter(|timed| !timed.done).count() as u64,
            failed: record.failed,
            backlog_early: quarter(1),
            backlog_late: quarter(3),
            starved: starved.len() as u64,
            starved_first: starved.into_iter().take(NAMED).collect(),
            simulated_ms: record.end.as_nanos() as f64 / 1e6,
        }
    }

    /// Whether messages wait for longer and longer: the network carries less than is offered.
    pub fn backlog_grows(&self) -> bool {
        self.achieved_load < 0.95 * self.offered_load
            && self.backlog_late > 1.5 * self.backlog_early
    }

    /// Whether every message arrived, and none starved.
    pub fn is_sound(&self) -> bool {
        self.unfinished == 0 && self.failed == 0 && self.starved == 0
    }
}

/// A message with its times, in nanoseconds.
#[derive(Clone, Copy)]
struct Timed {
    message: Message,
    /// Until it arrived, or until the run ended.
    took: u64,
    ideal: u64,
    done: bool,
}

impl Timed {
    fn slowdown(&self) -> f64 {
        self.took as f64 / self.ideal.max(1) as f64
    }

    fn starved(&self) -> Option<Starved> {
        let limit = STARVED_AFTER.as_nanos() as u64 + STARVED_FACTOR.saturating_mul(self.ideal);
        let Message { start, from, to, bytes } = self.message;
        (self.took > limit).then_some(Starved {
            from,
            to,
            bytes,
            start_ns: start.as_nanos(),
            took_ns: self.took,
            ideal_ns: self.ideal,
        })
    }
}

fn time_all(net: &NetConfig, offered: &Offered, record: &Record) -> Vec<Timed> {
    let with_arrivals = offered.messages.iter().zip(&record.arrived);
    let timed = with_arrivals.map(|(message, arrived)| Timed {
        message: *message,
        took: arrived.unwrap_or(record.end).as_nanos().saturating_sub(message.start.as_nanos()),
        ideal: Framing::of(message.bytes)
            .map_or(1, |framing| framing.ideal_ns(net, message.from, message.to)),
        done: arrived.is_some(),
    });
    timed.collect()
}

/// The part of a run that is measured.
fn middle<T>(all: &[T]) -> &[T] {
    let at = |part: f64| (all.len() as f64 * part) as usize;
    all.get(at(MEASURED.start)..at(MEASURED.end)).unwrap_or_default()
}

/// Offered and achieved load between the starts of the first and the last message measured.
fn loads(demand: &Demand, timed: &[Timed]) -> (f64, f64) {
    let measured = middle(timed);
    let start = |timed: Option<&Timed>| timed.map_or(0, |timed| timed.message.start.as_nanos());
    let (from, to) = (start(measured.first()), start(measured.last()));
    let capacity =
        to.saturating_sub(from) as f64 * demand.link_gbps / 8.0 * f64::from(demand.hosts);
    let wire = |timed: &Timed| wire_of(timed.message.bytes) as f64;
    let arrived = |timed: &&Timed| {
        let at = timed.message.start.as_nanos() + timed.took;
        timed.done && (from..to).contains(&at)
    };
    let sum = |all: f64| if capacity > 0.0 { all / capacity } else { 0.0 };
    (sum(measured.iter().map(wire).sum()), sum(timed.iter().filter(arrived).map(wire).sum()))
}

/// Of messages in the order of their sizes.
fn slowdown(messages: &[Timed]) -> Slowdown {
    let mut all: Vec<f64> = messages.iter().map(Timed::slowdown).collect();
    all.sort_by(f64::total_cmp);
    Slowdown {
        from_bytes: messages.first().map_or(0, |timed| timed.message.bytes),
        to_bytes: messages.last().map_or(0, |timed| timed.message.bytes),
        messages: messages.len() as u64,
        p50: percentile(&all, 0.5),
        p99: percentile(&all, 0.99),
        mean: mean(all.iter().copied()),
    }
}

/// The smallest of the sorted values that at least this part of them does not exceed; 0 of none.
pub fn percentile(sorted: &[f64], part: f64) -> f64 {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    if count == 0 { 0.0 } else { values.sum::<f64>() / count as f64 }
}
