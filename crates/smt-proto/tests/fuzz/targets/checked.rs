//! A cipher suite that hides nothing but notices every accident: what is altered, or sealed under
//! another key or nonce, does not open.

use smt_proto::crypto::{AeadKey, MAX_HASH_LEN, NONCE_LEN, NotAuthentic, Suite, SuiteId, TAG_LEN};

use super::plain::Plain;

#[derive(Debug)]
pub struct Checked;

struct CheckedKey(Vec<u8>);

impl CheckedKey {
    fn tag(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], text: &[u8]) -> [u8; TAG_LEN] {
        let mut tag = [0; TAG_LEN];
        Plain.hkdf_expand(&self.0, &[nonce, aad, text], &mut tag);
        tag
    }
}

impl AeadKey for CheckedKey {
    fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) {
        *tag = self.tag(nonce, aad, in_out);
    }

    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        out.copy_from_slice(ciphertext);
        if *tag == self.tag(nonce, aad, ciphertext) { Ok(()) } else { Err(NotAuthentic) }
    }
}

impl Suite for Checked {
    fn id(&self) -> SuiteId {
        Plain.id()
    }

    fn key_len(&self) -> usize {
        Plain.key_len()
    }

    fn hash_len(&self) -> usize {
        Plain.hash_len()
    }

    fn aead(&self, key: &[u8]) -> Box<dyn AeadKey> {
        Box::new(CheckedKey(key.to_vec()))
    }

    fn hash(&self, parts: &[&[u8]], out: &mut [u8; MAX_HASH_LEN]) {
        Plain.hash(parts, out);
    }

    fn hkdf_expand(&self, secret: &[u8], info: &[&[u8]], out: &mut [u8]) {
        Plain.hkdf_expand(secret, info, out);
    }
}
