//! SMT as the payload of UDP, for hosts without privileges.
//!
//! Where the kernel can, it cuts one large datagram into packets (`UDP_SEGMENT`) and merges
//! received ones (`UDP_GRO`); both are tried at run time.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with};

use crate::segment;
use crate::socket::{Encapsulation, Message, SocketDatapath, TX_BURST, Unpacked};
use crate::sys::option;
use crate::{Caps, OpenError, PRIORITIES, TxMeta};

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
    let family = match local {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))
        .map_err(io::Error::from)
        .map_err(OpenError::io("open a UDP socket"))?;
    let encapsulation = set_up(&fd, local.ip()).map_err(OpenError::io("set up the socket"))?;
    bind(&fd, &local).map_err(|error| match error {
        rustix::io::Errno::ADDRNOTAVAIL => OpenError::AddressNotAvailable(local.ip()),
        rustix::io::Errno::ADDRINUSE => OpenError::PortInUse(local.port()),
        error => OpenError::Io { what: "bind the UDP socket", source: error.into() },
    })?;
    let socket = UdpSocket::from(fd);
    let local = socket.local_addr().map_err(OpenError::io("read the socket's address"))?;
    let datapath =
        SocketDatapath::new(OwnedFd::from(socket), encapsulation, local.ip(), None, dscp)?;
    Ok((datapath, local))
}

/// Sets the options that only UDP has, and finds out what the kernel can do.
fn set_up(fd: impl AsFd, local: IpAddr) -> io::Result<Udp> {
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
    let merges = option::set(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
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
