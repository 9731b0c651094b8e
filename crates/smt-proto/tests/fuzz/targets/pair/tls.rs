//! In TLS's place: flights that prove who has seen what, so that altered ones are noticed as they
//! would be, and secrets that only ends of the same handshake share.

use std::time::Duration;

use smt_proto::crypto::{MAX_HASH_LEN, Suite};
use smt_proto::keys::Secret;
use smt_proto::{External, Role, SessionId, Updates};

use super::super::checked::Checked;
use super::super::input::Input;
use super::{Live, ROOM, World};

const SUITE: &dyn Suite = &Checked;
const ALERT: &[u8] = &[21; 7];
const PROOF_LEN: usize = 8;

/// What a host remembers of a handshake.
pub struct Handshake {
    pub id: SessionId,
    /// Client: its hello. Server: nothing.
    hello: Vec<u8>,
    /// Hash of the flights so far.
    digest: u64,
}

fn digest(parts: &[&[u8]]) -> u64 {
    let mut out = [0; MAX_HASH_LEN];
    SUITE.hash(parts, &mut out);
    u64::from_be_bytes(*out.first_chunk().unwrap())
}

fn secret(label: u8, digest: u64, context: &[u8]) -> Secret {
    let mut out = [0; MAX_HASH_LEN];
    SUITE.hash(&[&[label], &digest.to_be_bytes(), context], &mut out);
    Secret::new(&out[..SUITE.hash_len()])
}

impl World {
    /// A session whose secrets were agreed elsewhere.
    pub(super) fn external(&mut self) {
        let [one, other] = &mut self.hosts;
        let params =
            [one.endpoint.parameters(Role::Client), other.endpoint.parameters(Role::Server)];
        for (me, role) in [Role::Client, Role::Server].into_iter().enumerate() {
            let external = External {
                path: self.path(me, role),
                role,
                suite: SUITE,
                client_secret: secret(0, 0, &[]),
                server_secret: secret(1, 0, &[]),
                local: params[me],
                peer: params[1 - me],
                room: ROOM,
                updates: Updates::Derived,
            };
            let id = self.hosts[me].endpoint.add_session(self.now, external).unwrap();
            self.hosts[me].live.push(Live { id, digest: 0, established: false });
            self.events(me);
        }
    }

    pub(super) fn connect(&mut self, me: usize, input: &mut Input<'_>) {
        self.fresh += 1;
        let path = self.path(me, Role::Client);
        let deadline = self.now + Duration::from_nanos(1 << (20 + input.u8() % 14));
        let endpoint = &mut self.hosts[me].endpoint;
        let Ok(id) = endpoint.connect(self.now, path, ROOM, deadline) else { return };
        let mut hello = self.fresh.to_be_bytes().to_vec();
        hello.resize(2 + usize::from(input.u8()) * 16, 1);
        endpoint.send_flight(self.now, id, &hello);
        self.hosts[me].handshakes.push(Handshake { id, hello, digest: 0 });
    }

    pub(super) fn flight(&mut self, me: usize, id: SessionId, number: u32, bytes: &[u8]) {
        match number {
            0 => self.client_hello(me, id, bytes),
            1 => self.server_flight(me, id, bytes),
            2 => self.finished(me, id, bytes),
            _ => self.fail(me, id, None),
        }
    }

    fn client_hello(&mut self, me: usize, id: SessionId, hello: &[u8]) {
        self.fresh += 1;
        let mut answer = self.fresh.to_be_bytes().to_vec();
        answer.resize(2 + hello.len() % 4000, 2);
        let digest = digest(&[hello, &answer]);
        answer.extend_from_slice(&digest.to_be_bytes());
        let host = &mut self.hosts[me];
        host.endpoint.send_flight(self.now, id, &answer);
        host.handshakes.push(Handshake { id, hello: Vec::new(), digest });
    }

    fn server_flight(&mut self, me: usize, id: SessionId, flight: &[u8]) {
        let host = &mut self.hosts[me];
        let known = host.handshakes.iter_mut().find(|handshake| handshake.id == id);
        let Some(handshake) = known else { return };
        let sound = flight.split_last_chunk::<PROOF_LEN>().filter(|(answer, proof)| {
            digest(&[&handshake.hello, answer]) == u64::from_be_bytes(**proof)
        });
        let Some((_, proof)) = sound else { return self.fail(me, id, None) };
        handshake.digest = u64::from_be_bytes(*proof);
        let finished = digest(&[b"finished", proof]).to_be_bytes();
        host.endpoint.send_flight(self.now, id, &finished);
        self.install(me, id);
    }

    fn finished(&mut self, me: usize, id: SessionId, flight: &[u8]) {
        let host = &self.hosts[me];
        let known = host.handshakes.iter().find(|handshake| handshake.id == id);
        let Some(handshake) = known else { return };
        let expected = digest(&[b"finished", &handshake.digest.to_be_bytes()]);
        if flight == expected.to_be_bytes() {
            self.install(me, id);
        } else {
            self.fail(me, id, Some(ALERT));
        }
    }

    fn install(&mut self, me: usize, id: SessionId) {
        let host = &mut self.hosts[me];
        let at = host.handshakes.iter().position(|handshake| handshake.id == id).unwrap();
        let handshake = host.handshakes.swap_remove(at);
        let context = host.endpoint.key_context(id).unwrap().compute(SUITE, b"smt/1");
        let [client, server] = [0, 1].map(|label| secret(label, handshake.digest, &context));
        let digest = digest(&[&handshake.digest.to_be_bytes(), &context]);
        host.live.push(Live { id, digest, established: false });
        host.endpoint.install_keys(self.now, id, SUITE, client, server);
    }

    fn fail(&mut self, me: usize, id: SessionId, alert: Option<&[u8]>) {
        self.hosts[me].endpoint.fail_handshake(self.now, id, alert);
        let host = &mut self.hosts[me];
        host.live.retain(|live| live.id != id);
        host.handshakes.retain(|handshake| handshake.id != id);
    }
}
