//! A TCP connection that never waits: what cannot leave yet is kept.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use super::pipe::Link;

/// A TCP connection that sends at once what it can, and keeps the rest.
pub(super) struct Buffered {
    stream: TcpStream,
    /// What is kept: all from `sent` on.
    kept: Vec<u8>,
    sent: usize,
}

impl Buffered {
    pub(super) fn new(stream: TcpStream) -> io::Result<Buffered> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Buffered { stream, kept: Vec::new(), sent: 0 })
    }

    /// Whether nothing is kept.
    pub(super) fn is_drained(&self) -> bool {
        self.kept.is_empty()
    }

    /// Sends what is kept, as far as it can leave.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.is_drained() {
            return Ok(());
        }
        self.sent += write(&mut self.stream, self.kept.get(self.sent..).unwrap_or_default())?;
        if self.sent == self.kept.len() {
            self.kept.clear();
            self.sent = 0;
        }
        Ok(())
    }
}

impl Link for Buffered {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(into) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = if self.is_drained() { write(&mut self.stream, bytes)? } else { 0 };
        self.kept.extend_from_slice(bytes.get(written..).unwrap_or_default());
        Ok(())
    }
}

impl AsFd for Buffered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Writes as much as can leave; returns how much that is.
fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(bytes.get(written..).unwrap_or_default()) {
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
