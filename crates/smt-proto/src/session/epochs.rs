//! Epochs of each direction: which keys live, what they may still do, and when the next one is due
//! (spec 5.2).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use super::update::Seals;
use crate::crypto::{Suite, SuiteId};
use crate::keys::{EpochKeys, Secret};
use crate::time::Time;
use crate::wire::{FIRST_EPOCH, epoch_from_wire};

/// How far apart the oldest and the newest epoch of a direction may be that live at once (spec 5.2).
const MAX_SPAN: u32 = 3;
/// Least time between two requests to leave the same epoch.
const ASK_PACE: Duration = Duration::from_millis(100);
/// Secrets of one direction that may be registered ahead of their use (spec 11.2).
pub(crate) const MAX_REGISTERED: usize = 4;

/// How much one key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AeadLimits {
    /// Records sealed.
    pub records: u64,
    /// 16-byte blocks sealed.
    pub blocks: u64,
    /// Records that did not open.
    pub failed_opens: u64,
}

impl AeadLimits {
    /// The limits of spec 5.2.
    pub fn of(suite: SuiteId) -> Self {
        let failed_opens = 1 << 36;
        match suite {
            // 2^24.5 records, 2^34.5 blocks.
            SuiteId::Aes128GcmSha256 | SuiteId::Aes256GcmSha384 => {
                AeadLimits { records: 23_726_566, blocks: 24_296_004_000, failed_opens }
            }
            SuiteId::ChaCha20Poly1305Sha256 => {
                AeadLimits { records: 1 << 36, blocks: u64::MAX, failed_opens }
            }
        }
    }
}

/// Where the secrets of later epochs come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Updates {
    /// Each from the one before it (spec 5.1).
    #[default]
    Derived,
    /// From the application, which has them of a TLS stack elsewhere: see
    /// [`Endpoint::register_update`](crate::Endpoint::register_update).
    Registered,
}

/// Where the keys of a direction's next epoch come from.
enum Source {
    Derived,
    /// Secrets of the epochs to come, the next one first.
    Registered(VecDeque<Secret>),
}

impl Source {
    fn new(updates: Updates) -> Self {
        match updates {
            Updates::Derived => Source::Derived,
            Updates::Registered => Source::Registered(VecDeque::new()),
        }
    }

    /// Whether there is a next epoch to enter now.
    fn is_ready(&self) -> bool {
        match self {
            Source::Derived => true,
            Source::Registered(secrets) => !secrets.is_empty(),
        }
    }

    /// The keys of the epoch after `current`; `None` if nothing was registered for it.
    fn next(&mut self, suite: &dyn Suite, current: &EpochKeys) -> Option<EpochKeys> {
        match self {
            Source::Derived => Some(current.next(suite)),
            Source::Registered(secrets) => {
                Some(EpochKeys::new(suite, secrets.pop_front()?, current.epoch().saturating_add(1)))
            }
        }
    }

    fn register(&mut self, secret: Secret) -> Result<(), NotRegistered> {
        match self {
            Source::Derived => Err(NotRegistered::Derived),
            Source::Registered(secrets) if secrets.len() >= MAX_REGISTERED => {
                Err(NotRegistered::TooMany)
            }
            Source::Registered(secrets) => {
                secrets.push_back(secret);
                Ok(())
            }
        }
    }
}

/// Why a secret was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotRegistered {
    /// The session derives its secrets.
    Derived,
    /// [`MAX_REGISTERED`] wait to be used.
    TooMany,
}

/// A sending epoch.
struct Sending {
    keys: EpochKeys,
    /// Messages frozen in it that may have to be sent again.
    live: u32,
}

/// What became of a wish for the next sending epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nobody wants one, or it must wait.
    Stay,
    /// The next epoch is the current one now.
    Entered,
    /// It is due, but no secret was registered; said once.
    Unregistered,
}

/// The epochs that we send under.
pub(crate) struct SendEpochs {
    /// Ascending, without those that nobody needs any more; the last is the current one.
    epochs: Vec<Sending>,
    source: Source,
    limits: AeadLimits,
    /// Records and blocks sealed, or reserved, under the current key.
    records: u64,
    blocks: u64,
    /// The highest of our epochs that the peer says it has opened, or asks us to leave: it takes the next.
    peer_opened: u32,
    /// The application, or the peer, wants the current epoch left.
    wanted: bool,
    /// It was said that a secret is missing.
    missing_told: bool,
}

impl SendEpochs {
    pub(crate) fn new(first: EpochKeys, updates: Updates, limits: AeadLimits) -> Self {
        SendEpochs {
            epochs: Vec::from([Sending { keys: first, live: 0 }]),
            source: Source::new(updates),
            limits,
            records: 0,
            blocks: 0,
            peer_opened: 0,
            wanted: false,
            missing_told: false,
        }
    }

    pub(crate) fn current(&self) -> u32 {
        self.epochs.last().map_or(FIRST_EPOCH, |epoch| epoch.keys.epoch())
    }

    pub(crate) fn oldest(&self) -> u32 {
        self.epochs.first().map_or(FIRST_EPOCH, |epoch| epoch.keys.epoch())
    }

    /// The keys of `epoch`, if they still live.
    pub(crate) fn keys(&self, epoch: u32) -> Option<&EpochKeys> {
        let current = self.epochs.last().map(|epoch| &epoch.keys);
        if current.is_some_and(|keys| keys.epoch() == epoch) {
            return current;
        }
        let mut keys = self.epochs.iter().map(|epoch| &epoch.keys);
        keys.find(|keys| keys.epoch() == epoch)
    }

    /// The peer says that it has opened records of `epoch`.
    pub(crate) fn peer_opened(&mut self, epoch: u32) {
        self.peer_opened = self.peer_opened.max(epoch);
    }

    /// The peer, which takes the next epoch, asks us to leave the current one.
    pub(crate) fn peer_asked(&mut self) -> Step {
        self.peer_opened(self.current());
        self.want_update()
    }

    /// The current epoch is to be left.
    pub(crate) fn want_update(&mut self) -> Step {
        self.wanted = true;
        self.missing()
    }

    pub(crate) fn register(&mut self, secret: Secret) -> Result<(), NotRegistered> {
        self.source.register(secret)?;
        self.missing_told = false;
        Ok(())
    }

    /// Enters the next epoch if one is due and may be entered, before messages that take `seals` are frozen.
    pub(crate) fn advance(&mut self, suite: &dyn Suite, seals: Seals) -> Step {
        let crosses = !self.may_seal(seals);
        if !(self.wanted || crosses || self.has_used(1, 2)) {
            return Step::Stay;
        }
        if !self.source.is_ready() {
            return self.missing();
        }
        // The next epoch would be too far from this one for the peer to take both.
        let kills = self.oldest() + MAX_SPAN <= self.current();
        let must = crosses || self.has_used(7, 8);
        if self.peer_opened < self.current() || self.current() == u32::MAX || (kills && !must) {
            return Step::Stay;
        }
        let current = self.epochs.last();
        let Some(keys) = current.and_then(|current| self.source.next(suite, &current.keys)) else {
            return Step::Stay;
        };
        let oldest = keys.epoch() - MAX_SPAN.min(keys.epoch());
        self.epochs.push(Sending { keys, live: 0 });
        self.epochs.retain(|epoch| epoch.keys.epoch() >= oldest);
        self.drop_unused();
        (self.records, self.blocks) = (0, 0);
        (self.wanted, self.missing_told) = (false, false);
        Step::Entered
    }

    /// Whether so much more may be sealed under the current key.
    pub(crate) fn may_seal(&self, seals: Seals) -> bool {
        self.records + u64::from(seals.records) <= self.limits.records
            && self.blocks + seals.blocks <= self.limits.blocks
    }

    /// Messages are frozen in the current epoch: they count as sealed, and the epoch lives until each was
    /// [released](Self::release).
    pub(crate) fn reserve(&mut self, seals: Seals) {
        self.records += u64::from(seals.records);
        self.blocks += seals.blocks;
        if let Some(current) = self.epochs.last_mut() {
            current.live += seals.messages;
        }
    }

    /// A message frozen in `epoch` will never be sent again.
    pub(crate) fn release(&mut self, epoch: u32) {
        if let Some(current) = self.epochs.last_mut()
            && current.keys.epoch() == epoch
        {
            current.live = current.live.saturating_sub(1);
            return;
        }
        let mut epochs = self.epochs.iter_mut();
        let Some(found) = epochs.find(|found| found.keys.epoch() == epoch) else { return };
        found.live = found.live.saturating_sub(1);
        if found.live == 0 {
            self.drop_unused();
        }
    }

    fn drop_unused(&mut self) {
        let current = self.current();
        self.epochs.retain(|epoch| epoch.live > 0 || epoch.keys.epoch() == current);
    }

    /// Whether this part of a limit is used.
    fn has_used(&self, part: u64, of: u64) -> bool {
        let reached = |used: u64, limit: u64| used >= limit / of * part + limit % of * part / of;
        reached(self.records, self.limits.records) || reached(self.blocks, self.limits.blocks)
    }

    fn missing(&mut self) -> Step {
        if self.source.is_ready() || core::mem::replace(&mut self.missing_told, true) {
            return Step::Stay;
        }
        Step::Unregistered
    }
}

/// A receiving epoch.
struct Receiving {
    keys: EpochKeys,
    /// Records that did not open.
    failed: u64,
    /// When the peer was last asked to leave it.
    asked_at: Option<Time>,
}

impl Receiving {
    fn new(keys: EpochKeys) -> Self {
        Receiving { keys, failed: 0, asked_at: None }
    }
}

/// The epochs that the peer sends under.
pub(crate) struct ReceiveEpochs {
    /// Ascending, without those that the peer has left for good; the last is the current one.
    epochs: Vec<Receiving>,
    /// Made when the peer seemed to use it; committed when a record opened, or the peer is asked to leave it.
    ahead: Option<Receiving>,
    source: Source,
    /// Records of one epoch that may fail to open.
    limit: u64,
    /// The highest epoch of which a record opened, 0 if none.
    opened: u32,
}

impl ReceiveEpochs {
    pub(crate) fn new(first: EpochKeys, updates: Updates, limits: AeadLimits) -> Self {
        ReceiveEpochs {
            epochs: Vec::from([Receiving::new(first)]),
            ahead: None,
            source: Source::new(updates),
            limit: limits.failed_opens,
            opened: 0,
        }
    }

    /// The highest epoch of which a record opened, 0 if none.
    pub(crate) fn highest_opened(&self) -> u32 {
        self.opened
    }

    /// The newest epoch that the peer is known to send under.
    pub(crate) fn newest(&self) -> u32 {
        let newest = self.ahead.as_ref().or(self.epochs.last());
        newest.map_or(FIRST_EPOCH, |epoch| epoch.keys.epoch())
    }

    /// Which epoch the epoch byte of an authentic packet means, if its keys are here. The next epoch's
    /// are made when it is first seen.
    pub(crate) fn of_byte(&mut self, suite: &dyn Suite, byte: u8) -> Option<u32> {
        let current = &self.epochs.last()?.keys;
        let epoch = epoch_from_wire(byte, current.epoch())?;
        if epoch == current.epoch() {
            return Some(epoch);
        }
        if epoch > current.epoch() && self.ahead.is_none() {
            self.ahead = Some(Receiving::new(self.source.next(suite, current)?));
        }
        self.find(epoch).map(|_| epoch)
    }

    /// The keys of `epoch`, if they live.
    pub(crate) fn keys(&self, epoch: u32) -> Option<&EpochKeys> {
        self.find(epoch).map(|epoch| &epoch.keys)
    }

    /// Whether records of `epoch` may still be opened.
    pub(crate) fn may_open(&self, epoch: u32) -> bool {
        self.find(epoch).is_some_and(|epoch| epoch.failed < self.limit)
    }

    /// A record of `epoch` opened: commits to it if it was the next one. True if the peer was asked to
    /// leave this epoch and is to be asked again.
    pub(crate) fn opened(&mut self, now: Time, epoch: u32) -> bool {
        self.opened = self.opened.max(epoch);
        self.commit(epoch);
        let asked = self.find(epoch).is_some_and(|epoch| epoch.asked_at.is_some());
        asked && self.ask(now, epoch)
    }

    /// Counts records of `epoch` that did not open. True if the peer is to be asked to leave it.
    pub(crate) fn failed(&mut self, now: Time, epoch: u32, records: u32) -> bool {
        let limit = self.limit;
        let Some(found) = self.find_mut(epoch) else { return false };
        found.failed = found.failed.saturating_add(u64::from(records));
        found.failed >= limit / 2 && self.ask(now, epoch)
    }

    /// Whether the peer may be asked now to leave `epoch`: it is the newest, and was not asked just now.
    /// It is the current one then, whether a record of it opened or not: its successor comes next.
    pub(crate) fn ask(&mut self, now: Time, epoch: u32) -> bool {
        if epoch != self.newest() {
            return false;
        }
        let Some(found) = self.find_mut(epoch) else { return false };
        let due = found.asked_at.is_none_or(|at| now.since(at) >= ASK_PACE);
        if due {
            found.asked_at = Some(now);
            self.commit(epoch);
        }
        due
    }

    /// Makes `epoch` the current one if it was the next.
    fn commit(&mut self, epoch: u32) {
        if let Some(next) = self.ahead.take_if(|next| next.keys.epoch() == epoch) {
            self.epochs.push(next);
            self.left(epoch.saturating_sub(MAX_SPAN));
        }
    }

    /// The peer sends nothing any more under epochs below `oldest`: their keys are wiped.
    pub(crate) fn left(&mut self, oldest: u32) {
        let keep = oldest.min(self.epochs.last().map_or(0, |epoch| epoch.keys.epoch()));
        if self.epochs.first().is_some_and(|epoch| epoch.keys.epoch() < keep) {
            self.epochs.retain(|epoch| epoch.keys.epoch() >= keep);
        }
    }

    pub(crate) fn register(&mut self, secret: Secret) -> Result<(), NotRegistered> {
        self.source.register(secret)
    }

    #[inline]
    fn find(&self, epoch: u32) -> Option<&Receiving> {
        let current = self.epochs.last();
        if current.is_some_and(|current| current.keys.epoch() == epoch) {
            return current;
        }
        let mut known = self.epochs.iter().chain(&self.ahead);
        known.find(|known| known.keys.epoch() == epoch)
    }

    fn find_mut(&mut self, epoch: u32) -> Option<&mut Receiving> {
        let mut known = self.epochs.iter_mut().rev().chain(&mut self.ahead);
        known.find(|known| known.keys.epoch() == epoch)
    }
}

#[cfg(all(test, feature = "aws-lc"))]
#[path = "epochs_tests.rs"]
mod tests;
