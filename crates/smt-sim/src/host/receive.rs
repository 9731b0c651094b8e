//! Packets that reach a host, watched for what they change.

use smt_proto::wire::{Data, PacketType, Retry, peek};
use smt_proto::{PacketMeta, Path, SessionId};

use super::Host;
use crate::check::Rule;
use crate::check::authentic::{Before, Kind, OnPath, Receiver, classify};
use crate::net::address;
use crate::packet::Packet;

impl Host {
    /// Hands a packet to the core.
    pub(super) fn take(&mut self, packet: &mut Packet) {
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
        let kind = self.classify(now, &packet.bytes, path.as_ref());
        let on_path = self.on_path(kind, path.as_ref());
        let before = Before::of(&self.endpoint);
        let asked = kind == Kind::Retry && self.is_asked(&packet.bytes, path.as_ref());
        let progress = self.progress();
        self.endpoint.handle_packet(now, &meta, &mut packet.bytes);
        if kind == Kind::Retry && !asked && before.has_begun_again(&self.endpoint) {
            let detail = format!("{:?}: a RETRY without the token begins again", packet.origin);
            self.violated(Rule::Authenticity, detail);
        }
        let silent = matches!(kind, Kind::Nobody | Kind::Repeated);
        // What was kept until the server's answer came is taken with it.
        let answered = kind == Kind::Flight && self.learn_answers(path.as_ref());
        let change = before.forbidden_change(kind, on_path, &self.endpoint);
        if let Some(change) = change.filter(|_| !answered) {
            let detail = format!("{kind:?}, {:?}, {on_path:?}: {change}", packet.origin);
            self.violated(Rule::Authenticity, detail);
        } else if silent && progress != self.progress() {
            let detail = format!("{kind:?}, {:?}, moved a call", packet.origin);
            self.violated(Rule::Authenticity, detail);
        } else if silent && let Some(event) = self.endpoint.poll_event() {
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
        self.candidates(path).iter().any(ours)
    }

    /// Whether a session of the path has got its server's answer.
    fn learn_answers(&mut self, path: Option<&Path>) -> bool {
        let sessions = self.candidates(path);
        sessions.into_iter().filter(|id| self.learn_answer(*id)).count() > 0
    }

    /// Sessions that a packet of this path may belong to.
    fn candidates(&self, path: Option<&Path>) -> Vec<SessionId> {
        let Some(path) = path else { return Vec::new() };
        self.sessions.keys().copied().filter(|id| self.is_on(*id, path)).collect()
    }

    /// What there is on the path of a packet that nobody vouches for.
    fn on_path(&self, kind: Kind, path: Option<&Path>) -> OnPath {
        let unsure = matches!(kind, Kind::Nobody | Kind::Repeated);
        let Some(path) = path.filter(|path| unsure && self.endpoint.has_path(path)) else {
            return OnPath { any: kind != Kind::Nobody, half_open: false };
        };
        // First flights that are not complete have no place in our own table yet.
        let keyless =
            |id: &SessionId| self.sessions.get(id).is_none_or(|known| known.receiver.is_none());
        let there = self.endpoint.sessions();
        let mut there = there.iter().filter(|id| self.is_on(**id, path));
        OnPath { any: true, half_open: there.any(keyless) }
    }

    fn is_on(&self, session: SessionId, path: &Path) -> bool {
        self.endpoint.path(session).is_some_and(|other| {
            other.remote == path.remote
                && other.remote_port == path.remote_port
                && other.local_port == path.local_port
        })
    }

    fn classify(&mut self, now: smt_proto::Time, packet: &[u8], path: Option<&Path>) -> Kind {
        let ids = self.candidates(path);
        let early = peek(packet).is_ok_and(|(_, header)| header.epoch == 1);
        let mut receivers: Vec<(SessionId, Receiver)> = Vec::new();
        for id in &ids {
            let known = self.sessions.get_mut(id);
            let receiver = known.and_then(|known| match early {
                true => known.early_receiver.take(),
                false => known.receiver.take(),
            });
            receivers.extend(receiver.map(|receiver| (*id, receiver)));
        }
        let mut some: Vec<&mut Receiver> = receivers.iter_mut().map(|(_, r)| r).collect();
        let kind = classify(packet, &mut some);
        for (place, (id, receiver)) in receivers.into_iter().enumerate() {
            let Some(known) = self.sessions.get_mut(&id) else { continue };
            match early {
                true => known.early_receiver = Some(receiver),
                false => known.receiver = Some(receiver),
            }
            known.vouched |= !early && [Kind::Control(place), Kind::Data(place)].contains(&kind);
            known.suspected |= kind == Kind::NoSession;
            if kind == Kind::Control(place) && !early {
                known.unanswered = 0;
                known.heard_at = now;
            }
        }
        kind
    }

    /// How far some calls have come.
    fn progress(&self) -> [Option<[u32; 4]>; 4] {
        let mut some = self.started.values();
        std::array::from_fn(|_| some.next().and_then(|rpc| self.endpoint.progress(*rpc)))
    }

    /// Notes what leaves: probes are counted, tokens remembered.
    pub(super) fn note_sent(&mut self, packet: &Packet) {
        let Ok((kind, header)) = peek(&packet.bytes) else { return };
        let flight = kind == PacketType::Data && header.epoch == 0;
        let probe = kind == PacketType::NeedAck && header.message_id == 0;
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
        for id in self.candidates(Some(&path)) {
            if let Some(known) = self.sessions.get_mut(&id) {
                if flight {
                    // A flight of some other number on these ports may be a server's, to whoever sent
                    // our own first flight back to us.
                    if header.message_id == 0 && known.is_client() {
                        known.token = token;
                    }
                    continue;
                }
                known.unanswered += u32::from(known.receiver.is_some());
            }
        }
    }
}
