//! One message on its way: cut into records and packets ([`send`]), put together again ([`recv`], [`whole`]).

pub(crate) mod recv;
#[cfg(test)]
mod segment_tests;
pub(crate) mod send;
mod trim;
pub(crate) mod whole;

use alloc::vec::Vec;
use core::ops::Deref;

/// The application bytes of a received message, in the buffer its records were opened into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    buffer: Vec<u8>,
    start: usize,
}

impl Body {
    /// The bytes of `buffer` from `start` on; empty if it is shorter.
    pub(crate) fn new(buffer: Vec<u8>, start: usize) -> Self {
        Body { buffer, start }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// The bytes as a vector of their own; moves them within their buffer, allocates nothing.
    pub fn into_vec(mut self) -> Vec<u8> {
        self.buffer.drain(..self.start.min(self.buffer.len()));
        self.buffer
    }
}

impl Deref for Body {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl From<Vec<u8>> for Body {
    fn from(buffer: Vec<u8>) -> Self {
        Body { buffer, start: 0 }
    }
}
