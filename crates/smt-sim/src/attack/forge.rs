//! Packets made from nothing but what is seen in headers.

use smt_proto::crypto::Random;
use smt_proto::wire::{
    AckRanges, CancelCode, Control, ControlBody, DATA_LEN, Data, Header, Params, RETRY_LEN, Retry,
    UnknownCode,
};

use crate::rng::Rng;

/// The longest packet that is made, in bytes.
const MAX_LEN: u64 = 1480;
/// Types that must never be accepted: FREEZE, and numbers nobody has.
const NO_TYPES: [u8; 6] = [0x16, 0x19, 0x00, 0x0f, 0x23, 0xff];
/// The flight by which an end says that the handshake has failed, in the hosts' stand-in for TLS.
const ALERT: &[u8] = b"alrt";

/// What ends a control packet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trailer {
    pub(super) number: u64,
    pub(super) tag: u64,
}

impl Trailer {
    /// One that was seen, with its number or the next ones; or one made up.
    pub(super) fn like(seen: Option<Trailer>, rng: &mut Rng) -> Self {
        let random = Trailer { number: rng.below(1 << 12), tag: rng.next_u64() };
        match (seen, rng.below(4)) {
            (None, _) | (_, 0) => random,
            (Some(seen), 1) => Trailer { tag: random.tag, number: seen.number + rng.below(200) },
            (Some(seen), 2) => Trailer { number: seen.number + 1, ..seen },
            (Some(seen), _) => seen,
        }
    }
}

/// The packet of a body, or one of a type that does not exist.
pub(super) fn control(
    header: Header,
    body: ControlBody,
    trailer: Trailer,
    rng: &mut Rng,
) -> Vec<u8> {
    if body == ControlBody::Unknown(UnknownCode::NoSession) {
        return no_session(header);
    }
    let of_session = matches!(body, ControlBody::Update { .. });
    let header = if of_session { Header { message_id: 0, ..header } } else { header };
    let control = Control { header, body, number: trailer.number };
    let mut bytes = vec![0; control.wire_len()];
    let len = control.emit(&mut bytes);
    set(&mut bytes, len - 8, &trailer.tag.to_be_bytes());
    if rng.chance(0.05) {
        let kind = rng.pick(&NO_TYPES).copied().unwrap_or_default();
        set(&mut bytes, 11, &[kind]);
    }
    bytes
}

/// An UNKNOWN that says there is no session.
pub(super) fn no_session(header: Header) -> Vec<u8> {
    let body = ControlBody::Unknown(UnknownCode::NoSession);
    let control = Control { header: Header { epoch: 0, ..header }, body, number: 0 };
    let mut bytes = vec![0; control.wire_len()];
    control.emit(&mut bytes);
    bytes
}

/// A RETRY to a client whose token this is, or another; `seen` is a token of another handshake.
pub(super) fn retry(header: Header, token: u64, seen: Option<u64>, rng: &mut Rng) -> Vec<u8> {
    let Header { src_port, dst_port, .. } = header;
    let new_token = match rng.below(3) {
        0 => token,
        1 => seen.unwrap_or(token),
        _ => rng.next_u64(),
    };
    let token = if rng.chance(0.7) { token } else { token ^ 1 << rng.below(64) };
    let mut bytes = [0; RETRY_LEN];
    Retry { src_port, dst_port, new_token, token }.emit(&mut bytes);
    bytes.to_vec()
}

/// Anything a control packet can say about a message of this length.
pub(super) fn body(id: u64, message_len: u32, rng: &mut Rng) -> ControlBody {
    let offset = match rng.below(4) {
        0 => u32::MAX,
        1 => rng.next_u64() as u32,
        _ => message_len,
    };
    let start = if rng.chance(0.5) { 0 } else { rng.below(message_len.into()) as u32 };
    match rng.below(12) {
        0 => ControlBody::Grant { offset, priority: rng.below(256) as u8 },
        1 => {
            let pinned = rng.chance(0.5);
            ControlBody::Resend { offset: start, length: offset, priority: 0, pinned }
        }
        2 => ControlBody::Unknown(UnknownCode::NeverAccepted),
        3 => ControlBody::Unknown(UnknownCode::Forgotten),
        4 => ControlBody::Unknown(UnknownCode::NoSession),
        5 => ControlBody::Busy,
        6 => ControlBody::NeedAck,
        7 => ControlBody::Ack(acks(id, rng)),
        8 => ControlBody::Cancel(CancelCode::Request),
        9 => ControlBody::Cancel(CancelCode::Confirmed),
        10 => ControlBody::Update { epoch: 3 + rng.below(8) as u32 },
        _ => {
            let version = rng.below(1 << 16) as u16;
            ControlBody::Cutoffs { cutoffs: [offset; 8], version, unscheduled: offset }
        }
    }
}

/// That RPCs around this one are finished, or all there can be.
fn acks(id: u64, rng: &mut Rng) -> AckRanges {
    let request = id & !1;
    let floor = if rng.chance(0.5) { request + 4 } else { request & !0xff };
    let mut ranges = AckRanges::new(floor);
    for _ in 0..rng.below(33) {
        let first = (request + rng.below(1 << 10)) & !1;
        let last = if rng.chance(0.2) { !1 } else { first + 4 * rng.below(64) };
        if !ranges.push(first, last) {
            break;
        }
    }
    ranges
}

/// The ID of this message, of another of its RPC or a neighbour of it, or of the session.
pub(super) fn id_near(id: u64, rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0 => 0,
        1 => id ^ 1,
        2 => id ^ 2,
        3 => id & !1,
        4 => id.wrapping_add(4 * rng.between(1, 8)),
        5 => id.wrapping_sub(4),
        _ => id,
    }
}

/// A DATA packet like one that was seen, wrong in its place, its message or its length, with noise
/// for payload.
pub(super) fn data_like(seen: Data, rng: &mut Rng) -> Vec<u8> {
    let mut data = seen;
    data.header.message_id = id_near(seen.header.message_id, rng);
    if rng.chance(0.1) {
        // Early data, or none.
        data.header.epoch = if seen.header.epoch == 1 { 3 } else { 1 };
    }
    if rng.chance(0.5) {
        data.sequence = rng.below(seen.message_len.into()) as u32;
        data.explicit = true;
    }
    if rng.chance(0.3) {
        let most = 1 << rng.between(1, 31);
        data.message_len = rng.between(1, most) as u32;
    }
    data.incoming = rng.below(u64::from(data.message_len) + 1) as u32;
    data.retransmit ^= rng.chance(0.3);
    data.cutoffs ^= if rng.chance(0.1) { rng.below(4) as u16 } else { 0 };
    data.pinned = data.explicit && rng.chance(0.3);
    if rng.chance(0.5) {
        data.tag = rng.next_u64();
    }
    let room = data.message_len.saturating_sub(data.sequence).into();
    let payload = noise(rng.below(MAX_LEN.min(room) + 1), rng);
    data_packet(&data, &payload)
}

/// A packet of a handshake that was seen, for its client or its server.
pub(super) fn flight_like(seen: Data, header: Header, rng: &mut Rng) -> Vec<u8> {
    let mut payload = Vec::new();
    if rng.chance(0.5) {
        payload = params(rng).emit(0);
    }
    if rng.chance(0.4) {
        payload.extend_from_slice(ALERT);
    } else {
        let len = rng.between(1, 1200);
        payload.extend_from_slice(&noise(len, rng));
    }
    flight(header, seen.tag, &payload)
}

/// What one end of a handshake declares about itself, good or bad.
pub(super) fn params(rng: &mut Rng) -> Params {
    Params {
        id_bits: 48,
        first_id: 4 + 2 * rng.below(1 << 37),
        max_rpcs: 1 << rng.below(32),
        max_message: 1 << rng.below(32),
        unscheduled: 1 << rng.below(32),
        wake_delay_us: rng.below(1000) as u32,
        max_id_bits: 56,
        wants: 0,
        lanes: 1 << rng.below(7),
    }
}

/// A whole flight in one packet.
pub(super) fn flight(header: Header, token: u64, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).max(1);
    let data = Data {
        header: Header { epoch: 0, ..header },
        sequence: 0,
        record_size: 0,
        segment_size: len.min(1400) as u16,
        message_len: len,
        incoming: len,
        tag: token,
        cutoffs: 0,
        retransmit: false,
        explicit: true,
        pinned: false,
        bundle: false,
        tso_offset: 0,
    };
    data_packet(&data, payload)
}

/// A DATA packet.
pub(super) fn data_packet(data: &Data, payload: &[u8]) -> Vec<u8> {
    let mut head = [0; DATA_LEN];
    data.emit(&mut head);
    [&head[..], payload].concat()
}

/// Random bytes.
pub(super) fn noise(len: u64, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    rng.fill(&mut bytes);
    bytes
}

/// The header of a packet that travels the other way.
pub(super) fn turned(header: Header) -> Header {
    Header { src_port: header.dst_port, dst_port: header.src_port, ..header }
}

/// Overwrites bytes from `at` on, as far as there are any.
pub(super) fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::super::sight::{Sight, see};
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_type_and_every_code_is_made_and_all_but_reserved_types_parse() {
        let mut rng = Rng::new(1);
        let header = Header { src_port: 1, dst_port: 2, epoch: 3, message_id: 4 };
        let mut kinds = BTreeSet::new();
        for _ in 0..2000 {
            let body = body(4, 5000, &mut rng);
            let seen = Some(Trailer { number: 7, tag: 9 });
            let trailer = Trailer::like(seen, &mut rng);
            let bytes = control(header, body, trailer, &mut rng);
            if NO_TYPES.contains(&bytes[11]) {
                assert!(see(&bytes).is_none());
            } else {
                assert!(matches!(see(&bytes), Some(Sight::Control(..))));
            }
            kinds.insert((bytes[11], bytes[7]));
        }
        for kind in [0x11, 0x12, 0x14, 0x15, 0x16, 0x17, 0x18, 0x22] {
            assert!(kinds.contains(&(kind, 0)), "{kind:#x}");
        }
        for (kind, code) in [(0x13, 0), (0x13, 1), (0x13, 2), (0x20, 0), (0x20, 1)] {
            assert!(kinds.contains(&(kind, code)), "{kind:#x} {code}");
        }
    }

    #[test]
    fn data_and_flights_are_well_formed() {
        let mut rng = Rng::new(2);
        let header = Header { src_port: 1, dst_port: 2, epoch: 3, message_id: 4 };
        let first = flight(header, 77, &[1, 2, 3]);
        let Some(Sight::Data(seen)) = see(&first) else { panic!() };
        assert_eq!((seen.tag, seen.message_len, seen.header.epoch), (77, 3, 0));
        let message =
            Data { header, record_size: 1000, segment_size: 1022, message_len: 9000, ..seen };
        for _ in 0..2000 {
            assert!(matches!(see(&data_like(message, &mut rng)), Some(Sight::Data(_))));
            let flight = flight_like(seen, turned(header), &mut rng);
            let Some(Sight::Data(forged)) = see(&flight) else { panic!() };
            assert_eq!((forged.tag, forged.header.src_port), (77, 2));
            assert_eq!(forged.message_len as usize, flight.len() - DATA_LEN);
        }
    }
}
