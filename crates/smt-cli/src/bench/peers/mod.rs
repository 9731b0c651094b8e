//! Who is measured: every transport under one name and one interface, [`Peer`], in a module of its own.
//!
//! To add one: a variant of [`Transport`] with its name, a module that implements [`Peer`], a line in
//! [`Transport::peer`]. Everything else (rows, tables, JSON, plots) goes by [`Transport::ALL`].

mod bare;
#[cfg(feature = "peers")]
mod grpc;
mod ktls;
#[cfg(not(all(
    feature = "openssl",
    feature = "peers",
    feature = "capi",
    feature = "null-cipher"
)))]
mod missing;
mod quinn;
#[cfg(feature = "peers")]
mod s2n_quic;
mod smt;
#[cfg(feature = "capi")]
mod smt_c;
mod smt_tokio;
mod tcp;
#[cfg(feature = "openssl")]
mod tls_openssl;
mod tls_rustls;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use self::bare::{Bare, Work};
use self::ktls::Ktls;
use self::quinn::Quinn;
use self::smt::Smt;
use self::smt_tokio::SmtTokio;
use self::tcp::Tcp;
use self::tls_rustls::TlsRustls;
use super::ground::Credentials;
use super::serving::Serving;
use crate::baseline::{Pipeline, Plan, Wait};
use crate::commands::Error;
use crate::commands::datapath::DatapathChoice;

/// The port of servers on TCP, UDP and SMT.
pub const PORT: u16 = 4433;

/// A transport, by the name that the command line, JSON and reports know it under.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// SMT over raw IP sockets
    SmtRaw,
    /// SMT over packet sockets, with TCP segmentation by the device where it can
    SmtPacket,
    /// SMT over AF_XDP
    SmtXdp,
    /// SMT over UDP sockets
    SmtUdp,
    /// The raw datapath alone: no protocol, no encryption
    BareRaw,
    /// The packet datapath alone
    BarePacket,
    /// The XDP datapath alone
    BareXdp,
    /// The UDP datapath alone
    BareUdp,
    /// The raw datapath and the AEAD work: the floor under SMT over it
    FloorRaw,
    /// The packet datapath and the AEAD work
    FloorPacket,
    /// The XDP datapath and the AEAD work
    FloorXdp,
    /// The UDP datapath and the AEAD work
    FloorUdp,
    /// Plain TCP; a connection for each RPC outstanding
    Tcp,
    /// Plain TCP, all RPCs on one connection
    TcpOne,
    /// TLS 1.3 on TCP by rustls; a connection for each RPC outstanding
    TlsRustls,
    /// TLS 1.3 on TCP by rustls, all RPCs on one connection
    TlsRustlsOne,
    /// TLS 1.3 on TCP by the host's OpenSSL; a connection for each RPC outstanding
    TlsOpenssl,
    /// TLS 1.3 on TCP, records sealed and opened by the kernel; a connection for each RPC outstanding
    Ktls,
    /// QUIC by quinn; a stream for each RPC
    Quinn,
    /// QUIC by s2n-quic; a stream for each RPC
    S2nQuic,
    /// gRPC by tonic over TLS 1.3 on TCP by rustls; a stream for each RPC
    Grpc,
    /// SMT over raw IP sockets, under tokio
    SmtTokio,
    /// SMT over raw IP sockets, by its C interface
    SmtC,
    /// SMT over raw IP sockets without encryption, to tell what that costs; never otherwise
    SmtNull,
}

/// What kind of contender a transport is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// SMT.
    Smt(DatapathChoice),
    /// A datapath of SMT's without protocol or encryption.
    Bare(DatapathChoice),
    /// The same with the AEAD work.
    Floor(DatapathChoice),
    /// SMT in another form: by another interface, or without its cipher. Neither compared with nor compared.
    Variant,
    /// Another transport that SMT is compared with.
    Other,
    /// Another transport with all RPCs on one connection, where small ones may leave together.
    OtherOne,
}

impl Transport {
    /// All of them, in the order of tables.
    pub const ALL: &'static [Transport] = &[
        Transport::SmtRaw,
        Transport::SmtPacket,
        Transport::SmtXdp,
        Transport::SmtUdp,
        Transport::BareRaw,
        Transport::BarePacket,
        Transport::BareXdp,
        Transport::BareUdp,
        Transport::FloorRaw,
        Transport::FloorPacket,
        Transport::FloorXdp,
        Transport::FloorUdp,
        Transport::Tcp,
        Transport::TcpOne,
        Transport::TlsRustls,
        Transport::TlsRustlsOne,
        Transport::TlsOpenssl,
        Transport::Ktls,
        Transport::Quinn,
        Transport::S2nQuic,
        Transport::Grpc,
        Transport::SmtTokio,
        Transport::SmtC,
        Transport::SmtNull,
    ];

    /// Its implementation.
    pub fn peer(self) -> Box<dyn Peer> {
        match self {
            Transport::SmtRaw => Box::new(Smt::over(DatapathChoice::Raw)),
            Transport::SmtPacket => Box::new(Smt::over(DatapathChoice::Packet)),
            Transport::SmtXdp => Box::new(Smt::over(DatapathChoice::Xdp)),
            Transport::SmtUdp => Box::new(Smt::over(DatapathChoice::Udp)),
            Transport::BareRaw => Box::new(Bare(DatapathChoice::Raw, Work::Nothing)),
            Transport::BarePacket => Box::new(Bare(DatapathChoice::Packet, Work::Nothing)),
            Transport::BareXdp => Box::new(Bare(DatapathChoice::Xdp, Work::Nothing)),
            Transport::BareUdp => Box::new(Bare(DatapathChoice::Udp, Work::Nothing)),
            Transport::FloorRaw => Box::new(Bare(DatapathChoice::Raw, Work::Aead)),
            Transport::FloorPacket => Box::new(Bare(DatapathChoice::Packet, Work::Aead)),
            Transport::FloorXdp => Box::new(Bare(DatapathChoice::Xdp, Work::Aead)),
            Transport::FloorUdp => Box::new(Bare(DatapathChoice::Udp, Work::Aead)),
            Transport::Tcp | Transport::TcpOne => Box::new(Tcp),
            Transport::TlsRustls | Transport::TlsRustlsOne => Box::new(TlsRustls),
            Transport::Ktls => Box::new(Ktls),
            Transport::Quinn => Box::new(Quinn),
            Transport::SmtTokio => Box::new(SmtTokio),
            #[cfg(feature = "capi")]
            Transport::SmtC => Box::new(smt_c::SmtC),
            #[cfg(not(feature = "capi"))]
            Transport::SmtC => Box::new(missing::Missing("build with --features capi")),
            #[cfg(feature = "null-cipher")]
            Transport::SmtNull => Box::new(Smt::null(DatapathChoice::Raw)),
            #[cfg(not(feature = "null-cipher"))]
            Transport::SmtNull => {
                Box::new(missing::Missing("build with --features null-cipher, for this alone"))
            }
            #[cfg(feature = "openssl")]
            Transport::TlsOpenssl => Box::new(tls_openssl::TlsOpenssl),
            #[cfg(not(feature = "openssl"))]
            Transport::TlsOpenssl => Box::new(missing::Missing(
                "build with --features openssl (Debian packages libssl-dev, pkg-config)",
            )),
            #[cfg(feature = "peers")]
            Transport::S2nQuic => Box::new(s2n_quic::S2nQuic),
            #[cfg(feature = "peers")]
            Transport::Grpc => Box::new(grpc::Grpc),
            #[cfg(not(feature = "peers"))]
            Transport::S2nQuic | Transport::Grpc => {
                Box::new(missing::Missing("build with --features peers"))
            }
        }
    }

    /// What kind of contender it is.
    pub fn role(self) -> Role {
        match self {
            Transport::SmtRaw => Role::Smt(DatapathChoice::Raw),
            Transport::SmtPacket => Role::Smt(DatapathChoice::Packet),
            Transport::SmtXdp => Role::Smt(DatapathChoice::Xdp),
            Transport::SmtUdp => Role::Smt(DatapathChoice::Udp),
            Transport::BareRaw => Role::Bare(DatapathChoice::Raw),
            Transport::BarePacket => Role::Bare(DatapathChoice::Packet),
            Transport::BareXdp => Role::Bare(DatapathChoice::Xdp),
            Transport::BareUdp => Role::Bare(DatapathChoice::Udp),
            Transport::FloorRaw => Role::Floor(DatapathChoice::Raw),
            Transport::FloorPacket => Role::Floor(DatapathChoice::Packet),
            Transport::FloorXdp => Role::Floor(DatapathChoice::Xdp),
            Transport::FloorUdp => Role::Floor(DatapathChoice::Udp),
            Transport::SmtTokio | Transport::SmtC | Transport::SmtNull => Role::Variant,
            Transport::TcpOne | Transport::TlsRustlsOne => Role::OtherOne,
            _ => Role::Other,
        }
    }

    /// Its name on the command line, in JSON and in tables.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The same datapath without protocol, and with the AEAD work alone, for one of SMT's.
    pub fn floors(self) -> Option<[Transport; 2]> {
        let Role::Smt(datapath) = self.role() else { return None };
        let of = |role| Transport::ALL.iter().copied().find(|other| other.role() == role);
        Some([of(Role::Bare(datapath))?, of(Role::Floor(datapath))?])
    }

    /// Whether it needs hosts and links of its own: an XDP program on a link slows down everybody else there.
    pub fn own_link(self) -> Option<DatapathChoice> {
        match self.role() {
            Role::Smt(datapath) | Role::Bare(datapath) | Role::Floor(datapath) => Some(datapath),
            Role::Variant | Role::Other | Role::OtherOne => None,
        }
    }
}

/// Where the two ends are, and what they have in common.
#[derive(Clone)]
pub struct Site {
    /// The server's address.
    pub server: IpAddr,
    /// The client's own, for transports that bind to it; unspecified where the kernel chooses.
    pub client: IpAddr,
    /// Who the two ends are.
    pub credentials: Arc<Credentials>,
    /// Largest IP packet of the link between them, in bytes.
    pub mtu: u32,
    /// How both wait.
    pub wait: Wait,
}

impl Site {
    /// Where servers on TCP and UDP are.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.server, PORT)
    }
}

/// What many RPCs at a time need room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Connections over which RPCs are spread, for transports that have no other way to have many outstanding; RPC
    /// `tag` goes over connection `tag % connections`. At least 1.
    pub connections: usize,
    /// Bytes of the longest message.
    pub message: usize,
    /// Bytes that it is worth taking from the kernel at a time.
    pub read: usize,
}

/// What measures one RPC at a time: round trips in nanoseconds, in order. Spins or sleeps as [`Site::wait`] says,
/// whatever the plan does.
pub type Ping = dyn FnMut(&Plan) -> Result<Vec<u64>, Error>;

/// A server: runs on its own thread, on the server's host and core; calls [`Serving::ready`] once clients may come, and
/// returns soon after [`Serving::is_over`].
pub type Serve = Box<dyn FnOnce(&Serving) -> Result<(), Error> + Send>;

/// A transport as the benchmarks drive it. Both ends use AES-128-GCM and X25519 where they have the choice, and send
/// at once. All of it is made again for each turn.
pub trait Peer {
    /// Whether it can run in this program on this machine, before any host is made.
    ///
    /// # Errors
    /// Why it cannot, in words that end no sentence: "this kernel has no TLS".
    fn available(&self) -> Result<(), String> {
        Ok(())
    }

    /// The library and its version, where it is not of this project: "rustls 0.23".
    fn version(&self) -> Option<String> {
        None
    }

    /// A server at [`Site::server`] that echoes each message, for one client with one RPC at a time.
    ///
    /// # Errors
    /// It cannot be set up; what it fails with later, the returned function returns.
    fn serve_one(&self, site: &Site) -> Result<Serve, Error>;

    /// A server for many RPCs at a time: echoes requests of up to [`crate::baseline::ECHO_UP_TO`] bytes, and answers
    /// longer ones by their first [`crate::baseline::RECEIPT_BYTES`].
    ///
    /// # Errors
    /// It cannot be set up.
    fn serve_many(&self, site: &Site, shape: Shape) -> Result<Serve, Error>;

    /// A client of [`Peer::serve_one`], connected. Called on the client's host, as what it returns is.
    ///
    /// # Errors
    /// No connection.
    fn pinger(&self, site: &Site) -> Result<Box<Ping>, Error>;

    /// A client of [`Peer::serve_many`], connected. Called on the client's host, as what it returns is.
    ///
    /// # Errors
    /// No connection.
    fn pipeline(&self, site: &Site, shape: Shape) -> Result<Box<dyn Pipeline>, Error>;
}

/// Listens at `address`, and says that clients may come.
fn listen(address: SocketAddr, serving: &Serving) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).map_err(Error::io("cannot listen"))?;
    serving.ready();
    Ok(listener)
}

/// Binds a UDP socket to `address`, and says that clients may come.
fn bind(address: SocketAddr, serving: &Serving) -> Result<UdpSocket, Error> {
    let socket = UdpSocket::bind(address).map_err(Error::io("cannot bind"))?;
    serving.ready();
    Ok(socket)
}

fn server_failed(source: io::Error) -> Error {
    Error::io("the server failed")(source)
}

fn client_failed(source: io::Error) -> Error {
    Error::io("the connection failed")(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transport_is_listed_once_and_has_its_floors() {
        assert_eq!(Transport::ALL, Transport::value_variants());
        for &transport in Transport::ALL {
            let is_smt = matches!(transport.role(), Role::Smt(_));
            assert_eq!(transport.floors().is_some(), is_smt, "{}", transport.name());
            let json = serde_json::to_value(transport).unwrap();
            assert_eq!(json, transport.name());
        }
        assert_eq!(Transport::SmtXdp.floors(), Some([Transport::BareXdp, Transport::FloorXdp]));
    }
}
