//! The messages of a run: who sends how much to whom, and when.

use serde::Serialize;
use smt_proto::Time;

use super::framing::Framing;
use crate::packet::HostId;
use crate::rng::Rng;
use crate::workload::Workload;

/// A message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// When.
    pub start: Time,
    /// The caller.
    pub from: HostId,
    /// The server.
    pub to: HostId,
    /// Application bytes of the request.
    pub bytes: u32,
}

/// What to offer to a network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Demand {
    /// Whose sizes.
    pub workload: Workload,
    /// Fraction of the hosts' link bandwidth that DATA packets take: requests and responses, with
    /// all headers, gaps included.
    pub load: f64,
    /// How many messages.
    pub messages: u32,
    /// Hosts that send to each other.
    pub hosts: HostId,
    /// Their links.
    pub link_gbps: f64,
    /// What draws.
    pub seed: u64,
}

/// The messages of a run in the order of their starts.
#[derive(Clone, Debug)]
pub struct Offered {
    /// In the order of their starts; a message's number is its place.
    pub messages: Vec<Message>,
    /// Bytes on the wire of a request and its empty response, on average.
    pub mean_wire: f64,
}

impl Offered {
    /// Draws messages: a Poisson process, any host to any other. The sizes are drawn from equally
    /// likely slices of the distribution, one from each slice, so that their sum hardly varies from
    /// seed to seed although a few of them carry most of the bytes.
    pub fn draw(demand: &Demand) -> Offered {
        let rng = Rng::new(demand.seed);
        let sizes = sizes(demand, &mut rng.fork(1));
        let wire: f64 = sizes.iter().map(|bytes| wire_of(*bytes) as f64).sum();
        let mean_wire = wire / f64::from(demand.messages.max(1));
        let bytes_per_ns = demand.load * demand.link_gbps / 8.0 * f64::from(demand.hosts);
        let gap_ns = mean_wire / bytes_per_ns;
        let (mut times, mut pairs) = (rng.fork(2), rng.fork(3));
        let mut now = 0.0;
        let messages = sizes.into_iter().map(|bytes| {
            now += times.exponential(gap_ns);
            let (from, to) = pair(&mut pairs, demand.hosts);
            Message { start: Time::from_nanos(now as u64), from, to, bytes }
        });
        Offered { messages: messages.collect(), mean_wire }
    }

    /// How many messages offer `load` for `seconds`, on average.
    pub fn count(demand: &Demand, seconds: f64) -> u32 {
        let probe = Demand { messages: 100_000, ..*demand };
        let sizes = sizes(&probe, &mut Rng::new(demand.seed));
        let wire: f64 = sizes.iter().map(|bytes| wire_of(*bytes) as f64).sum();
        let bytes = demand.load * demand.link_gbps / 8.0 * 1e9 * f64::from(demand.hosts) * seconds;
        (bytes / (wire / f64::from(probe.messages))).clamp(1.0, f64::from(u32::MAX)) as u32
    }
}

/// Bytes on the wire of a request of `bytes` and its empty response.
pub fn wire_of(bytes: u32) -> u64 {
    let on_wire = |bytes| Framing::of(bytes).map_or(0, |framing| framing.on_wire());
    on_wire(bytes) + on_wire(0)
}

/// One size from each of as many slices as there are messages, shuffled.
fn sizes(demand: &Demand, rng: &mut Rng) -> Vec<u32> {
    let slices = f64::from(demand.messages);
    let draw =
        |slice: u32| demand.workload.quantile(((f64::from(slice) + rng.unit()) / slices).min(1.0));
    let mut sizes: Vec<u32> = (0..demand.messages).map(draw).collect();
    for last in (1..sizes.len()).rev() {
        sizes.swap(last, rng.below(last as u64 + 1) as usize);
    }
    sizes
}

/// Two different hosts.
fn pair(rng: &mut Rng, hosts: HostId) -> (HostId, HostId) {
    let hosts = u64::from(hosts);
    let from = rng.below(hosts);
    let to = (from + 1 + rng.below(hosts.saturating_sub(1))) % hosts.max(1);
    (from as HostId, to as HostId)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand {
        workload: Workload::W4,
        load: 0.8,
        messages: 20_000,
        hosts: 40,
        link_gbps: 10.0,
        seed: 1,
    };

    #[test]
    fn what_is_offered_is_the_load_asked_for() {
        let Offered { messages, mean_wire } = Offered::draw(&DEMAND);
        let span = messages.last().unwrap().start.as_nanos() as f64;
        let bits = mean_wire * 8.0 * f64::from(DEMAND.messages);
        let load = bits / span / DEMAND.link_gbps / f64::from(DEMAND.hosts);
        assert!((load / DEMAND.load - 1.0).abs() < 0.03, "{load}");
        assert!(messages.is_sorted_by_key(|message| message.start));
        assert!(messages.iter().all(|m| m.from != m.to && m.from < 40 && m.to < 40));
        let seconds = Offered::count(&DEMAND, span / 1e9);
        assert!((f64::from(seconds) / 20_000.0 - 1.0).abs() < 0.1, "{seconds}");
    }

    #[test]
    fn a_seed_repeats_itself() {
        assert_eq!(Offered::draw(&DEMAND).messages, Offered::draw(&DEMAND).messages);
        let other = Offered::draw(&Demand { seed: 2, ..DEMAND });
        assert_ne!(Offered::draw(&DEMAND).messages, other.messages);
    }
}
