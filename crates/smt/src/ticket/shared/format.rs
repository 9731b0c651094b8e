//! Tickets with their private keys as bytes.

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use zeroize::Zeroizing;

use super::KeyFileError;
use crate::ticket::format::{MAX_TICKET_LEN, Ticket};

/// Most tickets that servers share: a few of each certificate and configuration in use.
pub const MAX_SHARED_TICKETS: usize = 16;

const MAGIC: &[u8; 8] = b"SMT-KEYS";
const VERSION: u16 = 1;
/// Longer than any KEM's private key.
const MAX_KEY_LEN: usize = 4096;

/// More bytes than any number of tickets that may be shared takes up.
pub(super) const MAX_LEN: usize = MAGIC.len()
    + 3
    + MAX_SHARED_TICKETS * (2 + MAX_TICKET_LEN + 2 + MAX_KEY_LEN)
    + SHA256_OUTPUT_LEN;

/// A ticket and its private key in its wire form.
pub(in crate::ticket) struct KeyEntry {
    pub(in crate::ticket) ticket: Ticket,
    pub(in crate::ticket) key: Zeroizing<Vec<u8>>,
}

/// At most [`MAX_SHARED_TICKETS`] entries as bytes; others are left out.
pub(in crate::ticket) fn emit(entries: &[KeyEntry]) -> Zeroizing<Vec<u8>> {
    let entries = entries.get(..MAX_SHARED_TICKETS).unwrap_or(entries);
    // All at once: a vector that grows leaves copies of keys behind.
    let mut out = Zeroizing::new(Vec::with_capacity(MAX_LEN));
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.push(entries.len() as u8);
    for KeyEntry { ticket, key } in entries {
        out.extend_from_slice(&(ticket.bytes().len() as u16).to_be_bytes());
        out.extend_from_slice(ticket.bytes());
        out.extend_from_slice(&(key.len() as u16).to_be_bytes());
        out.extend_from_slice(key);
    }
    let hash = digest(&SHA256, &out);
    out.extend_from_slice(hash.as_ref());
    out
}

/// Reads what [`emit`] wrote; all of `bytes`.
pub(in crate::ticket) fn parse(bytes: &[u8]) -> Result<Vec<KeyEntry>, KeyFileError> {
    let content = checked(bytes)?;
    let mut reader = Reader(content);
    reader.take(MAGIC.len() + 2)?;
    let count = usize::from(reader.byte()?);
    if count > MAX_SHARED_TICKETS {
        return Err(KeyFileError::TooMany { most: MAX_SHARED_TICKETS });
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let len = reader.len()?;
        let ticket = Ticket::parse(reader.take(len)?)
            .map_err(|_| KeyFileError::Damaged { detail: "a ticket cannot be read" })?;
        let len = reader.len()?;
        let key = Zeroizing::new(reader.take(len)?.to_vec());
        entries.push(KeyEntry { ticket, key });
    }
    match reader.0 {
        [] => Ok(entries),
        _ => Err(KeyFileError::Damaged { detail: "something follows the last ticket" }),
    }
}

/// What is before the hash, if it is what was written, in a version that is known.
fn checked(bytes: &[u8]) -> Result<&[u8], KeyFileError> {
    let damaged = |detail| KeyFileError::Damaged { detail };
    if !bytes.starts_with(MAGIC) {
        return Err(damaged("they do not begin as they should"));
    }
    let version = bytes.get(MAGIC.len()..).and_then(|rest| rest.first_chunk().copied());
    let version = u16::from_be_bytes(version.ok_or(damaged("they are cut short"))?);
    if version != VERSION {
        return Err(KeyFileError::UnknownVersion { version });
    }
    let (content, hash) =
        bytes.split_last_chunk::<SHA256_OUTPUT_LEN>().ok_or(damaged("they are cut short"))?;
    if digest(&SHA256, content).as_ref() != hash {
        return Err(damaged("they are not what their hash says"));
    }
    Ok(content)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], KeyFileError> {
        let (taken, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(KeyFileError::Damaged { detail: "they are cut short" })?;
        self.0 = rest;
        Ok(taken)
    }

    fn len(&mut self) -> Result<usize, KeyFileError> {
        Ok(usize::from(self.byte()?) << 8 | usize::from(self.byte()?))
    }

    fn byte(&mut self) -> Result<u8, KeyFileError> {
        self.take(1).map(|bytes| bytes.first().copied().unwrap_or_default())
    }
}
