//! The keys of an established session: epochs of both directions, header keys, control numbers.

use super::epochs::{AeadLimits, ReceiveEpochs, SendEpochs, Updates};
use crate::crypto::Suite;
use crate::keys::{EpochKeys, HeaderKey, Secret};
use crate::wire::{FIRST_EPOCH, epoch_to_wire};

/// Keys and key-bound counters of one session.
pub(crate) struct SessionKeys {
    pub(crate) suite: &'static dyn Suite,
    pub(crate) send: SendEpochs,
    pub(crate) receive: ReceiveEpochs,
    pub(crate) tx_header: HeaderKey,
    pub(crate) rx_header: HeaderKey,
}

impl SessionKeys {
    /// Keys from the epoch 3 secrets of both directions; `limits` replace those of the suite.
    pub(crate) fn new(
        suite: &'static dyn Suite,
        tx: Secret,
        rx: Secret,
        updates: Updates,
        limits: Option<AeadLimits>,
    ) -> Self {
        let limits = limits.unwrap_or(AeadLimits::of(suite.id()));
        let first = |secret| EpochKeys::new(suite, secret, FIRST_EPOCH);
        SessionKeys {
            suite,
            tx_header: HeaderKey::derive(suite, &tx),
            rx_header: HeaderKey::derive(suite, &rx),
            send: SendEpochs::new(first(tx), updates, limits),
            receive: ReceiveEpochs::new(first(rx), updates, limits),
        }
    }

    /// The epoch byte of control packets.
    pub(crate) fn tx_epoch_byte(&self) -> u8 {
        epoch_to_wire(self.send.current())
    }

    /// Which epoch a packet's epoch byte means, if its keys are here.
    pub(crate) fn rx_epoch(&mut self, byte: u8) -> Option<u32> {
        self.receive.of_byte(self.suite, byte)
    }
}
