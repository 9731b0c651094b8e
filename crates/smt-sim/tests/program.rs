//! The program as its users run it: by its exit status and by what it prints.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // These are tests.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const COMMANDS: [&str; 9] =
    ["swarm", "replay", "rack", "incast", "paths", "trim", "loss", "cores", "report"];
/// One quick run of everything that prints results.
const QUICK: [&str; 8] = [
    "swarm --seeds 3 --first 2",
    "replay --seed 2",
    "rack --workload w1 --hosts 8 --messages 200",
    "paths --workload w1 --hosts 8 --messages 200",
    "trim --workload w1 --hosts 8 --messages 200",
    "cores --cores 1,2 --millis 2",
    "incast --senders 3,5 --rounds 1",
    "loss --hosts 2 --calls 200",
];

fn smt_sim(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smt-sim"));
    command.args(arguments.split_whitespace()).env_remove("RUST_BACKTRACE").env("COLUMNS", "80");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &str) -> Output {
    smt_sim(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a run in which all was well.
fn good(arguments: &str) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// What standard error says of a run that was not made.
fn refused(arguments: &str) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments}: {}", text(&output.stdout));
    assert!(output.stdout.is_empty(), "{arguments}: {}", text(&output.stdout));
    text(&output.stderr)
}

/// A directory of one test, removed when dropped.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("smt-sim-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn digest(arguments: &str) -> String {
    let object: Value = serde_json::from_str(&good(&format!("{arguments} --json"))).unwrap();
    object["digest"].as_str().unwrap().to_owned()
}

fn scenario(path: &Path) -> String {
    format!("replay --scenario {}", path.display())
}

#[test]
fn every_command_has_help_with_exit_statuses_and_examples() {
    let all = good("--help");
    for command in COMMANDS {
        assert!(all.contains(command), "{all}");
        let help = good(&format!("{command} --help"));
        assert!(help.contains("Exit status:"), "{help}");
        assert!(help.contains(&format!("smt-sim {command}")), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
    }
}

#[test]
fn wrong_usage_is_status_2_and_names_the_argument() {
    for (arguments, told) in [
        ("nosuch", "nosuch"),
        ("replay", "--seed"),
        ("replay --seed 1 --scenario x", "--scenario"),
        ("replay --seed 9223372036854775808", "--seed"),
        ("swarm --seeds 0", "--seeds"),
        ("swarm --seeds -1", "--seeds"),
        ("swarm --jobs 0", "--jobs"),
        ("swarm --out /nowhere/at/all", "--out"),
        ("rack --hosts 3", "a multiple of 4"),
        ("rack --gbps 0", "--gbps"),
        ("rack --gbps nan", "--gbps"),
        ("rack --load -1", "--load"),
        ("rack --workload w9", "w5"),
        ("rack --messages 1", "--messages"),
        ("rack --buffer 0", "--buffer"),
        ("incast --senders 0", "--senders"),
        ("incast --rounds 0", "--rounds"),
        ("incast --bytes 4000000000", "--bytes"),
        ("loss --loss 2", "--loss"),
        ("loss --loss nan", "--loss"),
        ("loss --calls 0", "--calls"),
        ("cores --cores 3", "--cores"),
        ("cores --packet-ns -1", "--packet-ns"),
        ("report --scale 0", "--scale"),
        ("report --only nosuch", "cores"),
        ("report --docs /nowhere/at/all", "/nowhere/at/all/simulation.md"),
    ] {
        let error = refused(arguments);
        assert!(error.contains(told) && !error.contains("panicked"), "{arguments}: {error}");
    }
}

#[test]
fn what_needs_too_much_memory_is_refused_with_numbers_and_advice() {
    for arguments in [
        "replay --seed 1 --max-memory 1",
        "rack --max-memory 0.01",
        "rack --seconds 100000",
        "incast --senders 5000 --bytes 10000000",
        "loss --hosts 100 --bytes 1000000 --calls 1000000 --outstanding 1000",
    ] {
        let error = refused(arguments);
        assert!(error.contains("MiB") && error.contains("--max-memory"), "{arguments}: {error}");
    }
    let output = run("swarm --seeds 3 --max-memory 1");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("3 of 3 runs were refused"));
}

#[test]
fn a_seed_its_scenario_and_a_second_time_are_the_same_run() {
    let dir = Dir::new("same");
    for seed in [2, 7] {
        let by_seed = digest(&format!("replay --seed {seed}"));
        assert_eq!(digest(&format!("replay --seed {seed}")), by_seed);
        let shown = good(&format!("replay --seed {seed} --show"));
        let path = dir.file("shown.toml", &shown);
        assert_eq!(digest(&scenario(&path)), by_seed);
    }
    let one = digest("swarm --seeds 4 --jobs 1");
    assert_eq!(digest("swarm --seeds 4 --jobs 2"), one);
}

#[test]
fn bad_scenario_files_are_told_with_line_and_field() {
    let dir = Dir::new("bad");
    let shown = good("replay --seed 1 --show");
    for (old, new, field) in [
        ("\nroom = 1480\n", "\nroom = 1\n", "room = 1"),
        ("\nburst = ", "\nburst = \"x\" # ", "burst"),
        ("\nlink_gbps = ", "\nlink_gbps = 0.0 # ", "net.link_gbps"),
        ("\npriorities = ", "\npriorities = 9 # ", "net.priorities"),
        ("\nhosts = ", "\nhosts = 100000000 # ", "net.topology"),
        ("\nmedium_share = ", "\nmedium_share = 2.0 # ", "workload.medium_share"),
        ("\n[workload]\n", "\n[workload]\nhaste = 1\n", "haste"),
        ("\n[workload]\n", "\n[workload\n", "[workload"),
    ] {
        assert!(shown.contains(old), "{old:?} in {shown}");
        let changed = shown.replacen(old, new, 1);
        let error = refused(&scenario(&dir.file("changed.toml", changed)));
        assert!(error.contains("changed.toml: ") && error.contains("line "), "{error}");
        assert!(error.contains(field) && !error.contains("panicked"), "{field}: {error}");
    }
    // In the middle of a field.
    let cut = shown.find("link_gbps = ").unwrap() + 5;
    for (name, content) in [
        ("empty.toml", &b""[..]),
        ("binary.toml", &[0xff, 0, 0x80, 7, 0]),
        ("zeros.toml", &[0; 100]),
        ("cut.toml", &shown.as_bytes()[..cut]),
    ] {
        let error = refused(&scenario(&dir.file(name, content)));
        assert!(error.contains(&format!("{name}: ")) && !error.contains("panicked"), "{error}");
    }
    assert!(refused("replay --scenario /nowhere/at.toml").contains("/nowhere/at.toml: No such"));
    assert!(refused("replay --scenario /").contains("/: "));
    assert!(refused("replay --scenario /dev/zero").contains("16 MiB"));
}

#[test]
fn json_is_one_object_for_each_line() {
    for arguments in QUICK {
        let output = good(&format!("{arguments} --json"));
        assert!(!output.is_empty(), "{arguments}");
        for line in output.lines() {
            let object: Value = serde_json::from_str(line).expect(arguments);
            assert!(object.is_object(), "{arguments}: {line}");
        }
    }
}

#[test]
fn results_fit_a_terminal_of_80_columns() {
    for arguments in QUICK {
        let output = good(arguments);
        let wide = output.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{arguments}:\n{output}");
    }
}

#[test]
fn nobody_who_reads_is_no_failure() {
    for arguments in QUICK.iter().chain(&["replay --seed 1 --show", "rack --workload w9"]) {
        let mut child = smt_sim(arguments).spawn().unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = child.wait().unwrap().code();
        assert!(!said.contains("panicked"), "{arguments}: {said}");
        assert_eq!(
            status,
            Some(if arguments.contains("w9") { 2 } else { 0 }),
            "{arguments}: {said}"
        );
    }
}

#[test]
fn a_full_disk_is_told() {
    for arguments in [
        "replay --seed 2 --log /dev/full",
        "replay --seed 2 --pcap /dev/full",
        "replay --seed 2 --pcap /nowhere/at/all",
    ] {
        let output = run(arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {error}");
        assert!(error.contains("/dev/full: ") || error.contains("/nowhere/at/all: "), "{error}");
    }
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = smt_sim("replay --seed 2").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("standard output"));
}

#[test]
fn a_capture_holds_every_packet_sent_or_added() {
    let dir = Dir::new("capture");
    let (path, log) = (dir.0.join("run.pcap"), dir.0.join("run.txt"));
    let arguments =
        format!("replay --seed 2 --json --pcap {} --log {}", path.display(), log.display());
    let object: Value = serde_json::from_str(&good(&arguments)).unwrap();
    let bytes = fs::read(&path).unwrap();
    let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
    assert_eq!((word(0), word(20)), (0xa1b2_3c4d, 101));
    let (mut at, mut packets, mut before) = (24, 0, (0, 0));
    while at < bytes.len() {
        let time = (word(at), word(at + 4));
        assert!(time >= before && time.1 < 1_000_000_000);
        let len = word(at + 8);
        assert_eq!(word(at + 12), len);
        let ip = &bytes[at + 16..at + 16 + len];
        assert_eq!((ip[0], ip[9]), (0x45, 253));
        assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), len);
        let words = ip[..20].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
        let sum: u32 = words.sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        (at, packets, before) = (at + 16 + len, packets + 1, time);
    }
    let lines = |what: &str| {
        let log = fs::read_to_string(&log).unwrap();
        log.lines().filter(|line| line.split_whitespace().nth(1) == Some(what)).count() as u64
    };
    let (sent, added) = (lines("sent"), lines("added"));
    assert_eq!(packets, sent + added);
    assert_eq!(object["packets_sent"].as_u64(), Some(sent));
    assert_eq!(object["packets_added"].as_u64(), Some(added));
    assert_eq!(object["packets_delivered"].as_u64(), Some(lines("received")));
}

#[test]
fn a_document_without_markers_is_refused_before_anything_runs() {
    let dir = Dir::new("report");
    let path = dir.file("simulation.md", "# Nothing here\n");
    let error = refused(&format!("report --docs {}", dir.0.display()));
    assert!(error.contains("simulation.md: ") && error.contains("<!-- begin"), "{error}");
    assert_eq!(fs::read_to_string(path).unwrap(), "# Nothing here\n");
}

#[test]
#[cfg(feature = "mutations")]
fn a_broken_rule_is_status_1_with_a_command_that_replays_it() {
    let dir = Dir::new("broken");
    let bug = "--mutation NonceWithoutRole";
    let arguments = format!("swarm --seeds 200 --stop --jobs 1 --shrink 5 {bug} --json");
    let output = run(&format!("{arguments} --out {}", dir.0.display()));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    let seed = object["violations"][0]["seed"].as_u64().unwrap();
    assert!(said.contains(&format!("replay: smt-sim replay --seed {seed} {bug}")), "{said}");
    let smallest = dir.0.join(format!("seed-{seed}.toml"));
    for what in [format!("replay --seed {seed}"), scenario(&smallest)] {
        let output = run(&format!("{what} {bug}"));
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert!(text(&output.stdout).starts_with("broken: "), "{what}");
    }
}
