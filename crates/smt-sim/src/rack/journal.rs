//! What the hosts of a run write down for whoever drives it.

use std::cell::RefCell;
use std::rc::Rc;

use smt_proto::Time;

use crate::packet::HostId;

/// Something that happened to a message; messages are numbered by whoever starts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The request is whole at its receiver.
    Arrived {
        /// Which message.
        message: u64,
        /// When.
        at: Time,
    },
    /// The response is whole at the caller, or the call has failed.
    Ended {
        /// Which message.
        message: u64,
        /// When.
        at: Time,
        /// Whether there is a response.
        ok: bool,
    },
}

/// The journal of a run, shared by its hosts; they run one at a time.
#[derive(Debug)]
pub struct Journal {
    hosts: HostId,
    /// By caller and server: the messages in the order of their RPC numbers.
    numbered: RefCell<Vec<Vec<u64>>>,
    entries: RefCell<Vec<Entry>>,
    sessions_lost: RefCell<u64>,
}

impl Journal {
    /// An empty journal for `hosts` hosts.
    pub fn new(hosts: HostId) -> Rc<Journal> {
        let pairs = hosts as usize * hosts as usize;
        Rc::new(Journal {
            hosts,
            numbered: RefCell::new(vec![Vec::new(); pairs]),
            entries: RefCell::default(),
            sessions_lost: RefCell::default(),
        })
    }

    /// The next RPC from `caller` to `server` carries `message`.
    pub fn number(&self, caller: HostId, server: HostId, message: u64) {
        if let Some(numbered) = self.numbered.borrow_mut().get_mut(self.pair(caller, server)) {
            numbered.push(message);
        }
    }

    /// What RPC `number` from `caller` to `server` carries.
    pub fn message(&self, caller: HostId, server: HostId, number: u64) -> Option<u64> {
        let numbered = self.numbered.borrow();
        numbered.get(self.pair(caller, server))?.get(usize::try_from(number).ok()?).copied()
    }

    /// Writes an entry down.
    pub fn note(&self, entry: Entry) {
        self.entries.borrow_mut().push(entry);
    }

    /// Notes that a session came to its end, which none should.
    pub fn session_lost(&self) {
        *self.sessions_lost.borrow_mut() += 1;
    }

    /// Sessions that came to their end, each counted at both of its ends.
    pub fn sessions_lost(&self) -> u64 {
        *self.sessions_lost.borrow()
    }

    /// Takes the entries so far, oldest first, into `into`, whose memory the journal goes on with.
    pub fn take(&self, into: &mut Vec<Entry>) {
        into.clear();
        core::mem::swap(&mut *self.entries.borrow_mut(), into);
    }

    fn pair(&self, caller: HostId, server: HostId) -> usize {
        caller as usize * self.hosts as usize + server as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_by_pair_and_number() {
        let journal = Journal::new(3);
        journal.number(0, 2, 7);
        journal.number(0, 2, 9);
        journal.number(2, 0, 8);
        assert_eq!(journal.message(0, 2, 1), Some(9));
        assert_eq!(journal.message(2, 0, 0), Some(8));
        assert_eq!(journal.message(2, 0, 1), None);
        assert_eq!(journal.message(9, 9, 0), None);
    }
}
