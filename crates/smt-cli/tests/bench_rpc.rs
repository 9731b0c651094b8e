//! `smt bench rpc` as its users run it: that everybody is measured and told, not how fast they are.

#![allow(clippy::unwrap_used, clippy::panic)] // These are tests, though not #[test] functions.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use serde_json::Value;
use smt_testbed::test;

fn main() -> ExitCode {
    smt_testbed::main(vec![
        test("everybody_is_measured_in_every_part", everybody_is_measured),
        test("tables_fit_a_screen", tables_fit_a_screen),
        test("wrong_usage_is_status_2", wrong_usage_is_status_2),
    ])
}

fn bench(arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smt"));
    command.args(["bench", "rpc"]).args(arguments.split_whitespace()).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn everybody_is_measured() {
    let plots = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("rpc-{}", std::process::id()));
    let arguments = "--quick --json --sizes 64 --outstanding 4 --mtu 1500,9000";
    let output = bench(&format!("{arguments} --svg {}", plots.display()));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let told: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (part, value) in [
        ("rtt", "p50_ns"),
        ("rate", "rpcs_per_second"),
        ("goodput", "bits_per_second"),
        ("mixed", "p99_ns"),
        ("cpu", "server_cpu_ns"),
    ] {
        for mtu in [1500, 9000] {
            let rows = told.iter().filter(|row| row["part"] == part && row["mtu"] == mtu);
            // What a host may lack the rights or devices for may be missing, if that is told.
            for (contender, datapath, may_miss) in [
                ("smt", "raw", part == "cpu"),
                ("smt", "udp", part == "cpu"),
                ("smt", "packet", true),
                ("smt", "xdp", true),
                ("tcp", "", part == "cpu"),
                ("tls", "", part == "cpu"),
            ] {
                let rows = rows.clone().filter(|row| {
                    row["contender"] == contender
                        && row["datapath"].as_str().unwrap_or_default() == datapath
                });
                let rows: Vec<&Value> = rows.collect();
                let beds: Vec<&str> = rows.iter().filter_map(|row| row["bed"].as_str()).collect();
                assert_eq!(beds.len(), 2, "{part} {mtu} {contender} {datapath}: {rows:?}");
                for row in &rows {
                    let is_told = row[value].is_number() && row["best_bed"].is_boolean();
                    assert!(is_told || (may_miss && row["not_measured"].is_string()), "{row}");
                }
                let best = rows.iter().filter(|row| row["best_bed"] == true);
                assert_eq!(
                    best.count(),
                    usize::from(rows.iter().any(|row| row[value].is_number()))
                );
            }
            let plot = fs::read_to_string(plots.join(format!("rpc-{part}-{mtu}.svg"))).unwrap();
            assert!(plot.contains("SMT raw") || part == "cpu", "{part}");
        }
    }
    let has = |contender: &str, ratio: &str| {
        told.iter().any(|row| row["contender"] == contender && row[ratio].is_f64())
    };
    assert!(
        has("smt", "ratio_to_tls") && has("smt", "ratio_to_tcp") && has("smt", "ratio_to_bare")
    );
    assert!(has("smt", "ratio_to_floor") && has("tls-one", "ratio_to_tls"));
    let _ = fs::remove_dir_all(&plots);
}

fn tables_fit_a_screen() {
    let output = bench("--quick --only rtt,rate --sizes 64 --datapath udp,raw --bed veth");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    for line in shown.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for part in [
        "Round trips",
        "RPCs a second",
        "SMT raw",
        "SMT udp",
        "bare udp",
        "floor udp",
        "TLS 1.3/TCP",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("macvlan") && !shown.contains("Goodput"), "{shown}");
}

fn wrong_usage_is_status_2() {
    for arguments in
        ["--sizes 0", "--sizes 65537", "--datapath tin", "--mtu 100", "--only all", "--seconds 0"]
    {
        assert_eq!(bench(arguments).status.code(), Some(2), "{arguments}");
    }
}
