//! The protocol's own work for one RPC: two cores back to back, no IO. Prints nanoseconds for each
//! RPC and how many of them four AEAD operations of that size take by themselves.

#[path = "../tests/net/mod.rs"]
mod net;

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use net::pair::Pair;
use smt_proto::crypto::{SuiteId, aws_lc};

const ROUNDS: u32 = 200_000;

fn main() {
    for size in [64usize, 1024] {
        let body = Bytes::from(vec![7; size]);
        let mut pair = Pair::new();
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let start = Instant::now();
            for _ in 0..ROUNDS {
                black_box(pair.call(body.clone()));
            }
            best = best.min(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
        }
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
    let start = Instant::now();
    for i in 0..ROUNDS {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&i.to_be_bytes());
        key.seal(&nonce, &[23, 3, 3, 0, 1], &mut plain, &mut tag);
        key.open(&nonce, &[23, 3, 3, 0, 1], &plain, &tag, &mut out).unwrap();
        black_box(&out);
    }
    start.elapsed().as_nanos() as f64 / f64::from(2 * ROUNDS)
}
