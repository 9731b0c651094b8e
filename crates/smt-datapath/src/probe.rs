//! What this host lets SMT do: sockets, programs, devices and routes. Asking changes nothing and sends
//! nothing; all answers are of the network namespace of the calling thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

use crate::auto::Facts;
use crate::link::netlink::Netlink;
use crate::socket::{BUFFER_BYTES, set_buffer};
use crate::sys::{device, ethtool, option};
use crate::{OpenError, route, xdp};

/// Longest IP packet in bytes that *xdp* holds in one piece of packet memory, whatever kernel and
/// driver.
pub const XDP_ONE_CHUNK: usize = xdp::ONE_CHUNK;
/// Bytes that a datapath asks its socket's receive buffer to have, before the kernel doubles them.
pub const RECEIVE_BUFFER: usize = BUFFER_BYTES as usize;

/// What the kernel says to somebody who wants something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Yes.
    Granted,
    /// Not without more privileges.
    Denied,
    /// It has no such thing.
    Missing,
}

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Its name.
    pub name: String,
    /// The kernel's number of it.
    pub index: u32,
    /// The driver, if it tells.
    pub driver: Option<String>,
    /// Largest IP packet in bytes.
    pub mtu: usize,
    /// Whether its packets are Ethernet frames.
    pub is_ethernet: bool,
    /// Whether it is switched on.
    pub is_up: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The largest SMT packet, header and payload in bytes, that it cuts into packets of its MTU, over
    /// IPv4 and IPv6; 0: it cuts nothing that comes from user space.
    pub segment_limit: [usize; 2],
    /// Whether TCP segmentation is switched on, over IPv4 and IPv6 (`tx-tcp-segmentation`,
    /// `tx-tcp6-segmentation`).
    pub tcp_segmentation: [bool; 2],
    /// Whether it checks the segments it is given (`tx-gso-robust`), so that they may come from user
    /// space.
    pub gso_robust: bool,
    /// The XDP program attached to it, by the kernel's number.
    pub xdp_program: Option<u32>,
    /// Receive queues in use.
    pub queues: u32,
}

impl DeviceFacts {
    /// Whether whole frames can be sent by it.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.is_ethernet && self.is_up
    }
}

/// What a host lets this process do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Raw IP sockets of SMT's protocol number.
    pub raw: Access,
    /// Packet sockets.
    pub packet: Access,
    /// XDP programs and AF_XDP sockets.
    pub xdp: Access,
    /// All devices, by number.
    pub devices: Vec<DeviceFacts>,
}

impl Host {
    /// Asks the kernel, about IP protocol number `protocol`. It opens each kind of socket for a moment
    /// and loads an XDP program, which it attaches to nothing.
    ///
    /// # Errors
    /// The host does not list its devices, or refuses netlink sockets.
    pub fn probe(protocol: u8) -> io::Result<Self> {
        let raw = NonZeroU32::new(u32::from(protocol)).map(Protocol::from_raw);
        Ok(Self {
            raw: access(open(AddressFamily::INET, raw)),
            packet: access(open(AddressFamily::PACKET, None)),
            xdp: match xdp::try_load(protocol) {
                Ok(()) => access(open(AddressFamily::XDP, None)),
                Err(OpenError::MissingXdpPrivilege { .. }) => Access::Denied,
                Err(_) => Access::Missing,
            },
            devices: devices()?,
        })
    }

    /// What a datapath bound to `bind` depends on. Of a wildcard those are the devices that are up and
    /// have an address of its IP version.
    #[must_use]
    pub fn facts(&self, bind: IpAddr, allow_xdp: bool) -> Facts {
        let is_meant = |device: &&DeviceFacts| match bind.is_unspecified() {
            true => device.is_up && device.addresses.iter().any(|a| a.is_ipv4() == bind.is_ipv4()),
            false => device.addresses.contains(&bind),
        };
        let devices: Vec<_> = self.devices.iter().filter(is_meant).cloned().collect();
        let attached = xdp::choose_device(bind).ok().map(|device| device.index);
        let xdp_device = devices.iter().position(|device| Some(device.index) == attached);
        self.of(devices, xdp_device, bind.is_ipv6(), allow_xdp)
    }

    /// What a datapath depends on whose packets all leave by the device number `device`, or stay in
    /// this host if that is `None`.
    #[must_use]
    pub fn facts_of(&self, device: Option<u32>, is_ipv6: bool, allow_xdp: bool) -> Facts {
        let is_meant = |found: &&DeviceFacts| Some(found.index) == device;
        let devices: Vec<_> = self.devices.iter().filter(is_meant).cloned().collect();
        let xdp_device = devices.iter().position(|device| device.is_ethernet);
        self.of(devices, xdp_device, is_ipv6, allow_xdp)
    }

    fn of(
        &self,
        devices: Vec<DeviceFacts>,
        xdp_device: Option<usize>,
        is_ipv6: bool,
        allow_xdp: bool,
    ) -> Facts {
        let Self { raw, packet, xdp, .. } = *self;
        Facts { raw, packet, xdp, is_ipv6, devices, xdp_device, allow_xdp }
    }
}

fn open(family: AddressFamily, protocol: Option<Protocol>) -> Result<OwnedFd, Errno> {
    socket_with(family, SocketType::RAW, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, protocol)
}

fn access<T>(result: Result<T, Errno>) -> Access {
    match result {
        Ok(_) => Access::Granted,
        Err(Errno::PERM | Errno::ACCESS) => Access::Denied,
        Err(_) => Access::Missing,
    }
}

fn devices() -> io::Result<Vec<DeviceFacts>> {
    let mut netlink = Netlink::open()?;
    let requests = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut all = Vec::new();
    for device in device::devices()? {
        // One that is gone by now has nothing to say.
        let Ok(link) = netlink.device(device.index) else { continue };
        let features = ethtool::active_features(&requests, &device.name).unwrap_or_default();
        let has = |name: &str| features.iter().any(|feature| feature == name);
        all.push(DeviceFacts {
            driver: ethtool::driver(&requests, &device.name),
            mtu: link.mtu,
            is_ethernet: device.is_ethernet,
            is_up: device.is_up,
            addresses: device.addresses,
            segment_limit: [false, true].map(|is_ipv6| link.segment_limit(is_ipv6, link.mtu)),
            tcp_segmentation: ["tx-tcp-segmentation", "tx-tcp6-segmentation"].map(has),
            gso_robust: has("tx-gso-robust"),
            xdp_program: link.xdp_program,
            queues: ethtool::rx_queues(&requests, &device.name),
            name: device.name,
            index: device.index,
        });
    }
    all.sort_by_key(|device| device.index);
    Ok(all)
}

/// The way to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Towards {
    /// Number of the device that packets leave by; `None` when they stay in this host, or are not
    /// simply sent by a device.
    pub device: Option<u32>,
    /// The router, if the peer is not on the link.
    pub gateway: Option<IpAddr>,
    /// The address that packets come from, if the kernel tells.
    pub src: Option<IpAddr>,
    /// The Ethernet address of the peer or the router, if the kernel has it.
    pub neighbour: Option<[u8; 6]>,
    /// Path MTU in bytes, as far as the kernel knows.
    pub mtu: usize,
}

/// The way to `dst` by the kernel's routes and neighbours.
///
/// # Errors
/// There is none.
pub fn towards(dst: IpAddr) -> io::Result<Towards> {
    let mut netlink = Netlink::open()?;
    let found = netlink.route(dst, None)?;
    let mtu = route::path_mtu(dst)?;
    let next_hop = found.gateway.unwrap_or(dst);
    let neighbour = match found.device {
        Some(device) => netlink.neighbour(device, next_hop).ok().flatten(),
        None => None,
    };
    Ok(Towards {
        device: found.device,
        gateway: found.gateway,
        src: found.src.or_else(|| source(dst)),
        neighbour: neighbour.map(|neighbour| neighbour.mac),
        mtu,
    })
}

/// The address that a socket to `dst` gets.
fn source(dst: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match dst {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(SocketAddr::new(dst, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Bytes of receive buffer that a socket gets when it asks for [`RECEIVE_BUFFER`]; twice as many if the
/// host grants them.
///
/// # Errors
/// The host refuses sockets.
pub fn receive_buffer() -> io::Result<usize> {
    let socket: OwnedFd = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.into();
    set_buffer(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, BUFFER_BYTES)?;
    let bytes = option::get(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_with_its_facts() {
        let host = Host::probe(crate::DEFAULT_PROTOCOL).unwrap();
        let lo = host.devices.iter().find(|device| device.name == "lo").unwrap();
        assert!(!lo.can_send() && lo.mtu > 0 && lo.xdp_program.is_none());
        let facts = host.facts(Ipv4Addr::LOCALHOST.into(), true);
        assert!(facts.devices.iter().all(|device| !device.is_ethernet));
        assert_eq!(facts.xdp_device, None);
    }

    #[test]
    fn a_receive_buffer_is_granted() {
        let bytes = receive_buffer().unwrap();
        assert!(bytes > 0 && bytes <= 2 * RECEIVE_BUFFER);
    }
}
