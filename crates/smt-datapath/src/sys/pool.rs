//! The two rings of a device's queue that all sockets bound to it use: chunks lent to receive into, and
//! chunks sent. Each has one place on this side, so several sockets take turns under a lock, for a
//! burst at a time and never over a system call. A socket that is alone does without.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::ring::{Consumer, Producer};

/// The rings, and what was taken out of them for others.
pub(super) struct PoolRings {
    /// Chunks lent to receive into.
    pub(super) fill: Producer<u64>,
    /// Chunks sent, with who gets them; `None` where nothing is sent.
    completed: Option<Completed>,
}

struct Completed {
    ring: Consumer<u64>,
    /// Addresses that the first socket sends from; those of the others follow, as many for each.
    senders: Range<u64>,
    /// For each socket, addresses that another one took out of the ring. Never more than it has chunks.
    handed: Vec<Vec<u64>>,
    most_handed: usize,
}

/// What the ring of chunks sent is for.
pub(super) struct Sent {
    pub(super) ring: Consumer<u64>,
    /// Addresses that the first socket sends from; those of the others follow, as many for each.
    pub(super) senders: Range<u64>,
    /// Chunks that each socket sends from.
    pub(super) chunks: usize,
}

impl PoolRings {
    fn new(fill: Producer<u64>, sent: Option<Sent>, sockets: usize) -> PoolRings {
        let completed = sent.map(|Sent { ring, senders, chunks }| Completed {
            ring,
            senders,
            handed: vec![Vec::new(); sockets],
            most_handed: chunks,
        });
        PoolRings { fill, completed }
    }

    /// Takes out all chunks sent and calls `each` for those of `socket`; the others' are kept for them.
    #[inline]
    pub(super) fn completed(&mut self, socket: usize, mut each: impl FnMut(u64)) {
        let Some(sent) = &mut self.completed else { return };
        if sent.handed.len() <= 1 {
            while let Some(address) = sent.ring.pop() {
                each(address);
            }
            sent.ring.release();
            return;
        }
        sent.completed_of(socket, each);
    }

    /// Calls `each` for the chunks that [`completed`](Self::completed) would give `socket`.
    pub(super) fn peek_completed(&self, socket: usize, mut each: impl FnMut(u64)) {
        let Some(sent) = &self.completed else { return };
        if sent.handed.len() <= 1 {
            return sent.ring.peek(each);
        }
        if let Some(handed) = sent.handed.get(socket) {
            handed.iter().copied().for_each(&mut each);
        }
        sent.ring.peek(|address| {
            if sent.owner(address) == Some(socket) {
                each(address);
            }
        });
    }
}

impl Completed {
    /// What one of several sockets gets.
    fn completed_of(&mut self, socket: usize, mut each: impl FnMut(u64)) {
        if let Some(handed) = self.handed.get_mut(socket) {
            handed.drain(..).for_each(&mut each);
        }
        while let Some(address) = self.ring.pop() {
            let owner = self.owner(address);
            if owner == Some(socket) {
                each(address);
            } else if let Some(handed) = owner.and_then(|owner| self.handed.get_mut(owner))
                && handed.len() < self.most_handed
            {
                handed.push(address);
            }
        }
        self.ring.release();
    }

    /// The socket that sends from `address`.
    fn owner(&self, address: u64) -> Option<usize> {
        let offset = address.checked_sub(self.senders.start)?;
        let socket = offset / (self.senders.end - self.senders.start).max(1);
        usize::try_from(socket).ok().filter(|socket| *socket < self.handed.len())
    }
}

/// One socket's way to the rings.
pub(super) enum Pool {
    /// It has them to itself.
    Own(Box<PoolRings>),
    /// It is the one of that number, from 0 on.
    Shared(Arc<Mutex<PoolRings>>, usize),
}

impl Pool {
    /// Ways for `sockets` sockets.
    pub(super) fn new(fill: Producer<u64>, sent: Option<Sent>, sockets: usize) -> Vec<Pool> {
        let rings = PoolRings::new(fill, sent, sockets);
        if sockets <= 1 {
            return vec![Pool::Own(Box::new(rings))];
        }
        let rings = Arc::new(Mutex::new(rings));
        (0..sockets).map(|socket| Pool::Shared(Arc::clone(&rings), socket)).collect()
    }

    /// Does something with the rings. It must be short, and no system call: other threads wait.
    #[inline]
    pub(super) fn with<R>(&mut self, work: impl FnOnce(&mut PoolRings, usize) -> R) -> R {
        match self {
            Pool::Own(rings) => work(rings, 0),
            // Whoever panicked there did so between whole entries.
            Pool::Shared(rings, socket) => {
                work(&mut rings.lock().unwrap_or_else(PoisonError::into_inner), *socket)
            }
        }
    }

    /// Looks at the rings; see [`with`](Self::with).
    #[inline]
    pub(super) fn look<R>(&self, work: impl FnOnce(&PoolRings, usize) -> R) -> R {
        match self {
            Pool::Own(rings) => work(rings, 0),
            Pool::Shared(rings, socket) => {
                work(&rings.lock().unwrap_or_else(PoisonError::into_inner), *socket)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::thread;

    use proptest::prelude::*;

    use super::super::ring::joined;
    use super::*;

    const LEN: u64 = 2048;
    const CHUNKS: usize = 8;

    /// Pools of as many sockets, whose chunks to send from begin with the second, and the kernel's end.
    fn pools(sockets: usize) -> (Vec<Pool>, Producer<u64>, Consumer<u64>) {
        let (fill, filled) = joined::<u64>(32, 0);
        let (completes, ring) = joined::<u64>(32, u32::MAX - 3);
        let senders = LEN..LEN * (1 + CHUNKS as u64);
        let sent = Sent { ring, senders, chunks: CHUNKS };
        (Pool::new(fill, Some(sent), sockets), completes, filled)
    }

    proptest! {
        /// Whoever takes chunks out of the ring, each socket gets all of its own, once.
        #[test]
        fn chunks_sent_reach_their_socket(
            sockets in 1usize..5,
            steps in prop::collection::vec((any::<bool>(), 0usize..4, 0usize..CHUNKS), 1..200),
        ) {
            let (mut pools, mut kernel, _) = pools(sockets);
            // By socket; a chunk of one is sent again when the socket has it back.
            let mut out: Vec<VecDeque<u64>> = vec![VecDeque::new(); sockets];
            for (sends, socket, chunk) in steps {
                let socket = socket % sockets;
                let address = LEN * (1 + socket * CHUNKS + chunk) as u64 + 64;
                if sends {
                    if !out[socket].contains(&address) {
                        prop_assert!(kernel.push(address));
                        kernel.publish();
                        out[socket].push_back(address);
                    }
                    continue;
                }
                let mut seen = Vec::new();
                pools[socket].look(|rings, me| rings.peek_completed(me, |at| seen.push(at)));
                let mut got = Vec::new();
                pools[socket].with(|rings, me| rings.completed(me, |at| got.push(at)));
                prop_assert_eq!(&got, &Vec::from(std::mem::take(&mut out[socket])));
                prop_assert_eq!(seen, got);
            }
        }
    }

    #[test]
    fn chunks_of_nobody_are_left_out() {
        let (mut pools, mut kernel, _) = pools(2);
        for address in [0, LEN - 1, LEN * (1 + 2 * CHUNKS as u64), u64::MAX] {
            assert!(kernel.push(address));
        }
        kernel.publish();
        for pool in &mut pools {
            pool.look(|rings, me| rings.peek_completed(me, |at| panic!("{at}")));
            pool.with(|rings, me| rings.completed(me, |at| panic!("{at}")));
        }
    }

    #[test]
    fn what_is_kept_for_others_is_bounded() {
        let (mut pools, mut kernel, _) = pools(2);
        for _ in 0..10 {
            (0..CHUNKS).for_each(|_| assert!(kernel.push(LEN)));
            kernel.publish();
            pools[1].with(|rings, me| rings.completed(me, |at| panic!("{at}")));
        }
        let mut got = 0;
        pools[0].with(|rings, me| rings.completed(me, |_| got += 1));
        assert_eq!(got, CHUNKS);
    }

    /// Several threads lend and take back; another plays the kernel, which sends whatever it was lent.
    #[test]
    fn threads_share_both_rings() {
        const SOCKETS: usize = 4;
        const ROUNDS: u64 = 2000;
        let (pools, mut completes, mut filled) = pools(SOCKETS);
        let kernel = thread::spawn(move || {
            let mut count = 0;
            while count < SOCKETS as u64 * ROUNDS {
                match filled.pop() {
                    Some(address) => {
                        filled.release();
                        assert!(completes.push(address), "more than there are chunks");
                        completes.publish();
                        count += 1;
                    }
                    None => thread::yield_now(),
                }
            }
        });
        let threads: Vec<_> = pools
            .into_iter()
            .map(|mut pool| {
                thread::spawn(move || {
                    let mut free: Vec<u64> = Vec::new();
                    pool.with(|_, me| {
                        let first = 1 + (me * CHUNKS) as u64;
                        free.extend((first..first + CHUNKS as u64).map(|chunk| LEN * chunk));
                    });
                    let (own, mut lent, mut back) = (free.clone(), 0, 0);
                    while back < ROUNDS {
                        pool.with(|rings, me| {
                            while lent < ROUNDS
                                && let Some(address) = free.pop()
                            {
                                assert!(rings.fill.push(address), "there is a place for each");
                                lent += 1;
                            }
                            rings.fill.publish();
                            rings.completed(me, |address| {
                                assert!(own.contains(&address) && !free.contains(&address));
                                free.push(address);
                                back += 1;
                            });
                        });
                        thread::yield_now();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        kernel.join().unwrap();
    }
}
