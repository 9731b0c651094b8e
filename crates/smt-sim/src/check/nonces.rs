//! No key and nonce ever protect two plaintexts (spec 3.3), over all endpoints of a run: suites that
//! remember what was sealed under which.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use rustc_hash::FxBuildHasher;
use smt_proto::crypto::{
    AeadKey, MAX_HASH_LEN, NONCE_LEN, NotAuthentic, Suite, SuiteId, TAG_LEN, aws_lc,
};

use crate::rng::mix;

thread_local! {
    /// Hash of the plaintext by key and nonce, of the run on this thread.
    static SEALED: RefCell<HashMap<u128, u64, FxBuildHasher>> = RefCell::default();
    /// Whether a nonce was used for two plaintexts.
    static REUSED: Cell<bool> = const { Cell::new(false) };
}

/// Forgets the run before.
pub fn reset() {
    SEALED.with_borrow_mut(|sealed| {
        sealed.clear();
        // A large run before must not weigh on all later ones.
        sealed.shrink_to(1 << 12);
    });
    REUSED.set(false);
}

/// Whether a nonce was used for two plaintexts since [`reset`], on this thread.
pub fn reused() -> bool {
    REUSED.get()
}

/// Nonces that were used.
pub fn count() -> usize {
    SEALED.with_borrow(HashMap::len)
}

/// The suite that remembers, by its code point.
pub fn suite(id: SuiteId) -> &'static dyn Suite {
    match id {
        SuiteId::Aes128GcmSha256 => &Recorder(SuiteId::Aes128GcmSha256),
        SuiteId::Aes256GcmSha384 => &Recorder(SuiteId::Aes256GcmSha384),
        SuiteId::ChaCha20Poly1305Sha256 => &Recorder(SuiteId::ChaCha20Poly1305Sha256),
    }
}

#[derive(Debug)]
struct Recorder(SuiteId);

struct RecordingKey {
    inner: Box<dyn AeadKey>,
    key: u64,
}

/// A hash of bytes, for what no attacker chooses.
fn hash(bytes: &[u8]) -> u64 {
    let mut state = bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = chunk.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        state = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    for byte in chunks.remainder() {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    mix(state)
}

impl AeadKey for RecordingKey {
    fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) {
        let mut wide = [0; 16];
        wide.iter_mut().zip(nonce).for_each(|(to, from)| *to = *from);
        // 96 bits of nonce beside 32 of the key, and the rest of the key over both.
        let place = u128::from_le_bytes(wide) ^ u128::from(self.key) << 64 ^ u128::from(self.key);
        let what = hash(in_out) ^ hash(aad);
        let before = SEALED.with_borrow_mut(|sealed| *sealed.entry(place).or_insert(what));
        if before != what {
            REUSED.set(true);
        }
        self.inner.seal(nonce, aad, in_out, tag);
    }

    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        self.inner.open(nonce, aad, ciphertext, tag, out)
    }
}

impl Suite for Recorder {
    fn id(&self) -> SuiteId {
        self.0
    }

    fn key_len(&self) -> usize {
        aws_lc::suite(self.0).key_len()
    }

    fn hash_len(&self) -> usize {
        aws_lc::suite(self.0).hash_len()
    }

    fn aead(&self, key: &[u8]) -> Box<dyn AeadKey> {
        Box::new(RecordingKey { inner: aws_lc::suite(self.0).aead(key), key: hash(key) })
    }

    fn hash(&self, parts: &[&[u8]], out: &mut [u8; MAX_HASH_LEN]) {
        aws_lc::suite(self.0).hash(parts, out);
    }

    fn hkdf_expand(&self, secret: &[u8], info: &[&[u8]], out: &mut [u8]) {
        aws_lc::suite(self.0).hkdf_expand(secret, info, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_for_two_plaintexts_is_noticed_and_a_repetition_is_none() {
        reset();
        let suite = suite(SuiteId::Aes128GcmSha256);
        let seal = |key: &dyn AeadKey, nonce: u8, text: u8| {
            key.seal(&[nonce; 12], &[], &mut [text; 20], &mut [0; 16]);
        };
        let (key, same, other) = (suite.aead(&[1; 16]), suite.aead(&[1; 16]), suite.aead(&[2; 16]));
        seal(&*key, 0, 1);
        seal(&*same, 0, 1);
        seal(&*key, 1, 2);
        seal(&*other, 0, 2);
        assert!(!reused());
        assert_eq!(count(), 3);
        seal(&*same, 0, 2);
        assert!(reused());
        reset();
        assert!(!reused() && count() == 0);
    }
}
