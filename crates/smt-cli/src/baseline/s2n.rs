//! The RPC over QUIC, by s2n-quic and rustls, on the same terms as [`super::quinn`]: a stream of its own for each RPC,
//! all on one connection; AES-128-GCM, X25519, certificates on both sides; packets as long as the link takes.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use s2n_quic::Server;
use s2n_quic::client::{Client as Endpoint, Connect};
use s2n_quic::connection::{Connection, Handle};
use s2n_quic::provider::io::tokio::{Builder, Provider};
use s2n_quic::provider::limits::Limits;
use s2n_quic::provider::tls::rustls as tls;
use s2n_quic::stream::{BidirectionalStream, ReceiveStream};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::quinn::{SOCKET_BYTES, any, ask_for_room};
use super::tasks::{Caller, Failure, Tasks, Turns, ping, worked};
use super::{ECHO_UP_TO, MAX_MESSAGE_BYTES, Pipeline, Plan, SILENCE, Wait, invalid, response};

/// The application protocol, without which there is no QUIC.
const ALPN: &[u8] = b"bench";
/// RPCs that may be under way on a connection.
const STREAMS: u64 = 1 << 12;
/// Bytes of a stream that may be under way: more than any message has.
const STREAM_WINDOW: u64 = 2 * MAX_MESSAGE_BYTES as u64;
/// Bytes that may be under way, and wait to be acknowledged, on a connection.
const WINDOW: u64 = 64 << 20;
/// How long an endpoint that ends has to tell its clients.
const PARTING: Duration = Duration::from_millis(20);

/// Serves all clients of `socket` until `stop` becomes true, over a link of `mtu` bytes: echoes requests of up to
/// [`ECHO_UP_TO`] bytes, and with `receipts` acknowledges longer ones.
///
/// Clients may connect as soon as `socket` is bound.
///
/// # Errors
///
/// The socket fails, or s2n-quic does not take the configuration; a connection that fails is dropped.
pub fn serve_s2n(
    socket: UdpSocket,
    config: &rustls::ServerConfig,
    mtu: u32,
    receipts: bool,
    wait: Wait,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut config = config.clone();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let turns = Turns::new(wait)?;
    let mut server = turns.run(async {
        let started = Server::builder()
            .with_tls(tls::Server::from(Arc::new(config)))?
            .with_io(io_of(socket, mtu)?)?
            .with_limits(limits()?)?
            .start()?;
        Ok::<_, Failure>(started)
    });
    let server = server.as_mut().map_err(|error| io::Error::other(error.to_string()))?;
    let closing = Arc::new(Notify::new());
    turns.serve(
        async {
            while let Some(connection) = server.accept().await {
                tokio::spawn(serve_connection(connection, receipts, Arc::clone(&closing)));
            }
            Ok(())
        },
        stop,
        async {
            closing.notify_waiters();
            sleep(PARTING).await;
        },
    )
}

/// Serves until the client leaves, or closes the connection when it is told to.
async fn serve_connection(
    mut connection: Connection,
    receipts: bool,
    closing: Arc<Notify>,
) -> Result<(), Failure> {
    let closing = closing.notified();
    tokio::pin!(closing);
    loop {
        let stream = tokio::select! {
            biased;
            stream = connection.accept_bidirectional_stream() => stream?,
            () = &mut closing => None,
        };
        let Some(stream) = stream else {
            connection.close(0_u32.into());
            return Ok(());
        };
        tokio::spawn(respond(stream, receipts));
    }
}

async fn respond(stream: BidirectionalStream, receipts: bool) -> Result<(), Failure> {
    let (receive, mut send) = stream.split();
    let request = receive_all(receive).await?;
    send.send_data(response(request, receipts))?;
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
pub fn pinger_s2n(
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

/// A client that can have many RPCs outstanding on one connection to [`serve_s2n`].
///
/// # Errors
///
/// No connection, or a failed handshake.
pub fn connect_s2n(
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
    turns.run_in_time(async {
        let endpoint = Endpoint::builder()
            .with_tls(tls::Client::from(Arc::new(config)))?
            .with_io(io_of(UdpSocket::bind(any(server))?, mtu)?)?
            .with_limits(limits()?)?
            .start()?;
        let connect = Connect::new(server).with_server_name(name);
        let mut connection = endpoint.connect(connect).await?;
        connection.keep_alive(true)?;
        let (handle, acceptor) = connection.split();
        // Nobody opens streams to a client; without the acceptor the connection would end with its last stream.
        Ok(Client { handle, _endpoint: endpoint, _acceptor: Arc::new(acceptor) })
    })
}

fn io_of(socket: UdpSocket, mtu: u32) -> io::Result<Provider> {
    ask_for_room(&socket);
    let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
    Builder::default()
        .with_rx_socket(socket)?
        .with_max_mtu(mtu)?
        .with_initial_mtu(mtu)?
        .with_internal_send_buffer_size(SOCKET_BYTES)?
        .with_internal_recv_buffer_size(SOCKET_BYTES)?
        .build()
}

fn limits() -> Result<Limits, Failure> {
    Ok(Limits::new()
        .with_data_window(WINDOW)?
        .with_bidirectional_local_data_window(STREAM_WINDOW)?
        .with_bidirectional_remote_data_window(STREAM_WINDOW)?
        .with_max_open_local_bidirectional_streams(STREAMS)?
        .with_max_open_remote_bidirectional_streams(STREAMS)?
        .with_max_send_buffer_size(STREAM_WINDOW as u32)?
        .with_max_idle_timeout(SILENCE)?
        .with_max_keep_alive_period(SILENCE / 3)?)
}

#[derive(Clone)]
struct Client {
    handle: Handle,
    /// Ends when nobody has it.
    _endpoint: Endpoint,
    _acceptor: Arc<s2n_quic::connection::StreamAcceptor>,
}

impl Caller for Client {
    async fn call(&self, request: Bytes) -> Result<Bytes, Failure> {
        let stream = self.handle.clone().open_bidirectional_stream().await?;
        let (receive, mut send) = stream.split();
        send.send_data(request)?;
        send.finish()?;
        receive_all(receive).await
    }
}

/// Everything up to the end of a stream; in one piece if it comes in one.
async fn receive_all(mut stream: ReceiveStream) -> Result<Bytes, Failure> {
    let Some(first) = stream.receive().await? else { return Ok(Bytes::new()) };
    let Some(second) = stream.receive().await? else { return Ok(first) };
    let mut all = BytesMut::with_capacity(ECHO_UP_TO);
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    while let Some(more) = stream.receive().await? {
        all.extend_from_slice(&more);
        if all.len() > MAX_MESSAGE_BYTES {
            return Err(invalid("the message is longer than it may be").into());
        }
    }
    Ok(all.freeze())
}
