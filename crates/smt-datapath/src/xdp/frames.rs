//! Frames to send from: which are free, which the kernel has, and how many bytes those are.

/// Frames, each of a fixed number of adjacent chunks of packet memory.
#[derive(Debug)]
pub(super) struct Frames {
    first_chunk: usize,
    chunks_per_frame: usize,
    /// The one used last is used next: it is in the caches.
    free: Vec<usize>,
    /// Of each frame, the chunks that the kernel has not sent yet, and its bytes.
    out: Vec<(usize, usize)>,
    bytes_out: usize,
}

impl Frames {
    /// As many frames as `chunks` chunks from `first_chunk` on make.
    pub(super) fn new(first_chunk: usize, chunks: usize, chunks_per_frame: usize) -> Self {
        let count = chunks / chunks_per_frame;
        Self {
            first_chunk,
            chunks_per_frame,
            free: (0..count).rev().collect(),
            out: vec![(0, 0); count],
            bytes_out: 0,
        }
    }

    /// Takes a free frame.
    pub(super) fn take(&mut self) -> Option<usize> {
        self.free.pop()
    }

    /// The first chunk of `frame`.
    pub(super) fn chunk(&self, frame: usize) -> usize {
        self.first_chunk + frame * self.chunks_per_frame
    }

    /// The kernel has the first `chunks` chunks of `frame` now, with a packet of `len` bytes.
    pub(super) fn sent(&mut self, frame: usize, chunks: usize, len: usize) {
        self.out[frame] = (chunks, len);
        self.bytes_out += len;
    }

    /// The kernel has sent `chunk`. With its last chunk, a frame is free.
    pub(super) fn completed(&mut self, chunk: usize) {
        let Some(frame) = self.frame_of(chunk) else { return };
        let (chunks, len) = &mut self.out[frame];
        if *chunks > 0 {
            *chunks -= 1;
            if *chunks == 0 {
                self.bytes_out -= *len;
                self.free.push(frame);
            }
        }
    }

    /// Bytes of packets that the kernel has.
    pub(super) fn bytes_out(&self) -> usize {
        self.bytes_out
    }

    /// Bytes of the packet that is sent with `chunk`, counted with its first one.
    pub(super) fn bytes_of(&self, chunk: usize) -> usize {
        match self.frame_of(chunk) {
            Some(frame) if self.chunk(frame) == chunk => self.out[frame].1,
            _ => 0,
        }
    }

    fn frame_of(&self, chunk: usize) -> Option<usize> {
        let frame = chunk.checked_sub(self.first_chunk)? / self.chunks_per_frame;
        (frame < self.out.len()).then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Frames are neither lost nor lent twice, and bytes add up.
        #[test]
        fn frames_come_back(
            per_frame in 1usize..4,
            steps in prop::collection::vec((0u8..3, 1usize..4, 1usize..9000), 1..200),
        ) {
            let mut frames = Frames::new(5, 8 * per_frame + per_frame - 1, per_frame);
            let (mut taken, mut kernel) = (Vec::new(), VecDeque::new());
            for (step, chunks, len) in steps {
                match step {
                    0 => match frames.take() {
                        Some(frame) => {
                            prop_assert!(frame < 8 && !taken.contains(&frame));
                            taken.push(frame);
                        }
                        None => prop_assert_eq!(taken.len() + kernel.len(), 8),
                    },
                    1 => if let Some(frame) = taken.pop() {
                        let chunks = chunks.min(per_frame);
                        frames.sent(frame, chunks, len);
                        kernel.push_back((frame, chunks, len));
                    },
                    _ => if let Some((frame, chunks, len)) = kernel.pop_front() {
                        prop_assert_eq!(frames.bytes_of(frames.chunk(frame)), len);
                        (0..chunks).for_each(|chunk| frames.completed(frames.chunk(frame) + chunk));
                    },
                }
                let bytes: usize = kernel.iter().map(|(_, _, len)| len).sum();
                prop_assert_eq!(frames.bytes_out(), bytes);
            }
            for frame in taken {
                frames.sent(frame, 1, 7);
                kernel.push_back((frame, 1, 7));
            }
            for (frame, chunks, _) in kernel {
                (0..chunks).for_each(|chunk| frames.completed(frames.chunk(frame) + chunk));
            }
            prop_assert_eq!(frames.bytes_out(), 0);
            let mut all: Vec<usize> = std::iter::from_fn(|| frames.take()).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn chunks_of_others_are_ignored() {
        let mut frames = Frames::new(5, 4, 2);
        for chunk in [0, 4, 5, 9, usize::MAX] {
            frames.completed(chunk);
            assert_eq!(frames.bytes_of(chunk), 0);
        }
        assert_eq!((frames.take(), frames.take(), frames.take()), (Some(0), Some(1), None));
    }
}
