//! Every other transport as the benchmarks drive it: what is sent comes back, one at a time and many at a time, however
//! the ends wait; and a server that goes away is an error.

#![allow(clippy::unwrap_used, clippy::expect_used)] // These are tests, though not #[test] functions.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smt_cli::baseline::{ECHO_UP_TO, MAX_MESSAGE_BYTES, Plan, RECEIPT_BYTES, Wait};
use smt_cli::bench::ground::Credentials;
use smt_cli::bench::peers::{Role, Shape, Transport};
use smt_cli::bench::place::{Link, Place, Scene};
use smt_testbed::test;

const WAITS: [Wait; 3] = [Wait::Spin, Wait::Adaptive, Wait::Block];
/// No client waits longer for a server that is gone.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let mut tests = vec![test("whoever_is_not_available_says_why", whoever_is_not_available)];
    for who in others() {
        tests.push(test(&format!("{}_echoes", who.name()), move || echoes(who)));
        tests.push(test(&format!("{}_has_many_under_way", who.name()), move || many(who)));
        tests.push(test(&format!("{}_notices_the_end", who.name()), move || ends(who)));
    }
    smt_testbed::main(tests)
}

/// All but SMT and its floors, that this program and machine have.
fn others() -> impl Iterator<Item = Transport> {
    let is_other =
        |who: &Transport| matches!(who.role(), Role::Variant | Role::Other | Role::OtherOne);
    let all = Transport::ALL.iter().copied().filter(is_other);
    all.filter(|who| who.peer().available().is_ok())
}

fn whoever_is_not_available() {
    for &who in Transport::ALL {
        let Err(why) = who.peer().available() else { continue };
        let expected = match who {
            Transport::TlsOpenssl if !cfg!(feature = "openssl") => "libssl-dev",
            Transport::S2nQuic | Transport::Grpc if !cfg!(feature = "peers") => "peers",
            Transport::SmtC if !cfg!(feature = "capi") => "capi",
            Transport::SmtNull if !cfg!(feature = "null-cipher") => "null-cipher",
            Transport::Ktls => "kTLS",
            _ => "nothing that may be missing",
        };
        assert!(why.contains(expected), "{}: {why}", who.name());
    }
}

fn place() -> Place {
    let credentials = Arc::new(Credentials::new().unwrap());
    Place::new(&credentials, Link::Veth, Scene::PLAIN).unwrap()
}

fn echoes(who: Transport) {
    let place = place();
    for wait in WAITS {
        let site = place.site(wait);
        let server = place.serve(who, &site, None).unwrap();
        let pinged = place.as_client(|| {
            let mut ping = who.peer().pinger(&site)?;
            for size in [1, 64, 1024, 16_381, ECHO_UP_TO] {
                assert_eq!(ping(&Plan::counted(size, 2, 3, wait))?.len(), 3);
            }
            // An engine of SMT's acknowledges longer ones here as well, and its limit is another.
            if who != Transport::SmtNull {
                assert_eq!(ping(&Plan::counted(MAX_MESSAGE_BYTES, 2, 3, wait))?.len(), 3);
                ping(&Plan::counted(MAX_MESSAGE_BYTES + 1, 0, 1, wait)).expect_err("too long");
            }
            Ok(())
        });
        server.stop().unwrap();
        pinged.unwrap();
    }
}

/// Every size from each of several callers, all at once, three times, on one connection and on several.
fn many(who: Transport) {
    let sizes = [1, 64, 5000, ECHO_UP_TO, ECHO_UP_TO + 1, MAX_MESSAGE_BYTES];
    let place = place();
    for (wait, connections) in WAITS.into_iter().zip([3, 1, 2]) {
        let site = place.site(wait);
        let shape = Shape { connections, message: MAX_MESSAGE_BYTES, read: 256 << 10 };
        let server = place.serve(who, &site, Some(shape)).unwrap();
        let exchanged = place.as_client(|| {
            let mut pipeline = who.peer().pipeline(&site, shape)?;
            let requests = sizes.map(|size| pipeline.request(&vec![7; size]));
            for _ in 0..3 {
                let calls = 4 * sizes.len();
                (0..calls).try_for_each(|tag| pipeline.call(&requests[tag % sizes.len()], tag))?;
                let mut over = Vec::new();
                while over.len() < calls {
                    pipeline.turn(&mut over)?;
                }
                over.sort_unstable();
                for (tag, (of, bytes)) in over.into_iter().enumerate() {
                    let size = sizes[tag % sizes.len()];
                    let expected = if size > ECHO_UP_TO { RECEIPT_BYTES } else { size };
                    assert_eq!((of, bytes), (tag, expected));
                }
            }
            Ok(())
        });
        server.stop().unwrap();
        exchanged.unwrap();
    }
}

fn ends(who: Transport) {
    let place = place();
    let site = place.site(Wait::Block);
    let server = place.serve(who, &site, None).unwrap();
    place
        .as_client(|| {
            let mut ping = who.peer().pinger(&site)?;
            ping(&Plan::counted(64, 0, 1, Wait::Block))?;
            server.stop()?;
            ping(&Plan::counted(64, 0, 1, Wait::Block)).expect_err("nobody is there");
            Ok(())
        })
        .unwrap();

    let shape = Shape { connections: 1, message: 64, read: 32 << 10 };
    let server = place.serve(who, &site, Some(shape)).unwrap();
    place
        .as_client(|| {
            let mut pipeline = who.peer().pipeline(&site, shape)?;
            let request = pipeline.request(&[7; 64]);
            let mut over = Vec::new();
            pipeline.call(&request, 0)?;
            while over.is_empty() {
                pipeline.turn(&mut over)?;
            }
            server.stop()?;
            let start = Instant::now();
            let mut outcome = pipeline.call(&request, 1);
            while outcome.is_ok() && start.elapsed() < PATIENCE {
                outcome = pipeline.turn(&mut over);
            }
            outcome.expect_err("nobody is there");
            Ok(())
        })
        .unwrap();
}
