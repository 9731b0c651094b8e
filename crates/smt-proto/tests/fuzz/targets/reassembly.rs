//! One message, cut, repeated, forged and reordered as the input says, and in the end sent whole: it
//! is delivered once, and right. Requests, responses and error replies alike (spec 4.4, 7).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use smt_proto::crypto::Suite;
use smt_proto::error::CallError;
use smt_proto::keys::{EpochKeys, HeaderKey, Secret};
use smt_proto::record::{Layout, RECORD_HEADER_LEN, seal, sequence_number};
use smt_proto::wire::{DATA_LEN, Data, Header, Kind, PREAMBLE_LEN, Preamble};
use smt_proto::{Config, Endpoint, Event, External, Limits, PacketMeta, Path, Role, Time, Updates};

use super::checked::Checked;
use super::input::{Counting, Input};

const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const THEIRS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 0);
const SECRETS: [[u8; 32]; 2] = [[1; 32], [2; 32]];
const SUITE: &dyn Suite = &Checked;

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut life = Life::new(&mut input);
    for _ in 0..2000 {
        if input.0.is_empty() {
            break;
        }
        life.piece(&mut input);
    }
    life.whole();
    life.whole();
    assert_eq!(life.deliveries, 1);
    assert_eq!(life.endpoint.promised_bytes(), 0, "promises left over");
}

struct Life {
    endpoint: Endpoint,
    header: HeaderKey,
    message_id: u64,
    kind: Kind,
    body: Vec<u8>,
    layout: Layout,
    /// The wire stream.
    stream: Vec<u8>,
    deliveries: u32,
}

impl Life {
    fn new(input: &mut Input<'_>) -> Life {
        let kinds = [None, None, Some(Kind::Application), Some(Kind::Error)];
        let answer = kinds[usize::from(input.u8() % 4)];
        let role = if answer.is_some() { Role::Client } else { Role::Server };
        let limits = Limits { max_gaps: 1 + usize::from(input.u8() % 16), ..Limits::default() };
        let config = Config { limits, ..Config::default() };
        let mut endpoint = Endpoint::new(config, Box::new(Counting(7)));
        let params = [endpoint.parameters(Role::Client), endpoint.parameters(Role::Server)];
        let (us, them) = if role == Role::Client { (0, 1) } else { (1, 0) };
        let external = External {
            path: Path { remote: THEIRS, remote_port: 2, local_port: 1, local: Some(OURS) },
            role,
            suite: SUITE,
            client_secret: Secret::new(&SECRETS[0]),
            server_secret: Secret::new(&SECRETS[1]),
            local: params[us],
            peer: params[them],
            room: 1400,
            updates: Updates::Derived,
        };
        let session = endpoint.add_session(Time::ZERO, external).unwrap();
        let message_id = match answer {
            None => params[them].first_id,
            Some(_) => {
                let deadline = Time::from_nanos(u64::MAX / 2);
                endpoint.start_call(session, Bytes::from_static(&[1]), deadline, 0).unwrap();
                params[us].first_id | 1
            }
        };
        let mut frame = [0; 2000];
        while endpoint.poll_transmit(Time::ZERO, &mut frame).is_some() {}

        let kind = answer.unwrap_or(Kind::Application);
        let body: Vec<u8> = (0..input.number() % 20_000).map(|at| (at * 7 % 251) as u8).collect();
        let record_size = [64, 100, 1000, 16_384][usize::from(input.u8() % 4)];
        let padding = usize::from(input.u8() / 2);
        let secret = Secret::new(&SECRETS[them]);
        let (layout, stream) =
            message(kind, message_id, record_size, params[them].first_id, &body, padding, &secret);
        let header = HeaderKey::derive(SUITE, &secret);
        Life { endpoint, header, message_id, kind, body, layout, stream, deliveries: 0 }
    }

    /// Some bytes of the message, perhaps altered on the way.
    fn piece(&mut self, input: &mut Input<'_>) {
        let how = input.u8();
        let from = match how & 3 {
            0 => self.layout.wire_range(input.u32() % self.layout.records).start,
            _ => input.u32() % self.layout.wire_len,
        };
        let len = match how >> 2 & 3 {
            0 => self.layout.stride(),
            1 => 0,
            _ => input.number(),
        };
        let to = from.saturating_add(len).min(self.layout.wire_len);
        let mut packet = self.packet(from, to, how & 16 != 0, how & 32 != 0);
        if how & 64 != 0 && packet.len() > DATA_LEN {
            let at = DATA_LEN + input.u32() as usize % (packet.len() - DATA_LEN);
            packet[at] ^= input.u8().max(1);
        }
        self.give(packet);
    }

    fn whole(&mut self) {
        for record in 0..self.layout.records {
            let range = self.layout.wire_range(record);
            let packet = self.packet(range.start, range.end, true, true);
            self.give(packet);
        }
    }

    fn packet(&self, from: u32, to: u32, pinned: bool, retransmit: bool) -> Vec<u8> {
        let data = Data {
            header: Header { src_port: 2, dst_port: 1, epoch: 3, message_id: self.message_id },
            sequence: from,
            record_size: self.layout.record_size,
            segment_size: 1000,
            message_len: self.layout.wire_len,
            incoming: self.layout.wire_len,
            tag: 0,
            cutoffs: 0,
            retransmit,
            explicit: true,
            pinned,
            bundle: false,
            tso_offset: self.layout.record_at(from),
        };
        let mut packet = vec![0; DATA_LEN];
        data.emit((&mut packet[..]).try_into().unwrap());
        packet.extend_from_slice(&self.stream[from as usize..to as usize]);
        self.header.write_data_tag(&mut packet);
        packet
    }

    fn give(&mut self, mut packet: Vec<u8>) {
        let meta = PacketMeta { remote: THEIRS, local: OURS, ip_id: None };
        self.endpoint.handle_packet(Time::ZERO, &meta, &mut packet);
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Established { .. } => continue,
                Event::Request { body, .. } => assert!(body[..] == self.body[..]),
                Event::Response { result: Ok(body), .. } => {
                    assert!(self.kind == Kind::Application && body[..] == self.body[..]);
                }
                Event::Response { result: Err(CallError::Refused { code, text }), .. } => {
                    self.check_refusal(code, &text);
                }
                other => panic!("{other:?}"),
            }
            self.deliveries += 1;
        }
        let mut frame = [0; 2000];
        while self.endpoint.poll_transmit(Time::ZERO, &mut frame).is_some() {}
    }

    fn check_refusal(&self, code: u32, text: &str) {
        assert_eq!(self.kind, Kind::Error);
        if let Some((said, words)) = self.body.split_first_chunk() {
            assert_eq!(code, u32::from_be_bytes(*said));
            assert_eq!(text, String::from_utf8_lossy(words));
        }
    }
}

/// A message of the peer's, sealed: its records and its wire stream.
fn message(
    kind: Kind,
    id: u64,
    record_size: u16,
    ack_floor: u64,
    body: &[u8],
    padding: usize,
    secret: &Secret,
) -> (Layout, Vec<u8>) {
    let plain_len = PREAMBLE_LEN + body.len() + padding;
    let layout = Layout::from_plain(record_size, plain_len as u64, 48).unwrap();
    let preamble = Preamble {
        kind,
        record_size,
        app_len: body.len() as u32,
        wire_len: layout.wire_len,
        highest_peer_epoch: 0,
        oldest_epoch: 3,
        response_limit: 0,
        ack_floor,
        ack_bitmap: 0,
    };
    let mut plain = vec![0; plain_len];
    preamble.emit(plain.first_chunk_mut().unwrap());
    plain[PREAMBLE_LEN..PREAMBLE_LEN + body.len()].copy_from_slice(body);

    let keys = EpochKeys::new(SUITE, secret.clone(), 3);
    let mut stream = vec![0; layout.wire_len as usize];
    for record in 0..layout.records {
        let (wire, from) = (layout.wire_range(record), layout.plain_range(record));
        let place = &mut stream[wire.start as usize..wire.end as usize];
        place[RECORD_HEADER_LEN..RECORD_HEADER_LEN + from.len()]
            .copy_from_slice(&plain[from.start as usize..from.end as usize]);
        seal(&keys, sequence_number(id, 48, record).unwrap(), place);
    }
    (layout, stream)
}
