//! Processor time of each end: of the threads of this process that stay on its core.

use std::{fs, io};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};

/// Processor time that the threads staying on `core`, and on no other, have taken so far, in user space and in the
/// kernel, in nanoseconds. A thread that runs at the moment may be told of late, by a few milliseconds.
///
/// # Errors
/// The kernel does not tell.
pub fn of_threads_on(core: usize) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
        // A thread that has ended meanwhile takes no more.
        if let Ok(cores) = sched_getaffinity(id)
            && stays_on(&cores, core)
            && let Ok(text) = fs::read_to_string(entry.path().join("schedstat"))
        {
            total += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(total)
}

fn stays_on(cores: &CpuSet, core: usize) -> bool {
    cores.count() == 1 && core < CpuSet::MAX_CPU && cores.is_set(core)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cores;

    #[test]
    fn what_a_thread_takes_is_counted_on_its_core() {
        let core = *cores::allowed().unwrap().last().unwrap();
        let before = of_threads_on(core).unwrap();
        std::thread::spawn(move || {
            cores::pin_to(core).unwrap();
            let start = Instant::now();
            let mut turns = 0_u64;
            while start.elapsed() < Duration::from_millis(20) {
                turns = std::hint::black_box(turns + 1);
            }
            // Only what has been switched away from is sure to be counted.
            std::thread::sleep(Duration::from_millis(1));
            assert!(of_threads_on(core).unwrap() > before);
        })
        .join()
        .unwrap();
        assert_eq!(of_threads_on(usize::MAX).unwrap(), 0);
    }
}
