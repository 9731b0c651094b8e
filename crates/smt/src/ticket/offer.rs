//! What a client offers in its parameter block (entry 9 of spec 5.1).

use super::format::TICKET_ID_LEN;

/// Flag: no TLS follows, the session lives on the ticket's secrets.
const STATIC: u8 = 1;

/// An offer of early data.
pub(super) struct Offer<'a> {
    pub(super) ticket_id: [u8; TICKET_ID_LEN],
    pub(super) static_session: bool,
    /// The client's clock, in milliseconds since 1970.
    pub(super) time_ms: u64,
    pub(super) key: &'a [u8],
}

impl<'a> Offer<'a> {
    pub(super) fn emit(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(TICKET_ID_LEN + 9 + self.key.len());
        out.extend_from_slice(&self.ticket_id);
        out.push(if self.static_session { STATIC } else { 0 });
        out.extend_from_slice(&self.time_ms.to_be_bytes());
        out.extend_from_slice(self.key);
        out
    }

    /// `None` if it is too short or has flags that this version does not know.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (ticket_id, rest) = bytes.split_first_chunk()?;
        let (flags, rest) = rest.split_first()?;
        let (time, key) = rest.split_first_chunk()?;
        (flags & !STATIC == 0).then_some(Self {
            ticket_id: *ticket_id,
            static_session: flags & STATIC != 0,
            time_ms: u64::from_be_bytes(*time),
            key,
        })
    }
}
