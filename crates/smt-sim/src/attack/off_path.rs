//! Attackers with a host of their own, who see only what is sent to them.

use std::collections::VecDeque;
use std::time::Duration;

use smt_proto::Time;
use smt_proto::wire::{ControlBody, Data, Header, UnknownCode};

use super::forge::{self, Trailer};
use super::hello;
use super::plan::{OffPathPlan, Plan, Spoof};
use super::{Change, Field, Tally};
use crate::attack::memory::Memory;
use crate::packet::{HostId, Origin, PRIORITIES, Packet};
use crate::rng::{Rng, mix};
use crate::stack::Stack;

/// How many of the clients' ports are tried.
const CLIENT_PORTS: u64 = 16;
/// How many addresses beyond its own are claimed by who floods with first flights.
const NOBODY: u64 = 64;
/// The most packets that wait to be sent.
const QUEUE: usize = 64;
/// The longest garbage, in bytes.
const MAX_GARBAGE: u64 = 1500;

/// An attacker with a host of its own: sends packets under the names of others at a steady rate
/// until its time or its packets are over.
#[derive(Debug)]
pub struct OffPath {
    spoof: Spoof,
    me: HostId,
    honest: u32,
    until: Time,
    server_port: u16,
    client_port: u16,
    /// Mean time between two packets; `None` if it sends none.
    gap: Option<Duration>,
    /// How many packets it may still send.
    left: u32,
    due: Time,
    queue: VecDeque<Packet>,
    rng: Rng,
    tally: Tally,
}

impl OffPath {
    pub(super) fn new(
        plan: OffPathPlan,
        all: &Plan,
        me: HostId,
        honest: u32,
        rng: Rng,
        tally: Tally,
    ) -> Self {
        let gap = 1_000_000u64.checked_div(plan.per_ms.into()).map(Duration::from_nanos);
        OffPath {
            spoof: plan.spoof,
            me,
            honest,
            until: Time::from_nanos(all.until_us.saturating_mul(1000)),
            server_port: all.server_port,
            client_port: all.client_port,
            gap,
            left: if honest == 0 { 0 } else { plan.max_packets },
            due: Time::ZERO,
            queue: VecDeque::new(),
            rng,
            tally,
        }
    }

    fn make(&mut self) {
        match self.spoof {
            Spoof::Packets => {
                let bytes = self.packet();
                self.send(bytes);
            }
            Spoof::Garbage => {
                let bytes = self.garbage();
                self.send(bytes);
            }
            Spoof::NoSession => {
                let header = self.header();
                self.send(forge::no_session(header));
            }
            Spoof::Hellos => self.hello(false),
            Spoof::Flood => self.flood(),
            Spoof::Visits => self.hello(true),
        }
    }

    /// Sends a packet to an honest host, under the name of another.
    fn send(&mut self, bytes: Vec<u8>) {
        let (src, dst) = self.names();
        self.enqueue(src, dst, bytes);
    }

    fn names(&mut self) -> (HostId, HostId) {
        let dst = self.rng.below(self.honest.into()) as HostId;
        let src = match self.rng.below(8) {
            0 => self.me,
            _ => self.rng.below(self.honest.into()) as HostId,
        };
        (src, dst)
    }

    fn enqueue(&mut self, src: HostId, dst: HostId, bytes: Vec<u8>) {
        if self.queue.len() < QUEUE {
            let priority = self.rng.below(PRIORITIES as u64) as u8;
            let flow = mix(u64::from(src) << 32 | u64::from(dst));
            self.queue.push_back(Packet {
                bytes,
                src,
                dst,
                priority,
                flow,
                origin: Origin::Forged,
                ..Packet::default()
            });
        }
    }

    /// A header with ports that may be right, and an ID that hardly is.
    fn header(&mut self) -> Header {
        let client = self.client_port.wrapping_add(self.rng.below(CLIENT_PORTS) as u16);
        let any = 1 + self.rng.below(0xffff) as u16;
        let (src_port, dst_port) = match self.rng.below(8) {
            0 => (any, self.server_port),
            1 => (self.server_port, any),
            2..=4 => (self.server_port, client),
            _ => (client, self.server_port),
        };
        let message_id = match self.rng.below(4) {
            0 => 0,
            1 => self.rng.below(64),
            _ => self.rng.next_u64() >> self.rng.between(16, 30),
        };
        let epoch = match self.rng.below(20) {
            0 => 1,
            1 => self.rng.between(3, 255) as u8,
            _ => 3,
        };
        Header { src_port: src_port.max(1), dst_port: dst_port.max(1), epoch, message_id }
    }

    fn packet(&mut self) -> Vec<u8> {
        let header = self.header();
        let rng = &mut self.rng;
        match rng.below(3) {
            0 => forge::data_like(data_of(header, rng), rng),
            1 => {
                let flight = Header { epoch: 0, message_id: rng.below(5), ..header };
                forge::flight_like(data_of(flight, rng), flight, rng)
            }
            _ => {
                let body = match rng.below(4) {
                    0 => ControlBody::Unknown(UnknownCode::Forgotten),
                    _ => forge::body(header.message_id, 1 << 16, rng),
                };
                forge::control(header, body, Trailer::like(None, rng), rng)
            }
        }
    }

    fn garbage(&mut self) -> Vec<u8> {
        let len = self.rng.below(MAX_GARBAGE + 1);
        let mut bytes = forge::noise(len, &mut self.rng);
        let header = self.header();
        match self.rng.below(4) {
            0 => {}
            1 => {
                forge::set(&mut bytes, 0, &header.src_port.to_be_bytes());
                forge::set(&mut bytes, 2, &header.dst_port.to_be_bytes());
            }
            2 => {
                let kinds = [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x17, 0x18, 0x20, 0x21, 0x22];
                let kind = self.rng.pick(&kinds).copied().unwrap_or_default();
                let data_offset = if kind == 0x10 { 13 << 4 } else { 5 << 4 };
                let head = [3, 0, 0, kind, data_offset, 0, 0, 0, 0, 0, 0, 0];
                forge::set(&mut bytes, 0, &header.src_port.to_be_bytes());
                forge::set(&mut bytes, 2, &header.dst_port.to_be_bytes());
                forge::set(&mut bytes, 8, &head);
            }
            _ => {
                let packet = self.packet();
                let change = match self.rng.below(3) {
                    0 => Change::Truncate,
                    1 => Change::Extend,
                    _ => Change::Field(self.rng.pick(&Field::ALL).copied().unwrap_or(Field::Type)),
                };
                let none = Memory::new(0);
                bytes = change.apply(&packet, &none, &mut self.rng).unwrap_or(packet);
            }
        }
        bytes
    }

    fn hello(&mut self, own_name: bool) {
        let (mut src, dst) = self.names();
        let header = self.header();
        if own_name {
            src = self.me;
        } else if self.rng.chance(0.3) {
            // Hosts that are not there count like any other until they should prove their address.
            src = self.me.saturating_add(self.rng.below(NOBODY) as HostId);
        }
        // Not the ports of honest clients: those are the blind spoofer's.
        let src_port = if own_name || self.rng.chance(0.8) {
            1 + self.rng.below(0xffff) as u16
        } else {
            header.src_port
        };
        let token = self.rng.next_u64();
        let ports = (src_port, self.server_port);
        for bytes in hello::first_flight((src, dst), ports, token, &mut self.rng) {
            self.enqueue(src, dst, bytes);
        }
    }

    /// The first packet of a first flight from anywhere.
    fn flood(&mut self) {
        let (_, dst) = self.names();
        let src = self.me.saturating_add(self.rng.below(NOBODY) as HostId);
        let ports = (1 + self.rng.below(0xffff) as u16, self.server_port);
        let token = self.rng.next_u64();
        let mut packets = hello::first_flight((src, dst), ports, token, &mut self.rng);
        packets.truncate(1);
        packets.into_iter().for_each(|bytes| self.enqueue(src, dst, bytes));
    }

    /// Answers a packet of a server's flight.
    fn answer(&mut self, server: HostId, data: &Data) {
        let header = forge::turned(data.header);
        let rng = &mut self.rng;
        let bytes = match rng.below(5) {
            0 => forge::flight_like(*data, header, rng),
            1 | 2 => {
                let next = header.message_id.wrapping_add(1);
                forge::flight_like(*data, Header { message_id: next, ..header }, rng)
            }
            3 => {
                let message_id = 4 + 4 * rng.below(1 << 36);
                let early = Header { epoch: 3, message_id, ..header };
                forge::data_like(data_of(early, rng), rng)
            }
            _ => return,
        };
        self.enqueue(self.me, server, bytes);
    }

    fn is_over(&self) -> bool {
        self.left == 0
    }
}

impl Stack for OffPath {
    fn receive(&mut self, now: Time, packet: &mut Packet) {
        if self.spoof != Spoof::Visits || self.is_over() || now >= self.until {
            return;
        }
        if let Some(data) = Data::parse(&packet.bytes).ok().filter(|data| data.header.epoch == 0) {
            self.answer(packet.src, &data);
        }
    }

    fn timeout(&mut self, now: Time) {
        let Some(gap) = self.gap else { return };
        if now < self.due || now >= self.until || self.is_over() {
            return;
        }
        if self.due > Time::ZERO {
            self.make();
        }
        let nanos = self.rng.exponential(gap.as_nanos() as f64).max(1.0) as u64;
        self.due = now + Duration::from_nanos(nanos);
    }

    fn next_timeout(&self) -> Option<Time> {
        let active = self.gap.is_some() && !self.is_over() && self.due < self.until;
        active.then_some(self.due)
    }

    fn transmit(&mut self, now: Time, packet: &mut Packet) -> bool {
        if now >= self.until || self.is_over() {
            self.queue.clear();
            return false;
        }
        let Some(next) = self.queue.pop_front() else {
            return false;
        };
        self.left -= 1;
        self.tally.count(self.spoof.name());
        *packet = Packet { sent_at: now, ..next };
        true
    }
}

/// A DATA header like those of messages, or of flights.
fn data_of(header: Header, rng: &mut Rng) -> Data {
    let message_len = rng.between(64, 100_000) as u32;
    let of_message = header.epoch != 0;
    Data {
        header,
        sequence: 0,
        record_size: if of_message { 1406 } else { 0 },
        segment_size: 1428,
        message_len,
        incoming: message_len,
        tag: rng.next_u64(),
        cutoffs: 0,
        retransmit: false,
        explicit: true,
        pinned: false,
        bundle: false,
        tso_offset: 0,
    }
}

#[cfg(test)]
#[path = "off_path_tests.rs"]
mod tests;
