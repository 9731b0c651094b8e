//! Packets that reach a host, watched for what they change.

use smt_proto::wire::{PacketType, peek};
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
        let meta = PacketMeta { remote, local: address(self.id).ip(), ip_id: None };
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
        let progress = self.progress();
        self.endpoint.handle_packet(now, &meta, &mut packet.bytes);
        let silent = matches!(kind, Kind::Nobody | Kind::Repeated);
        if let Some(change) = before.forbidden_change(kind, on_path, &self.endpoint) {
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

    /// Sessions that a packet of this path may belong to.
    fn candidates(&self, path: Option<&Path>) -> Vec<SessionId> {
        let Some(path) = path else { return Vec::new() };
        self.sessions.keys().copied().filter(|id| self.is_on(*id, path)).collect()
    }

    /// What there is on the path of a packet that nobody vouches for.
    fn on_path(&self, kind: Kind, path: Option<&Path>) -> OnPath {
        let Some(path) = path.filter(|path| kind == Kind::Nobody && self.endpoint.has_path(path))
        else {
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
        let mut ids = self.candidates(path);
        ids.retain(|id| self.sessions.get(id).is_some_and(|known| known.receiver.is_some()));
        let mut receivers: Vec<(SessionId, Receiver)> = Vec::new();
        for id in &ids {
            let receiver = self.sessions.get_mut(id).and_then(|known| known.receiver.take());
            receivers.extend(receiver.map(|receiver| (*id, receiver)));
        }
        let mut some: Vec<&mut Receiver> = receivers.iter_mut().map(|(_, r)| r).collect();
        let kind = classify(packet, &mut some);
        for (place, (id, receiver)) in receivers.into_iter().enumerate() {
            let Some(known) = self.sessions.get_mut(&id) else { continue };
            known.receiver = Some(receiver);
            known.suspected |= kind == Kind::NoSession;
            if kind == Kind::Control(place) {
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

    /// Notes what leaves: probes are counted.
    pub(super) fn note_sent(&mut self, packet: &Packet) {
        let Ok((PacketType::NeedAck, header)) = peek(&packet.bytes) else { return };
        if header.message_id != 0 {
            return;
        }
        let path = Path {
            remote: address(packet.dst),
            remote_port: header.dst_port,
            local_port: header.src_port,
            local: None,
        };
        for id in self.candidates(Some(&path)) {
            if let Some(known) = self.sessions.get_mut(&id) {
                known.unanswered += u32::from(known.receiver.is_some());
            }
        }
    }
}
