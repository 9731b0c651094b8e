//! AF_XDP sockets: set up, bound to one queue of a device, with the rings that it shares with the
//! kernel.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU32;

use libc::{
    xdp_desc, xdp_mmap_offsets, xdp_options, xdp_ring_offset, xdp_statistics, xdp_umem_reg,
};

use super::option;
use super::ring::{Consumer, Places, Producer};
use super::umem::{Mapping, Umem};

/// Socket options of asm-generic/socket.h that crate libc lacks.
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_BUSY_POLL_BUDGET: i32 = 70;
/// Bytes of frames on their way that the kernel holds for one socket in copy mode.
const SEND_BUFFER: i32 = 8 << 20;
/// Packets that one busy poll handles.
const BUSY_POLL_BUDGET: i32 = 64;

/// How large the rings are; powers of two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingLens {
    /// Chunks lent for receiving, and packets received.
    pub(crate) rx: u32,
    /// Chunks to send, and chunks sent; `None` makes a socket that only receives.
    pub(crate) tx: Option<u32>,
}

/// What a bound socket is to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding {
    /// Device.
    pub(crate) ifindex: u32,
    /// Its queue.
    pub(crate) queue: u32,
    /// Packets may lie in several chunks.
    pub(crate) multi_chunk: bool,
    /// Packets are copied even if the driver could do without.
    pub(crate) copy: bool,
}

/// What went wrong, and when.
#[derive(Debug)]
pub(crate) struct XskError {
    pub(crate) step: Step,
    pub(crate) source: io::Error,
}

/// A step of setting up a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The socket itself: does the kernel know the family, may we?
    Socket,
    /// Packet memory, which counts as locked.
    Memory,
    /// The rings.
    Rings,
    /// Binding to the queue.
    Bind,
}

impl Step {
    fn failed(self) -> impl FnOnce(io::Error) -> XskError {
        move |source| XskError { step: self, source }
    }
}

/// A socket bound to a queue.
pub(crate) struct Xsk {
    fd: OwnedFd,
    /// Chunks lent to receive into.
    fill: Producer<u64>,
    /// Packets received.
    rx: Consumer<xdp_desc>,
    tx: Option<TxRings>,
    umem: Umem,
    is_zero_copy: bool,
}

struct TxRings {
    /// Packets to send.
    queue: Producer<xdp_desc>,
    /// Chunks sent.
    completed: Consumer<u64>,
}

/// A received piece of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where in the packet memory.
    pub(crate) address: u64,
    /// Bytes.
    pub(crate) len: usize,
    /// The packet goes on in the next piece.
    pub(crate) continues: bool,
}

impl Xsk {
    /// Binds a new socket over `umem`.
    pub(crate) fn open(umem: Umem, lens: RingLens, binding: Binding) -> Result<Self, XskError> {
        let fd = socket().map_err(Step::Socket.failed())?;
        // In copy mode a full buffer would hold packets up that the rings have room for.
        option::set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)
            .or_else(|_| option::set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER))
            .map_err(Step::Socket.failed())?;
        register(&fd, &umem).map_err(Step::Memory.failed())?;
        let (fill, rx, tx) = rings(&fd, lens).map_err(Step::Rings.failed())?;
        bind(&fd, binding).map_err(Step::Bind.failed())?;
        let mut options = xdp_options { flags: 0 };
        option::get_struct(&fd, libc::SOL_XDP, libc::XDP_OPTIONS, &mut options)
            .map_err(Step::Bind.failed())?;
        let is_zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
        Ok(Self { fd, fill, rx, tx, umem, is_zero_copy })
    }

    /// Has the kernel handle the queue's packets in this process's calls instead of interrupts, for
    /// `micros` at a time.
    pub(crate) fn busy_poll(&self, micros: i32) -> io::Result<()> {
        option::set(&self.fd, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, 1)?;
        option::set(&self.fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, micros)?;
        option::set(&self.fd, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET)
    }

    pub(crate) fn is_zero_copy(&self) -> bool {
        self.is_zero_copy
    }

    pub(crate) fn umem(&mut self) -> &mut Umem {
        &mut self.umem
    }

    /// Lends `chunk` to receive into. False, and it stays ours, if the ring is full.
    pub(crate) fn fill(&mut self, chunk: usize) -> bool {
        let lent = self.fill.push(self.umem.address_of(chunk));
        if lent {
            self.umem.lend(chunk);
        }
        lent
    }

    /// Shows the kernel the chunks lent since the last call.
    pub(crate) fn publish_fill(&mut self) {
        self.fill.publish();
    }

    /// The next piece received, whose chunk is ours again.
    pub(crate) fn receive(&mut self) -> Option<Piece> {
        while let Some(received) = self.rx.pop() {
            // A chunk that the kernel never had would be the kernel's bug; nothing is read there.
            if self.umem.take_back(self.umem.chunk_of(received.addr)) {
                return Some(Piece {
                    address: received.addr,
                    len: received.len as usize,
                    continues: received.options & libc::XDP_PKT_CONTD != 0,
                });
            }
        }
        None
    }

    /// Gives the places of received pieces in the ring back.
    pub(crate) fn release_received(&mut self) {
        self.rx.release();
    }

    /// Whether `pieces` pieces can be queued to be sent.
    pub(crate) fn tx_has_room(&mut self, pieces: u32) -> bool {
        self.tx.as_mut().is_some_and(|tx| tx.queue.has_room(pieces))
    }

    /// Queues `len` bytes at `address`, all in one chunk, which becomes the kernel's. False, and
    /// nothing happens, if the ring is full.
    pub(crate) fn transmit(&mut self, address: u64, len: usize, continues: bool) -> bool {
        let Some(tx) = &mut self.tx else { return false };
        let options = if continues { libc::XDP_PKT_CONTD } else { 0 };
        let queued = tx.queue.push(xdp_desc { addr: address, len: len as u32, options });
        if queued {
            self.umem.lend(self.umem.chunk_of(address));
        }
        queued
    }

    /// Shows the kernel the pieces queued since the last call.
    pub(crate) fn publish_tx(&mut self) {
        if let Some(tx) = &mut self.tx {
            tx.queue.publish();
        }
    }

    /// Pieces shown that the kernel has not taken yet.
    pub(crate) fn tx_waiting(&self) -> u32 {
        self.tx.as_ref().map_or(0, |tx| tx.queue.waiting())
    }

    /// The next chunk that the kernel has sent, which is ours again.
    pub(crate) fn completed(&mut self) -> Option<usize> {
        let tx = self.tx.as_mut()?;
        while let Some(address) = tx.completed.pop() {
            let chunk = self.umem.chunk_of(address);
            if self.umem.take_back(chunk) {
                return Some(chunk);
            }
        }
        tx.completed.release();
        None
    }

    /// Calls `each` for the chunks that [`completed`](Self::completed) would give.
    pub(crate) fn peek_completed(&self, mut each: impl FnMut(usize)) {
        if let Some(tx) = &self.tx {
            tx.completed.peek(|address| each(self.umem.chunk_of(address)));
        }
    }

    /// Whether the kernel sends only when it is told to.
    pub(crate) fn tx_needs_wakeup(&self) -> bool {
        self.tx.as_ref().is_some_and(|tx| tx.queue.needs_wakeup())
    }

    /// Whether the kernel receives only when it is told to, since it once found no chunk to receive
    /// into.
    pub(crate) fn rx_needs_wakeup(&self) -> bool {
        self.fill.needs_wakeup()
    }

    /// Tells the kernel to send what is queued.
    pub(crate) fn wake_tx(&self) -> io::Result<()> {
        // SAFETY: no buffer and no address are passed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_sendto,
                self.fd.as_raw_fd(),
                std::ptr::null::<u8>(),
                0usize,
                libc::MSG_DONTWAIT,
                std::ptr::null::<u8>(),
                0,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Tells the kernel to receive.
    pub(crate) fn wake_rx(&self) -> io::Result<()> {
        // SAFETY: as above.
        let result = unsafe {
            libc::syscall(
                libc::SYS_recvfrom,
                self.fd.as_raw_fd(),
                std::ptr::null_mut::<u8>(),
                0usize,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut::<u8>(),
                std::ptr::null_mut::<u8>(),
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Packets for this socket that were dropped for want of a chunk or of a place in the ring.
    pub(crate) fn dropped(&self) -> io::Result<u64> {
        let mut counters = xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        option::get_struct(&self.fd, libc::SOL_XDP, libc::XDP_STATISTICS, &mut counters)?;
        Ok(counters.rx_dropped + counters.rx_ring_full)
    }
}

impl AsFd for Xsk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_XDP, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and is nobody's yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn register(fd: &OwnedFd, umem: &Umem) -> io::Result<()> {
    let (addr, len) = umem.region();
    let region = xdp_umem_reg {
        addr,
        len,
        chunk_size: umem.chunk_len() as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    // SAFETY: `addr` leads to `len` bytes of packet memory. The kernel keeps the pages themselves for
    // as long as it uses them, whatever becomes of the mapping, and writes only to chunks it was
    // lent.
    unsafe { option::set_struct(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &region) }
}

type Rings = (Producer<u64>, Consumer<xdp_desc>, Option<TxRings>);

fn rings(fd: &OwnedFd, lens: RingLens) -> io::Result<Rings> {
    let set = |name, len: u32| option::set(fd, libc::SOL_XDP, name, len as i32);
    set(libc::XDP_UMEM_FILL_RING, lens.rx)?;
    set(libc::XDP_RX_RING, lens.rx)?;
    // The kernel wants a completion ring of every packet memory.
    let tx_len = lens.tx.unwrap_or(1);
    set(libc::XDP_UMEM_COMPLETION_RING, tx_len)?;
    if lens.tx.is_some() {
        set(libc::XDP_TX_RING, tx_len)?;
    }
    let ring = || xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
    let mut offsets = xdp_mmap_offsets { rx: ring(), tx: ring(), fr: ring(), cr: ring() };
    option::get_struct(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    let fill_offset = libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t;
    let completion_offset = libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t;
    let (fill, rx) = (
        map::<u64>(fd, fill_offset, &offsets.fr, lens.rx)?,
        map::<xdp_desc>(fd, libc::XDP_PGOFF_RX_RING, &offsets.rx, lens.rx)?,
    );
    let tx = match lens.tx {
        None => None,
        Some(len) => Some((
            map::<xdp_desc>(fd, libc::XDP_PGOFF_TX_RING, &offsets.tx, len)?,
            map::<u64>(fd, completion_offset, &offsets.cr, len)?,
        )),
    };
    // SAFETY: `map` lays the pointers out as the kernel says the rings are, and each ring has two
    // ends: ours, made here once, and the kernel's.
    unsafe {
        let tx = tx.map(|(queue, completed)| TxRings {
            queue: Producer::new(queue),
            completed: Consumer::new(completed),
        });
        Ok((Producer::new(fill), Consumer::new(rx), tx))
    }
}

/// Maps the ring that the socket offers at `offset`.
fn map<T>(
    fd: &OwnedFd,
    offset: libc::off_t,
    places: &xdp_ring_offset,
    len: u32,
) -> io::Result<Places<T>> {
    let entries = places.desc as usize;
    let bytes = entries + len as usize * size_of::<T>();
    // SAFETY: these offsets of an AF_XDP socket are its rings and nothing else.
    let mapping = unsafe { Mapping::of(fd.as_raw_fd(), bytes, offset) }?;
    Ok(Places {
        producer: mapping.at::<AtomicU32>(places.producer as usize),
        consumer: mapping.at::<AtomicU32>(places.consumer as usize),
        flags: mapping.at::<AtomicU32>(places.flags as usize),
        entries: mapping.at::<T>(entries),
        len,
        _memory: Box::new(mapping),
    })
}

fn bind(fd: &OwnedFd, binding: Binding) -> io::Result<()> {
    let mut flags = libc::XDP_USE_NEED_WAKEUP;
    if binding.multi_chunk {
        flags |= libc::XDP_USE_SG;
    }
    if binding.copy {
        // Otherwise the kernel tries zero copy first and copies where the driver cannot.
        flags |= libc::XDP_COPY;
    }
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: binding.ifindex,
        sxdp_queue_id: binding.queue,
        sxdp_shared_umem_fd: 0,
    };
    let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: pointer and length describe `address`, which the kernel reads.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
