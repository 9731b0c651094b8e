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
    /// Another process (or endpoint of this one) owns the port, or the block that it lies in.
    #[error("port {0} is in use")]
    PortInUse(u16),
    /// The address to bind belongs to none of this host's interfaces.
    #[error("no interface of this host has the address {0}")]
    AddressNotAvailable(IpAddr),
    /// Every block of client ports is owned.
    #[error(
        "no client ports are free: all {} blocks of {} are owned",
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

    /// `CAP_NET_RAW` is missing from the program that runs.
    pub(crate) fn missing_privilege() -> Self {
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("<program>"));
        Self::MissingPrivilege { program }
    }
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
    }
}
