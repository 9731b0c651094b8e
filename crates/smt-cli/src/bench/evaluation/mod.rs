//! The evaluation: what `smt bench` kept of its runs, as a document with tables and plots.

pub mod data;
pub mod document;
mod limits;
mod plots;
mod sections;
pub mod svg;

use serde_json::Value;

use self::data::Data;
use self::document::{Block, Table};

/// The document's title.
pub const TITLE: &str = "Evaluation";

/// The whole document. `command` is what made it.
pub fn document(data: &Data, command: &str) -> Vec<Block> {
    let mut blocks = vec![
        Block::Heading(1, TITLE.to_owned()),
        Block::Text(
            "SMT beside TCP, TLS and others, all of a section in one run on one machine, each on the link where it is \
             best. Values are medians of rounds, with the least and the greatest round in brackets. Believe ratios \
             within a section; figures of two machines, or of two runs, do not compare. How everything is measured \
             is in `performance.md` beside this document."
                .to_owned(),
        ),
        Block::Text(
            "This document is made from saved runs, by the last of these commands; each section begins with the \
             command that made its run (`smt bench NAME --save DIR`):"
                .to_owned(),
        ),
        Block::Code(format!("$ {command}")),
    ];
    blocks.extend(environment(data));
    blocks.extend(sections::losses(data));
    blocks.extend(sections::all(data));
    blocks.extend(limits::section(data));
    blocks
}

/// What is told of a machine, and how.
const FACTS: [(&str, &str); 10] = [
    ("cpu", "processor"),
    ("cores_allowed", "cores"),
    ("governor", "governor"),
    ("hypervisor", "virtual machine"),
    ("memory_kb", "memory, KB"),
    ("architecture", "architecture"),
    ("kernel", "kernel"),
    ("smt", "SMT"),
    ("debug_build", "debug build"),
    ("loss", "packets lost by"),
];

/// What the environments say under `key`, each name as the newest has it: not every run has all.
fn newest(data: &Data, key: &str) -> serde_json::Map<String, Value> {
    let all = data.environments.iter().filter_map(|of| of[key].as_object());
    all.flatten().map(|(name, fact)| (name.clone(), fact.clone())).collect()
}

fn environment(data: &Data) -> Vec<Block> {
    if data.environments.is_empty() {
        return Vec::new();
    }
    let mut table =
        Table { columns: vec!["environment".to_owned(), String::new()], rows: Vec::new() };
    for (key, name) in FACTS {
        let mut values: Vec<String> = Vec::new();
        for of in &data.environments {
            let value = text(&of[key]);
            if !values.contains(&value) {
                values.push(value);
            }
        }
        // Runs of several machines or versions do not hide it.
        table.rows.push(vec![name.into(), values.join(" / ").into()]);
    }
    for key in ["libraries", "peers"] {
        let all: Vec<String> = newest(data, key)
            .iter()
            .map(|(name, version)| format!("{name} {}", text(version)))
            .collect();
        table.rows.push(vec![key.into(), all.join(", ").into()]);
    }
    let links = newest(data, "links");
    for (link, facts) in &links {
        let device = &facts["device"];
        let fact = |name: &str| text(&device[name]);
        let told = format!(
            "driver {}, TCP segmentation (IPv4, IPv6) {}, of user space {}; best datapath {}",
            fact("driver"),
            fact("tcp_segmentation"),
            fact("gso_robust"),
            text(&facts["chosen"])
        );
        table.rows.push(vec![format!("link {link}").into(), told.into()]);
    }
    let mut blocks = vec![Block::Table(table)];
    let kernels = data.environments.iter().map(|of| (&of["kernel"], &of["cpu"]));
    if kernels.clone().any(|one| Some(one) != kernels.clone().next()) {
        blocks.push(Block::Text(
            "The runs are of different machines or kernels: sections do not compare.".to_owned(),
        ));
    }
    blocks
}

/// A value as people read it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "not told".to_owned(),
        Value::Bool(value) => (if *value { "yes" } else { "no" }).to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::saved::{Record, Run};
    use super::*;

    fn run() -> Run {
        let row = |who: &str, size: u64, value: f64| {
            let line = json!({
                "bench": "rtt", "part": "rtt", "transport": who, "link": "veth", "mtu": 1500, "size": size,
                "outstanding": 1, "best_link": true, "value": value, "value_min": value, "value_max": value * 2.0,
                "disturbed": true, "count": 10,
            });
            serde_json::from_value::<Record>(line).unwrap()
        };
        let mut missing = row("tcp-one", 0, 0.0);
        missing.not_available = Some("no such thing".to_owned());
        Run {
            bench: "rtt".to_owned(),
            environment: json!({ "kernel": "6.1", "cpu": "x", "command": "smt bench rtt" }),
            records: vec![
                row("smt-raw", 64, 5000.0),
                row("smt-raw", 8192, 30_000.0),
                row("bare-raw", 64, 3000.0),
                row("floor-raw", 64, 4000.0),
                row("tcp", 64, 6000.0),
                row("tcp", 8192, 10_000.0),
                row("tls-rustls", 64, 7000.0),
                missing,
            ],
            lines: Vec::new(),
        }
    }

    #[test]
    fn sections_have_values_ratios_plots_and_what_is_behind() {
        let data = Data::new(vec![run()]);
        let blocks = document(&data, "smt bench report x");
        let text = document::markdown(&blocks, "evaluation");
        for part in [
            "$ smt bench rtt",
            "| `smt-raw` | 5.0 (5.0-10.0) disturbed | 30.0 (30.0-60.0) disturbed |",
            "| `tcp` | 0.83 | 3.00 |",
            "`tcp`: behind in 1 of 2 rows, 1 of them disturbed, most in rtt 8 KB: 30.0 against 10.0 (3.00 times",
            "`tls-rustls`: ahead in all 1 rows",
            "`tcp-one`: not available: no such thing",
            "](evaluation/rtt-by-size.svg)",
            "## Limits",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let page = document::html(TITLE, &blocks);
        assert!(page.contains("data-transport=\"tcp\" data-size=\"8192\""), "{page}");
        assert!(page.contains("data-name=\"tcp\" data-x=\"8192\" data-y=\"10\""), "{page}");
    }

    #[test]
    fn the_newest_result_counts_and_measured_is_not_missing() {
        let mut newer = run();
        newer.records = vec![newer.records.swap_remove(4)];
        newer.records[0].value = 1.0;
        let data = Data::new(vec![run(), newer]);
        let rows = data.rows("rtt");
        assert_eq!(data.best(&rows[0], "tcp").unwrap().value, 1.0);
        assert_eq!(data.best(&rows[0], "smt-raw").unwrap().value, 5000.0);
        assert_eq!(data.not_available["rtt"].len(), 1);
    }
}
