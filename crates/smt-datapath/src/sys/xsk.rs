//! AF_XDP sockets: set up, bound to one queue of a device, with the rings that they share with the
//! kernel. Several of one queue share its packet memory (`XDP_SHARED_UMEM`): each has rings of its own
//! for packets to send and received, and with the others those of chunks lent and sent
//! ([`pool`](super::pool)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU32;

use libc::{
    xdp_desc, xdp_mmap_offsets, xdp_options, xdp_ring_offset, xdp_statistics, xdp_umem_reg,
};

use super::option;
use super::pool::{Pool, Sent};
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
    /// Chunks lent for receiving, by all sockets.
    pub(crate) fill: u32,
    /// Packets received by one socket.
    pub(crate) rx: u32,
    /// Chunks that one socket sends from; `None` makes sockets that only receive.
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
    /// Packets received.
    rx: Consumer<xdp_desc>,
    /// Packets to send.
    tx: Option<Producer<xdp_desc>>,
    /// Chunks lent to receive into, and chunks sent.
    pool: Pool,
    umem: Umem,
    is_zero_copy: bool,
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
    /// Binds new sockets to a queue, one over each share of one packet memory. The first chunk that
    /// they send from is `first_tx`: as many are the first one's as its ring has places, and then the
    /// next one's.
    pub(crate) fn open(
        umems: Vec<Umem>,
        first_tx: usize,
        lens: RingLens,
        binding: Binding,
    ) -> Result<Vec<Self>, XskError> {
        let sockets = umems.len();
        let mut umems = umems.into_iter();
        let Some(umem) = umems.next() else { return Ok(Vec::new()) };
        let fd = socket().map_err(Step::Socket.failed())?;
        register(&fd, &umem).map_err(Step::Memory.failed())?;
        let senders = umem.address_of(first_tx)
            ..umem.address_of(first_tx + lens.tx.map_or(0, |tx| tx as usize));
        let (fill, completed) = pool_rings(&fd, lens, sockets).map_err(Step::Rings.failed())?;
        let sent = completed.zip(lens.tx).map(|(ring, chunks)| Sent {
            ring,
            senders,
            chunks: chunks as usize,
        });
        let (rx, tx) = rings(&fd, lens).map_err(Step::Rings.failed())?;
        bind(&fd, binding, None).map_err(Step::Bind.failed())?;
        let mut options = xdp_options { flags: 0 };
        option::get_struct(&fd, libc::SOL_XDP, libc::XDP_OPTIONS, &mut options)
            .map_err(Step::Bind.failed())?;
        let is_zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
        let mut pools = Pool::new(fill, sent, sockets).into_iter();
        let mut all = Vec::with_capacity(sockets);
        if let Some(pool) = pools.next() {
            all.push(Self { fd, rx, tx, pool, umem, is_zero_copy });
        }
        for (umem, pool) in umems.zip(pools) {
            let fd = socket().map_err(Step::Socket.failed())?;
            let (rx, tx) = rings(&fd, lens).map_err(Step::Rings.failed())?;
            let first = all.first().map(|first: &Self| &first.fd);
            bind(&fd, binding, first).map_err(Step::Bind.failed())?;
            all.push(Self { fd, rx, tx, pool, umem, is_zero_copy });
        }
        Ok(all)
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

    /// Lends `chunks`, for each of which there is a place in the ring, to receive into. Whether the
    /// kernel receives only when it is told to, since it once found no chunk to receive into.
    pub(crate) fn fill(&mut self, chunks: impl Iterator<Item = usize>) -> bool {
        let umem = &mut self.umem;
        self.pool.with(|rings, _| {
            for chunk in chunks {
                if rings.fill.push(umem.address_of(chunk)) {
                    umem.lend(chunk);
                }
            }
            rings.fill.publish();
            rings.fill.needs_wakeup()
        })
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
        self.tx.as_mut().is_some_and(|tx| tx.has_room(pieces))
    }

    /// Queues `len` bytes at `address`, all in one chunk, which becomes the kernel's. False, and
    /// nothing happens, if the ring is full.
    pub(crate) fn transmit(&mut self, address: u64, len: usize, continues: bool) -> bool {
        let Some(tx) = &mut self.tx else { return false };
        let options = if continues { libc::XDP_PKT_CONTD } else { 0 };
        let queued = tx.push(xdp_desc { addr: address, len: len as u32, options });
        if queued {
            self.umem.lend(self.umem.chunk_of(address));
        }
        queued
    }

    /// Shows the kernel the pieces queued since the last call.
    pub(crate) fn publish_tx(&mut self) {
        if let Some(tx) = &mut self.tx {
            tx.publish();
        }
    }

    /// Pieces shown that the kernel has not taken yet.
    pub(crate) fn tx_waiting(&self) -> u32 {
        self.tx.as_ref().map_or(0, Producer::waiting)
    }

    /// Calls `each` for every chunk of ours that the kernel has sent; they are ours again.
    pub(crate) fn completed(&mut self, mut each: impl FnMut(usize)) {
        let umem = &mut self.umem;
        self.pool.with(|rings, socket| {
            rings.completed(socket, |address| {
                let chunk = umem.chunk_of(address);
                if umem.take_back(chunk) {
                    each(chunk);
                }
            });
        });
    }

    /// Calls `each` for the chunks that [`completed`](Self::completed) would give.
    pub(crate) fn peek_completed(&self, mut each: impl FnMut(usize)) {
        self.pool.look(|rings, socket| {
            rings.peek_completed(socket, |address| each(self.umem.chunk_of(address)));
        });
    }

    /// Whether the kernel sends only when it is told to.
    pub(crate) fn tx_needs_wakeup(&self) -> bool {
        self.tx.as_ref().is_some_and(Producer::needs_wakeup)
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
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // In copy mode a full buffer would hold packets up that the rings have room for.
    option::set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)
        .or_else(|_| option::set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER))?;
    Ok(fd)
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

type PoolRings = (Producer<u64>, Option<Consumer<u64>>);

/// The rings that `sockets` sockets of a queue share, made with the first one.
fn pool_rings(fd: &OwnedFd, lens: RingLens, sockets: usize) -> io::Result<PoolRings> {
    // The kernel wants a ring of chunks sent of every packet memory.
    let sent_len = lens.tx.unwrap_or(1) * u32::try_from(sockets).unwrap_or(1).next_power_of_two();
    set_len(fd, libc::XDP_UMEM_FILL_RING, lens.fill)?;
    set_len(fd, libc::XDP_UMEM_COMPLETION_RING, sent_len)?;
    let offsets = offsets(fd)?;
    let fill_offset = libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t;
    let sent_offset = libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t;
    let fill = map::<u64>(fd, fill_offset, &offsets.fr, lens.fill)?;
    let sent = match lens.tx {
        None => None,
        Some(_) => Some(map::<u64>(fd, sent_offset, &offsets.cr, sent_len)?),
    };
    // SAFETY: `map` lays the pointers out as the kernel says the rings are, and each ring has two
    // ends: ours, made here once, and the kernel's.
    unsafe { Ok((Producer::new(fill), sent.map(|sent| Consumer::new(sent)))) }
}

type Rings = (Consumer<xdp_desc>, Option<Producer<xdp_desc>>);

/// The rings of one socket.
fn rings(fd: &OwnedFd, lens: RingLens) -> io::Result<Rings> {
    set_len(fd, libc::XDP_RX_RING, lens.rx)?;
    if let Some(len) = lens.tx {
        set_len(fd, libc::XDP_TX_RING, len)?;
    }
    let offsets = offsets(fd)?;
    let rx = map::<xdp_desc>(fd, libc::XDP_PGOFF_RX_RING, &offsets.rx, lens.rx)?;
    let tx = match lens.tx {
        None => None,
        Some(len) => Some(map::<xdp_desc>(fd, libc::XDP_PGOFF_TX_RING, &offsets.tx, len)?),
    };
    // SAFETY: as above.
    unsafe { Ok((Consumer::new(rx), tx.map(|tx| Producer::new(tx)))) }
}

fn set_len(fd: &OwnedFd, ring: libc::c_int, len: u32) -> io::Result<()> {
    option::set(fd, libc::SOL_XDP, ring, len as i32)
}

fn offsets(fd: &OwnedFd) -> io::Result<xdp_mmap_offsets> {
    let ring = || xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };
    let mut offsets = xdp_mmap_offsets { rx: ring(), tx: ring(), fr: ring(), cr: ring() };
    option::get_struct(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    Ok(offsets)
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

/// Binds a socket to a queue, or to the queue and packet memory of `first`.
fn bind(fd: &OwnedFd, binding: Binding, first: Option<&OwnedFd>) -> io::Result<()> {
    let mut flags = libc::XDP_USE_NEED_WAKEUP;
    if binding.multi_chunk {
        flags |= libc::XDP_USE_SG;
    }
    if binding.copy {
        // Otherwise the kernel tries zero copy first and copies where the driver cannot.
        flags |= libc::XDP_COPY;
    }
    if first.is_some() {
        // All else is as it is for the first, and must not be said again.
        flags = libc::XDP_SHARED_UMEM;
    }
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: binding.ifindex,
        sxdp_queue_id: binding.queue,
        sxdp_shared_umem_fd: first.map_or(0, |first| first.as_raw_fd() as u32),
    };
    let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: pointer and length describe `address`, which the kernel reads.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
