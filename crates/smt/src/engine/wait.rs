//! Descriptors: one to watch for everything an engine may wake up for.

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

/// The datapath's descriptor, an eventfd for other threads and, once somebody watches from
/// outside, a timer, behind one epoll descriptor.
pub(super) struct Waiter {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    /// Whether another thread has written to `wake`.
    woken: Arc<AtomicBool>,
    timer: Option<OwnedFd>,
    armed: Option<Instant>,
}

impl Waiter {
    pub(super) fn new(datapath: BorrowedFd<'_>) -> io::Result<Waiter> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        for fd in [datapath, wake.as_fd()] {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        let woken = Arc::default();
        Ok(Waiter { epoll, wake: Arc::new(wake), woken, timer: None, armed: None })
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

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(super) fn uses_timer(&self) -> bool {
        self.timer.is_some()
    }

    /// From now on the descriptor tells of timers too.
    pub(super) fn use_timer(&mut self) -> io::Result<()> {
        if self.timer.is_none() {
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            let data = epoll::EventData::new_u64(0);
            epoll::add(&self.epoll, &timer, data, epoll::EventFlags::IN)?;
            self.timer = Some(timer);
        }
        Ok(())
    }

    /// Sets the timer, unless it is due early enough already: an early wake-up is cheaper than a
    /// system call each time a deadline moves.
    pub(super) fn set_timer(&mut self, due: Option<Instant>) -> io::Result<()> {
        let Some(timer) = &self.timer else { return Ok(()) };
        let now = Instant::now();
        let stands = |armed: Instant, due: Instant| now < armed && armed <= due;
        let Some(due) = due else { return Ok(()) };
        if self.armed.is_some_and(|armed| stands(armed, due)) {
            return Ok(());
        }
        // Zero would disarm it.
        let delay = due.saturating_duration_since(now).max(Duration::from_nanos(1));
        let value = timespec(delay);
        let interval = timespec(Duration::ZERO);
        timerfd_settime(
            timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: interval, it_value: value },
        )?;
        self.armed = Some(now + delay);
        Ok(())
    }

    /// Sleeps until something is readable or `timeout` has passed.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<()> {
        // epoll_wait itself knows whole milliseconds only.
        let mut epoll = [PollFd::new(&self.epoll, PollFlags::IN)];
        match poll(&mut epoll, Some(&timespec(timeout))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes note of wake-ups by other threads and the timer, so that they do not wake it again.
    pub(super) fn acknowledge(&mut self) {
        let mut count = [0; 8];
        if self.woken.load(Ordering::Relaxed) && self.woken.swap(false, Ordering::Acquire) {
            // Errors can only be that there is nothing to read.
            let _ = rustix::io::read(&*self.wake, &mut count);
        }
        if let (Some(timer), Some(armed)) = (&self.timer, self.armed)
            && armed <= Instant::now()
        {
            let _ = rustix::io::read(timer, &mut count);
            self.armed = None;
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
