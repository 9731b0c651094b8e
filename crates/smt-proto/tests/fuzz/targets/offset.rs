//! Any DATA header and any TSO segment that a NIC cuts: the payload goes where it was cut from, and
//! never beyond its message (spec 4.3).

use smt_proto::wire::{
    Data, Header, IpVersion, MAX_RECORD_SIZE, MAX_TSO_OFFSET, MIN_RECORD_SIZE, RECORD_OVERHEAD,
    payload_offset,
};

use super::input::Input;

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut data = data(&mut input);
    let payload = input.number() as usize;
    let ip = match input.u8() & 3 {
        0 => IpVersion::V6,
        2 => IpVersion::V4Unseen,
        _ => IpVersion::V4 { id: input.u16() },
    };
    let offset = payload_offset(&data, payload, ip);
    if let Some(offset) = offset {
        assert!(u64::from(offset) + payload as u64 <= u64::from(data.message_len));
    }
    if data.explicit {
        let fits = u64::from(data.sequence) + payload as u64 <= u64::from(data.message_len);
        assert_eq!(offset, fits.then_some(data.sequence));
    }
    data.explicit = false;
    nic(&mut input, data);
}

fn data(input: &mut Input<'_>) -> Data {
    let message_len = input.number().max(1);
    Data {
        header: Header { src_port: 1, dst_port: 2, epoch: 3, message_id: 4 },
        sequence: input.number(),
        record_size: input.u16().clamp(MIN_RECORD_SIZE, MAX_RECORD_SIZE),
        segment_size: input.u16(),
        message_len,
        incoming: message_len,
        tag: 0,
        cutoffs: 0,
        retransmit: false,
        explicit: input.u8() & 1 != 0,
        pinned: false,
        bundle: false,
        tso_offset: input.number() & MAX_TSO_OFFSET,
    }
}

/// A segment of the message, cut as a NIC would: each packet's place is found again.
fn nic(input: &mut Input<'_>, data: Data) {
    let size = u32::from(data.segment_size.max(1));
    let base =
        u64::from(data.tso_offset) * u64::from(u32::from(data.record_size) + RECORD_OVERHEAD);
    let Some(room) = u64::from(data.message_len).checked_sub(base) else { return };
    let Ok(base) = u32::try_from(base) else { return };
    let len = input.number().min(65_535).min(u32::try_from(room).unwrap_or(u32::MAX));
    let data = Data { segment_size: size as u16, ..data };
    let counts = input.u8() & 1 != 0;
    for index in 0..len.div_ceil(size).min(100) {
        let offset = base + index * size;
        let payload = size.min(len - index * size) as usize;
        let sequence = if counts { offset } else { base };
        let data = Data { sequence, ..data };
        let v4 = IpVersion::V4 { id: index as u16 };
        assert_eq!(payload_offset(&data, payload, v4), Some(offset), "{data:?}");
        // An IPv6 segment is two packets, the second shorter; one short packet is a message's end.
        let last = offset + payload as u32 == data.message_len;
        let cut = match index {
            0 => payload == size as usize || last,
            1 => payload < size as usize,
            _ => false,
        };
        if cut && (len <= 2 * size || counts) {
            assert_eq!(payload_offset(&data, payload, IpVersion::V6), Some(offset), "{data:?}");
        }
    }
}
