//! The load balancer of a leaf switch that knows SMT: it keeps each message on one uplink, and reads
//! nothing but what headers show to everybody.

use crate::packet::Packet;
use crate::rng::mix;

/// Sets of the table of messages, each for the hashes that fall into it.
const SETS: usize = 1024;
/// Messages in a set; the oldest makes room.
const WAYS: usize = 4;

/// A message that a leaf has sent on its way.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// Hash of addresses, ports and message ID; 0 if there is none.
    key: u64,
    /// When the message was first seen, counted in messages.
    number: u64,
    /// Bytes that have not passed yet.
    left: u32,
    uplink: u32,
}

/// The messages of one leaf, and what it has promised its uplinks.
pub(super) struct Balancer {
    entries: Vec<Entry>,
    /// Bytes of messages in the table that have not passed yet, by uplink.
    owed: Vec<u64>,
    messages: u64,
    /// Choices made, so that uplinks with the same load take turns.
    choices: usize,
}

impl Balancer {
    pub(super) fn new(uplinks: u32) -> Self {
        Self {
            entries: vec![Entry::default(); SETS * WAYS],
            owed: vec![0; uplinks as usize],
            messages: 0,
            choices: 0,
        }
    }

    /// The uplink of a packet, given what each has to do now.
    pub(super) fn choose(&mut self, packet: &Packet, load: impl Fn(usize) -> u32) -> u32 {
        let Some(message) = Message::of(packet) else { return self.least(|_, up| load(up).into()) };
        let set = (message.key >> 32) as usize % SETS * WAYS;
        let set = set..set + WAYS;
        let known = self.entries[set.clone()].iter().position(|entry| entry.key == message.key);
        let at = match known {
            Some(way) => set.start + way,
            None => {
                let uplink = self.least(|owed, up| owed[up] + u64::from(load(up)));
                self.admit(set, &message, uplink)
            }
        };
        let entry = &mut self.entries[at];
        let passed = message.passes.min(entry.left);
        entry.left -= passed;
        self.owed[entry.uplink as usize] -= u64::from(passed);
        entry.uplink
    }

    /// Takes a message into its set, in the place of the oldest; returns that place.
    fn admit(&mut self, set: core::ops::Range<usize>, message: &Message, uplink: u32) -> usize {
        let at = set.min_by_key(|&at| self.entries[at].number).unwrap_or(0);
        let old = self.entries[at];
        self.owed[old.uplink as usize] -= u64::from(old.left);
        self.owed[uplink as usize] += u64::from(message.len);
        self.messages += 1;
        self.entries[at] =
            Entry { key: message.key, number: self.messages, left: message.len, uplink };
        at
    }

    /// The uplink with the least load; among equals they take turns.
    fn least(&mut self, load: impl Fn(&[u64], usize) -> u64) -> u32 {
        let uplinks = self.owed.len();
        self.choices = self.choices.wrapping_add(1);
        let first = self.choices % uplinks.max(1);
        let order = (first..uplinks).chain(0..first);
        order.min_by_key(|&uplink| load(&self.owed, uplink)).unwrap_or(0) as u32
    }
}

/// What a switch learns about a message from one of its packets.
struct Message {
    key: u64,
    len: u32,
    /// Bytes of the message in this packet.
    passes: u32,
}

impl Message {
    /// The message of a packet; `None` if the packet is no SMT DATA or the message's only one.
    fn of(packet: &Packet) -> Option<Self> {
        if !is_data(&packet.bytes) {
            return None;
        }
        let ports = u32::from_be_bytes(*packet.bytes.first_chunk()?);
        let id = u64::from_be_bytes(*packet.bytes.get(20..)?.first_chunk()?);
        let len = u32::from_be_bytes(*packet.bytes.get(28..)?.first_chunk()?);
        let passes = u32::try_from(packet.bytes.len() - DATA_LEN).ok()?;
        if len <= passes {
            return None;
        }
        let hosts = u64::from(packet.src) << 32 | u64::from(packet.dst);
        let key = mix(mix(hosts) ^ u64::from(ports)).wrapping_add(mix(id)) | 1;
        Some(Self { key, len, passes })
    }
}

/// Length of a DATA header.
pub(super) const DATA_LEN: usize = smt_proto::wire::DATA_LEN;

/// Whether a switch takes this for an SMT DATA packet of a session with keys.
#[inline]
pub(super) fn is_data(bytes: &[u8]) -> bool {
    bytes.len() >= DATA_LEN && bytes[11] == 0x10 && bytes[8] >= 3
}
