//! Round-trip times of one RPC at a time between two hosts joined by veth or macvlan (which takes TSO segments), both
//! ends spinning:
//!
//! `cargo bench -p smt --bench rtt -- [raw|packet|xdp|udp] [macvlan] [SIZE ...]`
//!
//! Needs no root, but for `xdp`. Prints, for each size, the median and the tail in nanoseconds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a bench")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use smt::tls::{ClientTls, Identity, Roots, ServerTls};
use smt::{Builder, CallOptions, DatapathKind, Event, Wait};
use smt_testbed::{PairOptions, Wire, enter, pair};

fn tls() -> (ServerTls, ClientTls) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["server".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let (chain, key) = (certificate.pem(), key.serialize_pem());
    let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let roots = Roots::from_pem(ca_pem.as_bytes()).unwrap();
    (ServerTls::builder(identity).build().unwrap(), ClientTls::builder(roots).build().unwrap())
}

fn pin(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    // One core is enough to run, only slower.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

fn main() {
    enter().unwrap();
    let mut kind = DatapathKind::Raw;
    let (mut sizes, mut wire) = (Vec::new(), Wire::Veth);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "raw" => kind = DatapathKind::Raw,
            "packet" => kind = DatapathKind::Packet,
            "xdp" => kind = DatapathKind::Xdp,
            "udp" => kind = DatapathKind::Udp,
            "macvlan" => wire = Wire::Macvlan,
            other => sizes.extend(other.parse::<usize>()),
        }
    }
    if sizes.is_empty() {
        sizes = vec![64, 1024, 8192, 16_384, 65_536];
    }
    let pair = pair(PairOptions { wire, ..PairOptions::default() }).unwrap();
    let (server_tls, client_tls) = tls();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let address = pair.b_v4.into();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = pair
        .b
        .spawn(move || {
            pin(1);
            let builder = Builder::new().bind(address).datapath(kind).wait(Wait::Spin);
            let mut engine = builder.server(4433, server_tls).engine().unwrap();
            ready.send(engine.listen_address().unwrap()).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                engine.poll().unwrap();
                while let Some(event) = engine.next_event() {
                    if let Event::Request { rpc, body, .. } = event {
                        engine.reply(rpc, body.into_vec());
                    }
                }
            }
            println!("{:?}", engine.datapath_stats());
        })
        .unwrap();
    let to: SocketAddr = is_ready.recv().unwrap();
    let local = pair.a_v4.into();
    let client = pair
        .a
        .spawn(move || {
            pin(0);
            let builder = Builder::new().bind(local).datapath(kind).wait(Wait::Spin);
            let mut engine = builder.client(client_tls).engine().unwrap();
            engine.connect(to, "server").unwrap();
            let session = match engine.next(Some(Duration::from_secs(5))).unwrap() {
                Some(Event::Connected { session, .. }) => session,
                other => panic!("{other:?}"),
            };
            println!("{:>8} {:>9} {:>9} {:>9}", "size", "p50 ns", "p99 ns", "min ns");
            for size in sizes {
                let count = if size > 10_000 { 10_000 } else { 50_000 };
                let mut times = Vec::with_capacity(count);
                for _ in 0..count {
                    let body = vec![7u8; size];
                    let start = Instant::now();
                    engine.call(session, body, CallOptions::default()).unwrap();
                    'wait: loop {
                        engine.poll().unwrap();
                        while let Some(event) = engine.next_event() {
                            if let Event::Response { result, .. } = event {
                                assert_eq!(result.unwrap().len(), size);
                                break 'wait;
                            }
                        }
                    }
                    times.push(start.elapsed().as_nanos() as u64);
                }
                times.drain(..count / 10);
                times.sort_unstable();
                let at = |share: f64| times[(times.len() as f64 * share) as usize];
                println!("{size:>8} {:>9} {:>9} {:>9}", at(0.5), at(0.99), times[0]);
            }
            println!("{:?}", engine.stats());
            println!("{:?}", engine.datapath_stats());
        })
        .unwrap();
    client.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    server.join().unwrap();
}
