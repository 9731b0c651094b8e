//! Secure Message Transport: encrypted RPCs for the datacenter.
//!
//! Messages instead of a byte stream, protected by TLS 1.3, over their own IP protocol. Two styles,
//! the same transport beneath:
//!
//! - [`Endpoint`], for tokio: `connect`, `accept`, `call`, `reply` as futures.
//! - [`Engine`], without a runtime: you poll it, block on it or watch its descriptor, and all
//!   packets move on your thread.
//!
//! Both are made by a [`Builder`]. [`tls`] has who the ends are and whom they trust: certificates,
//! revocation lists, rules, and [`Watch`](tls::Watch) to follow their files; sessions resume by
//! themselves. [`ticket`] has what it takes to send requests with the first packet
//! ([`Endpoint::connect_early`], [`Engine::call_early`]). The protocol is specified in `docs/spec.md`.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use smt::tls::{ClientTls, Roots};
//!
//! let tls = ClientTls::builder(Roots::from_pem_file("ca.pem")?).build()?;
//! let endpoint = smt::Builder::new().client(tls).endpoint()?;
//! let session = endpoint.connect("10.0.0.2:4433".parse()?, "server.example").await?;
//! let response = session.call("hello").await?;
//! println!("{}", String::from_utf8_lossy(&response));
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod builder;
mod endpoint;
pub mod engine;
mod error;
#[cfg(feature = "null-cipher")]
mod null_cipher;
pub mod ticket;
pub mod tls;

pub use builder::{
    BindError, Builder, CLASS_SELECTORS, DatapathKind, Faults, Wait, XdpHook, XdpOptions,
};
pub use endpoint::{Call, Connecting, EarlyCall, Endpoint, Incoming, Session};
pub use engine::{CallOptions, ConnectOptions, Engine, Event, SharedId};
pub use error::{CallError, CloseReason, ConnectError, ErrorReply, StartError, UpdateError};
pub use smt_proto::{
    AeadLimits, Body, Direction, Limits, RpcId, SessionId, Stats, Updates, padding::Padding,
};

/// How packets leave and enter the host; only needed for what [`Builder`] does not offer.
pub use smt_datapath as datapath;
/// The protocol itself, without IO; only needed to build on it directly.
pub use smt_proto as proto;
