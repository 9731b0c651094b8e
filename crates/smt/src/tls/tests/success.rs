//! Handshakes that succeed, and what comes out of them.

use std::net::IpAddr;

use rcgen::{DnType, SanType};

use super::pki::{Ca, ECDSA, ED25519, SERVER, client, mutual_pair, named};
use super::*;

#[test]
fn all_suites_keys_and_exchanges() {
    let ca = Ca::new("ca");
    for suite in SUITES {
        for algorithm in [ECDSA, ED25519] {
            for key_exchange in [KeyExchange::HybridPostQuantum, KeyExchange::Classic] {
                for mutual in [true, false] {
                    let mut client = client(&ca).cipher_suites(&[suite]).key_exchange(key_exchange);
                    let mut server = ServerTls::builder(ca.issue(&named(SERVER), algorithm));
                    if mutual {
                        client = client.identity(ca.issue(&named("c.example"), algorithm));
                        server = server.client_auth(ClientAuth::Required(ca.roots()));
                    }
                    let outcome =
                        handshake(&client.build().unwrap(), SERVER, &server.build().unwrap());
                    let (client, server, flights) = outcome.expect_established();
                    assert_eq!(flights, 3);
                    assert_agreed(&client, &server);
                    assert_eq!(client.suite, suite);
                    assert_eq!(client.peer.dns_names(), [SERVER]);
                    assert_eq!(server.peer.is_anonymous(), !mutual);
                }
            }
        }
    }
}

fn assert_agreed(client: &Established, server: &Established) {
    assert_eq!(client.suite, server.suite);
    assert_eq!(client.alpn, server.alpn);
    assert_eq!(client.client_secret, server.client_secret);
    assert_eq!(client.server_secret, server.server_secret);
    assert_ne!(client.client_secret, client.server_secret);
    let hash_len = if client.suite == SuiteId::Aes256GcmSha384 { 48 } else { 32 };
    assert_eq!((client.client_secret.len(), client.server_secret.len()), (hash_len, hash_len));
}

#[test]
fn defaults_prefer_aes_128() {
    let ca = Ca::new("ca");
    let server = ServerTls::builder(ca.server_identity()).build().unwrap();
    let (client, _, _) =
        handshake(&client(&ca).build().unwrap(), SERVER, &server).expect_established();
    assert_eq!(client.suite, SuiteId::Aes128GcmSha256);
    assert_eq!(client.alpn, DEFAULT_ALPN.as_bytes());
}

#[test]
fn hello_retry_request_takes_two_more_flights() {
    let ca = Ca::new("ca");
    let client = client(&ca).key_exchange(KeyExchange::HybridPostQuantum).build().unwrap();
    let server = ServerTls::builder(ca.server_identity())
        .key_exchange(KeyExchange::NistP256)
        .build()
        .unwrap();
    let (client, server, flights) = handshake(&client, SERVER, &server).expect_established();
    assert_eq!(flights, 5);
    assert_agreed(&client, &server);
}

#[test]
fn the_common_application_protocol_is_chosen() {
    let ca = Ca::new("ca");
    let client = client(&ca).application_protocols(["smt/1+redis", "smt/1"]).build().unwrap();
    let server = ServerTls::builder(ca.server_identity())
        .application_protocols(["smt/1+nvme", "smt/1+redis"])
        .build()
        .unwrap();
    let (client, server, _) = handshake(&client, SERVER, &server).expect_established();
    assert_agreed(&client, &server);
    assert_eq!(client.alpn, b"smt/1+redis");
}

#[test]
fn secrets_depend_on_context_and_handshake() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    let (first, _, _) = handshake(&client, SERVER, &server).expect_established();
    let (second, _, _) = handshake(&client, SERVER, &server).expect_established();
    assert_ne!(first.client_secret, second.client_secret);

    let (mut client, hello) = ClientHandshake::start(&client, SERVER).unwrap();
    let mut server = ServerHandshake::new(&server);
    let flight = server.read_flight(&hello).send.unwrap();
    assert_eq!(client.read_flight(&flight).state, HandshakeState::Done);
    let one = client.finish(|_, _| b"one".to_vec()).unwrap();
    let other = client.finish(|_, _| b"other".to_vec()).unwrap();
    assert_ne!(one.client_secret, other.client_secret);
    assert!(matches!(server.finish(context), Err(TlsError::Internal { .. })), "before Finished");
}

#[test]
fn optional_client_certificates() {
    let ca = Ca::new("ca");
    let server = ServerTls::builder(ca.server_identity())
        .client_auth(ClientAuth::Optional(ca.roots()))
        .build()
        .unwrap();
    let anonymous = client(&ca).build().unwrap();
    let (_, seen, _) = handshake(&anonymous, SERVER, &server).expect_established();
    assert_eq!(seen.peer, PeerIdentity::default());
    let named = client(&ca).identity(ca.issue(&named("c.example"), ED25519)).build().unwrap();
    let (_, seen, _) = handshake(&named, SERVER, &server).expect_established();
    assert_eq!(seen.peer.dns_names(), ["c.example"]);
}

#[test]
fn all_names_of_the_peer() {
    let ca = Ca::new("ca");
    let v4: IpAddr = "192.0.2.7".parse().unwrap();
    let v6: IpAddr = "2001:db8::7".parse().unwrap();
    let spiffe = "spiffe://example/ns/a/sa/b";
    let mut params = named(SERVER);
    params.distinguished_name.push(DnType::CommonName, "Ünal the server");
    params.subject_alt_names.extend([
        SanType::DnsName("*.wild.example".try_into().unwrap()),
        SanType::URI(spiffe.try_into().unwrap()),
        SanType::IpAddress(v4),
        SanType::IpAddress(v6),
        SanType::Rfc822Name("ops@example".try_into().unwrap()),
    ]);
    let server = ServerTls::builder(ca.issue(&params, ECDSA)).build().unwrap();
    let client = client(&ca).build().unwrap();
    for name in [SERVER, "a.wild.example", "192.0.2.7", "2001:db8::7"] {
        let (seen, _, _) = handshake(&client, name, &server).expect_established();
        assert_eq!(seen.peer.dns_names(), [SERVER, "*.wild.example"]);
        assert_eq!(seen.peer.uris(), [spiffe]);
        assert_eq!(seen.peer.ips(), [v4, v6]);
        assert_eq!(seen.peer.common_name(), Some("Ünal the server"));
        assert_eq!(seen.peer.chain().len(), 1);
    }
}

#[test]
fn handshakes_can_move_to_workers() {
    fn assert_send<T: Send + 'static>() {}
    assert_send::<ClientHandshake>();
    assert_send::<ServerHandshake>();
    assert_send::<Progress>();
    assert_send::<Established>();
}

#[test]
fn secrets_are_not_printed() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    let (client, _, _) = handshake(&client, SERVER, &server).expect_established();
    assert!(!format!("{client:?}").contains("secret"));
}
