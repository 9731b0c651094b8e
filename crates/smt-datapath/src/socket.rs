//! A datapath over one socket, whatever it wraps the packets in.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;

use crate::errqueue::ErrorQueue;
use crate::marking::Marking;
use crate::ports::PortClaim;
use crate::sys::address::RawAddress;
use crate::sys::batch::{RxBatch, TxBatch};
use crate::sys::control;
use crate::sys::option;
use crate::{
    Caps, Datapath, DatapathStats, OpenError, PRIORITIES, PathError, PathErrorKind, RxMeta, TxMeta,
};

/// Packets taken between flushes.
pub(crate) const TX_BURST: usize = 64;
/// Bytes asked for in each direction; the kernel doubles it for its own overhead.
pub(crate) const BUFFER_BYTES: i32 = 8 << 20;
/// Bytes received at once: more would leave the processor's caches before they are opened.
const BURST_BYTES: usize = 96 << 10;
/// Largest IP packet.
const SLOT_LEN: usize = 65_536;
/// An error that the network caused makes one call fail; more in a row than this are our own.
const ATTEMPTS: usize = 4;
/// How long a flush waits for a full send buffer before it counts packets as refused.
pub(crate) const SEND_PATIENCE: Duration = Duration::from_millis(1);

/// A receive sleeps no longer than this at once.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// What differs between carrying SMT natively and in UDP.
pub(crate) trait Encapsulation: Send {
    /// What the datapath can do, but for what the host decides.
    fn caps(&self) -> Caps;

    /// Messages to receive at once.
    fn rx_slots(&self) -> usize;

    /// Whether a received message cannot be understood without its control data.
    fn needs_control(&self) -> bool;

    /// `dst` as the socket wants it.
    fn socket_address(&self, dst: SocketAddr) -> SocketAddr;

    /// How many packets at the start of `queue` can leave as one message; at least 1.
    fn run(&self, queue: &[TxMeta]) -> usize;

    /// The host refused to send a message of several packets.
    fn run_refused(&mut self, error: &io::Error);

    /// Finds the SMT packets in a received message.
    fn unpack(&self, message: &Message<'_>, emit: impl FnMut(Unpacked));

    /// Whether a packet of which the network quotes this much was sent by this endpoint.
    fn is_own(&self, quoted: &[u8]) -> bool;
}

/// A message as received.
pub(crate) struct Message<'a> {
    pub(crate) bytes: &'a [u8],
    /// Bytes per packet, when the kernel merged several.
    pub(crate) segment: Option<usize>,
    /// Our address, if the kernel told.
    pub(crate) dst: Option<IpAddr>,
}

/// An SMT packet found in a message.
pub(crate) struct Unpacked {
    pub(crate) place: Range<usize>,
    pub(crate) dst: Option<IpAddr>,
    pub(crate) ip_id: Option<u16>,
}

/// A packet of the current burst.
struct Packet {
    slot: usize,
    place: Range<usize>,
    meta: RxMeta,
}

/// A datapath over one socket.
pub(crate) struct SocketDatapath<E> {
    fd: OwnedFd,
    encapsulation: E,
    caps: Caps,
    /// The address bound to.
    local: IpAddr,
    rx: RxBatch,
    needs_control: bool,
    /// The last call found the socket empty, so that one packet is all to expect from the next.
    was_empty: bool,
    /// How long a receive that may sleep does so, as the socket was told; `None`: not yet.
    sleep: Option<Duration>,
    /// Messages like the last ones to copy before they are looked at.
    worth_taking: usize,
    burst: Vec<Packet>,
    /// The kernel's count of dropped packets, as last reported; it wraps.
    overruns: u32,
    marking: Marking,
    tx: TxBatch,
    queue: Vec<TxMeta>,
    /// Bytes of the arena that queued packets take.
    queued_bytes: usize,
    /// Packets in each message prepared from the queue.
    runs: Vec<usize>,
    errors: ErrorQueue,
    /// The error queue may have something.
    errors_pending: bool,
    stats: DatapathStats,
    _claim: Option<Arc<PortClaim>>,
}

impl<E: Encapsulation> SocketDatapath<E> {
    /// Takes over a bound socket. From here on it may block, so that a receive can sleep: every other call
    /// says that it does not want to.
    pub(crate) fn new(
        fd: OwnedFd,
        encapsulation: E,
        local: IpAddr,
        claim: Option<Arc<PortClaim>>,
        dscp: Option<[u8; PRIORITIES]>,
    ) -> Result<Self, OpenError> {
        ioctl_fionbio(&fd, false).map_err(|e| OpenError::io("let the socket block")(e.into()))?;
        let marking = Marking::new(&fd, local, dscp).map_err(OpenError::io("set the DSCP"))?;
        let rx_capacity = configure(&fd, local).map_err(OpenError::io("set up the socket"))?;
        let caps = Caps { rx_capacity, tx_burst: TX_BURST, ..encapsulation.caps() };
        Ok(Self {
            rx: RxBatch::new(encapsulation.rx_slots(), SLOT_LEN),
            needs_control: encapsulation.needs_control(),
            was_empty: true,
            sleep: None,
            worth_taking: usize::MAX,
            burst: Vec::with_capacity(caps.rx_burst),
            overruns: 0,
            marking,
            tx: TxBatch::new(TX_BURST, TX_BURST * caps.max_packet),
            queue: Vec::with_capacity(TX_BURST),
            queued_bytes: 0,
            runs: Vec::with_capacity(TX_BURST),
            errors: ErrorQueue::new(),
            errors_pending: false,
            stats: DatapathStats::default(),
            fd,
            encapsulation,
            caps,
            local,
            _claim: claim,
        })
    }

    /// Throws away what arrived before the socket was set up.
    pub(crate) fn discard_received(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_millis(100);
        while self.receive()? > 0 && Instant::now() < deadline {}
        Ok(())
    }

    /// Whether packets wait for a flush.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Receives messages; returns how many.
    fn receive(&mut self) -> io::Result<usize> {
        for _ in 0..ATTEMPTS {
            let received = if self.was_empty && self.needs_control {
                self.rx.receive_one(self.fd.as_fd(), 0).map(|()| 1)
            } else if self.was_empty {
                self.rx.receive_plain(self.fd.as_fd()).map(|()| 1)
            } else {
                self.rx.receive_many(self.fd.as_fd(), self.worth_taking)
            };
            match received {
                Ok(count) => {
                    self.was_empty = false;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.was_empty = true;
                    return Ok(0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_fatal(&error) => return Err(error),
                Err(_) => self.errors_pending = true,
            }
        }
        Ok(0)
    }

    /// As [`receive`](Self::receive), but sleeps before.
    fn receive_or_sleep(&mut self, timeout: Duration) -> io::Result<usize> {
        self.set_sleep(timeout)?;
        match self.rx.receive_or_sleep(self.fd.as_fd(), self.worth_taking) {
            Ok(count) => {
                self.was_empty = false;
                return Ok(count);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) if is_fatal(&error) => return Err(error),
            Err(_) => self.errors_pending = true,
        }
        // What came at the last moment must not pass for lost.
        self.receive()
    }

    /// Has the next receive sleep for about a quarter of `timeout`, up to a half: the socket need not be told
    /// again while sleeps are about as long, and whoever wakes up early sleeps once more.
    fn set_sleep(&mut self, timeout: Duration) -> io::Result<()> {
        if self.sleep.is_some_and(|sleep| timeout / 8 <= sleep && sleep <= timeout / 2) {
            return Ok(());
        }
        // 0 would be for ever.
        let sleep = (timeout / 4).clamp(Duration::from_micros(1), LONGEST_SLEEP);
        option::set_receive_timeout(&self.fd, sleep)?;
        self.sleep = Some(sleep);
        Ok(())
    }

    /// The packets in the messages that a receive has brought; returns how many.
    fn unpack_all(&mut self, messages: usize) -> usize {
        self.burst.clear();
        for slot in 0..messages {
            self.unpack(slot);
        }
        if let Some(longest) = (0..messages).map(|slot| self.rx.len(slot)).max() {
            self.worth_taking = (BURST_BYTES / longest.max(1)).max(1);
        }
        self.burst.len()
    }

    /// Finds the packets in the message of slot `slot`.
    fn unpack(&mut self, slot: usize) {
        let Some(src) = self.rx.source(slot) else { return };
        let mut message =
            Message { bytes: &self.rx.buffer(slot)[..self.rx.len(slot)], segment: None, dst: None };
        for control in control::messages(self.rx.control(slot)) {
            match (control.level, control.kind) {
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    let overruns = control.integer().unwrap_or(self.overruns);
                    self.stats.rx_overruns += u64::from(overruns.wrapping_sub(self.overruns));
                    self.overruns = overruns;
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    message.segment = control.integer().map(|len| len as usize);
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    message.dst = control.data.get(4..).and_then(first_octets::<4>);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    message.dst = first_octets::<16>(control.data);
                }
                _ => {}
            }
        }
        self.encapsulation.unpack(&message, |packet| {
            if self.burst.len() == self.caps.rx_burst {
                self.stats.rx_overruns += 1;
                return;
            }
            let len = packet.place.len();
            let dst = packet.dst.unwrap_or(self.local);
            let meta = RxMeta { src, dst, len, ip_id: packet.ip_id };
            self.stats.rx_packets += 1;
            self.stats.rx_bytes += len as u64;
            self.burst.push(Packet { slot, place: packet.place, meta });
        });
    }

    /// Makes messages of the queue from packet `first`, at byte `start` of the arena, on.
    fn prepare(&mut self, first: usize, mut start: usize, merge: bool) {
        self.runs.clear();
        let mut rest = &self.queue[first..];
        while let Some(head) = rest.first() {
            let count = if merge { self.encapsulation.run(rest) } else { 1 };
            let (run, behind) = rest.split_at(count);
            let end = start + run.iter().map(|packet| packet.len).sum::<usize>();
            let dst = RawAddress::encode(self.encapsulation.socket_address(head.dst));
            let src = head.src.filter(|_| self.local.is_unspecified());
            self.tx.prepare(self.runs.len(), start..end, dst, |control| {
                match src {
                    Some(IpAddr::V4(src)) => {
                        let [a, b, c, d] = src.octets();
                        let info = [0, 0, 0, 0, a, b, c, d, 0, 0, 0, 0];
                        control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
                    }
                    Some(IpAddr::V6(src)) => {
                        let mut info = [0; 20];
                        info[..16].copy_from_slice(&src.octets());
                        control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
                    }
                    None => {}
                }
                self.marking.control(head.priority, control);
                if count > 1 {
                    let len = (head.len as u16).to_ne_bytes();
                    control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &len);
                }
            });
            self.runs.push(count);
            (rest, start) = (behind, end);
        }
    }

    /// Sends the prepared messages; returns how many packets that settles, which is fewer than
    /// there are when the host refused a message of several packets.
    fn send(&mut self, first: usize) -> io::Result<usize> {
        let (mut packet, mut message, mut failures) = (first, 0, 0);
        while message < self.runs.len() {
            match self.tx.send(self.fd.as_fd(), message..self.runs.len()) {
                Ok(count) => {
                    let packets: usize = self.runs[message..message + count].iter().sum();
                    let sent = &self.queue[packet..packet + packets];
                    self.stats.tx_packets += packets as u64;
                    self.stats.tx_bytes += sent.iter().map(|sent| sent.len as u64).sum::<u64>();
                    (packet, message, failures) = (packet + packets, message + count, 0);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if failures == 0 {
                        wait_for(self.fd.as_fd(), PollFlags::OUT, Some(SEND_PATIENCE))?;
                    }
                }
                Err(error) => {
                    // Perhaps an earlier packet's error, which the socket reports once.
                    self.errors_pending = true;
                    if failures > 0 && self.runs[message] > 1 {
                        self.encapsulation.run_refused(&error);
                        return Ok(packet - first);
                    }
                }
            }
            failures += 1;
            if failures == 2 {
                self.stats.tx_errors += self.runs[message] as u64;
                (packet, message, failures) = (packet + self.runs[message], message + 1, 0);
            }
        }
        Ok(packet - first)
    }
}

impl<E: Encapsulation> Datapath for SocketDatapath<E> {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn frame(&mut self) -> Option<&mut [u8]> {
        if self.queue.len() == TX_BURST {
            return None;
        }
        let start = self.queued_bytes;
        Some(self.tx.arena_mut(start..start + self.caps.max_packet))
    }

    fn commit(&mut self, meta: TxMeta) {
        assert!(self.queue.len() < TX_BURST, "commit without a frame");
        assert!(meta.len <= self.caps.max_packet, "packet of {} bytes", meta.len);
        self.queue.push(meta);
        self.queued_bytes += meta.len;
    }

    fn flush(&mut self) -> io::Result<()> {
        let (mut settled, mut start, mut merge) = (0, 0, true);
        while settled < self.queue.len() {
            self.prepare(settled, start, merge);
            let count = self.send(settled)?;
            start += self.queue[settled..settled + count].iter().map(|p| p.len).sum::<usize>();
            settled += count;
            merge = false;
        }
        self.queue.clear();
        self.queued_bytes = 0;
        Ok(())
    }

    fn backlog(&self) -> usize {
        // Of no harm when the host does not tell: then nothing is paced.
        option::unsent(&self.fd).unwrap_or(0)
    }

    fn recv(&mut self) -> io::Result<usize> {
        self.burst.clear();
        let messages = self.receive()?;
        Ok(self.unpack_all(messages))
    }

    fn recv_or_sleep(&mut self, timeout: Duration) -> io::Result<Option<usize>> {
        self.burst.clear();
        let messages = self.receive_or_sleep(timeout)?;
        Ok(Some(self.unpack_all(messages)))
    }

    fn packet(&mut self, index: usize) -> (RxMeta, &mut [u8]) {
        let packet = &self.burst[index];
        (packet.meta, &mut self.rx.buffer_mut(packet.slot)[packet.place.clone()])
    }

    fn path_error(&mut self) -> Option<PathError> {
        while self.errors_pending {
            let Some(error) = self.errors.next(self.fd.as_fd()) else {
                self.errors_pending = false;
                return None;
            };
            // A raw socket also hears what became of other processes' packets.
            if !error.local && !self.encapsulation.is_own(error.quoted) {
                continue;
            }
            let kind = match error.kind {
                PathErrorKind::MtuChanged(0) => {
                    let Ok(mtu) = crate::route::path_mtu(error.dst.ip()) else { continue };
                    PathErrorKind::MtuChanged(mtu)
                }
                kind => kind,
            };
            return Some(PathError { dst: error.dst, kind, quoted: error.quoted.to_vec() });
        }
        None
    }

    fn path_mtu(&mut self, dst: IpAddr) -> io::Result<usize> {
        crate::route::path_mtu(dst)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let ready = wait_for(self.fd.as_fd(), PollFlags::IN, timeout)?;
        self.errors_pending |= ready.contains(PollFlags::ERR);
        Ok(())
    }

    fn stats(&self) -> DatapathStats {
        self.stats
    }
}

/// Polls one descriptor. Interruption returns early, with nothing ready.
pub(crate) fn wait_for(
    fd: BorrowedFd<'_>,
    events: PollFlags,
    timeout: Option<Duration>,
) -> io::Result<PollFlags> {
    // A time too long for the kernel is as good as none.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    let mut fds = [PollFd::from_borrowed_fd(fd, events)];
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => Ok(fds[0].revents()),
        Err(rustix::io::Errno::INTR) => Ok(PollFlags::empty()),
        Err(error) => Err(error.into()),
    }
}

/// Sets the options that every SMT socket has; returns the size of its receive buffer in bytes.
fn configure(fd: &OwnedFd, local: IpAddr) -> io::Result<usize> {
    match local {
        IpAddr::V4(_) => {
            option::set(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
            option::set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
        }
        IpAddr::V6(_) => {
            option::set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
            option::set(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
        }
    }
    option::set(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    option::set(fd, libc::SOL_SOCKET, libc::SO_SELECT_ERR_QUEUE, 1)?;
    for (forced, allowed) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        set_buffer(fd, forced, allowed, BUFFER_BYTES)?;
    }
    let capacity = option::get(fd, libc::SOL_SOCKET, libc::SO_RCVBUF)?;
    Ok(usize::try_from(capacity).unwrap_or(0))
}

/// Sets the size of a buffer: beyond the host's limit by the option `forced` if this process may, by
/// `allowed` else.
pub(crate) fn set_buffer(fd: &OwnedFd, forced: i32, allowed: i32, bytes: i32) -> io::Result<()> {
    option::set(fd, libc::SOL_SOCKET, forced, bytes)
        .or_else(|_| option::set(fd, libc::SOL_SOCKET, allowed, bytes))
}

/// Whether the socket itself is unusable, as opposed to one packet or path.
fn is_fatal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT))
}

fn first_octets<const N: usize>(bytes: &[u8]) -> Option<IpAddr>
where
    IpAddr: From<[u8; N]>,
{
    bytes.first_chunk::<N>().map(|octets| IpAddr::from(*octets))
}
