//! `smt doctor`: which datapaths work here, which is best, and what would make it faster.

mod advice;
mod machine;
mod text;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use clap::Args;
use serde_json::{Value, json};
use smt::DatapathKind;
use smt::datapath::auto::{self, Choice, Usability};
use smt::datapath::ports;
use smt::datapath::probe::{self, Access, DeviceFacts, Host, Towards};

use self::advice::Advice;
use self::machine::Machine;
use super::Error;
use crate::output::Printer;

const ABOUT: &str = "\
Tell which datapaths work on this host, and what would make SMT faster

Looks at the kernel, this process's privileges, network devices and limits, says what each datapath could do with \
each device, which one --datapath auto takes and why, and for whatever is in the way or slower than need be, the \
command that changes it. It changes nothing itself and sends no packet. Firewalls are beyond it: whether they let \
the protocol through, `smt ping` tells.";

const EXAMPLES: &str = "\
Examples:
  This host, as a server or client at any of its addresses:
    smt doctor

  The way to a peer: route, neighbour, path MTU, and the device's datapaths:
    smt doctor --to 10.0.0.2

  For programs:
    smt doctor --json

Exit status: 0 if a native datapath works (raw, packet or xdp), 1 if only udp does, or if there is no way to --to; 2 \
for wrong usage.

JSON events: host {kernel, cores, aes, capabilities {net_raw, net_admin, bpf}, user_namespaces, protocol, raw, packet, \
xdp, receive_buffer, receive_buffer_wanted, rmem_max, ports}; device {name, driver, up, ethernet, mtu, addresses, queues, \
tx_tcp_segmentation, tx_gso_robust, segment_bytes, xdp_program, datapaths, best}; route {to, device, gateway, from, \
neighbour, mtu}; advice {about, text, command}; choice {for, allow_xdp, datapaths, best}; error {exit_status, text}. Each \
of datapaths: {datapath, usable, on_request, reason, remark}.";

/// The arguments of `smt doctor`.
#[derive(Debug, Args)]
#[command(
    about = "Tell which datapaths work on this host, and what would make SMT faster",
    long_about = ABOUT,
    after_help = EXAMPLES
)]
pub struct Arguments {
    /// Only what concerns the way to this peer
    #[arg(long, value_name = "ADDRESS", conflicts_with = "bind")]
    to: Option<IpAddr>,
    /// The address that --datapath auto would be bound to
    #[arg(long, value_name = "ADDRESS", default_value_t = Ipv4Addr::UNSPECIFIED.into())]
    bind: IpAddr,
    /// IP protocol number of native packets
    #[arg(long, value_name = "1..255", default_value_t = 253, value_parser = clap::value_parser!(u8).range(1..))]
    protocol: u8,
    /// Let the choice be XDP, as programs can that use the library
    #[arg(long)]
    allow_xdp: bool,
    /// One JSON object per line on standard output, for programs
    #[arg(long)]
    pub json: bool,
}

/// All that there is to tell.
struct Report {
    machine: Machine,
    host: Host,
    protocol: u8,
    /// What was asked about.
    to: Option<(IpAddr, Towards)>,
    bind: IpAddr,
    allow_xdp: bool,
    /// Devices that it concerns, and what each datapath could do with them.
    devices: Vec<(DeviceFacts, Choice)>,
    choice: Choice,
    /// SMT ports that processes own.
    ports: Vec<Range<u16>>,
    advice: Vec<Advice>,
}

/// Looks, and tells.
///
/// # Errors
/// Only UDP works here, or there is no route to the peer.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let printer = Printer::new(arguments.json);
    let report = Report::new(arguments)?;
    if arguments.json {
        for object in report.objects() {
            printer.object(&object)?;
        }
    } else {
        for line in text::lines(&report) {
            println_or_stop(&printer, &line)?;
        }
    }
    if report.choice.has_native() {
        return Ok(());
    }
    Err(Error::Failed("no native datapath works here, only udp".to_owned()))
}

/// Blank lines are said, too.
fn println_or_stop(printer: &Printer, line: &str) -> Result<(), Error> {
    let line = if line.is_empty() { " " } else { line };
    Ok(printer.text(line)?)
}

impl Report {
    fn new(arguments: &Arguments) -> Result<Report, Error> {
        let Arguments { to, bind, protocol, allow_xdp, .. } = *arguments;
        let host = Host::probe(protocol).map_err(Error::io("cannot look at this host"))?;
        let to = match to {
            Some(to) => {
                let what = format!("no way to {to} (`ip route get {to}`)");
                Some((to, probe::towards(to).map_err(Error::io(what))?))
            }
            None => None,
        };
        let facts = match &to {
            Some((to, way)) => host.facts_of(way.device, to.is_ipv6(), allow_xdp),
            None => host.facts(bind, allow_xdp),
        };
        let concerned = |device: &&DeviceFacts| match &to {
            Some((_, way)) => way.device == Some(device.index),
            None => true,
        };
        let of = |device: &DeviceFacts| {
            let is_ipv6 = to.as_ref().map_or(bind.is_ipv6(), |(to, _)| to.is_ipv6());
            auto::choose(&host.facts_of(Some(device.index), is_ipv6, allow_xdp))
        };
        let devices: Vec<_> =
            host.devices.iter().filter(concerned).map(|d| (d.clone(), of(d))).collect();
        let machine = Machine::look();
        let choice = auto::choose(&facts);
        let advice = advice::all(&machine, &host, &facts, to.as_ref().map(|(_, way)| way));
        let ports = ports::owned(protocol).unwrap_or_default();
        let report =
            Report { machine, host, protocol, to, bind, allow_xdp, devices, choice, ports, advice };
        Ok(report)
    }

    /// What the choice is for.
    fn subject(&self) -> String {
        match &self.to {
            Some((to, _)) => format!("packets to {to}"),
            None if self.bind == IpAddr::from(Ipv4Addr::UNSPECIFIED) => {
                "any IPv4 address (0.0.0.0)".to_owned()
            }
            None if self.bind == IpAddr::from(Ipv6Addr::UNSPECIFIED) => {
                "any IPv6 address (::)".to_owned()
            }
            None => self.bind.to_string(),
        }
    }

    fn objects(&self) -> Vec<Value> {
        let Machine { kernel, cores, aes, capabilities, user_namespaces, .. } = &self.machine;
        let mut all = vec![json!({
            "event": "host", "kernel": kernel, "cores": cores, "aes": aes,
            "capabilities": {
                "net_raw": capabilities.net_raw,
                "net_admin": capabilities.net_admin,
                "bpf": capabilities.bpf,
            },
            "user_namespaces": user_namespaces,
            "protocol": self.protocol,
            "raw": access_name(self.host.raw),
            "packet": access_name(self.host.packet),
            "xdp": access_name(self.host.xdp),
            "receive_buffer": self.machine.receive_buffer,
            "receive_buffer_wanted": probe::RECEIVE_BUFFER,
            "rmem_max": self.machine.rmem_max,
            "ports": self.ports.iter().map(|ports| [ports.start, ports.end - 1]).collect::<Vec<_>>(),
        })];
        all.extend(self.devices.iter().map(|(device, choice)| {
            json!({
                "event": "device", "name": device.name, "driver": device.driver,
                "up": device.is_up, "ethernet": device.is_ethernet, "mtu": device.mtu,
                "addresses": device.addresses, "queues": device.queues,
                "tx_tcp_segmentation": device.tcp_segmentation,
                "tx_gso_robust": device.gso_robust,
                "segment_bytes": device.segment_limit, "xdp_program": device.xdp_program,
                "datapaths": datapaths(choice), "best": choice.best().name(),
            })
        }));
        if let Some((to, way)) = &self.to {
            all.push(json!({
                "event": "route", "to": to, "device": self.device_name(way),
                "gateway": way.gateway, "from": way.src, "neighbour": way.neighbour.map(mac),
                "mtu": way.mtu,
            }));
        }
        all.extend(self.advice.iter().map(|advice| {
            json!({
                "event": "advice", "about": advice.about, "text": advice.text,
                "command": advice.command,
            })
        }));
        let subject = self.to.as_ref().map_or(self.bind, |(to, _)| *to);
        all.push(json!({
            "event": "choice", "for": subject, "allow_xdp": self.allow_xdp,
            "datapaths": datapaths(&self.choice), "best": self.choice.best().name(),
        }));
        all
    }

    fn device_name(&self, way: &Towards) -> Option<&str> {
        let device = self.host.devices.iter().find(|device| Some(device.index) == way.device);
        device.map(|device| device.name.as_str())
    }
}

fn datapaths(choice: &Choice) -> Value {
    let one = |verdict: &auto::Verdict| {
        let reason = match &verdict.usability {
            Usability::No(obstacle) => Some(obstacle.to_string()),
            Usability::Yes | Usability::OnRequest => None,
        };
        json!({
            "datapath": verdict.kind.name(), "usable": reason.is_none(),
            "on_request": verdict.usability == Usability::OnRequest,
            "reason": reason, "remark": verdict.remark,
        })
    };
    choice.verdicts.iter().map(one).collect()
}

fn access_name(access: Access) -> &'static str {
    match access {
        Access::Granted => "granted",
        Access::Denied => "denied",
        Access::Missing => "missing",
    }
}

/// An Ethernet address as people write it.
fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

/// Whether it is the one that auto takes.
fn is_best(choice: &Choice, kind: DatapathKind) -> bool {
    choice.best() == kind
}
