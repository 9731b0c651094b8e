//! Instructions of the protocol for one RPC, by layer, compared with those kept in `snapshot.txt`: what a
//! change costs, on whatever machine and however busy it is.
//!
//! ```text
//! cargo bench -p smt-proto --bench instructions                  compare
//! cargo bench -p smt-proto --bench instructions -- --update      keep what was counted
//! ```
//!
//! Callgrind counts while RPCs run between two cores in memory, after as many that it does not count. The
//! AEAD is a copy: which code encrypts depends on the processor, and is not ours.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a bench")]

mod count;
mod workload;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs};

use count::{Layer, layers};

/// Bytes of requests, and of their responses.
const SIZES: [usize; 3] = [64, 1024, 16 << 10];
/// By how many per cent a sum may differ from the snapshot.
const TOLERANCE: f64 = 3.0;

/// Instructions of an RPC by size and layer.
type Counts = BTreeMap<(usize, Layer), u64>;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["workload", size] => {
            workload::run(size.parse().unwrap());
            ExitCode::SUCCESS
        }
        [] => compare(),
        ["--update"] => {
            fs::write(snapshot_path(), to_text(&compiler(), &count())).unwrap();
            println!("kept in {}", snapshot_path().display());
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: instructions [--update]");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> ExitCode {
    let text = fs::read_to_string(snapshot_path()).unwrap();
    let (kept_by, kept) = from_text(&text);
    let counted = count();
    let mut worst: f64 = 0.0;
    println!("instructions for one RPC, both ends together (in brackets: change in per cent)");
    for size in SIZES {
        print!("{size:>6} B");
        for layer in Layer::ALL {
            let [now, before] = [&counted, &kept].map(|counts| counts.get(&(size, layer)));
            print!("  {} {}{}", layer.name(), now.unwrap_or(&0), change(now, before));
        }
        let sum = |counts: &Counts| Layer::ALL.iter().filter_map(|l| counts.get(&(size, *l))).sum();
        let (now, before): (u64, u64) = (sum(&counted), sum(&kept));
        println!("  all {now}{}", change(Some(&now), Some(&before)));
        worst = worst.max(per_cent(now, before).abs());
    }
    if kept_by != compiler() {
        println!("NOT COMPARED: the snapshot is by {kept_by}, this by {}", compiler());
        return ExitCode::SUCCESS;
    }
    if worst > TOLERANCE {
        println!(
            "FAILED: {worst:.1} % from the snapshot, more than {TOLERANCE} %. If it is worth it: \
             cargo bench -p smt-proto --bench instructions -- --update"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn change(now: Option<&u64>, before: Option<&u64>) -> String {
    let change = per_cent(*now.unwrap_or(&0), *before.unwrap_or(&0));
    if change.abs() < 0.05 { String::new() } else { format!(" ({change:+.1})") }
}

fn per_cent(now: u64, before: u64) -> f64 {
    100.0 * (now as f64 - before as f64) / (before as f64).max(1.0)
}

fn count() -> Counts {
    let mut counts = Counts::new();
    for size in SIZES {
        for (layer, instructions) in layers(&callgrind(size)) {
            counts.insert((size, layer), instructions / workload::CALLS);
        }
    }
    counts
}

/// Runs the workload; returns what callgrind wrote.
fn callgrind(size: usize) -> String {
    let name = format!("smt-instructions-{}-{size}", std::process::id());
    let out = env::temp_dir().join(name);
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*counted_calls*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env::current_exe().unwrap())
        .args(["workload", &size.to_string()])
        .stderr(Stdio::null())
        .status()
        .expect("valgrind runs: it is in the Debian package valgrind");
    assert!(status.success(), "the workload failed under valgrind");
    let text = fs::read_to_string(&out).unwrap();
    fs::remove_file(&out).unwrap();
    text
}

fn compiler() -> String {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(rustc).arg("--version").output().expect("rustc runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn snapshot_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/snapshot.txt")
}

fn to_text(compiler: &str, counts: &Counts) -> String {
    let mut text = format!("{compiler}\n");
    for ((size, layer), instructions) in counts {
        writeln!(text, "{size} {} {instructions}", layer.name()).unwrap();
    }
    text
}

fn from_text(text: &str) -> (String, Counts) {
    let mut lines = text.lines();
    let compiler = lines.next().unwrap_or_default().to_owned();
    let mut counts = Counts::new();
    for line in lines {
        let mut words = line.split(' ');
        let size = words.next().and_then(|word| word.parse().ok());
        let layer = words.next().and_then(Layer::named);
        let instructions = words.next().and_then(|word| word.parse().ok());
        if let (Some(size), Some(layer), Some(instructions)) = (size, layer, instructions) {
            counts.insert((size, layer), instructions);
        }
    }
    (compiler, counts)
}
