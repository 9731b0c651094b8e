//! A datapath without any protocol: packets there and back, both ends spinning. What it takes is the floor under SMT's
//! round trips over that datapath.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use smt::datapath::{Datapath, OpenOptions, Opened, TxMeta, open};
use smt::proto::wire::{DATA_LEN, Data, FIRST_EPOCH, Header, MAX_RECORD_SIZE, epoch_to_wire};

use super::super::ground::Ground;
use super::super::serving::Serving;
use crate::baseline::{Plan, Rounds, Wait};
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

/// Sends every message back until it is over.
///
/// # Errors
/// The datapath cannot be opened, or fails.
pub(super) fn serve(
    kind: DatapathChoice,
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
    let mut opened = open(options).map_err(smt::BindError::from)?;
    serving.ready();
    let mut end = End::new(opened.datapath.as_mut(), wait);
    let mut looks: u32 = 0;
    loop {
        if let Some((message, from)) = end.receive().map_err(failed)? {
            let Header { src_port, dst_port, .. } = message.header;
            let header = Header { src_port: dst_port, dst_port: src_port, ..message.header };
            end.send(&Data { header, ..message }, from).map_err(failed)?;
        }
        looks = looks.wrapping_add(1);
        if (wait == Wait::Block || looks.is_multiple_of(LOOKS)) && serving.is_over() {
            return Ok(());
        }
    }
}

/// A client's end.
pub(super) struct Pinger {
    opened: Opened,
    server: SocketAddr,
    id: u64,
    wait: Wait,
}

impl Pinger {
    /// Opens the datapath.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(kind: DatapathChoice, ground: &Ground, wait: Wait) -> Result<Pinger, Error> {
        let bind = ground.pair.a_v4.into();
        let options = OpenOptions { kind: kind.kind(), bind, ..OpenOptions::default() };
        let opened = open(options).map_err(smt::BindError::from)?;
        let port = if kind == DatapathChoice::Udp { PORT } else { 0 };
        Ok(Pinger { opened, server: ground.server_address(port), id: 0, wait })
    }

    /// Round trips in nanoseconds; lost ones are not among them.
    ///
    /// # Errors
    /// The datapath fails, or too many messages are lost.
    pub(super) fn ping(&mut self, plan: &Plan) -> Result<Vec<u64>, Error> {
        let mut end = End::new(self.opened.datapath.as_mut(), self.wait);
        let mut message = message(self.opened.client_ports.start, plan.size);
        let mut rounds = Rounds::new(plan);
        let mut lost = 0;
        while rounds.next().is_some() {
            loop {
                self.id += 1;
                message.header.message_id = self.id;
                let start = Instant::now();
                end.send(&message, self.server).map_err(failed)?;
                if end.await_answer(self.id).map_err(failed)? {
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
}

/// The header of all packets of a message.
fn message(port: u16, size: usize) -> Data {
    let size = u32::try_from(size).unwrap_or(u32::MAX).max(1);
    Data {
        header: Header {
            src_port: port,
            dst_port: PORT,
            epoch: epoch_to_wire(FIRST_EPOCH),
            message_id: 0,
        },
        sequence: 0,
        record_size: MAX_RECORD_SIZE,
        segment_size: 0,
        message_len: size,
        incoming: size,
        tag: 0,
        cutoffs: 0,
        retransmit: false,
        explicit: false,
        pinned: false,
        tso_offset: 0,
    }
}

/// One end, which sends and receives messages of any number of packets.
struct End<'a> {
    datapath: &'a mut dyn Datapath,
    wait: Wait,
    /// Where packets went last, with the bytes of payload that fit, and those that a TSO segment takes.
    path: Option<(IpAddr, [usize; 2])>,
    /// The message that comes in, with the bytes of it that are there.
    arrival: (u64, usize),
}

impl<'a> End<'a> {
    fn new(datapath: &'a mut dyn Datapath, wait: Wait) -> End<'a> {
        End { datapath, wait, path: None, arrival: (u64::MAX, 0) }
    }

    /// Takes a burst; tells the message that is whole with it.
    fn receive(&mut self) -> io::Result<Option<(Data, SocketAddr)>> {
        let mut whole = None;
        let mut count = self.datapath.recv()?;
        if count == 0 && self.wait == Wait::Block {
            self.datapath.wait(Some(PATIENCE / 4))?;
            count = self.datapath.recv()?;
        }
        for index in 0..count {
            let (meta, packet) = self.datapath.packet(index);
            let bytes = meta.len.saturating_sub(DATA_LEN);
            let Ok(data) = Data::parse(packet) else { continue };
            let id = data.header.message_id;
            if self.arrival.0 != id {
                self.arrival = (id, 0);
            }
            self.arrival.1 += bytes;
            if self.arrival.1 == data.message_len as usize {
                whole = Some((data, meta.src));
            }
        }
        Ok(whole)
    }

    /// Whether the answer comes in time.
    fn await_answer(&mut self, id: u64) -> io::Result<bool> {
        let mut since = None;
        let mut looks: u32 = 0;
        loop {
            if self.receive()?.is_some_and(|(data, _)| data.header.message_id == id) {
                return Ok(true);
            }
            looks = looks.wrapping_add(1);
            if (self.wait == Wait::Block || looks.is_multiple_of(LOOKS))
                && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
            {
                return Ok(false);
            }
        }
    }

    /// Sends a message in packets, or in segments where the device takes them.
    fn send(&mut self, message: &Data, to: SocketAddr) -> io::Result<()> {
        let [usable, segment] = self.path(to.ip())?;
        let mut left = message.message_len as usize;
        while left > 0 {
            let cut = left > usable && segment > usable;
            let payload = left.min(if cut { segment } else { usable });
            let Some(frame) = self.datapath.frame() else {
                self.datapath.flush()?;
                continue;
            };
            let Some(header) = frame.first_chunk_mut() else { break };
            let per_packet = cut.then_some(usable as u16);
            Data { segment_size: per_packet.unwrap_or_default(), ..*message }.emit(header);
            let len = DATA_LEN + payload;
            let meta = TxMeta { dst: to, src: None, len, priority: 7, segment: per_packet };
            self.datapath.commit(meta);
            left -= payload;
        }
        self.datapath.flush()
    }

    fn path(&mut self, to: IpAddr) -> io::Result<[usize; 2]> {
        if let Some((known, path)) = self.path
            && known == to
        {
            return Ok(path);
        }
        let caps = self.datapath.caps();
        let overhead = caps.overhead[usize::from(to.is_ipv6())];
        let room = self.datapath.path_mtu(to)?.saturating_sub(overhead).min(caps.max_packet);
        let path = [room, self.datapath.tso(to)].map(|bytes| bytes.saturating_sub(DATA_LEN));
        self.path = Some((to, path));
        Ok(path)
    }
}

fn failed(source: io::Error) -> Error {
    Error::io("the datapath failed")(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_several_packets_come_back() {
        let [near, far] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        let (mut one, mut other) = smt::datapath::memory::pair(near, far, 1500).unwrap();
        let mut client = End::new(&mut one, Wait::Spin);
        let mut server = End::new(&mut other, Wait::Spin);
        for (id, size) in [(1, 1), (2, 1428), (3, 1429), (4, 20_000)] {
            let mut sent = message(40_000, size);
            sent.header.message_id = id;
            client.send(&sent, SocketAddr::new(far, 0)).unwrap();
            let mut got = None;
            while got.is_none() {
                got = server.receive().unwrap();
            }
            let (got, from) = got.unwrap();
            assert_eq!((got, from.ip()), (sent, near));
            server.send(&got, from).unwrap();
            assert!(client.await_answer(id).unwrap());
        }
    }
}
