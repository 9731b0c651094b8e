//! Hosts that have sessions already: handshakes are no part of these experiments.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use smt_proto::error::HandshakeError;
use smt_proto::keys::Secret;
use smt_proto::wire::Params;
use smt_proto::{Config, Endpoint, External, Path, Role, Time, Updates};

use super::framing::ROOM;
use super::journal::Journal;
use super::null_suite::NULL_SUITE;
use super::smt_host::SmtHost;
use crate::net::address;
use crate::packet::HostId;
use crate::rng::Rng;
use crate::world::World;

/// SMT port of every host.
const PORT: u16 = 4433;

/// Longest body, in bytes: that of the core's limits as they are by default.
const MAX_BODY: usize = 64 << 20;

/// Long enough for a packet of each session.
const SETTLING: Duration = Duration::from_millis(1);

/// What all hosts of a mesh have in common.
pub struct Mesh {
    /// How many.
    pub hosts: HostId,
    /// Of each core.
    pub config: Config,
    /// As many [`zeros`] as the longest message.
    pub zeros: Bytes,
    /// Application bytes of every response.
    pub response: u32,
    /// What cores draw from.
    pub seed: u64,
}

impl Mesh {
    /// The hosts, with a session between two of them where `joined` says so. It is asked once for
    /// each pair, the lower number first.
    ///
    /// # Errors
    /// The limits of `config` do not allow so many sessions.
    pub fn build(
        &self,
        journal: &Rc<Journal>,
        joined: impl Fn(HostId, HostId) -> bool,
    ) -> Result<Vec<SmtHost>, HandshakeError> {
        let rng = Rng::new(self.seed);
        let frame = Rc::new(RefCell::new(vec![0; ROOM]));
        let mut hosts: Vec<SmtHost> = (0..self.hosts)
            .map(|me| {
                let random = Box::new(rng.fork(u64::from(me)));
                let endpoint = Endpoint::new(self.config.clone(), random);
                let (frame, zeros) = (Rc::clone(&frame), self.zeros.clone());
                SmtHost::new(me, endpoint, frame, zeros, self.response, Rc::clone(journal))
            })
            .collect();
        for server in 1..self.hosts {
            let (clients, servers) = hosts.split_at_mut(server as usize);
            let Some(at_server) = servers.first_mut() else { break };
            for (client, at_client) in (0..server).zip(clients) {
                if joined(client, server) {
                    join((client, at_client), (server, at_server))?;
                }
            }
        }
        Ok(hosts)
    }
}

/// Zeros for bodies, at most 64 MiB. They are there until the program ends, so that nobody counts
/// who has some; nobody writes to them either, so they take next to no memory.
pub fn zeros(len: u32) -> Bytes {
    static ZEROS: OnceLock<Vec<u8>> = OnceLock::new();
    let zeros = ZEROS.get_or_init(|| vec![0; MAX_BODY]);
    Bytes::from_static(zeros.get(..len as usize).unwrap_or(zeros))
}

/// Lets hosts say what new sessions have them say, before anything is measured.
pub fn settle(world: &mut World<SmtHost>) {
    (0..world.hosts.len() as HostId).for_each(|host| world.poke(host));
    world.run_until(world.now() + SETTLING);
}

/// Gives two hosts a session.
fn join(
    (client, at_client): (HostId, &mut SmtHost),
    (server, at_server): (HostId, &mut SmtHost),
) -> Result<(), HandshakeError> {
    let client_params = at_client.endpoint.parameters(Role::Client);
    let server_params = at_server.endpoint.parameters(Role::Server);
    let pair = u64::from(client) << 32 | u64::from(server);
    let end = |role, me, peer, local, remote| external(pair, role, (me, peer), (local, remote));
    let session = at_client
        .endpoint
        .add_session(Time::ZERO, end(Role::Client, client, server, client_params, server_params))?;
    at_client.add_peer(server, session);
    let session = at_server
        .endpoint
        .add_session(Time::ZERO, end(Role::Server, server, client, server_params, client_params))?;
    at_server.add_peer(client, session);
    Ok(())
}

/// An end of a session whose secrets follow from the number of its pair.
pub(super) fn external(
    pair: u64,
    role: Role,
    (me, peer): (HostId, HostId),
    (local, remote): (Params, Params),
) -> External {
    let secret = |direction: u8| {
        let mut secret = [direction; 32];
        let (name, _) = secret.split_at_mut(8);
        name.copy_from_slice(&pair.to_be_bytes());
        Secret::new(&secret)
    };
    External {
        path: Path {
            remote: address(peer),
            remote_port: PORT,
            local_port: PORT,
            local: Some(address(me).ip()),
        },
        role,
        suite: &NULL_SUITE,
        client_secret: secret(1),
        server_secret: secret(2),
        local,
        peer: remote,
        room: ROOM,
        updates: Updates::Derived,
    }
}
