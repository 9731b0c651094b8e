//! The link layer below IP, for datapaths that hand frames to devices themselves: headers, and
//! which device and neighbour a packet goes to.
//!
//! The kernel stays the authority. [`paths`] asks it for the route and the neighbour of each
//! destination, keeps the answers, and forgets them when it says that something has changed.
//! Whatever is not plain (no neighbour yet, this host itself, a tunnel) is left to the kernel: a
//! raw socket sends it, which also has the kernel resolve the neighbour and test it anew.

pub(crate) mod device;
pub(crate) mod header;
pub(crate) mod netlink;
pub(crate) mod paths;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];
