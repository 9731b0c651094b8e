//! Loading credentials, and configurations that are refused. The key log.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::pki::{Ca, ECDSA, ED25519, SERVER, client, named};
use super::*;
use crate::tls::config::ClientState;
use crate::tls::key_log::KeyLogFile;

#[test]
fn files_pem_and_der() {
    let dir = TempDir::new("files");
    let ca = Ca::new("ca");
    let (certificate, key) = ca.issue_pem(&named(SERVER), ED25519);
    let path = |name: &str| dir.0.join(name);
    fs::write(path("ca.pem"), &ca.pem).unwrap();
    fs::write(path("server.pem"), &certificate).unwrap();
    fs::write(path("server.key"), &key).unwrap();
    fs::write(path("both.pem"), format!("{key}\n{certificate}")).unwrap();

    let roots = Roots::from_pem_file(path("ca.pem")).unwrap();
    Roots::from_der(vec![ca.der.clone()]).unwrap();
    Identity::from_pem_files(path("both.pem"), path("both.pem")).unwrap();
    let identity = Identity::from_pem_files(path("server.pem"), path("server.key")).unwrap();
    let server = ServerTls::builder(identity).build().unwrap();
    let client = ClientTls::builder(roots).build().unwrap();
    handshake(&client, SERVER, &server).expect_established();
}

#[test]
fn what_is_wrong_is_named() {
    let dir = TempDir::new("wrong");
    let ca = Ca::new("ca");
    let (certificate, key) = ca.issue_pem(&named(SERVER), ECDSA);
    let (_, other_key) = ca.issue_pem(&named(SERVER), ECDSA);
    let (certificate, key, other_key) =
        (certificate.as_bytes(), key.as_bytes(), other_key.as_bytes());

    let missing = dir.0.join("missing.pem");
    let error = Roots::from_pem_file(&missing).unwrap_err();
    assert!(matches!(&error, ConfigError::File { path, .. } if *path == missing));
    assert!(error.to_string().contains("missing.pem"));

    let error = Identity::from_pem(certificate, other_key).unwrap_err();
    assert!(matches!(error, ConfigError::KeyMismatch { .. }), "{error}");
    let error = Identity::from_pem(key, key).unwrap_err();
    assert!(matches!(error, ConfigError::NoCertificate { .. }), "{error}");
    let error = Identity::from_pem(certificate, certificate).unwrap_err();
    assert!(matches!(error, ConfigError::NoKey { .. }), "{error}");
    let error = Identity::from_pem(b"-----BEGIN CERTIFICATE-----\n@@\n", key).unwrap_err();
    assert!(matches!(error, ConfigError::BadPem { .. }), "{error}");
    let error = Identity::from_der(vec![vec![1, 2, 3]], vec![4, 5, 6]).unwrap_err();
    assert!(matches!(error, ConfigError::BadKey { .. }), "{error}");
    let error = Roots::from_der(vec![vec![1, 2, 3]]).unwrap_err();
    assert!(matches!(error, ConfigError::BadCertificate { .. }), "{error}");
    let error = Roots::from_der(Vec::new()).unwrap_err();
    assert!(matches!(error, ConfigError::NoCertificate { .. }), "{error}");
}

#[test]
fn application_protocols_and_lists() {
    let ca = Ca::new("ca");
    let long = format!("smt/1+{}", "x".repeat(250));
    for alpn in ["", "h2", "smt/1+", "smt/10", "smt/2", "smt/1 ", &long] {
        let error = client(&ca).application_protocols([alpn]).build().unwrap_err();
        assert!(matches!(error, ConfigError::BadAlpn { .. }), "{error}");
    }
    let none: [&str; 0] = [];
    let error = client(&ca).application_protocols(none).build().unwrap_err();
    assert!(matches!(error, ConfigError::Empty { .. }), "{error}");
    let error = ServerTls::builder(ca.server_identity()).cipher_suites(&[]).build().unwrap_err();
    assert!(matches!(error, ConfigError::Empty { .. }), "{error}");
}

#[test]
fn the_key_log_has_our_secrets_beside_those_of_tls() {
    let dir = TempDir::new("keylog");
    let path = dir.0.join("keys.log");
    let ca = Ca::new("ca");
    let mut client = client(&ca).build().unwrap();
    let server = ServerTls::builder(ca.server_identity()).build().unwrap();

    handshake(&client, SERVER, &server).expect_established();
    assert!(!path.exists(), "nothing is logged unasked");

    // What `key_log_from_env` does, without touching the environment that all tests share.
    let log = KeyLogFile::open(path.clone()).unwrap();
    let old = client.state();
    let mut config = rustls::ClientConfig::clone(&old.config);
    config.key_log = log.clone();
    client = ClientTls::of(ClientState {
        config: std::sync::Arc::new(config),
        verifier: std::sync::Arc::clone(&old.verifier),
        sessions: None,
        early_tickets: std::sync::Arc::default(),
        key_log: Some(log),
    });
    let (established, _, _) = handshake(&client, SERVER, &server).expect_established();

    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "others can read the key log");
    let lines = fs::read_to_string(&path).unwrap();
    let fields = |label: &str| {
        let line = lines.lines().find(|line| line.starts_with(label)).expect(label);
        let (random, secret) = line[label.len() + 1..].split_once(' ').unwrap();
        (random.to_owned(), secret.to_owned())
    };
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (tls_random, _) = fields("CLIENT_TRAFFIC_SECRET_0");
    let ours = fields("SMT_CLIENT_SECRET_3");
    assert_eq!(ours, (tls_random.clone(), hex(&established.client_secret)));
    let ours = fields("SMT_SERVER_SECRET_3");
    assert_eq!(ours, (tls_random, hex(&established.server_secret)));
}

#[test]
fn a_key_log_that_cannot_be_opened_is_an_error() {
    let error = KeyLogFile::open("/nonexistent/keys.log".into()).unwrap_err();
    assert!(matches!(error, ConfigError::File { .. }), "{error}");
}
