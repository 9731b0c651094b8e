//! No encryption, to measure what encryption costs; only with the feature `null-cipher`.
//!
//! Handshakes are as always, and so are records, their tags and every key that is derived; but what is sealed is copied
//! at most, and what is opened is copied unchecked. Whoever sends to such an engine is believed.

use smt_proto::crypto::{
    AeadKey, MAX_HASH_LEN, NONCE_LEN, NotAuthentic, Suite, SuiteId, TAG_LEN, aws_lc,
};

/// The suite `id` without its AEAD.
pub(crate) fn suite(id: SuiteId) -> &'static dyn Suite {
    match id {
        SuiteId::Aes128GcmSha256 => &NullSuite(SuiteId::Aes128GcmSha256),
        SuiteId::Aes256GcmSha384 => &NullSuite(SuiteId::Aes256GcmSha384),
        SuiteId::ChaCha20Poly1305Sha256 => &NullSuite(SuiteId::ChaCha20Poly1305Sha256),
    }
}

/// Everything of a suite but its AEAD.
#[derive(Debug)]
struct NullSuite(SuiteId);

impl Suite for NullSuite {
    fn id(&self) -> SuiteId {
        self.0
    }

    fn key_len(&self) -> usize {
        aws_lc::suite(self.0).key_len()
    }

    fn hash_len(&self) -> usize {
        aws_lc::suite(self.0).hash_len()
    }

    fn aead(&self, _: &[u8]) -> Box<dyn AeadKey> {
        Box::new(NullKey)
    }

    fn hash(&self, parts: &[&[u8]], out: &mut [u8; MAX_HASH_LEN]) {
        aws_lc::suite(self.0).hash(parts, out);
    }

    fn hkdf_expand(&self, secret: &[u8], info: &[&[u8]], out: &mut [u8]) {
        aws_lc::suite(self.0).hkdf_expand(secret, info, out);
    }
}

struct NullKey;

impl AeadKey for NullKey {
    fn seal(&self, _: &[u8; NONCE_LEN], _: &[u8], _: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        *tag = [0; TAG_LEN];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_what_they_hold() {
        for id in
            [SuiteId::Aes128GcmSha256, SuiteId::Aes256GcmSha384, SuiteId::ChaCha20Poly1305Sha256]
        {
            let suite = suite(id);
            assert_eq!((suite.id(), suite.key_len()), (id, aws_lc::suite(id).key_len()));
            let key = suite.aead(&[7; 32]);
            let (mut record, mut tag) = (*b"in the open", [1; TAG_LEN]);
            key.seal(&[0; NONCE_LEN], b"header", &mut record, &mut tag);
            assert_eq!((&record, tag), (b"in the open", [0; TAG_LEN]));
            let mut out = [0; 11];
            key.open(&[0; NONCE_LEN], b"another", &record, &[3; TAG_LEN], &mut out).unwrap();
            assert_eq!(out, record);
            assert!(key.open(&[0; NONCE_LEN], b"", &record, &tag, &mut [0; 10]).is_err());
        }
    }
}
