//! The machine apart from its network: kernel, cores, privileges, limits.

use std::fs;

use smt::datapath::probe;

use crate::cores;

/// Capabilities that datapaths ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// `CAP_NET_RAW`.
    pub(super) net_raw: bool,
    /// `CAP_NET_ADMIN`.
    pub(super) net_admin: bool,
    /// `CAP_BPF`.
    pub(super) bpf: bool,
}

impl Capabilities {
    /// Reads one of the sets in the text of a `/proc/PID/status` file, named as there.
    fn read(status: &str, set: &str) -> Capabilities {
        let line = status.lines().find_map(|line| line.strip_prefix(set)?.strip_prefix(':'));
        let bits = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
        let has = |number: u32| bits >> number & 1 == 1;
        Capabilities { net_raw: has(13), net_admin: has(12), bpf: has(39) }
    }
}

/// What is known of the machine.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// The kernel's release.
    pub(super) kernel: String,
    /// Cores that this process may use.
    pub(super) cores: usize,
    /// Whether the processor has instructions for AES; `None` if it does not tell.
    pub(super) aes: Option<bool>,
    /// What this process may do now. In a user namespace they are of little use outside of it.
    pub(super) capabilities: Capabilities,
    /// What it or a program with file capabilities could be granted.
    pub(super) bounds: Capabilities,
    /// Whether this process's user namespace is the machine's own.
    pub(super) is_initial_user_namespace: bool,
    /// Whether ordinary users may make user namespaces.
    pub(super) user_namespaces: bool,
    /// Bytes that a socket's receive buffer gets, as the kernel counts: twice what may be asked for.
    pub(super) receive_buffer: Option<usize>,
    /// The limit on that for processes without `CAP_NET_ADMIN`, in bytes.
    pub(super) rmem_max: Option<usize>,
}

impl Machine {
    /// Looks at this machine.
    pub(super) fn look() -> Machine {
        let read = |file: &str| fs::read_to_string(format!("/proc/{file}")).unwrap_or_default();
        let setting = |name: &str| read(&format!("sys/{name}")).trim().to_owned();
        let status = read("self/status");
        Machine {
            kernel: setting("kernel/osrelease"),
            cores: cores::allowed().map_or(1, |cores| cores.len()),
            aes: has_aes(&read("cpuinfo")),
            capabilities: Capabilities::read(&status, "CapEff"),
            bounds: Capabilities::read(&status, "CapBnd"),
            is_initial_user_namespace: is_whole(&read("self/uid_map")),
            user_namespaces: allows_user_namespaces(&setting),
            receive_buffer: probe::receive_buffer().ok(),
            rmem_max: setting("net/core/rmem_max").parse().ok(),
        }
    }
}

/// Finds `aes` among the flags (x86-64) or features (aarch64) of the first core.
fn has_aes(cpuinfo: &str) -> Option<bool> {
    let is_list = |line: &&str| line.starts_with("flags") || line.starts_with("Features");
    let list = cpuinfo.lines().find(is_list)?;
    Some(list.split_whitespace().any(|flag| flag == "aes"))
}

/// Whether all users are mapped to themselves.
fn is_whole(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn allows_user_namespaces(setting: &impl Fn(&str) -> String) -> bool {
    setting("user/max_user_namespaces") != "0"
        && setting("kernel/unprivileged_userns_clone") != "0"
        && setting("kernel/apparmor_restrict_unprivileged_userns") != "1"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_by_set() {
        let status = "CapPrm:\t0\nCapEff:\t0000000000002000\nCapBnd:\t0000008000003000\n";
        let none = Capabilities::default();
        assert_eq!(Capabilities::read(status, "CapEff"), Capabilities { net_raw: true, ..none });
        let all = Capabilities { net_raw: true, net_admin: true, bpf: true };
        assert_eq!(Capabilities::read(status, "CapBnd"), all);
        assert_eq!(Capabilities::read("", "CapEff"), none);
    }

    #[test]
    fn aes_is_a_word_of_its_own() {
        assert_eq!(has_aes("flags\t\t: fpu aes sse\n"), Some(true));
        assert_eq!(has_aes("flags\t\t: fpu vaes sse\n"), Some(false));
        assert_eq!(has_aes("Features\t: fp asimd aes\n"), Some(true));
        assert_eq!(has_aes("processor: 0\n"), None);
    }

    #[test]
    fn each_setting_can_forbid_user_namespaces() {
        let with = |name: &'static str, value: &'static str| {
            move |asked: &str| if asked == name { value.to_owned() } else { String::new() }
        };
        assert!(allows_user_namespaces(&with("", "")));
        assert!(!allows_user_namespaces(&with("user/max_user_namespaces", "0")));
        assert!(!allows_user_namespaces(&with("kernel/unprivileged_userns_clone", "0")));
        let apparmor = "kernel/apparmor_restrict_unprivileged_userns";
        assert!(!allows_user_namespaces(&with(apparmor, "1")));
    }

    #[test]
    fn the_machines_own_users_are_whole() {
        assert!(is_whole("         0          0 4294967295\n"));
        assert!(!is_whole("         0       1000          1\n"));
    }
}
