//! Attackers: on the path, where they see, hold, change and add packets but have no keys, and off
//! the path, where they send what they like under anybody's name and see only what is sent to them.
//!
//! A [`Plan`] says which there are; it is drawn by seed, written to JSON and shrunk. What they make
//! is marked in [`Packet::origin`](crate::packet::Packet::origin), so that checkers can tell.
//!
//! A forged packet is not always without effect: under a genuine DATA header, which the tag
//! covers, a payload that was cut, exchanged or flipped is still an authentic packet, and records
//! of it that are whole and unchanged open. All else that is forged must change nothing.

mod alter;
mod draw;
mod first;
mod forge;
mod hello;
mod memory;
mod off_path;
mod on_path;
mod plan;
#[cfg(test)]
mod samples;
mod sight;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

pub use alter::{Change, Field, Likeness, likeness};
pub use off_path::OffPath;
pub use on_path::OnPath;
pub use plan::{Act, OffPathPlan, OnPathPlan, Place, Plan, Spoof};
pub use sight::What;

/// What the attackers of a run have done: a handle that all of them share.
#[derive(Clone, Debug, Default)]
pub struct Tally(Rc<RefCell<BTreeMap<&'static str, u64>>>);

impl Tally {
    /// How often each kind of attack was made; kinds that never were are missing.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.borrow().clone()
    }

    /// All attacks together.
    pub fn total(&self) -> u64 {
        self.0.borrow().values().sum()
    }

    fn count(&self, kind: &'static str) {
        *self.0.borrow_mut().entry(kind).or_default() += 1;
    }
}
