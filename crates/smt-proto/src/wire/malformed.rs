//! Why bytes were refused.

use core::fmt;

/// Bytes that the specification does not allow. The variants exist for counters and logs; a receiver
/// treats all of them alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Shorter than its type's layout.
    Short,
    /// Longer than its type's layout.
    Long,
    /// Unknown or reserved packet type.
    Type,
    /// The data offset does not fit the type.
    DataOffset,
    /// A field that must be 0 is not.
    Reserved,
    /// Port 0.
    Port,
    /// An epoch this type of packet cannot have.
    Epoch,
    /// Record size outside 64..=16384, or not 0 in epoch 0.
    RecordSize,
    /// Message length 0, a promise beyond it, or one that no sequence of records can have.
    Length,
    /// Epoch 0 or PINNED without the EXPLICIT flag.
    Implicit,
    /// Unknown code or kind.
    Code,
    /// An ACK with too many ranges, a reversed one, or IDs that are no request IDs.
    Range,
    /// Another version of the protocol.
    Version,
    /// A parameter is missing, repeated, out of order or out of bounds.
    Parameter,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "too short",
            Self::Long => "too long",
            Self::Type => "unknown packet type",
            Self::DataOffset => "data offset does not fit the type",
            Self::Reserved => "reserved field is not 0",
            Self::Port => "port 0",
            Self::Epoch => "epoch does not fit the type",
            Self::RecordSize => "record size out of bounds",
            Self::Length => "impossible message length",
            Self::Implicit => "implicit offset in epoch 0 or a pinned packet",
            Self::Code => "unknown code",
            Self::Range => "invalid ACK ranges",
            Self::Version => "unknown version",
            Self::Parameter => "invalid parameter block",
        })
    }
}

impl core::error::Error for Malformed {}
