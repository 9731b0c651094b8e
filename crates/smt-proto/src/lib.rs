//! The SMT protocol as a state machine.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "aws-lc"))]
extern crate std;

pub mod config;
pub mod crypto;
mod cutoffs;
mod endpoint;
pub mod error;
mod event;
mod grant;
pub mod keys;
pub mod limits;
mod message;
#[cfg(feature = "mutations")]
pub mod mutation;
pub mod padding;
mod ranges;
mod rate;
pub mod record;
mod replay;
mod rpc;
mod rtt;
mod session;
mod sizes;
pub mod stats;
pub mod tag;
pub mod time;
mod timer;
pub mod wire;

pub use config::{Config, Shard};
pub use endpoint::{EarlyData, Endpoint, External, PacketMeta, Transmit};
pub use event::Event;
pub use limits::Limits;
pub use message::Body;
pub use session::{
    AeadLimits, Direction, EarlyBinding, KeyContext, Lanes, Path, Role, RpcId, SessionId, Updates,
};
pub use stats::Stats;
pub use time::Time;
