//! Packets in: which session is meant, and is it really from the peer.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use super::{Endpoint, PendingControl};
use crate::error::HandshakeError;
use crate::session::data::Packet;
use crate::session::handshake::Early;
use crate::session::{Path, SessionId, State};
use crate::time::Time;
use crate::wire::{
    Control, ControlBody, DATA_LEN, Data, EARLY_EPOCH, Header, IpVersion, PacketType, UnknownCode,
    payload_offset, peek,
};

/// Where a packet came from, as the datapath knows it.
#[derive(Clone, Copy, Debug)]
pub struct PacketMeta {
    /// The sender; its port is 0, or the UDP port under UDP.
    pub remote: SocketAddr,
    /// Our address that it was sent to.
    pub local: IpAddr,
    /// IPv4 identification, if the datapath sees it.
    pub ip_id: Option<u16>,
}

/// Whether a packet belongs to lane 0, whatever its message ID (spec 3.5).
fn is_about_handshake(kind: PacketType, epoch: u8) -> bool {
    epoch == 0 && kind != PacketType::Unknown
}

impl Endpoint {
    /// Takes one packet (SMT header and payload). Whatever is wrong with it is counted.
    pub fn handle_packet(&mut self, now: Time, meta: &PacketMeta, packet: &mut [u8]) {
        self.settle();
        self.shared.now = now;
        self.shared.timers.pass(now);
        self.shared.stats.packets_received += 1;
        let Ok((kind, header)) = peek(packet) else {
            self.shared.stats.dropped_malformed += 1;
            return;
        };
        if self.shared.config.shard.index != 0 && is_about_handshake(kind, header.epoch) {
            self.shared.stats.dropped_wrong_lane += 1;
            return;
        }
        let first = self.sessions.newest(meta.remote, header.src_port, header.dst_port);
        let path = Path {
            remote: meta.remote,
            remote_port: header.src_port,
            local_port: header.dst_port,
            local: Some(meta.local),
        };
        match (kind, header.epoch) {
            (PacketType::Data, 0) => self.handle_flight_packet(now, first, path, packet),
            (PacketType::Unknown, 0) => self.handle_no_session(now, first, packet),
            (PacketType::Retry, _) => self.handle_retry(now, first, packet),
            (_, 0) => self.shared.stats.dropped_malformed += 1,
            (PacketType::Data, _) => self.handle_data(now, first, path, meta, packet),
            (_, _) => self.handle_control(now, first, path, meta, kind, packet),
        }
        self.sweep();
    }

    /// The network says that packets to `remote` do not arrive. `quoted` is the start of the packet
    /// it complains about. Never authentic: ends a handshake whose token it quotes, and makes an
    /// established session ask its peer.
    pub fn handle_unreachable(
        &mut self,
        now: Time,
        remote: SocketAddr,
        refused: bool,
        quoted: &[u8],
    ) {
        let Ok((_, header)) = peek(quoted) else { return };
        let mut next = self.sessions.newest(remote, header.dst_port, header.src_port);
        while let Some(id) = next {
            let Some(session) = self.sessions.get_mut(id) else { break };
            next = session.older;
            match session.state {
                State::Handshaking => {
                    let data = Data::parse(quoted);
                    if header.epoch == 0 && data.is_ok_and(|data| data.tag == session.token) {
                        let error = match refused {
                            true => HandshakeError::Refused,
                            false => HandshakeError::Unreachable,
                        };
                        session.handshake_failed(&mut self.shared, error);
                    }
                }
                State::Established => session.suspect(&mut self.shared, now),
                _ => {}
            }
        }
        self.sweep();
    }

    fn handle_data(
        &mut self,
        now: Time,
        first: Option<SessionId>,
        path: Path,
        meta: &PacketMeta,
        packet: &[u8],
    ) {
        let Ok(data) = Data::parse(packet) else {
            self.shared.stats.dropped_malformed += 1;
            return;
        };
        let check = |session: &crate::session::Session| {
            session.checks(data.header.epoch, |key| key.check_data(packet))
        };
        let Some(id) = self.find(first, data.header.message_id, check) else {
            if self.keep_early(first, meta, data.header.epoch.into(), packet) {
                return;
            }
            if u32::from(data.header.epoch) == EARLY_EPOCH {
                return self.count_stranger(first);
            }
            return self.no_session(now, first, path, data.header.message_id);
        };
        let payload = packet.get(DATA_LEN..).unwrap_or_default();
        let ip = match (meta.local, meta.ip_id) {
            (IpAddr::V4(_), Some(id)) => IpVersion::V4 { id },
            (IpAddr::V4(_), None) => IpVersion::V4Unseen,
            (IpAddr::V6(_), _) => IpVersion::V6,
        };
        let Some(offset) = payload_offset(&data, payload.len(), ip) else {
            self.shared.stats.dropped_malformed += 1;
            return;
        };
        if let Some(session) = self.sessions.get_mut(id)
            && session.moves_messages()
        {
            session.count_in(&mut self.shared, packet.len());
            session.on_data(&mut self.shared, now, Packet { data, offset, payload });
            session.incoming.give_back();
        }
    }

    fn handle_control(
        &mut self,
        now: Time,
        first: Option<SessionId>,
        path: Path,
        meta: &PacketMeta,
        kind: PacketType,
        packet: &[u8],
    ) {
        let Ok((control, _)) = Control::parse(packet) else {
            self.shared.stats.dropped_malformed += 1;
            return;
        };
        let check = |session: &crate::session::Session| {
            #[cfg(feature = "mutations")]
            if kind == PacketType::Grant
                && session.keys.is_some()
                && self.shared.config.has(crate::mutation::Mutation::UnauthenticatedGrant)
            {
                return true;
            }
            session.checks(control.header.epoch, |key| key.check_control(packet))
        };
        let Some(id) = self.find(first, control.header.message_id, check) else {
            let epoch = u32::from(control.header.epoch);
            if self.keep_early(first, meta, epoch, packet) {
                return;
            }
            if epoch != EARLY_EPOCH
                && matches!(kind, PacketType::Resend | PacketType::NeedAck | PacketType::Cancel)
            {
                self.no_session(now, first, path, control.header.message_id);
            } else {
                self.count_stranger(first);
            }
            return;
        };
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.count_in(&mut self.shared, packet.len());
        let epoch = u32::from(control.header.epoch);
        if !session.accept_control(epoch, control.number) {
            self.shared.stats.dropped_replayed_control += 1;
            return;
        }
        if epoch == EARLY_EPOCH {
            if session.moves_messages() {
                session.on_early_control(&mut self.shared, now, &control);
            }
            return;
        }
        session.heard(&mut self.shared, now, epoch);
        let closing = matches!(session.state, State::Closing { .. });
        if session.is_working() || (closing && control.header.message_id == session.lane.own_id()) {
            session.on_control(&mut self.shared, now, &control);
        }
    }

    /// The session of a chain for which `check` holds: the lane of it that `message_id` belongs to.
    pub(super) fn find(
        &self,
        first: Option<SessionId>,
        message_id: u64,
        check: impl Fn(&crate::session::Session) -> bool,
    ) -> Option<SessionId> {
        let mut next = first;
        while let Some(id) = next {
            let head = self.sessions.get(id)?;
            next = head.older;
            if let Some(lane) = self.sessions.lane(head, head.lane.of_id(message_id))
                && check(lane)
            {
                return Some(lane.id);
            }
        }
        None
    }

    /// Keeps a packet for which a handshake may be about to give keys: perhaps a client's requests have
    /// overtaken its Finished, its early data our decision about it, or early responses the server's answer.
    /// False if there is no such handshake.
    fn keep_early(
        &mut self,
        first: Option<SessionId>,
        meta: &PacketMeta,
        epoch: u32,
        packet: &[u8],
    ) -> bool {
        let Some(session) = first.and_then(|first| self.sessions.get_mut(first)) else {
            return false;
        };
        let unanswered = epoch == EARLY_EPOCH && session.is_unanswered();
        if !unanswered && !session.counts_as_half_open() {
            return false;
        }
        let Some(handshake) = session.handshake.as_deref_mut() else { return false };
        let decided = session.early.is_some() || !handshake.is_first_flight();
        if epoch == EARLY_EPOCH && decided && !unanswered {
            return false;
        }
        let early = Early { ip_id: meta.ip_id, packet: packet.to_vec() };
        if !handshake.keep_early(&self.shared.config.limits, early) {
            self.shared.stats.limit_early_packets += 1;
        }
        true
    }

    /// A packet of an application epoch that no session's keys vouch for.
    fn no_session(&mut self, now: Time, first: Option<SessionId>, path: Path, id: u64) {
        self.count_stranger(first);
        if first.is_some() {
            return;
        }
        if now.since(self.no_session.0) >= Duration::from_secs(1) {
            self.no_session = (now, 0);
        }
        if self.no_session.1 >= self.shared.config.limits.max_no_session_answers {
            self.shared.stats.limit_no_session_answers += 1;
            return;
        }
        self.no_session.1 += 1;
        self.shared.push_control(PendingControl::NoSession(path, id));
    }

    fn count_stranger(&mut self, first: Option<SessionId>) {
        match first {
            Some(_) => self.shared.stats.dropped_bad_tag += 1,
            None => self.shared.stats.dropped_no_session += 1,
        }
    }

    /// UNKNOWN without a session: unauthentic, so only a reason to ask (spec 5.6).
    fn handle_no_session(&mut self, now: Time, first: Option<SessionId>, packet: &[u8]) {
        let unknown = match Control::parse(packet) {
            Ok((Control { header, body: ControlBody::Unknown(UnknownCode::NoSession), .. }, _)) => {
                Some(header)
            }
            _ => None,
        };
        let Some(Header { message_id, .. }) = unknown else {
            self.shared.stats.dropped_malformed += 1;
            return;
        };
        let mut next = first;
        while let Some(id) = next {
            let Some(head) = self.sessions.get(id) else { break };
            next = head.older;
            let lane = self.sessions.lane(head, head.lane.of_id(message_id)).map(|lane| lane.id);
            let Some(session) = lane.and_then(|lane| self.sessions.get_mut(lane)) else { continue };
            if !session.may_be_unknown(message_id) {
                continue;
            }
            if matches!(session.state, State::Closing { .. }) {
                session.end(&mut self.shared, None);
            } else {
                session.suspect(&mut self.shared, now);
            }
            return;
        }
        self.shared.stats.dropped_unexpected += 1;
    }
}
