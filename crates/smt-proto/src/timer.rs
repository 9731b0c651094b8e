//! Timers as one heap of wake-ups. An entity (session or RPC) has at most one live entry; entries
//! are not taken out but found stale when they come up, so arming and forgetting are cheap.

use alloc::collections::BinaryHeap;
use core::cmp::Reverse;

use crate::session::SessionId;
use crate::time::Time;

/// Who is to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wake {
    /// A session: handshake, probes, closing.
    Session(SessionId),
    /// An RPC that we started, by number.
    Out(SessionId, u64),
    /// An RPC that the peer started, by number.
    In(SessionId, u64),
}

/// The timer of one entity, kept inside it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timer {
    /// When the entity wants to be woken.
    due: Option<Time>,
    /// The earliest heap entry made for it.
    entry: Option<Time>,
}

impl Timer {
    /// Wants a wake-up at `due` instead of whenever it was wanted before.
    pub(crate) fn set(&mut self, timers: &mut Timers, who: Wake, due: Time) {
        self.due = Some(due);
        if self.entry.is_none_or(|entry| due < entry) {
            self.entry = Some(due);
            timers.heap.push(Reverse((due, who)));
        }
    }

    /// Whether an entry that came up at `at` is this timer's own and now due. If it is its own but
    /// early, it is put back for the right time.
    pub(crate) fn fired(&mut self, timers: &mut Timers, who: Wake, at: Time, now: Time) -> bool {
        if self.entry != Some(at) {
            return false;
        }
        self.entry = None;
        match self.due {
            Some(due) if due <= now => {
                self.due = None;
                true
            }
            Some(due) => {
                self.set(timers, who, due);
                false
            }
            None => false,
        }
    }
}

/// All wake-ups of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Time, Wake)>>,
}

impl Timers {
    /// When the first wake-up is due.
    pub(crate) fn next(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((time, _))| *time)
    }

    /// Takes the first wake-up out if it is due.
    pub(crate) fn pop(&mut self, now: Time) -> Option<(Time, Wake)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}
