//! Rings of entries between this process and another writer, which is the kernel (`if_xdp.h`) or,
//! in tests, this process: two counters that only grow, wrapping at 32 bits, and a power of two of
//! places. The producer writes places, then its counter; the consumer reads them, then moves its
//! own.
//!
//! What vouches for it: the tests here, against plain queues with counters near their wrap, and by two
//! threads. No model checker does (loom would need atomics of its own where the kernel's lie, and Miri
//! knows no AF_XDP).

use std::any::Any;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where a ring lies.
pub(crate) struct Places<T> {
    /// Counter of entries written.
    pub(crate) producer: NonNull<AtomicU32>,
    /// Counter of entries taken.
    pub(crate) consumer: NonNull<AtomicU32>,
    /// What the other side wants of this one; `XDP_RING_NEED_WAKEUP`.
    pub(crate) flags: NonNull<AtomicU32>,
    /// The first entry.
    pub(crate) entries: NonNull<T>,
    /// How many there are: a power of two.
    pub(crate) len: u32,
    /// Keeps the memory.
    pub(crate) _memory: Box<dyn Any + Send>,
}

struct Ring<T> {
    places: Places<T>,
    mask: u32,
}

// SAFETY: a ring owns its memory; entries are plain values, and the counters are atomic.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// # Safety
    /// As [`Producer::new`].
    unsafe fn new(places: Places<T>) -> Self {
        assert!(places.len.is_power_of_two(), "ring of {} entries", places.len);
        let mask = places.len - 1;
        Self { places, mask }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: `new` was promised that it leads to a counter that lives as long as `_memory`.
        unsafe { self.places.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.places.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as above.
        let flags = unsafe { self.places.flags.as_ref() };
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    /// The place of the entry that `counter` counts.
    fn place(&self, counter: u32) -> *mut T {
        let index = (counter & self.mask) as usize;
        // The mask keeps it among the entries.
        self.places.entries.as_ptr().wrapping_add(index)
    }
}

/// The writing end of a ring.
pub(crate) struct Producer<T> {
    ring: Ring<T>,
    /// Entries written, published or not.
    written: u32,
    /// The consumer's counter as last read.
    taken: u32,
}

impl<T: Copy> Producer<T> {
    /// Takes over the writing end of an empty ring.
    ///
    /// # Safety
    /// The pointers must lead to what their names say, `len` entries in the last case, for as long
    /// as `_memory` lives, and nobody else may write entries or the producer's counter.
    pub(crate) unsafe fn new(places: Places<T>) -> Self {
        // SAFETY: the caller promises it.
        let ring = unsafe { Ring::new(places) };
        let written = ring.producer().load(Ordering::Relaxed);
        Self { written, taken: written, ring }
    }

    /// Writes an entry, which the other side sees after [`publish`](Self::publish). False if the
    /// ring is full.
    pub(crate) fn push(&mut self, entry: T) -> bool {
        if !self.has_room(1) {
            return false;
        }
        // SAFETY: the place is one of the ring's entries, and the consumer's counter, read with
        // acquire, says that it has done with what was there.
        unsafe { self.ring.place(self.written).write(entry) };
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Whether `count` entries can be pushed now.
    pub(crate) fn has_room(&mut self, count: u32) -> bool {
        let len = self.ring.places.len;
        let fits = |taken| count <= len - self.written.wrapping_sub(taken).min(len);
        if fits(self.taken) {
            return true;
        }
        self.taken = self.ring.consumer().load(Ordering::Acquire);
        fits(self.taken)
    }

    /// Shows the other side what was pushed.
    pub(crate) fn publish(&mut self) {
        self.ring.producer().store(self.written, Ordering::Release);
    }

    /// Published entries that the other side has not taken.
    pub(crate) fn waiting(&self) -> u32 {
        self.ring
            .producer()
            .load(Ordering::Relaxed)
            .wrapping_sub(self.ring.consumer().load(Ordering::Acquire))
            .min(self.ring.places.len)
    }

    /// Whether the other side sleeps until it is called.
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// The reading end of a ring.
pub(crate) struct Consumer<T> {
    ring: Ring<T>,
    /// Entries taken, which the other side knows.
    taken: u32,
    /// The producer's counter as last read.
    written: u32,
}

impl<T: Copy> Consumer<T> {
    /// Takes over the reading end of an empty ring.
    ///
    /// # Safety
    /// As [`Producer::new`], but that nobody else may write the consumer's counter.
    pub(crate) unsafe fn new(places: Places<T>) -> Self {
        // SAFETY: the caller promises it.
        let ring = unsafe { Ring::new(places) };
        let taken = ring.consumer().load(Ordering::Relaxed);
        Self { taken, written: taken, ring }
    }

    /// The next entry, if there is one. Its place stays ours until [`release`](Self::release).
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.written == self.taken {
            self.written = self.ring.producer().load(Ordering::Acquire);
            if self.written == self.taken {
                return None;
            }
        }
        // SAFETY: the place is one of the ring's entries, which the producer's counter, read with
        // acquire, says was written; it is not written again before `release`.
        let entry = unsafe { self.ring.place(self.taken).read() };
        self.taken = self.taken.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of popped entries back.
    pub(crate) fn release(&mut self) {
        self.ring.consumer().store(self.taken, Ordering::Release);
    }

    /// Calls `each` for every entry that could be popped, and leaves them there.
    pub(crate) fn peek(&self, mut each: impl FnMut(T)) {
        let written = self.ring.producer().load(Ordering::Acquire);
        let waiting = written.wrapping_sub(self.taken).min(self.ring.places.len);
        for index in 0..waiting {
            // SAFETY: as in `pop`.
            each(unsafe { self.ring.place(self.taken.wrapping_add(index)).read() });
        }
    }
}

/// Both ends of a ring in plain memory whose counters stand at `start`.
#[cfg(test)]
pub(crate) fn joined<T: Copy + Default + Send + 'static>(
    len: u32,
    start: u32,
) -> (Producer<T>, Consumer<T>) {
    use std::sync::Arc;

    struct Memory<T> {
        counters: [AtomicU32; 3],
        entries: NonNull<[T]>,
    }
    // SAFETY: the memory is owned, and entries are plain values.
    unsafe impl<T: Send> Send for Memory<T> {}
    // SAFETY: nothing is reached by reference but the atomic counters.
    unsafe impl<T: Send> Sync for Memory<T> {}
    impl<T> Drop for Memory<T> {
        fn drop(&mut self) {
            // SAFETY: it came from a leaked box and is given back once.
            drop(unsafe { Box::from_raw(self.entries.as_ptr()) });
        }
    }

    let entries = vec![T::default(); len as usize].into_boxed_slice();
    let memory = Arc::new(Memory {
        counters: [AtomicU32::new(start), AtomicU32::new(start), AtomicU32::new(0)],
        entries: NonNull::from(Box::leak(entries)),
    });
    let places = |memory: &Arc<Memory<T>>| Places {
        producer: NonNull::from(&memory.counters[0]),
        consumer: NonNull::from(&memory.counters[1]),
        flags: NonNull::from(&memory.counters[2]),
        entries: memory.entries.cast(),
        len,
        _memory: Box::new(Arc::clone(memory)),
    };
    // SAFETY: both ends lie in `memory`, which each keeps, and each end exists once.
    unsafe { (Producer::new(places(&memory)), Consumer::new(places(&memory))) }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(u8),
        Publish,
        Pop(u8),
        Release,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1u8..20).prop_map(Step::Push),
            Just(Step::Publish),
            (1u8..20).prop_map(Step::Pop),
            Just(Step::Release),
        ]
    }

    proptest! {
        /// Against three queues: written and hidden, published, popped and not released. Counters
        /// start near their wrap.
        #[test]
        fn a_ring_is_a_queue(
            log in 0u32..5,
            below_wrap in 0u32..40,
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let len = 1u32 << log;
            let (mut producer, mut consumer) = joined::<u64>(len, below_wrap.wrapping_neg());
            let (mut hidden, mut shown) = (VecDeque::new(), VecDeque::new());
            let (mut held, mut next) = (0u32, 0u64);
            for step in steps {
                match step {
                    Step::Push(count) => for _ in 0..count {
                        let used = (hidden.len() + shown.len()) as u32 + held;
                        prop_assert!(producer.has_room(len - used));
                        prop_assert!(!producer.has_room(len - used + 1));
                        prop_assert_eq!(producer.push(next), used < len);
                        if used < len {
                            hidden.push_back(next);
                        }
                        next += 1;
                    },
                    Step::Publish => {
                        producer.publish();
                        shown.append(&mut hidden);
                    }
                    Step::Pop(count) => for _ in 0..count {
                        let mut seen = Vec::new();
                        consumer.peek(|entry| seen.push(entry));
                        prop_assert_eq!(&seen, &Vec::from(shown.clone()));
                        let expected = shown.pop_front();
                        prop_assert_eq!(consumer.pop(), expected);
                        held += u32::from(expected.is_some());
                    },
                    Step::Release => {
                        consumer.release();
                        held = 0;
                    }
                }
                prop_assert_eq!(producer.waiting(), shown.len() as u32 + held);
            }
        }
    }

    #[test]
    fn entries_cross_threads_whole_and_in_order() {
        let (mut producer, mut consumer) = joined::<(u64, u64)>(8, u32::MAX - 5);
        let count = 20_000;
        let writer = thread::spawn(move || {
            let mut next = 0;
            while next < count {
                if producer.push((next, !next)) {
                    next += 1;
                    producer.publish();
                } else {
                    thread::yield_now();
                }
            }
        });
        let mut next = 0;
        while next < count {
            match consumer.pop() {
                Some(entry) => {
                    assert_eq!(entry, (next, !next));
                    next += 1;
                    consumer.release();
                }
                None => thread::yield_now(),
            }
        }
        writer.join().unwrap();
    }
}
