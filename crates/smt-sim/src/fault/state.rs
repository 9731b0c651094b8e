//! What a rule remembers, and what it does to one packet.

use std::time::Duration;

use smt_proto::Time;

use super::{Fault, Place, Rule};
use crate::events::{PICOS_PER_NANO, Picos, picos_of};
use crate::net::Rate;
use crate::packet::{HostId, Origin, Packet};
use crate::rng::Rng;

/// Links that are told apart; those of hosts with higher numbers share their state with others.
const LINKS: usize = 65536;

/// What a rule has done to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Changed,
    Lost,
    Late(Duration),
    Twice(Duration),
}

/// What a rule remembers.
pub(super) struct State {
    rng: Rng,
    /// Which senders' links are bad.
    bad: Vec<bool>,
    /// When what waits at each host's slow link will have passed.
    passed: Vec<Picos>,
    /// The stall that runs or comes next, in nanoseconds.
    stall: Option<(u64, u64)>,
}

impl State {
    pub(super) fn new(rng: Rng) -> Self {
        Self { rng, bad: Vec::new(), passed: Vec::new(), stall: None }
    }

    /// Lets a rule act on a packet that it concerns.
    pub(super) fn strike(&mut self, rule: &Rule, now: Time, packet: &mut Packet) -> Effect {
        match rule.fault {
            Fault::Loss { p } => self.by_chance(p, Effect::Lost),
            Fault::GilbertElliott { p_enter, p_leave, loss_bad, loss_good } => {
                let bad = link(&mut self.bad, packet.src);
                *bad = if *bad { !self.rng.chance(p_leave) } else { self.rng.chance(p_enter) };
                let p = if *bad { loss_bad } else { loss_good };
                self.by_chance(p, Effect::Lost)
            }
            Fault::Reorder { p, max_delay_us } => {
                let delay = self.some_delay(max_delay_us);
                self.by_chance(p, Effect::Late(delay))
            }
            Fault::Duplicate { p, max_delay_us } => {
                let delay = self.some_delay(max_delay_us);
                self.by_chance(p, Effect::Twice(delay))
            }
            Fault::Corrupt { p, max_bits } => {
                if packet.bytes.is_empty() || !self.rng.chance(p) {
                    return Effect::None;
                }
                self.flip(packet, max_bits);
                Effect::Changed
            }
            Fault::DelaySpike { period_us, duration_us } => {
                let begun = rule.from_us.saturating_mul(1000);
                self.stall(begun, period_us, duration_us, now)
            }
            Fault::Partition { ref hosts } => {
                let cut = hosts.contains(&packet.src) != hosts.contains(&packet.dst);
                if cut { Effect::Lost } else { Effect::None }
            }
            Fault::Clog { gbps, queue_bytes } => {
                let from = matches!(rule.place, Place::From(_));
                let host = if from { packet.src } else { packet.dst };
                let rate = Rate::from_gbps(gbps);
                self.squeeze(host, rate, queue_bytes, now, packet.wire_len())
            }
        }
    }

    fn by_chance(&mut self, p: f64, effect: Effect) -> Effect {
        if self.rng.chance(p) { effect } else { Effect::None }
    }

    fn some_delay(&mut self, max_us: u64) -> Duration {
        Duration::from_nanos(self.rng.between(1, max_us.saturating_mul(1000).max(1)))
    }

    /// Flips up to `max_bits` different bits of a packet that is not empty, and at least one.
    fn flip(&mut self, packet: &mut Packet, max_bits: u32) {
        let count = self.rng.between(1, u64::from(max_bits.max(1)));
        let mut flipped = Vec::new();
        for _ in 0..count {
            let bit = self.rng.below(packet.bytes.len() as u64 * 8);
            if !flipped.contains(&bit) {
                flipped.push(bit);
                packet.bytes[bit as usize / 8] ^= 1 << (bit % 8);
            }
        }
        if packet.origin == Origin::Genuine {
            packet.origin = Origin::Corrupted;
        }
    }

    /// Holds back what is sent during a stall. Times are in nanoseconds.
    fn stall(&mut self, begun: u64, period_us: u64, duration_us: u64, now: Time) -> Effect {
        let now = now.as_nanos();
        let mean = period_us.max(1) as f64 * 1000.0;
        let duration = duration_us.saturating_mul(1000);
        let rng = &mut self.rng;
        let mut next = |end: u64| {
            let start = end.saturating_add(rng.exponential(mean).max(1.0) as u64);
            (start, start.saturating_add(duration))
        };
        let (mut start, mut end) = self.stall.unwrap_or_else(|| next(begun));
        while end <= now {
            (start, end) = next(end);
        }
        self.stall = Some((start, end));
        if now < start { Effect::None } else { Effect::Late(Duration::from_nanos(end - now)) }
    }

    /// Lets a packet wait for its turn on a slow link.
    fn squeeze(&mut self, host: HostId, rate: Rate, queue: u32, now: Time, bytes: u32) -> Effect {
        let now = picos_of(now);
        let passed = link(&mut self.passed, host);
        let begin = now.max(*passed);
        if begin - now > rate.picos(queue) {
            return Effect::Lost;
        }
        *passed = begin.saturating_add(rate.picos(bytes));
        let wait = (*passed - now).div_ceil(PICOS_PER_NANO);
        Effect::Late(Duration::from_nanos(wait))
    }
}

/// The place of a host in a table that grows as far as is needed.
fn link<T: Clone + Default>(table: &mut Vec<T>, host: HostId) -> &mut T {
    let at = host as usize % LINKS;
    if table.len() <= at {
        table.resize(at + 1, T::default());
    }
    &mut table[at]
}
