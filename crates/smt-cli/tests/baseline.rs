//! TCP and TLS between two test hosts: every byte comes back, both ways of waiting, and strangers are refused.

#![allow(clippy::unwrap_used)] // These are tests, though not #[test] functions.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use smt_cli::baseline::fleet::{self, Room};
use smt_cli::baseline::tcp::{ping_tcp, serve_tcp};
use smt_cli::baseline::tls::{client_config, ping_tls, serve_tls, server_config};
use smt_cli::baseline::{ECHO_UP_TO, MAX_MESSAGE_BYTES, Pipeline, Plan, RECEIPT_BYTES, Wait};
use smt_cli::pki::{Authority, Profile};
use smt_testbed::{Pair, PairOptions, pair, test};

const SIZES: [usize; 8] = [0, 1, 64, 1024, 16_380, 16_381, 65_536, MAX_MESSAGE_BYTES];

fn main() -> ExitCode {
    smt_testbed::main(vec![
        test("tcp_echoes", tcp_echoes),
        test("tls_echoes", tls_echoes),
        test("tls_refuses_strangers", tls_refuses_strangers),
        test("too_long_a_message_is_refused", too_long_a_message_is_refused),
        test("many_messages_are_under_way_over_tcp_and_tls", many_messages_are_under_way),
    ])
}

/// Runs `serve` in host `b` while `client`, in host `a`, talks to the address it is given.
fn between<T: Send>(
    serve: impl FnOnce(&TcpListener, &AtomicBool) + Send,
    client: impl FnOnce(SocketAddr) -> T + Send,
) -> T {
    let pair: Pair = pair(PairOptions::default()).unwrap();
    let address = SocketAddr::from((pair.b_v6, 7));
    let listener = pair.b.run(|| TcpListener::bind(address)).unwrap().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| pair.b.run(|| serve(&listener, &stop)).unwrap());
        let _stop = StopAtEnd(&stop);
        pair.a.run(|| client(address)).unwrap()
    })
}

/// Ends the server also when the client panics.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn plan(size: usize, wait: Wait) -> Plan {
    Plan::counted(size, 3, 2, wait)
}

fn tcp_echoes() {
    for wait in [Wait::Spin, Wait::Block] {
        between(
            |listener, stop| serve_tcp(listener, wait, stop).unwrap(),
            |address| {
                for size in SIZES {
                    assert_eq!(ping_tcp(address, &plan(size, wait)).unwrap().len(), 2);
                }
            },
        );
    }
}

/// A server and a client of one authority, and the server's name.
fn acquainted() -> (Arc<ServerConfig>, Arc<ClientConfig>, ServerName<'static>) {
    let authority = Authority::new("test", Profile::default()).unwrap();
    let server = authority.server(&["server"], Profile::default()).unwrap();
    let client = authority.client("client", Profile::default()).unwrap();
    let server = server_config(authority.certificate(), &server).unwrap();
    let client = client_config(authority.certificate(), &client).unwrap();
    let name = ServerName::try_from("server").unwrap();
    (server, client, name)
}

fn tls_echoes() {
    let (server, client, name) = acquainted();
    for wait in [Wait::Spin, Wait::Block] {
        between(
            |listener, stop| serve_tls(listener, &server, wait, stop).unwrap(),
            |address| {
                for size in SIZES {
                    let times = ping_tls(address, name.clone(), &client, &plan(size, wait));
                    assert_eq!(times.unwrap().len(), 2);
                }
            },
        );
    }
}

fn tls_refuses_strangers() {
    let [ours, theirs] =
        ["ours", "theirs"].map(|name| Authority::new(name, Profile::default()).unwrap());
    let server = ours.server(&["server"], Profile::default()).unwrap();
    let server = server_config(ours.certificate(), &server).unwrap();
    let friend = ours.client("client", Profile::default()).unwrap();
    let stranger = theirs.client("client", Profile::default()).unwrap();
    let friendly = client_config(ours.certificate(), &friend).unwrap();
    let strange = client_config(ours.certificate(), &stranger).unwrap();
    let ping = |address, name, config: &Arc<_>| {
        let name = ServerName::try_from(name).unwrap();
        ping_tls(address, name, config, &plan(1, Wait::Block))
    };
    between(
        |listener, stop| serve_tls(listener, &server, Wait::Block, stop).unwrap(),
        |address| {
            assert!(ping(address, "server", &strange).is_err());
            assert!(ping(address, "another", &friendly).is_err());
            assert!(ping(address, "server", &friendly).is_ok());
        },
    );
}

fn too_long_a_message_is_refused() {
    between(
        |listener, stop| serve_tcp(listener, Wait::Block, stop).unwrap(),
        |address| assert!(ping_tcp(address, &plan(MAX_MESSAGE_BYTES + 1, Wait::Block)).is_err()),
    );
}

/// On one connection and on several, awake and asleep, with messages of one record and of many.
fn many_messages_are_under_way() {
    let (server, client, name) = acquainted();
    let room = Room { message: MAX_MESSAGE_BYTES, read: 256 << 10 };
    for (wait, connections) in
        [(Wait::Spin, 1), (Wait::Spin, 3), (Wait::Block, 1), (Wait::Block, 3)]
    {
        between(
            |listener, stop| fleet::serve_tcp(listener, room, wait, stop).unwrap(),
            |address| exchange(&mut *fleet::connect_tcp(address, connections, room, wait).unwrap()),
        );
        between(
            |listener, stop| fleet::serve_tls(listener, &server, room, wait, stop).unwrap(),
            |address| {
                let fleet = fleet::connect_tls(address, &name, &client, connections, room, wait);
                exchange(&mut *fleet.unwrap());
            },
        );
    }
}

/// Every size from each of several callers, all at once, three times.
fn exchange(pipeline: &mut dyn Pipeline) {
    let sizes = [1, 64, 5000, ECHO_UP_TO, ECHO_UP_TO + 1, MAX_MESSAGE_BYTES];
    let requests = sizes.map(|size| pipeline.request(&vec![7; size]));
    for _ in 0..3 {
        let calls = 4 * sizes.len();
        for tag in 0..calls {
            pipeline.call(&requests[tag % sizes.len()], tag).unwrap();
        }
        let mut over = Vec::new();
        while over.len() < calls {
            pipeline.turn(&mut over).unwrap();
        }
        over.sort_unstable();
        for (tag, (of, bytes)) in over.into_iter().enumerate() {
            let size = sizes[tag % sizes.len()];
            let expected = if size > ECHO_UP_TO { RECEIPT_BYTES } else { size };
            assert_eq!((of, bytes), (tag, expected));
        }
    }
}
