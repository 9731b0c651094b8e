//! Runs kept in files: the environment in the first line, then a line for each result, all JSON.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::eval::Part;
use crate::commands::Error;
use crate::times::Times;

/// What files of runs end with.
const EXTENSION: &str = "jsonl";
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// Writes a run of a bench; returns the file. One of the same second is not overwritten.
///
/// # Errors
/// The directory or the file cannot be written.
pub fn write(
    dir: &Path,
    bench: &str,
    environment: &Value,
    results: &[Value],
) -> Result<PathBuf, Error> {
    let seconds = environment["unix_seconds"].as_u64().unwrap_or(0);
    let cannot = |file: &Path| Error::io(format!("cannot write {}", file.display()));
    fs::create_dir_all(dir).map_err(cannot(dir))?;
    let mut number = 0;
    let (file, mut open) = loop {
        let more = if number == 0 { String::new() } else { format!("-{number}") };
        let file = dir.join(format!("{bench}-{seconds}{more}.{EXTENSION}"));
        match fs::File::create_new(&file) {
            Ok(open) => break (file, open),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(cannot(&file)(error)),
        }
    };
    let first = json!({ "bench": bench, "environment": environment });
    let lines: String =
        std::iter::once(&first).chain(results).map(|object| format!("{object}\n")).collect();
    open.write_all(lines.as_bytes()).map_err(cannot(&file))?;
    Ok(file)
}

/// One run as it was kept.
#[derive(Debug)]
pub struct Run {
    /// What was looked at.
    pub bench: String,
    /// What it depended on.
    pub environment: Value,
    /// What was measured of transports, and who was not available.
    pub records: Vec<Record>,
    /// All lines but the first as they are, those that are no records included.
    pub lines: Vec<Value>,
}

/// A result as it was kept.
#[derive(Debug, Clone, Deserialize)]
#[allow(missing_docs, reason = "named as in JSON, which the help of the commands explains")]
pub struct Record {
    pub bench: String,
    pub part: Part,
    pub transport: String,
    pub link: String,
    pub mtu: u32,
    pub loss_percent: Option<f64>,
    pub tso: Option<String>,
    #[serde(default)]
    pub size: usize,
    #[serde(default)]
    pub outstanding: usize,
    pub rate: Option<u32>,
    pub wait: Option<String>,
    #[serde(default)]
    pub best_link: bool,
    #[serde(default)]
    pub count: u64,
    #[serde(default)]
    pub value: f64,
    #[serde(default)]
    pub value_min: f64,
    #[serde(default)]
    pub value_max: f64,
    #[serde(default)]
    pub disturbed: bool,
    #[serde(default)]
    pub p50_ns: u64,
    #[serde(default)]
    pub p99_ns: u64,
    #[serde(default)]
    pub p999_ns: u64,
    pub ratio_to_tls: Option<f64>,
    pub ratio_to_tcp: Option<f64>,
    pub ratio_to_bare: Option<f64>,
    pub ratio_to_floor: Option<f64>,
    pub not_available: Option<String>,
    #[serde(default)]
    pub histogram: String,
}

impl Record {
    /// The distribution of its times; nothing where none was kept.
    pub fn times(&self) -> Option<Times> {
        Times::from_base64(&self.histogram).filter(|times| times.count() > 0)
    }
}

/// Reads all runs in a directory, or the one in a file, oldest first.
///
/// # Errors
/// One cannot be read, or is no run.
pub fn read(path: &Path) -> Result<Vec<Run>, Error> {
    let cannot = |path: &Path| Error::io(format!("cannot read {}", path.display()));
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(cannot(path))? {
            let file = entry.map_err(cannot(path))?.path();
            if file.extension().is_some_and(|extension| extension == EXTENSION) {
                files.push(file);
            }
        }
    } else {
        files.push(path.to_owned());
    }
    let mut runs = Vec::new();
    for file in files {
        let size = fs::metadata(&file).map_err(cannot(&file))?.len();
        if size > MAX_FILE {
            return Err(Error::Failed(format!("{} is too large for a run", file.display())));
        }
        let text = fs::read_to_string(&file).map_err(cannot(&file))?;
        let run = parse(&text)
            .ok_or_else(|| Error::Failed(format!("{} is no run of smt bench", file.display())))?;
        runs.push(run);
    }
    runs.sort_by_key(|run| run.environment["unix_seconds"].as_u64());
    Ok(runs)
}

fn parse(text: &str) -> Option<Run> {
    let mut lines = text.lines().map(serde_json::from_str::<Value>);
    let mut first = lines.next()?.ok()?;
    let bench = first["bench"].as_str()?.to_owned();
    let environment = first["environment"].take();
    environment.as_object()?;
    let lines: Vec<Value> = lines.collect::<Result<_, _>>().ok()?;
    let records = lines.iter().filter_map(|line| Record::deserialize(line).ok()).collect();
    Some(Run { bench, environment, records, lines })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = std::env::temp_dir().join(format!("smt-saved-{}", std::process::id()));
        let environment = json!({ "unix_seconds": 7, "command": "smt bench rtt" });
        let row = json!({
            "bench": "rtt", "part": "rtt", "transport": "smt-raw", "link": "veth", "mtu": 1500,
            "size": 64, "value": 5.0,
        });
        let missing = json!({
            "bench": "rtt", "part": "rtt", "transport": "ktls", "link": "veth", "mtu": 1500,
            "not_available": "this kernel has no TLS",
        });
        let other = json!({ "bench": "scale", "sessions": 1 });
        let results = [row, missing, other];
        let file = write(&dir, "rtt", &environment, &results).unwrap();
        let second = write(&dir, "rtt", &environment, &results).unwrap();
        assert_ne!(file, second);
        let runs = read(&dir).unwrap();
        assert_eq!(runs.len(), 2);
        let run = &runs[0];
        assert_eq!((run.bench.as_str(), run.environment.clone()), ("rtt", environment));
        assert_eq!((run.records.len(), run.lines.len()), (2, 3));
        assert_eq!((run.records[0].size, run.records[0].value), (64, 5.0));
        assert_eq!(run.records[1].not_available.as_deref(), Some("this kernel has no TLS"));
        assert_eq!(read(&file).unwrap().len(), 1);
        fs::remove_dir_all(&dir).unwrap();
        assert!(read(&dir).is_err());
    }

    #[test]
    fn nonsense_is_no_run() {
        for text in
            ["", "{}", "7", "{\"bench\": \"rtt\"}", "{\"bench\":\"x\",\"environment\":{}}\n{"]
        {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
