//! A datapath without any protocol: packets there and back, plain, or sealed and opened as SMT's are. What that takes is
//! the floor under SMT over that datapath.

mod end;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use smt::datapath::{OpenOptions, open};
use smt::proto::wire::{Data, Header};

use self::end::{End, Sealing, Side};
use super::super::serving::Serving;
use super::{Peer, Ping, Serve, Shape, Site};
use crate::baseline::{Pipeline, Plan, Rounds, Wait};
use crate::commands::Error;
use crate::commands::datapath::DatapathChoice;

/// The server's SMT port.
const PORT: u16 = 4434;
/// A message this late is lost.
const PATIENCE: Duration = Duration::from_millis(200);
/// Messages that may be lost before something else is wrong than the network.
const MOST_LOST: u32 = 10;
/// Looks for packets between looks whether to end.
const LOOKS: u32 = 1 << 12;
/// Bits of a message's ID that tell which of many it is.
const TAG_BITS: u32 = 16;

/// A datapath with this work alone.
#[derive(Clone, Copy)]
pub(super) struct Bare(pub(super) DatapathChoice, pub(super) Work);

impl Peer for Bare {
    fn serve_one(&self, site: &Site) -> Result<Serve, Error> {
        let (Bare(kind, work), bind, wait) = (*self, site.server, site.wait);
        Ok(Box::new(move |serving| serve(kind, work, bind, wait, serving)))
    }

    fn serve_many(&self, site: &Site, _shape: Shape) -> Result<Serve, Error> {
        self.serve_one(site)
    }

    fn pinger(&self, site: &Site) -> Result<Box<Ping>, Error> {
        let mut client = Client::open(self.0, self.1, site)?;
        Ok(Box::new(move |plan| client.ping(plan)))
    }

    fn pipeline(&self, site: &Site, _shape: Shape) -> Result<Box<dyn Pipeline>, Error> {
        Ok(Box::new(Messages::new(Client::open(self.0, self.1, site)?)))
    }
}

/// What is done with messages beside carrying them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Nothing.
    Nothing,
    /// They are sealed and opened, in the records that SMT would cut them into.
    Aead,
}

impl Work {
    fn sealing(self, side: Side) -> Option<Sealing> {
        (self == Work::Aead).then(|| Sealing::new(side))
    }
}

/// Sends every message back until it is over.
///
/// # Errors
/// The datapath cannot be opened, or fails.
fn serve(
    kind: DatapathChoice,
    work: Work,
    bind: IpAddr,
    wait: Wait,
    serving: &Serving,
) -> Result<(), Error> {
    let options = OpenOptions {
        kind: kind.kind(),
        bind,
        listen: Some(PORT),
        client: false,
        ..OpenOptions::default()
    };
    let opened = open(options).map_err(smt::BindError::from)?;
    serving.ready();
    let mut end = End::new(opened.datapath, wait, work.sealing(Side::Server));
    let mut messages = Vec::new();
    let mut looks: u32 = 0;
    loop {
        end.receive(&mut messages).map_err(failed)?;
        if !messages.is_empty() {
            for (message, from) in messages.drain(..) {
                let Header { src_port, dst_port, .. } = message.header;
                let header = Header { src_port: dst_port, dst_port: src_port, ..message.header };
                let answer = Data { header, ..message };
                end.send(&answer, from).map_err(failed)?;
            }
            end.flush().map_err(failed)?;
        }
        looks = looks.wrapping_add(1);
        if (wait != Wait::Spin || looks.is_multiple_of(LOOKS)) && serving.is_over() {
            return Ok(());
        }
    }
}

/// A client's end.
struct Client {
    end: End,
    server: SocketAddr,
    /// The client's SMT port.
    port: u16,
    wait: Wait,
    /// IDs used so far: none is used twice with a key.
    id: u64,
}

impl Client {
    /// Opens the datapath.
    ///
    /// # Errors
    /// It cannot be opened.
    fn open(kind: DatapathChoice, work: Work, site: &Site) -> Result<Client, Error> {
        let (bind, wait) = (site.client, site.wait);
        let options = OpenOptions { kind: kind.kind(), bind, ..OpenOptions::default() };
        let opened = open(options).map_err(smt::BindError::from)?;
        let udp_port = if kind == DatapathChoice::Udp { PORT } else { 0 };
        let server = SocketAddr::new(site.server, udp_port);
        let port = opened.client_ports.start;
        let end = End::new(opened.datapath, wait, work.sealing(Side::Client));
        Ok(Client { end, server, port, wait, id: 0 })
    }

    /// Round trips in nanoseconds, one at a time; lost ones are not among them.
    ///
    /// # Errors
    /// The datapath fails, or too many messages are lost.
    fn ping(&mut self, plan: &Plan) -> Result<Vec<u64>, Error> {
        let mut message = self.end.message(self.port, self.server, plan.size).map_err(failed)?;
        let mut rounds = Rounds::new(plan);
        let mut lost = 0;
        while rounds.next().is_some() {
            loop {
                self.id += 1;
                message.header.message_id = self.id;
                let start = Instant::now();
                let sent = self.end.send(&message, self.server).and_then(|()| self.end.flush());
                sent.map_err(failed)?;
                if self.await_answer()? {
                    rounds.over(start, Instant::now());
                    break;
                }
                lost += 1;
                if lost > MOST_LOST {
                    return Err(Error::Failed("packets are lost".to_owned()));
                }
            }
        }
        Ok(rounds.into_times())
    }

    /// Whether the answer to the last message comes in time.
    fn await_answer(&mut self) -> Result<bool, Error> {
        let mut since = None;
        let mut looks: u32 = 0;
        let mut whole = Vec::new();
        loop {
            self.end.receive(&mut whole).map_err(failed)?;
            if whole.drain(..).any(|(data, _)| data.header.message_id == self.id) {
                return Ok(true);
            }
            looks = looks.wrapping_add(1);
            if (self.wait != Wait::Spin || looks.is_multiple_of(LOOKS))
                && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
            {
                return Ok(false);
            }
        }
    }
}

/// Many messages at a time, of one packet each.
struct Messages {
    client: Client,
    /// The message that was sent last; the next one differs in its ID alone.
    last: Option<(usize, Data)>,
    arrived: Vec<(Data, SocketAddr)>,
}

impl Messages {
    fn new(client: Client) -> Messages {
        Messages { client, last: None, arrived: Vec::new() }
    }
}

impl Pipeline for Messages {
    fn request(&self, body: &[u8]) -> Bytes {
        Bytes::copy_from_slice(body)
    }

    fn call(&mut self, request: &Bytes, tag: usize) -> Result<(), Error> {
        let Client { end, server, port, id, .. } = &mut self.client;
        let size = request.len();
        let known = self.last.filter(|(of, _)| *of == size).map(|(_, message)| message);
        let mut message = match known {
            Some(message) => message,
            None => end.message(*port, *server, size).map_err(failed)?,
        };
        self.last = Some((size, message));
        *id += 1;
        message.header.message_id = *id << TAG_BITS | tag as u64;
        end.send(&message, *server).map_err(failed)
    }

    fn turn(&mut self, over: &mut Vec<(usize, usize)>) -> Result<(), Error> {
        let end = &mut self.client.end;
        end.flush().and_then(|()| end.receive(&mut self.arrived)).map_err(failed)?;
        let size = self.last.map_or(0, |(size, _)| size);
        over.extend(self.arrived.drain(..).map(|(message, _)| {
            (message.header.message_id as usize & ((1 << TAG_BITS) - 1), size)
        }));
        Ok(())
    }
}

fn failed(source: io::Error) -> Error {
    Error::io("the datapath failed")(source)
}
