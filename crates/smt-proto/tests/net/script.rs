//! One end played by hand: authentic packets made one by one, and the other end's packets read back.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use smt_proto::keys::{EpochKeys, HeaderKey, Secret};
use smt_proto::record::{self, Layout};
use smt_proto::wire::{
    BUNDLE_ENTRY_LEN, BUNDLE_HEAD_LEN, BundleEntry, BundleHead, Control, ControlBody, DATA_LEN,
    Data, Header, Kind, MAX_CONTROL_LEN, PREAMBLE_LEN, Preamble, epoch_to_wire,
};
use smt_proto::{Config, PacketMeta, Time};

use super::{Net, PORTS, address};

/// A packet that the core under test has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    Data { id: u64, offset: u32, len: usize, retransmit: bool, pinned: bool },
    Control { id: u64, body: ControlBody },
}

/// A core under test and a peer played by hand.
pub struct Script {
    pub net: Net,
    /// The host whose core is under test.
    pub tested: usize,
    secret: Secret,
    header: HeaderKey,
    keys: EpochKeys,
    control_number: u64,
    /// Whether the acks of forged preambles are told.
    pub ack_floor: u64,
    /// What preambles say: the highest epoch opened, the oldest epoch sent under.
    pub opened: u32,
    pub oldest: u32,
}

pub const RECORD: u16 = 1000;

impl Script {
    /// The core of `tested` under test, with `config`; what it sends at first is dropped.
    pub fn new(tested: usize, config: Config) -> Script {
        let mut net = Net::new(1, config);
        net.hosts[tested].echo = false;
        let secret = Secret::new(&net.secrets[1 - tested]);
        let header = HeaderKey::derive(net.suite, &secret);
        let keys = EpochKeys::new(net.suite, secret.clone(), 3);
        net.take_in_flight();
        let ack_floor = net.params[tested].first_id;
        let mut script = Script {
            net,
            tested,
            secret,
            header,
            keys,
            control_number: 0,
            ack_floor,
            opened: 0,
            oldest: 3,
        };
        script.ack_floor = script.my_id(0);
        script
    }

    /// Keys of `epoch` in the direction of the played end.
    pub fn enter_epoch(&mut self, epoch: u32) {
        self.keys = EpochKeys::new(self.net.suite, self.secret.clone(), 3);
        while self.keys.epoch() < epoch {
            self.keys = self.keys.next(self.net.suite);
        }
    }

    /// Request ID of the RPC `number` that the played end starts.
    pub fn my_id(&self, number: u64) -> u64 {
        self.net.params[1 - self.tested].first_id + 4 * number
    }

    /// Request ID of the RPC `number` that the core under test starts.
    pub fn its_id(&self, number: u64) -> u64 {
        self.net.params[self.tested].first_id + 4 * number
    }

    pub fn header(&self, message_id: u64) -> Header {
        Header {
            src_port: PORTS[1 - self.tested],
            dst_port: PORTS[self.tested],
            epoch: epoch_to_wire(self.keys.epoch()),
            message_id,
        }
    }

    /// A control packet under the next control number.
    pub fn control(&mut self, id: u64, body: ControlBody) -> Vec<u8> {
        self.control_number += 1;
        let control = Control { header: self.header(id), body, number: self.control_number };
        let mut packet = vec![0; MAX_CONTROL_LEN];
        let len = control.emit(&mut packet);
        packet.truncate(len);
        self.header.write_control_tag(&mut packet);
        packet
    }

    /// The header of an explicit DATA packet at `offset` of a message of `layout`.
    pub fn data_header(&self, id: u64, layout: &Layout, offset: u32) -> Data {
        Data {
            header: self.header(id),
            sequence: offset,
            record_size: layout.record_size,
            segment_size: layout.record_size + 22,
            message_len: layout.wire_len,
            incoming: layout.wire_len,
            tag: 0,
            cutoffs: 0,
            retransmit: false,
            explicit: true,
            pinned: false,
            bundle: false,
            tso_offset: layout.record_at(offset),
        }
    }

    /// A DATA packet with its right tag.
    pub fn data(&self, data: Data, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; DATA_LEN];
        data.emit((&mut packet[..]).try_into().unwrap());
        packet.extend_from_slice(payload);
        self.header.write_data_tag(&mut packet);
        packet
    }

    /// A right preamble for a message of `layout` with `app_len` bytes.
    pub fn preamble(&self, layout: &Layout, app_len: u32) -> Preamble {
        Preamble {
            kind: Kind::Application,
            record_size: layout.record_size,
            app_len,
            wire_len: layout.wire_len,
            highest_peer_epoch: self.opened,
            oldest_epoch: self.oldest,
            response_limit: 0,
            ack_floor: self.ack_floor,
            ack_bitmap: 0,
        }
    }

    /// The wire stream of a message with this preamble, body and padding.
    pub fn seal(&self, id: u64, layout: &Layout, preamble: Preamble, rest: &[u8]) -> Vec<u8> {
        let mut plain = vec![0; PREAMBLE_LEN];
        preamble.emit((&mut plain[..]).try_into().unwrap());
        plain.extend_from_slice(rest);
        plain.resize(layout.plain_len as usize, 0);
        let mut stream = Vec::new();
        for index in 0..layout.records {
            let range = layout.plain_range(index);
            let mut wire = vec![0; 5];
            wire.extend_from_slice(&plain[range.start as usize..range.end as usize]);
            wire.resize(wire.len() + 17, 0);
            let number = record::sequence_number(id, 48, index).unwrap();
            record::seal(&self.keys, number, &mut wire);
            stream.extend_from_slice(&wire);
        }
        stream
    }

    /// The packets of a right message, one record each.
    pub fn message(&self, id: u64, body: &[u8]) -> Vec<Vec<u8>> {
        let layout = Layout::from_plain(RECORD, (PREAMBLE_LEN + body.len()) as u64, 48).unwrap();
        let stream = self.seal(id, &layout, self.preamble(&layout, body.len() as u32), body);
        (0..layout.records)
            .map(|index| {
                let wire = layout.wire_range(index);
                let data = self.data_header(id, &layout, wire.start);
                self.data(data, &stream[wire.start as usize..wire.end as usize])
            })
            .collect()
    }

    /// An entry of a bundle for an application message.
    pub fn entry(&self, message_id: u64, body: &[u8]) -> BundleEntry {
        let app_len = body.len() as u16;
        BundleEntry { message_id, kind: Kind::Application, app_len, response_limit: 0 }
    }

    /// The common part of a right bundle.
    pub fn bundle_head(&self, count: u16) -> BundleHead {
        BundleHead {
            count,
            highest_peer_epoch: self.opened,
            oldest_epoch: self.oldest,
            ack_floor: self.ack_floor,
            ack_bitmap: 0,
        }
    }

    /// The plaintext of a bundle of application messages.
    pub fn bundle_text(&self, messages: &[(BundleEntry, &[u8])]) -> Vec<u8> {
        let mut plain = vec![0; BUNDLE_HEAD_LEN];
        self.bundle_head(messages.len() as u16).emit(plain.first_chunk_mut().unwrap());
        for (entry, body) in messages {
            let mut place = [0; BUNDLE_ENTRY_LEN];
            entry.emit(&mut place);
            plain.extend(place);
            plain.extend(*body);
        }
        plain.resize(plain.len().max(64), 0);
        plain
    }

    /// The packet of a bundle with this plaintext, whose header names message `id`.
    pub fn bundle_of(&self, id: u64, plain: &[u8]) -> Vec<u8> {
        let mut wire = [&[0; 5], plain, &[0; 17]].concat();
        let number = record::bundle_sequence_number(id, 48).unwrap();
        record::seal(&self.keys, number, &mut wire);
        let data = Data::of_bundle(self.header(id), wire.len() as u16, 0);
        self.data(data, &wire)
    }

    /// The packet of a right bundle of application messages.
    pub fn bundle(&self, messages: &[(u64, &[u8])]) -> Vec<u8> {
        let entries: Vec<_> =
            messages.iter().map(|(id, body)| (self.entry(*id, body), *body)).collect();
        self.bundle_of(messages[0].0, &self.bundle_text(&entries))
    }

    /// Gives the core a packet and returns what it sends at once.
    pub fn give(&mut self, packet: &[u8]) -> Vec<Sent> {
        let meta = PacketMeta {
            remote: address(1 - self.tested),
            local: address(self.tested).ip(),
            ip_id: None,
        };
        let IpAddr::V4(_) = meta.local else { unreachable!() };
        let mut bytes = packet.to_vec();
        self.net.hosts[self.tested].endpoint.handle_packet(self.net.now, &meta, &mut bytes);
        let most = self.net.hosts[self.tested].endpoint.incoming_bytes();
        self.net.most_incoming = self.net.most_incoming.max(most);
        self.net.pump(self.tested);
        self.taken()
    }

    /// Gives the core these records of a message whose wire stream is `stream`, a packet each.
    pub fn give_records(&mut self, id: u64, layout: &Layout, stream: &[u8], records: Range<u32>) {
        for record in records {
            let wire = layout.wire_range(record);
            let data = self.data_header(id, layout, wire.start);
            let packet = self.data(data, &stream[wire.start as usize..wire.end as usize]);
            self.give(&packet);
        }
    }

    pub fn give_control(&mut self, id: u64, body: ControlBody) -> Vec<Sent> {
        let packet = self.control(id, body);
        self.give(&packet)
    }

    /// Lets time pass; returns what the core sends and when, in microseconds from now.
    pub fn wait(&mut self, span: Duration) -> Vec<(u64, Sent)> {
        let (start, end) = (self.net.now, self.net.now + span);
        let mut sent = Vec::new();
        while let Some(next) = self.next_timer().filter(|next| *next <= end) {
            assert!(next >= self.net.now || sent.len() < 100_000, "a timer that never rests");
            self.net.now = self.net.now.max(next);
            self.net.hosts[self.tested].endpoint.handle_timeout(self.net.now);
            self.net.pump(self.tested);
            let at = self.net.now.since(start).as_micros() as u64;
            sent.extend(self.taken().into_iter().map(|packet| (at, packet)));
        }
        self.net.now = end;
        sent
    }

    pub fn next_timer(&self) -> Option<Time> {
        self.net.hosts[self.tested].endpoint.poll_timeout()
    }

    /// What the core has sent since this was asked last.
    pub fn taken(&mut self) -> Vec<Sent> {
        let tested = self.tested;
        let packets = self.net.take_in_flight().into_iter();
        packets.filter(|packet| packet.to != tested).map(|packet| parse(&packet.bytes)).collect()
    }
}

pub fn parse(packet: &[u8]) -> Sent {
    match Data::parse(packet) {
        Ok(data) => Sent::Data {
            id: data.header.message_id,
            offset: data.sequence,
            len: packet.len() - DATA_LEN,
            retransmit: data.retransmit,
            pinned: data.pinned,
        },
        Err(_) => {
            let (control, _) = Control::parse(packet).unwrap();
            Sent::Control { id: control.header.message_id, body: control.body }
        }
    }
}
