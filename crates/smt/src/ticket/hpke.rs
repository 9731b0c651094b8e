//! HPKE (RFC 9180), as far as tickets use it: base mode, HKDF-SHA256, export only.
//!
//! The key schedule is crate hpke's, the KEMs are aws-lc's ([`kem`](super::kem)).

use hpke::aead::{AeadCtxR, AeadCtxS, ExportOnlyAead};
use hpke::kdf::HkdfSha256;
use hpke::{Deserializable, HpkeError, Kem as KemTrait, OpModeR, OpModeS, Serializable};
use hpke::{setup_receiver, setup_sender};
use zeroize::Zeroizing;

use super::kem::{X25519HkdfSha256, XWing};

type Sender<K> = AeadCtxS<ExportOnlyAead, HkdfSha256, K>;
type Receiver<K> = AeadCtxR<ExportOnlyAead, HkdfSha256, K>;

/// How a ticket's key agrees on a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kem {
    /// X-Wing: X25519 and ML-KEM-768 together, which a future quantum computer cannot undo.
    #[default]
    XWing,
    /// DHKEM(X25519, HKDF-SHA256). Smaller tickets and less CPU.
    X25519,
}

impl Kem {
    /// HPKE's number of it.
    #[must_use]
    pub fn id(self) -> u16 {
        match self {
            Self::XWing => XWing::KEM_ID,
            Self::X25519 => X25519HkdfSha256::KEM_ID,
        }
    }

    pub(super) fn from_id(id: u16) -> Option<Self> {
        [Self::XWing, Self::X25519].into_iter().find(|kem| kem.id() == id)
    }

    /// Length of a public key, in bytes.
    #[must_use]
    pub fn public_key_len(self) -> usize {
        match self {
            Self::XWing => <XWing as KemTrait>::PublicKey::size(),
            Self::X25519 => <X25519HkdfSha256 as KemTrait>::PublicKey::size(),
        }
    }

    /// Length of an encapsulated key, in bytes.
    #[must_use]
    pub fn encapsulated_len(self) -> usize {
        match self {
            Self::XWing => <XWing as KemTrait>::EncappedKey::size(),
            Self::X25519 => <X25519HkdfSha256 as KemTrait>::EncappedKey::size(),
        }
    }

    /// A fresh key pair; the public key in its wire form.
    ///
    /// # Panics
    /// If the operating system has no random bytes: there is no safe way to go on.
    pub(super) fn generate(self) -> (PrivateKey, Vec<u8>) {
        fn pair<K: KemTrait>(wrap: impl FnOnce(K::PrivateKey) -> Inner) -> (PrivateKey, Vec<u8>) {
            let (private, public) = K::gen_keypair();
            (PrivateKey(wrap(private)), public.to_bytes().to_vec())
        }
        match self {
            Self::XWing => pair::<XWing>(Inner::XWing),
            Self::X25519 => pair::<X25519HkdfSha256>(Inner::X25519),
        }
    }

    /// Agrees on a secret with the owner of `public_key`; the encapsulated key tells him.
    ///
    /// # Panics
    /// If the operating system has no random bytes: there is no safe way to go on.
    pub(super) fn encapsulate(self, public_key: &[u8], info: &[u8]) -> Option<(Vec<u8>, Exporter)> {
        fn seal<K: KemTrait>(public_key: &[u8], info: &[u8]) -> Option<(Vec<u8>, Exporter)>
        where
            Sender<K>: Export + 'static,
        {
            let public_key = K::PublicKey::from_bytes(public_key).ok()?;
            let (key, context) =
                setup_sender::<ExportOnlyAead, HkdfSha256, K>(&OpModeS::Base, &public_key, info)
                    .ok()?;
            Some((key.to_bytes().to_vec(), Exporter(Box::new(context))))
        }
        match self {
            Self::XWing => seal::<XWing>(public_key, info),
            Self::X25519 => seal::<X25519HkdfSha256>(public_key, info),
        }
    }
}

/// A ticket's private key, wiped when dropped and never printed.
pub(super) struct PrivateKey(Inner);

enum Inner {
    XWing(<XWing as KemTrait>::PrivateKey),
    X25519(<X25519HkdfSha256 as KemTrait>::PrivateKey),
}

impl PrivateKey {
    /// The secret that the encapsulated key agrees on. There is one for nearly any key of the right
    /// length, and only a sender who made the key knows the same; `None` for one whose X25519 part
    /// agrees on zero with every key.
    pub(super) fn decapsulate(&self, key: &[u8], info: &[u8]) -> Option<Exporter> {
        match &self.0 {
            Inner::XWing(private) => open::<XWing>(private, key, info),
            Inner::X25519(private) => open::<X25519HkdfSha256>(private, key, info),
        }
    }

    /// The public key that belongs to it, in its wire form.
    pub(super) fn public_key(&self) -> Vec<u8> {
        fn public<K: KemTrait>(private: &K::PrivateKey) -> Vec<u8> {
            K::sk_to_pk(private).to_bytes().to_vec()
        }
        match &self.0 {
            Inner::XWing(private) => public::<XWing>(private),
            Inner::X25519(private) => public::<X25519HkdfSha256>(private),
        }
    }

    /// Its wire form: 32 bytes for X25519; for X-Wing the expanded key of ML-KEM-768 (FIPS 203), 2400
    /// bytes, and that of X25519.
    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        fn bytes<K: Serializable>(private: &K) -> Zeroizing<Vec<u8>> {
            let mut bytes = Zeroizing::new(vec![0; K::size()]);
            private.write_exact(&mut bytes);
            bytes
        }
        match &self.0 {
            Inner::XWing(private) => bytes(private),
            Inner::X25519(private) => bytes(private),
        }
    }

    /// A key from its wire form.
    pub(super) fn from_bytes(kem: Kem, bytes: &[u8]) -> Option<Self> {
        Some(Self(match kem {
            Kem::XWing => Inner::XWing(Deserializable::from_bytes(bytes).ok()?),
            Kem::X25519 => Inner::X25519(Deserializable::from_bytes(bytes).ok()?),
        }))
    }
}

fn open<K: KemTrait>(private: &K::PrivateKey, key: &[u8], info: &[u8]) -> Option<Exporter>
where
    Receiver<K>: Export + 'static,
{
    let key = K::EncappedKey::from_bytes(key).ok()?;
    let context =
        setup_receiver::<ExportOnlyAead, HkdfSha256, K>(&OpModeR::Base, private, &key, info)
            .ok()?;
    Some(Exporter(Box::new(context)))
}

/// The same with crate hpke's own X-Wing, whose private key is the seed, for test vectors that have
/// no other; the KEM's tests hold ours against it.
#[cfg(test)]
pub(super) fn open_seeded(seed: &[u8], key: &[u8], info: &[u8]) -> Option<Exporter> {
    open::<hpke::kem::XWing>(&Deserializable::from_bytes(seed).ok()?, key, info)
}

/// An HPKE context of either end that secrets are exported from.
pub(super) struct Exporter(Box<dyn Export>);

impl Exporter {
    /// Fills `out`, at most 48 bytes, with the secret of `context`.
    pub(super) fn export(&self, context: &[u8], out: &mut [u8]) {
        self.0.export_to(context, out);
    }
}

/// Both ends' contexts, of either KEM.
trait Export: Send + Sync {
    fn export_to(&self, context: &[u8], out: &mut [u8]);
}

impl<K: KemTrait> Export for Sender<K>
where
    Self: Send + Sync,
{
    fn export_to(&self, context: &[u8], out: &mut [u8]) {
        exported(self.export(context, out));
    }
}

impl<K: KemTrait> Export for Receiver<K>
where
    Self: Send + Sync,
{
    fn export_to(&self, context: &[u8], out: &mut [u8]) {
        exported(self.export(context, out));
    }
}

#[expect(clippy::expect_used, reason = "fails only for outputs of 8 KiB and more")]
fn exported(result: Result<(), HpkeError>) {
    result.expect("the output is at most a hash long");
}
