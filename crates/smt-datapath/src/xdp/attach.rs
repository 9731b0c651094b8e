//! Attaching the program to a device, and its queues to the program.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::layout::Layout;
use super::program::{Frames, Ours, Verdict, key, program};
use super::queue::Queue;
use super::{XdpHook, XdpOptions};
use crate::OpenError;
use crate::ports::Ports;
use crate::sys::bpf::{self, Hook};
use crate::sys::ethtool;
use crate::sys::xsk::{Binding, Step, XskError};

/// Queues of a device that are used at most; packets that come in on others pass the program, and
/// reach the raw socket.
pub(super) const MAX_QUEUES: u32 = 64;
/// Sockets that are used at most, one for each queue and shard: with many shards, so many fewer queues.
const MAX_SOCKETS: u32 = 512;
const NAME: &str = "smt";
/// How long a queue may be in use by a socket that has just been closed.
const QUEUE_PATIENCE: Duration = Duration::from_secs(1);

/// A device with the program attached and all its queues bound, as one shard has it. Dropping the last
/// shard's detaches; so does the kernel when the process ends, however it does.
pub(super) struct Attached {
    /// The first queue is the one that sends.
    pub(super) queues: Vec<Queue>,
    pub(super) hook: Hook,
    pub(super) layout: Layout,
    _link: Arc<OwnedFd>,
}

/// The device to attach to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) name: &'a str,
    pub(super) ifindex: u32,
    /// Longest IP packet, in bytes.
    pub(super) mtu: usize,
}

/// Attaches to a device, for each of the shards that `ours` tells of.
pub(super) fn attach(
    target: Target<'_>,
    ours: &Ours,
    options: XdpOptions,
) -> Result<Vec<Attached>, OpenError> {
    let requests = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .map_err(OpenError::io("ask the kernel for the device's queues"))?;
    let told = ethtool::rx_queues(&requests, target.name).min(most_queues(ours.shards));
    let driver = ethtool::driver(&requests, target.name);
    let hooks = hooks(options.hook, driver.as_deref());
    let layout = |multi_chunk| Layout::new(target.mtu, told as usize, ours.shards, multi_chunk);
    if Layout::needs_multi_chunk(target.mtu) {
        match attach_with(target, layout(true), ours, (options, hooks)) {
            // The kernel (before 6.6) or the driver takes only packets of one chunk.
            Err(Refusal::Queue(0, XskError { step: Step::Bind, .. })) => {}
            result => return result.map_err(|refusal| refusal.explain(target.name)),
        }
    }
    attach_with(target, layout(false), ours, (options, hooks))
        .map_err(|refusal| refusal.explain(target.name))
}

/// Why attaching failed.
enum Refusal {
    /// A queue's socket, or its binding.
    Queue(u32, XskError),
    Other(OpenError),
}

fn attach_with(
    target: Target<'_>,
    layout: Layout,
    ours: &Ours,
    (options, hooks): (XdpOptions, &[Hook]),
) -> Result<Vec<Attached>, Refusal> {
    let Target { name, ifindex, .. } = target;
    let (shards, most_queues) = (ours.shards, most_queues(ours.shards));
    let map = bpf::socket_map(NAME, most_queues * u32::from(shards))
        .map_err(|error| Refusal::Other(refused("make an XDP socket map", error)))?;
    let (link, hook) = attach_program(target, layout, ours, &map, hooks).map_err(Refusal::Other)?;
    let link = Arc::new(link);
    let of_shard = |_| Attached { queues: Vec::new(), hook, layout, _link: Arc::clone(&link) };
    let mut attached: Vec<Attached> = (0..shards).map(of_shard).collect();
    for number in 0..most_queues {
        let binding = Binding {
            ifindex,
            queue: number,
            multi_chunk: layout.multi_chunk,
            copy: options.copy || hook == Hook::Generic,
        };
        let sockets = match open_queue(layout, binding) {
            Ok(sockets) => sockets,
            // The device has no more.
            Err(XskError { step: Step::Bind, source })
                if number > 0 && source.raw_os_error() == Some(libc::EINVAL) =>
            {
                break;
            }
            Err(error) => return Err(Refusal::Queue(number, error)),
        };
        for (shard, (attached, mut queue)) in (0..shards).zip(attached.iter_mut().zip(sockets)) {
            if let Some(micros) = options.busy_poll_us {
                let micros = i32::try_from(micros).unwrap_or(i32::MAX);
                queue
                    .busy_poll(micros)
                    .map_err(|error| Refusal::Other(refused("poll the device busily", error)))?;
            }
            bpf::set_socket(&map, key(number, shard, shards), &queue)
                .map_err(|error| Refusal::Other(refused("register an AF_XDP socket", error)))?;
            attached.queues.push(queue);
        }
    }
    let of_one = attached.first().map_or(&[][..], |attached| &attached.queues);
    tracing::debug!(
        device = name,
        ?hook,
        shards,
        queues = of_one.len(),
        zero_copy = of_one.iter().all(Queue::is_zero_copy),
        "XDP program attached"
    );
    Ok(attached)
}

fn most_queues(shards: u8) -> u32 {
    MAX_QUEUES.min(MAX_SOCKETS / u32::from(shards.max(1)))
}

/// Has the kernel load a program for packets of IP protocol `protocol`, and forgets it: whether AF_XDP
/// is there, and for this process.
pub(crate) fn try_load(protocol: u8) -> Result<(), OpenError> {
    let map = bpf::socket_map(NAME, 1).map_err(|error| refused("make an XDP socket map", error))?;
    let addresses = vec![Ipv4Addr::LOCALHOST.into()];
    let ours = Ours { protocol, addresses, ports: Ports::default(), shards: 1 };
    load(&ours, Layout::new(1500, 1, 1, false), &map).map(|_| ())
}

/// Where to attach, in this order. veth's own hook makes a frame of each packet that already is the
/// stack's, and takes segmentation from the device, and so from everybody else's TCP: there the
/// stack's hook is the better one.
fn hooks(wanted: XdpHook, driver: Option<&str>) -> &'static [Hook] {
    match (wanted, driver) {
        (XdpHook::Auto, Some("veth")) => &[Hook::Generic, Hook::Driver],
        (XdpHook::Auto, _) => &[Hook::Driver, Hook::Generic],
        (XdpHook::Driver, _) => &[Hook::Driver],
        (XdpHook::Generic, _) => &[Hook::Generic],
    }
}

/// Loads the program and attaches it at the first of `hooks` where the device lets it.
fn attach_program(
    target: Target<'_>,
    layout: Layout,
    ours: &Ours,
    map: &OwnedFd,
    hooks: &[Hook],
) -> Result<(OwnedFd, Hook), OpenError> {
    let program = load(ours, layout, map)?;
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for hook in hooks {
        match bpf::attach_xdp(&program, target.ifindex, *hook) {
            Ok(link) => return Ok((link, *hook)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
                return Err(OpenError::DeviceBusy { device: target.name.to_owned() });
            }
            Err(error) => last = error,
        }
    }
    Err(refused("attach the XDP program to the device", last))
}

fn load(ours: &Ours, layout: Layout, map: &OwnedFd) -> Result<OwnedFd, OpenError> {
    let load = |pieces| {
        let max_len = u32::try_from(layout.max_frame()).unwrap_or(u32::MAX);
        let frames = Frames { max_len, pieces };
        let instructions = program(ours, frames, map.as_raw_fd(), Verdict::Pass);
        bpf::load_xdp(NAME, &instructions, pieces)
    };
    // With kernels before 5.18 no frame comes in pieces.
    load(true)
        .or_else(|(error, log)| match error.raw_os_error() {
            Some(libc::EINVAL) => load(false),
            _ => Err((error, log)),
        })
        .map_err(|(error, log)| {
            tracing::debug!(log, "XDP program refused");
            refused("load the XDP program", error)
        })
}

/// Opens a queue for all shards, the first one so that it sends too. The kernel takes a queue from a socket that
/// is gone only after a while, so that one that is in use is asked for again.
fn open_queue(layout: Layout, binding: Binding) -> Result<Vec<Queue>, XskError> {
    let give_up = Instant::now() + QUEUE_PATIENCE;
    loop {
        match Queue::open(layout, binding, binding.queue == 0) {
            Err(XskError { step: Step::Bind, source })
                if source.raw_os_error() == Some(libc::EBUSY) && Instant::now() < give_up =>
            {
                thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

fn refused(what: &'static str, error: io::Error) -> OpenError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => OpenError::missing_xdp_privilege(),
        Some(libc::ENOSYS | libc::EAFNOSUPPORT) => OpenError::NoXdp,
        _ => OpenError::Io { what, source: error },
    }
}

impl Refusal {
    fn explain(self, device: &str) -> OpenError {
        let XskError { step, source } = match self {
            Self::Other(error) => return error,
            Self::Queue(_, error) => error,
        };
        match (step, source.raw_os_error()) {
            (Step::Memory, Some(libc::ENOBUFS)) => OpenError::LockedMemory,
            (Step::Bind, Some(libc::EBUSY)) => OpenError::DeviceBusy { device: device.to_owned() },
            (Step::Socket, _) => refused("open an AF_XDP socket", source),
            (Step::Memory, _) => refused("share packet memory with the kernel", source),
            (Step::Rings, _) => refused("set up the rings of an AF_XDP socket", source),
            (Step::Bind, _) => refused("bind an AF_XDP socket to the device", source),
        }
    }
}
