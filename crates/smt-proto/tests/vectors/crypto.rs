//! Primitives, keys and records.

use serde::Deserialize;
use smt_proto::crypto::NotAuthentic;
use smt_proto::keys::{
    EpochKeys, HeaderKey, Secret, expand_label, key_context, lane_secret,
    secret_from_traffic_secret,
};
use smt_proto::record::{bundle_sequence_number, open, seal, sequence_number};
use smt_proto::wire::epoch_to_wire;

use crate::{Hex, read, suite};

#[derive(Deserialize)]
struct Published {
    aead: Vec<Aead>,
    hkdf: Hkdf,
    tls: Tls,
}

#[derive(Deserialize)]
struct Aead {
    source: String,
    suite: u16,
    key: Hex,
    nonce: Hex,
    aad: Hex,
    plaintext: Hex,
    ciphertext: Hex,
    tag: Hex,
}

#[derive(Deserialize)]
struct Hkdf {
    suite: u16,
    prk: Hex,
    info: Hex,
    okm: Hex,
}

#[derive(Deserialize)]
struct Tls {
    suite: u16,
    client: TlsSide,
    server: TlsSide,
    plaintext: Hex,
}

#[derive(Deserialize)]
struct TlsSide {
    traffic_secret: Hex,
    key: Hex,
    iv: Hex,
    number: u64,
    record: Hex,
}

/// A record sealed by us, and opened again.
fn reseal(keys: &EpochKeys, number: u64, plaintext: &[u8]) -> Vec<u8> {
    let mut wire = [&[0; 5], plaintext, &[0; 17]].concat();
    seal(keys, number, &mut wire);
    let mut out = vec![0xa5; plaintext.len() + 1];
    assert_eq!(open(keys, number, &wire, &mut out), Ok(()));
    assert_eq!(out, [plaintext, &[0xa5]].concat());
    wire
}

#[test]
fn published_aead() {
    for v in read::<Published>("published").aead {
        let key = suite(v.suite).aead(&v.key);
        let nonce = v.nonce.first_chunk().expect("12 bytes");
        let (mut text, mut tag) = (v.plaintext.0.clone(), [0; 16]);
        key.seal(nonce, &v.aad, &mut text, &mut tag);
        assert_eq!((&text[..], &tag[..]), (&v.ciphertext[..], &v.tag[..]), "{}", v.source);

        let mut out = vec![0; text.len()];
        assert_eq!(key.open(nonce, &v.aad, &text, &tag, &mut out), Ok(()), "{}", v.source);
        assert_eq!(out[..], v.plaintext[..], "{}", v.source);
        tag[15] ^= 1;
        let opened = key.open(nonce, &v.aad, &text, &tag, &mut out);
        assert_eq!(opened, Err(NotAuthentic), "{}", v.source);
    }
}

#[test]
fn published_hkdf() {
    let v = read::<Published>("published").hkdf;
    let mut okm = vec![0; v.okm.len()];
    let (first, second) = v.info.split_at(3);
    suite(v.suite).hkdf_expand(&v.prk, &[first, second], &mut okm);
    assert_eq!(okm[..], v.okm[..]);
}

#[test]
fn published_tls_handshake() {
    let v = read::<Published>("published").tls;
    let suite = suite(v.suite);
    for side in [v.client, v.server] {
        let (mut key, mut iv) = ([0; 16], [0; 12]);
        expand_label(suite, &side.traffic_secret, "key", &[], &mut key);
        expand_label(suite, &side.traffic_secret, "iv", &[], &mut iv);
        assert_eq!((&key[..], &iv[..]), (&side.key[..], &side.iv[..]));

        let keys = EpochKeys::new(suite, Secret::new(&side.traffic_secret), 3);
        assert_eq!(reseal(&keys, side.number, &v.plaintext)[..], side.record[..]);
    }
}

#[derive(Deserialize)]
struct Keys {
    suites: Vec<SuiteKeys>,
    epoch_bytes: Vec<(u32, u8)>,
}

#[derive(Deserialize)]
struct SuiteKeys {
    suite: u16,
    name: String,
    alpn: Hex,
    client_port: u16,
    server_port: u16,
    client_block: Hex,
    server_block: Hex,
    context: Hex,
    directions: Vec<Direction>,
}

#[derive(Deserialize)]
struct Direction {
    role: String,
    traffic_secret: Hex,
    updated_traffic_secret: Hex,
    registered_secret: Hex,
    header_key: Hex,
    epochs: Vec<Epoch>,
}

#[derive(Deserialize)]
struct Epoch {
    epoch: u32,
    secret: Hex,
    key: Hex,
    iv: Hex,
    record: ShortRecord,
}

#[derive(Deserialize)]
struct ShortRecord {
    number: u64,
    wire: Hex,
}

#[test]
fn keys() {
    for v in read::<Keys>("keys").suites {
        let suite = suite(v.suite);
        let context = key_context(
            suite,
            &v.alpn,
            v.client_port,
            v.server_port,
            &v.client_block,
            &v.server_block,
        );
        assert_eq!(context[..], v.context[..], "{}", v.name);
        assert_eq!(v.directions.len(), 2);
        for direction in v.directions {
            let case = format!("{} {}", v.name, direction.role);
            let secret = secret_from_traffic_secret(suite, &direction.traffic_secret, &context);
            assert_eq!(secret.as_bytes(), &direction.epochs[0].secret[..], "{case}");

            let mut updated = vec![0; suite.hash_len()];
            expand_label(suite, &direction.traffic_secret, "traffic upd", &[], &mut updated);
            assert_eq!(updated[..], direction.updated_traffic_secret[..], "{case}");
            let registered = secret_from_traffic_secret(suite, &updated, &context);
            assert_eq!(registered.as_bytes(), &direction.registered_secret[..], "{case}");

            let mut header_key = [0; 16];
            expand_label(suite, secret.as_bytes(), "smt header", &[], &mut header_key);
            assert_eq!(header_key[..], direction.header_key[..], "{case}");

            let mut keys = EpochKeys::new(suite, secret, 3);
            for epoch in direction.epochs {
                assert_eq!(keys.epoch(), epoch.epoch, "{case}");
                assert_eq!(keys.nonce(0)[..], epoch.iv[..], "{case}");
                let mut key = vec![0; suite.key_len()];
                expand_label(suite, &epoch.secret, "key", &[], &mut key);
                assert_eq!(key[..], epoch.key[..], "{case}");
                let record = reseal(&keys, epoch.record.number, b"smt");
                assert_eq!(record[..], epoch.record.wire[..], "{case}");
                keys = keys.next(suite);
            }
        }
    }
}

#[test]
fn epoch_bytes() {
    for (epoch, byte) in read::<Keys>("keys").epoch_bytes {
        assert_eq!(epoch_to_wire(epoch), byte, "epoch {epoch}");
    }
}

#[derive(Deserialize)]
struct Records {
    records: Vec<Record>,
    refused: Vec<(u64, u8, u32)>,
    bundles: Vec<(u64, u8, u64)>,
}

#[derive(Deserialize)]
struct Record {
    suite: u16,
    secret: Hex,
    message_id: u64,
    id_bits: u8,
    index: u32,
    number: u64,
    nonce: Hex,
    plaintext: Hex,
    wire: Hex,
}

#[test]
fn records() {
    let vectors = read::<Records>("records");
    for v in vectors.records {
        let keys = EpochKeys::new(suite(v.suite), Secret::new(&v.secret), 3);
        assert_eq!(sequence_number(v.message_id, v.id_bits, v.index), Some(v.number));
        assert_eq!(keys.nonce(v.number)[..], v.nonce[..]);
        assert_eq!(reseal(&keys, v.number, &v.plaintext)[..], v.wire[..]);
    }
    for (message_id, id_bits, index) in vectors.refused {
        assert_eq!(sequence_number(message_id, id_bits, index), None);
    }
    for (message_id, id_bits, number) in vectors.bundles {
        assert_eq!(bundle_sequence_number(message_id, id_bits), Some(number));
    }
}

#[derive(Deserialize)]
struct LanesFile {
    secrets: Vec<LaneSecret>,
}

#[derive(Deserialize)]
struct LaneSecret {
    suite: u16,
    secret: Hex,
    lane: u8,
    lane_secret: Hex,
    header_key: Hex,
}

#[test]
fn secrets_of_lanes() {
    let file: LanesFile = read("lanes");
    assert!(!file.secrets.is_empty());
    for v in file.secrets {
        let suite = suite(v.suite);
        let secret = lane_secret(suite, &Secret::new(&v.secret), v.lane);
        assert_eq!(secret.as_bytes(), &v.lane_secret[..]);
        // Header keys show themselves by the tags they make.
        let header = HeaderKey::derive(suite, &secret);
        let mut packet = [0; 52];
        header.write_data_tag(&mut packet);
        let known = tag_of(&v.header_key);
        assert_eq!(packet[36..44], known);
    }
}

/// The tag of a DATA header of zeros under a header key.
fn tag_of(key: &[u8]) -> [u8; 8] {
    use std::hash::Hasher;
    let mut hasher = siphasher::sip::SipHasher24::new_with_key(key.try_into().unwrap());
    hasher.write(&[0; 52]);
    hasher.finish().to_be_bytes()
}
