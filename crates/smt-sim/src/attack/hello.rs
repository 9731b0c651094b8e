//! First flights that servers take for the beginning of a handshake.

use smt_proto::wire::{Data, Header};

use super::forge;
use crate::packet::HostId;
use crate::rng::Rng;

/// Payload of each packet, in bytes.
const SEGMENT: usize = 1400;
/// Length of the flight announced by those who never mean to send it all, in bytes.
const ENDLESS: u32 = 1 << 16;

/// The packets of flight 0 of a new handshake of these hosts, client first, between these ports; a
/// part of them, sometimes.
pub(super) fn first_flight(
    (client, server): (HostId, HostId),
    (src_port, dst_port): (u16, u16),
    token: u64,
    rng: &mut Rng,
) -> Vec<Vec<u8>> {
    let padding = if rng.chance(0.5) { 1000 } else { 0 };
    let mut flight = forge::params(rng).emit(padding);
    flight.extend_from_slice(&hello(client, server, rng));
    let whole = rng.chance(0.7);
    let len = u32::try_from(flight.len()).unwrap_or(ENDLESS);
    let message_len = if whole { len } else { rng.between(len.into(), ENDLESS.into()) as u32 };
    let mut sequence = 0;
    let mut packets = Vec::new();
    for payload in flight.chunks(SEGMENT) {
        let data = Data {
            header: Header { src_port, dst_port, epoch: 0, message_id: 0 },
            sequence,
            record_size: 0,
            segment_size: SEGMENT as u16,
            message_len,
            incoming: message_len,
            tag: token,
            cutoffs: 0,
            retransmit: false,
            explicit: true,
            pinned: false,
            bundle: false,
            tso_offset: 0,
        };
        packets.push(forge::data_packet(&data, payload));
        sequence += payload.len() as u32;
    }
    if !whole {
        packets.truncate(1);
    }
    packets
}

/// How the hosts' stand-in for TLS begins; it takes no secret.
fn hello(client: HostId, server: HostId, rng: &mut Rng) -> Vec<u8> {
    let len = rng.between(32, 1800);
    let nonce = forge::noise(len, rng);
    [&b"helo"[..], &client.to_be_bytes(), &server.to_be_bytes(), &nonce].concat()
}

#[cfg(test)]
mod tests {
    use smt_proto::wire::{DATA_LEN, Params};

    use super::*;

    #[test]
    fn whole_first_flights_are_parameters_and_a_hello_of_the_hosts_named() {
        let mut rng = Rng::new(1);
        let (mut whole, mut cut) = (0, 0);
        for _ in 0..100 {
            let packets = first_flight((2, 1), (40_000, 4433), 9, &mut rng);
            let mut flight = Vec::new();
            let mut message_len = 0;
            for packet in &packets {
                let data = Data::parse(packet).unwrap();
                assert_eq!((data.tag, data.sequence as usize), (9, flight.len()));
                flight.extend_from_slice(&packet[DATA_LEN..]);
                message_len = data.message_len as usize;
            }
            if flight.len() < message_len {
                cut += 1;
                continue;
            }
            whole += 1;
            let (_, len) = Params::parse(&flight).unwrap();
            assert!(flight[len..].starts_with(b"helo\0\0\0\x02\0\0\0\x01"));
            assert!(flight.len() >= len + 12 + 32);
        }
        assert!(whole > 30 && cut > 10);
    }
}
