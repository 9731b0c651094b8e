//! `smt bench report` as its users run it: from runs to documents, the page as a browser sees it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // These are tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smt"));
    command.arg("bench").args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command.output().unwrap()
}

fn succeeds(arguments: &[&str]) -> String {
    let output = bench(arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn directory(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    dir
}

/// The page's elements as a browser has them once it is loaded.
fn as_browsed(page: &Path, dir: &Path) -> String {
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--no-first-run", "--dump-dom"])
        .arg(format!("--user-data-dir={}", dir.join("browser").display()))
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .output()
        .expect("chromium runs: it is in the Debian package chromium");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The value of an attribute of the first element whose text of attributes contains all of `marks`.
fn attribute(page: &str, marks: &[&str], name: &str) -> f64 {
    let fits = |element: &&str| marks.iter().all(|mark| element.contains(mark));
    let element = page.split('<').filter_map(|element| element.split('>').next()).find(fits);
    let element = element.unwrap_or_else(|| panic!("no element with {marks:?}"));
    let value = element.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}: {element}"))
}

#[test]
fn a_run_becomes_documents_with_its_values() {
    let dir = directory("report");
    let runs = dir.join("runs");
    let saved = runs.to_str().unwrap();
    let told = succeeds(&[
        "rtt",
        "--json",
        "--save",
        saved,
        "--sizes",
        "64,1024",
        "--duration",
        "0.02",
        "--rounds",
        "3",
        "--peers",
        "smt-udp,bare-udp,floor-udp,tcp,tls-rustls",
        "--link",
        "veth",
    ]);
    succeeds(&["scale", "--json", "--save", saved, "--sessions", "1,100"]);
    let of_tcp = told
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|row| row["transport"] == "tcp" && row["size"] == 1024)
        .unwrap();
    let value = of_tcp["value"].as_f64().unwrap();

    let (text, page) = (dir.join("out/evaluation.md"), dir.join("out/evaluation.html"));
    let (out, html) = (text.to_str().unwrap(), page.to_str().unwrap());
    succeeds(&["report", saved, "--out", out, "--html", html]);
    let document = fs::read_to_string(&text).unwrap();
    for part in
        ["# Evaluation", "## Where SMT is behind", "$ smt bench rtt", "### Distance to the floor"]
    {
        assert!(document.contains(part), "{part}: {document}");
    }
    assert!(document.contains("### Cost by sessions"), "{document}");
    for plot in document.split("](evaluation/").skip(1) {
        let plot = dir.join("out/evaluation").join(plot.split(')').next().unwrap());
        assert!(fs::read_to_string(&plot).unwrap().starts_with("<svg"), "{}", plot.display());
    }

    let browsed = as_browsed(&page, &dir);
    let in_table = ["td ", "data-transport=\"tcp\"", "data-size=\"1024\""];
    assert_eq!(attribute(&browsed, &in_table, "data-value"), value);
    let in_plot = ["circle ", "data-name=\"tcp\"", "data-x=\"1024\""];
    let drawn = attribute(&browsed, &in_plot, "data-y");
    assert!((drawn - value / 1e3).abs() < 1e-6, "{drawn} {value}");
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn without_runs_there_is_no_report() {
    let dir = directory("report-none");
    fs::create_dir_all(&dir).unwrap();
    let output = bench(&["report", dir.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--save"));
    fs::write(dir.join("x.jsonl"), "nonsense").unwrap();
    let output = bench(&["report", dir.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no run"));
    assert_eq!(bench(&["report"]).status.code(), Some(2));
    fs::remove_dir_all(&dir).unwrap();
}
