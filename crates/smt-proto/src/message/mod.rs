//! One message on its way: cut into records and packets ([`send`]), put together again ([`recv`], [`whole`]).

pub(crate) mod recv;
#[cfg(test)]
mod segment_tests;
pub(crate) mod send;
mod trim;
pub(crate) mod whole;

use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use bytes::Bytes;

/// The application bytes of a received message, in the buffer its records were opened into. That of a short
/// message may be shared with others that came in the same packet, and lives as long as the last of them:
/// what is kept for long is better copied ([`into_vec`](Self::into_vec)).
#[derive(Clone)]
pub struct Body(Repr);

#[derive(Clone)]
enum Repr {
    /// A buffer of its own, and where the bytes begin.
    Own(Vec<u8>, usize),
    /// A part of a bundle's (spec 4.5).
    Shared(Bytes),
}

impl Body {
    /// The bytes of `buffer` from `start` on; empty if it is shorter.
    pub(crate) fn new(buffer: Vec<u8>, start: usize) -> Self {
        Body(Repr::Own(buffer, start))
    }

    /// Bytes in a buffer that others use, too.
    pub(crate) fn shared(bytes: Bytes) -> Self {
        Body(Repr::Shared(bytes))
    }

    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Own(buffer, start) => buffer.get(*start..).unwrap_or_default(),
            Repr::Shared(bytes) => bytes,
        }
    }

    /// The bytes as a vector of their own: moved within their buffer, or copied if it is shared.
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            Repr::Own(mut buffer, start) => {
                buffer.drain(..start.min(buffer.len()));
                buffer
            }
            Repr::Shared(bytes) => bytes.to_vec(),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Body::new(Vec::new(), 0)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Body").field(&self.as_slice()).finish()
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Body {}

/// The same bytes, not copied.
impl From<Body> for Bytes {
    fn from(body: Body) -> Self {
        match body.0 {
            Repr::Own(buffer, start) => {
                let bytes = Bytes::from(buffer);
                bytes.slice(start.min(bytes.len())..)
            }
            Repr::Shared(bytes) => bytes,
        }
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
        Body::new(buffer, 0)
    }
}
