//! Whether SMT has become slower: ratios to TLS of the same run, and instructions, beside those of a baseline.
//!
//! Ratios carry over from run to run on one machine, times do not; instructions of an RPC without its AEAD carry over to
//! other machines too, as long as the compiler is the same.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::eval::rows::rows;
use super::eval::table::size;
use super::eval::{Cell, Outcome, Part};
use super::peers::{Role, Transport};
use super::place::Scene;
use crate::commands::Error;

/// By how much instructions of an RPC may grow, as a part of what they were.
pub const INSTRUCTIONS_TOLERANCE: f64 = 0.03;
/// The largest baseline that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What a baseline is made of.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Baseline {
    /// The machine, for people.
    pub environment: Value,
    /// Ratios to TLS.
    pub ratios: Vec<Ratio>,
    /// Instructions of an RPC.
    pub instructions: Vec<Instructions>,
}

/// One ratio.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// How RPCs follow each other.
    pub part: Part,
    /// SMT over a datapath.
    pub transport: Transport,
    /// Bytes.
    pub size: usize,
    /// RPCs at a time.
    pub outstanding: usize,
    /// Its value beside that of TLS.
    pub to_tls: f64,
    /// Whether rounds of SMT or of TLS differ so much that it says nothing.
    pub disturbed: bool,
}

/// Instructions of one RPC, both ends together, without the AEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instructions {
    /// Bytes.
    pub size: usize,
    /// How many.
    pub count: u64,
}

/// What came of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As good as before, or nearly.
    Pass,
    /// Worse than before by more than the tolerance.
    Fail,
    /// It cannot be said: disturbed, or not on both sides.
    Unsure,
}

/// One comparison.
#[derive(Debug, Clone)]
pub struct Checked {
    /// What is compared.
    pub what: String,
    /// Before and now, as far as known.
    pub values: [Option<f64>; 2],
    /// By what part it got worse; below 0: better.
    pub worse: Option<f64>,
    /// What came of it.
    pub verdict: Verdict,
    /// Why it cannot be said.
    pub why: &'static str,
}

impl Checked {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "bench": "guard", "what": self.what, "before": self.values[0], "now": self.values[1],
            "worse": self.worse, "verdict": self.verdict, "why": self.why,
        })
    }
}

/// The ratios of SMT in an outcome.
pub fn ratios(outcome: &Outcome, cells: &[Cell]) -> Vec<Ratio> {
    let mut groups: Vec<(Part, Scene)> = cells.iter().map(|cell| (cell.part, cell.scene)).collect();
    groups.dedup();
    let mut ratios = Vec::new();
    for (part, scene) in groups {
        let all = rows(outcome, part, scene);
        for row in all.iter().filter(|row| row.best && matches!(row.transport.role(), Role::Smt(_)))
        {
            let tls = all.iter().find(|other| {
                other.best && (other.cell, other.transport) == (row.cell, Transport::TlsRustls)
            });
            let (Some(to_tls), Some(tls)) = (row.to_peers[0], tls) else { continue };
            ratios.push(Ratio {
                part,
                transport: row.transport,
                size: row.cell.size,
                outstanding: row.cell.outstanding,
                to_tls,
                disturbed: row.measured.is_disturbed() || tls.measured.is_disturbed(),
            });
        }
    }
    ratios
}

/// Counts instructions by the bench of `smt-proto`, in the checkout that is the working directory.
///
/// # Errors
/// Why they cannot be counted.
pub fn instructions() -> Result<Vec<Instructions>, String> {
    let output = Command::new("cargo")
        .args(["bench", "--quiet", "-p", "smt-proto", "--bench", "instructions"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("cargo does not run: {error}"))?;
    // Its own verdict, beside its own snapshot, is not the question here.
    let counted = counted(&String::from_utf8_lossy(&output.stdout));
    if counted.is_empty() {
        return Err("the bench `instructions` of smt-proto does not run here (a checkout, and the Debian package \
                    valgrind)"
            .to_owned());
    }
    Ok(counted)
}

/// What the bench prints: "64 B  wire 532  crypto 1614 (+0.1)  ...  all 11386".
fn counted(text: &str) -> Vec<Instructions> {
    let of = |line: &str| {
        let mut words = line.split_whitespace();
        let size = words.next()?.parse().ok()?;
        let is_bytes = words.next()? == "B";
        let count = words.skip_while(|word| *word != "all").nth(1)?.parse().ok()?;
        is_bytes.then_some(Instructions { size, count })
    };
    text.lines().filter_map(of).collect()
}

/// Compares with a baseline. `tolerance` is the part by which a ratio may be worse.
pub fn compare(before: &Baseline, now: &Baseline, tolerance: f64) -> Vec<Checked> {
    let mut all = Vec::new();
    for old in &before.ratios {
        let is_same = |new: &&Ratio| {
            (new.part, new.transport, new.size, new.outstanding)
                == (old.part, old.transport, old.size, old.outstanding)
        };
        let new = now.ratios.iter().find(is_same);
        let what = told(old);
        let Some(new) = new else {
            all.push(unsure(what, [Some(old.to_tls), None], "not measured now"));
            continue;
        };
        let worse = match old.part.more_is_better() {
            true => old.to_tls / new.to_tls - 1.0,
            false => new.to_tls / old.to_tls - 1.0,
        };
        let disturbed = old.disturbed || new.disturbed;
        all.push(checked(what, [old.to_tls, new.to_tls], worse, tolerance, disturbed));
    }
    for old in &before.instructions {
        let what = format!("instructions {}", size(old.size));
        let before = old.count as f64;
        match now.instructions.iter().find(|new| new.size == old.size) {
            None => all.push(unsure(what, [Some(before), None], "not counted now")),
            Some(new) => {
                let now = new.count as f64;
                let worse = now / before.max(1.0) - 1.0;
                all.push(checked(what, [before, now], worse, INSTRUCTIONS_TOLERANCE, false));
            }
        }
    }
    all
}

fn told(ratio: &Ratio) -> String {
    let part = json!(ratio.part);
    let many =
        if ratio.part == Part::Load { format!(" x {}", ratio.outstanding) } else { String::new() };
    let part = part.as_str().unwrap_or_default();
    format!("{part} {} {}{many} / TLS", ratio.transport.name(), size(ratio.size))
}

fn unsure(what: String, values: [Option<f64>; 2], why: &'static str) -> Checked {
    Checked { what, values, worse: None, verdict: Verdict::Unsure, why }
}

fn checked(what: String, values: [f64; 2], worse: f64, tolerance: f64, disturbed: bool) -> Checked {
    let (verdict, why) = match (worse > tolerance, disturbed) {
        (false, _) => (Verdict::Pass, ""),
        (true, true) => (Verdict::Unsure, "disturbed"),
        (true, false) => (Verdict::Fail, ""),
    };
    Checked { what, values: values.map(Some), worse: Some(worse), verdict, why }
}

/// Reads a baseline.
///
/// # Errors
/// It cannot be read, or is none.
pub fn read(file: &Path) -> Result<Baseline, Error> {
    let cannot = || Error::io(format!("cannot read {}", file.display()));
    if fs::metadata(file).map_err(cannot())?.len() > MAX_FILE {
        return Err(Error::Failed(format!("{} is too large for a baseline", file.display())));
    }
    let text = fs::read_to_string(file).map_err(cannot())?;
    serde_json::from_str(&text)
        .map_err(|error| Error::Failed(format!("{} is no baseline: {error}", file.display())))
}

/// Writes a baseline.
///
/// # Errors
/// It cannot be written.
pub fn write(file: &Path, baseline: &Baseline) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(baseline).map_err(super::failed("no baseline"))?;
    fs::write(file, text + "\n").map_err(Error::io(format!("cannot write {}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(rtt: f64, load: f64, instructions: u64) -> Baseline {
        let ratio = |part, to_tls| Ratio {
            part,
            transport: Transport::SmtRaw,
            size: 64,
            outstanding: 1,
            to_tls,
            disturbed: false,
        };
        Baseline {
            environment: Value::Null,
            ratios: vec![ratio(Part::Rtt, rtt), ratio(Part::Load, load)],
            instructions: vec![Instructions { size: 64, count: instructions }],
        }
    }

    fn verdicts(now: &Baseline) -> Vec<Verdict> {
        let all = compare(&baseline(0.8, 2.0, 1000), now, 0.1);
        all.iter().map(|one| one.verdict).collect()
    }

    #[test]
    fn worse_is_told_by_what_is_compared() {
        use Verdict::{Fail, Pass, Unsure};
        assert_eq!(verdicts(&baseline(0.8, 2.0, 1000)), [Pass, Pass, Pass]);
        assert_eq!(verdicts(&baseline(0.7, 3.0, 900)), [Pass, Pass, Pass]);
        assert_eq!(verdicts(&baseline(0.9, 1.7, 1040)), [Fail, Fail, Fail]);
        assert_eq!(verdicts(&baseline(0.87, 1.9, 1029)), [Pass, Pass, Pass]);
        assert_eq!(verdicts(&Baseline::default()), [Unsure, Unsure, Unsure]);
        let mut disturbed = baseline(0.9, 2.0, 1000);
        disturbed.ratios[0].disturbed = true;
        assert_eq!(verdicts(&disturbed), [Unsure, Pass, Pass]);
    }

    #[test]
    fn instructions_are_read_from_the_benchs_text() {
        let text = "instructions for one RPC\n    64 B  wire 532  crypto 1614 (+0.1)  all 11386 (+0.2)\n 16384 B  wire 5  all 7\nFAILED";
        let expected =
            [(64, 11_386), (16_384, 7)].map(|(size, count)| Instructions { size, count });
        assert_eq!(counted(text), expected);
    }

    #[test]
    fn what_is_written_is_read() {
        let file = std::env::temp_dir().join(format!("smt-guard-{}.json", std::process::id()));
        let kept = baseline(0.5, 1.5, 7);
        write(&file, &kept).unwrap();
        let read_again = read(&file).unwrap();
        assert_eq!((read_again.ratios, read_again.instructions), (kept.ratios, kept.instructions));
        fs::write(&file, "{}").unwrap();
        assert!(read(&file).is_err());
        fs::remove_file(&file).unwrap();
        assert!(read(&file).is_err());
    }
}
