//! Two datapaths of one process, joined: what one sends, the other receives.
//!
//! They need no privilege and no network, lose nothing while their buffers have room, and have
//! real descriptors to wait for (a pair of unix datagram sockets).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::event::PollFlags;

use crate::socket::wait_for;
use crate::sys::option;
use crate::{Caps, Datapath, DatapathStats, PathError, RxMeta, TxMeta};

const MAX_PACKET: usize = 65_515;
const BURST: usize = 64;
const BUFFER_BYTES: i32 = 4 << 20;

/// One end of a joined pair.
pub struct Memory {
    socket: UnixDatagram,
    local: IpAddr,
    peer: SocketAddr,
    mtu: usize,
    caps: Caps,
    received: Vec<(RxMeta, Vec<u8>)>,
    /// Packets of `received` that belong to the current burst; the others wait to be reused.
    burst: usize,
    queue: Vec<TxMeta>,
    frames: Vec<Vec<u8>>,
    stats: DatapathStats,
}

/// Joins two endpoints with addresses `a` and `b`, over a path of `mtu` bytes (IP header included).
///
/// # Errors
/// When the host has no more descriptors.
pub fn pair(a: IpAddr, b: IpAddr, mtu: usize) -> io::Result<(Memory, Memory)> {
    let (left, right) = UnixDatagram::pair()?;
    Ok((Memory::new(left, a, b, mtu)?, Memory::new(right, b, a, mtu)?))
}

impl Memory {
    fn new(socket: UnixDatagram, local: IpAddr, peer: IpAddr, mtu: usize) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        option::set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUF, BUFFER_BYTES)?;
        let capacity = option::get(&socket, libc::SOL_SOCKET, libc::SO_SNDBUF)?;
        let caps = Caps {
            name: "memory",
            overhead: [20, 40],
            max_packet: MAX_PACKET,
            tx_segment: 0,
            tx_burst: BURST,
            rx_burst: BURST,
            rx_capacity: usize::try_from(capacity).unwrap_or(0),
        };
        Ok(Self {
            socket,
            local,
            peer: SocketAddr::new(peer, 0),
            mtu,
            caps,
            received: Vec::new(),
            burst: 0,
            queue: Vec::new(),
            frames: Vec::new(),
            stats: DatapathStats::default(),
        })
    }
}

impl Datapath for Memory {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn frame(&mut self) -> Option<&mut [u8]> {
        let index = self.queue.len();
        if index == BURST {
            return None;
        }
        if self.frames.len() == index {
            self.frames.push(vec![0; MAX_PACKET]);
        }
        self.frames.get_mut(index).map(Vec::as_mut_slice)
    }

    fn commit(&mut self, meta: TxMeta) {
        assert!(self.queue.len() < self.frames.len(), "commit without a frame");
        assert!(meta.len <= MAX_PACKET, "packet of {} bytes", meta.len);
        self.queue.push(meta);
    }

    fn flush(&mut self) -> io::Result<()> {
        for (meta, frame) in self.queue.drain(..).zip(&self.frames) {
            let headers = self.caps.overhead[usize::from(self.local.is_ipv6())];
            let reaches = meta.dst.ip() == self.peer.ip() && meta.len + headers <= self.mtu;
            if reaches && self.socket.send(&frame[..meta.len]).is_ok() {
                self.stats.tx_packets += 1;
                self.stats.tx_bytes += meta.len as u64;
            } else {
                self.stats.tx_errors += 1;
            }
        }
        Ok(())
    }

    fn recv(&mut self) -> io::Result<usize> {
        self.burst = 0;
        while self.burst < BURST {
            if self.received.len() == self.burst {
                let meta = RxMeta { src: self.peer, dst: self.local, len: 0, ip_id: None };
                self.received.push((meta, vec![0; MAX_PACKET]));
            }
            let (meta, buffer) = &mut self.received[self.burst];
            // The peer's end may be gone, which to the protocol is silence.
            let Ok(len) = self.socket.recv(buffer) else { break };
            meta.len = len;
            self.stats.rx_packets += 1;
            self.stats.rx_bytes += len as u64;
            self.burst += 1;
        }
        Ok(self.burst)
    }

    fn packet(&mut self, index: usize) -> (RxMeta, &mut [u8]) {
        let (meta, buffer) = &mut self.received[..self.burst][index];
        (*meta, &mut buffer[..meta.len])
    }

    fn path_error(&mut self) -> Option<PathError> {
        None
    }

    fn path_mtu(&mut self, dst: IpAddr) -> io::Result<usize> {
        if dst == self.peer.ip() {
            Ok(self.mtu)
        } else {
            Err(io::ErrorKind::HostUnreachable.into())
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        wait_for(self.socket.as_fd(), PollFlags::IN, timeout).map(|_| ())
    }

    fn stats(&self) -> DatapathStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(from: &mut Memory, to: IpAddr, bytes: &[u8]) {
        from.frame().unwrap()[..bytes.len()].copy_from_slice(bytes);
        from.commit(TxMeta {
            dst: SocketAddr::new(to, 0),
            src: None,
            len: bytes.len(),
            priority: 7,
            segment: None,
            lane: 0,
        });
    }

    #[test]
    fn what_one_sends_the_other_receives() {
        let [a, b] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let (mut left, mut right) = pair(a, b, 1500).unwrap();
        assert_eq!(right.recv().unwrap(), 0);
        for value in 0..BURST {
            send(&mut left, b, &[value as u8; 100]);
        }
        assert!(left.frame().is_none());
        left.flush().unwrap();
        right.wait(None).unwrap();
        assert_eq!(right.recv().unwrap(), BURST);
        let (meta, bytes) = right.packet(63);
        assert_eq!(meta, RxMeta { src: SocketAddr::new(a, 0), dst: b, len: 100, ip_id: None });
        assert_eq!(bytes, [63; 100]);
        assert_eq!(right.recv().unwrap(), 0);
    }

    #[test]
    fn too_big_or_astray_is_refused() {
        let [a, b] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let (mut left, mut right) = pair(a, b, 1500).unwrap();
        send(&mut left, b, &[1; 1481]);
        send(&mut left, a, &[1; 10]);
        left.flush().unwrap();
        assert_eq!(left.stats().tx_errors, 2);
        assert_eq!(right.recv().unwrap(), 0);
        assert!(left.path_mtu(a).is_err());
        assert_eq!(left.path_mtu(b).unwrap(), 1500);
    }
}
