//! What runs at a core: a shard of an endpoint, with its lanes of one session, or one connection.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use smt_proto::wire::{DATA_LEN, Data, RECORD_OVERHEAD};
use smt_proto::{Endpoint, Event, SessionId, Time};

use super::RESPONSE;
use super::cost::Work;
use super::host::Worker;
use crate::host::steer;
use crate::net::{address, host_of};
use crate::packet::{HostId, Packet};
use crate::rack::framing::ROOM;
use crate::rack::mesh::zeros;
use crate::stack::Stack;
use crate::stream::StreamHost;

/// Longer than any run.
const NO_DEADLINE: Duration = Duration::from_secs(1 << 20);
/// Bytes of a TLS record, at most.
const TLS_RECORD: u32 = 16 << 10;

/// A shard of an endpoint.
pub(super) struct Shard {
    me: HostId,
    endpoint: Endpoint,
    session: SessionId,
    frame: Vec<u8>,
    ended: VecDeque<u64>,
    work: Work,
}

impl Shard {
    /// Of a host's endpoint, with its lanes of a session.
    pub(super) fn new(me: HostId, endpoint: Endpoint, session: SessionId) -> Shard {
        let (frame, ended) = (vec![0; ROOM], VecDeque::new());
        Shard { me, endpoint, session, frame, ended, work: Work::default() }
    }

    fn settle(&mut self) {
        self.endpoint.settle();
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Request { rpc, .. } => {
                    self.work.messages += 2;
                    self.endpoint.reply(rpc, zeros(RESPONSE));
                }
                Event::Response { user, result: Ok(_), .. } => {
                    self.work.messages += 1;
                    self.ended.push_back(user);
                }
                _ => {}
            }
            self.endpoint.settle();
        }
    }
}

impl Worker for Shard {
    fn call(&mut self, now: Time, bytes: u32, message: u64) {
        let body: Bytes = zeros(bytes);
        let started = self.endpoint.start_call(self.session, body, now + NO_DEADLINE, message);
        self.work.messages += u64::from(started.is_ok());
    }

    fn next_ended(&mut self) -> Option<u64> {
        self.ended.pop_front()
    }

    fn take_work(&mut self) -> Work {
        core::mem::take(&mut self.work)
    }

    fn steer(packet: &Packet, cores: usize) -> Option<usize> {
        steer(&packet.bytes, cores)
    }

    fn records(packet: &Packet) -> u64 {
        let Ok(data) = Data::parse(&packet.bytes) else { return 0 };
        let record = u64::from(data.record_size) + u64::from(RECORD_OVERHEAD);
        (packet.bytes.len().saturating_sub(DATA_LEN) as u64).div_ceil(record)
    }

    fn mark(_: &mut Packet, _: usize) {}
}

impl Stack for Shard {
    fn receive(&mut self, now: Time, packet: &mut Packet) {
        let remote = address(packet.src);
        let meta = smt_proto::PacketMeta { remote, local: address(self.me).ip(), ip_id: None };
        self.endpoint.handle_packet(now, &meta, &mut packet.bytes);
        self.settle();
    }

    fn timeout(&mut self, now: Time) {
        self.endpoint.handle_timeout(now);
        self.settle();
    }

    fn next_timeout(&self) -> Option<Time> {
        self.endpoint.poll_timeout()
    }

    fn transmit(&mut self, now: Time, packet: &mut Packet) -> bool {
        let Some(sent) = self.endpoint.poll_transmit(now, &mut self.frame) else { return false };
        packet.bytes.extend_from_slice(self.frame.get(..sent.len).unwrap_or_default());
        packet.src = self.me;
        packet.dst = host_of(sent.remote.ip()).unwrap_or(self.me);
        packet.priority = sent.priority;
        self.settle();
        true
    }
}

/// One connection, of which all packets are one core's, at both ends.
pub(super) struct Connection {
    to: HostId,
    answers: bool,
    stream: StreamHost,
    ended: VecDeque<u64>,
    work: Work,
}

impl Connection {
    /// To a host; the end that `answers` is the server.
    pub(super) fn new(to: HostId, answers: bool, stream: StreamHost) -> Connection {
        Connection { to, answers, stream, ended: VecDeque::new(), work: Work::default() }
    }

    fn write(&mut self, now: Time, bytes: u32, message: u64) {
        self.work.messages += 1;
        self.work.records += u64::from(bytes.div_ceil(TLS_RECORD).max(1));
        self.stream.send(now, self.to, bytes, message);
    }
}

impl Worker for Connection {
    fn call(&mut self, now: Time, bytes: u32, message: u64) {
        self.write(now, bytes, message);
    }

    fn next_ended(&mut self) -> Option<u64> {
        self.ended.pop_front()
    }

    fn take_work(&mut self) -> Work {
        core::mem::take(&mut self.work)
    }

    fn steer(packet: &Packet, cores: usize) -> Option<usize> {
        Some(packet.flow as usize % cores)
    }

    fn records(_: &Packet) -> u64 {
        0
    }

    fn mark(packet: &mut Packet, index: usize) {
        packet.flow = index as u64;
    }
}

impl Stack for Connection {
    fn receive(&mut self, now: Time, packet: &mut Packet) {
        self.stream.receive(now, packet);
        while let Some(delivered) = self.stream.next_delivered() {
            self.work.messages += 1;
            self.work.records += u64::from(delivered.bytes.div_ceil(TLS_RECORD).max(1));
            match self.answers {
                true => self.write(now, RESPONSE, delivered.message),
                false => self.ended.push_back(delivered.message),
            }
        }
    }

    fn timeout(&mut self, now: Time) {
        self.stream.timeout(now);
    }

    fn next_timeout(&self) -> Option<Time> {
        self.stream.next_timeout()
    }

    fn transmit(&mut self, now: Time, packet: &mut Packet) -> bool {
        self.stream.transmit(now, packet)
    }
}
