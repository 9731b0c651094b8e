//! One endpoint, and a string of bytes that says what happens to it: packets of an authentic but
//! hostile peer, of strangers, time, and its own application. The fuzz target `endpoint` runs it, too.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use smt_proto::keys::{HeaderKey, Secret};
use smt_proto::record::Layout;
use smt_proto::wire::{
    AckRanges, Block, BundleEntry, BundleHead, CancelCode, Control, ControlBody, DATA_LEN, Data,
    EARLY_EPOCH, Header, Kind, MAX_CONTROL_LEN, PREAMBLE_LEN, Params, Preamble, RETRY_LEN, Retry,
    UnknownCode, epoch_to_wire,
};
use smt_proto::{
    AeadLimits, Config, EarlyData, Endpoint, Event, External, Limits, PacketMeta, Path, Role,
    RpcId, SessionId, Time, Updates,
};

use super::input::{Counting, Input};
use super::plain::{Plain, bundle, part};

const OUR_PORT: u16 = 4433;
const THEIR_PORT: u16 = 40_000;
const OUR_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const SECRETS: [[u8; 32]; 2] = [[1; 32], [2; 32]];

/// Lives the life that `input` describes. Panics if the endpoint does, or breaks a promise.
pub fn run(input: &[u8]) {
    let mut bytes = Input(input);
    let mut machine = Machine::new(bytes.u8());
    while !bytes.0.is_empty() {
        machine.step(&mut bytes);
        machine.drain(&mut bytes);
    }
    machine.everybody_leaves();
}

struct Machine {
    endpoint: Endpoint,
    now: Time,
    session: SessionId,
    params: [Params; 2],
    /// Of the hostile peer's direction.
    header: HeaderKey,
    control_number: u64,
    calls: Vec<RpcId>,
    requests: VecDeque<RpcId>,
    handshakes: Vec<SessionId>,
    /// The latest handshake that the endpoint began.
    connecting: Option<SessionId>,
    /// Token of the endpoint's latest flight.
    token: u64,
    /// Packets of both directions, to be replayed.
    seen: VecDeque<Vec<u8>>,
}

fn limits() -> Limits {
    Limits {
        max_half_open: 4,
        retry_threshold: 2,
        max_retries_waiting: 2,
        max_sessions: 8,
        max_rpcs: 64,
        max_message: 100_000,
        unscheduled: 2000,
        max_incoming_bytes: 300_000,
        max_incoming_bytes_total: 400_000,
        max_outgoing_bytes: 300_000,
        max_gaps: 8,
        max_early_packets: 4,
        max_control_queue: 64,
        max_resend_ranges: 4,
        ..Limits::default()
    }
}

fn peer_address() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 0)
}

impl Machine {
    fn new(choice: u8) -> Machine {
        let config = Config {
            limits: limits(),
            receive_credit: 40_000,
            aead_limits: Some(AeadLimits { records: 200, blocks: 100_000, failed_opens: 40 }),
            ..Config::default()
        };
        let mut endpoint = Endpoint::new(config, Box::new(Counting(7)));
        let params = [endpoint.parameters(Role::Client), endpoint.parameters(Role::Server)];
        let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
        let (us, them) = if role == Role::Client { (0, 1) } else { (1, 0) };
        let external = External {
            path: path(),
            role,
            suite: &Plain,
            client_secret: Secret::new(&SECRETS[0]),
            server_secret: Secret::new(&SECRETS[1]),
            local: params[us],
            peer: params[them],
            room: 1400,
            updates: Updates::Derived,
        };
        let session = endpoint.add_session(Time::ZERO, external).unwrap();
        Machine {
            endpoint,
            now: Time::ZERO,
            session,
            params: [params[us], params[them]],
            header: HeaderKey::derive(&Plain, &Secret::new(&SECRETS[them])),
            control_number: 0,
            calls: Vec::new(),
            requests: VecDeque::new(),
            handshakes: Vec::new(),
            connecting: None,
            token: 0,
            seen: VecDeque::new(),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let choice = input.u8();
        match choice % 16 {
            _ if choice == 255 => self.bundle(input),
            0..=3 => self.data(input),
            4 | 5 => self.control(input),
            6 => self.noise(input),
            7 => self.time(input),
            8 | 9 => self.call(input),
            10 => self.answer(input),
            11 => self.manage(input),
            12 | 13 => self.flight(input),
            14 => self.replay(input),
            _ => self.rumour(input),
        }
    }

    fn give(&mut self, packet: Vec<u8>) {
        self.give_from(peer_address(), packet);
    }

    fn give_from(&mut self, remote: SocketAddr, mut packet: Vec<u8>) {
        let meta = PacketMeta { remote, local: OUR_ADDRESS, ip_id: Some(0) };
        self.remember(packet.clone());
        self.endpoint.handle_packet(self.now, &meta, &mut packet);
    }

    fn remember(&mut self, packet: Vec<u8>) {
        self.seen.push_back(packet);
        if self.seen.len() > 32 {
            self.seen.pop_front();
        }
    }

    fn header(&self, input: &mut Input<'_>) -> Header {
        let epoch = match input.u8() {
            224.. => EARLY_EPOCH,
            byte => u32::from(byte / 64) + 3,
        };
        Header {
            src_port: THEIR_PORT,
            dst_port: OUR_PORT,
            epoch: epoch_to_wire(epoch),
            message_id: self.message_id(input),
        }
    }

    /// Mostly an ID of the first RPCs of either end.
    fn message_id(&self, input: &mut Input<'_>) -> u64 {
        let choice = input.u8();
        if choice == 255 {
            return input.u64();
        }
        let first = self.params[usize::from(choice & 1)].first_id;
        first + u64::from(choice >> 1 & 1) + 4 * u64::from(choice >> 2)
    }

    /// A message of the peer's, sealed, and a packet of some part of it.
    fn data(&mut self, input: &mut Input<'_>) {
        let header = self.header(input);
        let record_size = [64, 100, 1000, 16_384][usize::from(input.u8() % 4)];
        let plain = input.number().saturating_add(PREAMBLE_LEN as u32);
        let Ok(layout) = Layout::from_plain(record_size, plain.into(), 48) else { return };
        let odd = input.u8();
        let mut preamble = Preamble {
            kind: Kind::Application,
            record_size,
            app_len: plain - PREAMBLE_LEN as u32,
            wire_len: layout.wire_len,
            highest_peer_epoch: if u32::from(header.epoch) == EARLY_EPOCH { 0 } else { 3 },
            oldest_epoch: u32::from(header.epoch).min(3),
            response_limit: 0,
            ack_floor: self.params[1].first_id,
            ack_bitmap: 0,
        };
        match odd {
            200..=209 => preamble.ack_floor = self.message_id(input),
            210..=219 => preamble.ack_bitmap = input.u64(),
            220..=224 => preamble.kind = [Kind::Post, Kind::Error][usize::from(input.u8() % 2)],
            225..=229 => preamble.app_len = input.number(),
            230..=234 => preamble.oldest_epoch = 3 + input.number() % 5,
            235..=239 => preamble.highest_peer_epoch = 3 + u32::from(input.u8() / 64),
            240..=249 => preamble.highest_peer_epoch = 0,
            250..=254 => preamble.response_limit = input.number(),
            _ => {}
        }
        let range = match input.u8() % 4 {
            0 => 0..layout.wire_len,
            1 => layout.wire_range(input.number() % layout.records),
            2 => {
                let from = input.number() % layout.wire_len;
                from..layout.wire_len.min(from.saturating_add(1378))
            }
            _ => {
                let from = input.number() % layout.wire_len;
                from..layout.wire_len.min(from.saturating_add(input.number()))
            }
        };
        let range = range.start..range.end.min(range.start.saturating_add(60_000));
        let mut payload = part(&layout, &preamble, range.clone());
        let flags = input.u8();
        if flags & 8 != 0 && !payload.is_empty() {
            let at = input.number() as usize % payload.len();
            payload[at] ^= input.u8() | 1;
        }
        let incoming = if flags & 16 == 0 { layout.wire_len } else { input.number() };
        let data = Data {
            header,
            sequence: range.start,
            record_size,
            segment_size: 1378,
            message_len: layout.wire_len,
            incoming: incoming.min(layout.wire_len),
            tag: 0,
            cutoffs: u16::from(odd),
            retransmit: flags & 1 != 0,
            explicit: true,
            pinned: flags & 2 != 0,
            bundle: false,
            tso_offset: layout.record_at(range.start) & 0xff_ffff,
        };
        let mut packet = vec![0; DATA_LEN];
        data.emit((&mut packet[..]).try_into().unwrap());
        packet.extend_from_slice(&payload);
        if flags & 32 != 0 {
            // Any header at all, and the tag is still right.
            let at = usize::from(input.u8()) % DATA_LEN;
            packet[at] = input.u8();
        }
        self.header.write_data_tag(&mut packet);
        self.give(packet);
    }

    /// A bundle of the peer's, mostly a right one.
    fn bundle(&mut self, input: &mut Input<'_>) {
        let mut header = self.header(input);
        let mut entries = Vec::new();
        for index in 0..=input.u8() % 12 {
            let message_id = if index == 0 { header.message_id } else { self.message_id(input) };
            let kind = match input.u8() {
                0..=249 => Kind::Application,
                250..=252 => Kind::Error,
                _ => Kind::Post,
            };
            let app_len = (input.number() % 1200) as u16;
            entries.push(BundleEntry { message_id, kind, app_len, response_limit: 0 });
        }
        let odd = input.u8();
        let head = BundleHead {
            count: if odd > 250 { input.u16() } else { entries.len() as u16 },
            highest_peer_epoch: if odd & 1 == 0 { 3 } else { 0 },
            oldest_epoch: if odd & 2 == 0 { 3 } else { u32::from(header.epoch) },
            ack_floor: if odd > 220 { self.message_id(input) } else { self.params[1].first_id },
            ack_bitmap: if odd < 20 { input.u64() } else { 0 },
        };
        if odd & 4 == 0 {
            header.epoch = 3;
        }
        let mut payload = bundle(&head, &entries);
        if odd & 0x38 == 0 {
            let at = input.number() as usize % payload.len();
            payload[at] ^= input.u8() | 1;
        }
        let data = Data::of_bundle(header, payload.len() as u16, 0);
        let mut packet = vec![0; DATA_LEN];
        data.emit((&mut packet[..]).try_into().unwrap());
        packet.extend_from_slice(&payload);
        if odd & 0x48 == 0x40 {
            packet.truncate(DATA_LEN + input.number() as usize % payload.len());
        }
        self.header.write_data_tag(&mut packet);
        self.give(packet);
    }

    fn control(&mut self, input: &mut Input<'_>) {
        let header = self.header(input);
        let header =
            Header { message_id: if input.u8() > 200 { 0 } else { header.message_id }, ..header };
        let body = match input.u8() % 14 {
            0 | 1 => ControlBody::Grant { offset: input.number(), priority: input.u8() },
            2..=4 => ControlBody::Resend {
                offset: input.number(),
                length: input.number(),
                priority: input.u8(),
                pinned: input.u8() & 1 != 0,
            },
            5 => ControlBody::Unknown(match input.u8() & 1 {
                0 => UnknownCode::NeverAccepted,
                _ => UnknownCode::Forgotten,
            }),
            6 => ControlBody::Busy,
            7 => ControlBody::NeedAck,
            8 | 9 => {
                let mut ranges = AckRanges::new(self.message_id(input) & !1);
                for _ in 0..input.u8() % 4 {
                    let (first, last) = (self.message_id(input) & !1, self.message_id(input) & !1);
                    let _ = ranges.push(first, last);
                }
                ControlBody::Ack(ranges)
            }
            10 => ControlBody::Cancel(CancelCode::Request),
            11 => ControlBody::Cancel(CancelCode::Confirmed),
            12 => ControlBody::Update { epoch: 3 + input.number() % 6 },
            _ => ControlBody::Cutoffs {
                cutoffs: std::array::from_fn(|_| input.number()),
                version: input.u16(),
                unscheduled: input.number(),
            },
        };
        self.control_number = match input.u8() {
            250.. => input.u64() & ((1 << 48) - 1),
            _ => self.control_number + 1,
        };
        let mut packet = vec![0; MAX_CONTROL_LEN];
        let len = Control { header, body, number: self.control_number }.emit(&mut packet);
        packet.truncate(len);
        self.header.write_control_tag(&mut packet);
        self.give(packet);
    }

    /// Bytes as they are, from anywhere.
    fn noise(&mut self, input: &mut Input<'_>) {
        let len = usize::from(input.u8());
        let packet = input.take(len);
        self.give_from(stranger(input), packet);
    }

    fn time(&mut self, input: &mut Input<'_>) {
        self.now = self.now + Duration::from_nanos(1 << (input.u8() % 35));
        self.endpoint.handle_timeout(self.now);
    }

    fn call(&mut self, input: &mut Input<'_>) {
        let body = vec![7; input.number().min(200_000) as usize];
        let deadline = self.now + Duration::from_nanos(1 << (input.u8() % 40));
        let body = Bytes::from(body);
        let started = match (input.u8(), self.connecting) {
            (0..=9, _) => {
                let _ = self.endpoint.send_post(self.now, self.session, body);
                return;
            }
            (200.., Some(id)) => self.endpoint.start_early_call(id, body, deadline, 0),
            _ => self.endpoint.start_call(self.session, body, deadline, 0),
        };
        self.calls.extend(started);
    }

    fn answer(&mut self, input: &mut Input<'_>) {
        let Some(rpc) = self.requests.pop_front() else { return };
        match input.u8() {
            0..=40 => self.requests.push_back(rpc),
            41..=60 => {
                self.endpoint.refuse(rpc, 1, "no");
            }
            _ => {
                let body = vec![9; input.number().min(200_000) as usize];
                self.endpoint.reply(rpc, Bytes::from(body));
            }
        }
    }

    fn manage(&mut self, input: &mut Input<'_>) {
        match input.u8() {
            0..=99 => {
                if let Some(rpc) = self.calls.pop() {
                    self.endpoint.cancel(self.now, rpc);
                }
            }
            100..=139 => {
                self.endpoint.update_keys(self.session);
            }
            140..=149 => {
                self.endpoint.request_update(self.now, self.session);
            }
            150..=174 => self.endpoint.receive_overrun(),
            175..=199 => {
                self.endpoint.set_segment_limit(self.session, usize::from(input.u16()));
            }
            200..=229 => self.endpoint.set_room(self.session, 100 + usize::from(input.u16())),
            230..=244 => self.endpoint.close(self.now, self.session),
            _ => {
                let deadline = self.now + Duration::from_secs(5);
                if let Ok(id) = self.endpoint.connect(self.now, path(), 1400, deadline) {
                    self.endpoint.send_first_flight(self.now, id, &[1; 300], Some(&[2; 30]));
                    self.install_early(id);
                    self.connecting = Some(id);
                }
            }
        }
    }

    /// Early data works in a handshake, under the secrets of the session.
    fn install_early(&mut self, id: SessionId) {
        let [client_secret, server_secret] = SECRETS.each_ref().map(|secret| Secret::new(secret));
        let early = EarlyData {
            suite: &Plain,
            client_secret,
            server_secret,
            peer: self.params.into_iter().find(|params| params.first_id & 2 == 2),
            max_early: 3000,
            alone: false,
        };
        self.endpoint.install_early(self.now, id, early);
    }

    /// A packet of a handshake: of a stranger's, or of the answer to the endpoint's own.
    fn flight(&mut self, input: &mut Input<'_>) {
        let token = input.u8();
        let number = u64::from(input.u8() % 5);
        let mut stream = Vec::new();
        let role = if number % 2 == 0 { 0 } else { 1 };
        if number < 2 && input.u8() < 230 {
            // Of the role that sends this flight, whichever the session's ends have.
            let params = self.params.iter().find(|params| params.first_id >> 1 & 1 == role);
            let odd = input.u8();
            let block = |params: &Params| {
                let offer = (odd & 1 == 0).then_some(&[8; 40][..]);
                Block { params: *params, offer, answer: (odd & 2 == 0).then_some([9; 32]) }.emit(0)
            };
            stream = params.map(block).unwrap_or_default();
        }
        stream.resize(stream.len() + input.number().min(5000) as usize, 3);
        let (from, to) = match input.u8() {
            0..=149 => (0, stream.len()),
            _ => {
                let from = input.number() as usize % (stream.len() + 1);
                (from, stream.len().min(from + input.number() as usize))
            }
        };
        let len = (stream.len() as u32).max(1);
        let data = Data {
            header: Header {
                src_port: THEIR_PORT,
                dst_port: OUR_PORT,
                epoch: 0,
                message_id: number,
            },
            sequence: from as u32,
            record_size: 0,
            segment_size: 0,
            message_len: if input.u8() > 240 { input.u32().max(1) } else { len },
            incoming: 0,
            tag: if token > 127 { self.token } else { u64::from(token % 8) },
            cutoffs: 0,
            retransmit: false,
            explicit: true,
            pinned: false,
            bundle: false,
            tso_offset: 0,
        };
        let mut packet = vec![0; DATA_LEN];
        data.emit((&mut packet[..]).try_into().unwrap());
        packet.extend_from_slice(&stream[from..to]);
        self.give(packet);
    }

    fn replay(&mut self, input: &mut Input<'_>) {
        let at = usize::from(input.u8());
        if let Some(packet) = self.seen.get(at % self.seen.len().max(1)).cloned() {
            self.give(packet);
        }
    }

    /// What the network says about packets of ours, or somebody in its name.
    fn rumour(&mut self, input: &mut Input<'_>) {
        let choice = input.u8();
        if choice >= 128 {
            return self.retry(input, choice);
        }
        let header = Header { epoch: 0, ..self.header(input) };
        let body = ControlBody::Unknown(UnknownCode::NoSession);
        let mut packet = vec![0; MAX_CONTROL_LEN];
        let len = Control { header, body, number: 0 }.emit(&mut packet);
        packet.truncate(len);
        if choice & 1 == 0 {
            return self.give(packet);
        }
        let at = usize::from(input.u8());
        if let Some(quoted) = self.seen.get(at % self.seen.len().max(1)) {
            let refused = input.u8() & 1 == 0;
            self.endpoint.handle_unreachable(self.now, peer_address(), refused, quoted);
        }
    }

    /// A RETRY, mostly to the endpoint's latest flight.
    fn retry(&mut self, input: &mut Input<'_>, choice: u8) {
        let retry = Retry {
            src_port: THEIR_PORT,
            dst_port: OUR_PORT,
            new_token: u64::from(input.u8() % 8),
            token: if choice & 7 != 0 { self.token } else { input.u64() },
        };
        let mut packet = vec![0; RETRY_LEN];
        retry.emit((&mut packet[..]).try_into().unwrap());
        self.give(packet);
    }

    /// Events and packets out, all of them.
    fn drain(&mut self, input: &mut Input<'_>) {
        let mut frame = [0; 66_000];
        for _ in 0..100_000 {
            while let Some(event) = self.endpoint.poll_event() {
                self.event(event, input);
            }
            let Some(sent) = self.endpoint.poll_transmit(self.now, &mut frame) else {
                return self.check();
            };
            let packet = frame[..sent.len].to_vec();
            match Data::parse(&packet) {
                Ok(data) => {
                    let end = data.sequence as usize + packet.len() - DATA_LEN;
                    assert!(end <= data.message_len as usize && end <= data.incoming as usize);
                    if data.header.epoch == 0 {
                        self.token = data.tag;
                    }
                }
                Err(_) => match Retry::parse(&packet) {
                    // Its client knows the token from now on.
                    Ok(retry) => self.token = retry.new_token,
                    Err(_) => {
                        assert!(Control::parse(&packet).is_ok(), "sent nonsense: {packet:?}");
                    }
                },
            }
            self.remember(packet);
        }
        panic!("no end of packets");
    }

    fn event(&mut self, event: Event, input: &mut Input<'_>) {
        match event {
            Event::Request { rpc, .. } => self.requests.push_back(rpc),
            Event::Flight { session, number, offer, .. } => {
                self.handshakes.push(session);
                let choice = input.u8();
                if offer.is_some() && choice & 1 == 0 {
                    self.install_early(session);
                }
                if choice > 240 {
                    return self.endpoint.fail_handshake(self.now, session, Some(&[0; 7]));
                }
                if choice > 230 {
                    return self.endpoint.fail_handshake(self.now, session, None);
                }
                if number < 2 || choice > 200 {
                    let flight = vec![5; usize::from(choice) * 40];
                    self.endpoint.send_flight(self.now, session, &flight);
                }
                if number > 0 && choice < 220 {
                    let [client, server] = SECRETS.each_ref().map(|secret| Secret::new(secret));
                    self.endpoint.install_keys(self.now, session, &Plain, client, server);
                }
            }
            _ => {}
        }
    }

    fn check(&self) {
        let limits = limits();
        assert!(self.endpoint.session_count() <= limits.max_sessions);
        assert!(self.endpoint.incoming_bytes() <= limits.max_incoming_bytes_total);
        assert!(self.endpoint.promised_bytes() <= 2 * limits.max_incoming_bytes_total);
        assert!(!self.endpoint.wants_transmit());
    }

    /// Nobody says anything any more: all ends well, and nothing is left.
    fn everybody_leaves(&mut self) {
        let end = self.now + Duration::from_secs(600);
        let mut nothing = Input(&[]);
        for _ in 0..200_000 {
            self.drain(&mut nothing);
            let Some(next) = self.endpoint.poll_timeout().filter(|next| *next <= end) else {
                assert_eq!(self.endpoint.poll_timeout(), None, "a timer that goes on");
                assert_eq!(self.endpoint.session_count(), 0, "a session that does not end");
                assert_eq!(self.endpoint.incoming_bytes(), 0, "charge left over");
                assert_eq!(self.endpoint.promised_bytes(), 0, "promises left over");
                return;
            };
            self.now = self.now.max(next);
            self.endpoint.handle_timeout(self.now);
        }
        panic!("a timer that never rests");
    }
}

fn path() -> Path {
    Path {
        remote: peer_address(),
        remote_port: THEIR_PORT,
        local_port: OUR_PORT,
        local: Some(OUR_ADDRESS),
    }
}

fn stranger(input: &mut Input<'_>) -> SocketAddr {
    match input.u8() {
        0..=199 => peer_address(),
        last => SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 9, last)), 0),
    }
}
