//! The RPC over QUIC, by quinn and rustls: a stream of its own for each RPC, all on one connection; AES-128-GCM,
//! X25519, certificates on both sides.
//!
//! Packets are as long as the link takes from the start, windows do not limit, and the kernel segments and coalesces
//! datagrams; congestion control and acknowledgements are quinn's own. Either end is a thread with tokio's runtime for
//! one thread (the module `tasks` tells how it spins).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    Connection, Endpoint, EndpointConfig, Incoming, MtuDiscoveryConfig, RecvStream, SendStream,
    TokioRuntime, TransportConfig, VarInt,
};

use super::tasks::{Caller, Failure, Tasks, Turns, ping, worked};
use super::{MAX_MESSAGE_BYTES, Pipeline, Plan, SILENCE, Wait, response};

/// The application protocol, without which there is no QUIC.
const ALPN: &[u8] = b"bench";
/// RPCs that may be under way on a connection.
const STREAMS: u32 = 1 << 12;
/// Bytes of a stream that may be under way: more than any message has.
const STREAM_WINDOW: u32 = 2 * MAX_MESSAGE_BYTES as u32;
/// Bytes that may wait to be acknowledged on a connection.
const SEND_WINDOW: u64 = 64 << 20;
/// Bytes asked of the kernel for the packets that wait in a socket.
pub(super) const SOCKET_BYTES: usize = 8 << 20;
/// Headers of IP and UDP.
const HEADERS: [u16; 2] = [20 + 8, 40 + 8];
/// The least that QUIC can do with.
const LEAST_PACKET: u16 = 1200;

/// Serves all clients of `socket` until `stop` becomes true, over a link of `mtu` bytes: echoes requests of up to
/// [`ECHO_UP_TO`](super::ECHO_UP_TO) bytes, and with `receipts` acknowledges longer ones.
///
/// Clients may connect as soon as `socket` is bound.
///
/// # Errors
///
/// The socket fails, or quinn does not take the configuration; a connection that fails is dropped.
pub fn serve_quinn(
    socket: UdpSocket,
    config: &rustls::ServerConfig,
    mtu: u32,
    receipts: bool,
    wait: Wait,
    stop: &AtomicBool,
) -> io::Result<()> {
    let address = socket.local_addr()?;
    let mut config = config.clone();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let config = QuicServerConfig::try_from(config).map_err(io::Error::other)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(config));
    let packet = packet_bytes(mtu, address.ip());
    config.transport_config(Arc::new(transport(packet)));
    let turns = Turns::new(wait)?;
    let endpoint = turns.run(async { endpoint(socket, packet, Some(config)) })?;
    let server = async {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(serve_connection(incoming, receipts));
        }
        Ok(())
    };
    turns.serve(server, stop, async {
        endpoint.close(VarInt::from_u32(0), b"");
        endpoint.wait_idle().await;
    })
}

async fn serve_connection(incoming: Incoming, receipts: bool) -> Result<(), Failure> {
    let connection = incoming.await?;
    loop {
        let (send, receive) = connection.accept_bi().await?;
        tokio::spawn(respond(send, receive, receipts));
    }
}

async fn respond(
    mut send: SendStream,
    mut receive: RecvStream,
    receipts: bool,
) -> Result<(), Failure> {
    let request = Bytes::from(receive.read_to_end(MAX_MESSAGE_BYTES).await?);
    send.write_chunk(response(request, receipts)).await?;
    send.finish()?;
    worked();
    Ok(())
}

/// Connects to the server at `server`, whose certificate has to name it `name`, over a link of `mtu` bytes; what it
/// returns measures round trips in nanoseconds, in order. Whatever a plan says of waiting, it waits as told here.
///
/// # Errors
///
/// No connection, or a failed handshake; then no answer for ten seconds, or a wrong answer.
pub fn pinger_quinn(
    server: SocketAddr,
    name: &str,
    config: &rustls::ClientConfig,
    mtu: u32,
    wait: Wait,
) -> io::Result<impl FnMut(&Plan) -> io::Result<Vec<u64>> + use<>> {
    let turns = Turns::new(wait)?;
    let client = connect(&turns, server, name, config, mtu)?;
    Ok(move |plan: &Plan| ping(&turns, &client, plan))
}

/// A client that can have many RPCs outstanding on one connection to [`serve_quinn`].
///
/// # Errors
///
/// No connection, or a failed handshake.
pub fn connect_quinn(
    server: SocketAddr,
    name: &str,
    config: &rustls::ClientConfig,
    mtu: u32,
    wait: Wait,
) -> io::Result<Box<dyn Pipeline>> {
    let turns = Turns::new(wait)?;
    let client = connect(&turns, server, name, config, mtu)?;
    Ok(Box::new(Tasks::new(turns, client)))
}

fn connect(
    turns: &Turns,
    server: SocketAddr,
    name: &str,
    config: &rustls::ClientConfig,
    mtu: u32,
) -> io::Result<Client> {
    let mut config = config.clone();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let config = QuicClientConfig::try_from(config).map_err(io::Error::other)?;
    let mut config = quinn::ClientConfig::new(Arc::new(config));
    let packet = packet_bytes(mtu, server.ip());
    config.transport_config(Arc::new(transport(packet)));
    turns.run_in_time(async {
        let endpoint = endpoint(UdpSocket::bind(any(server))?, packet, None)?;
        let connection = endpoint.connect_with(config, server, name)?.await?;
        Ok(Client { connection, _endpoint: endpoint })
    })
}

/// An address of no host in particular, of the same kind as `like`.
pub(super) fn any(like: SocketAddr) -> SocketAddr {
    let any: IpAddr =
        if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, 0)
}

/// To be called inside a runtime.
fn endpoint(
    socket: UdpSocket,
    packet: u16,
    server: Option<quinn::ServerConfig>,
) -> io::Result<Endpoint> {
    ask_for_room(&socket);
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(packet).map_err(io::Error::other)?;
    Endpoint::new(config, server, socket, Arc::new(TokioRuntime))
}

/// As much as this process may have.
pub(super) fn ask_for_room(socket: &UdpSocket) {
    use rustix::net::sockopt::{
        set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
    };
    // Who may not have all that has less: what is lost is sent again.
    let _ = set_socket_recv_buffer_size_force(socket, SOCKET_BYTES)
        .or_else(|_| set_socket_recv_buffer_size(socket, SOCKET_BYTES));
    let _ = set_socket_send_buffer_size(socket, SOCKET_BYTES);
}

fn transport(packet: u16) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(packet);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .send_window(SEND_WINDOW)
        .initial_mtu(packet)
        .mtu_discovery_config(Some(discovery))
        .keep_alive_interval(Some(SILENCE / 3))
        .max_idle_timeout(Duration::try_into(SILENCE).ok());
    transport
}

/// The largest payload of a datagram that a link of `mtu` bytes carries whole.
pub(super) fn packet_bytes(mtu: u32, address: IpAddr) -> u16 {
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    mtu.saturating_sub(HEADERS[usize::from(address.is_ipv6())]).max(LEAST_PACKET)
}

#[derive(Clone)]
struct Client {
    connection: Connection,
    /// Ends when nobody has it.
    _endpoint: Endpoint,
}

impl Caller for Client {
    async fn call(&self, request: Bytes) -> Result<Bytes, Failure> {
        let (mut send, mut receive) = self.connection.open_bi().await?;
        send.write_chunk(request).await?;
        send.finish()?;
        Ok(receive.read_to_end(MAX_MESSAGE_BYTES).await?.into())
    }
}
