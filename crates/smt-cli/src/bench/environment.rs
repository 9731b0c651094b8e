//! What a run depends on beside the code measured: machine, kernel, libraries, links.

use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use smt::DatapathKind;
use smt::datapath::{auto, probe};

use super::ground::Credentials;
use super::peers::Transport;
use super::place::{Link, LostBy, Place, Scene};
use super::smt::FIRST_PROTOCOL;
use crate::cores;

/// Versions that this program was built with.
const LOCK: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock"));
/// Libraries of which the version is told.
const LIBRARIES: [&str; 9] = [
    "rustls",
    "aws-lc-rs",
    "aws-lc-sys",
    "quinn",
    "s2n-quic",
    "tonic",
    "openssl",
    "tokio",
    "hdrhistogram",
];

/// What there is to know of this machine and of the links, and the command that was given.
pub fn describe(credentials: &Arc<Credentials>, links: &[Link], transports: &[Transport]) -> Value {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let of_cpu = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(": ").nth(1)).map(str::to_owned)
    };
    let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    let governor = Some(governor.trim()).filter(|governor| !governor.is_empty());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let links: Map<String, Value> = links
        .iter()
        .filter(|link| !matches!(link, Link::Remote(_)))
        .map(|&link| (link.name().to_owned(), describe_link(credentials, link)))
        .collect();
    let peers: Map<String, Value> = transports
        .iter()
        .filter_map(|who| Some((who.name(), who.peer().version()?.into())))
        .collect();
    json!({
        "unix_seconds": now.as_secs(),
        "command": command(),
        "debug_build": cfg!(debug_assertions),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "architecture": std::env::consts::ARCH,
        "cpu": of_cpu("model name").or_else(|| of_cpu("CPU part")),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "cores_allowed": cores::allowed().unwrap_or_default().len(),
        "governor": governor,
        "hypervisor": cpuinfo.contains(" hypervisor"),
        "memory_kb": memory_kb(&read("/proc/meminfo")),
        "smt": env!("CARGO_PKG_VERSION"),
        "libraries": versions(LOCK),
        "peers": peers,
        "loss": LostBy::here().name(),
        "links": links,
    })
}

/// The command as it was given, without the path of the program.
pub fn command() -> String {
    let arguments = std::env::args().skip(1);
    std::iter::once("smt".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn describe_link(credentials: &Arc<Credentials>, link: Link) -> Value {
    let looked = Place::new(credentials, link, Scene::PLAIN).and_then(|place| {
        let bind = place.site(crate::baseline::Wait::Block).client;
        place.as_client(|| Ok(look(bind)))
    });
    looked.unwrap_or_else(|error| json!({ "unknown": error.explain() }))
}

/// What datapaths find on the host that this is called on.
fn look(bind: IpAddr) -> Value {
    let host = match probe::Host::probe(FIRST_PROTOCOL) {
        Ok(host) => host,
        Err(error) => return json!({ "unknown": error.to_string() }),
    };
    let choice = auto::choose(&host.facts(bind, true));
    let datapaths = choice.verdicts.iter().map(|verdict| {
        json!({ "datapath": name(verdict.kind), "usable": format!("{:?}", verdict.usability) })
    });
    let device = host.devices.iter().find(|device| device.addresses.contains(&bind));
    json!({
        "chosen": name(choice.best()),
        "datapaths": datapaths.collect::<Vec<_>>(),
        "device": device.map(|device| json!({
            "driver": device.driver, "mtu": device.mtu, "queues": device.queues,
            "tcp_segmentation": device.tcp_segmentation, "gso_robust": device.gso_robust,
            "segment_limit": device.segment_limit,
        })),
    })
}

fn name(kind: DatapathKind) -> String {
    format!("{kind:?}").to_lowercase()
}

fn memory_kb(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The versions of libraries in the text of a lock file.
fn versions(lock: &str) -> Map<String, Value> {
    let quoted = |line: &str, key: &str| {
        Some(line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')?.to_owned())
    };
    let mut versions = Map::new();
    let mut name = None;
    for line in lock.lines() {
        if let Some(new) = quoted(line, "name") {
            name = Some(new);
        } else if let (Some(known), Some(version)) = (&name, quoted(line, "version")) {
            if LIBRARIES.contains(&known.as_str()) {
                versions.insert(known.clone(), version.into());
            }
            name = None;
        }
    }
    versions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let text = "[[package]]\nname = \"rustls\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"x\"\nversion = \"9\"\n";
        assert_eq!(Value::from(versions(text)), json!({ "rustls": "1.2.3" }));
        assert!(
            versions(LOCK)["rustls"].as_str().is_some_and(|version| version.starts_with("0.23"))
        );
    }

    #[test]
    fn memory_is_read() {
        assert_eq!(memory_kb("MemFree: 1 kB\nMemTotal:       24 kB\n"), Some(24));
        assert_eq!(memory_kb(""), None);
    }
}
