//! A deterministic simulation of networks in which the real core runs: hostile ones, drawn by seed
//! and watched by checkers, and whole racks under load.
//!
//! Nothing here reads a clock, touches a socket or draws randomness that does not come from the
//! seed: the same seed gives the same run, byte for byte, on any machine.
#![forbid(unsafe_code)]

pub mod attack;
pub mod commands;
mod events;
pub mod fault;
pub mod net;
pub mod packet;
pub mod plot;
pub mod rack;
pub mod rng;
pub mod stack;
pub mod stream;
pub mod table;
pub mod tap;
pub mod world;
pub mod workload;
