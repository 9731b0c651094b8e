//! Bundles in their packets, there and back.

use serde::Deserialize;
use smt_proto::keys::{EpochKeys, Secret};
use smt_proto::record::{RECORD_HEADER_LEN, RECORD_OVERHEAD, bundle_sequence_number, open, seal};
use smt_proto::wire::{
    BUNDLE_ENTRY_LEN, BUNDLE_HEAD_LEN, BundleEntry, BundleHead, DATA_LEN, Data, MIN_RECORD_SIZE,
};

use crate::messages::{Fields, kind};
use crate::{Hex, header_key, pattern, read, suite};

#[derive(Deserialize)]
struct File {
    bundles: Vec<Bundle>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    why: String,
    packet: Hex,
}

#[derive(Deserialize)]
struct Bundle {
    name: String,
    suite: u16,
    first_secret: Hex,
    id_bits: u8,
    head: HeadFields,
    entries: Vec<EntryFields>,
    fields: Fields,
    packet: Hex,
}

#[derive(Deserialize)]
struct HeadFields {
    highest_peer_epoch: u32,
    oldest_epoch: u32,
    ack_floor: u64,
    ack_bitmap: u64,
}

#[derive(Deserialize)]
struct EntryFields {
    message_id: u64,
    kind: String,
    app_len: u16,
    response_limit: u32,
}

impl Bundle {
    fn keys(&self) -> EpochKeys {
        let suite = suite(self.suite);
        let first = EpochKeys::new(suite, Secret::new(&self.first_secret), 3);
        (3..self.fields.epoch).fold(first, |keys, _| keys.next(suite))
    }

    fn head(&self) -> BundleHead {
        let HeadFields { highest_peer_epoch, oldest_epoch, ack_floor, ack_bitmap } = self.head;
        let count = self.entries.len() as u16;
        BundleHead { count, highest_peer_epoch, oldest_epoch, ack_floor, ack_bitmap }
    }

    fn number(&self) -> u64 {
        bundle_sequence_number(self.entries[0].message_id, self.id_bits).expect("in bounds")
    }
}

impl EntryFields {
    fn entry(&self) -> BundleEntry {
        let EntryFields { message_id, app_len, response_limit, .. } = *self;
        BundleEntry { message_id, kind: kind(&self.kind), app_len, response_limit }
    }
}

#[test]
fn bundles_are_sent_as_computed() {
    for bundle in read::<File>("bundles").bundles {
        let mut plain = vec![0xff; BUNDLE_HEAD_LEN];
        bundle.head().emit(plain.first_chunk_mut().unwrap());
        for fields in &bundle.entries {
            let mut entry = [0xff; BUNDLE_ENTRY_LEN];
            fields.entry().emit(&mut entry);
            plain.extend(entry);
            plain.extend(pattern(fields.app_len.into()));
        }
        plain.resize(plain.len().max(MIN_RECORD_SIZE.into()), 0);
        let mut packet = vec![0xff; DATA_LEN + plain.len() + RECORD_OVERHEAD as usize];
        bundle.fields.data().emit(packet.first_chunk_mut().unwrap());
        let wire = &mut packet[DATA_LEN..];
        wire[RECORD_HEADER_LEN..][..plain.len()].copy_from_slice(&plain);
        seal(&bundle.keys(), bundle.number(), wire);
        header_key(bundle.suite, &bundle.first_secret).write_data_tag(&mut packet);
        assert!(packet == bundle.packet.0, "{}", bundle.name);
    }
}

#[test]
fn bundles_arrive_as_computed() {
    for bundle in read::<File>("bundles").bundles {
        let header_key = header_key(bundle.suite, &bundle.first_secret);
        assert!(header_key.check_data(&bundle.packet), "{}", bundle.name);
        let data = Data::parse(&bundle.packet).expect(&bundle.name);
        assert_eq!(Data { tag: 0, ..data }, bundle.fields.data(), "{}", bundle.name);
        let mut plain = vec![0; usize::from(data.record_size) + 1];
        let wire = &bundle.packet[DATA_LEN..];
        assert_eq!(open(&bundle.keys(), bundle.number(), wire, &mut plain), Ok(()));
        plain.pop();
        assert_eq!(BundleHead::parse(&plain), Ok(bundle.head()), "{}", bundle.name);
        let mut at = BUNDLE_HEAD_LEN;
        for fields in &bundle.entries {
            let (entry, bytes) = BundleEntry::parse(&plain, at).expect(&bundle.name);
            assert_eq!(entry, fields.entry(), "{}", bundle.name);
            assert!(plain[bytes.clone()] == pattern(bytes.len()), "{}", bundle.name);
            at = bytes.end;
        }
    }
}

#[test]
fn headers_to_refuse() {
    let refused = read::<File>("bundles").refused;
    assert!(!refused.is_empty());
    for Refused { why, packet } in refused {
        assert!(Data::parse(&packet).is_err(), "{why}");
    }
}
