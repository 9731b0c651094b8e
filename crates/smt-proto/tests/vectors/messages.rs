//! Whole messages in their DATA packets, there and back.

use serde::Deserialize;
use smt_proto::keys::{EpochKeys, Secret};
use smt_proto::record::{Layout, RECORD_HEADER_LEN, open, seal, sequence_number};
use smt_proto::wire::{
    DATA_LEN, Data, EARLY_EPOCH, Header, IpVersion, Kind, PREAMBLE_LEN, Preamble, epoch_from_wire,
    epoch_to_wire, payload_offset,
};

use crate::{Hex, header_key, pattern, read, suite};

#[derive(Deserialize)]
struct File {
    messages: Vec<Message>,
    flight: Flight,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    why: String,
    packet: Hex,
}

#[derive(Deserialize)]
struct Message {
    name: String,
    suite: u16,
    first_secret: Hex,
    ip_version: u8,
    id_bits: u8,
    preamble: PreambleFields,
    plain_len: u32,
    packets: Vec<Packet>,
}

#[derive(Deserialize)]
struct Packet {
    ip_id: Option<u16>,
    fields: Fields,
    offset: u32,
    packet: Hex,
}

#[derive(Deserialize)]
struct Flight {
    fields: Fields,
    packet: Hex,
}

#[derive(Deserialize)]
pub(crate) struct Fields {
    src_port: u16,
    dst_port: u16,
    pub(crate) epoch: u32,
    message_id: u64,
    record_size: u16,
    segment_size: u16,
    message_len: u32,
    incoming: u32,
    sequence: u32,
    cutoffs: u16,
    retransmit: bool,
    explicit: bool,
    pinned: bool,
    #[serde(default)]
    bundle: bool,
    tso_offset: u32,
    #[serde(default)]
    tag: u64,
}

impl Fields {
    pub(crate) fn data(&self) -> Data {
        Data {
            header: Header {
                src_port: self.src_port,
                dst_port: self.dst_port,
                epoch: epoch_to_wire(self.epoch),
                message_id: self.message_id,
            },
            sequence: self.sequence,
            record_size: self.record_size,
            segment_size: self.segment_size,
            message_len: self.message_len,
            incoming: self.incoming,
            tag: self.tag,
            cutoffs: self.cutoffs,
            retransmit: self.retransmit,
            explicit: self.explicit,
            pinned: self.pinned,
            bundle: self.bundle,
            tso_offset: self.tso_offset,
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct PreambleFields {
    kind: String,
    record_size: u16,
    app_len: u32,
    wire_len: u32,
    highest_peer_epoch: u32,
    oldest_epoch: u32,
    response_limit: u32,
    ack_floor: u64,
    ack_bitmap: u64,
}

impl PreambleFields {
    pub(crate) fn preamble(&self) -> Preamble {
        Preamble {
            kind: kind(&self.kind),
            record_size: self.record_size,
            app_len: self.app_len,
            wire_len: self.wire_len,
            highest_peer_epoch: self.highest_peer_epoch,
            oldest_epoch: self.oldest_epoch,
            response_limit: self.response_limit,
            ack_floor: self.ack_floor,
            ack_bitmap: self.ack_bitmap,
        }
    }
}

pub(crate) fn kind(name: &str) -> Kind {
    match name {
        "application" => Kind::Application,
        "post" => Kind::Post,
        "error" => Kind::Error,
        other => panic!("unknown kind {other}"),
    }
}

impl Message {
    /// The keys of the epoch the message is in.
    fn keys(&self) -> EpochKeys {
        let suite = suite(self.suite);
        let epoch = self.packets[0].fields.epoch;
        if epoch == EARLY_EPOCH {
            return EpochKeys::new(suite, Secret::new(&self.first_secret), epoch);
        }
        let first = EpochKeys::new(suite, Secret::new(&self.first_secret), 3);
        (3..epoch).fold(first, |keys, _| keys.next(suite))
    }

    fn plaintext(&self) -> Vec<u8> {
        let preamble = self.preamble.preamble();
        let mut head = [0; PREAMBLE_LEN];
        preamble.emit(&mut head);
        let mut plain = head.to_vec();
        plain.extend(pattern(preamble.app_len as usize));
        plain.resize(self.plain_len as usize, 0);
        plain
    }

    fn sequence_number(&self, record: u32) -> u64 {
        let id = self.packets[0].fields.message_id;
        sequence_number(id, self.id_bits, record).expect("in bounds")
    }

    fn ip(&self, packet: &Packet) -> IpVersion {
        match (self.ip_version, packet.ip_id) {
            (4, Some(id)) => IpVersion::V4 { id },
            (6, None) => IpVersion::V6,
            other => panic!("{other:?}"),
        }
    }
}

fn span(range: std::ops::Range<u32>) -> std::ops::Range<usize> {
    range.start as usize..range.end as usize
}

#[test]
fn messages_are_sent_as_computed() {
    for message in read::<File>("data").messages {
        let plain = message.plaintext();
        let record_size = message.preamble.record_size;
        let layout =
            Layout::from_plain(record_size, plain.len() as u64, message.id_bits).expect("small");
        let keys = message.keys();
        let mut wire = vec![0; layout.wire_len as usize];
        for record in 0..layout.records {
            let place = &mut wire[span(layout.wire_range(record))];
            let text = &plain[span(layout.plain_range(record))];
            place[RECORD_HEADER_LEN..][..text.len()].copy_from_slice(text);
            seal(&keys, message.sequence_number(record), place);
        }

        let header_key = header_key(message.suite, &message.first_secret);
        for packet in &message.packets {
            let payload_len = packet.packet.len() - DATA_LEN;
            let mut head = [0xff; DATA_LEN];
            packet.fields.data().emit(&mut head);
            let payload = &wire[packet.offset as usize..][..payload_len];
            let mut bytes = [&head, payload].concat();
            header_key.write_data_tag(&mut bytes);
            assert!(bytes == packet.packet.0, "{}, offset {}", message.name, packet.offset);
        }
    }
}

#[test]
fn messages_arrive_as_computed() {
    for message in read::<File>("data").messages {
        let header_key = header_key(message.suite, &message.first_secret);
        let keys = message.keys();
        let first = Data::parse(&message.packets[0].packet).expect(&message.name);
        let layout = Layout::from_wire(first.record_size, first.message_len, message.id_bits)
            .expect(&message.name);
        let mut wire = vec![0; layout.wire_len as usize];
        for packet in &message.packets {
            assert!(header_key.check_data(&packet.packet), "{}", message.name);
            let data = Data::parse(&packet.packet).expect(&message.name);
            match u32::from(data.header.epoch) {
                EARLY_EPOCH => assert_eq!(keys.epoch(), EARLY_EPOCH),
                _ => {
                    let epoch = epoch_from_wire(data.header.epoch, keys.epoch());
                    assert_eq!(epoch, Some(keys.epoch()));
                }
            }
            assert_eq!(Data { tag: 0, ..data }, packet.fields.data(), "{}", message.name);

            let payload = &packet.packet[DATA_LEN..];
            let offset = payload_offset(&data, payload.len(), message.ip(packet));
            assert_eq!(offset, Some(packet.offset), "{}", message.name);
            wire[packet.offset as usize..][..payload.len()].copy_from_slice(payload);
        }

        let mut plain = vec![0; layout.plain_len as usize + 1];
        for record in (0..layout.records).rev() {
            let place = span(layout.plain_range(record));
            let sealed = &wire[span(layout.wire_range(record))];
            let out = &mut plain[place.start..place.end + 1];
            let opened = open(&keys, message.sequence_number(record), sealed, out);
            assert_eq!(opened, Ok(()), "{}", message.name);
        }
        plain.pop();
        assert!(plain == message.plaintext(), "{}", message.name);
        let preamble = Preamble::parse(&plain).expect(&message.name);
        assert!(layout.agrees(&preamble), "{}", message.name);
    }
}

#[test]
fn flights() {
    let flight = read::<File>("data").flight;
    let mut head = [0xff; DATA_LEN];
    flight.fields.data().emit(&mut head);
    assert!([&head[..], &pattern(572)].concat() == flight.packet.0);
    assert_eq!(Data::parse(&flight.packet), Ok(flight.fields.data()));
}

#[test]
fn packets_to_refuse() {
    let refused = read::<File>("data").refused;
    assert!(!refused.is_empty());
    for Refused { why, packet } in refused {
        assert!(Data::parse(&packet).is_err(), "{why}");
    }
}
