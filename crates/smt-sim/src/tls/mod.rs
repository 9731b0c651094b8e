//! A stand-in for TLS in handshakes: three flights that prove a secret only honest hosts know.
//!
//! The core takes flights as opaque bytes and secrets as given, so all of it is under test; a real
//! TLS library would draw randomness that no seed decides. What matters is kept: nobody without the
//! secret can finish a handshake, change one or finish an old one again, and the secrets depend on
//! everything that was said, the parameter blocks and ports included.

mod ticket;

use smt_proto::KeyContext;
use smt_proto::crypto::{MAX_HASH_LEN, Suite};
use smt_proto::keys::{Secret, expand_label};

use crate::packet::HostId;
use crate::rng::Rng;

pub use ticket::{Claim, Offer, Register, Registers, Ticket};

const HELLO: &[u8; 4] = b"helo";
const ANSWER: &[u8; 4] = b"answ";
const FINISHED: &[u8; 4] = b"fini";
const ALERT: &[u8; 4] = b"alrt";
const NONCE_LEN: usize = 32;
const ALPN: &[u8] = b"smt/1";

/// The secret of all honest hosts of a run.
#[derive(Clone, Debug)]
pub struct Trust([u8; 32]);

/// Both secrets of epoch 3.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// Of the client's direction.
    pub client: Secret,
    /// Of the server's direction.
    pub server: Secret,
}

/// A client's or server's side of a handshake.
#[derive(Clone, Debug)]
pub struct Handshake {
    hello: Vec<u8>,
    answer: Vec<u8>,
}

impl Trust {
    /// The secret of the run of a seed.
    pub fn new(seed: u64) -> Trust {
        let mut rng = Rng::new(seed).fork(0x0074_7275_7374);
        let mut secret = [0; 32];
        smt_proto::crypto::Random::fill(&mut rng, &mut secret);
        Trust(secret)
    }

    /// Secrets of a session that two hosts have negotiated elsewhere.
    pub fn external(&self, suite: &dyn Suite, client: HostId, server: HostId) -> Secrets {
        let hosts = [client.to_be_bytes(), server.to_be_bytes()].concat();
        self.secrets(suite, &[b"external", &hosts], &[])
    }

    /// Secrets that both ends of such a session get of `epoch`.
    pub fn registered(
        &self,
        suite: &dyn Suite,
        (client, server): (HostId, HostId),
        epoch: u32,
    ) -> Secrets {
        let hosts = [client.to_be_bytes(), server.to_be_bytes(), epoch.to_be_bytes()].concat();
        self.secrets(suite, &[b"registered", &hosts], &[])
    }

    fn hash(&self, suite: &dyn Suite, parts: &[&[u8]]) -> Vec<u8> {
        let mut out = [0; MAX_HASH_LEN];
        let mut all: Vec<&[u8]> = vec![&self.0];
        all.extend_from_slice(parts);
        suite.hash(&all, &mut out);
        out.get(..suite.hash_len()).unwrap_or_default().to_vec()
    }

    fn secrets(&self, suite: &dyn Suite, transcript: &[&[u8]], context: &[u8]) -> Secrets {
        let mut parts: Vec<&[u8]> = vec![b"secret"];
        parts.extend_from_slice(transcript);
        let base = self.hash(suite, &parts);
        let derive = |label| {
            let mut secret = vec![0; suite.hash_len()];
            expand_label(suite, &base, label, context, &mut secret);
            Secret::new(&secret)
        };
        Secrets { client: derive("sim client"), server: derive("sim server") }
    }

    /// Starts a handshake of `client` with the service `server`; returns the first flight, too.
    pub fn hello(&self, rng: &mut Rng, client: HostId, server: HostId) -> (Handshake, Vec<u8>) {
        let mut hello = HELLO.to_vec();
        hello.extend_from_slice(&client.to_be_bytes());
        hello.extend_from_slice(&server.to_be_bytes());
        let padding = rng.between(0, 1800) as usize;
        push_random(&mut hello, rng, NONCE_LEN + padding);
        (Handshake { hello: hello.clone(), answer: Vec::new() }, hello)
    }

    /// Answers a first flight that came from `client` to the service `server`; `None` if it makes no sense.
    pub fn answer(
        &self,
        suite: &dyn Suite,
        rng: &mut Rng,
        hello: &[u8],
        (client, server): (HostId, HostId),
    ) -> Option<(Handshake, Vec<u8>)> {
        let rest = hello.strip_prefix(HELLO)?;
        let rest = rest.strip_prefix(&client.to_be_bytes()[..])?;
        let rest = rest.strip_prefix(&server.to_be_bytes()[..])?;
        if rest.len() < NONCE_LEN {
            return None;
        }
        let mut answer = ANSWER.to_vec();
        let padding = rng.between(0, 4000) as usize;
        push_random(&mut answer, rng, NONCE_LEN + padding);
        let proof = self.hash(suite, &[b"server", hello, &answer]);
        answer.extend_from_slice(&proof);
        Some((Handshake { hello: hello.to_vec(), answer: answer.clone() }, answer))
    }

    /// The client's last flight, once the server has proven itself.
    pub fn finish(
        &self,
        suite: &dyn Suite,
        handshake: &mut Handshake,
        answer: &[u8],
    ) -> Option<Vec<u8>> {
        let said = answer.len().checked_sub(suite.hash_len())?;
        let (answered, proof) = answer.split_at_checked(said)?;
        let right = self.hash(suite, &[b"server", &handshake.hello, answered]);
        if !answered.starts_with(ANSWER) || right != proof {
            return None;
        }
        handshake.answer = answer.to_vec();
        Some(self.finished(suite, handshake))
    }

    /// Whether a client has proven itself.
    pub fn accepts(&self, suite: &dyn Suite, handshake: &Handshake, finished: &[u8]) -> bool {
        self.finished(suite, handshake) == finished
    }

    fn finished(&self, suite: &dyn Suite, handshake: &Handshake) -> Vec<u8> {
        let mut finished = FINISHED.to_vec();
        let proof = self.hash(suite, &[b"client", &handshake.hello, &handshake.answer]);
        finished.extend_from_slice(&proof);
        finished
    }

    /// The secrets of a finished handshake.
    pub fn session(
        &self,
        suite: &dyn Suite,
        handshake: &Handshake,
        context: &KeyContext,
    ) -> Secrets {
        let context = context.compute(suite, ALPN);
        self.secrets(suite, &[&handshake.hello, &handshake.answer], &context)
    }
}

/// What an end says whose handshake has failed.
pub fn alert() -> &'static [u8] {
    ALERT
}

/// Whether a flight is an alert.
pub fn is_alert(flight: &[u8]) -> bool {
    flight == ALERT
}

fn push_random(to: &mut Vec<u8>, rng: &mut Rng, len: usize) {
    let start = to.len();
    to.resize(start + len, 0);
    smt_proto::crypto::Random::fill(rng, to.get_mut(start..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use smt_proto::crypto::{SuiteId, aws_lc};

    #[test]
    fn only_unchanged_fresh_flights_finish_a_handshake() {
        let suite = aws_lc::suite(SuiteId::Aes128GcmSha256);
        let (trust, mut rng) = (Trust::new(1), Rng::new(2));
        let (mut client, hello) = trust.hello(&mut rng, 1, 2);
        let (server, answer) = trust.answer(suite, &mut rng, &hello, (1, 2)).unwrap();
        assert!(trust.answer(suite, &mut rng, &hello, (3, 2)).is_none());
        for at in 0..answer.len() {
            let mut changed = answer.clone();
            changed[at] ^= 1;
            assert!(trust.finish(suite, &mut client.clone(), &changed).is_none());
        }
        let finished = trust.finish(suite, &mut client, &answer).unwrap();
        assert!(trust.accepts(suite, &server, &finished));
        // An attacker without the secret, and a second server that is asked the same.
        assert!(Trust::new(7).finish(suite, &mut client.clone(), &answer).is_none());
        let (again, _) = trust.answer(suite, &mut rng, &hello, (1, 2)).unwrap();
        assert!(!trust.accepts(suite, &again, &finished));
    }
}
