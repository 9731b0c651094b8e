//! DHKEM(X25519, HKDF-SHA256) (RFC 9180, 4.1).

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use hpke::hybrid_array::Array;
use hpke::hybrid_array::sizes::U32;
use zeroize::Zeroizing;

use super::{KeyPair, Secret};

/// Length of an X25519 key of either kind.
pub(super) const LEN: usize = 32;

const VERSION: &[u8] = b"HPKE-v1";
const SUITE: &[u8] = b"KEM\x00\x20";

/// An X25519 key pair.
pub(in crate::ticket) struct Pair {
    private: PrivateKey,
    public: [u8; LEN],
}

impl Pair {
    fn new(private: PrivateKey) -> Result<Self, Unspecified> {
        let public = private.compute_public_key()?;
        let public = public.as_ref().try_into().map_err(|_| Unspecified)?;
        Ok(Self { private, public })
    }

    pub(super) fn public_bytes(&self) -> &[u8; LEN] {
        &self.public
    }

    /// What it and the owner of `public` have in common. Fails if that is zero: then it does not
    /// depend on this pair.
    pub(super) fn agree(&self, public: &[u8]) -> Result<Secret, Unspecified> {
        let public = UnparsedPublicKey::new(&X25519, public);
        agree(&self.private, public, Unspecified, |agreed| {
            let mut secret = Secret::default();
            let agreed: &[u8; LEN] = agreed.try_into().map_err(|_| Unspecified)?;
            secret.copy_from_slice(agreed);
            Ok(secret)
        })
    }
}

impl KeyPair for Pair {
    const KEM_ID: u16 = 0x0020;
    type PublicLen = U32;
    type PrivateLen = U32;
    type EncapsulatedLen = U32;

    fn generate() -> Result<Self, Unspecified> {
        Self::new(PrivateKey::generate(&X25519)?)
    }

    fn read(private: &[u8]) -> Result<Self, Unspecified> {
        Self::new(PrivateKey::from_private_key(&X25519, private)?)
    }

    #[expect(clippy::expect_used, reason = "every X25519 key has these bytes")]
    fn write(&self, out: &mut [u8]) {
        let private: Curve25519SeedBin<'_> = self.private.as_be_bytes().expect("an X25519 key");
        out.copy_from_slice(private.as_ref());
        // As RFC 9180 (7.1.2) has it; aws-lc leaves it to the use of the key.
        if let [first, .., last] = out {
            *first &= 0xf8;
            *last = *last & 0x7f | 0x40;
        }
    }

    fn public(&self) -> Array<u8, U32> {
        self.public.into()
    }

    fn encapsulate(public: &Array<u8, U32>) -> Result<(Secret, Array<u8, U32>), Unspecified> {
        let ephemeral = Self::generate()?;
        let agreed = ephemeral.agree(public)?;
        Ok((derive(&agreed, &ephemeral.public, public)?, ephemeral.public.into()))
    }

    fn decapsulate(&self, key: &Array<u8, U32>) -> Result<Secret, Unspecified> {
        derive(&self.agree(key)?, key, &self.public)
    }
}

/// ExtractAndExpand.
fn derive(agreed: &Secret, key: &[u8], public: &[u8]) -> Result<Secret, Unspecified> {
    let input = Zeroizing::new([VERSION, SUITE, b"eae_prk", agreed.as_slice()].concat());
    let extracted = Salt::none(HKDF_SHA256).extract(&input);
    let len = (LEN as u16).to_be_bytes();
    let info = [&len, VERSION, SUITE, b"shared_secret", key, public];
    let mut secret = Secret::default();
    // SHA-256's output is as long as the secret.
    extracted.expand(&info, HKDF_SHA256)?.fill(secret.as_mut_slice())?;
    Ok(secret)
}
