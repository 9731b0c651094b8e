//! What all commands that make several runs do alike.

use std::error::Error;

use serde::Serialize;

use super::output::print;
use crate::rack::{memory, parallel};

/// Makes the runs of `jobs` on all cores, unless those of them that are made at once may need more
/// memory, by their `estimates` in bytes, than is allowed.
///
/// # Errors
/// More memory needed than allowed, or a run that cannot be made.
pub(super) fn run_all<J: Sync, R: Send, E: Error + Send + 'static>(
    jobs: &[J],
    estimates: &[u64],
    max_memory_gib: f64,
    run: impl Fn(&J) -> Result<R, E> + Sync,
) -> Result<Vec<R>, Box<dyn Error>> {
    let threads = parallel::threads();
    memory::check(estimates, threads, (max_memory_gib * f64::from(1 << 30)) as u64)?;
    let reports = parallel::map(jobs, threads, run).into_iter().map(|report| match report {
        Some(report) => report.map_err(Box::from),
        None => Err(Box::from("a run stopped half-way")),
    });
    reports.collect()
}

/// Prints one JSON object for each report.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print_json(reports: &[impl Serialize]) -> Result<(), Box<dyn Error>> {
    for report in reports {
        print(format_args!("{}\n", serde_json::to_string(report)?))?;
    }
    Ok(())
}
