//! Processor cores: how many there are for us, and staying on one.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores this process may run on, by number, in ascending order.
///
/// # Errors
///
/// The kernel does not tell, as in some sandboxes.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
}

/// Keeps the calling thread, and threads and processes it starts from now on, on one core.
///
/// # Errors
///
/// `core` is not one of [`allowed`].
pub fn pin_to(core: usize) -> io::Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_on_its_core() {
        let all = allowed().unwrap();
        let last = *all.last().unwrap();
        std::thread::spawn(move || {
            pin_to(last).unwrap();
            assert_eq!(allowed().unwrap(), [last]);
        })
        .join()
        .unwrap();
        assert_eq!(allowed().unwrap(), all);
    }

    #[test]
    fn a_core_that_is_not_there_is_refused() {
        assert!(pin_to(CpuSet::MAX_CPU - 1).is_err());
        assert!(pin_to(usize::MAX).is_err());
    }
}
