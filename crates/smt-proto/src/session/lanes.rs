//! Lanes: what lets the RPCs of one session be handled by several cores (spec 3.5). A lane has IDs, keys,
//! windows and limits of its own; here is which IDs are whose, and what of the session's limits each has.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{Path, Role, SessionId, Updates};
use crate::crypto::Suite;
use crate::keys::Secret;
use crate::limits::Limits;
use crate::wire::{PREAMBLE_LEN, Params};

/// Most bytes of a session's incoming messages that one of several lanes has for itself. The rest is in
/// a pool for messages that are larger than that.
const MAX_OWN: u64 = 1 << 20;

/// Which of its session's lanes a lane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    index: u8,
    /// Binary logarithm of how many there are.
    bits: u8,
}

impl Lane {
    /// The one lane of a session that has no others.
    pub(crate) const ONLY: Lane = Lane { index: 0, bits: 0 };

    /// Lane `index` of `count`, a power of two.
    pub(crate) fn new(index: u8, count: u8) -> Lane {
        Lane { index, bits: count.trailing_zeros() as u8 & 7 }
    }

    pub(crate) fn index(self) -> u8 {
        self.index
    }

    /// How many lanes the session has.
    pub(crate) fn count(self) -> u8 {
        1 << self.bits
    }

    pub(crate) fn is_only(self) -> bool {
        self.bits == 0
    }

    fn mask(self) -> u64 {
        (1 << self.bits) - 1
    }

    /// The ID that names this lane itself.
    pub(crate) fn own_id(self) -> u64 {
        u64::from(self.index) << 2
    }

    /// The lane that a message ID belongs to.
    #[inline]
    pub(crate) fn of_id(self, id: u64) -> u8 {
        (id >> 2 & self.mask()) as u8
    }

    /// The place of RPC 0 of lane 0, from the first ID: a multiple of the number of lanes.
    #[inline]
    fn base(self, first_id: u64) -> u64 {
        ((first_id >> 2) + self.mask()) & !self.mask()
    }

    /// The request ID of RPC `number` of this lane, from the first ID of its initiator.
    #[inline]
    pub(crate) fn request_id(self, first_id: u64, number: u64) -> u64 {
        let place = number.saturating_mul(1 << self.bits).saturating_add(u64::from(self.index));
        let id = self.base(first_id).saturating_add(place).saturating_mul(4);
        id | first_id & 3
    }

    /// Which RPC of this lane has this request ID, if one has.
    #[inline]
    pub(crate) fn number_of(self, first_id: u64, request_id: u64) -> Option<u64> {
        let place = (request_id >> 2).checked_sub(self.base(first_id))?;
        let is_ours =
            request_id & 3 == first_id & 3 && place & self.mask() == u64::from(self.index);
        is_ours.then_some(place >> self.bits)
    }

    /// The number of RPC `number` of this lane among those of all lanes.
    pub(crate) fn global(self, number: u64) -> u64 {
        number << self.bits | u64::from(self.index)
    }

    /// Which lane RPC `number` of all is in, and its number there.
    pub(crate) fn local(self, number: u64) -> (u8, u64) {
        ((number & self.mask()) as u8, number >> self.bits)
    }

    /// This lane's part of what the session may have in all: the parts of all lanes make up the whole.
    #[inline]
    pub(crate) fn share(self, total: u64) -> u64 {
        (total >> self.bits) + u64::from(u64::from(self.index) < total & self.mask())
    }

    /// Bytes of incoming messages that each lane has for itself, and the session's pool beside that.
    fn incoming(self, limits: &Limits) -> (u64, u64) {
        let total = limits.max_incoming_bytes;
        if self.is_only() {
            return (total, 0);
        }
        // What one message takes at most stays in the pool: the peer may have asked for the lanes, and is
        // told no less that it may send than if there were one.
        let largest = u64::from(limits.max_message) + PREAMBLE_LEN as u64;
        let spare = total.saturating_sub(largest).min(total / 2);
        let own = (spare >> self.bits).min(MAX_OWN);
        (own, total - (own << self.bits))
    }
}

/// Bytes of incoming messages that the lanes of a session share beyond what each has for itself: all
/// that any two of them change together. Only messages of more than [`MAX_OWN`] bytes, or many of them,
/// come to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool(Arc<AtomicU64>);

impl Pool {
    fn new(bytes: u64) -> Pool {
        Pool(Arc::new(AtomicU64::new(bytes)))
    }

    /// Takes `bytes` out, if they are there.
    fn take(&self, bytes: u64) -> bool {
        let less = |left: u64| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a lane holds of incoming messages, in bytes, against its part of `max_incoming_bytes`.
#[derive(Debug)]
pub(crate) struct Incoming {
    held: u64,
    own: u64,
    /// Taken from the pool; whatever `held` exceeds `own` by, at least.
    borrowed: u64,
    pool: Option<Pool>,
}

impl Incoming {
    /// For a session of one lane.
    pub(crate) fn new(limits: &Limits) -> Incoming {
        Incoming { held: 0, own: limits.max_incoming_bytes, borrowed: 0, pool: None }
    }

    /// For one of several lanes; nothing may be held.
    pub(crate) fn pooled(lane: Lane, limits: &Limits, pool: Pool) -> Incoming {
        let (own, _) = lane.incoming(limits);
        Incoming { held: 0, own, borrowed: 0, pool: Some(pool) }
    }

    /// Whether `more` bytes may be charged next; what they need of the pool is taken.
    pub(crate) fn make_room(&mut self, more: u64) -> bool {
        let beyond = (self.held + more).saturating_sub(self.own);
        let Some(missing) = beyond.checked_sub(self.borrowed).filter(|missing| *missing > 0) else {
            return true;
        };
        let taken = self.pool.as_ref().is_some_and(|pool| pool.take(missing));
        self.borrowed += if taken { missing } else { 0 };
        taken
    }

    /// Charges what [`make_room`](Self::make_room) allowed.
    pub(crate) fn charge(&mut self, bytes: u64) {
        self.held += bytes;
    }

    pub(crate) fn release(&mut self, bytes: u64) {
        self.held -= bytes;
        self.give_back();
    }

    /// Returns to the pool what is not needed.
    pub(crate) fn give_back(&mut self) {
        if self.borrowed == 0 {
            return;
        }
        let back = self.borrowed - self.borrowed.min(self.held.saturating_sub(self.own));
        if back > 0 {
            self.borrowed -= back;
            if let Some(pool) = &self.pool {
                pool.give(back);
            }
        }
    }

    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Becomes one of several lanes' before the others are made; the pool they share.
    pub(crate) fn share(&mut self, lane: Lane, limits: &Limits) -> Pool {
        let (own, pool) = lane.incoming(limits);
        // What early data holds beyond its own part it has of the pool.
        let borrowed = self.held.saturating_sub(own).min(pool);
        let pool = Pool::new(pool - borrowed);
        *self = Incoming { held: self.held, own, borrowed, pool: Some(pool.clone()) };
        pool
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.held = 0;
        self.give_back();
    }
}

/// The lanes of one session that live in one endpoint, kept by the first of them.
pub(crate) struct Family {
    /// All of them in ascending order, the first one included.
    pub(crate) lanes: Vec<SessionId>,
    /// Which one the next call is offered to first.
    pub(crate) turn: usize,
    /// For the other endpoints, until it is fetched.
    pub(crate) handed: Option<Box<Lanes>>,
}

/// What another endpoint (shard) of this host needs to work on its lanes of a session: get it by
/// [`Endpoint::take_lanes`](crate::Endpoint::take_lanes), give it to
/// [`Endpoint::add_lanes`](crate::Endpoint::add_lanes) of each other shard. Holds secrets, which are
/// wiped when it is dropped.
#[derive(Clone)]
pub struct Lanes {
    pub(crate) path: Path,
    pub(crate) role: Role,
    pub(crate) suite: &'static dyn Suite,
    pub(crate) client: Secret,
    pub(crate) server: Secret,
    pub(crate) local: Params,
    pub(crate) peer: Params,
    pub(crate) room: usize,
    pub(crate) updates: Updates,
    pub(crate) pool: Pool,
}

impl Lanes {
    /// The 5-tuple of the session.
    #[must_use]
    pub fn path(&self) -> Path {
        self.path
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MAX_FIRST_ID;
    use proptest::prelude::*;

    fn lane() -> impl Strategy<Value = Lane> {
        (0..=6u8).prop_flat_map(|bits| (0..1u8 << bits).prop_map(move |index| Lane { index, bits }))
    }

    proptest! {
        #[test]
        fn every_id_belongs_to_one_rpc_of_one_lane(
            bits in 0..=6u8, first in 4..=MAX_FIRST_ID, number in 0..1u64 << 40,
        ) {
            let (first, zero) = (first & !1, Lane { index: 0, bits });
            let all = |id: u64| {
                (0..1u8 << bits)
                    .filter_map(|index| Some((index, Lane { index, bits }.number_of(first, id)?)))
                    .collect::<Vec<_>>()
            };
            for index in 0..1u8 << bits {
                let lane = Lane { index, bits };
                let id = lane.request_id(first, number);
                prop_assert_eq!(all(id), [(index, number)]);
                prop_assert_eq!(all(id ^ 2), [], "the other role's");
                prop_assert_eq!(all(id | 1), [], "a response");
                // What filters look at, whatever of the session they know.
                for coarser in 0..=bits {
                    let seen = Lane { index: 0, bits: coarser }.of_id(id);
                    prop_assert_eq!(seen, index & ((1 << coarser) - 1));
                }
                prop_assert_eq!(lane.of_id(lane.own_id()), index);
                prop_assert!(lane.own_id() < zero.request_id(first, 0));
            }
            // From the first RPC on, each ID of this role is somebody's.
            let start = zero.request_id(first, 0);
            let mut ids = (start..).step_by(4).take(200);
            prop_assert!(ids.all(|id| all(id).len() == 1));
        }

        #[test]
        fn numbers_of_the_session_are_those_of_its_lanes(lane in lane(), number in 0..1u64 << 50) {
            prop_assert_eq!(lane.local(lane.global(number)), (lane.index, number));
        }

        #[test]
        fn shares_make_up_the_whole(bits in 0..=6u8, total: u64) {
            let sum: u128 = (0..1u8 << bits)
                .map(|index| u128::from(Lane { index, bits }.share(total)))
                .sum();
            prop_assert_eq!(sum, u128::from(total));
        }

        #[test]
        fn lanes_never_hold_more_than_the_session_may(
            bits in 1..=3u8, total in 0..64u64 << 20,
            steps in proptest::collection::vec((any::<u8>(), 0..8u64 << 20, any::<bool>()), 1..60),
        ) {
            let limits = Limits { max_incoming_bytes: total, ..Limits::default() };
            let lane = |index| Lane { index, bits };
            let mut first = Incoming::new(&limits);
            let pool = first.share(lane(0), &limits);
            let others = (1..1u8 << bits).map(|i| Incoming::pooled(lane(i), &limits, pool.clone()));
            let mut lanes: Vec<_> = core::iter::once(first).chain(others).collect();
            let whole = pool.0.load(Ordering::Relaxed);
            for (at, bytes, take) in steps {
                let at = usize::from(at) % lanes.len();
                let lane = &mut lanes[at];
                if !take {
                    lane.release(lane.held());
                } else if lane.make_room(bytes) {
                    lane.charge(bytes);
                }
                let held: u64 = lanes.iter().map(Incoming::held).sum();
                prop_assert!(held <= total);
            }
            drop(lanes);
            prop_assert_eq!(pool.0.load(Ordering::Relaxed), whole, "all came back");
        }
    }

    #[test]
    fn one_lane_is_as_if_there_were_none() {
        for first in [4, 6, 1002, MAX_FIRST_ID & !1] {
            for number in [0, 1, 77, 1 << 40] {
                assert_eq!(Lane::ONLY.request_id(first, number), first + 4 * number);
                assert_eq!(Lane::ONLY.number_of(first, first + 4 * number), Some(number));
            }
            assert_eq!(Lane::ONLY.number_of(first, first - 4), None);
        }
        assert_eq!((Lane::ONLY.own_id(), Lane::ONLY.share(77), Lane::ONLY.count()), (0, 77, 1));
        assert!(Incoming::new(&Limits::default()).pool.is_none());
    }

    #[derive(serde::Deserialize)]
    struct Vectors {
        ids: Vec<Vector>,
    }

    #[derive(serde::Deserialize)]
    struct Vector {
        first_id: u64,
        lanes: u8,
        lane: u8,
        number: u64,
        request_id: u64,
    }

    #[test]
    fn ids_are_those_of_the_vectors() {
        let text = include_str!("../../../../testdata/lanes.json");
        let Vectors { ids } = serde_json::from_str(text).unwrap();
        assert!(!ids.is_empty());
        for v in ids {
            let lane = Lane::new(v.lane, v.lanes);
            assert_eq!(lane.request_id(v.first_id, v.number), v.request_id);
            assert_eq!(lane.number_of(v.first_id, v.request_id), Some(v.number));
        }
    }

    #[test]
    fn a_large_message_fits_whatever_the_number_of_lanes() {
        let (defaults, largest) = (Limits::default(), 20_000 + PREAMBLE_LEN as u64);
        let tight = Limits { max_message: 20_000, max_incoming_bytes: largest, ..defaults };
        for (limits, bits) in (1..=6).flat_map(|bits| [(defaults, bits), (tight, bits)]) {
            let mut lane = Incoming::new(&limits);
            let pool = lane.share(Lane { index: 0, bits }, &limits);
            let bytes = u64::from(limits.max_message) + PREAMBLE_LEN as u64;
            assert!(lane.make_room(bytes), "{bits}");
            drop(lane);
            let mut other = Incoming::pooled(Lane { index: 1, bits }, &limits, pool);
            assert!(other.make_room(bytes), "{bits}");
        }
    }
}
