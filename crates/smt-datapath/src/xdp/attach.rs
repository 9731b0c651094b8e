//! Attaching the program to a device, and its queues to the program.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use super::layout::Layout;
use super::program::{Ours, Verdict, program};
use super::queue::Queue;
use super::{XdpHook, XdpOptions};
use crate::OpenError;
use crate::sys::bpf::{self, Hook};
use crate::sys::ethtool;
use crate::sys::xsk::{Binding, Step, XskError};

/// Queues of a device that are used at most; packets that come in on others pass the program, and
/// reach the raw socket.
pub(super) const MAX_QUEUES: u32 = 64;
const NAME: &str = "smt";
/// How long a queue may be in use by a socket that has just been closed.
const QUEUE_PATIENCE: Duration = Duration::from_secs(1);

/// A device with the program attached and all its queues bound. Dropping it detaches; so does the
/// kernel when the process ends, however it does.
pub(super) struct Attached {
    /// The first queue is the one that sends.
    pub(super) queues: Vec<Queue>,
    pub(super) hook: Hook,
    pub(super) layout: Layout,
    _link: OwnedFd,
}

/// Attaches to the device `name`, whose packets have up to `mtu` bytes.
pub(super) fn attach(
    name: &str,
    ifindex: u32,
    mtu: usize,
    ours: &Ours,
    options: XdpOptions,
) -> Result<Attached, OpenError> {
    let map = bpf::socket_map(NAME, MAX_QUEUES)
        .map_err(|error| refused("make an XDP socket map", error))?;
    let (link, hook) = attach_program(name, ifindex, ours, &map, options.hook)?;
    let several = Layout::needs_multi_chunk(mtu);
    let told = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .map_or(1, |socket| ethtool::rx_queues(&socket, name).min(MAX_QUEUES));
    let mut layout = Layout::new(mtu, told as usize, several);
    let mut queues = Vec::new();
    while queues.len() < MAX_QUEUES as usize {
        let binding = Binding {
            ifindex,
            queue: queues.len() as u32,
            multi_chunk: layout.chunks_per_frame > 1,
            copy: options.copy || hook == Hook::Generic,
        };
        match open_queue(layout, binding) {
            Ok(queue) => {
                if let Some(micros) = options.busy_poll_us {
                    let micros = i32::try_from(micros).unwrap_or(i32::MAX);
                    queue.busy_poll(micros).map_err(OpenError::io("poll the device busily"))?;
                }
                bpf::set_socket(&map, binding.queue, &queue)
                    .map_err(OpenError::io("register an AF_XDP socket"))?;
                queues.push(queue);
            }
            // The device has no more.
            Err(XskError { step: Step::Bind, source })
                if binding.queue > 0 && source.raw_os_error() == Some(libc::EINVAL) =>
            {
                break;
            }
            // The kernel (before 6.6) or the driver takes only packets of one chunk.
            Err(XskError { step: Step::Bind, .. }) if binding.queue == 0 && binding.multi_chunk => {
                layout = Layout::new(mtu, 1, false);
            }
            Err(error) => return Err(socket_refused(name, error)),
        }
    }
    tracing::debug!(
        device = name,
        ?hook,
        queues = queues.len(),
        zero_copy = queues.iter().all(Queue::is_zero_copy),
        "XDP program attached"
    );
    Ok(Attached { queues, hook, layout, _link: link })
}

/// Loads the program and attaches it where `hook` says, or else where the device lets it.
fn attach_program(
    name: &str,
    ifindex: u32,
    ours: &Ours,
    map: &OwnedFd,
    hook: XdpHook,
) -> Result<(OwnedFd, Hook), OpenError> {
    let instructions = program(ours, map.as_raw_fd(), Verdict::Pass);
    // Packets in pieces: with kernels before 5.18 there are none.
    let program = bpf::load_xdp(NAME, &instructions, true)
        .or_else(|(error, log)| match error.raw_os_error() {
            Some(libc::EINVAL) => bpf::load_xdp(NAME, &instructions, false),
            _ => Err((error, log)),
        })
        .map_err(|(error, log)| {
            tracing::debug!(log, "XDP program refused");
            refused("load the XDP program", error)
        })?;
    let hooks: &[Hook] = match hook {
        XdpHook::Auto => &[Hook::Driver, Hook::Generic],
        XdpHook::Driver => &[Hook::Driver],
        XdpHook::Generic => &[Hook::Generic],
    };
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for hook in hooks {
        match bpf::attach_xdp(&program, ifindex, *hook) {
            Ok(link) => return Ok((link, *hook)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
                return Err(OpenError::DeviceBusy { device: name.to_owned() });
            }
            Err(error) => last = error,
        }
    }
    Err(refused("attach the XDP program to the device", last))
}

/// Opens a queue, the first one so that it sends too. The kernel takes a queue from a socket that
/// is gone only after a while, so that one that is in use is asked for again.
fn open_queue(layout: Layout, binding: Binding) -> Result<Queue, XskError> {
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

fn socket_refused(device: &str, error: XskError) -> OpenError {
    let XskError { step, source } = error;
    match (step, source.raw_os_error()) {
        (Step::Memory, Some(libc::ENOBUFS)) => OpenError::LockedMemory,
        (Step::Bind, Some(libc::EBUSY)) => OpenError::DeviceBusy { device: device.to_owned() },
        (Step::Socket, _) => refused("open an AF_XDP socket", source),
        (Step::Memory, _) => refused("share packet memory with the kernel", source),
        (Step::Rings, _) => refused("set up the rings of an AF_XDP socket", source),
        (Step::Bind, _) => refused("bind an AF_XDP socket to the device", source),
    }
}
