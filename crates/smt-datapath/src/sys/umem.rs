//! Packet memory shared with the kernel (UMEM), in chunks of which each is at any time either the
//! kernel's or that of one share, which one thread uses. Which, is written down here, so that a slice
//! is only ever lent of memory that the kernel and all other threads leave alone.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Mapped memory, of this process alone or shared with the kernel.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is owned memory; whoever dereferences pointers into it answers for the rest.
unsafe impl Send for Mapping {}
// SAFETY: as above; by reference it gives nothing but pointers.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed memory of `len` bytes, aligned to pages.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: the kernel chooses the place; nothing that exists is touched.
        unsafe { Self::new(len, flags, -1, 0) }
    }

    /// `len` bytes of what `fd` offers at `offset`, all present from the start.
    ///
    /// # Safety
    /// `fd` must not be such that the mapping has effects on memory in use.
    pub(crate) unsafe fn of(fd: libc::c_int, len: usize, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: the caller promises it.
        unsafe { Self::new(len, libc::MAP_SHARED | libc::MAP_POPULATE, fd, offset) }
    }

    /// # Safety
    /// `flags` must leave the place to the kernel.
    unsafe fn new(
        len: usize,
        flags: i32,
        fd: libc::c_int,
        offset: libc::off_t,
    ) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without MAP_FIXED, which the caller rules out, only fresh addresses are mapped.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast())
            .map(|start| Self { start, len })
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// A pointer to byte `offset`, for a `T` that lies there.
    ///
    /// # Panics
    /// If it does not fit, or would not be aligned.
    pub(crate) fn at<T>(&self, offset: usize) -> NonNull<T> {
        let end = offset.checked_add(size_of::<T>());
        assert!(end.is_some_and(|end| end <= self.len), "{offset} of {} bytes", self.len);
        // The mapping begins with a page.
        assert!(offset.is_multiple_of(align_of::<T>()), "{offset} is not aligned");
        // SAFETY: the assertions keep it inside the mapping.
        unsafe { self.start.add(offset) }.cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this, and it is unmapped once. A failure leaks it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The mark of a chunk that is the kernel's. A share's own is its number, from 1 on.
const KERNELS: u8 = 0;

/// One share of packet memory in chunks of equal length.
///
/// Every chunk has a mark: the kernel's, or that of one share. A share reaches the bytes of chunks with
/// its own mark alone, gives them up by [`lend`](Self::lend), and gets others by
/// [`take_back`](Self::take_back) from the kernel, never from another share. So two shares never reach
/// the same bytes, whichever chunks the kernel hands to which of them.
pub(crate) struct Umem {
    memory: Arc<Mapping>,
    /// Binary logarithm of the bytes in a chunk.
    chunk_bits: u32,
    /// Of each chunk.
    marks: Arc<[AtomicU8]>,
    own: u8,
    /// It is all of the memory: nobody else writes marks.
    is_alone: bool,
}

impl Umem {
    /// Memory of `chunks` chunks of `chunk_len` bytes (a power of two) for `shares` shares, of which
    /// chunk n is that of number `owner(n)`, from 0 on.
    ///
    /// # Panics
    /// If a length or an owner is none.
    pub(crate) fn shares(
        chunks: usize,
        chunk_len: usize,
        shares: u8,
        owner: impl Fn(usize) -> u8,
    ) -> io::Result<Vec<Umem>> {
        assert!(chunk_len.is_power_of_two(), "chunks of {chunk_len} bytes");
        assert!(shares < u8::MAX, "{shares} shares");
        let memory = Arc::new(Mapping::anonymous(chunks * chunk_len)?);
        let mark = |chunk| {
            let owner = owner(chunk);
            assert!(owner < shares, "share {owner} of {shares}");
            AtomicU8::new(owner + 1)
        };
        let marks: Arc<[AtomicU8]> = (0..chunks).map(mark).collect();
        let share = |index| Umem {
            memory: Arc::clone(&memory),
            chunk_bits: chunk_len.trailing_zeros(),
            marks: Arc::clone(&marks),
            own: index + 1,
            is_alone: shares == 1,
        };
        Ok((0..shares).map(share).collect())
    }

    /// Where all of the memory begins, and its length in bytes.
    pub(crate) fn region(&self) -> (u64, u64) {
        (self.memory.start.as_ptr() as u64, self.memory.len as u64)
    }

    /// Bytes in a chunk.
    pub(crate) fn chunk_len(&self) -> usize {
        1 << self.chunk_bits
    }

    /// The chunk that byte `address` lies in.
    pub(crate) fn chunk_of(&self, address: u64) -> usize {
        usize::try_from(address).unwrap_or(usize::MAX) >> self.chunk_bits
    }

    /// Address of the first byte of chunk `chunk`.
    pub(crate) fn address_of(&self, chunk: usize) -> u64 {
        (chunk << self.chunk_bits) as u64
    }

    /// Makes `chunk` the kernel's.
    ///
    /// # Panics
    /// If it is not this share's, or does not exist: two owners of memory are a bug.
    pub(super) fn lend(&mut self, chunk: usize) {
        // A mark of ours is written by this share alone.
        assert!(self.is_own(chunk), "chunk {chunk} is lent by who does not have it");
        // What this thread did to the bytes comes before what the next owner does.
        self.marks[chunk].store(KERNELS, Ordering::Release);
    }

    /// Takes what the kernel says it is done with. False if it did not have it.
    pub(super) fn take_back(&mut self, chunk: usize) -> bool {
        let Some(mark) = self.marks.get(chunk) else { return false };
        if self.is_alone {
            let was_kernels = mark.load(Ordering::Relaxed) == KERNELS;
            mark.store(self.own, Ordering::Relaxed);
            return was_kernels;
        }
        // Of two shares that were told the same, one gets it.
        let taken = mark.compare_exchange(KERNELS, self.own, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok()
    }

    /// `len` bytes at `address`.
    ///
    /// # Panics
    /// If they do not exist or are in a chunk that is not this share's.
    pub(crate) fn bytes_mut(&mut self, address: u64, len: usize) -> &mut [u8] {
        let start = usize::try_from(address).unwrap_or(usize::MAX);
        let end = start.checked_add(len).filter(|end| *end <= self.memory.len);
        let Some(end) = end else { panic_outside(address, len) };
        let chunks = start >> self.chunk_bits..(end + self.chunk_len() - 1) >> self.chunk_bits;
        let is_own = |mark: &AtomicU8| mark.load(Ordering::Relaxed) == self.own;
        // Relaxed: this share wrote the mark itself, if it is its own.
        assert!(self.marks[chunks].iter().all(is_own), "{address} is the kernel's");
        // SAFETY: the range lies inside the mapping, in chunks of this share. The kernel and other
        // shares do not touch those until they are lent, which takes `&mut self`; there is one `Umem`
        // of each share. Any bytes are `u8`.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start.as_ptr().add(start), len) }
    }

    fn is_own(&self, chunk: usize) -> bool {
        // Relaxed: as above.
        self.marks[chunk].load(Ordering::Relaxed) == self.own
    }
}

#[cold]
#[allow(clippy::panic)]
fn panic_outside(address: u64, len: usize) -> ! {
    panic!("{len} bytes at {address} are outside of the packet memory")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn alone(chunks: usize) -> Umem {
        Umem::shares(chunks, 2048, 1, |_| 0).unwrap().remove(0)
    }

    #[test]
    fn memory_is_lent_and_comes_back() {
        let mut umem = alone(4);
        assert_eq!(umem.region().1, 8192);
        umem.bytes_mut(2048, 4096).fill(7);
        assert_eq!(umem.bytes_mut(4095, 2), [7, 7]);
        umem.lend(2);
        assert_eq!(umem.bytes_mut(2048, 2048).len(), 2048);
        assert!(umem.take_back(2));
        assert!(!umem.take_back(2), "the kernel had it no more");
        assert!(!umem.take_back(4), "there is no such chunk");
        assert_eq!(umem.chunk_of(u64::MAX), usize::MAX / 2048);
        assert_eq!((umem.chunk_of(4095), umem.chunk_of(4096)), (1, 2));
        assert_eq!((umem.address_of(3), umem.chunk_len()), (6144, 2048));
    }

    #[test]
    #[should_panic(expected = "is the kernel's")]
    fn memory_of_the_kernels_is_out_of_reach() {
        let mut umem = alone(4);
        umem.lend(2);
        umem.bytes_mut(4095, 2);
    }

    #[test]
    #[should_panic(expected = "outside of the packet memory")]
    fn memory_beyond_the_end_is_out_of_reach() {
        alone(4).bytes_mut(8191, 2);
    }

    #[test]
    #[should_panic(expected = "who does not have it")]
    fn a_chunk_has_one_owner() {
        let mut umem = alone(4);
        umem.lend(1);
        umem.lend(1);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Lend(usize),
        TakeBack(usize),
    }

    proptest! {
        /// Against a plain list of owners: no share reaches, lends or takes what it should not.
        #[test]
        fn each_chunk_has_one_owner(
            shares in 1u8..5,
            steps in prop::collection::vec((0u8..4, any::<bool>(), 0usize..10), 1..200),
        ) {
            let mut umems = Umem::shares(8, 2048, shares, |chunk| chunk as u8 % shares).unwrap();
            let mut owners: Vec<Option<u8>> = (0..8).map(|n| Some(n % shares)).collect();
            for (share, lends, chunk) in steps {
                let share = share % shares;
                let umem = &mut umems[usize::from(share)];
                let step = if lends { Step::Lend(chunk) } else { Step::TakeBack(chunk) };
                match step {
                    Step::Lend(chunk) => if owners.get(chunk) == Some(&Some(share)) {
                        umem.lend(chunk);
                        owners[chunk] = None;
                    },
                    Step::TakeBack(chunk) => {
                        let free = owners.get(chunk) == Some(&None);
                        prop_assert_eq!(umem.take_back(chunk), free);
                        if free {
                            owners[chunk] = Some(share);
                        }
                    }
                }
                for (index, umem) in (0..).zip(&umems) {
                    for (chunk, owner) in owners.iter().enumerate() {
                        prop_assert_eq!(umem.is_own(chunk), *owner == Some(index));
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "is the kernel's")]
    fn memory_of_another_share_is_out_of_reach() {
        let mut umems = Umem::shares(4, 2048, 2, |chunk| chunk as u8 / 2).unwrap();
        assert_eq!(umems[0].bytes_mut(0, 4096).len(), 4096);
        umems[0].bytes_mut(2048, 2049);
    }

    /// A kernel that hands every chunk to all shares at once still makes no two of them its owners.
    #[test]
    fn a_chunk_told_to_all_is_had_by_one() {
        const CHUNKS: usize = 16;
        let umems = Umem::shares(CHUNKS, 2048, 4, |_| 0).unwrap();
        let threads: Vec<_> = umems
            .into_iter()
            .map(|mut umem| {
                thread::spawn(move || {
                    let mut taken = 0;
                    if umem.own == 1 {
                        (0..CHUNKS).for_each(|chunk| umem.lend(chunk));
                    }
                    for round in 0..20_000usize {
                        let chunk = round % CHUNKS;
                        if umem.take_back(chunk) {
                            let own = umem.own;
                            let bytes = umem.bytes_mut(umem.address_of(chunk), 2048);
                            bytes.fill(own);
                            assert!(bytes.iter().all(|byte| *byte == own), "two owners");
                            umem.lend(chunk);
                            taken += 1;
                        }
                    }
                    taken
                })
            })
            .collect();
        let taken: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(taken > 0);
    }
}
