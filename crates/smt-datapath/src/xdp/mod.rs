//! SMT over AF_XDP: packets between this process and a device, past the kernel's stack.
//!
//! One device, that of the address bound to, with all its receive queues. A program attached to it
//! ([`program`]) takes our packets as they come in; they are read where the device or its driver
//! put them. Packets to hosts behind that device are written straight into memory that it sends
//! from, through its first queue.
//!
//! Several shards share the device: each has a socket of every queue, the program gives it the packets
//! of its own lanes, and it sends from memory of its own. Of what they share, each queue's rings of lent
//! and sent chunks alone are written to.
//!
//! Everything else goes through a raw socket beside ([`crate::raw`]): packets to other devices and
//! to this host itself, those to neighbours whose Ethernet address the kernel has still to find out
//! (it does so because it sends them), and what the program lets pass. That socket also hears what
//! the network says of packets, and its existence keeps the kernel from answering ours with "no
//! such protocol".

mod asm;
mod attach;
mod choose;
mod frames;
mod layout;
mod open;
mod program;
mod queue;

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFlags, epoll};

use self::attach::Attached;
pub(crate) use self::attach::try_load;
pub(crate) use self::choose::choose_device;
pub(crate) use self::layout::ONE_CHUNK;
use self::layout::TX_HEADROOM;
pub(crate) use self::open::open;
pub use self::open::{XdpHook, XdpOptions};
use self::queue::{Place, Queue};
use crate::link::header;
use crate::link::paths::Paths;
use crate::raw::Native;
use crate::socket::{SocketDatapath, wait_for};
use crate::sys::device::Device;
use crate::{Caps, Datapath, DatapathStats, PRIORITIES, PathError, RxMeta, TxMeta};

/// Packets taken between flushes; as many as the raw socket takes.
const TX_BURST: usize = crate::socket::TX_BURST;
const RX_BURST: usize = 64;
/// Turns of `recv` that find packets in the queues, after which one looks at the raw socket first, so
/// that it never starves.
const RAW_TURNS: u32 = 32;
/// How often the raw socket is looked at in turns that find nothing else. It costs a system call
/// there, and the queues cost none.
const RAW_PACE: Duration = Duration::from_micros(50);
/// Such turns in a row of which one looks at the clock for that: this takes longer than a look at the
/// queues.
const CLOCK_TURNS: u32 = 16;
/// Turns in a row without a word of sleep after which the queues are watched no more: that costs the
/// kernel a quarter of a microsecond with each packet.
const AWAKE_TURNS: u32 = 1024;
/// How soon packets that the kernel did not take are offered again.
const STALL_PACE: Duration = Duration::from_micros(200);

/// What the caller of `frame` has.
#[derive(Clone, Copy, Debug)]
enum Lent {
    Nothing,
    /// A frame of the first queue.
    Frame(usize),
    /// Memory that leads nowhere: all frames are on their way.
    Lost,
}

/// A packet of the current burst: the queue it came in on, where, and what of it is SMT's.
struct Packet {
    queue: usize,
    place: Place,
    payload: Range<usize>,
    meta: RxMeta,
}

/// The XDP program, its sockets of one shard and the raw socket beside.
pub(crate) struct XdpDatapath {
    // Dropped in this order: the program takes no packets of ports that are somebody else's already.
    attached: Attached,
    raw: SocketDatapath<Native>,
    paths: Paths,
    device: Device,
    protocol: u8,
    /// The address bound to, unless it is the wildcard.
    local: Option<IpAddr>,
    /// Traffic class octets by priority.
    traffic_classes: [u8; PRIORITIES],
    caps: Caps,
    epoll: OwnedFd,
    lent: Lent,
    lost: Vec<u8>,
    /// Packets since the last flush, the raw socket's included.
    queued: usize,
    /// The kernel has left packets in the ring; when to offer them again.
    stalled: Option<Instant>,
    burst: Vec<Packet>,
    /// Empty between calls.
    places: Vec<Place>,
    /// The current burst is the raw socket's.
    burst_is_raw: bool,
    /// The queue to begin with, so that none starves.
    next_queue: usize,
    /// Turns since the raw socket was looked at that found something in the queues.
    full_turns: u32,
    /// When the raw socket was looked at.
    raw_looked_at: Instant,
    /// It was left out since then.
    raw_left_out: bool,
    /// Turns in a row that found nothing in the queues.
    empty_turns: u32,
    /// Since the last such turn.
    due_was_told: Cell<bool>,
    /// Turns in a row without a word of sleep.
    awake_turns: Cell<u32>,
    /// The epoll descriptor watches the queues.
    watches: Cell<bool>,
    stats: DatapathStats,
}

impl XdpDatapath {
    /// Receives a burst from the queues; returns how many packets it has.
    fn receive(&mut self) -> usize {
        self.burst.clear();
        let count = self.attached.queues.len();
        for offset in 0..count {
            let index = (self.next_queue + offset) % count;
            let room = RX_BURST - self.burst.len();
            let queue = &mut self.attached.queues[index];
            if queue.receive(room, |place| self.places.push(place)) == 0 {
                continue;
            }
            self.stats.rx_overruns += queue.newly_dropped();
            for place in self.places.drain(..) {
                // The stack would drop what does not parse too.
                let found = header::parse(queue.received(&place));
                let Some(found) = found.filter(|found| found.protocol == self.protocol) else {
                    continue;
                };
                let len = found.payload.len();
                self.stats.rx_packets += 1;
                self.stats.rx_bytes += len as u64;
                let src = scoped(found.src, self.device.index);
                let meta = RxMeta { src, dst: found.dst, len, ip_id: found.ip_id };
                self.burst.push(Packet { queue: index, place, payload: found.payload, meta });
            }
        }
        self.next_queue = (self.next_queue + 1) % count.max(1);
        self.burst.len()
    }

    /// Has the epoll descriptor watch the queues again, what is in them already included.
    fn watch(&self) -> io::Result<()> {
        for queue in &self.attached.queues {
            let data = epoll::EventData::new_u64(0);
            match epoll::add(&self.epoll, queue, data, epoll::EventFlags::IN) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.watches.set(true);
        Ok(())
    }

    /// Nobody sleeps: whoever is about to asks for `next_due`.
    fn stop_watching(&self) {
        for queue in &self.attached.queues {
            // Of no consequence: it is watched, or it is not.
            let _ = epoll::delete(&self.epoll, queue);
        }
        self.watches.set(false);
    }

    /// Receives a burst from the raw socket.
    fn receive_raw(&mut self, now: Instant) -> io::Result<usize> {
        self.raw_looked_at = now;
        self.raw_left_out = false;
        self.full_turns = 0;
        let count = self.raw.recv()?;
        self.burst_is_raw = count > 0;
        Ok(count)
    }

    /// Sends the packet in `frame` of the first queue, if it goes to a host behind the device whose
    /// Ethernet address is known.
    fn send(&mut self, frame: usize, meta: &TxMeta) -> bool {
        let src = self.local.or(meta.src);
        let Some(path) = self.paths.next(meta.dst.ip(), src, false) else { return false };
        let headers = path.template.len();
        let ip_packet = headers - header::ETHERNET_LEN + meta.len;
        let scope = match meta.dst {
            SocketAddr::V6(dst) => dst.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        let is_ours = path.device == self.device.index && [0, path.device].contains(&scope);
        if !is_ours || ip_packet > path.mtu {
            return false;
        }
        let class = self.traffic_classes[usize::from(meta.priority).min(PRIORITIES - 1)];
        let Some(queue) = self.attached.queues.first_mut() else { return false };
        let start = TX_HEADROOM - headers;
        path.template.write(meta.len, class, &mut queue.frame_mut(frame)[start..TX_HEADROOM]);
        if !queue.send(frame, start..TX_HEADROOM + meta.len) {
            return false;
        }
        self.lent = Lent::Nothing;
        self.stats.tx_packets += 1;
        self.stats.tx_bytes += meta.len as u64;
        true
    }

    /// Sends the packet in `frame` of the first queue by the raw socket; the frame stays lent.
    fn send_raw(&mut self, frame: usize, meta: TxMeta) {
        let Some(queue) = self.attached.queues.first_mut() else { return };
        let packet = &queue.frame_mut(frame)[TX_HEADROOM..TX_HEADROOM + meta.len];
        // It takes as many packets between flushes as this datapath does.
        match self.raw.frame() {
            Some(room) => {
                room[..meta.len].copy_from_slice(packet);
                self.raw.commit(meta);
            }
            None => self.stats.tx_errors += 1,
        }
    }

    fn flush_queue(&mut self) {
        let Some(queue) = self.attached.queues.first_mut() else { return };
        self.stalled = if queue.flush() { None } else { Some(Instant::now() + STALL_PACE) };
    }
}

impl Datapath for XdpDatapath {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn frame(&mut self) -> Option<&mut [u8]> {
        if self.queued == TX_BURST {
            return None;
        }
        let queue = self.attached.queues.first_mut()?;
        if let Lent::Nothing = self.lent {
            self.lent = match queue.take_frame() {
                Some(frame) => Lent::Frame(frame),
                None => Lent::Lost,
            };
        }
        match self.lent {
            Lent::Frame(frame) => {
                let end = TX_HEADROOM + self.caps.max_packet;
                Some(&mut queue.frame_mut(frame)[TX_HEADROOM..end])
            }
            Lent::Nothing | Lent::Lost => Some(&mut self.lost),
        }
    }

    fn commit(&mut self, meta: TxMeta) {
        assert!(self.queued < TX_BURST, "commit without a frame");
        assert!(meta.len <= self.caps.max_packet, "packet of {} bytes", meta.len);
        self.queued += 1;
        match self.lent {
            Lent::Frame(frame) => {
                if !self.send(frame, &meta) {
                    self.send_raw(frame, meta);
                }
            }
            Lent::Lost => {
                self.stats.tx_errors += 1;
                self.lent = Lent::Nothing;
            }
            Lent::Nothing => panic_without_frame(),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.queued = 0;
        // First, since what goes to a new destination is left to the kernel before the rest.
        if self.raw.has_queued() {
            self.raw.flush()?;
        }
        self.flush_queue();
        self.paths.update();
        Ok(())
    }

    fn backlog(&self) -> usize {
        self.attached.queues.first().map_or(0, Queue::backlog) + self.raw.backlog()
    }

    fn recv(&mut self) -> io::Result<usize> {
        if self.stalled.is_some_and(|due| due <= Instant::now()) {
            self.flush_queue();
        }
        self.burst_is_raw = false;
        self.awake_turns.set(self.awake_turns.get().saturating_add(1));
        if self.awake_turns.get() == AWAKE_TURNS && self.watches.get() {
            self.stop_watching();
        }
        if self.full_turns >= RAW_TURNS {
            let count = self.receive_raw(Instant::now())?;
            if count > 0 {
                return Ok(count);
            }
        }
        let count = self.receive();
        if count > 0 {
            self.full_turns += 1;
            self.empty_turns = 0;
            return Ok(count);
        }
        // Whoever asks when to come again sleeps: it has the time, and would have to come again for the
        // raw socket alone.
        if self.due_was_told.replace(false) {
            return self.receive_raw(Instant::now());
        }
        if self.empty_turns.is_multiple_of(CLOCK_TURNS) {
            let now = Instant::now();
            if now.duration_since(self.raw_looked_at) >= RAW_PACE {
                return self.receive_raw(now);
            }
        }
        self.empty_turns = self.empty_turns.wrapping_add(1);
        self.raw_left_out = true;
        Ok(0)
    }

    fn packet(&mut self, index: usize) -> (RxMeta, &mut [u8]) {
        if self.burst_is_raw {
            return self.raw.packet(index);
        }
        let packet = &self.burst[index];
        let bytes = self.attached.queues[packet.queue].received(&packet.place);
        (packet.meta, &mut bytes[packet.payload.clone()])
    }

    fn path_error(&mut self) -> Option<PathError> {
        let error = self.raw.path_error()?;
        self.paths.heed(&error);
        Some(error)
    }

    fn path_mtu(&mut self, dst: IpAddr) -> io::Result<usize> {
        self.raw.path_mtu(dst)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn next_due(&self) -> Option<Instant> {
        // Whoever watches by edges would miss a packet of the raw socket for good.
        let look = self.raw_left_out.then(|| self.raw_looked_at + RAW_PACE);
        self.due_was_told.set(true);
        self.awake_turns.set(0);
        if !self.watches.get() && self.watch().is_err() {
            // Without a watch there is no sleep.
            return Some(Instant::now());
        }
        self.stalled.into_iter().chain(look).min()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let until_due = self.next_due().map(|due| due.saturating_duration_since(Instant::now()));
        let timeout = timeout.into_iter().chain(until_due).min();
        wait_for(self.epoll.as_fd(), PollFlags::IN, timeout)?;
        // Looks for errors on the raw socket.
        self.raw.wait(Some(Duration::ZERO))
    }

    fn stats(&self) -> DatapathStats {
        let (own, raw) = (self.stats, self.raw.stats());
        DatapathStats {
            tx_packets: own.tx_packets + raw.tx_packets,
            tx_bytes: own.tx_bytes + raw.tx_bytes,
            tx_errors: own.tx_errors + raw.tx_errors,
            rx_packets: own.rx_packets + raw.rx_packets,
            rx_bytes: own.rx_bytes + raw.rx_bytes,
            rx_overruns: own.rx_overruns + raw.rx_overruns,
            path_lookups: self.paths.lookups(),
            ..own
        }
    }
}

#[cold]
#[allow(clippy::panic)]
fn panic_without_frame() -> ! {
    panic!("commit without a frame")
}

/// A sender's address, with the device where it means nothing without.
fn scoped(ip: IpAddr, ifindex: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, 0, 0, ifindex).into(),
        ip => SocketAddr::new(ip, 0),
    }
}
