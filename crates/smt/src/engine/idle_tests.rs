//! Engines that wait, over packets that change hands in memory.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use smt_datapath::fault::Rules;
use smt_datapath::{Opened, memory};
use smt_proto::crypto::SuiteId;
use smt_proto::{Role, SessionId};

use super::super::{CallOptions, Engine, Event, TrafficSecrets};
use crate::builder::{Builder, Faults, Wait};
use crate::tls::{ClientTls, Identity, Roots, ServerTls};

/// Longer than any step here takes.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

/// A client with a session, and its server. The client's packets suffer by `rules`, both ways.
fn ends(wait: Wait, rules: Rules) -> (Engine, SessionId, Engine) {
    let address: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
    let (near, far) = memory::pair(address[0], address[1], 1500).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["server".to_owned()]).unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let identity = Identity::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let server = ServerTls::builder(identity).build().unwrap();
    let roots = Roots::from_pem(pem.as_bytes()).unwrap();
    let client = ClientTls::builder(roots).build().unwrap();
    let listen = Some(SocketAddr::new(address[1], 4433));
    let mut client = Builder::new()
        .wait(wait)
        .client(client)
        .faults(Faults { seed: 7, receive: rules, transmit: rules })
        .engine_over(Opened {
            datapath: Box::new(near),
            listen: None,
            client_ports: 40_000..40_032,
        })
        .unwrap();
    let mut server = Builder::new()
        .wait(wait)
        .server(4433, server)
        .engine_over(Opened { datapath: Box::new(far), listen, client_ports: 0..0 })
        .unwrap();
    let ours = client.offer_external(Role::Client).unwrap();
    let theirs = server.offer_external(Role::Server).unwrap();
    let secrets = TrafficSecrets {
        suite: SuiteId::Aes128GcmSha256,
        alpn: b"smt/1",
        client: &[1; 32],
        server: &[2; 32],
    };
    let to = SocketAddr::new(address[1], theirs.port());
    let back = SocketAddr::new(address[0], ours.port());
    let session = client.add_external(&ours, to, theirs.block(), &secrets).unwrap();
    server.add_external(&theirs, back, ours.block(), &secrets).unwrap();
    (client, session, server)
}

/// Echoes until told to stop.
fn serve(mut server: Engine) -> (Arc<AtomicBool>, thread::JoinHandle<()>) {
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let thread = thread::spawn(move || {
        while !is_over.load(Ordering::Relaxed) {
            if let Some(Event::Request { rpc, body, .. }) =
                server.next(Some(Duration::from_millis(20))).unwrap()
            {
                server.reply(rpc, body.into_vec());
            }
        }
    });
    (over, thread)
}

fn call(client: &mut Engine, session: SessionId, user: u64) {
    let body = vec![user as u8; 100];
    client.call(session, body.clone(), CallOptions { user, ..CallOptions::default() }).unwrap();
    loop {
        match client.next(PATIENCE).unwrap() {
            Some(Event::Response { user: of, result, .. }) => {
                assert_eq!((of, &*result.unwrap()), (user, &body[..]));
                return;
            }
            Some(Event::Connected { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn all_ways_of_waiting_carry_calls() {
    for wait in [Wait::Spin, Wait::Adaptive, Wait::Block] {
        let (mut client, session, server) = ends(wait, Rules::NONE);
        let (over, thread) = serve(server);
        (0..300).for_each(|user| call(&mut client, session, user));
        over.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }
}

#[test]
fn sleeping_engines_notice_what_is_lost() {
    for wait in [Wait::Adaptive, Wait::Block] {
        let (mut client, session, server) = ends(wait, Rules { drop: 0.2, ..Rules::NONE });
        let (over, thread) = serve(server);
        (0..100).for_each(|user| call(&mut client, session, user));
        assert!(client.stats().resends_sent > 0);
        over.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }
}

#[test]
fn an_idle_engine_takes_next_to_no_processor_time() {
    for wait in [Wait::Adaptive, Wait::Block] {
        let (mut client, session, server) = ends(wait, Rules::NONE);
        let (over, thread) = serve(server);
        (0..20).for_each(|user| call(&mut client, session, user));
        let taken = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
        let before = taken();
        // In one long wait, and in many short ones as a loop with something else to do has them.
        for timeout in [300, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 200] {
            while client.next(Some(Duration::from_millis(timeout))).unwrap().is_some() {}
        }
        // Of half a second; one that spun would take all of it.
        let spent = taken() - before;
        assert!(spent < Duration::from_millis(100), "{spent:?} in {wait:?}");
        over.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }
}

#[test]
fn an_adaptive_engine_stops_spinning_where_it_is_in_vain() {
    let (mut client, _, _server) = ends(Wait::Adaptive, Rules::NONE);
    assert!(client.habit.spins());
    for _ in 0..300 {
        assert!(client.next(Some(Duration::from_micros(100))).unwrap().is_none_or(is_no_message));
    }
    assert!(!client.habit.spins());
}

fn is_no_message(event: Event) -> bool {
    !matches!(event, Event::Request { .. } | Event::Response { .. })
}

#[test]
fn what_a_turn_has_not_sent_waits_for_nothing() {
    const CALLS: u64 = 8;
    let (mut client, session, server) = ends(Wait::Block, Rules::NONE);
    for user in 0..CALLS {
        let options = CallOptions { user, ..CallOptions::default() };
        client.call(session, vec![1; 60_000], options).unwrap();
    }
    client.flush().unwrap();
    let now = Instant::now();
    assert!(client.core.wants_transmit(), "more than a turn's worth");
    assert_eq!(client.next_due(now), Some(now));
    let (over, thread) = serve(server);
    for _ in 0..CALLS {
        let Some(Event::Response { result, .. }) = client.next(PATIENCE).unwrap() else {
            panic!("a call has no response");
        };
        assert_eq!(result.unwrap().len(), 60_000);
    }
    over.store(true, Ordering::Relaxed);
    thread.join().unwrap();
}
