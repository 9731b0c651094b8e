//! Opening a datapath.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use crate::auto::{Obstacle, Usability, Verdict};
use crate::filter::{MAX_SHARDS, Shard};
use crate::ports::{FIRST_BLOCK, PortClaim};
use crate::xdp::{self, XdpOptions};
use crate::{DEFAULT_PROTOCOL, Datapath, OpenError, auto, packet, raw, udp};

/// Which datapath to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Raw IP sockets, SMT's native form. Needs `CAP_NET_RAW`.
    #[default]
    Raw,
    /// As raw, but packets leave by a packet socket: less work for the kernel for each, and up to
    /// 64 KB at once for devices that cut segments of user space (TSO; `tx-gso-robust` of
    /// `ethtool -k`). What it sends passes no output hook of the host (nftables) and no IPsec
    /// policy. Needs `CAP_NET_RAW`.
    Packet,
    /// AF_XDP: straight to and from the device of the address bound to. What it
    /// sends and receives passes neither hooks of the host (nftables, but for `ingress`) nor packet
    /// captures. Needs `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_NET_RAW`, and a device of which no other
    /// process has taken the XDP hook.
    Xdp,
    /// UDP, for hosts without privileges.
    Udp,
    /// The best of these that device and privileges allow, by [`auto`](crate::auto);
    /// [`Caps::name`](crate::Caps::name) tells which it is. Without `CAP_NET_RAW` that is UDP, and then
    /// the other end must take UDP as well.
    Auto {
        /// Whether it may be XDP, whose program changes the device for all its users: the first
        /// choice then where no device takes TSO segments. If it cannot be attached, it is another.
        allow_xdp: bool,
    },
}

impl Kind {
    /// Its name, as commands take it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Packet => "packet",
            Self::Xdp => "xdp",
            Self::Udp => "udp",
            Self::Auto { .. } => "auto",
        }
    }
}

/// What to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Which datapath.
    pub kind: Kind,
    /// Our address. A wildcard takes packets to every address of its IP version, and of no other.
    pub bind: IpAddr,
    /// SMT port to listen at, 0 for any free one; with [`Kind::Udp`] it is the UDP port as well.
    pub listen: Option<u16>,
    /// Whether to have ports to connect from.
    pub client: bool,
    /// IP protocol number; of no effect with [`Kind::Udp`].
    pub protocol: u8,
    /// The DSCP (6 bits) that packets of each priority carry; `None` leaves them unmarked.
    pub dscp: Option<[u8; PRIORITIES]>,
    /// Of effect with [`Kind::Xdp`] alone.
    pub xdp: XdpOptions,
}

/// Priority levels of packets.
pub const PRIORITIES: usize = 8;

/// The class selectors CS0..CS7 (RFC 2474), one for each priority: the three bits by which switches
/// choose among eight queues unless they are told otherwise.
pub const CLASS_SELECTORS: [u8; PRIORITIES] = [0, 8, 16, 24, 32, 40, 48, 56];

impl Default for OpenOptions {
    /// A client over raw IPv4.
    fn default() -> Self {
        Self {
            kind: Kind::Raw,
            bind: Ipv4Addr::UNSPECIFIED.into(),
            listen: None,
            client: true,
            protocol: DEFAULT_PROTOCOL,
            dscp: Some(CLASS_SELECTORS),
            xdp: XdpOptions::default(),
        }
    }
}

/// A datapath, and the ports that are its own until it is dropped.
pub struct Opened {
    /// The datapath.
    pub datapath: Box<dyn Datapath>,
    /// Address and SMT port it listens at, if it was to.
    pub listen: Option<SocketAddr>,
    /// SMT ports to connect from; empty unless they were asked for.
    pub client_ports: Range<u16>,
}

/// IP protocol numbers that hosts speak or read themselves: the IP options and extension headers,
/// ICMP, IGMP, TCP, UDP, IPv6 in IP, ESP, AH, ICMPv6, SCTP, and the one that sends any.
const FOREIGN_PROTOCOLS: [u8; 15] = [0, 1, 2, 6, 17, 41, 43, 44, 50, 51, 58, 59, 60, 132, 255];

/// Opens a datapath.
///
/// # Errors
/// See [`OpenError`].
pub fn open(options: OpenOptions) -> Result<Opened, OpenError> {
    // One for each shard.
    open_all(options, 1).map(|mut all| all.swap_remove(0))
}

/// Opens `shards` datapaths that share address and ports: each receives the packets of its own lanes
/// (`docs/spec.md`, 3.5), which the kernel tells apart, and the first one handshakes besides. All send
/// from the same ports.
///
/// # Errors
/// [`OpenError::Shards`] for a number that is no power of two up to [`MAX_SHARDS`]; and as [`open`].
pub fn open_shards(options: OpenOptions, shards: u8) -> Result<Vec<Opened>, OpenError> {
    if !shards.is_power_of_two() || shards > MAX_SHARDS {
        return Err(OpenError::Shards(shards));
    }
    open_all(options, shards)
}

fn open_all(options: OpenOptions, shards: u8) -> Result<Vec<Opened>, OpenError> {
    match options.kind {
        Kind::Raw | Kind::Packet | Kind::Xdp | Kind::Auto { .. }
            if FOREIGN_PROTOCOLS.contains(&options.protocol) =>
        {
            Err(OpenError::ForeignProtocol(options.protocol))
        }
        Kind::Raw | Kind::Packet | Kind::Xdp => open_native(options, shards),
        Kind::Udp => open_udp(options, shards),
        Kind::Auto { allow_xdp } => open_best(options, allow_xdp, shards),
    }
}

fn open_native(options: OpenOptions, shards: u8) -> Result<Vec<Opened>, OpenError> {
    let OpenOptions { kind, bind, listen, client, protocol, dscp, xdp: _ } = options;
    let claim = Arc::new(PortClaim::new(protocol, listen, client)?);
    let ports = claim.ports();
    let opened = |datapath| Opened {
        datapath,
        listen: ports.listen.map(|port| SocketAddr::new(bind, port)),
        client_ports: ports.client(),
    };
    if kind == Kind::Xdp {
        let all = xdp::open(&options, &claim, shards)?;
        return Ok(all.into_iter().map(|datapath| opened(Box::new(datapath))).collect());
    }
    let one = |index| {
        let (claim, shard) = (Arc::clone(&claim), Shard { index, count: shards });
        Ok(opened(match kind {
            Kind::Packet => Box::new(packet::open(protocol, bind, claim, shard, dscp)?),
            _ => Box::new(raw::open(protocol, bind, claim, shard, dscp)?),
        }))
    };
    (0..shards).map(one).collect()
}

fn open_udp(options: OpenOptions, shards: u8) -> Result<Vec<Opened>, OpenError> {
    let OpenOptions { bind, listen, client, dscp, .. } = options;
    let local = SocketAddr::new(bind, listen.unwrap_or(0));
    let (datapaths, local) = match shards {
        1 => udp::open(local, dscp).map(|(datapath, local)| (vec![datapath], local))?,
        _ => udp::open_shards(local, shards, dscp)?,
    };
    let listen = listen.map(|_| local);
    let client_ports = if client { udp_client_ports(listen) } else { 0..0 };
    let one = |datapath| Opened {
        datapath: Box::new(datapath),
        listen,
        client_ports: client_ports.clone(),
    };
    Ok(datapaths.into_iter().map(one).collect())
}

/// Opens the best datapath. Only XDP is given up for the next best: whether a device takes its program
/// shows when it gets it.
fn open_best(options: OpenOptions, allow_xdp: bool, shards: u8) -> Result<Vec<Opened>, OpenError> {
    let choice = auto::choose_here(options.protocol, options.bind, allow_xdp)
        .map_err(OpenError::io("ask the kernel for the devices"))?;
    if let Some(Verdict { usability: Usability::No(why @ Obstacle::XdpTaken { .. }), .. }) =
        choice.of(Kind::Xdp)
        && allow_xdp
    {
        tracing::warn!(%why, "no XDP datapath: taking the next best");
    }
    let mut result = Err(OpenError::NoDevice(options.bind));
    for kind in choice.candidates() {
        result = open_all(OpenOptions { kind, ..options }, shards);
        match &result {
            Err(error) if kind == Kind::Xdp && !error.is_about_ports() => {
                tracing::warn!(%error, "no XDP datapath: taking the next best");
            }
            _ => {
                tracing::debug!(datapath = kind.name(), ?choice, "datapath chosen");
                break;
            }
        }
    }
    result
}

/// A UDP socket has all SMT ports to itself: the larger part of the usual range without the port
/// it listens at.
fn udp_client_ports(listen: Option<SocketAddr>) -> Range<u16> {
    let all = FIRST_BLOCK..u16::MAX;
    match listen.map(|address| address.port()) {
        Some(port) if all.contains(&port) => {
            let (below, above) = (all.start..port, port + 1..all.end);
            if below.len() > above.len() { below } else { above }
        }
        _ => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_numbers_of_others_are_refused() {
        for protocol in [0, 1, 6, 17, 58, 255] {
            let options = OpenOptions { protocol, ..OpenOptions::default() };
            assert!(matches!(open(options), Err(OpenError::ForeignProtocol(p)) if p == protocol));
        }
    }

    #[test]
    fn numbers_of_shards_are_checked() {
        for shards in [0, 3, 65, 128] {
            let opened = open_shards(OpenOptions::default(), shards);
            assert!(matches!(opened, Err(OpenError::Shards(n)) if n == shards));
        }
    }

    #[test]
    fn client_ports_over_udp_leave_the_listen_port_out() {
        let ports = |port| udp_client_ports(Some(([127, 0, 0, 1], port).into()));
        assert_eq!(udp_client_ports(None), 32_768..65_535);
        assert_eq!(ports(7000), 32_768..65_535);
        assert_eq!(ports(32_768), 32_769..65_535);
        assert_eq!(ports(65_535), 32_768..65_535);
        assert_eq!(ports(60_000), 32_768..60_000);
    }
}
