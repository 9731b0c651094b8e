//! A message that one packet holds whole, the usual case: opened at once, nothing to keep account of.

use alloc::vec;

use super::Body;
use super::recv::Opener;
use crate::record::{self, Layout};
use crate::wire::{PREAMBLE_LEN, Preamble};

/// Why a whole message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A record did not open.
    NotAuthentic,
    /// The preamble or the padding contradicts the header: the peer is at fault.
    Contradiction,
}

/// Opens the message of `layout` whose wire stream is `wire`.
pub(crate) fn open(
    layout: Layout,
    wire: &[u8],
    opener: Opener<'_>,
) -> Result<(Preamble, Body), Refused> {
    // One byte more, that the last record's inner type spills into.
    let mut buffer = vec![0; layout.plain_len as usize + 1];
    for index in 0..layout.records {
        let (from, to) = (layout.wire_range(index), layout.plain_range(index));
        let from = wire.get(from.start as usize..from.end as usize);
        let to = buffer.get_mut(to.start as usize..to.end as usize + 1);
        let seq = record::sequence_number(opener.id, opener.id_bits, index);
        let (Some(from), Some(to), Some(seq)) = (from, to, seq) else {
            return Err(Refused::NotAuthentic);
        };
        record::open(opener.keys, seq, from, to).map_err(|_| Refused::NotAuthentic)?;
    }
    buffer.truncate(layout.plain_len as usize);
    let preamble = Preamble::parse(&buffer).map_err(|_| Refused::Contradiction)?;
    if !layout.agrees(&preamble) {
        return Err(Refused::Contradiction);
    }
    let end = PREAMBLE_LEN + preamble.app_len as usize;
    if buffer.get(end..).is_none_or(|padding| padding.iter().any(|byte| *byte != 0)) {
        return Err(Refused::Contradiction);
    }
    buffer.truncate(end);
    Ok((preamble, Body::new(buffer, PREAMBLE_LEN)))
}
