//! An attacker on the link, a hostile peer with real keys, strangers at the handshake.

#[path = "../net/mod.rs"]
mod net;

mod handshake;
mod nonces;
mod on_path;
mod peer;
