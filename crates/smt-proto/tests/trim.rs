//! Packets whose payload a switch cut off: their headers say at once what is missing (spec 6.3).

mod net;

use std::time::Duration;

use net::{CLIENT, Net, SERVER};
use smt_proto::Config;
use smt_proto::wire::DATA_LEN;

/// Sends a request of `size` bytes, of whose packets a switch trims those that `trims` names, and
/// hands over what is left of them. Returns the network and the trimmed headers.
fn trimmed(size: usize, trims: impl Fn(usize) -> bool) -> (Net, Vec<Vec<u8>>) {
    let mut net = Net::new(3, Config::default());
    net.run_for(Duration::from_millis(50));
    for user in 0..20 {
        // So that both ends know the round-trip time.
        net.call(CLIENT, vec![1], 100 + user);
        net.run_for(Duration::from_millis(1));
    }
    net.call(CLIENT, vec![7; size], 1);
    let mut headers = Vec::new();
    for (index, mut packet) in net.take_in_flight().into_iter().enumerate() {
        if trims(index) {
            packet.bytes.truncate(DATA_LEN);
            headers.push(packet.bytes.clone());
        }
        net.inject(packet.to, packet.bytes);
    }
    (net, headers)
}

#[test]
fn what_was_cut_off_is_asked_for_at_once() {
    for size in [100, 1366, 20_000] {
        let (mut net, headers) = trimmed(size, |_| true);
        let asked = net.hosts[SERVER].endpoint.stats();
        assert_eq!(asked.trimmed, headers.len() as u64);
        assert_eq!(asked.resends_sent, headers.len() as u64);
        // One round trip for the RESENDs and what they bring, one way for the response: no timer has
        // come up by then.
        let latency = net.latency;
        let start = net.now;
        net.run_until(Duration::from_millis(1), |net| net.hosts[CLIENT].ended.contains_key(&1));
        assert_eq!(net.now.since(start), latency * 3);
        assert_eq!(net.hosts[CLIENT].ended[&1].as_deref(), Ok(&vec![7; size][..]));
        net.assert_clean();
    }
}

#[test]
fn only_what_was_cut_off_comes_again() {
    let (mut net, headers) = trimmed(20_000, |index| index % 3 == 1);
    let before = net.hosts[CLIENT].endpoint.stats().packets_retransmitted;
    net.run_until(Duration::from_millis(1), |net| net.hosts[CLIENT].ended.contains_key(&1));
    let again = net.hosts[CLIENT].endpoint.stats().packets_retransmitted - before;
    assert_eq!(again, headers.len() as u64);
}

#[test]
fn a_trimmed_header_repeated_asks_once_a_round_trip() {
    let (mut net, headers) = trimmed(20_000, |index| index == 4);
    let asked = net.hosts[SERVER].endpoint.stats().resends_sent;
    for _ in 0..1000 {
        net.inject(SERVER, headers[0].clone());
    }
    assert_eq!(net.hosts[SERVER].endpoint.stats().resends_sent, asked);
    net.run_until(Duration::from_millis(1), |net| net.hosts[CLIENT].ended.contains_key(&1));
    net.inject(SERVER, headers[0].clone());
    assert_eq!(net.hosts[SERVER].endpoint.stats().resends_sent, asked);
    net.assert_clean();
}
