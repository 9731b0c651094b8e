//! Any control packet that can be said: emitted it parses as what it was, unless the specification
//! forbids it, and its tag guards every byte but those of the NIC.

use smt_proto::keys::{HeaderKey, Secret};
use smt_proto::wire::{
    AckRanges, CancelCode, Control, ControlBody, EARLY_EPOCH, FIRST_EPOCH, Header, MAX_ACK_RANGES,
    MAX_CONTROL_LEN, UnknownCode,
};

use super::input::Input;
use super::plain::Plain;

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let control = control(&mut input);
    let mut out = [0xff; MAX_CONTROL_LEN];
    let len = control.emit(&mut out);
    assert_eq!(len, control.wire_len());
    let packet = &mut out[..len];
    let parsed = Control::parse(packet).map(|(parsed, _)| parsed);
    assert_eq!(parsed.is_ok(), allowed(&control), "{control:?}: {parsed:?}");
    assert!(parsed.is_err() || parsed == Ok(control));
    check_tag(&mut input, packet);
}

fn check_tag(input: &mut Input<'_>, packet: &mut [u8]) {
    let key = HeaderKey::derive(&Plain, &Secret::new(&[7; 32]));
    key.write_control_tag(packet);
    assert!(key.check_control(packet));
    let at = usize::from(input.u16()) % packet.len();
    packet[at] ^= input.u8().max(1);
    assert_eq!(key.check_control(packet), [13, 16, 17].contains(&at), "byte {at} altered");
}

fn control(input: &mut Input<'_>) -> Control {
    let body = body(input);
    let header = Header {
        src_port: input.u16(),
        dst_port: input.u16(),
        epoch: input.u8(),
        message_id: input.u64(),
    };
    Control { header, body, number: input.u64() }
}

fn body(input: &mut Input<'_>) -> ControlBody {
    match input.u8() % 13 {
        0 => ControlBody::Grant { offset: input.u32(), priority: input.u8() },
        1 => ControlBody::Resend {
            offset: input.u32(),
            length: input.u32(),
            priority: input.u8(),
            pinned: input.u8() & 1 != 0,
        },
        2 => ControlBody::Unknown(UnknownCode::NeverAccepted),
        3 => ControlBody::Unknown(UnknownCode::Forgotten),
        4 => ControlBody::Unknown(UnknownCode::NoSession),
        5 => ControlBody::Busy,
        6 => {
            let cutoffs = std::array::from_fn(|_| input.u32());
            ControlBody::Cutoffs { cutoffs, version: input.u16(), unscheduled: input.u32() }
        }
        7 => ControlBody::NeedAck,
        8 => ControlBody::Cancel(CancelCode::Request),
        9 => ControlBody::Cancel(CancelCode::Confirmed),
        10 => ControlBody::Update { epoch: input.u32() },
        _ => ControlBody::Ack(ranges(input)),
    }
}

/// Ranges as they are pushed, compared with a plain list of those that may be.
fn ranges(input: &mut Input<'_>) -> AckRanges {
    let mut ranges = AckRanges::new(input.u64() & !1);
    let mut expected = Vec::new();
    for _ in 0..input.u8() % 40 {
        let first = input.u64();
        let last = first.wrapping_add(u64::from(input.u16()));
        let sound = first <= last && (first | last) & 1 == 0;
        let fits = expected.len() < MAX_ACK_RANGES;
        assert_eq!(ranges.push(first, last), sound && fits);
        if sound && fits {
            expected.push((first, last));
        }
    }
    assert!(ranges.iter().eq(expected));
    ranges
}

/// What spec 2.1, 2.3 and 5.6 let a control packet be.
fn allowed(control: &Control) -> bool {
    let Header { src_port, dst_port, epoch, message_id } = control.header;
    let session = match control.body {
        ControlBody::Unknown(UnknownCode::NoSession) => epoch == 0 && control.number == 0,
        _ => u32::from(epoch) == EARLY_EPOCH || u32::from(epoch) >= FIRST_EPOCH,
    };
    let body = match control.body {
        ControlBody::Update { epoch } => {
            epoch >= FIRST_EPOCH && message_id & 3 == 0 && message_id < 256
        }
        _ => true,
    };
    session && body && src_port != 0 && dst_port != 0
}
