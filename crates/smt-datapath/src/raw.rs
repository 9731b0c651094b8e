//! SMT straight over IP: raw sockets of its own protocol number.
//!
//! The kernel writes the IP header of what is sent. Of what is received, IPv4 shows the header and
//! IPv6 does not.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, bind, socket_with};

use crate::filter::{self, Shard, Start};
use crate::ports::{PortClaim, Ports};
use crate::socket::{Encapsulation, Message, SocketDatapath, TX_BURST, Unpacked};
use crate::sys::option;
use crate::{Caps, OpenError, PRIORITIES, TxMeta};

/// Messages, and so packets, received at once.
const RX_BURST: usize = 64;
const LARGEST_PACKET: usize = 65_535;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

/// Opens a raw socket at `local` that receives what is sent to the claimed ports and is of `shard`.
pub(crate) fn open(
    protocol: u8,
    local: IpAddr,
    claim: Arc<PortClaim>,
    shard: Shard,
    dscp: Option<[u8; PRIORITIES]>,
) -> Result<SocketDatapath<Native>, OpenError> {
    let ports = claim.ports();
    let (family, start) = match local {
        IpAddr::V4(_) => (AddressFamily::INET, Start::AfterIpv4Header),
        IpAddr::V6(_) => (AddressFamily::INET6, Start::AtOnce),
    };
    let number = NonZeroU32::new(u32::from(protocol)).map(Protocol::from_raw);
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = socket_with(family, SocketType::RAW, flags, number).map_err(|error| match error {
        rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => OpenError::missing_privilege(),
        error => OpenError::Io { what: "open a raw IP socket", source: error.into() },
    })?;
    // The socket already receives: first the filter, then the address, then out with what came
    // in before.
    option::attach_filter(&fd, &filter::program(start, ports, shard))
        .map_err(OpenError::io("attach the port filter"))?;
    let is_any_v6 = local == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    if is_any_v6 {
        option::set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
            .map_err(OpenError::io("set up the socket"))?;
    }
    bind(&fd, &SocketAddr::new(local, 0)).map_err(|error| match error {
        rustix::io::Errno::ADDRNOTAVAIL => OpenError::AddressNotAvailable(local),
        error => OpenError::Io { what: "bind the raw IP socket", source: error.into() },
    })?;
    let encapsulation = Native { start, is_any_v6, ports };
    let mut datapath = SocketDatapath::new(fd, encapsulation, local, Some(claim), dscp)?;
    datapath.discard_received().map_err(OpenError::io("receive"))?;
    Ok(datapath)
}

/// SMT packets as the payload of IP.
pub(crate) struct Native {
    start: Start,
    /// Bound to the IPv6 wildcard, so that only control data tells which address was asked.
    is_any_v6: bool,
    ports: Ports,
}

impl Encapsulation for Native {
    fn caps(&self) -> Caps {
        let header = match self.start {
            Start::AfterIpv4Header => V4_HEADER,
            Start::AtOnce => V6_HEADER,
        };
        Caps {
            name: "raw",
            overhead: [V4_HEADER, V6_HEADER],
            max_packet: LARGEST_PACKET - header,
            tx_segment: 0,
            tx_burst: TX_BURST,
            rx_burst: RX_BURST,
            rx_capacity: 0,
        }
    }

    fn rx_slots(&self) -> usize {
        RX_BURST
    }

    fn needs_control(&self) -> bool {
        self.is_any_v6
    }

    fn socket_address(&self, mut dst: SocketAddr) -> SocketAddr {
        // To a raw IPv6 socket a port is a protocol number.
        dst.set_port(0);
        dst
    }

    fn run(&self, _: &[TxMeta]) -> usize {
        1
    }

    fn run_refused(&mut self, _: &io::Error) {}

    fn unpack(&self, message: &Message<'_>, mut emit: impl FnMut(Unpacked)) {
        match self.start {
            Start::AfterIpv4Header => {
                if let Some(packet) = behind_ipv4_header(message.bytes) {
                    emit(packet);
                }
            }
            Start::AtOnce => {
                emit(Unpacked { place: 0..message.bytes.len(), dst: message.dst, ip_id: None })
            }
        }
    }

    fn is_own(&self, quoted: &[u8]) -> bool {
        quoted.first_chunk().is_some_and(|port| self.ports.contains(u16::from_be_bytes(*port)))
    }
}

/// Finds the payload of an IPv4 packet; bytes behind its total length are not part of it.
fn behind_ipv4_header(packet: &[u8]) -> Option<Unpacked> {
    let header = packet.first_chunk::<V4_HEADER>()?;
    let start = 4 * usize::from(header[0] & 15);
    let end = usize::from(u16::from_be_bytes([header[2], header[3]])).min(packet.len());
    let dst = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
    (V4_HEADER..=end).contains(&start).then(|| Unpacked {
        place: start..end,
        dst: Some(dst.into()),
        ip_id: Some(u16::from_be_bytes([header[4], header[5]])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(ihl: u8, total: u16) -> Vec<u8> {
        let mut header = vec![0; 20];
        header[0] = 0x40 | ihl;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&77u16.to_be_bytes());
        header[16..20].copy_from_slice(&[192, 0, 2, 1]);
        header
    }

    #[test]
    fn ipv4_header_and_trailer_are_cut_off() {
        let mut packet = header(6, 30);
        packet.extend([0; 20]);
        let found = behind_ipv4_header(&packet).unwrap();
        assert_eq!(found.place, 24..30);
        assert_eq!(found.ip_id, Some(77));
        assert_eq!(found.dst, Some(IpAddr::from([192, 0, 2, 1])));
    }

    #[test]
    fn damaged_ipv4_headers_are_refused() {
        assert!(behind_ipv4_header(&[0x45; 19]).is_none());
        assert!(behind_ipv4_header(&header(4, 20)).is_none());
        assert!(behind_ipv4_header(&header(15, 20)).is_none());
        assert!(behind_ipv4_header(&header(5, 10)).is_none());
        assert_eq!(behind_ipv4_header(&header(5, 20)).unwrap().place, 20..20);
    }
}
