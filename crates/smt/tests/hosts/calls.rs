//! Calls that work: both IP versions, all MTUs, both datapaths, both ends, all faults.

use std::sync::Arc;
use std::time::Duration;

use smt::datapath::DatapathStats;
use smt::datapath::fault::Rules;
use smt::{Builder, DatapathKind, Faults};
use smt_testbed::{PairOptions, Trial, Wire, loopback, pair, test};

use crate::bed::{
    Ca, NAME, Server, client_builder, echo_one, on_host, pattern, server_address, server_builder,
};

pub(crate) fn tests() -> Vec<Trial> {
    let mut tests = Vec::new();
    for datapath in [DatapathKind::Raw, DatapathKind::Packet, DatapathKind::Udp] {
        for v6 in [false, true] {
            for mtu in [1280, 1500, 9000] {
                let name =
                    format!("{}_{}_mtu_{mtu}", datapath.name(), if v6 { "v6" } else { "v4" });
                tests.push(test(&name, move || sizes_over_pair(datapath, v6, mtu)));
            }
            let name = format!("{}_{}_loopback", datapath.name(), if v6 { "v6" } else { "v4" });
            tests.push(test(&name, move || sizes_over_loopback(datapath, v6)));
        }
        let name = format!("{}_faults", datapath.name());
        tests.push(test(&name, move || faults(datapath)));
    }
    tests.extend(xdp());
    for (v6, wire, name) in [
        (false, Wire::Macvlan, "packet_v4_macvlan"),
        (true, Wire::Macvlan, "packet_v6_macvlan"),
        // Whose segments the device promises to cut, and then refuses.
        (false, Wire::MacvlanOnVeth, "packet_v4_macvlan_on_veth"),
    ] {
        let options = PairOptions { wire, ..PairOptions::default() };
        tests.push(test(name, move || {
            let stats = sizes_over(DatapathKind::Packet, v6, options);
            let segments = (stats.tx_segments, stats.tx_segment_errors);
            match wire {
                // The core cuts no segments for IPv6.
                Wire::Macvlan if v6 => assert_eq!(segments, (0, 0)),
                Wire::Macvlan => assert!(segments.0 > 10 && segments.1 == 0, "{segments:?}"),
                // The first refusal is told at once.
                _ => assert!(segments.0 == 0 && segments.1 > 0, "{segments:?}"),
            }
        }));
    }
    tests.push(test("both_ends_call_at_once", both_ends));
    tests.push(test("peer_identity", peer_identity));
    tests.push(test("large_message_with_loss", large_message_with_loss));
    tests.push(test("ed25519_and_other_suites", suites));
    tests.push(test("engine_without_a_runtime", engine));
    tests.push(test("queued_call_saves_a_round_trip", queued_call));
    tests
}

/// The same over AF_XDP, which has no loopback.
fn xdp() -> impl Iterator<Item = Trial> {
    let may_run = smt_testbed::may_use_bpf();
    if !may_run {
        eprintln!(
            "NOT RUN: calls over the XDP datapath, which needs CAP_BPF and CAP_NET_ADMIN on the \
             machine itself: run them as root"
        );
    }
    let mut tests = vec![test("xdp_faults", || faults(DatapathKind::Xdp))];
    for v6 in [false, true] {
        for mtu in [1280, 1500, 9000] {
            let name = format!("xdp_{}_mtu_{mtu}", if v6 { "v6" } else { "v4" });
            tests.push(test(&name, move || sizes_over_pair(DatapathKind::Xdp, v6, mtu)));
        }
    }
    tests.into_iter().map(move |test| test.with_ignored_flag(!may_run))
}

const SIZES: [usize; 10] = [0, 1, 64, 1400, 1406, 5000, 16_384, 65_536, 300_000, 2_000_000];

async fn call_all_sizes(builder: Builder, address: std::net::SocketAddr) -> DatapathStats {
    let endpoint = builder.endpoint().unwrap();
    let session = endpoint.connect(address, NAME).await.unwrap();
    for (seed, size) in SIZES.into_iter().enumerate() {
        let body = pattern(seed as u64, size);
        let response = session.call(body.clone()).deadline(Duration::from_secs(60)).await.unwrap();
        assert!(response.as_slice() == body, "{size} bytes came back different");
    }
    endpoint.close().await;
    assert_eq!(endpoint.session_count(), 0);
    endpoint.datapath_stats()
}

fn sizes_over_pair(datapath: DatapathKind, v6: bool, mtu: u32) {
    sizes_over(datapath, v6, PairOptions { mtu, ..PairOptions::default() });
}

fn sizes_over(datapath: DatapathKind, v6: bool, options: PairOptions) -> DatapathStats {
    let pair = pair(options).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, v6);
    let server = Server::start(&pair.b, address, server_builder(&ca, address).datapath(datapath));
    let (to, builder) = (server.address, client_builder(&ca, v6).datapath(datapath));
    on_host(&pair.a, move || call_all_sizes(builder, to)).join().unwrap()
}

fn sizes_over_loopback(datapath: DatapathKind, v6: bool) {
    let host = loopback().unwrap();
    let ca = Arc::new(Ca::new());
    let address = if v6 { std::net::Ipv6Addr::LOCALHOST.into() } else { [127, 0, 0, 1].into() };
    let server = Server::start(&host, address, server_builder(&ca, address).datapath(datapath));
    let (to, builder) = (server.address, client_builder(&ca, v6).datapath(datapath));
    on_host(&host, move || call_all_sizes(builder, to)).join().unwrap();
}

fn faults(datapath: DatapathKind) {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let server = Server::start(&pair.b, address, server_builder(&ca, address).datapath(datapath));
    let rules = Rules { drop: 0.05, duplicate: 0.05, corrupt: 0.05, reorder: 0.1, ..Rules::NONE };
    let builder = client_builder(&ca, false)
        .datapath(datapath)
        .connect_timeout(Duration::from_secs(30))
        .faults(Faults { seed: 7, receive: rules, transmit: rules });
    let to = server.address;
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        let calls = (0..200u64).map(|seed| {
            let session = session.clone();
            tokio::spawn(async move {
                let body = pattern(seed, (seed as usize * 97) % 20_000);
                let call = session.call(body.clone()).deadline(Duration::from_secs(60));
                assert!(call.await.unwrap().as_slice() == body);
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        assert!(endpoint.stats().packets_retransmitted > 0);
        assert!(endpoint.stats().dropped_bad_tag + endpoint.stats().records_not_authentic > 0);
    })
    .join()
    .unwrap();
}

fn both_ends() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let builder = server_builder(&ca, address);
    let server = on_host(&pair.b, move || async move {
        let endpoint = builder.endpoint().unwrap();
        ready.send(endpoint.listen_address().unwrap()).unwrap();
        let session = endpoint.accept().await.unwrap();
        call_and_answer(session, 500).await;
        endpoint.close().await;
    });
    let to = is_ready.recv().unwrap();
    let builder = client_builder(&ca, false);
    let client = on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        call_and_answer(session, 500).await;
        endpoint.close().await;
    });
    client.join().unwrap();
    server.join().unwrap();
}

/// Calls `count` times with 20 calls at once, and answers as many requests.
async fn call_and_answer(session: smt::Session, count: u64) {
    let caller = session.clone();
    let calls = tokio::spawn(async move {
        let mut running = tokio::task::JoinSet::new();
        for seed in 0..count {
            let session = caller.clone();
            running.spawn(async move {
                let body = pattern(seed, 64 + (seed as usize * 131) % 30_000);
                assert!(session.call(body.clone()).await.unwrap().as_slice() == body);
            });
            if running.len() >= 20 {
                running.join_next().await.unwrap().unwrap();
            }
        }
        while let Some(call) = running.join_next().await {
            call.unwrap();
        }
    });
    for _ in 0..count {
        echo_one(session.accept().await.unwrap());
    }
    calls.await.unwrap();
}

fn peer_identity() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let builder = server_builder(&ca, address);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = on_host(&pair.b, move || async move {
        let endpoint = builder.endpoint().unwrap();
        ready.send(endpoint.listen_address().unwrap()).unwrap();
        let session = endpoint.accept().await.unwrap();
        assert_eq!(session.peer().dns_names(), ["client.test"]);
        echo_one(session.accept().await.unwrap());
        endpoint.close().await;
    });
    let to = is_ready.recv().unwrap();
    let builder = client_builder(&ca, false);
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        assert_eq!(session.peer().dns_names(), [NAME]);
        assert_eq!(session.info().alpn, b"smt/1");
        session.call("hello").await.unwrap();
    })
    .join()
    .unwrap();
    server.join().unwrap();
}

fn large_message_with_loss() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let server = Server::start(&pair.b, address, server_builder(&ca, address));
    let rules = Rules { drop: 0.05, ..Rules::NONE };
    let builder =
        client_builder(&ca, false).faults(Faults { seed: 3, receive: rules, transmit: rules });
    let to = server.address;
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        let body = pattern(1, 20 << 20);
        let call = session.call(body.clone()).deadline(Duration::from_secs(120));
        assert!(call.await.unwrap().as_slice() == body);
    })
    .join()
    .unwrap();
}

fn suites() {
    use smt::proto::crypto::SuiteId;
    use smt::tls::{ClientTls, KeyExchange, ServerTls};
    let pair = pair(PairOptions::default()).unwrap();
    let address = server_address(&pair, false);
    let ca = Arc::new(Ca::new());
    for suite in [SuiteId::Aes256GcmSha384, SuiteId::ChaCha20Poly1305Sha256] {
        let identity = ca.identity_with(NAME, crate::bed::For::Server, |_| {}, true);
        let tls = ServerTls::builder(identity).cipher_suites(&[suite]).build().unwrap();
        let builder = Builder::new().bind(address).server(0, tls);
        let server = Server::start(&pair.b, address, builder);
        let tls = ClientTls::builder(ca.roots())
            .cipher_suites(&[suite])
            .key_exchange(KeyExchange::Classic)
            .build()
            .unwrap();
        let to = server.address;
        on_host(&pair.a, move || async move {
            let endpoint = Builder::new().client(tls).endpoint().unwrap();
            let session = endpoint.connect(to, NAME).await.unwrap();
            assert_eq!(session.info().suite, suite);
            assert_eq!(&*session.call(pattern(1, 5000)).await.unwrap(), pattern(1, 5000));
        })
        .join()
        .unwrap();
    }
}

fn engine() {
    use smt::{CallOptions, Event, Wait};
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    for wait in [Wait::Block, Wait::Adaptive, Wait::Spin] {
        let server = Server::start(&pair.b, address, server_builder(&ca, address));
        let builder = client_builder(&ca, false).wait(wait).handshakes_inline();
        let to = server.address;
        pair.a
            .run(move || {
                let mut engine = builder.engine().unwrap();
                let connect = engine.connect(to, NAME).unwrap();
                let patience = Some(Duration::from_secs(5));
                let session = match engine.next(patience).unwrap() {
                    Some(Event::Connected { connect: id, session, .. }) if id == connect => session,
                    other => panic!("{other:?}"),
                };
                for user in 0..100 {
                    let options = CallOptions { user, ..CallOptions::default() };
                    engine.call(session, pattern(user, 100), options).unwrap();
                    match engine.next(patience).unwrap() {
                        Some(Event::Response { user: of, result, .. }) => {
                            assert_eq!(of, user);
                            assert_eq!(&*result.unwrap(), pattern(user, 100));
                        }
                        other => panic!("{other:?}"),
                    }
                }
                engine.close_all(Duration::from_secs(1)).unwrap();
                assert_eq!(engine.session_count(), 0);
            })
            .unwrap();
    }
}

fn queued_call() {
    use smt::{CallOptions, Event};
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let server = Server::start(&pair.b, address, server_builder(&ca, address));
    let builder = client_builder(&ca, false);
    let to = server.address;
    pair.a
        .run(move || {
            let mut engine = builder.engine().unwrap();
            let connect = engine.connect(to, NAME).unwrap();
            engine.call_queued(connect, "early", CallOptions { user: 9, ..CallOptions::default() });
            let mut seen = Vec::new();
            while seen.len() < 2 {
                match engine.next(Some(Duration::from_secs(5))).unwrap().unwrap() {
                    Event::Connected { .. } => seen.push("connected"),
                    Event::Response { user: 9, result, .. } => {
                        assert_eq!(&*result.unwrap(), b"early");
                        seen.push("response");
                    }
                    other => panic!("{other:?}"),
                }
            }
            // The request left before the session was confirmed: nobody asked for it again.
            assert_eq!(engine.stats().requests_sent, 1);
            // What comes late is an ordinary call.
            engine.call_queued(connect, "late", CallOptions { user: 10, ..CallOptions::default() });
            loop {
                match engine.next(Some(Duration::from_secs(5))).unwrap().unwrap() {
                    Event::Response { user: 10, result, .. } => {
                        assert_eq!(&*result.unwrap(), b"late");
                        break;
                    }
                    Event::NewTicket { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        })
        .unwrap();
}
