//! `smt bench` as its users run it: that everybody is measured and told, not how fast they are.

#![allow(clippy::unwrap_used, clippy::panic)] // These are tests, though not #[test] functions.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use serde_json::Value;
use smt_testbed::{PairOptions, pair, test};

fn main() -> ExitCode {
    smt_testbed::main(vec![
        test("everybody_is_measured_in_every_part", everybody_is_measured),
        test("links_in_every_state_are_measured", links_in_every_state_are_measured),
        test("an_agent_serves_whoever_has_its_token", an_agent_serves_whoever_has_its_token),
        test("a_guard_compares_with_what_it_kept", a_guard_compares_with_what_it_kept),
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

fn links_in_every_state_are_measured() {
    let peers = "--peers smt-udp,smt-packet,tcp";
    let states = |name: &'static str, states: [Value; 2]| states.map(|state| (name, state));
    for (arguments, states) in [
        (
            format!("loss --loss 0,5 --sizes 64 {peers} {SHORT}"),
            states("loss_percent", [0.0.into(), 5.0.into()]),
        ),
        (
            format!("tso --tso software,off --sizes 16384 {peers} {SHORT}"),
            states("tso", ["software".into(), "off".into()]),
        ),
        (
            format!("mtu --sizes 64 --outstanding 4 {peers} {SHORT}"),
            states("mtu", [1500.into(), 9000.into()]),
        ),
    ] {
        let rows = rows(&arguments);
        for (name, state) in states {
            for transport in ["smt-udp", "tcp"] {
                let is_measured = rows.iter().any(|row| {
                    row["transport"] == transport
                        && row[name] == state
                        && row["value"].as_f64() > Some(0.0)
                });
                assert!(is_measured, "{arguments}: {transport} {name} {state}: {rows:?}");
            }
        }
    }
}

fn an_agent_serves_whoever_has_its_token() {
    let pair = pair(PairOptions::default()).unwrap();
    let address = format!("{}:4500", pair.b_v4);
    let mut agent = Command::new(env!("CARGO_BIN_EXE_smt"));
    agent.args(["bench", "agent", "--json", "--listen", &address]);
    agent.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut agent = pair.b.command(agent).unwrap();
    let mut line = String::new();
    BufReader::new(agent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    let token = told["token"].as_str().unwrap();

    let measure = |token: &str| {
        let mut client = Command::new(env!("CARGO_BIN_EXE_smt"));
        client.args(["bench", "rtt", "--json", "--link", &address, "--agent-token", token]);
        client.args("--peers tcp,tls-rustls,smt-udp,smt-raw --sizes 64".split(' '));
        client.args(SHORT.split(' ')).env_remove("RUST_LOG");
        client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        pair.a.command(client).unwrap().wait_with_output().unwrap()
    };
    // Another secret, then another certificate.
    for place in [token.len() - 1, 0] {
        let mut wrong = token.to_owned();
        let digit = if &token[place..=place] == "0" { "1" } else { "0" };
        wrong.replace_range(place..=place, digit);
        let output = measure(&wrong);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    }
    let output = measure(token);
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let rows: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for transport in ["tcp", "tls-rustls", "smt-udp", "smt-raw"] {
        let row = rows.iter().find(|row| row["transport"] == transport).unwrap();
        assert!(row["p50_ns"].as_u64() > Some(0) && row["link"] == "remote", "{row}");
    }
}

fn a_guard_compares_with_what_it_kept() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("guard-{}", std::process::id()));
    let guard = |more: &str| {
        let file = file.display();
        bench(&format!("guard --baseline {file} --no-instructions {SHORT} --json {more}"))
    };
    assert_eq!(guard("").status.code(), Some(1), "there is no baseline");
    assert_eq!(guard("--update").status.code(), Some(0));
    // What a busy machine measures in so short a time proves nothing: baselines beyond all that there can be.
    let kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let with = |rate: f64, time: f64| {
        let mut baseline = kept.clone();
        for ratio in baseline["ratios"].as_array_mut().unwrap() {
            let is_rate = ratio["part"] == "load";
            ratio["to_tls"] = if is_rate { rate } else { time }.into();
        }
        baseline["instructions"] = serde_json::json!([{ "size": 64, "count": 1 }]);
        fs::write(&file, baseline.to_string()).unwrap();
        guard("")
    };
    let slow = with(1e-9, 1e9);
    assert_eq!(slow.status.code(), Some(0), "{}", text(&slow.stderr));
    let told: Vec<Value> =
        text(&slow.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let verdict = |what: &str| &told.iter().find(|row| row["what"] == what).unwrap()["verdict"];
    assert_eq!(verdict("rtt smt-udp 64 B / TLS"), "pass");
    assert_eq!(verdict("load smt-udp 8 KB x 100 / TLS"), "pass");
    assert_eq!(verdict("instructions 64 B"), "unsure", "they were not counted");
    let fast = with(1e9, 1e-9);
    assert_eq!(fast.status.code(), Some(1), "{}", text(&fast.stdout));
    let shown = text(&fast.stdout);
    assert!(shown.contains("\"fail\"") && !shown.contains("\"pass\""), "{shown}");
    fs::remove_file(&file).unwrap();
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
        "bulk --sizes 67108864 --quick",
        "cpu --wait never",
        "rpc",
    ] {
        assert_eq!(bench(arguments).status.code(), Some(2), "{arguments}");
    }
}
