//! Which message sends the next packet (spec 6.2): the one with the fewest bytes left, and now and then
//! the one that has waited longest, so that the largest do not starve. Entries of messages that are no
//! longer sent stay until they come up, or until they are half of all.

use alloc::collections::BinaryHeap;
use alloc::collections::binary_heap::PeekMut;
use core::cmp::Ordering;

use crate::session::SessionId;

/// Of so many packets of messages longer than one packet, one goes to the oldest of them.
const SHARE_OF_OLDEST: u32 = 16;
/// Dead entries that are not worth a look.
const FEW_DEAD: usize = 64;

/// Names one stay of a message in the queue, or in its session until it is the session's turn
/// ([`OF_SESSION`]); 0 names none.
pub(crate) type Ticket = u64;

/// Set in the tickets of messages that wait in their session, which has one entry for all of them here.
pub(crate) const OF_SESSION: Ticket = 1 << 63;
/// In the place of a message ID: that entry.
const SESSION_ITSELF: u64 = 0;

/// A message that waits to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Bytes it has left to send. Too many for one that the oldest's share has served.
    left: u32,
    /// Counts up, so it also tells who came first.
    pub(crate) ticket: Ticket,
    pub(crate) session: SessionId,
    pub(crate) id: u64,
}

impl Entry {
    /// Whether it is that of a session, for all the messages that wait there.
    pub(crate) fn is_of_session(&self) -> bool {
        self.id == SESSION_ITSELF
    }
}

/// The greatest entry is the one that goes first.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.left, other.ticket).cmp(&(self.left, self.ticket))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Whose turn it is, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) entry: Entry,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// It is the shortest of the messages of one packet, or of the longer ones.
    Shortest { small: bool },
    /// It is the oldest.
    Oldest,
}

/// All messages of an endpoint that have something to send.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    /// Messages of one packet.
    small: BinaryHeap<Entry>,
    /// Longer ones.
    large: BinaryHeap<Entry>,
    last_ticket: Ticket,
    /// Packets of longer messages since the oldest had its share.
    since_share: u32,
    /// The longer message that gets the oldest's share, as long as it is in the queue.
    oldest: Option<Entry>,
    /// Entries whose message has left the queue otherwise than by its turn.
    dead: usize,
}

impl SendQueue {
    /// Enters a message, of one packet or more, with `left` bytes left.
    pub(crate) fn push(&mut self, session: SessionId, id: u64, small: bool, left: u32) -> Ticket {
        self.last_ticket += 1;
        let entry = Entry { left, ticket: self.last_ticket, session, id };
        if small {
            self.small.push(entry)
        } else {
            self.large.push(entry)
        }
        self.last_ticket
    }

    /// A ticket for a message that waits in its session.
    pub(crate) fn ticket_of_session(&mut self) -> Ticket {
        self.last_ticket += 1;
        self.last_ticket | OF_SESSION
    }

    /// Enters a session where messages wait, the first under `ticket` with `left` bytes left.
    pub(crate) fn push_session(&mut self, session: SessionId, ticket: Ticket, left: u32) {
        self.small.push(Entry { left, ticket: ticket & !OF_SESSION, session, id: SESSION_ITSELF });
    }

    /// A session has had its turn; `next` are ticket and length of the first message that still waits
    /// there.
    pub(crate) fn served_session(&mut self, turn: Turn, next: Option<(Ticket, u32)>) {
        let Some((ticket, left)) = next else { return self.served(turn, None) };
        if let Some(mut top) = self.small.peek_mut() {
            (top.ticket, top.left) = (ticket & !OF_SESSION, left);
        }
    }

    /// A message whose ticket is of here leaves the queue.
    pub(crate) fn abandon(&mut self, ticket: Ticket) {
        self.dead += usize::from(ticket & OF_SESSION == 0);
    }

    /// Whether messages of one packet wait.
    pub(crate) fn has_small(&self) -> bool {
        !self.small.is_empty()
    }

    /// Whether longer messages wait.
    pub(crate) fn has_large(&self) -> bool {
        !self.large.is_empty()
    }

    /// Whose turn it is; `only_small`: among the messages of one packet. Tell what came of it by
    /// [`served`](Self::served) before asking again.
    pub(crate) fn next(&mut self, only_small: bool) -> Option<Turn> {
        let shortest = |entry: &Entry, small| Turn { entry: *entry, why: Why::Shortest { small } };
        match (self.small.peek(), self.large.peek()) {
            (small, _) if only_small => small.map(|small| shortest(small, true)),
            (Some(small), None) => Some(shortest(small, true)),
            (Some(small), Some(large)) if small > large => Some(shortest(small, true)),
            (_, Some(large)) => {
                let large = *large;
                if self.since_share + 1 < SHARE_OF_OLDEST || self.large.len() == 1 {
                    return Some(shortest(&large, false));
                }
                let first = |entry: &&Entry| entry.ticket;
                let oldest = self.oldest.or_else(|| self.large.iter().min_by_key(first).copied());
                self.oldest = oldest;
                oldest.map(|entry| Turn { entry, why: Why::Oldest })
            }
            (None, None) => None,
        }
    }

    /// What came of a turn: the message sent a packet and has `left` bytes left, or it has nothing to
    /// send (any more) and its ticket is void.
    pub(crate) fn served(&mut self, turn: Turn, left: Option<u32>) {
        match turn.why {
            Why::Oldest => {
                self.since_share = 0;
                if left.is_none() {
                    self.oldest = None;
                    self.dead += 1;
                }
            }
            Why::Shortest { small } => {
                self.since_share += u32::from(!small);
                let heap = if small { &mut self.small } else { &mut self.large };
                let Some(mut top) = heap.peek_mut() else { return };
                match left {
                    Some(left) => top.left = left,
                    None => {
                        PeekMut::pop(top);
                        self.oldest =
                            self.oldest.filter(|oldest| oldest.ticket != turn.entry.ticket);
                    }
                }
            }
        }
    }

    /// The ticket that has just come up is of a message that left the queue before.
    pub(crate) fn was_dead(&mut self, turn: Turn) {
        self.dead = self.dead.saturating_sub(1);
        match turn.why {
            Why::Oldest => {
                self.oldest = None;
                self.large.retain(|entry| entry.ticket != turn.entry.ticket);
            }
            Why::Shortest { .. } => self.served(turn, None),
        }
    }

    /// Whether so many entries are dead that [`purge`](Self::purge) is due.
    pub(crate) fn wants_purge(&self) -> bool {
        self.dead > FEW_DEAD && 2 * self.dead > self.small.len() + self.large.len()
    }

    /// Throws out the entries that are not `live`.
    pub(crate) fn purge(&mut self, mut live: impl FnMut(&Entry) -> bool) {
        self.small.retain(&mut live);
        self.large.retain(&mut live);
        self.oldest = None;
        self.dead = 0;
    }

    /// Gives back memory that a burst has left unused.
    pub(crate) fn shrink(&mut self) {
        self.small.shrink_to_fit();
        self.large.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    const SESSION: SessionId = SessionId { index: 0, generation: 0 };
    const PACKET: u32 = 100;

    /// The queue, and the messages it is about: ticket, bytes left.
    #[derive(Default)]
    struct Model {
        queue: SendQueue,
        messages: BTreeMap<u64, (Ticket, u32)>,
    }

    impl Model {
        fn push(&mut self, id: u64, left: u32) {
            let ticket = self.queue.push(SESSION, id, left <= PACKET, left);
            self.messages.insert(id, (ticket, left));
        }

        fn live(&self, entry: &Entry) -> bool {
            self.messages.get(&entry.id).is_some_and(|message| message.0 == entry.ticket)
        }

        /// Sends a packet; returns whose, and how many bytes it had left.
        fn send(&mut self, only_small: bool) -> Option<(u64, u32, bool)> {
            if self.queue.wants_purge() {
                let messages = &self.messages;
                self.queue.purge(|entry| {
                    messages.get(&entry.id).is_some_and(|message| message.0 == entry.ticket)
                });
            }
            while let Some(turn) = self.queue.next(only_small) {
                if !self.live(&turn.entry) {
                    self.queue.was_dead(turn);
                    continue;
                }
                let message = self.messages.get_mut(&turn.entry.id).unwrap();
                let before = message.1;
                message.1 = before.saturating_sub(PACKET);
                if message.1 == 0 {
                    self.messages.remove(&turn.entry.id);
                }
                self.queue.served(turn, (before > PACKET).then(|| before - PACKET));
                return Some((turn.entry.id, before, turn.why == Why::Oldest));
            }
            None
        }
    }

    #[test]
    fn the_shortest_goes_first_and_the_oldest_gets_its_share() {
        let mut model = Model::default();
        model.push(0, 1_000_000);
        for id in 1..=4 {
            model.push(id, 10_000);
        }
        model.push(5, 50);
        assert_eq!(model.send(false), Some((5, 50, false)));
        let turns: Vec<u64> = (0..160).map(|_| model.send(false).unwrap().0).collect();
        assert_eq!(turns.iter().filter(|id| **id == 0).count(), 10);
        assert!(turns[..15].iter().all(|id| *id == 1));
        // While only short ones may go, the long ones keep their places.
        model.push(6, 60);
        assert_eq!(model.send(true), Some((6, 60, false)));
        assert_eq!(model.send(true), None);
        assert!(model.queue.has_large());
    }

    proptest! {
        #[test]
        fn everything_is_sent_shortest_first_and_the_queue_stays_bounded(
            steps in proptest::collection::vec((0..4u8, 1..3000u32, any::<bool>()), 0..600),
        ) {
            let (mut model, mut shares) = (Model::default(), false);
            for (id, (step, left, only_small)) in (0u64..).zip(steps) {
                match step {
                    0 | 1 => model.push(id, left),
                    2 => {
                        let nth = left as usize % model.messages.len().max(1);
                        if let Some(id) = model.messages.keys().nth(nth).copied() {
                            let (ticket, _) = model.messages[&id];
                            model.queue.abandon(ticket);
                            model.messages.remove(&id);
                        }
                    }
                    _ => {
                        let least = model.messages.values().map(|message| message.1).min();
                        let sent = model.send(only_small);
                        let (Some(least), false) = (least, only_small) else { continue };
                        let (_, left, oldest) = sent.unwrap();
                        shares |= oldest;
                        prop_assert!(left == least || shares);
                    }
                }
                let entries = model.queue.small.len() + model.queue.large.len();
                prop_assert!(entries >= model.messages.len());
                prop_assert!(entries - model.messages.len() <= model.queue.dead);
                if model.queue.wants_purge() {
                    model.send(true);
                    prop_assert!(!model.queue.wants_purge());
                }
            }
            while model.send(false).is_some() {}
            prop_assert!(model.messages.is_empty() && !model.queue.has_small() && !model.queue.has_large());
        }
    }
}
