//! One run: builds the world of a scenario, lets it happen under the eyes of the checkers, and
//! closes everything at its end.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use smt_proto::{SessionId, Stats, Time};

use super::actor::Actor;
use crate::attack::Tally;
use crate::check::delivery::Outcome;
use crate::check::sessions::SessionKey;
use crate::check::{Rule, Shared, Violation, leftovers, nonces};
use crate::fault::Faults;
use crate::host::{Host, external};
use crate::packet::{HostId, Packet};
use crate::rng::mix;
use crate::scenario::Scenario;
use crate::tls::Registers;
use crate::world::{Moment, Observer, World};

/// How long acknowledgements may take once all calls are over: the longest NEED_ACK timer, twice.
const ACKS: Duration = Duration::from_secs(4);
/// How long sessions may take to end once they were closed.
const CLOSING: Duration = Duration::from_secs(2);

/// What a run is made with beside its scenario.
#[derive(Default)]
pub struct Options {
    /// A bug planted in the core of all hosts.
    #[cfg(feature = "mutations")]
    pub mutation: Option<smt_proto::mutation::Mutation>,
    /// Those who are told about every packet.
    pub observers: Vec<Observer>,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The rule that was broken, if one was.
    pub violation: Option<Violation>,
    /// Calls by how they ended.
    pub calls: BTreeMap<&'static str, u64>,
    /// How often faults struck, by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Attacks, by name.
    pub attacks: BTreeMap<&'static str, u64>,
    /// Packets that hosts have sent.
    pub sent: u64,
    /// Packets delivered to hosts, those of attackers included.
    pub delivered: u64,
    /// Packets that taps have added: duplicates and attackers' packets.
    pub added: u64,
    /// Packets that hosts have sent again.
    pub retransmitted: u64,
    /// Sessions that hosts count as established, both ends counted.
    pub sessions: u64,
    /// Sessions declared dead.
    pub sessions_dead: u64,
    /// Handshakes that failed.
    pub handshakes_failed: u64,
    /// Handshakes begun again for a RETRY.
    pub retries: u64,
    /// Key updates.
    pub key_updates: u64,
    /// Times that a peer was asked for one.
    pub updates_asked: u64,
    /// Records dropped because their key had failed to open too many.
    pub failed_opens: u64,
    /// Offers of early data that servers took.
    pub early_accepted: u64,
    /// Those that clients were told were not taken.
    pub early_refused: u64,
    /// Requests that ran before their handshake was over.
    pub early_requests: u64,
    /// Post-handshake messages that have arrived.
    pub posts: u64,
    /// Segments that hosts have handed to their cards, how often one was found to arrive, and how often
    /// they were given up.
    pub segments: [u64; 3],
    /// Bundles that have arrived, and the messages in them.
    pub bundles: [u64; 2],
    /// Lanes made beside the first of their sessions, both ends counted.
    pub lanes: u64,
    /// Packets of handshakes at shards that make none.
    pub wrong_lanes: u64,
    /// Nonces that sealed something.
    pub nonces: u64,
    /// Packets whose tag was wrong.
    pub bad_tags: u64,
    /// Virtual time until everything was closed, in nanoseconds.
    pub virtual_ns: u64,
    /// It was not run: it would have needed too much memory.
    pub refused: bool,
    /// A hash of what happened to every packet, in order.
    pub digest: u64,
}

/// Runs a scenario that is [valid](Scenario::validate).
pub fn run(scenario: &Scenario, options: Options) -> Report {
    nonces::reset();
    let watch = Shared::new(scenario);
    let tally = Tally::default();
    let faults = Faults::new(scenario.faults.clone(), scenario.seed ^ 0x6661_756c);
    let struck = faults.struck();
    let mut world = build(scenario, &watch, &tally, &options);
    world.add_tap(Box::new(faults));
    if let Some(plan) = &scenario.attack {
        for tap in plan.taps(scenario.honest(), scenario.seed, &tally) {
            world.add_tap(tap);
        }
    }
    let digest = Rc::new(Cell::new(scenario.seed));
    world.observe(digester(digest.clone()));
    options.observers.into_iter().for_each(|observer| world.observe(observer));
    let mut run = Run { scenario, world, watch };
    run.all();
    let mut report = run.report();
    report.digest = digest.get();
    for (rule, count) in scenario.faults.iter().zip(struck.iter()) {
        *report.faults.entry(rule.fault.name()).or_default() += count;
    }
    report.attacks = tally.counts();
    report
}

fn build(scenario: &Scenario, watch: &Shared, tally: &Tally, options: &Options) -> World<Actor> {
    let core = |config: &crate::scenario::HostConfig| {
        #[allow(unused_mut, reason = "changed only where bugs can be planted")]
        let mut core = config.core();
        #[cfg(feature = "mutations")]
        {
            core.mutation = options.mutation;
        }
        let _ = options;
        core
    };
    let registers = Registers::default();
    let mut hosts: Vec<Host> = (0..)
        .zip(&scenario.hosts)
        .map(|(id, config)| Host::new(scenario, id, core(config), watch, &registers))
        .collect();
    external(scenario, &mut hosts);
    let mut actors: Vec<Actor> =
        hosts.into_iter().map(|host| Actor::Honest(Box::new(host))).collect();
    let honest = scenario.honest();
    if let Some(plan) = &scenario.attack {
        for index in 0..plan.off_path_hosts() {
            let intruder = plan.off_path(index, honest + index, honest, scenario.seed, tally);
            actors.push(Actor::Intruder(Box::new(intruder)));
        }
    }
    actors.resize_with(scenario.net.hosts() as usize, || Actor::Nobody);
    World::new(&scenario.net, actors, scenario.seed)
}

/// An observer that hashes all it is told.
fn digester(digest: Rc<Cell<u64>>) -> Observer {
    Box::new(move |now: Time, moment: Moment, packet: &Packet| {
        let moment = match moment {
            Moment::Sent => 1,
            Moment::Added => 2,
            Moment::Delivered => 3,
            Moment::Dropped(_) => 4,
        };
        let mut state = digest.get() ^ now.as_nanos() ^ moment << 56;
        state = mix(state ^ u64::from(packet.src) << 32 ^ u64::from(packet.dst));
        let (chunks, rest) = packet.bytes.as_chunks::<8>();
        for chunk in chunks {
            let word = u64::from_le_bytes(*chunk);
            state = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
        }
        for byte in rest {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
        }
        digest.set(mix(state));
    })
}

struct Run<'a> {
    scenario: &'a Scenario,
    world: World<Actor>,
    watch: Shared,
}

impl Run<'_> {
    fn all(&mut self) {
        for host in 0..self.scenario.net.hosts() {
            self.world.poke(host);
        }
        let (stop, end) = (self.scenario.faults_stop(), self.scenario.last_end());
        if !self.steps(end, |run| run.world.now() >= stop && run.watch.look().open == 0) {
            return;
        }
        self.watch.report().all_must_be_over(self.scenario.patience());
        if self.over() {
            return;
        }
        let acked = self.world.now() + ACKS;
        let quiet = |run: &Self| run.in_flight().is_none() && run.uneven().is_none();
        if !self.steps(acked, quiet) {
            return;
        }
        if let Some((host, detail)) = self.in_flight() {
            return self.watch.report().violated(Rule::Leftovers, host, detail);
        }
        if let Some((host, detail)) = self.uneven() {
            return self.watch.report().violated(Rule::Sessions, host, detail);
        }
        self.close();
    }

    /// Steps until something is reached or `end` has come. False if a rule was broken.
    fn steps(&mut self, end: Time, reached: impl Fn(&Self) -> bool) -> bool {
        while !reached(self) && self.world.now() < end {
            if !self.world.step() {
                break;
            }
            if nonces::reused() {
                let mut watch = self.watch.report();
                let host = watch.at_work;
                let detail = "a nonce was used for two plaintexts".to_owned();
                watch.violated(Rule::Nonces, host, detail);
            }
            if self.over() {
                return false;
            }
        }
        true
    }

    fn over(&self) -> bool {
        self.watch.look().violation.is_some()
    }

    /// Sessions that both ends have.
    fn live(&self) -> BTreeMap<HostId, Vec<(SessionKey, SessionId)>> {
        let mut ends: BTreeMap<SessionKey, Vec<(HostId, SessionId)>> = BTreeMap::new();
        for (id, actor) in (0..).zip(&self.world.hosts) {
            for (session, key) in actor.honest().into_iter().flat_map(Host::live_sessions) {
                ends.entry(key).or_default().push((id, session));
            }
        }
        let mut live: BTreeMap<HostId, Vec<(SessionKey, SessionId)>> = BTreeMap::new();
        for (key, both) in ends.into_iter().filter(|(_, ends)| ends.len() == 2) {
            for (host, session) in both {
                live.entry(host).or_default().push((key, session));
            }
        }
        live
    }

    fn in_flight(&self) -> Option<(HostId, String)> {
        self.live().into_iter().find_map(|(id, sessions)| {
            let host = self.world.hosts.get(id as usize)?.honest()?;
            let mut live =
                sessions.into_iter().map(|(key, session)| (key, host.in_flight(session)));
            Some((id, leftovers::in_flight(&mut live)?))
        })
    }

    /// Where not all shards agree on which sessions there are.
    fn uneven(&self) -> Option<(HostId, String)> {
        let mut hosts = (0..).zip(&self.world.hosts);
        hosts.find_map(|(id, actor)| Some((id, actor.honest()?.uneven()?)))
    }

    fn close(&mut self) {
        let now = self.world.now();
        for id in 0..self.scenario.honest() {
            self.watch.report().begin(now, id);
            if let Some(host) = self.world.hosts.get_mut(id as usize).and_then(Actor::honest_mut) {
                host.close_all(None);
            }
            self.world.poke(id);
        }
        let handshakes = self.scenario.hosts.iter().map(|host| host.handshake_timeout_ms).max();
        let end = now + CLOSING + 2 * Duration::from_millis(handshakes.unwrap_or(0));
        let empty = |run: &Self| run.held().is_none();
        if self.steps(end, empty)
            && let Some((host, detail)) = self.held()
        {
            self.watch.report().violated(Rule::Leftovers, host, detail);
        }
    }

    fn held(&self) -> Option<(HostId, String)> {
        (0..).zip(&self.world.hosts).find_map(|(id, actor)| {
            Some((id, actor.honest()?.endpoints().find_map(leftovers::held)?))
        })
    }

    fn report(&self) -> Report {
        let watch = self.watch.look();
        let net = self.world.stats();
        let mut report = Report {
            violation: watch.violation.clone(),
            sent: net.sent,
            delivered: net.delivered,
            added: net.added,
            virtual_ns: self.world.now().as_nanos(),
            nonces: nonces::count() as u64,
            ..Report::default()
        };
        for call in &watch.calls {
            let name = call.outcome.map_or("open", Outcome::name);
            *report.calls.entry(name).or_default() += 1;
        }
        let host_faults = ["pause", "crash", "operator", "stall", "misdirect"];
        for (name, count) in host_faults.into_iter().zip(watch.host_faults) {
            if count > 0 {
                report.faults.insert(name, count);
            }
        }
        for (name, count) in [("full queue", net.dropped_full), ("trim", net.trimmed)] {
            if count > 0 {
                report.faults.insert(name, count);
            }
        }
        for host in self.world.hosts.iter().filter_map(Actor::honest) {
            report.add(&host.stats());
        }
        report
    }
}

impl Report {
    fn add(&mut self, stats: &Stats) {
        self.retransmitted += stats.packets_retransmitted;
        self.sessions += stats.handshakes_completed;
        self.sessions_dead += stats.sessions_dead;
        self.handshakes_failed += stats.handshakes_failed;
        self.retries += stats.retries_received;
        self.key_updates += stats.key_updates;
        self.early_accepted += stats.early_accepted;
        self.early_refused += stats.early_refused;
        self.early_requests += stats.early_requests_received;
        self.posts += stats.posts_received;
        self.updates_asked += stats.key_updates_asked;
        let bundles = [stats.bundles_received, stats.bundled_received];
        self.bundles.iter_mut().zip(bundles).for_each(|(sum, seen)| *sum += seen);
        let seen = [stats.tso_segments_sent, stats.tso_confirmed, stats.tso_given_up];
        self.segments.iter_mut().zip(seen).for_each(|(sum, seen)| *sum += seen);
        self.failed_opens += stats.limit_failed_opens;
        self.bad_tags += stats.dropped_bad_tag;
        self.lanes += stats.lanes_opened;
        self.wrong_lanes += stats.dropped_wrong_lane;
    }
}
