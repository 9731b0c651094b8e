//! Numbers of switches and ports, and which port leads where.
//!
//! Switches: the leaves, then the spines. Ports: those towards hosts, by host; then the uplinks, leaf
//! by leaf; then the downlinks, spine by spine.

use super::config::Topology;
use super::port::End;
use crate::packet::HostId;

/// The shape of a network.
pub(super) struct Routes {
    leaf_of: Vec<u32>,
    leaves: u32,
    spines: u32,
}

/// Where a packet leaves a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By this port.
    Port(u32),
    /// By any uplink of this leaf.
    Up(u32),
}

impl Routes {
    pub(super) fn new(topology: &Topology) -> Self {
        let (leaves, hosts_per_leaf, spines) = match *topology {
            Topology::Switch { hosts } => (1, hosts, 0),
            Topology::LeafSpine { leaves, hosts_per_leaf, spines, .. } => {
                (leaves, hosts_per_leaf, spines)
            }
        };
        let leaf_of = (0..leaves)
            .flat_map(|leaf| core::iter::repeat_n(leaf, hosts_per_leaf as usize))
            .collect();
        Self { leaf_of, leaves, spines }
    }

    /// The leaf of a host; `None` if there is no such host.
    #[inline]
    pub(super) fn leaf_of(&self, host: HostId) -> Option<u32> {
        self.leaf_of.get(host as usize).copied()
    }

    pub(super) fn leaves(&self) -> u32 {
        self.leaves
    }

    pub(super) fn spines(&self) -> u32 {
        self.spines
    }

    /// The way to a host from a switch; `None` if there is no such host.
    #[inline]
    pub(super) fn way(&self, node: u32, dst: HostId) -> Option<Way> {
        let leaf = self.leaf_of(dst)?;
        Some(if node == leaf {
            Way::Port(dst)
        } else if let Some(spine) = node.checked_sub(self.leaves) {
            Way::Port(self.uplink(self.leaves, 0) + spine * self.leaves + leaf)
        } else {
            Way::Up(node)
        })
    }

    /// The port of a leaf towards a spine.
    #[inline]
    pub(super) fn uplink(&self, leaf: u32, spine: u32) -> u32 {
        self.leaf_of.len() as u32 + leaf * self.spines + spine
    }

    /// Where each port leads, in the order of their numbers.
    pub(super) fn ends(&self) -> impl Iterator<Item = End> {
        let hosts = (0..self.leaf_of.len() as u32).map(End::Host);
        let up = (0..self.leaves).flat_map(|_| (0..self.spines).map(|s| self.leaves + s));
        let down = (0..self.spines).flat_map(|_| 0..self.leaves);
        hosts.chain(up.chain(down).map(End::Switch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_leads_to_its_host() {
        let topology =
            Topology::LeafSpine { leaves: 3, hosts_per_leaf: 4, spines: 2, uplink_gbps: 100.0 };
        let routes = Routes::new(&topology);
        let ends: Vec<_> = routes.ends().collect();
        assert_eq!(ends.len(), 12 + 6 + 6);
        for dst in 0..12 {
            for leaf in 0..3 {
                match routes.way(leaf, dst) {
                    Some(Way::Port(port)) => {
                        assert_eq!((leaf, ends[port as usize]), (dst / 4, End::Host(dst)));
                    }
                    way => assert_eq!(way, Some(Way::Up(leaf))),
                }
                for spine in 0..2 {
                    let up = routes.uplink(leaf, spine) as usize;
                    assert_eq!(ends[up], End::Switch(3 + spine));
                    let Some(Way::Port(down)) = routes.way(3 + spine, dst) else {
                        panic!("no way")
                    };
                    assert_eq!(ends[down as usize], End::Switch(dst / 4));
                }
            }
        }
        assert_eq!(routes.way(0, 12), None);
    }
}
