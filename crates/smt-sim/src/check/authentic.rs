//! What is not authentic changes nothing but counters of what was dropped (spec 5.4, 5.6). Tags are
//! computed here a second time, apart from the core.

use std::collections::HashSet;
use std::hash::Hasher;

use rustc_hash::FxBuildHasher;
use siphasher::sip::SipHasher24;
use smt_proto::crypto::Suite;
use smt_proto::keys::{Secret, expand_label};
use smt_proto::wire::{COMMON_LEN, DATA_LEN, PacketType, peek};
use smt_proto::{Endpoint, Stats};

const FLAGS: usize = 13;
const CHECKSUM: std::ops::Range<usize> = 16..18;
const SEQUENCE: std::ops::Range<usize> = 4..8;
const DATA_TAG: std::ops::Range<usize> = 36..44;
const DATA_FLAGS: usize = 48;
const EXPLICIT: u8 = 2;
const PINNED: u8 = 4;

/// The header key of the peer's direction of a session, and the control packets taken under it.
#[derive(Clone, Debug)]
pub struct Receiver {
    key: (u64, u64),
    seen: HashSet<u64, FxBuildHasher>,
}

/// What a packet is to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Part of a handshake: never authentic, and meant to be acted on.
    Flight,
    /// RETRY: never authentic, and meant to be acted on by a client whose token it echoes.
    Retry,
    /// UNKNOWN, no session: never authentic, and a reason to ask.
    NoSession,
    /// Part of a handshake, at a shard that makes none.
    Elsewhere,
    /// No session of the receiver vouches for it, or it makes no sense.
    Nobody,
    /// A control packet that its session has had before.
    Repeated,
    /// A control packet of a session, its place among the candidates given.
    Control(usize),
    /// DATA whose header a session vouches for.
    Data(usize),
}

impl Receiver {
    /// Of the direction whose first secret this is.
    pub fn new(suite: &dyn Suite, secret: &Secret) -> Receiver {
        Receiver::under(suite, secret.as_bytes())
    }

    /// The same for a lane of a session whose first secret of the direction this is (spec 3.5).
    pub fn of_lane(suite: &dyn Suite, secret: &Secret, lane: u8) -> Receiver {
        if lane == 0 {
            return Receiver::new(suite, secret);
        }
        let mut own = vec![0; suite.hash_len()];
        expand_label(suite, secret.as_bytes(), "smt lane", &[lane], &mut own);
        Receiver::under(suite, &own)
    }

    fn under(suite: &dyn Suite, secret: &[u8]) -> Receiver {
        let mut key = [0; 16];
        expand_label(suite, secret, "smt header", &[], &mut key);
        let number = u128::from_le_bytes(key);
        Receiver { key: (number as u64, (number >> 64) as u64), seen: HashSet::default() }
    }

    fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        parts.iter().for_each(|part| hasher.write(part));
        hasher.finish()
    }

    /// Whether the tag of a DATA packet is right.
    fn vouches_for_data(&self, packet: &[u8]) -> bool {
        let Some((header, payload)) = packet.split_first_chunk::<DATA_LEN>() else { return false };
        let mut input = *header;
        input[FLAGS] = 0;
        input[CHECKSUM].fill(0);
        input[DATA_TAG].fill(0);
        let flags = input[DATA_FLAGS];
        if flags & EXPLICIT == 0 {
            input[SEQUENCE].fill(0);
        }
        let covered: &[u8] = if flags & PINNED != 0 { payload } else { &[] };
        self.hash(&[&input, covered]).to_be_bytes() == header[DATA_TAG]
    }

    /// The tag of a control packet, if it is right.
    fn tag_of_control(&self, packet: &[u8]) -> Option<u64> {
        let (body, tag) = packet.split_last_chunk::<8>()?;
        let (head, rest) = body.split_first_chunk::<COMMON_LEN>()?;
        let mut head = *head;
        head[FLAGS] = 0;
        head[CHECKSUM].fill(0);
        let right = self.hash(&[&head, rest, &[0; 8]]);
        (right.to_be_bytes() == *tag).then_some(right)
    }
}

/// Tells what a packet is to the sessions it may belong to (newest first), and remembers it.
pub fn classify(packet: &[u8], candidates: &mut [&mut Receiver]) -> Kind {
    let Ok((kind, header)) = peek(packet) else { return Kind::Nobody };
    match (kind, header.epoch) {
        (PacketType::Data, 0) => return Kind::Flight,
        (PacketType::Unknown, 0) => return Kind::NoSession,
        (PacketType::Retry, 0) => return Kind::Retry,
        (_, 0) => return Kind::Nobody,
        _ => {}
    }
    for (place, receiver) in candidates.iter_mut().enumerate() {
        if kind == PacketType::Data {
            if receiver.vouches_for_data(packet) {
                return Kind::Data(place);
            }
        } else if let Some(tag) = receiver.tag_of_control(packet) {
            // Equal packets have equal tags, and others have equal ones with odds of 2^-64.
            let fresh = receiver.seen.insert(tag);
            return if fresh { Kind::Control(place) } else { Kind::Repeated };
        }
    }
    Kind::Nobody
}

/// An endpoint before it gets a packet.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    stats: Stats,
    sessions: usize,
    incoming: u64,
    promised: u64,
    wants: bool,
}

/// What is known of the path of a packet.
#[derive(Clone, Copy, Debug)]
pub struct OnPath {
    /// The endpoint has a session there.
    pub any: bool,
    /// One of them has no keys yet: packets may be kept for it.
    pub half_open: bool,
}

impl Before {
    /// How `endpoint` is now, all its work done.
    pub fn of(endpoint: &Endpoint) -> Before {
        Before {
            stats: *endpoint.stats(),
            sessions: endpoint.session_count(),
            incoming: endpoint.incoming_bytes(),
            promised: endpoint.promised_bytes(),
            wants: endpoint.wants_transmit(),
        }
    }

    /// Whether a handshake of `endpoint` has begun again meanwhile.
    pub fn has_begun_again(&self, endpoint: &Endpoint) -> bool {
        endpoint.stats().retries_received > self.stats.retries_received
    }

    /// What a packet of this kind has changed that it must not; `None` if nothing.
    pub fn forbidden_change(
        &self,
        kind: Kind,
        path: OnPath,
        endpoint: &Endpoint,
    ) -> Option<String> {
        let after = Before::of(endpoint);
        let drops = |stats: &Stats| {
            stats.dropped_malformed + stats.dropped_no_session + stats.dropped_bad_tag
        };
        let wrong = match kind {
            Kind::Control(_) | Kind::Data(_) => return None,
            Kind::Nobody => {
                let dropped = drops(&after.stats) - drops(&self.stats);
                let lost = dropped == 0 && !path.half_open;
                let moved = self.moved(&after) || after.sessions != self.sessions;
                let speaks = path.any && after.wants && !self.wants;
                lost || dropped > 1
                    || moved
                    || speaks
                    || self.counters(kind) != after.counters(kind)
            }
            Kind::Repeated => {
                // Keys of early data go, and then nobody vouches for what came under them: it is dropped,
                // or kept for a session that may have the keys later.
                let replayed =
                    after.stats.dropped_replayed_control - self.stats.dropped_replayed_control;
                let dropped = replayed + drops(&after.stats) - drops(&self.stats);
                dropped > 1
                    || (dropped == 0 && !path.half_open)
                    || self.moved(&after)
                    || after.sessions != self.sessions
                    // Before an address is proven every packet pays for others.
                    || (after.wants && !self.wants && !path.half_open)
                    || self.counters(kind) != after.counters(kind)
            }
            Kind::Elsewhere => {
                self.moved(&after)
                    || after.sessions != self.sessions
                    || (after.wants && !self.wants)
                    || self.counters(kind) != after.counters(kind)
            }
            Kind::Retry => {
                let taken = self.has_begun_again(endpoint);
                self.moved(&after)
                    || after.sessions != self.sessions
                    || (after.wants && !self.wants && !taken)
                    || self.counters(kind) != after.counters(kind)
            }
            Kind::NoSession => {
                self.moved(&after)
                    || after.sessions > self.sessions
                    || self.counters(kind) != after.counters(kind)
            }
            Kind::Flight => {
                // With a refusal what came of early responses goes, and what they were promised is free.
                let refused = after.stats.early_refused > self.stats.early_refused;
                let fell = refused && after.incoming <= self.incoming;
                (self.moved(&after) && !fell)
                    || after.sessions > self.sessions + 1
                    || self.counters(kind) != after.counters(kind)
            }
        };
        wrong.then(|| self.differences(&after))
    }

    /// What has changed, field by field.
    fn differences(&self, after: &Before) -> String {
        let (before, after) = (format!("{self:?}"), format!("{after:?}"));
        let both = before.split(", ").zip(after.split(", "));
        let changed = both.filter(|(before, after)| before != after);
        let changed: Vec<String> =
            changed.map(|(before, after)| format!("{before} became {after}")).collect();
        match changed.is_empty() {
            true => "it was not counted as dropped".to_owned(),
            false => changed.join(", "),
        }
    }

    fn moved(&self, after: &Before) -> bool {
        self.incoming != after.incoming || self.promised != after.promised
    }

    /// The counters without those that a packet of this kind may move.
    fn counters(&self, kind: Kind) -> Stats {
        let mut rest = Stats { packets_received: 0, ..self.stats };
        match kind {
            Kind::Nobody => {
                rest.dropped_malformed = 0;
                rest.dropped_no_session = 0;
                rest.dropped_bad_tag = 0;
                rest.limit_early_packets = 0;
                rest.limit_no_session_answers = 0;
                rest.limit_control_queue = 0;
            }
            Kind::Repeated => {
                rest.dropped_replayed_control = 0;
                rest.dropped_bad_tag = 0;
                rest.dropped_no_session = 0;
                rest.limit_early_packets = 0;
            }
            Kind::Retry => {
                rest.dropped_malformed = 0;
                rest.dropped_bad_token = 0;
                rest.dropped_unexpected = 0;
                rest.retries_received = 0;
            }
            Kind::NoSession => {
                rest.dropped_malformed = 0;
                rest.dropped_unexpected = 0;
                rest.probes_sent = 0;
                rest.limit_control_queue = 0;
            }
            Kind::Flight => {
                rest.dropped_malformed = 0;
                rest.dropped_bad_token = 0;
                rest.limit_half_open = 0;
                rest.limit_retries = 0;
                rest.early_refused = 0;
                rest.limit_sessions = 0;
                rest.limit_per_path = 0;
                rest.limit_flight = 0;
                rest.limit_control_queue = 0;
                rest.handshakes_started = 0;
                rest.handshakes_failed = 0;
            }
            Kind::Elsewhere => rest.dropped_wrong_lane = 0,
            Kind::Control(_) | Kind::Data(_) => {}
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smt_proto::crypto::{SuiteId, aws_lc};
    use smt_proto::keys::HeaderKey;
    use smt_proto::wire::{Control, ControlBody, Data, Header};

    fn header() -> Header {
        Header { src_port: 40_000, dst_port: 4433, epoch: 3, message_id: 1024 }
    }

    fn keys() -> (HeaderKey, Receiver) {
        let suite = aws_lc::suite(SuiteId::Aes128GcmSha256);
        let secret = Secret::new(&[3; 32]);
        (HeaderKey::derive(suite, &secret), Receiver::new(suite, &secret))
    }

    #[test]
    fn control_packets_are_told_apart_from_repeated_and_changed_ones() {
        let (key, mut receiver) = keys();
        let mut packet = vec![0; 52];
        let body = ControlBody::Grant { offset: 5000, priority: 0 };
        Control { header: header(), body, number: 9 }.emit(&mut packet);
        key.write_control_tag(&mut packet);
        for at in 0..packet.len() {
            let mut changed = packet.clone();
            changed[at] ^= 4;
            let kind = classify(&changed, &mut [&mut receiver.clone()]);
            let ignored = at == FLAGS || CHECKSUM.contains(&at);
            assert_eq!(kind == Kind::Control(0), ignored, "byte {at}: {kind:?}");
        }
        assert_eq!(classify(&packet, &mut [&mut receiver]), Kind::Control(0));
        packet[FLAGS] = 8;
        assert_eq!(classify(&packet, &mut [&mut receiver]), Kind::Repeated);
        assert_eq!(classify(&packet, &mut []), Kind::Nobody);
    }

    #[test]
    fn lanes_are_vouched_for_by_keys_of_their_own() {
        let suite = aws_lc::suite(SuiteId::Aes256GcmSha384);
        let secret = Secret::new(&[3; 48]);
        let mut packet = vec![0; 52];
        Control {
            header: header(),
            body: ControlBody::Grant { offset: 5, priority: 0 },
            number: 9,
        }
        .emit(&mut packet);
        for lane in [0, 1, 63] {
            let own = smt_proto::keys::lane_secret(suite, &secret, lane);
            HeaderKey::derive(suite, &own).write_control_tag(&mut packet);
            for other in [0, 1, 63] {
                let mut receiver = Receiver::of_lane(suite, &secret, other);
                let vouched = classify(&packet, &mut [&mut receiver]) == Kind::Control(0);
                assert_eq!(vouched, other == lane, "{lane} as {other}");
            }
        }
    }

    #[test]
    fn a_payload_belongs_to_the_tag_only_when_pinned() {
        let (key, mut receiver) = keys();
        for pinned in [false, true] {
            let data = Data {
                header: header(),
                sequence: 0,
                record_size: 100,
                segment_size: 122,
                message_len: 122,
                incoming: 122,
                tag: 0,
                retransmit: pinned,
                explicit: true,
                pinned,
                bundle: false,
                tso_offset: 0,
                cutoffs: 0,
            };
            let mut packet = vec![1; DATA_LEN + 122];
            data.emit(packet.first_chunk_mut().unwrap());
            key.write_data_tag(&mut packet);
            assert_eq!(classify(&packet, &mut [&mut receiver]), Kind::Data(0));
            packet[DATA_LEN + 5] ^= 1;
            let kind = classify(&packet, &mut [&mut receiver]);
            assert_eq!(kind, if pinned { Kind::Nobody } else { Kind::Data(0) });
            packet[30] ^= 1;
            assert_eq!(classify(&packet, &mut [&mut receiver]), Kind::Nobody);
        }
    }
}
