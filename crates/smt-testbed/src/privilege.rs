//! Getting the rights to make network namespaces, as root or as anybody.

use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Bits of the capability set (linux/capability.h) that namespaces, raw sockets and AF_PACKET need.
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_NET_RAW: u64 = 1 << 13;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_BPF: u64 = 1 << 39;
const NEEDED: u64 = CAP_NET_ADMIN | CAP_NET_RAW | CAP_SYS_ADMIN;

/// Gives this process the right to make test hosts.
///
/// Does nothing when it has that right already (root). Otherwise the process moves into a user namespace of its
/// own in which it is root; files, processes and the rest of the machine look as before, and are accessed with
/// the user's own rights.
///
/// Call it first thing in `main`: the kernel refuses it to a process with several threads.
///
/// # Errors
///
/// The kernel does not let this user make user namespaces. The text names what forbids it and the remedy.
pub fn enter() -> io::Result<()> {
    if is_privileged() {
        return Ok(());
    }
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(|errno| explain("cannot make a user namespace", errno.into()))?;
    // Group 0 can be mapped by an ordinary user only after giving up setgroups(2).
    write_map("setgroups", "deny")
        .and_then(|()| write_map("uid_map", &format!("0 {uid} 1")))
        .and_then(|()| write_map("gid_map", &format!("0 {gid} 1")))
        .map_err(|error| explain("cannot become root in a user namespace", error))?;
    if !is_privileged() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        return Err(explain("root in a user namespace, but without its capabilities", denied));
    }
    Ok(())
}

/// Whether this process may make network namespaces and raw sockets inside them: it is root, or [`enter`]
/// succeeded.
pub fn is_privileged() -> bool {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| effective_capabilities(&status))
        .is_some_and(|held| held & NEEDED == NEEDED)
}

/// Whether this process may load BPF programs and attach them to devices, which no user namespace gives the right
/// to. Tests that need it run as root; elsewhere they say that they were not run.
pub fn may_use_bpf() -> bool {
    let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let is_whole = read("uid_map").split_whitespace().eq(["0", "0", "4294967295"]);
    let needed = CAP_BPF | CAP_NET_ADMIN;
    is_whole && effective_capabilities(&read("status")).is_some_and(|held| held & needed == needed)
}

/// The effective capability set in the text of a /proc/PID/status file.
fn effective_capabilities(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

fn write_map(file: &str, text: &str) -> io::Result<()> {
    fs::write(format!("/proc/self/{file}"), text)
}

/// Adds to a refusal of the kernel what most likely causes it on this machine, and the way out.
pub(crate) fn explain(what: &str, error: io::Error) -> io::Error {
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|value| value.trim().to_owned())
    };
    let remedy = remedy(&read, &error);
    io::Error::new(error.kind(), format!("{what}: {error}; {remedy}"))
}

/// Picks the remedy from the sysctls that restrict user namespaces; `read` gives a sysctl's value by its path.
fn remedy(read: &dyn Fn(&str) -> Option<String>, error: &io::Error) -> String {
    let is = |name: &str, value: &str| read(name).as_deref() == Some(value);
    if error.raw_os_error() == Some(nix::libc::EINVAL) {
        return "smt_testbed::enter must run before the process starts a second thread".to_owned();
    }
    let switch = if is("user/max_user_namespaces", "0") {
        "user namespaces are switched off: `sysctl user.max_user_namespaces=10000`"
    } else if is("user/max_net_namespaces", "0") {
        "network namespaces are switched off: `sysctl user.max_net_namespaces=10000`"
    } else if is("kernel/unprivileged_userns_clone", "0") {
        "user namespaces are for root only: `sysctl kernel.unprivileged_userns_clone=1`"
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor restricts user namespaces: `sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
    } else {
        "no sysctl forbids it, so a container's seccomp profile or security module may: for Docker and Podman, \
         `--cap-add SYS_ADMIN --cap-add NET_ADMIN` or `--security-opt seccomp=unconfined`"
    };
    format!("{switch}. Or run as root")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_status() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert_eq!(effective_capabilities(status), Some(0x1ff_ffff_ffff));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn the_remedy_names_the_switch_that_is_off() {
        let denied = io::Error::from_raw_os_error(nix::libc::EPERM);
        for name in [
            "user/max_user_namespaces",
            "user/max_net_namespaces",
            "kernel/unprivileged_userns_clone",
        ] {
            let read = |asked: &str| (asked == name).then(|| "0".to_owned());
            assert!(remedy(&read, &denied).contains(&name.replace('/', ".")));
        }
        let apparmor = |asked: &str| asked.contains("apparmor").then(|| "1".to_owned());
        assert!(remedy(&apparmor, &denied).contains("AppArmor"));
        assert!(remedy(&|_| None, &denied).contains("seccomp"));
    }

    #[test]
    fn a_second_thread_is_named_as_the_cause() {
        let invalid = io::Error::from_raw_os_error(nix::libc::EINVAL);
        assert!(remedy(&|_| None, &invalid).contains("thread"));
    }
}
