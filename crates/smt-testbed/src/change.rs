//! What happens to a host's network while it is in use.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use nix::net::if_::if_nametoindex;

use crate::Namespace;
use crate::netlink::Netlink;

impl Namespace {
    /// Takes the interface `name` down, or up again; returns once it passes packets.
    ///
    /// # Errors
    ///
    /// There is no such interface, or it does not come up within 20 seconds.
    pub fn set_link(&self, name: &str, up: bool) -> io::Result<()> {
        self.run(|| {
            let (mut netlink, index) = (Netlink::open()?, if_nametoindex(name)?);
            if !up {
                return netlink.set_down(index);
            }
            netlink.set_up(index)?;
            netlink.await_up(index)
        })?
    }

    /// Gives the interface `name` another MTU, in bytes.
    ///
    /// # Errors
    ///
    /// There is no such interface, or it cannot have this MTU.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> io::Result<()> {
        self.run(|| Netlink::open()?.set_mtu(if_nametoindex(name)?, mtu))?
    }

    /// Gives the interface `name` another Ethernet address.
    ///
    /// # Errors
    ///
    /// There is no such interface, or it cannot have this address.
    pub fn set_mac(&self, name: &str, mac: [u8; 6]) -> io::Result<()> {
        self.run(|| Netlink::open()?.set_mac(if_nametoindex(name)?, mac))?
    }

    /// Gives the interface `name` one more address, usable at once.
    ///
    /// # Errors
    ///
    /// There is no such interface, or it has the address.
    pub fn add_address(&self, name: &str, address: IpAddr, prefix_bits: u8) -> io::Result<()> {
        self.run(|| {
            let mut netlink = Netlink::open()?;
            netlink.add_address(if_nametoindex(name)?, address, prefix_bits)?;
            netlink.await_local(address)
        })?
    }

    /// Tells the host for good which Ethernet address `address` has on the interface `name`.
    ///
    /// # Errors
    ///
    /// There is no such interface.
    pub fn set_neighbour(&self, name: &str, address: IpAddr, mac: [u8; 6]) -> io::Result<()> {
        self.run(|| Netlink::open()?.add_neighbour(if_nametoindex(name)?, address, mac))?
    }

    /// Tells the host which Ethernet address `address` had on the interface `name` a while ago: it tests that with
    /// the next packet of its own that goes there.
    ///
    /// # Errors
    ///
    /// There is no such interface.
    pub fn set_stale_neighbour(&self, name: &str, address: IpAddr, mac: [u8; 6]) -> io::Result<()> {
        self.run(|| Netlink::open()?.add_stale_neighbour(if_nametoindex(name)?, address, mac))?
    }

    /// Whether the host has yet to test what [`Namespace::set_stale_neighbour`] told it.
    ///
    /// # Errors
    ///
    /// There is no such interface or neighbour.
    pub fn is_stale_neighbour(&self, name: &str, address: IpAddr) -> io::Result<bool> {
        self.run(|| Netlink::open()?.is_stale(if_nametoindex(name)?, address))?
    }

    /// Sends packets for an IPv4 network by way of `gateway`.
    ///
    /// # Errors
    ///
    /// There is such a route, or no way to the gateway.
    pub fn add_route(
        &self,
        network: Ipv4Addr,
        prefix_bits: u8,
        gateway: Ipv4Addr,
    ) -> io::Result<()> {
        self.run(|| Netlink::open()?.add_route(network, prefix_bits, gateway))?
    }
}
