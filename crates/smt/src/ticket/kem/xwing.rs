//! X-Wing: ML-KEM-768 and X25519, safe while either is.

use aws_lc_rs::digest::{SHA3_256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use hpke::hybrid_array::sizes::{U1120, U1216, U2432};
use hpke::hybrid_array::{Array, ArraySize};
use zeroize::Zeroizing;

use super::x25519::{self, LEN as X25519_LEN};
use super::{KeyPair, Secret};

/// Length of ML-KEM-768's public key, and where its private key has it (FIPS 203, 7.1).
const PUBLIC_LEN: usize = 1184;
const PUBLIC_OFFSET: usize = 1152;

const LABEL: &[u8; 6] = br"\.//^\";

/// An X-Wing key pair. The wire form of the private key is not X-Wing's seed, from which aws-lc
/// cannot make it, but ML-KEM's expanded key and that of X25519.
pub(in crate::ticket) struct Pair {
    ml_kem: DecapsulationKey,
    ml_kem_public: Box<[u8]>,
    x25519: x25519::Pair,
}

impl KeyPair for Pair {
    const KEM_ID: u16 = 0x647a;
    type PublicLen = U1216;
    type PrivateLen = U2432;
    type EncapsulatedLen = U1120;

    fn generate() -> Result<Self, Unspecified> {
        let ml_kem = DecapsulationKey::generate(&ML_KEM_768)?;
        let ml_kem_public = ml_kem.encapsulation_key()?.key_bytes()?.as_ref().into();
        Ok(Self { ml_kem, ml_kem_public, x25519: x25519::Pair::generate()? })
    }

    fn read(private: &[u8]) -> Result<Self, Unspecified> {
        let (ml_kem, x25519) = split_x25519(private)?;
        let public = ml_kem.get(PUBLIC_OFFSET..).and_then(|rest| rest.get(..PUBLIC_LEN));
        let ml_kem_public: Box<[u8]> = public.ok_or(Unspecified)?.into();
        let ml_kem = DecapsulationKey::new(&ML_KEM_768, ml_kem)?;
        // The halves of a damaged key need not fit, which clients would find out otherwise.
        let (key, secret) = EncapsulationKey::new(&ML_KEM_768, &ml_kem_public)?.encapsulate()?;
        if ml_kem.decapsulate(key)?.as_ref() != secret.as_ref() {
            return Err(Unspecified);
        }
        Ok(Self { ml_kem, ml_kem_public, x25519: x25519::Pair::read(x25519)? })
    }

    #[expect(clippy::expect_used, reason = "every key has these bytes, and `out` their length")]
    fn write(&self, out: &mut [u8]) {
        let ml_kem = self.ml_kem.key_bytes().expect("an ML-KEM key");
        let (first, last) = out.split_at_mut(ml_kem.as_ref().len());
        first.copy_from_slice(ml_kem.as_ref());
        self.x25519.write(last);
    }

    fn public(&self) -> Array<u8, U1216> {
        joined(&self.ml_kem_public, self.x25519.public_bytes())
    }

    fn encapsulate(public: &Array<u8, U1216>) -> Result<(Secret, Array<u8, U1120>), Unspecified> {
        let (ml_kem, x25519) = split_x25519(public)?;
        let (key, secret) = EncapsulationKey::new(&ML_KEM_768, ml_kem)?.encapsulate()?;
        let ephemeral = x25519::Pair::generate()?;
        let agreed = ephemeral.agree(x25519)?;
        let combined = combine(secret.as_ref(), &agreed, ephemeral.public_bytes(), x25519);
        Ok((combined, joined(key.as_ref(), ephemeral.public_bytes())))
    }

    fn decapsulate(&self, key: &Array<u8, U1120>) -> Result<Secret, Unspecified> {
        let (ml_kem, x25519) = split_x25519(key)?;
        let secret = self.ml_kem.decapsulate(Ciphertext::from(ml_kem))?;
        let agreed = self.x25519.agree(x25519)?;
        Ok(combine(secret.as_ref(), &agreed, x25519, self.x25519.public_bytes()))
    }
}

/// X-Wing's combiner: `agreed` is X25519's secret, `key` and `public` the two ends' X25519 keys.
fn combine(secret: &[u8], agreed: &Secret, key: &[u8], public: &[u8]) -> Secret {
    let input = Zeroizing::new([secret, agreed.as_slice(), key, public, LABEL].concat());
    let mut combined = Secret::default();
    combined.copy_from_slice(digest(&SHA3_256, &input).as_ref());
    combined
}

/// What belongs to ML-KEM and what to X25519, whose keys come last in all wire forms.
fn split_x25519(bytes: &[u8]) -> Result<(&[u8], &[u8; X25519_LEN]), Unspecified> {
    bytes.split_last_chunk().ok_or(Unspecified)
}

/// The reverse; together `N` bytes long.
fn joined<N: ArraySize>(ml_kem: &[u8], x25519: &[u8; X25519_LEN]) -> Array<u8, N> {
    let mut bytes = Array::default();
    let (first, last) = bytes.split_at_mut(ml_kem.len());
    first.copy_from_slice(ml_kem);
    last.copy_from_slice(x25519);
    bytes
}
