//! Who is let in: revocation lists, the application's rule, SPIFFE IDs, remembered chains.

use rcgen::SanType;

use super::pki::{Ca, ECDSA, SERVER, client, mutual_pair, named, numbered};
use super::*;

const SERVER_SERIAL: u64 = 100;
const CLIENT_SERIAL: u64 = 200;

/// Both ends with numbered certificates and these lists of revoked numbers.
fn listed_pair(ca: &Ca, client_crl: &str, server_crl: &str) -> (ClientTls, ServerTls) {
    let client = ClientTls::builder(ca.roots().with_crls(client_crl.as_bytes()).unwrap())
        .identity(ca.issue(&numbered("client.example", CLIENT_SERIAL), ECDSA))
        .build()
        .unwrap();
    let roots = ca.roots().with_crls(server_crl.as_bytes()).unwrap();
    let server = ServerTls::builder(ca.issue(&numbered(SERVER, SERVER_SERIAL), ECDSA))
        .client_auth(ClientAuth::Required(roots))
        .build()
        .unwrap();
    (client, server)
}

#[test]
fn revoked_certificates_are_refused_at_either_end() {
    let ca = Ca::new("ca");
    let none = ca.crl(&[1]);
    let (client, server) = listed_pair(&ca, &none, &none);
    handshake(&client, SERVER, &server).expect_established();

    let (client, server) = listed_pair(&ca, &ca.crl(&[1, SERVER_SERIAL]), &none);
    let (client, server) = handshake(&client, SERVER, &server).expect_failed();
    assert_eq!(client, TlsError::Revoked);
    assert_eq!(server, TlsError::PeerAlert(Alert::CERTIFICATE_REVOKED));

    let (client, server) = listed_pair(&ca, &none, &ca.crl(&[CLIENT_SERIAL]));
    let (client, server) = handshake(&client, SERVER, &server).expect_failed();
    assert_eq!(client, TlsError::PeerAlert(Alert::CERTIFICATE_REVOKED));
    assert_eq!(server, TlsError::Revoked);
}

#[test]
fn what_no_list_covers_is_refused() {
    let ca = Ca::new("ca");
    let other = Ca::new("another ca").crl(&[]);
    let (client, server) = listed_pair(&ca, &other, &ca.crl(&[]));
    let (client, server) = handshake(&client, SERVER, &server).expect_failed();
    assert_eq!(client, TlsError::RevocationUnknown);
    assert_eq!(server, TlsError::PeerAlert(Alert::UNKNOWN_CA));
    // A list of a CA that merely has the same name is not its list.
    let forged = Ca::new("ca").crl(&[]);
    let (client, server) = listed_pair(&ca, &forged, &ca.crl(&[]));
    handshake(&client, SERVER, &server).expect_failed();
}

#[test]
fn a_revocation_ends_resumption() {
    let ca = Ca::new("ca");
    let none = ca.crl(&[1]);
    let (client, server) = listed_pair(&ca, &none, &none);
    handshake(&client, SERVER, &server).expect_established();
    let (resumed, _, _) = handshake(&client, SERVER, &server).expect_established();
    assert!(resumed.resumed);

    // The ticket would still open: the same authorities are trusted.
    let (_, revoking) = listed_pair(&ca, &none, &ca.crl(&[CLIENT_SERIAL]));
    server.replace(&revoking);
    let (_, error) = handshake(&client, SERVER, &server).expect_failed();
    assert_eq!(error, TlsError::Revoked);

    let (client, server) = listed_pair(&ca, &none, &none);
    handshake(&client, SERVER, &server).expect_established();
    let (revoking, _) = listed_pair(&ca, &ca.crl(&[SERVER_SERIAL]), &none);
    client.replace(&revoking);
    let (error, _) = handshake(&client, SERVER, &server).expect_failed();
    assert_eq!(error, TlsError::Revoked);
}

#[test]
fn revocation_lists_that_cannot_be_used_are_named() {
    let ca = Ca::new("ca");
    let dir = TempDir::new("crl");
    let path = dir.0.join("ca.crl");
    let error = ca.roots().with_crl_pem_file(&path).unwrap_err();
    assert!(matches!(error, ConfigError::File { .. }), "{error}");
    let half = ca.crl(&[1]);
    let half = &half[..half.len() / 2];
    let unreadable = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    for (text, expected) in [
        (ca.pem.as_str(), "holds no revocation list"),
        ("", "holds no revocation list"),
        (half, "is not valid PEM"),
        (unreadable, "cannot be used"),
    ] {
        fs::write(&path, text).unwrap();
        let error = ca.roots().with_crl_pem_file(&path).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("ca.crl"), "{error}");
    }
    fs::write(&path, ca.crl(&[1])).unwrap();
    ca.roots().with_crl_pem_file(&path).unwrap();
}

fn refuses_anonymous(peer: &PeerIdentity) -> Result<(), String> {
    if peer.is_anonymous() { Err("who are you?".to_owned()) } else { Ok(()) }
}

#[test]
fn the_rule_decides_about_anonymous_clients_too() {
    let ca = Ca::new("ca");
    let reason = "who are you?".to_owned();
    let server = |client_auth| {
        let server = ServerTls::builder(ca.server_identity()).client_auth(client_auth);
        server.authorise(refuses_anonymous).build().unwrap()
    };
    let anonymous = client(&ca).build().unwrap();
    let outcome = handshake(&anonymous, SERVER, &server(ClientAuth::None));
    let (client_error, server_error) = outcome.expect_failed();
    assert_eq!(client_error, TlsError::PeerAlert(Alert::ACCESS_DENIED));
    assert_eq!(server_error, TlsError::NotAuthorised { reason });
    let server = server(ClientAuth::Optional(ca.roots()));
    let (client_error, server_error) = handshake(&anonymous, SERVER, &server).expect_failed();
    assert_eq!(client_error, TlsError::NoClientCertificate);
    assert_eq!(server_error, TlsError::NoClientCertificate);
    let named = client(&ca).identity(ca.issue(&named("c.example"), ECDSA)).build().unwrap();
    handshake(&named, SERVER, &server).expect_established();
}

/// A client whose certificate holds these URIs.
fn client_with_uris(ca: &Ca, uris: &[&str]) -> ClientTls {
    let mut params = named("client.example");
    let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
    params.subject_alt_names.extend(uris.iter().map(uri));
    client(ca).identity(ca.issue(&params, ECDSA)).build().unwrap()
}

#[test]
fn workloads_are_let_in_by_their_spiffe_id() {
    let ca = Ca::new("ca");
    let billing = "spiffe://example.org/billing";
    let server = ServerTls::builder(ca.server_identity())
        .client_auth(ClientAuth::Required(ca.roots()))
        .authorise(move |peer| match peer.spiffe_id() {
            Some(id) if id.as_str() == billing => Ok(()),
            Some(id) => Err(format!("{} of {}", id.path(), id.trust_domain())),
            None => Err("no SPIFFE ID".to_owned()),
        })
        .build()
        .unwrap();
    let (_, seen, _) =
        handshake(&client_with_uris(&ca, &[billing]), SERVER, &server).expect_established();
    assert_eq!(seen.peer.spiffe_id().unwrap().path(), "/billing");
    for (uris, reason) in [
        (vec!["spiffe://example.org/web"], "/web of example.org"),
        (vec!["spiffe://example.org/billing/"], "no SPIFFE ID"),
        (vec!["https://example.org/billing"], "no SPIFFE ID"),
        (vec![billing, "spiffe://example.org/web"], "no SPIFFE ID"),
        (vec![], "no SPIFFE ID"),
    ] {
        let outcome = handshake(&client_with_uris(&ca, &uris), SERVER, &server);
        let (client, server) = outcome.expect_failed();
        assert_eq!(client, TlsError::PeerAlert(Alert::ACCESS_DENIED));
        assert_eq!(server, TlsError::NotAuthorised { reason: reason.to_owned() });
    }
}

#[test]
fn an_unchanged_chain_is_checked_once_per_configuration() {
    let ca = Ca::new("ca");
    let (_, server) = mutual_pair(&ca);
    let client = client(&ca)
        .identity(ca.issue(&named("client.example"), ECDSA))
        .resumption(false)
        .build()
        .unwrap();
    for n in 0..3 {
        handshake(&client, SERVER, &server).expect_established();
        for stats in [client.stats(), server.stats()] {
            assert_eq!((stats.chains_checked, stats.chains_known), (1, n));
        }
    }
    let (_, same) = mutual_pair(&ca);
    server.replace(&same);
    handshake(&client, SERVER, &server).expect_established();
    assert_eq!((client.stats().chains_checked, server.stats().chains_checked), (2, 1));
}

#[test]
fn a_remembered_chain_does_not_stand_in_for_its_key() {
    let ca = Ca::new("ca");
    let params = named(SERVER);
    let (certificate, key) = ca.issue_pem(&params, ECDSA);
    let honest = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    let client = client(&ca).resumption(false).build().unwrap();
    let server = ServerTls::builder(honest).build().unwrap();
    handshake(&client, SERVER, &server).expect_established();
    // Whoever has the certificate alone signs with another key.
    let chain = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    let other = ca.server_identity();
    let thief = chain.with_key_of(&other);
    let server = ServerTls::builder(thief).build().unwrap();
    let (error, _) = handshake(&client, SERVER, &server).expect_failed();
    assert_eq!(error, TlsError::BadSignature);
    assert_eq!(client.stats().chains_known, 1);
}
