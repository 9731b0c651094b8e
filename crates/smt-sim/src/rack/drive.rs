//! Starts messages when their time comes, and notes when they arrive.

use std::rc::Rc;
use std::time::Duration;

use smt_proto::Time;

use super::journal::{Entry, Journal};
use super::offered::Offered;
use super::smt_host::SmtHost;
use crate::packet::HostId;
use crate::stack::Stack;
use crate::world::World;

/// How much simulated time passes between two looks at the journal when no messages start any more.
const LOOK: Duration = Duration::from_micros(200);
/// How many messages start between two looks at the journal.
const BATCH: usize = 64;
/// How often the backlog is sampled while messages start.
const SAMPLES: usize = 64;

/// A host that carries messages.
pub trait Transport: Stack + Sized {
    /// Whether a message is answered, so that both its arrival and its end are noted.
    const ANSWERS: bool;

    /// Sends a message of `bytes` application bytes to `to`.
    fn send(&mut self, now: Time, to: HostId, bytes: u32, message: u64);

    /// Takes what has happened to messages at all hosts, replacing what `into` held.
    fn take(hosts: &mut [Self], journal: &Rc<Journal>, into: &mut Vec<Entry>);
}

impl Transport for SmtHost {
    const ANSWERS: bool = true;

    fn send(&mut self, now: Time, to: HostId, bytes: u32, message: u64) {
        SmtHost::send(self, now, to, bytes, message);
    }

    fn take(_: &mut [Self], journal: &Rc<Journal>, into: &mut Vec<Entry>) {
        journal.take(into);
    }
}

/// What became of the messages of a run.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// By message: when it was whole at its receiver.
    pub arrived: Vec<Option<Time>>,
    /// Messages whose sender is done with them: answered or, without answers, arrived.
    pub ended: u64,
    /// Messages whose call failed.
    pub failed: u64,
    /// Application bytes started and not arrived, sampled at even distances while messages started.
    pub backlog: Vec<u64>,
    /// When the last message started.
    pub last_start: Time,
    /// Bytes on the wire towards hosts until then.
    pub carried: u64,
    /// When the run ended.
    pub end: Time,
}

/// Runs `offered` through `world`, and goes on for at most `drain` after the last start. `progress`
/// is told how many messages have started.
pub fn drive<T: Transport>(
    world: &mut World<T>,
    journal: &Rc<Journal>,
    offered: &Offered,
    drain: Duration,
    progress: &dyn Fn(u64),
) -> Record {
    let mut driver = Driver::new(offered, journal);
    let messages = &offered.messages;
    let sample_every = messages.len().div_ceil(SAMPLES).max(1);
    for (number, message) in messages.iter().enumerate() {
        world.run_until(message.start);
        if let Some(host) = world.hosts.get_mut(message.from as usize) {
            host.send(message.start, message.to, message.bytes, number as u64);
            world.poke(message.from);
        }
        driver.started += u64::from(message.bytes);
        let sample = number % sample_every == sample_every - 1;
        if sample || number % BATCH == 0 {
            driver.look(&mut world.hosts);
            progress(number as u64);
        }
        if sample {
            driver.record.backlog.push(driver.started - driver.arrived);
        }
    }
    driver.record.last_start = world.now();
    driver.record.carried = world.stats().down_bytes.iter().sum();
    let end = world.now() + drain;
    while !driver.is_done::<T>() && world.now() < end {
        world.run_until(world.now() + LOOK);
        driver.look(&mut world.hosts);
    }
    driver.record.end = world.now();
    driver.record
}

struct Driver<'a> {
    offered: &'a Offered,
    journal: &'a Rc<Journal>,
    entries: Vec<Entry>,
    /// Application bytes.
    started: u64,
    arrived: u64,
    arrivals: usize,
    record: Record,
}

impl<'a> Driver<'a> {
    fn new(offered: &'a Offered, journal: &'a Rc<Journal>) -> Self {
        let arrived = vec![None; offered.messages.len()];
        let record = Record { arrived, ..Record::default() };
        Driver {
            offered,
            journal,
            entries: Vec::new(),
            started: 0,
            arrived: 0,
            arrivals: 0,
            record,
        }
    }

    fn look<T: Transport>(&mut self, hosts: &mut [T]) {
        T::take(hosts, self.journal, &mut self.entries);
        for entry in &self.entries {
            match *entry {
                Entry::Arrived { message, at } => {
                    let message = message as usize;
                    let slot = self.record.arrived.get_mut(message);
                    if let (Some(slot), Some(sent)) = (slot, self.offered.messages.get(message))
                        && slot.is_none()
                    {
                        *slot = Some(at);
                        self.arrived += u64::from(sent.bytes);
                        self.arrivals += 1;
                    }
                }
                Entry::Ended { ok, .. } => {
                    self.record.ended += 1;
                    self.record.failed += u64::from(!ok);
                }
            }
        }
    }

    fn is_done<T: Transport>(&self) -> bool {
        let all = self.offered.messages.len();
        self.arrivals == all && (!T::ANSWERS || self.record.ended == all as u64)
    }
}
