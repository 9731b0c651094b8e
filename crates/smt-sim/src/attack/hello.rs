//! First flights that servers take for the beginning of a handshake.

use smt_proto::wire::{DATA_LEN, Data, Header, Params};

use super::forge;
use crate::rng::Rng;

/// Payload of each packet, in bytes.
const SEGMENT: usize = 1400;
/// Length of the flight announced by those who never mean to send it all, in bytes.
const ENDLESS: u32 = 1 << 16;

/// The packets of flight 0 of a new handshake between these ports; a part of them, sometimes.
pub(super) fn first_flight(
    src_port: u16,
    dst_port: u16,
    token: u64,
    rng: &mut Rng,
) -> Vec<Vec<u8>> {
    let padding = if rng.chance(0.5) { 1000 } else { 0 };
    let mut flight = params(rng).emit(padding);
    flight.extend_from_slice(&client_hello(rng));
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
            tso_offset: 0,
        };
        packets.push(forge::data_packet(&data, payload));
        sequence += (packets.last().map_or(DATA_LEN, Vec::len) - DATA_LEN) as u32;
    }
    if !whole {
        packets.truncate(1);
    }
    packets
}

fn params(rng: &mut Rng) -> Params {
    Params {
        id_bits: 48,
        first_id: 4 + 4 * rng.below(1 << 36),
        max_rpcs: 1 << rng.below(32),
        max_message: 1 << rng.below(32),
        unscheduled: 1 << rng.below(32),
        wake_delay_us: rng.below(1000) as u32,
        max_id_bits: 56,
    }
}

/// A ClientHello of TLS 1.3 in its record: all suites, X25519, ALPN `smt/1`, a server's name.
fn client_hello(rng: &mut Rng) -> Vec<u8> {
    let share = forge::noise(32, rng);
    let extensions = [
        extension(0, &vec16(&[&[0][..], &vec16(b"server.test")].concat())),
        extension(10, &vec16(&[0x00, 0x1d])),
        extension(13, &vec16(&[0x08, 0x07, 0x04, 0x03, 0x05, 0x03, 0x08, 0x04])),
        extension(16, &vec16(&[&[5][..], b"smt/1"].concat())),
        extension(43, &[2, 0x03, 0x04]),
        extension(51, &vec16(&[&[0x00, 0x1d][..], &vec16(&share)].concat())),
    ]
    .concat();
    let body = [
        &[0x03, 0x03][..],
        &forge::noise(32, rng),
        &[32],
        &forge::noise(32, rng),
        &vec16(&[0x13, 0x01, 0x13, 0x02, 0x13, 0x03]),
        &[1, 0],
        &vec16(&extensions),
    ]
    .concat();
    let message = [&[1, 0][..], &vec16(&body)].concat();
    [&[22, 3, 1][..], &vec16(&message)].concat()
}

/// Bytes behind their length in 16 bits.
fn vec16(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vec16(value)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_flight_is_parameters_and_a_client_hello() {
        let mut rng = Rng::new(1);
        let (mut whole, mut cut) = (0, 0);
        for _ in 0..100 {
            let packets = first_flight(40_000, 4433, 9, &mut rng);
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
            let hello = &flight[len..];
            assert_eq!(usize::from(u16::from_be_bytes([hello[3], hello[4]])), hello.len() - 5);
            assert_eq!(usize::from(u16::from_be_bytes([hello[7], hello[8]])), hello.len() - 9);
        }
        assert!(whole > 30 && cut > 10);
    }
}
