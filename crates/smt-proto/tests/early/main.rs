//! Early data: what goes before the handshake is over, what becomes of it, and messages after it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../net/mod.rs"]
mod net;

mod accepted;
mod answer;
mod driver;
mod limits;
mod post;
mod refused;
mod thief;
