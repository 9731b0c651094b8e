//! What the host's routes say of a destination.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::sys::option;

/// An IP packet's length field ends here; interfaces such as loopback promise one byte more.
const LARGEST_PACKET: usize = 65_535;
/// Port of a service that never was one ("discard"): nothing is sent to it.
const NO_PORT: u16 = 9;

/// Path MTU towards `dst` in bytes, IP header included.
///
/// # Errors
/// When the host has no route there.
pub(crate) fn path_mtu(dst: IpAddr) -> io::Result<usize> {
    let (any, level, name) = match dst {
        IpAddr::V4(_) => (IpAddr::from(Ipv4Addr::UNSPECIFIED), libc::IPPROTO_IP, libc::IP_MTU),
        IpAddr::V6(_) => (IpAddr::from(Ipv6Addr::UNSPECIFIED), libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(SocketAddr::new(dst, NO_PORT))?;
    let mtu = option::get(&socket, level, name)?;
    Ok(usize::try_from(mtu).unwrap_or(0).min(LARGEST_PACKET))
}
