use super::*;
use proptest::prelude::*;
use std::vec;

fn ack() -> impl Strategy<Value = AckRanges> {
    let ranges = proptest::collection::vec(any::<(u64, u64)>(), 0..=MAX_ACK_RANGES);
    (any::<u64>(), ranges).prop_map(|(floor, ranges)| {
        let mut ack = AckRanges::new(floor & !1);
        for (a, b) in ranges {
            assert!(ack.push(a.min(b) & !1, a.max(b) & !1));
        }
        ack
    })
}

fn body() -> impl Strategy<Value = ControlBody> {
    prop_oneof![
        any::<(u32, u8)>().prop_map(|(offset, priority)| ControlBody::Grant { offset, priority }),
        any::<(u32, u32, u8, bool)>().prop_map(|(offset, length, priority, pinned)| {
            ControlBody::Resend { offset, length, priority, pinned }
        }),
        Just(ControlBody::Unknown(UnknownCode::NeverAccepted)),
        Just(ControlBody::Unknown(UnknownCode::Forgotten)),
        Just(ControlBody::Unknown(UnknownCode::NoSession)),
        Just(ControlBody::Busy),
        any::<([u32; 8], u16, u32)>().prop_map(|(cutoffs, version, unscheduled)| {
            ControlBody::Cutoffs { cutoffs, version, unscheduled }
        }),
        Just(ControlBody::NeedAck),
        ack().prop_map(ControlBody::Ack),
        Just(ControlBody::Cancel(CancelCode::Request)),
        Just(ControlBody::Cancel(CancelCode::Confirmed)),
        (3..=u32::MAX).prop_map(|epoch| ControlBody::Update { epoch }),
    ]
}

prop_compose! {
    fn control()(
        src_port in 1..=u16::MAX, dst_port in 1..=u16::MAX, epoch in 3..=255u8,
        message_id in any::<u64>(), body in body(), number in any::<u64>(),
    ) -> Control {
        let no_session = body == ControlBody::Unknown(UnknownCode::NoSession);
        let (epoch, number) = if no_session { (0, 0) } else { (epoch, number) };
        let of_session = matches!(body, ControlBody::Update { .. });
        let message_id = if of_session { 0 } else { message_id };
        Control { header: Header { src_port, dst_port, epoch, message_id }, body, number }
    }
}

fn example(body: ControlBody) -> Control {
    let header = Header { src_port: 1, dst_port: 2, epoch: 3, message_id: 4 };
    Control { header, body, number: 1 }
}

fn emit(control: &Control) -> std::vec::Vec<u8> {
    let mut out = [0xff; MAX_CONTROL_LEN];
    let len = control.emit(&mut out);
    out[..len].to_vec()
}

proptest! {
    #[test]
    fn round_trip(control in control()) {
        let packet = emit(&control);
        prop_assert_eq!(packet.len(), control.wire_len());
        prop_assert_eq!(Control::parse(&packet), Ok((control, 0)));
    }

    #[test]
    fn the_length_is_exact(control in control(), cut in any::<proptest::sample::Index>()) {
        let mut packet = emit(&control);
        prop_assert!(Control::parse(&packet[..cut.index(packet.len())]).is_err());
        packet.push(0);
        prop_assert!(Control::parse(&packet).is_err());
    }

    #[test]
    fn what_parses_is_what_was_sent(
        control in control(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut packet = emit(&control);
        for (at, value) in changes {
            let at = at.index(packet.len());
            packet[at] = value;
        }
        if let Ok((parsed, tag)) = Control::parse(&packet) {
            let mut again = emit(&parsed);
            let end = again.len() - 8;
            again[end..].copy_from_slice(&tag.to_be_bytes());
            // Flags and checksum are the NIC's.
            packet[13] = 0;
            packet[16] = 0;
            packet[17] = 0;
            prop_assert_eq!(again, packet);
        }
    }

    #[test]
    fn any_bytes_are_survived(
        mut packet in proptest::collection::vec(any::<u8>(), 0..600),
        kind in 0x10..0x24u8,
        valid_head in any::<bool>(),
    ) {
        if valid_head && packet.len() >= COMMON_LEN {
            packet[11] = kind;
            packet[12] = 5 << 4;
            packet[4..8].fill(0);
            packet[14..20].fill(0);
        }
        let _ = Control::parse(&packet);
    }
}

#[test]
fn nonsense_is_refused() {
    let refused = |body: ControlBody, at: usize, value: u8| {
        let mut packet = emit(&example(body));
        packet[at] = value;
        Control::parse(&packet).map(|_| ()).expect_err("accepted")
    };
    let grant = ControlBody::Grant { offset: 1, priority: 2 };
    assert_eq!(refused(grant.clone(), 7, 1), Malformed::Reserved);
    assert_eq!(refused(grant.clone(), 10, 1), Malformed::Reserved);
    assert_eq!(refused(grant.clone(), 15, 1), Malformed::Reserved);
    assert_eq!(refused(grant.clone(), 35, 1), Malformed::Reserved);
    assert_eq!(refused(grant.clone(), 8, 0), Malformed::Epoch);
    assert_eq!(refused(grant, 8, 2), Malformed::Epoch);
    assert_eq!(refused(ControlBody::Busy, 8, 0), Malformed::Epoch);
    assert_eq!(refused(ControlBody::Unknown(UnknownCode::Forgotten), 7, 3), Malformed::Code);
    assert_eq!(refused(ControlBody::Unknown(UnknownCode::Forgotten), 7, 2), Malformed::Epoch);
    assert_eq!(refused(ControlBody::Cancel(CancelCode::Request), 7, 2), Malformed::Code);
    let resend = ControlBody::Resend { offset: 1, length: 2, priority: 3, pinned: true };
    assert_eq!(refused(resend.clone(), 37, 2), Malformed::Reserved);
    assert_eq!(refused(resend, 39, 1), Malformed::Reserved);
    let mut ack = AckRanges::new(4);
    assert!(ack.push(8, 12));
    assert_eq!(refused(ControlBody::Ack(ack), 36, 33), Malformed::Range);
    // The trailer is no range: its number is odd.
    assert_eq!(refused(ControlBody::Ack(ack), 36, 2), Malformed::Range);
    assert_eq!(refused(ControlBody::Ack(ack), 36, 0), Malformed::Long);
    assert_eq!(refused(ControlBody::Ack(ack), 35, 5), Malformed::Range);
    assert_eq!(refused(ControlBody::Ack(ack), 43, 1), Malformed::Reserved);
    assert_eq!(refused(ControlBody::Ack(ack), 51, 14), Malformed::Range);
}

#[test]
fn an_update_is_of_the_session_and_names_an_application_epoch() {
    let update = |message_id, epoch| {
        let mut control = example(ControlBody::Update { epoch });
        control.header.message_id = message_id;
        let packet = emit(&control);
        assert_eq!(packet.len(), 48);
        Control::parse(&packet).map(|(control, _)| control.body)
    };
    assert_eq!(update(0, 3), Ok(ControlBody::Update { epoch: 3 }));
    assert_eq!(update(4 * 63, 3), Ok(ControlBody::Update { epoch: 3 }), "of a lane");
    assert_eq!(update(0, u32::MAX), Ok(ControlBody::Update { epoch: u32::MAX }));
    for refused in
        [update(0, 2), update(0, 1), update(0, 0), update(256, 3), update(5, 3), update(6, 3)]
    {
        assert_eq!(refused, Err(Malformed::Range));
    }
}

#[test]
fn the_answer_to_strangers_carries_no_number_and_no_tag() {
    let mut control = example(ControlBody::Unknown(UnknownCode::NoSession));
    control.header.epoch = 0;
    assert_eq!(Control::parse(&emit(&control)), Err(Malformed::Reserved));
    control.number = 0;
    let mut packet = emit(&control);
    assert!(Control::parse(&packet).is_ok());
    packet[43] = 1;
    assert_eq!(Control::parse(&packet), Err(Malformed::Reserved));
}

#[test]
fn ack_ranges_are_bounded() {
    let mut ack = AckRanges::new(4);
    assert!(!ack.push(12, 8) && !ack.push(9, 12) && !ack.push(8, 13));
    for i in 0..MAX_ACK_RANGES as u64 {
        assert!(ack.push(8 * i, 8 * i + 4));
    }
    assert!(!ack.push(1000, 1000));
    assert_eq!(ack.iter().len(), MAX_ACK_RANGES);
    assert_eq!(emit(&example(ControlBody::Ack(ack))).len(), MAX_CONTROL_LEN);
}
