//! The first RPC in the first packet: taken, refused, replayed, without TLS, and under loss.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smt::datapath::fault::Rules;
use smt::engine::SessionInfo;
use smt::ticket::{
    DEFAULT_STRIKES, EarlyData, MemoryRegister, Ticket, TicketIssuer, VerifiedTicket,
};
use smt::tls::{ClientAuth, ClientTls, ServerTls, TlsError};
use smt::{Builder, CallOptions, ConnectError, ConnectOptions, Event, Faults, SessionId};
use smt_testbed::{Pair, PairOptions, Trial, pair, test};

use crate::bed::{Ca, For, NAME, PORT, on_host, pattern, server_address};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("early_request_is_answered_before_the_handshake", answered_before),
        test("early_call_without_a_ticket_is_answered", without_ticket),
        test("early_data_of_an_unknown_ticket_is_refused", unknown_ticket),
        test("early_data_after_a_restart_is_refused", restarted),
        test("early_data_is_refused_where_clients_authenticate", mutual_tls),
        test("early_data_of_anonymous_clients_on_request", anonymous_ok),
        test("early_data_replayed_is_refused", replayed),
        test("early_data_of_another_application_protocol_ends_the_session", other_protocol),
        test("early_data_is_refused_when_too_many_offers_wait", too_many_wait),
        test("ticket_of_authorities_not_trusted_is_not_used", not_trusted),
        test("early_data_beyond_the_limit_waits", beyond_the_limit),
        test("early_data_with_loss", with_loss),
        test("early_calls_of_an_attempt_that_fails_are_answered_once", failed_handshake),
        test("early_calls_with_tokio", with_tokio),
        test("ticket_of_the_session_before", ticket_of_the_session_before),
        test("sessions_without_tls_need_both_ends", without_tls),
        test("early_data_of_a_server_with_other_names_ends_the_session", other_names),
    ]
}

/// What takes early data of the tickets of `issuer`; the register is no younger than the issuer's keys,
/// so that it has nothing to refuse for having forgotten it.
fn early_data(issuer: TicketIssuer) -> EarlyData {
    EarlyData::new(issuer, Arc::new(MemoryRegister::started_at(DEFAULT_STRIKES, UNIX_EPOCH)))
}

fn issuer(ca: &Ca) -> TicketIssuer {
    TicketIssuer::builder(ca.identity(NAME, For::Server)).build().unwrap()
}

fn server_tls(ca: &Ca, early: EarlyData) -> ServerTls {
    ServerTls::builder(ca.identity(NAME, For::Server)).early_data(early).build().unwrap()
}

pub(crate) fn anonymous_client(ca: &Ca) -> ClientTls {
    ClientTls::builder(ca.roots()).build().unwrap()
}

pub(crate) fn verified(tls: &ClientTls, ticket: &Ticket) -> VerifiedTicket {
    tls.verify_ticket(ticket, NAME, SystemTime::now()).unwrap()
}

/// What a server has seen, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Accepted { early: bool },
    Request { early: bool },
    Confirmed,
    Failed,
    Closed,
}

impl Seen {
    pub(crate) fn is_request(self) -> bool {
        matches!(self, Seen::Request { .. })
    }
}

/// A server that echoes on a thread of its host; it tells what it has seen when it is stopped.
pub(crate) struct Watched {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: std::sync::mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Watched {
    pub(crate) fn start(pair: &Pair, tls: ServerTls) -> Watched {
        Watched::start_at(pair, PORT, tls)
    }

    pub(crate) fn start_at(pair: &Pair, port: u16, tls: ServerTls) -> Watched {
        let address = server_address(pair, false);
        let builder = Builder::new().bind(address).server(port, tls);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let (ready, is_ready) = channel();
        let (stop, stopped) = channel::<()>();
        let thread = pair
            .b
            .spawn(move || {
                let mut engine = builder.engine().unwrap();
                ready.send(engine.listen_address().unwrap()).unwrap();
                while stopped.try_recv() == Err(TryRecvError::Empty) {
                    let Some(event) = engine.next(Some(Duration::from_millis(20))).unwrap() else {
                        continue;
                    };
                    let what = match event {
                        Event::Request { rpc, body, early } => {
                            engine.reply(rpc, body.into_vec());
                            Seen::Request { early }
                        }
                        Event::Accepted { info, .. } => {
                            assert!(!info.early || info.peer.is_anonymous());
                            Seen::Accepted { early: info.early }
                        }
                        Event::Confirmed { .. } => Seen::Confirmed,
                        Event::HandshakeFailed { .. } => Seen::Failed,
                        Event::Closed { .. } => Seen::Closed,
                        other => panic!("{other:?}"),
                    };
                    log.lock().unwrap().push(what);
                }
            })
            .unwrap();
        Watched { address: is_ready.recv().unwrap(), seen, stop, thread }
    }

    pub(crate) fn has_seen(&self, what: Seen) -> bool {
        self.seen.lock().unwrap().contains(&what)
    }

    pub(crate) fn stop(self) -> Vec<Seen> {
        drop(self.stop);
        self.thread.join().unwrap();
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// What a client has seen of one connect and the early call made at once.
pub(crate) struct Met {
    /// Whether the response came before the session was there.
    pub(crate) response_first: bool,
    pub(crate) info: Arc<SessionInfo>,
    pub(crate) early_sent: u64,
}

/// Connects with `options`, calls early, calls again in the session, and closes it.
pub(crate) fn meet(pair: &Pair, client: Builder, to: SocketAddr, options: ConnectOptions) -> Met {
    pair.a
        .run(move || {
            let mut engine = client.engine().unwrap();
            let connect = engine.connect_with(to, options).unwrap();
            let user = |user| CallOptions { user, ..CallOptions::default() };
            engine.call_early(connect, "first", user(1));
            let (mut answered, mut connected) = (false, None::<(SessionId, _, bool)>);
            while !answered || connected.is_none() {
                match engine.next(PATIENCE).unwrap().expect("an event in time") {
                    Event::Response { user: 1, result, .. } => {
                        assert!(!answered, "one call, two answers");
                        assert_eq!(&*result.unwrap(), b"first");
                        answered = true;
                    }
                    Event::Connected { session, info, .. } => {
                        connected = Some((session, info, answered));
                    }
                    Event::NewTicket { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            let (session, info, response_first) = connected.unwrap();
            engine.call(session, "second", user(2)).unwrap();
            loop {
                match engine.next(PATIENCE).unwrap().expect("an event in time") {
                    Event::Response { user: 2, result, .. } => {
                        assert_eq!(&*result.unwrap(), b"second");
                        break;
                    }
                    Event::NewTicket { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            let early_sent = engine.stats().early_requests_sent;
            engine.close_all(Duration::from_secs(1)).unwrap();
            Met { response_first, info, early_sent }
        })
        .unwrap()
}

pub(crate) fn with_ticket(ticket: VerifiedTicket) -> ConnectOptions {
    ConnectOptions::new(NAME).ticket(ticket)
}

/// Makes a session with the server at `to` and takes the ticket that it sends.
pub(crate) fn fetched(pair: &Pair, tls: &ClientTls, to: SocketAddr) -> VerifiedTicket {
    let client = Builder::new().client(tls.clone());
    let fetch = move || {
        let mut engine = client.engine().unwrap();
        engine.connect(to, NAME).unwrap();
        let ticket = loop {
            match engine.next(PATIENCE).unwrap().expect("a ticket in time") {
                Event::NewTicket { ticket, .. } => break ticket,
                Event::Connected { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        engine.close_all(Duration::from_secs(1)).unwrap();
        ticket
    };
    pair.a.run(fetch).unwrap()
}

fn answered_before() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Ca::new();
    let early = early_data(issuer(&ca));
    let server = Watched::start(&pair, server_tls(&ca, early.clone()));
    let tls = anonymous_client(&ca);
    let ticket = verified(&tls, &early.issuer().ticket(SystemTime::now()).unwrap());
    let met = meet(&pair, Builder::new().client(tls), server.address, with_ticket(ticket));
    assert!(met.info.early && met.info.forward_secret && !met.info.resumed);
    assert_eq!(met.info.peer.dns_names(), [NAME]);
    assert!(met.response_first, "the response came after the session");
    assert_eq!(met.early_sent, 1);
    let seen = server.stop();
    let expected = [
        Seen::Accepted { early: true },
        Seen::Request { early: true },
        Seen::Confirmed,
        Seen::Request { early: false },
    ];
    assert_eq!(seen.get(..4), Some(&expected[..]), "{seen:?}");
    assert_eq!(early.stats().accepted, 1);
}

fn without_ticket() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Ca::new();
    let server = Watched::start(&pair, server_tls(&ca, early_data(issuer(&ca))));
    let options = ConnectOptions::new(NAME).early(true);
    let client = Builder::new().client(anonymous_client(&ca));
    let met = meet(&pair, client, server.address, options);
    assert!(!met.info.early);
    assert_eq!(met.early_sent, 0);
    assert_eq!(server.stop().first(), Some(&Seen::Accepted { early: false }));
}

/// Meets a server that refuses the early data of `ticket`, and checks that nothing is lost by it.
fn refused(server_tls: ServerTls, client: ClientTls, ticket: &Ticket) {
    let pair = pair(PairOptions::default()).unwrap();
    let server = Watched::start(&pair, server_tls);
    let ticket = verified(&client, ticket);
    let met = meet(&pair, Builder::new().client(client), server.address, with_ticket(ticket));
    assert!(!met.info.early && met.info.forward_secret);
    assert_eq!(met.early_sent, 1);
    let seen = server.stop();
    let expected = [
        Seen::Accepted { early: false },
        Seen::Request { early: false },
        Seen::Request { early: false },
    ];
    assert_eq!(seen.get(..3), Some(&expected[..]), "{seen:?}");
}

fn unknown_ticket() {
    let ca = Ca::new();
    let foreign = issuer(&ca).ticket(SystemTime::now()).unwrap();
    let early = early_data(issuer(&ca));
    refused(server_tls(&ca, early.clone()), anonymous_client(&ca), &foreign);
    assert_eq!((early.stats().accepted, early.stats().refused), (0, 1));
}

fn too_many_wait() {
    let ca = Ca::new();
    let early = early_data(issuer(&ca)).max_waiting(0);
    let ticket = early.issuer().ticket(SystemTime::now()).unwrap();
    refused(server_tls(&ca, early.clone()), anonymous_client(&ca), &ticket);
    assert_eq!((early.stats().accepted, early.stats().busy), (0, 1));
}

/// What the application still holds of a configuration that trusted somebody else.
fn not_trusted() {
    let pair = pair(PairOptions::default()).unwrap();
    let (ca, other) = (Ca::new(), Ca::new());
    let early = early_data(issuer(&ca));
    let server = Watched::start(&pair, server_tls(&ca, early.clone()));
    let foreign = issuer(&other).ticket(SystemTime::now()).unwrap();
    let ticket = verified(&anonymous_client(&other), &foreign);
    let client = Builder::new().client(anonymous_client(&ca));
    let met = meet(&pair, client, server.address, with_ticket(ticket));
    assert!(!met.info.early);
    assert_eq!(met.early_sent, 0);
    assert_eq!(early.stats().refused, 0, "offered");
    server.stop();
}

/// TLS prefers another application protocol than that of the ticket.
fn other_protocol() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Ca::new();
    let identity = ca.identity(NAME, For::Server);
    let tickets = TicketIssuer::builder(identity).application_protocol("smt/1+b").build().unwrap();
    let early = early_data(tickets);
    let both = ["smt/1+a", "smt/1+b"];
    let server = ServerTls::builder(ca.identity(NAME, For::Server))
        .application_protocols(both)
        .early_data(early.clone())
        .build()
        .unwrap();
    let server = Watched::start(&pair, server);
    let tls = ClientTls::builder(ca.roots()).application_protocols(both).build().unwrap();
    let ticket = verified(&tls, &early.issuer().ticket(SystemTime::now()).unwrap());
    tls.tickets().put(server.address.port(), ticket);
    let options = ConnectOptions::new(NAME).early(true);
    let client = Builder::new().client(tls.clone());
    let met = meet(&pair, client, server.address, options);
    assert!(!met.info.early);
    assert_eq!(met.info.alpn, b"smt/1+a");
    assert_eq!(early.stats().accepted, 1);
    assert!(!server.stop().contains(&Seen::Confirmed));
}

fn restarted() {
    let ca = Ca::new();
    let early = EarlyData::new(issuer(&ca), Arc::new(MemoryRegister::default()));
    let ticket = early.issuer().ticket(SystemTime::now()).unwrap();
    refused(server_tls(&ca, early.clone()), anonymous_client(&ca), &ticket);
    assert_eq!((early.stats().accepted, early.stats().refused), (0, 1));
}

fn mutual(ca: &Ca, early: EarlyData) -> ServerTls {
    ServerTls::builder(ca.identity(NAME, For::Server))
        .client_auth(ClientAuth::Required(ca.roots()))
        .early_data(early)
        .build()
        .unwrap()
}

fn mutual_tls() {
    let ca = Ca::new();
    let early = early_data(issuer(&ca));
    let ticket = early.issuer().ticket(SystemTime::now()).unwrap();
    refused(mutual(&ca, early.clone()), ca.client_tls(), &ticket);
    assert_eq!((early.stats().accepted, early.stats().refused), (0, 1));
}

fn anonymous_ok() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Ca::new();
    let early = early_data(issuer(&ca)).anonymous_ok(true);
    let server = Watched::start(&pair, mutual(&ca, early.clone()));
    let tls = ca.client_tls();
    let ticket = verified(&tls, &early.issuer().ticket(SystemTime::now()).unwrap());
    let met = meet(&pair, Builder::new().client(tls), server.address, with_ticket(ticket));
    assert!(met.info.early);
    assert_eq!(early.stats().accepted, 1);
    let seen = server.stop();
    assert_eq!(
        seen.get(..2),
        Some(&[Seen::Accepted { early: true }, Seen::Request { early: true }][..])
    );
}

/// What a client has sent is sent again by somebody else, once the session is gone.
fn replayed() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Ca::new();
    let early = early_data(issuer(&ca));
    let server = Watched::start(&pair, server_tls(&ca, early.clone()));
    let tls = anonymous_client(&ca);
    let ticket = verified(&tls, &early.issuer().ticket(SystemTime::now()).unwrap());
    let file = std::env::temp_dir().join(format!("smt-replay-{}", std::process::id()));
    let client = Builder::new().client(tls).capture(file.clone());
    let met = meet(&pair, client, server.address, with_ticket(ticket));
    assert!(met.info.early);
    let packets = sent_to(&std::fs::read(&file).unwrap(), server.address.port());
    let _ = std::fs::remove_file(&file);
    let counted = early.clone();
    replay(&pair, &packets, server.address, move || counted.stats().replayed > 0);
    let seen = server.stop();
    let requests = seen.iter().filter(|seen| matches!(seen, Seen::Request { .. })).count();
    assert_eq!(requests, 2, "{seen:?}");
    assert_eq!(early.stats().accepted, 1);
}

/// Sends packets to a server, all of them and again, until `done`.
pub(crate) fn replay(
    pair: &Pair,
    packets: &[Vec<u8>],
    to: SocketAddr,
    done: impl Fn() -> bool + Send + 'static,
) {
    let target = SocketAddr::new(to.ip(), 0);
    let packets = packets.to_vec();
    pair.a
        .run(move || {
            let options = smt::datapath::OpenOptions::default();
            let mut opened = smt::datapath::open(options).unwrap();
            while !done() {
                for packet in &packets {
                    if let Some(frame) = opened.datapath.frame() {
                        frame[..packet.len()].copy_from_slice(packet);
                        let (dst, len) = (target, packet.len());
                        let meta = smt::datapath::TxMeta {
                            dst,
                            src: None,
                            len,
                            priority: 7,
                            segment: None,
                            lane: 0,
                        };
                        opened.datapath.commit(meta);
                    }
                    opened.datapath.flush().unwrap();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        })
        .unwrap();
}

/// The SMT packets to `port` in a capture of raw IPv4 packets.
pub(crate) fn sent_to(capture: &[u8], port: u16) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut rest = &capture[24..];
    while rest.len() >= 16 {
        let len = u32::from_ne_bytes(rest[8..12].try_into().unwrap()) as usize;
        let smt = &rest[16 + 20..16 + len];
        if smt[2..4] == port.to_be_bytes() {
            packets.push(smt.to_vec());
        }
        rest = &rest[16 + len..];
    }
    packets
}

/// Of more than the ticket allows, the rest leaves behind Finished.
fn beyond_the_limit() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Ca::new();
    let issuer = TicketIssuer::builder(ca.identity(NAME, For::Server)).max_early(8000);
    let early = early_data(issuer.build().unwrap());
    let server = Watched::start(&pair, server_tls(&ca, early.clone()));
    let tls = anonymous_client(&ca);
    let ticket = verified(&tls, &early.issuer().ticket(SystemTime::now()).unwrap());
    let to = server.address;
    pair.a
        .run(move || {
            let mut engine = Builder::new().client(tls).engine().unwrap();
            let connect = engine.connect_with(to, with_ticket(ticket)).unwrap();
            for user in 0..20 {
                let options = CallOptions { user, ..CallOptions::default() };
                engine.call_early(connect, pattern(user, 1000), options);
            }
            let mut answered = [false; 20];
            while answered.contains(&false) {
                match engine.next(PATIENCE).unwrap().expect("an event in time") {
                    Event::Response { user, result, .. } => {
                        assert_eq!(&*result.unwrap(), pattern(user, 1000));
                        assert!(!std::mem::replace(&mut answered[user as usize], true));
                    }
                    Event::Connected { info, .. } => assert!(info.early),
                    Event::NewTicket { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            let stats = *engine.stats();
            assert!((1..20).contains(&stats.early_requests_sent), "{stats:?}");
            assert!(stats.limit_early_data > 0);
        })
        .unwrap();
    let seen = server.stop();
    let early = seen.iter().filter(|seen| matches!(seen, Seen::Request { early: true })).count();
    assert!((1..20).contains(&early), "{seen:?}");
}

fn with_loss() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Ca::new();
    let early = early_data(issuer(&ca));
    let server = Watched::start(&pair, server_tls(&ca, early.clone()));
    let tls = anonymous_client(&ca);
    let ticket = verified(&tls, &early.issuer().ticket(SystemTime::now()).unwrap());
    let rules = Rules { drop: 0.05, duplicate: 0.02, reorder: 0.05, ..Rules::NONE };
    for seed in 0..20 {
        let client = Builder::new()
            .client(tls.clone())
            .connect_timeout(Duration::from_secs(30))
            .faults(Faults { seed, receive: rules, transmit: rules });
        meet(&pair, client, server.address, with_ticket(ticket.clone()));
    }
    assert!(early.stats().accepted > 0);
    let seen = server.stop();
    let requests = seen.iter().filter(|seen| matches!(seen, Seen::Request { .. })).count();
    assert!(requests >= 40, "{requests}");
}

/// The server takes the early data, then refuses the client: the call has one result.
fn failed_handshake() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Ca::new();
    let early = early_data(issuer(&ca)).anonymous_ok(true);
    let server = Watched::start(&pair, mutual(&ca, early.clone()));
    let tls = anonymous_client(&ca);
    let ticket = verified(&tls, &early.issuer().ticket(SystemTime::now()).unwrap());
    let to = server.address;
    pair.a
        .run(move || {
            let mut engine = Builder::new().client(tls).engine().unwrap();
            let connect = engine.connect_with(to, with_ticket(ticket)).unwrap();
            let options = CallOptions { user: 7, ..CallOptions::default() };
            engine.call_early(connect, "first", options);
            let (mut results, mut failed) = (0, false);
            while results == 0 || !failed {
                match engine.next(PATIENCE).unwrap().expect("an event in time") {
                    Event::Response { user: 7, .. } | Event::EarlyCallFailed { user: 7, .. } => {
                        results += 1;
                    }
                    Event::ConnectFailed { .. } => failed = true,
                    other => panic!("{other:?}"),
                }
            }
            let more = engine.next(Some(Duration::from_millis(50))).unwrap();
            assert!(more.is_none(), "{more:?}");
            assert_eq!(results, 1);
        })
        .unwrap();
    let seen = server.stop();
    let count = |what| seen.iter().filter(|seen| **seen == what).count();
    let accepted = count(Seen::Accepted { early: true });
    assert!(accepted > 0 && count(Seen::Confirmed) == 0, "{seen:?}");
    assert_eq!(count(Seen::Closed), accepted, "{seen:?}");
}

/// Connects to a server whose handshake is not what `ticket` says; returns the error of the client,
/// which finds it first.
fn contradicted(server_tls: ServerTls, tls: ClientTls, ticket: &Ticket) -> TlsError {
    let pair = pair(PairOptions::default()).unwrap();
    let server = Watched::start(&pair, server_tls);
    tls.tickets().put(server.address.port(), verified(&tls, ticket));
    let (to, client) = (server.address, Builder::new().client(tls.clone()));
    let error = pair
        .a
        .run(move || {
            let mut engine = client.engine().unwrap();
            let options = ConnectOptions::new(NAME).early(true);
            let connect = engine.connect_with(to, options).unwrap();
            engine.call_early(connect, "first", CallOptions { user: 1, ..CallOptions::default() });
            loop {
                match engine.next(PATIENCE).unwrap().expect("an event in time") {
                    Event::Response { user: 1, .. } | Event::EarlyCallFailed { user: 1, .. } => {}
                    Event::ConnectFailed { error: ConnectError::Tls(error), .. } => break error,
                    other => panic!("{other:?}"),
                }
            }
        })
        .unwrap();
    assert!(tls.tickets().is_empty(), "the ticket would be used again");
    let seen = server.stop();
    assert_eq!(seen.first(), Some(&Seen::Accepted { early: true }), "{seen:?}");
    assert!(!seen.contains(&Seen::Confirmed), "{seen:?}");
    error
}

fn other_names() {
    let ca = Ca::new();
    let early = early_data(issuer(&ca));
    let ticket = early.issuer().ticket(SystemTime::now()).unwrap();
    let more = |params: &mut rcgen::CertificateParams| {
        let name = rcgen::SanType::DnsName("other.test".try_into().unwrap());
        params.subject_alt_names.push(name);
    };
    let identity = ca.identity_with(NAME, For::Server, more, false);
    let tls = ServerTls::builder(identity).early_data(early).build().unwrap();
    let error = contradicted(tls, anonymous_client(&ca), &ticket);
    let (ticket, found) = (NAME.to_owned(), format!("{NAME}, other.test"));
    assert_eq!(error, TlsError::UnlikeTicket { ticket, found });
}

fn with_tokio() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Ca::new();
    let address: IpAddr = server_address(&pair, false);
    let early = early_data(issuer(&ca));
    let builder = Builder::new().bind(address).server(PORT, server_tls(&ca, early.clone()));
    let (ready, is_ready) = channel();
    let server = on_host(&pair.b, move || async move {
        let endpoint = builder.endpoint().unwrap();
        ready.send(endpoint.listen_address().unwrap()).unwrap();
        let session = endpoint.accept().await.unwrap();
        assert!(session.info().early && !session.info().forward_secret);
        let request = session.accept().await.unwrap();
        assert!(request.is_early());
        crate::bed::echo_one(request);
        let info = session.confirmed().await.unwrap();
        assert!(info.forward_secret && session.info().forward_secret);
        let request = session.accept().await.unwrap();
        assert!(!request.is_early());
        crate::bed::echo_one(request);
        endpoint.close().await;
    });
    let to = is_ready.recv().unwrap();
    let tls = anonymous_client(&ca);
    let ticket = verified(&tls, &early.issuer().ticket(SystemTime::now()).unwrap());
    tls.tickets().put(to.port(), ticket);
    on_host(&pair.a, move || async move {
        let endpoint = Builder::new().client(tls).endpoint().unwrap();
        let connecting = endpoint.connect_early(to, NAME);
        let first = connecting.call_early("first");
        assert_eq!(&*first.await.unwrap(), b"first");
        let session = connecting.session().await.unwrap();
        assert!(session.info().early);
        assert_eq!(&*session.call("second").await.unwrap(), b"second");
        endpoint.close().await;
    })
    .join()
    .unwrap();
    server.join().unwrap();
}

fn ticket_of_the_session_before() {
    let pair = pair(PairOptions::default()).unwrap();
    let ca = Ca::new();
    let early = early_data(issuer(&ca));
    let server = Watched::start(&pair, server_tls(&ca, early.clone()));
    let tls = anonymous_client(&ca);
    let to = server.address;
    let ticket = fetched(&pair, &tls, to);
    let current = early.issuer().ticket(SystemTime::now()).unwrap();
    assert_eq!(current.id(), ticket.ticket().id());
    assert_eq!(tls.tickets().len(), 1);
    let options = ConnectOptions::new(NAME).early(true);
    let met = meet(&pair, Builder::new().client(tls.clone()), to, options);
    assert!(met.info.early && met.response_first);
    assert!(server.stop().contains(&Seen::Request { early: true }));
}

fn without_tls() {
    for taken in [true, false] {
        let pair = pair(PairOptions::default()).unwrap();
        let ca = Ca::new();
        let early = early_data(issuer(&ca)).static_ok(taken);
        let server = Watched::start(&pair, server_tls(&ca, early.clone()));
        let tls = anonymous_client(&ca);
        let ticket = verified(&tls, &early.issuer().ticket(SystemTime::now()).unwrap());
        let options = with_ticket(ticket).forward_secrecy(false);
        let met = meet(&pair, Builder::new().client(tls), server.address, options);
        assert_eq!((met.info.early, met.info.forward_secret), (taken, !taken));
        assert_eq!(met.info.peer.dns_names(), [NAME]);
        let seen = server.stop();
        assert_eq!(seen.first(), Some(&Seen::Accepted { early: taken }), "{seen:?}");
        assert_eq!(seen.contains(&Seen::Confirmed), taken, "{seen:?}");
    }
}
