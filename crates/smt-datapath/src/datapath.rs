//! The border between the protocol and whatever carries its packets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// What a datapath can do, fixed when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Which datapath this is, for people: `raw`, `packet`, `udp`.
    pub name: &'static str,
    /// Bytes of headers below SMT's own in each packet, for a peer of either IP version:
    /// `[IPv4, IPv6]`. Path MTU minus this is what an SMT packet may take.
    pub overhead: [usize; 2],
    /// Largest SMT packet it can carry at all, in bytes (SMT header included).
    pub max_packet: usize,
    /// Largest SMT packet that one frame may carry as a TSO segment, for the device to cut into
    /// packets ([`TxMeta::segment`]); 0 where no device can. [`Datapath::tso`] tells what holds
    /// for one destination.
    pub tx_segment: usize,
    /// Packets it takes between flushes.
    pub tx_burst: usize,
    /// Packets one receive call yields at most.
    pub rx_burst: usize,
    /// Bytes of true-sized packets that the receive buffer holds before it drops.
    pub rx_capacity: usize,
}

/// Where a received packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxMeta {
    /// Sender's address. The port is 0 on native datapaths and the UDP port under UDP.
    pub src: SocketAddr,
    /// Our address that it was sent to.
    pub dst: IpAddr,
    /// Length of the packet.
    pub len: usize,
    /// IPv4 identification field, if the datapath sees it.
    pub ip_id: Option<u16>,
}

/// Where a packet is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxMeta {
    /// Receiver's address; port 0 on native datapaths, the UDP port under UDP.
    pub dst: SocketAddr,
    /// Our address to send from; `None` lets the route decide.
    pub src: Option<IpAddr>,
    /// Length of the packet in the frame.
    pub len: usize,
    /// How urgent it is, 0..=7, 7 the most: the network sees it as the DSCP of
    /// [`OpenOptions::dscp`](crate::OpenOptions::dscp).
    pub priority: u8,
    /// `None`: one packet, as it lies in the frame. `Some(bytes)`: a TSO segment (`docs/spec.md`,
    /// 4.2, 4.3), which the device cuts into packets of `bytes` payload each behind copies of its
    /// DATA header of 52 bytes, with IPv4 IDs from 0 on. Only where [`Datapath::tso`] allows one of
    /// this length.
    pub segment: Option<u16>,
    /// Which lane of its session it belongs to (`docs/spec.md`, 3.5), 0 where there is one: packets of
    /// several are not joined, since each may be another socket's at the peer.
    pub lane: u8,
}

/// The network's own word (ICMP) about a packet we sent. Never authentic: a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathError {
    /// Where the packet was going.
    pub dst: SocketAddr,
    /// What happened to it.
    pub kind: PathErrorKind,
    /// As much of our packet (from the SMT header on) as the network sent back.
    pub quoted: Vec<u8>,
}

/// What the network says of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathErrorKind {
    /// Nobody there takes the protocol or port.
    Refused,
    /// No route, host down, or prohibited.
    Unreachable,
    /// The path MTU is now this many bytes (IP header included).
    MtuChanged(usize),
}

/// A way for packets to leave and enter this host.
///
/// Transmit: [`frame`](Self::frame), fill, [`commit`](Self::commit), repeat, [`flush`](Self::flush).
/// Receive: [`recv`](Self::recv) gives the number of packets of a burst, which stay readable
/// through [`packet`](Self::packet) until the next `recv`. Packets that the host refuses are
/// counted in [`DatapathStats`], not reported: to the protocol they are losses.
pub trait Datapath: Send {
    /// What this datapath can do.
    fn caps(&self) -> Caps;

    /// Lends memory for the next packet to send, at least `caps().max_packet` bytes or what the
    /// path MTU allows, whichever is less, and room for a segment of `caps().tx_segment`; `None` while `tx_burst` packets wait for `flush`.
    /// Until `commit`, each call lends the same memory with its contents as they were left.
    fn frame(&mut self) -> Option<&mut [u8]>;

    /// Queues the frame last lent. Must follow a `frame` that returned `Some`.
    ///
    /// # Panics
    /// If it does not, or if `meta.len` exceeds that frame. A priority above 7 counts as 7.
    fn commit(&mut self, meta: TxMeta);

    /// Hands all queued packets to the host.
    ///
    /// # Errors
    /// Only what makes the datapath unusable (its socket is gone).
    fn flush(&mut self) -> io::Result<()>;

    /// Bytes handed to the host that have not left it yet, as far as the host tells: what paces a
    /// sender. 0 where nobody knows.
    fn backlog(&self) -> usize {
        0
    }

    /// Receives a burst without waiting; 0 when there is none.
    ///
    /// # Errors
    /// Only what makes the datapath unusable.
    fn recv(&mut self) -> io::Result<usize>;

    /// As [`recv`](Self::recv), but sleeps in the same system call as long as there is nothing; `None`: it
    /// cannot, and has done nothing. Nothing but a packet or an error of the network ends the sleep before
    /// its time: not for who waits for other threads too. The kernel counts it in ticks: it ends after
    /// an eighth of `timeout` at the earliest, and after `timeout` or two ticks at the latest.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv).
    fn recv_or_sleep(&mut self, _timeout: Duration) -> io::Result<Option<usize>> {
        Ok(None)
    }

    /// Packet `index` of the current burst.
    ///
    /// # Panics
    /// If `index` is not below what `recv` last returned.
    fn packet(&mut self, index: usize) -> (RxMeta, &mut [u8]);

    /// The next thing the network said about a path, if any.
    fn path_error(&mut self) -> Option<PathError>;

    /// Path MTU towards `dst` in bytes, IP header included, by the host's routes.
    ///
    /// # Errors
    /// When the host has no route there.
    fn path_mtu(&mut self, dst: IpAddr) -> io::Result<usize>;

    /// The largest SMT packet, header and payload in bytes, that the device of the route to `dst`
    /// takes as a TSO segment ([`TxMeta::segment`]); 0: none. Cheap enough to ask before every
    /// message. It is what the device says of itself: whether its segments arrive is for the
    /// protocol to find out. Once the host has refused a segment, the answer is 0 for that device.
    fn tso(&mut self, _dst: IpAddr) -> usize {
        0
    }

    /// A descriptor that is readable when `recv` or `path_error` has something to give. Readiness
    /// is by level; an error condition counts as readable (`EPOLLPRI` comes with `EPOLLERR`).
    fn fd(&self) -> BorrowedFd<'_>;

    /// When the datapath has something to do by itself, as with a packet that it holds back: whoever
    /// watches `fd` alone must then call `recv` and `flush`. To be asked each time before sleeping on
    /// `fd`: for who does not sleep, a datapath may stop watching what `fd` tells of.
    fn next_due(&self) -> Option<Instant> {
        None
    }

    /// Waits until `fd` is readable, `timeout` has passed or `next_due` has come.
    ///
    /// # Errors
    /// Those of `poll`, except interruption, which returns early.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Counters so far.
    fn stats(&self) -> DatapathStats;
}

/// Counters of a datapath since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatapathStats {
    /// Packets handed to the host.
    pub tx_packets: u64,
    /// Bytes of them, SMT header included.
    pub tx_bytes: u64,
    /// Packets the host refused to send.
    pub tx_errors: u64,
    /// TSO segments among the packets handed to the host; each counts as one packet there.
    pub tx_segments: u64,
    /// TSO segments that the host refused, which are lost; not among `tx_errors`.
    pub tx_segment_errors: u64,
    /// How often a route and a neighbour were looked up, on datapaths that do so themselves.
    pub path_lookups: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes of them, SMT header included.
    pub rx_bytes: u64,
    /// Packets the host dropped because its receive buffer was full.
    pub rx_overruns: u64,
}

impl std::ops::AddAssign for DatapathStats {
    fn add_assign(&mut self, other: Self) {
        let Self {
            tx_packets,
            tx_bytes,
            tx_errors,
            tx_segments,
            tx_segment_errors,
            path_lookups,
            rx_packets,
            rx_bytes,
            rx_overruns,
        } = other;
        self.tx_packets += tx_packets;
        self.tx_bytes += tx_bytes;
        self.tx_errors += tx_errors;
        self.tx_segments += tx_segments;
        self.tx_segment_errors += tx_segment_errors;
        self.path_lookups += path_lookups;
        self.rx_packets += rx_packets;
        self.rx_bytes += rx_bytes;
        self.rx_overruns += rx_overruns;
    }
}

impl<D: Datapath + ?Sized> Datapath for Box<D> {
    fn caps(&self) -> Caps {
        (**self).caps()
    }

    fn frame(&mut self) -> Option<&mut [u8]> {
        (**self).frame()
    }

    fn commit(&mut self, meta: TxMeta) {
        (**self).commit(meta);
    }

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }

    fn backlog(&self) -> usize {
        (**self).backlog()
    }

    fn recv(&mut self) -> io::Result<usize> {
        (**self).recv()
    }

    fn recv_or_sleep(&mut self, timeout: Duration) -> io::Result<Option<usize>> {
        (**self).recv_or_sleep(timeout)
    }

    fn packet(&mut self, index: usize) -> (RxMeta, &mut [u8]) {
        (**self).packet(index)
    }

    fn path_error(&mut self) -> Option<PathError> {
        (**self).path_error()
    }

    fn path_mtu(&mut self, dst: IpAddr) -> io::Result<usize> {
        (**self).path_mtu(dst)
    }

    fn tso(&mut self, dst: IpAddr) -> usize {
        (**self).tso(dst)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        (**self).fd()
    }

    fn next_due(&self) -> Option<Instant> {
        (**self).next_due()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        (**self).wait(timeout)
    }

    fn stats(&self) -> DatapathStats {
        (**self).stats()
    }
}
