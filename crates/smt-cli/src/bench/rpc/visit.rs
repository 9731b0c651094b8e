//! One contender's turn: a server and a client, and all rows of a part one after the other.

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use super::super::contender::{Exchange, Transport, Variant, What};
use super::super::cpu;
use super::super::ground::{Credentials, Ground, server_name};
use super::super::serving::{Server, Serving};
use super::super::smt::{self as ends, Ends};
use super::bare::{self, Work};
use super::load::{self, Done, Load};
use super::{
    BULK_BYTES, BULK_OUTSTANDING, CPU_RATE, Cell, Contender, MIXED_BULK, Part, Plan, Sample,
};
use crate::baseline::fleet::{self, Room};
use crate::baseline::{self, Pipeline, Wait, smt, tcp, tls};
use crate::commands::Error;
use crate::commands::datapath::DatapathChoice;

/// The port of TCP servers.
const TCP_PORT: u16 = 4433;
/// Round trips before measured ones, while spinning and while sleeping.
const WARM_UPS: [usize; 2] = [200, 20];
/// Most round trips measured in a turn.
const MOST: usize = 1 << 20;
/// A part of the measured time that comes before it.
const WARM_UP_PART: u32 = 8;
/// Bytes that TCP's and TLS's ends take from the kernel at a time: with a connection per RPC, and with one for all.
const READ_BYTES: [usize; 2] = [32 << 10, 256 << 10];
/// What a thread has taken is told once it has been switched away from.
const SETTLE: Duration = Duration::from_millis(1);

/// Measures all `cells`, which are of one part.
///
/// # Errors
/// The contender cannot be set up, or an RPC fails.
pub(super) fn measure(
    ground: &Ground,
    contender: Contender,
    cells: &[Cell],
    plan: &Plan,
) -> Result<Vec<Sample>, Error> {
    let Some(first) = cells.first() else { return Ok(Vec::new()) };
    let is_cpu = first.part == Part::Cpu;
    if is_cpu && ground.cores.is_none() {
        return Err(Error::Failed("takes a core for each end".to_owned()));
    }
    let wait = if is_cpu || ground.cores.is_none() { Wait::Block } else { Wait::Spin };
    let turn = Turn { ground, wait, share: plan.time / plan.rounds.max(1) };
    let one_at_a_time = matches!(first.part, Part::Rtt | Part::Cpu);
    let server = if one_at_a_time { turn.echo(contender) } else { turn.serve(contender, cells) }?;
    let measured = ground.as_client(|| {
        if one_at_a_time {
            let mut ping = turn.pinger(contender)?;
            return cells.iter().map(|cell| turn.ping(&mut *ping, cell)).collect();
        }
        let mut pipeline = turn.pipeline(contender, cells)?;
        cells.iter().map(|cell| turn.load(&mut *pipeline, cell)).collect()
    });
    // What ended the server explains what the client has met.
    server.stop()?;
    measured
}

/// Carries out a plan.
type Ping = dyn FnMut(&baseline::Plan) -> Result<Vec<u64>, Error>;

struct Turn<'a> {
    ground: &'a Ground,
    wait: Wait,
    /// Time for each row.
    share: Duration,
}

impl Turn<'_> {
    /// Starts a server for one RPC at a time.
    fn echo(&self, contender: Contender) -> Result<Server, Error> {
        let (wait, address) = (self.wait, self.tcp_address());
        match contender {
            Contender::Smt(datapath) => self.serve_smt(datapath),
            Contender::Bare(datapath) => self.serve_bare(datapath, Work::Nothing),
            Contender::Floor(datapath) => self.serve_bare(datapath, Work::Aead),
            Contender::Tcp | Contender::TcpOne => Server::start(self.ground, move |serving| {
                let listener = listen(address, serving)?;
                tcp::serve_tcp(&listener, wait, serving.over()).map_err(server_failed)
            }),
            Contender::Tls | Contender::TlsOne => {
                let config = server_config(&self.ground.credentials)?;
                Server::start(self.ground, move |serving| {
                    let listener = listen(address, serving)?;
                    tls::serve_tls(&listener, &config, wait, serving.over()).map_err(server_failed)
                })
            }
        }
    }

    /// Starts a server for many RPCs at a time.
    fn serve(&self, contender: Contender, cells: &[Cell]) -> Result<Server, Error> {
        let (wait, address) = (self.wait, self.tcp_address());
        let (_, room) = connections(contender, cells);
        match contender {
            Contender::Smt(datapath) => self.serve_smt(datapath),
            Contender::Bare(datapath) => self.serve_bare(datapath, Work::Nothing),
            Contender::Floor(datapath) => self.serve_bare(datapath, Work::Aead),
            Contender::Tcp | Contender::TcpOne => Server::start(self.ground, move |serving| {
                let listener = listen(address, serving)?;
                fleet::serve_tcp(&listener, room, wait, serving.over()).map_err(server_failed)
            }),
            Contender::Tls | Contender::TlsOne => {
                let config = server_config(&self.ground.credentials)?;
                Server::start(self.ground, move |serving| {
                    let listener = listen(address, serving)?;
                    fleet::serve_tls(&listener, &config, room, wait, serving.over())
                        .map_err(server_failed)
                })
            }
        }
    }

    fn serve_bare(&self, datapath: DatapathChoice, work: Work) -> Result<Server, Error> {
        let (wait, address) = (self.wait, self.tcp_address().ip());
        Server::start(self.ground, move |serving| {
            bare::serve(datapath, work, address, wait, serving)
        })
    }

    fn bare_pinger(&self, datapath: DatapathChoice, work: Work) -> Result<Box<Ping>, Error> {
        let mut client = bare::Client::open(datapath, work, self.ground, self.wait)?;
        Ok(Box::new(move |plan| client.ping(plan)))
    }

    fn bare_pipeline(
        &self,
        datapath: DatapathChoice,
        work: Work,
    ) -> Result<Box<dyn Pipeline>, Error> {
        let client = bare::Client::open(datapath, work, self.ground, self.wait)?;
        Ok(Box::new(bare::Messages::new(client)))
    }

    fn serve_smt(&self, datapath: DatapathChoice) -> Result<Server, Error> {
        let wait = self.wait;
        let Ends { server, .. } = ends::ends(self.ground, WHAT, 0)?;
        // A handshake beside the packets would share their core, and is over before anything is measured.
        let server = server.datapath(datapath.kind()).wait(engine_wait(wait)).handshakes_inline();
        Server::start(self.ground, move |serving| {
            let mut engine = server.engine()?;
            serving.ready();
            smt::serve(&mut engine, wait, || serving.is_over())
        })
    }

    /// Makes a client for one RPC at a time.
    fn pinger(&self, contender: Contender) -> Result<Box<Ping>, Error> {
        let (wait, address) = (self.wait, self.tcp_address());
        match contender {
            Contender::Smt(datapath) => {
                let (mut engine, session) = self.session(datapath)?;
                Ok(Box::new(move |plan| smt::ping(&mut engine, session, plan)))
            }
            Contender::Bare(datapath) => self.bare_pinger(datapath, Work::Nothing),
            Contender::Floor(datapath) => self.bare_pinger(datapath, Work::Aead),
            Contender::Tcp | Contender::TcpOne => {
                let mut ping = tcp::pinger_tcp(address, wait).map_err(client_failed)?;
                Ok(Box::new(move |plan| ping(plan).map_err(client_failed)))
            }
            Contender::Tls | Contender::TlsOne => {
                let config = client_config(&self.ground.credentials)?;
                let ping = tls::pinger_tls(address, server_name()?, &config, wait);
                let mut ping = ping.map_err(client_failed)?;
                Ok(Box::new(move |plan| ping(plan).map_err(client_failed)))
            }
        }
    }

    /// Makes a client for many RPCs at a time.
    fn pipeline(&self, contender: Contender, cells: &[Cell]) -> Result<Box<dyn Pipeline>, Error> {
        let (wait, address) = (self.wait, self.tcp_address());
        let (count, room) = connections(contender, cells);
        match contender {
            Contender::Smt(datapath) => {
                let (engine, session) = self.session(datapath)?;
                Ok(Box::new(smt::Calls::new(engine, session, wait)))
            }
            Contender::Bare(datapath) => self.bare_pipeline(datapath, Work::Nothing),
            Contender::Floor(datapath) => self.bare_pipeline(datapath, Work::Aead),
            Contender::Tcp | Contender::TcpOne => {
                fleet::connect_tcp(address, count, room, wait).map_err(client_failed)
            }
            Contender::Tls | Contender::TlsOne => {
                let config = client_config(&self.ground.credentials)?;
                fleet::connect_tls(address, &server_name()?, &config, count, room, wait)
                    .map_err(client_failed)
            }
        }
    }

    fn session(
        &self,
        datapath: DatapathChoice,
    ) -> Result<(::smt::Engine, ::smt::SessionId), Error> {
        let Ends { client, .. } = ends::ends(self.ground, WHAT, 0)?;
        let client = client
            .bind(self.ground.pair.a_v4.into())
            .datapath(datapath.kind())
            .wait(engine_wait(self.wait))
            .smt_tickets(false)
            .handshakes_inline();
        let mut engine = client.engine()?;
        let session = ends::connect(&mut engine, self.ground.server_address(ends::PORT))?;
        Ok((engine, session))
    }

    fn ping(&self, ping: &mut Ping, cell: &Cell) -> Result<Sample, Error> {
        let wait = self.wait;
        let warm_ups = WARM_UPS[usize::from(wait == Wait::Block)];
        // In a short turn all would go into warming up.
        let begin = Instant::now();
        let warm_up = baseline::Plan {
            time: Some(self.share / WARM_UP_PART),
            ..baseline::Plan::counted(cell.size, 1, warm_ups, wait)
        };
        ping(&warm_up)?;
        let every = (cell.part == Part::Cpu).then(|| Duration::from_secs(1) / CPU_RATE);
        let time = Some(self.share);
        let plan =
            baseline::Plan { time, every, ..baseline::Plan::counted(cell.size, 0, MOST, wait) };
        let before = self.cpu(cell)?;
        let times_ns = ping(&plan)?;
        let after = self.cpu(cell)?;
        let mut sample = Sample { elapsed: begin.elapsed(), ..Sample::default() };
        for ns in times_ns {
            sample.times.add(Duration::from_nanos(ns));
            sample.count += 1;
        }
        let spent = after.iter().zip(before).map(|(after, before)| after.saturating_sub(before));
        for (place, ns) in sample.cpu_ns.iter_mut().zip(spent) {
            *place = ns;
        }
        Ok(sample)
    }

    /// Processor time that client and server have taken so far.
    fn cpu(&self, cell: &Cell) -> Result<[u64; 2], Error> {
        let Some([client, server]) = self.ground.cores.filter(|_| cell.part == Part::Cpu) else {
            return Ok([0; 2]);
        };
        thread::sleep(SETTLE);
        let of = |core| cpu::of_threads_on(core).map_err(Error::io("no processor times"));
        Ok([of(client)?, of(server)?])
    }

    fn load(&self, pipeline: &mut dyn Pipeline, cell: &Cell) -> Result<Sample, Error> {
        let (outstanding, bulk) = match cell.part {
            Part::Goodput => (0, BULK_OUTSTANDING),
            Part::Mixed => (cell.outstanding, MIXED_BULK),
            _ => (cell.outstanding, 0),
        };
        let (warm_up, time) = (self.share / WARM_UP_PART, self.share);
        let load = Load { size: cell.size, outstanding, bulk, warm_up, time };
        let Done { count, bulk, elapsed, times } = load::run(pipeline, &load)?;
        Ok(Sample { times, count, bulk, elapsed, cpu_ns: [0; 2] })
    }

    fn tcp_address(&self) -> SocketAddr {
        self.ground.server_address(TCP_PORT)
    }
}

/// How sessions are made; of no effect on what follows.
const WHAT: What = What {
    transport: Transport::Smt,
    variant: Variant::Full,
    exchange: Exchange::X25519,
    mtls: false,
};

/// How many connections a contender has, and the room that each needs.
fn connections(contender: Contender, cells: &[Cell]) -> (usize, Room) {
    let is_bulk = cells.iter().any(|cell| matches!(cell.part, Part::Goodput | Part::Mixed));
    let outstanding = cells.iter().map(|cell| cell.outstanding).max().unwrap_or(1);
    let size = cells.iter().map(|cell| cell.size).max().unwrap_or(0);
    match contender {
        _ if is_bulk => (1, Room { message: BULK_BYTES, read: READ_BYTES[1] }),
        Contender::TcpOne | Contender::TlsOne => (1, Room { message: size, read: READ_BYTES[1] }),
        _ => (outstanding, Room { message: size, read: READ_BYTES[0].max(2 * size) }),
    }
}

fn engine_wait(wait: Wait) -> ::smt::Wait {
    match wait {
        Wait::Spin => ::smt::Wait::Spin,
        Wait::Block => ::smt::Wait::Block,
    }
}

fn server_config(credentials: &Credentials) -> Result<std::sync::Arc<rustls::ServerConfig>, Error> {
    tls::server_config(credentials.authority(), credentials.server())
        .map_err(|error| Error::Failed(error.to_string()))
}

fn client_config(credentials: &Credentials) -> Result<std::sync::Arc<rustls::ClientConfig>, Error> {
    tls::client_config(credentials.authority(), credentials.client())
        .map_err(|error| Error::Failed(error.to_string()))
}

/// Listens at `address`, and says that clients may come.
fn listen(address: SocketAddr, serving: &Serving) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).map_err(Error::io("cannot listen"))?;
    serving.ready();
    Ok(listener)
}

fn server_failed(source: std::io::Error) -> Error {
    Error::io("the server failed")(source)
}

fn client_failed(source: std::io::Error) -> Error {
    Error::io("the connection failed")(source)
}
