//! The protocol's own work, layer by layer, without IO: codecs, tags, records, and whole RPCs between two
//! cores. What each layer costs in instructions is counted by the bench `instructions`.
//!
//! ```text
//! cargo bench -p smt-proto --bench layers                        all
//! cargo bench -p smt-proto --bench layers -- rpc/64              one
//! cargo bench -p smt-proto --bench layers -- --save-baseline before
//! cargo bench -p smt-proto --bench layers -- --baseline before   compare
//! ```
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

#[path = "../tests/net/mod.rs"]
mod net;

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use net::pair::Pair;
use net::{CLIENT, Net, SERVER};
use smt_proto::Config;
use smt_proto::crypto::{SuiteId, aws_lc};
use smt_proto::keys::{EpochKeys, HeaderKey, Secret};
use smt_proto::record::{self, RECORD_HEADER_LEN, RECORD_TRAILER_LEN};
use smt_proto::wire::{
    Control, ControlBody, DATA_LEN, Data, FIRST_EPOCH, Kind, MAX_RECORD_SIZE, PREAMBLE_LEN,
    Preamble, peek,
};

/// Bytes that records hold: small messages, one packet's, the most.
const RECORDS: [usize; 4] = [64, 1024, 1400, MAX_RECORD_SIZE as usize];
/// Bytes of requests and of their responses.
const RPCS: [usize; 3] = [64, 1024, 16 << 10];

criterion_group!(benches, codecs, tags, records, rpcs);
criterion_main!(benches);

/// A DATA packet of a message of 64 bytes, as a core sends it.
fn data_packet() -> Vec<u8> {
    let mut net = Net::new(1, Config::default());
    net.record();
    net.call(CLIENT, vec![7; 64], 0);
    net.run_until(Duration::from_secs(1), |net| net.ended(CLIENT) == 1);
    let packets = net.recorded_to(SERVER);
    packets.into_iter().find(|packet| Data::parse(packet).is_ok()).unwrap()
}

fn codecs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire");
    let packet = data_packet();
    let data = Data::parse(&packet).unwrap();
    let mut out = [0; DATA_LEN];
    group.bench_function("data/parse", |b| b.iter(|| Data::parse(black_box(&packet))));
    group.bench_function("data/emit", |b| b.iter(|| black_box(&data).emit(black_box(&mut out))));
    group.bench_function("peek", |b| b.iter(|| peek(black_box(&packet))));
    let control = Control {
        header: data.header,
        body: ControlBody::Grant { offset: 100_000, priority: 3 },
        number: 9,
    };
    let mut packet = [0; 64];
    let len = control.emit(&mut packet);
    group.bench_function("grant/parse", |b| b.iter(|| Control::parse(black_box(&packet[..len]))));
    group.bench_function("grant/emit", |b| b.iter(|| control.emit(black_box(&mut packet))));
    let preamble = Preamble {
        kind: Kind::Application,
        record_size: 1400,
        app_len: 64,
        wire_len: 126,
        highest_peer_epoch: FIRST_EPOCH,
        oldest_epoch: FIRST_EPOCH,
        response_limit: 0,
        ack_floor: 4,
        ack_bitmap: 0,
    };
    let mut plain = [0; PREAMBLE_LEN];
    preamble.emit(&mut plain);
    group.bench_function("preamble/parse", |b| b.iter(|| Preamble::parse(black_box(&plain))));
    group.bench_function("preamble/emit", |b| {
        b.iter(|| black_box(&preamble).emit(black_box(&mut plain)));
    });
    group.finish();
}

fn tags(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tag");
    let suite = aws_lc::suite(SuiteId::Aes128GcmSha256);
    let key = HeaderKey::derive(suite, &Secret::new(&[1; 32]));
    let mut packet = data_packet();
    group.bench_function("data/write", |b| b.iter(|| key.write_data_tag(black_box(&mut packet))));
    group.bench_function("data/check", |b| b.iter(|| assert!(key.check_data(black_box(&packet)))));
    group.finish();
}

fn records(criterion: &mut Criterion) {
    for id in [SuiteId::Aes128GcmSha256, SuiteId::ChaCha20Poly1305Sha256] {
        let mut group = criterion.benchmark_group(format!("record/{id:?}"));
        let keys = EpochKeys::new(aws_lc::suite(id), Secret::new(&[1; 32]), FIRST_EPOCH);
        for len in RECORDS {
            let mut wire = vec![7; RECORD_HEADER_LEN + len + RECORD_TRAILER_LEN];
            let mut plain = vec![0; len + 1];
            let mut number = 0;
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::new("seal", len), |b| {
                b.iter(|| {
                    number += 1;
                    record::seal(&keys, number, black_box(&mut wire));
                });
            });
            record::seal(&keys, 0, &mut wire);
            group.bench_function(BenchmarkId::new("open", len), |b| {
                b.iter(|| record::open(&keys, 0, black_box(&wire), &mut plain).unwrap());
            });
        }
        group.finish();
    }
}

fn rpcs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rpc");
    for size in RPCS {
        let body = Bytes::from(vec![7; size]);
        let mut pair = Pair::new();
        group.throughput(Throughput::Bytes(2 * size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| pair.call(body.clone()));
        });
    }
    group.finish();
}
