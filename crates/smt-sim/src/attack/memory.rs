//! What an attacker has recorded.

use crate::packet::Packet;
use crate::rng::Rng;

/// A fair sample of all packets shown to it, bounded.
#[derive(Debug)]
pub(super) struct Memory {
    kept: Vec<Packet>,
    room: usize,
    shown: u64,
}

impl Memory {
    pub(super) fn new(room: usize) -> Self {
        Memory { kept: Vec::new(), room, shown: 0 }
    }

    /// Shows it a packet. Each of the n shown so far is kept with the same probability.
    pub(super) fn show(&mut self, packet: &Packet, rng: &mut Rng) {
        self.shown += 1;
        if self.kept.len() < self.room {
            self.kept.push(packet.clone());
        } else if let Some(place) = self.kept.get_mut(rng.below(self.shown) as usize) {
            place.clone_from(packet);
        }
    }

    /// Any of those kept.
    pub(super) fn any(&self, rng: &mut Rng) -> Option<&Packet> {
        rng.pick(&self.kept)
    }

    /// Any of those kept that are fit, looking at a few.
    pub(super) fn any_fit(&self, rng: &mut Rng, fit: impl Fn(&Packet) -> bool) -> Option<&Packet> {
        (0..8).find_map(|_| rng.pick(&self.kept).filter(|packet| fit(packet)))
    }
}
