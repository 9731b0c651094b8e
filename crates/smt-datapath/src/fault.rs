//! A decorator that treats packets as a bad network would: it drops, repeats, reorders, damages
//! and delays them, each with a probability, reproducibly for a seed and a sequence of packets.
//!
//! Meant for tests and trials. Every packet is copied.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{Caps, Datapath, DatapathStats, PathError, RxMeta, TxMeta};

/// Bytes that the longest SMT header takes; half of all damage is done there.
const HEADER_LEN: usize = 52;

/// What happens to the packets of one direction. Probabilities are from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Probability that a packet is lost.
    pub drop: f64,
    /// Probability that it arrives twice.
    pub duplicate: f64,
    /// Probability that one bit of it is flipped, in the header as likely as anywhere.
    pub corrupt: f64,
    /// Probability that it is held back until `hold_packets` later ones have passed.
    pub reorder: f64,
    /// How many packets overtake one that is held back.
    pub hold_packets: u32,
    /// How long it is held back at most, should no others come.
    pub hold_limit: Duration,
    /// Probability that it is delayed.
    pub delay: f64,
    /// By how long it is delayed.
    pub delay_by: Duration,
}

impl Rules {
    /// Nothing happens.
    pub const NONE: Self = Self {
        drop: 0.0,
        duplicate: 0.0,
        corrupt: 0.0,
        reorder: 0.0,
        hold_packets: 3,
        hold_limit: Duration::from_millis(1),
        delay: 0.0,
        delay_by: Duration::from_millis(1),
    };
}

impl Default for Rules {
    fn default() -> Self {
        Self::NONE
    }
}

/// What has happened so far in one direction, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Lost.
    pub dropped: u64,
    /// Repeated.
    pub duplicated: u64,
    /// Damaged.
    pub corrupted: u64,
    /// Held back for others to pass.
    pub reordered: u64,
    /// Delayed.
    pub delayed: u64,
}

/// Reads the counts of a [`Faulty`] from anywhere.
#[derive(Clone, Debug, Default)]
pub struct FaultHandle {
    rx: Arc<Counters>,
    tx: Arc<Counters>,
}

impl FaultHandle {
    /// What happened to received packets.
    #[must_use]
    pub fn rx(&self) -> FaultCounts {
        self.rx.read()
    }

    /// What happened to sent packets.
    #[must_use]
    pub fn tx(&self) -> FaultCounts {
        self.tx.read()
    }
}

/// A datapath whose packets suffer faults.
pub struct Faulty<D> {
    inner: D,
    rx: Line<RxMeta>,
    tx: Line<TxMeta>,
    burst: Vec<(RxMeta, Vec<u8>)>,
    /// Sent packets ready for the datapath below.
    ready: Vec<(TxMeta, Vec<u8>)>,
    frame: Vec<u8>,
    committed: usize,
    handle: FaultHandle,
}

impl<D: Datapath> Faulty<D> {
    /// Puts faults around `inner`; `seed` decides which packets suffer.
    pub fn new(inner: D, seed: u64, rx: Rules, tx: Rules) -> Self {
        let handle = FaultHandle::default();
        Self {
            rx: Line::new(rx, Random(seed), Arc::clone(&handle.rx)),
            tx: Line::new(tx, Random(!seed), Arc::clone(&handle.tx)),
            burst: Vec::new(),
            ready: Vec::new(),
            frame: vec![0; inner.caps().max_packet.max(inner.caps().tx_segment)],
            committed: 0,
            inner,
            handle,
        }
    }

    /// A handle that reads the counts.
    #[must_use]
    pub fn handle(&self) -> FaultHandle {
        self.handle.clone()
    }

    /// Hands packets that are ready, or have become due, to the datapath below.
    fn release(&mut self) -> io::Result<()> {
        self.tx.release_due(&mut self.ready);
        for (meta, bytes) in self.ready.drain(..) {
            if self.inner.frame().is_none() {
                self.inner.flush()?;
            }
            if let Some(frame) = self.inner.frame() {
                frame[..bytes.len()].copy_from_slice(&bytes);
                self.inner.commit(meta);
            }
        }
        self.inner.flush()
    }
}

impl<D: Datapath> Datapath for Faulty<D> {
    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    fn frame(&mut self) -> Option<&mut [u8]> {
        (self.committed < self.inner.caps().tx_burst).then_some(self.frame.as_mut_slice())
    }

    fn commit(&mut self, meta: TxMeta) {
        self.committed += 1;
        self.tx.offer(meta, &self.frame[..meta.len], &mut self.ready);
    }

    fn flush(&mut self) -> io::Result<()> {
        self.committed = 0;
        self.release()
    }

    fn backlog(&self) -> usize {
        self.inner.backlog()
    }

    fn recv(&mut self) -> io::Result<usize> {
        if self.tx.next_due().is_some_and(|due| due <= Instant::now()) {
            self.release()?;
        }
        self.burst.clear();
        for index in 0..self.inner.recv()? {
            let (meta, bytes) = self.inner.packet(index);
            self.rx.offer(meta, bytes, &mut self.burst);
        }
        self.rx.release_due(&mut self.burst);
        // What a burst cannot hold comes next, after what is due by then.
        for (meta, bytes) in self.burst.drain(self.inner.caps().rx_burst.min(self.burst.len())..) {
            self.rx.hold_until(Instant::now(), meta, bytes);
        }
        Ok(self.burst.len())
    }

    fn packet(&mut self, index: usize) -> (RxMeta, &mut [u8]) {
        let (meta, bytes) = &mut self.burst[index];
        (*meta, bytes)
    }

    fn path_error(&mut self) -> Option<PathError> {
        self.inner.path_error()
    }

    fn path_mtu(&mut self, dst: IpAddr) -> io::Result<usize> {
        self.inner.path_mtu(dst)
    }

    fn tso(&mut self, dst: IpAddr) -> usize {
        self.inner.tso(dst)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.inner.fd()
    }

    fn next_due(&self) -> Option<Instant> {
        [self.inner.next_due(), self.rx.next_due(), self.tx.next_due()].into_iter().flatten().min()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let due = self.next_due().map(|due| due.saturating_duration_since(Instant::now()));
        self.inner.wait([timeout, due].into_iter().flatten().min())
    }

    fn stats(&self) -> DatapathStats {
        self.inner.stats()
    }
}

/// One direction: packets are offered to it, and come out as its rules will.
struct Line<M> {
    rules: Rules,
    random: Random,
    held: Vec<Held<M>>,
    counters: Arc<Counters>,
}

/// A packet held back.
struct Held<M> {
    meta: M,
    bytes: Vec<u8>,
    /// Packets that still have to pass; `None` if only time counts.
    passing: Option<u32>,
    due: Instant,
}

impl<M: Copy> Line<M> {
    fn new(rules: Rules, random: Random, counters: Arc<Counters>) -> Self {
        Self { rules, random, held: Vec::new(), counters }
    }

    /// Takes a packet, and appends to `out` what comes out by that.
    fn offer(&mut self, meta: M, bytes: &[u8], out: &mut Vec<(M, Vec<u8>)>) {
        let Rules { drop, duplicate, corrupt, reorder, hold_packets, hold_limit, delay, delay_by } =
            self.rules;
        let before = self.held.len();
        if self.random.happens(drop) {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            return self.pass(before, out);
        }
        let mut bytes = bytes.to_vec();
        if !bytes.is_empty() && self.random.happens(corrupt) {
            self.counters.corrupted.fetch_add(1, Ordering::Relaxed);
            self.damage(&mut bytes);
        }
        if self.random.happens(duplicate) {
            self.counters.duplicated.fetch_add(1, Ordering::Relaxed);
            out.push((meta, bytes.clone()));
        }
        if self.random.happens(delay) {
            self.counters.delayed.fetch_add(1, Ordering::Relaxed);
            self.hold_until(Instant::now() + delay_by, meta, bytes);
        } else if self.random.happens(reorder) {
            self.counters.reordered.fetch_add(1, Ordering::Relaxed);
            let due = Instant::now() + hold_limit;
            self.held.push(Held { meta, bytes, passing: Some(hold_packets), due });
        } else {
            out.push((meta, bytes));
        }
        self.pass(before, out);
    }

    /// One more packet has passed the first `count` held ones.
    fn pass(&mut self, count: usize, out: &mut Vec<(M, Vec<u8>)>) {
        for held in &mut self.held[..count] {
            held.passing = held.passing.map(|passing| passing.saturating_sub(1));
        }
        out.extend(
            self.held
                .extract_if(..count, |held| held.passing == Some(0))
                .map(|held| (held.meta, held.bytes)),
        );
    }

    fn hold_until(&mut self, due: Instant, meta: M, bytes: Vec<u8>) {
        self.held.push(Held { meta, bytes, passing: None, due });
    }

    /// Appends to `out` the packets that have been held for long enough.
    fn release_due(&mut self, out: &mut Vec<(M, Vec<u8>)>) {
        if self.held.is_empty() {
            return;
        }
        let now = Instant::now();
        out.extend(
            self.held.extract_if(.., |held| held.due <= now).map(|held| (held.meta, held.bytes)),
        );
    }

    fn next_due(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.due).min()
    }

    /// Flips one bit: in the header as likely as anywhere.
    fn damage(&mut self, bytes: &mut [u8]) {
        let reach = if self.random.happens(0.5) { HEADER_LEN } else { bytes.len() };
        let bit = self.random.below(8 * reach.min(bytes.len()));
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[derive(Debug, Default)]
struct Counters {
    dropped: AtomicU64,
    duplicated: AtomicU64,
    corrupted: AtomicU64,
    reordered: AtomicU64,
    delayed: AtomicU64,
}

impl Counters {
    fn read(&self) -> FaultCounts {
        FaultCounts {
            dropped: self.dropped.load(Ordering::Relaxed),
            duplicated: self.duplicated.load(Ordering::Relaxed),
            corrupted: self.corrupted.load(Ordering::Relaxed),
            reordered: self.reordered.load(Ordering::Relaxed),
            delayed: self.delayed.load(Ordering::Relaxed),
        }
    }
}

/// SplitMix64: small, fast, good enough for dice, and the same everywhere for a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// True with `probability`.
    fn happens(&mut self, probability: f64) -> bool {
        // 53 bits are what a float between 0 and 1 holds.
        ((self.next() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    /// A number below `bound`, which must not be 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
