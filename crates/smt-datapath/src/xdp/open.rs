//! Opening the datapath: which device, which packets, and what each shard has of it.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll;

use super::attach::{Attached, Target, attach};
use super::program::Ours;
use super::queue::Queue;
use super::{Lent, RX_BURST, TX_BURST, XdpDatapath, choose_device};
use crate::filter::Shard;
use crate::link::header;
use crate::link::netlink::Netlink;
use crate::link::paths::Paths;
use crate::ports::PortClaim;
use crate::raw::{self, Native};
use crate::socket::SocketDatapath;
use crate::sys::bpf::Hook;
use crate::sys::device::Device;
use crate::{Caps, Datapath as _, DatapathStats, OpenError, OpenOptions};

/// Where the XDP program is to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpHook {
    /// Where it costs least: in the device's driver, or in the stack if the driver cannot or is veth's.
    #[default]
    Auto,
    /// In the driver.
    Driver,
    /// In the stack, with any device.
    Generic,
}

/// What to do differently with [`Kind::Xdp`](crate::Kind::Xdp).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpOptions {
    /// Where the program runs.
    pub hook: XdpHook,
    /// Have packets copied even if the driver could do without.
    pub copy: bool,
    /// Have the device's queues handled in this process's calls, for this many microseconds at a
    /// time (`SO_PREFER_BUSY_POLL`), instead of by interrupts.
    pub busy_poll_us: Option<u32>,
}

/// Attaches to the device of `options.bind`, for as many shards (a power of two).
pub(crate) fn open(
    options: &OpenOptions,
    claim: &Arc<PortClaim>,
    shards: u8,
) -> Result<Vec<XdpDatapath>, OpenError> {
    let OpenOptions { bind, protocol, dscp, xdp, .. } = *options;
    // First: whatever passes the program has somewhere to go.
    let raw = |index| {
        let shard = Shard { index, count: shards };
        raw::open(protocol, bind, Arc::clone(claim), shard, dscp)
    };
    let raws = (0..shards).map(raw).collect::<Result<Vec<_>, _>>()?;
    let device = choose_device(bind)?;
    let mtu = Netlink::open()
        .and_then(|mut netlink| netlink.device(device.index))
        .map_err(OpenError::io("ask the kernel for the device's MTU"))?
        .mtu;
    let addresses = match bind.is_unspecified() {
        false => vec![bind],
        true => {
            device.addresses.iter().copied().filter(|a| a.is_ipv4() == bind.is_ipv4()).collect()
        }
    };
    let ours = Ours { protocol, addresses, ports: claim.ports(), shards };
    let target = Target { name: &device.name, ifindex: device.index, mtu };
    let attached = attach(target, &ours, xdp)?;
    let parts = attached.into_iter().zip(raws);
    parts.map(|(attached, raw)| of_shard(options, &device, attached, raw)).collect()
}

/// What one shard has.
fn of_shard(
    options: &OpenOptions,
    device: &Device,
    attached: Attached,
    raw: SocketDatapath<Native>,
) -> Result<XdpDatapath, OpenError> {
    let OpenOptions { bind, protocol, dscp, .. } = *options;
    let paths = Paths::open(protocol).map_err(OpenError::io("watch routes and neighbours"))?;
    let epoll =
        epoll_over(&attached, raw.fd()).map_err(OpenError::io("make an epoll descriptor"))?;
    let header = if bind.is_ipv4() { header::V4_LEN } else { header::V6_LEN };
    let max_packet = attached.layout.max_ip_packet.saturating_sub(header);
    let rx_capacity = attached.queues.iter().map(Queue::rx_capacity).sum();
    let caps = Caps {
        name: match (attached.hook, attached.queues.iter().all(Queue::is_zero_copy)) {
            (Hook::Generic, _) => "xdp-generic",
            (Hook::Driver, false) => "xdp",
            (Hook::Driver, true) => "xdp-zerocopy",
        },
        max_packet,
        tx_burst: TX_BURST,
        rx_burst: RX_BURST,
        rx_capacity,
        ..raw.caps()
    };
    Ok(XdpDatapath {
        raw,
        attached,
        paths,
        device: device.clone(),
        protocol,
        local: Some(bind).filter(|bind| !bind.is_unspecified()),
        traffic_classes: dscp.unwrap_or_default().map(|dscp| dscp << 2),
        caps,
        epoll,
        lent: Lent::Nothing,
        lost: vec![0; max_packet],
        queued: 0,
        stalled: None,
        burst: Vec::with_capacity(RX_BURST),
        places: Vec::with_capacity(RX_BURST),
        burst_is_raw: false,
        next_queue: 0,
        full_turns: 0,
        raw_looked_at: Instant::now(),
        raw_left_out: false,
        empty_turns: 0,
        due_was_told: Cell::new(false),
        awake_turns: Cell::new(0),
        watches: Cell::new(true),
        stats: DatapathStats::default(),
    })
}

fn epoll_over(attached: &Attached, raw: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let queues = attached.queues.iter().map(AsFd::as_fd);
    for fd in queues.chain([raw]) {
        epoll::add(&epoll, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    }
    Ok(epoll)
}
