//! Facts about a network device.

use std::net::UdpSocket;

use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp};

use super::Mac;
use super::header::{ETHERNET_LEN, V4_LEN, V6_LEN};
use crate::sys::ethtool;

/// Bytes of the header that a device copies in front of each packet of a segment.
const DATA_HEADER: usize = 52;
/// The length field of IP ends here.
const LARGEST_IP: usize = 65_535;

/// A network device, as it was when asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Its address if it is an Ethernet device.
    pub(crate) mac: Option<Mac>,
    /// Largest IP packet in bytes.
    pub(crate) mtu: usize,
    pub(crate) is_up: bool,
    /// The kernel's number of the XDP program attached to it.
    pub(crate) xdp_program: Option<u32>,
    /// Largest frame in bytes that it takes to be segmented, and into how many packets at most.
    gso: (usize, usize),
    /// Whether it segments what comes from user space, over IPv4 and IPv6.
    segments: [bool; 2],
}

impl Device {
    /// What the kernel says of a device, and `ethtool`, by any socket of the same network namespace, of
    /// its offloads.
    pub(crate) fn new(link: &LinkMessage, socket: &UdpSocket) -> Self {
        let mut device = Self {
            index: link.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            is_up: link.header.flags.contains(LinkFlags::Up),
            xdp_program: None,
            gso: (LARGEST_IP + 1, LARGEST_IP),
            segments: [false; 2],
        };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => device.mtu = *mtu as usize,
                LinkAttribute::Address(address)
                    if link.header.link_layer_type == LinkLayerType::Ether =>
                {
                    device.mac = Mac::try_from(address.as_slice()).ok();
                }
                LinkAttribute::GsoMaxSize(bytes) | LinkAttribute::GsoIpv4MaxSize(bytes) => {
                    device.gso.0 = device.gso.0.min(*bytes as usize);
                }
                LinkAttribute::Xdp(facts) => {
                    device.xdp_program = facts.iter().find_map(attached_program);
                }
                LinkAttribute::GsoMaxSegs(count) => device.gso.1 = *count as usize,
                _ => {}
            }
        }
        // A device that does not tell does not segment.
        let features = ethtool::active_features(socket, &device.name).unwrap_or_default();
        device.segments = segmentation(&features);
        device
    }

    /// Largest SMT packet, header and payload, that the device cuts into packets of `mtu` bytes;
    /// 0 if it does not, or when nothing is gained.
    pub(crate) fn segment_limit(&self, is_ipv6: bool, mtu: usize) -> usize {
        let ip_header = if is_ipv6 { V6_LEN } else { V4_LEN };
        let usable = mtu.saturating_sub(ip_header + DATA_HEADER);
        let packets = self.gso.1;
        if !self.segments[usize::from(is_ipv6)] || usable == 0 || packets < 2 {
            return 0;
        }
        // The kernel segments in software what is not below the largest size, frame and all.
        let by_bytes = LARGEST_IP.min(self.gso.0.saturating_sub(1 + ETHERNET_LEN));
        let limit = by_bytes.saturating_sub(ip_header);
        let limit = limit.min(packets.saturating_mul(usable).saturating_add(DATA_HEADER));
        if limit > usable + DATA_HEADER { limit } else { 0 }
    }
}

/// The program that the kernel tells of, in the driver, the stack or the device itself.
fn attached_program(fact: &LinkXdp) -> Option<u32> {
    match fact {
        LinkXdp::ProgId(id)
        | LinkXdp::DrvProgId(id)
        | LinkXdp::SkbProgId(id)
        | LinkXdp::HwProgId(id) => Some(*id).filter(|id| *id != 0),
        _ => None,
    }
}

/// Whether a device with these features segments TCP of user space, over IPv4 and IPv6. Such
/// packets come unchecked, so that it must be robust.
fn segmentation(features: &[String]) -> [bool; 2] {
    let has = |name: &str| features.iter().any(|feature| feature == name);
    let all = has("tx-gso-robust") && has("tx-scatter-gather");
    let checksums = |version: &str| has("tx-checksum-ip-generic") || has(version);
    [
        all && has("tx-tcp-segmentation") && checksums("tx-checksum-ipv4"),
        all && has("tx-tcp6-segmentation") && checksums("tx-checksum-ipv6"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(segments: [bool; 2], gso: (usize, usize)) -> Device {
        Device {
            index: 2,
            name: "eth0".to_owned(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            is_up: true,
            xdp_program: None,
            gso,
            segments,
        }
    }

    #[test]
    fn segments_fit_ip_and_the_device() {
        let usual = (65_536, 65_535);
        assert_eq!(device([true; 2], usual).segment_limit(false, 1500), 65_501);
        assert_eq!(device([true; 2], usual).segment_limit(true, 1500), 65_481);
        assert_eq!(device([true; 2], (200_000, 65_535)).segment_limit(false, 1500), 65_515);
        assert_eq!(device([true; 2], (65_536, 10)).segment_limit(false, 1500), 10 * 1428 + 52);
        assert_eq!(device([true, false], usual).segment_limit(true, 1500), 0);
    }

    #[test]
    fn nothing_to_cut_is_no_segment() {
        assert_eq!(device([true; 2], (65_536, 1)).segment_limit(false, 1500), 0);
        assert_eq!(device([true; 2], (65_536, 65_535)).segment_limit(false, 65_535), 0);
        assert_eq!(device([true; 2], (65_536, 65_535)).segment_limit(false, 60), 0);
        assert_eq!(device([true; 2], (0, 65_535)).segment_limit(false, 1500), 0);
    }

    #[test]
    fn devices_must_take_unchecked_packets() {
        let features = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let mut names = vec![
            "tx-scatter-gather",
            "tx-checksum-ip-generic",
            "tx-tcp-segmentation",
            "tx-tcp6-segmentation",
        ];
        let segments =
            |names: &[&str]| segmentation(&Vec::<String>::from_iter::<Vec<_>>(features(names)));
        assert_eq!(segments(&names), [false, false]);
        names.push("tx-gso-robust");
        assert_eq!(segments(&names), [true, true]);
        names.retain(|name| *name != "tx-tcp6-segmentation");
        assert_eq!(segments(&names), [true, false]);
    }
}
