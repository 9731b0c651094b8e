//! Test hosts in network namespaces, made in process.
//!
//! SMT is an IP protocol of its own, so testing it takes hosts with addresses, interfaces and MTUs, not just
//! sockets on 127.0.0.1. This crate makes such hosts out of Linux network namespaces with nothing but system
//! calls: no `ip`, no `nft`, no root. An ordinary user gets a user namespace in which the process is root and
//! the machine's own network is out of reach.
//!
//! # Use
//!
//! 1. Call [`enter`] first thing in `main`, while the process has one thread.
//! 2. Make hosts: [`pair`] for two hosts joined by a link, [`loopback`] for one host alone.
//! 3. Work in them: [`Namespace::run`] and [`Namespace::spawn`] run closures on threads of a host,
//!    [`Namespace::command`] starts a program there. Sockets stay in the namespace they were opened in,
//!    whichever thread uses them later.
//!
//! ```no_run
//! use smt_testbed::{PairOptions, enter, pair};
//! # fn main() -> std::io::Result<()> {
//! enter()?;
//! let pair = pair(PairOptions { mtu: 9000, ..PairOptions::default() })?;
//! let server = pair.b.run(|| std::net::UdpSocket::bind("0.0.0.0:7000"))??;
//! let client = pair.a.run(|| std::net::UdpSocket::bind("0.0.0.0:0"))??;
//! client.send_to(b"hello", (pair.b_v4, 7000))?;
//! # drop(server);
//! # Ok(())
//! # }
//! ```
//!
//! A host lives as long as a [`Namespace`] handle, a thread, a process or a socket in it; nothing has to be
//! cleaned up, and nothing is left behind by a crash.
//!
//! # Tests
//!
//! A test program that needs hosts cannot use the standard harness, which has started threads before any test
//! runs. With the feature `harness` and `harness = false` in its manifest it is
//!
//! ```ignore
//! fn main() -> std::process::ExitCode {
//!     smt_testbed::main(vec![smt_testbed::test("echo", echo)])
//! }
//! ```

#![forbid(unsafe_code)]

mod change;
mod checksum;
mod delay;
mod features;
#[cfg(feature = "harness")]
mod harness;
mod namespace;
mod netlink;
mod pair;
mod privilege;

pub use delay::{DelayLink, DelayStats};
#[cfg(feature = "harness")]
pub use harness::{Trial, main, test};
pub use namespace::{Namespace, loopback};
pub use pair::{Pair, PairOptions, Wire, pair};
pub use privilege::{enter, is_privileged, may_use_bpf};
