//! Devices that seal records on their way out (TLS offload), as far as a driver has to know them, and the
//! driver: `docs/offload.md` says what must hold and why.
//!
//! A device has few *contexts*, each a key and the number of the record that comes next, which counts up
//! by itself with every record sealed and can be set by a descriptor (*resync*). It reads several queues,
//! each in order, but the queues in an order of its own.

use std::collections::{BTreeMap, VecDeque};

use smt_proto::keys::EpochKeys;
use smt_proto::record::{self, RECORD_HEADER_LEN};
use smt_proto::wire::DATA_LEN;

/// Names a context of a device.
pub type ContextId = usize;

/// What a driver puts into a queue of a device.
#[derive(Debug)]
pub enum Descriptor {
    /// A packet or segment that is sent as it is.
    Packet(Vec<u8>),
    /// The next record that the context seals has this sequence number.
    Resync(ContextId, u64),
    /// A packet or segment of whole records behind an SMT header: headers of 5 bytes, plaintexts, room of
    /// 17 bytes. The context seals them in place, one sequence number each.
    Seal(ContextId, Vec<u8>),
}

/// A device that seals records, as its driver sees it.
pub trait Offload {
    /// How many queues it has.
    fn queues(&self) -> usize;

    /// Makes a context that seals under `keys` from record `first` on. `None`: all are taken.
    fn add_context(&mut self, keys: EpochKeys, first: u64) -> Option<ContextId>;

    /// Frees a context. False, and nothing has happened, while descriptors that name it wait.
    fn remove_context(&mut self, context: ContextId) -> bool;

    /// Puts a descriptor at the end of a queue.
    fn post(&mut self, queue: usize, descriptor: Descriptor);
}

/// A device with contexts and queues in memory.
pub struct Device {
    contexts: Vec<Option<Context>>,
    queues: Vec<VecDeque<Descriptor>>,
}

struct Context {
    keys: EpochKeys,
    next: u64,
}

impl Device {
    /// A device with so many queues and contexts.
    #[must_use]
    pub fn new(queues: usize, contexts: usize) -> Device {
        let contexts = (0..contexts).map(|_| None).collect();
        Device { contexts, queues: (0..queues).map(|_| VecDeque::new()).collect() }
    }

    /// Whether descriptors wait in a queue.
    #[must_use]
    pub fn is_waiting(&self, queue: usize) -> bool {
        self.queues.get(queue).is_some_and(|queue| !queue.is_empty())
    }

    /// Does what the next descriptor of a queue says; what leaves, if it was a packet.
    pub fn read(&mut self, queue: usize) -> Option<Vec<u8>> {
        match self.queues.get_mut(queue)?.pop_front()? {
            Descriptor::Packet(packet) => Some(packet),
            Descriptor::Resync(context, next) => {
                self.contexts.get_mut(context)?.as_mut()?.next = next;
                None
            }
            Descriptor::Seal(context, mut packet) => {
                let context = self.contexts.get_mut(context)?.as_mut()?;
                context.seal(packet.get_mut(DATA_LEN..)?);
                Some(packet)
            }
        }
    }
}

impl Context {
    fn seal(&mut self, records: &mut [u8]) {
        let mut rest = records;
        while let Some(len) = record_len(rest) {
            let Some((record, others)) = rest.split_at_mut_checked(len) else { return };
            record::seal(&self.keys, self.next, record);
            self.next = self.next.wrapping_add(1);
            rest = others;
        }
    }
}

/// The length of the record that `bytes` begin with, by its header.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<RECORD_HEADER_LEN>()?;
    Some(RECORD_HEADER_LEN + usize::from(u16::from_be_bytes([header[3], header[4]])))
}

impl Offload for Device {
    fn queues(&self) -> usize {
        self.queues.len()
    }

    fn add_context(&mut self, keys: EpochKeys, first: u64) -> Option<ContextId> {
        let free = self.contexts.iter().position(Option::is_none)?;
        *self.contexts.get_mut(free)? = Some(Context { keys, next: first });
        Some(free)
    }

    fn remove_context(&mut self, context: ContextId) -> bool {
        let names = |descriptor: &Descriptor| match descriptor {
            Descriptor::Packet(_) => false,
            Descriptor::Resync(named, _) | Descriptor::Seal(named, _) => *named == context,
        };
        if self.queues.iter().flatten().any(names) {
            return false;
        }
        self.contexts.get_mut(context).is_some_and(|place| place.take().is_some())
    }

    fn post(&mut self, queue: usize, descriptor: Descriptor) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.push_back(descriptor);
        }
    }
}

/// A packet or segment of whole records that are not sealed yet.
#[derive(Clone, Debug)]
pub struct Unsealed {
    /// Session and epoch: what has keys of its own.
    pub session: (u64, u32),
    /// Sequence number of its first record (spec 3.2).
    pub first: u64,
    /// As [`Descriptor::Seal`] has it.
    pub packet: Vec<u8>,
}

/// Posts packets so that a device seals them, with a context for each queue and session; what gets none
/// is sealed here.
pub struct Driver<D> {
    /// The device.
    pub device: D,
    held: BTreeMap<(usize, (u64, u32)), Held>,
    uses: u64,
    /// Packets that were sealed here, and resyncs posted.
    pub counts: [u64; 2],
}

/// A context as the driver knows it.
struct Held {
    context: ContextId,
    /// The number that its counter will have when the queue has been read up to here.
    next: u64,
    last_use: u64,
}

impl<D: Offload> Driver<D> {
    /// A driver of `device`, which nobody else uses.
    pub fn new(device: D) -> Self {
        Driver { device, held: BTreeMap::new(), uses: 0, counts: [0; 2] }
    }

    /// Posts a packet to a queue. `keys` gives those of its session and epoch.
    pub fn send(&mut self, queue: usize, unsealed: Unsealed, keys: impl Fn() -> EpochKeys) {
        let Unsealed { session, first, mut packet } = unsealed;
        let records = count_records(packet.get(DATA_LEN..).unwrap_or_default());
        let Some(held) = self.context(queue, session, first, &keys) else {
            let mut context = Context { keys: keys(), next: first };
            context.seal(packet.get_mut(DATA_LEN..).unwrap_or_default());
            self.counts[0] += 1;
            return self.device.post(queue, Descriptor::Packet(packet));
        };
        let (context, expected) = (held.context, held.next);
        held.next = first.wrapping_add(records);
        if expected != first {
            // It is read before the packet and after all before it: nobody else uses the context.
            self.device.post(queue, Descriptor::Resync(context, first));
            self.counts[1] += 1;
        }
        self.device.post(queue, Descriptor::Seal(context, packet));
    }

    /// Frees the contexts of a session and epoch that are at rest; true if none is left.
    pub fn forget(&mut self, session: (u64, u32)) -> bool {
        let device = &mut self.device;
        self.held.retain(|key, held| key.1 != session || !device.remove_context(held.context));
        self.held.keys().all(|key| key.1 != session)
    }

    /// The context of a queue and session, made if there is room, if need be in the place of the one that
    /// was not used for longest.
    fn context(
        &mut self,
        queue: usize,
        session: (u64, u32),
        first: u64,
        keys: &impl Fn() -> EpochKeys,
    ) -> Option<&mut Held> {
        self.uses += 1;
        let (key, last_use) = ((queue, session), self.uses);
        if !self.held.contains_key(&key) {
            let context = self.device.add_context(keys(), first).or_else(|| {
                let oldest = self.held.iter().min_by_key(|(_, held)| held.last_use);
                let (oldest, context) = oldest.map(|(key, held)| (*key, held.context))?;
                if !self.device.remove_context(context) {
                    return None;
                }
                self.held.remove(&oldest);
                self.device.add_context(keys(), first)
            })?;
            self.held.insert(key, Held { context, next: first, last_use });
        }
        let held = self.held.get_mut(&key)?;
        held.last_use = last_use;
        Some(held)
    }
}

fn count_records(mut bytes: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(rest) = record_len(bytes).and_then(|len| bytes.get(len..)) {
        (bytes, count) = (rest, count + 1);
    }
    count
}

#[cfg(test)]
#[path = "offload_tests.rs"]
mod tests;
