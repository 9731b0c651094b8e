//! The few rtnetlink requests that build a test network. A socket acts on the namespace it was opened in.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoMacVlan, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode, State,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::net::if_::if_nametoindex;

use crate::Namespace;

/// How long the kernel's workers may take to finish what a request began. Milliseconds, unless the machine is
/// very busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// An interface to be made: what it is called, where it goes, and its MTU in bytes.
pub(crate) struct NewLink<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a Namespace,
    /// The kernel chooses one if `None`.
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    /// Most segments the stack may hand over as one packet; the kernel's own bound if `None`.
    pub(crate) max_segments: Option<u32>,
    /// Queues in each direction; as the kernel sets them if `None`.
    pub(crate) queues: Option<u32>,
}

/// A netlink socket in the namespace of the thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink { socket, sequence: 0 })
    }

    pub(crate) fn set_loopback_up(&mut self) -> io::Result<()> {
        self.set_up(if_nametoindex("lo")?)
    }

    pub(crate) fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.set_link(index, true)
    }

    pub(crate) fn set_down(&mut self, index: u32) -> io::Result<()> {
        self.set_link(index, false)
    }

    fn set_link(&mut self, index: u32, up: bool) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        link.header.change_mask = LinkFlags::Up;
        self.request("bring an interface up or down", RouteNetlinkMessage::SetLink(link), 0)
    }

    pub(crate) fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        self.set_attribute(index, LinkAttribute::Mtu(mtu))
    }

    pub(crate) fn set_mac(&mut self, index: u32, mac: Mac) -> io::Result<()> {
        self.set_attribute(index, LinkAttribute::Address(mac.to_vec()))
    }

    fn set_attribute(&mut self, index: u32, attribute: LinkAttribute) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![attribute];
        self.request("change an interface", RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Keeps the kernel from giving the interface a link-local IPv6 address, whose set-up would put packets on
    /// the link that no test asked for.
    pub(crate) fn set_no_link_local(&mut self, index: u32) -> io::Result<()> {
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])];
        self.request("set IPv6 address generation", RouteNetlinkMessage::SetLink(link), 0)
    }

    pub(crate) fn add_veth(&mut self, one: &NewLink<'_>, other: &NewLink<'_>) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = attributes(other);
        let data = InfoData::Veth(InfoVeth::Peer(peer));
        self.add_link(one, vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)], None)
    }

    pub(crate) fn add_bridge(&mut self, bridge: &NewLink<'_>) -> io::Result<()> {
        self.add_link(bridge, vec![LinkInfo::Kind(InfoKind::Bridge)], None)
    }

    /// Adds a macvlan device in bridge mode upon the interface with index `lower` in this namespace.
    pub(crate) fn add_macvlan(&mut self, link: &NewLink<'_>, lower: u32) -> io::Result<()> {
        let data = InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)]);
        let info = vec![LinkInfo::Kind(InfoKind::MacVlan), LinkInfo::Data(data)];
        self.add_link(link, info, Some(lower))
    }

    fn add_link(
        &mut self,
        new: &NewLink<'_>,
        info: Vec<LinkInfo>,
        lower: Option<u32>,
    ) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.attributes = attributes(new);
        link.attributes.extend(lower.map(LinkAttribute::Link));
        link.attributes.push(LinkAttribute::LinkInfo(info));
        let message = RouteNetlinkMessage::NewLink(link);
        self.request("make an interface", message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes the interface `index` a port of the bridge `bridge`, both in this namespace.
    pub(crate) fn attach(&mut self, index: u32, bridge: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![LinkAttribute::Controller(bridge)];
        self.request("attach an interface to a bridge", RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Gives the interface `index` an address that is usable at once: IPv6 without duplicate detection.
    pub(crate) fn add_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix_bits: u8,
    ) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix_bits;
        message.header.index = index;
        message.attributes =
            vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let message = RouteNetlinkMessage::NewAddress(message);
        self.request("add an address", message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds a route to an IPv4 network by way of `gateway`.
    pub(crate) fn add_route(
        &mut self,
        network: Ipv4Addr,
        prefix_bits: u8,
        gateway: Ipv4Addr,
    ) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = prefix_bits;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Destination(network.into()),
            RouteAttribute::Gateway(gateway.into()),
        ];
        let message = RouteNetlinkMessage::NewRoute(message);
        self.request("add a route", message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Adds a neighbour entry that never expires.
    pub(crate) fn add_neighbour(
        &mut self,
        index: u32,
        address: IpAddr,
        mac: Mac,
    ) -> io::Result<()> {
        self.put_neighbour(index, address, mac, NeighbourState::Permanent)
    }

    /// Adds a neighbour entry that the kernel tests once a packet goes through it.
    pub(crate) fn add_stale_neighbour(
        &mut self,
        index: u32,
        address: IpAddr,
        mac: Mac,
    ) -> io::Result<()> {
        self.put_neighbour(index, address, mac, NeighbourState::Stale)
    }

    /// Whether no packet has gone through a neighbour entry since it became stale.
    pub(crate) fn is_stale(&mut self, index: u32, address: IpAddr) -> io::Result<bool> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        message.attributes = vec![NeighbourAttribute::Destination(address.into())];
        match self.query(RouteNetlinkMessage::GetNeighbour(message))? {
            RouteNetlinkMessage::NewNeighbour(entry) => {
                Ok(entry.header.state == NeighbourState::Stale)
            }
            other => Err(unexpected(&other)),
        }
    }

    fn put_neighbour(
        &mut self,
        index: u32,
        address: IpAddr,
        mac: Mac,
        state: NeighbourState,
    ) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(address.into()),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        let message = RouteNetlinkMessage::NewNeighbour(message);
        self.request("add a neighbour entry", message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Waits until the interface `index` passes packets. Its carrier comes up by a kernel worker some time after
    /// both ends of a link have been brought up, and packets sent before are dropped.
    pub(crate) fn await_up(&mut self, index: u32) -> io::Result<()> {
        wait_until("interface with a carrier", || {
            let mut link = LinkMessage::default();
            link.header.index = index;
            match self.query(RouteNetlinkMessage::GetLink(link))? {
                // Not IFF_RUNNING: the kernel sets that too while the state is still unknown.
                RouteNetlinkMessage::NewLink(link) => {
                    Ok(link.attributes.contains(&LinkAttribute::OperState(State::Up)))
                }
                other => Err(unexpected(&other)),
            }
        })
    }

    /// Waits until packets for `address` are taken as this host's own. The kernel gets there for an IPv6 address
    /// by a worker too, even without duplicate detection.
    pub(crate) fn await_local(&mut self, address: IpAddr) -> io::Result<()> {
        wait_until("route to an address of this host", || {
            let mut route = RouteMessage::default();
            route.header.address_family = family(address);
            route.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
            route.attributes = vec![RouteAttribute::Destination(address.into())];
            match self.query(RouteNetlinkMessage::GetRoute(route))? {
                RouteNetlinkMessage::NewRoute(route) => Ok(route.header.kind == RouteType::Local),
                other => Err(unexpected(&other)),
            }
        })
    }

    /// Sends a question that has one answer and returns it.
    fn query(&mut self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.send(message, 0)?;
        match self.receive()? {
            NetlinkPayload::InnerMessage(answer) => Ok(answer),
            NetlinkPayload::Error(refusal) => Err(refusal.to_io()),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends one request and waits for the kernel's verdict; `what` says in an error what was refused.
    fn request(&mut self, what: &str, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)
            .and_then(|()| self.receive())
            .and_then(|answer| match answer {
                NetlinkPayload::Error(verdict) if verdict.code.is_none() => Ok(()),
                NetlinkPayload::Error(verdict) => Err(verdict.to_io()),
                other => Err(unexpected(&other)),
            })
            .map_err(|error| io::Error::new(error.kind(), format!("cannot {what}: {error}")))
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(|_| ())
    }

    /// Waits for the answer to the request sent last.
    fn receive(&self) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes)
                .map_err(io::Error::other)?;
            if answer.header.sequence_number == self.sequence {
                return Ok(answer.payload);
            }
        }
    }
}

/// Asks again every millisecond until the answer is yes.
fn wait_until(what: &str, mut ready: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let give_up = Instant::now() + PATIENCE;
    while !ready()? {
        if Instant::now() > give_up {
            let text = format!("no {what} within {PATIENCE:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn unexpected(answer: &impl Debug) -> io::Error {
    io::Error::other(format!("unexpected answer from the kernel: {answer:?}"))
}

fn attributes(link: &NewLink<'_>) -> Vec<LinkAttribute> {
    let mut attributes = vec![
        LinkAttribute::IfName(link.name.to_owned()),
        LinkAttribute::NetNsFd(link.namespace.as_fd().as_raw_fd()),
        LinkAttribute::Mtu(link.mtu),
    ];
    attributes.extend(link.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    attributes.extend(link.max_segments.map(LinkAttribute::GsoMaxSegs));
    attributes.extend(link.queues.map(LinkAttribute::NumTxQueues));
    attributes.extend(link.queues.map(LinkAttribute::NumRxQueues));
    attributes
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
