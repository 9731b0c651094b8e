//! One end of a datapath without protocol: messages of any number of packets, plain or sealed.

use std::io;
use std::net::{IpAddr, SocketAddr};

use smt::datapath::{Datapath, TxMeta};
use smt::proto::crypto::{SuiteId, aws_lc};
use smt::proto::keys::{EpochKeys, Secret};
use smt::proto::record::{self, Layout};
use smt::proto::wire::{
    DATA_LEN, Data, FIRST_EPOCH, Header, MAX_RECORD_SIZE, PREAMBLE_LEN, epoch_to_wire,
};

use super::{PATIENCE, PORT};
use crate::baseline::{Idle, Wait};

/// Bits of message IDs.
const ID_BITS: u8 = 48;

/// Who seals with which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// The AEAD work of one end, and nothing else of a protocol.
pub(super) struct Sealing {
    send: EpochKeys,
    receive: EpochKeys,
    /// Where records are opened to.
    plain: Vec<u8>,
}

impl Sealing {
    pub(super) fn new(side: Side) -> Sealing {
        let suite = aws_lc::suite(SuiteId::Aes128GcmSha256);
        let keys = |secret: u8| EpochKeys::new(suite, Secret::new(&[secret; 32]), FIRST_EPOCH);
        let plain = vec![0; usize::from(MAX_RECORD_SIZE) + 1];
        let (client, server) = (keys(1), keys(2));
        let (send, receive) = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        Sealing { send, receive, plain }
    }

    /// Opens the records of a message's payload that begins at `offset`. False if they do not open.
    fn open(&mut self, data: &Data, offset: usize, payload: &[u8]) -> bool {
        let stride = usize::from(data.record_size) + record::RECORD_OVERHEAD as usize;
        let first = offset / stride;
        payload.chunks(stride).enumerate().all(|(index, wire)| {
            let number = sequence_number(data.header.message_id, first + index);
            // What a record's bytes are without those around its plaintext, and one that it spills into.
            let len = (wire.len() + 1).saturating_sub(record::RECORD_OVERHEAD as usize);
            let plain = self.plain.get_mut(..len);
            number.zip(plain).is_some_and(|(number, plain)| {
                record::open(&self.receive, number, wire, plain).is_ok()
            })
        })
    }

    /// Seals whatever lies between the ends of the records of a payload that begins at `offset`.
    fn seal(&self, data: &Data, offset: usize, payload: &mut [u8]) {
        let stride = usize::from(data.record_size) + record::RECORD_OVERHEAD as usize;
        let first = offset / stride;
        for (index, wire) in payload.chunks_mut(stride).enumerate() {
            if let Some(number) = sequence_number(data.header.message_id, first + index) {
                record::seal(&self.send, number, wire);
            }
        }
    }
}

fn sequence_number(id: u64, record: usize) -> Option<u64> {
    record::sequence_number(id, ID_BITS, u32::try_from(record).ok()?)
}

/// One end, which sends and receives messages of any number of packets.
pub(super) struct End {
    datapath: Box<dyn Datapath>,
    wait: Wait,
    idle: Idle,
    sealing: Option<Sealing>,
    /// Where packets went last, with the bytes of payload that fit, and those that a TSO segment takes.
    path: Option<(IpAddr, [usize; 2])>,
    /// The message that comes in, with the bytes of it that are there.
    arrival: (u64, usize),
}

impl End {
    pub(super) fn new(datapath: Box<dyn Datapath>, wait: Wait, sealing: Option<Sealing>) -> End {
        End { datapath, wait, idle: Idle::default(), sealing, path: None, arrival: (u64::MAX, 0) }
    }

    /// A message of `size` bytes as it goes to a server: sealed, it has a preamble and what records add.
    ///
    /// # Errors
    /// There is no way to the server.
    pub(super) fn message(
        &mut self,
        port: u16,
        server: SocketAddr,
        size: usize,
    ) -> io::Result<Data> {
        let [usable, segment] = self.path(server.ip())?;
        let len = |size: usize| u32::try_from(size).unwrap_or(u32::MAX).max(1);
        let (record_size, message_len) = if self.sealing.is_some() {
            let plain = PREAMBLE_LEN + size;
            let in_packets = record::record_size_for(usable);
            let whole = plain + record::RECORD_OVERHEAD as usize <= usable;
            let cut = record::tso_record_size_for(usable).filter(|_| !whole && segment > usable);
            let record_size = cut.unwrap_or(in_packets);
            let layout = Layout::from_plain(record_size, plain as u64, ID_BITS);
            (record_size, layout.map_err(io::Error::other)?.wire_len)
        } else {
            (MAX_RECORD_SIZE, len(size))
        };
        Ok(Data {
            header: Header {
                src_port: port,
                dst_port: PORT,
                epoch: epoch_to_wire(FIRST_EPOCH),
                message_id: 0,
            },
            sequence: 0,
            record_size,
            segment_size: 0,
            message_len,
            incoming: message_len,
            tag: 0,
            cutoffs: 0,
            retransmit: false,
            explicit: false,
            pinned: false,
            bundle: false,
            tso_offset: 0,
        })
    }

    /// Takes a burst, and appends the messages that are whole with it. What does not open is lost.
    pub(super) fn receive(&mut self, whole: &mut Vec<(Data, SocketAddr)>) -> io::Result<()> {
        let mut count = self.datapath.recv()?;
        if count == 0 && self.idle.may_sleep(self.wait) {
            self.datapath.wait(Some(PATIENCE / 4))?;
            count = self.datapath.recv()?;
        }
        if count > 0 {
            self.idle.worked();
        }
        for index in 0..count {
            let (meta, packet) = self.datapath.packet(index);
            let Some(payload) = packet.get(DATA_LEN..) else { continue };
            let Ok(data) = Data::parse(packet) else { continue };
            let id = data.header.message_id;
            if self.arrival.0 != id {
                self.arrival = (id, 0);
            }
            let offset = self.arrival.1;
            if self.sealing.as_mut().is_some_and(|sealing| !sealing.open(&data, offset, payload)) {
                continue;
            }
            self.arrival.1 += payload.len();
            if self.arrival.1 == data.message_len as usize {
                whole.push((data, meta.src));
            }
        }
        Ok(())
    }

    /// Queues a message in packets, or in segments where the device takes them.
    pub(super) fn send(&mut self, message: &Data, to: SocketAddr) -> io::Result<()> {
        let [usable, segment] = self.path(to.ip())?;
        // Sealed, what leaves together is whole records.
        let stride = usize::from(message.record_size) + record::RECORD_OVERHEAD as usize;
        let whole = |room: usize| match self.sealing {
            Some(_) => (room / stride).max(1) * stride,
            None => room,
        };
        let (in_packet, in_segment) = (whole(usable), whole(segment));
        let mut offset = 0;
        while offset < message.message_len as usize {
            let left = message.message_len as usize - offset;
            let cut = left > usable && segment > usable;
            let len = left.min(if cut { in_segment } else { in_packet });
            let Some(frame) = self.datapath.frame() else {
                self.datapath.flush()?;
                continue;
            };
            let per_packet = cut.then_some(usable as u16);
            let data = Data { segment_size: per_packet.unwrap_or_default(), ..*message };
            let split = frame.split_first_chunk_mut();
            let Some((header, payload)) = split else { break };
            data.emit(header);
            if let (Some(sealing), Some(payload)) = (&self.sealing, payload.get_mut(..len)) {
                sealing.seal(message, offset, payload);
            }
            let len_all = DATA_LEN + len;
            let meta = TxMeta {
                dst: to,
                src: None,
                len: len_all,
                priority: 7,
                segment: per_packet,
                lane: 0,
            };
            self.datapath.commit(meta);
            offset += len;
        }
        Ok(())
    }

    /// Hands what is queued to the host.
    pub(super) fn flush(&mut self) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(sealed: bool, size: usize) {
        let [near, far] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        let (one, other) = smt::datapath::memory::pair(near, far, 1500).unwrap();
        let [one_seals, other_seals] =
            [Side::Client, Side::Server].map(|side| sealed.then(|| Sealing::new(side)));
        let mut client = End::new(Box::new(one), Wait::Spin, one_seals);
        let mut server = End::new(Box::new(other), Wait::Spin, other_seals);
        let mut sent = client.message(40_000, SocketAddr::new(far, 0), size).unwrap();
        sent.header.message_id = 7;
        client.send(&sent, SocketAddr::new(far, 0)).unwrap();
        client.flush().unwrap();
        let mut got = Vec::new();
        while got.is_empty() {
            server.receive(&mut got).unwrap();
        }
        let (got, from) = got.pop().unwrap();
        assert_eq!((got, from.ip()), (sent, near));
        assert_eq!(sent.message_len as usize > size, sealed);
        server.send(&got, from).unwrap();
        server.flush().unwrap();
        let mut answers = Vec::new();
        while answers.is_empty() {
            client.receive(&mut answers).unwrap();
        }
        assert_eq!(answers[0].0, sent);
    }

    #[test]
    fn messages_of_several_packets_come_back() {
        for sealed in [false, true] {
            for size in [1, 1300, 1428, 1429, 20_000] {
                echo(sealed, size);
            }
        }
    }

    #[test]
    fn what_another_key_sealed_is_lost() {
        let [near, far] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        let (one, other) = smt::datapath::memory::pair(near, far, 1500).unwrap();
        let mut client = End::new(Box::new(one), Wait::Spin, Some(Sealing::new(Side::Client)));
        let mut server = End::new(Box::new(other), Wait::Spin, Some(Sealing::new(Side::Client)));
        let sent = client.message(40_000, SocketAddr::new(far, 0), 64).unwrap();
        client.send(&sent, SocketAddr::new(far, 0)).unwrap();
        client.flush().unwrap();
        let mut got = Vec::new();
        server.receive(&mut got).unwrap();
        assert!(got.is_empty());
    }
}
