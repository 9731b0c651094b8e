//! Ends that come at a bad moment: what one end says while it closes, or of a peer that is gone.

mod net;

use std::time::Duration;

use net::{CLIENT, Net, PORTS, SERVER};
use smt_proto::error::CloseReason;
use smt_proto::wire::{CancelCode, Control, ControlBody, Header, PacketType, UnknownCode, peek};
use smt_proto::{Config, Limits};

const SECOND: Duration = Duration::from_secs(1);

/// A peer that lets nothing come by itself still gets its answer when the first of it is lost.
#[test]
fn a_peer_without_unscheduled_bytes_polls_for_the_first_packet() {
    let limits = Limits { unscheduled: 0, ..Limits::default() };
    let mut net = Net::new(1, Config { limits, ..Config::default() });
    for lost in 0..6 {
        net.call(CLIENT, vec![1; 3000], lost);
        for _ in 0..lost {
            net.step();
        }
        drop(net.take_in_flight());
        net.run_until(SECOND, |net| net.ended(CLIENT) as u64 == lost + 1);
        assert_eq!(net.hosts[CLIENT].ended[&lost], Ok(vec![1; 3000]));
    }
}

/// Calls that closing ends were perhaps never sent: no ACK may say that they are finished.
#[test]
fn a_closing_end_acknowledges_nothing() {
    for asked in [false, true] {
        let mut net = Net::new(2, Config::default());
        net.hosts[SERVER].echo = false;
        net.call(CLIENT, vec![1; 100], 0);
        net.run_for(Duration::from_millis(1));
        let now = net.now;
        let client = net.hosts[CLIENT].session;
        if asked {
            // The server asks whether the client lives, and is heard only when the client closes.
            let server = net.hosts[SERVER].session;
            let quoted = Header { src_port: PORTS[1], dst_port: PORTS[0], epoch: 3, message_id: 0 };
            let mut packet = [0; 64];
            let body = ControlBody::NeedAck;
            let len = Control { header: quoted, body, number: 1 }.emit(&mut packet);
            let remote = net.hosts[CLIENT].address;
            assert!(net.hosts[SERVER].endpoint.sessions().contains(&server));
            net.hosts[SERVER].endpoint.handle_unreachable(now, remote, false, &packet[..len]);
            net.pump(SERVER);
        }
        let deadline = now + SECOND;
        let body = bytes::Bytes::from_static(b"never sent");
        net.hosts[CLIENT].endpoint.start_call(client, body, deadline, 1).unwrap();
        net.record();
        let probes = net.take_in_flight();
        assert_eq!(probes.len(), usize::from(asked));
        net.hosts[CLIENT].endpoint.close(now, client);
        for probe in probes {
            net.inject(probe.to, probe.bytes);
        }
        net.pump(CLIENT);
        let said: Vec<_> =
            net.recorded_to(SERVER).iter().map(|packet| peek(packet).unwrap().0).collect();
        assert!(said.iter().all(|kind| *kind == PacketType::Cancel), "{said:?}");
        net.run_for(SECOND);
        assert_eq!(net.hosts[SERVER].closed, Some(CloseReason::Peer));
    }
}

/// A peer that restarted says so when it is asked whether a response has come.
#[test]
fn a_kept_response_finds_out_that_its_caller_is_gone() {
    let mut net = Net::new(3, Config::default());
    net.call(CLIENT, vec![1; 100], 0);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 1);
    net.record();
    net.run_until(SECOND, |net| !net.recorded.is_empty());
    drop(net.take_in_flight());
    let asked = net.recorded_to(CLIENT).remove(0);
    let (kind, header) = peek(&asked).unwrap();
    assert_eq!(kind, PacketType::NeedAck);
    let header = Header { src_port: PORTS[0], dst_port: PORTS[1], epoch: 0, ..header };
    let body = ControlBody::Unknown(UnknownCode::NoSession);
    let mut answer = [0; 64];
    let len = Control { header, body, number: 0 }.emit(&mut answer);
    net.inject(SERVER, answer[..len].to_vec());
    assert_eq!(net.hosts[SERVER].endpoint.stats().probes_sent, 1);
    // Nobody answers the probes: within a second the session is dead, and not when it has been idle
    // for a minute.
    for _ in 0..10_000 {
        drop(net.take_in_flight());
        if net.hosts[SERVER].closed.is_some() {
            break;
        }
        net.step();
    }
    assert_eq!(net.hosts[SERVER].closed, Some(CloseReason::Dead));
    assert!(net.now.as_nanos() < 2_000_000_000, "{:?}", net.now);
}

/// Closing takes one round trip: the peer's confirmation leaves though its session is gone.
#[test]
fn closing_is_confirmed() {
    let mut net = Net::new(4, Config::default());
    net.call(CLIENT, vec![1; 100], 0);
    net.run_until(SECOND, |net| net.ended(CLIENT) == 1);
    let (now, client) = (net.now, net.hosts[CLIENT].session);
    net.hosts[CLIENT].endpoint.close(now, client);
    net.record();
    net.pump(CLIENT);
    net.run_until(SECOND, |net| net.hosts[CLIENT].endpoint.session_count() == 0);
    assert_eq!(net.hosts[SERVER].closed, Some(CloseReason::Peer));
    let said: Vec<_> = net
        .recorded_to(CLIENT)
        .iter()
        .map(|packet| Control::parse(packet).unwrap().0.body)
        .collect();
    assert_eq!(said, [ControlBody::Cancel(CancelCode::Confirmed)]);
    assert_eq!(net.recorded_to(SERVER).len(), 1);
}
