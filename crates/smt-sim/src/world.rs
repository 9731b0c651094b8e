//! The engine: hosts around a network, and what happens to them one event after the other.
//!
//! Events are in order of time, and at the same time in the order in which they were caused, so that
//! a run depends on nothing but its configuration, its hosts and its seed.

use core::fmt;
use core::mem;
use std::time::Duration;

use smt_proto::Time;

use crate::events::{Event, Events, PICOS_PER_NANO, Picos, picos_of, time_of};
use crate::net::{Fabric, Fifo, FlightId, Flights, NetConfig, NetStats, Rate};
use crate::packet::{HostId, Packet};
use crate::rng::Rng;
use crate::stack::Stack;
use crate::tap::{Tap, Verdict};

/// How long somebody has to wait who is woken, and asks to be woken at once.
const PATIENCE: Duration = Duration::from_micros(1);

/// What an observer is told about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It has left its sender's NIC, and no tap has seen it yet.
    Sent,
    /// A tap has added it.
    Added,
    /// Its host is about to receive it.
    Delivered,
    /// It is lost.
    Dropped(Why),
}

/// Why a packet is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A tap has dropped it.
    Tap,
    /// The buffer of a switch port was full.
    Full,
    /// It goes to a host that does not exist.
    Nowhere,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tap => "by tap",
            Self::Full => "buffer full",
            Self::Nowhere => "no such host",
        })
    }
}

/// Something that is told about packets.
pub type Observer = Box<dyn FnMut(Time, Moment, &Packet)>;

/// Hosts and the network between them.
///
/// After changing a host from outside, [`poke`](Self::poke) it; all else happens by itself in
/// [`step`](Self::step) and [`run_until`](Self::run_until).
pub struct World<S: Stack> {
    /// The hosts, by number.
    pub hosts: Vec<S>,
    now: Picos,
    events: Events,
    flights: Flights,
    nics: Vec<Nic>,
    fabric: Fabric,
    taps: Vec<Seat>,
    /// Where taps put what they add; empty between calls.
    extra: Vec<(Duration, Packet)>,
    observers: Vec<Observer>,
    stats: NetStats,
    rate: Rate,
    to_switch: Picos,
    nic_queue_bytes: u32,
}

/// The NIC of a host, and when the host wants to be woken.
struct Nic {
    /// The packet on the wire.
    sending: Option<FlightId>,
    queue: Fifo,
    queued_bytes: u32,
    alarm: Alarm,
}

/// A tap, and when it wants to be woken.
struct Seat {
    tap: Box<dyn Tap>,
    alarm: Alarm,
}

/// The one event that will wake somebody. Others for the same one, which were superseded by an
/// earlier time, do nothing when they come.
#[derive(Default)]
struct Alarm {
    set: Option<Picos>,
    /// When it last rang. Who then still asks for a time that had come by then, is woken after
    /// [`PATIENCE`] only, so that time goes on.
    rang: Option<Time>,
}

impl<S: Stack> World<S> {
    /// A network at time 0 in which nothing has happened. Hosts are asked for packets and timers
    /// when they are first [poked](Self::poke).
    ///
    /// # Panics
    /// If the number of hosts is not that of the network, or the network fails its
    /// [check](NetConfig::check).
    #[must_use]
    pub fn new(net: &NetConfig, hosts: Vec<S>, seed: u64) -> Self {
        assert_eq!(net.check(), Ok(()), "the network is checked before it is built");
        assert_eq!(net.hosts() as usize, hosts.len(), "one stack for each host");
        let nic =
            || Nic { sending: None, queue: Fifo::EMPTY, queued_bytes: 0, alarm: Alarm::default() };
        Self {
            now: 0,
            events: Events::new(),
            flights: Flights::default(),
            nics: hosts.iter().map(|_| nic()).collect(),
            fabric: Fabric::new(net, Rng::new(seed).fork(0x6661_6272)),
            taps: Vec::new(),
            extra: Vec::new(),
            observers: Vec::new(),
            stats: NetStats::new(hosts.len(), net.uplinks()),
            rate: Rate::from_gbps(net.link_gbps),
            to_switch: net.to_switch(),
            nic_queue_bytes: net.nic_queue_bytes,
            hosts,
        }
    }

    /// The time.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Time {
        time_of(self.now)
    }

    /// Adds a tap behind those that are there: the first added sees packets first.
    pub fn add_tap(&mut self, tap: Box<dyn Tap>) {
        self.taps.push(Seat { tap, alarm: Alarm::default() });
        self.wake_tap_later(self.taps.len() - 1);
    }

    /// Adds an observer, which is told about every packet.
    pub fn observe(&mut self, observer: Observer) {
        self.observers.push(observer);
    }

    /// Asks a host for packets and its timer, after the caller has changed it.
    pub fn poke(&mut self, host: HostId) {
        if (host as usize) < self.hosts.len() {
            self.serve(host);
        }
    }

    /// Lets the next event happen; false if there is none any more.
    pub fn step(&mut self) -> bool {
        self.step_until(Picos::MAX)
    }

    /// Lets everything happen up to `end`, included; then it is `end`, if it was not later already.
    pub fn run_until(&mut self, end: Time) {
        let end = picos_of(end);
        while self.step_until(end) {}
        self.now = self.now.max(end);
    }

    /// Packets inside the network, from the NICs' queues up to the hosts that receive them.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// What the network has done so far.
    #[must_use]
    pub fn stats(&self) -> &NetStats {
        &self.stats
    }

    #[inline]
    fn step_until(&mut self, end: Picos) -> bool {
        let Some((at, event)) = self.events.pop_until(end) else { return false };
        self.now = at;
        match event {
            Event::Sent(host) => self.sent(host),
            Event::Resume(id) => self.pass_taps(id),
            Event::Arrive(id) => self.arrive(id),
            Event::Free(port) => self.fabric.free(
                self.now,
                port,
                &mut self.flights,
                &mut self.events,
                &mut self.stats,
            ),
            Event::Deliver(id) => self.deliver(id),
            Event::Wake(host) => self.wake(host),
            Event::WakeTap(tap) => self.wake_tap(tap as usize),
        }
        true
    }

    /// A packet has left its NIC to the last bit.
    #[inline]
    fn sent(&mut self, host: HostId) {
        let nic = &mut self.nics[host as usize];
        if let Some(id) = nic.sending.take() {
            if let Some(next) = nic.queue.pop(&self.flights) {
                nic.queued_bytes -= self.flights[next].packet.wire_len();
                self.start(host, next);
            }
            self.flights[id].node = self.fabric.entry(host);
            self.flights[id].tap = 0;
            self.stats.sent += 1;
            self.stats.hops += 1;
            self.tell(Moment::Sent, id);
            self.pass_taps(id);
        }
        self.serve(host);
    }

    /// Shows a packet to the taps that have not seen it, and sends it on.
    fn pass_taps(&mut self, id: FlightId) {
        while let Some(seat) = self.taps.get_mut(self.flights[id].tap as usize) {
            let index = self.flights[id].tap;
            self.flights[id].tap += 1;
            let now = time_of(self.now);
            let verdict = seat.tap.packet(now, &mut self.flights[id].packet, &mut self.extra);
            self.wake_tap_later(index.into());
            self.launch_extra(index + 1);
            match verdict {
                Verdict::Pass => {}
                Verdict::Drop => return self.drop(id, Why::Tap),
                Verdict::Delay(delay) => {
                    return self.events.push(self.after(delay), Event::Resume(id));
                }
            }
        }
        self.events.push(self.now + self.to_switch, Event::Arrive(id));
    }

    /// Sends on what a tap has added; `tap` is the first that sees it.
    fn launch_extra(&mut self, tap: u16) {
        if self.extra.is_empty() {
            return;
        }
        let mut extra = mem::take(&mut self.extra);
        for (delay, packet) in extra.drain(..) {
            let id = self.flights.begin();
            let flight = &mut self.flights[id];
            flight.node = self.fabric.entry(packet.src);
            flight.tap = tap;
            flight.packet = packet;
            self.stats.added += 1;
            self.tell(Moment::Added, id);
            self.events.push(self.after(delay), Event::Resume(id));
        }
        self.extra = extra;
    }

    #[inline]
    fn arrive(&mut self, id: FlightId) {
        let (flights, events) = (&mut self.flights, &mut self.events);
        if let Err(why) = self.fabric.arrive(self.now, id, flights, events, &mut self.stats) {
            self.drop(id, why);
        }
    }

    #[inline]
    fn deliver(&mut self, id: FlightId) {
        self.stats.delivered += 1;
        self.tell(Moment::Delivered, id);
        let now = time_of(self.now);
        let packet = &mut self.flights[id].packet;
        let host = packet.dst;
        if let Some(stack) = self.hosts.get_mut(host as usize) {
            stack.receive(now, packet);
            self.flights.end(id);
            self.serve(host);
        }
    }

    fn drop(&mut self, id: FlightId, why: Why) {
        *match why {
            Why::Tap => &mut self.stats.dropped_tap,
            Why::Full => &mut self.stats.dropped_full,
            Why::Nowhere => &mut self.stats.dropped_nowhere,
        } += 1;
        self.tell(Moment::Dropped(why), id);
        self.flights.end(id);
    }

    fn wake(&mut self, host: HostId) {
        let stack = &mut self.hosts[host as usize];
        let now = time_of(self.now);
        if self.nics[host as usize].alarm.rings(self.now) {
            if stack.next_timeout().is_some_and(|at| at <= now) {
                stack.timeout(now);
                self.nics[host as usize].alarm.rang = Some(now);
            }
            self.serve(host);
        }
    }

    fn wake_tap(&mut self, index: usize) {
        let now = time_of(self.now);
        let seat = &mut self.taps[index];
        if seat.alarm.rings(self.now) {
            if seat.tap.next_timeout().is_some_and(|at| at <= now) {
                seat.tap.timeout(now, &mut self.extra);
                seat.alarm.rang = Some(now);
            }
            self.wake_tap_later(index);
            self.launch_extra(index as u16 + 1);
        }
    }

    fn wake_tap_later(&mut self, index: usize) {
        let seat = &mut self.taps[index];
        if let Some(at) = seat.alarm.earlier(self.now, seat.tap.next_timeout()) {
            self.events.push(at, Event::WakeTap(index as u32));
        }
    }

    /// Asks a host for packets while its NIC has room, and for its timer.
    #[inline]
    fn serve(&mut self, host: HostId) {
        while self.nics[host as usize].has_room(self.nic_queue_bytes) && self.ask(host) {}
        let alarm = &mut self.nics[host as usize].alarm;
        if let Some(at) = alarm.earlier(self.now, self.hosts[host as usize].next_timeout()) {
            self.events.push(at, Event::Wake(host));
        }
    }

    /// Asks a host for one packet.
    #[inline]
    fn ask(&mut self, host: HostId) -> bool {
        let id = self.flights.begin();
        let now = time_of(self.now);
        let packet = &mut self.flights[id].packet;
        if !self.hosts[host as usize].transmit(now, packet) {
            self.flights.end(id);
            return false;
        }
        packet.sent_at = now;
        let nic = &mut self.nics[host as usize];
        if nic.sending.is_none() {
            self.start(host, id);
        } else {
            nic.queued_bytes += packet.wire_len();
            nic.queue.push(&mut self.flights, id);
        }
        true
    }

    /// Puts a packet on the wire of a NIC.
    #[inline]
    fn start(&mut self, host: HostId, id: FlightId) {
        let bytes = self.flights[id].packet.wire_len();
        self.stats.up_bytes[host as usize] += u64::from(bytes);
        self.nics[host as usize].sending = Some(id);
        self.events.push(self.now + self.rate.picos(bytes), Event::Sent(host));
    }

    fn tell(&mut self, moment: Moment, id: FlightId) {
        for observer in &mut self.observers {
            observer(time_of(self.now), moment, &self.flights[id].packet);
        }
    }

    fn after(&self, delay: Duration) -> Picos {
        let picos = u64::try_from(delay.as_nanos().saturating_mul(u128::from(PICOS_PER_NANO)));
        self.now.saturating_add(picos.unwrap_or(Picos::MAX))
    }
}

impl Nic {
    #[inline]
    fn has_room(&self, queue_bytes: u32) -> bool {
        self.sending.is_none() || self.queued_bytes < queue_bytes
    }
}

impl Alarm {
    /// Whether an event at this time is the one that counts; it is gone then.
    #[inline]
    fn rings(&mut self, now: Picos) -> bool {
        let rings = self.set == Some(now);
        if rings {
            self.set = None;
        }
        rings
    }

    /// When an event is needed for a timer; `None` if the one that is set comes in time.
    #[inline]
    fn earlier(&mut self, now: Picos, timer: Option<Time>) -> Option<Picos> {
        let timer = timer?;
        let at = match self.rang {
            Some(rang) if timer <= rang => picos_of(rang + PATIENCE),
            _ => picos_of(timer),
        };
        let at = at.max(now);
        if self.set.is_some_and(|set| set <= at) {
            return None;
        }
        self.set = Some(at);
        Some(at)
    }
}

#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
