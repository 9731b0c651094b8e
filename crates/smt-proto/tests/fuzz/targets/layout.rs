//! Any lengths: records tile their message, in the wire stream as in the plaintext, sequence numbers
//! never meet, and packets get records that fit them (spec 3.2, 4.1, 4.2).

use smt_proto::padding::Padding;
use smt_proto::record::{
    Layout, record_size_for, records_per_packet, sequence_number, tso_record_size_for,
};
use smt_proto::wire::{ID_BITS, MAX_RECORD_SIZE, MIN_RECORD_SIZE, PREAMBLE_LEN, RECORD_OVERHEAD};

use super::input::Input;

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let id_bits = ID_BITS.start() + input.u8() % (ID_BITS.end() - ID_BITS.start() + 1);
    from_wire(&mut input, id_bits);
    from_plain(&mut input, id_bits);
    sequence(&mut input);
    sizes(&mut input);
    padding(&mut input);
}

fn from_wire(input: &mut Input<'_>, id_bits: u8) {
    let (record_size, wire_len) = (input.u16(), input.u32());
    let Ok(layout) = Layout::from_wire(record_size, wire_len, id_bits) else { return };
    assert_eq!((layout.record_size, layout.wire_len), (record_size, wire_len));
    let again = Layout::from_plain(record_size, layout.plain_len.into(), id_bits);
    assert_eq!(again, Ok(layout));
    check(input, &layout);
}

fn from_plain(input: &mut Input<'_>, id_bits: u8) {
    let record_size = input.u16().clamp(MIN_RECORD_SIZE, MAX_RECORD_SIZE);
    let plain = (u64::from(input.u32()) + u64::from(input.u8())).max(PREAMBLE_LEN as u64);
    let Ok(layout) = Layout::from_plain(record_size, plain, id_bits) else { return };
    assert_eq!(u64::from(layout.plain_len), plain);
    assert_eq!(Layout::from_wire(record_size, layout.wire_len, id_bits), Ok(layout));
    check(input, &layout);
}

fn check(input: &mut Input<'_>, layout: &Layout) {
    let record = input.u32() % layout.records;
    let (wire, plain) = (layout.wire_range(record), layout.plain_range(record));
    assert_eq!(wire.len(), plain.len() + RECORD_OVERHEAD as usize);
    assert!(!plain.is_empty() && plain.len() <= usize::from(layout.record_size));
    assert_eq!(layout.record_at(wire.start), record);
    assert_eq!(layout.record_at(wire.end - 1), record);
    if record + 1 == layout.records {
        assert_eq!((wire.end, plain.end), (layout.wire_len, layout.plain_len));
    } else {
        assert_eq!(layout.wire_range(record + 1).start, wire.end);
        assert_eq!(layout.plain_range(record + 1).start, plain.end);
    }
    assert!(layout.wire_range(layout.records).is_empty());
    assert!(layout.record_at(input.u32()) < layout.records);
}

fn sequence(input: &mut Input<'_>) {
    let (id, bits, record) = (input.u64(), input.u8(), input.u32());
    match sequence_number(id, bits, record) {
        Some(number) => {
            assert!(ID_BITS.contains(&bits));
            let index_bits = 64 - bits;
            assert_eq!(number >> index_bits, id);
            assert_eq!(number & ((1 << index_bits) - 1), u64::from(record));
        }
        None => assert!(
            !ID_BITS.contains(&bits)
                || id >> bits != 0
                || u64::from(record) >= (1 << (64 - bits)) - 1
        ),
    }
}

fn sizes(input: &mut Input<'_>) {
    let room = input.number() as usize;
    let allowed = MIN_RECORD_SIZE..=MAX_RECORD_SIZE;
    let (records, size) = (records_per_packet(room), record_size_for(room));
    assert!(records > 0 && allowed.contains(&size));
    if size > MIN_RECORD_SIZE {
        assert!(records * (usize::from(size) + RECORD_OVERHEAD as usize) <= room);
    }
    assert!(tso_record_size_for(room).is_none_or(|size| allowed.contains(&size)));
}

fn padding(input: &mut Input<'_>) {
    let policy = match input.u8() % 3 {
        0 => Padding::None,
        1 => Padding::PowerOfTwo,
        _ => Padding::Buckets((0..input.u8() % 5).map(|_| input.number()).collect()),
    };
    let (one, other) = (input.number(), input.number());
    let (small, large) = (one.min(other), one.max(other));
    assert!(policy.padded_len(small) >= small);
    assert!(policy.padded_len(small) <= policy.padded_len(large));
}
