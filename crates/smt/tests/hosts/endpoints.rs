//! Endpoints of several shards under a runtime of several threads: one session, many calls, every one once,
//! whatever the number of shards at either end.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use smt::{Builder, CallError, DatapathKind, Endpoint, Stats};
use smt_testbed::{Namespace, PairOptions, Trial, may_use_bpf, pair, test};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::bed::{Ca, NAME, client_builder, pattern, server_address, server_builder};

const CALLS: u64 = 4000;
const AT_ONCE: u64 = 64;

pub(crate) fn tests() -> Vec<Trial> {
    if !may_use_bpf() {
        eprintln!("NOT RUN: endpoints of shards over xdp (need CAP_BPF, CAP_NET_ADMIN)");
    }
    vec![
        test("endpoints_of_two_shards", || calls(DatapathKind::Raw, 2, 2)),
        test("an_endpoint_calls_one_of_four_shards", || calls(DatapathKind::Packet, 1, 4)),
        test("an_endpoint_of_four_shards_calls_one", || calls(DatapathKind::Raw, 4, 1)),
        test("endpoints_of_four_and_two_shards_over_udp", || calls(DatapathKind::Udp, 4, 2)),
        test("endpoints_of_four_and_two_shards_over_xdp", || calls(DatapathKind::Xdp, 4, 2))
            .with_ignored_flag(!may_use_bpf()),
        test("short_calls_avoid_the_shard_of_a_long_one", short_beside_long),
        test("a_server_of_shards_calls_its_client", server_calls),
        test("an_endpoint_of_shards_closes_and_comes_again", close_and_restart),
        test("an_endpoint_of_shards_ends_with_its_last_handle", last_handle),
    ]
}

/// Runs a future on a host, with a runtime of two threads.
fn on_threads<F, T>(host: &Namespace, work: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T>
where
    F: Future<Output = T>,
    T: Send + 'static,
{
    host.spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).enable_all().build().unwrap().block_on(work())
    })
    .unwrap()
}

type Times = Arc<Mutex<HashMap<Vec<u8>, u32>>>;

/// Echoes, and counts how often each request came.
async fn echo(endpoint: Endpoint, times: Times) {
    while let Some(session) = endpoint.accept().await {
        let times = Arc::clone(&times);
        tokio::spawn(async move {
            while let Some(mut request) = session.accept().await {
                let body = request.take_body().into_vec();
                *times.lock().unwrap().entry(body.clone()).or_default() += 1;
                request.reply(body);
            }
        });
    }
}

/// A server of shards until it is told to stop.
struct Server {
    address: SocketAddr,
    times: Times,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Vec<Stats>>,
}

impl Server {
    fn start(host: &Namespace, builder: Builder) -> Server {
        let times = Times::default();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let seen = Arc::clone(&times);
        let thread = on_threads(host, move || async move {
            let endpoint = builder.endpoint().unwrap();
            ready.send(endpoint.listen_address().unwrap()).unwrap();
            let serving = tokio::spawn(echo(endpoint.clone(), seen));
            let _ = stopped.await;
            endpoint.close().await;
            serving.await.unwrap();
            endpoint.shard_stats()
        });
        Server { address: is_ready.recv().unwrap(), times, stop, thread }
    }

    fn stop(self) -> (Times, Vec<Stats>) {
        self.stop.send(()).unwrap();
        (self.times, self.thread.join().unwrap())
    }
}

fn body(number: u64) -> Vec<u8> {
    let len = match number % 100 {
        0 => 20_000,
        1..10 => 3000,
        _ => 64,
    };
    let mut body = number.to_be_bytes().to_vec();
    body.extend(pattern(number, len - 8));
    body
}

async fn call_all(session: &smt::Session) {
    let mut tasks = JoinSet::new();
    for first in 0..AT_ONCE {
        let session = session.clone();
        tasks.spawn(async move {
            for number in (first..CALLS).step_by(AT_ONCE as usize) {
                let response = session.call(body(number)).await.unwrap();
                assert!(*response == *body(number), "call {number}");
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

fn calls(kind: DatapathKind, clients: u8, servers: u8) {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let builder = server_builder(&ca, address).datapath(kind).shards(servers);
    let server = Server::start(&pair.b, builder);
    let builder = client_builder(&ca, false).datapath(kind).shards(clients);
    let to = server.address;
    let sent = on_threads(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        assert_eq!(endpoint.shard_count(), usize::from(clients));
        let session = endpoint.connect(to, NAME).await.unwrap();
        call_all(&session).await;
        let (sum, each) = (endpoint.stats(), endpoint.shard_stats());
        assert_eq!(sum.requests_sent, each.iter().map(|stats| stats.requests_sent).sum::<u64>());
        assert_eq!(sum.dropped_wrong_lane, 0);
        session.close();
        endpoint.close().await;
        each
    })
    .join()
    .unwrap();
    let (times, received) = server.stop();
    let times = times.lock().unwrap();
    assert_eq!(times.len() as u64, CALLS);
    assert!(times.values().all(|times| *times == 1), "a request ran twice");
    assert_eq!(received.len(), usize::from(servers));
    // Whoever is busier gets less, but nobody gets nothing.
    for stats in &sent {
        assert!(stats.requests_sent > CALLS / 10 / u64::from(clients), "{}", stats.requests_sent);
    }
    for stats in &received {
        let requests = stats.requests_received;
        assert!(requests > CALLS / 10 / u64::from(servers), "{requests}");
        assert_eq!(stats.dropped_wrong_lane, 0);
    }
}

fn short_beside_long() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let builder = server_builder(&ca, server_address(&pair, false)).shards(2);
    let server = Server::start(&pair.b, builder);
    let (to, builder) = (server.address, client_builder(&ca, false).shards(2));
    on_threads(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        // Until all shards know the session, there is but one to take.
        while endpoint.shard_stats().iter().any(|stats| stats.responses_received == 0) {
            session.call("x").await.unwrap();
        }
        let sealed = |at: usize| endpoint.shard_stats()[at].records_sealed;
        let start = [sealed(0), sealed(1)];
        let long = tokio::spawn({
            let session = session.clone();
            async move { session.call(vec![1; 8 << 20]).await.map(|body| body.len()) }
        });
        let is_busy = |at: usize| sealed(at) - start[at] >= 40;
        while !is_busy(0) && !is_busy(1) {
            tokio::task::yield_now().await;
        }
        let busy = usize::from(is_busy(1));
        let before = endpoint.shard_stats();
        let mut short = 0;
        while !long.is_finished() && short < 50 {
            session.call("short").await.unwrap();
            short += 1;
        }
        let after = endpoint.shard_stats();
        let requests = |at: usize| after[at].requests_sent - before[at].requests_sent;
        assert!(requests(busy) <= 1 + short / 2, "{} of {short}", requests(busy));
        assert_eq!(long.await.unwrap().unwrap(), 8 << 20);
        endpoint.close().await;
    })
    .join()
    .unwrap();
    server.stop();
}

fn server_calls() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let builder = server_builder(&ca, server_address(&pair, false)).shards(2);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = on_threads(&pair.b, move || async move {
        let endpoint = builder.endpoint().unwrap();
        ready.send(endpoint.listen_address().unwrap()).unwrap();
        let session = endpoint.accept().await.unwrap();
        call_all(&session).await;
        let requests: Vec<_> = endpoint.shard_stats().iter().map(|s| s.requests_sent).collect();
        assert!(requests.iter().all(|sent| *sent > CALLS / 20), "{requests:?}");
        endpoint.close().await;
    });
    let (to, builder) = (is_ready.recv().unwrap(), client_builder(&ca, false).shards(4));
    let client = on_threads(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        // Ends when the server closes: no request comes then.
        let mut requests = 0;
        let closed = async {
            while endpoint.session_count() > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::pin!(closed);
        loop {
            tokio::select! {
                () = &mut closed => break,
                request = session.accept() => {
                    let mut request = request.unwrap();
                    let body = request.take_body().into_vec();
                    request.reply(body);
                    requests += 1;
                }
            }
        }
        assert_eq!(requests, CALLS);
    });
    server.join().unwrap();
    client.join().unwrap();
}

fn close_and_restart() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let builder = move |ca: &Arc<Ca>| server_builder(ca, address).shards(2);
    let first = Server::start(&pair.b, builder(&ca));
    let (to, client) = (first.address, client_builder(&ca, false).shards(2));
    let (ran, has_run) = std::sync::mpsc::channel();
    let (go_on, restarted) = oneshot::channel::<()>();
    let client = on_threads(&pair.a, move || async move {
        let endpoint = client.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        call_all(&session).await;
        ran.send(()).unwrap();
        restarted.await.unwrap();
        // The next call connects anew by itself; it fails only while the end of the old session is on its
        // way.
        let answer = loop {
            match session.call("again").await {
                Ok(answer) => break answer,
                Err(CallError::OutcomeUnknown | CallError::SessionClosed) => {}
                Err(error) => panic!("{error:?}"),
            }
        };
        assert_eq!(*answer, *b"again");
        call_all(&session).await;
        let stats = endpoint.shard_stats();
        assert!(stats.iter().all(|stats| stats.requests_sent > CALLS / 10), "both shards again");
        let held = session.clone();
        endpoint.close().await;
        assert!(matches!(held.call("x").await, Err(CallError::NotStarted(_))));
        assert_eq!((endpoint.session_count(), held.accept().await.is_none()), (0, true));
        assert!(endpoint.connect(to, NAME).await.is_err());
    });
    has_run.recv().unwrap();
    let (_, stats) = first.stop();
    assert!(stats.iter().all(|stats| stats.requests_received > 0));
    let second = Server::start(&pair.b, builder(&ca));
    assert_eq!(second.address, to);
    go_on.send(()).unwrap();
    client.join().unwrap();
    let (times, _) = second.stop();
    assert_eq!(times.lock().unwrap().len() as u64, CALLS + 1);
}

fn last_handle() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let builder = server_builder(&ca, address).shards(2);
    on_threads(&pair.b, move || async move {
        let endpoint = builder.clone().endpoint().unwrap();
        let other = endpoint.clone();
        drop(endpoint);
        assert!(builder.clone().endpoint().is_err(), "the port is still taken");
        drop(other);
        // Free once both drivers have ended.
        while builder.clone().endpoint().is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .join()
    .unwrap();
}
