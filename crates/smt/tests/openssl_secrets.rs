//! Traffic secrets of TLS 1.3 handshakes done by another TLS stack (spec 5.1): OpenSSL's programs
//! talk over the loopback device, and their key logs give what an application would register.

// The helpers of a test are not recognised as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use smt::engine::{Event, TrafficSecrets};
use smt::{CallOptions, Direction, SessionId, UpdateError, Updates};
use smt_proto::Role;
use smt_proto::crypto::{SuiteId, aws_lc};

const SERVER_NAME: &str = "localhost";

/// What a finished handshake leaves: RFC 8446's `*_application_traffic_secret_0`.
struct Secrets {
    suite: SuiteId,
    client_secret: Vec<u8>,
    server_secret: Vec<u8>,
}

/// Lets `openssl s_server` and `s_client` do a handshake with `suite` on a port of the kernel's
/// choice, and returns its secrets, which both ends must have logged alike.
fn openssl_handshake(suite: SuiteId) -> Secrets {
    let dir = TempDir::new();
    let certificate = dir.0.join("certificate.pem");
    let key = dir.0.join("key.pem");
    write_certificate(&certificate, &key);

    let server_log = dir.0.join("server.log");
    let server = Server::start(suite, &certificate, &key, &server_log);
    let client_log = dir.0.join("client.log");
    let client = openssl()
        .args(["s_client", "-brief", "-tls1_3", "-alpn", "smt/1", "-verify_return_error"])
        .args(["-servername", SERVER_NAME, "-verify_hostname", SERVER_NAME])
        .args(["-connect", &server.address])
        .arg("-CAfile")
        .arg(&certificate)
        .arg("-keylogfile")
        .arg(&client_log)
        .stdin(Stdio::null())
        .output()
        .expect(INSTALL);
    let report = String::from_utf8_lossy(&client.stderr).into_owned()
        + &String::from_utf8_lossy(&client.stdout);
    assert!(client.status.success(), "openssl s_client failed:\n{report}");
    server.stop();

    let negotiated = report
        .lines()
        .find_map(|line| line.strip_prefix("Ciphersuite: "))
        .unwrap_or_else(|| panic!("openssl s_client names no cipher suite:\n{report}"));
    let secret = |label| {
        let ends = [&client_log, &server_log].map(|log| logged_secret(log, label));
        assert_eq!(ends[0], ends[1], "both ends have the same {label}");
        ends[0].clone()
    };
    Secrets {
        suite: suite_named(negotiated.trim()),
        client_secret: secret("CLIENT_TRAFFIC_SECRET_0"),
        server_secret: secret("SERVER_TRAFFIC_SECRET_0"),
    }
}

#[test]
fn openssl_gives_the_secrets_of_every_suite() {
    let suites = [
        (SuiteId::Aes128GcmSha256, 32),
        (SuiteId::Aes256GcmSha384, 48),
        (SuiteId::ChaCha20Poly1305Sha256, 32),
    ];
    for (suite, hash_len) in suites {
        let secrets = openssl_handshake(suite);
        assert_eq!(secrets.suite, suite);
        assert_eq!(secrets.client_secret.len(), hash_len);
        assert_eq!(secrets.server_secret.len(), hash_len);
        assert_ne!(secrets.client_secret, secrets.server_secret);
    }
}

/// Two engines make a session on OpenSSL's secrets and call each other.
#[test]
fn a_session_runs_on_the_secrets_of_openssl() {
    for suite in [SuiteId::Aes128GcmSha256, SuiteId::Aes256GcmSha384] {
        let (mut ends, _) = Ends::new(suite, Updates::Derived);
        assert_eq!(ends.call_each_other(), []);
        let refused = ends.engines[0].register_update(ends.sessions[0], Direction::Send, &[1; 32]);
        assert_eq!(refused, Err(UpdateError::Derived));
    }
}

/// Both TLS ends update their keys as RFC 8446, 7.2 has it, and the session follows when it wants to.
#[test]
fn a_session_follows_registered_secrets() {
    let suite = SuiteId::Aes256GcmSha384;
    let (mut ends, secrets) = Ends::new(suite, Updates::Registered);
    let mut secrets = [secrets.client_secret, secrets.server_secret];
    ends.call_each_other();
    for update in 1..=3 {
        for me in [0, 1] {
            assert!(ends.engines[me].update_keys(ends.sessions[me]));
        }
        assert_eq!(ends.call_each_other(), ends.sessions, "the next secrets are wanted");
        for (sender, secret) in secrets.iter_mut().enumerate() {
            let mut next = vec![0; secret.len()];
            let label = "traffic upd";
            smt::proto::keys::expand_label(aws_lc::suite(suite), secret, label, &[], &mut next);
            *secret = next;
            for me in [0, 1] {
                let direction = if me == sender { Direction::Send } else { Direction::Receive };
                let short =
                    ends.engines[me].register_update(ends.sessions[me], direction, &[0; 32]);
                assert_eq!(short, Err(UpdateError::WrongLength));
                ends.engines[me].register_update(ends.sessions[me], direction, secret).unwrap();
            }
        }
        assert_eq!(ends.call_each_other(), []);
        for engine in &ends.engines {
            assert_eq!(engine.stats().key_updates, update);
        }
    }
    ends.engines[0].close(ends.sessions[0]);
    ends.engines[0].poll().unwrap();
    while ends.engines[1].session_count() > 0 {
        for engine in &mut ends.engines {
            engine.poll().unwrap();
        }
    }
    let late = ends.engines[1].register_update(ends.sessions[1], Direction::Send, &[0; 48]);
    assert_eq!(late, Err(UpdateError::NoSession));
}

/// A client and a server with a session on secrets of OpenSSL's.
struct Ends {
    engines: [smt::Engine; 2],
    sessions: [SessionId; 2],
}

impl Ends {
    fn new(suite: SuiteId, updates: Updates) -> (Ends, Secrets) {
        let secrets = openssl_handshake(suite);
        let (mut client, mut server, address) = engines();
        let ours = client.offer_external(Role::Client).unwrap().updates(updates);
        let theirs = server.offer_external(Role::Server).unwrap().updates(updates);
        let traffic = TrafficSecrets {
            suite: secrets.suite,
            alpn: b"smt/1",
            client: &secrets.client_secret,
            server: &secrets.server_secret,
        };
        let to_server = SocketAddr::new(address[1], theirs.port());
        let to_client = SocketAddr::new(address[0], ours.port());
        let sessions = [
            client.add_external(&ours, to_server, theirs.block(), &traffic).unwrap(),
            server.add_external(&theirs, to_client, ours.block(), &traffic).unwrap(),
        ];
        (Ends { engines: [client, server], sessions }, secrets)
    }

    /// Each end calls the other; the sessions of those that want a secret.
    fn call_each_other(&mut self) -> Vec<SessionId> {
        for (engine, session) in self.engines.iter_mut().zip(self.sessions) {
            engine.call(session, "from an end", CallOptions::default()).unwrap();
        }
        let (mut answered, mut wanted) = (0, Vec::new());
        while answered < 2 {
            for engine in &mut self.engines {
                engine.poll().unwrap();
                while let Some(event) = engine.next_event() {
                    match event {
                        Event::Request { rpc, body, .. } => {
                            assert!(engine.reply(rpc, body.into_vec()));
                        }
                        Event::Response { result, .. } => {
                            assert!(result.unwrap().starts_with(b"from an end"));
                            answered += 1;
                        }
                        Event::KeyUpdateWanted { session } => wanted.push(session),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        wanted
    }
}

/// A client's and a server's engine over memory, and their addresses.
fn engines() -> (smt::Engine, smt::Engine, [IpAddr; 2]) {
    use smt::Builder;
    use smt::datapath::{Opened, memory};
    use smt::tls::{ClientTls, Identity, Roots, ServerTls};

    let address: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
    let (a, b) = memory::pair(address[0], address[1], 1500).unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let identity = Identity::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let roots = Roots::from_pem(pem.as_bytes()).unwrap();
    let client = Builder::new().client(ClientTls::builder(roots).build().unwrap());
    let server = Builder::new().server(4433, ServerTls::builder(identity).build().unwrap());
    let opened = |datapath, listen, client_ports| Opened { datapath, listen, client_ports };
    let listen = Some(SocketAddr::new(address[1], 4433));
    (
        client.engine_over(opened(Box::new(a), None, 40_000..40_032)).unwrap(),
        server.engine_over(opened(Box::new(b), listen, 0..0)).unwrap(),
        address,
    )
}

/// A running `openssl s_server` for one connection, ended with this value.
struct Server {
    child: Child,
    // The server goes on as long as its input does.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    fn start(suite: SuiteId, certificate: &Path, key: &Path, key_log: &Path) -> Self {
        let mut child = openssl()
            .args(["s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-tls1_3"])
            .args(["-alpn", "smt/1", "-num_tickets", "0", "-ciphersuites", suite_name(suite)])
            .arg("-cert")
            .arg(certificate)
            .arg("-key")
            .arg(key)
            .arg("-keylogfile")
            .arg(key_log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect(INSTALL);
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut server = Self { child, stdin, stdout, address: String::new() };
        server.address = server.read_address();
        server
    }

    /// The server tells which port it was given: `ACCEPT 127.0.0.1:40001`.
    fn read_address(&mut self) -> String {
        let mut output = String::new();
        loop {
            let start = output.len();
            let length = self.stdout.read_line(&mut output).expect("output of openssl s_server");
            assert_ne!(length, 0, "openssl s_server accepts no connection:\n{output}");
            if let Some(address) = output[start..].strip_prefix("ACCEPT ") {
                return address.trim().to_owned();
            }
        }
    }

    /// Waits until the server has ended, and with it its key log.
    fn stop(mut self) {
        drop(self.stdin.take());
        let mut output = String::new();
        self.stdout.read_to_string(&mut output).expect("output of openssl s_server");
        let status = self.child.wait().expect("openssl s_server ends");
        assert!(status.success(), "openssl s_server failed: {status}\n{output}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const INSTALL: &str = "this test needs the `openssl` program (3.0 or later) in the PATH: install \
                       the package `openssl`, with `apt-get install openssl` for instance";

fn openssl() -> Command {
    let mut command = Command::new("openssl");
    // The host's own configuration may forbid suites or name other providers.
    command.env("OPENSSL_CONF", "/dev/null");
    command
}

fn write_certificate(certificate: &Path, key: &Path) {
    let key_pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
    fs::write(certificate, params.self_signed(&key_pair).unwrap().pem()).unwrap();
    fs::write(key, key_pair.serialize_pem()).unwrap();
}

/// The secret of the one line with `label`: `<label> <client random> <secret>`.
fn logged_secret(log: &Path, label: &str) -> Vec<u8> {
    let text = fs::read_to_string(log).expect("the key log of openssl");
    let mut lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(label)).then(|| words.nth(1).expect("a secret"))
    });
    let secret = lines.next().unwrap_or_else(|| panic!("no {label} in the key log:\n{text}"));
    assert_eq!(lines.next(), None, "one handshake has one {label}");
    hex(secret)
}

fn hex(digits: &str) -> Vec<u8> {
    assert_eq!(digits.len() % 2, 0, "{digits}");
    (0..digits.len() / 2)
        .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).expect("hex digits"))
        .collect()
}

fn suite_name(suite: SuiteId) -> &'static str {
    match suite {
        SuiteId::Aes128GcmSha256 => "TLS_AES_128_GCM_SHA256",
        SuiteId::Aes256GcmSha384 => "TLS_AES_256_GCM_SHA384",
        SuiteId::ChaCha20Poly1305Sha256 => "TLS_CHACHA20_POLY1305_SHA256",
    }
}

fn suite_named(name: &str) -> SuiteId {
    [SuiteId::Aes128GcmSha256, SuiteId::Aes256GcmSha384, SuiteId::ChaCha20Poly1305Sha256]
        .into_iter()
        .find(|&suite| suite_name(suite) == name)
        .unwrap_or_else(|| panic!("unknown cipher suite {name}"))
}

/// A directory of its own, removed in the end.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("smt-openssl-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
