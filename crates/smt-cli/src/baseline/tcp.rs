//! The RPC over plain TCP: fast, and open to everybody on the way.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;

use super::pipe::{Link, Pipe, accept_each};
use super::{Channel, Plan, SILENCE, Wait, ping, serve};

impl<L: Link> Channel for L {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.read(into)
    }
}

/// Serves the clients of `listener`, one after the other, until `stop` becomes true.
///
/// Clients may connect as soon as `listener` exists.
///
/// # Errors
///
/// The listener fails; a connection that fails is dropped.
pub fn serve_tcp(listener: &TcpListener, wait: Wait, stop: &AtomicBool) -> io::Result<()> {
    accept_each(listener, wait, stop, |mut pipe| serve(&mut pipe))
}

/// Measures round trips to the server at `server`; returns them in nanoseconds, in order.
///
/// # Errors
///
/// No connection, no answer for ten seconds, or a wrong answer.
pub fn ping_tcp(server: SocketAddr, plan: &Plan) -> io::Result<Vec<u64>> {
    pinger_tcp(server, plan.wait)?(plan)
}

/// Connects to the server at `server`; what it returns measures as [`ping_tcp`] does, on that one connection. Whatever
/// a plan says of waiting, it waits as told here.
///
/// # Errors
///
/// No connection.
pub fn pinger_tcp(
    server: SocketAddr,
    wait: Wait,
) -> io::Result<impl FnMut(&Plan) -> io::Result<Vec<u64>>> {
    let mut pipe = Pipe::connect(server, wait, SILENCE)?;
    Ok(move |plan: &Plan| ping(&mut pipe, plan))
}
