//! When which connection wants to be looked at: deadlines that move later cost nothing.

use core::cmp::Reverse;
use std::collections::BinaryHeap;

use smt_proto::Time;

/// The deadlines of many connections. Each has at most one entry that counts; one that comes up
/// before its deadline is put back at it.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Time, usize)>>,
    /// When each connection's earliest entry comes up.
    armed: Vec<Option<Time>>,
}

impl Timers {
    pub(super) fn new(connections: usize) -> Self {
        Timers { heap: BinaryHeap::new(), armed: vec![None; connections] }
    }

    /// Sees to it that `connection` comes up at its deadline, or before.
    pub(super) fn arm(&mut self, connection: usize, deadline: Option<Time>) {
        let (Some(deadline), Some(armed)) = (deadline, self.armed.get_mut(connection)) else {
            return;
        };
        if armed.is_none_or(|armed| deadline < armed) {
            *armed = Some(deadline);
            self.heap.push(Reverse((deadline, connection)));
        }
    }

    /// The next connection that comes up; it is to be armed again if its deadline is later.
    pub(super) fn next_due(&mut self, now: Time) -> Option<usize> {
        loop {
            let &Reverse((at, connection)) = self.heap.peek()?;
            if at > now {
                return None;
            }
            self.heap.pop();
            // An earlier entry may have been added since; then this one does not count.
            if let Some(armed) = self.armed.get_mut(connection)
                && *armed == Some(at)
            {
                *armed = None;
                return Some(connection);
            }
        }
    }

    /// When to ask for [`Self::next_due`] at the latest.
    pub(super) fn next(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn connections_come_up_in_order_and_once() {
        let mut timers = Timers::new(3);
        timers.arm(0, Some(at(50)));
        timers.arm(1, Some(at(20)));
        timers.arm(0, Some(at(10)));
        timers.arm(0, Some(at(70)));
        timers.arm(2, None);
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.next_due(at(5)), None);
        assert_eq!(timers.next_due(at(30)), Some(0));
        assert_eq!(timers.next_due(at(30)), Some(1));
        assert_eq!(timers.next_due(at(100)), None);
        assert_eq!(timers.next(), None);
    }
}
