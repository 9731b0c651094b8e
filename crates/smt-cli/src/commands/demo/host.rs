//! A process on one of the demonstration's hosts: told what to do on standard input, it says on standard output what
//! came of it, and ends when its input does.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use smt::datapath::fault::Rules;
use smt::ticket::{DEFAULT_STRIKES, EarlyData, MemoryRegister, TicketIssuer};
use smt::tls::{ClientAuth, ClientTls, ClientTlsBuilder, Identity, Roots, ServerTls};
use smt::{
    Body, Builder, CallError, CallOptions, Engine, Event, Faults, RpcId, SessionId, StartError,
    Wait,
};

use super::messages::{Part, Report, Setup, Task};
use super::random::Random;
use super::{first, measure};
use crate::commands::Error;
use crate::commands::options::suite_name;
use crate::cores;
use crate::output::{hex, nanoseconds};
use crate::pki::{Authority, PkiError, Profile};

/// The name in the server's certificate.
pub(super) const SERVER_NAME: &str = "server.demo";
/// The name in the client's certificate.
pub(super) const CLIENT_NAME: &str = "client.demo";

/// Lengths of the bodies of random calls, in bytes.
pub(super) const RPC_BYTES: [usize; 2] = [64, 65_536];
/// Requests longer than this, in bytes, are answered with their SHA-256.
const ECHO_UP_TO: usize = 1 << 20;
/// Calls outstanding at once.
const WINDOW: usize = 16;
/// How often a process looks for its next task.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// Deadline of calls: whatever is lost, they have to succeed.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long the session may take to end.
const PATIENCE: Duration = Duration::from_millis(300);

/// Runs the process.
///
/// # Errors
/// Only if standard output is gone; everything else is reported there.
pub fn run() -> Result<(), Error> {
    if let Err(error) = follow() {
        say(&Report::Failed { why: error.explain() })?;
    }
    Ok(())
}

fn follow() -> Result<(), Error> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(Error::io("cannot read standard input"))?;
    let unreadable = |_| Error::Failed("`smt demo-host` is for `smt demo` to start".to_owned());
    let setup: Setup = serde_json::from_str(&line).map_err(unreadable)?;
    let tasks = Tasks::read();
    match setup.part {
        Part::Server | Part::Client => Host::new(&setup, tasks)?.work(),
        Part::EchoServer(transport) => measure::serve(&setup, transport, &tasks),
        Part::EchoClient(transport) => measure::ping(&setup, transport, &tasks),
        Part::FirstRpcs => first::measure(&setup, &tasks),
    }
}

/// The tasks as they come, until the end of standard input.
pub(super) struct Tasks {
    receiver: Receiver<Task>,
    ended: Arc<AtomicBool>,
}

impl Tasks {
    /// Reads standard input on a thread of its own.
    fn read() -> Tasks {
        let (sender, receiver) = channel();
        let ended = Arc::new(AtomicBool::new(false));
        let at_end = Arc::clone(&ended);
        thread::spawn(move || {
            for line in io::stdin().lock().lines() {
                let task = line.ok().and_then(|line| serde_json::from_str(&line).ok());
                let Some(task) = task else { break };
                if sender.send(task).is_err() {
                    break;
                }
            }
            at_end.store(true, Ordering::Release);
        });
        Tasks { receiver, ended }
    }

    /// Whether standard input has ended.
    pub(super) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The next task, if it is already there.
    fn poll(&self) -> Option<Task> {
        self.receiver.try_recv().ok()
    }

    /// Waits for the next task; `None` when there will be no more.
    pub(super) fn wait(&self) -> Option<Task> {
        self.receiver.recv().ok()
    }
}

pub(super) fn say(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, report)?;
    writeln!(out)?;
    out.flush()
}

pub(super) fn datapath_failed(source: io::Error) -> Error {
    Error::io("the datapath failed")(source)
}

/// An engine with a certificate of its own, as `setup` describes it.
pub(super) fn engine(setup: &Setup) -> Result<Engine, Error> {
    let wait = if setup.spin { Wait::Spin } else { Wait::Block };
    let mut builder = Builder::new().wait(wait).call_deadline(DEADLINE);
    if matches!(setup.part, Part::Server | Part::EchoServer(_)) {
        let any: IpAddr = setup.server.ip();
        builder = builder.bind(any).server(setup.server.port(), server_tls(setup)?);
    } else {
        builder = builder.client(client_tls(setup)?.build()?);
    }
    if setup.loss > 0.0 {
        let transmit = Rules { drop: setup.loss, ..Rules::NONE };
        let seed = u64::from(std::process::id());
        builder = builder.faults(Faults { seed, receive: Rules::NONE, transmit });
    }
    if let Some(file) = &setup.capture {
        builder = builder.capture(file.clone());
    }
    Ok(builder.engine()?)
}

pub(super) fn authority(setup: &Setup) -> Result<Authority, Error> {
    let [certificate, key] = &setup.authority;
    Authority::from_pem(certificate, key).map_err(pki_failed)
}

pub(super) fn pki_failed(error: PkiError) -> Error {
    Error::Failed(error.to_string())
}

/// A server that asks for certificates, and answers early requests of whoever has its ticket.
fn server_tls(setup: &Setup) -> Result<ServerTls, Error> {
    let identity = authority(setup)?.server(&[SERVER_NAME], Profile::default());
    let identity = identity.map_err(pki_failed)?;
    let identity =
        Identity::from_pem(identity.certificate_pem().as_bytes(), identity.key_pem().as_bytes())?;
    let issuer = TicketIssuer::builder(identity.clone()).build();
    let issuer = issuer.map_err(|error| Error::Failed(error.to_string()))?;
    // The ticket's key is of this process too: nothing was accepted before it started.
    let register = MemoryRegister::started_at(DEFAULT_STRIKES, UNIX_EPOCH);
    let early = EarlyData::new(issuer, Arc::new(register)).anonymous_ok(true);
    let roots = Roots::from_pem(setup.authority[0].as_bytes())?;
    Ok(ServerTls::builder(identity)
        .client_auth(ClientAuth::Required(roots))
        .early_data(early)
        .build()?)
}

/// A client with a certificate.
pub(super) fn client_tls(setup: &Setup) -> Result<ClientTlsBuilder, Error> {
    let identity = authority(setup)?.client(CLIENT_NAME, Profile::default());
    let identity = identity.map_err(pki_failed)?;
    let identity =
        Identity::from_pem(identity.certificate_pem().as_bytes(), identity.key_pem().as_bytes())?;
    let roots = Roots::from_pem(setup.authority[0].as_bytes())?;
    Ok(ClientTls::builder(roots).identity(identity))
}

/// Makes the session, or waits for it; returns when it works.
pub(super) fn session(
    engine: &mut Engine,
    setup: &Setup,
    tasks: &Tasks,
) -> Result<SessionId, Error> {
    let failed = |error| Error::Connect { target: setup.server.to_string(), error };
    let start = Instant::now();
    if matches!(setup.part, Part::Client | Part::EchoClient(_)) {
        engine.connect(setup.server, SERVER_NAME).map_err(failed)?;
    } else {
        say(&Report::Ready)?;
    }
    let (session, suite) = loop {
        match engine.next(Some(LOOK_EVERY)).map_err(datapath_failed)? {
            Some(Event::Connected { session, info, .. } | Event::Accepted { session, info }) => {
                break (session, info.suite);
            }
            Some(Event::ConnectFailed { error, .. }) => return Err(failed(error)),
            Some(_) => {}
            None if tasks.ended() => {
                return Err(Error::Failed("told to end before there was a session".to_owned()));
            }
            None => {}
        }
    };
    // Only now, since the engine's helper thread for handshakes would stay on the same core.
    settle(setup)?;
    let handshake_ns = nanoseconds(start.elapsed());
    say(&Report::Connected { handshake_ns, suite: suite_name(suite).to_owned() })?;
    Ok(session)
}

/// Stays on the core meant for this process.
pub(super) fn settle(setup: &Setup) -> Result<(), Error> {
    setup.core.map_or(Ok(()), cores::pin_to).map_err(Error::io("cannot stay on one core"))
}

/// One end of the session.
struct Host {
    engine: Engine,
    session: SessionId,
    tasks: Tasks,
    doing: Doing,
    told: Instant,
}

/// The task at hand.
enum Doing {
    Nothing,
    Rpcs(Rpcs),
    Bulk { rpc: RpcId, sha256: Vec<u8>, start: Instant },
    Say { text: String },
}

/// Calls with random bodies.
struct Rpcs {
    count: u64,
    seed: u64,
    update_after: Option<u64>,
    started: u64,
    done: u64,
    bytes: u64,
    start: Instant,
    outstanding: HashMap<u64, Vec<u8>>,
}

impl Host {
    fn new(setup: &Setup, tasks: Tasks) -> Result<Host, Error> {
        let mut engine = engine(setup)?;
        let session = session(&mut engine, setup, &tasks)?;
        let (doing, told) = (Doing::Nothing, Instant::now());
        Ok(Host { engine, session, tasks, doing, told })
    }

    fn work(mut self) -> Result<(), Error> {
        loop {
            match self.tasks.poll() {
                Some(task) => self.begin(task)?,
                None if self.tasks.ended() => break,
                None => {}
            }
            let until = Instant::now() + LOOK_EVERY;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                if let Some(event) = self.engine.next(Some(left)).map_err(datapath_failed)? {
                    self.handle(event)?;
                }
            }
            self.tell_progress()?;
        }
        // The other end may be gone already.
        let _ = self.engine.close_all(PATIENCE);
        Ok(())
    }

    fn begin(&mut self, task: Task) -> Result<(), Error> {
        match task {
            Task::Rpcs { count, seed, update_after } => {
                let mut rpcs = Rpcs::new(count, seed, update_after);
                rpcs.fill_window(&mut self.engine, self.session)?;
                self.doing = Doing::Rpcs(rpcs);
            }
            Task::Bulk { bytes, seed } => {
                let body = Random::new(seed, 0).bytes(bytes);
                let sha256 = digest(&SHA256, &body).as_ref().to_vec();
                let start = Instant::now();
                let rpc = self.call(body)?;
                self.doing = Doing::Bulk { rpc, sha256, start };
            }
            Task::Say { text } => {
                self.call(text.clone().into_bytes())?;
                self.doing = Doing::Say { text };
            }
            Task::Count => {
                let stats = self.engine.stats();
                say(&Report::Counters {
                    sent: stats.packets_sent,
                    received: stats.packets_received,
                    again: stats.packets_retransmitted,
                    key_updates: stats.key_updates,
                })?;
            }
            Task::Measure { .. } | Task::FirstRpcs { .. } => {
                return Err(Error::Failed("this process does not measure".to_owned()));
            }
        }
        Ok(())
    }

    fn call(&mut self, body: Vec<u8>) -> Result<RpcId, Error> {
        let options = CallOptions::default();
        Ok(self.engine.call(self.session, body, options).map_err(CallError::from)?)
    }

    fn handle(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Request { rpc, body, .. } if body.len() > ECHO_UP_TO => {
                self.engine.reply(rpc, digest(&SHA256, &body).as_ref().to_vec());
            }
            Event::Request { rpc, body, .. } => {
                self.engine.reply(rpc, body.into_vec());
            }
            Event::Response { user, result, .. } => self.response(user, &result?)?,
            Event::Closed { reason, .. } if !matches!(self.doing, Doing::Nothing) => {
                return Err(Error::Failed(format!("the session ended: {reason:?}")));
            }
            _ => {}
        }
        Ok(())
    }

    fn response(&mut self, user: u64, body: &Body) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::Failed(format!("{what} came back changed")));
        match &mut self.doing {
            Doing::Nothing => return Ok(()),
            Doing::Rpcs(rpcs) => {
                if !rpcs.take(user, body) {
                    return wrong(&format!("RPC {user}"));
                }
                if rpcs.update_after.is_some_and(|after| rpcs.done.is_multiple_of(after)) {
                    self.engine.update_keys(self.session);
                }
                rpcs.fill_window(&mut self.engine, self.session)?;
                if rpcs.done < rpcs.count {
                    return Ok(());
                }
                let ns = nanoseconds(rpcs.start.elapsed());
                say(&Report::Rpcs { count: rpcs.done, bytes: rpcs.bytes, ns })?;
            }
            Doing::Bulk { sha256, start, .. } => {
                let ns = nanoseconds(start.elapsed());
                if body[..] != sha256[..] {
                    return wrong("the SHA-256 of the message");
                }
                say(&Report::Bulk { sha256: hex(sha256), ns })?;
            }
            Doing::Say { text } => {
                if body[..] != *text.as_bytes() {
                    return wrong("the text");
                }
                say(&Report::Said)?;
            }
        }
        self.doing = Doing::Nothing;
        Ok(())
    }

    fn tell_progress(&mut self) -> Result<(), Error> {
        if self.told.elapsed() < TELL_EVERY {
            return Ok(());
        }
        self.told = Instant::now();
        let done = match &self.doing {
            Doing::Rpcs(rpcs) => rpcs.done,
            Doing::Bulk { rpc, .. } => {
                self.engine.progress(*rpc).map_or(0, |[sent, ..]| u64::from(sent))
            }
            Doing::Nothing | Doing::Say { .. } => return Ok(()),
        };
        Ok(say(&Report::Progress { done })?)
    }
}

impl Rpcs {
    fn new(count: u64, seed: u64, update_after: Option<u64>) -> Rpcs {
        let (start, outstanding) = (Instant::now(), HashMap::new());
        Rpcs { count, seed, update_after, started: 0, done: 0, bytes: 0, start, outstanding }
    }

    /// Starts calls until enough are outstanding.
    fn fill_window(&mut self, engine: &mut Engine, session: SessionId) -> Result<(), Error> {
        while self.started < self.count && self.outstanding.len() < WINDOW {
            let mut random = Random::new(self.seed, self.started);
            let length = random.length(RPC_BYTES[0], RPC_BYTES[1]);
            let body = random.bytes(length);
            let options = CallOptions { user: self.started, ..CallOptions::default() };
            match engine.call(session, body.clone(), options) {
                Ok(_) => {}
                Err(StartError::TooManyOutstanding | StartError::Backpressure)
                    if !self.outstanding.is_empty() =>
                {
                    break;
                }
                Err(error) => return Err(CallError::from(error).into()),
            }
            self.outstanding.insert(self.started, body);
            self.started += 1;
        }
        Ok(())
    }

    /// Counts a response; false if it is not the request.
    fn take(&mut self, user: u64, response: &Body) -> bool {
        let Some(request) = self.outstanding.remove(&user) else { return false };
        self.done += 1;
        self.bytes += request.len() as u64;
        request[..] == response[..]
    }
}
