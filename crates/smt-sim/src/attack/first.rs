//! First flights and the early data behind them, remembered, and offers of early data, changed.

use std::collections::VecDeque;

use smt_proto::wire::DATA_LEN;

use super::sight::Sight;
use crate::packet::{HostId, Packet};
use crate::rng::Rng;

/// The most first flights that are remembered.
const FLIGHTS: usize = 24;
/// The most packets of one.
const PACKETS: usize = 12;
/// Types of the entries of parameter blocks that are about early data: offer, answer.
const ENTRIES: [u16; 2] = [9, 10];

/// Whose flight it is: client, server, ports.
type Place = (HostId, HostId, [u8; 4]);

/// First flights of clients, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Firsts(VecDeque<(Place, Vec<Packet>)>);

impl Firsts {
    /// Shows it a packet: one of flight 0, or of early data of a client whose flight 0 was shown.
    pub(super) fn show(&mut self, packet: &Packet, sight: &Sight) {
        let Sight::Data(data) = sight else { return };
        let ports = packet.bytes.first_chunk().copied().unwrap_or_default();
        let place = (packet.src, packet.dst, ports);
        let known = self.0.iter_mut().find(|(known, _)| *known == place);
        match (data.header.epoch, data.header.message_id, known) {
            (0, 0, None) => {
                self.0.push_back((place, vec![packet.clone()]));
                if self.0.len() > FLIGHTS {
                    self.0.pop_front();
                }
            }
            (0, 0, Some((_, packets))) | (1, _, Some((_, packets))) if packets.len() < PACKETS => {
                packets.push(packet.clone());
            }
            _ => {}
        }
    }

    /// The packets of any of them.
    pub(super) fn any(&self, rng: &mut Rng) -> Vec<Packet> {
        let chosen = self.0.get(rng.below(self.0.len() as u64) as usize);
        chosen.map(|(_, packets)| packets.clone()).unwrap_or_default()
    }
}

/// The first packet of flight 0 or 1 with its offer or answer changed: a byte of it, or its type, or an
/// answer put where there is none. `None` if there is nothing to change.
pub(super) fn alter_offer(packet: &[u8], rng: &mut Rng) -> Option<Vec<u8>> {
    let block = packet.get(DATA_LEN..)?;
    let end = 2 + usize::from(u16::from_be_bytes(*block.first_chunk()?));
    let mut at = 4;
    while at + 4 <= end.min(block.len()) {
        let word = |at: usize| Some(u16::from_be_bytes([*block.get(at)?, *block.get(at + 1)?]));
        let (kind, len) = (word(at)?, usize::from(word(at + 2)?));
        if ENTRIES.contains(&kind) {
            let mut changed = packet.to_vec();
            let place = match rng.below(4) {
                // Another type, which nobody knows.
                0 => DATA_LEN + at,
                _ => DATA_LEN + at + 4 + rng.below(len as u64) as usize,
            };
            *changed.get_mut(place)? ^= 1 << rng.below(8);
            return Some(changed);
        }
        at += 4 + len;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::samples::flight;
    use super::super::sight::see;
    use super::*;
    use smt_proto::wire::{Block, Params};

    #[test]
    fn flights_are_remembered_whole_and_bounded() {
        let mut firsts = Firsts::default();
        for port in 0..100u16 {
            for number in [0, 0, 1, 2] {
                let mut packet = flight(7, number);
                packet.bytes[..2].copy_from_slice(&(port + 1).to_be_bytes());
                firsts.show(&packet, &see(&packet.bytes).unwrap());
            }
        }
        assert_eq!(firsts.0.len(), FLIGHTS);
        assert!(firsts.0.iter().all(|(_, packets)| packets.len() == 2));
        assert_eq!(firsts.any(&mut Rng::new(1)).len(), 2);
    }

    #[test]
    fn only_the_offer_changes() {
        let params = Params {
            id_bits: 48,
            first_id: 4,
            max_rpcs: 9,
            max_message: 1000,
            unscheduled: 100,
            wake_delay_us: 0,
            max_id_bits: 56,
            wants: 0,
            lanes: 1,
        };
        let offer: Option<&[u8]> = Some(&[7; 60]);
        let mut packet = flight(7, 0).bytes;
        assert_eq!(alter_offer(&packet[..DATA_LEN + 1], &mut Rng::new(1)), None);
        packet.truncate(DATA_LEN);
        packet.extend_from_slice(&Block { params, offer, answer: None }.emit(0));
        let mut rng = Rng::new(2);
        for _ in 0..100 {
            let changed = alter_offer(&packet, &mut rng).unwrap();
            let differ = changed.iter().zip(&packet).filter(|(a, b)| a != b).count();
            assert_eq!((changed.len(), differ), (packet.len(), 1));
        }
        let bare = Block { params, offer: None, answer: None }.emit(0);
        packet.truncate(DATA_LEN);
        packet.extend_from_slice(&bare);
        assert_eq!(alter_offer(&packet, &mut rng), None);
    }
}
