//! Measurements as people and programs read them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{BULK_BYTES, Bed, CPU_RATE, Cell, Contender, Outcome, Part, Sample};
use crate::commands::datapath::DatapathChoice;
use crate::output::number;

/// One contender in one row, on one bed.
#[derive(Debug)]
pub struct Row<'a> {
    /// The row of the table.
    pub cell: Cell,
    /// Who.
    pub contender: Contender,
    /// Where.
    pub bed: Bed,
    /// What was measured.
    pub sample: &'a Sample,
    /// Whether the contender is nowhere better than here.
    pub best: bool,
    /// Its value beside that of TLS and of TCP, with a connection for each RPC, each at its best.
    to_peers: [Option<f64>; 2],
    /// Its value beside those of the same datapath on the same bed without protocol, and with the AEAD work alone.
    to_bare: Option<f64>,
    to_floor: Option<f64>,
}

impl Row<'_> {
    /// Its value beside that of TLS at its best, with a connection for each RPC.
    pub(super) fn to_tls(&self) -> Option<f64> {
        self.to_peers[0]
    }
}

impl Contender {
    /// Its name in tables.
    pub fn name(self) -> String {
        match self {
            Contender::Smt(datapath) => format!("SMT {}", datapath.name()),
            Contender::Bare(datapath) => format!("bare {}", datapath.name()),
            Contender::Floor(datapath) => format!("floor {}", datapath.name()),
            Contender::Tcp => "TCP".to_owned(),
            Contender::Tls => "TLS 1.3/TCP".to_owned(),
            Contender::TcpOne => "TCP, 1 conn.".to_owned(),
            Contender::TlsOne => "TLS, 1 conn.".to_owned(),
        }
    }

    /// Its names in JSON: contender and datapath.
    fn tags(self) -> (&'static str, Option<String>) {
        match self {
            Contender::Smt(datapath) => ("smt", Some(datapath.name())),
            Contender::Bare(datapath) => ("bare", Some(datapath.name())),
            Contender::Floor(datapath) => ("floor", Some(datapath.name())),
            Contender::Tcp => ("tcp", None),
            Contender::Tls => ("tls", None),
            Contender::TcpOne => ("tcp-one", None),
            Contender::TlsOne => ("tls-one", None),
        }
    }
}

impl Part {
    /// What is compared: nanoseconds, or something a second. 0 if nothing was over in time.
    pub(super) fn value(self, sample: &Sample) -> f64 {
        let a_second = |amount: u64| amount as f64 / sample.elapsed.as_secs_f64().max(1e-9);
        match self {
            Part::Rtt => sample.times.quantile_ns(0.50) as f64,
            Part::Mixed => sample.times.quantile_ns(0.99) as f64,
            Part::Rate => a_second(sample.count),
            Part::Goodput => a_second(8 * sample.bulk * BULK_BYTES as u64),
            Part::Cpu => sample.cpu_ns.iter().sum::<u64>() as f64 / sample.count.max(1) as f64,
        }
    }

    fn is_better(self, one: f64, other: f64) -> bool {
        match self {
            Part::Rate | Part::Goodput => one > other,
            Part::Rtt | Part::Mixed | Part::Cpu => one > 0.0 && (one < other || other == 0.0),
        }
    }

    /// What its table shows.
    pub fn title(self) -> String {
        match self {
            Part::Rtt => "Round trips in us, one RPC at a time".to_owned(),
            Part::Rate => "RPCs a second, many at a time (n)".to_owned(),
            Part::Goodput => "Goodput of 1 MB messages, 4 at a time".to_owned(),
            Part::Mixed => "Round trips in us beside 1 MB messages".to_owned(),
            Part::Cpu => {
                format!("Processor time in us per RPC at {} a second", number(CPU_RATE.into()))
            }
        }
    }

    fn headings(self) -> [&'static str; 3] {
        match self {
            Part::Rtt => ["p50", "p99", "/floor"],
            Part::Rate => ["RPC/s", "Gbit/s", "/floor"],
            Part::Goodput => ["Gbit/s", "", ""],
            Part::Mixed => ["p50", "p99", "Gbit/s"],
            Part::Cpu => ["client", "server", "both"],
        }
    }

    fn figures(self, row: &Row<'_>) -> [String; 3] {
        let Row { cell, sample, .. } = row;
        let quantile = |part| us(sample.times.quantile_ns(part) as f64);
        let each = |ns: u64| us(ns as f64 / sample.count.max(1) as f64);
        let none = String::new;
        match self {
            Part::Rtt => [quantile(0.50), quantile(0.99), ratio(row.to_floor)],
            Part::Rate => {
                let rate = self.value(sample);
                let bits = rate * 8.0 * cell.size as f64;
                [number(rate as u64), gbit(bits), ratio(row.to_floor)]
            }
            Part::Goodput => [gbit(self.value(sample)), none(), none()],
            Part::Mixed => {
                let bits = Part::Goodput.value(sample);
                [quantile(0.50), quantile(0.99), gbit(bits)]
            }
            Part::Cpu => {
                let [client, server] = sample.cpu_ns;
                [each(client), each(server), each(client + server)]
            }
        }
    }
}

/// All contenders of a part at an MTU, on all beds, in the order of the table.
pub fn rows(outcome: &Outcome, part: Part, mtu: u32) -> Vec<Row<'_>> {
    let of = outcome.samples.iter().filter(|((cell, ..), _)| (cell.part, cell.mtu) == (part, mtu));
    of.map(|(&(cell, contender, bed), sample)| {
        let value = part.value(sample);
        let best = best(outcome, cell, contender);
        let to = |peer: Option<f64>| {
            peer.filter(|peer| *peer > 0.0 && value > 0.0).map(|peer| value / peer)
        };
        let peer = |peer| to(best_value(outcome, cell, peer).filter(|_| contender != peer));
        let below = |of: fn(DatapathChoice) -> Contender| match contender {
            Contender::Smt(datapath) => outcome.samples.get(&(cell, of(datapath), bed)),
            _ => None,
        };
        let to_below = |of| to(below(of).map(|sample| part.value(sample)));
        Row {
            cell,
            contender,
            bed,
            sample,
            best: best.is_some_and(|(on, _)| on == bed),
            to_peers: [Contender::Tls, Contender::Tcp].map(peer),
            to_bare: to_below(Contender::Bare),
            to_floor: to_below(Contender::Floor),
        }
    })
    .collect()
}

/// Where a contender is best in a row, and how good.
fn best(outcome: &Outcome, cell: Cell, contender: Contender) -> Option<(Bed, f64)> {
    let on = |bed| {
        let sample = outcome.samples.get(&(cell, contender, bed))?;
        Some((bed, cell.part.value(sample)))
    };
    let mut best: Option<(Bed, f64)> = None;
    for candidate in [Bed::Veth, Bed::Macvlan].into_iter().filter_map(on) {
        if best.is_none_or(|(_, value)| cell.part.is_better(candidate.1, value)) {
            best = Some(candidate);
        }
    }
    best
}

fn best_value(outcome: &Outcome, cell: Cell, contender: Contender) -> Option<f64> {
    best(outcome, cell, contender).map(|(_, value)| value)
}

/// Lines of a table, the heading first, at most 80 columns wide: each contender where it is best.
pub fn table(outcome: &Outcome, part: Part, mtu: u32) -> Vec<String> {
    let [one, two, three] = part.headings();
    let n = if part == Part::Rate { "n" } else { "" };
    let mut lines = vec![line("size", n, "", "bed", &[one, two, three], &["/TLS", "/TCP"])];
    let mut last = None;
    for row in rows(outcome, part, mtu).iter().filter(|row| row.best) {
        let is_new = last.replace(row.cell) != Some(row.cell);
        let size = if is_new { size(row.cell.size) } else { String::new() };
        let n = match part {
            Part::Rate if is_new => row.cell.outstanding.to_string(),
            _ => String::new(),
        };
        let ratios = row.to_peers.map(ratio);
        let (name, figures) = (row.contender.name(), part.figures(row));
        lines.push(line(&size, &n, &name, row.bed.name(), &figures, &ratios));
    }
    lines
}

/// What of a part was not measured at an MTU, in words: a line for each reason, as long as it is.
pub fn not_measured(outcome: &Outcome, part: Part, mtu: u32) -> Vec<String> {
    let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((of, at, who, bed), why) in &outcome.not_measured {
        if (*of, *at) == (part, mtu) {
            by_reason.entry(why).or_default().push(format!("{} on {}", who.name(), bed.name()));
        }
    }
    let line =
        |(why, who): (&str, Vec<String>)| format!("  not measured: {}: {why}", who.join(", "));
    by_reason.into_iter().map(line).collect()
}

fn line(
    size: &str,
    n: &str,
    name: &str,
    bed: &str,
    figures: &[impl AsRef<str>; 3],
    ratios: &[impl AsRef<str>; 2],
) -> String {
    let [one, two, three] = figures.each_ref().map(AsRef::as_ref);
    let [tls, tcp] = ratios.each_ref().map(AsRef::as_ref);
    let line = format!(
        "{size:>6} {n:>4} {name:<13} {bed:<8} {one:>10} {two:>9} {three:>8} {tls:>7} {tcp:>6}"
    );
    line.trim_end().to_owned()
}

/// One object for each contender on each bed in each row of a part, then for what was not measured.
pub fn objects(outcome: &Outcome, part: Part, mtu: u32) -> Vec<Value> {
    let wait = if outcome.spins && part != Part::Cpu { "spin" } else { "block" };
    let base = |contender: Contender, bed: Bed| {
        let (tag, datapath) = contender.tags();
        json!({
            "bench": "rpc", "part": part, "mtu": mtu, "contender": tag, "datapath": datapath, "bed": bed,
        })
    };
    let measured = rows(outcome, part, mtu).into_iter().map(|row| {
        let Row { cell, sample, .. } = &row;
        let mut object = base(row.contender, row.bed);
        let [to_tls, to_tcp] = row.to_peers;
        let mut more = json!({
            "size": cell.size, "outstanding": cell.outstanding, "wait": wait, "best_bed": row.best,
            "ratio_to_tls": to_tls, "ratio_to_tcp": to_tcp, "count": sample.count,
        });
        if matches!(part, Part::Rtt | Part::Mixed | Part::Cpu) {
            more["p50_ns"] = json!(sample.times.quantile_ns(0.50));
            more["p99_ns"] = json!(sample.times.quantile_ns(0.99));
        }
        match part {
            Part::Rtt => {
                more["ratio_to_bare"] = json!(row.to_bare);
                more["ratio_to_floor"] = json!(row.to_floor);
            }
            Part::Rate => {
                more["rpcs_per_second"] = json!(part.value(sample));
                more["ratio_to_floor"] = json!(row.to_floor);
            }
            Part::Goodput | Part::Mixed => {
                more["bits_per_second"] = json!(Part::Goodput.value(sample));
                more["messages"] = json!(sample.bulk);
            }
            Part::Cpu => {
                let [client, server] = sample.cpu_ns.map(|ns| ns / sample.count.max(1));
                more["client_cpu_ns"] = json!(client);
                more["server_cpu_ns"] = json!(server);
                more["rate"] = json!(CPU_RATE);
            }
        }
        if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
            object.extend(more);
        }
        object
    });
    let of = outcome.not_measured.iter().filter(|((of, at, ..), _)| (*of, *at) == (part, mtu));
    let not_measured = of.map(|(&(_, _, contender, bed), why)| {
        let mut object = base(contender, bed);
        object["not_measured"] = json!(why);
        object
    });
    measured.chain(not_measured).collect()
}

/// A message's bytes in the units that suit powers of two.
pub(super) fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KB", bytes >> 10),
        _ => format!("{:.1}K", bytes as f64 / 1024.0),
    }
}

fn us(ns: f64) -> String {
    format!("{:.1}", ns / 1e3)
}

fn gbit(bits: f64) -> String {
    format!("{:.2}", bits / 1e9)
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::commands::datapath::DatapathChoice;

    const PARTS: [Part; 5] = [Part::Rtt, Part::Rate, Part::Goodput, Part::Mixed, Part::Cpu];

    fn sample(us: u64) -> Sample {
        let mut sample = Sample {
            count: 1_000_000,
            bulk: 10_000 / us,
            elapsed: Duration::from_secs(us),
            cpu_ns: [us * 1_000_000_000, us * 2_000_000_000],
            ..Sample::default()
        };
        sample.times.add(Duration::from_micros(us));
        sample
    }

    /// SMT twice as good as TLS, and half as good as its datapath; better on macvlan by far.
    fn outcome(part: Part) -> Outcome {
        let cell = Cell { part, mtu: 1500, size: 16_384, outstanding: 200 };
        let smt = Contender::Smt(DatapathChoice::Raw);
        let bare = Contender::Bare(DatapathChoice::Raw);
        let floor = Contender::Floor(DatapathChoice::Raw);
        let samples = [
            (smt, Bed::Veth, 1000),
            (smt, Bed::Macvlan, 10),
            (bare, Bed::Macvlan, 5),
            (floor, Bed::Macvlan, 8),
            (Contender::Tcp, Bed::Veth, 5),
            (Contender::Tls, Bed::Veth, 20),
        ];
        let samples = samples.map(|(who, bed, us)| ((cell, who, bed), sample(us)));
        let mut outcome = Outcome { samples: samples.into(), spins: true, ..Outcome::default() };
        let why = "no such device".to_owned();
        for bed in [Bed::Veth, Bed::Macvlan] {
            outcome.not_measured.insert((part, 1500, Contender::TlsOne, bed), why.clone());
        }
        outcome
    }

    #[test]
    fn tables_fit_the_screen_and_show_everybody_at_its_best() {
        for part in PARTS {
            let outcome = outcome(part);
            let lines = table(&outcome, part, 1500);
            for line in &lines {
                assert!(line.chars().count() <= 80, "{line}");
            }
            assert_eq!(lines.len(), 6, "{lines:?}");
            assert!(lines[1].contains("SMT raw") && lines[1].contains("macvlan"), "{}", lines[1]);
            assert!(table(&outcome, part, 9000).len() == 1);
            let not = not_measured(&outcome, part, 1500);
            assert!(not.len() == 1 && not[0].contains("no such device"));
        }
    }

    #[test]
    fn ratios_are_to_peers_at_their_best() {
        for (part, to_tls, to_tcp) in [(Part::Rtt, 0.5, 2.0), (Part::Rate, 2.0, 0.5)] {
            let objects = objects(&outcome(part), part, 1500);
            assert_eq!(objects.len(), 8);
            let smt = &objects[1];
            assert_eq!((&smt["contender"], &smt["datapath"]), (&json!("smt"), &json!("raw")));
            assert_eq!((&smt["bed"], &smt["best_bed"]), (&json!("macvlan"), &json!(true)));
            assert!((smt["ratio_to_tls"].as_f64().unwrap() - to_tls).abs() < 0.01, "{smt}");
            assert!((smt["ratio_to_tcp"].as_f64().unwrap() - to_tcp).abs() < 0.01, "{smt}");
            assert_eq!(objects[6]["not_measured"], "no such device");
        }
        let rtt = &objects(&outcome(Part::Rtt), Part::Rtt, 1500)[1];
        assert!((rtt["ratio_to_bare"].as_f64().unwrap() - 2.0).abs() < 0.01, "{rtt}");
        assert!((rtt["ratio_to_floor"].as_f64().unwrap() - 1.25).abs() < 0.01, "{rtt}");
    }

    #[test]
    fn sizes_have_units() {
        let told = [64, 1024, 1500, 65_536, 1 << 20].map(size);
        assert_eq!(told, ["64 B", "1 KB", "1.5K", "64 KB", "1 MB"]);
    }
}
