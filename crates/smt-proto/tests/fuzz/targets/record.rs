//! Any bytes as a record, and any record altered: only what was sealed under this key and number
//! opens, and the byte behind its plaintext stays as it was. The same for header tags of DATA.

use smt_proto::keys::{EpochKeys, HeaderKey, Secret};
use smt_proto::record::{RECORD_HEADER_LEN, RECORD_OVERHEAD, open, seal};
use smt_proto::wire::DATA_LEN;

use super::checked::Checked;
use super::input::Input;

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let keys = EpochKeys::new(&Checked, Secret::new(&[3; 32]), 3);
    let number = input.u64();
    if input.u8() & 1 == 0 {
        sealed(&mut input, &keys, number);
        tagged(&mut input);
    } else {
        let mut out = vec![0; usize::from(input.u16())];
        let forged = open(&keys, number, input.0, &mut out);
        assert!(forged.is_err(), "{:?}", input.0);
    }
}

fn sealed(input: &mut Input<'_>, keys: &EpochKeys, number: u64) {
    let len = 1 + usize::from(input.u16()) % 16_384;
    let fill = input.u8();
    let mut wire = vec![fill; len + RECORD_OVERHEAD as usize];
    seal(keys, number, &mut wire);
    let mut out = vec![0x5a; len + 1];
    assert_eq!(open(keys, number, &wire, &mut out), Ok(()));
    assert!(out[..len] == wire[RECORD_HEADER_LEN..RECORD_HEADER_LEN + len]);
    assert_eq!(out[len], 0x5a);

    let other = number ^ input.u64().max(1);
    assert!(open(keys, other, &wire, &mut out).is_err());
    assert!(open(&keys.next(&Checked), number, &wire, &mut out).is_err());
    assert!(open(keys, number, &wire, &mut out[..len]).is_err());
    let cut = usize::from(input.u16()) % wire.len();
    let short = (cut.saturating_sub(RECORD_OVERHEAD as usize) + 1).min(out.len());
    assert!(open(keys, number, &wire[..cut], &mut out[..short]).is_err());
    let at = usize::from(input.u16()) % wire.len();
    wire[at] ^= input.u8().max(1);
    assert!(open(keys, number, &wire, &mut out).is_err(), "byte {at} altered");
}

/// Any bytes as a DATA packet with its tag, one byte of which is altered.
fn tagged(input: &mut Input<'_>) {
    let key = HeaderKey::derive(&Checked, &Secret::new(&[7; 32]));
    let (at, alter) = (usize::from(input.u16()), input.u8().max(1));
    let mut packet = input.0.to_vec();
    assert!(packet.len() >= DATA_LEN || !key.check_data(&packet));
    packet.resize(packet.len().max(DATA_LEN), 0);
    key.write_data_tag(&mut packet);
    assert!(key.check_data(&packet));
    let at = at % packet.len();
    let (pinned, explicit) = (packet[48] & 4 != 0, packet[48] & 2 != 0);
    packet[at] ^= alter;
    let outside = match at {
        13 | 16 | 17 => true,
        4..8 => !explicit,
        DATA_LEN.. => !pinned,
        _ => false,
    };
    assert_eq!(key.check_data(&packet), outside, "byte {at} altered");
}
