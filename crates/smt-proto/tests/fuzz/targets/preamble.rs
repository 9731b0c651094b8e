//! Any plaintext: parsing its preamble never panics, and what parses is emitted as it came.

use smt_proto::wire::{PREAMBLE_LEN, Preamble};

pub fn run(plaintext: &[u8]) {
    if let Ok(preamble) = Preamble::parse(plaintext) {
        let mut out = [0; PREAMBLE_LEN];
        preamble.emit(&mut out);
        assert_eq!(out[..], plaintext[..PREAMBLE_LEN]);
    }
}
