//! Addresses of hosts: network 10, counted from 10.0.0.1.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::packet::HostId;

const NETWORK: u32 = 10 << 24;
const HOST_BITS: u32 = (1 << 24) - 1;

/// The address of a host, with port 0. Host numbers have 24 bits; higher ones wrap.
#[must_use]
pub fn address(host: HostId) -> SocketAddr {
    let bits = NETWORK | (host.wrapping_add(1) & HOST_BITS);
    SocketAddr::new(Ipv4Addr::from_bits(bits).into(), 0)
}

/// The host that has this address; `None` if the address is outside of the simulated network.
#[must_use]
pub fn host_of(addr: IpAddr) -> Option<HostId> {
    let IpAddr::V4(addr) = addr else { return None };
    let bits = addr.to_bits();
    (bits & !HOST_BITS == NETWORK).then(|| (bits & HOST_BITS).checked_sub(1)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_by_its_address() {
        assert_eq!(address(0).to_string(), "10.0.0.1:0");
        assert_eq!(address(300).to_string(), "10.0.1.45:0");
        for host in [0, 1, 255, 256, 70_000, HOST_BITS - 1] {
            assert_eq!(host_of(address(host).ip()), Some(host));
        }
        for other in ["10.0.0.0", "11.0.0.1", "::1"] {
            assert_eq!(host_of(other.parse().unwrap()), None);
        }
    }
}
