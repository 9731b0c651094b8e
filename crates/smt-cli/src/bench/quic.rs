//! QUIC by quinn and rustls, each end on a runtime of one thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, Incoming, ServerConfig, VarInt};
use tokio::runtime::{self, Runtime};
use tokio::time::{sleep, timeout};

use super::contender::{Both, Client, Variant, What};
use super::ground::{Ground, SERVER_NAME};
use super::serving::{LOOK_EVERY, Server};
use super::{RPC_BYTES, failed, tls};
use crate::commands::Error;

/// The UDP port of the first contender.
const FIRST_PORT: u16 = 6000;
/// The application protocol, without which there is no QUIC.
const ALPN: &[u8] = b"bench";
/// How long an RPC may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the client stays for the tickets that come once its handshake is confirmed.
const FOR_TICKETS: Duration = Duration::from_millis(2);
/// Attempts to get tickets before giving up.
const ATTEMPTS: usize = 5;

/// Starts a server and makes a client.
pub(super) fn enter(ground: &Ground, what: What, index: u16) -> Result<Both, Error> {
    let address = ground.server_address(FIRST_PORT + index);
    let mut config = tls::server_config(&ground.credentials, what)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    if what.variant == Variant::Early {
        // The one other value than 0 that QUIC knows.
        config.max_early_data_size = u32::MAX;
    }
    let config = QuicServerConfig::try_from(config).map_err(failed("quinn refuses rustls"))?;
    let config = ServerConfig::with_crypto(Arc::new(config));
    let server = Server::start(ground, move |serving| {
        let runtime = new_runtime()?;
        runtime.block_on(async {
            let endpoint = Endpoint::server(config, address).map_err(Error::io("cannot listen"))?;
            serving.ready();
            while !serving.is_over() {
                if let Ok(Some(incoming)) = timeout(LOOK_EVERY, endpoint.accept()).await {
                    // A client whose connection fails finds out for itself.
                    let _ = serve(incoming).await;
                    serving.done();
                }
            }
            Ok(())
        })
    })?;

    let mut config = tls::client_config(&ground.credentials, what)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_early_data = what.variant == Variant::Early;
    let config = QuicClientConfig::try_from(config).map_err(failed("quinn refuses rustls"))?;
    let runtime = new_runtime()?;
    let endpoint = {
        let _inside = runtime.enter();
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut endpoint = Endpoint::client(any).map_err(Error::io("cannot bind"))?;
        endpoint.set_default_client_config(ClientConfig::new(Arc::new(config)));
        endpoint
    };
    let early = what.variant == Variant::Early;
    Ok((server, Box::new(QuicClient { runtime, endpoint, address, early })))
}

fn new_runtime() -> Result<Runtime, Error> {
    runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io("no runtime"))
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn serve(incoming: Incoming) -> Result<(), Failure> {
    // Requests of the first flight are taken before the handshake is over.
    let connection = match incoming.accept()?.into_0rtt() {
        Ok((connection, _)) => connection,
        Err(connecting) => connecting.await?,
    };
    let (mut send, mut receive) = connection.accept_bi().await?;
    let request = receive.read_to_end(RPC_BYTES).await?;
    send.write_all(&request).await?;
    send.finish()?;
    connection.closed().await;
    Ok(())
}

struct QuicClient {
    runtime: Runtime,
    endpoint: Endpoint,
    address: SocketAddr,
    early: bool,
}

impl Client for QuicClient {
    fn first_rpc(&mut self) -> Result<Duration, Error> {
        for _ in 0..ATTEMPTS {
            let once = async { timeout(PATIENCE, self.once()).await? };
            let (elapsed, early) = self.runtime.block_on(once).map_err(failed("QUIC"))?;
            if early == self.early {
                return Ok(elapsed);
            }
        }
        Err(Error::Failed("quinn did not send its request in the first flight".to_owned()))
    }
}

impl QuicClient {
    /// One connection: how long the RPC took, and whether it was in the first flight and taken.
    async fn once(&self) -> Result<(Duration, bool), Failure> {
        let request = [7; RPC_BYTES];
        let start = Instant::now();
        let connecting = self.endpoint.connect(self.address, SERVER_NAME)?;
        let (connection, accepted) = if self.early {
            match connecting.into_0rtt() {
                Ok((connection, accepted)) => (connection, Some(accepted)),
                Err(connecting) => (connecting.await?, None),
            }
        } else {
            (connecting.await?, None)
        };
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(&request).await?;
        send.finish()?;
        let response = receive.read_to_end(RPC_BYTES).await?;
        let elapsed = start.elapsed();
        if response[..] != request {
            return Err("the response is not the request".into());
        }
        let accepted = match accepted {
            Some(accepted) => accepted.await,
            None => false,
        };
        if self.early {
            sleep(FOR_TICKETS).await;
        }
        connection.close(VarInt::from_u32(0), b"");
        // Lets the driver of the connection send that.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        Ok((elapsed, accepted))
    }
}
