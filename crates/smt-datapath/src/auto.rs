//! Which datapath is best here, and why: what [`Kind::Auto`] opens.
//!
//! [`choose`] is a pure function of [`Facts`], which [`crate::probe`] finds out. By what is known of
//! the datapaths:
//!
//! 1. *packet* where a device cuts segments (TSO): nothing else carries large messages as fast.
//! 2. *xdp* where it works, if the caller allows it: the fastest for small messages, but attaching its
//!    program changes the device for everybody (all its packets pass the program: TCP gets slower).
//! 3. *packet* where packets leave by an Ethernet device: less work for the kernel than *raw*.
//! 4. *raw* where packet sockets have nothing to send, as on loopback.
//! 5. *udp*, which needs nothing but the same choice at the other end.

use std::fmt;
use std::net::IpAddr;

use crate::Kind;
use crate::probe::{Access, DeviceFacts};

/// What the choice depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether raw IP sockets can be had.
    pub raw: Access,
    /// Whether packet sockets can be had.
    pub packet: Access,
    /// Whether XDP programs can be loaded, and their sockets be had.
    pub xdp: Access,
    /// Whether packets are IPv6.
    pub is_ipv6: bool,
    /// The devices that packets leave by; none where they stay in this host.
    pub devices: Vec<DeviceFacts>,
    /// Which of `devices` *xdp* would attach to, if it is clear which.
    pub xdp_device: Option<usize>,
    /// Whether a program may be attached to a device.
    pub allow_xdp: bool,
}

/// Whether a datapath can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usability {
    /// It can, and may be chosen.
    Yes,
    /// It can, but is taken only when asked for by name (or with `allow_xdp`).
    OnRequest,
    /// It cannot.
    No(Obstacle),
}

/// What keeps a datapath from working.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// `CAP_NET_RAW` is missing.
    NoRawPrivilege,
    /// The kernel has no raw IP sockets.
    NoRawSockets,
    /// The kernel has no packet sockets.
    NoPacketSockets,
    /// `CAP_BPF` or `CAP_NET_ADMIN` on the machine itself is missing.
    NoXdpPrivilege,
    /// The kernel has no AF_XDP or BPF.
    NoXdp,
    /// No Ethernet device that is up, or none that is clearly meant.
    NoDevice,
    /// A program is attached to the device.
    XdpTaken {
        /// The device.
        device: String,
        /// The kernel's number of the program.
        program: u32,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRawPrivilege => f.write_str("CAP_NET_RAW is missing"),
            Self::NoRawSockets => f.write_str("this kernel has no raw IP sockets"),
            Self::NoPacketSockets => f.write_str("this kernel has no packet sockets"),
            Self::NoXdpPrivilege => f.write_str(
                "CAP_BPF, CAP_NET_ADMIN or CAP_NET_RAW is missing on the machine itself",
            ),
            Self::NoXdp => f.write_str("this kernel has no AF_XDP"),
            Self::NoDevice => f.write_str("no Ethernet device that is up and clearly meant"),
            Self::XdpTaken { device, program } => {
                write!(f, "XDP program {program} is attached to {device}")
            }
        }
    }
}

/// What is to be said of a datapath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which one; never [`Kind::Auto`].
    pub kind: Kind,
    /// Whether it can be used.
    pub usability: Usability,
    /// What it gains or costs here, in a sentence without its full stop.
    pub remark: String,
}

/// A choice with its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// All datapaths, the best first as far as they can be used.
    pub verdicts: Vec<Verdict>,
}

impl Choice {
    /// The datapaths that may be taken, the best first; never none, as UDP always may.
    pub fn candidates(&self) -> impl Iterator<Item = Kind> + '_ {
        self.verdicts.iter().filter(|v| v.usability == Usability::Yes).map(|verdict| verdict.kind)
    }

    /// The best of them.
    #[must_use]
    pub fn best(&self) -> Kind {
        self.candidates().next().unwrap_or(Kind::Udp)
    }

    /// What is to be said of one datapath.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Option<&Verdict> {
        self.verdicts.iter().find(|verdict| verdict.kind == kind)
    }

    /// Whether any datapath works that is not UDP, asked for by name or not.
    #[must_use]
    pub fn has_native(&self) -> bool {
        let works = |verdict: &Verdict| !matches!(verdict.usability, Usability::No(_));
        self.verdicts.iter().any(|verdict| verdict.kind != Kind::Udp && works(verdict))
    }
}

/// Chooses, by the order at the head of this module.
#[must_use]
pub fn choose(facts: &Facts) -> Choice {
    let (raw, packet, xdp) = (raw(facts), packet(facts), xdp(facts));
    let udp = Verdict {
        kind: Kind::Udp,
        usability: Usability::Yes,
        remark: "needs no privilege; the other end must take UDP as well".to_owned(),
    };
    let verdicts = match segments(facts) {
        Some(_) => vec![packet, xdp, raw, udp],
        None => vec![xdp, packet, raw, udp],
    };
    Choice { verdicts }
}

/// The first device that cuts segments, and the largest it takes in bytes.
fn segments(facts: &Facts) -> Option<(&DeviceFacts, usize)> {
    let version = usize::from(facts.is_ipv6);
    let devices = facts.devices.iter().filter(|device| device.can_send());
    devices.map(|device| (device, device.segment_limit[version])).find(|(_, limit)| *limit > 0)
}

/// What keeps native packets of any kind from being received.
fn no_raw(facts: &Facts) -> Option<Obstacle> {
    match facts.raw {
        Access::Granted => None,
        Access::Denied => Some(Obstacle::NoRawPrivilege),
        Access::Missing => Some(Obstacle::NoRawSockets),
    }
}

fn raw(facts: &Facts) -> Verdict {
    Verdict {
        kind: Kind::Raw,
        usability: no_raw(facts).map_or(Usability::Yes, Usability::No),
        remark: "works on every device; passes the host's filters and policies".to_owned(),
    }
}

fn packet(facts: &Facts) -> Verdict {
    let obstacle = no_raw(facts).or(match facts.packet {
        Access::Granted => None,
        Access::Denied => Some(Obstacle::NoRawPrivilege),
        Access::Missing => Some(Obstacle::NoPacketSockets),
    });
    let has_ethernet = facts.devices.iter().any(DeviceFacts::can_send);
    let remark = match segments(facts) {
        Some((device, limit)) => {
            format!("{} cuts segments of up to {limit} bytes (TSO)", device.name)
        }
        None if has_ethernet => {
            "less work for the kernel than raw; no device here cuts segments (TSO)".to_owned()
        }
        None => "no Ethernet device to send by: all would leave by its raw socket".to_owned(),
    };
    let usability = match obstacle {
        Some(obstacle) => Usability::No(obstacle),
        None if has_ethernet => Usability::Yes,
        None => Usability::OnRequest,
    };
    Verdict { kind: Kind::Packet, usability, remark }
}

fn xdp(facts: &Facts) -> Verdict {
    let device = facts.xdp_device.and_then(|index| facts.devices.get(index));
    let device = device.filter(|device| device.can_send());
    let access = no_raw(facts).or(match facts.xdp {
        Access::Granted => None,
        Access::Denied => Some(Obstacle::NoXdpPrivilege),
        Access::Missing => Some(Obstacle::NoXdp),
    });
    let usability = match (access, device) {
        (Some(obstacle), _) => Usability::No(obstacle),
        (None, None) => Usability::No(Obstacle::NoDevice),
        (None, Some(DeviceFacts { name, xdp_program: Some(program), .. })) => {
            Usability::No(Obstacle::XdpTaken { device: name.clone(), program: *program })
        }
        (None, Some(_)) if facts.allow_xdp => Usability::Yes,
        (None, Some(_)) => Usability::OnRequest,
    };
    let mut remark = "fastest for small messages; one process per device; while its program is \
                      attached, TCP on the device may be slower"
        .to_owned();
    if let Some(device) = device.filter(|device| device.mtu > crate::probe::XDP_ONE_CHUNK) {
        remark += &format!("; packets of MTU {} take Linux 6.6 and the driver's help", device.mtu);
    }
    Verdict { kind: Kind::Xdp, usability, remark }
}

/// The facts of `bind` at this host, chosen from.
///
/// # Errors
/// As [`Host::probe`](crate::probe::Host::probe).
pub(crate) fn choose_here(protocol: u8, bind: IpAddr, allow_xdp: bool) -> std::io::Result<Choice> {
    Ok(choose(&crate::probe::Host::probe(protocol)?.facts(bind, allow_xdp)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCESS: [Access; 3] = [Access::Granted, Access::Denied, Access::Missing];

    fn device(is_ethernet: bool, is_up: bool, tso: bool, xdp_program: Option<u32>) -> DeviceFacts {
        DeviceFacts {
            name: "eth0".to_owned(),
            is_ethernet,
            is_up,
            segment_limit: [if tso { 65_501 } else { 0 }; 2],
            xdp_program,
            mtu: 1500,
            ..DeviceFacts::default()
        }
    }

    /// Every device there can be, and none.
    fn devices() -> Vec<Option<DeviceFacts>> {
        let mut all = vec![None];
        for bits in 0..16 {
            let bit = |index: u32| bits >> index & 1 == 1;
            all.push(Some(device(bit(0), bit(1), bit(2), bit(3).then_some(7))));
        }
        all
    }

    fn every_case() -> Vec<Facts> {
        let mut all = Vec::new();
        for bits in 0..27 * 2 * 2 {
            let access = |power: usize| ACCESS[bits / 4 / 3usize.pow(power as u32) % 3];
            for found in devices() {
                all.push(Facts {
                    raw: access(0),
                    packet: access(1),
                    xdp: access(2),
                    is_ipv6: bits % 2 == 1,
                    xdp_device: found.as_ref().map(|_| 0),
                    devices: found.into_iter().collect(),
                    allow_xdp: bits / 2 % 2 == 1,
                });
            }
        }
        all
    }

    #[test]
    fn every_combination_has_the_best_that_works() {
        let cases = every_case();
        assert_eq!(cases.len(), 27 * 2 * 2 * 17);
        for facts in cases {
            let choice = choose(&facts);
            let sends = facts.devices.iter().any(|d| d.is_ethernet && d.is_up);
            let tso = sends && facts.devices.iter().any(|d| d.segment_limit[0] > 0);
            let taken = facts.devices.iter().any(|d| d.xdp_program.is_some());
            let raw = facts.raw == Access::Granted;
            let packet = raw && facts.packet == Access::Granted && sends;
            let xdp = raw && facts.xdp == Access::Granted && sends && !taken && facts.allow_xdp;
            let expected = match (packet, xdp, raw) {
                (true, _, _) if tso => Kind::Packet,
                (_, true, _) => Kind::Xdp,
                (true, _, _) => Kind::Packet,
                (_, _, true) => Kind::Raw,
                _ => Kind::Udp,
            };
            assert_eq!(choice.best(), expected, "{facts:?}");
            assert_eq!(choice.has_native(), raw, "{facts:?}");
            assert_eq!(choice.verdicts.len(), 4);
            assert_eq!(choice.candidates().last(), Some(Kind::Udp));
            for kind in [Kind::Raw, Kind::Packet, Kind::Xdp, Kind::Udp] {
                assert!(!choice.of(kind).unwrap().remark.is_empty());
            }
        }
    }

    #[test]
    fn no_program_is_attached_unasked() {
        for facts in every_case().into_iter().filter(|facts| !facts.allow_xdp) {
            assert!(choose(&facts).candidates().all(|kind| kind != Kind::Xdp), "{facts:?}");
        }
    }

    #[test]
    fn one_device_of_several_is_enough() {
        let facts = Facts {
            raw: Access::Granted,
            packet: Access::Granted,
            xdp: Access::Granted,
            is_ipv6: false,
            devices: vec![
                device(false, true, false, None),
                device(true, true, false, None),
                device(true, true, true, Some(9)),
            ],
            xdp_device: None,
            allow_xdp: true,
        };
        let choice = choose(&facts);
        assert_eq!(choice.best(), Kind::Packet);
        let xdp = |facts: &Facts| choose(facts).of(Kind::Xdp).unwrap().usability.clone();
        assert_eq!(xdp(&facts), Usability::No(Obstacle::NoDevice));
        let of_third = Facts { xdp_device: Some(2), ..facts.clone() };
        let taken = Obstacle::XdpTaken { device: "eth0".to_owned(), program: 9 };
        assert_eq!(xdp(&of_third), Usability::No(taken));
        assert_eq!(xdp(&Facts { xdp_device: Some(1), ..facts }), Usability::Yes);
    }

    #[test]
    fn long_packets_over_xdp_are_remarked_on() {
        let jumbo = DeviceFacts { mtu: 9000, ..device(true, true, false, None) };
        let facts = Facts {
            raw: Access::Granted,
            packet: Access::Granted,
            xdp: Access::Granted,
            is_ipv6: false,
            devices: vec![jumbo],
            xdp_device: Some(0),
            allow_xdp: true,
        };
        assert!(choose(&facts).of(Kind::Xdp).unwrap().remark.contains("MTU 9000"));
    }
}
