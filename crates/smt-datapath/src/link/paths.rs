//! Which device, neighbour and headers take a packet to its destination.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::device::Device;
use super::header::{Ends, Template};
use super::netlink::{Change, Netlink};

/// Destinations known at once; one more, and all are looked up anew.
pub(crate) const MAX_PATHS: usize = 4096;
/// Packets to a new destination that are left to the kernel, which resolves its neighbour with
/// the first: who is sent a packet or two (a flood's invented senders) is not worth a look-up.
const INTRODUCTIONS: u8 = 2;
/// How often changes are asked for.
const PACE: Duration = Duration::from_millis(1);
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

/// The ways to all destinations in use.
pub(crate) struct Paths {
    netlink: Netlink,
    protocol: u8,
    entries: HashMap<(IpAddr, Option<IpAddr>), Entry>,
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
            devices: HashMap::new(),
            refusing: HashSet::new(),
            lookups: 0,
            asked: now,
            swept: now,
        })
    }

    /// The path of the next packet from `src` to `dst`. `None`: the kernel is to send it, by a raw
    /// socket.
    pub(crate) fn next(&mut self, dst: IpAddr, src: Option<IpAddr>) -> Option<&Path> {
        let key = (dst, src);
        match self.entries.get_mut(&key) {
            Some(Entry::Known(_)) => {}
            Some(Entry::New(left)) if *left > 0 => {
                *left -= 1;
                return None;
            }
            Some(Entry::New(_)) => {
                let known = self.look_up(dst, src);
                self.entries.insert(key, Entry::Known(known));
            }
            None => {
                if self.entries.len() == MAX_PATHS {
                    self.entries.clear();
                }
                self.entries.insert(key, Entry::New(INTRODUCTIONS - 1));
                return None;
            }
        }
        match self.entries.get_mut(&key) {
            Some(Entry::Known(known)) => {
                known.is_used = true;
                let is_stale = std::mem::take(&mut known.is_stale);
                known.path.as_ref().filter(|_| !is_stale)
            }
            _ => None,
        }
    }

    /// What [`Path::segment_limit`] is towards `dst`, by what is known.
    pub(crate) fn segment_limit(&self, dst: IpAddr, src: Option<IpAddr>) -> usize {
        match self.entries.get(&(dst, src)) {
            Some(Entry::Known(Known { path: Some(path), .. })) => path.segment_limit,
            _ => 0,
        }
    }

    /// The device refused a segment: it gets no more.
    pub(crate) fn refuse_segments(&mut self, device: u32) {
        self.refusing.insert(device);
        for entry in self.entries.values_mut() {
            if let Entry::Known(Known { path: Some(path), .. }) = entry
                && path.device == device
            {
                path.segment_limit = 0;
            }
        }
    }

    /// Looks `dst` up anew with the next packet.
    pub(crate) fn forget(&mut self, dst: IpAddr) {
        for ((ip, _), entry) in &mut self.entries {
            if *ip == dst && matches!(entry, Entry::Known(_)) {
                *entry = Entry::New(0);
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
        let Self { netlink, entries, devices, .. } = self;
        netlink.changes(|change| match change {
            Change::Neighbour(ip) => {
                forget_known(entries, |known| known.next_hop == Some(ip));
            }
            Change::Everything => {
                devices.clear();
                forget_known(entries, |_| true);
            }
        });
        if now.duration_since(self.swept) >= LIFETIME {
            self.swept = now;
            self.entries.retain(|_, entry| matches!(entry, Entry::Known(known) if known.is_used));
            forget_known(&mut self.entries, |_| true);
        }
    }

    /// Look-ups so far.
    pub(crate) fn lookups(&self) -> u64 {
        self.lookups
    }

    /// Asks the kernel. What it cannot answer it is left to deal with.
    fn look_up(&mut self, dst: IpAddr, src: Option<IpAddr>) -> Known {
        self.lookups += 1;
        let nothing = Known { path: None, next_hop: None, is_stale: false, is_used: true };
        let Ok(route) = self.netlink.route(dst, src) else { return nothing };
        let (Some(device), Some(src)) = (route.device, route.src) else { return nothing };
        let next_hop = route.gateway.unwrap_or(dst);
        let nothing = Known { next_hop: Some(next_hop), ..nothing };
        let Ok(Some(neighbour)) = self.netlink.neighbour(device, next_hop) else { return nothing };
        let Some(device) = self.device(device) else { return nothing };
        let Some(src_mac) = device.mac.filter(|_| device.is_up) else { return nothing };
        let mtu = route.mtu.map_or(device.mtu, |mtu| mtu.min(device.mtu));
        let (index, limit) = (device.index, device.segment_limit(dst.is_ipv6(), mtu));
        let ends = Ends {
            src_mac,
            dst_mac: neighbour.mac,
            src,
            dst,
            protocol: self.protocol,
            hop_limit: route.hop_limit.unwrap_or(HOP_LIMIT),
        };
        let path = Template::new(ends).map(|template| Path {
            device: index,
            template,
            mtu,
            segment_limit: if self.refusing.contains(&index) { 0 } else { limit },
        });
        Known { path, is_stale: neighbour.is_stale, ..nothing }
    }

    fn device(&mut self, index: u32) -> Option<&Device> {
        if !self.devices.contains_key(&index) {
            let device = self.netlink.device(index).ok()?;
            self.devices.insert(index, device);
        }
        self.devices.get(&index)
    }
}

/// Has those of which `which` is true looked up anew.
fn forget_known(
    entries: &mut HashMap<(IpAddr, Option<IpAddr>), Entry>,
    which: impl Fn(&Known) -> bool,
) {
    for entry in entries.values_mut() {
        if matches!(entry, Entry::Known(known) if which(known)) {
            *entry = Entry::New(0);
        }
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
            assert!(paths.next(ip(number), None).is_none());
        }
        assert_eq!(paths.entries.len(), MAX_PATHS);
        assert!(paths.next(ip(0), None).is_none());
        assert_eq!(paths.entries.len(), MAX_PATHS);
        assert!(paths.next(ip(MAX_PATHS), None).is_none());
        assert_eq!(paths.entries.len(), 1);
        assert_eq!(paths.lookups(), 0);
    }

    #[test]
    fn this_host_is_left_to_the_kernel() {
        let mut paths = Paths::open(253).unwrap();
        let ip = IpAddr::from([127, 0, 0, 1]);
        for _ in 0..10 {
            assert!(paths.next(ip, None).is_none());
        }
        assert_eq!(paths.lookups(), 1);
        assert_eq!(paths.segment_limit(ip, None), 0);
        paths.forget(ip);
        assert!(paths.next(ip, None).is_none());
        assert_eq!(paths.lookups(), 2);
    }
}
