//! Messages in segments that a device cuts into packets, or loses.

mod net;

use std::time::Duration;

use net::{CLIENT, Net, Nic, SERVER, Seeded};
use smt_proto::{Config, Limits, Stats};

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: usize = 65_515;

fn net(seed: u64, nic: Nic) -> Net {
    let mut net = Net::new(seed, Config::default());
    net.nic = nic;
    limit(&mut net, LIMIT);
    net
}

fn limit(net: &mut Net, bytes: usize) {
    for host in [CLIENT, SERVER] {
        let session = net.hosts[host].session;
        net.hosts[host].endpoint.set_segment_limit(session, bytes);
    }
}

fn stats(net: &Net, host: usize) -> Stats {
    *net.hosts[host].endpoint.stats()
}

/// Calls, and has the same bytes back.
fn echo(net: &mut Net, user: u64, len: usize) {
    let body = Seeded(user).bytes(len);
    net.call(CLIENT, body.clone(), user);
    net.run_until(20 * SECOND, |net| net.hosts[CLIENT].ended.contains_key(&user));
    assert!(net.hosts[CLIENT].ended[&user] == Ok(body), "{len} bytes");
    // Responses are acknowledged with later calls, or when their sender asks.
    net.run_for(SECOND / 10);
}

#[test]
fn one_segment_is_tried_then_messages_leave_in_few() {
    for nic in [Nic::CountsIds, Nic::CountsSequence, Nic::Whole] {
        let mut net = net(1, nic);
        echo(&mut net, 1, 500);
        assert_eq!(stats(&net, CLIENT).tso_segments_sent, 0, "one packet is no segment");
        echo(&mut net, 2, 60_000);
        for host in [CLIENT, SERVER] {
            let stats = stats(&net, host);
            assert_eq!((stats.tso_segments_sent, stats.tso_confirmed), (1, 1), "{nic:?}");
            assert_eq!(stats.packets_retransmitted, 0);
        }
        let before = stats(&net, CLIENT);
        echo(&mut net, 3, 60_000);
        let after = stats(&net, CLIENT);
        assert_eq!(after.tso_segments_sent - before.tso_segments_sent, 2, "{nic:?}");
        assert_eq!(after.records_sealed - before.records_sealed, 4, "of 15 708 bytes each");
        for (user, len) in (10..).zip([1400, 1401, 2900, 15_000, 15_700, 16_000, 70_000, 3_000_000])
        {
            echo(&mut net, user, len);
        }
        for host in [CLIENT, SERVER] {
            let stats = stats(&net, host);
            assert_eq!((stats.packets_retransmitted, stats.tso_segments_lost), (0, 0), "{nic:?}");
            assert_eq!(stats.dropped_malformed, 0, "{nic:?}");
        }
        net.assert_clean();
    }
}

#[test]
fn a_device_that_loses_segments_is_left_alone_for_longer_and_longer() {
    for nic in [Nic::Drops, Nic::CountsNothing] {
        let mut net = net(2, nic);
        for user in 0..20 {
            echo(&mut net, user, 30_000);
        }
        for host in [CLIENT, SERVER] {
            let stats = stats(&net, host);
            // Two of the first few, and one of each try since: after a second, and two more.
            assert_eq!(stats.tso_segments_lost, stats.tso_given_up + 1, "{nic:?}");
            assert!((1..=2).contains(&stats.tso_given_up), "{nic:?}");
            assert_eq!((stats.tso_confirmed, stats.tso_segments_spurious), (0, 0), "{nic:?}");
            assert_eq!(stats.records_not_authentic, 0, "bytes keep their places");
        }
        assert!(stats(&net, CLIENT).tso_segments_sent <= 4);
        for user in 20..40 {
            net.run_for(10 * SECOND);
            echo(&mut net, user, 30_000);
        }
        let given_up = stats(&net, CLIENT).tso_given_up;
        assert!(given_up <= 8, "{given_up}");
        net.nic = Nic::CountsIds;
        net.run_for(120 * SECOND);
        echo(&mut net, 40, 30_000);
        let sent = stats(&net, CLIENT).tso_segments_sent;
        echo(&mut net, 41, 30_000);
        assert_eq!(stats(&net, CLIENT).tso_confirmed, 1, "{nic:?}");
        assert_eq!(stats(&net, CLIENT).tso_segments_sent, sent + 1);
        net.assert_clean();
    }
}

#[test]
fn a_message_keeps_its_records_when_device_or_path_change() {
    for change in 0..3 {
        let mut net = net(3, Nic::CountsIds);
        echo(&mut net, 1, 60_000);
        let body = Seeded(9).bytes(1_000_000);
        net.call(CLIENT, body.clone(), 2);
        net.run_for(Duration::from_micros(150));
        let sent = stats(&net, CLIENT).tso_segments_sent;
        assert!(sent > 1 && net.ended(CLIENT) == 1, "in the middle");
        match change {
            0 => limit(&mut net, 0),
            1 => net.nic = Nic::Drops,
            _ => {
                let session = net.hosts[CLIENT].session;
                net.hosts[CLIENT].endpoint.set_room(session, 700);
            }
        }
        net.run_until(20 * SECOND, |net| net.ended(CLIENT) == 2);
        assert!(net.hosts[CLIENT].ended[&2] == Ok(body));
        let more = stats(&net, CLIENT).tso_segments_sent - sent;
        assert!(more <= [0, 8, 0][change], "{more} more");
        net.assert_clean();
    }
}

#[test]
fn segments_hold_to_grants_pacing_and_the_limit() {
    let limits = Limits { unscheduled: 20_000, ..Limits::default() };
    let mut net = Net::new(4, Config { limits, ..Config::default() });
    net.nic = Nic::CountsIds;
    limit(&mut net, LIMIT);
    for user in 0..3 {
        echo(&mut net, user, 60_000);
    }
    net.record();
    net.call(CLIENT, vec![7; 200_000], 9);
    let bytes: usize = net.recorded_to(SERVER).iter().map(|packet| packet.len() - 52).sum();
    assert!((20_000..20_000 + 1428).contains(&bytes), "{bytes} without a grant");
    net.run_until(20 * SECOND, |net| net.hosts[CLIENT].ended.contains_key(&9));
    net.run_for(SECOND);
    limit(&mut net, 8000);
    let before = stats(&net, CLIENT);
    net.call(CLIENT, vec![7; 10_000], 10);
    net.run_until(20 * SECOND, |net| net.hosts[CLIENT].ended.contains_key(&10));
    let after = stats(&net, CLIENT);
    assert_eq!(after.tso_segments_sent - before.tso_segments_sent, 2);
    assert_eq!(after.records_sealed - before.records_sealed, 8, "as no larger record fits");
    limit(&mut net, LIMIT);
    net.hosts[CLIENT].endpoint.set_backlog(net.now, 31_000);
    let before = stats(&net, CLIENT);
    net.call(CLIENT, vec![7; 19_000], 11);
    net.call(CLIENT, vec![8; 19_000], 12);
    let after = stats(&net, CLIENT);
    assert_eq!(after.tso_segments_sent - before.tso_segments_sent, 2);
    assert_eq!(after.pacing_stalls, before.pacing_stalls + 1, "the rest waits");
}

#[test]
fn forged_and_repeated_packets_neither_end_nor_begin_it() {
    const RESEND: u8 = 0x12;
    let mut net = net(5, Nic::Drops);
    echo(&mut net, 1, 500);
    net.record();
    echo(&mut net, 2, 30_000);
    let resend = net.recorded_to(CLIENT).into_iter().find(|packet| packet[11] == RESEND).unwrap();
    assert_eq!(stats(&net, CLIENT).tso_segments_lost, 1);
    // A second segment is on its way; one more that is lost would be the end of it.
    net.nic = Nic::CountsIds;
    net.record();
    net.call(CLIENT, vec![1; 30_000], 3);
    let request = net.recorded_to(SERVER).swap_remove(0);
    let before = stats(&net, CLIENT);
    assert_eq!(before.tso_segments_sent, 2);
    net.now = net.now + Duration::from_millis(2);
    net.inject(CLIENT, resend.clone());
    let mut forged = resend;
    forged[20..28].copy_from_slice(&request[20..28]);
    forged[28..36].copy_from_slice(&[0, 0, 0, 0, 0, 1, 0, 0]);
    for number in 1..100 {
        forged[43] = number;
        net.inject(CLIENT, forged.clone());
    }
    // The request, as if it were an answer to itself.
    let mut response = request;
    response[27] |= 1;
    net.inject(CLIENT, response);
    let after = stats(&net, CLIENT);
    assert_eq!((after.tso_segments_lost, after.tso_confirmed), (1, 0));
    net.run_until(20 * SECOND, |net| net.hosts[CLIENT].ended.contains_key(&3));
    let after = stats(&net, CLIENT);
    assert_eq!((after.tso_segments_lost, after.tso_confirmed, after.tso_given_up), (1, 1, 0));
}
