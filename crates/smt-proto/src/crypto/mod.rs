//! What the core needs of cryptography, as traits, so that the same core can run where a given
//! library cannot (a kernel, an enclave). [`aws_lc`] is the implementation everybody uses.

#[cfg(feature = "aws-lc")]
pub mod aws_lc;

use alloc::boxed::Box;
use core::fmt::Debug;

/// Length of every AEAD tag, in bytes.
pub const TAG_LEN: usize = 16;
/// Length of every AEAD nonce and IV, in bytes.
pub const NONCE_LEN: usize = 12;
/// Longest hash output of any suite (SHA-384), in bytes.
pub const MAX_HASH_LEN: usize = 48;

/// A TLS 1.3 cipher suite, by its registered code point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum SuiteId {
    /// TLS_AES_128_GCM_SHA256
    Aes128GcmSha256 = 0x1301,
    /// TLS_AES_256_GCM_SHA384
    Aes256GcmSha384 = 0x1302,
    /// TLS_CHACHA20_POLY1305_SHA256
    ChaCha20Poly1305Sha256 = 0x1303,
}

/// The ciphertext or its tag is not authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAuthentic;

/// An AEAD key ready for use. It wipes its key when dropped.
pub trait AeadKey: Send + Sync {
    /// Encrypts `in_out` in place and writes the tag.
    fn seal(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], in_out: &mut [u8], tag: &mut [u8; TAG_LEN]);

    /// Decrypts `ciphertext` into `out`, which has the same length.
    ///
    /// # Errors
    /// [`NotAuthentic`]; what `out` then holds is unspecified and must not be used.
    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), NotAuthentic>;
}

/// The AEAD and hash of a cipher suite.
pub trait Suite: Send + Sync + Debug {
    /// Which suite this is.
    fn id(&self) -> SuiteId;

    /// Key length of the AEAD, in bytes: 16 or 32.
    fn key_len(&self) -> usize;

    /// Output length of the hash, in bytes: 32 or 48.
    fn hash_len(&self) -> usize;

    /// Makes an AEAD key from `key_len` bytes.
    fn aead(&self, key: &[u8]) -> Box<dyn AeadKey>;

    /// Hashes the concatenation of `parts` into the first `hash_len` bytes of `out`.
    fn hash(&self, parts: &[&[u8]], out: &mut [u8; MAX_HASH_LEN]);

    /// HKDF-Expand (RFC 5869) of `secret` with the concatenation of `info` as info, filling `out`.
    fn hkdf_expand(&self, secret: &[u8], info: &[&[u8]], out: &mut [u8]);
}

/// Where the core takes unpredictable bytes from.
pub trait Random: Send {
    /// Fills `out` with bytes nobody can predict (a simulator may pass a seeded source).
    fn fill(&mut self, out: &mut [u8]);
}
