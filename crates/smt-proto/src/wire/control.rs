//! Control packets: every type but DATA and RETRY (spec 2.3).

use super::common::Typed;
use super::epoch::carries_messages;
use super::fields::{Fields, FieldsMut};
use super::params::MAX_LANES;
use super::{COMMON_LEN, FIRST_EPOCH, Header, Malformed, PacketType, packet_type};

/// The control number and the tag that end every control packet, in bytes.
const TRAILER_LEN: usize = 16;
/// Length of the shortest control packets, those without a body, in bytes.
pub const MIN_CONTROL_LEN: usize = COMMON_LEN + TRAILER_LEN;
/// Most ranges in one ACK.
pub const MAX_ACK_RANGES: usize = 32;
/// Length of the longest control packet, an ACK with all its ranges, in bytes.
pub const MAX_CONTROL_LEN: usize =
    COMMON_LEN + ACK_LEN + MAX_ACK_RANGES * ACK_RANGE_LEN + TRAILER_LEN;

const GRANT_LEN: usize = 8;
const RESEND_LEN: usize = 12;
const CUTOFFS_LEN: usize = 40;
const ACK_LEN: usize = 16;
const ACK_RANGE_LEN: usize = 16;
const UPDATE_LEN: usize = 4;

const RESEND_PINNED: u8 = 1;

/// A control packet, without its tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The common part; the message ID says which message this is about.
    pub header: Header,
    /// What is said.
    pub body: ControlBody,
    /// The control number, by which the receiver takes each packet once. 0 in epoch 0.
    pub number: u64,
}

/// What a control packet says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "ACK ranges live here so that nothing is allocated")]
pub enum ControlBody {
    /// Bytes below an offset may be sent.
    Grant {
        /// End of what may be sent, in bytes of the wire stream.
        offset: u32,
        /// Priority to send them at.
        priority: u8,
    },
    /// Bytes are asked for again; also a grant up to their end.
    Resend {
        /// First byte, in the wire stream.
        offset: u32,
        /// Number of bytes.
        length: u32,
        /// Priority to send them at.
        priority: u8,
        /// They must come in PINNED packets.
        pinned: bool,
    },
    /// No state about the message, or the session.
    Unknown(UnknownCode),
    /// The message is known and in work.
    Busy,
    /// How to send what needs no grant.
    Cutoffs {
        /// Longest message, in bytes of its wire stream, that each priority is meant for; a message
        /// takes the highest that fits.
        cutoffs: [u32; 8],
        /// Version of what this packet says, told back in every DATA packet.
        version: u16,
        /// Bytes of a message that need no grant.
        unscheduled: u32,
    },
    /// Asks whether the message is finished, or (ID 0) the session alive.
    NeedAck,
    /// Says which RPCs of the sender are finished.
    Ack(AckRanges),
    /// The message is no longer wanted, or (ID 0) the session closes.
    Cancel(CancelCode),
    /// The receiver of this is to leave its sending epoch; about the session, so the message ID is 0.
    Update {
        /// The epoch that it is to leave, 3 or more.
        epoch: u32,
    },
}

/// What an UNKNOWN says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum UnknownCode {
    /// The request was never accepted: it has not run and may be sent again.
    NeverAccepted = 0,
    /// Nothing is remembered about it: it may have run.
    Forgotten = 1,
    /// There is no session. Never authentic: epoch, number and tag are 0 (spec 5.6).
    NoSession = 2,
}

/// What a CANCEL says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum CancelCode {
    /// The sender no longer wants the RPC.
    Request = 0,
    /// The RPC is cancelled and will not run any more.
    Confirmed = 1,
}

/// The finished RPCs of an ACK: all below a floor, and inclusive ranges of request IDs.
#[derive(Clone, Copy)]
pub struct AckRanges {
    /// Every RPC of the sender with a smaller ID is finished. A request ID: its lowest bit is 0.
    pub floor: u64,
    count: u8,
    ranges: [(u64, u64); MAX_ACK_RANGES],
}

impl AckRanges {
    /// No ranges yet.
    #[inline]
    #[must_use]
    pub fn new(floor: u64) -> Self {
        Self { floor, count: 0, ranges: [(0, 0); MAX_ACK_RANGES] }
    }

    /// Adds the range from `first` to `last`, both included. `false` if it is not added: there is no
    /// room, the range is reversed, or its ends are not request IDs.
    #[inline]
    #[must_use]
    pub fn push(&mut self, first: u64, last: u64) -> bool {
        if first > last || (first | last) & 1 != 0 {
            return false;
        }
        let Some(place) = self.ranges.get_mut(usize::from(self.count)) else {
            return false;
        };
        *place = (first, last);
        self.count += 1;
        true
    }

    /// The ranges in the order they were added.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().take(usize::from(self.count)).copied()
    }

    fn parse(body: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (head, mut rest) = body.split_first_chunk::<ACK_LEN>().ok_or(Malformed::Short)?;
        let fields = Fields(head);
        let mut ack = Self::new(fields.u64::<0>());
        let count = fields.u8::<8>();
        if fields.u24::<9>() != 0 || fields.u32::<12>() != 0 {
            return Err(Malformed::Reserved);
        }
        if ack.floor & 1 != 0 || usize::from(count) > MAX_ACK_RANGES {
            return Err(Malformed::Range);
        }
        for _ in 0..count {
            let (range, next) =
                rest.split_first_chunk::<ACK_RANGE_LEN>().ok_or(Malformed::Short)?;
            let fields = Fields(range);
            if !ack.push(fields.u64::<0>(), fields.u64::<8>()) {
                return Err(Malformed::Range);
            }
            rest = next;
        }
        Ok((ack, rest))
    }
}

impl PartialEq for AckRanges {
    fn eq(&self, other: &Self) -> bool {
        self.floor == other.floor && self.iter().eq(other.iter())
    }
}

impl Eq for AckRanges {}

impl core::fmt::Debug for AckRanges {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "below {}", self.floor)?;
        self.iter().try_for_each(|(first, last)| write!(f, ", {first}..={last}"))
    }
}

impl ControlBody {
    /// The type of the packet that says this.
    #[inline]
    #[must_use]
    pub fn packet_type(&self) -> PacketType {
        match self {
            Self::Grant { .. } => PacketType::Grant,
            Self::Resend { .. } => PacketType::Resend,
            Self::Unknown(_) => PacketType::Unknown,
            Self::Busy => PacketType::Busy,
            Self::Cutoffs { .. } => PacketType::Cutoffs,
            Self::NeedAck => PacketType::NeedAck,
            Self::Ack(_) => PacketType::Ack,
            Self::Cancel(_) => PacketType::Cancel,
            Self::Update { .. } => PacketType::Update,
        }
    }

    /// What the packet's sequence field holds: a code, or 0.
    #[inline]
    fn sequence(&self) -> u32 {
        match self {
            Self::Unknown(code) => *code as u32,
            Self::Cancel(code) => *code as u32,
            _ => 0,
        }
    }

    /// Reads a body; what follows it is returned, too.
    #[inline]
    fn parse(kind: PacketType, sequence: u32, rest: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let coded = matches!(kind, PacketType::Unknown | PacketType::Cancel);
        if !coded && sequence != 0 {
            return Err(Malformed::Reserved);
        }
        match kind {
            PacketType::Data | PacketType::Retry => Err(Malformed::Type),
            PacketType::Grant => parse_grant(rest),
            PacketType::Resend => parse_resend(rest),
            PacketType::Cutoffs => parse_cutoffs(rest),
            PacketType::Update => parse_update(rest),
            PacketType::Busy => Ok((Self::Busy, rest)),
            PacketType::NeedAck => Ok((Self::NeedAck, rest)),
            PacketType::Ack => AckRanges::parse(rest).map(|(ack, rest)| (Self::Ack(ack), rest)),
            PacketType::Unknown => {
                let code = match sequence {
                    0 => UnknownCode::NeverAccepted,
                    1 => UnknownCode::Forgotten,
                    2 => UnknownCode::NoSession,
                    _ => return Err(Malformed::Code),
                };
                Ok((Self::Unknown(code), rest))
            }
            PacketType::Cancel => {
                let code = match sequence {
                    0 => CancelCode::Request,
                    1 => CancelCode::Confirmed,
                    _ => return Err(Malformed::Code),
                };
                Ok((Self::Cancel(code), rest))
            }
        }
    }
}

#[inline]
fn parse_grant(rest: &[u8]) -> Result<(ControlBody, &[u8]), Malformed> {
    let (body, rest) = rest.split_first_chunk::<GRANT_LEN>().ok_or(Malformed::Short)?;
    let fields = Fields(body);
    if fields.u24::<5>() != 0 {
        return Err(Malformed::Reserved);
    }
    Ok((ControlBody::Grant { offset: fields.u32::<0>(), priority: fields.u8::<4>() }, rest))
}

#[inline]
fn parse_resend(rest: &[u8]) -> Result<(ControlBody, &[u8]), Malformed> {
    let (body, rest) = rest.split_first_chunk::<RESEND_LEN>().ok_or(Malformed::Short)?;
    let fields = Fields(body);
    let flags = fields.u8::<9>();
    if flags & !RESEND_PINNED != 0 || fields.u16::<10>() != 0 {
        return Err(Malformed::Reserved);
    }
    let resend = ControlBody::Resend {
        offset: fields.u32::<0>(),
        length: fields.u32::<4>(),
        priority: fields.u8::<8>(),
        pinned: flags & RESEND_PINNED != 0,
    };
    Ok((resend, rest))
}

fn parse_cutoffs(rest: &[u8]) -> Result<(ControlBody, &[u8]), Malformed> {
    let (body, rest) = rest.split_first_chunk::<CUTOFFS_LEN>().ok_or(Malformed::Short)?;
    let fields = Fields(body);
    if fields.u16::<34>() != 0 {
        return Err(Malformed::Reserved);
    }
    let cutoffs = [
        fields.u32::<0>(),
        fields.u32::<4>(),
        fields.u32::<8>(),
        fields.u32::<12>(),
        fields.u32::<16>(),
        fields.u32::<20>(),
        fields.u32::<24>(),
        fields.u32::<28>(),
    ];
    let (version, unscheduled) = (fields.u16::<32>(), fields.u32::<36>());
    Ok((ControlBody::Cutoffs { cutoffs, version, unscheduled }, rest))
}

#[inline]
fn parse_update(rest: &[u8]) -> Result<(ControlBody, &[u8]), Malformed> {
    let (body, rest) = rest.split_first_chunk::<UPDATE_LEN>().ok_or(Malformed::Short)?;
    let epoch = Fields(body).u32::<0>();
    if epoch < FIRST_EPOCH {
        return Err(Malformed::Range);
    }
    Ok((ControlBody::Update { epoch }, rest))
}

/// Whether a message ID is that of a lane itself (spec 3.5).
fn names_a_lane(id: u64) -> bool {
    id & 3 == 0 && id >> 2 < u64::from(MAX_LANES)
}

impl Control {
    /// Reads a control packet and its tag, which is not checked here.
    ///
    /// # Errors
    /// [`Malformed`] if the packet is DATA or RETRY, is not exactly as long as its layout, or has a field the
    /// specification does not allow. In epoch 0 there is only the UNKNOWN of spec 5.6.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<(Self, u64), Malformed> {
        let kind = packet_type(packet)?;
        let (head, rest) = packet.split_first_chunk::<COMMON_LEN>().ok_or(Malformed::Short)?;
        let typed = Typed::read(head);
        if typed.record_size != 0 || typed.segment_size != 0 {
            return Err(Malformed::Reserved);
        }
        let (body, rest) = ControlBody::parse(kind, typed.sequence, rest)?;
        let (trailer, rest) = rest.split_first_chunk::<TRAILER_LEN>().ok_or(Malformed::Short)?;
        if !rest.is_empty() {
            return Err(Malformed::Long);
        }
        let fields = Fields(trailer);
        let control = Self { header: Header::read(head), body, number: fields.u64::<0>() };
        let tag = fields.u64::<8>();
        control.check_epoch(tag)?;
        if matches!(control.body, ControlBody::Update { .. })
            && !names_a_lane(control.header.message_id)
        {
            return Err(Malformed::Range);
        }
        Ok((control, tag))
    }

    #[inline]
    fn check_epoch(&self, tag: u64) -> Result<(), Malformed> {
        let no_session = matches!(self.body, ControlBody::Unknown(UnknownCode::NoSession));
        let epoch = self.header.epoch;
        let fits = if no_session { epoch == 0 } else { carries_messages(epoch) };
        if !fits {
            return Err(Malformed::Epoch);
        }
        if no_session && (self.number != 0 || tag != 0) {
            return Err(Malformed::Reserved);
        }
        Ok(())
    }

    /// Length of the packet, in bytes.
    #[inline]
    #[must_use]
    pub fn wire_len(&self) -> usize {
        MIN_CONTROL_LEN
            + match &self.body {
                ControlBody::Grant { .. } => GRANT_LEN,
                ControlBody::Resend { .. } => RESEND_LEN,
                ControlBody::Cutoffs { .. } => CUTOFFS_LEN,
                ControlBody::Ack(ack) => ACK_LEN + ack.iter().len() * ACK_RANGE_LEN,
                ControlBody::Update { .. } => UPDATE_LEN,
                ControlBody::Unknown(_)
                | ControlBody::Busy
                | ControlBody::NeedAck
                | ControlBody::Cancel(_) => 0,
            }
    }

    /// Writes the packet to the start of `out`, its tag left 0, and returns its length in bytes.
    ///
    /// # Panics
    /// If `out` is shorter than [`wire_len`](Self::wire_len); [`MAX_CONTROL_LEN`] is always enough.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let len = self.wire_len();
        let mut writer = Writer(&mut out[..len]);
        let typed = Typed { sequence: self.body.sequence(), record_size: 0, segment_size: 0 };
        self.header.emit(self.body.packet_type(), typed, writer.next::<COMMON_LEN>().0);
        match &self.body {
            ControlBody::Grant { offset, priority } => {
                let mut fields = writer.next::<GRANT_LEN>();
                fields.u32::<0>(*offset);
                fields.u8::<4>(*priority);
                fields.u24::<5>(0);
            }
            ControlBody::Resend { offset, length, priority, pinned } => {
                let mut fields = writer.next::<RESEND_LEN>();
                fields.u32::<0>(*offset);
                fields.u32::<4>(*length);
                fields.u8::<8>(*priority);
                fields.u8::<9>(u8::from(*pinned) * RESEND_PINNED);
                fields.u16::<10>(0);
            }
            ControlBody::Cutoffs { cutoffs, version, unscheduled } => {
                for cutoff in cutoffs {
                    writer.next::<4>().u32::<0>(*cutoff);
                }
                let mut fields = writer.next::<8>();
                fields.u16::<0>(*version);
                fields.u16::<2>(0);
                fields.u32::<4>(*unscheduled);
            }
            ControlBody::Ack(ack) => {
                let mut fields = writer.next::<ACK_LEN>();
                fields.u64::<0>(ack.floor);
                fields.u64::<8>(u64::from(ack.count) << 56);
                for (first, last) in ack.iter() {
                    let mut fields = writer.next::<ACK_RANGE_LEN>();
                    fields.u64::<0>(first);
                    fields.u64::<8>(last);
                }
            }
            ControlBody::Update { epoch } => writer.next::<UPDATE_LEN>().u32::<0>(*epoch),
            ControlBody::Unknown(_)
            | ControlBody::Busy
            | ControlBody::NeedAck
            | ControlBody::Cancel(_) => {}
        }
        let mut fields = writer.next::<TRAILER_LEN>();
        fields.u64::<0>(self.number);
        fields.u64::<8>(0);
        len
    }
}

/// Hands out a buffer of the right length piece by piece.
struct Writer<'a>(&'a mut [u8]);

impl<'a> Writer<'a> {
    #[inline(always)]
    #[expect(clippy::expect_used, reason = "`wire_len` is the sum of these pieces")]
    fn next<const N: usize>(&mut self) -> FieldsMut<'a, N> {
        let (piece, rest) = core::mem::take(&mut self.0)
            .split_first_chunk_mut::<N>()
            .expect("the buffer has the packet's length");
        self.0 = rest;
        FieldsMut(piece)
    }
}

const _: () = {
    assert!(MIN_CONTROL_LEN == 44 && MAX_CONTROL_LEN == 572);
    assert!(GRANT_LEN == 4 + 1 + 3 && RESEND_LEN == 4 + 4 + 1 + 1 + 2);
    assert!(CUTOFFS_LEN == 8 * 4 + 2 + 2 + 4 && ACK_LEN == 8 + 1 + 7 && ACK_RANGE_LEN == 2 * 8);
    // The answer to strangers is never larger than what it answers, a DATA or control packet.
    assert!(MIN_CONTROL_LEN <= super::DATA_LEN);
};

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
