//! An attacker on the link, a hostile peer with real keys, strangers at the handshake.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../net/mod.rs"]
mod net;

mod congestion;
mod driver;
mod handshake;
mod nonces;
mod on_path;
mod peer;
mod retry;
