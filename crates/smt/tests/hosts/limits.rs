//! Full receivers, too many calls, too large messages: a typed error or waiting, never more.

use std::sync::Arc;
use std::time::Duration;

use smt::engine::{MAX_QUEUED_CALLS, MAX_WAITING_FOR_TICKETS};
use smt::tls::{ClientTls, ServerTls};
use smt::{Builder, CallError, CallOptions, DatapathKind, Event, Limits, StartError};
use smt_testbed::{PairOptions, Trial, pair, test};

use crate::bed::{
    Ca, For, NAME, PORT, Server, client_builder, on_host, pattern, server_address, server_builder,
};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("too_large_message_is_a_typed_error", too_large),
        test("calls_beyond_the_peers_limit_wait", calls_wait),
        test("calls_that_wait_for_a_session_are_bounded", queued_calls),
        test("sessions_that_wait_for_tickets_are_bounded", waiting_for_tickets),
        test("garbage_is_counted_and_dropped", garbage),
    ]
}

fn too_large() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let limits = Limits { max_message: 10_000, ..Limits::default() };
    let server = Server::start(&pair.b, address, server_builder(&ca, address).limits(limits));
    let (to, builder) = (server.address, client_builder(&ca, false));
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        let error = session.call(vec![0; 10_001]).await.err();
        let expected = CallError::NotStarted(StartError::TooLarge { limit: 10_000 });
        assert_eq!(error, Some(expected));
        assert_eq!(session.call(vec![0; 10_000]).await.unwrap().len(), 10_000);
    })
    .join()
    .unwrap();
}

fn calls_wait() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let limits = Limits { max_rpcs: 4, max_incoming_bytes: 200_000, ..Limits::default() };
    let server = Server::start(&pair.b, address, server_builder(&ca, address).limits(limits));
    let (to, builder) = (server.address, client_builder(&ca, false));
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        let calls: Vec<_> = (0..50u64)
            .map(|seed| {
                let session = session.clone();
                tokio::spawn(async move {
                    let body = pattern(seed, 100_000);
                    let call = session.call(body.clone()).deadline(Duration::from_secs(30));
                    assert!(call.await.unwrap().as_slice() == body);
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
        assert!(endpoint.stats().limit_rpcs > 0);
    })
    .join()
    .unwrap();
}

fn queued_calls() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let server = Server::start(&pair.b, address, server_builder(&ca, address));
    let (to, builder) = (server.address, client_builder(&ca, false));
    pair.a
        .run(move || {
            let mut engine = builder.engine().unwrap();
            let connect = engine.connect(to, NAME).unwrap();
            let calls = MAX_QUEUED_CALLS as u64 + 3;
            for user in 0..calls {
                engine.call_queued(connect, "x", CallOptions { user, ..CallOptions::default() });
            }
            let (mut answered, mut refused) = (0, Vec::new());
            while answered + refused.len() < calls as usize {
                match engine.next(Some(Duration::from_secs(10))).unwrap().unwrap() {
                    Event::Response { result, .. } => {
                        assert_eq!(&*result.unwrap(), b"x");
                        answered += 1;
                    }
                    Event::EarlyCallFailed { user, error } => {
                        assert_eq!(error, CallError::NotStarted(StartError::NotReady));
                        refused.push(user);
                    }
                    _ => {}
                }
            }
            let first = MAX_QUEUED_CALLS as u64;
            assert_eq!(refused, [first, first + 1, first + 2]);
            assert_eq!(engine.limit_stats().queued_calls, 3);
        })
        .unwrap();
}

fn waiting_for_tickets() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    // Its clients wait for tickets as long as their sessions live.
    let tls = ServerTls::builder(ca.identity(NAME, For::Server)).tickets(0).build().unwrap();
    // Over UDP an engine has ports for so many sessions with one server.
    let builder = Builder::new().datapath(DatapathKind::Udp).bind(address).server(PORT, tls);
    let server = Server::start(&pair.b, address, builder);
    let to = server.address;
    pair.a
        .run(move || {
            let tls = ClientTls::builder(ca.roots()).build().unwrap();
            let builder = Builder::new().datapath(DatapathKind::Udp).client(tls);
            let mut engine = builder.engine().unwrap();
            let mut last = None;
            for _ in 0..MAX_WAITING_FOR_TICKETS + 2 {
                engine.connect(to, NAME).unwrap();
                match engine.next(Some(Duration::from_secs(10))).unwrap().unwrap() {
                    Event::Connected { session, .. } => last = Some(session),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(engine.limit_stats().waiting_for_tickets, 2);
            // A session that takes none is one like the others.
            engine.call(last.unwrap(), "y", CallOptions::default()).unwrap();
            match engine.next(Some(Duration::from_secs(10))).unwrap().unwrap() {
                Event::Response { result, .. } => assert_eq!(&*result.unwrap(), b"y"),
                other => panic!("{other:?}"),
            }
        })
        .unwrap();
}

fn garbage() {
    use smt::datapath::{OpenOptions, TxMeta, open};
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let server = Server::start(&pair.b, address, server_builder(&ca, address));
    let to = server.address;
    let target = std::net::SocketAddr::new(address, 0);
    pair.a
        .run(move || {
            let mut opened = open(OpenOptions::default()).unwrap();
            for seed in 0..2000u64 {
                let mut packet = pattern(seed, 4 + (seed as usize % 1000));
                // The kernel's filter looks at the destination port alone.
                packet[2..4].copy_from_slice(&to.port().to_be_bytes());
                if let Some(frame) = opened.datapath.frame() {
                    frame[..packet.len()].copy_from_slice(&packet);
                    let meta = TxMeta {
                        dst: target,
                        src: None,
                        len: packet.len(),
                        priority: 7,
                        segment: None,
                        lane: 0,
                    };
                    opened.datapath.commit(meta);
                }
                opened.datapath.flush().unwrap();
            }
        })
        .unwrap();
    let builder = client_builder(&ca, false);
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        assert_eq!(&*session.call("still here?").await.unwrap(), b"still here?");
    })
    .join()
    .unwrap();
}
