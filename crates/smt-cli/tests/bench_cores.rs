//! `smt bench cores` as its users run it: that everything is measured and told, not how fast it is.

#![allow(clippy::unwrap_used, clippy::panic)] // These are tests, though not #[test] functions.

use std::process::{Command, ExitCode, Output, Stdio};

use serde_json::Value;
use smt_testbed::test;

fn main() -> ExitCode {
    smt_testbed::main(vec![
        test("every_number_of_shards_is_measured", everything_is_measured),
        test("tables_fit_a_screen", tables_fit_a_screen),
        test("wrong_usage_is_status_2", wrong_usage_is_status_2),
    ])
}

fn bench(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smt"));
    command.args(["bench", "cores"]).args(arguments.split_whitespace()).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn everything_is_measured() {
    let output = bench("--quick --json --outstanding 8");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let told: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (datapath, may_miss) in [("raw", false), ("udp", false), ("packet", true), ("xdp", true)] {
        for (clients, servers) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let row = told.iter().find(|row| {
                (&row["part"], &row["datapath"]) == (&"rate".into(), &datapath.into())
                    && row["client_shards"] == clients
                    && row["server_shards"] == servers
            });
            let row = row.unwrap_or_else(|| panic!("{datapath} {clients}:{servers}"));
            if may_miss && row["not_available"].is_string() {
                continue;
            }
            assert!(row["rpcs_per_second"].as_f64().unwrap() > 0.0, "{row}");
            assert_eq!(row["requests"].as_array().unwrap().len(), servers, "{row}");
            assert!(row["requests"].as_array().unwrap().iter().all(|n| *n != 0), "{row}");
            assert!((1.0..=servers as f64).contains(&row["evenness"].as_f64().unwrap()), "{row}");
        }
        for shards in [1, 2] {
            let row = told.iter().find(|row| {
                (&row["part"], &row["datapath"]) == (&"beside".into(), &datapath.into())
                    && row["shards"] == shards
            });
            let row = row.unwrap();
            assert!(
                row["p99_ns"].is_number() || (may_miss && row["not_available"].is_string()),
                "{row}"
            );
        }
    }
    let tls = told.iter().filter(|row| row["contender"] == "tls");
    assert_eq!(tls.filter(|row| row["p99_ns"].is_number()).count(), 2);
}

fn tables_fit_a_screen() {
    let output = bench("--quick --datapath udp,raw");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for line in shown.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for part in ["RPCs a second", "SMT raw", "SMT udp", "2:2", "another shard", "TLS 1.3/TCP"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("packet"), "{shown}");
}

fn wrong_usage_is_status_2() {
    for arguments in ["--outstanding 0", "--datapath tin", "--duration 0"] {
        assert_eq!(bench(arguments).status.code(), Some(2), "{arguments}");
    }
}
