//! Any plaintext as that of a bundle: parsing never panics, all entries are within it, and what parses is
//! emitted as it came.

use smt_proto::wire::{BUNDLE_ENTRY_LEN, BUNDLE_HEAD_LEN, BundleEntry, BundleHead};

pub fn run(plaintext: &[u8]) {
    let Ok(head) = BundleHead::parse(plaintext) else {
        let _ = BundleEntry::parse(plaintext, BUNDLE_HEAD_LEN);
        return;
    };
    let mut again = vec![0; BUNDLE_HEAD_LEN];
    head.emit(again.first_chunk_mut().unwrap());
    for _ in 0..head.count {
        let (entry, bytes) = BundleEntry::parse(plaintext, again.len()).unwrap();
        let mut place = [0; BUNDLE_ENTRY_LEN];
        entry.emit(&mut place);
        again.extend(place);
        assert_eq!((bytes.start, bytes.len()), (again.len(), usize::from(entry.app_len)));
        again.extend(&plaintext[bytes]);
    }
    again.resize(plaintext.len(), 0);
    assert_eq!(again, plaintext);
}
