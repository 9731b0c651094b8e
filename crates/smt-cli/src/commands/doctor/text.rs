//! The report for people, in lines of at most 80 columns.

use smt::datapath::auto::{Choice, Usability};
use smt::datapath::probe::{Access, DeviceFacts, RECEIVE_BUFFER, Towards};

use super::{Report, is_best, mac};

/// Columns of a line.
const WIDTH: usize = 80;
/// Where texts begin behind their labels.
const INDENT: usize = 18;

/// The whole report.
pub(super) fn lines(report: &Report) -> Vec<String> {
    let mut out = Lines(Vec::new());
    host(report, &mut out);
    for (device, choice) in &report.devices {
        out.0.push(String::new());
        describe(device, choice, &mut out);
    }
    if let Some((to, way)) = &report.to {
        out.0.push(String::new());
        out.0.push(format!("Way to {to}"));
        route(report, way, &mut out);
    }
    if !report.advice.is_empty() {
        out.0.push(String::new());
        out.0.push("What would help".to_owned());
    }
    for advice in &report.advice {
        out.item(&advice.about, &advice.text);
        if let Some(command) = &advice.command {
            out.command(command);
        }
    }
    out.0.push(String::new());
    out.0.push(format!("--datapath auto for {}", report.subject()));
    verdicts(&report.choice, true, &mut out);
    out.0
}

fn host(report: &Report, out: &mut Lines) {
    let machine = &report.machine;
    out.0.push("Host".to_owned());
    let cores = if machine.cores == 1 { "1 core" } else { &format!("{} cores", machine.cores) };
    let aes = match machine.aes {
        Some(true) => "AES in hardware",
        Some(false) => "no AES in hardware",
        None => "AES unknown",
    };
    out.item("machine", &format!("Linux {}, {cores} for this process, {aes}", machine.kernel));
    let held = machine.capabilities;
    let mut text = format!(
        "CAP_NET_RAW {}, CAP_NET_ADMIN {}, CAP_BPF {}",
        yes(held.net_raw),
        yes(held.net_admin),
        yes(held.bpf)
    );
    if !machine.is_initial_user_namespace {
        text += "; of a user namespace, not of the machine";
    }
    out.item("privileges", &text);
    let may = if machine.user_namespaces { "for everybody" } else { "for root alone" };
    out.item("user namespaces", may);
    let raw = match report.host.raw {
        Access::Granted => "raw sockets open; whether firewalls let it pass, only smt ping tells",
        Access::Denied => "raw sockets are refused: CAP_NET_RAW is missing",
        Access::Missing => "the kernel has no raw sockets",
    };
    out.item(&format!("protocol {}", report.protocol), raw);
    let kb = |bytes: Option<usize>| bytes.map_or("?".to_owned(), |b| (b / 1024).to_string());
    let granted = machine.receive_buffer.map(|bytes| bytes / 2);
    out.item(
        "receive buffer",
        &format!(
            "{} KB granted of {} KB asked for (net.core.rmem_max: {} KB)",
            kb(granted),
            RECEIVE_BUFFER / 1024,
            kb(machine.rmem_max)
        ),
    );
    let range = |ports: &std::ops::Range<u16>| match ports.len() {
        1 => ports.start.to_string(),
        _ => format!("{}-{}", ports.start, ports.end - 1),
    };
    let ports: Vec<String> = report.ports.iter().map(range).collect();
    let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
    out.item("ports held", &ports);
}

fn describe(device: &DeviceFacts, choice: &Choice, out: &mut Lines) {
    let driver = device.driver.as_ref().map_or(String::new(), |driver| format!(" ({driver})"));
    let state = if device.is_up { "up" } else { "down" };
    out.0.push(format!("Device {}{driver}, {state}", device.name));
    let addresses: Vec<String> = device.addresses.iter().map(ToString::to_string).collect();
    let addresses = if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") };
    out.item("addresses", &addresses);
    let program = device.xdp_program.map_or("no".to_owned(), |id| id.to_string());
    out.item(
        "packets",
        &format!("MTU {}, receive queues {}, XDP program {program}", device.mtu, device.queues),
    );
    if !device.is_ethernet {
        out.item("TSO", "not an Ethernet device");
        return;
    }
    let [v4, v6] = device.tcp_segmentation;
    out.item(
        "TSO",
        &format!(
            "tx-tcp-segmentation {}, tx-tcp6-segmentation {}, tx-gso-robust {}",
            on(v4),
            on(v6),
            on(device.gso_robust)
        ),
    );
    verdicts(choice, false, out);
}

fn route(report: &Report, way: &Towards, out: &mut Lines) {
    let device = report.device_name(way).unwrap_or("none: they stay in this host");
    out.item("device", device);
    if let Some(gateway) = way.gateway {
        out.item("router", &gateway.to_string());
    }
    if let Some(src) = way.src {
        out.item("from", &src.to_string());
    }
    if way.device.is_some() {
        let neighbour = way.neighbour.map_or("not known yet".to_owned(), mac);
        out.item("neighbour", &neighbour);
    }
    out.item("path MTU", &way.mtu.to_string());
}

/// What can be done with each datapath; an arrow points at the one that auto takes.
fn verdicts(choice: &Choice, in_full: bool, out: &mut Lines) {
    for verdict in &choice.verdicts {
        let arrow = if is_best(choice, verdict.kind) { "> " } else { "" };
        let text = match &verdict.usability {
            Usability::Yes => format!("yes: {}", verdict.remark),
            Usability::OnRequest => format!("by name only: {}", verdict.remark),
            Usability::No(obstacle) if in_full => format!("no: {obstacle} ({})", verdict.remark),
            Usability::No(obstacle) => format!("no: {obstacle}"),
        };
        out.item(&format!("{arrow}{}", verdict.kind.name()), &text);
    }
}

fn yes(held: bool) -> &'static str {
    if held { "yes" } else { "no" }
}

fn on(active: bool) -> &'static str {
    if active { "on" } else { "off" }
}

/// Lines said so far.
struct Lines(Vec<String>);

impl Lines {
    /// A label, and a text beside it that is broken between words.
    fn item(&mut self, label: &str, text: &str) {
        let mut line = format!("  {label:<width$}", width = INDENT - 3);
        for word in text.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.0.push(line);
                line = " ".repeat(INDENT - 1);
            }
            line.push(' ');
            line.push_str(word);
        }
        self.0.push(line);
    }

    /// A command, so that it can be copied: broken as shells take it.
    fn command(&mut self, command: &str) {
        let mut line = "     ".to_owned();
        for word in command.split_whitespace() {
            // Room for a blank and a backslash behind.
            let is_first = line.trim().is_empty();
            if !is_first && line.chars().count() + 1 + word.chars().count() > WIDTH - 2 {
                self.0.push(format!("{line} \\"));
                line = "        ".to_owned();
            }
            line.push(' ');
            line.push_str(word);
        }
        self.0.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_broken() {
        let mut out = Lines(Vec::new());
        out.item("label", &"word ".repeat(60));
        out.command(&format!("sudo setcap cap_net_raw+ep /{}", "x".repeat(60)));
        assert!(out.0.len() > 4);
        assert!(out.0.iter().all(|line| line.chars().count() <= WIDTH), "{:?}", out.0);
        assert!(out.0.iter().any(|line| line.ends_with(" \\")));
        assert_eq!(out.0[0].find("word"), Some(INDENT), "{}", out.0[0]);
    }
}
