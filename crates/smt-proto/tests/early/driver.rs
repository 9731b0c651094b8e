//! A client and a server whose handshake offers early data. TLS bytes and tickets are made up: the core
//! only carries them.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use smt_proto::crypto::{Suite, SuiteId, aws_lc};
use smt_proto::error::{CallError, CloseReason, HandshakeError, StartError};
use smt_proto::keys::Secret;
use smt_proto::wire::Params;
use smt_proto::{
    Body, Config, EarlyBinding, EarlyData, Endpoint, Event, PacketMeta, Path, Role, RpcId,
    SessionId, Time,
};

use crate::net::{CLIENT, PORTS, SERVER, Seeded, address};

pub(crate) const ROOM: usize = 1232;
pub(crate) const OFFER: &[u8] = &[0x0f; 60];
pub(crate) const MILLI: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A packet on its way.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) to: usize,
    pub(crate) bytes: Vec<u8>,
}

impl Sent {
    pub(crate) fn epoch(&self) -> u8 {
        self.bytes[8]
    }

    pub(crate) fn is_data(&self) -> bool {
        self.bytes[11] == 0x10
    }
}

/// What the ends make of each other.
pub(crate) struct World {
    pub(crate) ends: [Endpoint; 2],
    pub(crate) now: Time,
    pub(crate) link: VecDeque<Sent>,
    /// Everything that was sent.
    pub(crate) sent: Vec<Sent>,
    /// Lengths of the three flights' TLS bytes.
    pub(crate) lengths: [usize; 3],
    /// Whether the server takes the offer.
    pub(crate) accepts: bool,
    /// Whether the server's TLS answers at once; if not, [`World::speak`] has it answer.
    pub(crate) speaks: bool,
    /// Whether the client's TLS says nothing to the server's flight.
    pub(crate) stalls: bool,
    /// Whether the server's TLS takes the client's last flight.
    pub(crate) finishes: bool,
    /// What the ticket lets go early, for each end.
    pub(crate) max_early: [u32; 2],
    /// The server's parameters as the ticket has them.
    pub(crate) ticket: Params,
    /// Whether requests are answered at once with the same bytes.
    pub(crate) echo: bool,
    pub(crate) client: SessionId,
    pub(crate) server: Option<SessionId>,
    pub(crate) requests: Vec<(RpcId, Vec<u8>, bool)>,
    pub(crate) ended: Vec<(u64, Result<Vec<u8>, CallError>)>,
    pub(crate) established: [bool; 2],
    pub(crate) refused: u32,
    pub(crate) failed: Vec<(usize, HandshakeError)>,
    pub(crate) closed: Vec<(usize, CloseReason)>,
    pub(crate) cancelled: Vec<RpcId>,
    pub(crate) posts: Vec<Vec<u8>>,
}

/// The suite of ticket and handshake.
pub(crate) fn suite() -> &'static dyn Suite {
    aws_lc::suite(SuiteId::Aes128GcmSha256)
}

/// The early secrets of client and server that follow from a binding.
pub(crate) fn early_secrets(binding: &EarlyBinding) -> [Vec<u8>; 2] {
    let context = binding.context(suite(), b"a ticket", b"smt/1");
    [0x11, 0x22].map(|pad| context.iter().map(|byte| byte ^ pad).collect())
}

impl World {
    /// The client's first flight, with an offer, waits on the link.
    pub(crate) fn new(configs: [Config; 2]) -> World {
        World::with(configs, [300, 700, 100])
    }

    pub(crate) fn with(configs: [Config; 2], lengths: [usize; 3]) -> World {
        World::start(configs, lengths, [64 << 10; 2])
    }

    /// The ticket says that the server takes messages of `max_message` bytes.
    pub(crate) fn promising(configs: [Config; 2], max_message: u32) -> World {
        World::begin(configs, [300, 700, 100], [64 << 10; 2], |ticket| {
            ticket.max_message = max_message;
        })
    }

    pub(crate) fn start(configs: [Config; 2], lengths: [usize; 3], max_early: [u32; 2]) -> World {
        World::begin(configs, lengths, max_early, |_| {})
    }

    fn begin(
        configs: [Config; 2],
        lengths: [usize; 3],
        max_early: [u32; 2],
        change: impl Fn(&mut Params),
    ) -> World {
        let mut seed = 7;
        let mut ends = configs.map(|config| {
            seed += 1;
            Endpoint::new(config, Box::new(Seeded(seed)))
        });
        let path = Path {
            remote: address(SERVER),
            remote_port: PORTS[SERVER],
            local_port: PORTS[CLIENT],
            local: None,
        };
        let mut ticket = Params { first_id: 6, ..ends[SERVER].parameters(Role::Server) };
        change(&mut ticket);
        let client = ends[CLIENT].connect(Time::ZERO, path, ROOM, Time::ZERO + 5 * SECOND).unwrap();
        let mut world = World {
            ends,
            now: Time::ZERO,
            link: VecDeque::new(),
            sent: Vec::new(),
            lengths,
            accepts: true,
            speaks: true,
            stalls: false,
            finishes: true,
            max_early,
            ticket,
            echo: true,
            client,
            server: None,
            requests: Vec::new(),
            ended: Vec::new(),
            established: [false; 2],
            refused: 0,
            failed: Vec::new(),
            closed: Vec::new(),
            cancelled: Vec::new(),
            posts: Vec::new(),
        };
        let hello = vec![0xc0; lengths[0]];
        world.ends[CLIENT].send_first_flight(world.now, client, &hello, Some(OFFER));
        world.install_early(CLIENT, client);
        world.pump();
        world
    }

    fn install_early(&mut self, end: usize, session: SessionId) {
        let binding = self.ends[end].early_binding(session).unwrap();
        let [client_secret, server_secret] =
            early_secrets(&binding).map(|secret| Secret::new(&secret));
        let early = EarlyData {
            suite: suite(),
            client_secret,
            server_secret,
            peer: Some(self.ticket),
            max_early: self.max_early[end],
            alone: self.lengths[1] == 0,
        };
        self.ends[end].install_early(self.now, session, early);
    }

    /// The server's TLS has its flight.
    pub(crate) fn speak(&mut self) {
        self.say_flight();
        self.pump();
    }

    fn say_flight(&mut self) {
        let session = self.server.unwrap();
        let flight = vec![0x51; self.lengths[1]];
        self.ends[SERVER].send_flight(self.now, session, &flight);
        assert!(self.ends[SERVER].early_binding(session).is_none());
    }

    fn install_keys(&mut self, end: usize, session: SessionId) {
        let context = self.ends[end].key_context(session).unwrap().compute(suite(), b"smt/1");
        let [client, server] =
            [0x33, 0x44].map(|pad| context.iter().map(|byte| byte ^ pad).collect::<Vec<u8>>());
        let (client, server) = (Secret::new(&client), Secret::new(&server));
        self.ends[end].install_keys(self.now, session, suite(), client, server);
    }

    /// Lets events happen and packets leave.
    pub(crate) fn pump(&mut self) {
        for end in [CLIENT, SERVER] {
            while let Some(event) = self.ends[end].poll_event() {
                self.happens(end, event);
            }
            self.send(end);
        }
    }

    fn send(&mut self, end: usize) {
        let mut frame = [0; 2000];
        while let Some(sent) = self.ends[end].poll_transmit(self.now, &mut frame) {
            let sent = Sent { to: 1 - end, bytes: frame[..sent.len].to_vec() };
            self.sent.push(sent.clone());
            self.link.push_back(sent);
        }
        self.ends[end].settle();
    }

    fn happens(&mut self, end: usize, event: Event) {
        match event {
            Event::Flight { session, number: 0, offer, .. } => {
                assert_eq!(offer.as_deref(), Some(OFFER));
                self.server = Some(session);
                if self.accepts {
                    self.install_early(end, session);
                }
                if self.speaks {
                    self.say_flight();
                }
            }
            Event::Flight { session, number: 1, offer, bytes } => {
                assert_eq!((offer, bytes), (None, vec![0x51; self.lengths[1]]));
                if self.stalls {
                    return;
                }
                let flight = vec![0xc2; self.lengths[2]];
                self.ends[end].send_flight(self.now, session, &flight);
                self.install_keys(end, session);
            }
            Event::Flight { session, number: 2, .. } if self.finishes => {
                self.install_keys(end, session);
            }
            Event::Flight { session, number: 2, .. } => {
                self.ends[end].fail_handshake(self.now, session, Some(b"alert"));
            }
            Event::Flight { session, .. } => {
                self.ends[end].fail_handshake(self.now, session, None);
            }
            Event::Established { .. } => self.established[end] = true,
            Event::KeyUpdateWanted { .. } => unreachable!("secrets are derived"),
            Event::HandshakeFailed { error, .. } => self.failed.push((end, error)),
            Event::Closed { reason, .. } => self.closed.push((end, reason)),
            Event::SegmentsLost { .. } => unreachable!("no device cuts segments"),
            Event::EarlyRefused { .. } => self.refused += 1,
            Event::Post { body, .. } => self.posts.push(body.into_vec()),
            Event::Request { rpc, body, early } => {
                self.requests.push((rpc, body.to_vec(), early));
                if self.echo {
                    assert!(self.ends[end].reply(rpc, Bytes::from(body.into_vec())));
                }
            }
            Event::RequestCancelled { rpc } => self.cancelled.push(rpc),
            Event::Response { user, result, .. } => {
                self.ended.push((user, result.map(Body::into_vec)));
            }
        }
    }

    /// Hands a packet over.
    pub(crate) fn deliver(&mut self, to: usize, mut packet: Vec<u8>) {
        let meta = PacketMeta { remote: address(1 - to), local: address(to).ip(), ip_id: None };
        self.ends[to].handle_packet(self.now, &meta, &mut packet);
        self.pump();
    }

    /// Lets `span` pass; `fate` says how often a packet arrives.
    pub(crate) fn run_with(&mut self, span: Duration, mut fate: impl FnMut(&Sent) -> usize) {
        self.run_changed(span, |sent| fate(sent));
    }

    /// The same; `fate` may change the packet.
    pub(crate) fn run_changed(&mut self, span: Duration, mut fate: impl FnMut(&mut Sent) -> usize) {
        let end = self.now + span;
        loop {
            while let Some(mut sent) = self.link.pop_front() {
                self.now = self.now + Duration::from_micros(10);
                for _ in 0..fate(&mut sent) {
                    self.deliver(sent.to, sent.bytes.clone());
                }
            }
            let next = self.ends.iter().filter_map(Endpoint::poll_timeout).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            for end in &mut self.ends {
                end.handle_timeout(self.now);
            }
            self.pump();
        }
        self.now = self.now.max(end);
    }

    pub(crate) fn run(&mut self, span: Duration) {
        self.run_with(span, |_| 1);
    }

    /// Starts an early call that lasts at most 30 seconds; `user` is its number.
    pub(crate) fn call_early(&mut self, body: &[u8], user: u64) -> Result<RpcId, StartError> {
        let (deadline, body) = (self.now + 30 * SECOND, Bytes::copy_from_slice(body));
        let result = self.ends[CLIENT].start_early_call(self.client, body, deadline, user);
        self.pump();
        result
    }

    pub(crate) fn call(&mut self, body: &[u8], user: u64) {
        let (deadline, body) = (self.now + 30 * SECOND, Bytes::copy_from_slice(body));
        self.ends[CLIENT].start_call(self.client, body, deadline, user).unwrap();
        self.pump();
    }

    /// Epoch bytes of the DATA packets sent to `to`, flights apart.
    pub(crate) fn epochs_to(&self, to: usize) -> Vec<u8> {
        let data = self.sent.iter().filter(|sent| sent.to == to && sent.is_data());
        data.map(Sent::epoch).filter(|epoch| *epoch != 0).collect()
    }

    /// Which of all requests was delivered how often.
    pub(crate) fn executions(&self, body: &[u8]) -> usize {
        self.requests.iter().filter(|(_, other, _)| other == body).count()
    }
}
