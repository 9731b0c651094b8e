//! Which incoming messages may send more, and how far (spec 6.2). The policy is shortest remaining
//! first with overcommitment; the mechanism (who sends the GRANT) is the session's.

use alloc::collections::BTreeMap;

use crate::session::SessionId;

/// Messages granted at once, those with the fewest bytes left.
const OVERCOMMIT: usize = 8;
/// The least a message may have outstanding, in bytes: below this a round trip per packet looms.
const MIN_WINDOW: u32 = 16 << 10;

/// A message that needs grants: its session and message ID.
pub(crate) type Granted = (SessionId, u64);

/// The grant scheduler of an endpoint.
#[derive(Debug)]
pub(crate) struct Granter {
    /// Bytes the datapath's buffer holds for us; halved by overruns, regained slowly.
    credit: u32,
    full_credit: u32,
    /// By bytes left, then identity.
    active: BTreeMap<(u32, Granted), ()>,
}

impl Granter {
    /// A scheduler that never has more than `credit` bytes promised.
    pub(crate) fn new(credit: u32) -> Self {
        Granter { credit, full_credit: credit, active: BTreeMap::new() }
    }

    /// Enters or moves a message that had `before` bytes left and now has `left`.
    pub(crate) fn update(&mut self, message: Granted, before: Option<u32>, left: u32) {
        if let Some(before) = before {
            self.active.remove(&(before, message));
        }
        if left > 0 {
            self.active.insert((left, message), ());
        }
        self.credit = self.credit.saturating_add(64).min(self.full_credit);
    }

    /// Forgets a message that had `left` bytes left.
    pub(crate) fn remove(&mut self, message: Granted, left: u32) {
        self.active.remove(&(left, message));
    }

    /// Whether the message with `left` bytes left is among those granted now.
    pub(crate) fn is_favoured(&self, message: Granted, left: u32) -> bool {
        self.active.keys().take(OVERCOMMIT).any(|key| *key == (left, message))
    }

    /// The messages granted now.
    pub(crate) fn favoured(&self) -> impl Iterator<Item = Granted> + '_ {
        self.active.keys().take(OVERCOMMIT).map(|(_, message)| *message)
    }

    /// Bytes each favoured message may have outstanding.
    pub(crate) fn window(&self) -> u32 {
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
