//! All switches of a network: a packet comes in, and leaves by a port when its turn comes.

use super::balancer::{Balancer, DATA_LEN, is_data};
use super::config::{NetConfig, Spread};
use super::flights::{FlightId, Flights};
use super::port::{End, Port, Rate};
use super::routes::{Routes, Way};
use super::stats::NetStats;
use crate::events::{Event, Events, Picos};
use crate::packet::{HostId, PRIORITIES, Packet};
use crate::rng::{Rng, mix};
use crate::world::Why;

/// The switches and what is known of them.
pub(crate) struct Fabric {
    routes: Routes,
    ports: Vec<Port>,
    spread: Spread,
    rng: Rng,
    /// One for each leaf, if messages are spread.
    balancers: Vec<Balancer>,
    rules: Rules,
}

/// What all ports obey.
struct Rules {
    to_switch: Picos,
    to_host: Picos,
    buffer_bytes: u32,
    mark_bytes: u32,
    levels: u8,
    trim: bool,
}

impl Fabric {
    pub(crate) fn new(net: &NetConfig, rng: Rng) -> Self {
        let routes = Routes::new(&net.topology);
        let (link, uplink) = (Rate::from_gbps(net.link_gbps), Rate::from_gbps(net.uplink_gbps()));
        let at_host = |end| matches!(end, End::Host(_));
        let ports =
            routes.ends().map(|end| Port::new(if at_host(end) { link } else { uplink }, end));
        let ports = ports.collect();
        let balancers = match net.spread {
            Spread::Message => routes.leaves(),
            Spread::Flow | Spread::Packet => 0,
        };
        Self {
            ports,
            spread: net.spread,
            rng,
            balancers: (0..balancers).map(|_| Balancer::new(routes.spines())).collect(),
            routes,
            rules: Rules {
                to_switch: net.to_switch(),
                to_host: net.to_host(),
                buffer_bytes: net.buffer_bytes,
                mark_bytes: net.mark_bytes,
                levels: net.priorities.clamp(1, PRIORITIES as u8),
                trim: net.trim,
            },
        }
    }

    /// The switch where packets of a host enter; those of hosts that do not exist enter at the
    /// first.
    #[inline]
    pub(crate) fn entry(&self, host: HostId) -> u16 {
        self.routes.leaf_of(host).unwrap_or(0) as u16
    }

    /// A packet is ready to leave the switch it is at. If that fails, the caller drops it.
    #[inline]
    pub(crate) fn arrive(
        &mut self,
        now: Picos,
        id: FlightId,
        flights: &mut Flights,
        events: &mut Events,
        stats: &mut NetStats,
    ) -> Result<(), Why> {
        let flight = &flights[id];
        let number = match self.routes.way(flight.node.into(), flight.packet.dst) {
            None => return Err(Why::Nowhere),
            Some(Way::Port(port)) => port,
            Some(Way::Up(leaf)) => self.choose_uplink(now, leaf, &flight.packet, stats),
        };
        let port = &mut self.ports[number as usize];
        if port.is_idle(now) {
            port.transmit(now, id, &self.rules, flights, events, stats);
            return Ok(());
        }
        port.queue(id, &self.rules, flights, stats)?;
        if !port.awaited {
            port.awaited = true;
            events.push(port.busy_until, Event::Free(number));
        }
        Ok(())
    }

    /// The wire of a port at which packets wait is free.
    #[inline]
    pub(crate) fn free(
        &mut self,
        now: Picos,
        number: u32,
        flights: &mut Flights,
        events: &mut Events,
        stats: &mut NetStats,
    ) {
        let port = &mut self.ports[number as usize];
        if let Some(id) = port.pop(flights) {
            port.transmit(now, id, &self.rules, flights, events, stats);
        }
        port.awaited = !port.is_empty();
        if port.awaited {
            events.push(port.busy_until, Event::Free(number));
        }
    }

    fn choose_uplink(
        &mut self,
        now: Picos,
        leaf: u32,
        packet: &Packet,
        stats: &mut NetStats,
    ) -> u32 {
        let first = self.routes.uplink(leaf, 0);
        let spines = self.routes.spines();
        let spine = match self.spread {
            Spread::Flow => {
                let hosts = u64::from(packet.src) << 32 | u64::from(packet.dst);
                // Hashed one after the other: a flow may itself be a hash of its hosts.
                (mix(hosts.rotate_left(32) ^ mix(!packet.flow)) % u64::from(spines)) as u32
            }
            Spread::Packet => self.rng.below(u64::from(spines)) as u32,
            Spread::Message => {
                let ports = &self.ports[first as usize..];
                self.balancers[leaf as usize].choose(packet, |up| ports[up].load(now))
            }
        };
        stats.uplink_bytes[(leaf * spines + spine) as usize] += u64::from(packet.wire_len());
        first + spine
    }
}

impl Port {
    /// Puts a packet on the wire, which is free.
    #[inline]
    fn transmit(
        &mut self,
        now: Picos,
        id: FlightId,
        rules: &Rules,
        flights: &mut Flights,
        events: &mut Events,
        stats: &mut NetStats,
    ) {
        let flight = &mut flights[id];
        let bytes = flight.packet.wire_len();
        self.busy_until = now + self.rate.picos(bytes);
        stats.hops += 1;
        match self.end {
            End::Host(host) => {
                stats.down_bytes[host as usize] += u64::from(bytes);
                events.push(self.busy_until + rules.to_host, Event::Deliver(id));
            }
            End::Switch(node) => {
                flight.node = node as u16;
                events.push(self.busy_until + rules.to_switch, Event::Arrive(id));
            }
        }
    }

    /// Lets a packet wait if there is room, cutting its payload off if that helps.
    fn queue(
        &mut self,
        id: FlightId,
        rules: &Rules,
        flights: &mut Flights,
        stats: &mut NetStats,
    ) -> Result<(), Why> {
        let packet = &mut flights[id].packet;
        if !packet.trimmed && self.waiting_bytes + packet.wire_len() > rules.buffer_bytes {
            if !rules.trim || packet.bytes.len() == DATA_LEN || !is_data(&packet.bytes) {
                return Err(Why::Full);
            }
            trim(packet);
            stats.trimmed += 1;
        }
        let bytes = packet.wire_len();
        let waiting = self.waiting_bytes.saturating_add(bytes);
        if packet.trimmed && waiting > rules.buffer_bytes.saturating_mul(2) {
            return Err(Why::Full);
        }
        if rules.mark_bytes > 0 && waiting > rules.mark_bytes {
            packet.marked = true;
            stats.marked += 1;
        }
        let level = u32::from(packet.priority.min(7)) * u32::from(rules.levels) / PRIORITIES as u32;
        self.push(flights, level as u8, id, bytes);
        stats.largest_queue_bytes = stats.largest_queue_bytes.max(waiting);
        if let End::Host(host) = self.end {
            let largest = &mut stats.largest_down_queue_bytes[host as usize];
            *largest = (*largest).max(waiting);
        }
        Ok(())
    }
}

fn trim(packet: &mut Packet) {
    packet.bytes.truncate(DATA_LEN);
    packet.trimmed = true;
    packet.priority = 7;
}
