//! Descriptors to wait on: what an engine itself sleeps on, and one for those who watch it from outside.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::tls::pool::Waker;

/// An eventfd for other threads, and one descriptor for everything once somebody watches from outside.
pub(super) struct Waiter {
    wake: Arc<OwnedFd>,
    /// Whether another thread has written to `wake`.
    woken: Arc<AtomicBool>,
    outside: Option<Outside>,
}

/// The datapath's descriptor, the eventfd and a timer behind one epoll descriptor.
struct Outside {
    epoll: OwnedFd,
    timer: OwnedFd,
    armed: Option<Instant>,
}

impl Waiter {
    pub(super) fn new() -> io::Result<Waiter> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waiter { wake: Arc::new(wake), woken: Arc::default(), outside: None })
    }

    /// Wakes the engine from any thread.
    pub(super) fn waker(&self) -> Waker {
        let wake = Arc::clone(&self.wake);
        let woken = Arc::clone(&self.woken);
        Arc::new(move || {
            // A full counter means that the engine is being woken already.
            let _ = rustix::io::write(&*wake, &1u64.to_ne_bytes());
            // In this order: an engine that saw the flag before the counter would find nothing to
            // read, and the descriptor would then stay readable for good.
            woken.store(true, Ordering::Release);
        })
    }

    /// Sleeps until `datapath` is readable, another thread wakes it, or `timeout` has passed.
    pub(super) fn wait(&self, datapath: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
        // Without epoll: a second queue to go through would be paid for with each packet.
        let of = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        match poll(&mut [of(datapath), of(self.wake.as_fd())], Some(&timespec(timeout))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes note of wake-ups by other threads and the timer, so that they do not wake it again.
    pub(super) fn acknowledge(&mut self) {
        let mut count = [0; 8];
        if self.woken.load(Ordering::Relaxed) && self.woken.swap(false, Ordering::Acquire) {
            // Errors can only be that there is nothing to read.
            let _ = rustix::io::read(&*self.wake, &mut count);
        }
        if let Some(outside) = &mut self.outside
            && outside.armed.is_some_and(|armed| armed <= Instant::now())
        {
            let _ = rustix::io::read(&outside.timer, &mut count);
            outside.armed = None;
        }
    }

    /// Whether anybody watches from outside.
    pub(super) fn is_watched(&self) -> bool {
        self.outside.is_some()
    }

    /// From now on somebody watches from outside.
    pub(super) fn watch(&mut self, datapath: BorrowedFd<'_>) -> io::Result<()> {
        if self.outside.is_none() {
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            for fd in [datapath, self.wake.as_fd(), timer.as_fd()] {
                epoll::add(&epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
            }
            self.outside = Some(Outside { epoll, timer, armed: None });
        }
        Ok(())
    }

    /// What is watched from outside, if anybody does.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.outside.as_ref().map(|outside| outside.epoll.as_fd())
    }

    /// Sets the timer for those outside, unless it is due early enough already: an early wake-up is
    /// cheaper than a system call each time a deadline moves.
    pub(super) fn set_timer(&mut self, due: Option<Instant>) -> io::Result<()> {
        let (Some(outside), Some(due)) = (&mut self.outside, due) else { return Ok(()) };
        let now = Instant::now();
        if outside.armed.is_some_and(|armed| now < armed && armed <= due) {
            return Ok(());
        }
        // Zero would disarm it.
        let delay = due.saturating_duration_since(now).max(Duration::from_nanos(1));
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(delay) };
        timerfd_settime(&outside.timer, TimerfdTimerFlags::empty(), &once)?;
        outside.armed = Some(now + delay);
        Ok(())
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
