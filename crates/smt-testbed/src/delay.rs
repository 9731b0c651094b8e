//! A link that takes its time, and loses packets if told to: a forwarder in a namespace between two hosts holds every
//! packet for a while.
//!
//! The kernel stamps each frame when it comes; the forwarder sends it on once it has been held long enough by that
//! stamp, so that the forwarder's own waking up is part of the delay and not on top of it. It sleeps until shortly
//! before a frame is due and then watches the clock.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl::set_timerslack;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind,
    recvmsg, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;

use crate::Namespace;
use crate::checksum;

/// Longest frame on the link: an IP packet of 65535 bytes and its Ethernet header.
const MAX_FRAME_BYTES: usize = 65_535 + 14;
/// Frames held at once, per direction; more are dropped, as by a switch without room.
const MAX_HELD: usize = 4096;
/// How long before a frame is due the forwarder stops sleeping: what waking up takes.
const WATCH: Duration = Duration::from_micros(20);
/// How often an idle forwarder looks whether to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The forwarder of a [`Wire::Delay`](crate::Wire::Delay). It ends when this is dropped.
#[derive(Debug)]
pub struct DelayLink {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What the forwarder and its handle share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    one_way_ns: AtomicU64,
    /// Of a million frames, how many are lost.
    loss: AtomicU32,
    lost: AtomicU64,
    forwarded: AtomicU64,
    late_ns: AtomicU64,
    dropped: AtomicU64,
}

/// What a [`DelayLink`] has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DelayStats {
    /// Frames sent on, both directions.
    pub forwarded: u64,
    /// Sum of the time by which frames were sent on later than they should have been.
    pub late: Duration,
    /// Frames dropped, because too many were held or the far end did not take them.
    pub dropped: u64,
    /// Frames lost on purpose.
    pub lost: u64,
}

impl DelayLink {
    /// Starts the forwarder between two interfaces of `middle`.
    pub(crate) fn start(
        middle: &Namespace,
        ports: [&str; 2],
        one_way: Duration,
    ) -> io::Result<DelayLink> {
        let shared = Arc::new(Shared::default());
        let mut link = DelayLink { shared: Arc::clone(&shared), thread: None };
        link.set_one_way(one_way);
        let mut forwarder = middle.run(|| Forwarder::new(ports, shared))??;
        link.thread = Some(middle.spawn(move || forwarder.run())?);
        Ok(link)
    }

    /// Holds frames that come from now on for `one_way`: half of the round trip it makes.
    pub fn set_one_way(&self, one_way: Duration) {
        let ns = u64::try_from(one_way.as_nanos()).unwrap_or(u64::MAX);
        self.shared.one_way_ns.store(ns, Ordering::Relaxed);
    }

    /// Loses so many of a million frames from now on, in each direction, each by itself; the same ones every time.
    pub fn set_loss(&self, of_a_million: u32) {
        self.shared.loss.store(of_a_million, Ordering::Relaxed);
    }

    /// What it has done so far.
    pub fn stats(&self) -> DelayStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DelayStats {
            forwarded: read(&self.shared.forwarded),
            late: Duration::from_nanos(read(&self.shared.late_ns)),
            dropped: read(&self.shared.dropped),
            lost: read(&self.shared.lost),
        }
    }
}

impl Drop for DelayLink {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it failed with, the hosts have noticed.
            let _ = thread.join();
        }
    }
}

/// A frame and when to send it on, as time since the Unix epoch.
struct Held {
    due: Duration,
    frame: Vec<u8>,
}

struct Forwarder {
    ports: [OwnedFd; 2],
    /// Frames that came in at the port of the same place, oldest first.
    held: [VecDeque<Held>; 2],
    /// Buffers of frames sent on, to be used again.
    spare: Vec<Vec<u8>>,
    control: Vec<u8>,
    dice: Dice,
    shared: Arc<Shared>,
}

/// Random numbers that are the same each time (SplitMix64).
struct Dice(u64);

impl Dice {
    /// Whether so many of a million throws hit.
    fn hit(&mut self, of_a_million: u32) -> bool {
        if of_a_million == 0 {
            return false;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % 1_000_000 < u64::from(of_a_million)
    }
}

impl Forwarder {
    fn new([one, other]: [&str; 2], shared: Arc<Shared>) -> io::Result<Forwarder> {
        Ok(Forwarder {
            ports: [open(one)?, open(other)?],
            held: [VecDeque::new(), VecDeque::new()],
            spare: Vec::new(),
            control: cmsg_space!(TimeSpec),
            dice: Dice(0),
            shared,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        // The kernel otherwise lets sleepers lie up to 50 us longer.
        set_timerslack(1)?;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let moved = self.take_in()? | self.send_due();
            if !moved {
                self.wait()?;
            }
        }
        Ok(())
    }

    /// Takes what has come; says whether that was anything.
    fn take_in(&mut self) -> io::Result<bool> {
        let one_way = Duration::from_nanos(self.shared.one_way_ns.load(Ordering::Relaxed));
        let loss = self.shared.loss.load(Ordering::Relaxed);
        let mut any = false;
        for (port, held) in self.ports.iter().zip(&mut self.held) {
            loop {
                let mut frame = self.spare.pop().unwrap_or_default();
                frame.resize(MAX_FRAME_BYTES, 0);
                match receive(port, &mut frame, &mut self.control)? {
                    None => {
                        self.spare.push(frame);
                        break;
                    }
                    Some(_) if self.dice.hit(loss) => {
                        self.shared.lost.fetch_add(1, Ordering::Relaxed);
                        self.spare.push(frame);
                    }
                    Some(came) if held.len() < MAX_HELD => {
                        checksum::complete(&mut frame);
                        held.push_back(Held { due: came + one_way, frame });
                    }
                    Some(_) => {
                        self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                        self.spare.push(frame);
                    }
                }
                any = true;
            }
        }
        Ok(any)
    }

    /// Sends on what is due; says whether that was anything.
    fn send_due(&mut self) -> bool {
        let mut any = false;
        let [towards_b, towards_a] = &mut self.held;
        let [a, b] = &self.ports;
        for (held, out) in [(towards_b, b), (towards_a, a)] {
            while held.front().is_some_and(|first| first.due <= now())
                && let Some(Held { due, frame }) = held.pop_front()
            {
                let late = now().saturating_sub(due);
                let counter = match send(out.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT) {
                    Ok(_) => &self.shared.forwarded,
                    Err(_) => &self.shared.dropped,
                };
                counter.fetch_add(1, Ordering::Relaxed);
                let late = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
                self.shared.late_ns.fetch_add(late, Ordering::Relaxed);
                self.spare.push(frame);
                any = true;
            }
        }
        any
    }

    /// Sleeps until something comes or shortly before something is due.
    fn wait(&self) -> io::Result<()> {
        let due = self.held.iter().filter_map(|held| held.front()).map(|first| first.due).min();
        let patience = due.map_or(LOOK_EVERY, |due| due.saturating_sub(now() + WATCH));
        if patience.is_zero() {
            std::hint::spin_loop();
            return Ok(());
        }
        let mut watched =
            self.ports.each_ref().map(|port| PollFd::new(port.as_fd(), PollFlags::POLLIN));
        match ppoll(&mut watched, Some(TimeSpec::from_duration(patience)), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// A packet socket that sends and receives whole frames at one interface of this namespace.
fn open(name: &str) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    bind(socket.as_raw_fd(), &address_of(name)?)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    // Room for a burst while the forwarder wakes up.
    setsockopt(&socket, sockopt::RcvBuf, &(8 << 20))?;
    Ok(socket)
}

/// The packet-socket address of an interface. Its protocol is 0, which leaves a socket's own as it is.
fn address_of(name: &str) -> io::Result<LinkAddr> {
    let found = getifaddrs()?.find_map(|interface| {
        let address = interface.address.filter(|_| interface.interface_name == name)?;
        address.as_link_addr().copied()
    });
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface {name}")))
}

/// Takes a frame, cuts `frame` to its length and returns when it came; `None` if there is none.
fn receive(
    port: &OwnedFd,
    frame: &mut Vec<u8>,
    control: &mut [u8],
) -> io::Result<Option<Duration>> {
    let (bytes, came) = {
        let mut parts = [IoSliceMut::new(frame)];
        let flags = MsgFlags::MSG_DONTWAIT;
        match recvmsg::<()>(port.as_raw_fd(), &mut parts, Some(control), flags) {
            Ok(message) => {
                let stamp = message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::ScmTimestampns(stamp) => Some(Duration::from(stamp)),
                    _ => None,
                });
                (message.bytes, stamp)
            }
            // A port that is down has lost nothing that anybody waits for.
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    };
    frame.truncate(bytes);
    Ok(Some(came.unwrap_or_else(now)))
}

/// The time by the clock that frames are stamped with, since the Unix epoch.
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_hit_as_often_as_told() {
        let hits = |of_a_million| {
            let mut dice = Dice(0);
            (0..100_000).filter(|_| dice.hit(of_a_million)).count()
        };
        assert_eq!((hits(0), hits(1_000_000)), (0, 100_000));
        assert!((900..1100).contains(&hits(10_000)), "{}", hits(10_000));
    }
}
