//! Independent runs on several threads, with results in the order of the runs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Runs `run` for each of `jobs`, on at most `threads` threads, and gives the results in the order
/// of the jobs. A job that panicked has no result.
pub fn map<J: Sync, R: Send>(
    jobs: &[J],
    threads: usize,
    run: impl Fn(&J) -> R + Sync,
) -> Vec<Option<R>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<R>>> = Mutex::new(jobs.iter().map(|_| None).collect());
    let work = || {
        while let Some((index, job)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            jobs.get(index).map(|job| (index, job))
        } {
            let result = run(job);
            if let Ok(mut results) = results.lock()
                && let Some(slot) = results.get_mut(index)
            {
                *slot = Some(result);
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads.clamp(1, jobs.len().max(1))).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            // A panic of a worker shows as a missing result.
            let _ = worker.join();
        }
    });
    results.into_inner().unwrap_or_default()
}

/// Threads to use: one for each core.
pub fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let jobs: Vec<u64> = (0..100).collect();
        let results = map(&jobs, 4, |n| n * 2);
        let doubled: Vec<u64> = results.into_iter().flatten().collect();
        assert_eq!(doubled, jobs.iter().map(|n| n * 2).collect::<Vec<_>>());
    }
}
