//! `smt serve`: a server that echoes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use smt::engine::SessionInfo;
use smt::tls::TlsError;
use smt::{CloseReason, Engine, Event, SessionId};

use super::Error;
use super::early::{ServerOptions, TicketFile};
use super::options::{Transport, peer_name, suite_name};
use super::policy::{Algorithms, Policy};
use crate::output::{self, Printer, number};
use crate::stop::{LOOK_EVERY, Stop};

const ABOUT: &str = "\
Answer every request with itself

Takes sessions from clients and echoes what they send, until Ctrl-C; then it lets what is in flight end, closes the \
sessions and says what it has done. Each session is told when it begins (who, with which cipher) and when it ends \
(RPCs, bytes, why). With --client-ca, only clients with a certificate of that authority get in; --crl takes those out \
that it has revoked, and --allow keeps to those with certain names.

The files given are looked at every second. When one changes, new handshakes use what it says, and sessions that exist \
stay as they are: certificates can be renewed and authorities replaced without a pause. Write the new file beside the \
old one and rename it into place. Sessions are resumed without certificates for up to two hours, but never past what \
--client-ca, --crl and --allow say at that time.";

const EXAMPLES: &str = "\
Examples:
  Certificates to try it with, in certs/:
    smt pki dev certs

  Only for clients with a certificate, on all IPv4 addresses, port 4433:
    smt serve --cert certs/server.pem --key certs/server.key \\
        --client-ca certs/ca.pem

  Only for some of them, and for none whose certificate was revoked:
    smt pki revoke client --dir certs
    smt serve --cert certs/server.pem --key certs/server.key \\
        --client-ca certs/ca.pem --crl certs/ca.crl \\
        --allow 'spiffe://example.org/billing/*' --allow '*.web.example.org'

  Without privileges, at another port:
    smt serve --listen 0.0.0.0:7000 --datapath udp \\
        --cert certs/server.pem --key certs/server.key

  The lowest latency, on a core of its own:
    taskset -c 1 smt serve --wait spin \\
        --cert certs/server.pem --key certs/server.key

  Answer requests in the first packet, and let clients find the ticket in DNS:
    smt serve --early --ticket-file ticket --cert certs/server.pem --key certs/server.key
    smt ticket serve --ticket-file ticket --host server.example

  The same from any of several servers of this name, each with this line:
    smt serve --early --ticket-keys /run/smt/keys --register redis://127.0.0.1 \\
        --cert certs/server.pem --key certs/server.key --listen 10.0.0.2:4433

  A network that loses 5 % of the packets each way (smt ping tells the cost):
    smt serve --drop 0.05 --cert certs/server.pem --key certs/server.key

Exit status: 0 after Ctrl-C or SIGTERM, 1 if it cannot serve, 2 for wrong usage.

JSON events: listening {address, datapath, protocol}; session {session, peer, remote, suite, early, resumed}; \
confirmed {session, peer, resumed, forward_secret} after a session with early true; handshake_failed \
{remote, text, untold}; closed {session, reason, rpcs, bytes}; summary {seconds, sessions, rpcs, bytes, ...}; error \
{exit_status, text}. Bytes are those of requests.";

/// How long sessions may take to end after Ctrl-C.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the ticket in its file is compared with that of the moment.
const LOOK_AT_TICKET: Duration = Duration::from_secs(1);
/// Failed handshakes told per second; the others are counted.
const MAX_FAILURES_PER_SECOND: u32 = 10;

/// The arguments of `smt serve`.
#[derive(Debug, Args)]
#[command(about = "Answer every request with itself", long_about = ABOUT, after_help = EXAMPLES)]
pub struct Arguments {
    /// Address and port to take sessions at; 0.0.0.0 is all IPv4 addresses, [::] all IPv6 ones, port 0 any free port
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:4433")]
    listen: SocketAddr,
    #[command(flatten)]
    policy: Policy,
    #[command(flatten)]
    early: ServerOptions,
    /// Options of the transport.
    #[command(flatten)]
    pub transport: Transport,
}

/// Serves until a signal comes.
///
/// # Errors
/// Whatever keeps us from serving.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    let printer = Printer::new(arguments.transport.json);
    let listen = arguments.listen;
    let transport = &arguments.transport;
    let algorithms =
        Algorithms { suites: transport.suites(), key_exchange: transport.key_exchange() };
    let early = arguments.early.early_data(|| arguments.policy.identity())?;
    let taken = early.clone();
    let (tls, _watch) = arguments.policy.tls(algorithms, move |tls| match &taken {
        Some(early) => tls.early_data(early.clone()),
        None => tls,
    })?;
    let mut engine = transport.builder(listen.ip()).server(listen.port(), tls).engine()?;
    let address = engine.listen_address().unwrap_or(listen);
    let mut ticket_file = arguments.early.ticket_file.as_deref().map(TicketFile::new);
    if let (Some(file), Some(early)) = (&mut ticket_file, &early) {
        file.update(early)?;
    }
    let mut looked_at = Instant::now();
    let carried = arguments.transport.datapath_text();
    printer.say(
        format!("listening at {address} ({carried}); Ctrl-C ends"),
        &json!({
            "event": "listening", "address": address, "datapath": engine.datapath_name(),
            "protocol": arguments.transport.protocol,
        }),
    )?;
    let mut service = Service::new(printer);
    while !stop.is_set() {
        if let (Some(file), Some(early)) = (&mut ticket_file, &early)
            && looked_at.elapsed() >= LOOK_AT_TICKET
        {
            file.update(early)?;
            looked_at = Instant::now();
        }
        let event = engine.next(Some(LOOK_EVERY)).map_err(Error::io("the datapath failed"))?;
        if let Some(event) = event {
            service.handle(&mut engine, event)?;
        }
    }
    service.finish(engine)
}

/// What has been done, in all and per session.
struct Service {
    printer: Printer,
    start: Instant,
    sessions: HashMap<SessionId, Tally>,
    total_sessions: u64,
    rpcs: u64,
    bytes: u64,
    early_rpcs: u64,
    failures: Failures,
}

struct Tally {
    number: u64,
    rpcs: u64,
    bytes: u64,
}

/// Failed handshakes told in the second at hand, and those kept back.
struct Failures {
    second: Instant,
    told: u32,
    untold: u64,
}

impl Failures {
    fn new(now: Instant) -> Failures {
        Failures { second: now, told: 0, untold: 0 }
    }

    /// How many were not told since the last that was, if another one may be told now.
    fn tell(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.told = 0;
        }
        if self.told >= MAX_FAILURES_PER_SECOND {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

impl Service {
    fn new(printer: Printer) -> Service {
        let start = Instant::now();
        Service {
            printer,
            start,
            sessions: HashMap::new(),
            total_sessions: 0,
            rpcs: 0,
            bytes: 0,
            early_rpcs: 0,
            failures: Failures::new(start),
        }
    }

    fn handle(&mut self, engine: &mut Engine, event: Event) -> Result<(), Error> {
        match event {
            Event::Request { rpc, body, early } => {
                let bytes = body.len() as u64;
                self.rpcs += 1;
                self.bytes += bytes;
                self.early_rpcs += u64::from(early);
                if let Some(tally) = self.sessions.get_mut(&rpc.session) {
                    tally.rpcs += 1;
                    tally.bytes += bytes;
                }
                // False means that the caller has gone; its session's end is told anyway.
                engine.reply(rpc, body.into_vec());
                Ok(())
            }
            Event::Accepted { session, info } => self.begin(session, &info),
            Event::Confirmed { session, info } => self.confirmed(session, &info),
            Event::Closed { session, reason } => self.end(session, reason),
            Event::HandshakeFailed { remote, error } => self.handshake_failed(remote, &error),
            _ => Ok(()),
        }
    }

    /// Tells of failed handshakes, but not of more than so many per second: anybody can cause them.
    fn handshake_failed(&mut self, remote: SocketAddr, error: &TlsError) -> Result<(), Error> {
        let Some(untold) = self.failures.tell(Instant::now()) else { return Ok(()) };
        let before = match untold {
            0 => String::new(),
            _ => format!(" ({} more before it)", number(untold)),
        };
        Ok(self.printer.say(
            format!("handshake with {remote} failed: {error}{before}"),
            &json!({
                "event": "handshake_failed", "remote": remote, "text": error.to_string(),
                "untold": untold,
            }),
        )?)
    }

    fn begin(&mut self, session: SessionId, info: &Arc<SessionInfo>) -> Result<(), Error> {
        self.total_sessions += 1;
        let tally = Tally { number: self.total_sessions, rpcs: 0, bytes: 0 };
        let (number, peer, suite) = (tally.number, peer_name(&info.peer), suite_name(info.suite));
        self.sessions.insert(session, tally);
        let remote = info.remote;
        let how = match (info.early, info.resumed) {
            (true, _) => ", on a ticket",
            (false, true) => ", resumed",
            (false, false) => "",
        };
        Ok(self.printer.say(
            format!("session {number}: {peer} at {remote}, {suite}{how}"),
            &json!({
                "event": "session", "session": number, "peer": peer, "remote": remote,
                "suite": suite, "early": info.early, "resumed": info.resumed,
            }),
        )?)
    }

    fn confirmed(&mut self, session: SessionId, info: &Arc<SessionInfo>) -> Result<(), Error> {
        let Some(tally) = self.sessions.get(&session) else { return Ok(()) };
        let (number, peer) = (tally.number, peer_name(&info.peer));
        let secrecy = if info.forward_secret { "" } else { ", without forward secrecy" };
        Ok(self.printer.say(
            format!("session {number}: confirmed, {peer}{secrecy}"),
            &json!({
                "event": "confirmed", "session": number, "peer": peer, "resumed": info.resumed,
                "forward_secret": info.forward_secret,
            }),
        )?)
    }

    fn end(&mut self, session: SessionId, reason: CloseReason) -> Result<(), Error> {
        let Some(tally) = self.sessions.remove(&session) else { return Ok(()) };
        let (tag, text) = match reason {
            CloseReason::Local => ("local", "closed here"),
            CloseReason::Peer => ("peer", "closed by the client"),
            CloseReason::Dead => ("dead", "the client no longer answers"),
            CloseReason::Violation => ("violation", "the client broke the protocol"),
        };
        let Tally { number: session, rpcs, bytes } = tally;
        Ok(self.printer.say(
            format!("session {session}: {text}; {}", rpcs_and_bytes(rpcs, bytes)),
            &json!({
                "event": "closed", "session": session, "reason": tag, "rpcs": rpcs, "bytes": bytes,
            }),
        )?)
    }

    fn finish(self, mut engine: Engine) -> Result<(), Error> {
        engine.close_all(PATIENCE).map_err(Error::io("the datapath failed"))?;
        let stats = *engine.stats();
        let seconds = self.start.elapsed().as_secs_f64();
        let done = rpcs_and_bytes(self.rpcs, self.bytes);
        let sessions = self.total_sessions;
        Ok(self.printer.say(
            format!("served {sessions} sessions in {seconds:.1} s; {done}"),
            &json!({
                "event": "summary", "seconds": seconds, "sessions": sessions, "rpcs": self.rpcs,
                "bytes": self.bytes, "early_rpcs": self.early_rpcs, "handshakes_failed": stats.handshakes_failed,
                "packets_received": stats.packets_received, "packets_sent": stats.packets_sent,
                "packets_retransmitted": stats.packets_retransmitted,
            }),
        )?)
    }
}

fn rpcs_and_bytes(rpcs: u64, bytes: u64) -> String {
    format!("{} RPCs, {} of requests", number(rpcs), output::bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_at_a_limited_rate() {
        let start = Instant::now();
        let mut failures = Failures::new(start);
        for _ in 0..MAX_FAILURES_PER_SECOND {
            assert_eq!(failures.tell(start), Some(0));
        }
        assert_eq!([failures.tell(start), failures.tell(start)], [None, None]);
        let later = start + Duration::from_secs(1);
        assert_eq!(failures.tell(later), Some(2));
        assert_eq!(failures.tell(later), Some(0));
    }
}
