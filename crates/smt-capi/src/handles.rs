//! Handles: numbers in the guise of pointers.
//!
//! A handle that was freed, or never was one, is found out by looking it up; nothing is ever read
//! where it points to. No real address looks like a handle: bits 63 to 48 of those are all alike.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};

use crate::status::{Failure, Status};

/// The upper bits of all handles.
const MARK: usize = 0x5e41 << 48;

/// The number of the next handle of any kind.
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// All handles of one kind.
pub(crate) struct Handles<T> {
    live: RwLock<BTreeMap<usize, Arc<Mutex<T>>>>,
    what: &'static str,
}

impl<T> Handles<T> {
    pub(crate) const fn new(what: &'static str) -> Self {
        Handles { live: RwLock::new(BTreeMap::new()), what }
    }

    /// Gives `value` a handle.
    pub(crate) fn add(&self, value: T) -> usize {
        let handle = MARK | NEXT.fetch_add(1, Ordering::Relaxed);
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.insert(handle, Arc::new(Mutex::new(value)));
        handle
    }

    fn find(&self, handle: usize) -> Result<Arc<Mutex<T>>, Failure> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.get(&handle).cloned().ok_or_else(|| self.unknown())
    }

    /// Does `work` with what has the handle, unless another thread does.
    ///
    /// # Errors
    /// `SMT_ERR_HANDLE`, `SMT_ERR_BUSY`, `SMT_ERR_BUG`, and those of `work`.
    pub(crate) fn with<R>(
        &self,
        handle: usize,
        work: impl FnOnce(&mut T) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let found = self.find(handle)?;
        let mut value = self.lock(&found)?;
        work(&mut value)
    }

    fn lock<'a>(&self, found: &'a Mutex<T>) -> Result<MutexGuard<'a, T>, Failure> {
        let what = self.what;
        found.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                Failure::new(Status::Busy, format!("another thread is using the {what}"))
            }
            TryLockError::Poisoned(_) => {
                let text = format!("the {what} failed before by a mistake of the library");
                Failure::new(Status::Bug, text)
            }
        })
    }

    /// Takes the handle back and drops what it stood for.
    ///
    /// # Errors
    /// `SMT_ERR_HANDLE`, `SMT_ERR_BUSY`.
    pub(crate) fn free(&self, handle: usize) -> Result<(), Failure> {
        let found = self.find(handle)?;
        match self.lock(&found) {
            Err(busy) if busy.status == Status::Busy => return Err(busy),
            // What has failed may be freed all the same.
            _ => {}
        }
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let removed = live.remove(&handle);
        drop(live);
        removed.map(drop).ok_or_else(|| self.unknown())
    }

    fn unknown(&self) -> Failure {
        let text = format!("no such {}, or it was freed", self.what);
        Failure::new(Status::Handle, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static NUMBERS: Handles<u32> = Handles::new("number");

    fn status<R>(result: Result<R, Failure>) -> Option<Status> {
        result.err().map(|failure| failure.status)
    }

    #[test]
    fn only_live_handles_work() {
        let handle = NUMBERS.add(7);
        assert_eq!(NUMBERS.with(handle, |number| Ok(*number)).unwrap(), 7);
        for other in [0, 1, handle + 1_000_000, usize::MAX] {
            assert_eq!(status(NUMBERS.with(other, |_| Ok(()))), Some(Status::Handle));
            assert_eq!(status(NUMBERS.free(other)), Some(Status::Handle));
        }
        NUMBERS.free(handle).unwrap();
        assert_eq!(status(NUMBERS.with(handle, |_| Ok(()))), Some(Status::Handle));
        assert_eq!(status(NUMBERS.free(handle)), Some(Status::Handle));
    }

    #[test]
    fn a_second_user_is_told_to_wait() {
        let handle = NUMBERS.add(7);
        let second = |_: &mut u32| {
            assert_eq!(status(NUMBERS.with(handle, |_| Ok(()))), Some(Status::Busy));
            assert_eq!(status(NUMBERS.free(handle)), Some(Status::Busy));
            Ok(())
        };
        NUMBERS.with(handle, second).unwrap();
        NUMBERS.free(handle).unwrap();
    }

    #[test]
    fn what_failed_can_only_be_freed() {
        let handle = NUMBERS.add(7);
        let broken = std::thread::spawn(move || {
            let _ = NUMBERS.with(handle, |_| -> Result<(), Failure> { panic!("on purpose") });
        });
        assert!(broken.join().is_err());
        assert_eq!(status(NUMBERS.with(handle, |_| Ok(()))), Some(Status::Bug));
        NUMBERS.free(handle).unwrap();
    }
}
