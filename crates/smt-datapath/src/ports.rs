//! Who owns which SMT port on this host.
//!
//! The kernel knows nothing of SMT's ports, so ownership is a matter of agreement: whoever binds
//! the abstract unix socket named after a port owns it. Such names belong to the network
//! namespace, as ports do, and vanish with their process. Client ports are owned in aligned blocks,
//! since one mask compare then tells them from all others.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::OpenError;

/// Ports in a block of client ports.
pub const BLOCK_LEN: u16 = 32;
/// First port that belongs to a block.
pub const FIRST_BLOCK: u16 = 32_768;
/// Blocks there are for clients: `FIRST_BLOCK..65_504`, so that the end of a block is a port too.
pub const BLOCKS: u16 = (u16::MAX - FIRST_BLOCK) / BLOCK_LEN;

/// Ports of one endpoint: what its packets may be sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// The port it listens at.
    pub listen: Option<u16>,
    /// First of its [`BLOCK_LEN`] client ports; a multiple of `BLOCK_LEN`.
    pub block: Option<u16>,
}

impl Ports {
    /// Whether `port` is one of these.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.listen == Some(port) || self.block == Some(block_of(port))
    }

    /// The client ports; empty if there is no block.
    #[must_use]
    pub fn client(&self) -> Range<u16> {
        self.block.map_or(0..0, |base| base..base.saturating_add(BLOCK_LEN))
    }
}

/// Ownership of [`Ports`], until dropped.
#[derive(Debug)]
pub struct PortClaim {
    ports: Ports,
    _owned: Vec<UnixDatagram>,
}

impl PortClaim {
    /// Claims the port `listen` (0: any free one) of IP protocol `protocol`, and with `client` a
    /// free block of client ports.
    ///
    /// A `listen` port of [`FIRST_BLOCK`] or above takes its whole block, so that no client gets
    /// it.
    ///
    /// # Errors
    /// [`OpenError::PortInUse`], [`OpenError::NoFreePorts`], or [`OpenError::Io`] when the host
    /// refuses unix sockets.
    pub fn new(protocol: u8, listen: Option<u16>, client: bool) -> Result<Self, OpenError> {
        let mut owned = Vec::new();
        let mut ports = Ports::default();
        match listen {
            Some(0) => {
                let (base, socket) = claim_free_block(protocol)?;
                ports.listen = Some(base);
                owned.push(socket);
            }
            Some(port) => {
                let socket = claim(&owner(protocol, port))
                    .map_err(OpenError::io("claim the port"))?
                    .ok_or(OpenError::PortInUse(port))?;
                ports.listen = Some(port);
                owned.push(socket);
            }
            None => {}
        }
        if client {
            let (base, socket) = claim_free_block(protocol)?;
            ports.block = Some(base);
            owned.push(socket);
        }
        Ok(Self { ports, _owned: owned })
    }

    /// What is owned.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }
}

/// The ports of IP protocol `protocol` that processes of this network namespace own, in ascending order:
/// single ones, and blocks of [`BLOCK_LEN`].
///
/// # Errors
/// `/proc` cannot be read.
pub fn owned(protocol: u8) -> io::Result<Vec<Range<u16>>> {
    Ok(read_owned(&std::fs::read_to_string("/proc/thread-self/net/unix")?, protocol))
}

/// Finds the names that [`owner`] gives in the kernel's list of unix sockets, where an abstract name
/// follows an `@`.
fn read_owned(list: &str, protocol: u8) -> Vec<Range<u16>> {
    let parse = |line: &str| {
        let name = line.rsplit(' ').next()?.strip_prefix("@smt/")?;
        let (owned_protocol, port) = name.split_once('/')?;
        let (len, port) = match port.split_once('/')? {
            ("port", port) => (1, port),
            ("block", base) => (BLOCK_LEN, base),
            _ => return None,
        };
        let first: u16 = port.parse().ok()?;
        let is_ours = owned_protocol.parse() == Ok(protocol);
        is_ours.then(|| first..first.saturating_add(len))
    };
    let mut all: Vec<_> = list.lines().filter_map(parse).collect();
    all.sort_by_key(|ports| ports.start);
    all
}

fn block_of(port: u16) -> u16 {
    port & !(BLOCK_LEN - 1)
}

/// Name of the socket whose owner owns `port`.
fn owner(protocol: u8, port: u16) -> String {
    if port < FIRST_BLOCK {
        format!("smt/{protocol}/port/{port}")
    } else {
        format!("smt/{protocol}/block/{}", block_of(port))
    }
}

/// Owns `name`, or is `None` if somebody else does.
fn claim(name: &str) -> io::Result<Option<UnixDatagram>> {
    match UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

/// Claims a free block.
fn claim_free_block(protocol: u8) -> Result<(u16, UnixDatagram), OpenError> {
    // A random start, so that ports are seldom those of a process that has just ended.
    let start = RandomState::new().hash_one(protocol);
    for base in blocks_from(start) {
        let claimed = claim(&owner(protocol, base)).map_err(OpenError::io("claim client ports"))?;
        if let Some(socket) = claimed {
            return Ok((base, socket));
        }
    }
    Err(OpenError::NoFreePorts)
}

/// First ports of all blocks, each once, from one chosen by `start` on.
fn blocks_from(start: u64) -> impl Iterator<Item = u16> {
    let start = (start % u64::from(BLOCKS)) as u16;
    (0..BLOCKS).map(move |index| FIRST_BLOCK + (start + index) % BLOCKS * BLOCK_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_tried_once_from_anywhere() {
        let all: Vec<u16> = (FIRST_BLOCK..65_504).step_by(usize::from(BLOCK_LEN)).collect();
        for start in [0, 1, 500, 1022, 1023, u64::MAX] {
            let mut blocks: Vec<u16> = blocks_from(start).collect();
            assert_eq!(blocks[0], all[(start % 1023) as usize]);
            blocks.sort_unstable();
            assert_eq!(blocks, all);
        }
    }

    #[test]
    fn client_ports_are_those_of_the_block() {
        let ports = Ports { listen: Some(7000), block: Some(40_000) };
        assert_eq!(ports.client(), 40_000..40_032);
        assert!((0..=u16::MAX).all(|port| {
            ports.contains(port) == (port == 7000 || (40_000..40_032).contains(&port))
        }));
        assert!(Ports::default().client().is_empty());
    }

    #[test]
    fn owned_ports_are_read_from_the_kernels_list() {
        let list = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00000000 0002 01 19999 @smt/253/block/40000
0000000000000000: 00000002 00000000 00000000 0002 01 20000 @smt/253/port/4433
0000000000000000: 00000002 00000000 00000000 0002 01 20001 @smt/254/port/4434
0000000000000000: 00000002 00000000 00000000 0002 01 20002 @smt/253/port/x
0000000000000000: 00000002 00000000 00000000 0002 01 20003
0000000000000000: 00000002 00000000 00000000 0002 01 20004 /run/smt/253/port/1
";
        assert_eq!(read_owned(list, 253), [4433..4434, 40_000..40_032]);
        assert_eq!(read_owned(list, 254).first(), Some(&(4434..4435)));
        assert!(read_owned("", 253).is_empty());
    }

    #[test]
    fn a_port_inside_a_block_has_the_blocks_owner() {
        assert_eq!(owner(253, 40_005), owner(253, 40_000));
        assert_ne!(owner(253, 40_005), owner(253, 40_032));
        assert_ne!(owner(253, 7000), owner(253, 7001));
        assert_ne!(owner(253, 7000), owner(254, 7000));
    }
}
