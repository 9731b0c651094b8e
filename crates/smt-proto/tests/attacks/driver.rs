//! Whatever a peer says, and whatever time does: a driver comes to rest, calls end.

use std::time::Duration;

use smt_proto::error::CallError;
use smt_proto::record::Layout;
use smt_proto::wire::{
    CancelCode, Control, ControlBody, Data, Header, MAX_CONTROL_LEN, UnknownCode,
};
use smt_proto::{Config, PacketMeta, Time};

use crate::net::script::{RECORD, Script};
use crate::net::{CLIENT, Net, PORTS, SERVER, Seeded, address};

#[test]
fn time_that_goes_back_does_no_harm() {
    let mut script = Script::new(SERVER, Config::default());
    let mut random = Seeded(9);
    for number in 0..300 {
        for packet in script.message(script.my_id(number), &vec![1; 100 * (number as usize % 40)]) {
            script.net.now = Time::from_nanos(random.below(2_000_000_000));
            script.give(&packet);
            let now = Time::from_nanos(random.below(2_000_000_000));
            let endpoint = &mut script.net.hosts[SERVER].endpoint;
            endpoint.set_backlog(now, random.below(100_000) as usize);
            endpoint.handle_timeout(now);
        }
    }
    assert_eq!(script.net.hosts[SERVER].requests.len(), 300);
    assert_eq!(script.net.hosts[SERVER].endpoint.promised_bytes(), 0);
}

/// Polls all there is, and checks that what is promised to a driver holds: nothing wants to be sent
/// once there was nothing, and no timer stays in the past.
fn drive(script: &mut Script, frame: &mut [u8]) -> usize {
    let now = script.net.now;
    let endpoint = &mut script.net.hosts[CLIENT].endpoint;
    let mut sent = 0;
    let mut rounds = 0;
    while endpoint.wants_transmit() {
        rounds += 1;
        assert!(rounds < 100, "it wants to send, and has nothing");
        while endpoint.poll_transmit(now, frame).is_some() {
            sent += 1;
            assert!(sent < 100_000, "packets without end");
        }
        while endpoint.poll_event().is_some() {}
    }
    for rounds in 0.. {
        assert!(rounds < 100, "a timer that never rests");
        if endpoint.poll_timeout().is_none_or(|due| due > now) {
            break;
        }
        endpoint.handle_timeout(now);
        while endpoint.poll_event().is_some() {}
        while endpoint.poll_transmit(now, frame).is_some() {
            sent += 1;
        }
    }
    sent
}

#[test]
fn a_driver_comes_to_rest_whatever_the_peer_says() {
    for seed in 0..30 {
        let mut script = Script::new(CLIENT, Config::default());
        let mut random = Seeded(seed + 1);
        let session = script.net.hosts[CLIENT].session;
        let mut frame = vec![0; 2048];
        for step in 0..3000u64 {
            script.net.now = script.net.now + Duration::from_nanos(random.below(300_000));
            let now = script.net.now;
            let endpoint = &mut script.net.hosts[CLIENT].endpoint;
            if random.below(4) == 0 {
                let len = 1 << random.below(18);
                let deadline = now + Duration::from_micros(random.below(200_000));
                let _ = endpoint.start_call(session, vec![1; len].into(), deadline, step);
            }
            if random.below(3) == 0 {
                // Full, empty, or half.
                endpoint.set_backlog(now, (random.below(3) as usize) * (40 << 10));
            }
            let id = script.its_id(random.below(step / 4 + 1));
            let (offset, length) = (random.below(1 << 18) as u32, random.below(1 << 18) as u32);
            let priority = random.below(256) as u8;
            let body = match random.below(9) {
                0..=1 => ControlBody::Grant { offset, priority },
                2..=3 => ControlBody::Resend { offset, length, priority, pinned: step % 2 == 0 },
                4 => ControlBody::Busy,
                5 => ControlBody::Unknown(UnknownCode::Forgotten),
                6 => ControlBody::Unknown(UnknownCode::NeverAccepted),
                7 => ControlBody::Cancel(CancelCode::Confirmed),
                _ => ControlBody::Cutoffs {
                    cutoffs: [offset; 8],
                    version: length as u16,
                    unscheduled: length,
                },
            };
            let mut packet = if random.below(5) == 0 {
                let long = Layout::from_plain(RECORD, 41 + random.below(200_000), 48).unwrap();
                let at = offset.min(long.wire_len - 1);
                let data = script.data_header(id | 1, &long, at);
                script.data(
                    Data { incoming: length.min(long.wire_len), ..data },
                    &[0; 1][..step as usize % 2],
                )
            } else {
                script.control(id | (random.below(2)), body)
            };
            let meta =
                PacketMeta { remote: address(SERVER), local: address(CLIENT).ip(), ip_id: None };
            script.net.hosts[CLIENT].endpoint.handle_packet(now, &meta, &mut packet);
            drive(&mut script, &mut frame);
        }
        // All calls end by themselves.
        for _ in 0..200 {
            script.net.now = script.net.now + Duration::from_millis(10);
            script.net.hosts[CLIENT].endpoint.set_backlog(script.net.now, 0);
            drive(&mut script, &mut frame);
        }
        let endpoint = &script.net.hosts[CLIENT].endpoint;
        assert_eq!(endpoint.incoming_bytes(), 0);
        assert_eq!(endpoint.promised_bytes(), 0);
    }
}

#[test]
fn a_call_ends_however_often_its_server_says_busy_or_grants() {
    let mut script = Script::new(CLIENT, Config::default());
    script.net.call_with_deadline(CLIENT, vec![1; 200_000], 1, Duration::from_secs(1));
    let id = script.its_id(0);
    let mut sent = 0;
    for _ in 0..2200 {
        sent += script.give_control(id, ControlBody::Grant { offset: 0, priority: 0 }).len();
        sent += script.give_control(id | 1, ControlBody::Busy).len();
        sent += script.wait(Duration::from_micros(500)).len();
    }
    assert_eq!(script.net.hosts[CLIENT].ended.get(&1), Some(&Err(CallError::DeadlineExceeded)));
    assert!(sent < 100, "{sent}");
}

#[test]
fn forged_unknowns_about_kept_responses_cost_a_probe_a_round_trip() {
    let mut net = Net::new(5, Config::default());
    net.run_for(Duration::from_millis(1));
    net.call(CLIENT, vec![3; 10], 1);
    net.run_until(Duration::from_secs(1), |net| net.ended(CLIENT) == 1);
    let id = net.params[CLIENT].first_id;
    let header =
        Header { src_port: PORTS[CLIENT], dst_port: PORTS[SERVER], epoch: 0, message_id: id | 1 };
    let mut packet = vec![0; MAX_CONTROL_LEN];
    let body = ControlBody::Unknown(UnknownCode::NoSession);
    let len = Control { header, body, number: 0 }.emit(&mut packet);
    packet.truncate(len);
    for _ in 0..100 {
        for _ in 0..100 {
            net.inject(SERVER, packet.clone());
        }
        net.run_for(Duration::from_micros(50));
    }
    let stats = net.hosts[SERVER].endpoint.stats();
    assert!((1..=110).contains(&stats.probes_sent), "{} probes", stats.probes_sent);
    assert_eq!(net.hosts[SERVER].closed, None);
    net.assert_clean();
}
