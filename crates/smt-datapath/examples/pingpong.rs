//! Bare ping-pong: the time that a datapath takes before any protocol does, both ends spinning.
//!
//! ```text
//! cargo build --release -p smt-datapath --example pingpong
//! pingpong loopback [raw|packet|udp|tcp] [size] [count]    two threads, 127.0.0.1 and 127.0.0.2
//! pingpong serve    <address> [raw|packet|xdp|xdp-driver|xdp-generic|udp|tcp]         echo at <address>, port 7000
//! pingpong ping     <address> <server> [raw|packet|xdp|xdp-driver|xdp-generic|udp|tcp] [size] [count]
//! ```
//!
//! A message of `size` bytes, headers of 52 bytes not counted, crosses in as many packets as it takes,
//! or as TSO segments where the datapath has them, and comes back once it is whole. `tcp` is a plain
//! TCP connection, to compare with. Raw and packet sockets need `CAP_NET_RAW`; `unshare -Urn` gives
//! it. Two hosts on one machine, as root, joined by devices that take segments:
//!
//! ```text
//! ip netns add a; ip netns add b; ip netns add wire
//! ip -n wire link add name bridge0 type bridge; ip -n wire link set dev bridge0 up
//! for host in a:1 b:2; do
//!   name=${host%:*}; number=${host#*:}
//!   ip -n wire link add link bridge0 name to-$name type macvlan mode bridge
//!   ip -n wire link set dev to-$name netns $name
//!   ip -n $name addr add 10.9.0.$number/24 dev to-$name; ip -n $name link set dev to-$name up
//! done
//! ip netns exec b taskset -c 1 pingpong serve 10.9.0.2 packet &
//! ip netns exec a taskset -c 0 pingpong ping 10.9.0.1 10.9.0.2 packet 60000 20000
//! ```

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use smt_datapath::{Datapath, Kind, OpenOptions, Opened, TxMeta, XdpHook, XdpOptions, open};

const PORT: u16 = 7000;
/// Bytes of a DATA header.
const HEADER: usize = 52;
const WARM_UP: u64 = 1000;
/// A message this late is lost.
const PATIENCE: Duration = Duration::from_millis(200);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["loopback", ref rest @ ..] => {
            let options = Options::parse(rest)?;
            let server = "127.0.0.2".parse()?;
            let end = Server::at(options.carrier, server)?;
            thread::spawn(move || end.serve());
            ping(options, "127.0.0.1".parse()?, server)
        }
        ["serve", address, ref rest @ ..] => {
            Server::at(Options::parse(rest)?.carrier, address.parse()?)?.serve()?;
            Ok(())
        }
        ["ping", address, server, ref rest @ ..] => {
            ping(Options::parse(rest)?, address.parse()?, server.parse()?)
        }
        _ => Err("usage: pingpong loopback|serve|ping ... (see the head of the source)".into()),
    }
}

/// What carries the messages: a datapath, or TCP if `None`.
type Carrier = Option<OpenOptions>;

#[derive(Clone, Copy)]
struct Options {
    carrier: Carrier,
    size: usize,
    count: u64,
}

impl Options {
    fn parse(args: &[&str]) -> Outcome<Self> {
        let of = |kind| OpenOptions { kind, ..OpenOptions::default() };
        let xdp = |hook| {
            let xdp = XdpOptions { hook, ..XdpOptions::default() };
            OpenOptions { xdp, ..of(Kind::Xdp) }
        };
        let carrier = match args.first() {
            None | Some(&"raw") => Some(of(Kind::Raw)),
            Some(&"packet") => Some(of(Kind::Packet)),
            Some(&"xdp") => Some(xdp(XdpHook::Auto)),
            Some(&"xdp-driver") => Some(xdp(XdpHook::Driver)),
            Some(&"xdp-generic") => Some(xdp(XdpHook::Generic)),
            Some(&"udp") => Some(of(Kind::Udp)),
            Some(&"tcp") => None,
            Some(other) => return Err(format!("no datapath is called {other}").into()),
        };
        let size = args.get(1).map_or(Ok(64), |size| size.parse())?;
        let count = args.get(2).map_or(Ok(100_000), |count| count.parse())?;
        Ok(Self { carrier, size, count })
    }
}

/// The end that sends everything back.
enum Server {
    Packets(Opened),
    Tcp(TcpListener),
}

impl Server {
    fn at(carrier: Carrier, bind: IpAddr) -> Outcome<Self> {
        let Some(options) = carrier else {
            return Ok(Self::Tcp(TcpListener::bind((bind, PORT))?));
        };
        let listen = Some(PORT);
        let options = OpenOptions { bind, listen, client: false, ..options };
        Ok(Self::Packets(open(options)?))
    }

    fn serve(self) -> io::Result<()> {
        match self {
            Self::Packets(opened) => echo_packets(opened),
            Self::Tcp(listener) => loop {
                // Whoever goes away leaves room for the next.
                let _gone = echo_stream(listener.accept()?.0);
            },
        }
    }
}

/// A message on its way, as its packets' headers tell.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Message {
    /// Source and destination port.
    ports: [u16; 2],
    round: u64,
    len: usize,
}

impl Message {
    fn read(header: &[u8]) -> Option<Self> {
        let port = |at| u16::from_be_bytes([header[at], header[at + 1]]);
        (header.len() >= HEADER).then(|| Self {
            ports: [port(0), port(2)],
            round: u64::from_be_bytes(header[20..28].try_into().unwrap_or_default()),
            len: u32::from_be_bytes(header[28..32].try_into().unwrap_or_default()) as usize,
        })
    }

    fn write(&self, header: &mut [u8]) {
        header[..HEADER].fill(0);
        header[..2].copy_from_slice(&self.ports[0].to_be_bytes());
        header[2..4].copy_from_slice(&self.ports[1].to_be_bytes());
        header[12] = (HEADER as u8 / 4) << 4;
        header[20..28].copy_from_slice(&self.round.to_be_bytes());
        header[28..32].copy_from_slice(&(self.len as u32).to_be_bytes());
    }

    /// Sends the message in packets of `usable` bytes of payload, or in segments.
    fn send(&self, by: &mut dyn Datapath, dst: SocketAddr, usable: usize) -> io::Result<()> {
        let limit = by.tso(dst.ip()).saturating_sub(HEADER);
        let mut left = self.len;
        loop {
            let segment = (left > usable && limit > usable).then_some(usable as u16);
            let payload = left.min(if segment.is_some() { limit } else { usable });
            let Some(frame) = by.frame() else {
                by.flush()?;
                continue;
            };
            self.write(frame);
            by.commit(TxMeta {
                dst,
                src: None,
                len: HEADER + payload,
                priority: 7,
                segment,
                lane: 0,
            });
            left -= payload;
            if left == 0 {
                return by.flush();
            }
        }
    }
}

/// Counts a message's bytes as they come.
#[derive(Default)]
struct Arrival {
    message: Option<Message>,
    bytes: usize,
}

impl Arrival {
    /// Takes a packet; the message if it is whole now.
    fn take(&mut self, packet: &[u8]) -> Option<Message> {
        let message = Message::read(packet)?;
        if self.message != Some(message) {
            *self = Self { message: Some(message), bytes: 0 };
        }
        self.bytes += packet.len() - HEADER;
        (self.bytes >= message.len).then_some(message)
    }
}

fn usable(datapath: &mut dyn Datapath, dst: IpAddr) -> io::Result<usize> {
    let overhead = datapath.caps().overhead[usize::from(dst.is_ipv6())] + HEADER;
    Ok(datapath.path_mtu(dst)? - overhead)
}

fn echo_packets(mut opened: Opened) -> io::Result<()> {
    let datapath = opened.datapath.as_mut();
    let (mut arrival, mut path) = (Arrival::default(), None);
    loop {
        for index in 0..datapath.recv()? {
            let (meta, packet) = datapath.packet(index);
            let Some(mut message) = arrival.take(packet) else { continue };
            message.ports.reverse();
            let usable = match path {
                Some((src, usable)) if src == meta.src.ip() => usable,
                _ => usable(datapath, meta.src.ip())?,
            };
            path = Some((meta.src.ip(), usable));
            message.send(datapath, meta.src, usable)?;
        }
    }
}

fn ping(options: Options, bind: IpAddr, server: IpAddr) -> Outcome<()> {
    let Options { carrier, size, count } = options;
    let Some(carrier) = carrier else { return ping_stream(options, server) };
    let mut opened = open(OpenOptions { bind, ..carrier })?;
    let datapath = opened.datapath.as_mut();
    let dst = SocketAddr::new(server, if carrier.kind == Kind::Udp { PORT } else { 0 });
    let usable = usable(datapath, server)?;
    let mut times = Vec::new();
    let (mut arrival, mut lost) = (Arrival::default(), 0);
    for round in 0..WARM_UP + count {
        let message = Message { ports: [opened.client_ports.start, PORT], round, len: size };
        let answer = Message { ports: [PORT, opened.client_ports.start], ..message };
        let start = Instant::now();
        message.send(datapath, dst, usable)?;
        'waiting: loop {
            for index in 0..datapath.recv()? {
                if arrival.take(datapath.packet(index).1) == Some(answer) {
                    break 'waiting;
                }
            }
            if start.elapsed() > PATIENCE {
                lost += 1;
                break;
            }
        }
        if round >= WARM_UP {
            times.push(start.elapsed());
        }
    }
    report(datapath.caps().name, options, times, lost);
    if datapath.stats().tx_segments > 0 {
        println!("  with segments of up to {} bytes", datapath.tso(server));
    }
    Ok(())
}

/// Reads or writes without waiting until `buffer` is through.
fn spin(buffer: &mut [u8], mut step: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match step(&mut buffer[done..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn echo_stream(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    stream.set_nonblocking(true)?;
    let mut buffer = vec![0; u32::from_be_bytes(len) as usize];
    loop {
        spin(&mut buffer, |bytes| stream.read(bytes))?;
        spin(&mut buffer, |bytes| stream.write(bytes))?;
    }
}

fn ping_stream(options: Options, server: IpAddr) -> Outcome<()> {
    let mut stream = TcpStream::connect((server, PORT))?;
    stream.set_nodelay(true)?;
    stream.write_all(&(options.size as u32).to_be_bytes())?;
    stream.set_nonblocking(true)?;
    let mut buffer = vec![0; options.size];
    let mut times = Vec::new();
    for round in 0..WARM_UP + options.count {
        let start = Instant::now();
        spin(&mut buffer, |bytes| stream.write(bytes))?;
        spin(&mut buffer, |bytes| stream.read(bytes))?;
        if round >= WARM_UP {
            times.push(start.elapsed());
        }
    }
    report("tcp", options, times, 0);
    Ok(())
}

fn report(name: &str, options: Options, mut times: Vec<Duration>, lost: usize) {
    times.sort_unstable();
    let at = |share: usize| {
        times.get((times.len() * share / 1000).min(times.len() - 1)).copied().unwrap_or_default()
    };
    println!(
        "{name} {} B: p50 {:.2?} p99 {:.2?} p99.9 {:.2?} lost {lost}",
        options.size,
        at(500),
        at(990),
        at(999)
    );
}
