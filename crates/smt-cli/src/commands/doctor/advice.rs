//! What would make SMT work or be faster here, and the command that does it.

use smt::datapath::auto::Facts;
use smt::datapath::probe::{Access, DeviceFacts, Host, RECEIVE_BUFFER, Towards};

use super::machine::Machine;

/// One thing to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advice {
    /// What it is about, in a word or two.
    pub(super) about: String,
    /// What is the matter, in full sentences.
    pub(super) text: String,
    /// What to run; `None` where no command helps.
    pub(super) command: Option<String>,
}

/// MTU of Ethernet unless it is set otherwise.
const USUAL_MTU: usize = 1500;

/// Everything there is to advise, what is in the way first.
pub(super) fn all(
    machine: &Machine,
    host: &Host,
    facts: &Facts,
    way: Option<&Towards>,
) -> Vec<Advice> {
    let mut all = Vec::new();
    let mut say = |about: &str, text: String, command: Option<String>| {
        all.push(Advice { about: about.to_owned(), text, command });
    };
    privileges(machine, host, &mut say);
    if host.packet == Access::Missing {
        say(
            "packet sockets",
            "The kernel has none, or their module is not loaded.".to_owned(),
            Some("sudo modprobe af_packet".to_owned()),
        );
    }
    if let Some(got) = machine.receive_buffer.filter(|got| *got < 2 * RECEIVE_BUFFER) {
        say(
            "receive buffer",
            format!(
                "A socket gets {} KB of the {} KB asked for: bursts are lost sooner.",
                got / 2048,
                RECEIVE_BUFFER / 1024
            ),
            Some(format!("sudo sysctl -w net.core.rmem_max={RECEIVE_BUFFER}")),
        );
    }
    for found in &facts.devices {
        device(found, usize::from(facts.is_ipv6), &mut say);
    }
    if let Some(Towards { device: Some(_), neighbour: None, .. }) = way {
        say(
            "neighbour",
            "The kernel does not have the Ethernet address of the next hop. It asks for it with \
             the first packet."
                .to_owned(),
            None,
        );
    }
    if machine.aes == Some(false) {
        say(
            "AES",
            "The processor has no instructions for it: ChaCha20 is quicker. At either end:"
                .to_owned(),
            Some("smt serve --cipher chacha20-poly1305 ...".to_owned()),
        );
    }
    if machine.cores == 1 {
        say(
            "cores",
            "With one core, waiting by spinning takes the time that the peer or the kernel needs:"
                .to_owned(),
            Some("smt serve --wait block ...".to_owned()),
        );
    }
    all
}

type Say<'a> = dyn FnMut(&str, String, Option<String>) + 'a;

fn privileges(machine: &Machine, host: &Host, say: &mut Say<'_>) {
    let program = std::env::current_exe()
        .map_or_else(|_| "<program>".to_owned(), |path| path.display().to_string());
    if host.raw == Access::Denied {
        if machine.bounds.net_raw {
            say(
                "CAP_NET_RAW",
                "Native packets need it: raw and packet.".to_owned(),
                Some(format!("sudo setcap cap_net_raw+ep {program}")),
            );
        } else {
            say(
                "CAP_NET_RAW",
                "Native packets need it, and this process can never be granted it: a container or \
                 a service manager has taken it away. For Docker and Podman:"
                    .to_owned(),
                Some("docker run --cap-add NET_RAW ...".to_owned()),
            );
        }
        if machine.user_namespaces {
            say(
                "to try it",
                "A user namespace needs no privilege, and has nothing but its own loopback:"
                    .to_owned(),
                Some(format!("{program} demo")),
            );
        } else {
            say(
                "user namespaces",
                "Ordinary users may not make any, which smt demo without privileges needs."
                    .to_owned(),
                Some("sudo sysctl -w user.max_user_namespaces=10000".to_owned()),
            );
        }
    }
    if host.xdp == Access::Denied {
        let (text, command) = if machine.is_initial_user_namespace {
            (
                "Only the xdp datapath needs CAP_BPF and CAP_NET_ADMIN.".to_owned(),
                Some(format!("sudo setcap cap_bpf,cap_net_admin,cap_net_raw+ep {program}")),
            )
        } else {
            let text = "The xdp datapath needs privileges on the machine itself; this is a user \
                        namespace.";
            (text.to_owned(), None)
        };
        say("XDP", text, command);
    }
}

fn device(device: &DeviceFacts, version: usize, say: &mut Say<'_>) {
    let name = &device.name;
    if !device.is_ethernet {
        return;
    }
    if !device.is_up {
        say(
            name,
            format!("{name} is switched off."),
            Some(format!("sudo ip link set dev {name} up")),
        );
    }
    if let Some(program) = device.xdp_program {
        say(
            name,
            format!(
                "XDP program {program} is attached to {name}: xdp cannot be used, and TCP on it may \
                 be slower. It goes with the process that holds it; or, if nobody needs it:"
            ),
            Some(format!("sudo ip link set dev {name} xdp off")),
        );
    }
    if device.segment_limit[version] > 0 {
        return;
    }
    if device.gso_robust {
        say(
            name,
            format!(
                "{name} could cut large messages (TSO): it takes segments of user space, but \
                 segmentation or checksums are switched off."
            ),
            Some(format!("sudo ethtool -K {name} tx on sg on tso on")),
        );
    } else {
        say(
            name,
            format!(
                "{name} takes no segments of user space (tx-gso-robust is off and fixed by its \
                 driver): a large message costs a packet per MTU."
            ),
            None,
        );
        if device.mtu <= USUAL_MTU {
            say(
                name,
                "If peers and switches can, larger packets make large messages faster:".to_owned(),
                Some(format!("sudo ip link set dev {name} mtu 9000")),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::Capabilities;
    use super::*;

    fn machine() -> Machine {
        let all = Capabilities { net_raw: true, net_admin: true, bpf: true };
        Machine {
            kernel: "6.18".to_owned(),
            cores: 2,
            aes: Some(true),
            capabilities: all,
            bounds: all,
            is_initial_user_namespace: true,
            user_namespaces: true,
            receive_buffer: Some(2 * RECEIVE_BUFFER),
            rmem_max: Some(212_992),
        }
    }

    fn host(raw: Access, xdp: Access, devices: Vec<DeviceFacts>) -> Host {
        Host { raw, packet: raw, xdp, devices }
    }

    fn device(segment: usize, gso_robust: bool) -> DeviceFacts {
        DeviceFacts {
            name: "eth0".to_owned(),
            index: 2,
            mtu: 9000,
            is_ethernet: true,
            is_up: true,
            segment_limit: [segment; 2],
            gso_robust,
            ..DeviceFacts::default()
        }
    }

    fn commands(machine: &Machine, host: &Host) -> Vec<String> {
        let facts = host.facts_of(Some(2), false, false);
        all(machine, host, &facts, None).into_iter().filter_map(|advice| advice.command).collect()
    }

    #[test]
    fn a_host_at_its_best_needs_nothing() {
        let host = host(Access::Granted, Access::Granted, vec![device(65_501, true)]);
        let facts = host.facts_of(Some(2), false, false);
        assert_eq!(all(&machine(), &host, &facts, None), []);
    }

    #[test]
    fn missing_privileges_are_granted_by_setcap() {
        let host = host(Access::Denied, Access::Denied, vec![device(65_501, true)]);
        let told = commands(&machine(), &host);
        assert!(told[0].starts_with("sudo setcap cap_net_raw+ep /"), "{told:?}");
        assert!(told[1].ends_with(" demo"), "{told:?}");
        assert!(told[2].starts_with("sudo setcap cap_bpf,cap_net_admin,cap_net_raw+ep /"));
        let bounded = Machine { bounds: Capabilities::default(), ..machine() };
        assert!(commands(&bounded, &host)[0].contains("--cap-add NET_RAW"));
        let no_namespaces = Machine { user_namespaces: false, ..machine() };
        assert!(commands(&no_namespaces, &host)[1].contains("user.max_user_namespaces"));
        let inside = Machine { is_initial_user_namespace: false, ..machine() };
        assert_eq!(commands(&inside, &host).len(), 2);
    }

    #[test]
    fn devices_are_switched_by_their_tools() {
        let told =
            |device| commands(&machine(), &host(Access::Granted, Access::Granted, vec![device]));
        assert_eq!(told(device(0, true)), ["sudo ethtool -K eth0 tx on sg on tso on"]);
        assert!(told(device(0, false)).is_empty());
        let usual = DeviceFacts { mtu: 1500, ..device(0, false) };
        assert_eq!(told(usual), ["sudo ip link set dev eth0 mtu 9000"]);
        let taken = DeviceFacts { xdp_program: Some(7), ..device(65_501, true) };
        assert_eq!(told(taken), ["sudo ip link set dev eth0 xdp off"]);
        let down = DeviceFacts { is_up: false, ..device(65_501, true) };
        assert_eq!(told(down), ["sudo ip link set dev eth0 up"]);
    }

    #[test]
    fn limits_and_processors_are_told() {
        let host = host(Access::Granted, Access::Granted, Vec::new());
        let small = Machine { receive_buffer: Some(425_984), ..machine() };
        assert_eq!(commands(&small, &host), ["sudo sysctl -w net.core.rmem_max=8388608"]);
        let weak = Machine { aes: Some(false), cores: 1, ..machine() };
        let told = commands(&weak, &host);
        assert!(told[0].contains("chacha20") && told[1].contains("--wait block"), "{told:?}");
    }
}
