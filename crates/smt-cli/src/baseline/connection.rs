//! A connection on which many messages may be under way: small ones leave together, and nothing waits.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};

use bytes::Bytes;

use super::buffered::Buffered;
use super::tls::{Tls, TlsChannel};
use super::{Channel, LENGTH_BYTES, invalid};

/// Messages below this length wait for others to leave with, until [`Outgoing::flush`].
const COALESCED_BELOW: usize = 4096;
/// Room for what a connection has opened before, beside what it is about to read: a record.
const SLACK_BYTES: usize = 17 << 10;
/// Handed over at once of a long message, so that in between what comes can be looked at.
const SLICE_BYTES: usize = 256 << 10;

/// A byte stream that never waits: it fails with `WouldBlock` where it would have to.
pub(super) trait Unwaiting: Channel {
    /// The connection beneath.
    ///
    /// # Errors
    /// It is gone.
    fn link(&mut self) -> io::Result<&mut Buffered>;
}

impl Unwaiting for Buffered {
    fn link(&mut self) -> io::Result<&mut Buffered> {
        Ok(self)
    }
}

impl<T: Tls> Unwaiting for TlsChannel<Buffered, T> {
    fn link(&mut self) -> io::Result<&mut Buffered> {
        Ok(TlsChannel::link(self))
    }
}

/// What a connection needs room for.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes of the longest message, without its length.
    pub message: usize,
    /// Bytes taken from the kernel at a time.
    pub read: usize,
}

/// One end of a connection.
pub(super) struct Connection<C> {
    pub(super) out: Outgoing<C>,
    /// What has come and is not yet a whole message: `incoming[start..end]`.
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    room: Room,
}

/// Its sending side.
pub(super) struct Outgoing<C> {
    channel: C,
    batch: Vec<u8>,
    /// Messages behind a long one, which leave in order; `at` bytes of the first are gone.
    waiting: VecDeque<Bytes>,
    at: usize,
}

impl<C: Unwaiting> Connection<C> {
    pub(super) fn new(channel: C, room: Room) -> Connection<C> {
        let out = Outgoing { channel, batch: Vec::new(), waiting: VecDeque::new(), at: 0 };
        let incoming = vec![0; LENGTH_BYTES + room.message + room.read + SLACK_BYTES];
        Connection { out, incoming, start: 0, end: 0, room }
    }

    pub(super) fn link(&mut self) -> io::Result<&mut Buffered> {
        self.out.channel.link()
    }

    /// Takes what is there, once; hands whole messages, length in front, to `each`. False at the end of the stream.
    pub(super) fn receive(
        &mut self,
        mut each: impl FnMut(&[u8], &mut Outgoing<C>) -> io::Result<()>,
    ) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.incoming.len() - self.end < self.room.read + SLACK_BYTES {
            self.incoming.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let free = self.incoming.get_mut(self.end..).unwrap_or_default();
        match self.out.channel.receive(free) {
            Ok(0) => return Ok(false),
            Ok(more) => self.end += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
        while let Some(message) = whole(self.incoming.get(self.start..self.end), self.room)? {
            each(message, &mut self.out)?;
            self.start += message.len();
        }
        Ok(true)
    }
}

/// The message that `bytes` begin with, its length in front, if it is whole.
fn whole(bytes: Option<&[u8]>, room: Room) -> io::Result<Option<&[u8]>> {
    let bytes = bytes.unwrap_or_default();
    let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > room.message {
        return Err(invalid("the message is longer than it may be"));
    }
    Ok(bytes.get(..LENGTH_BYTES + length))
}

impl<C: Unwaiting> Outgoing<C> {
    /// Sends a response, length in front, at the latest with the next flush.
    pub(super) fn answer(&mut self, message: &[u8]) -> io::Result<()> {
        if message.len() < COALESCED_BELOW {
            self.batch.extend_from_slice(message);
            return Ok(());
        }
        self.send_batch()?;
        self.channel.send(message)
    }

    /// Sends a request, length in front, in order, as soon as there is room, with the next flushes.
    pub(super) fn request(&mut self, message: &Bytes) -> io::Result<()> {
        if self.waiting.is_empty() && message.len() <= SLICE_BYTES {
            return self.answer(message);
        }
        self.waiting.push_back(message.clone());
        Ok(())
    }

    /// Sends as much as can leave; false if something is left.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        self.send_batch()?;
        self.channel.link()?.flush()?;
        while self.channel.link()?.is_drained() {
            let Some(message) = self.waiting.front() else { return Ok(true) };
            let end = message.len().min(self.at + SLICE_BYTES);
            let slice = message.slice(self.at..end);
            self.at = end;
            if end == message.len() {
                self.waiting.pop_front();
                self.at = 0;
            }
            self.channel.send(&slice)?;
        }
        Ok(false)
    }

    fn send_batch(&mut self) -> io::Result<()> {
        if !self.batch.is_empty() {
            self.channel.send(&self.batch)?;
            self.batch.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { message: 4, read: 8 };

    #[test]
    fn messages_are_taken_whole() {
        let bytes = [0, 0, 0, 2, 7, 8, 0, 0, 0, 1];
        assert_eq!(whole(Some(&bytes), ROOM).unwrap(), Some(&bytes[..6]));
        assert_eq!(whole(Some(&bytes[6..]), ROOM).unwrap(), None);
        assert_eq!(whole(Some(&bytes[..3]), ROOM).unwrap(), None);
        assert_eq!(whole(Some(&[0; 4]), ROOM).unwrap(), Some(&[0; 4][..]));
        assert!(whole(Some(&[0, 0, 0, 5]), ROOM).is_err());
    }
}
