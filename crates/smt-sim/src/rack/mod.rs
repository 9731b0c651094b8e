//! Racks of hosts with the real core under load: what congestion control makes of latency.
//!
//! A run is made of a network, [`offered::Offered`] messages, hosts of one transport
//! ([`mesh`], [`baseline`]), [`drive`] that starts the messages when their time comes, and an
//! [`outcome::Outcome`] in terms of slowdown: one-way time over what the idle network would take.

pub mod baseline;
pub mod cores;
pub mod document;
pub mod drive;
pub mod experiment;
pub mod framing;
pub mod incast;
pub mod journal;
pub mod lossy;
pub mod memory;
pub mod mesh;
pub mod null_suite;
pub mod offered;
pub mod outcome;
pub mod parallel;
pub mod show;
pub mod smt_host;

#[cfg(test)]
mod tests;
