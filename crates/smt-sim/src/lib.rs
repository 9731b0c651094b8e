//! A deterministic simulation of networks in which the real core runs: hostile ones, drawn by seed
//! and watched by checkers, and whole racks under load.
//!
//! Nothing here reads a clock, touches a socket or draws randomness that does not come from the
//! seed: the same seed gives the same run, byte for byte, on any machine.
#![forbid(unsafe_code)]

pub mod attack;
pub mod capture;
pub mod check;
pub mod commands;
mod events;
pub mod fault;
pub mod host;
pub mod log;
pub mod net;
pub mod nic;
pub mod packet;
pub mod plot;
pub mod rack;
pub mod rng;
pub mod scenario;
pub mod stack;
pub mod stream;
pub mod swarm;
pub mod table;
pub mod tap;
pub mod tls;
pub mod workload;
pub mod world;
