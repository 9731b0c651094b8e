//! Bare ping-pong: the time that a datapath takes before any protocol does, both ends spinning.
//!
//! ```text
//! cargo build --release -p smt-datapath --example pingpong
//! pingpong loopback [raw|udp] [size] [count]     two threads, 127.0.0.1 and 127.0.0.2
//! pingpong serve    <address> [raw|udp]          echo at <address>, port 7000
//! pingpong ping     <address> <server> [raw|udp] [size] [count]
//! ```
//!
//! Raw sockets need `CAP_NET_RAW`; `unshare -Urn` gives it. Two hosts on one machine, as root:
//!
//! ```text
//! ip netns add a; ip netns add b
//! ip -n a link add v type veth peer name v netns b
//! ip -n a addr add 10.9.0.1/24 dev v; ip -n a link set v up
//! ip -n b addr add 10.9.0.2/24 dev v; ip -n b link set v up
//! ip netns exec b taskset -c 1 pingpong serve 10.9.0.2 raw &
//! ip netns exec a taskset -c 0 pingpong ping 10.9.0.1 10.9.0.2 raw 64 200000
//! ```

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use smt_datapath::{Datapath, Kind, OpenOptions, Opened, TxMeta, open};

const PORT: u16 = 7000;
/// Bytes of an SMT header that the port filter reads.
const PORTS_LEN: usize = 4;
const WARM_UP: usize = 1000;
/// A packet this late is lost.
const PATIENCE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["loopback", ref rest @ ..] => {
            let (kind, size, count) = parameters(rest)?;
            let server = "127.0.0.2".parse()?;
            let opened = serve_at(kind, server)?;
            thread::spawn(move || serve(opened));
            ping(kind, "127.0.0.1".parse()?, server, size, count)
        }
        ["serve", address, ref rest @ ..] => {
            serve(serve_at(parameters(rest)?.0, address.parse()?)?);
            Ok(())
        }
        ["ping", address, server, ref rest @ ..] => {
            let (kind, size, count) = parameters(rest)?;
            ping(kind, address.parse()?, server.parse()?, size, count)
        }
        _ => Err("usage: pingpong loopback|serve|ping ... (see the head of the source)".into()),
    }
}

fn parameters(args: &[&str]) -> Result<(Kind, usize, usize), Box<dyn Error>> {
    let kind = match args.first() {
        None | Some(&"raw") => Kind::Raw,
        Some(&"udp") => Kind::Udp,
        Some(other) => return Err(format!("no datapath is called {other}").into()),
    };
    let size = args.get(1).map_or(Ok(64), |size| size.parse())?;
    let count = args.get(2).map_or(Ok(100_000), |count| count.parse())?;
    Ok((kind, size, count))
}

fn serve_at(kind: Kind, bind: IpAddr) -> Result<Opened, smt_datapath::OpenError> {
    open(OpenOptions { kind, bind, listen: Some(PORT), client: false, ..OpenOptions::default() })
}

/// Sends every packet back, ports exchanged.
fn serve(mut opened: Opened) {
    let datapath = opened.datapath.as_mut();
    let mut copy = Vec::new();
    loop {
        let Ok(count) = datapath.recv() else { return };
        for index in 0..count {
            let (meta, packet) = datapath.packet(index);
            packet[..PORTS_LEN].rotate_left(2);
            copy.clear();
            copy.extend_from_slice(packet);
            send(datapath, meta.src, &copy);
        }
        if count > 0 && datapath.flush().is_err() {
            return;
        }
    }
}

fn send(datapath: &mut dyn Datapath, dst: SocketAddr, packet: &[u8]) {
    if let Some(frame) = datapath.frame() {
        frame[..packet.len()].copy_from_slice(packet);
        datapath.commit(TxMeta { dst, src: None, len: packet.len(), priority: 7, segment: None });
    }
}

fn ping(
    kind: Kind,
    bind: IpAddr,
    server: IpAddr,
    size: usize,
    count: usize,
) -> Result<(), Box<dyn Error>> {
    let mut opened = open(OpenOptions { kind, bind, ..OpenOptions::default() })?;
    let datapath = opened.datapath.as_mut();
    let port = if kind == Kind::Udp { PORT } else { 0 };
    let dst = SocketAddr::new(server, port);
    let mut packet = vec![0x5a; size.max(PORTS_LEN)];
    packet[..2].copy_from_slice(&opened.client_ports.start.to_be_bytes());
    packet[2..4].copy_from_slice(&PORT.to_be_bytes());
    let mut times = Vec::with_capacity(count);
    let mut lost = 0;
    for round in 0..WARM_UP + count {
        let start = Instant::now();
        send(datapath, dst, &packet);
        datapath.flush()?;
        while datapath.recv()? == 0 {
            if start.elapsed() > PATIENCE {
                lost += 1;
                break;
            }
        }
        if round >= WARM_UP {
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 1000).min(times.len() - 1)];
    println!(
        "{} {size} B: p50 {:.2?} p99 {:.2?} p99.9 {:.2?} lost {lost}",
        datapath.caps().name,
        at(500),
        at(990),
        at(999)
    );
    Ok(())
}
