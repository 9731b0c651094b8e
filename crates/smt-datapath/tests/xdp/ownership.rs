//! Who may use a device, and what is left of those who did.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use smt_datapath::{Kind, OpenError, OpenOptions, XdpHook, open, open_shards};
use smt_testbed::{Namespace, PairOptions, Trial, pair};

use crate::bed::*;

/// Environment variables that turn this program into a process that opens a datapath at an address,
/// with the few capabilities of raw sockets if the second is set.
pub(crate) const HOLD: &str = "SMT_TEST_XDP_HOLD";
pub(crate) const UNPRIVILEGED: &str = "SMT_TEST_XDP_UNPRIVILEGED";
/// Another: the best datapath there is, opened anew with every line on standard input.
const BEST: &str = "SMT_TEST_XDP_BEST";
/// And how many shards there are, if not one.
const SHARDS: &str = "SMT_TEST_XDP_SHARDS";

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        alone("a_killed_process_leaves_nothing", a_killed_process_leaves_nothing),
        alone("a_second_process_has_the_next_best", a_second_process_has_the_next_best),
        alone("ports_have_one_owner_among_processes", ports_have_one_owner_among_processes),
        alone("missing_capabilities_are_told", missing_capabilities_are_told),
        beside("a_device_has_one_owner", a_device_has_one_owner),
        beside("loopback_is_no_device", loopback_is_no_device),
    ]
}

/// What this program does when it is told to be a process apart.
pub(crate) fn hold(bind: IpAddr) {
    if std::env::var_os(UNPRIVILEGED).is_some() {
        let only = CapabilitySet::NET_RAW;
        set_capabilities(
            None,
            CapabilitySets {
                effective: only,
                permitted: only,
                inheritable: CapabilitySet::empty(),
            },
        )
        .unwrap();
    }
    while std::env::var_os(BEST).is_some() {
        let kind = Kind::Auto { allow_xdp: true };
        let opened = open(OpenOptions { kind, ..options(bind, XdpHook::Auto) });
        match &opened {
            Ok(opened) => println!("{}", opened.datapath.caps().name),
            Err(error) => println!("{error}"),
        }
        if std::io::stdin().read_line(&mut String::new()).unwrap() == 0 {
            return;
        }
    }
    let shards = std::env::var(SHARDS).map_or(1, |shards| shards.parse().unwrap());
    match open_shards(OpenOptions { listen: Some(PORT), ..options(bind, XdpHook::Auto) }, shards) {
        Ok(_opened) => {
            println!("open");
            loop {
                std::thread::park();
            }
        }
        Err(error) => println!("{error}"),
    }
}

/// Starts a process that holds an XDP datapath; returns what it says.
fn holder(host: &Namespace, bind: IpAddr, unprivileged: bool) -> (Child, String) {
    holder_of(host, bind, unprivileged, 1)
}

fn holder_of(host: &Namespace, bind: IpAddr, unprivileged: bool, shards: u8) -> (Child, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(HOLD, bind.to_string()).env(SHARDS, shards.to_string()).stdout(Stdio::piped());
    if unprivileged {
        command.env(UNPRIVILEGED, "1");
    }
    let mut child = host.command(command).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().to_owned())
}

fn a_killed_process_leaves_nothing() {
    let pair = pair(PairOptions::default()).unwrap();
    let (a, b) = addresses(&pair)[0];
    let mut server = server(&pair.b, b, XdpHook::Auto);
    for (hook, shards) in HOOKS.into_iter().flat_map(|hook| [(hook, 1), (hook, 4)]) {
        let (mut child, said) = holder_of(&pair.a, a, false, shards);
        assert_eq!(said, "open");
        let taken = pair.a.run(|| open(options(a, hook)).err()).unwrap();
        assert!(matches!(taken, Some(OpenError::DeviceBusy { .. })), "{taken:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        let mut client = client(&pair.a, a, hook);
        introduce(&mut client, &mut server, b);
    }
}

/// While the first process has the device, and after it was killed.
fn a_second_process_has_the_next_best() {
    let pair = pair(PairOptions::default()).unwrap();
    let (a, b) = addresses(&pair)[0];
    let (mut first, said) = holder(&pair.a, a, false);
    assert_eq!(said, "open");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(HOLD, a.to_string()).env(BEST, "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut second = pair.a.command(command).unwrap();
    let mut ask = second.stdin.take().unwrap();
    let mut lines = BufReader::new(second.stdout.take().unwrap()).lines();
    let mut says = || lines.next().unwrap().unwrap();
    assert_eq!(says(), "packet");
    writeln!(ask).unwrap();
    assert_eq!(says(), "packet", "the first has it still");
    first.kill().unwrap();
    first.wait().unwrap();
    writeln!(ask).unwrap();
    assert_eq!(says(), "xdp-generic", "that is best on veth");
    // And the other way round: a third has what the second leaves.
    let third = pair.a.run(|| open(options(a, XdpHook::Auto)).err()).unwrap();
    assert!(matches!(third, Some(OpenError::DeviceBusy { .. })), "{third:?}");
    second.kill().unwrap();
    second.wait().unwrap();
    let mut server = server(&pair.b, b, XdpHook::Auto);
    introduce(&mut client(&pair.a, a, XdpHook::Auto), &mut server, b);
}

fn ports_have_one_owner_among_processes() {
    let pair = pair(PairOptions::default()).unwrap();
    let (a, _) = addresses(&pair)[0];
    let (mut child, said) = holder(&pair.a, a, false);
    assert_eq!(said, "open");
    let listen = |kind| {
        let options =
            OpenOptions { kind, listen: Some(PORT), client: false, ..options(a, XdpHook::Auto) };
        pair.a.run(|| open(options)).unwrap()
    };
    for kind in [Kind::Raw, Kind::Packet, Kind::Xdp, Kind::Auto { allow_xdp: true }] {
        let error = listen(kind).err().unwrap();
        assert!(matches!(error, OpenError::PortInUse(PORT)), "{kind:?}: {error:?}");
        assert!(error.to_string().contains("take another port"), "{error}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for kind in [Kind::Raw, Kind::Packet, Kind::Xdp, Kind::Auto { allow_xdp: true }] {
        listen(kind).unwrap();
    }
}

fn a_device_has_one_owner() {
    let pair = pair(PairOptions::default()).unwrap();
    let (a, b) = addresses(&pair)[0];
    for hook in HOOKS {
        let first = client(&pair.a, a, hook);
        for other in HOOKS {
            let error = pair.a.run(|| open(options(a, other)).err()).unwrap().unwrap();
            assert!(
                matches!(&error, OpenError::DeviceBusy { device } if *device == pair.a_name),
                "{error:?}"
            );
            let text = error.to_string();
            assert!(text.contains("ip link show smt-a") && text.contains("--datapath"), "{text}");
        }
        drop(first);
    }
    // Nothing is left of failed attempts, nor of ports.
    let mut server = server(&pair.b, b, XdpHook::Auto);
    introduce(&mut client(&pair.a, a, XdpHook::Auto), &mut server, b);
}

fn missing_capabilities_are_told() {
    let pair = pair(PairOptions::default()).unwrap();
    let (mut child, said) = holder(&pair.a, pair.a_v4.into(), true);
    assert!(said.contains("CAP_BPF") && said.contains("setcap"), "{said}");
    child.wait().unwrap();
}

fn loopback_is_no_device() {
    let host = smt_testbed::loopback().unwrap();
    for bind in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv4Addr::UNSPECIFIED.into()] {
        let error = host.run(|| open(options(bind, XdpHook::Auto)).err()).unwrap().unwrap();
        assert!(matches!(error, OpenError::NoDevice(address) if address == bind), "{error:?}");
    }
    let nobodys = IpAddr::from([192, 0, 2, 7]);
    let error = host.run(|| open(options(nobodys, XdpHook::Auto)).err()).unwrap().unwrap();
    assert!(matches!(error, OpenError::AddressNotAvailable(_)), "{error:?}");
}
