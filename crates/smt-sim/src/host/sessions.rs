//! Sessions of a host: connecting, handshakes, and what becomes of them.

use std::collections::BTreeMap;
use std::time::Duration;

use smt_proto::error::CloseReason;
use smt_proto::keys::Secret;
use smt_proto::wire::Params;
use smt_proto::{External, Path, Role, SessionId, Updates};

use super::agenda::Task;
use super::registered::Registered;
use super::shards::{Note, Place};
use super::{Host, SERVER_PORT};
use crate::check::Rule;
use crate::check::authentic::Receiver;
use crate::check::sessions::{Death, SessionKey};
use crate::net::{address, host_of};
use crate::packet::HostId;
use crate::rng::Rng;
use crate::scenario::{Scenario, Sessions};
use crate::tls::{self, Handshake, Secrets};

/// How long a client tries to connect before it begins anew.
const CONNECT: Duration = Duration::from_secs(2);
/// The pause after an attempt that failed.
const RECONNECT: Duration = Duration::from_millis(20);

/// How long a server's TLS takes at most while early data is answered, in microseconds.
const TLS_TAKES_US: u64 = 1000;

/// What a host knows of a session beside its core.
pub(super) struct Known {
    pub(super) peer: HostId,
    pub(super) role: Role,
    pub(super) key: SessionKey,
    handshake: Option<Handshake>,
    /// Its later secrets are registered, so far.
    pub(super) registered: Option<Registered>,
    /// What is known of each of its lanes, once there are keys.
    pub(super) lanes: Vec<Lane>,
    /// What it is at each shard.
    pub(super) places: Vec<Option<Place>>,
    /// It has keys of early data, and what vouches for the peer's packets under them.
    pub(super) early: bool,
    pub(super) early_receiver: Option<Receiver>,
    /// At a client: what vouches for the server's follows from this and the server's block.
    pub(super) early_secret: Option<Secret>,
    /// The server's block that it follows from now.
    pub(super) answer: Vec<u8>,
    /// At a server: what its TLS is about to say.
    pub(super) unsaid: Option<Vec<u8>>,
    /// An authentic packet under an application epoch has come.
    pub(super) vouched: bool,
    /// The token of its latest flight.
    pub(super) token: Option<u64>,
    /// When there were keys.
    pub(super) keyed_at: Option<smt_proto::Time>,
    /// Calls may be started.
    pub(super) usable: bool,
    pub(super) established: bool,
    /// Its keys are used up.
    pub(super) spent: bool,
    /// It has ended, though the core may still be saying so to the peer.
    pub(super) over: bool,
}

/// What a host knows of a lane of a session beside its core.
pub(super) struct Lane {
    /// What vouches for the peer's packets; taken out only to be used.
    pub(super) receiver: Option<Receiver>,
    /// Something has told that the peer is gone.
    pub(super) suspected: bool,
    /// Probes sent since the peer was last heard.
    pub(super) unanswered: u32,
    pub(super) heard_at: smt_proto::Time,
}

impl Known {
    pub(super) fn is_client(&self) -> bool {
        self.role == Role::Client
    }

    /// It has keys.
    pub(super) fn is_keyed(&self) -> bool {
        !self.lanes.is_empty()
    }

    /// Another shard has told one of its calls' that it is over.
    pub(super) fn was_told(&self) -> bool {
        self.places.iter().flatten().any(|place| place.told)
    }
}

impl Host {
    fn known(&self, (id, key): (SessionId, SessionKey), peer: HostId, role: Role) -> Known {
        let mut places: Vec<Option<Place>> = self.shards.iter().map(|_| None).collect();
        if let Some(first) = places.first_mut() {
            *first = Some(Place::new(id, None));
        }
        Known {
            peer,
            role,
            key,
            handshake: None,
            registered: None,
            lanes: Vec::new(),
            places,
            early: false,
            early_receiver: None,
            early_secret: None,
            answer: Vec::new(),
            unsaid: None,
            vouched: false,
            token: None,
            keyed_at: None,
            usable: false,
            established: false,
            spent: false,
            over: false,
        }
    }

    /// The lanes of a new session with a peer, whose secret of its direction is this.
    fn new_lanes(&self, peer: HostId, secret: &Secret) -> Vec<Lane> {
        let heard_at = self.local();
        let lane = |lane| Lane {
            receiver: Some(Receiver::of_lane(self.suite, secret, lane)),
            suspected: false,
            unanswered: 0,
            heard_at,
        };
        (0..self.lanes.get(peer as usize).copied().unwrap_or(1)).map(lane).collect()
    }

    /// Begins a handshake with a peer, unless one is under way.
    pub(super) fn connect(&mut self, peer: HostId) {
        if !self.connecting.insert(peer) {
            return;
        }
        if self.is_stalled(0) {
            return self.reconnect_later(peer);
        }
        let local = self.local();
        let port = self.next_port;
        self.next_port = port.wrapping_add(1).max(super::CLIENT_PORT);
        let path = Path {
            remote: address(peer),
            remote_port: SERVER_PORT,
            local_port: port,
            local: Some(address(self.id).ip()),
        };
        let Ok(session) = self.shards[0].endpoint.connect(local, path, self.room, local + CONNECT)
        else {
            return self.reconnect_later(peer);
        };
        let key = SessionKey { client: self.id, port, server: peer };
        let service = self.services.get(peer as usize).copied().unwrap_or(peer);
        let (handshake, hello) = self.trust.hello(&mut self.rng, self.id, service);
        let offer = self.offer_to(peer);
        let said = offer.as_ref().map(|(_, offer)| offer.bytes());
        self.shards[0].endpoint.send_first_flight(local, session, &hello, said.as_deref());
        let known = self.known((session, key), peer, Role::Client);
        self.sessions.insert(session, Known { handshake: Some(handshake), ..known });
        if let Some((ticket, offer)) = offer {
            self.install_early(session, &ticket, &offer);
        }
    }

    fn reconnect_later(&mut self, peer: HostId) {
        let pause = RECONNECT + Duration::from_micros(self.rng.below(20_000));
        let at = self.watch.look().now + pause;
        self.agenda.add(at, Task::Reconnect(peer));
    }

    pub(super) fn on_flight(
        &mut self,
        session: SessionId,
        number: u32,
        bytes: &[u8],
        offer: Option<&[u8]>,
    ) {
        let done = match number {
            0 => self.on_hello(session, bytes, offer),
            1 => self.on_answer(session, bytes),
            2 => self.on_finished(session, bytes),
            _ => return self.on_late_alert(session, bytes),
        };
        if done.is_none() {
            let said = (!tls::is_alert(bytes)).then(tls::alert);
            self.fail(session, said);
        }
    }

    fn on_hello(&mut self, session: SessionId, hello: &[u8], offer: Option<&[u8]>) -> Option<()> {
        let path = self.shards[0].endpoint.path(session)?;
        let client = host_of(path.remote.ip())?;
        let hosts = (client, self.service);
        let (handshake, answer) = self.trust.answer(self.suite, &mut self.rng, hello, hosts)?;
        let key = SessionKey { client, port: path.remote_port, server: self.id };
        let known = self.known((session, key), client, Role::Server);
        self.sessions.insert(session, Known { handshake: Some(handshake), ..known });
        self.shards[0].endpoint.set_room(session, self.room);
        if let Some(offer) = offer {
            self.take_offer(session, offer);
        }
        let known = self.sessions.get_mut(&session)?;
        known.unsaid = Some(answer);
        let slow = known.early && self.rng.chance(0.5);
        let pause = Duration::from_micros(if slow { self.rng.below(TLS_TAKES_US) } else { 0 });
        match pause.is_zero() {
            true => self.speak(session),
            false => self.agenda.add(self.watch.look().now + pause, Task::Speak(session)),
        }
        Some(())
    }

    /// A server's TLS has its flight ready.
    pub(super) fn speak(&mut self, session: SessionId) {
        let Some(answer) = self.sessions.get_mut(&session).and_then(|known| known.unsaid.take())
        else {
            return;
        };
        let local = self.local();
        self.shards[0].endpoint.send_flight(local, session, &answer);
    }

    fn on_answer(&mut self, session: SessionId, answer: &[u8]) -> Option<()> {
        let handshake = self.sessions.get_mut(&session)?.handshake.as_mut()?;
        let finished = self.trust.finish(self.suite, handshake, answer)?;
        let local = self.local();
        self.shards[0].endpoint.send_flight(local, session, &finished);
        self.install(session)?;
        let early = self.early_calls;
        let known = self.sessions.get_mut(&session)?;
        known.usable = early;
        let peer = known.peer;
        self.start_waiting(peer);
        Some(())
    }

    fn on_finished(&mut self, session: SessionId, finished: &[u8]) -> Option<()> {
        let known = self.sessions.get(&session)?;
        let handshake = known.handshake.as_ref()?;
        if !self.trust.accepts(self.suite, handshake, finished) {
            return None;
        }
        self.install(session)
    }

    fn install(&mut self, session: SessionId) -> Option<()> {
        let context = self.shards[0].endpoint.key_context(session)?;
        let local = self.local();
        let known = self.sessions.get_mut(&session)?;
        let handshake = known.handshake.take()?;
        let Secrets { client, server } = self.trust.session(self.suite, &handshake, &context);
        let receiving = if known.role == Role::Client { &server } else { &client };
        let (key, peer) = (known.key, known.peer);
        known.keyed_at = Some(local);
        let lanes = self.new_lanes(peer, receiving);
        if let Some(known) = self.sessions.get_mut(&session) {
            known.lanes = lanes;
        }
        self.watch.report().sessions.entry(key).or_default();
        // A newer session on its ports makes the core ask an older one's peer.
        for (id, other) in &mut self.sessions {
            let is_older = *id != session && other.key == key;
            other.lanes.iter_mut().take(1).for_each(|lane| lane.suspected |= is_older);
        }
        self.shards[0].endpoint.install_keys(local, session, self.suite, client, server);
        self.share(session);
        Some(())
    }

    /// A flight after the last one: an alert, or nothing that matters.
    fn on_late_alert(&mut self, session: SessionId, bytes: &[u8]) {
        let client = self.sessions.get(&session).is_some_and(|known| known.role == Role::Client);
        if client && tls::is_alert(bytes) {
            self.fail(session, None);
        }
    }

    fn fail(&mut self, session: SessionId, alert: Option<&[u8]>) {
        let local = self.local();
        self.shards[0].endpoint.fail_handshake(local, session, alert);
        self.on_handshake_failed(session);
    }

    pub(super) fn on_established(&mut self, session: SessionId) {
        self.set_segment_limit(session);
        let Some(known) = self.sessions.get_mut(&session) else { return };
        known.usable = true;
        known.established = true;
        let (peer, role, key) = (known.peer, known.role, known.key);
        if role == Role::Client {
            // Those negotiated elsewhere are established without.
            let (keyed, vouched) = (known.keyed_at.is_some(), known.vouched);
            self.connecting.remove(&peer);
            if keyed && !vouched {
                let detail =
                    format!("{key:?} is established, and its server has not shown its keys");
                self.violated(Rule::Sessions, detail);
            }
        } else {
            self.send_posts(session);
        }
        self.tell_others(0, &Note::Confirmed(session));
        self.start_waiting(peer);
    }

    pub(super) fn on_handshake_failed(&mut self, session: SessionId) {
        self.tell_others(0, &Note::Close(session));
        let known = self.sessions.get_mut(&session);
        if let Some(Some(first)) = known.and_then(|known| known.places.first_mut()) {
            first.ended = true;
        }
        self.drop_session(session);
    }

    /// A shard has lost a session, or closed it; it is its own name that is given.
    pub(super) fn on_closed(&mut self, shard: usize, id: SessionId, reason: CloseReason) {
        let Some(session) = self.shared_name(shard, id) else { return };
        let death = self.death(shard, session);
        if let Some(known) = self.sessions.get_mut(&session) {
            let place = known.places.get_mut(shard).and_then(Option::as_mut);
            let told = place.is_some_and(|place| {
                place.ended = true;
                place.told
            });
            let (key, role) = (known.key, known.role);
            if !told {
                if let Some(death) = death {
                    self.watch.report().ended(self.id, key, role, reason, death);
                }
                self.tell_others(shard, &Note::Close(session));
            }
        }
        self.drop_session(session);
    }

    /// What a shard has seen of a session that may be dead: in the lane that is the most likely cause.
    fn death(&self, shard: usize, session: SessionId) -> Option<Death> {
        let (local, limits) = (self.local(), &self.core.limits);
        let known = self.sessions.get(&session)?;
        let unsent = self.shards.get(shard)?.endpoint.stats().limit_control_queue > 0;
        let max_probes = if unsent { 0 } else { limits.max_probes };
        let here = known.lanes.iter().skip(shard).step_by(self.shards.len());
        let deaths = here.map(|lane| Death {
            suspected: lane.suspected || local.since(lane.heard_at) >= limits.idle_probe,
            unanswered: lane.unanswered,
            max_probes,
            lanes: known.lanes.len(),
        });
        let none = Death { suspected: false, unanswered: 0, max_probes, lanes: known.lanes.len() };
        Some(deaths.max_by_key(|death| (death.suspected, death.unanswered)).unwrap_or(none))
    }

    /// Uses a session no more, whatever the core still has to say about it.
    pub(super) fn drop_session(&mut self, session: SessionId) {
        let Some(known) = self.sessions.get_mut(&session) else { return };
        if std::mem::replace(&mut known.over, true) {
            return;
        }
        let (key, role, peer) = (known.key, known.role, known.peer);
        let was_connecting = role == Role::Client && !known.established;
        self.watch.report().gone(key, role);
        if was_connecting {
            self.reconnect_later(peer);
        } else {
            self.try_later(peer);
        }
    }

    /// The session to start a call to a peer in: the oldest, so that both ends use the same.
    pub(super) fn session_to(&self, peer: HostId) -> Option<SessionId> {
        let good =
            |known: &Known| known.peer == peer && known.usable && !known.spent && !known.over;
        self.sessions.iter().find(|(_, known)| good(known)).map(|(id, _)| *id)
    }
}

/// Gives each two hosts a session whose secrets were negotiated elsewhere, if the scenario says so.
pub fn external(scenario: &Scenario, hosts: &mut [Host]) {
    let first_id = match scenario.sessions {
        Sessions::Handshake => return,
        Sessions::External => None,
        Sessions::ExternalFrom { first_id } => Some(first_id & !3),
    };
    let mut rng = Rng::new(scenario.seed).fork(0x6578_7465);
    let mut pairs = BTreeMap::new();
    for a in 0..hosts.len() {
        for b in a + 1..hosts.len() {
            let (client, server) = if rng.chance(0.5) { (a, b) } else { (b, a) };
            let ports = hosts.get_mut(client).map(|host| {
                host.next_port += 1;
                host.next_port - 1
            });
            pairs.insert((client, server), ports.unwrap_or_default());
        }
    }
    for ((client, server), port) in pairs {
        let mut params = [(client, Role::Client), (server, Role::Server)].map(|(host, role)| {
            hosts.get_mut(host).map(|host| host.shards[0].endpoint.parameters(role))
        });
        if let (Some(first_id), [Some(client), Some(server)]) = (first_id, &mut params) {
            client.first_id = first_id;
            server.first_id = first_id | 2;
        }
        let [Some(of_client), Some(of_server)] = params else { continue };
        // One TLS connection gives secrets in one order (spec 3.5).
        let updates = match of_client.lanes.max(of_server.lanes) {
            1 => scenario.updates(),
            _ => Updates::Derived,
        };
        for (me, role) in [(client, Role::Client), (server, Role::Server)] {
            if let Some(host) = hosts.get_mut(me) {
                let peer = if role == Role::Client { server } else { client };
                let (local, of_peer) = match role {
                    Role::Client => (of_client, of_server),
                    Role::Server => (of_server, of_client),
                };
                let peer = u32::try_from(peer).unwrap_or(0);
                host.add_external(role, peer, port, (local, of_peer), updates);
            }
        }
    }
}

impl Host {
    fn add_external(
        &mut self,
        role: Role,
        peer: HostId,
        port: u16,
        (local, of_peer): (Params, Params),
        updates: Updates,
    ) {
        let (client, server) = match role {
            Role::Client => (self.id, peer),
            Role::Server => (peer, self.id),
        };
        let key = SessionKey { client, port, server };
        let secrets = self.trust.external(self.suite, client, server);
        let (local_port, remote_port, receiving) = match role {
            Role::Client => (port, SERVER_PORT, &secrets.server),
            Role::Server => (SERVER_PORT, port, &secrets.client),
        };
        let lanes = self.new_lanes(peer, receiving);
        let external = External {
            path: Path {
                remote: address(peer),
                remote_port,
                local_port,
                local: Some(address(self.id).ip()),
            },
            role,
            suite: self.suite,
            client_secret: secrets.client,
            server_secret: secrets.server,
            local,
            peer: of_peer,
            room: self.room,
            updates,
        };
        let now = self.local();
        if let Ok(session) = self.shards[0].endpoint.add_session(now, external) {
            self.watch.report().sessions.entry(key).or_default();
            let known = self.known((session, key), peer, role);
            let registered = (updates == Updates::Registered).then(Registered::new);
            self.sessions.insert(session, Known { lanes, registered, ..known });
            self.stock_up(session);
            self.share(session);
        }
        self.drain();
    }
}
