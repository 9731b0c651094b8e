//! What a peer tells about itself beside its messages: epochs, and which of its RPCs are finished
//! (spec 4.1, 6.6).

use super::{Role, Session, Which};
use crate::endpoint::Shared;
use crate::endpoint::deferred::Acks;
use crate::wire::{EARLY_EPOCH, Preamble};

impl Session {
    /// Learns what a preamble says beside its message. False: the peer contradicts itself.
    pub(super) fn on_preamble(&mut self, cx: &mut Shared, preamble: &Preamble, epoch: u32) -> bool {
        let opened = preamble.highest_peer_epoch;
        let current = self.keys.as_ref().filter(|_| epoch != EARLY_EPOCH);
        if opened > current.map_or(0, |keys| keys.send.current()) {
            return false;
        }
        if let Some(keys) = self.keys.as_deref_mut() {
            keys.send.peer_opened(opened);
            keys.receive.left(preamble.oldest_epoch);
        }
        if epoch != EARLY_EPOCH {
            self.note_oldest(preamble);
        } else if self.role == Role::Client || self.keys.is_some() {
            // A server has no calls before there are other keys, and its first ID may not be known yet.
            // Nor does epoch 1 say anything about calls that later keys may protect.
            return true;
        }
        match self.rpc_of(preamble.ack_floor) {
            Some(Which { ours: false, response: false, number }) => {
                let bitmap = preamble.ack_bitmap;
                let possible = self.acks_are_possible(number, bitmap)
                    || (epoch != EARLY_EPOCH && self.believe_acks(number, bitmap));
                if !possible {
                    return false;
                }
                if cx.deferred.acks.is_some() {
                    self.on_acks(cx, number, bitmap);
                } else {
                    cx.deferred.acks = Some(Acks { session: self.id, floor: number, bitmap });
                }
                true
            }
            _ => false,
        }
    }

    /// Whether the peer may say that its RPCs below `floor` and those in the bitmap above it are
    /// finished: what never came here cannot be.
    pub(crate) fn acks_are_possible(&self, floor: u64, bitmap: u64) -> bool {
        let mut fresh = self.fresh_acks(floor, bitmap);
        while fresh != 0 {
            if !self.seen.contains(floor + 1 + u64::from(fresh.trailing_zeros())) {
                return false;
            }
            fresh &= fresh - 1;
        }
        floor <= self.seen.floor()
    }

    /// The peer's RPCs below `floor` and those in the bitmap above it are finished, though not all came
    /// here: early calls may end without us (spec 5.7). They never run here then. False if the peer may
    /// not say so.
    pub(crate) fn believe_acks(&mut self, floor: u64, bitmap: u64) -> bool {
        let (base, fresh) = (self.seen.floor(), self.fresh_acks(floor, bitmap));
        let end = floor.saturating_add(65 - u64::from(fresh.leading_zeros()));
        let end = if fresh == 0 { floor } else { end };
        if !self.may_have_ended(end) {
            return false;
        }
        for number in base..floor {
            self.seen.insert(number);
        }
        let mut fresh = fresh;
        while fresh != 0 {
            self.seen.insert(floor + 1 + u64::from(fresh.trailing_zeros()));
            fresh &= fresh - 1;
        }
        true
    }

    /// Whether RPCs of the peer's below `end` may be finished that never came here.
    fn may_have_ended(&self, end: u64) -> bool {
        let ahead = end.saturating_sub(self.seen.floor());
        self.offered && ahead <= self.window()
    }

    /// The peer's RPCs `first..=last` are finished. False if it may not say so.
    pub(crate) fn on_acked_range(&mut self, cx: &mut Shared, first: u64, last: u64) -> bool {
        if first > last {
            return false;
        }
        if !self.seen.contains_all(first, last) {
            if !self.may_have_ended(last.saturating_add(1)) {
                return false;
            }
            for number in first..=last {
                self.seen.insert(number);
            }
        }
        self.responses_arrived(cx, |number| (first..=last).contains(&number));
        self.forget_range(cx, first..=last);
        true
    }

    /// The peer's RPCs below `floor` and those in the bitmap above it are finished.
    pub(crate) fn on_acks(&mut self, cx: &mut Shared, floor: u64, bitmap: u64) {
        let (old_floor, old_bitmap) = self.acked;
        let Some(moved) = floor.checked_sub(old_floor) else {
            // A preamble overtaken by a newer one.
            return;
        };
        let mut fresh = self.fresh_acks(floor, bitmap);
        self.responses_arrived(cx, |number| match number.checked_sub(floor) {
            Some(above) => (1..=64).contains(&above) && bitmap >> (above - 1) & 1 == 1,
            None => true,
        });
        if moved > self.inc.len() as u64 {
            self.forget_range(cx, 0..=floor.saturating_sub(1));
        } else {
            for number in old_floor..floor {
                self.forget(cx, number);
            }
        }
        while fresh != 0 {
            self.forget(cx, floor + 1 + u64::from(fresh.trailing_zeros()));
            fresh &= fresh - 1;
        }
        let known = if moved < 64 { old_bitmap >> moved } else { 0 };
        self.acked = (floor, bitmap | known);
    }

    /// The bits of a bitmap above `floor` that the last one did not have; none of an older one.
    fn fresh_acks(&self, floor: u64, bitmap: u64) -> u64 {
        let (old_floor, old_bitmap) = self.acked;
        match floor.checked_sub(old_floor) {
            Some(moved) if moved < 64 => bitmap & !(old_bitmap >> moved),
            Some(_) => bitmap,
            None => 0,
        }
    }
}
