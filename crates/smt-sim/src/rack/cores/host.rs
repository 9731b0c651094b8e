//! A host of several cores: each works on one thing after the other, and what it does takes time.

use std::collections::VecDeque;
use std::time::Duration;

use smt_proto::Time;

use super::cost::{Costs, Work};
use super::load::Load;
use crate::packet::Packet;
use crate::stack::Stack;

/// Packets that wait for a core; further ones are lost.
const RING: usize = 4096;
/// Bytes that wait for the link; while there are more, cores send nothing.
const BACKLOG: usize = 64 << 10;

/// What one core runs.
pub(super) trait Worker: Stack {
    /// Starts a call with a request of so many bytes, by a number of the caller's.
    fn call(&mut self, now: Time, bytes: u32, message: u64);

    /// A call that has ended.
    fn next_ended(&mut self) -> Option<u64>;

    /// What was done since the last time this was asked.
    fn take_work(&mut self) -> Work;

    /// Which of so many cores this packet is for; `None` for none.
    fn steer(packet: &Packet, cores: usize) -> Option<usize>;

    /// Records in a packet.
    fn records(packet: &Packet) -> u64;

    /// Core `index` marks its packets, if [`steer`](Self::steer) needs that.
    fn mark(packet: &mut Packet, index: usize);
}

/// What a core is at.
enum Job {
    Receive(Packet),
    Send(Packet),
}

struct Core<W> {
    worker: W,
    ring: VecDeque<Packet>,
    job: Option<(Time, Job)>,
    /// Whether it is its turn to send, if there is something; it sends and receives in turns.
    sends: bool,
    /// Time that what it did in between adds to its next job, in nanoseconds.
    debt: u64,
    busy_ns: u64,
    received: u64,
}

/// A host of several cores.
pub(super) struct CoreHost<W> {
    cores: Vec<Core<W>>,
    costs: Costs,
    /// What waits for the link.
    outbox: VecDeque<Packet>,
    outbox_bytes: usize,
    /// What its application calls.
    pub(super) load: Load,
    /// Packets that found no room at their core.
    pub(super) lost: u64,
}

impl<W: Worker> CoreHost<W> {
    /// A host with a core for each worker.
    pub(super) fn new(workers: Vec<W>, costs: Costs, load: Load) -> CoreHost<W> {
        let core = |worker| Core {
            worker,
            ring: VecDeque::new(),
            job: None,
            sends: false,
            debt: 0,
            busy_ns: 0,
            received: 0,
        };
        CoreHost {
            cores: workers.into_iter().map(core).collect(),
            costs,
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            load,
            lost: 0,
        }
    }

    /// How long each core has worked, in nanoseconds.
    pub(super) fn busy_ns(&self) -> Vec<u64> {
        self.cores.iter().map(|core| core.busy_ns).collect()
    }

    /// Packets that each core has received.
    pub(super) fn received(&self) -> Vec<u64> {
        self.cores.iter().map(|core| core.received).collect()
    }

    /// What is due at the application, and then at each core that has nothing to do.
    fn run(&mut self, now: Time) {
        while let Some(call) = self.load.next_call(now) {
            if let Some(core) = self.cores.get_mut(call.core) {
                core.worker.call(now, call.bytes, call.message);
                core.debt += self.costs.of_work(core.worker.take_work());
            }
        }
        for index in 0..self.cores.len() {
            self.give_work(now, index);
        }
    }

    /// Gives a core its next job, if it has none and there is one.
    fn give_work(&mut self, now: Time, index: usize) {
        let room = self.outbox_bytes < BACKLOG;
        let Some(core) = self.cores.get_mut(index) else { return };
        if core.job.is_some() {
            return;
        }
        if core.worker.next_timeout().is_some_and(|at| at <= now) {
            core.worker.timeout(now);
        }
        let mut job = None;
        for sends in [core.sends, !core.sends] {
            job = match sends {
                false => core.ring.pop_front().map(Job::Receive),
                true if room => {
                    let mut packet = Packet::default();
                    let sent = core.worker.transmit(now, &mut packet);
                    W::mark(&mut packet, index);
                    sent.then_some(Job::Send(packet))
                }
                true => None,
            };
            if job.is_some() {
                core.sends = !sends;
                break;
            }
        }
        let Some(job) = job else { return };
        let (Job::Receive(packet) | Job::Send(packet)) = &job;
        let of_packet = self.costs.of_packet(packet.bytes.len(), W::records(packet));
        let takes = of_packet + core.debt;
        core.debt = 0;
        core.busy_ns += takes;
        core.job = Some((now + Duration::from_nanos(takes), job));
    }

    /// Ends the jobs that are done.
    fn end_jobs(&mut self, now: Time) {
        for core in &mut self.cores {
            let Some((_, job)) = core.job.take_if(|(at, _)| *at <= now) else { continue };
            match job {
                Job::Receive(mut packet) => {
                    core.received += 1;
                    core.worker.receive(now, &mut packet);
                    while let Some(message) = core.worker.next_ended() {
                        self.load.ended(now, message);
                    }
                    core.debt += self.costs.of_work(core.worker.take_work());
                }
                Job::Send(packet) => {
                    self.outbox_bytes += packet.bytes.len();
                    self.outbox.push_back(packet);
                }
            }
        }
    }
}

impl<W: Worker> Stack for CoreHost<W> {
    fn receive(&mut self, now: Time, packet: &mut Packet) {
        let core = W::steer(packet, self.cores.len()).and_then(|core| self.cores.get_mut(core));
        match core {
            Some(core) if core.ring.len() < RING => core.ring.push_back(core::mem::take(packet)),
            _ => self.lost += 1,
        }
        self.run(now);
    }

    fn timeout(&mut self, now: Time) {
        self.end_jobs(now);
        self.run(now);
    }

    fn next_timeout(&self) -> Option<Time> {
        let of_core = |core: &Core<W>| match &core.job {
            Some((at, _)) => Some(*at),
            None => core.worker.next_timeout(),
        };
        self.cores.iter().filter_map(of_core).chain(self.load.next_at()).min()
    }

    fn transmit(&mut self, now: Time, packet: &mut Packet) -> bool {
        let Some(next) = self.outbox.pop_front() else { return false };
        self.outbox_bytes -= next.bytes.len();
        *packet = next;
        // There may be room again.
        self.run(now);
        true
    }
}
