//! `smt bench` as its users run it: that everybody is measured and told, not how fast they are.

#![allow(clippy::unwrap_used, clippy::panic)] // These are tests, though not #[test] functions.

use std::process::{Command, ExitCode, Output, Stdio};

use serde_json::Value;
use smt_testbed::test;

fn main() -> ExitCode {
    smt_testbed::main(vec![
        test("everybody_is_measured_in_every_part", everybody_is_measured),
        test("rates_are_told_with_what_they_were", rates_are_told),
        test("tables_fit_a_screen", tables_fit_a_screen),
        test("wrong_usage_is_status_2", wrong_usage_is_status_2),
    ])
}

fn bench(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smt"));
    command.arg("bench").args(arguments.split_whitespace()).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Rows of a run that has to succeed.
fn rows(arguments: &str) -> Vec<Value> {
    let output = bench(&format!("{arguments} --json"));
    assert_eq!(output.status.code(), Some(0), "{arguments}: {}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const SHORT: &str = "--duration 0.02 --rounds 1";

fn everybody_is_measured() {
    for (part, arguments, value) in [
        ("rtt", "--sizes 64", "p50_ns"),
        ("load", "--sizes 64 --outstanding 4", "rpcs_per_second"),
        ("bulk", "--sizes 1048576", "bits_per_second"),
        ("mixed", "", "p99_ns"),
        ("cpu", "--sizes 64", "server_cpu_ns"),
    ] {
        let rows = rows(&format!("{part} {arguments} {SHORT}"));
        // What a host may lack the rights or devices for may be missing, if that is told.
        for (transport, may_miss) in [
            ("smt-raw", part == "cpu"),
            ("smt-udp", part == "cpu"),
            ("smt-packet", true),
            ("smt-xdp", true),
            ("tcp", part == "cpu"),
            ("tls-rustls", part == "cpu"),
        ] {
            let rows: Vec<&Value> =
                rows.iter().filter(|row| row["transport"] == transport).collect();
            assert_eq!(rows.len(), 2, "{part} {transport}: {rows:?}");
            for row in &rows {
                assert_eq!((&row["bench"], &row["part"]), (&part.into(), &part.into()));
                let is_told = row[value].is_number() && row["best_link"].is_boolean();
                assert!(is_told || (may_miss && row["not_available"].is_string()), "{row}");
            }
            let best = rows.iter().filter(|row| row["best_link"] == true);
            let is_told = rows.iter().any(|row| row[value].is_number());
            assert_eq!(best.count(), usize::from(is_told), "{part} {transport}");
        }
        let has = |transport: &str, ratio: &str| {
            rows.iter().any(|row| row["transport"] == transport && row[ratio].is_f64())
        };
        assert!(part == "cpu" || has("smt-raw", "ratio_to_tls") && has("smt-raw", "ratio_to_tcp"));
        assert_eq!(has("smt-raw", "ratio_to_bare"), part == "rtt");
        assert_eq!(has("smt-raw", "ratio_to_floor"), part == "rtt" || part == "load");
        assert_eq!(has("tls-rustls-one", "ratio_to_tls"), part == "load");
    }
}

fn rates_are_told() {
    let rows =
        rows(&format!("load --rate 1000 --sizes 64 --peers tcp,smt-udp --link loopback {SHORT}"));
    for transport in ["tcp", "smt-udp"] {
        let row = rows.iter().find(|row| row["transport"] == transport).unwrap();
        if row["not_available"].is_string() {
            // With one core nobody spins, and whoever naps keeps no rate.
            continue;
        }
        assert_eq!((&row["part"], &row["rate"]), (&"open".into(), &1000.into()));
        assert_eq!(row["count"].as_u64().unwrap() + row["not_begun"].as_u64().unwrap(), 20);
        assert!(row["p999_ns"].is_number());
    }
}

fn tables_fit_a_screen() {
    let output = bench(&format!("rtt --sizes 64 --peers smt,floors,tcp,tls-rustls {SHORT}"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for line in shown.lines().filter(|line| !line.contains("not available")) {
        assert!(line.chars().count() <= 100, "{line}");
    }
    for part in ["Round trips", "smt-raw", "smt-udp", "bare-udp", "floor-udp", "tls-rustls"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("RPCs a second"), "{shown}");
}

fn wrong_usage_is_status_2() {
    for arguments in [
        "rtt --sizes 0",
        "rtt --sizes 65537",
        "rtt --peers tin",
        "rtt --link string",
        "rtt --duration 0",
        "rtt --rounds 0",
        "load --outstanding 0",
        "load --rate 0",
        "bulk --sizes 64",
        "cpu --wait never",
        "rpc",
    ] {
        assert_eq!(bench(arguments).status.code(), Some(2), "{arguments}");
    }
}
