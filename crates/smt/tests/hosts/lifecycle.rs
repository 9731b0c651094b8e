//! How endpoints, sessions and handshakes begin and end beside each other.

use std::sync::Arc;
use std::time::Duration;

use smt::{CallError, ConnectError, StartError};
use smt_testbed::{PairOptions, Trial, pair, test};

use crate::bed::{Ca, NAME, Server, client_builder, on_host, server_address, server_builder};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("dropped_handles_close_their_sessions", dropped_handles),
        test("a_closed_endpoint_answers_everybody", closed_endpoint),
        test("handshakes_beside_calls", handshakes_beside_calls),
        test("key_log_only_on_request", key_log),
        test("key_update_under_load", key_update),
        test("sessions_are_resumed", resumption),
        test("certificates_are_replaced_while_sessions_run", rotation),
    ]
}

fn dropped_handles() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let builder = server_builder(&ca, address);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (done, client_is_done) = tokio::sync::oneshot::channel();
    let server = on_host(&pair.b, move || async move {
        let endpoint = builder.endpoint().unwrap();
        ready.send(endpoint.listen_address().unwrap()).unwrap();
        let session = endpoint.accept().await.unwrap();
        // The client's drop arrives as the end of the session.
        assert!(session.accept().await.is_none());
        let gone = CallError::NotStarted(StartError::NoSession);
        assert_eq!(session.call("hello?").await, Err(gone));
        // The second session is never accepted, which keeps nobody from using its own end of it.
        client_is_done.await.unwrap();
        assert_eq!(endpoint.session_count(), 1);
    });
    let to = is_ready.recv().unwrap();
    let builder = client_builder(&ca, false);
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        drop(endpoint.connect(to, NAME).await.unwrap());
        let _second = endpoint.connect(to, NAME).await.unwrap();
        // The first one's end is confirmed before the second is looked at.
        while endpoint.session_count() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        done.send(()).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    })
    .join()
    .unwrap();
    server.join().unwrap();
}

fn closed_endpoint() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let server = Server::start(&pair.b, address, server_builder(&ca, address));
    let (to, builder) = (server.address, client_builder(&ca, false));
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        let waiting = tokio::spawn({
            let session = session.clone();
            async move { session.accept().await.is_none() }
        });
        endpoint.close().await;
        assert!(waiting.await.unwrap());
        let gone = CallError::NotStarted(StartError::NoSession);
        assert_eq!(session.call("hello?").await, Err(gone));
        let error = endpoint.connect(to, NAME).await.err();
        assert_eq!(error, Some(ConnectError::EndpointClosed));
        assert!(endpoint.accept().await.is_none());
    })
    .join()
    .unwrap();
}

fn handshakes_beside_calls() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let server = Server::start(&pair.b, address, server_builder(&ca, address));
    let (to, builder) = (server.address, client_builder(&ca, false));
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        let connects: Vec<_> = (0..25)
            .map(|_| {
                let endpoint = endpoint.clone();
                tokio::spawn(async move { endpoint.connect(to, NAME).await.map(drop) })
            })
            .collect();
        for number in 0..500 {
            let text = format!("call {number}");
            assert_eq!(&*session.call(text.clone()).await.unwrap(), text.as_bytes());
        }
        for connect in connects {
            connect.await.unwrap().unwrap();
        }
    })
    .join()
    .unwrap();
}

/// The environment alone logs nothing; the builder's word alone neither. Runs this program anew,
/// since the environment belongs to the whole process.
fn key_log() {
    let log = std::env::temp_dir().join(format!("smt-keys-{}", std::process::id()));
    for asked in [false, true] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "peer_identity", "--test-threads", "1", "--quiet"]);
        child.env("SSLKEYLOGFILE", &log).stdout(std::process::Stdio::null());
        if asked {
            child.env(crate::bed::LOG_KEYS, "1");
        }
        assert!(child.status().unwrap().success());
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let logged = text.lines().any(|line| line.starts_with("SMT_CLIENT_SECRET_3 "));
        assert_eq!(logged, asked, "{text}");
    }
    let _ = std::fs::remove_file(&log);
}

fn key_update() {
    use smt::AeadLimits;
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let few = AeadLimits { records: 400, blocks: u64::MAX, failed_opens: u64::MAX };
    let server = Server::start(&pair.b, address, server_builder(&ca, address).aead_limits(few));
    let (to, builder) = (server.address, client_builder(&ca, false).aead_limits(few));
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let session = endpoint.connect(to, NAME).await.unwrap();
        for number in 0..3000u32 {
            let body = number.to_be_bytes().to_vec();
            assert_eq!(*session.call(body.clone()).await.unwrap(), body);
        }
        assert!(endpoint.stats().key_updates >= 10);
    })
    .join()
    .unwrap();
}

/// A client that comes back need not be asked for certificates again, and says so.
fn resumption() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let server = Server::start(&pair.b, address, server_builder(&ca, address));
    let (to, builder) = (server.address, client_builder(&ca, false));
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        // The first session's tickets come some time after it.
        for attempt in 0.. {
            let session = endpoint.connect(to, NAME).await.unwrap();
            assert_eq!(session.peer().dns_names(), [NAME]);
            assert!(attempt > 0 || !session.info().resumed);
            assert_eq!(&*session.call("hello").await.unwrap(), b"hello");
            if session.info().resumed {
                break;
            }
            assert!(attempt < 50, "never resumed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .join()
    .unwrap();
}

/// New sessions show the new certificate, those that run go on.
fn rotation() {
    use smt::tls::{ClientAuth, ServerTls};
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let serving = |extra: &str| {
        let names = |params: &mut rcgen::CertificateParams| {
            let name = rcgen::SanType::DnsName(extra.try_into().unwrap());
            params.subject_alt_names.push(name);
        };
        let identity = ca.identity_with(NAME, crate::bed::For::Server, names, false);
        let auth = ClientAuth::Required(ca.roots());
        ServerTls::builder(identity).client_auth(auth).build().unwrap()
    };
    let (tls, new) = (serving("old.test"), serving("new.test"));
    let builder = smt::Builder::new().bind(address).server(crate::bed::PORT, tls.clone());
    let server = Server::start(&pair.b, address, builder);
    let (to, builder) = (server.address, client_builder(&ca, false));
    let other = client_builder(&ca, false);
    on_host(&pair.a, move || async move {
        let endpoint = builder.endpoint().unwrap();
        let old = endpoint.connect(to, NAME).await.unwrap();
        assert_eq!(old.peer().dns_names(), [NAME, "old.test"]);
        tls.replace(&new);
        let calls = tokio::spawn({
            let old = old.clone();
            async move {
                for number in 0..200u32 {
                    let body = number.to_be_bytes().to_vec();
                    assert_eq!(*old.call(body.clone()).await.unwrap(), body);
                }
            }
        });
        // A client of its own has no tickets of the time before.
        let other = other.endpoint().unwrap();
        let fresh = other.connect(to, NAME).await.unwrap();
        assert!(!fresh.info().resumed);
        assert_eq!(fresh.peer().dns_names(), [NAME, "new.test"]);
        calls.await.unwrap();
    })
    .join()
    .unwrap();
}
