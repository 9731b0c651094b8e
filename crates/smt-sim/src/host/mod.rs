//! An honest host: the real core, an application that calls and answers, handshakes, a clock of its
//! own, and what befalls it. It reports to the checkers all that happens.

mod agenda;
mod answers;
mod calls;
mod clock;
mod early;
mod mishaps;
mod receive;
mod registered;
mod sessions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use smt_proto::crypto::Suite;
use smt_proto::error::CloseReason;
use smt_proto::{Config, Endpoint, Event, RpcId, SessionId, Stats, Time};

use crate::check::sessions::SessionKey;
use crate::check::{CallId, Rule, Shared, memory};
use crate::net::host_of;
use crate::packet::{HostId, Packet};
use crate::rng::Rng;
use crate::scenario::{EarlyData, HostConfig, Scenario};
use crate::stack::Stack;
use crate::tls::{Registers, Ticket, Trust};
use agenda::{Agenda, Task};
use clock::Clock;
use sessions::Known;

pub use sessions::external;

/// The SMT port that every host listens at.
pub const SERVER_PORT: u16 = 4433;
/// The first port that clients use; each session takes the next.
pub const CLIENT_PORT: u16 = 40_000;
/// The largest packet any host sends, or segment, in bytes.
const FRAME: usize = 9216;
const SEGMENT_FRAME: usize = 65_535;

/// Whether a host is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    /// It stands still until then.
    Paused(Time),
    /// It is away until then.
    Down(Time),
}

/// An honest host.
pub struct Host {
    id: HostId,
    config: HostConfig,
    core: Config,
    /// The largest bodies that hosts can surely send here, and this one to them.
    largest: Vec<[u32; 2]>,
    endpoint: Endpoint,
    rng: Rng,
    clock: Clock,
    power: Power,
    watch: Shared,
    trust: Trust,
    suite: &'static dyn Suite,
    early_calls: bool,
    early: Option<EarlyData>,
    /// The services of all hosts, and the first tickets of those.
    services: Vec<HostId>,
    templates: BTreeMap<HostId, Ticket>,
    /// The service that this host belongs to, and which of its tickets is given out.
    service: HostId,
    generation: u32,
    registers: Registers,
    /// The latest ticket of each service.
    tickets: BTreeMap<HostId, Ticket>,
    /// Hosts whose keys live short, so that messages may be too old for them.
    short_keys: BTreeSet<HostId>,
    agenda: Agenda,
    /// Packets that have arrived while it stands still.
    ring: VecDeque<Packet>,
    frame: Vec<u8>,
    /// What its card has cut and not sent yet.
    cut: VecDeque<Packet>,
    /// The largest segment that its card takes now, in bytes.
    segment_bytes: usize,
    next_port: u16,
    room: usize,
    sessions: BTreeMap<SessionId, Known>,
    /// Calls that wait for a session or for room, by whom they are for.
    waiting: BTreeMap<HostId, VecDeque<CallId>>,
    /// Peers with a session on its way, or to be tried again later.
    connecting: BTreeSet<HostId>,
    /// Those with a look at their waiting calls before them.
    trying: BTreeSet<HostId>,
    started: BTreeMap<CallId, RpcId>,
    /// Which of those have responses of several packets, and where the next look begins.
    long: BTreeSet<CallId>,
    look_from: CallId,
    working: BTreeMap<RpcId, CallId>,
    /// Requests whose answer the core did not take, until their cancellation is told.
    untaken: BTreeMap<RpcId, CallId>,
    /// Counters of lives before this one.
    past: Stats,
    events: Vec<Event>,
}

impl Host {
    /// Host `id` of a scenario, with all its calls before it.
    pub fn new(
        scenario: &Scenario,
        id: HostId,
        core: Config,
        watch: &Shared,
        registers: &Registers,
    ) -> Host {
        let config = scenario.hosts.get(id as usize).cloned().unwrap_or_default();
        let frame_len = if config.nic.is_some() { SEGMENT_FRAME } else { FRAME };
        let segment_bytes = config.segment_bytes as usize;
        let mut rng = Rng::new(scenario.seed).fork(0x686f_7374 ^ u64::from(id) << 40);
        let endpoint = Endpoint::new(core.clone(), Box::new(rng.fork(0)));
        rng.next_u64();
        let mut host = Host {
            id,
            clock: Clock::new(config.clock_offset_us, config.clock_ppm),
            room: config.room as usize,
            config,
            core,
            largest: (0..scenario.honest())
                .map(|peer| [scenario.surely_fits(peer, id), scenario.surely_fits(id, peer)])
                .collect(),
            endpoint,
            rng,
            power: Power::On,
            watch: watch.clone(),
            trust: Trust::new(scenario.seed),
            suite: scenario.suite.recording(),
            early_calls: scenario.early_calls,
            early: scenario.early.clone(),
            service: scenario.services().get(id as usize).copied().unwrap_or(id),
            services: scenario.services(),
            templates: scenario.tickets(),
            generation: 0,
            registers: registers.clone(),
            tickets: BTreeMap::new(),
            short_keys: scenario.hosts_with_short_keys(),
            agenda: Agenda::default(),
            ring: VecDeque::new(),
            frame: vec![0; frame_len],
            cut: VecDeque::new(),
            segment_bytes,
            next_port: CLIENT_PORT,
            sessions: BTreeMap::new(),
            waiting: BTreeMap::new(),
            connecting: BTreeSet::new(),
            trying: BTreeSet::new(),
            started: BTreeMap::new(),
            long: BTreeSet::new(),
            look_from: 0,
            working: BTreeMap::new(),
            untaken: BTreeMap::new(),
            past: Stats::default(),
            events: Vec::new(),
        };
        host.know_tickets();
        for plan in scenario.calls(id) {
            let at = plan.at;
            let call = watch.report().plan(plan);
            host.agenda.add(at, Task::Call(call));
        }
        for fault in scenario.host_faults.iter().filter(|fault| fault.host == id) {
            host.agenda.add(Time::from_nanos(fault.at_us * 1000), Task::Mishap(fault.kind));
        }
        host
    }

    /// The core, to look at.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Counters of the core, of earlier lives and of this one.
    pub fn stats(&self) -> (Stats, Stats) {
        (self.past, *self.endpoint.stats())
    }

    /// Sessions that have keys and are not closed, and what both ends call them.
    pub fn live_sessions(&self) -> impl Iterator<Item = (SessionId, SessionKey)> + '_ {
        let live =
            self.sessions.iter().filter(|(_, known)| !known.over && known.receiver.is_some());
        live.map(|(id, known)| (*id, known.key))
    }

    fn local(&self) -> Time {
        self.clock.local(self.watch.look().now)
    }

    fn violated(&self, rule: Rule, detail: String) {
        self.watch.report().violated(rule, self.id, detail);
    }

    /// Lets all events happen and what follows from them, and looks at what has come of it.
    fn drain(&mut self) {
        self.let_happen();
        self.look_at_prefixes();
        if let Some(excess) = memory::excess(&self.endpoint, &self.core) {
            self.violated(Rule::Memory, excess);
        }
    }

    /// Lets all events happen and what follows from them.
    fn let_happen(&mut self) {
        self.endpoint.settle();
        loop {
            let mut events = core::mem::take(&mut self.events);
            while let Some(event) = self.endpoint.poll_event() {
                events.push(event);
            }
            if events.is_empty() {
                self.events = events;
                break;
            }
            let ended: Vec<(SessionId, CloseReason)> = events
                .iter()
                .filter_map(|event| match event {
                    Event::Closed { session, reason } => Some((*session, *reason)),
                    _ => None,
                })
                .collect();
            for event in events.drain(..) {
                self.happens(event, &ended);
            }
            self.events = events;
            self.endpoint.settle();
        }
        self.check_untaken();
    }

    fn happens(&mut self, event: Event, ended: &[(SessionId, CloseReason)]) {
        match event {
            Event::Flight { session, number, bytes, offer } => {
                self.on_flight(session, number, &bytes, offer.as_deref());
            }
            Event::Established { session } => self.on_established(session),
            Event::HandshakeFailed { session, .. } => self.on_handshake_failed(session),
            Event::Closed { session, reason } => self.on_closed(session, reason),
            Event::Request { rpc, body, early } => self.on_request(rpc, &body, early),
            Event::RequestCancelled { rpc } => {
                self.working.remove(&rpc);
                self.untaken.remove(&rpc);
            }
            Event::Response { user, result, .. } => {
                self.on_response(u32::try_from(user).unwrap_or(u32::MAX), result, ended);
            }
            Event::EarlyRefused { session } => self.prefixes_begin_anew(session),
            Event::Post { session, body } => self.on_post(session, &body),
            Event::KeyUpdateWanted { session } => self.register_next(session),
            Event::SegmentsLost { .. } => {}
        }
    }
}

impl Stack for Host {
    fn receive(&mut self, now: Time, packet: &mut Packet) {
        self.watch.report().begin(now, self.id);
        match self.power {
            Power::On => self.take(packet),
            Power::Paused(_) if self.ring.len() < self.config.ring_packets as usize => {
                self.ring.push_back(packet.clone());
            }
            Power::Paused(_) | Power::Down(_) => {}
        }
    }

    fn timeout(&mut self, now: Time) {
        self.watch.report().begin(now, self.id);
        self.power_up(now);
        while self.power == Power::On
            && let Some(task) = self.agenda.pop(now)
        {
            self.perform(task);
        }
        if self.power == Power::On {
            self.stock_up_all();
            let local = self.clock.local(now);
            if self.endpoint.poll_timeout().is_some_and(|due| due <= local) {
                self.endpoint.handle_timeout(local);
            }
            self.drain();
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        match self.power {
            Power::Paused(until) | Power::Down(until) => Some(until),
            Power::On => {
                let core = self.endpoint.poll_timeout().map(|due| self.clock.global(due));
                core.into_iter().chain(self.agenda.next()).min()
            }
        }
    }

    fn transmit(&mut self, now: Time, packet: &mut Packet) -> bool {
        if self.power != Power::On {
            return false;
        }
        self.watch.report().begin(now, self.id);
        let local = self.clock.local(now);
        loop {
            if let Some(next) = self.cut.pop_front() {
                *packet = next;
                self.note_sent(packet);
                return true;
            }
            let Some(sent) = self.endpoint.poll_transmit(local, &mut self.frame) else {
                // A call that can no longer be sent ends here, and others may follow it.
                self.drain();
                if !self.endpoint.wants_transmit() {
                    return false;
                }
                continue;
            };
            let Some(dst) = host_of(sent.remote.ip()) else { continue };
            packet.bytes.extend_from_slice(self.frame.get(..sent.len).unwrap_or_default());
            packet.src = self.id;
            packet.dst = dst;
            packet.priority = sent.priority;
            packet.flow = u64::from(self.id) << 32 | u64::from(dst);
            if let (Some(size), Some(nic)) = (sent.segment, self.config.nic) {
                nic.cut(packet, size, &mut self.cut);
                packet.reset();
                continue;
            }
            self.note_sent(packet);
            return true;
        }
    }
}
