//! No key and nonce ever protect two plaintexts (spec 3.3): a suite that remembers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use smt_proto::Config;
use smt_proto::crypto::{
    AeadKey, MAX_HASH_LEN, NONCE_LEN, NotAuthentic, Suite, SuiteId, TAG_LEN, aws_lc,
};

use crate::net::{CLIENT, Faults, Net, SERVER, Seeded};

type Sealed = HashMap<(Vec<u8>, [u8; NONCE_LEN]), (Vec<u8>, Vec<u8>)>;

/// A suite that panics when a key and a nonce seal something else than before.
#[derive(Debug)]
struct Recorder {
    inner: &'static dyn Suite,
    sealed: Arc<Mutex<Sealed>>,
}

struct RecordingKey {
    inner: Box<dyn AeadKey>,
    key: Vec<u8>,
    sealed: Arc<Mutex<Sealed>>,
}

impl AeadKey for RecordingKey {
    fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        in_out: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) {
        let what = (aad.to_vec(), in_out.to_vec());
        let mut sealed = self.sealed.lock().unwrap();
        let before = sealed.entry((self.key.clone(), *nonce)).or_insert_with(|| what.clone());
        assert!(*before == what, "a nonce was used for two plaintexts");
        self.inner.seal(nonce, aad, in_out, tag);
    }

    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        self.inner.open(nonce, aad, ciphertext, tag, out)
    }
}

impl Suite for Recorder {
    fn id(&self) -> SuiteId {
        self.inner.id()
    }

    fn key_len(&self) -> usize {
        self.inner.key_len()
    }

    fn hash_len(&self) -> usize {
        self.inner.hash_len()
    }

    fn aead(&self, key: &[u8]) -> Box<dyn AeadKey> {
        let inner = self.inner.aead(key);
        Box::new(RecordingKey { inner, key: key.to_vec(), sealed: self.sealed.clone() })
    }

    fn hash(&self, parts: &[&[u8]], out: &mut [u8; MAX_HASH_LEN]) {
        self.inner.hash(parts, out);
    }

    fn hkdf_expand(&self, secret: &[u8], info: &[&[u8]], out: &mut [u8]) {
        self.inner.hkdf_expand(secret, info, out);
    }
}

#[test]
#[should_panic(expected = "two plaintexts")]
fn the_recorder_notices() {
    let key = recorder().0.aead(&[1; 16]);
    key.seal(&[0; 12], &[], &mut [1, 2, 3], &mut [0; 16]);
    key.seal(&[0; 12], &[], &mut [1, 2, 4], &mut [0; 16]);
}

fn recorder() -> (&'static Recorder, Arc<Mutex<Sealed>>) {
    let sealed = Arc::new(Mutex::new(HashMap::new()));
    let inner = aws_lc::suite(SuiteId::Aes128GcmSha256);
    (Box::leak(Box::new(Recorder { inner, sealed: sealed.clone() })), sealed)
}

#[test]
fn no_nonce_is_used_twice_whatever_the_network_does() {
    for seed in 0..8 {
        let (suite, sealed) = recorder();
        // Keys move on often, paths shrink and grow while messages are on their way.
        let limits =
            smt_proto::AeadLimits { records: 400, blocks: u64::MAX, failed_opens: u64::MAX };
        let config = Config { aead_limits: Some(limits), ..Config::default() };
        let mut net = Net::with_suite(seed, [config.clone(), config], suite, 1480);
        net.faults =
            Faults { drop: 0.1, duplicate: 0.05, reorder: 0.2, corrupt: 0.05, ..Faults::default() };
        let mut random = Seeded(seed ^ 0xbad);
        for user in 0..300u64 {
            let host = (user % 2) as usize;
            let size = random.below(20_000) as usize;
            let mut body = random.bytes(size);
            body.extend(user.to_be_bytes());
            net.call(host, body, user);
            let session = net.hosts[host].session;
            let room = [1480, 1000, 600, 8980][random.below(4) as usize];
            net.hosts[host].endpoint.set_room(session, room);
            if user % 20 == 19 {
                net.run_until(Duration::from_secs(30), |net| {
                    (net.ended(CLIENT) + net.ended(SERVER)) as u64 == user + 1
                });
            }
        }
        let stats = *net.hosts[CLIENT].endpoint.stats();
        assert!(stats.key_updates > 1 && stats.packets_retransmitted > 10, "{stats:?}");
        for host in &net.hosts {
            assert!(host.ended.values().all(Result::is_ok), "seed {seed}");
        }
        // Sealed again for retransmissions, so fewer entries than seals.
        let seals: u64 = net.hosts.iter().map(|host| host.endpoint.stats().records_sealed).sum();
        assert!((sealed.lock().unwrap().len() as u64) < seals);
    }
}
