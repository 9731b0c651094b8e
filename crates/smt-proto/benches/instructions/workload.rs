//! RPCs between two cores in one thread.

use std::net::SocketAddr;

use bytes::Bytes;
use smt_proto::crypto::{
    AeadKey, MAX_HASH_LEN, NONCE_LEN, NotAuthentic, Random, Suite, SuiteId, TAG_LEN,
};
use smt_proto::keys::Secret;
use smt_proto::{
    Config, Endpoint, Event, External, PacketMeta, Path, Role, SessionId, Time, Updates,
};

/// RPCs that are counted, and as many before.
pub(crate) const CALLS: u64 = 1000;

/// Makes calls of `size` bytes, the second half of them counted.
pub(crate) fn run(size: usize) {
    let body: Bytes = (0..=250_u8).cycle().take(size).collect();
    let mut pair = Pair::new();
    for _ in 0..CALLS {
        pair.call(&body);
    }
    counted_calls(&mut pair, &body);
}

/// Callgrind counts while this runs.
#[inline(never)]
fn counted_calls(pair: &mut Pair, body: &Bytes) {
    for _ in 0..CALLS {
        pair.call(body);
    }
}

/// Two cores, whose packets change hands in one buffer.
struct Pair {
    ends: [Endpoint; 2],
    session: SessionId,
    frame: Box<[u8; 2048]>,
    now: u64,
}

impl Pair {
    fn new() -> Pair {
        let mut ends = [1, 2].map(|seed| Endpoint::new(Config::default(), Box::new(Count(seed))));
        let params = [ends[0].parameters(Role::Client), ends[1].parameters(Role::Server)];
        let sessions = [0, 1].map(|me| {
            let external = External {
                path: Path {
                    remote: address(1 - me),
                    remote_port: [40_000, 4433][1 - me],
                    local_port: [40_000, 4433][me],
                    local: Some(address(me).ip()),
                },
                role: [Role::Client, Role::Server][me],
                suite: &Null,
                client_secret: Secret::new(&[1; 32]),
                server_secret: Secret::new(&[2; 32]),
                local: params[me],
                peer: params[1 - me],
                room: 1480,
                updates: Updates::Derived,
            };
            ends[me].add_session(Time::ZERO, external).unwrap()
        });
        Pair { ends, session: sessions[0], frame: Box::new([0; 2048]), now: 0 }
    }

    fn call(&mut self, body: &Bytes) {
        let deadline = Time::from_nanos(self.now + 1_000_000_000);
        self.ends[0].start_call(self.session, body.clone(), deadline, 0).unwrap();
        let mut is_over = false;
        while !is_over {
            for me in [0, 1] {
                is_over |= self.send(me, body.len());
            }
        }
        let now = Time::from_nanos(self.now);
        for end in &mut self.ends {
            if end.poll_timeout().is_some_and(|due| due <= now) {
                end.handle_timeout(now);
            }
        }
    }

    /// Hands over what one end has to send. True if that brought a response.
    fn send(&mut self, me: usize, len: usize) -> bool {
        self.now += 1000;
        let now = Time::from_nanos(self.now);
        let mut is_over = false;
        while let Some(sent) = self.ends[me].poll_transmit(now, &mut self.frame[..]) {
            let (remote, local) = (address(me), address(1 - me).ip());
            let meta = PacketMeta { remote, local, ip_id: None };
            self.ends[1 - me].handle_packet(now, &meta, &mut self.frame[..sent.len]);
        }
        self.ends[me].settle();
        while let Some(event) = self.ends[1 - me].poll_event() {
            match event {
                Event::Request { rpc, body, .. } => {
                    assert!(self.ends[1 - me].reply(rpc, Bytes::from_owner(body)));
                }
                Event::Response { result, .. } => {
                    assert_eq!(result.unwrap().len(), len);
                    is_over = true;
                }
                _ => {}
            }
        }
        is_over
    }
}

fn address(host: usize) -> SocketAddr {
    ([10, 0, 0, host as u8 + 1], 0).into()
}

/// Bytes that count.
struct Count(u8);

impl Random for Count {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(5).wrapping_add(7);
            *byte = self.0;
        }
    }
}

/// A suite that hides nothing.
#[derive(Debug)]
struct Null;

impl Suite for Null {
    fn id(&self) -> SuiteId {
        SuiteId::Aes128GcmSha256
    }

    fn key_len(&self) -> usize {
        16
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn aead(&self, _: &[u8]) -> Box<dyn AeadKey> {
        Box::new(Null)
    }

    fn hash(&self, parts: &[&[u8]], out: &mut [u8; MAX_HASH_LEN]) {
        mix(parts, &mut out[..32]);
    }

    fn hkdf_expand(&self, secret: &[u8], info: &[&[u8]], out: &mut [u8]) {
        mix(info, out);
        mix(&[secret], out);
    }
}

impl AeadKey for Null {
    fn seal(&self, _: &[u8; NONCE_LEN], _: &[u8], _: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        *tag = [0; TAG_LEN];
    }

    fn open(
        &self,
        _: &[u8; NONCE_LEN],
        _: &[u8],
        ciphertext: &[u8],
        _: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        out.copy_from_slice(ciphertext);
        Ok(())
    }
}

/// Something of all bytes in each byte.
fn mix(parts: &[&[u8]], out: &mut [u8]) {
    let mut state = 1_u32;
    for byte in parts.iter().copied().flatten() {
        state = state.wrapping_mul(16_777_619) ^ u32::from(*byte);
    }
    for byte in out {
        state = state.wrapping_mul(16_777_619).wrapping_add(1);
        *byte ^= (state >> 24) as u8;
    }
}
