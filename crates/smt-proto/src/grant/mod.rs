//! Which incoming messages may send more, and how far (spec 6.2). The mechanism is here: what was
//! promised, and the credit it counts against; who is granted, and at which priority, is a [`Policy`].
//! Who sends the GRANT is the session's business.

mod homa;

use core::time::Duration;

use crate::rate::{Mark, Meter};
use crate::rtt::MIN_SILENCE;
use crate::session::SessionId;
use crate::time::Time;
use homa::Homa;

/// The least a message may have outstanding, in bytes: below this a round trip per packet looms.
pub(crate) const MIN_WINDOW: u32 = 16 << 10;
/// The same where rate and round trip are known: some packets, so that grants keep ahead.
const MIN_MEASURED_WINDOW: u32 = 8 << 10;
/// Most messages that are granted at once.
pub(crate) const MAX_CHOSEN: usize = 17;

/// A message that needs grants: its session and message ID.
pub(crate) type Granted = (SessionId, u64);
/// The messages granted now, most urgent first.
pub(crate) type Chosen = [Option<Granted>; MAX_CHOSEN];

/// Who is granted, and at which priority. Told of every message that needs grants.
pub(crate) trait Policy {
    /// A message comes that has `left` bytes left.
    fn enter(&mut self, message: Granted, left: u32);
    /// A message that had `before` bytes left has `left`.
    fn moved(&mut self, message: Granted, before: u32, left: u32);
    /// A message with `left` bytes left needs no grants any more.
    fn leave(&mut self, message: Granted, left: u32);
    /// Priorities below `levels` are for what is granted.
    fn set_levels(&mut self, levels: u8);
    /// How a message is granted now; `None` if it has to wait.
    fn place(&self, message: Granted, left: u32) -> Option<Place>;
    /// All that have a place.
    fn chosen(&self) -> Chosen;
    /// Messages that share the credit.
    fn sharers(&self) -> usize;
    /// A message in `place` was granted `bytes` more. True if another has a place because of it.
    fn granted(&mut self, place: Place, bytes: u32) -> bool;
}

/// How a message is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Priority to send at.
    pub(crate) priority: u8,
    /// It goes on whatever others were promised.
    pub(crate) first: bool,
    /// It is granted out of turn, so that it does not starve.
    pub(crate) extra: bool,
}

/// The grant scheduler of an endpoint.
#[derive(Debug)]
pub(crate) struct Granter<P = Homa> {
    policy: P,
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
    /// The message that goes on because those before it leave the link idle, and when that was found.
    rescued: (Option<Granted>, Mark),
    /// How fast promises are kept.
    pub(crate) meter: Meter,
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
    /// A scheduler that never has more than `credit` bytes promised, and grants `overcommit` messages
    /// at once.
    pub(crate) fn new(credit: u32, overcommit: usize) -> Self {
        Granter::with(Homa::new(overcommit), credit)
    }
}

impl<P: Policy> Granter<P> {
    fn with(policy: P, credit: u32) -> Self {
        Granter {
            policy,
            credit,
            full_credit: credit,
            promised: 0,
            starved: false,
            reserve: None,
            rescued: (None, Mark::default()),
            meter: Meter::default(),
        }
    }

    /// Enters or moves a message that had `before` bytes left and now has `left`.
    pub(crate) fn update(&mut self, message: Granted, before: Option<u32>, left: u32) {
        match before {
            None => self.policy.enter(message, left),
            Some(before) if left > 0 => self.policy.moved(message, before, left),
            Some(before) => self.remove(message, before),
        }
        self.credit = self.credit.saturating_add(64).min(self.full_credit);
    }

    /// Forgets a message that had `left` bytes left.
    pub(crate) fn remove(&mut self, message: Granted, left: u32) {
        self.policy.leave(message, left);
        if self.reserve == Some(message) {
            self.reserve = None;
        }
        if self.rescued.0 == Some(message) {
            self.rescued.0 = None;
        }
    }

    /// A message that owes nothing was silent until it counted. If the link has been idle for half of
    /// the time since this was found last, which is not less than `pace`, those that hold places and
    /// credit do not use them: this one goes on with a little beyond the credit.
    pub(crate) fn waits_in_vain(&mut self, now: Time, message: Granted, pace: Duration) {
        if self.rescued.1.age(now) < pace.max(MIN_SILENCE) {
            return;
        }
        let idle = self.meter.is_idle_since(now, self.rescued.1);
        self.rescued = (idle.then_some(message), self.meter.mark(now, now));
    }

    /// Priorities below `levels` are for what is granted.
    pub(crate) fn set_levels(&mut self, levels: u8) {
        self.policy.set_levels(levels);
    }

    /// How the message with `left` bytes left is granted; `None` if it has to wait.
    pub(crate) fn place(&self, message: Granted, left: u32) -> Option<Place> {
        let place = self.policy.place(message, left);
        let reserved = Place { priority: 0, first: false, extra: false };
        place.or_else(|| self.goes_on(message).then_some(reserved))
    }

    /// Whether a message gets a little although the credit is promised to others.
    fn goes_on(&self, message: Granted) -> bool {
        self.reserve == Some(message) || self.rescued.0 == Some(message)
    }

    /// The messages granted now.
    pub(crate) fn chosen(&self) -> Chosen {
        self.policy.chosen()
    }

    /// A message in `place` was granted `bytes` more. True if others should be looked at.
    pub(crate) fn granted(&mut self, place: Place, bytes: u32) -> bool {
        self.policy.granted(place, bytes)
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
    pub(crate) fn promise(&mut self, now: Time, before: u32, after: u32) -> bool {
        let nothing = self.promised == 0;
        self.promised = self.promised - u64::from(before) + u64::from(after);
        match (nothing, self.promised == 0) {
            (true, false) => self.meter.start(now),
            (false, true) => self.meter.stop(),
            _ => {}
        }
        let room = u64::from(self.credit).saturating_sub(self.promised);
        let enough = self.starved && after < before && room >= u64::from(self.window() / 4);
        self.starved &= !enough;
        enough
    }

    /// What a message in `place`, of which its sender owes `owed` bytes, may be granted: what is
    /// `enough` to keep its sender busy, if that is known, within its share of the credit as far as
    /// promises to all others leave it. If they leave nothing, the first goes on with a little beyond
    /// the credit, and no other until it is done.
    pub(crate) fn allowance(
        &mut self,
        message: Granted,
        place: Place,
        owed: u32,
        enough: Option<u32>,
    ) -> Allowance {
        let share = self.window();
        let window = enough.map_or(share, |enough| enough.max(MIN_MEASURED_WINDOW).min(share));
        let others = self.promised.saturating_sub(u64::from(owed));
        let room = u64::from(self.credit).saturating_sub(others);
        let mut outstanding = u32::try_from(room).unwrap_or(u32::MAX).min(window);
        if outstanding < window {
            self.starved = true;
            if outstanding < MIN_WINDOW && place.first && self.reserve.is_none() {
                self.reserve = Some(message);
            }
            if self.goes_on(message) {
                outstanding = outstanding.max(MIN_WINDOW);
            }
        }
        let least = if enough.is_some() { MIN_MEASURED_WINDOW } else { MIN_WINDOW };
        Allowance { outstanding, step: outstanding.max(least) / 4 }
    }

    /// Bytes each granted message may have outstanding if nothing else is promised.
    fn window(&self) -> u32 {
        let sharers = u32::try_from(self.policy.sharers().max(1)).unwrap_or(1);
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
        let mut granter = Granter::new(1 << 20, 8);
        let message = |id| (SessionId::for_tests(0), id);
        for id in 0..20u64 {
            granter.update(message(id), None, 1000 - id as u32);
        }
        assert!(granter.place(message(19), 981).is_some_and(|place| place.first));
        assert_eq!(granter.place(message(0), 1000), None);
        assert_eq!(granter.window(), (1 << 20) / 8);
        granter.update(message(0), Some(1000), 1);
        assert!(granter.place(message(0), 1).is_some());
        granter.remove(message(0), 1);
        assert_eq!(granter.chosen()[0], Some(message(19)));
    }

    fn allow(granter: &mut Granter, id: u64, left: u32, owed: u32) -> Allowance {
        let message = (SessionId::for_tests(0), id);
        let place = granter.place(message, left).unwrap();
        granter.allowance(message, place, owed, None)
    }

    #[test]
    fn what_was_promised_to_others_is_not_promised_again_but_the_shortest_goes_on() {
        let mut granter = Granter::new(100_000, 8);
        let message = |id| (SessionId::for_tests(0), id);
        granter.update(message(1), None, 1000);
        granter.update(message(2), None, 2000);
        let half = Allowance { outstanding: 50_000, step: 12_500 };
        assert_eq!(allow(&mut granter, 2, 2000, 0), half);
        assert!(!granter.promise(Time::ZERO, 0, 70_000));
        let short = |outstanding, step| Allowance { outstanding, step };
        assert_eq!(allow(&mut granter, 2, 2000, 0), short(30_000, 7500));
        assert!(!granter.promise(Time::ZERO, 0, 50_000));
        assert_eq!(allow(&mut granter, 2, 2000, 0), short(0, MIN_WINDOW / 4));
        assert_eq!(allow(&mut granter, 1, 1000, 0), short(MIN_WINDOW, MIN_WINDOW / 4));
        // Only one at a time, even when another becomes the shortest.
        granter.update(message(3), None, 900);
        assert_eq!(allow(&mut granter, 3, 900, 0), short(0, MIN_WINDOW / 4));
        assert_eq!(allow(&mut granter, 1, 1000, 0), short(MIN_WINDOW, MIN_WINDOW / 4));
        granter.remove(message(1), 1000);
        assert_eq!(allow(&mut granter, 3, 900, 0), short(MIN_WINDOW, MIN_WINDOW / 4));
        // Those that went short are looked at when a quarter of a window has come free.
        assert!(!granter.promise(Time::ZERO, 70_000, 40_000));
        assert!(granter.promise(Time::ZERO, 40_000, 30_000));
        assert!(!granter.promise(Time::ZERO, 30_000, 0));
        assert_eq!(allow(&mut granter, 2, 2000, 50_000), half);
    }

    #[test]
    fn an_overrun_halves_the_credit_down_to_a_floor_and_it_comes_back() {
        let mut granter = Granter::new(1 << 20, 8);
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
