//! Handshakes that fail, and what each end says of it.

use std::sync::Arc;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore};

use super::pki::{Ca, ECDSA, SERVER, client, mutual_pair, named, valid_between};
use super::*;
use crate::tls::config::ServerState;

#[test]
fn unknown_issuer() {
    let ca = Ca::new("ca");
    let client = client(&Ca::new("another ca")).build().unwrap();
    let server = ServerTls::builder(ca.server_identity()).build().unwrap();
    let (client, server) = handshake(&client, SERVER, &server).expect_failed();
    assert_eq!(client, TlsError::UnknownIssuer);
    assert_eq!(server, TlsError::PeerAlert(Alert::UNKNOWN_CA));
    assert!(client.is_definite() && server.is_definite());
}

#[test]
fn name_mismatch() {
    let ca = Ca::new("ca");
    let server = ServerTls::builder(ca.server_identity()).build().unwrap();
    for expected in ["other.example", "192.0.2.1"] {
        let client = client(&ca).build().unwrap();
        let (client, server) = handshake(&client, expected, &server).expect_failed();
        let presented = vec![SERVER.to_owned()];
        assert_eq!(client, TlsError::NameMismatch { expected: expected.to_owned(), presented });
        assert_eq!(server, TlsError::PeerAlert(Alert::BAD_CERTIFICATE));
        assert!(client.is_definite() && server.is_definite());
        assert!(client.to_string().contains(expected) && client.to_string().contains(SERVER));
    }
}

#[test]
fn out_of_validity() {
    let ca = Ca::new("ca");
    let client = client(&ca).build().unwrap();
    let past = ca.issue(&valid_between(SERVER, 2000, 2001), ECDSA);
    let server = ServerTls::builder(past).build().unwrap();
    let (error, server) = handshake(&client, SERVER, &server).expect_failed();
    assert!(matches!(error, TlsError::Expired { not_after: 978_307_200, .. }), "{error:?}");
    assert!(error.to_string().contains("days"));
    assert_eq!(server, TlsError::PeerAlert(Alert::CERTIFICATE_EXPIRED));
    assert!(error.is_definite() && server.is_definite());

    let future = ca.issue(&valid_between(SERVER, 3000, 3001), ECDSA);
    let server = ServerTls::builder(future).build().unwrap();
    let (error, server) = handshake(&client, SERVER, &server).expect_failed();
    assert!(matches!(error, TlsError::NotYetValid { .. }), "{error:?}");
    assert_eq!(server, TlsError::PeerAlert(Alert::CERTIFICATE_EXPIRED));
}

#[test]
fn wrong_purpose() {
    let ca = Ca::new("ca");
    let mut params = named(SERVER);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let server = ServerTls::builder(ca.issue(&params, ECDSA)).build().unwrap();
    let (client, server) =
        handshake(&client(&ca).build().unwrap(), SERVER, &server).expect_failed();
    assert!(matches!(client, TlsError::BadCertificate { .. }), "{client:?}");
    assert_eq!(server, TlsError::PeerAlert(Alert::UNSUPPORTED_CERTIFICATE));
}

#[test]
fn missing_client_certificate() {
    let ca = Ca::new("ca");
    let (_, server) = mutual_pair(&ca);
    let anonymous = client(&ca).build().unwrap();
    let (client, server) = handshake(&anonymous, SERVER, &server).expect_failed();
    assert_eq!(client, TlsError::NoClientCertificate);
    assert_eq!(server, TlsError::NoClientCertificate);
    assert!(client.is_definite());
}

#[test]
fn untrusted_client_certificate() {
    let (ca, another) = (Ca::new("ca"), Ca::new("another ca"));
    let (_, server) = mutual_pair(&ca);
    let client = client(&ca).identity(another.issue(&named("c.example"), ECDSA)).build().unwrap();
    let (client, server) = handshake(&client, SERVER, &server).expect_failed();
    assert_eq!(client, TlsError::PeerAlert(Alert::UNKNOWN_CA));
    assert_eq!(server, TlsError::UnknownIssuer);
}

#[test]
fn expired_client_certificate() {
    let ca = Ca::new("ca");
    let (_, server) = mutual_pair(&ca);
    let identity = ca.issue(&valid_between("c.example", 2000, 2001), ECDSA);
    let client = client(&ca).identity(identity).build().unwrap();
    let (client, server) = handshake(&client, SERVER, &server).expect_failed();
    assert_eq!(client, TlsError::PeerAlert(Alert::CERTIFICATE_EXPIRED));
    assert!(matches!(server, TlsError::Expired { .. }));
}

#[test]
fn nothing_in_common() {
    let ca = Ca::new("ca");
    let failure = TlsError::PeerAlert(Alert::HANDSHAKE_FAILURE);
    let server = || ServerTls::builder(ca.server_identity());

    let aes = client(&ca).cipher_suites(&[SuiteId::Aes128GcmSha256]).build().unwrap();
    let chacha = server().cipher_suites(&[SuiteId::ChaCha20Poly1305Sha256]).build().unwrap();
    let ends = handshake(&aes, SERVER, &chacha).expect_failed();
    assert_eq!(ends, (failure.clone(), TlsError::NoCommonCipher));
    assert!(ends.0.is_definite() && ends.1.is_definite());

    let classic = client(&ca).key_exchange(KeyExchange::Classic).build().unwrap();
    let hybrid = server().key_exchange(KeyExchange::HybridOnly).build().unwrap();
    let ends = handshake(&classic, SERVER, &hybrid).expect_failed();
    assert_eq!(ends, (failure, TlsError::NoCommonKeyExchange));
    assert!(ends.0.is_definite() && ends.1.is_definite());

    let plain = client(&ca).build().unwrap();
    let redis = server().application_protocols(["smt/1+redis"]).build().unwrap();
    let ends = handshake(&plain, SERVER, &redis).expect_failed();
    assert_eq!(ends, (TlsError::NoCommonAlpn, TlsError::NoCommonAlpn));
    assert!(ends.0.is_definite());
}

/// A TLS client as other programs have it: same CA, but no application protocol.
fn foreign_client(ca: &Ca, alpn: &[&[u8]]) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der.clone().into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    ClientConnection::new(Arc::new(config), ServerName::try_from(SERVER).unwrap()).unwrap()
}

#[test]
fn clients_without_our_application_protocol_are_refused() {
    let ca = Ca::new("ca");
    let tls = ServerTls::builder(ca.server_identity()).build().unwrap();
    let offers: [&[&[u8]]; 2] = [&[], &[b"h2", b"http/1.1"]];
    for alpn in offers {
        let mut client = foreign_client(&ca, alpn);
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let progress = ServerHandshake::new(&tls).read_flight(&hello);
        assert_eq!(progress.state, HandshakeState::Failed(TlsError::NoCommonAlpn));
        client.read_tls(&mut progress.send.unwrap().as_slice()).unwrap();
        assert_eq!(
            client.process_new_packets().unwrap_err(),
            rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol),
        );
    }
}

#[test]
fn servers_without_our_application_protocol_are_refused() {
    let ca = Ca::new("ca");
    // As if the server had chosen nothing: a configuration without protocols.
    let tls = ServerTls::builder(ca.server_identity()).tickets(0).build().unwrap();
    let mut state = ServerState::clone(&tls.state());
    Arc::make_mut(&mut state.config).alpn_protocols.clear();
    let tls = ServerTls::of(state);
    let client = client(&ca).build().unwrap();
    let (client, server) = handshake(&client, SERVER, &tls).expect_failed();
    assert_eq!(client, TlsError::NoCommonAlpn);
    assert_eq!(server, TlsError::NoCommonAlpn);
}

#[test]
fn wrong_server_names_and_calls_out_of_order() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    for name in ["", "a b", "-", "1.2.3.4.5"] {
        let error = ClientHandshake::start(&client, name).err();
        assert_eq!(error, Some(TlsError::InvalidServerName { name: name.to_owned() }));
    }
    let (mut client, _) = ClientHandshake::start(&client, SERVER).unwrap();
    assert!(matches!(client.finish(context), Err(TlsError::Internal { .. })));
    assert!(matches!(
        ServerHandshake::new(&server).finish(context),
        Err(TlsError::Internal { .. })
    ));
}

/// Damage in the encrypted flights is never taken for a definite cause; damage in a hello, which
/// nothing protects, may look like one, which is why clients try again even then (spec 5.1). The
/// two ends never establish different secrets.
#[test]
fn damaged_flights() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..600 {
        let damaged = round % 3;
        let mut flipped = (0, 0, false);
        let outcome = handshake_through(&client, SERVER, &server, |number, flight| {
            if number == damaged {
                let bit = usize::try_from(random() % (8 * flight.len() as u64)).unwrap();
                let hello_len = 5 + usize::from(u16::from_be_bytes([flight[3], flight[4]]));
                flight[bit / 8] ^= 1 << (bit % 8);
                flipped = (bit / 8, bit % 8, bit / 8 < hello_len && damaged < 2);
            }
        });
        let (byte, bit, in_hello) = flipped;
        let place = format!("flight {damaged}, byte {byte}, bit {bit}: {outcome:?}");
        match (&outcome.client, &outcome.server) {
            (Ok(client), Ok(server)) => {
                assert_eq!(client.client_secret, server.client_secret, "{place}");
                assert_eq!(client.server_secret, server.server_secret, "{place}");
            }
            // Some client has not heard of the failure of its server: it times out.
            (client, server) => {
                for end in [client, server] {
                    if let Err(error) = end {
                        assert!(in_hello || !error.is_definite(), "{place}");
                    }
                }
            }
        }
    }
}

#[test]
fn truncated_joined_and_empty_flights_fail_at_once() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    let changes: [fn(&mut Vec<u8>); 4] = [
        |flight| flight.truncate(flight.len() - 1),
        |flight| flight.clear(),
        |flight| flight.extend_from_slice(&[22, 3, 3]),
        |flight| flight.truncate(3),
    ];
    for damaged in 0..3 {
        for change in changes {
            let outcome = handshake_through(&client, SERVER, &server, |number, flight| {
                if number == damaged {
                    change(flight);
                }
            });
            let (client, server) = outcome.expect_failed();
            for end in [&client, &server] {
                assert!(!end.is_definite(), "flight {damaged}: {client:?} {server:?}");
            }
        }
    }
}

#[test]
fn a_failed_handshake_stays_failed() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    let (mut client, hello) = ClientHandshake::start(&client, SERVER).unwrap();
    let mut server = ServerHandshake::new(&server);
    let first = server.read_flight(b"not TLS at all");
    assert!(matches!(first.state, HandshakeState::Failed(TlsError::Corrupt { .. })));
    assert!(first.send.is_some());
    let again = server.read_flight(&hello);
    assert_eq!(again, Progress { send: None, post: None, state: first.state });
    let told = client.read_flight(&first.send.unwrap());
    assert_eq!(told.state, HandshakeState::Failed(TlsError::PeerAlert(Alert::DECODE_ERROR)));
    assert_eq!(client.read_flight(&hello).state, told.state);
    assert_eq!(client.finish(context).unwrap_err(), TlsError::PeerAlert(Alert::DECODE_ERROR));
}

#[test]
fn signatures_by_another_key_are_refused() {
    // A CA of the same name and key identifier, but with another key.
    let (ca, impostor) = (Ca::new("ca"), Ca::new("ca"));
    let server = ServerTls::builder(impostor.server_identity()).build().unwrap();
    let (client, _) = handshake(&client(&ca).build().unwrap(), SERVER, &server).expect_failed();
    assert_eq!(client, TlsError::BadSignature);
    assert!(client.is_definite());
}

#[test]
fn alerts_are_sorted_into_definite_and_not() {
    for ambiguous in [10, 20, 47, 50, 51, 80, 0, 90, 255] {
        assert!(!Alert(ambiguous).is_definite(), "{}", Alert(ambiguous));
    }
    for definite in [40, 42, 43, 44, 45, 46, 48, 49, 70, 71, 112, 116, 120] {
        assert!(Alert(definite).is_definite(), "{}", Alert(definite));
    }
}
