//! What does not work must say why, at both ends, and never hang.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::date_time_ymd;
use smt::tls::{ClientAuth, ClientTls, ServerTls, TlsError};
use smt::{Builder, CallError, ConnectError, Event};
use smt_testbed::{PairOptions, Trial, pair, test};

use crate::bed::{
    Ca, For, NAME, PORT, Server, client_builder, on_host, server_address, server_builder,
};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("unknown_ca", unknown_ca),
        test("wrong_name", wrong_name),
        test("expired_certificate", expired),
        test("missing_client_certificate", missing_client_certificate),
        test("untrusted_client_certificate", untrusted_client_certificate),
        test("no_storm_of_attempts", no_storm),
        test("no_common_alpn", no_common_alpn),
        test("no_common_cipher", no_common_cipher),
        test("absent_server_is_refused_at_once", absent_server),
        test("silent_server_ends_at_the_deadline", silent_server),
        test("killed_server_and_its_successor", killed_server),
        test("dropped_request_is_refused", dropped_request),
        test("cancel_on_drop", cancel_on_drop),
    ]
}

/// Has a client with `client` meet a server with `server`; returns what each end says.
fn meet(client: ClientTls, server: ServerTls) -> (Result<(), ConnectError>, Vec<TlsError>) {
    let pair = pair(PairOptions::default()).unwrap();
    let address = server_address(&pair, false);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let serving = pair
        .b
        .spawn(move || {
            let mut engine = Builder::new().bind(address).server(PORT, server).engine().unwrap();
            ready.send(engine.listen_address().unwrap()).unwrap();
            let mut errors = Vec::new();
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                match engine.next(Some(Duration::from_millis(20))).unwrap() {
                    Some(Event::HandshakeFailed { error, .. }) => errors.push(error),
                    Some(Event::Accepted { .. }) | None => {}
                    Some(other) => panic!("{other:?}"),
                }
            }
            errors
        })
        .unwrap();
    let to = is_ready.recv().unwrap();
    let result = on_host(&pair.a, move || async move {
        let endpoint = Builder::new().client(client).endpoint().unwrap();
        let result = endpoint.connect(to, NAME).await.map(|_| ());
        // The alert of the last attempt is still on its way.
        tokio::time::sleep(Duration::from_millis(50)).await;
        result
    })
    .join()
    .unwrap();
    drop(stop);
    (result, serving.join().unwrap())
}

fn tls_error(result: Result<(), ConnectError>) -> TlsError {
    match result {
        Err(ConnectError::Tls(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn unknown_ca() {
    let (ours, other) = (Ca::new(), Ca::new());
    let server = ServerTls::builder(other.identity(NAME, For::Server)).build().unwrap();
    let (client, server) = meet(ours.client_tls(), server);
    assert_eq!(tls_error(client), TlsError::UnknownIssuer);
    assert!(matches!(server.last(), Some(TlsError::PeerAlert(_))), "{server:?}");
}

fn wrong_name() {
    let ca = Ca::new();
    let server = ServerTls::builder(ca.identity("other.test", For::Server)).build().unwrap();
    let (client, server) = meet(ca.client_tls(), server);
    let error = tls_error(client);
    assert!(
        matches!(&error, TlsError::NameMismatch { expected, presented }
        if expected == NAME && presented.iter().any(|name| name.contains("other.test"))),
        "{error:?}"
    );
    assert!(matches!(server.last(), Some(TlsError::PeerAlert(_))), "{server:?}");
}

fn expired() {
    let ca = Ca::new();
    let identity = ca.identity_with(
        NAME,
        For::Server,
        |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        },
        false,
    );
    let (client, server) = meet(ca.client_tls(), ServerTls::builder(identity).build().unwrap());
    assert!(matches!(tls_error(client), TlsError::Expired { .. }));
    assert!(matches!(server.last(), Some(TlsError::PeerAlert(_))), "{server:?}");
}

fn missing_client_certificate() {
    let ca = Ca::new();
    let client = ClientTls::builder(ca.roots()).build().unwrap();
    let (client, server) = meet(client, ca.server_tls());
    assert_eq!(tls_error(client), TlsError::NoClientCertificate);
    assert_eq!(server.last(), Some(&TlsError::NoClientCertificate));
}

fn untrusted_client_certificate() {
    let (ca, other) = (Ca::new(), Ca::new());
    let client = ClientTls::builder(ca.roots())
        .identity(other.identity("client.test", For::Client))
        .build()
        .unwrap();
    let (client, server) = meet(client, ca.server_tls());
    assert!(matches!(tls_error(client), TlsError::PeerAlert(_)));
    assert_eq!(server.last(), Some(&TlsError::UnknownIssuer));
}

/// A cause that a flipped bit may have (here: two CAs of one name, so that a signature is wrong) is
/// tried again until the deadline, but with pauses.
fn no_storm() {
    let (ca, other) = (Ca::named("one name"), Ca::named("one name"));
    let client = ClientTls::builder(ca.roots())
        .identity(other.identity("client.test", For::Client))
        .build()
        .unwrap();
    let (client, server) = meet(client, ca.server_tls());
    assert!(matches!(tls_error(client), TlsError::PeerAlert(_)));
    assert_eq!(server.last(), Some(&TlsError::BadSignature));
    // Three at once, then pauses of 50, 100, 200, 400, 800 ms and a second each within 5 s.
    assert!((3..=12).contains(&server.len()), "{} attempts", server.len());
}

fn no_common_alpn() {
    let ca = Ca::new();
    let client =
        ClientTls::builder(ca.roots()).application_protocols(["smt/1+kv"]).build().unwrap();
    let server = ServerTls::builder(ca.identity(NAME, For::Server))
        .client_auth(ClientAuth::None)
        .build()
        .unwrap();
    let (client, server) = meet(client, server);
    assert_eq!(tls_error(client), TlsError::NoCommonAlpn);
    assert_eq!(server.last(), Some(&TlsError::NoCommonAlpn));
}

fn no_common_cipher() {
    use smt::proto::crypto::SuiteId;
    let ca = Ca::new();
    let client =
        ClientTls::builder(ca.roots()).cipher_suites(&[SuiteId::Aes256GcmSha384]).build().unwrap();
    let server = ServerTls::builder(ca.identity(NAME, For::Server))
        .cipher_suites(&[SuiteId::Aes128GcmSha256])
        .build()
        .unwrap();
    let (client, server) = meet(client, server);
    assert!(matches!(tls_error(client), TlsError::PeerAlert(_)));
    assert_eq!(server.last(), Some(&TlsError::NoCommonCipher));
}

fn absent_server() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let to = std::net::SocketAddr::new(server_address(&pair, false), PORT);
    let builder = client_builder(&ca, false);
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let start = Instant::now();
        let error = endpoint.connect(to, NAME).await.err().unwrap();
        assert_eq!(error, ConnectError::Refused);
        assert!(start.elapsed() < Duration::from_secs(4), "ICMP was not heard");
    })
    .join()
    .unwrap();
}

fn silent_server() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    // Somebody takes the protocol there, at another port: no ICMP, no answer.
    let server = Server::start(&pair.b, address, server_builder(&ca, address));
    let to = std::net::SocketAddr::new(address, server.address.port() + 1);
    let builder = client_builder(&ca, false).connect_timeout(Duration::from_millis(300));
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let error = endpoint.connect(to, NAME).await.err().unwrap();
        assert_eq!(error, ConnectError::TimedOut(Duration::from_millis(300)));
        assert_eq!(endpoint.session_count(), 0);
    })
    .join()
    .unwrap();
}

fn killed_server() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    // An engine that is dropped without a word is what a killed process looks like.
    let builder = server_builder(&ca, address);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (kill, killed) = std::sync::mpsc::channel::<()>();
    let first = pair
        .b
        .spawn(move || {
            let mut engine = builder.engine().unwrap();
            ready.send(engine.listen_address().unwrap()).unwrap();
            while killed.try_recv().is_err() {
                // Requests are taken, never answered.
                engine.next(Some(Duration::from_millis(5))).unwrap();
            }
        })
        .unwrap();
    let to = is_ready.recv().unwrap();
    let (calling, is_calling) = std::sync::mpsc::channel();
    let (restarted, is_restarted) = tokio::sync::oneshot::channel::<()>();
    let builder = client_builder(&ca, false);
    let client = on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        let calls: Vec<_> = (0..10)
            .map(|_| {
                let session = session.clone();
                tokio::spawn(async move {
                    session.call("anyone there?").deadline(Duration::from_secs(3)).await
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        calling.send(()).unwrap();
        for call in calls {
            let error = call.await.unwrap().err().unwrap();
            assert!(
                matches!(error, CallError::OutcomeUnknown | CallError::DeadlineExceeded),
                "{error:?}"
            );
        }
        is_restarted.await.unwrap();
        let call = session.call("hello again").deadline(Duration::from_secs(10));
        assert_eq!(&*call.await.unwrap(), b"hello again");
    });
    is_calling.recv().unwrap();
    kill.send(()).unwrap();
    first.join().unwrap();
    let server = Server::start(&pair.b, address, server_builder(&ca, address));
    restarted.send(()).unwrap();
    client.join().unwrap();
    drop(server);
}

fn dropped_request() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let builder = server_builder(&ca, address);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = on_host(&pair.b, move || async move {
        let endpoint = builder.endpoint().unwrap();
        ready.send(endpoint.listen_address().unwrap()).unwrap();
        let session = endpoint.accept().await.unwrap();
        drop(session.accept().await.unwrap());
        session.accept().await.unwrap().refuse(300, "not today");
        endpoint.close().await;
    });
    let to = is_ready.recv().unwrap();
    let builder = client_builder(&ca, false);
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        let codes = [1, 300];
        for code in codes {
            match session.call("hm").await {
                Err(CallError::Refused(reply)) => assert_eq!(reply.code, code),
                other => panic!("{other:?}"),
            }
        }
    })
    .join()
    .unwrap();
    server.join().unwrap();
}

fn cancel_on_drop() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let builder = server_builder(&ca, address);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = pair
        .b
        .spawn(move || {
            let mut engine = builder.engine().unwrap();
            ready.send(engine.listen_address().unwrap()).unwrap();
            loop {
                match engine.next(Some(Duration::from_secs(10))).unwrap() {
                    Some(Event::RequestCancelled { rpc }) => {
                        assert!(!engine.reply(rpc, "too late"));
                        return;
                    }
                    Some(_) => {}
                    None => panic!("nobody cancelled"),
                }
            }
        })
        .unwrap();
    let to = is_ready.recv().unwrap();
    let builder = client_builder(&ca, false);
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        let call = tokio::time::timeout(Duration::from_millis(100), session.call("slow"));
        assert!(call.await.is_err());
        tokio::time::sleep(Duration::from_millis(200)).await;
    })
    .join()
    .unwrap();
    server.join().unwrap();
}
