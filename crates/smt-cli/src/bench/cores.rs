//! One session on one core and on several: how evenly its RPCs are spread, how many there are, and what short ones
//! wait for while long messages keep another core busy.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use smt::{Engine, Event, SessionId};

use super::contender::{Exchange, Transport, Variant, What};
use super::ground::{Credentials, Ground, SERVER_NAME, server_name, stay_on};
use super::serving::{Server, Serving};
use super::smt::{Ends, PORT, ends};
use super::{RPC_BYTES, failed};
use crate::baseline::fleet::{self, Room};
use crate::baseline::{Pipeline, RECEIPT_BYTES, Wait, smt as calls, tls};
use crate::commands::Error;
use crate::commands::datapath::DatapathChoice;
use crate::cores;
use crate::stop::Stop;
use crate::times::Times;

/// Shards of client and server, of everything that is measured.
pub const SHARDS: [[u8; 2]; 4] = [[1, 1], [1, 2], [2, 1], [2, 2]];
/// Bytes of the messages that keep a shard busy. They are acknowledged, not echoed.
pub const BULK_BYTES: usize = 1 << 20;
/// How many of them are outstanding.
pub const BULK_OUTSTANDING: usize = 2;
/// Most threads of both ends together.
const MOST_THREADS: usize = 4;
/// The first port of TLS servers.
const TLS_PORT: u16 = 4433;
/// A part of the measured time that comes before it.
const WARM_UP_PART: u32 = 8;
/// At least so long, since TLS's connections are made meanwhile.
const WARM_UP: Duration = Duration::from_millis(50);
/// How long a session may take to be made, and the last RPCs to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How sessions are made; of no effect on what follows.
const WHAT: What = What {
    transport: Transport::Smt,
    variant: Variant::Full,
    exchange: Exchange::X25519,
    mtls: false,
};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Plan {
    /// SMT's datapaths.
    pub datapaths: Vec<DatapathChoice>,
    /// RPCs outstanding in the session where they are counted.
    pub outstanding: usize,
    /// For how long each row is measured.
    pub time: Duration,
}

/// Who carries the short RPCs and the long messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A session of SMT: both in the only shard, or each in one of two.
    Smt(DatapathChoice, u8),
    /// TLS 1.3 on TCP: both on one connection, or each on one of two, with threads of its own.
    Tls(u8),
}

/// RPCs of one session, by the server's shards.
#[derive(Debug)]
pub struct Rate {
    /// How many were over in the measured time.
    pub count: u64,
    /// The measured time.
    pub elapsed: Duration,
    /// Requests at each shard of the server, before and after that time too.
    pub requests: Vec<u64>,
    /// Bytes of the packets received at each shard of the server.
    pub bytes: Vec<u64>,
}

/// Short RPCs, one at a time, beside long messages.
#[derive(Debug, Default)]
pub struct Beside {
    /// How long the short ones took.
    pub times: Times,
    /// Long messages in the measured time.
    pub bulk: u64,
    /// The measured time.
    pub elapsed: Duration,
}

/// All that was measured, or why something could not be.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whether everybody spins, each thread on a core of its own.
    pub spins: bool,
    /// By datapath, and shards of client and server.
    pub rates: Vec<(DatapathChoice, [u8; 2], Result<Rate, String>)>,
    /// Short RPCs beside long messages.
    pub beside: Vec<(Who, Result<Beside, String>)>,
}

/// The largest part in relation to an equal one; 1 if there is nothing.
#[must_use]
pub fn evenness(parts: &[u64]) -> f64 {
    let (sum, max) = (parts.iter().sum::<u64>(), parts.iter().max().copied().unwrap_or(0));
    if sum == 0 { 1.0 } else { max as f64 * parts.len() as f64 / sum as f64 }
}

/// Measures everything. What one contender cannot do is told in its place.
///
/// # Errors
/// Hosts cannot be made, or the user stopped it.
pub fn measure(
    credentials: &Arc<Credentials>,
    plan: &Plan,
    stop: &Stop,
    progress: &dyn Fn(f64),
) -> Result<Outcome, Error> {
    let places = Places::new();
    let contenders: Vec<Who> = plan
        .datapaths
        .iter()
        .flat_map(|&datapath| [1, 2].map(|shards| Who::Smt(datapath, shards)))
        .chain([1, 2].map(Who::Tls))
        .collect();
    let steps = (plan.datapaths.len() * SHARDS.len() + contenders.len()) as f64;
    let mut outcome = Outcome { spins: places.wait == Wait::Spin, ..Outcome::default() };
    let step = |outcome: &Outcome| {
        progress((outcome.rates.len() + outcome.beside.len()) as f64 / steps);
        let stopped = || Error::Failed("stopped".to_owned());
        if stop.is_set() { Err(stopped()) } else { ground(credentials) }
    };
    for &datapath in &plan.datapaths {
        for shards in SHARDS {
            let ground = step(&outcome)?;
            let rate = rate(&ground, &places, datapath, shards, plan);
            outcome.rates.push((datapath, shards, rate.map_err(|error| error.explain())));
        }
    }
    for who in contenders {
        let ground = step(&outcome)?;
        let beside = beside(&ground, &places, who, plan);
        outcome.beside.push((who, beside.map_err(|error| error.explain())));
    }
    Ok(outcome)
}

/// Hosts of one's own, so that nothing is left of those who came before.
fn ground(credentials: &Arc<Credentials>) -> Result<Ground, Error> {
    Ground::on(credentials, smt_testbed::PairOptions::default())
}

/// Which thread runs where, and how all of them wait.
#[derive(Clone)]
struct Places {
    cores: Vec<usize>,
    wait: Wait,
}

impl Places {
    /// Threads spin only where each of them can have a core.
    fn new() -> Places {
        let cores = cores::allowed().unwrap_or_default();
        let wait = if cores.len() >= MOST_THREADS { Wait::Spin } else { Wait::Block };
        Places { cores, wait }
    }

    /// The core of thread `index` of an end (0 the client, 1 the server). Where there are too few, the threads of
    /// a shard share a core with those of the same shard at the other end.
    fn core(&self, end: usize, index: usize) -> Option<usize> {
        let place = match self.wait {
            Wait::Spin => 2 * index + end,
            Wait::Adaptive | Wait::Block => index,
        };
        self.cores.get(place).copied()
    }

    fn engine_wait(&self) -> ::smt::Wait {
        match self.wait {
            Wait::Spin => ::smt::Wait::Spin,
            Wait::Adaptive => ::smt::Wait::Adaptive,
            Wait::Block => ::smt::Wait::Block,
        }
    }
}

/// What one thread of a client does: so many RPCs at a time that are echoed, and so many long messages.
#[derive(Debug, Clone, Copy)]
struct Work {
    echoed: usize,
    bulk: usize,
}

/// What became of it within the measured time.
#[derive(Debug, Default)]
struct Done {
    count: u64,
    bulk: u64,
    times: Times,
}

/// The measured time, the same for all threads of a client.
#[derive(Debug, Clone)]
struct Window(Range<Instant>);

impl Window {
    fn new(time: Duration) -> Window {
        let begin = Instant::now() + WARM_UP.max(time / WARM_UP_PART);
        Window(begin..begin + time)
    }
}

/// Keeps a pipeline at work until the window is over.
fn drive(pipeline: &mut dyn Pipeline, work: Work, window: &Window) -> Result<Done, Error> {
    let request = |size| (0..=250_u8).cycle().take(size).collect::<Vec<u8>>();
    let [small, large] = [RPC_BYTES, BULK_BYTES].map(|size| pipeline.request(&request(size)));
    let all = work.echoed + work.bulk;
    let request = |tag| if tag < work.echoed { &small } else { &large };
    let mut begun = vec![Instant::now(); all];
    let (mut done, mut left, mut over) = (Done::default(), all, Vec::new());
    (0..all).try_for_each(|tag| pipeline.call(request(tag), tag))?;
    while left > 0 {
        pipeline.turn(&mut over)?;
        let now = Instant::now();
        for (tag, bytes) in over.drain(..) {
            let is_bulk = tag >= work.echoed;
            if bytes != if is_bulk { RECEIPT_BYTES } else { RPC_BYTES } {
                return Err(Error::Failed("a response is not of the right length".to_owned()));
            }
            if window.0.contains(&now) {
                done.bulk += u64::from(is_bulk);
                done.count += u64::from(!is_bulk);
                if let Some(begun) = begun.get(tag).filter(|_| !is_bulk) {
                    done.times.add(now - *begun);
                }
            }
            if now >= window.0.end {
                left -= 1;
                continue;
            }
            if let Some(begun) = begun.get_mut(tag) {
                *begun = now;
            }
            pipeline.call(request(tag), tag)?;
        }
        if now > window.0.end + PATIENCE {
            return Err(Error::Failed(format!("{left} RPCs do not end")));
        }
    }
    Ok(done)
}

/// Runs a client's threads: each makes a pipeline of one of `all`, and does its work.
fn drive_all<A: Send>(
    places: &Places,
    all: Vec<(A, Work)>,
    window: &Window,
    pipeline: impl Fn(A) -> Result<Box<dyn Pipeline>, Error> + Sync,
) -> Result<Vec<Done>, Error> {
    let ended = Barrier::new(all.len());
    on_threads(all, |(index, (one, work))| {
        let mut pipeline = stay_on(places.core(0, index)).and_then(|()| pipeline(one));
        let done = match &mut pipeline {
            Ok(pipeline) => drive(&mut **pipeline, work, window),
            Err(_) => Ok(Done::default()),
        };
        // An engine that goes ends the sessions of the others.
        ended.wait();
        pipeline.and(done)
    })
}

/// Requests and bytes by shard of a server, once it has ended.
type Seen = Arc<Mutex<Vec<(u64, u64)>>>;

/// A server of SMT with a thread for each shard.
fn serve_smt(
    ground: &Ground,
    places: &Arc<Places>,
    datapath: DatapathChoice,
    shards: u8,
) -> Result<(Server, Seen), Error> {
    let Ends { server, .. } = ends(ground, WHAT, 0)?;
    let server = server.datapath(datapath.kind()).wait(places.engine_wait()).handshakes_inline();
    let (seen, places) = (Seen::default(), Arc::clone(places));
    let told = Arc::clone(&seen);
    let server = Server::start(ground, move |serving| {
        let engines = server.shards(shards).engines()?;
        serving.ready();
        let serve = |(index, mut engine): (usize, Engine)| {
            stay_on(places.core(1, index))?;
            calls::serve(&mut engine, places.wait, || serving.is_over())?;
            Ok((engine.stats().requests_received, engine.datapath_stats().rx_bytes))
        };
        let all = on_threads(engines, serve)?;
        *told.lock().unwrap_or_else(PoisonError::into_inner) = all;
        Ok(())
    })?;
    Ok((server, seen))
}

/// Does `work` with each of `all` on a thread of its own.
fn on_threads<A: Send, B: Send>(
    all: Vec<A>,
    work: impl Fn((usize, A)) -> Result<B, Error> + Sync,
) -> Result<Vec<B>, Error> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> =
            all.into_iter().enumerate().map(|one| scope.spawn(move || work(one))).collect();
        let ended: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        ended.into_iter().collect()
    })
}

/// A client of SMT: its engines, and the session at each.
fn connect_smt(
    ground: &Ground,
    places: &Places,
    datapath: DatapathChoice,
    shards: u8,
) -> Result<Vec<(Engine, SessionId)>, Error> {
    let Ends { client, .. } = ends(ground, WHAT, 0)?;
    let client = client
        .bind(ground.pair.a_v4.into())
        .datapath(datapath.kind())
        .wait(places.engine_wait())
        .smt_tickets(false)
        .handshakes_inline();
    let mut engines = client.shards(shards).engines()?;
    let until = Instant::now() + PATIENCE;
    let mut sessions = vec![None; engines.len()];
    if let Some(first) = engines.first_mut() {
        first
            .connect(ground.server_address(PORT), SERVER_NAME)
            .map_err(failed("cannot connect"))?;
    }
    while sessions.contains(&None) {
        for (engine, place) in engines.iter_mut().zip(&mut sessions) {
            engine.poll().map_err(Error::io("the datapath failed"))?;
            match engine.next_event() {
                Some(Event::Connected { session, .. } | Event::Joined { session, .. }) => {
                    *place = Some(session);
                }
                Some(Event::ConnectFailed { error, .. }) => {
                    return Err(failed("cannot connect")(error));
                }
                _ => {}
            }
        }
        if Instant::now() > until {
            return Err(Error::Failed("no session".to_owned()));
        }
    }
    Ok(engines.into_iter().zip(sessions.into_iter().flatten()).collect())
}

fn rate(
    ground: &Ground,
    places: &Places,
    datapath: DatapathChoice,
    [clients, servers]: [u8; 2],
    plan: &Plan,
) -> Result<Rate, Error> {
    let (server, seen) = serve_smt(ground, &Arc::new(places.clone()), datapath, servers)?;
    let measured = ground.as_client(|| {
        let engines = connect_smt(ground, places, datapath, clients)?;
        let echoed = plan.outstanding.div_ceil(usize::from(clients));
        let all = engines.into_iter().map(|session| (session, Work { echoed, bulk: 0 })).collect();
        drive_all(places, all, &Window::new(plan.time), |(engine, session)| {
            Ok(Box::new(calls::Calls::new(engine, session, places.wait)))
        })
    });
    // What ended the server explains what the client has met.
    server.stop()?;
    let count = measured?.iter().map(|done| done.count).sum();
    let (requests, bytes) =
        seen.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().unzip();
    Ok(Rate { count, elapsed: plan.time, requests, bytes })
}

fn beside(ground: &Ground, places: &Places, who: Who, plan: &Plan) -> Result<Beside, Error> {
    let both = Work { echoed: 1, bulk: BULK_OUTSTANDING };
    let work = |count: u8, index: usize| match (count, index) {
        (1, _) => both,
        (_, 0) => Work { echoed: 0, ..both },
        _ => Work { bulk: 0, ..both },
    };
    let (server, count) = match who {
        Who::Smt(datapath, shards) => {
            (serve_smt(ground, &Arc::new(places.clone()), datapath, shards)?.0, shards)
        }
        Who::Tls(connections) => (serve_tls(ground, places, connections)?, connections),
    };
    let measured = ground.as_client(|| {
        let window = || Window::new(plan.time);
        match who {
            Who::Smt(datapath, shards) => {
                let engines = connect_smt(ground, places, datapath, shards)?.into_iter();
                let all = engines.enumerate().map(|(n, session)| (session, work(count, n)));
                drive_all(places, all.collect(), &window(), |(engine, session)| {
                    Ok(Box::new(calls::Calls::new(engine, session, places.wait)))
                })
            }
            Who::Tls(connections) => {
                let all = (0..connections).map(|n| (n, work(count, n.into())));
                drive_all(places, all.collect(), &window(), |n| connect_tls(ground, places, n))
            }
        }
    });
    server.stop()?;
    let mut sum = Beside { elapsed: plan.time, ..Beside::default() };
    for done in measured? {
        sum.times.merge(&done.times);
        sum.bulk += done.bulk;
    }
    Ok(sum)
}

const ROOM: Room = Room { message: BULK_BYTES, read: 256 << 10 };

/// A thread and a port for each connection.
fn serve_tls(ground: &Ground, places: &Places, connections: u8) -> Result<Server, Error> {
    let credentials = &ground.credentials;
    let config = tls::server_config(credentials.authority(), credentials.server());
    let config = config.map_err(|error| Error::Failed(error.to_string()))?;
    let addresses = (0..connections).map(|n| ground.server_address(TLS_PORT + u16::from(n)));
    let (addresses, places) = (addresses.collect::<Vec<_>>(), places.clone());
    Server::start(ground, move |serving: &Serving| {
        let listeners: Result<Vec<_>, _> = addresses.iter().map(TcpListener::bind).collect();
        let listeners = listeners.map_err(Error::io("cannot listen"))?;
        serving.ready();
        let serve = |(index, listener): (usize, TcpListener)| {
            stay_on(places.core(1, index))?;
            fleet::serve_tls(&listener, &config, ROOM, places.wait, serving.over())
                .map_err(Error::io("the server failed"))
        };
        on_threads(listeners, serve).map(drop)
    })
}

fn connect_tls(ground: &Ground, places: &Places, number: u8) -> Result<Box<dyn Pipeline>, Error> {
    let credentials = &ground.credentials;
    let config = tls::client_config(credentials.authority(), credentials.client());
    let config = config.map_err(|error| Error::Failed(error.to_string()))?;
    let address = ground.server_address(TLS_PORT + u16::from(number));
    fleet::connect_tls(address, &server_name()?, &config, 1, ROOM, places.wait)
        .map_err(Error::io("the connection failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evenness_is_the_largest_part_by_an_equal_one() {
        assert_eq!(evenness(&[5, 5]), 1.0);
        assert_eq!(evenness(&[10, 0]), 2.0);
        assert_eq!(evenness(&[3, 1, 2, 2]), 1.5);
        assert_eq!((evenness(&[0, 0]), evenness(&[])), (1.0, 1.0));
    }

    #[test]
    fn threads_have_cores_of_their_own_where_there_are_enough() {
        let all = |count: usize| {
            let wait = if count >= MOST_THREADS { Wait::Spin } else { Wait::Block };
            let places = Places { cores: (10..10 + count).collect(), wait };
            [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(end, index)| places.core(end, index))
        };
        assert_eq!(all(4), [Some(10), Some(11), Some(12), Some(13)]);
        assert_eq!(all(2), [Some(10), Some(10), Some(11), Some(11)]);
        assert_eq!(all(1), [Some(10), Some(10), None, None]);
    }
}
