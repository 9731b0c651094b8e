//! Two test hosts joined by a link.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nix::net::if_::if_nametoindex;

use crate::Namespace;
use crate::delay::DelayLink;
use crate::netlink::{Mac, Netlink, NewLink};

/// Names of the bridge and of its ports to the two hosts.
const BRIDGE: &str = "smt-bridge";
const PORTS: [&str; 2] = ["port-a", "port-b"];
/// The two ends of the detour, in the bridge and in `b`.
const DETOUR: [&str; 2] = ["port-detour", "detour"];
/// A device of the bridge that could cut segments, which nothing leads through.
const CUTTER: &str = "port-cutter";
/// Addresses of those that are not in use.
const SPARE: [Mac; 2] = [[0x02, 0, 0, 0, 0, 0x1b], [0x02, 0, 0, 0, 0, 0x2b]];

/// What joins the two hosts of a [`Pair`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Wire {
    /// One veth pair, an end in each host: the fastest, and the one AF_XDP attaches to.
    #[default]
    Veth,
    /// A bridge in a third namespace, a veth pair to each host: packets pass the bridge's forward hook, where
    /// filters, counters and captures see them all.
    Bridge,
    /// Two macvlan devices upon a bridge in a third namespace: unlike veth, macvlan takes TCP-segmentation
    /// requests from user space (AF_PACKET with a virtio-net header).
    Macvlan,
    /// A macvlan device upon each end of a veth pair in a third namespace: takes such requests too, but the veth
    /// below it refuses them.
    MacvlanOnVeth,
    /// As [`Wire::Macvlan`], and a second way to `b` beside, which [`Pair::detour`] takes: it loses requests for
    /// segmentation without a word, after they were sent.
    MacvlanOrDetour,
    /// Two veth pairs and between them, in a third namespace, a thread that holds every packet for this long each
    /// way: half of the round trip. It loses packets if told to ([`DelayLink::set_loss`]). It takes a core while
    /// packets are under way; [`Pair::delay`] tells how precise it is. Hosts upon it send packets no larger than the
    /// MTU, whatever the interface offers.
    Delay(Duration),
}

/// How to build a [`Pair`].
#[derive(Debug, Clone)]
pub struct PairOptions {
    /// MTU of the link in bytes: the largest IP packet. At least 1280, IPv6's minimum; at most 65535. 1500
    /// unless set.
    pub mtu: u32,
    /// What the link is made of.
    pub wire: Wire,
    /// Whether each host knows the other's Ethernet address from the start. True unless set, so that hardly
    /// anything crosses the link but what a test sends (the kernel reports its IPv6 multicast groups in any
    /// case); false lets ARP and neighbour discovery do their work.
    pub static_neighbours: bool,
    /// An IPv4 network, with the bits of its prefix, that `b` believes to lie behind `a`: packets that `a` sends
    /// under addresses in it are plausible, and answers to them go to `a`, which drops them. None unless set.
    pub behind_a: Option<(Ipv4Addr, u8)>,
    /// Queues of each end of a [`Wire::Veth`] in each direction. As the kernel sets them (one) unless set.
    pub queues: Option<u32>,
    /// Most packets that a host may hand to its interface as one, to be cut on the way. 1: whoever sends cuts, as long
    /// as it asks the interface what it takes. The kernel's own bound unless set.
    pub max_segments: Option<u32>,
}

impl Default for PairOptions {
    fn default() -> Self {
        PairOptions {
            mtu: 1500,
            wire: Wire::Veth,
            static_neighbours: true,
            behind_a: None,
            queues: None,
            max_segments: None,
        }
    }
}

/// Two hosts, `a` and `b`, joined by a link that is up, with an IPv4 /24 and an IPv6 /64 network on it.
///
/// Addresses and names are the same in every pair: pairs do not see each other.
#[derive(Debug)]
#[non_exhaustive]
pub struct Pair {
    /// The first host.
    pub a: Namespace,
    /// The second host.
    pub b: Namespace,
    /// The namespace of the bridge or of the delaying forwarder, unless the hosts are joined directly.
    pub bridge: Option<Namespace>,
    /// The forwarder of [`Wire::Delay`].
    pub delay: Option<DelayLink>,
    /// IPv4 address of `a`.
    pub a_v4: Ipv4Addr,
    /// IPv4 address of `b`.
    pub b_v4: Ipv4Addr,
    /// IPv6 address of `a`.
    pub a_v6: Ipv6Addr,
    /// IPv6 address of `b`.
    pub b_v6: Ipv6Addr,
    /// Ethernet address of `a`'s end.
    pub a_mac: [u8; 6],
    /// Ethernet address of `b`'s end.
    pub b_mac: [u8; 6],
    /// Name of the interface in `a`.
    pub a_name: String,
    /// Name of the interface in `b`.
    pub b_name: String,
}

/// Makes two hosts joined by a link.
///
/// Offloads are as the kernel sets them: checksum and TCP segmentation offload on.
///
/// # Errors
///
/// Those of [`Namespace::new`]; an MTU outside 1280..=65535; or the kernel lacks the kind of interface that
/// [`PairOptions::wire`] asks for.
pub fn pair(options: PairOptions) -> io::Result<Pair> {
    if !(1280..=65535).contains(&options.mtu) {
        let text = format!("MTU {} is outside 1280..=65535", options.mtu);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let middle = match options.wire {
        Wire::Veth => None,
        Wire::Bridge
        | Wire::Macvlan
        | Wire::MacvlanOnVeth
        | Wire::MacvlanOrDetour
        | Wire::Delay(_) => Some(Namespace::new()?),
    };
    let mut pair = Pair {
        a: Namespace::new()?,
        b: Namespace::new()?,
        bridge: middle,
        delay: None,
        a_v4: Ipv4Addr::new(10, 0, 0, 1),
        b_v4: Ipv4Addr::new(10, 0, 0, 2),
        a_v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
        b_v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2),
        // Locally administered, so no card in the world has them.
        a_mac: [0x02, 0, 0, 0, 0, 0x0a],
        b_mac: [0x02, 0, 0, 0, 0, 0x0b],
        a_name: "smt-a".to_owned(),
        b_name: "smt-b".to_owned(),
    };
    pair.connect(&options)?;
    pair.configure(&options)?;
    pair.await_ready(&options)?;
    if let (Some(middle), Wire::Delay(one_way)) = (&pair.bridge, options.wire) {
        pair.delay = Some(DelayLink::start(middle, PORTS, one_way)?);
    }
    Ok(pair)
}

impl Pair {
    /// Has packets to `b` take the other way of [`Wire::MacvlanOrDetour`], or the first one again. Those back take
    /// the first one always.
    ///
    /// # Errors
    ///
    /// The link is of another kind.
    pub fn detour(&self, take: bool) -> io::Result<()> {
        self.b.run(|| {
            let mut netlink = Netlink::open()?;
            let (detour, direct) =
                (if_nametoindex(DETOUR[1])?, if_nametoindex(self.b_name.as_str())?);
            netlink.set_no_link_local(detour)?;
            netlink.set_up(detour)?;
            netlink.await_up(detour)?;
            // Never both at once.
            let (off, on) = if take { (direct, detour) } else { (detour, direct) };
            netlink.set_mac(off, if take { SPARE[0] } else { SPARE[1] })?;
            netlink.set_mac(on, self.b_mac)
        })?
    }

    /// Makes the interfaces, each in its namespace.
    fn connect(&self, options: &PairOptions) -> io::Result<()> {
        let delayed = matches!(options.wire, Wire::Delay(_));
        let link = |name, namespace, mac| NewLink {
            name,
            namespace,
            mac,
            mtu: options.mtu,
            // The forwarder sends frames as it got them, so they have to be of a size that fits.
            max_segments: delayed.then_some(1).or(options.max_segments),
            queues: options.queues,
        };
        let a = link(&self.a_name, &self.a, Some(self.a_mac));
        let b = link(&self.b_name, &self.b, Some(self.b_mac));
        let Some(middle) = &self.bridge else {
            return self.a.run(|| Netlink::open()?.add_veth(&a, &b))?;
        };
        if delayed {
            return middle.run(|| {
                let mut netlink = Netlink::open()?;
                for (end, port) in [&a, &b].into_iter().zip(PORTS) {
                    netlink.add_veth(&link(port, middle, None), end)?;
                    let index = if_nametoindex(port)?;
                    netlink.set_no_link_local(index)?;
                    netlink.set_up(index)?;
                }
                Ok(())
            })?;
        }
        if options.wire == Wire::MacvlanOnVeth {
            return middle.run(|| {
                let mut netlink = Netlink::open()?;
                let [one, other] = PORTS.map(|port| link(port, middle, None));
                netlink.add_veth(&one, &other)?;
                for (end, port) in [&a, &b].into_iter().zip(PORTS) {
                    let index = if_nametoindex(port)?;
                    netlink.set_no_link_local(index)?;
                    netlink.set_up(index)?;
                    netlink.add_macvlan(end, index)?;
                }
                Ok(())
            })?;
        }
        middle.run(|| {
            let mut netlink = Netlink::open()?;
            // A bridge given an address works out its ports' states and, having none yet, loses its carrier,
            // and the macvlan devices upon it lose theirs.
            netlink.add_bridge(&link(BRIDGE, middle, None))?;
            let bridge = if_nametoindex(BRIDGE)?;
            netlink.set_no_link_local(bridge)?;
            netlink.set_up(bridge)?;
            if options.wire == Wire::MacvlanOrDetour {
                // A bridge hands its ports whatever one of them can cut, as this one could.
                let [one, other] = PORTS.map(|port| link(port, middle, None));
                netlink.add_veth(&one, &other)?;
                let index = if_nametoindex(PORTS[0])?;
                netlink.add_macvlan(&link(CUTTER, middle, None), index)?;
                let detour = link(DETOUR[1], &self.b, Some(SPARE[1]));
                netlink.add_veth(&link(DETOUR[0], middle, None), &detour)?;
                for name in [PORTS[0], PORTS[1], CUTTER, DETOUR[0]] {
                    let index = if_nametoindex(name)?;
                    netlink.set_no_link_local(index)?;
                    if name == CUTTER || name == DETOUR[0] {
                        netlink.attach(index, bridge)?;
                    }
                    netlink.set_up(index)?;
                }
            }
            for (end, port) in [&a, &b].into_iter().zip(PORTS) {
                if matches!(options.wire, Wire::Macvlan | Wire::MacvlanOrDetour) {
                    netlink.add_macvlan(end, bridge)?;
                    continue;
                }
                netlink.add_veth(&link(port, middle, None), end)?;
                let index = if_nametoindex(port)?;
                netlink.set_no_link_local(index)?;
                netlink.attach(index, bridge)?;
                netlink.set_up(index)?;
            }
            Ok(())
        })?
    }

    /// Brings both ends up and gives them their addresses and neighbours.
    fn configure(&self, options: &PairOptions) -> io::Result<()> {
        let a: [IpAddr; 2] = [self.a_v4.into(), self.a_v6.into()];
        let b: [IpAddr; 2] = [self.b_v4.into(), self.b_v6.into()];
        let ends = [
            (&self.a, &self.a_name, a, (b, self.b_mac)),
            (&self.b, &self.b_name, b, (a, self.a_mac)),
        ];
        for (host, name, addresses, other) in ends {
            let other = options.static_neighbours.then_some(other);
            host.run(|| configure_end(name, addresses, other))??;
        }
        if let Some((network, prefix_bits)) = options.behind_a {
            self.b.run(|| Netlink::open()?.add_route(network, prefix_bits, self.a_v4))??;
        }
        Ok(())
    }

    /// Waits until a packet sent by either host arrives at the other.
    fn await_ready(&self, options: &PairOptions) -> io::Result<()> {
        if let (Some(middle), Wire::Bridge | Wire::MacvlanOnVeth | Wire::Delay(_)) =
            (&self.bridge, options.wire)
        {
            middle.run(|| {
                let mut netlink = Netlink::open()?;
                PORTS.iter().try_for_each(|port| netlink.await_up(if_nametoindex(*port)?))
            })??;
        }
        let ends = [
            (&self.a, &self.a_name, [self.a_v4.into(), self.a_v6.into()]),
            (&self.b, &self.b_name, [self.b_v4.into(), self.b_v6.into()]),
        ];
        for (host, name, addresses) in ends {
            host.run(|| {
                let mut netlink = Netlink::open()?;
                netlink.await_up(if_nametoindex(name.as_str())?)?;
                addresses.into_iter().try_for_each(|address| netlink.await_local(address))
            })??;
        }
        Ok(())
    }
}

fn configure_end(
    name: &str,
    addresses: [IpAddr; 2],
    other: Option<([IpAddr; 2], Mac)>,
) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let index = if_nametoindex(name)?;
    netlink.set_no_link_local(index)?;
    netlink.set_up(index)?;
    for address in addresses {
        netlink.add_address(index, address, if address.is_ipv4() { 24 } else { 64 })?;
    }
    if let Some((addresses, mac)) = other {
        for address in addresses {
            netlink.add_neighbour(index, address, mac)?;
        }
    }
    Ok(())
}
