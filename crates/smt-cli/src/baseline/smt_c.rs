//! The RPC over SMT by its C interface, as a C program uses it: each call, answer and event through the library's
//! functions, which copy messages and look engines up by their number.
//!
//! Sessions of the C interface are on secrets of another TLS stack. The handshake is not what is measured, so that here
//! they are constants, and the ends tell each other their offers over TCP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smt_capi::safe::{End, Happening, Refused, Role};

use super::rounds::Rounds;
use super::{Idle, MAX_MESSAGE_BYTES, Pipeline, Plan, SILENCE, Wait, invalid, receipt};
use crate::commands::Error;

/// Secrets of client and server; nobody's.
const SECRETS: [[u8; 32]; 2] = [[1; 32], [2; 32]];
/// How long an end that sleeps does so before it looks whether to end, in milliseconds.
const NAP_MS: i32 = 50;
/// Events in a row without one between looks whether to end.
const LOOKS: u32 = 1 << 12;
/// Bytes of a port and of the length of an offer's block.
const OFFER_HEADER_BYTES: usize = 4;

/// Serves one client, who comes to `listener` to make the session, until `stop` becomes true: echoes requests of up to
/// [`ECHO_UP_TO`](super::ECHO_UP_TO) bytes, and with `receipts` acknowledges longer ones. The engine is at the listener's address and SMT
/// port.
///
/// # Errors
///
/// There is no engine, or no session.
pub fn serve_smt_c(
    listener: &TcpListener,
    receipts: bool,
    wait: Wait,
    stop: &AtomicBool,
) -> io::Result<()> {
    let here = listener.local_addr()?;
    let mut end = End::new(here.ip(), Role::Server(here.port())).map_err(io::Error::other)?;
    listener.set_nonblocking(true)?;
    let (stream, client) = loop {
        match listener.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(1));
            }
            accepted => break accepted?,
        }
    };
    stream.set_nonblocking(false)?;
    open(&mut end, stream, client.ip())?;
    let mut waiting = Waiting::new(wait);
    loop {
        let answered = end.next(waiting.timeout_ms(), |happening| {
            let Happening::Request(rpc, request) = happening else { return };
            // A caller that no longer waits has failed already.
            let _ = end.reply(rpc, receipt(request, receipts).unwrap_or(request));
        });
        match answered.map_err(io::Error::other)? {
            Some(()) => waiting.worked(),
            None if waiting.is_time_to_look() && stop.load(Ordering::Relaxed) => return Ok(()),
            None => {}
        }
    }
}

/// Connects to [`serve_smt_c`] at `server`; what it returns measures round trips in nanoseconds, in order. Whatever a
/// plan says of waiting, it waits as told here.
///
/// # Errors
///
/// There is no engine, or no session; then no answer for ten seconds, or a wrong answer.
pub fn pinger_smt_c(
    server: SocketAddr,
    client: IpAddr,
    wait: Wait,
) -> io::Result<impl FnMut(&Plan) -> io::Result<Vec<u64>> + use<>> {
    let end = connect(server, client)?;
    Ok(move |plan: &Plan| ping(&end, wait, plan))
}

/// A client that can have many RPCs outstanding in one session with [`serve_smt_c`].
///
/// # Errors
///
/// There is no engine, or no session.
pub fn connect_smt_c(
    server: SocketAddr,
    client: IpAddr,
    wait: Wait,
) -> io::Result<Box<dyn Pipeline>> {
    Ok(Box::new(Calls { end: connect(server, client)?, waiting: Waiting::new(wait) }))
}

fn connect(server: SocketAddr, client: IpAddr) -> io::Result<End> {
    let mut end = End::new(client, Role::Client).map_err(io::Error::other)?;
    let stream = TcpStream::connect_timeout(&server, SILENCE)?;
    open(&mut end, stream, server.ip())?;
    Ok(end)
}

/// Tells the peer the offer of this end, and opens the session with the peer's.
fn open(end: &mut End, mut stream: TcpStream, peer: IpAddr) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    let (block, port) = end.offer();
    let len = u16::try_from(block.len()).map_err(io::Error::other)?;
    let header = [port.to_be_bytes(), len.to_be_bytes()].concat();
    stream.write_all(&[header, block].concat())?;
    let mut header = [0; OFFER_HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let [port_high, port_low, high, low] = header;
    let port = u16::from_be_bytes([port_high, port_low]);
    let mut block = vec![0; usize::from(u16::from_be_bytes([high, low]))];
    stream.read_exact(&mut block)?;
    let [client, server] = &SECRETS;
    end.open(peer, (&block, port), [client, server]).map_err(io::Error::other)?;
    // Neither calls before the other end is open as well.
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])
}

fn ping(end: &End, wait: Wait, plan: &Plan) -> io::Result<Vec<u64>> {
    if plan.size > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the message is too long"));
    }
    let request: Vec<u8> = (0..=250_u8).cycle().take(plan.size).collect();
    let mut rounds = Rounds::new(plan);
    let mut waiting = Waiting::new(wait);
    while let Some(round) = rounds.next() {
        let compared = if round < plan.warmup { request.len() } else { request.len().min(8) };
        let start = Instant::now();
        end.call(&request, round as u64).map_err(io::Error::other)?;
        let is_right = loop {
            let outcome = end.next(waiting.timeout_ms(), |happening| match happening {
                Happening::Response(_, response) => Some(Ok(response.len() == request.len()
                    && response.get(..compared) == request.get(..compared))),
                Happening::Failed(refused) => Some(Err(refused)),
                Happening::Request(..) | Happening::Other => None,
            });
            if let Some(outcome) = outcome.map_err(io::Error::other)?.flatten() {
                break outcome.map_err(io::Error::other)?;
            }
            if waiting.is_time_to_look() && start.elapsed() > SILENCE {
                return Err(ErrorKind::TimedOut.into());
            }
        };
        let over = Instant::now();
        waiting.worked();
        if !is_right {
            return Err(invalid("the response is not the request"));
        }
        rounds.over(start, over);
    }
    Ok(rounds.into_times())
}

/// How an engine is asked for events.
struct Waiting {
    wait: Wait,
    idle: Idle,
    looks: u32,
}

impl Waiting {
    fn new(wait: Wait) -> Waiting {
        Waiting { wait, idle: Idle::default(), looks: 0 }
    }

    fn timeout_ms(&mut self) -> i32 {
        if self.idle.may_sleep(self.wait) { NAP_MS } else { 0 }
    }

    fn worked(&mut self) {
        self.idle.worked();
    }

    fn is_time_to_look(&mut self) -> bool {
        self.looks = self.looks.wrapping_add(1);
        self.wait != Wait::Spin || self.looks.is_multiple_of(LOOKS)
    }
}

/// Many calls at a time.
struct Calls {
    end: End,
    waiting: Waiting,
}

impl Pipeline for Calls {
    fn request(&self, body: &[u8]) -> Bytes {
        Bytes::copy_from_slice(body)
    }

    fn call(&mut self, request: &Bytes, tag: usize) -> Result<(), Error> {
        self.end.call(request, tag as u64).map_err(failed)
    }

    fn turn(&mut self, over: &mut Vec<(usize, usize)>) -> Result<(), Error> {
        let take = |happening: Happening<'_>| match happening {
            Happening::Response(user, response) => Ok(Some((user as usize, response.len()))),
            Happening::Failed(refused) => Err(refused),
            Happening::Request(..) | Happening::Other => Ok(None),
        };
        let mut timeout_ms = self.waiting.timeout_ms();
        while let Some(happened) = self.end.next(timeout_ms, take).map_err(failed)? {
            self.waiting.worked();
            over.extend(happened.map_err(failed)?);
            timeout_ms = 0;
        }
        Ok(())
    }
}

fn failed(refused: Refused) -> Error {
    Error::Failed(format!("SMT by its C interface: {refused}"))
}
