//! Why a datapath could not be opened.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Why a datapath could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Raw IP sockets are for processes with `CAP_NET_RAW`.
    #[error(
        "raw IP sockets need CAP_NET_RAW, which this process lacks. Grant it to the program: \
         `sudo setcap cap_net_raw+ep {program}`. Or do without: use the UDP datapath \
         (`--datapath udp`), or, to try it on this machine alone, a user namespace \
         (`unshare -Urn {program}`)",
        program = program.display()
    )]
    MissingPrivilege {
        /// The program that lacks it.
        program: PathBuf,
    },
    /// The kernel was built without packet sockets, or their module is not loaded.
    #[error(
        "this kernel has no packet sockets (CONFIG_PACKET): load the module `af_packet`, or use \
         another datapath (`--datapath raw`)"
    )]
    NoPacketSockets,
    /// The IP protocol number belongs to a protocol that hosts speak themselves.
    #[error(
        "IP protocol number {0} belongs to another protocol: use 253 or 254 (for experiments, \
         RFC 3692), the same at both ends"
    )]
    ForeignProtocol(u8),
    /// Packets are divided among shards by bits of their message ID.
    #[error("{0} shards: take 1, 2, 4, 8, 16, 32 or 64")]
    Shards(u8),
    /// Another process (or endpoint of this one) owns the port, or the block that it lies in.
    #[error(
        "port {0} is in use by another endpoint of this host: end that one, or take another port"
    )]
    PortInUse(u16),
    /// The address to bind belongs to none of this host's interfaces.
    #[error(
        "no interface of this host has the address {0}: bind one that `ip address` lists, or the wildcard"
    )]
    AddressNotAvailable(IpAddr),
    /// AF_XDP is for processes with more rights than raw sockets need.
    #[error(
        "the XDP datapath needs CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW, on the machine itself and not \
         in a user namespace alone. Grant them to the program: `sudo setcap \
         cap_bpf,cap_net_admin,cap_net_raw+ep {program}`. Or do without: use another datapath \
         (`--datapath raw`)",
        program = program.display()
    )]
    MissingXdpPrivilege {
        /// The program that lacks them.
        program: PathBuf,
    },
    /// The kernel was built without AF_XDP or BPF, or is too old.
    #[error(
        "this kernel has no AF_XDP (it takes Linux 5.9 or newer with CONFIG_XDP_SOCKETS and \
         CONFIG_BPF_SYSCALL): use another datapath (`--datapath raw`)"
    )]
    NoXdp,
    /// No Ethernet device has the address to bind, or with a wildcard, it is not clear which is
    /// meant.
    #[error(
        "the XDP datapath works on one Ethernet device, and {0} does not tell which: bind an address \
         of the device (loopback has none), or use another datapath (`--datapath raw`)"
    )]
    NoDevice(IpAddr),
    /// Another program is attached to the device, or another socket bound to its queues.
    #[error(
        "the XDP hook of device {device} is taken by another process (`ip link show {device}` tells \
         by which program): one process at a time can use it, since the kernel hands a queue's \
         packets to the memory of one process. Use another datapath beside it (`--datapath packet`; \
         `auto` does so by itself). When that process ends, however it does, the hook is free"
    )]
    DeviceBusy {
        /// The device.
        device: String,
    },
    /// Packet memory shared with the kernel counts as locked, of which the process may not have so
    /// much.
    #[error(
        "the process may not lock as much memory as AF_XDP shares with the kernel: raise the limit \
         (`ulimit -l`, or LimitMEMLOCK= of a service) to 64 MB or more, or grant CAP_IPC_LOCK"
    )]
    LockedMemory,
    /// Every block of client ports is owned.
    #[error(
        "no client ports are free: all {} blocks of {} are owned: end some of this host's endpoints",
        crate::ports::BLOCKS,
        crate::ports::BLOCK_LEN
    )]
    NoFreePorts,
    /// The host refused something else.
    #[error("cannot {what}")]
    Io {
        /// What was attempted, as in "cannot ...".
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl OpenError {
    /// For `map_err`: the host refused to do `what`.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    /// Whether any other datapath of the same ports, address and protocol would be refused alike.
    pub(crate) fn is_about_ports(&self) -> bool {
        matches!(
            self,
            Self::PortInUse(_)
                | Self::NoFreePorts
                | Self::AddressNotAvailable(_)
                | Self::ForeignProtocol(_)
        )
    }

    /// `CAP_NET_RAW` is missing from the program that runs.
    pub(crate) fn missing_privilege() -> Self {
        Self::MissingPrivilege { program: program() }
    }

    /// What XDP needs is missing from the program that runs.
    pub(crate) fn missing_xdp_privilege() -> Self {
        Self::MissingXdpPrivilege { program: program() }
    }
}

fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("<program>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_privilege_says_what_to_do() {
        let text = OpenError::missing_privilege().to_string();
        let program = std::env::current_exe().unwrap().display().to_string();
        for part in ["CAP_NET_RAW", "sudo setcap cap_net_raw+ep", "unshare -Urn", "--datapath udp"]
        {
            assert!(text.contains(part), "{text}");
        }
        assert!(text.contains(&program), "{text}");
        let text = OpenError::missing_xdp_privilege().to_string();
        for part in ["CAP_BPF", "setcap cap_bpf,cap_net_admin,cap_net_raw+ep", "--datapath raw"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
