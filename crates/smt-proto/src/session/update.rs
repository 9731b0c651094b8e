//! Key updates of a session: who wants one, and when it happens (spec 5.2).

use core::cmp::Ordering;

use super::epochs::{NotRegistered, Step};
use super::{Session, SessionId, SessionKeys};
use crate::endpoint::{Notice, Shared};
use crate::error::UpdateError;
use crate::event::Event;
use crate::keys::Secret;
use crate::record::Layout;
use crate::time::Time;

/// A direction of a session, as this end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What we send.
    Send,
    /// What the peer sends.
    Receive,
}

impl Session {
    /// Our current sending epoch is to be left. False if there are no keys yet.
    pub(crate) fn want_update(&mut self, cx: &mut Shared) -> bool {
        let Some(keys) = self.keys.as_deref_mut() else { return false };
        note_step(keys.send.want_update(), cx, self.id);
        true
    }

    /// Asks the peer to leave its current sending epoch. False if there are no keys yet.
    pub(crate) fn request_update(&mut self, cx: &mut Shared, now: Time) -> bool {
        let Some(keys) = self.keys.as_deref_mut() else { return false };
        let epoch = keys.receive.newest();
        if keys.receive.ask(now, epoch) {
            ask(cx, self.id, epoch);
        }
        true
    }

    /// The peer asks us to leave our sending epoch `epoch`.
    pub(crate) fn on_update(&mut self, cx: &mut Shared, now: Time, epoch: u32) {
        let Some(keys) = self.keys.as_deref_mut() else { return };
        match epoch.cmp(&keys.send.current()) {
            Ordering::Greater => self.violation(cx, now),
            Ordering::Equal => note_step(keys.send.peer_asked(), cx, self.id),
            // Left meanwhile.
            Ordering::Less => {}
        }
    }

    /// Gives the secret of the epoch after the newest one of a direction.
    pub(crate) fn register_update(
        &mut self,
        direction: Direction,
        secret: Secret,
    ) -> Result<(), UpdateError> {
        let Some(keys) = self.keys.as_deref_mut() else { return Err(UpdateError::NoSession) };
        if secret.as_bytes().len() != keys.suite.hash_len() {
            return Err(UpdateError::WrongLength);
        }
        let registered = match direction {
            Direction::Send => keys.send.register(secret),
            Direction::Receive => keys.receive.register(secret),
        };
        registered.map_err(|error| match error {
            NotRegistered::Derived => UpdateError::Derived,
            NotRegistered::TooMany => UpdateError::TooMany,
        })
    }
}

/// What messages that freeze take of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seals {
    pub(crate) messages: u32,
    pub(crate) records: u32,
    /// 16-byte blocks.
    pub(crate) blocks: u64,
}

impl Seals {
    /// Of one message.
    pub(crate) fn of_message(records: u32, wire_len: u32) -> Self {
        let blocks = u64::from(wire_len).div_ceil(16) + u64::from(records);
        Seals { messages: 1, records, blocks }
    }

    /// Of a bundle of so many messages, of `bytes` bytes on the wire in all, its own record and theirs: each
    /// may be lost and sealed once more for itself.
    pub(super) fn of_bundle(messages: usize, bytes: usize) -> Self {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        let records = messages.saturating_add(1);
        // Of each record the last block may be in part, and one more goes for its tag.
        let blocks = (bytes as u64).div_ceil(16) + 2 * u64::from(records);
        Seals { messages, records, blocks }
    }
}

/// Chooses the epoch that messages are frozen in, which may be the next one. False if the key may not seal
/// so much.
pub(super) fn step(
    keys: &mut SessionKeys,
    cx: &mut Shared,
    session: SessionId,
    seals: Seals,
) -> bool {
    #[cfg(feature = "mutations")]
    if cx.config.has(crate::mutation::Mutation::UpdateWithoutEvidence) {
        keys.send.peer_opened(u32::MAX);
    }
    note_step(keys.send.advance(keys.suite, seals), cx, session);
    keys.send.may_seal(seals)
}

/// Chooses the epoch that a message of `layout` is frozen in, and reserves what it takes of the key. False
/// if the key may not seal so much.
pub(super) fn reserve(
    keys: &mut SessionKeys,
    cx: &mut Shared,
    session: SessionId,
    layout: Layout,
) -> bool {
    let seals = Seals::of_message(layout.records, layout.wire_len);
    if !step(keys, cx, session, seals) {
        cx.stats.limit_aead += 1;
        return false;
    }
    keys.send.reserve(seals);
    true
}

/// Notes that records of `epoch` opened.
pub(super) fn note_opened(
    keys: &mut SessionKeys,
    cx: &mut Shared,
    now: Time,
    session: SessionId,
    epoch: u32,
) {
    if keys.receive.opened(now, epoch) {
        ask(cx, session, epoch);
    }
}

/// Counts records of `epoch` that did not open.
pub(super) fn note_failed(
    keys: &mut SessionKeys,
    cx: &mut Shared,
    now: Time,
    session: SessionId,
    (epoch, records): (u32, u32),
) {
    cx.stats.records_not_authentic += u64::from(records);
    if keys.receive.failed(now, epoch, records) {
        ask(cx, session, epoch);
    }
}

fn ask(cx: &mut Shared, session: SessionId, epoch: u32) {
    cx.stats.key_updates_asked += 1;
    cx.send_control(session, 0, Notice::Update { epoch });
}

fn note_step(step: Step, cx: &mut Shared, session: SessionId) {
    match step {
        Step::Stay => {}
        Step::Entered => cx.stats.key_updates += 1,
        Step::Unregistered => cx.events.push_back(Event::KeyUpdateWanted { session }),
    }
}
