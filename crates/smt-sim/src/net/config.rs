//! What a network is like.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::port::Rate;
use super::routes::Routes;
use crate::events::{PICOS_PER_NANO, Picos};
use crate::packet::{HostId, PRIORITIES};

/// A network. Every switch is store and forward and has one queue per port and priority.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetConfig {
    /// Who is connected to whom.
    pub topology: Topology,
    /// Rate of the links between hosts and switches, both ways, in Gb/s.
    pub link_gbps: f64,
    /// Software delay of a host, added to each packet on arrival, in nanoseconds. Pure latency: any
    /// number of packets spend it at once.
    pub host_delay_ns: u64,
    /// Delay of a switch from a packet's last bit in until it can leave, in nanoseconds.
    pub switch_delay_ns: u64,
    /// Propagation delay of each cable, in nanoseconds.
    pub propagation_ns: u64,
    /// Bytes that can wait at each switch port, all priorities together; the packet on the wire is
    /// not counted.
    pub buffer_bytes: u32,
    /// Priority levels that the switches honour, 1..=8; with fewer than eight, neighbouring
    /// priorities share a level. 1 is a FIFO.
    pub priorities: u8,
    /// How packets spread over the spines.
    pub spread: Spread,
    /// On overflow, the payload of an SMT DATA packet is cut off and its header forwarded at the top
    /// priority. Headers may fill twice the buffer.
    pub trim: bool,
    /// Packets are marked (ECN) that leave more than this many bytes waiting at a switch port; 0
    /// marks none.
    pub mark_bytes: u32,
    /// A host's NIC asks its stack for packets while fewer bytes than this wait in it; with 0 only
    /// when its wire is idle, so that the stack decides as late as it can.
    pub nic_queue_bytes: u32,
}

/// Who is connected to whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Topology {
    /// All hosts at one switch.
    Switch {
        /// Number of hosts.
        hosts: u32,
    },
    /// Racks, each with a leaf switch, and every leaf connected to every spine.
    LeafSpine {
        /// Number of racks.
        leaves: u32,
        /// Hosts in each; the first rack has the first hosts.
        hosts_per_leaf: u32,
        /// Number of spine switches.
        spines: u32,
        /// Rate of each link between a leaf and a spine, both ways, in Gb/s.
        uplink_gbps: f64,
    },
}

/// How a leaf spreads packets for other racks over the spines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// By the hash of addresses and flow: all packets of a flow take one path.
    Flow,
    /// Each packet by chance.
    Packet,
    /// Each SMT message as a whole to the uplink with the least to do, by what its headers show in
    /// the clear: ports, message ID, message length. Lone packets take the shortest queue.
    Message,
}

/// Why a network cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// There are no hosts, or more than 2^24 - 2.
    Hosts,
    /// Several leaves without spines between them, or more than 65535 switches.
    Switches,
    /// A rate is not above 0.001 Gb/s and at most 100000 Gb/s.
    Rate,
    /// Priority levels are not 1..=8.
    Priorities,
    /// A delay is above a second.
    Delay,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hosts => "number of hosts must be 1 to 16777214",
            Self::Switches => "several leaves need spines, and switches end at 65535",
            Self::Rate => "rates must be 0.001 to 100000 Gb/s",
            Self::Priorities => "priorities must be 1 to 8",
            Self::Delay => "delays must be at most a second",
        })
    }
}

impl core::error::Error for ConfigError {}

impl Default for NetConfig {
    /// Two hosts at a switch with links of 100 Gb/s.
    fn default() -> Self {
        Self {
            topology: Topology::Switch { hosts: 2 },
            link_gbps: 100.0,
            host_delay_ns: 1500,
            switch_delay_ns: 250,
            propagation_ns: 20,
            buffer_bytes: 1 << 20,
            priorities: 8,
            spread: Spread::Packet,
            trim: false,
            mark_bytes: 0,
            nic_queue_bytes: 0,
        }
    }
}

impl NetConfig {
    /// Number of hosts.
    #[must_use]
    pub fn hosts(&self) -> u32 {
        match self.topology {
            Topology::Switch { hosts } => hosts,
            Topology::LeafSpine { leaves, hosts_per_leaf, .. } => {
                leaves.saturating_mul(hosts_per_leaf)
            }
        }
    }

    /// Checks that such a network can be.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fast = |gbps: f64| (0.001..=100_000.0).contains(&gbps);
        if !(1..=(1 << 24) - 2).contains(&self.hosts()) {
            return Err(ConfigError::Hosts);
        }
        if !fast(self.link_gbps) {
            return Err(ConfigError::Rate);
        }
        if let Topology::LeafSpine { leaves, spines, uplink_gbps, .. } = self.topology {
            if (leaves > 1 && spines == 0) || leaves.saturating_add(spines) > 65535 {
                return Err(ConfigError::Switches);
            }
            if !fast(uplink_gbps) {
                return Err(ConfigError::Rate);
            }
        }
        if !(1..=PRIORITIES).contains(&usize::from(self.priorities)) {
            return Err(ConfigError::Priorities);
        }
        if [self.host_delay_ns, self.switch_delay_ns, self.propagation_ns]
            .iter()
            .any(|&delay| delay > 1_000_000_000)
        {
            return Err(ConfigError::Delay);
        }
        Ok(())
    }

    /// Time from handing the first of these packets to the NIC of `src` until the last is received
    /// at `dst`, in nanoseconds, all being there at once and the network idle. Each number is what a
    /// packet takes on the wire ([`Packet::wire_len`](crate::packet::Packet::wire_len)); 0 without
    /// packets.
    #[must_use]
    pub fn one_way_ns(&self, src: HostId, dst: HostId, bytes_on_wire: &[u32]) -> u64 {
        let links = self.links(src, dst);
        let mut free = vec![0; links.len()];
        let mut last = 0;
        for &bytes in bytes_on_wire {
            let mut at: Picos = 0;
            for ((rate, after), free) in links.iter().zip(&mut free) {
                *free = at.max(*free) + rate.picos(bytes);
                at = *free + after;
            }
            last = at;
        }
        last / PICOS_PER_NANO
    }

    /// The links from one host to another: each with its rate, and the delay behind it.
    fn links(&self, src: HostId, dst: HostId) -> Vec<(Rate, Picos)> {
        let host = Rate::from_gbps(self.link_gbps);
        let uplink = Rate::from_gbps(self.uplink_gbps());
        let routes = Routes::new(&self.topology);
        let (to_switch, to_host) = (self.to_switch(), self.to_host());
        if routes.leaf_of(src) == routes.leaf_of(dst) {
            vec![(host, to_switch), (host, to_host)]
        } else {
            vec![(host, to_switch), (uplink, to_switch), (uplink, to_switch), (host, to_host)]
        }
    }

    /// Number of uplinks of all leaves.
    pub(crate) fn uplinks(&self) -> usize {
        match self.topology {
            Topology::Switch { .. } => 0,
            Topology::LeafSpine { leaves, spines, .. } => leaves as usize * spines as usize,
        }
    }

    pub(super) fn uplink_gbps(&self) -> f64 {
        match self.topology {
            Topology::Switch { .. } => self.link_gbps,
            Topology::LeafSpine { uplink_gbps, .. } => uplink_gbps,
        }
    }

    /// Delay from the end of a transmission until a packet is ready to leave the switch it goes to.
    pub(crate) fn to_switch(&self) -> Picos {
        (self.propagation_ns + self.switch_delay_ns) * PICOS_PER_NANO
    }

    /// Delay from the end of a transmission until the stack of a host receives the packet.
    pub(crate) fn to_host(&self) -> Picos {
        (self.propagation_ns + self.host_delay_ns) * PICOS_PER_NANO
    }
}
