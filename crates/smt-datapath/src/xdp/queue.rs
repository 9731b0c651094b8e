//! One queue of a device, as one shard has it: packets received from it in bursts, and frames to send
//! through it.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use super::frames::Frames;
use super::layout::Layout;
use crate::sys::umem::Umem;
use crate::sys::xsk::{Binding, RingLens, Step, Xsk, XskError};

/// Calls of the kernel for one flush: it takes some 32 packets in each.
const MAX_WAKES: usize = 64;
/// Longest frame there is; what claims to be longer is thrown away.
const LONGEST_FRAME: usize = 65_535 + 14;

/// A queue with its socket.
pub(super) struct Queue {
    xsk: Xsk,
    layout: Layout,
    frames: Frames,
    /// Chunks that hold the current burst.
    held: Vec<usize>,
    joined: Joined,
    /// The kernel's count of dropped packets, as last read.
    dropped: u64,
    /// The ring was so full that packets may have been dropped since.
    may_drop: bool,
    /// The kernel handles the queue only when it is called.
    polls_busily: bool,
}

/// Where a received frame lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In packet memory: address and length.
    Chunk(u64, usize),
    /// It came in pieces, which were joined.
    Joined(Range<usize>),
}

impl Queue {
    /// Binds to a queue, with one socket for each shard; with `sends` frames can be sent too.
    pub(super) fn open(
        layout: Layout,
        binding: Binding,
        sends: bool,
    ) -> Result<Vec<Self>, XskError> {
        let (rx, tx) = (layout.rx_chunks(), if sends { layout.tx_chunks as usize } else { 0 });
        // First the chunks to receive into, which nobody has for good; then those that each sends from.
        let owner = |chunk: usize| match chunk.checked_sub(rx) {
            Some(chunk) => u8::try_from(chunk / tx).unwrap_or(u8::MAX),
            None => 0,
        };
        let chunks = rx + usize::from(layout.shards) * tx;
        let umems = Umem::shares(chunks, layout.chunk_len, layout.shards, owner)
            .map_err(|source| XskError { step: Step::Memory, source })?;
        let lens = RingLens {
            fill: u32::try_from(rx).unwrap_or(u32::MAX / 2).next_power_of_two(),
            rx: layout.rx_places,
            tx: sends.then_some(layout.tx_chunks),
        };
        let mut sockets = Xsk::open(umems, rx, lens, binding)?;
        if let Some(first) = sockets.first_mut() {
            first.fill(0..rx);
        }
        let queue = |(index, xsk): (usize, Xsk)| Self {
            xsk,
            frames: Frames::new(rx + index * tx, tx, layout.chunks_per_frame),
            layout,
            held: Vec::new(),
            joined: Joined::default(),
            dropped: 0,
            may_drop: false,
            polls_busily: false,
        };
        Ok(sockets.into_iter().enumerate().map(queue).collect())
    }

    pub(super) fn is_zero_copy(&self) -> bool {
        self.xsk.is_zero_copy()
    }

    /// See [`Xsk::busy_poll`].
    pub(super) fn busy_poll(&mut self, micros: i32) -> io::Result<()> {
        self.polls_busily = true;
        self.xsk.busy_poll(micros)
    }

    /// Gives the memory of the last burst back and calls `each` for at most `most` frames that have
    /// come since; returns how many.
    pub(super) fn receive(&mut self, most: usize, mut each: impl FnMut(Place)) -> usize {
        self.refill();
        let frames = self.take(most, &mut each);
        if frames == 0 && self.polls_busily && self.xsk.wake_rx().is_ok() {
            return self.take(most, &mut each);
        }
        frames
    }

    fn take(&mut self, most: usize, each: &mut impl FnMut(Place)) -> usize {
        let mut frames = 0;
        while frames < most && self.held.len() < self.layout.held_chunks {
            let Some(piece) = self.xsk.receive() else { break };
            let chunk = self.xsk.umem().chunk_of(piece.address);
            self.held.push(chunk);
            let room = self.xsk.umem().address_of(chunk + 1) - piece.address;
            if piece.len as u64 > room {
                // The kernel writes within chunks.
                continue;
            }
            if !piece.continues && !self.joined.has_begun() {
                each(Place::Chunk(piece.address, piece.len));
                frames += 1;
                continue;
            }
            let bytes = self.xsk.umem().bytes_mut(piece.address, piece.len);
            if let Some(place) = self.joined.append(bytes, piece.continues) {
                each(Place::Joined(place));
                frames += 1;
            }
        }
        if !self.held.is_empty() {
            self.xsk.release_received();
        }
        self.may_drop |= frames == most || self.held.len() >= self.layout.held_chunks;
        frames
    }

    fn refill(&mut self) {
        self.joined.next_burst();
        if self.held.is_empty() {
            return;
        }
        if self.xsk.fill(self.held.drain(..)) {
            // Of no consequence: waiting for packets wakes the kernel as well.
            let _ = self.xsk.wake_rx();
        }
    }

    /// The bytes of a frame of the current burst.
    pub(super) fn received(&mut self, place: &Place) -> &mut [u8] {
        match place {
            Place::Chunk(address, len) => self.xsk.umem().bytes_mut(*address, *len),
            Place::Joined(range) => self.joined.bytes_mut(range.clone()),
        }
    }

    /// Packets that the kernel has dropped since the last call, for want of room here. Asks it only
    /// after bursts so large that there may be some.
    pub(super) fn newly_dropped(&mut self) -> u64 {
        if !std::mem::take(&mut self.may_drop) {
            return 0;
        }
        let dropped = self.xsk.dropped().unwrap_or(self.dropped);
        dropped - std::mem::replace(&mut self.dropped, dropped)
    }

    /// Takes a frame to fill, if one is free.
    pub(super) fn take_frame(&mut self) -> Option<usize> {
        self.frames.take().or_else(|| {
            self.reap();
            self.frames.take()
        })
    }

    /// All bytes of a frame that was taken.
    pub(super) fn frame_mut(&mut self, frame: usize) -> &mut [u8] {
        let address = self.address(frame);
        let len = self.layout.chunk_len * self.layout.chunks_per_frame;
        self.xsk.umem().bytes_mut(address, len)
    }

    fn address(&mut self, frame: usize) -> u64 {
        let chunk = self.frames.chunk(frame);
        self.xsk.umem().address_of(chunk)
    }

    /// Queues the bytes `place` of a frame that was taken, as one packet. False, and the frame stays
    /// taken, if the ring is full.
    pub(super) fn send(&mut self, frame: usize, place: Range<usize>) -> bool {
        let chunk_len = self.layout.chunk_len;
        let first = place.start / chunk_len;
        let chunks = place.end.div_ceil(chunk_len) - first;
        if !self.xsk.tx_has_room(chunks as u32) {
            return false;
        }
        let base = self.address(frame);
        let mut start = place.start;
        for chunk in first..first + chunks {
            let end = place.end.min((chunk + 1) * chunk_len);
            self.xsk.transmit(base + start as u64, end - start, end < place.end);
            start = end;
        }
        self.frames.sent(frame, chunks, place.len());
        true
    }

    /// Hands what is queued to the kernel. False if it has not taken it all: the rest stays in the
    /// ring, and has to be offered again.
    pub(super) fn flush(&mut self) -> bool {
        self.xsk.publish_tx();
        if self.xsk.tx_waiting() == 0 {
            return true;
        }
        let taken = !self.xsk.tx_needs_wakeup() || self.wake();
        self.reap();
        taken
    }

    fn wake(&mut self) -> bool {
        let mut waiting = self.xsk.tx_waiting();
        for _ in 0..MAX_WAKES {
            let woken = self.xsk.wake_tx();
            if self.xsk.is_zero_copy() {
                // The driver takes packets when it comes to it.
                return woken.is_ok();
            }
            // The kernel takes a part of what waits in each call, and an error often means "again".
            let before = std::mem::replace(&mut waiting, self.xsk.tx_waiting());
            if waiting == 0 || waiting == before {
                break;
            }
        }
        waiting == 0
    }

    /// Takes back what has been sent.
    fn reap(&mut self) {
        let frames = &mut self.frames;
        self.xsk.completed(|chunk| frames.completed(chunk));
    }

    /// Bytes handed to the kernel that have not left.
    pub(super) fn backlog(&self) -> usize {
        if self.frames.bytes_out() == 0 {
            return 0;
        }
        let mut sent = 0;
        self.xsk.peek_completed(|chunk| sent += self.frames.bytes_of(chunk));
        self.frames.bytes_out().saturating_sub(sent)
    }

    /// Bytes of memory that packets of this shard are received into.
    pub(super) fn rx_capacity(&self) -> usize {
        self.layout.rx_places as usize * self.layout.chunk_len
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.xsk.as_fd()
    }
}

/// Frames that came in pieces, joined.
#[derive(Debug, Default)]
struct Joined {
    bytes: Vec<u8>,
    /// Where the frame of which more is to come begins.
    begun: Option<usize>,
    /// That frame is too long: it is left out.
    too_long: bool,
}

impl Joined {
    fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Frames of the last burst are no longer needed.
    fn next_burst(&mut self) {
        match &mut self.begun {
            Some(begun) => {
                self.bytes.drain(..*begun);
                *begun = 0;
            }
            None => self.bytes.clear(),
        }
    }

    /// Adds a piece; returns the place of the whole frame if it was the last.
    fn append(&mut self, piece: &[u8], continues: bool) -> Option<Range<usize>> {
        let start = *self.begun.get_or_insert(self.bytes.len());
        self.too_long |= self.bytes.len() - start + piece.len() > LONGEST_FRAME;
        if !self.too_long {
            self.bytes.extend_from_slice(piece);
        }
        if continues {
            return None;
        }
        self.begun = None;
        if std::mem::take(&mut self.too_long) {
            self.bytes.truncate(start);
            return None;
        }
        Some(start..self.bytes.len())
    }

    fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.bytes[range]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_across_bursts() {
        let mut joined = Joined::default();
        assert_eq!(joined.append(&[1, 2], true), None);
        assert_eq!(joined.append(&[3], false), Some(0..3));
        assert_eq!(joined.append(&[4], true), None);
        assert_eq!(joined.bytes_mut(0..3), [1, 2, 3]);
        joined.next_burst();
        assert!(joined.has_begun());
        assert_eq!(joined.append(&[5, 6], false), Some(0..3));
        assert_eq!(joined.bytes_mut(0..3), [4, 5, 6]);
        joined.next_burst();
        assert_eq!(joined.append(&[7], false), Some(0..1));
    }

    #[test]
    fn frames_without_end_are_left_out() {
        let mut joined = Joined::default();
        assert_eq!(joined.append(&[1], false), Some(0..1));
        for _ in 0..100 {
            assert_eq!(joined.append(&[0; 4000], true), None);
            assert!(joined.bytes.len() <= LONGEST_FRAME + 1);
        }
        assert_eq!(joined.append(&[0], false), None);
        assert_eq!(joined.append(&[2], false), Some(1..2));
        assert_eq!(joined.append(&vec![3; LONGEST_FRAME], false), Some(2..2 + LONGEST_FRAME));
    }
}
