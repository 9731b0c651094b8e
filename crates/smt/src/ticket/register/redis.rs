//! A register in Redis, for servers that share the keys of their tickets.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Client, Cmd, Connection, Value};

use super::{Claim, Strike, StrikeRegister};
use crate::ticket::error::RegisterError;

/// How long Redis may take to answer before an offer is refused.
pub const REDIS_TIMEOUT: Duration = Duration::from_millis(50);
/// Most connections kept open for the next claims; more are opened and closed as needed.
pub const MAX_IDLE_CONNECTIONS: usize = 8;

/// How long Redis is left alone after it did not answer, so that handshakes do not wait for it.
const BACK_OFF: Duration = Duration::from_millis(200);
/// What offers are known by in Redis: this and 32 hexadecimal digits.
const PREFIX: &str = "smt:strike:";
/// How many windows an offer is held for: two in which a server may accept it, and two by which
/// the clocks of servers may differ.
const WINDOWS_HELD: u64 = 4;

/// Why a register in Redis cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedisError {
    /// The address cannot be understood.
    #[error("`{url}` is not the address of a Redis: {detail}")]
    BadUrl {
        /// As given.
        url: String,
        /// What is wrong.
        detail: String,
    },
}

/// A register in Redis. It refuses every offer while Redis does not answer within
/// [`REDIS_TIMEOUT`], and after a restart of Redis every offer that may be older than it. Redis
/// must not evict keys (`maxmemory-policy noeviction`, its default, which is checked), and must
/// not be switched for a replica, which may lack the latest claims.
pub struct RedisRegister {
    client: Client,
    timeout: Duration,
    state: Mutex<State>,
}

struct State {
    idle: Vec<Link>,
    /// Redis's own name of the run that links were made to last.
    run: Option<Run>,
    /// Until when Redis is left alone.
    down_until: Option<Instant>,
}

/// One life of the Redis process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    id: String,
    /// When it began at the latest, by this server's clock, in milliseconds since 1970.
    started_ms: u64,
}

struct Link {
    connection: Connection,
    run: Run,
}

impl RedisRegister {
    /// A register in the Redis at `url`: `redis://HOST:PORT/DATABASE` or `redis+unix:///PATH`.
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// [`RedisError::BadUrl`].
    pub fn new(url: &str) -> Result<Self, RedisError> {
        let client = Client::open(url)
            .map_err(|e| RedisError::BadUrl { url: url.to_owned(), detail: e.to_string() })?;
        let state = State { idle: Vec::new(), run: None, down_until: None };
        Ok(Self { client, timeout: REDIS_TIMEOUT, state: Mutex::new(state) })
    }

    /// How long Redis may take to answer. Default: [`REDIS_TIMEOUT`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn claim_at(&self, link: &mut Link, strike: &Strike) -> Result<Claim, RegisterError> {
        // Its clock may be any: only that it began before this is known.
        if strike.time_ms <= link.run.started_ms.saturating_add(strike.window_ms) {
            return Err(RegisterError::Restarted);
        }
        let key = format!("{PREFIX}{:032x}", u128::from_be_bytes(strike.key));
        let held_ms = strike.window_ms.saturating_mul(WINDOWS_HELD).max(1);
        let mut set = Cmd::new();
        set.arg("SET").arg(key).arg(1).arg("NX").arg("PX").arg(held_ms);
        match set.query(&mut link.connection) {
            Ok(Value::Okay) => Ok(Claim::Fresh),
            Ok(Value::Nil) => Ok(Claim::Seen),
            Ok(_) => Err(unavailable("it answered what it should not")),
            Err(e) if e.code() == Some("OOM") => Err(RegisterError::Full),
            Err(e) => Err(unavailable(e)),
        }
    }

    fn link(&self, now_ms: u64, deadline: Instant) -> Result<Link, RegisterError> {
        let mut state = self.state();
        if state.down_until.is_some_and(|until| Instant::now() < until) {
            return Err(unavailable("it did not answer a moment ago"));
        }
        if let Some(link) = state.idle.pop() {
            return Ok(link);
        }
        drop(state);
        let (connection, found) = self.connect(now_ms, deadline)?;
        let mut state = self.state();
        let run = match &state.run {
            Some(known) if known.id == found.id => known.clone(),
            // Another run than before, whatever it says of its age: claims made in the last one
            // may be lost.
            Some(_) => Run { started_ms: now_ms, ..found },
            None => found,
        };
        state.run = Some(run.clone());
        Ok(Link { connection, run })
    }

    /// Connects, and asks Redis since when it runs.
    fn connect(&self, now_ms: u64, deadline: Instant) -> Result<(Connection, Run), RegisterError> {
        let mut connection =
            self.client.get_connection_with_timeout(self.timeout).map_err(unavailable)?;
        set_timeouts(&connection, deadline)?;
        let mut info = Cmd::new();
        info.arg("INFO");
        let info: String = info.query(&mut connection).map_err(unavailable)?;
        let field = |name| field(&info, name).ok_or_else(|| unavailable(format!("no {name}")));
        let evicts = field("maxmemory_policy")? != "noeviction";
        if evicts && field("maxmemory")? != "0" {
            return Err(unavailable("it evicts keys: set maxmemory-policy noeviction"));
        }
        let uptime: u64 = field("uptime_in_seconds")?.parse().map_err(unavailable)?;
        // Whole seconds: it may have begun up to one later.
        let started_ms = now_ms.saturating_sub(uptime.saturating_mul(1000)).saturating_add(1000);
        Ok((connection, Run { id: field("run_id")?.to_owned(), started_ms }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StrikeRegister for RedisRegister {
    fn claim(&self, strike: &Strike) -> Result<Claim, RegisterError> {
        let deadline = Instant::now() + self.timeout;
        let mut claimed = self.link(strike.now_ms, deadline).and_then(|mut link| {
            set_timeouts(&link.connection, deadline)?;
            let claimed = self.claim_at(&mut link, strike);
            // After a failure answers and questions may be out of step.
            if !matches!(claimed, Err(RegisterError::Unavailable { .. })) {
                let mut state = self.state();
                if state.idle.len() < MAX_IDLE_CONNECTIONS && state.run.as_ref() == Some(&link.run)
                {
                    state.idle.push(link);
                }
            }
            claimed
        });
        if claimed.is_ok() && Instant::now() > deadline {
            claimed = Err(unavailable("it took too long"));
        }
        if matches!(claimed, Err(RegisterError::Unavailable { .. })) {
            let mut state = self.state();
            // The others lead to the same Redis.
            state.idle.clear();
            let until = state.down_until.filter(|until| Instant::now() < *until);
            state.down_until = until.or_else(|| Some(Instant::now() + BACK_OFF));
        }
        claimed
    }
}

impl fmt::Debug for RedisRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRegister")
            .field("timeout", &self.timeout)
            .field("run", &self.state().run)
            .finish_non_exhaustive()
    }
}

fn set_timeouts(connection: &Connection, deadline: Instant) -> Result<(), RegisterError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(unavailable("it took too long"));
    }
    connection.set_read_timeout(Some(left)).map_err(unavailable)?;
    connection.set_write_timeout(Some(left)).map_err(unavailable)
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn unavailable(detail: impl fmt::Display) -> RegisterError {
    RegisterError::Unavailable { detail: detail.to_string() }
}
