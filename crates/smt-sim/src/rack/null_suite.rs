//! A cipher suite that hides nothing and proves nothing: the network of a rack experiment is honest,
//! and encryption costs no simulated time.

use smt_proto::crypto::{AeadKey, MAX_HASH_LEN, NONCE_LEN, NotAuthentic, Suite, SuiteId, TAG_LEN};

use crate::rng::mix;

/// The suite, for [`External::suite`](smt_proto::External::suite).
pub static NULL_SUITE: NullSuite = NullSuite;

/// Zeros at the end of a plaintext are left out in units of so many bytes.
const UNIT: usize = 64;

/// The suite of no secrets. It says that it is TLS_AES_128_GCM_SHA256.
#[derive(Debug)]
pub struct NullSuite;

struct NullKey;

impl AeadKey for NullKey {
    fn seal(&self, _: &[u8; NONCE_LEN], _: &[u8], inner: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        *tag = [0; TAG_LEN];
        let (len, _) = tag.split_at_mut(size_of::<u64>());
        len.copy_from_slice(&significant(inner).to_be_bytes());
    }

    // The core opens records into buffers that are zero. Bodies are zeros, too, of which there are
    // so many that it would take longer to copy them than to do all else.

    fn open(
        &self,
        _: &[u8; NONCE_LEN],
        _: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        let len = tag.first_chunk().map_or(0, |len| u64::from_be_bytes(*len)) as usize;
        let (Some(to), Some(from)) = (out.get_mut(..len), ciphertext.get(..len)) else {
            return Err(NotAuthentic);
        };
        to.copy_from_slice(from);
        let (Some(to), Some(from)) = (out.last_mut(), ciphertext.last()) else {
            return Err(NotAuthentic);
        };
        *to = *from;
        Ok(())
    }
}

/// Bytes that an opened record needs besides its last, the inner type: up to the zeros at the end.
fn significant(inner: &[u8]) -> u64 {
    let Some((_, plain)) = inner.split_last() else { return 0 };
    let zero = |unit: &&[u8]| unit.iter().fold(0, |all, byte| all | byte) == 0;
    let zeros = plain.rchunks(UNIT).take_while(zero).map(<[u8]>::len).sum::<usize>();
    (plain.len() - zeros) as u64
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
    fn plaintexts_come_out_as_they_went_in() {
        for (len, set) in [(1, 0), (2, 0), (64, 63), (65, 64), (300, 0), (300, 170), (1400, 1399)] {
            let mut plain = vec![0; len];
            plain[set] = 7;
            let (mut sealed, mut tag, mut out) = (plain.clone(), [9; TAG_LEN], vec![0; len]);
            NullKey.seal(&[0; NONCE_LEN], &[], &mut sealed, &mut tag);
            NullKey.open(&[0; NONCE_LEN], &[], &sealed, &tag, &mut out).unwrap();
            assert_eq!(out, plain, "byte {set} of {len}");
        }
    }

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
