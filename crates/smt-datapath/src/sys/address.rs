//! Socket addresses as the kernel lays them out.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

const INET: u16 = libc::AF_INET as u16;
const INET6: u16 = libc::AF_INET6 as u16;
const PACKET: u16 = libc::AF_PACKET as u16;
const LEN_DEVICE: usize = size_of::<libc::sockaddr_ll>();
const LEN_V4: usize = size_of::<libc::sockaddr_in>();
const LEN_V6: usize = size_of::<libc::sockaddr_in6>();

/// Room for a `sockaddr_in` or a `sockaddr_in6`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct RawAddress([u8; LEN_V6]);

impl RawAddress {
    pub(crate) const EMPTY: Self = Self([0; LEN_V6]);

    /// The kernel's form of the device `index`, for whole frames of the protocol `ethertype`
    /// (`struct sockaddr_ll`), and how many bytes of it count.
    pub(crate) fn device(index: u32, ethertype: u16) -> (Self, usize) {
        let mut raw = [0; LEN_V6];
        raw[..2].copy_from_slice(&PACKET.to_ne_bytes());
        raw[2..4].copy_from_slice(&ethertype.to_be_bytes());
        raw[4..8].copy_from_slice(&index.to_ne_bytes());
        (Self(raw), LEN_DEVICE)
    }

    /// The kernel's form of `address`, and how many bytes of it count.
    pub(crate) fn encode(address: SocketAddr) -> (Self, usize) {
        let mut raw = [0; LEN_V6];
        raw[2..4].copy_from_slice(&address.port().to_be_bytes());
        let len = match address {
            SocketAddr::V4(v4) => {
                raw[..2].copy_from_slice(&INET.to_ne_bytes());
                raw[4..8].copy_from_slice(&v4.ip().octets());
                LEN_V4
            }
            SocketAddr::V6(v6) => {
                raw[..2].copy_from_slice(&INET6.to_ne_bytes());
                raw[8..24].copy_from_slice(&v6.ip().octets());
                raw[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                LEN_V6
            }
        };
        (Self(raw), len)
    }

    /// The address that the kernel wrote, if it wrote one of a known family.
    pub(crate) fn decode(&self) -> Option<SocketAddr> {
        decode(&self.0)
    }
}

/// Bytes of an address of `family`, if it is one of IP's.
pub(crate) fn len(family: i32) -> Option<usize> {
    match family {
        libc::AF_INET => Some(LEN_V4),
        libc::AF_INET6 => Some(LEN_V6),
        _ => None,
    }
}

/// Reads a `sockaddr_in` or `sockaddr_in6`.
pub(crate) fn decode(raw: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*raw.first_chunk()?);
    let port = u16::from_be_bytes(*raw.get(2..)?.first_chunk()?);
    match family {
        INET => {
            let ip = Ipv4Addr::from(*raw.get(4..)?.first_chunk::<4>()?);
            Some(SocketAddrV4::new(ip, port).into())
        }
        INET6 => {
            let ip = Ipv6Addr::from(*raw.get(8..)?.first_chunk::<16>()?);
            let scope = u32::from_ne_bytes(*raw.get(24..)?.first_chunk()?);
            Some(SocketAddrV6::new(ip, port, 0, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["192.0.2.7:443", "[2001:db8::7]:443", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::encode(address).0.decode(), Some(address));
        }
        assert_eq!(RawAddress::EMPTY.decode(), None);
        assert_eq!(decode(&[2]), None);
    }
}
