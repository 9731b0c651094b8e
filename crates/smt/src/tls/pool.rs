//! Handshake steps beside the packets: a small bounded pool of worker threads.
//!
//! A handshake step is a signature or a certificate check, up to milliseconds of CPU; done on
//! the thread that moves packets it would stall every established session. Jobs go in with a tag,
//! results come out under the same tag in the order they were completed, and the waker tells the
//! engine that there is one.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Default of [`PoolConfig::threads`].
pub const DEFAULT_THREADS: usize = 1;
/// Default of [`PoolConfig::max_outstanding`]: some seconds of work for one thread.
pub const DEFAULT_MAX_OUTSTANDING: usize = 1024;

const THREAD_NAME: &str = "smt-tls";

/// Work for the pool.
pub type Job<R> = Box<dyn FnOnce() -> R + Send>;

/// Called, from any thread, each time a result can be taken: writes an eventfd, for instance.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// How a pool runs its jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Number of worker threads, started with the first job. 0 runs every job at once on the
    /// thread that submits it, for programs that want no threads.
    pub threads: usize,
    /// Most jobs that may be submitted without their result having been taken.
    pub max_outstanding: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { threads: DEFAULT_THREADS, max_outstanding: DEFAULT_MAX_OUTSTANDING }
    }
}

impl PoolConfig {
    /// Runs jobs on the thread that submits them.
    #[must_use]
    pub fn inline() -> Self {
        Self { threads: 0, ..Self::default() }
    }
}

/// Why a job was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// `max_outstanding` jobs wait, run, or have results that were not taken.
    #[error("{limit} handshake steps are waiting already (limit max_outstanding)")]
    Full {
        /// The limit.
        limit: usize,
    },
    /// The host gave no worker thread.
    #[error("no worker thread could be started: {0}")]
    NoThread(std::io::Error),
}

/// A job panicked: a bug, which ends that job alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a handshake step panicked: {message}")]
pub struct JobPanicked {
    /// The panic's message.
    pub message: String,
}

/// The result of a job.
#[derive(Debug, PartialEq, Eq)]
pub struct Completed<T, R> {
    /// The tag under which the job was submitted.
    pub tag: T,
    /// What the job returned.
    pub result: Result<R, JobPanicked>,
}

/// A pool for jobs that return `R`, each submitted under a tag `T`. Dropping it forgets the jobs
/// that wait, and waits for those that run.
pub struct Pool<T, R> {
    config: PoolConfig,
    idle_work: fn() -> bool,
    shared: Arc<Shared<T, R>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared<T, R> {
    queues: Mutex<Queues<T, R>>,
    work: Condvar,
    waker: Waker,
}

struct Queues<T, R> {
    waiting: VecDeque<(T, Job<R>)>,
    completed: VecDeque<Completed<T, R>>,
    outstanding: usize,
    closed: bool,
}

impl<T: Send + 'static, R: Send + 'static> Pool<T, R> {
    /// A pool without threads yet. `waker` is called after each job.
    #[must_use]
    pub fn new(config: PoolConfig, waker: Waker) -> Self {
        let queues = Queues {
            waiting: VecDeque::new(),
            completed: VecDeque::new(),
            outstanding: 0,
            closed: false,
        };
        let shared = Shared { queues: Mutex::new(queues), work: Condvar::new(), waker };
        let workers = Mutex::new(Vec::new());
        Self { config, idle_work: || false, shared: Arc::new(shared), workers }
    }

    /// Has workers that find no job run `work`, a short step each, until it says that there is
    /// nothing left to do; they ask again after their next job. A pool without threads never does.
    #[must_use]
    pub fn with_idle_work(mut self, work: fn() -> bool) -> Self {
        self.idle_work = work;
        self
    }

    /// Takes a job, to be run as soon as a worker is free.
    ///
    /// # Errors
    /// [`SubmitError`]; the job is dropped then.
    pub fn submit(&self, tag: T, job: Job<R>) -> Result<(), SubmitError> {
        let limit = self.config.max_outstanding;
        {
            let mut queues = self.shared.lock();
            if queues.outstanding >= limit {
                return Err(SubmitError::Full { limit });
            }
            queues.outstanding += 1;
        }
        if self.config.threads == 0 {
            self.shared.run(tag, job);
            return Ok(());
        }
        if let Err(error) = self.start_workers() {
            self.shared.lock().outstanding -= 1;
            return Err(SubmitError::NoThread(error));
        }
        self.shared.lock().waiting.push_back((tag, job));
        self.shared.work.notify_one();
        Ok(())
    }

    /// Takes the oldest result.
    pub fn take_completed(&self) -> Option<Completed<T, R>> {
        let mut queues = self.shared.lock();
        let completed = queues.completed.pop_front()?;
        queues.outstanding -= 1;
        Some(completed)
    }

    /// Jobs that wait or run, and results that were not taken.
    pub fn outstanding(&self) -> usize {
        self.shared.lock().outstanding
    }

    /// Starts the threads that are not there yet. One is enough to go on with.
    fn start_workers(&self) -> std::io::Result<()> {
        let mut workers = lock(&self.workers);
        // A waker that panicked has ended its worker.
        workers.retain(|worker| !worker.is_finished());
        while workers.len() < self.config.threads {
            let (shared, idle_work) = (Arc::clone(&self.shared), self.idle_work);
            let spawned = thread::Builder::new()
                .name(THREAD_NAME.to_owned())
                .spawn(move || shared.work(idle_work));
            match spawned {
                Ok(worker) => workers.push(worker),
                Err(_) if !workers.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<T, R> Drop for Pool<T, R> {
    fn drop(&mut self) {
        {
            let mut queues = self.shared.lock();
            queues.closed = true;
            queues.waiting.clear();
        }
        self.shared.work.notify_all();
        for worker in lock(&self.workers).drain(..) {
            // The waker may own the last reference to the pool, which then ends on its worker.
            if worker.thread().id() != thread::current().id() {
                let _ = worker.join();
            }
        }
    }
}

impl<T, R> fmt::Debug for Pool<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outstanding = self.shared.lock().outstanding;
        f.debug_struct("Pool")
            .field("config", &self.config)
            .field("outstanding", &outstanding)
            .finish_non_exhaustive()
    }
}

/// What a worker does next.
enum Next<T, R> {
    Job(T, Job<R>),
    Idle,
    End,
}

impl<T, R> Shared<T, R> {
    fn work(&self, idle_work: fn() -> bool) {
        let mut idle_work_left = true;
        loop {
            match self.next(!idle_work_left) {
                Next::Job(tag, job) => {
                    self.run(tag, job);
                    idle_work_left = true;
                }
                Next::Idle => idle_work_left = idle_work(),
                Next::End => return,
            }
        }
    }

    /// The next job. If there is none, waits for one, or not.
    fn next(&self, wait: bool) -> Next<T, R> {
        let mut queues = self.lock();
        loop {
            if queues.closed {
                return Next::End;
            }
            if let Some((tag, job)) = queues.waiting.pop_front() {
                return Next::Job(tag, job);
            }
            if !wait {
                return Next::Idle;
            }
            queues = self.work.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, tag: T, job: Job<R>) {
        // Unwind safe: a job that panicked takes all it owned with it.
        let result = catch_unwind(AssertUnwindSafe(job))
            .map_err(|payload| JobPanicked { message: panic_message(payload.as_ref()) });
        self.lock().completed.push_back(Completed { tag, result });
        (self.waker)();
    }

    fn lock(&self) -> MutexGuard<'_, Queues<T, R>> {
        lock(&self.queues)
    }
}

/// No job runs under a lock, so that what a poisoned one guards is still consistent.
fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    fn pool_with_channel(config: PoolConfig) -> (Pool<u32, u32>, mpsc::Receiver<()>) {
        let (sender, receiver) = mpsc::channel();
        let waker: Waker = Arc::new(move || sender.send(()).unwrap());
        (Pool::new(config, waker), receiver)
    }

    #[test]
    fn runs_jobs_on_a_named_thread_and_wakes() {
        let (pool, woken) = pool_with_channel(PoolConfig::default());
        pool.submit(
            7,
            Box::new(|| {
                assert_eq!(thread::current().name(), Some(THREAD_NAME));
                42
            }),
        )
        .unwrap();
        woken.recv().unwrap();
        assert_eq!(pool.take_completed(), Some(Completed { tag: 7, result: Ok(42) }));
        assert_eq!(pool.take_completed(), None);
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn workers_without_jobs_do_idle_work_until_there_is_none() {
        static STEPS: AtomicU32 = AtomicU32::new(0);
        let (sender, woken) = mpsc::channel();
        let waker: Waker = Arc::new(move || sender.send(()).unwrap());
        let pool: Pool<u32, u32> = Pool::new(PoolConfig::default(), waker)
            .with_idle_work(|| STEPS.fetch_add(1, Ordering::SeqCst) < 9);
        for tag in 0..2 {
            pool.submit(tag, Box::new(|| 0)).unwrap();
            woken.recv().unwrap();
            while STEPS.load(Ordering::SeqCst) < 10 {
                thread::yield_now();
            }
        }
        drop(pool);
        assert!(STEPS.load(Ordering::SeqCst) <= 13, "once per round after the work is done");
    }

    #[test]
    fn inline_runs_on_the_caller() {
        let (pool, woken) = pool_with_channel(PoolConfig::inline());
        let caller = thread::current().id();
        pool.submit(1, Box::new(move || u32::from(thread::current().id() == caller))).unwrap();
        woken.try_recv().unwrap();
        assert_eq!(pool.take_completed(), Some(Completed { tag: 1, result: Ok(1) }));
    }

    #[test]
    fn a_full_pool_refuses_until_results_are_taken() {
        let (pool, woken) = pool_with_channel(PoolConfig { threads: 1, max_outstanding: 2 });
        let (release, blocked) = mpsc::channel::<()>();
        pool.submit(0, Box::new(move || u32::from(blocked.recv().is_ok()))).unwrap();
        pool.submit(1, Box::new(|| 1)).unwrap();
        assert!(matches!(pool.submit(2, Box::new(|| 2)), Err(SubmitError::Full { limit: 2 })));
        release.send(()).unwrap();
        woken.recv().unwrap();
        woken.recv().unwrap();
        assert!(matches!(pool.submit(2, Box::new(|| 2)), Err(SubmitError::Full { limit: 2 })));
        assert_eq!(pool.take_completed(), Some(Completed { tag: 0, result: Ok(1) }));
        pool.submit(3, Box::new(|| 3)).unwrap();
        woken.recv().unwrap();
        assert_eq!(pool.take_completed(), Some(Completed { tag: 1, result: Ok(1) }));
        assert_eq!(pool.take_completed(), Some(Completed { tag: 3, result: Ok(3) }));
    }

    #[test]
    fn a_panicking_job_is_reported_and_the_worker_goes_on() {
        for config in [PoolConfig::default(), PoolConfig::inline()] {
            let (pool, woken) = pool_with_channel(config);
            pool.submit(1, Box::new(|| panic!("job {} is broken", 1))).unwrap();
            woken.recv().unwrap();
            let panicked = JobPanicked { message: "job 1 is broken".to_owned() };
            assert_eq!(pool.take_completed(), Some(Completed { tag: 1, result: Err(panicked) }));
            pool.submit(2, Box::new(|| 2)).unwrap();
            woken.recv().unwrap();
            assert_eq!(pool.take_completed(), Some(Completed { tag: 2, result: Ok(2) }));
        }
    }

    #[test]
    fn dropping_forgets_waiting_jobs() {
        let (pool, _woken) = pool_with_channel(PoolConfig::default());
        let (release, blocked) = mpsc::channel::<()>();
        let (started, running) = mpsc::channel::<()>();
        let ran = Arc::new(Mutex::new(false));
        let second = Arc::clone(&ran);
        pool.submit(
            0,
            Box::new(move || {
                started.send(()).unwrap();
                // Ends when the sender is dropped, which the test does after closing the pool.
                u32::from(blocked.recv().is_ok())
            }),
        )
        .unwrap();
        pool.submit(
            1,
            Box::new(move || {
                *second.lock().unwrap() = true;
                0
            }),
        )
        .unwrap();
        running.recv().unwrap();
        pool.shared.lock().closed = true;
        drop(release);
        drop(pool);
        assert!(!*ran.lock().unwrap());
    }
}
