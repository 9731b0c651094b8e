//! Questions to the kernel about routes, neighbours and devices, and its word when they change.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::Mac;
use super::device::Device;

/// Multicast groups: links, neighbours, and for both IP versions addresses, routes and rules.
const GROUPS: [u32; 8] = [1, 3, 5, 7, 8, 9, 11, 19];
/// Message types that tell of a neighbour.
const NEIGHBOUR_TYPES: [u16; 2] = [libc::RTM_NEWNEIGH, libc::RTM_DELNEIGH];
/// Room for the kernel's answers; it makes none longer than 32 KB.
const ANSWER_LEN: usize = 32 << 10;
/// Notices read at once: more are left for the next time, so that a host whose network keeps
/// changing still gets to send.
const MAX_NOTICES: usize = 256;

/// Where a packet goes according to the kernel's routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    /// Index of the device; `None` when the packet is not simply to be sent by one.
    pub(crate) device: Option<u32>,
    /// The router, if the destination is not on the link.
    pub(crate) gateway: Option<IpAddr>,
    /// The address to send from.
    pub(crate) src: Option<IpAddr>,
    /// The route's own MTU in bytes, if it has one: set by hand or learned from ICMP.
    pub(crate) mtu: Option<usize>,
    /// Hop limit that the route asks for.
    pub(crate) hop_limit: Option<u8>,
}

/// A neighbour's Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) mac: Mac,
    /// It has not been heard of for a while: the kernel tests it once a packet goes through it.
    pub(crate) is_stale: bool,
}

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A neighbour.
    Neighbour(IpAddr),
    /// Anything else, or more than the kernel could tell.
    Everything,
}

/// Netlink sockets in the network namespace of the thread that opened them, whichever thread asks.
pub(crate) struct Netlink {
    questions: Socket,
    notices: Socket,
    /// For requests of another kind, which go by any socket.
    requests: UdpSocket,
    sequence: u32,
    answer: Vec<u8>,
}

impl Netlink {
    /// Opens the sockets; from now on changes are noticed.
    pub(crate) fn open() -> io::Result<Self> {
        let mut questions = Socket::new(NETLINK_ROUTE)?;
        questions.bind_auto()?;
        questions.connect(&SocketAddr::new(0, 0))?;
        let mut notices = Socket::new(NETLINK_ROUTE)?;
        notices.bind_auto()?;
        for group in GROUPS {
            notices.add_membership(group)?;
        }
        let requests = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        Ok(Self {
            questions,
            notices,
            requests,
            sequence: 0,
            answer: Vec::with_capacity(ANSWER_LEN),
        })
    }

    /// The route that a packet from `src` to `dst` takes.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn route(&mut self, dst: IpAddr, src: Option<IpAddr>) -> io::Result<Route> {
        let mut question = RouteMessage::default();
        let bits = if dst.is_ipv4() { 32 } else { 128 };
        question.header.address_family = family(dst);
        question.header.destination_prefix_length = bits;
        question.attributes.push(RouteAttribute::Destination(dst.into()));
        if let Some(src) = src {
            question.header.source_prefix_length = bits;
            question.attributes.push(RouteAttribute::Source(src.into()));
        }
        match self.ask(RouteNetlinkMessage::GetRoute(question))? {
            RouteNetlinkMessage::NewRoute(route) => {
                Ok(Route { src: src.or(preferred(&route)), ..read_route(&route) })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The neighbour `ip` on the device `device`, if the kernel has its Ethernet address.
    ///
    /// # Errors
    /// The kernel does not answer such questions.
    pub(crate) fn neighbour(&mut self, device: u32, ip: IpAddr) -> io::Result<Option<Neighbour>> {
        let mut question = NeighbourMessage::default();
        question.header.family = family(ip);
        question.header.ifindex = device;
        question.attributes.push(NeighbourAttribute::Destination(ip.into()));
        match self.ask(RouteNetlinkMessage::GetNeighbour(question)) {
            Ok(RouteNetlinkMessage::NewNeighbour(neighbour)) => Ok(read_neighbour(&neighbour)),
            Ok(other) => Err(unexpected(&other)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The device of this index.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn device(&mut self, index: u32) -> io::Result<Device> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        match self.ask(RouteNetlinkMessage::GetLink(question))? {
            RouteNetlinkMessage::NewLink(link) => Ok(Device::new(&link, &self.requests)),
            other => Err(unexpected(&other)),
        }
    }

    /// Hands every change since the last call to `tell`; costs one system call when there is none.
    pub(crate) fn changes(&mut self, mut tell: impl FnMut(Change)) {
        for _ in 0..MAX_NOTICES {
            self.answer.clear();
            match self.notices.recv(&mut self.answer, libc::MSG_DONTWAIT) {
                Ok(_) => read_notice(&self.answer, &mut tell),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Among others: the kernel had more to tell than the socket could hold.
                Err(_) => tell(Change::Everything),
            }
        }
    }

    /// Asks a question that has one answer. The kernel answers before the question is sent.
    fn ask(&mut self, question: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(question));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.questions.send(&bytes, 0)?;
        loop {
            self.answer.clear();
            self.questions.recv(&mut self.answer, libc::MSG_DONTWAIT)?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&self.answer)
                .map_err(io::Error::other)?;
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::InnerMessage(answer) => Ok(answer),
                NetlinkPayload::Error(refusal) => Err(refusal.to_io()),
                other => Err(unexpected(&other)),
            };
        }
    }
}

/// Reads a route as far as a plain device and neighbour can follow it.
fn read_route(route: &RouteMessage) -> Route {
    let mut read = Route::default();
    let mut is_plain = route.header.kind == RouteType::Unicast;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => read.device = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(ip))
            | RouteAttribute::Via(RouteVia::Inet(ip)) => {
                read.gateway = Some((*ip).into());
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(ip))
            | RouteAttribute::Via(RouteVia::Inet6(ip)) => {
                read.gateway = Some((*ip).into());
            }
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(mtu) if *mtu > 0 => read.mtu = Some(*mtu as usize),
                        RouteMetric::Hoplimit(hops) if *hops > 0 => {
                            read.hop_limit = u8::try_from(*hops).ok();
                        }
                        _ => {}
                    }
                }
            }
            RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::Encap(_)
            | RouteAttribute::EncapType(_)
            | RouteAttribute::NewDestination(_) => is_plain = false,
            _ => {}
        }
    }
    read.device = read.device.filter(|_| is_plain);
    read
}

/// The address that the kernel would send from.
fn preferred(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}

/// A neighbour that packets may be sent to.
fn read_neighbour(neighbour: &NeighbourMessage) -> Option<Neighbour> {
    let is_stale = match neighbour.header.state {
        NeighbourState::Stale => true,
        NeighbourState::Reachable
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Noarp
        | NeighbourState::Permanent => false,
        _ => return None,
    };
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(address) => {
            let mac = Mac::try_from(address.as_slice()).ok()?;
            Some(Neighbour { mac, is_stale })
        }
        _ => None,
    })
}

/// Reads the messages of one notice.
fn read_notice(mut bytes: &[u8], tell: &mut impl FnMut(Change)) {
    while let Some((len, kind)) = message_head(bytes) {
        let neighbour = NEIGHBOUR_TYPES.contains(&kind).then(|| neighbour_of(bytes.get(..len)?));
        tell(neighbour.flatten().map_or(Change::Everything, Change::Neighbour));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// Length and type of the first message in `bytes`.
fn message_head(bytes: &[u8]) -> Option<(usize, u16)> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    (16..=bytes.len()).contains(&len).then_some((len, kind))
}

/// The address of the neighbour that a message tells of.
fn neighbour_of(message: &[u8]) -> Option<IpAddr> {
    let told = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok()?;
    let NetlinkPayload::InnerMessage(
        RouteNetlinkMessage::NewNeighbour(neighbour) | RouteNetlinkMessage::DelNeighbour(neighbour),
    ) = told.payload
    else {
        return None;
    };
    neighbour.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((*ip).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn unexpected(answer: &impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("unexpected answer from the kernel: {answer:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn neighbour(ip: [u8; 4]) -> Vec<u8> {
        // struct ndmsg: family, padding, device, state, flags, type; then the address.
        let mut body = vec![2, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 1];
        body.extend([8, 0, 1, 0]);
        body.extend(ip);
        body
    }

    fn told(bytes: &[u8]) -> Vec<Change> {
        let mut changes = Vec::new();
        read_notice(bytes, &mut |change| changes.push(change));
        changes
    }

    #[test]
    fn notices_tell_what_changed() {
        let a = Change::Neighbour([192, 0, 2, 1].into());
        let b = Change::Neighbour([192, 0, 2, 2].into());
        let mut notice = message(libc::RTM_NEWNEIGH, &neighbour([192, 0, 2, 1]));
        assert_eq!(told(&notice), [a]);
        notice.extend(message(libc::RTM_DELNEIGH, &neighbour([192, 0, 2, 2])));
        notice.extend(message(libc::RTM_NEWROUTE, &[0; 13]));
        notice.extend(message(libc::RTM_NEWLINK, &[]));
        assert_eq!(told(&notice), [a, b, Change::Everything, Change::Everything]);
    }

    #[test]
    fn damaged_notices_change_everything_or_nothing() {
        assert_eq!(told(&message(libc::RTM_NEWNEIGH, &[2; 5])), [Change::Everything]);
        let whole = message(libc::RTM_NEWNEIGH, &neighbour([192, 0, 2, 1]));
        for len in 0..whole.len() {
            assert_eq!(told(&whole[..len]), []);
        }
    }

    #[test]
    fn only_plain_routes_are_followed() {
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Oif(3),
            RouteAttribute::Gateway(IpAddr::from([192, 0, 2, 254]).into()),
            RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400), RouteMetric::Hoplimit(9)]),
        ];
        let gateway = Some([192, 0, 2, 254].into());
        let plain =
            Route { device: Some(3), gateway, src: None, mtu: Some(1400), hop_limit: Some(9) };
        assert_eq!(read_route(&message), plain);
        message.header.kind = RouteType::Local;
        assert_eq!(read_route(&message).device, None);
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Encap(Vec::new()));
        assert_eq!(read_route(&message).device, None);
    }

    #[test]
    fn neighbours_without_an_address_are_none() {
        let mut message = NeighbourMessage::default();
        message.attributes = vec![NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1])];
        let mac = [2, 0, 0, 0, 0, 1];
        for (state, expected) in [
            (NeighbourState::Reachable, Some(false)),
            (NeighbourState::Permanent, Some(false)),
            (NeighbourState::Stale, Some(true)),
            (NeighbourState::Incomplete, None),
            (NeighbourState::Failed, None),
        ] {
            message.header.state = state;
            let expected = expected.map(|is_stale| Neighbour { mac, is_stale });
            assert_eq!(read_neighbour(&message), expected, "{state:?}");
        }
        message.attributes = vec![NeighbourAttribute::LinkLayerAddress(vec![0; 4])];
        message.header.state = NeighbourState::Reachable;
        assert_eq!(read_neighbour(&message), None);
    }
}
