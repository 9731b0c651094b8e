//! The keys of an established session: epochs, AEAD limits, control numbers.

use alloc::vec::Vec;

use crate::crypto::{Suite, SuiteId};
use crate::keys::{EpochKeys, HeaderKey, Secret};
use crate::tag::ControlWindow;
use crate::wire::{epoch_from_wire, epoch_to_wire};

/// The first application epoch.
pub(crate) const FIRST_EPOCH: u32 = 3;
/// Epochs alive at once in one direction (spec 5.2).
const MAX_EPOCHS: usize = 4;
/// Failed opens after which nothing more is opened (spec 5.2).
const MAX_FAILED_OPENS: u64 = 1 << 36;

/// How much one key may protect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AeadLimits {
    /// Records sealed.
    pub records: u64,
    /// 16-byte blocks sealed.
    pub blocks: u64,
}

impl AeadLimits {
    /// The limits of spec 5.2.
    pub fn of(suite: SuiteId) -> Self {
        match suite {
            // 2^24.5 records, 2^34.5 blocks.
            SuiteId::Aes128GcmSha256 | SuiteId::Aes256GcmSha384 => {
                AeadLimits { records: 23_726_566, blocks: 24_296_004_000 }
            }
            SuiteId::ChaCha20Poly1305Sha256 => AeadLimits { records: 1 << 36, blocks: u64::MAX },
        }
    }
}

/// Keys and key-bound counters of one session.
pub(crate) struct SessionKeys {
    suite: &'static dyn Suite,
    limits: AeadLimits,
    /// Ascending; the last is the current one.
    tx: Vec<EpochKeys>,
    /// Ascending; the last is the current one.
    rx: Vec<EpochKeys>,
    /// Derived when the peer seemed to use it; committed when a record opened.
    rx_next: Option<EpochKeys>,
    pub(crate) tx_header: HeaderKey,
    pub(crate) rx_header: HeaderKey,
    records: u64,
    blocks: u64,
    failed_opens: u64,
    /// The highest of our epochs that the peer says it has opened.
    pub(crate) peer_opened: u32,
    /// Whether anything of the peer's was opened at all.
    opened_any: bool,
    control_out: u64,
    control_in: ControlWindow,
}

impl SessionKeys {
    pub(crate) fn new(
        suite: &'static dyn Suite,
        tx: Secret,
        rx: Secret,
        limits: Option<AeadLimits>,
    ) -> Self {
        SessionKeys {
            suite,
            limits: limits.unwrap_or(AeadLimits::of(suite.id())),
            tx_header: HeaderKey::derive(suite, &tx),
            rx_header: HeaderKey::derive(suite, &rx),
            tx: Vec::from([EpochKeys::new(suite, tx, FIRST_EPOCH)]),
            rx: Vec::from([EpochKeys::new(suite, rx, FIRST_EPOCH)]),
            rx_next: None,
            records: 0,
            blocks: 0,
            failed_opens: 0,
            peer_opened: 0,
            opened_any: false,
            control_out: 0,
            control_in: ControlWindow::default(),
        }
    }

    /// The current sending epoch.
    pub(crate) fn tx_epoch(&self) -> u32 {
        self.tx.last().map_or(FIRST_EPOCH, EpochKeys::epoch)
    }

    pub(crate) fn tx_epoch_byte(&self) -> u8 {
        epoch_to_wire(self.tx_epoch())
    }

    pub(crate) fn oldest_tx_epoch(&self) -> u32 {
        self.tx.first().map_or(FIRST_EPOCH, EpochKeys::epoch)
    }

    /// The highest of the peer's epochs that we have opened, 0 if none.
    pub(crate) fn highest_opened(&self) -> u32 {
        if self.opened_any { self.rx.last().map_or(0, EpochKeys::epoch) } else { 0 }
    }

    /// Sending keys of `epoch`, if they still live.
    pub(crate) fn tx_keys(&self, epoch: u32) -> Option<&EpochKeys> {
        self.tx.iter().rev().find(|keys| keys.epoch() == epoch)
    }

    /// Receiving keys of `epoch`, if they live or were derived ahead.
    pub(crate) fn rx_keys(&self, epoch: u32) -> Option<&EpochKeys> {
        let mut known = self.rx.iter().rev().chain(&self.rx_next);
        known.find(|keys| keys.epoch() == epoch)
    }

    /// Which epoch a packet's epoch byte means. The next one is derived when first seen.
    pub(crate) fn rx_epoch(&mut self, byte: u8) -> Option<u32> {
        let current = self.rx.last()?;
        let epoch = epoch_from_wire(byte, current.epoch())?;
        if epoch == current.epoch() + 1 && self.rx_next.is_none() {
            self.rx_next = Some(current.next(self.suite));
        }
        Some(epoch)
    }

    /// Notes that a record of `epoch` opened: commits to it if it was the next one.
    pub(crate) fn opened(&mut self, epoch: u32) {
        self.opened_any = true;
        if self.rx_next.as_ref().is_some_and(|next| next.epoch() == epoch)
            && let Some(next) = self.rx_next.take()
        {
            if self.rx.len() == MAX_EPOCHS {
                self.rx.remove(0);
            }
            self.rx.push(next);
        }
    }

    /// Counts a record that did not open. False once the key has seen too many.
    pub(crate) fn failed_open(&mut self) {
        self.failed_opens += 1;
    }

    /// Whether records may still be opened.
    pub(crate) fn may_open(&self) -> bool {
        self.failed_opens < MAX_FAILED_OPENS
    }

    /// Counts sealed records and their bytes.
    pub(crate) fn sealed(&mut self, records: u32, bytes: u32) {
        self.records += u64::from(records);
        self.blocks += u64::from(bytes).div_ceil(16) + u64::from(records);
    }

    /// Whether `records` more records of `bytes` in all may be sealed under the current key.
    pub(crate) fn may_seal(&self, records: u32, bytes: u32) -> bool {
        self.records + u64::from(records) <= self.limits.records
            && self.blocks + u64::from(bytes).div_ceil(16) + u64::from(records)
                <= self.limits.blocks
    }

    /// Whether half of a limit is used and the peer has opened the current epoch.
    pub(crate) fn update_is_due(&self) -> bool {
        let half_used =
            self.records >= self.limits.records / 2 || self.blocks >= self.limits.blocks / 2;
        half_used && self.update_is_possible()
    }

    /// Whether the peer is known to have opened the current epoch (spec 5.2).
    pub(crate) fn update_is_possible(&self) -> bool {
        self.peer_opened >= self.tx_epoch()
    }

    /// Enters the next sending epoch. Call only when [`update_is_possible`](Self::update_is_possible).
    pub(crate) fn update(&mut self) {
        let Some(current) = self.tx.last() else { return };
        let next = current.next(self.suite);
        if self.tx.len() == MAX_EPOCHS {
            self.tx.remove(0);
        }
        self.tx.push(next);
        self.records = 0;
        self.blocks = 0;
    }

    /// The number of the next control packet.
    pub(crate) fn next_control(&mut self) -> u64 {
        self.control_out += 1;
        self.control_out
    }

    /// Takes a control number once.
    pub(crate) fn accept_control(&mut self, number: u64) -> bool {
        self.control_in.accept(number)
    }
}
