//! The RPC over SMT under tokio, as most Rust programs use it: an endpoint at each end, on a runtime of one thread.
//!
//! The endpoint's driver waits for packets in epoll as every task does, and polls its engine when there are some.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use smt::{Builder, Endpoint, Incoming, Session};

use super::tasks::{Caller, Failure, Tasks, Turns, ping, worked};
use super::{Pipeline, Plan, Wait, receipt};

/// Serves all sessions of the endpoint that `builder` describes, until `stop` becomes true: echoes requests of up to
/// [`ECHO_UP_TO`](super::ECHO_UP_TO) bytes, and with `receipts` acknowledges longer ones. Calls `ready` once clients may come.
///
/// # Errors
///
/// The endpoint cannot be made.
pub fn serve_smt_tokio(
    builder: Builder,
    receipts: bool,
    wait: Wait,
    stop: &AtomicBool,
    ready: impl FnOnce(),
) -> io::Result<()> {
    let turns = Turns::new(wait)?;
    let endpoint = turns.run(async { builder.endpoint() }).map_err(io::Error::other)?;
    ready();
    let server = async {
        while let Some(session) = endpoint.accept().await {
            tokio::spawn(serve_session(session, receipts));
        }
        Err("the endpoint was closed".into())
    };
    turns.serve(server, stop, endpoint.close())
}

async fn serve_session(session: Session, receipts: bool) {
    // No request takes longer than another, so that a task for each would be in vain.
    while let Some(request) = session.accept().await {
        respond(request, receipts);
    }
}

fn respond(mut request: Incoming, receipts: bool) {
    let receipt = receipt(request.body(), receipts).map(Bytes::copy_from_slice);
    let response = receipt.unwrap_or_else(|| request.take_body().into());
    // A caller that no longer waits has failed already.
    request.reply(response);
    worked();
}

/// Connects to the server at `server`, whose certificate has to name it `name`; what it returns measures round trips
/// in nanoseconds, in order. Whatever a plan says of waiting, it waits as told here.
///
/// # Errors
///
/// No endpoint, or no session; then no answer for ten seconds, or a wrong answer.
pub fn pinger_smt_tokio(
    builder: Builder,
    server: SocketAddr,
    name: &str,
    wait: Wait,
) -> io::Result<impl FnMut(&Plan) -> io::Result<Vec<u64>> + use<>> {
    let turns = Turns::new(wait)?;
    let client = connect(&turns, builder, server, name)?;
    Ok(move |plan: &Plan| ping(&turns, &client, plan))
}

/// A client that can have many RPCs outstanding in one session with [`serve_smt_tokio`].
///
/// # Errors
///
/// No endpoint, or no session.
pub fn connect_smt_tokio(
    builder: Builder,
    server: SocketAddr,
    name: &str,
    wait: Wait,
) -> io::Result<Box<dyn Pipeline>> {
    let turns = Turns::new(wait)?;
    let client = connect(&turns, builder, server, name)?;
    Ok(Box::new(Tasks::new(turns, client)))
}

fn connect(turns: &Turns, builder: Builder, server: SocketAddr, name: &str) -> io::Result<Client> {
    turns.run_in_time(async {
        let endpoint: Endpoint = builder.endpoint()?;
        Ok(Client { session: endpoint.connect(server, name).await? })
    })
}

#[derive(Clone)]
struct Client {
    session: Session,
}

impl Caller for Client {
    async fn call(&self, request: Bytes) -> Result<Bytes, Failure> {
        Ok(self.session.call(request).await?.into())
    }
}
