//! Batches of packets to and from a socket: memory and message headers set up once, then lent to
//! `recvmmsg` and `sendmmsg`.

use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::address::RawAddress;
use super::control::{Control, Writer};
use super::fixed::Fixed;

/// Buffers would all begin in the same cache sets if their distance were a power of two.
const COLOUR: usize = 576;

/// Memory to receive into.
pub(crate) struct RxBatch {
    slot_len: usize,
    /// Headers that the kernel wrote to in the last call and that need their lengths restored.
    dirty: usize,
    headers: Headers,
    buffers: Fixed<u8>,
}

/// Memory to send from: packets lie in one arena, end to end, and each message names a part of it.
pub(crate) struct TxBatch {
    headers: Headers,
    arena: Fixed<u8>,
}

/// Message headers, each with one piece of memory, an address and room for control messages.
struct Headers {
    messages: Fixed<libc::mmsghdr>,
    pieces: Fixed<libc::iovec>,
    names: Fixed<RawAddress>,
    controls: Fixed<Control>,
}

// SAFETY: the pointers in the headers lead to memory that the batch itself owns.
unsafe impl Send for Headers {}

impl Headers {
    fn new(count: usize) -> Self {
        // SAFETY: both are plain C structures for which all zeros is a value.
        let (message, piece) = unsafe { (zeroed::<libc::mmsghdr>(), zeroed::<libc::iovec>()) };
        let mut headers = Self {
            messages: Fixed::new(vec![message; count]),
            pieces: Fixed::new(vec![piece; count]),
            names: Fixed::new(vec![RawAddress::EMPTY; count]),
            controls: Fixed::new(vec![Control::EMPTY; count]),
        };
        for index in 0..count {
            let (name, piece) = (headers.names.address(index), headers.pieces.address(index));
            let header = &mut headers.messages[index].msg_hdr;
            header.msg_name = name.cast();
            header.msg_iov = piece;
            header.msg_iovlen = 1 as _;
        }
        headers
    }
}

impl RxBatch {
    /// Room for `slots` packets of `slot_len` bytes and their control messages. The memory costs
    /// nothing until packets have touched it.
    pub(crate) fn new(slots: usize, slot_len: usize) -> Self {
        let stride = slot_len + COLOUR;
        let mut batch = Self {
            slot_len,
            dirty: slots,
            headers: Headers::new(slots),
            buffers: Fixed::new(vec![0; slots * stride]),
        };
        for index in 0..slots {
            let piece = &mut batch.headers.pieces[index];
            piece.iov_base = batch.buffers.address(index * stride).cast();
            piece.iov_len = slot_len;
            let room = batch.headers.controls.address(index);
            batch.headers.messages[index].msg_hdr.msg_control = room.cast();
        }
        batch
    }

    /// Receives one message without its control messages: the cheapest call there is.
    pub(crate) fn receive_plain(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let name = self.headers.names.address(0);
        let mut name_len = size_of::<RawAddress>() as libc::socklen_t;
        // SAFETY: buffer and address are slot 0's, of the lengths given; this batch owns both and
        // is borrowed mutably for the call.
        let len = unsafe {
            // Spinning engines live in this call: no bookkeeping for thread cancellation.
            libc::syscall(
                libc::SYS_recvfrom,
                socket.as_raw_fd(),
                self.buffers.address(0),
                self.slot_len,
                libc::MSG_DONTWAIT,
                name,
                &raw mut name_len,
            )
        };
        let len = u32::try_from(len).map_err(|_| io::Error::last_os_error())?;
        self.headers.messages[0].msg_len = len;
        self.headers.messages[0].msg_hdr.msg_controllen = 0;
        self.dirty = self.dirty.max(1);
        Ok(())
    }

    /// Receives one message with its control messages.
    pub(crate) fn receive_one(&mut self, socket: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
        self.restore();
        let header = self.headers.messages.address(0);
        // SAFETY: every pointer in the header leads to memory of the length beside it, owned by
        // this batch, which is borrowed mutably for the call.
        let len = unsafe {
            libc::recvmsg(
                socket.as_raw_fd(),
                &raw mut (*header).msg_hdr,
                flags | libc::MSG_DONTWAIT,
            )
        };
        let len = u32::try_from(len).map_err(|_| io::Error::last_os_error())?;
        self.headers.messages[0].msg_len = len;
        self.dirty = 1;
        Ok(())
    }

    /// Receives as many messages as there are, up to `most` and the number of slots; returns how many.
    pub(crate) fn receive_many(
        &mut self,
        socket: BorrowedFd<'_>,
        most: usize,
    ) -> io::Result<usize> {
        self.receive_some(socket, most, libc::MSG_DONTWAIT)
    }

    /// As [`receive_many`](Self::receive_many), but sleeps until there is one, or the socket's receive
    /// timeout has passed. Sleeps only on sockets that may block.
    pub(crate) fn receive_or_sleep(
        &mut self,
        socket: BorrowedFd<'_>,
        most: usize,
    ) -> io::Result<usize> {
        self.receive_some(socket, most, libc::MSG_WAITFORONE)
    }

    fn receive_some(
        &mut self,
        socket: BorrowedFd<'_>,
        most: usize,
        flags: i32,
    ) -> io::Result<usize> {
        self.restore();
        let most = most.min(self.headers.messages.len());
        // SAFETY: as above, for each of the headers.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.messages.address(0),
                most as _,
                flags as _,
                std::ptr::null_mut(),
            )
        };
        self.dirty = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        Ok(self.dirty)
    }

    /// The kernel overwrites lengths with what it used; put back what there is.
    fn restore(&mut self) {
        for message in &mut self.headers.messages[..self.dirty] {
            let header = &mut message.msg_hdr;
            header.msg_namelen = size_of::<RawAddress>() as libc::socklen_t;
            header.msg_controllen = size_of::<Control>() as _;
        }
        self.dirty = 0;
    }

    /// Who sent message `index` of the last call.
    pub(crate) fn source(&self, index: usize) -> Option<SocketAddr> {
        self.headers.names[index].decode()
    }

    /// Control messages of message `index` of the last call.
    pub(crate) fn control(&self, index: usize) -> &[u8] {
        let header = &self.headers.messages[index].msg_hdr;
        // The field's type differs between C libraries.
        #[allow(clippy::unnecessary_cast)]
        let len = header.msg_controllen as usize;
        &self.headers.controls[index].0[..len.min(size_of::<Control>())]
    }

    /// Length in bytes of message `index` of the last call.
    pub(crate) fn len(&self, index: usize) -> usize {
        (self.headers.messages[index].msg_len as usize).min(self.slot_len)
    }

    /// The buffer of slot `index`.
    pub(crate) fn buffer(&self, index: usize) -> &[u8] {
        &self.buffers[index * (self.slot_len + COLOUR)..][..self.slot_len]
    }

    /// The buffer of slot `index`, to change in place.
    pub(crate) fn buffer_mut(&mut self, index: usize) -> &mut [u8] {
        &mut self.buffers[index * (self.slot_len + COLOUR)..][..self.slot_len]
    }
}

impl TxBatch {
    /// Room for `messages` messages out of an arena of `bytes`, which cost nothing until touched.
    pub(crate) fn new(messages: usize, bytes: usize) -> Self {
        Self { headers: Headers::new(messages), arena: Fixed::new(vec![0; bytes]) }
    }

    /// A part of the arena, to fill.
    pub(crate) fn arena_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.arena[range]
    }

    /// Makes message `index` the bytes `range` of the arena, for the address `to` of which so many
    /// bytes count; `control` writes its control messages.
    pub(crate) fn prepare(
        &mut self,
        index: usize,
        range: Range<usize>,
        to: (RawAddress, usize),
        control: impl FnOnce(&mut Writer<'_>),
    ) {
        let len = self.arena[range.clone()].len();
        self.headers.pieces[index].iov_len = len;
        self.headers.pieces[index].iov_base = match len {
            0 => std::ptr::null_mut(),
            _ => self.arena.address(range.start).cast(),
        };
        let (name, name_len) = to;
        self.headers.names[index] = name;
        let mut writer = Writer::new(&mut self.headers.controls[index]);
        control(&mut writer);
        let control_len = writer.finish();
        let room = self.headers.controls.address(index);
        let header = &mut self.headers.messages[index].msg_hdr;
        header.msg_namelen = name_len.min(size_of::<RawAddress>()) as libc::socklen_t;
        header.msg_controllen = control_len as _;
        header.msg_control = if control_len == 0 { std::ptr::null_mut() } else { room.cast() };
    }

    /// Sends the prepared messages of `range`; returns how many of them, from the first on, left.
    pub(crate) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        range: Range<usize>,
    ) -> io::Result<usize> {
        let count = self.headers.messages[range.clone()].len();
        if count == 1 {
            return self.send_one(socket, range.start).map(|()| 1);
        }
        let first = self.headers.messages.address(range.start);
        // SAFETY: the slice above proved that there are `count` headers from `first` on, and
        // `prepare` made every pointer in them lead to memory of the length beside it, owned by
        // this batch; the kernel writes only `msg_len` of each header.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                first,
                count as _,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    fn send_one(&self, socket: BorrowedFd<'_>, index: usize) -> io::Result<()> {
        let header = &self.headers.messages[index].msg_hdr;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let sent = if header.msg_control.is_null() {
            let piece = &self.headers.pieces[index];
            // The cheapest call there is, without libc's bookkeeping for thread cancellation.
            // SAFETY: `prepare` made both pointers lead to memory of the length beside them, owned
            // by this batch; the kernel only reads it.
            unsafe {
                libc::syscall(
                    libc::SYS_sendto,
                    socket.as_raw_fd(),
                    piece.iov_base,
                    piece.iov_len,
                    flags,
                    header.msg_name,
                    header.msg_namelen,
                )
            }
        } else {
            // SAFETY: as above, for every pointer in the header.
            unsafe { libc::sendmsg(socket.as_raw_fd(), header, flags) as libc::c_long }
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
