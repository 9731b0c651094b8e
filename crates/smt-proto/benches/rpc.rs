//! The protocol's own work for one RPC: two cores back to back, no IO. Prints nanoseconds for each
//! RPC and how many of them four AEAD operations of that size take by themselves.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

#[path = "../tests/net/mod.rs"]
mod net;

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use net::pair::Pair;
use smt_proto::crypto::{SuiteId, aws_lc};

const BATCHES: u32 = 1000;
const BATCH: u32 = 500;

fn main() {
    for size in [64usize, 1024] {
        let body = Bytes::from(vec![7; size]);
        let mut pair = Pair::new();
        let best = best_nanos(|| {
            black_box(pair.call(body.clone()));
        });
        let aead = aead_nanos(size + 41) * 4.0;
        println!(
            "{size:5} bytes: {best:6.0} ns for each RPC, {aead:5.0} ns of them ({:.0} %) AEAD",
            100.0 * aead / best
        );
    }
}

/// Nanoseconds for sealing or opening a record of `len` bytes.
fn aead_nanos(len: usize) -> f64 {
    let key = aws_lc::suite(SuiteId::Aes128GcmSha256).aead(&[1; 16]);
    let (mut plain, mut out, mut tag) = (vec![0; len], vec![0; len], [0; 16]);
    let mut i = 0u32;
    let both = best_nanos(|| {
        let mut nonce = [0; 12];
        i = i.wrapping_add(1);
        nonce[..4].copy_from_slice(&i.to_be_bytes());
        key.seal(&nonce, &[23, 3, 3, 0, 1], &mut plain, &mut tag);
        key.open(&nonce, &[23, 3, 3, 0, 1], &plain, &tag, &mut out).unwrap();
        black_box(&out);
    });
    both / 2.0
}

/// Nanoseconds that `work` takes in the best of many short batches: other load on the machine spoils
/// most of them, not all.
fn best_nanos(mut work: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..BATCH {
            work();
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(BATCH));
    }
    best
}
