//! The RPC by gRPC: unary calls of tonic on one HTTP/2 connection over TLS 1.3 on TCP by rustls; AES-128-GCM, X25519,
//! certificates on both sides. Messages are bytes as they are, so that no serialization is measured.
//!
//! The client is tonic's channel, the server tonic's service under hyper, as tonic's own is. Windows do not limit.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::UnaryService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::tasks::{Caller, Failure, Tasks, Turns, ping, worked};
use super::{MAX_MESSAGE_BYTES, Pipeline, Plan, Wait, response};

/// The application protocol: HTTP/2.
const ALPN: &[u8] = b"h2";
/// The method.
const PATH: &str = "/bench.Echo/Echo";
/// Calls that may be under way on a connection.
const STREAMS: u32 = 1 << 12;
/// Bytes of a call that may be under way: more than any message has.
const STREAM_WINDOW: u32 = 2 * MAX_MESSAGE_BYTES as u32;
/// Bytes that may be under way on a connection.
const WINDOW: u32 = 64 << 20;
/// Bytes of a frame: as much as goes into a TLS record without its header.
const FRAME_BYTES: u32 = 16 << 10;

/// Serves all clients of `listener` until `stop` becomes true: echoes requests of up to [`ECHO_UP_TO`](super::ECHO_UP_TO) bytes, and with
/// `receipts` acknowledges longer ones.
///
/// Clients may connect as soon as `listener` exists.
///
/// # Errors
///
/// The listener fails; a connection that fails is dropped.
pub fn serve_grpc(
    listener: TcpListener,
    config: &rustls::ServerConfig,
    receipts: bool,
    wait: Wait,
    stop: &AtomicBool,
) -> io::Result<()> {
    let mut config = config.clone();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let turns = Turns::new(wait)?;
    listener.set_nonblocking(true)?;
    let server = async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(serve_connection(stream, acceptor.clone(), Echo { receipts }));
        }
    };
    turns.serve(server, stop, ready(()))
}

async fn serve_connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    echo: Echo,
) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(echo))
        .await?;
    Ok(())
}

/// Connects to the server at `server`, whose certificate has to name it `name`; what it returns measures round trips
/// in nanoseconds, in order. Whatever a plan says of waiting, it waits as told here.
///
/// # Errors
///
/// No connection, or a failed handshake; then no answer for ten seconds, or a wrong answer.
pub fn pinger_grpc(
    server: SocketAddr,
    name: ServerName<'static>,
    config: &rustls::ClientConfig,
    wait: Wait,
) -> io::Result<impl FnMut(&Plan) -> io::Result<Vec<u64>> + use<>> {
    let turns = Turns::new(wait)?;
    let client = connect(&turns, server, name, config)?;
    Ok(move |plan: &Plan| ping(&turns, &client, plan))
}

/// A client that can have many calls outstanding on one connection to [`serve_grpc`].
///
/// # Errors
///
/// No connection, or a failed handshake.
pub fn connect_grpc(
    server: SocketAddr,
    name: ServerName<'static>,
    config: &rustls::ClientConfig,
    wait: Wait,
) -> io::Result<Box<dyn Pipeline>> {
    let turns = Turns::new(wait)?;
    let client = connect(&turns, server, name, config)?;
    Ok(Box::new(Tasks::new(turns, client)))
}

fn connect(
    turns: &Turns,
    server: SocketAddr,
    name: ServerName<'static>,
    config: &rustls::ClientConfig,
) -> io::Result<Client> {
    let mut config = config.clone();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    // TLS is the connector's: tonic's own has no choice of suites.
    let endpoint = Endpoint::from_shared(format!("http://{}", name.to_str())).map_err(failed)?;
    let endpoint = endpoint
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME_BYTES);
    let connecting = tower::service_fn(move |_| {
        let (connector, name) = (connector.clone(), name.clone());
        async move {
            let stream = TcpStream::connect(server).await?;
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    turns.run_in_time(async {
        let channel = endpoint.connect_with_connector(connecting).await?;
        Ok(Client { grpc: tonic::client::Grpc::new(channel) })
    })
}

fn failed(error: impl Into<Failure>) -> io::Error {
    io::Error::other(error)
}

#[derive(Clone)]
struct Client {
    grpc: tonic::client::Grpc<Channel>,
}

impl Caller for Client {
    async fn call(&self, request: Bytes) -> Result<Bytes, Failure> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await?;
        let path = PathAndQuery::from_static(PATH);
        Ok(grpc.unary(Request::new(request), path, Raw).await?.into_inner())
    }
}

/// The service.
#[derive(Clone, Copy)]
struct Echo {
    receipts: bool,
}

impl Service<http::Request<hyper::body::Incoming>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<hyper::body::Incoming>) -> Self::Future {
        let echo = *self;
        Box::pin(async move {
            if request.uri().path() != PATH {
                return Ok(Status::unimplemented("there is no such method").into_http());
            }
            Ok(tonic::server::Grpc::new(Raw).unary(echo, request).await)
        })
    }
}

impl UnaryService<Bytes> for Echo {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        worked();
        ready(Ok(Response::new(response(request.into_inner(), self.receipts))))
    }
}

/// Bytes as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
