//! SMT packets handed to network devices as whole frames, and segments for them to cut.
//!
//! A raw IP socket receives: it sees IPv4 headers and super-packets as well as a packet socket
//! would, sooner, and only what is addressed to this host; and while it is open the host does not
//! answer with ICMP that nobody speaks the protocol. A packet socket sends, with headers made here
//! ([`crate::link`]), past routing and filters of the kernel. The device's queue is not bypassed:
//! that gains nothing measurable and would take from it the right to order and to hold back.
//!
//! What has no plain path (see [`crate::link::paths`]), or no longer fits it, leaves through the raw
//! socket, which also tells what is wrong with it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::filter::Shard;
use crate::link::header::{self, ETHERNET_LEN};
use crate::link::paths::Paths;
use crate::ports::PortClaim;
use crate::raw::{self, Native};
use crate::socket::{BUFFER_BYTES, SEND_PATIENCE, SocketDatapath, TX_BURST, set_buffer, wait_for};
use crate::sys::address::RawAddress;
use crate::sys::batch::TxBatch;
use crate::sys::option;
use crate::{Caps, Datapath, DatapathStats, OpenError, PRIORITIES, PathError};
use crate::{RxMeta, TxMeta};

/// Bytes of the header that tells the kernel of offloads (`struct virtio_net_hdr`).
const OFFLOAD_LEN: usize = 10;
/// Room in front of each packet for all headers; frames stay aligned.
const HEADROOM: usize = (OFFLOAD_LEN + header::MAX_LEN).next_multiple_of(ALIGNMENT);
const ALIGNMENT: usize = 64;
/// Largest payload of IPv4, and so the largest packet or segment.
const LARGEST: usize = 65_535 - header::V4_LEN;
/// Bytes of a DATA header, which a device copies in front of each packet of a segment.
const DATA_HEADER: usize = 52;
/// Offset of the checksum in the common header, where TCP has its own.
const CHECKSUM_OFFSET: u16 = 16;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;

/// Opens a raw socket at `local` to receive, and a packet socket to send.
pub(crate) fn open(
    protocol: u8,
    local: IpAddr,
    claim: Arc<PortClaim>,
    shard: Shard,
    dscp: Option<[u8; PRIORITIES]>,
) -> Result<PacketDatapath, OpenError> {
    let raw = raw::open(protocol, local, claim, shard, dscp)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    // Without a protocol it receives nothing.
    let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None).map_err(|error| {
        match error {
            rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => OpenError::missing_privilege(),
            rustix::io::Errno::AFNOSUPPORT => OpenError::NoPacketSockets,
            error => OpenError::Io { what: "open a packet socket", source: error.into() },
        }
    })?;
    option::set(&fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)
        .and_then(|()| set_buffer(&fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, BUFFER_BYTES))
        .map_err(OpenError::io("set up the packet socket"))?;
    let paths = Paths::open(protocol).map_err(OpenError::io("ask the kernel for routes"))?;
    let caps = Caps { name: "packet", tx_segment: LARGEST, ..raw.caps() };
    Ok(PacketDatapath {
        fd,
        classes: dscp.map_or([0; PRIORITIES], |dscp| dscp.map(|dscp| dscp << 2)),
        local: Some(local).filter(|local| !local.is_unspecified()),
        tx: TxBatch::new(TX_BURST, TX_BURST * (HEADROOM + LARGEST.next_multiple_of(ALIGNMENT))),
        queue: Vec::with_capacity(TX_BURST),
        start: 0,
        taken: 0,
        paths,
        stats: DatapathStats::default(),
        raw,
        caps,
    })
}

/// A frame that waits for the next flush.
struct Queued {
    meta: TxMeta,
    /// Index of the device.
    device: u32,
    /// Where in the arena the SMT packet begins.
    start: usize,
}

/// Sends by a packet socket, receives by a raw one.
pub(crate) struct PacketDatapath {
    fd: OwnedFd,
    raw: SocketDatapath<Native>,
    caps: Caps,
    /// The traffic class octet of each priority.
    classes: [u8; PRIORITIES],
    /// The address bound to, unless it is the wildcard.
    local: Option<IpAddr>,
    paths: Paths,
    tx: TxBatch,
    queue: Vec<Queued>,
    /// Where in the arena the next frame's headroom begins.
    start: usize,
    /// Packets committed since the last flush, by whichever way they leave.
    taken: usize,
    /// Of the packet socket alone.
    stats: DatapathStats,
}

impl PacketDatapath {
    /// Where the next frame lies in the arena.
    fn place(&self) -> usize {
        self.start + HEADROOM
    }

    /// Hands the packet at `start` of the arena to the kernel's own IP.
    fn leave_to_kernel(&mut self, meta: TxMeta, start: usize) {
        let packet = self.tx.arena_mut(start..start + meta.len);
        // There is always one: the raw socket takes as many packets as this datapath does.
        if let Some(frame) = self.raw.frame() {
            // What it cannot carry at all is cut short, and refused for its length all the same.
            let len = packet.len().min(frame.len());
            frame[..len].copy_from_slice(&packet[..len]);
            self.raw.commit(TxMeta { len, ..meta });
        }
    }

    /// Sends message `index` of the queue and those behind it; returns how many that settles.
    fn send(&mut self, index: usize, waited: &mut bool) -> io::Result<usize> {
        let error = match self.tx.send(self.fd.as_fd(), index..self.queue.len()) {
            Ok(count) => {
                for sent in &self.queue[index..index + count] {
                    self.stats.tx_packets += 1;
                    self.stats.tx_bytes += sent.meta.len as u64;
                    self.stats.tx_segments += u64::from(sent.meta.segment.is_some());
                }
                *waited = false;
                return Ok(count);
            }
            Err(error) => error,
        };
        let Some(&Queued { meta, device, start }) = self.queue.get(index) else { return Ok(0) };
        match error.raw_os_error() {
            Some(libc::EINTR) => return Ok(0),
            Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT) => return Err(error),
            Some(libc::EAGAIN) if !*waited => {
                *waited = true;
                wait_for(self.fd.as_fd(), PollFlags::OUT, Some(SEND_PATIENCE))?;
                return Ok(0);
            }
            // Queues are full.
            Some(libc::EAGAIN | libc::ENOBUFS) => match meta.segment {
                Some(_) => self.stats.tx_segment_errors += 1,
                None => self.stats.tx_errors += 1,
            },
            // The device is down or gone, or its MTU is another now.
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV | libc::EMSGSIZE) => {
                self.paths.forget(meta.dst.ip());
                match meta.segment {
                    Some(_) => self.stats.tx_segment_errors += 1,
                    None => self.leave_to_kernel(meta, start),
                }
            }
            _ => match meta.segment {
                Some(_) => {
                    tracing::debug!(device, %error, "the device takes no segments");
                    self.stats.tx_segment_errors += 1;
                    self.paths.refuse_segments(device);
                }
                None => {
                    self.paths.forget(meta.dst.ip());
                    self.leave_to_kernel(meta, start);
                }
            },
        }
        *waited = false;
        Ok(1)
    }
}

impl Datapath for PacketDatapath {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn frame(&mut self) -> Option<&mut [u8]> {
        let place = self.place();
        (self.taken < TX_BURST).then(|| self.tx.arena_mut(place..place + LARGEST))
    }

    fn commit(&mut self, meta: TxMeta) {
        assert!(self.taken < TX_BURST, "commit without a frame");
        assert!(meta.len <= LARGEST, "packet of {} bytes", meta.len);
        self.taken += 1;
        let place = self.place();
        let path = match has_scope(meta.dst) {
            true => None,
            false => {
                self.paths.next(meta.dst.ip(), self.local.or(meta.src), meta.segment.is_some())
            }
        };
        let limit = path.as_ref().map_or(0, |path| match meta.segment {
            Some(_) => path.segment_limit,
            None => path.mtu + ETHERNET_LEN - path.template.len(),
        });
        let Some(path) = path.filter(|_| meta.len <= limit) else {
            match meta.segment {
                Some(_) => self.stats.tx_segment_errors += 1,
                None => self.leave_to_kernel(meta, place),
            }
            return;
        };
        let (device, headers) = (path.device, path.template.len());
        let start = place - headers - OFFLOAD_LEN;
        let class = self.classes[usize::from(meta.priority).min(PRIORITIES - 1)];
        let (offload, rest) = self.tx.arena_mut(start..place).split_at_mut(OFFLOAD_LEN);
        offload.copy_from_slice(&offload_header(meta.segment, headers));
        path.template.write(meta.len, class, rest);
        let name = RawAddress::device(device, path.template.ethertype());
        self.tx.prepare(self.queue.len(), start..place + meta.len, name, |_| {});
        self.queue.push(Queued { meta, device, start: place });
        self.start = (place + meta.len).next_multiple_of(ALIGNMENT);
    }

    fn flush(&mut self) -> io::Result<()> {
        // First, since what goes to a new destination is left to the kernel before the rest.
        if self.raw.has_queued() {
            self.raw.flush()?;
        }
        let (mut index, mut waited) = (0, false);
        while index < self.queue.len() {
            index += self.send(index, &mut waited)?;
        }
        if self.raw.has_queued() {
            self.raw.flush()?;
        }
        self.queue.clear();
        (self.start, self.taken) = (0, 0);
        self.paths.update();
        Ok(())
    }

    fn backlog(&self) -> usize {
        option::unsent(&self.fd).unwrap_or(0) + self.raw.backlog()
    }

    fn recv(&mut self) -> io::Result<usize> {
        self.raw.recv()
    }

    fn recv_or_sleep(&mut self, timeout: Duration) -> io::Result<Option<usize>> {
        self.raw.recv_or_sleep(timeout)
    }

    fn packet(&mut self, index: usize) -> (RxMeta, &mut [u8]) {
        self.raw.packet(index)
    }

    fn path_error(&mut self) -> Option<PathError> {
        let error = self.raw.path_error()?;
        self.paths.heed(&error);
        Some(error)
    }

    fn path_mtu(&mut self, dst: IpAddr) -> io::Result<usize> {
        self.raw.path_mtu(dst)
    }

    fn tso(&mut self, dst: IpAddr) -> usize {
        self.paths.segment_limit(dst, self.local)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.raw.fd()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.raw.wait(timeout)
    }

    fn stats(&self) -> DatapathStats {
        let (own, raw) = (self.stats, self.raw.stats());
        DatapathStats {
            tx_packets: own.tx_packets + raw.tx_packets,
            tx_bytes: own.tx_bytes + raw.tx_bytes,
            tx_errors: own.tx_errors + raw.tx_errors,
            tx_segments: own.tx_segments,
            tx_segment_errors: own.tx_segment_errors,
            path_lookups: self.paths.lookups(),
            ..raw
        }
    }
}

/// The header that has the kernel cut a segment behind `headers` bytes of Ethernet and IP, or leave
/// a packet as it is. In the byte order of the host.
fn offload_header(segment: Option<u16>, headers: usize) -> [u8; OFFLOAD_LEN] {
    let mut header = [0; OFFLOAD_LEN];
    if let Some(segment) = segment {
        let is_v4 = headers == ETHERNET_LEN + header::V4_LEN;
        header[0] = NEEDS_CHECKSUM;
        header[1] = if is_v4 { GSO_TCP_V4 } else { GSO_TCP_V6 };
        let fields = [(headers + DATA_HEADER) as u16, segment, headers as u16, CHECKSUM_OFFSET];
        for (place, field) in header[2..].chunks_exact_mut(2).zip(fields) {
            place.copy_from_slice(&field.to_ne_bytes());
        }
    }
    header
}

/// Whether an address means something on one link only, which only the kernel's IP knows.
fn has_scope(address: SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0 || v6.ip().is_unicast_link_local())
}
