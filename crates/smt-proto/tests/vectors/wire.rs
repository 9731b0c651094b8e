//! Control packets, preambles, parameter blocks, and the offset rule.

use serde::Deserialize;
use smt_proto::wire::{
    AckRanges, Block, CancelCode, Control, ControlBody, Data, Header, IpVersion, MAX_CONTROL_LEN,
    PREAMBLE_LEN, PacketType, Params, Preamble, RETRY_LEN, Retry, UnknownCode, epoch_to_wire,
    packet_type, payload_offset,
};

use crate::messages::PreambleFields;
use crate::{Hex, header_key, read};

#[derive(Deserialize)]
struct Controls {
    suite: u16,
    first_secret: Hex,
    src_port: u16,
    dst_port: u16,
    packets: Vec<ControlPacket>,
}

#[derive(Deserialize)]
struct ControlPacket {
    name: String,
    #[serde(rename = "type")]
    kind: u8,
    epoch: u32,
    message_id: u64,
    number: u64,
    #[serde(flatten)]
    body: Body,
    packet: Hex,
}

/// The fields of all bodies; each packet has those of its type.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    offset: u32,
    length: u32,
    priority: u8,
    pinned: bool,
    code: u32,
    cutoffs: [u32; 8],
    version: u16,
    unscheduled: u32,
    floor: u64,
    ranges: Vec<(u64, u64)>,
    leave: u32,
}

impl ControlPacket {
    fn body(&self) -> ControlBody {
        let Body { offset, length, priority, pinned, cutoffs, version, unscheduled, .. } =
            self.body;
        match (packet_type(&self.packet).expect(&self.name), self.body.code) {
            (PacketType::Grant, _) => ControlBody::Grant { offset, priority },
            (PacketType::Resend, _) => ControlBody::Resend { offset, length, priority, pinned },
            (PacketType::Unknown, 0) => ControlBody::Unknown(UnknownCode::NeverAccepted),
            (PacketType::Unknown, 1) => ControlBody::Unknown(UnknownCode::Forgotten),
            (PacketType::Unknown, 2) => ControlBody::Unknown(UnknownCode::NoSession),
            (PacketType::Busy, _) => ControlBody::Busy,
            (PacketType::Cutoffs, _) => ControlBody::Cutoffs { cutoffs, version, unscheduled },
            (PacketType::NeedAck, _) => ControlBody::NeedAck,
            (PacketType::Ack, _) => {
                let mut ack = AckRanges::new(self.body.floor);
                assert!(self.body.ranges.iter().all(|&(first, last)| ack.push(first, last)));
                ControlBody::Ack(ack)
            }
            (PacketType::Update, _) => ControlBody::Update { epoch: self.body.leave },
            (PacketType::Cancel, 0) => ControlBody::Cancel(CancelCode::Request),
            (PacketType::Cancel, 1) => ControlBody::Cancel(CancelCode::Confirmed),
            other => panic!("{}: {other:?}", self.name),
        }
    }
}

#[test]
fn control_packets() {
    let file: Controls = read("control");
    let key = header_key(file.suite, &file.first_secret);
    let mut kinds = std::collections::BTreeSet::new();
    for v in &file.packets {
        let control = Control {
            header: Header {
                src_port: file.src_port,
                dst_port: file.dst_port,
                epoch: epoch_to_wire(v.epoch),
                message_id: v.message_id,
            },
            body: v.body(),
            number: v.number,
        };
        assert_eq!(control.body.packet_type() as u8, v.kind, "{}", v.name);
        kinds.insert(v.kind);

        let mut out = [0xff; MAX_CONTROL_LEN];
        let len = control.emit(&mut out);
        let out = &mut out[..len];
        if v.epoch != 0 {
            key.write_control_tag(out);
            assert!(key.check_control(&v.packet), "{}", v.name);
        }
        assert_eq!(out[..], v.packet[..], "{}", v.name);
        let tag = u64::from_be_bytes(*v.packet.last_chunk().expect("a tag"));
        assert_eq!(Control::parse(&v.packet), Ok((control, tag)), "{}", v.name);
    }
    assert_eq!(kinds.len(), 9, "a vector of every type");
}

#[derive(Deserialize)]
struct Retries {
    valid: Vec<ValidRetry>,
    invalid: Vec<InvalidRetry>,
}

#[derive(Deserialize)]
struct ValidRetry {
    src_port: u16,
    dst_port: u16,
    new_token: u64,
    token: u64,
    packet: Hex,
}

#[derive(Deserialize)]
struct InvalidRetry {
    why: String,
    packet: Hex,
}

#[test]
fn retries() {
    let file: Retries = read("retries");
    for v in file.valid {
        let ValidRetry { src_port, dst_port, new_token, token, packet } = v;
        let retry = Retry { src_port, dst_port, new_token, token };
        let mut out = [0xff; RETRY_LEN];
        retry.emit(&mut out);
        assert_eq!(out[..], packet[..]);
        assert_eq!(Retry::parse(&packet), Ok(retry));
        assert!(Control::parse(&packet).is_err(), "a RETRY is no packet of a session");
    }
    for v in file.invalid {
        assert!(Retry::parse(&v.packet).is_err(), "{}", v.why);
    }
}

#[derive(Deserialize)]
struct Preambles {
    valid: Vec<ValidPreamble>,
    invalid: Vec<InvalidPreamble>,
}

#[derive(Deserialize)]
struct ValidPreamble {
    preamble: PreambleFields,
    bytes: Hex,
}

#[derive(Deserialize)]
struct InvalidPreamble {
    why: String,
    bytes: Hex,
}

#[test]
fn preambles() {
    let file: Preambles = read("preambles");
    for v in file.valid {
        let preamble = v.preamble.preamble();
        let mut out = [0xff; PREAMBLE_LEN];
        preamble.emit(&mut out);
        assert_eq!(out[..], v.bytes[..]);
        assert_eq!(Preamble::parse(&v.bytes), Ok(preamble));
    }
    for v in file.invalid {
        assert!(Preamble::parse(&v.bytes).is_err(), "{}", v.why);
    }
}

#[derive(Deserialize)]
struct ParamsFile {
    valid: Vec<ValidParams>,
    invalid: Vec<InvalidParams>,
}

#[derive(Deserialize)]
struct ValidParams {
    params: ParamFields,
    /// Absent when we would not write the block like this.
    padding: Option<usize>,
    offer: Option<Hex>,
    answer: Option<Hex>,
    block: Hex,
}

#[derive(Deserialize)]
struct InvalidParams {
    why: String,
    block: Hex,
}

#[derive(Deserialize)]
struct ParamFields {
    id_bits: u8,
    first_id: u64,
    max_rpcs: u32,
    max_message: u32,
    unscheduled: u32,
    wake_delay_us: u32,
    max_id_bits: u8,
    #[serde(default)]
    wants: u8,
    #[serde(default = "one")]
    lanes: u8,
}

fn one() -> u8 {
    1
}

#[test]
fn parameter_blocks() {
    let file: ParamsFile = read("params");
    for v in file.valid {
        let params = Params {
            id_bits: v.params.id_bits,
            first_id: v.params.first_id,
            max_rpcs: v.params.max_rpcs,
            max_message: v.params.max_message,
            unscheduled: v.params.unscheduled,
            wake_delay_us: v.params.wake_delay_us,
            max_id_bits: v.params.max_id_bits,
            wants: v.params.wants,
            lanes: v.params.lanes,
        };
        let offer = v.offer.as_ref().map(|offer| &offer[..]);
        let answer = v.answer.as_ref().map(|answer| answer[..].try_into().unwrap());
        let block = Block { params, offer, answer };
        if let Some(padding) = v.padding {
            assert_eq!(block.emit(padding)[..], v.block[..]);
        }
        let flight = [&v.block[..], b"ClientHello"].concat();
        assert_eq!(Block::parse(&flight), Ok((block, v.block.len())));
        assert_eq!(Params::parse(&flight), Ok((params, v.block.len())));
    }
    for v in file.invalid {
        assert!(Params::parse(&v.block).is_err(), "{}", v.why);
    }
}

#[derive(Deserialize)]
struct Offsets {
    cases: Vec<OffsetCase>,
}

#[derive(Deserialize)]
struct OffsetCase {
    why: String,
    record_size: u16,
    segment_size: u16,
    explicit: bool,
    sequence: u32,
    tso_offset: u32,
    message_len: u32,
    payload_len: usize,
    ip_version: u8,
    ip_id: Option<u16>,
    offset: Option<u32>,
}

#[test]
fn offsets() {
    for v in read::<Offsets>("offsets").cases {
        let data = Data {
            header: Header { src_port: 1, dst_port: 2, epoch: 3, message_id: 4 },
            sequence: v.sequence,
            record_size: v.record_size,
            segment_size: v.segment_size,
            message_len: v.message_len,
            incoming: v.message_len,
            tag: 0,
            cutoffs: 0,
            retransmit: false,
            explicit: v.explicit,
            pinned: false,
            bundle: false,
            tso_offset: v.tso_offset,
        };
        let ip = match (v.ip_version, v.ip_id) {
            (4, Some(id)) => IpVersion::V4 { id },
            (4, None) => IpVersion::V4Unseen,
            (6, None) => IpVersion::V6,
            other => panic!("{}: {other:?}", v.why),
        };
        assert_eq!(payload_offset(&data, v.payload_len, ip), v.offset, "{}", v.why);
    }
}
