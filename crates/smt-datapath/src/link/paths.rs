//! Which device, neighbour and headers take a packet to its destination.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Mac;
use super::device::Device;
use super::header::{Ends, Template};
use super::netlink::{Change, Netlink, Route};
use crate::{PathError, PathErrorKind};

/// Destinations known at once; one more, and all are looked up anew.
pub(crate) const MAX_PATHS: usize = 4096;
/// Devices kept in mind for having refused a segment; one more, and all may try again.
const MAX_REFUSING: usize = 64;
/// Packets to a new destination that are left to the kernel, which resolves its neighbour with
/// the first: who is sent a packet or two (a flood's invented senders) is not worth a look-up.
const INTRODUCTIONS: u8 = 2;
/// How often changes are asked for.
const PACE: Duration = Duration::from_millis(1);
/// After a change of more than a neighbour it takes this long until the next is asked for: a host
/// whose routes change all the time must not look up every packet.
const CALM: Duration = Duration::from_millis(20);
/// How long an answer is believed: a learned path MTU expires without notice.
const LIFETIME: Duration = Duration::from_secs(10);
/// Hop limit unless the route asks for another (RFC 1700).
const HOP_LIMIT: u8 = 64;

/// A way to a destination by a device of this host.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// Index of the device.
    pub(crate) device: u32,
    pub(crate) template: Template,
    /// Path MTU in bytes, IP header included.
    pub(crate) mtu: usize,
    /// Largest SMT packet, header and payload, that the device takes as a TSO segment; 0: none.
    pub(crate) segment_limit: usize,
}

/// What is known of a destination.
enum Entry {
    /// So many packets are left to the kernel before it is looked up.
    New(u8),
    Known(Known),
}

impl Entry {
    /// The next packet has it looked up anew.
    fn forget(&mut self) {
        if matches!(self, Self::Known(_)) {
            *self = Self::New(0);
        }
    }
}

struct Known {
    /// `None`: all its packets are left to the kernel.
    path: Option<Path>,
    /// Whose Ethernet address it depends on.
    next_hop: Option<IpAddr>,
    /// The kernel is to have the next packet, so that it tests the neighbour.
    is_stale: bool,
    /// Since the last sweep.
    is_used: bool,
}

/// A destination, and the address that its packets come from if the sender wants a certain one.
type Key = (IpAddr, Option<IpAddr>);

/// The ways to all destinations in use.
pub(crate) struct Paths {
    netlink: Netlink,
    protocol: u8,
    entries: HashMap<Key, Entry>,
    /// The segment limits last found, which outlive what is to be looked up anew.
    limits: HashMap<IpAddr, usize>,
    /// The path used last, which the next packet is likely to take: found without a look into the
    /// table.
    last: Option<(Key, Path)>,
    devices: HashMap<u32, Device>,
    /// Devices that have refused a segment.
    refusing: HashSet<u32>,
    lookups: u64,
    asked: Instant,
    swept: Instant,
}

impl Paths {
    /// Paths for packets of IP protocol `protocol`.
    ///
    /// # Errors
    /// The host refuses netlink sockets.
    pub(crate) fn open(protocol: u8) -> io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            netlink: Netlink::open()?,
            protocol,
            entries: HashMap::new(),
            limits: HashMap::new(),
            last: None,
            devices: HashMap::new(),
            refusing: HashSet::new(),
            lookups: 0,
            asked: now,
            swept: now,
        })
    }

    /// The path of the next packet from `src` to `dst`. `None`: the kernel is to send it, by a raw
    /// socket; a segment, which the kernel cannot send, finds a path whenever there is one.
    pub(crate) fn next(
        &mut self,
        dst: IpAddr,
        src: Option<IpAddr>,
        is_segment: bool,
    ) -> Option<&Path> {
        let key = (dst, src);
        if self.last.as_ref().is_none_or(|(last, _)| *last != key) {
            self.last = None;
            let path = self.find(key, is_segment)?;
            self.last = Some((key, path));
        }
        self.last.as_ref().map(|(_, path)| path)
    }

    /// Looks into the table, and asks the kernel if it is time to.
    fn find(&mut self, key: Key, is_segment: bool) -> Option<Path> {
        self.make_room(key);
        match self.entries.entry(key).or_insert(Entry::New(INTRODUCTIONS)) {
            Entry::New(left @ 1..) => {
                *left -= 1;
                return None;
            }
            Entry::New(_) => self.look_up(key),
            Entry::Known(_) => {}
        }
        match self.entries.get_mut(&key) {
            Some(Entry::Known(known)) => {
                known.is_used = true;
                let is_kernels = known.is_stale && !is_segment;
                known.is_stale &= is_segment;
                known.path.clone().filter(|_| !is_kernels)
            }
            _ => None,
        }
    }

    /// What [`Path::segment_limit`] is towards `dst`: as it was found last, or looked up now.
    pub(crate) fn segment_limit(&mut self, dst: IpAddr, src: Option<IpAddr>) -> usize {
        if !self.limits.contains_key(&dst) {
            self.make_room((dst, src));
            self.look_up((dst, src));
        }
        self.limits.get(&dst).copied().unwrap_or(0)
    }

    /// Makes room for one more entry in a full table.
    fn make_room(&mut self, key: Key) {
        if self.entries.len() == MAX_PATHS && !self.entries.contains_key(&key) {
            self.entries.clear();
            self.limits.clear();
        }
    }

    /// The device refused a segment: it gets no more.
    pub(crate) fn refuse_segments(&mut self, device: u32) {
        if self.refusing.len() == MAX_REFUSING {
            self.refusing.clear();
        }
        self.refusing.insert(device);
        self.last = None;
        self.limits.clear();
        self.entries.values_mut().for_each(Entry::forget);
    }

    /// Takes note of what the network said of a packet.
    pub(crate) fn heed(&mut self, error: &PathError) {
        if matches!(error.kind, PathErrorKind::MtuChanged(_)) {
            self.forget(error.dst.ip());
        }
    }

    /// Looks `dst` up anew with the next packet.
    pub(crate) fn forget(&mut self, dst: IpAddr) {
        self.last = None;
        for ((ip, _), entry) in &mut self.entries {
            if *ip == dst {
                entry.forget();
            }
        }
    }

    /// Forgets what has changed. Whoever sends calls this now and then; it asks the kernel no
    /// more often than is good.
    pub(crate) fn update(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.asked) < PACE {
            return;
        }
        self.asked = now;
        let mut is_unrest = false;
        let Self { netlink, entries, devices, last, .. } = self;
        netlink.changes(|change| {
            *last = None;
            match change {
                Change::Neighbour(ip) => {
                    for entry in entries.values_mut() {
                        if matches!(entry, Entry::Known(known) if known.next_hop == Some(ip)) {
                            entry.forget();
                        }
                    }
                }
                Change::Everything => {
                    is_unrest = true;
                    devices.clear();
                    entries.values_mut().for_each(Entry::forget);
                }
            }
        });
        if is_unrest {
            self.asked = now + CALM;
        }
        if now.duration_since(self.swept) >= LIFETIME {
            self.swept = now;
            let last = self.last.take().map(|(key, _)| key);
            self.entries.retain(|key, entry| {
                matches!(entry, Entry::Known(known) if known.is_used || last == Some(*key))
            });
            self.entries.values_mut().for_each(Entry::forget);
            let entries = &self.entries;
            self.limits.retain(|ip, _| entries.keys().any(|(dst, _)| dst == ip));
        }
    }

    /// Look-ups so far.
    pub(crate) fn lookups(&self) -> u64 {
        self.lookups
    }

    /// Asks the kernel, and keeps the answer. What it cannot answer it is left to deal with.
    fn look_up(&mut self, key: Key) {
        self.lookups += 1;
        let (dst, src) = key;
        let mut known = Known { path: None, next_hop: None, is_stale: false, is_used: true };
        if let Ok(route) = self.netlink.route(dst, src)
            && let Some(device) = route.device
        {
            let next_hop = route.gateway.unwrap_or(dst);
            known.next_hop = Some(next_hop);
            if let Ok(Some(neighbour)) = self.netlink.neighbour(device, next_hop) {
                known.is_stale = neighbour.is_stale;
                known.path = self.path(dst, &route, device, neighbour.mac);
            }
        }
        self.limits.insert(dst, known.path.as_ref().map_or(0, |path| path.segment_limit));
        self.entries.insert(key, Entry::Known(known));
    }

    /// The path by `route`'s device `index` and the neighbour `dst_mac`, if the device is Ethernet.
    fn path(&mut self, dst: IpAddr, route: &Route, index: u32, dst_mac: Mac) -> Option<Path> {
        let protocol = self.protocol;
        let refuses = self.refusing.contains(&index);
        let device = self.device(index).filter(|device| device.is_up)?;
        let mtu = route.mtu.map_or(device.mtu, |mtu| mtu.min(device.mtu));
        let ends = Ends {
            src_mac: device.mac?,
            dst_mac,
            src: route.src?,
            dst,
            protocol,
            hop_limit: route.hop_limit.unwrap_or(HOP_LIMIT),
        };
        let segment_limit = if refuses { 0 } else { device.segment_limit(dst.is_ipv6(), mtu) };
        Some(Path { device: index, template: Template::new(ends)?, mtu, segment_limit })
    }

    fn device(&mut self, index: u32) -> Option<&Device> {
        if !self.devices.contains_key(&index) {
            let device = self.netlink.device(index).ok()?;
            self.devices.insert(index, device);
        }
        self.devices.get(&index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_limit() {
        let mut paths = Paths::open(253).unwrap();
        let ip = |number: usize| IpAddr::from([192, 0, (number >> 8) as u8, number as u8]);
        for number in 0..MAX_PATHS {
            assert!(paths.next(ip(number), None, false).is_none());
        }
        assert_eq!(paths.entries.len(), MAX_PATHS);
        assert!(paths.next(ip(0), None, false).is_none());
        assert_eq!(paths.entries.len(), MAX_PATHS);
        assert!(paths.next(ip(MAX_PATHS), None, false).is_none());
        assert_eq!(paths.entries.len(), 1);
        assert_eq!(paths.lookups(), 0);
    }

    #[test]
    fn refusing_devices_are_limited() {
        let mut paths = Paths::open(253).unwrap();
        (0..MAX_REFUSING as u32).for_each(|device| paths.refuse_segments(device));
        assert_eq!(paths.refusing.len(), MAX_REFUSING);
        paths.refuse_segments(1000);
        assert_eq!(paths.refusing, HashSet::from([1000]));
    }

    #[test]
    fn this_host_is_left_to_the_kernel() {
        let mut paths = Paths::open(253).unwrap();
        let ip = IpAddr::from([127, 0, 0, 1]);
        for _ in 0..10 {
            assert!(paths.next(ip, None, false).is_none());
        }
        assert_eq!(paths.lookups(), 1);
        assert_eq!(paths.segment_limit(ip, None), 0);
        paths.forget(ip);
        assert!(paths.next(ip, None, false).is_none());
        assert_eq!(paths.lookups(), 2);
    }
}
