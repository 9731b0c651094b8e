//! The ticket as bytes (spec 5.7).

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use smt_proto::crypto::SuiteId;
use smt_proto::wire::Params;

use super::error::TicketError;
use super::hpke::Kem;
use crate::tls::is_smt_alpn;

/// Longest ticket, in bytes.
pub const MAX_TICKET_LEN: usize = 16 * 1024;
/// Longest validity of a ticket: for so long its key may undo the secrecy of early data.
pub const MAX_VALIDITY: Duration = Duration::from_secs(3600);
/// Length of a ticket's ID, in bytes.
pub const TICKET_ID_LEN: usize = 16;
/// Most certificates in a ticket.
pub const MAX_CERTIFICATES: usize = 10;

const VERSION: u16 = 1;
/// In the place of the server's first ID, which is drawn for each session.
const PLACEHOLDER_FIRST_ID: u64 = 6;
/// What a signature covers before the ticket: TLS 1.3's form (RFC 8446, 4.4.3) with a context
/// string of its own, so that no signature of one can be taken for the other's.
const SIGNATURE_CONTEXT: &[u8] = b"SMT/1 ticket";

/// A ticket: the server's signed word that early data may be encrypted to a key. Parsed and
/// complete, but not verified; [`ClientTls::verify_ticket`](crate::tls::ClientTls::verify_ticket)
/// does that.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    bytes: Arc<[u8]>,
    id: [u8; TICKET_ID_LEN],
    not_before: u64,
    not_after: u64,
    kem: Kem,
    suite: SuiteId,
    max_early: u32,
    params: Params,
    alpn: Range<usize>,
    public_key: Range<usize>,
    certificates: Vec<Range<usize>>,
    signed: Range<usize>,
    scheme: u16,
    signature: Range<usize>,
}

impl Ticket {
    /// Reads a ticket, which must take up all of `bytes`.
    ///
    /// # Errors
    /// [`TicketError`] for whatever is wrong with its form. Times are not looked at here, beyond
    /// the length of the validity.
    pub fn parse(bytes: &[u8]) -> Result<Self, TicketError> {
        if bytes.len() > MAX_TICKET_LEN {
            return Err(TicketError::TooLong { len: bytes.len() });
        }
        let mut reader = Reader { bytes, at: 0 };
        let version = reader.u16()?;
        if version != VERSION {
            return Err(TicketError::UnknownVersion { version });
        }
        let id = *reader.array()?;
        let (not_before, not_after) = (reader.u64()?, reader.u64()?);
        check_validity(not_before, not_after)?;
        let kem = reader.u16()?;
        let kem = Kem::from_id(kem).ok_or(TicketError::UnknownKem { kem })?;
        let suite = reader.u16()?;
        let suite = suite_of(suite).ok_or(TicketError::UnknownSuite { suite })?;
        let max_early = reader.u32()?;
        let alpn = reader.block(1)?;
        let params = reader.block(2)?;
        let public_key = reader.block(2)?;
        if public_key.len() != kem.public_key_len() {
            return Err(malformed("the public key is not as long as its KEM's are"));
        }
        let certificates = reader.certificates()?;
        let signed = 0..reader.at;
        let scheme = reader.u16()?;
        let signature = reader.block(2)?;
        if reader.at != bytes.len() {
            return Err(malformed("something follows the signature"));
        }
        let is_alpn = std::str::from_utf8(part(bytes, &alpn)).is_ok_and(is_smt_alpn);
        if !is_alpn {
            return Err(malformed("the application protocol is not one of SMT's"));
        }
        let params = parse_params(part(bytes, &params))?;
        Ok(Self {
            bytes: bytes.into(),
            id,
            not_before,
            not_after,
            kem,
            suite,
            max_early,
            params,
            alpn,
            public_key,
            certificates,
            signed,
            scheme,
            signature,
        })
    }

    /// Reads a ticket from a file that holds it and nothing else.
    ///
    /// # Errors
    /// [`TicketError::File`] if the file cannot be read, otherwise as [`parse`](Self::parse).
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TicketError> {
        let path = path.as_ref();
        let failed = |e: std::io::Error| TicketError::File {
            path: path.display().to_string(),
            detail: e.to_string(),
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(MAX_TICKET_LEN as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        Self::parse(&bytes)
    }

    /// The whole ticket, as it is handed on.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The server's name for this ticket, random.
    #[must_use]
    pub fn id(&self) -> &[u8; TICKET_ID_LEN] {
        &self.id
    }

    /// From when to when the ticket is valid, both included, in seconds since 1970.
    #[must_use]
    pub fn validity(&self) -> (u64, u64) {
        (self.not_before, self.not_after)
    }

    /// For which KEM its key is.
    #[must_use]
    pub fn kem(&self) -> Kem {
        self.kem
    }

    /// The cipher suite of early data.
    #[must_use]
    pub fn suite(&self) -> SuiteId {
        self.suite
    }

    /// How many bytes of early requests the server takes per session, counted on the wire.
    #[must_use]
    pub fn max_early(&self) -> u32 {
        self.max_early
    }

    /// The application protocol of early data.
    #[must_use]
    pub fn alpn(&self) -> &[u8] {
        part(&self.bytes, &self.alpn)
    }

    /// What the server declares of itself; the first ID in it means nothing.
    #[must_use]
    pub fn params(&self) -> Params {
        self.params
    }

    /// The certificates that vouch for it, DER, the server's own first.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.iter().map(|range| part(&self.bytes, range))
    }

    pub(super) fn public_key(&self) -> &[u8] {
        part(&self.bytes, &self.public_key)
    }

    /// The signature's scheme, what it covers, and the signature itself.
    pub(super) fn signature(&self) -> (u16, Vec<u8>, &[u8]) {
        let message = signature_input(part(&self.bytes, &self.signed));
        (self.scheme, message, part(&self.bytes, &self.signature))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("id", &u128::from_be_bytes(self.id))
            .field("validity", &self.validity())
            .field("kem", &self.kem)
            .field("suite", &self.suite)
            .field("alpn", &String::from_utf8_lossy(self.alpn()))
            .field("max_early", &self.max_early)
            .field("len", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// What a ticket says, before it is signed.
pub(super) struct Content<'a> {
    pub(super) id: [u8; TICKET_ID_LEN],
    pub(super) not_before: u64,
    pub(super) not_after: u64,
    pub(super) kem: Kem,
    pub(super) suite: SuiteId,
    pub(super) max_early: u32,
    pub(super) alpn: &'a [u8],
    pub(super) params: Params,
    pub(super) public_key: &'a [u8],
    pub(super) certificates: &'a [Vec<u8>],
}

impl Content<'_> {
    /// All bytes before the signature's scheme. Lengths that do not fit their prefixes are cut
    /// off there, and so give a ticket that does not parse.
    pub(super) fn emit(&self) -> Vec<u8> {
        let params = Params { first_id: PLACEHOLDER_FIRST_ID, ..self.params }.emit(0);
        let mut out = Vec::with_capacity(4096);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&self.not_before.to_be_bytes());
        out.extend_from_slice(&self.not_after.to_be_bytes());
        out.extend_from_slice(&self.kem.id().to_be_bytes());
        out.extend_from_slice(&(self.suite as u16).to_be_bytes());
        out.extend_from_slice(&self.max_early.to_be_bytes());
        put_block(&mut out, 1, self.alpn);
        put_block(&mut out, 2, &params);
        put_block(&mut out, 2, self.public_key);
        out.push(self.certificates.len() as u8);
        for certificate in self.certificates {
            put_block(&mut out, 3, certificate);
        }
        out
    }
}

/// Appends scheme and signature to what [`Content::emit`] gave.
pub(super) fn append_signature(content: &mut Vec<u8>, scheme: u16, signature: &[u8]) {
    content.extend_from_slice(&scheme.to_be_bytes());
    put_block(content, 2, signature);
}

/// What is signed: `content` is what [`Content::emit`] gave.
pub(super) fn signature_input(content: &[u8]) -> Vec<u8> {
    let mut message = vec![b' '; 64];
    message.extend_from_slice(SIGNATURE_CONTEXT);
    message.push(0);
    message.extend_from_slice(content);
    message
}

fn check_validity(not_before: u64, not_after: u64) -> Result<(), TicketError> {
    let seconds = not_after
        .checked_sub(not_before)
        .ok_or_else(|| malformed("the validity ends before it begins"))?;
    if seconds > MAX_VALIDITY.as_secs() {
        return Err(TicketError::ValidityTooLong { seconds });
    }
    Ok(())
}

fn parse_params(block: &[u8]) -> Result<Params, TicketError> {
    match Params::parse(block) {
        Ok((params, len)) if len == block.len() && params.first_id == PLACEHOLDER_FIRST_ID => {
            Ok(params)
        }
        _ => Err(malformed("the parameter block is not a server's")),
    }
}

fn suite_of(id: u16) -> Option<SuiteId> {
    [SuiteId::Aes128GcmSha256, SuiteId::Aes256GcmSha384, SuiteId::ChaCha20Poly1305Sha256]
        .into_iter()
        .find(|suite| *suite as u16 == id)
}

fn malformed(detail: &'static str) -> TicketError {
    TicketError::Malformed { detail }
}

/// A part whose bounds were checked when the ticket was parsed.
fn part<'a>(bytes: &'a [u8], range: &Range<usize>) -> &'a [u8] {
    bytes.get(range.clone()).unwrap_or_default()
}

fn put_block(out: &mut Vec<u8>, prefix: usize, block: &[u8]) {
    let len = (block.len() as u32).to_be_bytes();
    out.extend(len.iter().skip(4 - prefix));
    out.extend_from_slice(block);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<&[u8; N], TicketError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let found = rest.first_chunk().ok_or(TicketError::Truncated)?;
        self.at += N;
        Ok(found)
    }

    fn u16(&mut self) -> Result<u16, TicketError> {
        self.array().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn u32(&mut self) -> Result<u32, TicketError> {
        self.array().map(|bytes| u32::from_be_bytes(*bytes))
    }

    fn u64(&mut self) -> Result<u64, TicketError> {
        self.array().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// Where a block lies whose length is in `prefix` bytes before it.
    fn block(&mut self, prefix: usize) -> Result<Range<usize>, TicketError> {
        let mut len = 0;
        for _ in 0..prefix {
            let [byte] = *self.array()?;
            len = len << 8 | usize::from(byte);
        }
        let end = self.at + len;
        if end > self.bytes.len() {
            return Err(TicketError::Truncated);
        }
        let block = self.at..end;
        self.at = end;
        Ok(block)
    }

    fn certificates(&mut self) -> Result<Vec<Range<usize>>, TicketError> {
        let [count] = *self.array()?;
        if count == 0 || usize::from(count) > MAX_CERTIFICATES {
            return Err(malformed("it has no certificate, or too many"));
        }
        let mut certificates = Vec::with_capacity(count.into());
        for _ in 0..count {
            let certificate = self.block(3)?;
            if certificate.is_empty() {
                return Err(malformed("a certificate is empty"));
            }
            certificates.push(certificate);
        }
        Ok(certificates)
    }
}
