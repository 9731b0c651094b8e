//! Messages that leave in segments, cut by all kinds of devices, are what they were.

use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

use bytes::Bytes;

use super::recv::{InMessage, Opener, Taken};
use super::send::{Acks, OutMessage, Scratch, Sealer};
use crate::crypto::{SuiteId, aws_lc};
use crate::keys::{EpochKeys, Secret};
use crate::record::{Layout, record_size_for, tso_record_size_for};
use crate::session::SessionId;
use crate::wire::{DATA_LEN, Data, Header, IpVersion, Kind, RECORD_OVERHEAD, payload_offset};

const ID: u64 = 4096;
const ID_BITS: u8 = 48;
const EPOCH: u32 = 3;

/// What a device makes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Packets whose IPv4 IDs count.
    IpId,
    /// Packets whose `sequence` counts, and perhaps the ID as well.
    Sequence { id: bool },
    /// One long packet.
    Whole,
}

/// A packet: header, what IP says, payload.
type Packet = (Data, IpVersion, Vec<u8>);

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![
        Just(Form::IpId),
        any::<bool>().prop_map(|id| Form::Sequence { id }),
        Just(Form::Whole)
    ]
}

fn keys() -> EpochKeys {
    EpochKeys::new(aws_lc::suite(SuiteId::Aes128GcmSha256), Secret::new(&[5; 32]), EPOCH)
}

/// A message of `body` in records of `record_size` bytes and packets of `packet`.
fn message(body: &[u8], record_size: u16, packet: u32, granted: u32) -> OutMessage {
    let layout = Layout::from_plain(record_size, 40 + body.len() as u64, ID_BITS).unwrap();
    let body = Bytes::copy_from_slice(body);
    let mut message = OutMessage::new(ID, Kind::Application, body, layout, packet, (granted, 5));
    message.freeze(EPOCH, EPOCH, Acks { floor: ID, ..Acks::default() });
    message
}

/// Cuts what left in one piece as a device of `form` does.
fn cut(data: Data, payload: Vec<u8>, form: Form, packets: &mut Vec<Packet>) {
    if form == Form::Whole {
        packets.push((data, IpVersion::V4 { id: 0 }, payload));
        return;
    }
    for (n, part) in (0u16..).zip(payload.chunks(data.segment_size.into())) {
        let (mut data, mut id) = (data, n);
        if let Form::Sequence { id: counts } = form {
            data.sequence += u32::from(n) * u32::from(data.segment_size);
            id = if counts { n } else { 0 };
        }
        packets.push((data, IpVersion::V4 { id }, part.to_vec()));
    }
}

/// All packets of a message, in order, `limits` bounding its segments one after the other; where there is
/// no segment to be had, a packet leaves.
fn packets(message: &mut OutMessage, room: u32, limits: &[u32], form: Form) -> Vec<Packet> {
    let (keys, mut scratch, mut out) = (keys(), Scratch::default(), Vec::new());
    let layout = message.layout();
    for limit in limits.iter().cycle() {
        let segment = message.next_segment(room, *limit, *limit);
        let explicit = segment.is_none();
        let Some(piece) = segment.or_else(|| message.next_piece(room)) else { break };
        assert!(explicit || piece.len <= *limit);
        let mut payload = vec![0; piece.len as usize];
        let sealer = Sealer { keys: &keys, id: ID, id_bits: ID_BITS };
        let place = (SessionId::for_tests(0), sealer);
        message.write(piece, place, &mut scratch, &mut payload);
        let data = Data {
            header: Header { src_port: 1, dst_port: 2, epoch: 3, message_id: ID },
            sequence: piece.offset,
            record_size: layout.record_size,
            segment_size: message.segment() as u16,
            message_len: layout.wire_len,
            incoming: message.granted(),
            tag: 0,
            cutoffs: 0,
            retransmit: piece.retransmit,
            explicit,
            pinned: piece.pinned,
            bundle: false,
            tso_offset: layout.record_at(piece.offset),
        };
        match explicit {
            true => out.push((data, IpVersion::V4 { id: 9 }, payload)),
            false => cut(data, payload, form, &mut out),
        }
        if message.granted() == message.sent() {
            message.grant(message.sent().saturating_add(limit / 2 + 1), 0);
        }
    }
    out
}

fn receive(packets: &[Packet]) -> Option<Vec<u8>> {
    let keys = keys();
    let first = packets.first()?.0;
    let layout = Layout::from_wire(first.record_size, first.message_len, ID_BITS).unwrap();
    let mut message = InMessage::new(layout, EPOCH);
    for (data, ip, payload) in packets {
        let offset = payload_offset(data, payload.len(), *ip).unwrap();
        let opener = Opener { keys: &keys, id: ID, id_bits: ID_BITS };
        let taken = message.take(offset, payload, data.pinned, 1000, opener);
        let new = matches!(taken, Taken::New { failed: 0, .. });
        assert!(new || taken == Taken::Duplicate, "{taken:?} of {data:?}");
    }
    let whole = message.is_complete();
    whole.then(|| message.into_body().unwrap().1.to_vec())
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * i / 7) as u8).collect()
}

/// Lengths of the segments of a message with `len` application bytes, all of it granted, in packets of 1428
/// bytes and records of eleven of them; each at most `most` bytes.
fn segment_lens(len: usize, most: u32) -> Vec<u32> {
    let size = tso_record_size_for(1428).unwrap();
    let mut message = message(&body(len), size, 1428, u32::MAX);
    let mut lens = Vec::new();
    while let Some(piece) = message.next_segment(1428, 65_463, most) {
        lens.push(piece.len);
    }
    assert!(message.layout().wire_len - message.sent() <= 1428, "the rest is a packet");
    lens
}

#[test]
fn segments_of_long_messages_are_short_at_first() {
    const RECORD: u32 = 11 * 1428;
    let most = 64 << 10;
    assert_eq!(segment_lens(4 << 10, most), [4096 + 40 + 22]);
    // A short last record goes with the one before.
    assert_eq!(segment_lens(16 << 10, most), [16_384 + 40 + 44]);
    assert_eq!(segment_lens(32 << 10, most), [RECORD, 32_768 + 40 + 66 - RECORD]);
    assert_eq!(segment_lens(64 << 10, most), [2 * RECORD, 65_536 + 40 + 110 - 2 * RECORD]);
    assert_eq!(segment_lens(60_000, most), [2 * RECORD, 60_000 + 40 + 88 - 2 * RECORD]);
    let long = segment_lens(1 << 20, most);
    assert_eq!(long[..4], [2 * RECORD, 2 * RECORD, 4 * RECORD, 4 * RECORD]);
    // Unless that is more than may wait in the host.
    let paced = segment_lens(64 << 10, 34_000);
    assert_eq!(paced, [2 * RECORD, 2 * RECORD, 65_536 + 40 + 110 - 4 * RECORD]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_message_in_any_records_and_segments_cut_in_any_form_arrives(
        len in 0..120_000usize,
        room in 200..3000u32,
        small_records in any::<bool>(),
        limits in proptest::collection::vec(0..65_000u32, 1..5),
        granted in 0..80_000u32,
        form in form(),
        order in any::<u64>(),
    ) {
        let tso = tso_record_size_for(room as usize).filter(|_| !small_records);
        let (record_size, packet) = match tso {
            Some(size) => (size, room),
            None => {
                let size = record_size_for(room as usize);
                (size, u32::from(size) + RECORD_OVERHEAD)
            }
        };
        let body = self::body(len);
        let mut message = self::message(&body, record_size, packet, granted);
        let mut packets = self::packets(&mut message, room, &limits, form);
        prop_assert!(message.all_sent());
        let mut state = order;
        for at in (1..packets.len()).rev() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            packets.swap(at, (state >> 33) as usize % (at + 1));
        }
        let fits = |(data, _, payload): &Packet| {
            form == Form::Whole && !data.explicit || payload.len() <= packet as usize
        };
        prop_assert!(packets.iter().all(fits));
        prop_assert_eq!(receive(&packets), Some(body));
    }

    #[test]
    fn what_is_lost_of_segments_is_repeated_in_packets_of_one_record_each(
        len in 20_000..100_000usize,
        room in 300..2000u32,
        smaller in 0..300u32,
        from in any::<u32>(),
        size in 1..40_000u32,
    ) {
        let record_size = tso_record_size_for(room as usize).unwrap();
        let body = self::body(len);
        let mut message = self::message(&body, record_size, room, u32::MAX);
        let mut all = packets(&mut message, room, &[60_000], Form::IpId);
        let layout = message.layout();
        let from = from % layout.wire_len;
        all.retain(|(data, ip, payload)| {
            let offset = payload_offset(data, payload.len(), *ip).unwrap();
            offset + payload.len() as u32 <= from || offset >= from.saturating_add(size)
        });
        message.ask_again(0..layout.wire_len, false, 0, 64);
        let again = packets(&mut message, room - smaller, &[60_000], Form::IpId);
        for (data, _, payload) in &again {
            prop_assert!(data.explicit && data.retransmit && payload.len() <= room as usize);
            let last = data.sequence + payload.len() as u32 - 1;
            prop_assert_eq!(layout.record_at(data.sequence), layout.record_at(last));
        }
        all.extend(again);
        prop_assert_eq!(receive(&all), Some(body));
    }
}

#[test]
fn a_segment_is_whole_records_below_the_grant_and_more_than_a_packet() {
    let record_size = tso_record_size_for(1428).unwrap();
    let stride = u32::from(record_size) + RECORD_OVERHEAD;
    assert_eq!(stride, 11 * 1428);
    let mut out = message(&body(120_000), record_size, 1428, 40_000);
    let segment = |out: &mut OutMessage, limit, most| {
        out.next_segment(1428, limit, most).map(|piece| (piece.offset, piece.len, piece.priority))
    };
    assert_eq!(segment(&mut out, 65_000, 0), Some((0, stride, 5)), "one record at least");
    assert_eq!(segment(&mut out, stride - 1, 65_000), None, "no record fits");
    assert_eq!(segment(&mut out, 65_000, 65_000), Some((stride, stride, 5)));
    assert_eq!(segment(&mut out, 65_000, 65_000), None, "7 packets are left, and no record");
    for _ in 0..7 {
        assert!(out.next_piece(1428).is_some());
        assert_eq!(segment(&mut out, 65_000, 65_000), None);
    }
    assert!(out.next_piece(1428).is_none() && out.granted() == 2 * stride + 7 * 1428);
    out.grant(100_000, 2);
    assert_eq!(segment(&mut out, 65_000, 65_000), None, "not in the middle of a record");
    while !out.sent().is_multiple_of(stride) {
        assert!(out.next_piece(1428).is_some());
    }
    assert_eq!(out.next_segment(1427, 65_000, 65_000), None, "packets have become too long");
    assert_eq!(segment(&mut out, 65_000, 65_000), Some((3 * stride, 3 * stride, 2)));
    out.ask_again(0..100, false, 0, 64);
    out.grant(u32::MAX, 2);
    assert_eq!(segment(&mut out, 65_000, 65_000), None, "first what was asked for again");
    out.next_piece(1428);
    let rest = out.layout().wire_len - 6 * stride;
    assert_eq!(
        segment(&mut out, 65_000, 65_000),
        Some((6 * stride, rest, 2)),
        "and the last record"
    );
    assert!(out.all_sent());
    let mut small = message(&body(500), record_size_for(1428), 1428, 40_000);
    assert_eq!(segment(&mut small, 65_000, 65_000), None, "one packet is one packet");
    assert_eq!(DATA_LEN, 52);
}
