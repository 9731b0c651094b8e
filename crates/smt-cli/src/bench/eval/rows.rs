//! What was measured, as rows: each transport on each link, beside its peers at their best, as JSON and for tables.

use serde_json::{Value, json};

use super::super::peers::Transport;
use super::super::place::{Link, LostBy, Scene};
use super::{Bench, Cell, Measured, Outcome, Part};
use crate::baseline::Wait;

/// One transport in one row, on one link.
#[derive(Debug)]
pub struct Row<'a> {
    /// The row of the table.
    pub cell: Cell,
    /// Who.
    pub transport: Transport,
    /// Where.
    pub link: Link,
    /// What was measured.
    pub measured: &'a Measured,
    /// Whether the transport is nowhere better than here.
    pub best: bool,
    /// Its value beside that of TLS by rustls and of TCP, with a connection for each RPC, each at its best.
    pub to_peers: [Option<f64>; 2],
    /// Its value beside those of the same datapath on the same link without protocol, and with the AEAD work alone.
    pub to_floors: [Option<f64>; 2],
}

/// Who everybody is compared with: TLS, TCP.
const PEERS: [Transport; 2] = [Transport::TlsRustls, Transport::Tcp];

/// All transports in all rows of a part in a scene, on all links, in the order of tables.
pub fn rows(outcome: &Outcome, part: Part, scene: Scene) -> Vec<Row<'_>> {
    let of = |cell: &Cell| (cell.part, cell.scene) == (part, scene);
    let of = outcome.measured.iter().filter(|((cell, ..), _)| of(cell));
    of.map(|(&(cell, transport, link), measured)| {
        let value = measured.median();
        let to = |peer: Option<f64>| {
            peer.filter(|peer| *peer > 0.0 && value > 0.0).map(|peer| value / peer)
        };
        let best = |who| best(outcome, cell, who);
        let below = |place: usize| {
            let floor = *transport.floors()?.get(place)?;
            to(outcome.measured.get(&(cell, floor, link)).map(Measured::median))
        };
        Row {
            cell,
            transport,
            link,
            measured,
            best: best(transport).is_some_and(|(on, _)| on == link),
            to_peers: PEERS
                .map(|peer| to(best(peer).filter(|_| transport != peer).map(|(_, value)| value))),
            to_floors: [below(0), below(1)],
        }
    })
    .collect()
}

/// Where a transport is best in a row, and how good.
fn best(outcome: &Outcome, cell: Cell, transport: Transport) -> Option<(Link, f64)> {
    let mut best: Option<(Link, f64)> = None;
    for (&(of, who, link), measured) in &outcome.measured {
        let value = measured.median();
        if (of, who) == (cell, transport)
            && best.is_none_or(|(_, other)| cell.part.is_better(value, other))
        {
            best = Some((link, value));
        }
    }
    best
}

/// One object for each transport on each link in each row of a part, then for those not available. With `all`, also
/// with what only reports want: every round, and the distribution.
pub fn objects(bench: Bench, outcome: &Outcome, part: Part, scene: Scene, all: bool) -> Vec<Value> {
    let base = |transport: Transport, link: Link| {
        json!({
            "bench": bench, "part": part, "transport": transport, "link": link.name(), "mtu": scene.mtu,
            "loss_percent": scene.loss.map(percent), "tso": scene.cut,
        })
    };
    let measured = rows(outcome, part, scene).into_iter().map(|row| {
        let mut object = base(row.transport, row.link);
        extend(&mut object, figures(&row, outcome.wait));
        if all {
            extend(
                &mut object,
                json!({
                    "round_values": row.measured.rounds,
                    "histogram": row.measured.all.times.to_base64(),
                }),
            );
        }
        object
    });
    let of = outcome.not_available.iter().filter(|((of, at, ..), _)| (*of, *at) == (part, scene));
    let not_available = of.map(|(&(_, _, transport, link), why)| {
        let mut object = base(transport, link);
        object["not_available"] = json!(why);
        object
    });
    measured.chain(not_available).collect()
}

fn figures(row: &Row<'_>, wait: Option<Wait>) -> Value {
    let Row { cell, measured, .. } = row;
    let (all, part) = (&measured.all, cell.part);
    let [least, greatest] = measured.range();
    let mut object = json!({
        "size": cell.size, "outstanding": cell.outstanding, "rate": cell.rate, "wait": wait,
        "best_link": row.best, "count": all.count, "rounds": measured.rounds.len(),
        "value": measured.median(), "value_min": least, "value_max": greatest,
        "spread": measured.spread(), "disturbed": measured.is_disturbed(),
        "ratio_to_tls": row.to_peers[0], "ratio_to_tcp": row.to_peers[1],
        "ratio_to_bare": row.to_floors[0], "ratio_to_floor": row.to_floors[1],
        "p50_ns": all.times.quantile_ns(0.50), "p99_ns": all.times.quantile_ns(0.99),
        "p999_ns": all.times.quantile_ns(0.999), "max_ns": all.times.max_ns(),
    });
    let median = measured.median();
    match part {
        Part::Rtt => object["p50_ns"] = json!(median as u64),
        Part::Open | Part::Mixed | Part::Loss => object["p99_ns"] = json!(median as u64),
        Part::Load => object["rpcs_per_second"] = json!(median),
        Part::Bulk => object["bits_per_second"] = json!(median),
        Part::Cpu => {
            let [client, server] = all.cpu_ns.map(|ns| ns / all.count.max(1));
            extend(&mut object, json!({ "client_cpu_ns": client, "server_cpu_ns": server }));
        }
    }
    match part {
        Part::Open => object["not_begun"] = json!(all.not_begun),
        Part::Loss => object["lost_by"] = json!(LostBy::here().name()),
        Part::Mixed => object["bits_per_second_beside"] = json!(row.beside()),
        _ => {}
    }
    object
}

impl Row<'_> {
    /// Bits a second of the long messages beside.
    pub fn beside(&self) -> f64 {
        let all = &self.measured.all;
        let bits = 8 * all.beside * super::BESIDE_BYTES as u64;
        bits as f64 / all.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Of a hundred, what is told of a million.
pub fn percent(of_a_million: u32) -> f64 {
    f64::from(of_a_million) / 1e4
}

fn extend(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::super::Sample;
    use super::*;

    pub(in super::super) const PARTS: [Part; 7] =
        [Part::Rtt, Part::Load, Part::Open, Part::Bulk, Part::Mixed, Part::Cpu, Part::Loss];
    pub(in super::super) const SCENE: Scene = Scene::PLAIN;

    /// Rounds that took about so long.
    fn measured(part: Part, size: usize, us: u64, disturbed: bool) -> Measured {
        let mut measured = Measured::default();
        for round in [us, us, if disturbed { 2 * us } else { us }] {
            let mut sample = Sample {
                count: 1_000_000,
                beside: 10_000 / us,
                elapsed: Duration::from_secs(round),
                cpu_ns: [round * 1_000_000_000, round * 2_000_000_000],
                ..Sample::default()
            };
            sample.times.add(Duration::from_micros(round));
            measured.add(part.value(size, &sample), &sample);
        }
        measured
    }

    /// SMT twice as good as TLS, and half as good as its datapath; better on macvlan by far, but disturbed there.
    pub(in super::super) fn outcome(part: Part) -> Outcome {
        let cell = Cell { part, scene: SCENE, size: 16_384, outstanding: 200, rate: Some(2000) };
        let all = [
            (Transport::SmtRaw, Link::Veth, 1000),
            (Transport::SmtRaw, Link::Macvlan, 10),
            (Transport::BareRaw, Link::Macvlan, 5),
            (Transport::FloorRaw, Link::Macvlan, 8),
            (Transport::Tcp, Link::Veth, 5),
            (Transport::TlsRustls, Link::Veth, 20),
        ];
        let measured =
            all.map(|(who, link, us)| ((cell, who, link), measured(part, cell.size, us, us == 10)));
        let mut outcome =
            Outcome { measured: measured.into(), wait: Some(Wait::Spin), ..Outcome::default() };
        for link in [Link::Veth, Link::Macvlan] {
            let entry = (part, SCENE, Transport::TlsRustlsOne, link);
            outcome.not_available.insert(entry, "no such device".to_owned());
        }
        outcome
    }

    #[test]
    fn ratios_are_to_peers_at_their_best() {
        for (part, to_tls, to_tcp) in [(Part::Rtt, 0.5, 2.0), (Part::Load, 2.0, 0.5)] {
            let objects = objects(Bench::Rtt, &outcome(part), part, SCENE, false);
            assert_eq!(objects.len(), 8);
            let smt = &objects[1];
            assert_eq!(smt["transport"], "smt-raw");
            assert_eq!((&smt["link"], &smt["best_link"]), (&json!("macvlan"), &json!(true)));
            assert_eq!((&smt["disturbed"], &smt["rounds"]), (&json!(true), &json!(3)));
            assert!((smt["ratio_to_tls"].as_f64().unwrap() - to_tls).abs() < 0.01, "{smt}");
            assert!((smt["ratio_to_tcp"].as_f64().unwrap() - to_tcp).abs() < 0.01, "{smt}");
            assert_eq!(objects[6]["not_available"], "no such device");
        }
    }

    #[test]
    fn what_reports_want_is_told_to_them_alone() {
        let outcome = outcome(Part::Rtt);
        let of = |all| objects(Bench::Rtt, &outcome, Part::Rtt, SCENE, all).swap_remove(1);
        let (short, long) = (of(false), of(true));
        assert!((short["ratio_to_bare"].as_f64().unwrap() - 2.0).abs() < 0.01, "{short}");
        assert!((short["ratio_to_floor"].as_f64().unwrap() - 1.25).abs() < 0.01, "{short}");
        assert!(short["histogram"].is_null());
        assert_eq!(long["round_values"].as_array().unwrap().len(), 3);
        let times = crate::times::Times::from_base64(long["histogram"].as_str().unwrap());
        assert_eq!(times.unwrap().count(), 3);
    }
}
