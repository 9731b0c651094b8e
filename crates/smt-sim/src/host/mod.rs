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
mod shards;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use smt_proto::crypto::Suite;
use smt_proto::error::CloseReason;
use smt_proto::{Config, Endpoint, Event, SessionId, Stats, Time};

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
use shards::{Rpc, Shard, config_of};

pub use sessions::external;
pub use shards::steer;

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
    /// The shards of its endpoint, one for each core; the first makes all sessions.
    shards: Vec<Shard>,
    /// Which of them has the next packet.
    turn: usize,
    /// Packets go to any shard until then.
    misdirected: Option<Time>,
    /// How many lanes sessions with each host have.
    lanes: Vec<u8>,
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
    frame: Vec<u8>,
    /// What its card has cut and not sent yet.
    cut: VecDeque<Packet>,
    /// The largest segment that its card takes now, in bytes.
    segment_bytes: usize,
    next_port: u16,
    room: usize,
    /// All sessions, by the names that the first shard has for them.
    sessions: BTreeMap<SessionId, Known>,
    /// Calls that wait for a session or for room, by whom they are for.
    waiting: BTreeMap<HostId, VecDeque<CallId>>,
    /// Peers with a session on its way, or to be tried again later.
    connecting: BTreeSet<HostId>,
    /// Those with a look at their waiting calls before them.
    trying: BTreeSet<HostId>,
    started: BTreeMap<CallId, Rpc>,
    /// Which of those have responses of several packets, and where the next look begins.
    long: BTreeSet<CallId>,
    look_from: CallId,
    working: BTreeMap<Rpc, CallId>,
    /// Requests whose answer the core did not take, until their cancellation is told.
    untaken: BTreeMap<Rpc, CallId>,
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
        let count = config.shards;
        let shards = (0..usize::from(count)).map(|index| {
            Shard::new(config_of(&core, index, count), Box::new(rng.fork(index as u64)))
        });
        let shards = shards.collect();
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
            shards,
            turn: 0,
            misdirected: None,
            lanes: (0..scenario.honest()).map(|peer| scenario.lanes(id, peer)).collect(),
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

    /// The cores of its shards, to look at.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.shards.iter().map(|shard| &shard.endpoint)
    }

    /// Counters of the cores, of earlier lives and of this one.
    pub fn stats(&self) -> Stats {
        let mut all = self.past;
        self.endpoints().for_each(|endpoint| mishaps::add(&mut all, endpoint.stats()));
        all
    }

    /// Sessions that have keys and are not closed, and what both ends call them.
    pub fn live_sessions(&self) -> impl Iterator<Item = (SessionId, SessionKey)> + '_ {
        let live = self.sessions.iter().filter(|(_, known)| !known.over && known.is_keyed());
        live.map(|(id, known)| (*id, known.key))
    }

    /// RPCs of a session that are not over, at all shards.
    pub fn in_flight(&self, session: SessionId) -> usize {
        let places = self.places(session).into_iter();
        places.map(|(at, id)| self.shards[at].endpoint.in_flight(id)).sum()
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
        if let Some(excess) = self.excess() {
            self.violated(Rule::Memory, excess);
        }
    }

    /// Which limit is not kept, by a shard or by all of them together.
    fn excess(&self) -> Option<String> {
        let of_shard = self.endpoints().find_map(memory::excess);
        of_shard.or_else(|| {
            if self.shards.len() < 2 && self.lanes.iter().all(|lanes| *lanes < 2) {
                return None;
            }
            self.sessions.keys().find_map(|session| {
                let places = self.places(*session).into_iter();
                let parts = places.map(|(at, id)| (&self.shards[at].endpoint, id));
                memory::excess_of_session(parts, &self.core.limits)
            })
        })
    }

    /// Lets all events happen and what follows from them.
    fn let_happen(&mut self) {
        loop {
            let mut any = false;
            for shard in 0..self.shards.len() {
                any |= !self.is_stalled(shard) && self.happens_at(shard);
            }
            if !any {
                break;
            }
        }
        self.check_untaken();
    }

    /// Lets the events of a shard happen. False if there are none.
    fn happens_at(&mut self, shard: usize) -> bool {
        let endpoint = &mut self.shards[shard].endpoint;
        endpoint.settle();
        let mut events = core::mem::take(&mut self.events);
        while let Some(event) = endpoint.poll_event() {
            events.push(event);
        }
        let any = !events.is_empty();
        let ended: Vec<(SessionId, CloseReason)> = events
            .iter()
            .filter_map(|event| match event {
                Event::Closed { session, reason } => {
                    Some((self.shared_name(shard, *session)?, *reason))
                }
                _ => None,
            })
            .collect();
        for event in events.drain(..) {
            self.happens(shard, event, &ended);
        }
        self.events = events;
        any
    }

    fn happens(&mut self, shard: usize, event: Event, ended: &[(SessionId, CloseReason)]) {
        match event {
            Event::Flight { session, number, bytes, offer } => {
                self.on_flight(session, number, &bytes, offer.as_deref());
            }
            Event::Established { session } => self.on_established(session),
            Event::HandshakeFailed { session, .. } => self.on_handshake_failed(session),
            Event::Closed { session, reason } => self.on_closed(shard, session, reason),
            Event::Request { rpc, .. } | Event::RequestCancelled { rpc } => {
                let Some(session) = self.shared_name(shard, rpc.session) else {
                    let detail = "a request of a session that nobody knows".to_owned();
                    return self.violated(Rule::Delivery, detail);
                };
                let known = self.sessions.get_mut(&session);
                let place = known.and_then(|known| known.places.get_mut(shard));
                match place.and_then(|place| place.as_mut()?.held.as_mut()) {
                    Some(held) => held.push(event),
                    None => self.on_request_event(Rpc { shard, session, id: rpc }, event),
                }
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

    /// The next packet of the shards, which take turns: how long it is and what goes with it.
    fn next_packet(&mut self, local: Time) -> Option<smt_proto::Transmit> {
        let count = self.shards.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            let shard = &mut self.shards[at];
            if shard.stalled.is_some() {
                continue;
            }
            if let Some(sent) = shard.endpoint.poll_transmit(local, &mut self.frame) {
                self.turn = (at + 1) % count;
                return Some(sent);
            }
        }
        None
    }

    fn wants_transmit(&self) -> bool {
        let awake = self.shards.iter().filter(|shard| shard.stalled.is_none());
        awake.into_iter().any(|shard| shard.endpoint.wants_transmit())
    }
}

impl Stack for Host {
    fn receive(&mut self, now: Time, packet: &mut Packet) {
        self.watch.report().begin(now, self.id);
        if let Power::Down(_) = self.power {
            return;
        }
        let Some(shard) = self.steer(&packet.bytes, now) else { return };
        if self.power == Power::On && !self.is_stalled(shard) {
            return self.take(shard, packet);
        }
        let ring = &mut self.shards[shard].ring;
        if ring.len() < self.config.ring_packets as usize {
            ring.push_back(packet.clone());
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
            if !self.is_stalled(0) {
                self.stock_up_all();
            }
            let local = self.clock.local(now);
            for shard in 0..self.shards.len() {
                if self.is_stalled(shard) {
                    continue;
                }
                if self.looks_at(shard).is_some_and(|at| at <= now) {
                    self.take_notes(shard);
                }
                let endpoint = &mut self.shards[shard].endpoint;
                if endpoint.poll_timeout().is_some_and(|due| due <= local) {
                    endpoint.handle_timeout(local);
                }
            }
            self.drain();
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        match self.power {
            Power::Paused(until) | Power::Down(until) => Some(until),
            Power::On => {
                let of_shard = |at: usize| {
                    let shard = &self.shards[at];
                    if shard.stalled.is_some() {
                        return shard.stalled;
                    }
                    let core = shard.endpoint.poll_timeout().map(|due| self.clock.global(due));
                    core.into_iter().chain(self.looks_at(at)).min()
                };
                (0..self.shards.len()).filter_map(of_shard).chain(self.agenda.next()).min()
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
            let Some(sent) = self.next_packet(local) else {
                // A call that can no longer be sent ends here, and others may follow it.
                self.drain();
                if !self.wants_transmit() {
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
