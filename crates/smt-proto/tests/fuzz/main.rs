//! The inputs that fuzzing has found, run as ordinary tests: `fuzz/corpus` reaches all the code that
//! is known to be reachable, `fuzz/regressions` holds what once broke something.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod targets;

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use targets::TARGETS;

fn inputs(kind: &str, target: &str) -> Vec<PathBuf> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let Ok(files) = fs::read_dir(fuzz.join(kind).join(target)) else { return Vec::new() };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(kind: &str) {
    for (name, target) in TARGETS {
        for file in inputs(kind, name) {
            let input = fs::read(&file).unwrap();
            assert!(catch_unwind(|| target(&input)).is_ok(), "input {}", file.display());
        }
    }
}

#[test]
fn corpora_pass() {
    replay("corpus");
}

#[test]
fn regressions_pass() {
    replay("regressions");
}

#[test]
fn every_target_has_a_corpus() {
    for (name, _) in TARGETS {
        assert!(inputs("corpus", name).len() > 1, "no corpus of {name}");
    }
}

/// Corpora of targets that were renamed or taken out would never run.
#[test]
fn every_corpus_has_a_target() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    for kind in ["corpus", "regressions"] {
        let Ok(found) = fs::read_dir(fuzz.join(kind)) else { continue };
        for directory in found {
            let name = directory.unwrap().file_name();
            let known = TARGETS.iter().any(|(target, _)| name.to_str() == Some(target));
            assert!(known, "{kind}/{} belongs to no target", name.display());
        }
    }
}
