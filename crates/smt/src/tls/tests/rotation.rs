//! Configurations that are replaced while they are in use, by hand and by watched files.

use std::thread;
use std::time::{Duration, Instant};

use super::pki::{Ca, ECDSA, SERVER, client, mutual_pair, named};
use super::*;

#[test]
fn handshakes_end_with_the_configuration_they_began_with() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    let (mut client_end, hello) = ClientHandshake::start(&client, SERVER).unwrap();
    let mut server_end = ServerHandshake::new(&server);
    let other = Ca::new("another ca");
    let (new_client, new_server) = mutual_pair(&other);
    client.replace(&new_client);
    server.replace(&new_server);
    let flight = server_end.read_flight(&hello).send.unwrap();
    let finished = client_end.read_flight(&flight);
    assert_eq!(finished.state, HandshakeState::Done);
    assert_eq!(server_end.read_flight(&finished.send.unwrap()).state, HandshakeState::Done);
    // The next one is between the new ones.
    handshake(&client, SERVER, &server).expect_established();
}

#[test]
fn every_handle_sees_the_replacement() {
    let ca = Ca::new("ca");
    let (client, server) = mutual_pair(&ca);
    let (client_handle, server_handle) = (client.clone(), server.clone());
    let (new_client, new_server) = mutual_pair(&Ca::new("another ca"));
    client.replace(&new_client);
    handshake(&client_handle, SERVER, &server_handle).expect_failed();
    server.replace(&new_server);
    handshake(&client_handle, SERVER, &server_handle).expect_established();
}

/// A directory with one file that holds a server's certificate and key.
struct Files {
    dir: TempDir,
    ca: Ca,
}

impl Files {
    fn new(name: &str) -> Self {
        let files = Files { dir: TempDir::new(name), ca: Ca::new("ca") };
        files.write_new();
        files
    }

    fn path(&self) -> PathBuf {
        self.dir.0.join("server.pem")
    }

    /// Replaces the file at once, so that no look falls between.
    fn write(&self, content: &str) {
        let new = self.dir.0.join("server.pem.new");
        fs::write(&new, content).unwrap();
        fs::rename(new, self.path()).unwrap();
    }

    /// Another certificate and key.
    fn write_new(&self) {
        let (certificate, key) = self.ca.issue_pem(&named(SERVER), ECDSA);
        self.write(&(certificate + &key));
    }

    fn watch(&self) -> (ServerTls, Watch) {
        let path = self.path();
        let load = move || ServerTls::builder(Identity::from_pem_files(&path, &path)?).build();
        Watch::server(vec![self.path()], load).unwrap()
    }

    /// The certificate that the server shows to a client that resumes nothing.
    fn shown_by(&self, server: &ServerTls) -> Vec<u8> {
        let client = client(&self.ca).resumption(false).build().unwrap();
        let (seen, _, _) = handshake(&client, SERVER, server).expect_established();
        seen.peer.chain()[0].clone()
    }
}

/// Waits until the watch has seen what `seen` looks for.
fn wait_for(watch: &Watch, seen: impl Fn(&WatchStats) -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !seen(&watch.stats()) {
        assert!(Instant::now() < patience, "{:?}", watch.stats());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn watched_files_take_effect_and_broken_ones_do_not() {
    let files = Files::new("watch");
    let (server, watch) = files.watch();
    let first = files.shown_by(&server);
    files.write_new();
    wait_for(&watch, |seen| seen.replaced == 1);
    let second = files.shown_by(&server);
    assert_ne!(second, first);

    let (certificate, key) = files.ca.issue_pem(&named(SERVER), ECDSA);
    let (_, other_key) = files.ca.issue_pem(&named(SERVER), ECDSA);
    files.write(&(certificate.clone() + &other_key));
    wait_for(&watch, |seen| seen.refused == 1);
    assert!(watch.stats().last_refusal.unwrap().contains("does not belong"));
    assert_eq!(files.shown_by(&server), second);

    let half = &certificate[..certificate.len() / 2];
    files.write(&(key + half));
    wait_for(&watch, |seen| seen.refused == 2);
    assert_eq!(files.shown_by(&server), second);

    files.write_new();
    wait_for(&watch, |seen| seen.replaced == 2);
    assert_eq!(watch.stats().last_refusal, None);
    let third = files.shown_by(&server);
    assert!(third != first && third != second);
}

#[test]
fn a_watch_begins_with_files_that_can_be_used_and_ends_when_dropped() {
    let files = Files::new("watch-begin");
    let (server, watch) = files.watch();
    drop(watch);
    let shown = files.shown_by(&server);
    files.write_new();
    assert_eq!(files.shown_by(&server), shown);
    let roots = files.dir.0.join("ca.pem");
    let load = {
        let roots = roots.clone();
        move || ClientTls::builder(Roots::from_pem_file(&roots)?).build()
    };
    let error = Watch::client(vec![roots.clone()], load.clone()).unwrap_err();
    assert!(matches!(error, ConfigError::File { .. }), "{error}");
    fs::write(&roots, &files.ca.pem).unwrap();
    let (client, _watch) = Watch::client(vec![roots], load).unwrap();
    handshake(&client, SERVER, &server).expect_established();
}
