//! Secrets and what is derived from them (spec 5.1, 5.2).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto::{AeadKey, MAX_HASH_LEN, NONCE_LEN, Suite};

/// Length of a header key, in bytes: that of a SipHash key.
pub(crate) const HEADER_KEY_LEN: usize = 16;

/// Longest AEAD key of any suite, in bytes.
const MAX_KEY_LEN: usize = 32;

/// A secret of up to 48 bytes, wiped when dropped and never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret {
    bytes: [u8; MAX_HASH_LEN],
    len: u8,
}

impl Secret {
    /// Copies a secret.
    ///
    /// # Panics
    /// If it is longer than [`MAX_HASH_LEN`].
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        assert!(secret.len() <= MAX_HASH_LEN, "secret longer than any hash");
        let mut bytes = [0; MAX_HASH_LEN];
        bytes[..secret.len()].copy_from_slice(secret);
        Self { bytes, len: secret.len() as u8 }
    }

    /// The secret itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Expands a secret of the suite's hash length.
    fn derive(suite: &dyn Suite, secret: &[u8], label: &str, context: &[u8]) -> Self {
        let mut derived = Self { bytes: [0; MAX_HASH_LEN], len: suite.hash_len() as u8 };
        expand_label(suite, secret, label, context, &mut derived.bytes[..suite.hash_len()]);
        derived
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// HKDF-Expand-Label of RFC 8446, section 7.1, filling `out`.
///
/// # Panics
/// If label or context are longer than its length bytes can say (249 and 255), or `out` is longer than
/// 255 hashes.
pub fn expand_label(suite: &dyn Suite, secret: &[u8], label: &str, context: &[u8], out: &mut [u8]) {
    const PREFIX: &[u8] = b"tls13 ";
    let label_len = PREFIX.len() + label.len();
    assert!(label_len <= 255 && context.len() <= 255, "label or context too long");
    let [high, low] = (out.len() as u16).to_be_bytes();
    let info: [&[u8]; 5] =
        [&[high, low, label_len as u8], PREFIX, label.as_bytes(), &[context.len() as u8], context];
    suite.hkdf_expand(secret, &info, out);
}

/// The context that binds the secrets of a session to what was said in the clear (spec 5.1): a hash
/// of `suite.hash_len()` bytes. The blocks are those of the flights, length prefix included.
///
/// # Panics
/// If `alpn` is longer than 255 bytes, which TLS rules out.
#[must_use]
pub fn key_context(
    suite: &dyn Suite,
    alpn: &[u8],
    client_port: u16,
    server_port: u16,
    client_block: &[u8],
    server_block: &[u8],
) -> Vec<u8> {
    assert!(alpn.len() <= 255, "ALPN too long");
    let hash_len = suite.hash_len();
    let (mut client, mut server, mut context) =
        ([0; MAX_HASH_LEN], [0; MAX_HASH_LEN], [0; MAX_HASH_LEN]);
    suite.hash(&[client_block], &mut client);
    suite.hash(&[server_block], &mut server);
    let parts: [&[u8]; 8] = [
        b"smt/1 context",
        &(suite.id() as u16).to_be_bytes(),
        &[alpn.len() as u8],
        alpn,
        &client_port.to_be_bytes(),
        &server_port.to_be_bytes(),
        &client[..hash_len],
        &server[..hash_len],
    ];
    suite.hash(&parts, &mut context);
    context[..hash_len].to_vec()
}

/// The context that binds the secrets of early data to the ticket and to what the client said in the
/// clear (spec 5.7): a hash of `suite.hash_len()` bytes. `ticket` is the whole ticket, `client_block`
/// the client's parameter block with its length prefix, as sent, and `tls_flight0` the TLS bytes of
/// flight 0.
///
/// # Panics
/// If `alpn` is longer than 255 bytes, which TLS and the ticket's format rule out.
#[must_use]
pub fn early_context(
    suite: &dyn Suite,
    alpn: &[u8],
    client_port: u16,
    server_port: u16,
    ticket: &[u8],
    client_block: &[u8],
    tls_flight0: &[u8],
) -> Vec<u8> {
    assert!(alpn.len() <= 255, "ALPN too long");
    let hash_len = suite.hash_len();
    let hash = |bytes: &[u8]| {
        let mut out = [0; MAX_HASH_LEN];
        suite.hash(&[bytes], &mut out);
        out
    };
    let (ticket, block, flight) = (hash(ticket), hash(client_block), hash(tls_flight0));
    let parts: [&[u8]; 9] = [
        b"smt/1 early context",
        &(suite.id() as u16).to_be_bytes(),
        &[alpn.len() as u8],
        alpn,
        &client_port.to_be_bytes(),
        &server_port.to_be_bytes(),
        &ticket[..hash_len],
        &block[..hash_len],
        &flight[..hash_len],
    ];
    let mut context = [0; MAX_HASH_LEN];
    suite.hash(&parts, &mut context);
    context[..hash_len].to_vec()
}

/// The secret of the server's direction of epoch 1 (spec 5.7), from the early `secret` that both ends
/// have of the ticket and flight 0, and the server's parameter block as sent, length prefix included.
/// The random of its answer is in there: whoever takes the same offer twice has two secrets.
#[must_use]
pub fn answered_secret(suite: &dyn Suite, secret: &Secret, server_block: &[u8]) -> Secret {
    let mut hash = [0; MAX_HASH_LEN];
    suite.hash(&[server_block], &mut hash);
    Secret::derive(suite, secret.as_bytes(), "smt answer", &hash[..suite.hash_len()])
}

/// The first secret of a direction from an application traffic secret of a TLS handshake done
/// elsewhere; nobody else may use that secret from then on.
#[must_use]
pub fn secret_from_traffic_secret(
    suite: &dyn Suite,
    traffic_secret: &[u8],
    context: &[u8],
) -> Secret {
    Secret::derive(suite, traffic_secret, "smt 1", context)
}

/// The first secret of a direction of lane `index` of a session, from the session's own of epoch 3 (spec
/// 3.5). Lane 0 has that itself.
#[must_use]
pub fn lane_secret(suite: &dyn Suite, secret: &Secret, index: u8) -> Secret {
    match index {
        0 => secret.clone(),
        index => Secret::derive(suite, secret.as_bytes(), "smt lane", &[index]),
    }
}

/// The keys of one direction and epoch. They hold the next epoch's secret, not their own, so that
/// nothing leads back.
pub struct EpochKeys {
    aead: Box<dyn AeadKey>,
    next: Secret,
    epoch: u32,
    iv: [u8; NONCE_LEN],
}

impl EpochKeys {
    /// Derives the keys of `epoch` from its secret.
    #[must_use]
    pub fn new(suite: &dyn Suite, secret: Secret, epoch: u32) -> Self {
        let mut key = Zeroizing::new([0; MAX_KEY_LEN]);
        let key = &mut key[..suite.key_len()];
        expand_label(suite, secret.as_bytes(), "key", &[], key);
        let mut iv = [0; NONCE_LEN];
        expand_label(suite, secret.as_bytes(), "iv", &[], &mut iv);
        let next = Secret::derive(suite, secret.as_bytes(), "traffic upd", &[]);
        Self { aead: suite.aead(key), next, epoch, iv }
    }

    /// The keys of the following epoch.
    #[must_use]
    pub fn next(&self, suite: &dyn Suite) -> Self {
        Self::new(suite, self.next.clone(), self.epoch.saturating_add(1))
    }

    /// Which epoch these keys are of.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The nonce of a record: IV XOR sequence number (RFC 8446, section 5.3).
    #[inline]
    #[must_use]
    pub fn nonce(&self, sequence_number: u64) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(sequence_number.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    #[inline]
    pub(crate) fn aead(&self) -> &dyn AeadKey {
        &*self.aead
    }
}

impl Drop for EpochKeys {
    fn drop(&mut self) {
        // The AEAD key and the secret wipe themselves.
        self.iv.zeroize();
    }
}

impl fmt::Debug for EpochKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpochKeys").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// The key of a direction's header tags, the same in all epochs. What it does is in [`tag`](crate::tag).
#[derive(Clone, ZeroizeOnDrop)]
pub struct HeaderKey {
    pub(crate) key: [u8; HEADER_KEY_LEN],
}

impl HeaderKey {
    /// Derives the header key from the secret of epoch 3.
    #[must_use]
    pub fn derive(suite: &dyn Suite, secret: &Secret) -> Self {
        let mut header_key = Self { key: [0; HEADER_KEY_LEN] };
        expand_label(suite, secret.as_bytes(), "smt header", &[], &mut header_key.key);
        header_key
    }
}

impl fmt::Debug for HeaderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeaderKey(..)")
    }
}

#[cfg(all(test, feature = "aws-lc"))]
mod tests {
    use super::*;
    use crate::crypto::SuiteId;
    use crate::crypto::aws_lc::suite;
    use std::format;

    #[test]
    fn secrets_are_not_printed() {
        let secret = Secret::new(&[0xab; 32]);
        let suite = suite(SuiteId::Aes128GcmSha256);
        let header_key = HeaderKey::derive(suite, &secret);
        let keys = EpochKeys::new(suite, secret.clone(), 3);
        assert_eq!(secret.as_bytes(), [0xab; 32]);
        assert_eq!(format!("{secret:?} {header_key:?}"), "Secret(..) HeaderKey(..)");
        assert_eq!(format!("{keys:?}"), "EpochKeys { epoch: 3, .. }");
    }

    #[test]
    fn epochs_follow_each_other() {
        let suite = suite(SuiteId::ChaCha20Poly1305Sha256);
        let first = EpochKeys::new(suite, Secret::new(&[1; 32]), 3);
        let (a, b) = (first.next(suite), first.next(suite));
        assert_eq!((a.epoch(), a.next.as_bytes()), (4, b.next.as_bytes()));
        assert_ne!(a.nonce(0), first.nonce(0));
    }

    #[test]
    fn every_input_of_the_context_counts() {
        let suite_a = suite(SuiteId::Aes128GcmSha256);
        let suite_b = suite(SuiteId::ChaCha20Poly1305Sha256);
        let contexts = [
            key_context(suite_a, b"smt/1", 1, 2, b"c", b"s"),
            key_context(suite_b, b"smt/1", 1, 2, b"c", b"s"),
            key_context(suite_a, b"smt/2", 1, 2, b"c", b"s"),
            key_context(suite_a, b"smt/1", 3, 2, b"c", b"s"),
            key_context(suite_a, b"smt/1", 1, 3, b"c", b"s"),
            key_context(suite_a, b"smt/1", 1, 2, b"d", b"s"),
            key_context(suite_a, b"smt/1", 1, 2, b"c", b"t"),
        ];
        for (i, context) in contexts.iter().enumerate() {
            assert_eq!(context.len(), 32);
            assert!(!contexts[..i].contains(context));
        }
    }

    #[test]
    fn every_input_of_the_early_context_counts() {
        let suite_a = suite(SuiteId::Aes128GcmSha256);
        let suite_b = suite(SuiteId::ChaCha20Poly1305Sha256);
        let contexts = [
            early_context(suite_a, b"smt/1", 1, 2, b"t", b"c", b"h"),
            early_context(suite_b, b"smt/1", 1, 2, b"t", b"c", b"h"),
            early_context(suite_a, b"smt/2", 1, 2, b"t", b"c", b"h"),
            early_context(suite_a, b"smt/1", 3, 2, b"t", b"c", b"h"),
            early_context(suite_a, b"smt/1", 1, 3, b"t", b"c", b"h"),
            early_context(suite_a, b"smt/1", 1, 2, b"u", b"c", b"h"),
            early_context(suite_a, b"smt/1", 1, 2, b"t", b"d", b"h"),
            early_context(suite_a, b"smt/1", 1, 2, b"t", b"c", b"i"),
        ];
        for (i, context) in contexts.iter().enumerate() {
            assert_eq!(context.len(), 32);
            assert!(!contexts[..i].contains(context));
        }
        let long = suite(SuiteId::Aes256GcmSha384);
        assert_eq!(early_context(long, b"smt/1", 1, 2, b"t", b"c", b"h").len(), 48);
    }

    #[test]
    fn an_answered_secret_is_that_of_one_block() {
        for id in [SuiteId::Aes128GcmSha256, SuiteId::Aes256GcmSha384] {
            let suite = suite(id);
            let early = [1, 2].map(|byte| Secret::new(&[byte; 48][..suite.hash_len()]));
            let answered = |early, block: &[u8]| answered_secret(suite, early, block);
            let one = answered(&early[0], b"block");
            assert_eq!(one.as_bytes().len(), suite.hash_len());
            assert_eq!(one.as_bytes(), answered(&early[0], b"block").as_bytes());
            for other in [answered(&early[0], b"clock"), answered(&early[1], b"block")] {
                assert_ne!(one.as_bytes(), other.as_bytes());
            }
        }
    }

    #[test]
    fn keys_stay_small() {
        assert!(size_of::<EpochKeys>() <= 88);
    }
}
