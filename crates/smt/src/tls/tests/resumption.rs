//! Sessions that are resumed by tickets, and those that must not be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pki::{Ca, ECDSA, SERVER, client, mutual_pair, named};
use super::*;
use crate::tls::config::ClientState;

/// A handshake, and whether it resumed; both ends agree on that.
fn connect(client: &ClientTls, server: &ServerTls) -> (Established, Established, bool) {
    let (client, server, flights) = handshake(client, SERVER, server).expect_established();
    assert_eq!(flights, 3);
    assert_eq!(client.resumed, server.resumed);
    assert_eq!(client.client_secret, server.client_secret);
    assert_eq!(client.server_secret, server.server_secret);
    let resumed = client.resumed;
    (client, server, resumed)
}

fn resumes(client: &ClientTls, server: &ServerTls) -> bool {
    connect(client, server).2
}

#[test]
fn the_second_handshake_resumes_with_fresh_secrets_and_the_same_peers() {
    let ca = Ca::new("ca");
    for suite in SUITES {
        let (client, server) = mutual_pair(&ca);
        let server_only = ServerTls::builder(ca.server_identity())
            .client_auth(ClientAuth::Required(ca.roots()))
            .cipher_suites(&[suite])
            .build()
            .unwrap();
        server.replace(&server_only);
        let (first_client, first_server, resumed) = connect(&client, &server);
        assert!(!resumed);
        for _ in 0..10 {
            let (again_client, again_server, resumed) = connect(&client, &server);
            assert!(resumed, "tickets of resumed sessions resume too");
            assert_eq!(again_client.suite, suite);
            assert_eq!(again_client.peer, first_client.peer);
            assert_eq!(again_server.peer, first_server.peer);
            assert_ne!(again_client.client_secret, first_client.client_secret);
        }
    }
}

#[test]
fn resuming_takes_a_fraction_of_the_bytes() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    let full = handshake(&client, SERVER, &server).bytes;
    let resumed = handshake(&client, SERVER, &server);
    assert!(resumed.bytes < full, "{} of {full}", resumed.bytes);
}

#[test]
fn either_end_may_decline() {
    let ca = Ca::new("ca");
    let (willing, server) = mutual_pair(&ca);
    let unwilling = client(&ca)
        .identity(ca.issue(&named("client.example"), ECDSA))
        .resumption(false)
        .build()
        .unwrap();
    assert!(willing.wants_tickets() && !unwilling.wants_tickets());
    assert!(!resumes(&unwilling, &server) && !resumes(&unwilling, &server));
    let sends_none = ServerTls::builder(ca.server_identity()).tickets(0).build().unwrap();
    assert!(!resumes(&willing, &sends_none) && !resumes(&willing, &sends_none));
    // Tickets of one server are of no use to another of the same name, which does no harm.
    assert!(!resumes(&willing, &server) && !resumes(&willing, &sends_none));
}

#[test]
fn names_do_not_share_tickets() {
    let ca = Ca::new("ca");
    let mut params = named(SERVER);
    params.subject_alt_names.push(rcgen::SanType::DnsName("other.example".try_into().unwrap()));
    let server = ServerTls::builder(ca.issue(&params, ECDSA)).build().unwrap();
    let client = client(&ca).build().unwrap();
    assert!(!resumes(&client, &server));
    let (other, _, _) = handshake(&client, "other.example", &server).expect_established();
    assert!(!other.resumed);
}

#[test]
fn a_key_share_that_does_not_fit_means_a_full_handshake() {
    let ca = Ca::new("ca");
    let server = ServerTls::builder(ca.server_identity()).build().unwrap();
    let client = client(&ca).build().unwrap();
    assert!(!resumes(&client, &server));
    let p256 = ServerTls::builder(ca.server_identity()).key_exchange(KeyExchange::NistP256);
    server.replace(&p256.build().unwrap());
    // The client remembers which share the server wants.
    let (client_end, server_end, flights) =
        handshake(&client, SERVER, &server).expect_established();
    assert_eq!((client_end.resumed, server_end.resumed, flights), (false, false, 5));
    assert!(resumes(&client, &server));
}

#[test]
fn a_new_server_certificate_lets_sessions_resume() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    let (_, new) = mutual_pair(&ca);
    assert!(!resumes(&client, &server));
    server.replace(&new);
    assert!(resumes(&client, &server));
}

#[test]
fn ticket_keys_rotate_by_one_generation() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    assert!(!resumes(&client, &server));
    server.rotate_ticket_keys().unwrap();
    assert!(resumes(&client, &server));
    server.rotate_ticket_keys().unwrap();
    server.rotate_ticket_keys().unwrap();
    assert!(!resumes(&client, &server));
}

#[test]
fn other_client_authorities_end_tickets() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    assert!(!resumes(&client, &server));
    let other = Ca::new("another ca");
    let identity = ca.server_identity();
    let asks = |client_auth| {
        ServerTls::builder(identity.clone()).client_auth(client_auth).build().unwrap()
    };
    server.replace(&asks(ClientAuth::Required(other.roots())));
    let (client_error, server_error) = handshake(&client, SERVER, &server).expect_failed();
    assert_eq!(client_error, TlsError::PeerAlert(Alert::UNKNOWN_CA));
    assert_eq!(server_error, TlsError::UnknownIssuer);

    // Anonymous once is not let in by a ticket when certificates are required.
    let anonymous = super::pki::client(&ca).build().unwrap();
    server.replace(&asks(ClientAuth::None));
    assert!(!resumes(&anonymous, &server));
    server.replace(&asks(ClientAuth::Required(ca.roots())));
    let (client_error, server_error) = handshake(&anonymous, SERVER, &server).expect_failed();
    assert_eq!(client_error, TlsError::NoClientCertificate);
    assert_eq!(server_error, TlsError::NoClientCertificate);
}

#[test]
fn replaced_roots_and_identities_end_a_clients_tickets() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    assert!(!resumes(&client, &server));
    let (same_roots, _) = mutual_pair(&ca);
    client.replace(&same_roots);
    assert!(!resumes(&client, &server), "another client identity");
    assert!(resumes(&client, &server));
    client.replace(&super::pki::client(&Ca::new("another ca")).build().unwrap());
    let (client_error, _) = handshake(&client, SERVER, &server).expect_failed();
    assert_eq!(client_error, TlsError::UnknownIssuer);
}

/// Both ends ask a rule whose answer the test changes between two handshakes.
fn ruled_pair(ca: &Ca) -> (ClientTls, ServerTls, [Arc<AtomicBool>; 2]) {
    let allowed = [Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true))];
    let [client_allows, server_allows] = allowed.clone();
    let rule = |allows: Arc<AtomicBool>, name: &'static str| {
        move |peer: &PeerIdentity| {
            assert_eq!(peer.dns_names(), [name]);
            if allows.load(Ordering::Relaxed) { Ok(()) } else { Err("not today".to_owned()) }
        }
    };
    let client = client(ca)
        .identity(ca.issue(&named("client.example"), ECDSA))
        .authorise(rule(client_allows, SERVER))
        .build()
        .unwrap();
    // The rule is only asked about anonymous clients where these are possible.
    let server = ServerTls::builder(ca.server_identity())
        .client_auth(ClientAuth::Required(ca.roots()))
        .authorise(rule(server_allows, "client.example"))
        .build()
        .unwrap();
    (client, server, allowed)
}

#[test]
fn the_applications_rule_is_asked_again() {
    let ca = Ca::new("ca");
    let denied = TlsError::NotAuthorised { reason: "not today".to_owned() };
    let (client, server, [_, server_allows]) = ruled_pair(&ca);
    assert!(!resumes(&client, &server));
    server_allows.store(false, Ordering::Relaxed);
    let outcome = handshake(&client, SERVER, &server);
    assert_eq!(outcome.server.unwrap_err(), denied);
    assert_eq!(outcome.client.unwrap_err(), TlsError::PeerAlert(Alert::ACCESS_DENIED));
    server_allows.store(true, Ordering::Relaxed);
    assert!(resumes(&client, &server), "one of the first two tickets is left");

    let (client, server, [client_allows, _]) = ruled_pair(&ca);
    assert!(!resumes(&client, &server));
    client_allows.store(false, Ordering::Relaxed);
    assert_eq!(handshake(&client, SERVER, &server).client.unwrap_err(), denied);
    // The tickets went with it: the next attempt is a full handshake, and is told to the server.
    let outcome = handshake(&client, SERVER, &server);
    assert_eq!(outcome.client.unwrap_err(), denied);
    assert_eq!(outcome.server.unwrap_err(), TlsError::PeerAlert(Alert::ACCESS_DENIED));
}

#[test]
fn tickets_that_were_damaged_or_come_at_the_wrong_time() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    let start = || {
        let (client, hello) = ClientHandshake::start(&client, SERVER).unwrap();
        (client, ServerHandshake::new(&server), hello)
    };
    let (mut early, mut server_end, hello) = start();
    assert!(matches!(early.post(b"early"), Err(TlsError::Internal { .. })));
    let flight = server_end.read_flight(&hello).send.unwrap();
    let finished = early.read_flight(&flight);
    assert_eq!((finished.post, finished.state), (None, HandshakeState::Done));
    let done = server_end.read_flight(&finished.send.unwrap());
    assert_eq!((done.send, done.state), (None, HandshakeState::Done));
    let tickets = done.post.unwrap();
    let mut damaged = tickets.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let error = early.post(&damaged).unwrap_err();
    assert!(matches!(error, TlsError::Corrupt { .. }), "{error}");
    assert_eq!(early.post(&tickets), Err(error), "of no further use");
    assert!(!resumes(&client, &server), "nothing was kept of the damaged tickets");
    assert!(resumes(&client, &server));
}

#[test]
fn a_ticket_that_no_longer_opens_or_is_altered_is_ignored_or_refused() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    assert!(!resumes(&client, &server));
    // The ticket is near the end of the ClientHello, before the binder.
    let outcome = handshake_through(&client, SERVER, &server, |number, flight| {
        if number == 0 {
            let at = flight.len() - 100;
            flight[at] ^= 1;
        }
    });
    assert!(outcome.client.is_err() && outcome.server.is_err());
}

#[test]
fn tickets_are_bounded_per_server() {
    let ca = Ca::new("ca");
    let (client, _) = mutual_pair(&ca);
    let server = ServerTls::builder(ca.server_identity()).tickets(1000).build().unwrap();
    assert!(!resumes(&client, &server));
    let ClientState { config, sessions, .. } = &*client.state();
    assert_eq!(Arc::strong_count(config), 1);
    let store = &sessions.as_ref().unwrap().store;
    let name = rustls::pki_types::ServerName::try_from(SERVER).unwrap();
    let kept = std::iter::from_fn(|| {
        rustls::client::ClientSessionStore::take_tls13_ticket(store.as_ref(), &name)
    });
    assert_eq!(kept.count(), MAX_TICKETS);
}

#[test]
fn tickets_that_are_too_long_are_not_kept() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    for (len, too_long) in [(MAX_TLS_TICKETS_LEN, 0), (MAX_TLS_TICKETS_LEN + 1, 1)] {
        let (mut handshake, flight) = ClientHandshake::start(&client, SERVER).unwrap();
        let mut peer = ServerHandshake::new(&server);
        let flight = peer.read_flight(&flight).send.unwrap();
        let flight = handshake.read_flight(&flight).send.unwrap();
        assert!(peer.read_flight(&flight).post.is_some());
        // What is not too long is looked at, and found to be no ticket.
        assert!(matches!(handshake.post(&vec![0; len]), Err(TlsError::Corrupt { .. })));
        assert_eq!(client.stats().tickets_too_long, too_long);
    }
    assert!(!resumes(&client, &server));
    assert!(resumes(&client, &server));
}

#[test]
fn tickets_are_bounded_in_servers() {
    let ca = Ca::new("ca");
    let server = ServerTls::builder(ca.issue(&named("*.many.example"), ECDSA)).build().unwrap();
    let client = client(&ca).key_exchange(KeyExchange::Classic).build().unwrap();
    let resumes = |n: usize| {
        let name = format!("s{n}.many.example");
        handshake(&client, &name, &server).expect_established().0.resumed
    };
    for n in 0..=MAX_TICKETED_SERVERS {
        assert!(!resumes(n), "{n}");
    }
    assert!(resumes(MAX_TICKETED_SERVERS));
    assert!(resumes(1));
    assert!(!resumes(0), "the one known longest has made room");
}
