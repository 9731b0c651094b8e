//! The test hosts themselves: that they carry packets, at the MTU asked for, and hold threads and processes.

#![allow(clippy::unwrap_used)] // These are tests, though not #[test] functions.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::Ipv6DontFrag};
use smt_testbed::{Namespace, Pair, PairOptions, Wire, loopback, pair, test};

fn main() -> ExitCode {
    smt_testbed::main(vec![
        test("udp_crosses_the_pair", udp_crosses_the_pair),
        test("udp_crosses_a_bridge", || udp_crosses(Wire::Bridge)),
        test("udp_crosses_macvlan", || udp_crosses(Wire::Macvlan)),
        test("a_delaying_wire_delays_and_loses_nothing", a_delaying_wire_delays_and_loses_nothing),
        test("a_lossy_wire_loses_as_told", a_lossy_wire_loses_as_told),
        test("features_are_switched", features_are_switched),
        test("addresses_behind_a_host_are_answered", addresses_behind_a_host_are_answered),
        test("neighbours_can_be_left_to_discovery", neighbours_can_be_left_to_discovery),
        test("the_mtu_is_the_one_asked_for", the_mtu_is_the_one_asked_for),
        test("an_mtu_out_of_range_is_refused", an_mtu_out_of_range_is_refused),
        test("loopback_has_both_families", loopback_has_both_families),
        test("hosts_do_not_share_ports", hosts_do_not_share_ports),
        test("a_process_sees_its_host", a_process_sees_its_host),
        test("a_thread_moves_between_hosts", a_thread_moves_between_hosts),
        test("a_spawned_thread_is_inside", a_spawned_thread_is_inside),
    ])
}

fn udp_crosses_the_pair() {
    udp_crosses(Wire::Veth);
}

fn udp_crosses(wire: Wire) {
    let pair = pair(PairOptions { wire, ..PairOptions::default() }).unwrap();
    echo_both_families(&pair);
}

fn a_delaying_wire_delays_and_loses_nothing() {
    let one_way = Duration::from_millis(5);
    let pair = pair(PairOptions { wire: Wire::Delay(one_way), ..PairOptions::default() }).unwrap();
    let start = Instant::now();
    echo_both_families(&pair);
    assert!(start.elapsed() >= 2 * one_way, "{:?}", start.elapsed());
    let listener = pair.b.run(|| TcpListener::bind("0.0.0.0:7000")).unwrap().unwrap();
    let sent = vec![7; 1 << 20];
    let length = sent.len();
    let server = pair.b.spawn(move || {
        let mut received = vec![0; length];
        listener.accept().unwrap().0.read_exact(&mut received).unwrap();
        received
    });
    let mut client = pair.a.run(|| TcpStream::connect((pair.b_v4, 7000))).unwrap().unwrap();
    client.write_all(&sent).unwrap();
    assert!(server.unwrap().join().unwrap() == sent);
    let stats = pair.delay.as_ref().unwrap().stats();
    assert!(stats.forwarded > 700 && stats.dropped == 0, "{stats:?}");
}

fn a_lossy_wire_loses_as_told() {
    let wire = Wire::Delay(Duration::ZERO);
    let pair = pair(PairOptions { wire, ..PairOptions::default() }).unwrap();
    let link = pair.delay.as_ref().unwrap();
    link.set_loss(1_000_000);
    let socket = pair.a.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    for _ in 0..10 {
        socket.send_to(b"lost", (pair.b_v4, 7000)).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(20);
    while link.stats().lost < 10 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(link.stats().lost >= 10, "{:?}", link.stats());
    link.set_loss(0);
    echo_both_families(&pair);
}

fn features_are_switched() {
    let pair = pair(PairOptions::default()).unwrap();
    for on in [false, true] {
        let wanted = [("tx-tcp-segmentation", on), ("tx-tcp6-segmentation", on)];
        pair.a.set_features(&pair.a_name, &wanted).unwrap();
        echo_both_families(&pair);
    }
    assert!(pair.a.set_features("none", &[("tx-tcp-segmentation", true)]).is_err());
    assert!(pair.a.set_features(&pair.a_name, &[("tx-magic", true)]).is_err());
}

fn addresses_behind_a_host_are_answered() {
    let network = Ipv4Addr::new(172, 16, 0, 0);
    let pair =
        pair(PairOptions { behind_a: Some((network, 12)), ..PairOptions::default() }).unwrap();
    let sent = pair.b.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"answer", (Ipv4Addr::new(172, 31, 255, 1), 9))
    });
    assert_eq!(sent.unwrap().unwrap(), 6);
}

fn neighbours_can_be_left_to_discovery() {
    let options = PairOptions { static_neighbours: false, ..PairOptions::default() };
    echo_both_families(&pair(options).unwrap());
}

fn the_mtu_is_the_one_asked_for() {
    for wire in [Wire::Veth, Wire::Bridge, Wire::Macvlan] {
        for mtu in [1280, 1500, 9000] {
            let pair = pair(PairOptions { mtu, wire, ..PairOptions::default() }).unwrap();
            for (host, name) in [(&pair.a, &pair.a_name), (&pair.b, &pair.b_name)] {
                assert_eq!(mtu_in(host, name), mtu, "{wire:?}");
            }
            fills_the_mtu(&pair, mtu);
        }
    }
}

fn an_mtu_out_of_range_is_refused() {
    for mtu in [0, 1279, 65536] {
        let refused = pair(PairOptions { mtu, ..PairOptions::default() }).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    }
}

fn loopback_has_both_families() {
    let host = loopback().unwrap();
    for address in ["127.0.0.1", "::1"] {
        let address: IpAddr = address.parse().unwrap();
        let socket = bind(&host, address);
        echo(&socket, &bind(&host, address), &[7; 60_000]);
    }
    assert_eq!(mtu_in(&host, "lo"), 65536);
}

fn hosts_do_not_share_ports() {
    let pair = pair(PairOptions::default()).unwrap();
    let listen = || TcpListener::bind("0.0.0.0:4433");
    let first = pair.a.run(listen).unwrap().unwrap();
    assert_eq!(pair.a.run(listen).unwrap().unwrap_err().kind(), ErrorKind::AddrInUse);
    let second = pair.b.run(listen).unwrap().unwrap();
    drop((first, second));
}

fn a_process_sees_its_host() {
    let pair = pair(PairOptions::default()).unwrap();
    let mut command = Command::new("cat");
    command.arg("/proc/net/dev").stdout(Stdio::piped());
    let output = pair.b.command(command).unwrap().wait_with_output().unwrap();
    let interfaces = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(interfaces.contains(&pair.b_name), "{interfaces}");
    assert!(!interfaces.contains(&pair.a_name), "{interfaces}");
}

fn a_thread_moves_between_hosts() {
    let pair = pair(PairOptions::default()).unwrap();
    pair.a.enter().unwrap();
    let socket = UdpSocket::bind((pair.a_v4, 0)).unwrap();
    pair.b.enter().unwrap();
    assert!(UdpSocket::bind((pair.a_v4, 0)).is_err());
    // The socket stayed in its host.
    let server = UdpSocket::bind((pair.b_v4, 0)).unwrap();
    echo(&server, &socket, b"from the other host");
}

fn a_spawned_thread_is_inside() {
    let pair = pair(PairOptions::default()).unwrap();
    let address = pair.b_v6;
    let thread = pair.b.spawn(move || UdpSocket::bind((address, 0)).is_ok()).unwrap();
    assert!(thread.join().unwrap());
}

fn echo_both_families(pair: &Pair) {
    let families =
        [(IpAddr::from(pair.a_v4), IpAddr::from(pair.b_v4)), (pair.a_v6.into(), pair.b_v6.into())];
    for (a, b) in families {
        echo(&bind(&pair.b, b), &bind(&pair.a, a), b"ping");
    }
}

/// Sends `payload` from `client` to `server` and back.
fn echo(server: &UdpSocket, client: &UdpSocket, payload: &[u8]) {
    let mut buffer = vec![0; 65536];
    client.send_to(payload, server.local_addr().unwrap()).unwrap();
    let (size, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..size], from).unwrap();
    let (size, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..size], payload);
    assert_eq!(from, server.local_addr().unwrap());
}

/// A UDP socket inside `host` that does not wait for ever.
fn bind(host: &Namespace, address: IpAddr) -> UdpSocket {
    let socket = host.run(|| UdpSocket::bind(SocketAddr::new(address, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// The MTU the kernel reports for an interface of `host`, in bytes.
fn mtu_in(host: &Namespace, name: &str) -> u32 {
    // /proc/sys/net shows the namespace of the thread that reads it.
    let path = format!("/proc/sys/net/ipv6/conf/{name}/mtu");
    let text = host.run(|| std::fs::read_to_string(path)).unwrap().unwrap();
    text.trim().parse().unwrap()
}

/// Checks that the largest packet of `mtu` bytes crosses, and that not one byte more does.
fn fills_the_mtu(pair: &Pair, mtu: u32) {
    const HEADERS: usize = 40 + 8;
    let server = bind(&pair.b, pair.b_v6.into());
    let client = bind(&pair.a, pair.a_v6.into());
    setsockopt(&client, Ipv6DontFrag, &true).unwrap();
    let mut payload = vec![1; mtu as usize - HEADERS];
    echo(&server, &client, &payload);
    payload.push(1);
    let refused = client.send_to(&payload, server.local_addr().unwrap()).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EMSGSIZE));
}
