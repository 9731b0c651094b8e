//! What bodies consist of: bytes that both ends can make up from the number of the RPC.

use super::CallId;
use crate::rng::mix;

/// Which message of an RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The request.
    Request,
    /// The response.
    Response,
}

/// The words of a body.
fn word(seed: u64, call: CallId, side: Side, index: u64) -> u64 {
    let base = seed ^ u64::from(call) << 20 ^ if side == Side::Response { 1 << 60 } else { 0 };
    mix(mix(base).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// A body of `len` bytes. Requests begin with the number of their RPC.
pub fn body(seed: u64, call: CallId, side: Side, len: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len as usize + 8);
    for index in 0..u64::from(len.div_ceil(8)) {
        bytes.extend_from_slice(&word(seed, call, side, index).to_le_bytes());
    }
    if side == Side::Request
        && let Some(head) = bytes.first_chunk_mut::<4>()
    {
        *head = call.to_be_bytes();
    }
    bytes.truncate(len as usize);
    bytes
}

/// Which RPC a request claims to be of.
pub fn call_of(request: &[u8]) -> Option<CallId> {
    request.first_chunk().map(|head| CallId::from_be_bytes(*head))
}

/// Where `bytes`, which begin at `start` of a body, differ from it; `None` if nowhere.
pub fn differs(seed: u64, call: CallId, side: Side, start: usize, bytes: &[u8]) -> Option<usize> {
    let mut at = start;
    let mut rest = bytes;
    while !rest.is_empty() {
        let expected = word(seed, call, side, at as u64 / 8).to_le_bytes();
        let from = at % 8;
        let take = rest.len().min(8 - from);
        let (now, later) = rest.split_at(take);
        let right = expected.get(from..from + take).unwrap_or_default();
        let number = call.to_be_bytes();
        let head = if side == Side::Request { 4 } else { 0 };
        for (n, byte) in now.iter().enumerate() {
            let place = at + n;
            let right = if place < head { number.get(place) } else { right.get(n) };
            if right != Some(byte) {
                return Some(place);
            }
        }
        at += take;
        rest = later;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_found_wherever_it_is() {
        for side in [Side::Request, Side::Response] {
            for len in [0u32, 1, 7, 8, 9, 63, 1000] {
                let mut bytes = body(5, 77, side, len);
                assert_eq!(bytes.len(), len as usize);
                assert_eq!(differs(5, 77, side, 0, &bytes), None);
                for start in 0..bytes.len() {
                    assert_eq!(differs(5, 77, side, start, &bytes[start..]), None);
                }
                for at in 0..bytes.len() {
                    bytes[at] ^= 0x10;
                    assert_eq!(differs(5, 77, side, 0, &bytes), Some(at));
                    bytes[at] ^= 0x10;
                }
            }
        }
        assert_eq!(call_of(&body(5, 77, Side::Request, 8)), Some(77));
        assert_ne!(body(5, 77, Side::Response, 64), body(5, 78, Side::Response, 64));
        assert_ne!(body(5, 77, Side::Response, 64), body(6, 77, Side::Response, 64));
    }
}
