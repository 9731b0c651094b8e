//! Packets as honest hosts would send them, for tests.

use smt_proto::wire::{Control, ControlBody, DATA_LEN, Data, Header};

use super::forge;
use crate::packet::Packet;
use crate::rng::Rng;

/// Ports of the client and the server.
pub(super) const PORTS: (u16, u16) = (40_000, 4433);

fn from_client(bytes: Vec<u8>) -> Packet {
    Packet { bytes, src: 0, dst: 1, priority: 3, ..Packet::default() }
}

/// A packet of a message of 5000 bytes, with so many of them from an offset on.
pub(super) fn data(message_id: u64, sequence: u32, payload: usize) -> Packet {
    let (src_port, dst_port) = PORTS;
    let data = Data {
        header: Header { src_port, dst_port, epoch: 3, message_id },
        sequence,
        record_size: 978,
        segment_size: 1000,
        message_len: 5000,
        incoming: 5000,
        tag: 0x1234_5678_9abc_def0 ^ message_id ^ u64::from(sequence),
        cutoffs: 0,
        retransmit: false,
        explicit: true,
        pinned: false,
        bundle: false,
        tso_offset: 0,
    };
    let noise = forge::noise(payload as u64, &mut Rng::new(data.tag));
    let packet = from_client(forge::data_packet(&data, &noise));
    assert_eq!(packet.bytes.len(), DATA_LEN + payload);
    packet
}

/// A GRANT with this control number.
pub(super) fn grant(number: u64) -> Packet {
    let (src_port, dst_port) = PORTS;
    let header = Header { src_port, dst_port, epoch: 3, message_id: 5 };
    let body = ControlBody::Grant { offset: 3000, priority: 2 };
    let control = Control { header, body, number };
    let mut bytes = vec![0; control.wire_len()];
    let len = control.emit(&mut bytes);
    forge::set(&mut bytes, len - 8, &[7; 8]);
    from_client(bytes)
}

/// A packet of a handshake.
pub(super) fn flight(token: u64, number: u64) -> Packet {
    let (src_port, dst_port) = PORTS;
    let header = Header { src_port, dst_port, epoch: 0, message_id: number };
    from_client(forge::flight(header, token, &[number as u8; 500]))
}
