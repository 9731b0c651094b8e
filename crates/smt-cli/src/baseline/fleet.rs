//! Many RPCs at a time over TCP and TLS: on a connection each, watched by epoll, or all on one connection, where small
//! messages leave together and answers come in order.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{Timespec, epoll};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use super::buffered::Buffered;
pub use super::connection::Room;
use super::connection::{Connection, Outgoing, Unwaiting};
use super::tls::{client_channel, server_channel};
use super::{ECHO_UP_TO, Idle, LENGTH_BYTES, Pipeline, RECEIPT_BYTES, SILENCE, Wait, ended};
use crate::commands::Error;

/// How often an end that sleeps in the kernel looks whether it should stop.
const NAP: Duration = Duration::from_millis(50);
/// The same while something could not be sent.
const SHORT_NAP: Duration = Duration::from_millis(1);
/// A single connection needs no epoll but to notice another; of so many turns one looks.
const TURNS_PER_LOOK: u32 = 1 << 10;
/// The listener among the connections.
const LISTENER: u64 = u64::MAX;
/// Events taken at a time.
const EVENTS: usize = 256;

/// Connections of one end.
struct Connections<C> {
    wait: Wait,
    idle: Idle,
    epoll: rustix::fd::OwnedFd,
    all: Vec<Option<Connection<C>>>,
    /// Those with something to send.
    unsent: Vec<usize>,
    events: Vec<epoll::Event>,
    turns: u32,
}

impl<C: Unwaiting> Connections<C> {
    fn new(wait: Wait) -> io::Result<Connections<C>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let events = Vec::with_capacity(EVENTS);
        let idle = Idle::default();
        Ok(Connections { wait, idle, epoll, all: Vec::new(), unsent: Vec::new(), events, turns: 0 })
    }

    fn add(&mut self, mut connection: Connection<C>) -> io::Result<()> {
        let data = epoll::EventData::new_u64(self.all.len() as u64);
        epoll::add(&self.epoll, connection.link()?, data, epoll::EventFlags::IN)?;
        self.all.push(Some(connection));
        Ok(())
    }

    /// Sends what waits, then hands whole messages to `each`, with the number of their connection. Returns
    /// whether the listener has somebody. A connection that fails or ends is dropped.
    fn turn(
        &mut self,
        mut each: impl FnMut(usize, &[u8], &mut Outgoing<C>) -> io::Result<()>,
    ) -> io::Result<bool> {
        self.send();
        self.turns = self.turns.wrapping_add(1);
        if self.wait == Wait::Spin
            && let [connection @ Some(_)] = &mut self.all[..]
            && !self.turns.is_multiple_of(TURNS_PER_LOOK)
        {
            receive(connection, 0, &mut each);
            self.send_one(0);
            return Ok(false);
        }
        let nap = match self.idle.may_sleep(self.wait) {
            false => Duration::ZERO,
            true if self.unsent.is_empty() => NAP,
            true => SHORT_NAP,
        };
        let nap = Timespec::try_from(nap).map_err(io::Error::other)?;
        self.events.clear();
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, spare, Some(&nap)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !self.events.is_empty() {
            self.idle.worked();
        }
        let mut knocked = false;
        for index in 0..self.events.len() {
            let Some(number) = self.events.get(index).map(|event| event.data.u64()) else { break };
            if number == LISTENER {
                knocked = true;
                continue;
            }
            let number = number as usize;
            if let Some(connection) = self.all.get_mut(number) {
                receive(connection, number, &mut each);
                self.send_one(number);
            }
        }
        Ok(knocked)
    }

    /// Sends what waits on all connections.
    fn send(&mut self) {
        for number in std::mem::take(&mut self.unsent) {
            self.send_one(number);
        }
    }

    fn send_one(&mut self, number: usize) {
        let Some(connection) = self.all.get_mut(number) else { return };
        match connection.as_mut().map(|connection| connection.out.flush()) {
            Some(Ok(false)) => self.unsent.push(number),
            Some(Err(_)) => *connection = None,
            Some(Ok(true)) | None => {}
        }
    }

    fn count(&self) -> usize {
        self.all.iter().flatten().count()
    }
}

fn receive<C: Unwaiting>(
    connection: &mut Option<Connection<C>>,
    number: usize,
    each: &mut impl FnMut(usize, &[u8], &mut Outgoing<C>) -> io::Result<()>,
) {
    let Some(open) = connection else { return };
    if !open.receive(|message, out| each(number, message, out)).unwrap_or(false) {
        *connection = None;
    }
}

/// Serves all clients of `listener` over TCP until `stop` becomes true: echoes requests of up to [`ECHO_UP_TO`] bytes,
/// and acknowledges longer ones.
///
/// # Errors
/// The listener or epoll fails; a connection that fails is dropped.
pub fn serve_tcp(
    listener: &TcpListener,
    room: Room,
    wait: Wait,
    stop: &AtomicBool,
) -> io::Result<()> {
    serve(listener, room, wait, stop, Ok)
}

/// The same over TLS.
///
/// # Errors
/// As [`serve_tcp`].
pub fn serve_tls(
    listener: &TcpListener,
    config: &Arc<ServerConfig>,
    room: Room,
    wait: Wait,
    stop: &AtomicBool,
) -> io::Result<()> {
    serve(listener, room, wait, stop, |link| server_channel(link, config, room.read))
}

pub(super) fn serve<C: Unwaiting>(
    listener: &TcpListener,
    room: Room,
    wait: Wait,
    stop: &AtomicBool,
    channel: impl Fn(Buffered) -> io::Result<C>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut connections = Connections::new(wait)?;
    let data = epoll::EventData::new_u64(LISTENER);
    epoll::add(&connections.epoll, listener, data, epoll::EventFlags::IN)?;
    while !stop.load(Ordering::Relaxed) {
        if !connections.turn(|_, message, out| respond(message, out))? {
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                let channel = Buffered::new(stream).and_then(&channel)?;
                connections.add(Connection::new(channel, room))?;
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn respond<C: Unwaiting>(request: &[u8], out: &mut Outgoing<C>) -> io::Result<()> {
    if request.len() <= LENGTH_BYTES + ECHO_UP_TO {
        return out.answer(request);
    }
    let mut receipt = [0; LENGTH_BYTES + RECEIPT_BYTES];
    receipt[..LENGTH_BYTES].copy_from_slice(&(RECEIPT_BYTES as u32).to_be_bytes());
    receipt[LENGTH_BYTES..].copy_from_slice(&request[LENGTH_BYTES..][..RECEIPT_BYTES]);
    out.answer(&receipt)
}

/// A client with `count` connections over TCP to [`serve_tcp`].
///
/// # Errors
/// No connection.
pub fn connect_tcp(
    server: SocketAddr,
    count: usize,
    room: Room,
    wait: Wait,
) -> io::Result<Box<dyn Pipeline>> {
    connect(server, count, room, wait, Ok)
}

/// A client with `count` connections over TLS to [`serve_tls`], whose certificate has to name it `name`.
///
/// # Errors
/// No connection, or a failed handshake.
pub fn connect_tls(
    server: SocketAddr,
    name: &ServerName<'static>,
    config: &Arc<ClientConfig>,
    count: usize,
    room: Room,
    wait: Wait,
) -> io::Result<Box<dyn Pipeline>> {
    connect(server, count, room, wait, |link| {
        let mut channel = client_channel(link, config, name.clone(), room.read)?;
        finish(|| channel.handshake())?;
        Ok(channel)
    })
}

/// Goes on with a handshake on a connection that never waits until it is over.
pub(super) fn finish(mut go_on: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let until = Instant::now() + SILENCE;
    loop {
        match go_on() {
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                std::thread::yield_now();
            }
            outcome => return outcome,
        }
    }
}

pub(super) fn connect<C: Unwaiting + 'static>(
    server: SocketAddr,
    count: usize,
    room: Room,
    wait: Wait,
    channel: impl Fn(Buffered) -> io::Result<C>,
) -> io::Result<Box<dyn Pipeline>> {
    let mut connections = Connections::new(wait)?;
    for _ in 0..count {
        let stream = TcpStream::connect_timeout(&server, SILENCE)?;
        let channel = Buffered::new(stream).and_then(&channel)?;
        connections.add(Connection::new(channel, room))?;
    }
    let calls = (0..count).map(|_| VecDeque::new()).collect();
    Ok(Box::new(Fleet { connections, calls }))
}

/// A client's connections.
struct Fleet<C> {
    connections: Connections<C>,
    /// The calls of each, in order.
    calls: Vec<VecDeque<usize>>,
}

impl<C: Unwaiting> Pipeline for Fleet<C> {
    fn request(&self, body: &[u8]) -> Bytes {
        let length = (body.len() as u32).to_be_bytes();
        length.into_iter().chain(body.iter().copied()).collect()
    }

    fn call(&mut self, request: &Bytes, tag: usize) -> Result<(), Error> {
        let number = tag % self.calls.len().max(1);
        let connection = self.connections.all.get_mut(number).and_then(Option::as_mut);
        let (Some(connection), Some(calls)) = (connection, self.calls.get_mut(number)) else {
            return Err(Error::io("the connection is gone")(ended()));
        };
        calls.push_back(tag);
        self.connections.unsent.push(number);
        connection.out.request(request).map_err(Error::io("the connection failed"))
    }

    fn turn(&mut self, over: &mut Vec<(usize, usize)>) -> Result<(), Error> {
        let Fleet { connections, calls } = self;
        let turn = connections.turn(|number, message, _| {
            let tag = calls.get_mut(number).and_then(VecDeque::pop_front);
            over.push((tag.ok_or_else(ended)?, message.len() - LENGTH_BYTES));
            Ok(())
        });
        turn.map_err(Error::io("epoll failed"))?;
        if connections.count() < calls.len() {
            return Err(Error::io("a connection failed")(ended()));
        }
        Ok(())
    }
}
