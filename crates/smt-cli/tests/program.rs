//! The program as its users run it: on test hosts, by its exit status and what it prints.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // These are tests, though not #[test] functions.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Output, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use smt_testbed::{Namespace, PairOptions, Wire, loopback, pair, test};

fn main() -> ExitCode {
    smt_testbed::main(vec![
        test("every_subcommand_has_help_with_examples", every_subcommand_has_help_with_examples),
        test("examples_can_be_copied_from_80_columns", examples_can_be_copied),
        test("wrong_usage_is_status_2", wrong_usage_is_status_2),
        test("wrong_usage_is_json_on_request", wrong_usage_is_json_on_request),
        test("a_server_outlives_its_tickets_file", a_server_outlives_its_tickets_file),
        test("what_keeps_a_call_from_going_early_is_told", what_is_not_early_is_told),
        test("serve_call_and_ping_over_raw", || serve_call_and_ping("raw")),
        test("serve_call_and_ping_over_packet", || serve_call_and_ping("packet")),
        test("serve_call_and_ping_over_udp", || serve_call_and_ping("udp")),
        test("a_server_of_shards_tells_what_each_did", || shards("raw", 2)),
        test("a_server_of_shards_over_udp_tells_what_each_did", || shards("udp", 4)),
        test("ctrl_c_ends_ping_with_its_summary", ctrl_c_ends_ping_with_its_summary),
        test("a_wrong_authority_is_named", a_wrong_authority_is_named),
        test("a_missing_client_certificate_is_named", a_missing_client_certificate_is_named),
        test("an_absent_server_is_told", an_absent_server_is_told),
        test("policy_and_revocation_while_serving", policy_and_revocation_while_serving),
        test("a_missing_file_is_named", a_missing_file_is_named),
        test("an_unknown_host_is_no_session", an_unknown_host_is_no_session),
        test("errors_of_pki_are_json_on_request", errors_of_pki_are_json_on_request),
        test("first_packets_carry_calls_by_file_store_and_dns", first_packets_carry_calls),
        test("sessions_without_tls_by_choice_of_both_ends", static_sessions),
        test("tickets_are_shown_verified_and_fetched", ticket_commands),
        test("ticket_keys_outlive_the_server", ticket_keys_outlive_the_server),
        test("the_doctor_tells_of_a_host", the_doctor_tells_of_a_host),
        test("the_doctor_narrows_to_a_peer", the_doctor_narrows_to_a_peer),
        test("the_doctor_without_privileges_says_udp", the_doctor_without_privileges_says_udp),
        test("serve_call_and_ping_over_auto", || serve_call_and_ping("auto")),
        test("the_demo_holds", the_demo_holds),
        test("first_rpcs_of_all_transports_are_measured", first_rpcs_are_measured),
        test("no_call_fails_while_keys_change", no_call_fails_while_keys_change),
        test("a_session_survives_a_flood", a_session_survives_a_flood),
    ])
}

/// The program with these arguments, separated by blanks.
fn smt(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smt"));
    command.args(arguments.split_whitespace()).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run_in(host: &Namespace, arguments: &str) -> Output {
    host.command(smt(arguments)).unwrap().wait_with_output().unwrap()
}

fn run(arguments: &str) -> Output {
    smt(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn objects(output: &[u8]) -> Vec<Value> {
    text(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The only object with this event.
fn event(objects: &[Value], name: &str) -> Value {
    let mut found = objects.iter().filter(|object| object["event"] == name);
    let first = found.next().unwrap_or_else(|| panic!("no {name} in {objects:?}"));
    assert!(found.next().is_none(), "{name} twice in {objects:?}");
    first.clone()
}

/// A directory with the certificates of `smt pki dev`, removed when dropped.
struct Certificates(PathBuf);

impl Certificates {
    fn new(name: &str) -> Certificates {
        let dir = std::env::temp_dir().join(format!("smt-test-{}-{name}", std::process::id()));
        let made = run(&format!("pki dev {}", dir.display()));
        assert!(made.status.success(), "{}", text(&made.stderr));
        Certificates(dir)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn server(&self) -> String {
        let dir = self.0.display();
        format!("--cert {dir}/server.pem --key {dir}/server.key --client-ca {dir}/ca.pem")
    }

    fn client(&self) -> String {
        let dir = self.0.display();
        format!("--ca {dir}/ca.pem --cert {dir}/client.pem --key {dir}/client.key")
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running `smt serve --json`.
struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Server {
    fn start(host: &Namespace, arguments: &str) -> Server {
        let mut child = host.command(smt(&format!("serve --json {arguments}"))).unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.contains("listening"), "{line}");
        Server { child, output }
    }

    /// Presses Ctrl-C; returns what it has said since it listens.
    fn stop(mut self) -> Vec<Value> {
        interrupt(&self.child);
        let said = self.output.by_ref().lines().map(|line| line.unwrap());
        let said = said.map(|line| serde_json::from_str(&line).unwrap()).collect();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        said
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn interrupt(child: &Child) {
    let id = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(id, Signal::INT).unwrap();
}

/// All commands with help of their own.
const COMMANDS: [&str; 12] = [
    "demo",
    "doctor",
    "serve",
    "call",
    "ping",
    "pki",
    "ticket",
    "bench",
    "bench handshake",
    "bench cores",
    "bench rekey",
    "bench flood",
];

fn every_subcommand_has_help_with_examples() {
    for command in COMMANDS {
        let help = run(&format!("{command} --help"));
        assert_eq!(help.status.code(), Some(0), "{command}");
        assert!(text(&help.stdout).contains("Examples"), "{command}");
    }
    let help = text(&run("--help").stdout);
    for part in ["Exit status", "smt demo", "RUST_LOG", "setcap"] {
        assert!(help.contains(part), "{part}");
    }
    assert!(!help.contains("demo-host"));
}

fn wrong_usage_is_status_2() {
    for arguments in [
        "",
        "nonsense",
        "serve",
        "serve --cert a --key b --drop 1.5",
        "serve --cert a --key b --protocol 0",
        "ping",
        "ping localhost --ca x --interval -1",
        "call localhost --ca x",
        "call localhost hello --ca x --cert y",
        "call localhost: hello --ca /dev/null",
        "doctor --to nonsense",
        "doctor --to 10.0.0.2 --bind 10.0.0.1",
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments}");
    }
}

/// Lines of commands that a screen of 80 columns would break cannot be copied.
fn examples_can_be_copied() {
    for command in COMMANDS {
        let help = smt(&format!("{command} --help")).env("COLUMNS", "500").output().unwrap();
        let help = text(&help.stdout);
        let examples = help.lines().skip_while(|line| !line.starts_with("Examples"));
        for line in examples.filter(|line| line.starts_with(' ')) {
            assert!(line.chars().count() <= 80, "{command}: {line}");
        }
    }
}

fn wrong_usage_is_json_on_request() {
    for arguments in ["serve --json --cert x", "call --json", "nonsense --json"] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        let error = event(&objects(&output.stdout), "error");
        assert_eq!(error["exit_status"], 2);
        assert!(!error["text"].as_str().unwrap().is_empty());
        assert!(text(&output.stderr).contains("--help"));
    }
    assert!(run("serve --cert x").stdout.is_empty());
}

/// What a list of datapaths says of one.
fn datapath<'a>(object: &'a Value, name: &str) -> &'a Value {
    let all = object["datapaths"].as_array().unwrap();
    assert_eq!(all.len(), 4, "{object}");
    all.iter().find(|datapath| datapath["datapath"] == name).unwrap()
}

fn the_doctor_tells_of_a_host() {
    for (wire, cuts) in [(Wire::Veth, false), (Wire::Macvlan, true)] {
        let pair = pair(PairOptions { wire, ..PairOptions::default() }).unwrap();
        let certificates = Certificates::new(if cuts { "doctor-tso" } else { "doctor" });
        let server =
            Server::start(&pair.a, &format!("--listen 10.0.0.1:7040 {}", certificates.server()));
        let output = run_in(&pair.a, "doctor --json");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let objects = objects(&output.stdout);
        let host = event(&objects, "host");
        assert!(host["kernel"].as_str().unwrap().contains('.'));
        assert!(host["cores"].as_u64().unwrap() > 0);
        assert_eq!((&host["raw"], &host["packet"]), (&"granted".into(), &"granted".into()));
        assert_eq!(host["capabilities"]["net_raw"], true);
        assert_eq!(host["ports"], serde_json::json!([[7040, 7040]]));
        for field in ["receive_buffer", "receive_buffer_wanted", "rmem_max", "protocol"] {
            assert!(host[field].as_u64().unwrap() > 0, "{field} in {host}");
        }
        let devices = objects.iter().filter(|object| object["event"] == "device");
        let device = devices.clone().find(|device| device["name"] == "smt-a").unwrap();
        assert_eq!(device["driver"], if cuts { "macvlan" } else { "veth" });
        assert_eq!((&device["mtu"], &device["up"]), (&1500.into(), &true.into()));
        assert!(device["addresses"].as_array().unwrap().contains(&"10.0.0.1".into()));
        assert_eq!(device["tx_gso_robust"], cuts);
        assert_eq!(device["segment_bytes"][0].as_u64().unwrap() > 0, cuts);
        assert_eq!((&device["xdp_program"], &device["best"]), (&Value::Null, &"packet".into()));
        let lo = devices.clone().find(|device| device["name"] == "lo").unwrap();
        assert_eq!((&lo["ethernet"], &lo["best"]), (&false.into(), &"raw".into()));
        let choice = event(&objects, "choice");
        assert_eq!((&choice["for"], &choice["best"]), (&"0.0.0.0".into(), &"packet".into()));
        assert_eq!(datapath(&choice, "packet")["usable"], true);
        assert_eq!(datapath(&choice, "udp")["on_request"], false);
        let may_xdp = smt_testbed::may_use_bpf();
        assert_eq!(host["xdp"], if may_xdp { "granted" } else { "denied" });
        assert_eq!(datapath(&choice, "xdp")["on_request"], may_xdp);
        let allowed = run_in(&pair.a, "doctor --json --allow-xdp");
        let allowed = event(&self::objects(&allowed.stdout), "choice");
        assert_eq!(allowed["best"], if may_xdp && !cuts { "xdp" } else { "packet" });
        // People get the same, where a screen of 80 columns breaks nothing.
        let output = run_in(&pair.a, "doctor");
        assert_eq!(output.status.code(), Some(0));
        let told = text(&output.stdout);
        assert!(told.contains("Device smt-a") && told.contains("7040"), "{told}");
        assert!(told.contains("--datapath auto for any IPv4 address"), "{told}");
        for line in told.lines().filter(|line| !line.contains('/')) {
            assert!(line.chars().count() <= 80, "{line}");
        }
        server.stop();
    }
}

fn the_doctor_narrows_to_a_peer() {
    let pair = pair(PairOptions { wire: Wire::Macvlan, ..PairOptions::default() }).unwrap();
    for to in [IpAddr::from(pair.b_v4), pair.b_v6.into()] {
        let output = run_in(&pair.a, &format!("doctor --json --to {to}"));
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let objects = objects(&output.stdout);
        let route = event(&objects, "route");
        assert_eq!((&route["device"], &route["gateway"]), (&"smt-a".into(), &Value::Null));
        assert_eq!(
            (&route["neighbour"], &route["mtu"]),
            (&"02:00:00:00:00:0b".into(), &1500.into())
        );
        assert_eq!(event(&objects, "device")["name"], "smt-a");
        assert_eq!(event(&objects, "choice")["best"], "packet");
    }
    // What stays in the host has no device to gain from.
    let own = run_in(&pair.a, &format!("doctor --json --to {}", pair.a_v4));
    let own = objects(&own.stdout);
    assert_eq!(event(&own, "route")["device"], Value::Null);
    assert_eq!(event(&own, "choice")["best"], "raw");
    let nowhere = run_in(&pair.a, "doctor --json --to 203.0.113.1");
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(event(&objects(&nowhere.stdout), "error")["text"].as_str().unwrap().contains("no way"));
}

/// In a user namespace of its own, as nobody, a process has no rights in the host it is in.
fn the_doctor_without_privileges_says_udp() {
    let pair = pair(PairOptions::default()).unwrap();
    let output = pair.a.run(|| {
        let mut command = Command::new("unshare");
        command.args(["--user", env!("CARGO_BIN_EXE_smt"), "doctor", "--json"]);
        command.env_remove("RUST_LOG").output()
    });
    let output = output.unwrap().expect("unshare, of the Debian package util-linux");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let objects = objects(&output.stdout);
    let host = event(&objects, "host");
    assert_eq!((&host["raw"], &host["xdp"]), (&"denied".into(), &"denied".into()));
    let choice = event(&objects, "choice");
    assert_eq!(choice["best"], "udp");
    for name in ["raw", "packet", "xdp"] {
        let native = datapath(&choice, name);
        assert_eq!(native["usable"], false);
        assert!(native["reason"].as_str().unwrap().contains("CAP_NET_RAW"), "{native}");
    }
    let advice = objects.iter().find(|object| object["about"] == "CAP_NET_RAW").unwrap();
    assert!(advice["command"].as_str().unwrap().contains("cap"), "{advice}");
    assert_eq!(event(&objects, "error")["exit_status"], 1);
}

fn a_server_outlives_its_tickets_file() {
    let host = loopback().unwrap();
    let certificates = Certificates::new("tickets-file");
    let dir = certificates.file("gone");
    fs::create_dir(&dir).unwrap();
    let options = format!("--listen 127.0.0.1:7021 --early --ticket-file {}/ticket", dir.display());
    let mut server = Server::start(&host, &format!("{options} {}", certificates.server()));
    fs::remove_dir_all(&dir).unwrap();
    // A new certificate of another name: another ticket.
    let made = run(&format!(
        "pki server server --san other.example --san 127.0.0.1 --force --dir {}",
        certificates.0.display()
    ));
    assert!(made.status.success());
    let mut next = || {
        let mut line = String::new();
        server.output.read_line(&mut line).unwrap();
        let object: Value = serde_json::from_str(&line).unwrap();
        object["event"].as_str().unwrap().to_owned()
    };
    let mut told = [next(), next()];
    told.sort();
    assert_eq!(told, ["reloaded", "ticket_file_failed"]);
    let call = run_in(&host, &format!("call 127.0.0.1:7021 hello {}", certificates.client()));
    assert_eq!((call.status.code(), &call.stdout[..]), (Some(0), &b"hello"[..]));
    server.stop();
}

fn what_is_not_early_is_told() {
    let host = loopback().unwrap();
    let certificates = Certificates::new("not-early");
    let ticket = certificates.file("ticket");
    let options = format!("--listen 127.0.0.1:7022 --early --ticket-file {}", ticket.display());
    let server = Server::start(&host, &format!("{options} {}", certificates.server()));
    let missing = certificates.file("missing");
    let cases = [
        (String::new(), "--ticket-store"),
        (format!("--ticket {}", missing.display()), "cannot read"),
        (
            format!("--ticket {}", certificates.file("ca.pem").display()),
            "ca.pem: this is no ticket",
        ),
        // It wants to know its clients, and nobody knows who sends an early request.
        (format!("--ticket {}", ticket.display()), "the server did not take it"),
        (format!("--ticket-store {}/nowhere/ticket", missing.display()), "no ticket in"),
    ];
    for (options, why) in cases {
        let arguments =
            format!("call 127.0.0.1:7022 hi --early {options} {}", certificates.client());
        let call = run_in(&host, &format!("{arguments} --json"));
        assert_eq!(call.status.code(), Some(0), "{options}");
        let response = event(&objects(&call.stdout), "response");
        assert_eq!((&response["early"], &response["text"]), (&false.into(), &"hi".into()));
        let told = response["not_early"].as_str().unwrap();
        assert!(told.contains(why), "{told}");
        assert!(text(&call.stderr).contains(told));
    }
    server.stop();
}

fn first_rpcs_are_measured() {
    let plots = std::env::temp_dir().join(format!("smt-test-{}-plots", std::process::id()));
    let bench =
        run(&format!("bench handshake --quick --json --rtt 0,50 --svg {}", plots.display()));
    assert_eq!(bench.status.code(), Some(0), "{}", text(&bench.stderr));
    let objects = objects(&bench.stdout);
    for transport in ["smt", "rustls", "quic", "openssl"] {
        for round_trip_us in [0, 50] {
            let rows = objects.iter().filter(|object| {
                object["bench"] == "handshake"
                    && object["transport"] == transport
                    && object["rtt_us"] == round_trip_us
            });
            let told = |object: &&Value| {
                object["p50_ns"].as_u64() > Some(round_trip_us * 1000)
                    || object["not_measured"].is_string()
            };
            assert!(rows.clone().count() >= 4 && rows.clone().all(|row| told(&row)), "{transport}");
        }
    }
    let ratio = |object: &Value| object["ratio_to_tls"].as_f64();
    assert!(objects.iter().any(|object| object["transport"] == "smt" && ratio(object).is_some()));
    assert!(objects.iter().any(|object| object["bench"] == "step"));
    assert!(objects.iter().any(|object| object["bench"] == "link" && object["late_ns"].is_u64()));
    for round_trip in ["0us", "50us"] {
        let plot = fs::read_to_string(plots.join(format!("first-rpc-{round_trip}.svg"))).unwrap();
        assert!(plot.contains("TLS/TCP rustls: full, hybrid, mTLS"));
    }
    let _ = fs::remove_dir_all(&plots);
}

fn no_call_fails_while_keys_change() {
    let bench = run("bench rekey --quick --json");
    assert_eq!(bench.status.code(), Some(0), "{}", text(&bench.stderr));
    let rows = objects(&bench.stdout);
    assert_eq!(rows.len(), 3);
    for row in rows {
        assert_eq!((&row["bench"], &row["failed"]), (&"rekey".into(), &0.into()));
        for end in ["updates_client", "updates_server"] {
            assert!(row[end].as_u64().unwrap() > 0, "{row}");
        }
    }
}

fn a_session_survives_a_flood() {
    let bench = run("bench flood --quick --json");
    assert_eq!(bench.status.code(), Some(0), "{}", text(&bench.stderr));
    let row = event_free(&bench.stdout);
    assert_eq!((&row["bench"], &row["packets"]), (&"flood".into(), &5000.into()));
    for stretch in ["before", "during", "after"] {
        assert_eq!(row[stretch]["failed"], 0, "{row}");
    }
    assert!(row["retries_sent"].as_u64().unwrap() > 0, "{row}");
}

/// The only object.
fn event_free(output: &[u8]) -> Value {
    let [object] = &objects(output)[..] else { panic!("not one object: {}", text(output)) };
    object.clone()
}

fn serve_call_and_ping(datapath: &str) {
    let host = loopback().unwrap();
    let certificates = Certificates::new(datapath);
    let transport = format!("--datapath {datapath}");
    let listen = "--listen 127.0.0.1:7001";
    let server = Server::start(&host, &format!("{listen} {transport} {}", certificates.server()));
    let client = format!("127.0.0.1:7001 {} {transport}", certificates.client());

    let call = run_in(&host, &format!("call {client} hello"));
    assert_eq!(call.status.code(), Some(0), "{}", text(&call.stderr));
    assert_eq!(text(&call.stdout), "hello");

    let call = objects(&run_in(&host, &format!("call {client} --json hello")).stdout);
    assert_eq!(event(&call, "response")["text"], "hello");

    file_is_echoed(&host, &certificates, &client);

    let ping = run_in(&host, &format!("ping {client} --json -c 5 -i 0 -s 3000"));
    assert_eq!(ping.status.code(), Some(0), "{}", text(&ping.stderr));
    let ping = objects(&ping.stdout);
    assert_eq!(ping.iter().filter(|object| object["event"] == "response").count(), 5);
    let summary = event(&ping, "summary");
    assert_eq!((&summary["sent"], &summary["lost"]), (&5.into(), &0.into()));
    assert!(summary["min_ns"].as_u64().unwrap() <= summary["max_ns"].as_u64().unwrap());

    let said = server.stop();
    let session = said.iter().find(|object| object["event"] == "session").unwrap();
    assert_eq!(session["peer"], "client");
    let summary = event(&said, "summary");
    assert_eq!((&summary["sessions"], &summary["rpcs"]), (&4.into(), &8.into()));
}

fn shards(datapath: &str, count: usize) {
    let host = loopback().unwrap();
    let certificates = Certificates::new(&format!("shards-{datapath}"));
    let transport = format!("--datapath {datapath}");
    let options = format!("--listen 127.0.0.1:7003 --shards {count} {transport}");
    let server = Server::start(&host, &format!("{options} {}", certificates.server()));
    let client = format!("127.0.0.1:7003 {} {transport}", certificates.client());
    let ping = run_in(&host, &format!("ping {client} --json -c 40 -i 0 -s 500"));
    assert_eq!(ping.status.code(), Some(0), "{}", text(&ping.stderr));
    let said = server.stop();
    let (closed, summary) = (event(&said, "closed"), event(&said, "summary"));
    assert_eq!((&closed["rpcs"], &closed["bytes"]), (&40.into(), &20_000.into()));
    assert_eq!((&summary["rpcs"], &summary["bytes"]), (&40.into(), &20_000.into()));
    let shards = summary["shards"].as_array().unwrap();
    assert_eq!(shards.len(), count);
    // One call after the other: each lane in its turn.
    assert!(shards.iter().all(|shard| shard["rpcs"] == 40 / count), "{summary}");
}

fn file_is_echoed(host: &Namespace, certificates: &Certificates, client: &str) {
    let [input, output] = ["request", "response"].map(|name| certificates.file(name));
    let request: Vec<u8> =
        (0..5_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&input, &request).unwrap();
    let files = format!("--input {} --output {}", input.display(), output.display());
    let call = run_in(host, &format!("call {client} {files}"));
    assert_eq!(call.status.code(), Some(0), "{}", text(&call.stderr));
    assert!(fs::read(Path::new(&output)).unwrap() == request);
}

fn ctrl_c_ends_ping_with_its_summary() {
    let host = loopback().unwrap();
    let certificates = Certificates::new("interrupt");
    let server =
        Server::start(&host, &format!("--listen 127.0.0.1:7002 {}", certificates.server()));
    let client = format!("127.0.0.1:7002 {}", certificates.client());
    let mut child = host.command(smt(&format!("ping {client} --json -i 60"))).unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"response\"") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0);
    }
    interrupt(&child);
    let rest: Vec<Value> =
        output.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert_eq!(event(&rest, "summary")["answered"], 1);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    server.stop();
}

fn a_wrong_authority_is_named() {
    let host = loopback().unwrap();
    let [certificates, others] = ["right", "wrong"].map(Certificates::new);
    let server =
        Server::start(&host, &format!("--listen 127.0.0.1:7003 {}", certificates.server()));
    let ca = others.file("ca.pem");
    let call = run_in(&host, &format!("call 127.0.0.1:7003 hello --ca {}", ca.display()));
    assert_eq!(call.status.code(), Some(3));
    let why = text(&call.stderr);
    assert!(why.contains("is --ca the authority that issued the server's certificate?"), "{why}");
    server.stop();
}

fn a_missing_client_certificate_is_named() {
    let host = loopback().unwrap();
    let certificates = Certificates::new("anonymous");
    let server =
        Server::start(&host, &format!("--listen 127.0.0.1:7004 {}", certificates.server()));
    let ca = certificates.file("ca.pem");
    let ping = run_in(&host, &format!("ping 127.0.0.1:7004 -c 1 --json --ca {}", ca.display()));
    assert_eq!(ping.status.code(), Some(3));
    let why = event(&objects(&ping.stdout), "error");
    assert_eq!(why["exit_status"], 3);
    assert!(why["text"].as_str().unwrap().contains("--cert"), "{why}");
    server.stop();
}

/// Calls until `fits` likes the outcome: a watched file takes effect after one to two seconds.
fn call_until(host: &Namespace, arguments: &str, fits: impl Fn(&Output) -> bool) {
    let mut outcome = run_in(host, arguments);
    for _ in 0..100 {
        if fits(&outcome) {
            return;
        }
        thread::sleep(Duration::from_millis(100));
        outcome = run_in(host, arguments);
    }
    panic!("{outcome:?}");
}

fn policy_and_revocation_while_serving() {
    let host = loopback().unwrap();
    let certificates = Certificates::new("policy");
    let dir = certificates.0.display();
    for command in [
        format!("pki client web --san spiffe://example.org/web/1 --dir {dir}"),
        format!("pki client db --san spiffe://example.org/db --dir {dir}"),
        format!("pki revoke --dir {dir}"),
    ] {
        assert_eq!(run(&command).status.code(), Some(0), "{command}");
    }
    let server = Server::start(
        &host,
        &format!(
            "--listen 127.0.0.1:7006 {} --crl {dir}/ca.crl --allow spiffe://example.org/web/*",
            certificates.server()
        ),
    );
    let call = |name: &str| {
        let identity = format!("--ca {dir}/ca.pem --cert {dir}/{name}.pem --key {dir}/{name}.key");
        format!("call 127.0.0.1:7006 hello {identity}")
    };
    assert_eq!(run_in(&host, &call("web")).status.code(), Some(0));
    let denied = run_in(&host, &call("db"));
    assert_eq!(denied.status.code(), Some(3));
    assert!(text(&denied.stderr).contains("access_denied"), "{}", text(&denied.stderr));
    assert_eq!(run(&format!("pki revoke web --dir {dir}")).status.code(), Some(0));
    call_until(&host, &call("web"), |outcome| {
        text(&outcome.stderr).contains("certificate_revoked")
    });

    // Another certificate for the server, while it serves.
    assert_eq!(
        run(&format!("pki client web2 --san spiffe://example.org/web/2 --dir {dir}")).status.code(),
        Some(0)
    );
    let renewed =
        format!("pki server server --san renewed.example --san 127.0.0.1 --force --dir {dir}");
    assert_eq!(run(&renewed).status.code(), Some(0));
    let by_name = format!("{} --name renewed.example", call("web2"));
    call_until(&host, &by_name, |outcome| outcome.status.success());
    server.stop();
}

fn an_absent_server_is_told() {
    let pair = pair(PairOptions::default()).unwrap();
    let certificates = Certificates::new("absent");
    for datapath in ["raw", "packet", "udp"] {
        let target = format!("{}:7005 --datapath {datapath}", pair.b_v4);
        // The host itself says that nobody is there, long before the timeout.
        let arguments = format!("--connect-timeout 60 {}", certificates.client());
        let call = run_in(&pair.a, &format!("call {target} {arguments} hello"));
        assert_eq!(call.status.code(), Some(3));
        let why = text(&call.stderr);
        assert!(why.contains("is the server running?"), "{why}");
    }
}

fn a_missing_file_is_named() {
    let failed = run("call localhost hello --ca /nowhere/ca.pem");
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains("/nowhere/ca.pem"));
}

fn an_unknown_host_is_no_session() {
    let certificates = Certificates::new("unknown-host");
    let ca = certificates.file("ca.pem");
    let failed = run(&format!("call nobody.invalid hello --ca {}", ca.display()));
    assert_eq!(failed.status.code(), Some(3));
    assert!(text(&failed.stderr).contains("nobody.invalid"));
}

fn errors_of_pki_are_json_on_request() {
    let certificates = Certificates::new("pki-json");
    let failed = run(&format!("pki dev {} --json", certificates.0.display()));
    assert_eq!(failed.status.code(), Some(1));
    let error = event(&objects(&failed.stdout), "error");
    assert!(error["text"].as_str().unwrap().contains("--force"), "{error}");
}

/// What a call has said, and its standard error.
fn called(host: &Namespace, arguments: &str) -> Value {
    let call = run_in(host, &format!("call {arguments} --json"));
    assert_eq!(call.status.code(), Some(0), "{}", text(&call.stderr));
    let response = event(&objects(&call.stdout), "response");
    assert_eq!(response["text"], "hello");
    response
}

fn first_packets_carry_calls() {
    let host = loopback().unwrap();
    let certificates = Certificates::new("early");
    let (ticket, store) = (certificates.file("ticket"), certificates.file("store"));
    let dir = certificates.0.display();
    // DNS has its own mind about `localhost`.
    assert!(run(&format!("pki server server.example --dir {dir}")).status.success());
    let serving = format!("--cert {dir}/server.example.pem --key {dir}/server.example.key --early");
    let server = Server::start(
        &host,
        &format!("--listen 127.0.0.1:7010 {serving} --ticket-file {}", ticket.display()),
    );
    let call = format!("127.0.0.1:7010 hello --name server.example --ca {dir}/ca.pem --early");
    let plain = called(&host, &call);
    assert_eq!((&plain["early"], &plain["forward_secret"]), (&false.into(), &true.into()));
    let file = called(&host, &format!("{call} --ticket {}", ticket.display()));
    assert_eq!((&file["early"], &file["forward_secret"]), (&true.into(), &true.into()));
    for early in [false, true, true] {
        let stored = called(&host, &format!("{call} --ticket-store {}", store.display()));
        assert_eq!(stored["early"], early);
    }
    let mut dns = host
        .command(smt(&format!(
            "ticket serve --json --ticket-file {} --host server.example --port 7010 --listen 127.0.0.1:5300",
            ticket.display()
        )))
        .unwrap();
    let mut line = String::new();
    BufReader::new(dns.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
    let by_dns = called(&host, &format!("{call} --ticket-dns 127.0.0.1:5300"));
    assert_eq!(by_dns["early"], true);
    interrupt(&dns);
    assert_eq!(dns.wait().unwrap().code(), Some(0));
    let said = server.stop();
    assert_eq!(event(&said, "summary")["early_rpcs"], 4);
}

fn static_sessions() {
    let host = loopback().unwrap();
    let certificates = Certificates::new("static");
    let dir = certificates.0.display();
    for (taken, option) in [(true, "--static-ok"), (false, "")] {
        let server = Server::start(
            &host,
            &format!(
                "--listen 127.0.0.1:7011 --cert {dir}/server.pem --key {dir}/server.key --early \
                 {option} --ticket-file {dir}/ticket"
            ),
        );
        let said = called(
            &host,
            &format!(
                "127.0.0.1:7011 hello --ca {dir}/ca.pem --early --static --ticket {dir}/ticket"
            ),
        );
        assert_eq!(said["early"], taken);
        assert_eq!(said["forward_secret"], !taken);
        server.stop();
    }
}

fn ticket_commands() {
    let host = loopback().unwrap();
    let certificates = Certificates::new("ticket");
    let dir = certificates.0.display();
    let server = Server::start(
        &host,
        &format!(
            "--listen 127.0.0.1:7012 --cert {dir}/server.pem --key {dir}/server.key --early \
             --ticket-file {dir}/ticket"
        ),
    );
    let fetch =
        format!("ticket fetch 127.0.0.1:7012 --ca {dir}/ca.pem --output {dir}/fetched --json");
    let fetched = event(&objects(&run_in(&host, &fetch).stdout), "fetched");
    let show = run(&format!("ticket show {dir}/ticket --json"));
    assert_eq!(event(&objects(&show.stdout), "ticket")["id"], fetched["id"]);
    let verify =
        |name: &str| run(&format!("ticket verify {dir}/fetched --ca {dir}/ca.pem --name {name}"));
    assert_eq!(verify("localhost").status.code(), Some(0));
    let wrong = verify("other.example");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("refused"), "{}", text(&wrong.stderr));
    let none = run(&format!("ticket show {dir}/ca.pem"));
    assert_eq!(none.status.code(), Some(1));
    server.stop();
}

fn ticket_keys_outlive_the_server() {
    let host = loopback().unwrap();
    let certificates = Certificates::new("ticket-keys");
    let dir = certificates.0.display();
    let arguments = format!(
        "--listen 127.0.0.1:7013 --cert {dir}/server.pem --key {dir}/server.key --early \
         --ticket-keys {dir}/keys --ticket-file {dir}/ticket"
    );
    let tickets: Vec<_> = (0..2)
        .map(|_| {
            Server::start(&host, &arguments).stop();
            fs::read(certificates.0.join("ticket")).unwrap()
        })
        .collect();
    assert_eq!(tickets[0], tickets[1], "the second has made a ticket of its own");
    let server = Server::start(&host, &arguments);
    let beside = arguments.replace(":7013", ":7014");
    let refused = run_in(&host, &format!("serve {beside}"));
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("another server uses"), "{}", text(&refused.stderr));
    server.stop();
    let keys = certificates.0.join("keys");
    let mode = |mode| fs::set_permissions(&keys, fs::Permissions::from_mode(mode)).unwrap();
    assert_eq!(fs::metadata(&keys).unwrap().permissions().mode() & 0o7777, 0o600);
    mode(0o644);
    let refused = run_in(&host, &format!("serve {arguments}"));
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("chmod 600"), "{}", text(&refused.stderr));
}

fn the_demo_holds() {
    let demo = run("demo --json");
    let steps = objects(&demo.stdout);
    for step in &steps {
        assert_eq!(step["ok"], true, "{step}");
    }
    let count = |name: &str| steps.iter().filter(|step| step["step"] == name).count();
    for name in [
        "setup",
        "rpcs",
        "bulk",
        "loss_rpcs",
        "loss_bulk",
        "loss",
        "key_updates",
        "capture",
        "first_rpcs",
        "done",
    ] {
        assert_eq!(count(name), 1, "{name}");
    }
    assert_eq!((count("rtt"), count("rtt_ratio"), count("first_rpc")), (9, 3, 3));
    let rpcs = steps.iter().find(|step| step["step"] == "rpcs").unwrap();
    assert_eq!(rpcs["count"], 10_000);
    assert_eq!(demo.status.code(), Some(0), "{}", text(&demo.stderr));
}
