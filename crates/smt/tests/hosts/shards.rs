//! Sessions over several engines, each on a thread of its own, behind real sockets: every RPC runs once,
//! in the shard that its lane belongs to.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use smt::datapath::fault::Rules;
use smt::{
    AeadLimits, Builder, CallError, CallOptions, DatapathKind, Engine, Event, Faults, StartError,
    XdpHook, XdpOptions,
};
use smt_testbed::{Namespace, PairOptions, Trial, may_use_bpf, pair, test};

use crate::bed::{Ca, NAME, client_builder, pattern, server_address, server_builder};

pub(crate) fn tests() -> Vec<Trial> {
    let mut all = vec![
        test("ten_thousand_calls_run_once_in_two_shards", || ten_thousand(RAW, [1, 2])),
        test("ten_thousand_calls_between_shards", || ten_thousand(PACKET, [2, 2])),
        test("ten_thousand_calls_between_shards_over_udp", || ten_thousand(UDP, [2, 2])),
        test("ten_thousand_calls_over_udp_to_shards", || ten_thousand(UDP, [1, 2])),
        test("ten_thousand_calls_over_udp_of_shards", || ten_thousand(UDP, [2, 1])),
        test("shards_under_loss_and_key_updates", || loss(RAW)),
        test("a_shard_that_is_held_up_holds_up_no_other", || held_up(RAW)),
        test("shards_end_together", || endings(RAW)),
        test("a_server_of_shards_restarts", || restart(RAW)),
    ];
    if !may_use_bpf() {
        eprintln!("NOT RUN: shards under xdp (need CAP_BPF, CAP_NET_ADMIN)");
    }
    for (mode, hook) in [("driver", XdpHook::Driver), ("generic", XdpHook::Generic)] {
        let over = Over(DatapathKind::Xdp, hook);
        let xdp = |what: &str, body: fn(Over)| {
            test(&format!("{what}_under_xdp_{mode}"), move || body(over))
                .with_ignored_flag(!may_use_bpf())
        };
        all.extend([
            xdp("ten_thousand_calls_run_once_in_two_shards", |over| ten_thousand(over, [1, 2])),
            xdp("ten_thousand_calls_between_shards", |over| ten_thousand(over, [2, 2])),
            xdp("shards_under_loss_and_key_updates", loss),
            xdp("a_shard_that_is_held_up_holds_up_no_other", held_up),
            xdp("shards_end_together", endings),
            xdp("a_server_of_shards_restarts", restart),
        ]);
    }
    all
}

/// The datapath of both ends.
#[derive(Clone, Copy)]
struct Over(DatapathKind, XdpHook);

const RAW: Over = Over(DatapathKind::Raw, XdpHook::Auto);
const PACKET: Over = Over(DatapathKind::Packet, XdpHook::Auto);
const UDP: Over = Over(DatapathKind::Udp, XdpHook::Auto);

impl Over {
    fn server(self, ca: &Arc<Ca>, address: IpAddr) -> Builder {
        self.set(server_builder(ca, address))
    }

    fn client(self, ca: &Arc<Ca>) -> Builder {
        self.set(client_builder(ca, false))
    }

    fn set(self, builder: Builder) -> Builder {
        let Over(kind, hook) = self;
        builder.datapath(kind).xdp(XdpOptions { hook, ..XdpOptions::default() })
    }
}

/// What a shard of a server has done.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) requests: HashMap<Vec<u8>, u32>,
    joined: u32,
    updates: u64,
    pub(crate) dropped: u64,
}

/// A server of several shards, each on a thread of its host; it echoes.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Done>>,
}

impl Server {
    pub(crate) fn start(host: &Namespace, builder: Builder, shards: u8) -> Server {
        let stop = Arc::new(AtomicBool::new(false));
        let (made, engines) = mpsc::channel();
        host.spawn(move || made.send(builder.shards(shards).engines().unwrap()).unwrap())
            .unwrap()
            .join()
            .unwrap();
        let engines = engines.recv().unwrap();
        let address = engines[0].listen_address().unwrap();
        let threads = engines
            .into_iter()
            .map(|engine| {
                let stop = Arc::clone(&stop);
                host.spawn(move || serve(engine, &stop)).unwrap()
            })
            .collect();
        Server { address, stop, threads }
    }

    pub(crate) fn stop(self) -> Vec<Done> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

fn serve(mut engine: Engine, stop: &AtomicBool) -> Done {
    let mut done = Done::default();
    while !stop.load(Ordering::Relaxed) {
        match engine.next(Some(Duration::from_millis(20))).unwrap() {
            Some(Event::Request { rpc, body, .. }) => {
                *done.requests.entry(body.to_vec()).or_default() += 1;
                engine.reply(rpc, body.into_vec());
            }
            Some(Event::Joined { .. }) => done.joined += 1,
            _ => {}
        }
    }
    // The other shards see the end of one of them; nobody looks any more.
    done.updates = engine.stats().key_updates;
    done.dropped = engine.stats().dropped_wrong_lane + engine.stats().dropped_bad_tag;
    done
}

/// A client's engines, all polled by one thread, and its session at each.
pub(crate) struct Client {
    engines: Vec<Engine>,
    sessions: Vec<smt::SessionId>,
    pub(crate) ended: HashMap<u64, Result<Vec<u8>, CallError>>,
    closed: usize,
}

impl Client {
    fn connect(builder: Builder, shards: u8, to: SocketAddr) -> Client {
        Client::over(builder.shards(shards).engines().unwrap(), to)
    }

    pub(crate) fn over(mut engines: Vec<Engine>, to: SocketAddr) -> Client {
        let shards = engines.len();
        engines[0].connect(to, NAME).unwrap();
        let mut client = Client { engines, sessions: Vec::new(), ended: HashMap::new(), closed: 0 };
        let until = Instant::now() + Duration::from_secs(20);
        while client.sessions.len() < shards {
            assert!(Instant::now() < until, "no session");
            client.turn();
        }
        let shared = client.engines[0].shared_id(client.sessions[0]);
        for (engine, session) in client.engines.iter().zip(&client.sessions) {
            assert_eq!(engine.shared_id(*session), shared);
            assert_eq!(shared.is_some(), shards > 1);
            assert!(shared.is_none_or(|id| engine.session_of(id) == Some(*session)));
        }
        client
    }

    fn turn(&mut self) {
        for engine in &mut self.engines {
            engine.poll().unwrap();
            while let Some(event) = engine.next_event() {
                match event {
                    Event::Connected { session, .. } => self.sessions.insert(0, session),
                    Event::Joined { session, .. } => self.sessions.push(session),
                    Event::Response { user, result, .. } => {
                        let result = result.map(smt::Body::into_vec);
                        assert!(self.ended.insert(user, result).is_none(), "ended twice");
                    }
                    Event::Closed { .. } => self.closed += 1,
                    Event::ConnectFailed { error, .. } => panic!("{error}"),
                    _ => {}
                }
            }
        }
    }

    /// Makes calls in all engines by turns and waits for their ends.
    pub(crate) fn call_all(&mut self, numbers: std::ops::Range<u64>, len: impl Fn(u64) -> usize) {
        let count = (numbers.end - numbers.start) as usize;
        let (mut next, end, before) = (numbers.start, numbers.end, self.ended.len());
        let until = Instant::now() + Duration::from_secs(120);
        while self.ended.len() < before + count {
            assert!(Instant::now() < until, "{} of {count}", self.ended.len() - before);
            while next < end && next < numbers.start + (self.ended.len() - before) as u64 + 64 {
                let at = next as usize % self.engines.len();
                let options = CallOptions { user: next, deadline: Some(Duration::from_secs(100)) };
                let body = body(next, len(next));
                match self.engines[at].call(self.sessions[at], body, options) {
                    Ok(_) => next += 1,
                    Err(StartError::TooManyOutstanding | StartError::Backpressure) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
            self.turn();
        }
    }
}

pub(crate) fn body(number: u64, len: usize) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.extend(pattern(number, len.max(8) - 8));
    body
}

/// Checks that all calls ran once, and how they were spread.
///
/// A client of several shards gives each its own calls: what comes to the server's is as even. One that
/// chooses lanes itself avoids the shard that does not keep up, so on a busy machine it is uneven.
fn check(done: &[Done], client: &Client, calls: u64, len: impl Fn(u64) -> usize) {
    let mut times: HashMap<&[u8], u32> = HashMap::new();
    for (request, count) in done.iter().flat_map(|done| &done.requests) {
        *times.entry(request).or_default() += count;
    }
    assert_eq!(times.len() as u64, calls);
    assert!(times.values().all(|count| *count == 1), "a request ran twice");
    for number in 0..calls {
        let result = client.ended[&number].as_ref().unwrap();
        assert!(*result == body(number, len(number)), "call {number}");
    }
    let equal = calls as f64 / done.len() as f64;
    for done in done {
        let share = done.requests.len() as f64 / equal;
        let uneven = if client.engines.len() > 1 { 0.03 } else { 0.7 };
        assert!((share - 1.0).abs() < uneven, "{share} of an equal part");
        assert_eq!(done.dropped, 0, "packets of another shard");
    }
}

fn ten_thousand(over: Over, [clients, servers]: [u8; 2]) {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let server = Server::start(&pair.b, over.server(&ca, address), servers);
    let (to, builder) = (server.address, over.client(&ca));
    let len = |number: u64| match number % 100 {
        0 => 20_000,
        1..10 => 3000,
        _ => 64,
    };
    let client = pair
        .a
        .spawn(move || {
            let mut client = Client::connect(builder, clients, to);
            assert_eq!(client.engines[0].lane_count(client.sessions[0]), 2);
            client.call_all(0..10_000, len);
            client
        })
        .unwrap()
        .join()
        .unwrap();
    let done = server.stop();
    assert_eq!(done.iter().map(|done| done.joined).sum::<u32>(), u32::from(servers - 1));
    check(&done, &client, 10_000, len);
}

fn loss(over: Over) {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    // A key is left when it has sealed half of this.
    let limits = AeadLimits { records: 600, blocks: 1 << 34, failed_opens: 1 << 34 };
    let rules = Rules { drop: 0.02, duplicate: 0.02, ..Rules::default() };
    let faults = Faults { seed: 5, receive: rules, transmit: rules };
    let builder = over.server(&ca, address).aead_limits(limits).faults(faults);
    let server = Server::start(&pair.b, builder, 2);
    let (to, builder) = (server.address, over.client(&ca).aead_limits(limits));
    let len = |number: u64| if number.is_multiple_of(50) { 10_000 } else { 100 };
    let client = pair
        .a
        .spawn(move || {
            let mut client = Client::connect(builder, 2, to);
            client.call_all(0..1000, len);
            // Asked for by the application, too.
            for (engine, session) in client.engines.iter_mut().zip(&client.sessions) {
                assert!(engine.update_keys(*session));
            }
            client.call_all(1000..2000, len);
            for engine in &client.engines {
                assert!(engine.stats().key_updates > 1, "{}", engine.stats().key_updates);
            }
            client
        })
        .unwrap()
        .join()
        .unwrap();
    let done = server.stop();
    assert!(done.iter().all(|done| done.updates > 1));
    check(&done, &client, 2000, len);
}

/// Large messages wait for a shard whose thread does something else, short ones of the other do not.
fn held_up(over: Over) {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let builder = over.server(&ca, address);
    let (made, engines) = mpsc::channel();
    pair.b
        .spawn(move || made.send(builder.shards(2).engines().unwrap()).unwrap())
        .unwrap()
        .join()
        .unwrap();
    let mut engines = engines.recv().unwrap();
    let to = engines[0].listen_address().unwrap();
    let (mut second, first) = (engines.pop().unwrap(), engines.pop().unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let stopped = [Arc::clone(&stop), Arc::clone(&stop)];
    let [first_stops, second_stops] = stopped;
    let first = pair.b.spawn(move || serve(first, &first_stops)).unwrap();
    let second = pair
        .b
        .spawn(move || {
            while !matches!(second.next(None).unwrap(), Some(Event::Joined { .. })) {}
            may_go_on.recv().unwrap();
            serve(second, &second_stops)
        })
        .unwrap();
    let builder = over.client(&ca);
    pair.a
        .spawn(move || {
            let mut client = Client::connect(builder, 2, to);
            let options = |user| CallOptions { user, deadline: Some(Duration::from_secs(100)) };
            for user in 10_000..10_004 {
                let call =
                    client.engines[1].call(client.sessions[1], body(user, 1 << 20), options(user));
                call.unwrap();
            }
            for user in 0..1000 {
                let call =
                    client.engines[0].call(client.sessions[0], body(user, 64), options(user));
                call.unwrap();
            }
            let until = Instant::now() + Duration::from_secs(60);
            while client.ended.len() < 1000 {
                assert!(Instant::now() < until, "{} of 1000", client.ended.len());
                client.turn();
            }
            assert!((0..1000).all(|user| client.ended[&user].is_ok()));
            go_on.send(()).unwrap();
            while client.ended.len() < 1004 {
                assert!(Instant::now() < until, "{} of 1004", client.ended.len());
                client.turn();
            }
            assert!((10_000..10_004).all(|user| client.ended[&user].is_ok()));
        })
        .unwrap()
        .join()
        .unwrap();
    stop.store(true, Ordering::Relaxed);
    assert_eq!(first.join().unwrap().requests.len(), 1000);
    assert_eq!(second.join().unwrap().requests.len(), 4);
}

fn endings(over: Over) {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let server = Server::start(&pair.b, over.server(&ca, address), 2);
    let (to, builder) = (server.address, over.client(&ca));
    pair.a
        .spawn(move || {
            // Closed at the second shard, it is closed at both; and so is what is under way.
            let mut client = Client::connect(builder.clone(), 2, to);
            client.call_all(0..100, |_| 64);
            let session = client.sessions[1];
            client.engines[1].close(session);
            let until = Instant::now() + Duration::from_secs(10);
            while client.closed < 2 || client.engines.iter().any(|e| e.session_count() > 0) {
                assert!(Instant::now() < until, "closed at {} shards", client.closed);
                client.turn();
            }
            let call = client.engines[0].call(client.sessions[0], "x", CallOptions::default());
            assert_eq!(call, Err(StartError::NoSession));

            // A device has one owner.
            drop(client);
            // One engine is dropped: the other's sessions end, and it says why.
            let mut client = Client::connect(builder, 2, to);
            client.call_all(0..10, |_| 64);
            drop(client.engines.pop());
            let engine = &mut client.engines[0];
            let (mut gone, mut closed) = (false, false);
            while !(gone && closed) {
                assert!(Instant::now() < until, "gone: {gone}, closed: {closed}");
                match engine.next(Some(Duration::from_millis(10))).unwrap() {
                    Some(Event::ShardGone { shard: 1 }) => gone = true,
                    Some(Event::Closed { .. }) => closed = true,
                    _ => {}
                }
            }
            assert!(engine.connect(to, NAME).is_err());
        })
        .unwrap()
        .join()
        .unwrap();
    server.stop();
}

fn restart(over: Over) {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let first = Server::start(&pair.b, over.server(&ca, address), 2);
    let (to, builder) = (first.address, over.client(&ca));
    let (go_on, restarted) = mpsc::channel();
    let (ran, has_run) = mpsc::channel();
    let client = pair
        .a
        .spawn(move || {
            let mut client = Client::connect(builder.clone(), 1, to);
            client.call_all(0..100, |_| 64);
            ran.send(()).unwrap();
            restarted.recv().unwrap();
            // The new server does not know the session, in any lane.
            for user in 1000..1010 {
                let options = CallOptions { user, deadline: Some(Duration::from_secs(5)) };
                let call = client.engines[0].call(client.sessions[0], body(user, 64), options);
                // What was left of the old one may have said that it ends.
                assert!(matches!(call, Ok(_) | Err(StartError::NoSession)));
            }
            let until = Instant::now() + Duration::from_secs(20);
            while client.closed == 0 {
                assert!(Instant::now() < until, "the session outlives its server");
                client.turn();
            }
            let ended = |user| client.ended.get(&user).is_none_or(Result::is_err);
            assert!((1000..1010).all(ended));
            drop(client);
            let mut client = Client::connect(builder, 1, to);
            client.call_all(0..100, |_| 64);
        })
        .unwrap();
    has_run.recv().unwrap();
    first.stop();
    let second = Server::start(&pair.b, over.server(&ca, address), 2);
    assert_eq!(second.address, to);
    go_on.send(()).unwrap();
    client.join().unwrap();
    let done = second.stop();
    assert_eq!(done.iter().map(|done| done.requests.len()).sum::<usize>(), 100);
}
