//! Making, watching and freeing engines.

use std::ffi::c_void;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use smt::datapath::MAX_SHARDS;
use smt::{Body, Builder, DatapathKind, Engine, SessionId, Stats};

use crate::abi::{CLIENT, PACKET, RAW, SERVER, UDP, XDP, smt_counters, smt_engine, smt_options};
use crate::border::{self, Out};
use crate::handles::Handles;
use crate::status::Failure;

/// Longest deadline; it keeps sums of times far from their ends.
const MAX_DEADLINE: Duration = Duration::from_secs(366 * 24 * 3600);

/// What an engine's handle stands for.
pub(crate) struct State {
    pub(crate) engine: Engine,
    /// What the last event points to.
    pub(crate) lent: Lent,
    /// Whether the engine's descriptor was given out.
    watched: bool,
}

/// Memory that the last event points to.
pub(crate) enum Lent {
    Nothing,
    Message(Body),
    Text(String),
}

impl Lent {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Lent::Nothing => &[],
            Lent::Message(body) => body,
            Lent::Text(text) => text.as_bytes(),
        }
    }
}

impl State {
    /// Sends what waits, and sets the timer that the descriptor's watcher relies upon.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.engine.flush()?;
        if self.watched {
            self.engine.fd()?;
        }
        Ok(())
    }
}

static ENGINES: Handles<State> = Handles::new("engine");

/// Does `work` with an engine, inside the border.
pub(crate) fn with_engine(
    engine: *mut smt_engine,
    work: impl FnOnce(&mut State) -> Result<(), Failure>,
) -> i32 {
    border::run(|| ENGINES.with(engine.addr(), work))
}

/// A deadline of C's; none if it is 0.
pub(crate) fn deadline(micros: u64) -> Option<Duration> {
    (micros > 0).then(|| Duration::from_micros(micros).min(MAX_DEADLINE))
}

/// A session's name in C; 0 names none.
pub(crate) fn session_number(session: SessionId) -> u64 {
    session.to_bits().wrapping_add(1)
}

/// The session that C names, if the number can be one.
pub(crate) fn session_id(number: u64) -> Option<SessionId> {
    number.checked_sub(1).map(SessionId::from_bits)
}

fn builder(options: &smt_options, bind: IpAddr) -> Result<Builder, Failure> {
    let &smt_options { roles, port, datapath, protocol, call_deadline_us, .. } = options;
    let mut builder = Builder::new().bind(bind);
    if roles == 0 || roles & !(CLIENT | SERVER) != 0 {
        let text = format!("options->roles is {roles}, not SMT_CLIENT, SMT_SERVER or both");
        return Err(Failure::invalid(text));
    }
    if roles & CLIENT != 0 {
        builder = builder.external_client();
    }
    if roles & SERVER != 0 {
        builder = builder.external_server(port);
    } else if port != 0 {
        return Err(Failure::invalid("options->port is for SMT_SERVER"));
    }
    builder = match datapath {
        RAW => builder.datapath(DatapathKind::Raw),
        UDP => builder.datapath(DatapathKind::Udp),
        PACKET => builder.datapath(DatapathKind::Packet),
        XDP => builder.datapath(DatapathKind::Xdp),
        other => {
            let text = format!(
                "options->datapath is {other}, not SMT_RAW, SMT_UDP, SMT_PACKET or SMT_XDP"
            );
            return Err(Failure::invalid(text));
        }
    };
    if protocol != 0 {
        builder = builder.protocol(protocol);
    }
    if let Some(deadline) = deadline(call_deadline_us) {
        builder = builder.call_deadline(deadline);
    }
    Ok(builder)
}

/// Gives an engine a handle.
fn register(engine: Engine) -> *mut smt_engine {
    let state = State { engine, lent: Lent::Nothing, watched: false };
    std::ptr::without_provenance_mut(ENGINES.add(state))
}

/// Makes an engine.
///
/// # Safety
/// `options` and `engine` are as `smt.h` wants them: each null, or as large as its type says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smt_engine_new(
    options: *const smt_options,
    engine: *mut *mut smt_engine,
) -> i32 {
    border::run(|| {
        // SAFETY: the caller's promise about `options`, whose size is its first member.
        let options = unsafe { border::read("options", options)? };
        // SAFETY: the caller's promise about `engine`.
        let out = unsafe { Out::new("engine", engine)? };
        // SAFETY: as above.
        let bind = unsafe { bind_of(&options)? };
        out.set(register(builder(&options, bind)?.engine()?));
        Ok(())
    })
}

/// Makes engines that share a port and sessions.
///
/// # Safety
/// `options` is as `smt.h` wants it; `engines` is null or has room for `count` pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smt_engines_new(
    options: *const smt_options,
    count: u32,
    engines: *mut *mut smt_engine,
) -> i32 {
    border::run(|| {
        // SAFETY: the caller's promise about `options`, whose size is its first member.
        let options = unsafe { border::read("options", options)? };
        // SAFETY: as above.
        let bind = unsafe { bind_of(&options)? };
        if !count.is_power_of_two() || count > MAX_SHARDS.into() {
            let text = format!("count is {count}, not 1, 2, 4, 8, 16, 32 or {MAX_SHARDS}");
            return Err(Failure::invalid(text));
        }
        // Every place is looked at before there is anything to put there.
        let places = (0..count as usize).map(|index| {
            // SAFETY: the caller's promise about `engines`: there are `count` of them. Of a null pointer
            // this stays null, or is refused as one that is not aligned.
            unsafe {
                Out::new("engines", engines.wrapping_add(if engines.is_null() { 0 } else { index }))
            }
        });
        let places = places.collect::<Result<Vec<_>, _>>()?;
        let shards = u8::try_from(count).unwrap_or(MAX_SHARDS);
        let made = builder(&options, bind)?.shards(shards).engines()?;
        for (place, engine) in places.into_iter().zip(made) {
            place.set(register(engine));
        }
        Ok(())
    })
}

/// # Safety
/// As `smt.h` wants it, `bind_len` bytes can be read at `bind` unless it is null.
unsafe fn bind_of(options: &smt_options) -> Result<IpAddr, Failure> {
    if options.bind.is_null() {
        return Ok(Ipv4Addr::UNSPECIFIED.into());
    }
    // SAFETY: the caller's promise.
    unsafe { address_at(options.bind, options.bind_len) }
}

/// # Safety
/// Those of [`border::address`].
unsafe fn address_at(data: *const c_void, len: usize) -> Result<IpAddr, Failure> {
    // SAFETY: the caller's promise.
    Ok(unsafe { border::address("options->bind", data, len)? }.ip())
}

/// Frees an engine.
#[unsafe(no_mangle)]
pub extern "C" fn smt_engine_free(engine: *mut smt_engine) -> i32 {
    border::run(|| if engine.is_null() { Ok(()) } else { ENGINES.free(engine.addr()) })
}

/// Gives the descriptor to watch.
///
/// # Safety
/// `fd` is null or an `int32_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smt_engine_fd(engine: *mut smt_engine, fd: *mut i32) -> i32 {
    with_engine(engine, |state| {
        // SAFETY: the caller's promise.
        let out = unsafe { Out::new("fd", fd)? };
        let fd = state.engine.fd()?.as_raw_fd();
        state.watched = true;
        out.set(fd);
        Ok(())
    })
}

/// Reads the counters of an engine.
///
/// # Safety
/// `counters` is null, or as large as its first member says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smt_engine_counters(
    engine: *mut smt_engine,
    counters: *mut smt_counters,
) -> i32 {
    with_engine(engine, |state| {
        let sessions = u64::try_from(state.engine.session_count()).unwrap_or(u64::MAX);
        let value = counters_of(state.engine.stats(), sessions);
        // SAFETY: the caller's promise.
        unsafe { border::write("counters", counters, &value) }
    })
}

fn counters_of(stats: &Stats, sessions: u64) -> smt_counters {
    let dropped = [
        stats.dropped_malformed,
        stats.dropped_no_session,
        stats.dropped_bad_tag,
        stats.dropped_bad_token,
        stats.dropped_replayed_control,
        stats.dropped_replayed_request,
        stats.dropped_unexpected,
        stats.dropped_wrong_lane,
    ];
    smt_counters {
        size: size_of::<smt_counters>(),
        sessions,
        packets_sent: stats.packets_sent,
        packets_received: stats.packets_received,
        packets_retransmitted: stats.packets_retransmitted,
        requests_sent: stats.requests_sent,
        requests_received: stats.requests_received,
        responses_sent: stats.responses_sent,
        responses_received: stats.responses_received,
        records_sealed: stats.records_sealed,
        records_opened: stats.records_opened,
        records_not_authentic: stats.records_not_authentic,
        packets_dropped: dropped.iter().sum(),
        violations: stats.violations,
        sessions_dead: stats.sessions_dead,
        key_updates: stats.key_updates,
    }
}

/// The library's version.
#[unsafe(no_mangle)]
pub extern "C" fn smt_version() -> u32 {
    const fn number(text: &str) -> u32 {
        let (bytes, mut index, mut number) = (text.as_bytes(), 0, 0);
        while index < bytes.len() {
            number = number * 10 + (bytes[index] - b'0') as u32;
            index += 1;
        }
        number
    }
    const VERSION: u32 = number(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | number(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | number(env!("CARGO_PKG_VERSION_PATCH"));
    VERSION
}
