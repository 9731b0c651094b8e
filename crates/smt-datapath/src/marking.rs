//! Priorities as the network sees them: the DSCP of what a socket sends.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use crate::PRIORITIES;
use crate::sys::control::Writer;
use crate::sys::option;

/// How priorities become the traffic class octet of IP headers.
pub(crate) struct Marking {
    /// Of each priority; `None` leaves packets as they are.
    octets: Option<[u8; PRIORITIES]>,
    is_ipv6: bool,
}

impl Marking {
    /// Gives the socket the octet of the highest priority, which is that of small messages and
    /// control packets: they leave without control data, and so by the cheapest system call.
    pub(crate) fn new(
        fd: &OwnedFd,
        local: IpAddr,
        dscp: Option<[u8; PRIORITIES]>,
    ) -> io::Result<Self> {
        // The low two bits are those of ECN.
        let octets = dscp.map(|dscp| dscp.map(|dscp| dscp << 2));
        let is_ipv6 = local.is_ipv6();
        if let Some(octets) = octets {
            let (level, kind) = Self::option(is_ipv6);
            option::set(fd, level, kind, i32::from(octets[PRIORITIES - 1]))?;
        }
        Ok(Self { octets, is_ipv6 })
    }

    fn option(is_ipv6: bool) -> (i32, i32) {
        match is_ipv6 {
            false => (libc::IPPROTO_IP, libc::IP_TOS),
            true => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        }
    }

    /// Marks one message, unless the socket does so by itself.
    pub(crate) fn control(&self, priority: u8, control: &mut Writer<'_>) {
        let Some(octets) = self.octets else { return };
        let highest = octets[PRIORITIES - 1];
        let octet = octets.get(usize::from(priority)).copied().unwrap_or(highest);
        if octet != highest {
            let (level, kind) = Self::option(self.is_ipv6);
            control.push(level, kind, &i32::from(octet).to_ne_bytes());
        }
    }
}
