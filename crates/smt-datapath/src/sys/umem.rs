//! Packet memory shared with the kernel (UMEM), in chunks of which each is at any time either this
//! process's or the kernel's. Which, is written down here, so that a slice is only ever lent of
//! memory that the kernel leaves alone.

use std::io;
use std::ptr::NonNull;

/// Mapped memory, of this process alone or shared with the kernel.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is owned memory; whoever dereferences pointers into it answers for the rest.
unsafe impl Send for Mapping {}

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

/// Packet memory in chunks of equal length.
pub(crate) struct Umem {
    memory: Mapping,
    chunk_len: usize,
    /// For each chunk, whether it is this process's.
    ours: Vec<bool>,
}

impl Umem {
    /// Memory of `chunks` chunks of `chunk_len` bytes (a power of two), all this process's.
    pub(crate) fn new(chunks: usize, chunk_len: usize) -> io::Result<Self> {
        assert!(chunk_len.is_power_of_two(), "chunks of {chunk_len} bytes");
        let memory = Mapping::anonymous(chunks * chunk_len)?;
        Ok(Self { memory, chunk_len, ours: vec![true; chunks] })
    }

    /// Where it begins, and its length in bytes.
    pub(crate) fn region(&self) -> (u64, u64) {
        (self.memory.start.as_ptr() as u64, self.memory.len as u64)
    }

    /// Bytes in a chunk.
    pub(crate) fn chunk_len(&self) -> usize {
        self.chunk_len
    }

    /// The chunk that byte `address` lies in.
    pub(crate) fn chunk_of(&self, address: u64) -> usize {
        usize::try_from(address).unwrap_or(usize::MAX) / self.chunk_len
    }

    /// Address of the first byte of chunk `chunk`.
    pub(crate) fn address_of(&self, chunk: usize) -> u64 {
        (chunk * self.chunk_len) as u64
    }

    /// Makes `chunk` the kernel's.
    ///
    /// # Panics
    /// If it is already, or does not exist: two owners of memory are a bug.
    pub(super) fn lend(&mut self, chunk: usize) {
        assert!(std::mem::replace(&mut self.ours[chunk], false), "chunk {chunk} lent twice");
    }

    /// Takes back what the kernel says it is done with. False if it never had it.
    pub(super) fn take_back(&mut self, chunk: usize) -> bool {
        match self.ours.get_mut(chunk) {
            Some(ours) => !std::mem::replace(ours, true),
            None => false,
        }
    }

    /// `len` bytes at `address`.
    ///
    /// # Panics
    /// If they do not exist or are in a chunk of the kernel's.
    pub(crate) fn bytes_mut(&mut self, address: u64, len: usize) -> &mut [u8] {
        let start = usize::try_from(address).unwrap_or(usize::MAX);
        let end = start.checked_add(len).filter(|end| *end <= self.memory.len);
        let Some(end) = end else { panic_outside(address, len) };
        let chunks = start / self.chunk_len..end.div_ceil(self.chunk_len);
        assert!(self.ours[chunks].iter().all(|ours| *ours), "{address} is the kernel's");
        // SAFETY: the range lies inside the mapping, in chunks that the kernel does not touch until
        // they are lent, which takes `&mut self`; any bytes are `u8`.
        unsafe { std::slice::from_raw_parts_mut(self.memory.at::<u8>(0).as_ptr().add(start), len) }
    }
}

#[cold]
#[allow(clippy::panic)]
fn panic_outside(address: u64, len: usize) -> ! {
    panic!("{len} bytes at {address} are outside of the packet memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_lent_and_comes_back() {
        let mut umem = Umem::new(4, 2048).unwrap();
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
        let mut umem = Umem::new(4, 2048).unwrap();
        umem.lend(2);
        umem.bytes_mut(4095, 2);
    }

    #[test]
    #[should_panic(expected = "outside of the packet memory")]
    fn memory_beyond_the_end_is_out_of_reach() {
        Umem::new(4, 2048).unwrap().bytes_mut(8191, 2);
    }

    #[test]
    #[should_panic(expected = "lent twice")]
    fn a_chunk_has_one_owner() {
        let mut umem = Umem::new(4, 2048).unwrap();
        umem.lend(1);
        umem.lend(1);
    }
}
