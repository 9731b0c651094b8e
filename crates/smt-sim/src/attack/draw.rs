//! Plans drawn by seed.

use super::plan::{Act, OffPathPlan, OnPathPlan, Place, Plan, Spoof};
use super::{Change, Field, What};
use crate::rng::Rng;

/// The most packets that all attackers of a plan together add.
const MAX_PACKETS: u64 = 4000;
/// The types of packets that may be looked for.
const TYPES: [u8; 11] = [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x17, 0x18, 0x20, 0x21, 0x22];

pub(super) fn draw(rng: &mut Rng, honest_hosts: u32, until_us: u64) -> Plan {
    let mut plan = Plan { until_us, ..Plan::default() };
    // How likely each kind is: some runs have none, some nearly all.
    let crowd = [0.0, 0.05, 0.15, 0.15, 0.4, 0.8];
    let crowd = rng.pick(&crowd).copied().unwrap_or_default();
    if honest_hosts > 1 {
        plan.on_path = acts(rng, until_us, crowd).into_iter().map(on_path).collect();
    }
    let spoofs = [
        Spoof::Packets,
        Spoof::Garbage,
        Spoof::NoSession,
        Spoof::Hellos,
        Spoof::Flood,
        Spoof::Visits,
    ];
    for spoof in spoofs {
        if honest_hosts > 0 && rng.chance(crowd * 0.5) {
            let per_ms = 1 << rng.below(if costly(spoof) { 5 } else { 9 });
            plan.off_path.push(OffPathPlan { salt: 0, max_packets: 0, per_ms, spoof });
        }
    }
    share_out(&mut plan, rng);
    plan
}

fn on_path(act: Act) -> OnPathPlan {
    OnPathPlan { salt: 0, max_packets: 0, act }
}

/// Whether a server answers each with a key exchange and a signature.
fn costly(spoof: Spoof) -> bool {
    matches!(spoof, Spoof::Hellos | Spoof::Visits)
}

/// Gives each attacker its randomness and its part of all packets.
fn share_out(plan: &mut Plan, rng: &mut Rng) {
    let each = MAX_PACKETS / (plan.parts() as u64).max(1);
    for attacker in &mut plan.on_path {
        attacker.salt = rng.next_u64() as u32;
        attacker.max_packets = each as u32;
    }
    for attacker in &mut plan.off_path {
        let most = if costly(attacker.spoof) { 200 } else { MAX_PACKETS };
        attacker.salt = rng.next_u64() as u32;
        attacker.max_packets = each.min(most) as u32;
    }
}

/// Each kind of act, or not. Which comes first is drawn, too.
fn acts(rng: &mut Rng, until_us: u64, crowd: f64) -> Vec<Act> {
    let mut acts = Vec::new();
    let wanted = |rng: &mut Rng| rng.chance(crowd);
    if wanted(rng) {
        acts.push(drop_act(rng, until_us));
    }
    if wanted(rng) {
        let up_to_us = log_uniform(rng, 1, until_us / 2);
        acts.push(Act::Hold { what: what(rng), permille: rate(rng), up_to_us });
    }
    if wanted(rng) {
        acts.push(Act::Trim { permille: rate(rng) });
    }
    if wanted(rng) {
        acts.push(Act::Rewrite { permille: rate(rng) });
    }
    for _ in 0..2 {
        if wanted(rng) {
            let up_to_us = if rng.chance(0.3) { 0 } else { log_uniform(rng, 1, until_us) };
            let copies = rng.between(1, 3) as u32;
            acts.push(Act::Repeat { what: what(rng), permille: rate(rng), copies, up_to_us });
        }
        if wanted(rng) {
            acts.push(Act::Recall { what: what(rng), every_us: log_uniform(rng, 5, 1000) });
        }
        if wanted(rng) {
            acts.push(alter(rng));
        }
        if wanted(rng) {
            acts.push(alter(rng));
        }
    }
    if wanted(rng) {
        acts.push(Act::ReplayFirst { every_us: log_uniform(rng, 20, 5000) });
    }
    if wanted(rng) {
        acts.push(Act::AlterOffer { permille: rate(rng) });
    }
    if wanted(rng) {
        acts.push(Act::Haunt { burst: rng.between(1, 60) as u32 });
    }
    let forgeries: [fn(u32) -> Act; 7] = [
        |permille| Act::ForgeControl { permille },
        |permille| Act::ForgeData { permille },
        |permille| Act::ForgeFlight { permille },
        |permille| Act::ForgeRetry { permille },
        |permille| Act::ForgeNoSession { permille },
        |permille| Act::Reflect { permille },
        |permille| Act::Cross { permille },
    ];
    for forgery in forgeries {
        if wanted(rng) {
            acts.push(forgery(rate(rng)));
        }
    }
    shuffle(&mut acts, rng);
    acts
}

/// Now and then all packets of a kind for a while, else a few of them all the time.
fn drop_act(rng: &mut Rng, until_us: u64) -> Act {
    if rng.chance(0.5) {
        let from_us = rng.below(until_us);
        let to_us = from_us + log_uniform(rng, 10, until_us / 4);
        return Act::Drop { what: what(rng), permille: 1000, from_us, to_us };
    }
    Act::Drop { what: what(rng), permille: rate(rng), from_us: 0, to_us: until_us }
}

fn alter(rng: &mut Rng) -> Act {
    let change = match rng.below(8) {
        0 => Change::Truncate,
        1 => Change::Extend,
        2 => Change::Splice,
        3 => Change::Swap,
        _ => Change::Field(rng.pick(&Field::ALL).copied().unwrap_or(Field::Tag)),
    };
    let places = [Place::Instead, Place::Ahead, Place::Behind];
    let place = rng.pick(&places).copied().unwrap_or(Place::Behind);
    let what = match change {
        Change::Field(Field::Body | Field::Number) => What::Control,
        Change::Splice | Change::Swap => What::Data,
        _ => what(rng),
    };
    Act::Alter { what, permille: rate(rng), change, place }
}

fn what(rng: &mut Rng) -> What {
    match rng.below(12) {
        0..=2 => What::Any,
        3 => What::Handshake,
        4 => What::Flight(rng.below(4)),
        5 => What::Data,
        6 => What::First,
        7 => What::Last,
        8 => What::EveryNth(rng.between(1, 8) as u32),
        9 => What::Retransmission,
        10 => What::Control,
        _ => What::Type(rng.pick(&TYPES).copied().unwrap_or_default()),
    }
}

/// How many of a thousand: mostly few, sometimes half.
fn rate(rng: &mut Rng) -> u32 {
    log_uniform(rng, 5, 500) as u32
}

/// A number from `low` to `high`, each order of magnitude as likely as the next.
fn log_uniform(rng: &mut Rng, low: u64, high: u64) -> u64 {
    let high = high.max(low);
    let ratio = high as f64 / low.max(1) as f64;
    ((low as f64 * ratio.powf(rng.unit())) as u64).clamp(low, high)
}

fn shuffle<T>(some: &mut [T], rng: &mut Rng) {
    for at in (1..some.len()).rev() {
        some.swap(at, rng.below(at as u64 + 1) as usize);
    }
}
