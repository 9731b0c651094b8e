//! A cipher suite that hides nothing and costs nothing, so that hostile inputs reach what lies behind
//! header tags and AEADs.

use smt_proto::crypto::{AeadKey, MAX_HASH_LEN, NONCE_LEN, NotAuthentic, Suite, SuiteId, TAG_LEN};

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
