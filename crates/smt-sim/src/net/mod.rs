//! The network between the hosts: a leaf switch, or leaves joined by spines, with queues that obey
//! priorities.

mod address;
mod balancer;
mod config;
mod fabric;
mod flights;
mod port;
mod routes;
mod stats;

pub use address::{address, host_of};
pub use config::{ConfigError, NetConfig, Spread, Topology};
pub(crate) use fabric::Fabric;
pub(crate) use flights::{Fifo, FlightId, Flights};
pub(crate) use port::Rate;
pub use stats::NetStats;
