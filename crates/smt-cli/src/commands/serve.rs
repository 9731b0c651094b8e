//! `smt serve`: a server that echoes.

mod shards;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use smt::engine::{SessionInfo, SharedId};
use smt::ticket::EarlyData;
use smt::tls::TlsError;
use smt::{CloseReason, Engine, Event, SessionId};

use super::Error;
use super::early::{ServerOptions, TicketFile};
use super::options::{Transport, peer_name, suite_name};
use super::policy::{Algorithms, Policy};
use super::upkeep::{Rate, Upkeep, and_before};
use crate::output::{self, Printer, counted, number};
use crate::stop::{LOOK_EVERY, Stop};
use shards::{Counts, Done, Shared, Workers};

const ABOUT: &str = "\
Answer every request with itself

Takes sessions from clients and echoes what they send, until Ctrl-C; then it lets what is in flight end, closes the \
sessions and says what it has done. Each session is told when it begins (who, with which cipher) and when it ends \
(RPCs, bytes, why). With --client-ca, only clients with a certificate of that authority get in; --crl takes those out \
that it has revoked, and --allow keeps to those with certain names.

The files given are looked at every second. When one changes, new handshakes use what it says, and sessions that exist \
stay as they are: certificates can be renewed and authorities replaced without a pause. Write the new file beside the \
old one and rename it into place. What comes of it is told. Sessions are resumed without certificates for up to two \
hours, but never past what --client-ca, --crl and --allow say at that time.";

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

  On two cores, a session's requests too:
    smt serve --shards 2 --cert certs/server.pem --key certs/server.key

  Answer requests in the first packet; clients find the ticket in DNS:
    smt serve --early --ticket-file ticket \\
        --cert certs/server.pem --key certs/server.key
    smt ticket serve --ticket-file ticket --host server.example

  The same from any of several servers of this name, each with this line:
    smt serve --early --ticket-keys /run/smt/keys --register redis://127.0.0.1 \\
        --cert certs/server.pem --key certs/server.key --listen 10.0.0.2:4433

  A network that loses 5 % of the packets each way (smt ping tells the cost):
    smt serve --drop 0.05 --cert certs/server.pem --key certs/server.key

Exit status: 0 after Ctrl-C or SIGTERM, 1 if it cannot serve, 2 for wrong usage.

JSON events: listening {address, datapath, protocol, early, shards}; session {session, peer, remote, suite, early, resumed, \
untold}; confirmed {session, peer, resumed, forward_secret} after a session with early true; handshake_failed \
{remote, text, untold}; closed {session, reason, rpcs, bytes}; reloaded; reload_failed, ticket_file_failed and \
register_failed {text}; summary {seconds, sessions, rpcs, bytes, early_rpcs, early_data, untold, shards, ...}; error \
{exit_status, text}. shards has what each of them did: {shard, rpcs, bytes, packets_received, packets_sent, \
packets_retransmitted}. Bytes are those of requests. Of failed handshakes and of sessions with early true, ten a second \
are told; untold is how many were not since the last.";

/// How long sessions may take to end after Ctrl-C.
const PATIENCE: Duration = Duration::from_secs(1);

/// Failed handshakes told per second; the others are counted.
const MAX_FAILURES_PER_SECOND: u32 = 10;
/// Sessions on a ticket told per second, of those whose clients have proven nothing yet.
const MAX_STRANGERS_PER_SECOND: u32 = 10;

/// Why --early may come to nothing.
const EARLY_REFUSED: &str = "early requests will be refused: --client-ca asks who clients are, and nobody knows who \
sends an early request; --anonymous-early takes them all the same";

/// The arguments of `smt serve`.
#[derive(Debug, Args)]
#[command(about = "Answer every request with itself", long_about = ABOUT, after_help = EXAMPLES)]
pub struct Arguments {
    /// Address and port to take sessions at; 0.0.0.0 is all IPv4 addresses, [::] all IPv6 ones, port 0 any free port
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:4433", value_parser = address_and_port)]
    listen: SocketAddr,
    /// Threads that share the work, requests of one session too: a power of two up to 64, or `auto` for one per core.
    /// The first makes all handshakes besides. Clients need not know
    #[arg(long, value_name = "N", default_value = "1", value_parser = shards::parse)]
    shards: u8,
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
    let (tls, watch) = arguments.policy.tls(algorithms, move |tls| match &taken {
        Some(early) => tls.early_data(early.clone()),
        None => tls,
    })?;
    let asks_who = tls.requires_identity();
    let builder = transport.builder(listen.ip()).server(listen.port(), tls);
    let mut others = builder.shards(arguments.shards).engines()?;
    let mut engine = others.remove(0);
    let address = engine.listen_address().unwrap_or(listen);
    let ticket_file = arguments.early.ticket_file.as_deref().map(TicketFile::new);
    let mut upkeep = Upkeep::new(printer, watch, early.clone(), ticket_file)?;
    let takes_early = early.is_some() && (arguments.early.anonymous_early || !asks_who);
    if early.is_some() && !takes_early {
        eprintln!("smt: {EARLY_REFUSED}");
    }
    let carried = arguments.transport.carrier_text(&engine);
    let sharing = match arguments.shards {
        1 => String::new(),
        shards => format!(", {shards} shards"),
    };
    printer.say(
        format!("listening at {address} ({carried}{sharing}); Ctrl-C ends"),
        &json!({
            "event": "listening", "address": address, "datapath": engine.datapath_name(),
            "protocol": arguments.transport.protocol, "early": takes_early,
            "shards": arguments.shards,
        }),
    )?;
    let mut service = Service::new(printer);
    let workers = Workers::start(others, &service.shared, &stop)?;
    while !stop.is_set() && !workers.have_failed() {
        upkeep.look(Instant::now())?;
        let event = engine.next(Some(LOOK_EVERY)).map_err(Error::io("the datapath failed"))?;
        if let Some(event) = event {
            service.handle(&mut engine, event)?;
        }
    }
    service.finish(engine, workers, early.as_ref())
}

/// What has been done, in all and per session.
struct Service {
    printer: Printer,
    start: Instant,
    sessions: HashMap<SessionId, Tally>,
    shared: Shared,
    total_sessions: u64,
    /// At the first shard.
    done: Done,
    failures: Rate,
    strangers: Rate,
}

struct Tally {
    number: u64,
    /// Its beginning was told.
    told: bool,
    rpcs: u64,
    bytes: u64,
    /// What the shards beside the first count, and under which name.
    elsewhere: Option<(SharedId, Arc<Counts>)>,
}

impl Service {
    fn new(printer: Printer) -> Service {
        let start = Instant::now();
        Service {
            printer,
            start,
            sessions: HashMap::new(),
            shared: Shared::default(),
            total_sessions: 0,
            done: Done::default(),
            failures: Rate::new(MAX_FAILURES_PER_SECOND, start),
            strangers: Rate::new(MAX_STRANGERS_PER_SECOND, start),
        }
    }

    fn handle(&mut self, engine: &mut Engine, event: Event) -> Result<(), Error> {
        match event {
            Event::Request { rpc, body, early } => {
                let bytes = body.len() as u64;
                self.done.rpcs += 1;
                self.done.bytes += bytes;
                self.done.early_rpcs += u64::from(early);
                if let Some(tally) = self.sessions.get_mut(&rpc.session) {
                    tally.rpcs += 1;
                    tally.bytes += bytes;
                }
                // False means that the caller has gone; its session's end is told anyway.
                engine.reply(rpc, body.into_vec());
                Ok(())
            }
            Event::Accepted { session, info } => {
                self.begin(session, &info)?;
                self.count_elsewhere(engine, session);
                Ok(())
            }
            Event::Confirmed { session, info } => {
                self.count_elsewhere(engine, session);
                self.confirmed(session, &info)
            }
            Event::Closed { session, reason } => self.end(session, reason),
            Event::HandshakeFailed { remote, error } => self.handshake_failed(remote, &error),
            _ => Ok(()),
        }
    }

    /// Other shards may know a session: what they do in it counts too.
    fn count_elsewhere(&mut self, engine: &Engine, session: SessionId) {
        let Some(id) = engine.shared_id(session) else { return };
        if let Some(tally) = self.sessions.get_mut(&session) {
            tally.elsewhere.get_or_insert_with(|| (id, self.shared.counts(id)));
        }
    }

    /// Tells of failed handshakes, but not of more than so many per second: anybody can cause them.
    fn handshake_failed(&mut self, remote: SocketAddr, error: &TlsError) -> Result<(), Error> {
        let Some(untold) = self.failures.tell(Instant::now()) else { return Ok(()) };
        let before = and_before(untold);
        Ok(self.printer.say(
            format!("handshake with {remote} failed: {error}{before}"),
            &json!({
                "event": "handshake_failed", "remote": remote, "text": error.to_string(),
                "untold": untold,
            }),
        )?)
    }

    /// Tells of a session, but of those on a ticket not of more than so many per second: until they are
    /// confirmed, anybody can cause them, from addresses that are not theirs.
    fn begin(&mut self, session: SessionId, info: &Arc<SessionInfo>) -> Result<(), Error> {
        self.total_sessions += 1;
        let untold = if info.early { self.strangers.tell(Instant::now()) } else { Some(0) };
        let number = self.total_sessions;
        let told = untold.is_some();
        let tally = Tally { number, told, rpcs: 0, bytes: 0, elsewhere: None };
        self.sessions.insert(session, tally);
        untold.map_or(Ok(()), |untold| self.tell_begin(number, info, untold))
    }

    fn tell_begin(&self, number: u64, info: &SessionInfo, untold: u64) -> Result<(), Error> {
        let (peer, suite, remote) = (peer_name(&info.peer), suite_name(info.suite), info.remote);
        let how = match (info.early, info.resumed) {
            (true, _) => ", on a ticket",
            (false, true) => ", resumed",
            (false, false) => "",
        };
        let before = and_before(untold);
        Ok(self.printer.say(
            format!("session {number}: {peer} at {remote}, {suite}{how}{before}"),
            &json!({
                "event": "session", "session": number, "peer": peer, "remote": remote,
                "suite": suite, "early": info.early, "resumed": info.resumed, "untold": untold,
            }),
        )?)
    }

    fn confirmed(&mut self, session: SessionId, info: &Arc<SessionInfo>) -> Result<(), Error> {
        let Some(tally) = self.sessions.get_mut(&session) else { return Ok(()) };
        let was_told = std::mem::replace(&mut tally.told, true);
        let (number, peer) = (tally.number, peer_name(&info.peer));
        if !was_told {
            self.tell_begin(number, info, 0)?;
        }
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
        let (mut rpcs, mut bytes) = (tally.rpcs, tally.bytes);
        if let Some((id, counts)) = &tally.elsewhere {
            self.shared.forget(*id);
            let more = counts.get();
            (rpcs, bytes) = (rpcs + more.0, bytes + more.1);
        }
        if !tally.told {
            return Ok(());
        }
        let (tag, text) = match reason {
            CloseReason::Local => ("local", "closed here"),
            CloseReason::Peer => ("peer", "closed by the client"),
            CloseReason::Dead => ("dead", "the client no longer answers"),
            CloseReason::Violation => ("violation", "the client broke the protocol"),
        };
        let session = tally.number;
        Ok(self.printer.say(
            format!("session {session}: {text}; {}", rpcs_and_bytes(rpcs, bytes)),
            &json!({
                "event": "closed", "session": session, "reason": tag, "rpcs": rpcs, "bytes": bytes,
            }),
        )?)
    }

    fn finish(
        mut self,
        mut engine: Engine,
        workers: Workers,
        early: Option<&EarlyData>,
    ) -> Result<(), Error> {
        let others = workers.finish(&mut engine)?;
        self.done.stats = *engine.stats();
        let shards: Vec<Done> = std::iter::once(self.done).chain(others).collect();
        let mut all = Done::default();
        for done in &shards {
            all.rpcs += done.rpcs;
            all.bytes += done.bytes;
            all.early_rpcs += done.early_rpcs;
            all.stats += done.stats;
        }
        let stats = all.stats;
        let seconds = self.start.elapsed().as_secs_f64();
        let done = rpcs_and_bytes(all.rpcs, all.bytes);
        if shards.len() > 1 {
            for (shard, done) in shards.iter().enumerate() {
                self.printer.text(done.text(shard))?;
            }
        }
        let sessions = self.total_sessions;
        let (offers, of_early) = early.map_or((Value::Null, String::new()), |early| {
            let stats = early.stats();
            let object = json!({
                "accepted": stats.accepted, "refused": stats.refused, "replayed": stats.replayed,
                "register_full": stats.register_full, "busy": stats.busy,
                "register_unavailable": stats.register_unavailable,
            });
            let [accepted, refused] = [stats.accepted, stats.refused].map(number);
            (object, format!("; early data accepted {accepted} times, refused {refused} times"))
        });
        Ok(self.printer.say(
            format!("served {} in {seconds:.1} s; {done}{of_early}", counted(sessions, "session")),
            &json!({
                "event": "summary", "seconds": seconds, "sessions": sessions, "rpcs": all.rpcs,
                "bytes": all.bytes, "early_rpcs": all.early_rpcs, "early_data": offers,
                "handshakes_failed": stats.handshakes_failed,
                "untold": self.failures.untold() + self.strangers.untold(),
                "packets_received": stats.packets_received, "packets_sent": stats.packets_sent,
                "packets_retransmitted": stats.packets_retransmitted,
                "shards": shards.iter().enumerate().map(|(shard, done)| done.object(shard)).collect::<Vec<_>>(),
            }),
        )?)
    }
}

fn rpcs_and_bytes(rpcs: u64, bytes: u64) -> String {
    format!("{}, {} of requests", counted(rpcs, "RPC"), output::bytes(bytes))
}

/// Where to listen: an address, not a name, and a port.
pub(super) fn address_and_port(text: &str) -> Result<SocketAddr, String> {
    let mistake = "not an address and a port, such as 0.0.0.0:4433 or [::]:4433";
    text.parse().map_err(|_| mistake.to_owned())
}

#[cfg(test)]
mod tests {
    use smt::proto::crypto::SuiteId;
    use smt::tls::PeerIdentity;

    use super::*;

    fn on_a_ticket() -> Arc<SessionInfo> {
        Arc::new(SessionInfo {
            remote: ([192, 0, 2, 1], 4433).into(),
            peer: PeerIdentity::default(),
            suite: SuiteId::Aes128GcmSha256,
            alpn: b"smt/1".to_vec(),
            resumed: false,
            early: true,
            forward_secret: false,
        })
    }

    #[test]
    fn strangers_are_told_at_a_limited_rate_until_they_are_confirmed() {
        let mut service = Service::new(Printer::new(true));
        let sessions = u64::from(MAX_STRANGERS_PER_SECOND) + 2;
        let told = |service: &Service, id: u64| {
            service.sessions.get(&SessionId::from_bits(id)).map(|tally| tally.told)
        };
        service.strangers = Rate::new(MAX_STRANGERS_PER_SECOND, Instant::now() + FAR);
        for id in 1..=sessions {
            service.begin(SessionId::from_bits(id), &on_a_ticket()).unwrap();
            assert_eq!(told(&service, id), Some(id <= u64::from(MAX_STRANGERS_PER_SECOND)));
        }
        assert_eq!((service.total_sessions, service.strangers.untold()), (sessions, 2));
        service.confirmed(SessionId::from_bits(sessions), &on_a_ticket()).unwrap();
        assert_eq!(told(&service, sessions), Some(true));
        service.end(SessionId::from_bits(sessions), CloseReason::Peer).unwrap();
        assert_eq!(told(&service, sessions), None);
    }

    /// Longer than any test takes: the second at hand does not end before.
    const FAR: Duration = Duration::from_secs(3600);

    #[test]
    fn addresses_to_listen_at_are_not_names() {
        assert_eq!(address_and_port("[::]:7").map(|address| address.port()), Ok(7));
        for nonsense in ["4433", "localhost:4433", "10.0.0.1", "::1:4433"] {
            assert!(address_and_port(nonsense).is_err_and(|why| why.contains("0.0.0.0:4433")));
        }
    }
}
