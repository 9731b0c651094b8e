//! How large packets may be on the way to a host, as the host's routes say.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use smt_proto::Time;

/// How long what a route said is believed. To ask costs a socket, which the first RPC of a session would
/// wait for at both ends.
const BELIEVED: Duration = Duration::from_secs(1);
/// Hosts remembered at most; strangers can make a server ask about any.
const MAX_HOSTS: usize = 1024;

/// The MTUs of the paths to hosts, in bytes.
#[derive(Default)]
pub(super) struct PathMtus {
    known: HashMap<IpAddr, (Time, usize)>,
}

impl PathMtus {
    /// The MTU towards `host`, which `ask` asks the routes for; `None` if there is none.
    pub(super) fn get(
        &mut self,
        now: Time,
        host: IpAddr,
        ask: impl FnOnce() -> Option<usize>,
    ) -> Option<usize> {
        if let Some((at, mtu)) = self.known.get(&host)
            && now.since(*at) < BELIEVED
        {
            return Some(*mtu);
        }
        let mtu = ask()?;
        if self.known.len() >= MAX_HOSTS {
            self.known.clear();
        }
        self.known.insert(host, (now, mtu));
        Some(mtu)
    }

    /// The path to `host` has changed.
    pub(super) fn forget(&mut self, host: IpAddr) {
        self.known.remove(&host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_remembered_for_a_while_and_not_too_many() {
        let mut mtus = PathMtus::default();
        let start = Time::from_nanos(5_000_000_000);
        for host in 0..=MAX_HOSTS as u32 {
            let host = IpAddr::from(host.to_be_bytes());
            assert_eq!(mtus.get(start, host, || Some(1500)), Some(1500));
            assert!(mtus.known.len() <= MAX_HOSTS);
        }
        let host = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(mtus.get(start, host, || Some(9000)), Some(9000));
        let soon = start + BELIEVED / 2;
        assert_eq!(mtus.get(soon, host, || None), Some(9000), "remembered");
        mtus.forget(host);
        assert_eq!(mtus.get(soon, host, || Some(1400)), Some(1400), "it has changed");
        assert_eq!(mtus.get(soon + BELIEVED, host, || None), None, "too long ago");
    }
}
