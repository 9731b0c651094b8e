//! What datapaths cost by themselves, where they need no privilege: packets from one end to the other, both
//! on one thread. Those that need some are in `smt bench rpc`, contender `bare`.
//!
//! `cargo bench -p smt-datapath`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "a bench")]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use smt_datapath::{Datapath, Kind, OpenOptions, TxMeta, memory, open};

/// Packets that leave together.
const BURSTS: [usize; 2] = [1, 32];
/// Bytes of a packet: that of a small message, and about what fits a path of 1500 bytes.
const SIZES: [usize; 2] = [178, 1400];
/// A packet this late is lost.
const PATIENCE: Duration = Duration::from_secs(1);

criterion_group!(benches, memory_pair, udp_loopback);
criterion_main!(benches);

fn memory_pair(criterion: &mut Criterion) {
    let [near, far] = [1, 2].map(|host| IpAddr::from([10, 0, 0, host]));
    let (mut one, mut other) = memory::pair(near, far, 1500).unwrap();
    one_way(criterion, "memory", &mut one, &mut other, SocketAddr::new(far, 0));
}

fn udp_loopback(criterion: &mut Criterion) {
    let [near, far] = [1, 2].map(|host| IpAddr::from([127, 0, 0, host]));
    let options = |bind, listen, client| OpenOptions {
        kind: Kind::Udp,
        bind,
        listen,
        client,
        ..OpenOptions::default()
    };
    let mut client = open(options(near, None, true)).unwrap();
    let mut server = open(options(far, Some(0), false)).unwrap();
    let to = server.listen.unwrap();
    one_way(criterion, "udp", &mut *client.datapath, &mut *server.datapath, to);
}

fn one_way(
    criterion: &mut Criterion,
    name: &str,
    from: &mut dyn Datapath,
    into: &mut dyn Datapath,
    dst: SocketAddr,
) {
    let mut group = criterion.benchmark_group(name);
    for len in SIZES {
        for burst in BURSTS {
            group.throughput(Throughput::Elements(burst as u64));
            group.bench_function(BenchmarkId::new(format!("{len}B"), burst), |b| {
                b.iter(|| {
                    for _ in 0..burst {
                        let frame = from.frame().unwrap();
                        frame[..len].fill(7);
                        from.commit(TxMeta {
                            dst,
                            src: None,
                            len,
                            priority: 7,
                            segment: None,
                            lane: 0,
                        });
                    }
                    from.flush().unwrap();
                    let mut received = 0;
                    while received < burst {
                        let count = into.recv().unwrap();
                        if count == 0 {
                            into.wait(Some(PATIENCE)).unwrap();
                        }
                        received += count;
                    }
                });
            });
        }
    }
    group.finish();
}
