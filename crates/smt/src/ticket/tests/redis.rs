//! The register in a real Redis.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const WINDOW_MS: u64 = 1_000;

/// A Redis of this test's own, reached by a socket in a directory that is removed with it.
struct Redis {
    process: Option<Child>,
    directory: PathBuf,
    options: Vec<&'static str>,
}

impl Redis {
    fn start(options: &[&'static str]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory =
            std::env::temp_dir().join(format!("smt-redis-{}-{count}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mut redis = Self { process: None, directory, options: options.to_vec() };
        redis.run();
        redis
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("socket")
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Starts the process, and waits until it accepts connections.
    fn run(&mut self) {
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(self.socket())
            .arg("--dir")
            .arg(&self.directory)
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is needed: install the Debian package `redis-server`");
        self.process = Some(process);
        while UnixStream::connect(self.socket()).is_err() {
            let exited = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(exited.is_none(), "redis-server ended: {exited:?}");
            std::thread::sleep(millis(5));
        }
    }

    fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        let _ = fs::remove_file(self.socket());
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = self.process.as_ref().unwrap().id();
        let id = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// A register that waits for long, so that a busy machine does not fail a test.
    fn register(&self) -> RedisRegister {
        RedisRegister::new(&self.url()).unwrap().timeout(seconds(30))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A time so far after the start of any Redis here that nothing made at it can be older.
fn later_ms() -> u64 {
    unix_ms(SystemTime::now()) + 3_600_000
}

fn strike(key: u8, time_ms: u64) -> Strike {
    Strike {
        key: [key; STRIKE_LEN],
        time_ms,
        now_ms: unix_ms(SystemTime::now()),
        window_ms: WINDOW_MS,
    }
}

fn is_unavailable(claimed: &Result<Claim, RegisterError>) -> bool {
    matches!(claimed, Err(RegisterError::Unavailable { .. }))
}

/// Claims until the register has left Redis alone for long enough.
fn claim_when_back(
    register: &RedisRegister,
    strike: impl Fn() -> Strike,
) -> Result<Claim, RegisterError> {
    loop {
        let claimed = register.claim(&strike());
        if !is_unavailable(&claimed) {
            return claimed;
        }
        std::thread::sleep(millis(10));
    }
}

#[test]
fn registers_that_share_a_redis_refuse_each_others_claims() {
    let redis = Redis::start(&[]);
    let (one, two) = (redis.register(), redis.register());
    let time = later_ms();
    assert_eq!(one.claim(&strike(1, time)), Ok(Claim::Fresh));
    assert_eq!(two.claim(&strike(1, time)), Ok(Claim::Seen));
    assert_eq!(two.claim(&strike(2, time)), Ok(Claim::Fresh));
    assert_eq!(one.claim(&strike(2, time)), Ok(Claim::Seen));
}

#[test]
fn servers_that_share_a_redis_refuse_each_others_replays() {
    let redis = Redis::start(&[]);
    let (_, early, ticket) = pair(Kem::X25519);
    // Both take the ticket's key, as two endpoints of one configuration do.
    let one = early.clone().with_register(Arc::new(redis.register()));
    let two = early.with_register(Arc::new(redis.register()));
    let accept = |server: &EarlyData, offer: &[u8], time| {
        server.accept(offer, false, time, context(b"flight")).map(drop)
    };
    let offer_at = |time| ticket.encapsulate().unwrap().offer(time, false);
    // Both learn now that Redis has just begun, and take nothing that may be older.
    for server in [&one, &two] {
        assert_eq!(accept(server, &offer_at(now()), now()), Err(EarlyRefusal::Restarted));
    }
    let later = now() + seconds(60);
    let offer = offer_at(later);
    assert_eq!(accept(&one, &offer, later), Ok(()));
    assert_eq!(accept(&two, &offer, later), Err(EarlyRefusal::Replayed));
    assert_eq!(accept(&one, &offer, later), Err(EarlyRefusal::Replayed));
}

#[test]
fn one_of_many_threads_wins() {
    let redis = Redis::start(&[]);
    let (one, two) = (redis.register(), redis.register());
    let time = later_ms();
    for key in 0..20 {
        let fresh: usize = std::thread::scope(|scope| {
            let claims: Vec<_> = [&one, &two, &one, &two]
                .into_iter()
                .map(|register| {
                    scope.spawn(move || register.claim(&strike(key, time)) == Ok(Claim::Fresh))
                })
                .collect();
            claims.into_iter().map(|claim| usize::from(claim.join().unwrap())).sum()
        });
        assert_eq!(fresh, 1);
    }
}

#[test]
fn claims_are_held_for_four_windows() {
    let redis = Redis::start(&[]);
    let register = redis.register();
    assert_eq!(register.claim(&strike(7, later_ms())), Ok(Claim::Fresh));
    let client = ::redis::Client::open(redis.url()).unwrap();
    let key = format!("smt:strike:{}", "07".repeat(16));
    let mut ask = ::redis::Cmd::new();
    ask.arg("PTTL").arg(key);
    let left: u64 = ask.query(&mut client.get_connection().unwrap()).unwrap();
    assert!(left > WINDOW_MS && left <= 4 * WINDOW_MS, "{left}");
}

#[test]
fn without_redis_everything_is_refused() {
    let mut redis = Redis::start(&[]);
    let register = redis.register();
    assert_eq!(register.claim(&strike(1, later_ms())), Ok(Claim::Fresh));
    redis.stop();
    for _ in 0..3 {
        assert!(is_unavailable(&register.claim(&strike(2, later_ms()))));
    }
    let never = RedisRegister::new("redis+unix:///nonexistent/smt").unwrap();
    assert!(is_unavailable(&never.claim(&strike(2, later_ms()))));
    assert!(matches!(RedisRegister::new("http://x"), Err(RedisError::BadUrl { .. })));
}

#[test]
fn after_a_restart_what_may_be_older_is_refused() {
    let mut redis = Redis::start(&[]);
    let register = redis.register();
    let time = later_ms();
    assert_eq!(register.claim(&strike(1, time)), Ok(Claim::Fresh));
    redis.stop();
    redis.run();
    // Made when the new Redis was not there yet, by the clock of the server.
    let old = || strike(2, unix_ms(SystemTime::now()) - 1);
    assert_eq!(claim_when_back(&register, old), Err(RegisterError::Restarted));
    // A register that never saw the old Redis goes by its age.
    assert_eq!(redis.register().claim(&old()), Err(RegisterError::Restarted));
    let fresh = || strike(3, later_ms());
    assert_eq!(claim_when_back(&register, fresh), Ok(Claim::Fresh));
}

#[test]
fn a_redis_that_hangs_is_not_waited_for() {
    let redis = Redis::start(&[]);
    let register = RedisRegister::new(&redis.url()).unwrap().timeout(millis(20));
    let time = later_ms();
    assert_eq!(claim_when_back(&register, || strike(1, time)), Ok(Claim::Fresh));
    redis.signal(rustix::process::Signal::STOP);
    assert!(is_unavailable(&register.claim(&strike(2, time))));
    assert!(is_unavailable(&register.claim(&strike(2, time))));
    redis.signal(rustix::process::Signal::CONT);
    // The claim that went unanswered may have been taken down; it stays refused or is fresh, and
    // is never fresh twice.
    let first = claim_when_back(&register, || strike(3, time));
    assert!(matches!(first, Ok(Claim::Fresh | Claim::Seen)), "{first:?}");
    assert_eq!(claim_when_back(&register, || strike(3, time)), Ok(Claim::Seen));
}

#[test]
fn a_redis_that_evicts_keys_is_not_trusted_and_a_full_one_refuses() {
    let evicting = Redis::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    assert!(is_unavailable(&evicting.register().claim(&strike(1, later_ms()))));
    let full = Redis::start(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    assert_eq!(full.register().claim(&strike(1, later_ms())), Err(RegisterError::Full));
}
