//! SMT as the payload of UDP, for hosts without privileges.
//!
//! Where the kernel can, it cuts one large datagram into packets (`UDP_SEGMENT`) and merges
//! received ones (`UDP_GRO`); both are tried at run time.
//!
//! Shards are sockets of one address (`SO_REUSEPORT`), among which a program chooses by message ID. What
//! was joined before that is one choice: on links that carry large datagrams uncut, it goes where its
//! first packet belongs. So senders join packets of one lane alone, and the sockets of shards have no
//! `UDP_GRO`, which would have the kernel join those of any lane as they come from the device: of packets of
//! two lanes by turns, half then came to the wrong socket. What a sender that knows no better joins all the
//! same is dropped where it does not belong, and repeated.
//!
//! The first of these sockets is bound without `SO_REUSEPORT`, and so fails if anybody has the port. From
//! then on only processes of the same user could bind it, and the program never chooses theirs, since
//! they come after ours, as long as all of ours are there. (One that binds it between our own, within
//! microseconds, would take a shard's packets, which it cannot read; as it could end this process.)

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, socket_with,
};

use crate::socket::{Encapsulation, Message, SocketDatapath, TX_BURST, Unpacked};
use crate::sys::option;
use crate::{Caps, OpenError, PRIORITIES, TxMeta, filter, segment};

/// Datagrams received at once.
const RX_SLOTS: usize = 16;
/// Packets that the kernel merges into one datagram at most.
const MAX_MERGED: usize = 128;
const LARGEST_PACKET: usize = 65_535;
const OVERHEAD: [usize; 2] = [20 + 8, 40 + 8];

/// Opens a UDP socket at `local`; also tells the address it got.
pub(crate) fn open(
    local: SocketAddr,
    dscp: Option<[u8; PRIORITIES]>,
) -> Result<(SocketDatapath<Udp>, SocketAddr), OpenError> {
    let (fd, encapsulation) = socket(local, true)?;
    let local = bind_to(&fd, local)?;
    Ok((SocketDatapath::new(fd, encapsulation, local.ip(), None, dscp)?, local))
}

/// Opens `count` (a power of two, 2 or more) UDP sockets at `local`, each of which receives what is of its
/// shard; also tells the address they got.
pub(crate) fn open_shards(
    local: SocketAddr,
    count: u8,
    dscp: Option<[u8; PRIORITIES]>,
) -> Result<(Vec<SocketDatapath<Udp>>, SocketAddr), OpenError> {
    let share = |fd: &OwnedFd| {
        option::set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
            .map_err(OpenError::io("share the UDP port among shards"))
    };
    let (first, encapsulation) = socket(local, false)?;
    let local = bind_to(&first, local)?;
    share(&first)?;
    let mut sockets = vec![(first, encapsulation)];
    // The program knows them by the order in which they are bound.
    for _ in 1..count {
        let (fd, encapsulation) = socket(local, false)?;
        share(&fd)?;
        bind_to(&fd, local)?;
        sockets.push((fd, encapsulation));
    }
    if let Some((fd, _)) = sockets.first() {
        option::attach_choice(fd, &filter::choice(count))
            .map_err(OpenError::io("divide the UDP port among shards"))?;
    }
    let one = |(fd, encapsulation)| {
        let mut datapath = SocketDatapath::new(fd, encapsulation, local.ip(), None, dscp)?;
        // What came before the program may be another shard's.
        datapath.discard_received().map_err(OpenError::io("receive"))?;
        Ok(datapath)
    };
    Ok((sockets.into_iter().map(one).collect::<Result<_, OpenError>>()?, local))
}

/// A socket that is not bound yet. `merge`: the kernel may join what it receives.
fn socket(local: SocketAddr, merge: bool) -> Result<(OwnedFd, Udp), OpenError> {
    let family = match local {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))
        .map_err(io::Error::from)
        .map_err(OpenError::io("open a UDP socket"))?;
    let encapsulation =
        set_up(&fd, local.ip(), merge).map_err(OpenError::io("set up the socket"))?;
    Ok((fd, encapsulation))
}

/// Binds; the address it got.
fn bind_to(fd: &OwnedFd, local: SocketAddr) -> Result<SocketAddr, OpenError> {
    bind(fd, &local).map_err(|error| match error {
        rustix::io::Errno::ADDRNOTAVAIL => OpenError::AddressNotAvailable(local.ip()),
        rustix::io::Errno::ADDRINUSE => OpenError::PortInUse(local.port()),
        error => OpenError::Io { what: "bind the UDP socket", source: error.into() },
    })?;
    getsockname(fd)
        .and_then(SocketAddr::try_from)
        .map_err(io::Error::from)
        .map_err(OpenError::io("read the socket's address"))
}

/// Sets the options that only UDP has, and finds out what the kernel can do.
fn set_up(fd: impl AsFd, local: IpAddr, merge: bool) -> io::Result<Udp> {
    let fd = fd.as_fd();
    if local.is_ipv6() {
        option::set(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    if local.is_unspecified() {
        match local {
            IpAddr::V4(_) => option::set(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?,
            IpAddr::V6(_) => option::set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?,
        }
    }
    let splits = option::set(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
    let merges = merge && option::set(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
    Ok(Udp { is_ipv6: local.is_ipv6(), is_any: local.is_unspecified(), splits, merges })
}

/// SMT packets as the payload of UDP.
pub(crate) struct Udp {
    is_ipv6: bool,
    /// Bound to a wildcard, so that only control data tells which address was asked.
    is_any: bool,
    /// The kernel cuts large datagrams.
    splits: bool,
    /// The kernel merges received datagrams.
    merges: bool,
}

impl Encapsulation for Udp {
    fn caps(&self) -> Caps {
        Caps {
            name: "udp",
            overhead: OVERHEAD,
            max_packet: LARGEST_PACKET - OVERHEAD[usize::from(self.is_ipv6)],
            tx_segment: 0,
            tx_burst: TX_BURST,
            rx_burst: if self.merges { RX_SLOTS * MAX_MERGED } else { RX_SLOTS },
            rx_capacity: 0,
        }
    }

    fn rx_slots(&self) -> usize {
        RX_SLOTS
    }

    fn needs_control(&self) -> bool {
        self.merges || self.is_any
    }

    fn socket_address(&self, dst: SocketAddr) -> SocketAddr {
        dst
    }

    fn run(&self, queue: &[TxMeta]) -> usize {
        if self.splits { segment::run(queue) } else { 1 }
    }

    fn run_refused(&mut self, error: &io::Error) {
        // EIO: a device on the way cannot compute the checksums of the pieces. Any other error is
        // about this destination or moment.
        if error.raw_os_error() == Some(libc::EIO) {
            tracing::info!("UDP segmentation offload does not work here and is now off");
            self.splits = false;
        }
    }

    fn unpack(&self, message: &Message<'_>, mut emit: impl FnMut(Unpacked)) {
        let total = message.bytes.len();
        let segment = message.segment.filter(|&len| len > 0).unwrap_or(total);
        let mut start = 0;
        while start < total {
            let end = (start + segment).min(total);
            emit(Unpacked { place: start..end, dst: message.dst, ip_id: None });
            start = end;
        }
    }

    fn is_own(&self, _: &[u8]) -> bool {
        // The kernel reports to the socket that sent.
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(total: usize, segment: Option<usize>) -> Vec<usize> {
        let udp = Udp { is_ipv6: false, is_any: false, splits: false, merges: true };
        let bytes = vec![0; total];
        let mut lengths = Vec::new();
        udp.unpack(&Message { bytes: &bytes, segment, dst: None }, |packet| {
            lengths.push(packet.place.len());
        });
        lengths
    }

    #[test]
    fn merged_datagrams_are_cut_where_they_were_joined() {
        assert_eq!(lengths(250, Some(100)), [100, 100, 50]);
        assert_eq!(lengths(200, Some(100)), [100, 100]);
        assert_eq!(lengths(250, None), [250]);
        assert_eq!(lengths(250, Some(0)), [250]);
        assert_eq!(lengths(0, Some(100)), [0; 0]);
    }
}
