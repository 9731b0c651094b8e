//! The hosts to compare with: streams, in a network as they like it.

use std::rc::Rc;

use smt_proto::Time;

use super::drive::Transport;
use super::journal::{Entry, Journal};
use crate::net::{NetConfig, Spread};
use crate::packet::HostId;
use crate::stream::{StreamConfig, StreamHost};

/// Bytes waiting at a port from which on packets are marked, per Gb/s of the hosts' links: 65 full
/// packets at 10 Gb/s, as the authors of DCTCP advise.
const MARK_BYTES_PER_GBPS: f64 = 65.0 * 1538.0 / 10.0;
/// At most this part of a buffer is used before packets are marked.
const MARK_AT_MOST: f64 = 0.25;

/// The same network, with marks, and with each connection on one path, for streams take packets
/// that overtake each other for losses.
pub fn network(net: &NetConfig) -> NetConfig {
    let mark = MARK_BYTES_PER_GBPS * net.link_gbps;
    let mark = mark.min(f64::from(net.buffer_bytes) * MARK_AT_MOST);
    NetConfig { mark_bytes: mark as u32, spread: Spread::Flow, trim: false, ..net.clone() }
}

/// A host for each of the network's.
pub fn hosts(net: &NetConfig) -> Vec<StreamHost> {
    let hosts = net.hosts();
    (0..hosts).map(|me| StreamHost::new(me, hosts, StreamConfig::default())).collect()
}

/// Segments sent again, by all hosts.
pub fn retransmitted(hosts: &[StreamHost]) -> u64 {
    hosts.iter().map(StreamHost::retransmissions).sum()
}

impl Transport for StreamHost {
    const ANSWERS: bool = false;

    fn send(&mut self, now: Time, to: HostId, bytes: u32, message: u64) {
        StreamHost::send(self, now, to, bytes, message);
    }

    fn take(hosts: &mut [Self], _: &Rc<Journal>, into: &mut Vec<Entry>) {
        into.clear();
        for host in hosts {
            while let Some(delivered) = host.next_delivered() {
                into.push(Entry::Arrived { message: delivered.message, at: delivered.at });
            }
        }
    }
}
