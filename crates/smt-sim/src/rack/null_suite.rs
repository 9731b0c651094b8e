//! A cipher suite that hides nothing and proves nothing: the network of a rack experiment is honest,
//! and encryption costs no simulated time.

use smt_proto::crypto::{AeadKey, MAX_HASH_LEN, NONCE_LEN, NotAuthentic, Suite, SuiteId, TAG_LEN};

use crate::rng::mix;

/// The suite, for [`External::suite`](smt_proto::External::suite).
pub static NULL_SUITE: NullSuite = NullSuite;

/// What every record ends with.
const TAG: [u8; TAG_LEN] = [0; TAG_LEN];

/// The suite of no secrets. It says that it is TLS_AES_128_GCM_SHA256.
#[derive(Debug)]
pub struct NullSuite;

struct NullKey;

impl AeadKey for NullKey {
    fn seal(&self, _: &[u8; NONCE_LEN], _: &[u8], _: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        *tag = TAG;
    }

    fn open(
        &self,
        _: &[u8; NONCE_LEN],
        _: &[u8],
        ciphertext: &[u8],
        _: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        if out.len() != ciphertext.len() {
            return Err(NotAuthentic);
        }
        out.copy_from_slice(ciphertext);
        Ok(())
    }
}

impl Suite for NullSuite {
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
        Box::new(NullKey)
    }

    fn hash(&self, parts: &[&[u8]], out: &mut [u8; MAX_HASH_LEN]) {
        stretch(parts.iter().copied(), out);
    }

    fn hkdf_expand(&self, secret: &[u8], info: &[&[u8]], out: &mut [u8]) {
        stretch(core::iter::once(secret).chain(info.iter().copied()), out);
    }
}

/// Fills `out` with what depends on every byte of `parts`. Nothing more is asked of it: both ends
/// must derive the same keys, and sessions different ones.
fn stretch<'a>(parts: impl Iterator<Item = &'a [u8]>, out: &mut [u8]) {
    let state =
        parts.flatten().fold(1, |state, byte| mix(state ^ u64::from(*byte)).wrapping_add(1));
    for (index, chunk) in out.chunks_mut(8).enumerate() {
        let word = mix(state.wrapping_add(index as u64)).to_le_bytes();
        chunk.copy_from_slice(word.get(..chunk.len()).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_secret_and_label() {
        let expand = |secret: &[u8], label: &[u8]| {
            let mut out = [0; 20];
            NULL_SUITE.hkdf_expand(secret, &[label], &mut out);
            out
        };
        assert_eq!(expand(b"a", b"key"), expand(b"a", b"key"));
        assert_ne!(expand(b"a", b"key"), expand(b"b", b"key"));
        assert_ne!(expand(b"a", b"key"), expand(b"a", b"iv"));
    }
}
