//! Both KEMs against those of crate hpke, in either direction.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::{OpModeR, OpModeS, kem, setup_receiver, setup_sender};

use super::*;

const INFO: &[u8] = b"what both know";

fn public<K: Kem>(bytes: &[u8]) -> K::PublicKey {
    K::PublicKey::from_bytes(bytes).unwrap()
}

/// The encapsulated key and what is exported.
fn seal<K: Kem>(public: &K::PublicKey) -> (Vec<u8>, [u8; 48]) {
    let mode = OpModeS::Base;
    let (key, context) =
        setup_sender::<ExportOnlyAead, HkdfSha256, K>(&mode, public, INFO).unwrap();
    let mut exported = [0; 48];
    context.export(b"of this", &mut exported).unwrap();
    (key.to_bytes().to_vec(), exported)
}

fn open<K: Kem>(private: &K::PrivateKey, key: &[u8]) -> Result<[u8; 48], HpkeError> {
    let key = K::EncappedKey::from_bytes(key)?;
    let mode = OpModeR::Base;
    let context = setup_receiver::<ExportOnlyAead, HkdfSha256, K>(&mode, private, &key, INFO)?;
    let mut exported = [0; 48];
    context.export(b"of this", &mut exported)?;
    Ok(exported)
}

/// What `A` encapsulates `B` opens.
fn agrees<A: Kem, B: Kem>() {
    assert_eq!(A::KEM_ID, B::KEM_ID);
    for _ in 0..8 {
        let (private, public_key) = B::gen_keypair();
        let (key, exported) = seal::<A>(&public::<A>(&public_key.to_bytes()));
        assert_eq!(open::<B>(&private, &key).unwrap(), exported);
    }
}

#[test]
fn x_wing_is_that_of_the_other_implementation() {
    agrees::<XWing, kem::XWing>();
    agrees::<kem::XWing, XWing>();
}

#[test]
fn x25519_is_that_of_the_other_implementation() {
    agrees::<X25519HkdfSha256, kem::X25519HkdfSha256>();
    agrees::<kem::X25519HkdfSha256, X25519HkdfSha256>();
}

#[test]
fn x25519_keys_have_the_others_wire_form() {
    let (private, public_key) = X25519HkdfSha256::gen_keypair();
    type Other = kem::X25519HkdfSha256;
    let other = <Other as Kem>::PrivateKey::from_bytes(&private.to_bytes()).unwrap();
    assert_eq!(other.to_bytes(), private.to_bytes());
    assert_eq!(Other::sk_to_pk(&other).to_bytes(), public_key.to_bytes());
}

/// A key read from its wire form is the same key, and no other length is one.
fn survives<P: KeyPair>(len: usize) {
    let (private, public_key) = AwsLc::<P>::gen_keypair();
    let bytes = private.to_bytes();
    assert_eq!(bytes.len(), len);
    let read = PrivateKey::<P>::from_bytes(&bytes).unwrap();
    assert!(bool::from(read.ct_eq(&private)));
    assert_eq!(read.to_bytes(), bytes);
    assert_eq!(AwsLc::<P>::sk_to_pk(&read), public_key);
    let (key, exported) = seal::<AwsLc<P>>(&public_key);
    assert_eq!(open::<AwsLc<P>>(&read, &key).unwrap(), exported);

    assert!(PrivateKey::<P>::from_bytes(&bytes[1..]).is_err());
    assert!(PrivateKey::<P>::from_bytes(&[bytes.as_slice(), &[0]].concat()).is_err());
    assert!(Wire::<P::PublicLen>::from_bytes(&public_key.to_bytes()[1..]).is_err());
    assert!(open::<AwsLc<P>>(&read, &key[1..]).is_err());
    let (other, _) = AwsLc::<P>::gen_keypair();
    assert!(!bool::from(other.ct_eq(&private)));
    assert_ne!(open::<AwsLc<P>>(&other, &key).unwrap(), exported);
}

#[test]
fn keys_survive_their_wire_forms() {
    survives::<xwing::Pair>(2432);
    survives::<x25519::Pair>(32);
}

#[test]
fn a_damaged_ml_kem_key_is_not_taken() {
    let (private, _) = XWing::gen_keypair();
    let bytes = private.to_bytes();
    // In the vector of secrets, in the public key, and in its hash.
    for at in [0, 600, 1151, 1152, 2000, 2335, 2336, 2367] {
        let mut damaged = bytes;
        damaged[at] ^= 1;
        assert!(PrivateKey::<xwing::Pair>::from_bytes(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn public_keys_that_are_none_are_refused() {
    let sealed = |bytes: &[u8]| {
        let public = public::<XWing>(bytes);
        setup_sender::<ExportOnlyAead, HkdfSha256, XWing>(&OpModeS::Base, &public, INFO).is_ok()
    };
    let (_, good) = XWing::gen_keypair();
    let good = good.to_bytes();
    assert!(sealed(&good));
    // The first coefficient is 4095, the modulus 3329.
    let mut large = good;
    large[0] = 0xff;
    large[1] |= 0x0f;
    assert!(!sealed(&large));
    // The first is 3329 itself, which is no reduced form either.
    large[0] = 0x01;
    large[1] = large[1] & 0xf0 | 0x0d;
    assert!(!sealed(&large));
    // X25519 finds zero, whoever asks.
    let mut zero = good;
    zero[1184..].fill(0);
    assert!(!sealed(&zero));

    let zero = public::<X25519HkdfSha256>(&[0; 32]);
    let sealed =
        setup_sender::<ExportOnlyAead, HkdfSha256, X25519HkdfSha256>(&OpModeS::Base, &zero, INFO);
    assert!(matches!(sealed, Err(HpkeError::EncapError)));
}

#[test]
fn encapsulated_keys_without_a_secret_are_refused() {
    let (private, public_key) = XWing::gen_keypair();
    let (mut key, _) = seal::<XWing>(&public_key);
    key[1088..].fill(0);
    assert_eq!(open::<XWing>(&private, &key), Err(HpkeError::DecapError));
    let (private, _) = X25519HkdfSha256::gen_keypair();
    assert_eq!(open::<X25519HkdfSha256>(&private, &[0; 32]), Err(HpkeError::DecapError));
}

#[test]
fn there_is_no_authenticated_mode() {
    let (private, public_key) = XWing::gen_keypair();
    let (key, _) = seal::<XWing>(&public_key);
    let key = Wire::from_bytes(&key).unwrap();
    assert!(XWing::decap(&private, Some(&public_key), &key).is_err());
    assert!(XWing::encap(&public_key, Some((&private, &public_key))).is_err());
}
