//! A cipher suite that hides nothing and costs nothing, so that hostile inputs reach what lies behind
//! header tags and AEADs.

use std::ops::Range;

use smt_proto::crypto::{AeadKey, MAX_HASH_LEN, NONCE_LEN, NotAuthentic, Suite, SuiteId, TAG_LEN};
use smt_proto::record::{Layout, RECORD_OVERHEAD};
use smt_proto::wire::{
    BUNDLE_ENTRY_LEN, BUNDLE_HEAD_LEN, BundleEntry, BundleHead, PREAMBLE_LEN, Preamble,
};

/// What every sealed record ends with.
const TAG: [u8; TAG_LEN] = [0xa5; TAG_LEN];

#[derive(Debug)]
pub struct Plain;

struct PlainKey;

impl AeadKey for PlainKey {
    fn seal(&self, _: &[u8; NONCE_LEN], _: &[u8], _: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        *tag = TAG;
    }

    fn open(
        &self,
        _: &[u8; NONCE_LEN],
        _: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        out.copy_from_slice(ciphertext);
        if *tag == TAG { Ok(()) } else { Err(NotAuthentic) }
    }
}

impl Suite for Plain {
    fn id(&self) -> SuiteId {
        SuiteId::Aes128GcmSha256
    }

    fn key_len(&self) -> usize {
        16
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn aead(&self, _: &[u8]) -> Box<dyn AeadKey> {
        Box::new(PlainKey)
    }

    fn hash(&self, parts: &[&[u8]], out: &mut [u8; MAX_HASH_LEN]) {
        mix(parts, out);
    }

    fn hkdf_expand(&self, secret: &[u8], info: &[&[u8]], out: &mut [u8]) {
        let parts: Vec<&[u8]> = [secret].into_iter().chain(info.iter().copied()).collect();
        mix(&parts, out);
    }
}

/// The record of a bundle of messages of zeros, as many bytes each as its entry says.
pub fn bundle(head: &BundleHead, entries: &[BundleEntry]) -> Vec<u8> {
    let mut plain = vec![0; BUNDLE_HEAD_LEN];
    head.emit((&mut plain[..]).try_into().unwrap());
    for entry in entries {
        let mut bytes = [0; BUNDLE_ENTRY_LEN];
        entry.emit(&mut bytes);
        plain.extend(bytes);
        plain.resize(plain.len() + usize::from(entry.app_len), 0);
    }
    plain.resize(plain.len().max(64), 0);
    let len = (plain.len() as u16 + 17).to_be_bytes();
    [&[0x17, 3, 3][..], &len, &plain, &[0x17], &TAG].concat()
}

/// Bytes `range` of the wire stream of a message of zeros.
pub fn part(layout: &Layout, preamble: &Preamble, range: Range<u32>) -> Vec<u8> {
    let mut head = [0; PREAMBLE_LEN];
    preamble.emit(&mut head);
    let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
    let mut index = layout.record_at(range.start);
    while index < layout.records && layout.wire_range(index).start < range.end {
        let wire = layout.wire_range(index);
        let plain = (wire.end - wire.start - RECORD_OVERHEAD) as usize;
        let mut record = vec![0; plain + RECORD_OVERHEAD as usize];
        record[..3].copy_from_slice(&[0x17, 3, 3]);
        record[3..5].copy_from_slice(&((plain + 17) as u16).to_be_bytes());
        if index == 0 {
            record[5..5 + PREAMBLE_LEN].copy_from_slice(&head);
        }
        record[5 + plain] = 0x17;
        record[6 + plain..].copy_from_slice(&TAG);
        let from = range.start.max(wire.start) - wire.start;
        let to = range.end.min(wire.end) - wire.start;
        bytes.extend_from_slice(&record[from as usize..to as usize]);
        index += 1;
    }
    bytes
}

/// FNV-1a, run on for as many bytes as are wanted.
fn mix(parts: &[&[u8]], out: &mut [u8]) {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = parts.iter().flat_map(|part| part.iter());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| step(hash, *byte));
    for byte in out {
        hash = step(hash, 1);
        *byte = (hash >> 32) as u8;
    }
}
