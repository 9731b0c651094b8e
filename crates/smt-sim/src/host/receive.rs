//! Packets that reach a host, watched for what they change.

use smt_proto::wire::{Data, PacketType, Retry, peek};
use smt_proto::{PacketMeta, Path, SessionId};

use super::Host;
use crate::check::Rule;
use crate::check::authentic::{Before, Kind, OnPath, Receiver, classify};
use crate::net::address;
use crate::packet::Packet;

/// Most lanes of a session, which no RPC's ID is below.
const MAX_LANES: u64 = 64;

impl Host {
    /// Hands a packet to the core of a shard.
    pub(super) fn take(&mut self, shard: usize, packet: &mut Packet) {
        // What the other shards say was said before anything could come that follows from it.
        self.take_notes(shard);
        // What the last packets sent have caused is not this packet's doing.
        self.let_happen();
        let now = self.local();
        let remote = address(packet.src);
        let meta = PacketMeta { remote, local: address(self.id).ip(), ip_id: Some(packet.ip_id) };
        let path = peek(&packet.bytes).ok().map(|(_, header)| Path {
            remote,
            remote_port: header.src_port,
            local_port: header.dst_port,
            local: None,
        });
        self.forget_sessions();
        let kind = self.classify(shard, now, &packet.bytes, path.as_ref());
        let on_path = self.on_path(shard, kind, path.as_ref());
        let before = Before::of(&self.shards[shard].endpoint);
        let asked = kind == Kind::Retry && self.is_asked(&packet.bytes, path.as_ref());
        let progress = self.progress();
        self.shards[shard].endpoint.handle_packet(now, &meta, &mut packet.bytes);
        if kind == Kind::Retry && !asked && before.has_begun_again(&self.shards[shard].endpoint) {
            let detail = format!("{:?}: a RETRY without the token begins again", packet.origin);
            self.violated(Rule::Authenticity, detail);
        }
        let silent = matches!(kind, Kind::Nobody | Kind::Repeated | Kind::Elsewhere);
        // What was kept until the server's answer came is taken with it.
        let answered = kind == Kind::Flight && self.learn_answers(path.as_ref());
        let endpoint = &mut self.shards[shard].endpoint;
        let change = before.forbidden_change(kind, on_path, endpoint);
        if let Some(change) = change.filter(|_| !answered) {
            let detail = format!("{kind:?}, {:?}, {on_path:?}: {change}", packet.origin);
            self.violated(Rule::Authenticity, detail);
        } else if silent && progress != self.progress() {
            let detail = format!("{kind:?}, {:?}, moved a call", packet.origin);
            self.violated(Rule::Authenticity, detail);
        } else if silent && let Some(event) = self.shards[shard].endpoint.poll_event() {
            let detail = format!("{kind:?}, {:?}, made {event:?}", packet.origin);
            self.violated(Rule::Authenticity, detail);
        }
        self.drain();
    }

    /// Whether a RETRY echoes the token of a handshake of ours.
    fn is_asked(&self, packet: &[u8], path: Option<&Path>) -> bool {
        let Ok(retry) = Retry::parse(packet) else { return false };
        let ours = |id: &SessionId| {
            self.sessions.get(id).is_some_and(|known| known.token == Some(retry.token))
        };
        self.candidates(0, path).iter().any(ours)
    }

    /// Whether a session of the path has got its server's answer.
    fn learn_answers(&mut self, path: Option<&Path>) -> bool {
        let sessions = self.candidates(0, path);
        sessions.into_iter().filter(|id| self.learn_answer(*id)).count() > 0
    }

    /// Sessions that a packet of this path may belong to at a shard.
    fn candidates(&self, shard: usize, path: Option<&Path>) -> Vec<SessionId> {
        let Some(path) = path else { return Vec::new() };
        let is_there =
            |id: &SessionId| self.name_at(shard, *id).is_some_and(|id| self.is_on(shard, id, path));
        self.sessions.keys().copied().filter(is_there).collect()
    }

    /// What there is on the path of a packet that nobody vouches for.
    fn on_path(&self, shard: usize, kind: Kind, path: Option<&Path>) -> OnPath {
        let unsure = matches!(kind, Kind::Nobody | Kind::Repeated);
        let endpoint = &self.shards[shard].endpoint;
        let Some(path) = path.filter(|path| unsure && endpoint.has_path(path)) else {
            return OnPath { any: kind != Kind::Nobody, half_open: false };
        };
        // First flights that are not complete have no place in our own table yet.
        let keyless = |id: &SessionId| {
            let known = self.shared_name(shard, *id).and_then(|id| self.sessions.get(&id));
            known.is_none_or(|known| !known.is_keyed())
        };
        let there = endpoint.sessions();
        let mut there = there.iter().filter(|id| self.is_on(shard, **id, path));
        OnPath { any: true, half_open: there.any(keyless) }
    }

    fn is_on(&self, shard: usize, session: SessionId, path: &Path) -> bool {
        self.shards[shard].endpoint.path(session).is_some_and(|other| {
            other.remote == path.remote
                && other.remote_port == path.remote_port
                && other.local_port == path.local_port
        })
    }

    fn classify(
        &mut self,
        shard: usize,
        now: smt_proto::Time,
        packet: &[u8],
        path: Option<&Path>,
    ) -> Kind {
        let header = peek(packet).ok();
        if shard > 0 && header.is_some_and(|(kind, header)| is_of_handshake(kind, header.epoch)) {
            return Kind::Elsewhere;
        }
        let ids = self.candidates(shard, path);
        let early = header.is_some_and(|(_, header)| header.epoch == 1);
        let message_id = header.map_or(0, |(_, header)| header.message_id);
        let mut receivers: Vec<(SessionId, Receiver)> = Vec::new();
        for id in &ids {
            let receiver = self.receiver(shard, *id, early, message_id).and_then(Option::take);
            receivers.extend(receiver.map(|receiver| (*id, receiver)));
        }
        let mut some: Vec<&mut Receiver> = receivers.iter_mut().map(|(_, r)| r).collect();
        let kind = classify(packet, &mut some);
        for (place, (id, receiver)) in receivers.into_iter().enumerate() {
            if let Some(back) = self.receiver(shard, id, early, message_id) {
                *back = Some(receiver);
            }
            let Some(known) = self.sessions.get_mut(&id) else { continue };
            let at = lane_of(message_id, known.lanes.len());
            if !early && at == 0 {
                known.vouched |= [Kind::Control(place), Kind::Data(place)].contains(&kind);
            }
            let Some(lane) = known.lanes.get_mut(at) else { continue };
            lane.suspected |= kind == Kind::NoSession;
            if kind == Kind::Control(place) && !early {
                lane.unanswered = 0;
                lane.heard_at = now;
            }
        }
        kind
    }

    /// What vouches for a packet of a message at a shard, if it has that lane of the session.
    fn receiver(
        &mut self,
        shard: usize,
        session: SessionId,
        early: bool,
        message_id: u64,
    ) -> Option<&mut Option<Receiver>> {
        let (count, known) = (self.shards.len(), self.sessions.get_mut(&session)?);
        let lanes = self.lanes.get(known.peer as usize).copied().unwrap_or(1);
        let lane = lane_of(message_id, lanes.into());
        match early {
            _ if lane % count != shard => None,
            true => (lane == 0).then_some(&mut known.early_receiver),
            false => Some(&mut known.lanes.get_mut(lane)?.receiver),
        }
    }

    /// How far some calls have come.
    fn progress(&self) -> [Option<[u32; 4]>; 4] {
        let mut some = self.started.values();
        std::array::from_fn(|_| {
            some.next().and_then(|rpc| self.shards[rpc.shard].endpoint.progress(rpc.id))
        })
    }

    /// Notes what leaves: probes are counted, tokens remembered.
    pub(super) fn note_sent(&mut self, packet: &Packet) {
        let Ok((kind, header)) = peek(&packet.bytes) else { return };
        let flight = kind == PacketType::Data && header.epoch == 0;
        // The ID of a lane itself.
        let probe = kind == PacketType::NeedAck && header.message_id < 4 * MAX_LANES;
        if !flight && !probe {
            return;
        }
        let token = Data::parse(&packet.bytes).ok().map(|data| data.tag);
        let path = Path {
            remote: address(packet.dst),
            remote_port: header.dst_port,
            local_port: header.src_port,
            local: None,
        };
        let lane = (header.message_id >> 2) as usize;
        let shard = if flight { 0 } else { lane % self.shards.len() };
        for id in self.candidates(shard, Some(&path)) {
            let Some(known) = self.sessions.get_mut(&id) else { continue };
            if !flight {
                if let Some(lane) = known.lanes.get_mut(lane) {
                    lane.unanswered += 1;
                }
            } else if header.message_id == 0 && known.is_client() {
                // A flight of some other number on these ports may be a server's, to whoever sent our own
                // first flight back to us.
                known.token = token;
            }
        }
    }
}

/// Whether a packet is the first shard's, whatever its ID.
fn is_of_handshake(kind: PacketType, epoch: u8) -> bool {
    epoch == 0 && kind != PacketType::Unknown
}

/// The lane that a message ID belongs to, of so many.
fn lane_of(message_id: u64, lanes: usize) -> usize {
    (message_id >> 2) as usize % lanes.max(1)
}
