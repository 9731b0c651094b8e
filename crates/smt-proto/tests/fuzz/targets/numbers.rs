//! Any epoch bytes and control numbers: only live epochs are understood, and each number is taken
//! once (spec 2.1, 5.2, 5.4).

use std::collections::BTreeSet;

use smt_proto::tag::{ControlWindow, MAX_CONTROL_NUMBER};
use smt_proto::wire::{FIRST_EPOCH, epoch_from_wire, epoch_to_wire};

use super::input::Input;

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    epochs(&mut input);
    let mut window = ControlWindow::new();
    let mut taken = BTreeSet::new();
    while !input.0.is_empty() {
        let number = number(&mut input, taken.last().copied().unwrap_or(0));
        let largest = taken.last().copied().unwrap_or(0);
        let fresh = (1..=MAX_CONTROL_NUMBER).contains(&number)
            && number + 128 > largest
            && !taken.contains(&number);
        assert_eq!(window.accept(number), fresh, "{number} after {largest}");
        if fresh {
            taken.insert(number);
        }
    }
}

/// Mostly one near the largest.
fn number(input: &mut Input<'_>, largest: u64) -> u64 {
    match input.u8() {
        ahead @ 0..=99 => largest + u64::from(ahead),
        behind @ 100..=249 => largest.saturating_sub(u64::from(behind) - 100),
        250..=252 => largest.wrapping_add(input.u64() >> 16),
        _ => input.u64(),
    }
}

fn epochs(input: &mut Input<'_>) {
    let (byte, current) = (input.u8(), input.u32());
    if let Some(epoch) = epoch_from_wire(byte, current) {
        assert!(epoch >= FIRST_EPOCH && u64::from(epoch) <= u64::from(current) + 1);
        assert!(u64::from(epoch) + 3 >= u64::from(current));
        assert_eq!(epoch_to_wire(epoch), byte);
    }
    let epoch = current.saturating_sub(u32::from(byte % 4)).max(FIRST_EPOCH);
    if current >= FIRST_EPOCH {
        assert_eq!(epoch_from_wire(epoch_to_wire(epoch), current), Some(epoch));
    }
}
