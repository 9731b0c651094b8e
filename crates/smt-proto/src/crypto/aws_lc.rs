//! The suites by aws-lc-rs.

use alloc::boxed::Box;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hkdf, rand};

use super::{AeadKey, MAX_HASH_LEN, NONCE_LEN, NotAuthentic, Random, Suite, SuiteId, TAG_LEN};

/// The implementation of `id`.
#[must_use]
pub fn suite(id: SuiteId) -> &'static dyn Suite {
    match id {
        SuiteId::Aes128GcmSha256 => &AES_128_GCM_SHA256,
        SuiteId::Aes256GcmSha384 => &AES_256_GCM_SHA384,
        SuiteId::ChaCha20Poly1305Sha256 => &CHACHA20_POLY1305_SHA256,
    }
}

/// The operating system's random bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    /// # Panics
    /// If the operating system has no random bytes: there is no safe way to go on.
    #[expect(clippy::expect_used, reason = "there is no safe way to go on")]
    fn fill(&mut self, out: &mut [u8]) {
        rand::fill(out).expect("the operating system has random bytes");
    }
}

#[derive(Debug)]
struct AwsLcSuite {
    id: SuiteId,
    aead: &'static aead::Algorithm,
    digest: &'static digest::Algorithm,
    hkdf: hkdf::Algorithm,
}

static AES_128_GCM_SHA256: AwsLcSuite = AwsLcSuite {
    id: SuiteId::Aes128GcmSha256,
    aead: &aead::AES_128_GCM,
    digest: &digest::SHA256,
    hkdf: hkdf::HKDF_SHA256,
};

static AES_256_GCM_SHA384: AwsLcSuite = AwsLcSuite {
    id: SuiteId::Aes256GcmSha384,
    aead: &aead::AES_256_GCM,
    digest: &digest::SHA384,
    hkdf: hkdf::HKDF_SHA384,
};

static CHACHA20_POLY1305_SHA256: AwsLcSuite = AwsLcSuite {
    id: SuiteId::ChaCha20Poly1305Sha256,
    aead: &aead::CHACHA20_POLY1305,
    digest: &digest::SHA256,
    hkdf: hkdf::HKDF_SHA256,
};

impl Suite for AwsLcSuite {
    fn id(&self) -> SuiteId {
        self.id
    }

    fn key_len(&self) -> usize {
        self.aead.key_len()
    }

    fn hash_len(&self) -> usize {
        self.digest.output_len()
    }

    /// # Panics
    /// If `key` is not `key_len` bytes long.
    #[expect(clippy::expect_used, reason = "fails only for a wrong length, the caller's bug")]
    fn aead(&self, key: &[u8]) -> Box<dyn AeadKey> {
        let key = UnboundKey::new(self.aead, key).expect("the key has the suite's key length");
        Box::new(AwsLcKey(LessSafeKey::new(key)))
    }

    fn hash(&self, parts: &[&[u8]], out: &mut [u8; MAX_HASH_LEN]) {
        let mut context = digest::Context::new(self.digest);
        for part in parts {
            context.update(part);
        }
        let hash = context.finish();
        out[..self.hash_len()].copy_from_slice(hash.as_ref());
    }

    /// # Panics
    /// If `secret` is longer than any hash, or `out` than 255 hashes.
    #[expect(clippy::expect_used, reason = "fails only for wrong lengths, the caller's bug")]
    fn hkdf_expand(&self, secret: &[u8], info: &[&[u8]], out: &mut [u8]) {
        hkdf::Prk::new_less_safe(self.hkdf, secret)
            .expand(info, OutputLen(out.len()))
            .and_then(|okm| okm.fill(out))
            .expect("HKDF gives up to 255 hashes");
    }
}

struct OutputLen(usize);

impl hkdf::KeyType for OutputLen {
    fn len(&self) -> usize {
        self.0
    }
}

/// aws-lc wipes the key when it is dropped.
struct AwsLcKey(LessSafeKey);

impl AeadKey for AwsLcKey {
    #[inline]
    #[expect(clippy::expect_used, reason = "fails only beyond 64 GB, the caller's bug")]
    fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let sealed = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(aad), in_out)
            .expect("a record is shorter than the limit of the AEAD");
        tag.copy_from_slice(sealed.as_ref());
    }

    #[inline]
    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0
            .open_separate_gather(nonce, Aad::from(aad), ciphertext, tag, out)
            .map_err(|_| NotAuthentic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_have_the_lengths_of_tls() {
        for (id, key_len, hash_len) in [
            (SuiteId::Aes128GcmSha256, 16, 32),
            (SuiteId::Aes256GcmSha384, 32, 48),
            (SuiteId::ChaCha20Poly1305Sha256, 32, 32),
        ] {
            let suite = suite(id);
            assert_eq!((suite.id(), suite.key_len(), suite.hash_len()), (id, key_len, hash_len));
        }
    }

    #[test]
    fn random_bytes_differ() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        OsRandom.fill(&mut a);
        OsRandom.fill(&mut b);
        assert_ne!(a, b);
    }
}
