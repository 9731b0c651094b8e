//! The epoch byte (spec 2.1).

/// The first epoch of application keys.
pub const FIRST_EPOCH: u32 = 3;

/// The epoch of early data, in both directions (spec 5.7).
pub const EARLY_EPOCH: u32 = 1;

/// How many application epochs the byte can tell apart.
const EPOCHS_ON_WIRE: u32 = 256 - FIRST_EPOCH;

/// The byte that epoch `epoch` has on the wire; epochs below 3 are sent as they are.
#[inline]
#[must_use]
pub fn epoch_to_wire(epoch: u32) -> u8 {
    let byte = match epoch.checked_sub(FIRST_EPOCH) {
        Some(application) => FIRST_EPOCH + application % EPOCHS_ON_WIRE,
        None => epoch,
    };
    byte as u8
}

/// Whether messages, and control packets about them, may have this epoch byte.
#[inline]
pub(super) fn carries_messages(byte: u8) -> bool {
    u32::from(byte) == EARLY_EPOCH || u32::from(byte) >= FIRST_EPOCH
}

/// The application epoch that `byte` names to someone whose newest committed epoch is `current`: one of
/// `current - 3 ..= current + 1`, or `None`.
#[inline]
#[must_use]
pub fn epoch_from_wire(byte: u8, current: u32) -> Option<u32> {
    let oldest = current.saturating_sub(3).max(FIRST_EPOCH);
    (oldest..=current.saturating_add(1)).rev().find(|&epoch| epoch_to_wire(epoch) == byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_live_epoch_is_found(current in FIRST_EPOCH..u32::MAX, back in 0..5u32) {
            let epoch = (current + 1).saturating_sub(back).max(FIRST_EPOCH);
            prop_assert_eq!(epoch_from_wire(epoch_to_wire(epoch), current), Some(epoch));
        }

        #[test]
        fn no_other_is(byte in any::<u8>(), current in FIRST_EPOCH..u32::MAX) {
            if let Some(epoch) = epoch_from_wire(byte, current) {
                prop_assert!(epoch >= FIRST_EPOCH && epoch + 3 >= current && epoch <= current + 1);
                prop_assert_eq!(epoch_to_wire(epoch), byte);
            }
        }
    }

    #[test]
    fn the_byte_never_names_a_reserved_epoch() {
        for epoch in FIRST_EPOCH..2000 {
            assert!(u32::from(epoch_to_wire(epoch)) >= FIRST_EPOCH);
        }
        assert_eq!((epoch_to_wire(3), epoch_to_wire(255), epoch_to_wire(256)), (3, 255, 3));
        assert_eq!((0..3).map(epoch_to_wire).collect::<std::vec::Vec<_>>(), [0, 1, 2]);
        assert_eq!((0..3).find_map(|byte| epoch_from_wire(byte, 3)), None);
        assert_eq!(epoch_from_wire(5, 3), None);
    }
}
