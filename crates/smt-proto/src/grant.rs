//! Which incoming messages may send more, and how far (spec 6.2). The policy is shortest remaining
//! first with overcommitment; the mechanism (who sends the GRANT) is the session's.

use alloc::collections::BTreeMap;

use crate::session::SessionId;

/// Messages granted at once, those with the fewest bytes left.
const OVERCOMMIT: usize = 8;
/// The least a message may have outstanding, in bytes: below this a round trip per packet looms.
pub(crate) const MIN_WINDOW: u32 = 16 << 10;

/// A message that needs grants: its session and message ID.
pub(crate) type Granted = (SessionId, u64);

/// The grant scheduler of an endpoint.
#[derive(Debug)]
pub(crate) struct Granter {
    /// Bytes the datapath's buffer holds for us; halved by overruns, regained slowly.
    credit: u32,
    full_credit: u32,
    /// Bytes that peers were told they may send and that are not here yet, over all messages being
    /// received whose senders are not stalled.
    promised: u64,
    /// A message did not get all of its window for want of credit.
    starved: bool,
    /// The message that goes on although all credit is promised.
    reserve: Option<Granted>,
    /// By bytes left, then identity.
    active: BTreeMap<(u32, Granted), ()>,
}

/// What a message may be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Bytes it may have outstanding.
    pub(crate) outstanding: u32,
    /// The least move of its grant that is worth a GRANT, in bytes.
    pub(crate) step: u32,
}

impl Granter {
    /// A scheduler that never has more than `credit` bytes promised.
    pub(crate) fn new(credit: u32) -> Self {
        Granter {
            credit,
            full_credit: credit,
            promised: 0,
            starved: false,
            reserve: None,
            active: BTreeMap::new(),
        }
    }

    /// Enters or moves a message that had `before` bytes left and now has `left`.
    pub(crate) fn update(&mut self, message: Granted, before: Option<u32>, left: u32) {
        if let Some(before) = before {
            self.active.remove(&(before, message));
        }
        if left > 0 {
            self.active.insert((left, message), ());
        } else {
            self.free_reserve(message);
        }
        self.credit = self.credit.saturating_add(64).min(self.full_credit);
    }

    /// Forgets a message that had `left` bytes left.
    pub(crate) fn remove(&mut self, message: Granted, left: u32) {
        self.active.remove(&(left, message));
        self.free_reserve(message);
    }

    fn free_reserve(&mut self, message: Granted) {
        if self.reserve == Some(message) {
            self.reserve = None;
        }
    }

    /// Whether the message with `left` bytes left is among those granted now.
    pub(crate) fn is_favoured(&self, message: Granted, left: u32) -> bool {
        self.reserve == Some(message)
            || self.active.keys().take(OVERCOMMIT).any(|key| *key == (left, message))
    }

    /// The messages granted now.
    pub(crate) fn favoured(&self) -> impl Iterator<Item = Granted> + '_ {
        self.active.keys().take(OVERCOMMIT).map(|(_, message)| *message)
    }

    /// Bytes that may be promised.
    pub(crate) fn credit(&self) -> u32 {
        self.credit
    }

    /// Bytes promised and not here yet.
    pub(crate) fn promised(&self) -> u64 {
        self.promised
    }

    /// A message that was counted as owing `before` bytes now owes `after`. True if others that were
    /// short of credit should be looked at again.
    pub(crate) fn promise(&mut self, before: u32, after: u32) -> bool {
        self.promised = self.promised - u64::from(before) + u64::from(after);
        let room = u64::from(self.credit).saturating_sub(self.promised);
        let enough = self.starved && after < before && room >= u64::from(self.window() / 4);
        self.starved &= !enough;
        enough
    }

    /// What a favoured message with `left` bytes left, of which it owes `owed`, may be granted: its
    /// share of the credit, as far as promises to all others leave it. If they leave nothing, the
    /// shortest goes on with a little beyond the credit, and no other until it is done.
    pub(crate) fn allowance(&mut self, message: Granted, left: u32, owed: u32) -> Allowance {
        let window = self.window();
        let others = self.promised.saturating_sub(u64::from(owed));
        let room = u64::from(self.credit).saturating_sub(others);
        let mut outstanding = u32::try_from(room).unwrap_or(u32::MAX).min(window);
        if outstanding < window {
            self.starved = true;
            let first = self.active.keys().next().is_some_and(|key| *key == (left, message));
            if outstanding < MIN_WINDOW && first && self.reserve.is_none() {
                self.reserve = Some(message);
            }
            if self.reserve == Some(message) {
                outstanding = outstanding.max(MIN_WINDOW);
            }
        }
        Allowance { outstanding, step: outstanding.max(MIN_WINDOW) / 4 }
    }

    /// Bytes each favoured message may have outstanding if nothing else is promised.
    fn window(&self) -> u32 {
        let sharers = u32::try_from(self.active.len().clamp(1, OVERCOMMIT)).unwrap_or(1);
        (self.credit / sharers).max(MIN_WINDOW)
    }

    /// The datapath dropped packets for want of room.
    pub(crate) fn overrun(&mut self) {
        self.credit = (self.credit / 2).max(MIN_WINDOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn favours_the_shortest_and_shares_the_credit() {
        let mut granter = Granter::new(1 << 20);
        let message = |id| (SessionId::for_tests(0), id);
        for id in 0..20u64 {
            granter.update(message(id), None, 1000 - id as u32);
        }
        assert!(granter.is_favoured(message(19), 981));
        assert!(!granter.is_favoured(message(0), 1000));
        assert_eq!(granter.window(), (1 << 20) / 8);
        granter.update(message(0), Some(1000), 1);
        assert!(granter.is_favoured(message(0), 1));
        granter.remove(message(0), 1);
        assert_eq!(granter.favoured().next(), Some(message(19)));
    }

    #[test]
    fn what_was_promised_to_others_is_not_promised_again_but_the_shortest_goes_on() {
        let mut granter = Granter::new(100_000);
        let message = |id| (SessionId::for_tests(0), id);
        granter.update(message(1), None, 1000);
        granter.update(message(2), None, 2000);
        let half = Allowance { outstanding: 50_000, step: 12_500 };
        assert_eq!(granter.allowance(message(2), 2000, 0), half);
        assert!(!granter.promise(0, 70_000));
        let short = |outstanding, step| Allowance { outstanding, step };
        assert_eq!(granter.allowance(message(2), 2000, 0), short(30_000, 7500));
        assert!(!granter.promise(0, 50_000));
        assert_eq!(granter.allowance(message(2), 2000, 0), short(0, MIN_WINDOW / 4));
        assert_eq!(granter.allowance(message(1), 1000, 0), short(MIN_WINDOW, MIN_WINDOW / 4));
        // Only one at a time, even when another becomes the shortest.
        granter.update(message(3), None, 900);
        assert_eq!(granter.allowance(message(3), 900, 0), short(0, MIN_WINDOW / 4));
        assert_eq!(granter.allowance(message(1), 1000, 0), short(MIN_WINDOW, MIN_WINDOW / 4));
        granter.remove(message(1), 1000);
        assert_eq!(granter.allowance(message(3), 900, 0), short(MIN_WINDOW, MIN_WINDOW / 4));
        // Those that went short are looked at when a quarter of a window has come free.
        assert!(!granter.promise(70_000, 40_000));
        assert!(granter.promise(40_000, 30_000));
        assert!(!granter.promise(30_000, 0));
        assert_eq!(granter.allowance(message(2), 2000, 50_000), half);
    }

    #[test]
    fn an_overrun_halves_the_credit_down_to_a_floor_and_it_comes_back() {
        let mut granter = Granter::new(1 << 20);
        granter.overrun();
        assert_eq!(granter.window(), 1 << 19);
        for _ in 0..20 {
            granter.overrun();
        }
        assert_eq!(granter.window(), MIN_WINDOW);
        let message = (SessionId::for_tests(0), 1);
        granter.update(message, None, 5);
        for _ in 0..20_000 {
            granter.update(message, Some(5), 5);
        }
        assert_eq!(granter.window(), 1 << 20);
    }
}
