//! The SMT protocol as a state machine.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(any(test, feature = "aws-lc"))]
extern crate std;

pub mod crypto;
pub mod keys;
pub mod padding;
pub mod record;
pub mod tag;
pub mod time;
pub mod wire;
