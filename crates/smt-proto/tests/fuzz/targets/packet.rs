//! Any packet: parsing never panics, and what parses is emitted as it came.

use smt_proto::record::Layout;
use smt_proto::wire::{
    Control, DATA_LEN, Data, Header, IpVersion, MAX_CONTROL_LEN, PacketType, RETRY_LEN, Retry,
    payload_offset, peek,
};

pub fn run(packet: &[u8]) {
    let peeked = peek(packet);
    if let Ok(data) = Data::parse(packet) {
        assert_eq!(peeked, Ok((PacketType::Data, data.header)));
        check_data(packet, &data);
    }
    if let Ok((control, tag)) = Control::parse(packet) {
        assert_eq!(peeked, Ok((control.body.packet_type(), control.header)));
        let mut out = [0; MAX_CONTROL_LEN];
        let len = control.emit(&mut out);
        out[len - 8..len].copy_from_slice(&tag.to_be_bytes());
        assert_eq!(out[..len], without_nic_fields(packet));
    }
    if let Ok(retry) = Retry::parse(packet) {
        let Retry { src_port, dst_port, .. } = retry;
        let header = Header { src_port, dst_port, epoch: 0, message_id: 0 };
        assert_eq!(peeked, Ok((PacketType::Retry, header)));
        let mut out = [0; RETRY_LEN];
        retry.emit(&mut out);
        assert_eq!(out[..], without_nic_fields(packet));
    }
}

fn check_data(packet: &[u8], data: &Data) {
    let mut out = [0; DATA_LEN];
    data.emit(&mut out);
    assert_eq!(out[..], without_nic_fields(&packet[..DATA_LEN]));

    let payload_len = packet.len() - DATA_LEN;
    let v4 = [IpVersion::V4 { id: 0 }, IpVersion::V4 { id: 9 }, IpVersion::V4Unseen];
    for ip in v4.into_iter().chain([IpVersion::V6]) {
        if let Some(offset) = payload_offset(data, payload_len, ip) {
            assert!(offset as usize + payload_len <= data.message_len as usize);
        }
    }
    if let Ok(layout) = Layout::from_wire(data.record_size, data.message_len, 48) {
        let last = layout.records - 1;
        assert_eq!(layout.wire_range(last).end, layout.wire_len);
        assert_eq!(layout.plain_range(last).end, layout.plain_len);
    }
}

/// Flags and checksum belong to the NIC and are not kept.
fn without_nic_fields(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[13] = 0;
    packet[16..18].fill(0);
    packet
}
