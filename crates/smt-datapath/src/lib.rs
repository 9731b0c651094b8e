//! How SMT packets leave and enter a host.
//!
//! One trait, [`Datapath`], batches only. A datapath knows nothing of the protocol but where its
//! ports are; everything above is told by [`Caps`] what the host can do. [`open`] gives one of:
//!
//! - *raw*: IP sockets of SMT's own protocol number (`docs/spec.md`, 2). Needs `CAP_NET_RAW`.
//!   Processes share the number: each owns ports ([`ports`]), and a filter in the kernel gives it
//!   the packets of its ports alone.
//! - *packet*: the same packets, sent as whole frames by a packet socket. Devices that can are handed
//!   segments to cut ([`Datapath::tso`]).
//! - *xdp*: the same packets, past the kernel's stack: AF_XDP on one device. Needs `CAP_BPF` and
//!   `CAP_NET_ADMIN` as well.
//! - *udp*: the same bytes as the payload of UDP, for hosts without privileges.
//!
//! [`auto`] chooses among them, by what [`probe`] finds out of the host.
//!
//! [`memory`] joins two endpoints of one process. Around any of them go decorators: [`fault`]
//! loses, repeats, delays and damages packets, [`pcap`] writes them to a file.

pub mod auto;
mod datapath;
mod error;
mod errqueue;
pub mod fault;
mod filter;
mod link;
mod marking;
pub mod memory;
mod open;
mod packet;
pub mod pcap;
pub mod ports;
pub mod probe;
mod raw;
mod route;
mod segment;
mod socket;
mod sys;
mod udp;
mod xdp;

pub use datapath::{Caps, Datapath, DatapathStats, PathError, PathErrorKind, RxMeta, TxMeta};
pub use error::OpenError;
pub use filter::MAX_SHARDS;
pub use open::{CLASS_SELECTORS, Kind, OpenOptions, Opened, PRIORITIES, open, open_shards};
pub use xdp::{XdpHook, XdpOptions};

/// IP protocol number of SMT unless configured otherwise (RFC 3692; `docs/spec.md`, 2).
pub const DEFAULT_PROTOCOL: u8 = 253;
