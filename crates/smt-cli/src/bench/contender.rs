//! Who takes part: a transport, a way of getting to the first RPC, and both ends of it.

use std::time::Duration;

use serde::Serialize;

use super::ground::Ground;
use super::serving::Server;
use super::{openssl, quic, smt, tls};
use crate::commands::Error;

/// A transport and its implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// SMT over its own IP protocol
    Smt,
    /// TLS 1.3 on TCP by rustls
    Rustls,
    /// TLS 1.3 on TCP by OpenSSL
    Openssl,
    /// QUIC by quinn and rustls
    Quic,
}

/// All of them.
pub const TRANSPORTS: [Transport; 4] =
    [Transport::Smt, Transport::Rustls, Transport::Openssl, Transport::Quic];

/// How the first RPC is got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// A handshake with certificates.
    Full,
    /// A handshake with the secret of an earlier one and a new key exchange.
    Resumed,
    /// The request in the first flight; a handshake follows that gives the session forward secrecy.
    #[serde(rename = "0rtt")]
    Early,
    /// The request in the first flight, under keys that the session keeps.
    #[serde(rename = "0rtt-static")]
    Static,
}

/// How a secret is agreed on, alone or beside earlier secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Exchange {
    /// Elliptic curves alone.
    X25519,
    /// Elliptic curves and ML-KEM-768: X25519MLKEM768 in TLS, X-Wing in SMT-tickets.
    Hybrid,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct What {
    /// The transport.
    pub transport: Transport,
    /// The way to the first RPC.
    pub variant: Variant,
    /// The key exchange.
    #[serde(rename = "key_exchange")]
    pub exchange: Exchange,
    /// Whether the client shows a certificate too.
    pub mtls: bool,
}

impl Transport {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Smt => "SMT",
            Transport::Rustls => "TLS/TCP rustls",
            Transport::Openssl => "TLS/TCP OpenSSL",
            Transport::Quic => "QUIC quinn",
        }
    }

    fn variants(self) -> &'static [Variant] {
        match self {
            Transport::Smt => smt::VARIANTS,
            Transport::Rustls => &[Variant::Full, Variant::Resumed],
            Transport::Openssl => &[Variant::Full],
            Transport::Quic => &[Variant::Full, Variant::Early],
        }
    }
}

impl Variant {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Full => "full",
            Variant::Resumed => "resumed",
            Variant::Early => "0-RTT",
            Variant::Static => "0-RTT static",
        }
    }
}

impl Exchange {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Exchange::X25519 => "x25519",
            Exchange::Hybrid => "hybrid",
        }
    }
}

impl What {
    /// Everything these transports can do, in the order of tables.
    pub fn all(transports: &[Transport]) -> Vec<What> {
        let mut all = Vec::new();
        for &transport in transports {
            for &variant in transport.variants() {
                for exchange in [Exchange::X25519, Exchange::Hybrid] {
                    for mtls in [false, true] {
                        // Without a handshake the client shows nothing.
                        if !(mtls && variant == Variant::Static) {
                            all.push(What { transport, variant, exchange, mtls });
                        }
                    }
                }
            }
        }
        all
    }
}

/// A client that starts from nothing each time.
pub trait Client {
    /// Connects, sends a request and takes the response; returns how long that took. Then ends the connection and
    /// gets whatever it needs for the next time.
    ///
    /// # Errors
    /// No connection, no response, a wrong one, or not in the way that is being measured.
    fn first_rpc(&mut self) -> Result<Duration, Error>;
}

/// Both ends of what is measured.
pub struct Contender {
    /// What it is.
    pub what: What,
    /// Its server.
    pub server: Server,
    /// Its client, which belongs to the thread that made it.
    pub client: Box<dyn Client>,
}

/// A contender, or why there is none.
pub enum Entry {
    /// It can be measured.
    Ready(Contender),
    /// It cannot, in this program on this machine.
    NotMeasured(What, String),
}

/// Starts a server for `what` and makes its client; to be called on the client's host. `index` tells apart what would
/// otherwise share ports or packets; with `inline`, SMT's handshakes have no thread of their own.
///
/// # Errors
/// One of them does not start.
pub fn enter(ground: &Ground, what: What, index: u16, inline: bool) -> Result<Entry, Error> {
    let (server, client) = match what.transport {
        Transport::Smt => smt::enter(ground, what, index, inline)?,
        Transport::Rustls => tls::enter(ground, what, index)?,
        Transport::Quic => quic::enter(ground, what, index)?,
        Transport::Openssl => match openssl::enter(ground, what, index)? {
            Ok(both) => both,
            Err(why) => return Ok(Entry::NotMeasured(what, why)),
        },
    };
    Ok(Entry::Ready(Contender { what, server, client }))
}

/// A server and a client for it.
pub(super) type Both = (Server, Box<dyn Client>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_entered_once() {
        let all = What::all(&TRANSPORTS);
        let mut sorted = all.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), all.len());
        let full = |what: &&What| what.variant == Variant::Full;
        assert_eq!(all.iter().filter(full).count(), 4 * TRANSPORTS.len());
        assert!(!all.iter().any(|what| what.mtls && what.variant == Variant::Static));
    }
}
