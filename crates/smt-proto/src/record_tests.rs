use super::*;
use proptest::prelude::*;

fn layout() -> impl Strategy<Value = (Layout, u8)> {
    (MIN_RECORD_SIZE..=MAX_RECORD_SIZE, 40..200_000u64, ID_BITS)
        .prop_filter_map("small enough", |(size, len, id_bits)| {
            Some((Layout::from_plain(size, len, id_bits).ok()?, id_bits))
        })
}

proptest! {
    #[test]
    fn both_ends_see_the_same_records((layout, id_bits) in layout()) {
        prop_assert_eq!(Layout::from_wire(layout.record_size, layout.wire_len, id_bits), Ok(layout));
    }

    #[test]
    fn records_tile_the_message((layout, _) in layout()) {
        let (mut wire, mut plain) = (0, 0);
        for record in 0..layout.records {
            let (on_wire, in_plain) = (layout.wire_range(record), layout.plain_range(record));
            prop_assert_eq!((on_wire.start, in_plain.start), (wire, plain));
            prop_assert!(!in_plain.is_empty());
            prop_assert_eq!(on_wire.len(), in_plain.len() + RECORD_OVERHEAD as usize);
            prop_assert_eq!(layout.record_at(on_wire.start), record);
            prop_assert_eq!(layout.record_at(on_wire.end - 1), record);
            (wire, plain) = (on_wire.end, in_plain.end);
        }
        prop_assert_eq!((wire, plain), (layout.wire_len, layout.plain_len));
    }

    #[test]
    fn records_beyond_the_message_are_empty((layout, _) in layout(), beyond in any::<u32>()) {
        let record = layout.records.saturating_add(beyond);
        prop_assert!(layout.wire_range(record).is_empty() && layout.plain_range(record).is_empty());
        prop_assert_eq!(layout.record_at(layout.wire_len.saturating_add(beyond)), layout.records - 1);
    }

    #[test]
    fn any_wire_length_is_survived(size in any::<u16>(), wire_len in any::<u32>(), id_bits in ID_BITS) {
        if let Ok(layout) = Layout::from_wire(size, wire_len, id_bits) {
            let again = Layout::from_plain(size, layout.plain_len.into(), id_bits);
            prop_assert_eq!(again, Ok(layout));
        }
    }

    #[test]
    fn any_plain_length_is_survived(size in 64..=16384u16, len in 40..u64::MAX, id_bits in ID_BITS) {
        if let Ok(layout) = Layout::from_plain(size, len, id_bits) {
            prop_assert_eq!(u64::from(layout.plain_len), len);
        }
    }

    #[test]
    fn sequence_numbers_are_unique(id_bits in ID_BITS, id in any::<u64>(), record in any::<u32>()) {
        let (id, record) = (id >> (64 - id_bits), record >> (id_bits - 32));
        let last = u32::MAX >> (id_bits - 32);
        let number = match sequence_number(id, id_bits, record) {
            Some(number) => number,
            None => {
                prop_assert_eq!(record, last);
                bundle_sequence_number(id, id_bits).expect("in bounds")
            }
        };
        prop_assert_eq!((number >> (64 - id_bits), number << id_bits >> id_bits), (id, record.into()));
    }

    #[test]
    fn packets_hold_whole_records(room in 86..65_536usize) {
        let (size, count) = (record_size_for(room), records_per_packet(room));
        let used = count * (usize::from(size) + RECORD_OVERHEAD as usize);
        prop_assert!(used <= room && room - used < count.max(1));
        if let Some(size) = tso_record_size_for(room) {
            prop_assert_eq!((usize::from(size) + RECORD_OVERHEAD as usize) % room, 0);
        }
    }
}

#[test]
fn impossible_lengths_are_refused() {
    let refused = |size, len, bits| Layout::from_wire(size, len, bits).expect_err("accepted");
    assert_eq!(refused(63, 100, 48), Malformed::RecordSize);
    assert_eq!(refused(16385, 100, 48), Malformed::RecordSize);
    for len in [0, 1, 22, 61, 1022 + 1, 1022 + 22] {
        assert_eq!(refused(1000, len, 48), Malformed::Length);
    }
    assert!(Layout::from_wire(1000, 62, 48).is_ok());
    assert!(Layout::from_wire(1000, 1022 + 23, 48).is_ok());
    // 255 records are what 56 bits of ID leave, and one for a bundle.
    assert!(Layout::from_wire(1000, 255 * 1022, 56).is_ok());
    assert_eq!(refused(1000, 255 * 1022 + 23, 56), Malformed::Length);
    assert_eq!(Layout::from_plain(1000, 255_001, 56), Err(TooLarge));
    assert_eq!(Layout::from_plain(16384, u64::from(u32::MAX), 40), Err(TooLarge));
    assert_eq!(Layout::from_plain(16384, u64::MAX, 40), Err(TooLarge));
}

#[test]
fn sequence_numbers_have_bounds() {
    assert_eq!(sequence_number(5, 48, 7), Some(5 << 16 | 7));
    assert_eq!(sequence_number(5, 48, 0xfffe), Some(5 << 16 | 0xfffe));
    assert_eq!(sequence_number(5, 48, 0xffff), None, "that of a bundle");
    assert_eq!(bundle_sequence_number(5, 48), Some(5 << 16 | 0xffff));
    assert_eq!(sequence_number(5, 48, 1 << 16), None);
    assert_eq!(sequence_number(1 << 48, 48, 0), None);
    assert_eq!(bundle_sequence_number(1 << 48, 48), None);
    assert_eq!(bundle_sequence_number((1 << 48) - 1, 48), Some(u64::MAX));
    assert_eq!(sequence_number(5, 40, (1 << 24) - 1), None);
    assert_eq!(bundle_sequence_number(5, 40), Some(5 << 24 | 0xff_ffff));
    assert_eq!(sequence_number(5, 39, 0), None);
    assert_eq!(sequence_number(5, 57, 0), None);
    assert_eq!(bundle_sequence_number(5, 39), None);
    assert_eq!(bundle_sequence_number(5, 57), None);
}

#[test]
fn record_sizes() {
    // MTU 1500 and 9000, IPv4; a loopback of 65536.
    assert_eq!(record_size_for(1500 - 20 - 52), 1406);
    assert_eq!(record_size_for(9000 - 20 - 52), 8906);
    assert_eq!(record_size_for(16406), 16384);
    assert_eq!((records_per_packet(16407), record_size_for(16407)), (2, 8181));
    assert_eq!((records_per_packet(65536 - 72), record_size_for(65536 - 72)), (4, 16344));
    assert_eq!(tso_record_size_for(1428), Some(11 * 1428 - 22));
    assert_eq!(tso_record_size_for(16407), None);
    assert_eq!((record_size_for(0), tso_record_size_for(0)), (64, None));
}

#[test]
fn preambles_must_agree() {
    let layout = Layout::from_plain(1000, 1500, 48).expect("small");
    let ok = Preamble {
        kind: crate::wire::Kind::Application,
        record_size: 1000,
        app_len: 1460,
        wire_len: layout.wire_len,
        highest_peer_epoch: 0,
        oldest_epoch: 3,
        response_limit: 0,
        ack_floor: 4,
        ack_bitmap: 0,
    };
    assert!(layout.agrees(&ok) && layout.agrees(&Preamble { app_len: 0, ..ok }));
    assert!(!layout.agrees(&Preamble { app_len: 1461, ..ok }));
    assert!(!layout.agrees(&Preamble { app_len: u32::MAX, ..ok }));
    assert!(!layout.agrees(&Preamble { record_size: 999, ..ok }));
    assert!(!layout.agrees(&Preamble { wire_len: layout.wire_len - 1, ..ok }));
}

#[cfg(feature = "aws-lc")]
mod sealed {
    use super::*;
    use crate::crypto::{SuiteId, aws_lc::suite};
    use crate::keys::Secret;
    use std::vec::Vec;

    const SUITES: [SuiteId; 3] =
        [SuiteId::Aes128GcmSha256, SuiteId::Aes256GcmSha384, SuiteId::ChaCha20Poly1305Sha256];

    fn keys(id: SuiteId) -> EpochKeys {
        EpochKeys::new(suite(id), Secret::new(&[3; 32]), 3)
    }

    fn sealed(keys: &EpochKeys, number: u64, plain: &[u8]) -> Vec<u8> {
        let mut wire = [&[0; RECORD_HEADER_LEN][..], plain, &[0; RECORD_TRAILER_LEN]].concat();
        seal(keys, number, &mut wire);
        wire
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_sealed_opens(
            plain in proptest::collection::vec(any::<u8>(), 1..2000), number in any::<u64>(),
            which in 0..3usize, spill in any::<u8>(),
        ) {
            let keys = keys(SUITES[which]);
            let wire = sealed(&keys, number, &plain);
            let mut out = std::vec![spill; plain.len() + 1];
            prop_assert_eq!(open(&keys, number, &wire, &mut out), Ok(()));
            prop_assert_eq!(out.split_last(), Some((&spill, &plain[..])));
        }

        #[test]
        fn a_changed_bit_is_noticed(
            plain in proptest::collection::vec(any::<u8>(), 1..200), which in 0..3usize,
            at in any::<proptest::sample::Index>(), bit in 0..8u32, spill in any::<u8>(),
        ) {
            let keys = keys(SUITES[which]);
            let mut wire = sealed(&keys, 9, &plain);
            let at = at.index(wire.len());
            wire[at] ^= 1u8 << bit;
            let mut out = std::vec![spill; plain.len() + 1];
            prop_assert_eq!(open(&keys, 9, &wire, &mut out), Err(NotAuthentic));
            prop_assert_eq!(out.last(), Some(&spill));
        }
    }

    #[test]
    fn records_open_in_any_order_in_place() {
        let keys = keys(SuiteId::Aes128GcmSha256);
        let layout = Layout::from_plain(64, 200, 48).expect("small");
        let plain: Vec<u8> = (0..200).collect();
        let mut message = std::vec![0; 201];
        for record in [2, 0, 3, 1] {
            let range = layout.plain_range(record);
            let range = range.start as usize..range.end as usize;
            let wire = sealed(&keys, record.into(), &plain[range.clone()]);
            let out = &mut message[range.start..range.end + 1];
            assert_eq!(open(&keys, record.into(), &wire, out), Ok(()));
        }
        assert_eq!(message[..200], plain);
    }

    #[test]
    fn lengths_and_types_must_fit() {
        let keys = keys(SuiteId::Aes128GcmSha256);
        let wire = sealed(&keys, 1, b"text");
        let try_open = |number, wire: &[u8], room| open(&keys, number, wire, &mut [0; 99][..room]);
        assert_eq!(try_open(1, &wire, 5), Ok(()));
        assert_eq!(try_open(2, &wire, 5), Err(NotAuthentic));
        for room in [0, 4, 6] {
            assert_eq!(try_open(1, &wire, room), Err(NotAuthentic));
        }
        for len in 0..wire.len() {
            assert_eq!(try_open(1, &wire[..len], len.saturating_sub(21)), Err(NotAuthentic));
        }
        // Another inner type, properly sealed.
        let mut other = std::vec![23, 3, 3, 0, 21, 1, 2, 3, 4, 22];
        other.resize(26, 0);
        let (head, rest) = other.split_at_mut(5);
        let (inner, tag) = rest.split_last_chunk_mut().expect("room");
        keys.aead().seal(&keys.nonce(1), head, inner, tag);
        assert_eq!(try_open(1, &other, 5), Err(NotAuthentic));
    }
}
