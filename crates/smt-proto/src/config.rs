//! Configuration of an endpoint.

use core::time::Duration;

use crate::limits::Limits;
use crate::padding::Padding;
use crate::session::AeadLimits;

/// How an endpoint behaves. [`Default`] is right for nearly everybody.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bounds on memory and work.
    pub limits: Limits,
    /// Bits of message ID that we send under, 40..=56 (spec 3.1). Fewer give larger messages.
    pub id_bits: u8,
    /// How message lengths are hidden.
    pub padding: Padding,
    /// How long our engine may sleep before it answers, told to peers so that they do not take a
    /// sleeping endpoint for a lost packet.
    pub wake_delay: Duration,
    /// Bytes our receiving datapath can hold; bounds what peers are let send at once.
    pub receive_credit: u32,
    /// Bytes handed to the datapath that may wait there to leave the host; beyond them only control
    /// packets and messages of one packet follow, so that no message waits long behind a larger one. A
    /// kernel's send queue needs enough of them to keep the link busy.
    pub max_backlog: u32,
    /// Messages that are granted at once, 1..=16: more keep the link busy when senders do not answer at
    /// once, fewer make shorter queues.
    pub overcommit: usize,
    /// Whether requests bound what of their responses comes without grants, so that many responses at
    /// once do not overrun the receive credit. Off only to see what it is good for.
    pub incast_control: bool,
    /// Largest SMT packet for paths whose MTU is not known, in bytes: what fits the IPv6 minimum
    /// MTU of 1280 under any datapath.
    pub default_room: usize,
    /// What we want to be sent after handshakes that we start (spec 5.9), bits of
    /// [`wire::WANTS_TLS_TICKETS`](crate::wire::WANTS_TLS_TICKETS) and
    /// [`wire::WANTS_SMT_TICKET`](crate::wire::WANTS_SMT_TICKET).
    pub wants: u8,
    /// How many lanes our sessions have, at least: a power of two, at most
    /// [`wire::MAX_LANES`](crate::wire::MAX_LANES). Each can be handled by another core (spec 3.5), and
    /// costs as much memory as a session. The peer may want more, and never gets fewer than it wants.
    pub lanes: u8,
    /// Which lanes of its sessions this endpoint handles.
    pub shard: Shard,
    /// Replaces the AEAD limits of the cipher suite; only ever lower them.
    pub aead_limits: Option<AeadLimits>,
    /// A bug to plant, to show that it is found.
    #[cfg(feature = "mutations")]
    pub mutation: Option<crate::mutation::Mutation>,
}

/// One of several endpoints of a host that share sessions (spec 3.5): lane l belongs to shard
/// l mod `count`. Shard 0 makes all handshakes; the others get their lanes of each session by
/// [`Endpoint::take_lanes`](crate::Endpoint::take_lanes) and
/// [`Endpoint::add_lanes`](crate::Endpoint::add_lanes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which one, below `count`.
    pub index: u8,
    /// How many there are: a power of two, at most [`wire::MAX_LANES`](crate::wire::MAX_LANES).
    pub count: u8,
}

impl Default for Shard {
    /// The only one.
    fn default() -> Self {
        Shard { index: 0, count: 1 }
    }
}

impl Config {
    /// The message ID as it enters nonces: all of it, unless a bug was planted.
    #[inline]
    pub(crate) fn nonce_id(&self, id: u64) -> u64 {
        #[cfg(feature = "mutations")]
        if self.has(crate::mutation::Mutation::NonceWithoutRole) {
            return id & !3;
        }
        id
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            limits: Limits::default(),
            id_bits: 48,
            padding: Padding::None,
            wake_delay: Duration::from_micros(100),
            receive_credit: 256 << 10,
            max_backlog: 64 << 10,
            overcommit: 8,
            incast_control: true,
            default_room: 1280 - 48,
            wants: 0,
            lanes: 1,
            shard: Shard::default(),
            aead_limits: None,
            #[cfg(feature = "mutations")]
            mutation: None,
        }
    }
}
