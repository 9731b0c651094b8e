//! Endpoints at both ends of a link, and packets between them.

use std::net::{IpAddr, SocketAddr};
use std::sync::RwLock;
use std::time::{Duration, Instant};

use smt_datapath::{Datapath, Kind, OpenOptions, Opened, TxMeta, XdpHook, XdpOptions, open};
use smt_testbed::{Namespace, Pair, Trial, test};

pub(crate) const PORT: u16 = 7000;
pub(crate) const HOOKS: [XdpHook; 2] = [XdpHook::Driver, XdpHook::Generic];
/// Nothing here takes this long; waiting for less would make slow machines fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Held by tests that start processes: until it runs its program, a new process has the descriptors
/// of all tests, and so their ports and devices.
pub(crate) static PROCESSES: RwLock<()> = RwLock::new(());

/// A test that starts no processes.
pub(crate) fn beside(name: &str, body: impl FnOnce() + Send + 'static) -> Trial {
    test(name, || {
        let _guard = PROCESSES.read();
        body();
    })
}

/// A test that starts processes.
pub(crate) fn alone(name: &str, body: impl FnOnce() + Send + 'static) -> Trial {
    test(name, || {
        let _guard = PROCESSES.write();
        body();
    })
}

pub(crate) fn options(bind: IpAddr, hook: XdpHook) -> OpenOptions {
    let xdp = XdpOptions { hook, ..XdpOptions::default() };
    OpenOptions { kind: Kind::Xdp, bind, xdp, ..OpenOptions::default() }
}

pub(crate) fn client(host: &Namespace, bind: IpAddr, hook: XdpHook) -> Opened {
    host.run(|| open(options(bind, hook)).unwrap()).unwrap()
}

pub(crate) fn server(host: &Namespace, bind: IpAddr, hook: XdpHook) -> Opened {
    let options = OpenOptions { listen: Some(PORT), client: false, ..options(bind, hook) };
    host.run(|| open(options).unwrap()).unwrap()
}

/// A server in host `b` and a client in host `a` that know of each other over IPv4, and the server's
/// address.
pub(crate) fn introduced(pair: &Pair, hook: XdpHook) -> (Opened, Opened, IpAddr) {
    let (a, b) = addresses(pair)[0];
    let mut server = server(&pair.b, b, hook);
    let mut client = client(&pair.a, a, hook);
    introduce(&mut client, &mut server, b);
    (server, client, b)
}

pub(crate) fn addresses(pair: &Pair) -> [(IpAddr, IpAddr); 2] {
    [(pair.a_v4.into(), pair.b_v4.into()), (pair.a_v6.into(), pair.b_v6.into())]
}

/// A packet of `len` bytes with an SMT header's ports.
pub(crate) fn packet(from: u16, to: u16, len: usize, fill: u8) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|index| fill.wrapping_add(index as u8)).collect();
    packet[..2].copy_from_slice(&from.to_be_bytes());
    packet[2..4].copy_from_slice(&to.to_be_bytes());
    packet
}

pub(crate) fn queue(by: &mut dyn Datapath, dst: IpAddr, bytes: &[u8]) {
    by.frame().unwrap()[..bytes.len()].copy_from_slice(bytes);
    let dst = SocketAddr::new(dst, 0);
    by.commit(TxMeta { dst, src: None, len: bytes.len(), priority: 7, segment: None, lane: 0 });
}

pub(crate) fn send(by: &mut Opened, dst: IpAddr, bytes: &[u8]) {
    queue(by.datapath.as_mut(), dst, bytes);
    by.datapath.flush().unwrap();
}

/// Waits for `count` packets: who sent them, to which address of ours, and their bytes.
pub(crate) fn receive(by: &mut Opened, count: usize) -> Vec<(IpAddr, IpAddr, Vec<u8>)> {
    let (by, mut packets, start) = (by.datapath.as_mut(), Vec::new(), Instant::now());
    while packets.len() < count {
        assert!(
            start.elapsed() < PATIENCE,
            "{} of {count} packets: {:?}",
            packets.len(),
            by.stats()
        );
        by.wait(Some(Duration::from_millis(10))).unwrap();
        for index in 0..by.recv().unwrap() {
            let (meta, bytes) = by.packet(index);
            assert_eq!((meta.len, meta.src.port()), (bytes.len(), 0));
            packets.push((meta.src.ip(), meta.dst, bytes.to_vec()));
        }
    }
    packets
}

/// A packet there and one back.
pub(crate) fn round_trip(client: &mut Opened, server: &mut Opened, to: IpAddr, len: usize) {
    let from = client.client_ports.start;
    let sent = packet(from, PORT, len, 1);
    send(client, to, &sent);
    let (src, dst, received) = receive(server, 1).remove(0);
    assert!(received == sent && dst == to, "{len} bytes to {dst}");
    let answer = packet(PORT, from, len, 2);
    send(server, src, &answer);
    let (src, _, received) = receive(client, 1).remove(0);
    assert!(received == answer && src == to, "{len} bytes back from {src}");
}

/// The first packets to a host go by the stack, which gets to know it.
pub(crate) fn introduce(client: &mut Opened, server: &mut Opened, to: IpAddr) {
    (0..4).for_each(|_| round_trip(client, server, to, 64));
}

/// Packets that the stack of a host has received and sent.
pub(crate) fn stack_counters(host: &Namespace, is_ipv6: bool) -> (u64, u64) {
    let file = if is_ipv6 { "snmp6" } else { "snmp" };
    let read = || std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
    let text = host.run(read).unwrap();
    let number = |text: &str| text.trim().parse::<u64>().unwrap();
    if is_ipv6 {
        let of = |name| number(text.lines().find_map(|line| line.strip_prefix(name)).unwrap());
        return (of("Ip6InReceives"), of("Ip6OutRequests"));
    }
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let names: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let values: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let of = |name| number(values[names.iter().position(|n| *n == name).unwrap()]);
    (of("InReceives"), of("OutRequests"))
}
