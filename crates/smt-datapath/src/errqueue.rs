//! A socket's error queue: what the network (ICMP) or the host itself said of packets sent.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use crate::PathErrorKind;
use crate::sys::batch::RxBatch;
use crate::sys::control;

/// Quoted packets are at most this long (ICMPv6 fills the minimum MTU).
const QUOTE_LEN: usize = 2048;

// ICMP and ICMPv6 types and codes (RFC 792, 1122, 4443).
const V4_UNREACHABLE: u8 = 3;
const V4_BAD_PROTOCOL: u8 = 2;
const V4_BAD_PORT: u8 = 3;
const V4_TOO_BIG: u8 = 4;
const V6_UNREACHABLE: u8 = 1;
const V6_BAD_PORT: u8 = 4;
const V6_TOO_BIG: u8 = 2;
const V6_BAD_PARAMETER: u8 = 4;
const V6_BAD_NEXT_HEADER: u8 = 1;

/// Memory to read an error queue with.
pub(crate) struct ErrorQueue {
    batch: RxBatch,
}

/// One error as queued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QueuedError<'a> {
    /// Where the packet was going.
    pub(crate) dst: SocketAddr,
    /// What happened; an MTU of 0 means that it is not known.
    pub(crate) kind: PathErrorKind,
    /// The start of the packet's payload; empty when the host itself refused the packet.
    pub(crate) quoted: &'a [u8],
    /// Whether this host, not the network, refused the packet.
    pub(crate) local: bool,
}

impl ErrorQueue {
    pub(crate) fn new() -> Self {
        Self { batch: RxBatch::new(1, QUOTE_LEN) }
    }

    /// Takes the next error that concerns a path off the queue of `socket`.
    pub(crate) fn next(&mut self, socket: BorrowedFd<'_>) -> Option<QueuedError<'_>> {
        loop {
            match self.batch.receive_one(socket, libc::MSG_ERRQUEUE) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return None,
            }
            let dst = self.batch.source(0);
            let parsed = control::messages(self.batch.control(0)).find_map(|m| parse(&m));
            if let (Some(dst), Some((kind, local))) = (dst, parsed) {
                let quoted = &self.batch.buffer(0)[..self.batch.len(0)];
                return Some(QueuedError { dst, kind, quoted, local });
            }
        }
    }
}

/// Reads a `struct sock_extended_err`; also tells whether this host is its origin.
fn parse(message: &control::Message<'_>) -> Option<(PathErrorKind, bool)> {
    match (message.level, message.kind) {
        (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {}
        _ => return None,
    }
    let [e0, e1, e2, e3, origin, kind, code, _, i0, i1, i2, i3, ..] = *message.data else {
        return None;
    };
    let errno = u32::from_ne_bytes([e0, e1, e2, e3]);
    let mtu = PathErrorKind::MtuChanged(u32::from_ne_bytes([i0, i1, i2, i3]) as usize);
    let kind = match (origin, kind, code) {
        (libc::SO_EE_ORIGIN_LOCAL, ..) if errno == libc::EMSGSIZE as u32 => mtu,
        (libc::SO_EE_ORIGIN_LOCAL, ..) => PathErrorKind::Unreachable,
        (libc::SO_EE_ORIGIN_ICMP, V4_UNREACHABLE, V4_BAD_PROTOCOL | V4_BAD_PORT) => {
            PathErrorKind::Refused
        }
        (libc::SO_EE_ORIGIN_ICMP, V4_UNREACHABLE, V4_TOO_BIG) => mtu,
        (libc::SO_EE_ORIGIN_ICMP6, V6_UNREACHABLE, V6_BAD_PORT)
        | (libc::SO_EE_ORIGIN_ICMP6, V6_BAD_PARAMETER, V6_BAD_NEXT_HEADER) => {
            PathErrorKind::Refused
        }
        (libc::SO_EE_ORIGIN_ICMP6, V6_TOO_BIG, _) => mtu,
        (libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6, ..) => PathErrorKind::Unreachable,
        _ => return None,
    };
    Some((kind, origin == libc::SO_EE_ORIGIN_LOCAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(level: i32, name: i32, errno: i32, icmp: [u8; 3], info: u32) -> Option<PathErrorKind> {
        let mut data = (errno as u32).to_ne_bytes().to_vec();
        data.extend(icmp);
        data.push(0);
        data.extend(info.to_ne_bytes());
        data.extend([0; 20]);
        parse(&control::Message { level, kind: name, data: &data }).map(|(kind, _)| kind)
    }

    #[test]
    fn icmp_is_sorted_by_what_it_means() {
        let v4 = |icmp, info| kind(libc::IPPROTO_IP, libc::IP_RECVERR, 0, icmp, info);
        assert_eq!(v4([2, 3, 2], 0), Some(PathErrorKind::Refused));
        assert_eq!(v4([2, 3, 1], 0), Some(PathErrorKind::Unreachable));
        assert_eq!(v4([2, 3, 13], 0), Some(PathErrorKind::Unreachable));
        assert_eq!(v4([2, 3, 4], 1400), Some(PathErrorKind::MtuChanged(1400)));
        let v6 = |icmp, info| kind(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 0, icmp, info);
        assert_eq!(v6([3, 4, 1], 40), Some(PathErrorKind::Refused));
        assert_eq!(v6([3, 1, 4], 0), Some(PathErrorKind::Refused));
        assert_eq!(v6([3, 1, 0], 0), Some(PathErrorKind::Unreachable));
        assert_eq!(v6([3, 2, 0], 1280), Some(PathErrorKind::MtuChanged(1280)));
    }

    #[test]
    fn the_hosts_own_refusal_tells_the_mtu() {
        let local = |errno| kind(libc::IPPROTO_IP, libc::IP_RECVERR, errno, [1, 0, 0], 1500);
        assert_eq!(local(libc::EMSGSIZE), Some(PathErrorKind::MtuChanged(1500)));
        assert_eq!(local(libc::EHOSTUNREACH), Some(PathErrorKind::Unreachable));
    }

    #[test]
    fn other_control_data_is_no_error() {
        assert_eq!(kind(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 0, [2, 3, 2], 0), None);
        let short =
            control::Message { level: libc::IPPROTO_IP, kind: libc::IP_RECVERR, data: &[0; 8] };
        assert_eq!(parse(&short), None);
    }
}
