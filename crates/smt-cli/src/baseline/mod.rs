//! What SMT is compared with: the same ping-pong RPC over plain TCP ([`tcp`]) and over TLS 1.3 on TCP ([`tls`]), and
//! over SMT itself ([`smt`]). Many RPCs at a time go over a fleet of connections, or over one ([`fleet`]). Others that
//! SMT is compared with have a module each: TLS by OpenSSL and by the kernel ([`ktls`]), QUIC ([`quinn`] and another),
//! gRPC; and so have SMT's other interfaces ([`smt_tokio`]). docs/peers.md tells how each is set up.
//!
//! Each is meant to be as fast as a careful programmer would make it: no delayed segments, buffers allocated once,
//! one system call to send a small message and one to receive it, and both ends waiting in the same way as SMT's
//! ends do ([`Wait`]). A message is 4 bytes of length and that many bytes; the server answers each with the same
//! bytes, after all of them have arrived.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::commands::Error;
pub(crate) use rounds::Rounds;

mod buffered;
mod connection;
pub mod fleet;
#[cfg(feature = "peers")]
pub mod grpc;
pub mod ktls;
#[cfg(feature = "openssl")]
pub mod openssl;
mod pipe;
pub mod quinn;
mod rounds;
#[cfg(feature = "peers")]
pub mod s2n;
pub mod smt;
#[cfg(feature = "capi")]
pub mod smt_c;
pub mod smt_tokio;
mod tasks;
pub mod tcp;
pub mod tls;

/// The largest message, in bytes without its length.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Requests up to this many bytes are echoed where several may be outstanding; of longer ones, which are there to fill
/// the link in one direction, come back [`RECEIPT_BYTES`].
pub const ECHO_UP_TO: usize = 64 << 10;

/// Bytes of the response to a request that is not echoed: its first.
pub const RECEIPT_BYTES: usize = 8;

/// Bytes of the length in front of a message.
const LENGTH_BYTES: usize = 4;

/// A client that hears nothing for this long gives up.
const SILENCE: Duration = Duration::from_secs(10);

/// How an end waits for bytes.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// By asking over and over: the lowest latency, at the price of a core.
    Spin,
    /// By asking for 50 us, then as with `Block`.
    Adaptive,
    /// By sleeping in the kernel: the latency includes waking up.
    Block,
}

impl Wait {
    /// Its name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Wait::Spin => "spin",
            Wait::Adaptive => "adaptive",
            Wait::Block => "block",
        }
    }
}

/// Since when an end has had nothing to do, and whether it is to sleep by now.
#[derive(Debug, Default)]
pub struct Idle {
    since: Option<Instant>,
}

impl Idle {
    /// How long an end that waits adaptively asks before it sleeps; as SMT's engines do.
    const SPIN_FOR: Duration = Duration::from_micros(50);

    /// Something came.
    pub fn worked(&mut self) {
        self.since = None;
    }

    /// Nothing came: whether to sleep in the kernel now.
    pub fn may_sleep(&mut self, wait: Wait) -> bool {
        match wait {
            Wait::Spin => false,
            Wait::Adaptive => {
                self.since.get_or_insert_with(Instant::now).elapsed() >= Idle::SPIN_FOR
            }
            Wait::Block => true,
        }
    }
}

/// What a client measures.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Bytes in each request and in each response, up to [`MAX_MESSAGE_BYTES`].
    pub size: usize,
    /// Round trips before the measured ones; their content is compared byte by byte.
    pub warmup: usize,
    /// Round trips measured, one after the other.
    pub count: usize,
    /// How the client waits.
    pub wait: Wait,
    /// After so long no further round trip begins, however few there were; at least one is measured.
    pub time: Option<Duration>,
    /// From the begin of one round trip to that of the next, the client asleep in between; `None`: at once.
    pub every: Option<Duration>,
}

impl Plan {
    /// So many round trips, one at once after the other.
    pub fn counted(size: usize, warmup: usize, count: usize, wait: Wait) -> Plan {
        Plan { size, warmup, count, wait, time: None, every: None }
    }
}

/// What comes back instead of a request that is not echoed, where there are `receipts`.
fn receipt(request: &[u8], receipts: bool) -> Option<&[u8]> {
    request.get(..RECEIPT_BYTES).filter(|_| receipts && request.len() > ECHO_UP_TO)
}

/// The response to a request: itself, or its receipt.
fn response(request: Bytes, receipts: bool) -> Bytes {
    receipt(&request, receipts).map(|receipt| request.slice_ref(receipt)).unwrap_or(request)
}

/// A byte stream as both kinds of connection offer it.
trait Channel {
    /// Sends all of `bytes`.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Waits for bytes and puts them at the start of `into`; returns how many, 0 at the end of the stream.
    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize>;
}

/// A client's end that can have many RPCs outstanding.
pub trait Pipeline {
    /// A request with this body, to be used as often as one likes.
    fn request(&self, body: &[u8]) -> Bytes;

    /// Begins an RPC under the caller's number for it; it leaves with the next turn at the latest.
    ///
    /// # Errors
    /// The session or connection is gone, or takes no more.
    fn call(&mut self, request: &Bytes, tag: usize) -> Result<(), Error>;

    /// Sends what waits and takes what has come, after a nap at most; appends the number of each RPC that is over
    /// and the bytes of its response.
    ///
    /// # Errors
    /// An RPC, the session or a connection has failed.
    fn turn(&mut self, over: &mut Vec<(usize, usize)>) -> Result<(), Error>;
}

/// Answers every message on `channel` with itself, until the stream ends.
fn serve(channel: &mut impl Channel) -> io::Result<()> {
    let mut buffer = vec![0; LENGTH_BYTES + MAX_MESSAGE_BYTES];
    while let Some(message) = receive_message(channel, &mut buffer)? {
        channel.send(message)?;
    }
    Ok(())
}

/// Carries out `plan` on `channel`; returns the round-trip times in nanoseconds, in order.
fn ping(channel: &mut impl Channel, plan: &Plan) -> io::Result<Vec<u64>> {
    let mut request = new_request(plan.size)?;
    let mut buffer = vec![0; request.len()];
    let mut rounds = Rounds::new(plan);
    while let Some(round) = rounds.next() {
        stamp(&mut request, round);
        let start = Instant::now();
        channel.send(&request)?;
        let response = receive_message(channel, &mut buffer)?.ok_or_else(ended)?;
        let end = Instant::now();
        // Reading a large response in full would push the next request out of the cache.
        let compared = if round < plan.warmup { request.len() } else { stamped(&request).len() };
        if response.len() != request.len() || response[..compared] != request[..compared] {
            return Err(invalid("the response is not the request"));
        }
        rounds.over(start, end);
    }
    Ok(rounds.into_times())
}

/// Receives one message into `buffer`; returns it with its length in front, or `None` if the stream has ended.
fn receive_message<'b>(
    channel: &mut impl Channel,
    buffer: &'b mut [u8],
) -> io::Result<Option<&'b [u8]>> {
    let mut filled = 0;
    let mut needed = LENGTH_BYTES;
    loop {
        let free = buffer.get_mut(filled..).unwrap_or_default();
        filled += match channel.receive(free)? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(ended()),
            more => more,
        };
        if let Some(length) = buffer[..filled].first_chunk() {
            needed = LENGTH_BYTES + u32::from_be_bytes(*length) as usize;
        }
        if needed > buffer.len() {
            return Err(invalid("the message is longer than it may be"));
        }
        if filled > needed {
            return Err(invalid("a second message before the first was answered"));
        }
        if filled == needed {
            return Ok(buffer.get(..needed));
        }
    }
}

/// A message of `size` bytes in which no two neighbouring 251 bytes are alike.
fn new_request(size: usize) -> io::Result<Vec<u8>> {
    if size > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    let mut request = (size as u32).to_be_bytes().to_vec();
    request.extend((0..=250).cycle().take(size));
    Ok(request)
}

/// The part of a message that differs from round to round, with the length in front.
fn stamped(request: &[u8]) -> &[u8] {
    &request[..request.len().min(LENGTH_BYTES + size_of::<u64>())]
}

fn stamp(request: &mut [u8], round: usize) {
    let number = (round as u64).to_le_bytes();
    for (byte, new) in request[LENGTH_BYTES..].iter_mut().zip(number) {
        *byte = new;
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended in the middle of an RPC")
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Gives back what was sent, in pieces of at most `piece` bytes; its stream ends when it is empty.
    struct Mirror {
        bytes: VecDeque<u8>,
        piece: usize,
    }

    impl Channel for Mirror {
        fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.bytes.extend(bytes);
            Ok(())
        }

        fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let size = self.piece.min(into.len()).min(self.bytes.len());
            for (to, from) in into.iter_mut().zip(self.bytes.drain(..size)) {
                *to = from;
            }
            Ok(size)
        }
    }

    #[test]
    fn a_client_takes_an_echo_in_pieces() {
        for (size, piece) in [(0, 1), (1, 2), (7, 3), (64, 100), (70_000, 1447)] {
            let mut mirror = Mirror { bytes: VecDeque::new(), piece };
            let plan = Plan::counted(size, 2, 3, Wait::Spin);
            assert_eq!(ping(&mut mirror, &plan).unwrap().len(), 3);
        }
    }

    #[test]
    fn a_wrong_echo_is_noticed() {
        struct Liar(Mirror);
        impl Channel for Liar {
            fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
                let mut bytes = bytes.to_vec();
                *bytes.last_mut().unwrap() ^= 1;
                self.0.send(&bytes)
            }
            fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
                self.0.receive(into)
            }
        }
        let mut liar = Liar(Mirror { bytes: VecDeque::new(), piece: 4096 });
        let plan = Plan::counted(100, 1, 0, Wait::Spin);
        assert_eq!(ping(&mut liar, &plan).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_server_refuses_nonsense() {
        let receive = |bytes: &[u8]| {
            let mut mirror = Mirror { bytes: bytes.iter().copied().collect(), piece: 100 };
            receive_message(&mut mirror, &mut [0; 16]).map(|message| message.map(<[u8]>::to_vec))
        };
        assert!(receive(&[0, 0, 0, 13, 1]).is_err(), "longer than the buffer");
        assert!(receive(&[0, 0, 0, 2, 1]).is_err(), "cut off");
        assert!(receive(&[0, 0, 0, 1, 1, 2]).is_err(), "more than announced");
        assert_eq!(receive(&[]).unwrap(), None);
        assert_eq!(receive(&[0, 0, 0, 0]).unwrap(), Some(vec![0, 0, 0, 0]));
    }
}
