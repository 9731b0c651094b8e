use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use super::*;
use crate::fault::{Fault, Faults};
use crate::log;
use crate::net::{Spread, Topology};
use crate::rng::mix;

/// Bytes of a packet that takes 1000 on the wire, and 80 ns at 100 Gb/s.
const LEN: usize = 942;

/// A host that sends what it is told, as early as it can, and notes what comes.
#[derive(Default)]
struct Host {
    to_send: VecDeque<Packet>,
    /// Times to be woken at, in order.
    timers: VecDeque<u64>,
    woken: Vec<u64>,
    received: Vec<(u64, Packet)>,
}

impl Stack for Host {
    fn receive(&mut self, now: Time, packet: &mut Packet) {
        self.received.push((now.as_nanos(), packet.clone()));
    }

    fn timeout(&mut self, now: Time) {
        self.woken.push(now.as_nanos());
        self.timers.pop_front();
    }

    fn next_timeout(&self) -> Option<Time> {
        self.timers.front().map(|&at| Time::from_nanos(at))
    }

    fn transmit(&mut self, _now: Time, packet: &mut Packet) -> bool {
        let Some(next) = self.to_send.pop_front() else { return false };
        packet.clone_from(&next);
        true
    }
}

fn switch(hosts: u32) -> NetConfig {
    NetConfig { topology: Topology::Switch { hosts }, ..NetConfig::default() }
}

fn racks(spread: Spread) -> NetConfig {
    let topology =
        Topology::LeafSpine { leaves: 3, hosts_per_leaf: 4, spines: 4, uplink_gbps: 400.0 };
    NetConfig { topology, spread, ..NetConfig::default() }
}

fn world(net: &NetConfig) -> World<Host> {
    World::new(net, (0..net.hosts()).map(|_| Host::default()).collect(), 1)
}

fn to(dst: HostId, priority: u8) -> Packet {
    Packet { bytes: vec![0; LEN], dst, priority, ..Packet::default() }
}

/// A packet with the header of SMT DATA.
fn data(src: HostId, dst: HostId, id: u64, message_len: u32, len: usize) -> Packet {
    let mut bytes = vec![0; len];
    (bytes[8], bytes[11]) = (3, 0x10);
    bytes[20..28].copy_from_slice(&id.to_be_bytes());
    bytes[28..32].copy_from_slice(&message_len.to_be_bytes());
    Packet { bytes, src, dst, ..Packet::default() }
}

fn finish(world: &mut World<Host>) {
    (0..world.hosts.len() as u32).for_each(|host| world.poke(host));
    while world.step() {}
    assert_eq!(world.in_flight(), 0);
}

/// When packets were received.
fn times(host: &Host) -> Vec<u64> {
    host.received.iter().map(|got| got.0).collect()
}

/// Two hosts send three packets each to a third: the second one's last is urgent. Each is named by
/// its flow: 1, 2, 3, and 11, 12, 13.
fn contest(net: &NetConfig) -> World<Host> {
    let mut world = world(net);
    for (host, flow) in [(0, 1), (1, 11)] {
        let mut packets: VecDeque<_> =
            (flow..flow + 3).map(|flow| Packet { flow, ..data(0, 2, 2, 9999, LEN) }).collect();
        packets[2].priority = if host == 1 { 7 } else { 0 };
        world.hosts[host].to_send = packets;
    }
    finish(&mut world);
    world
}

fn flows(world: &World<Host>) -> Vec<u64> {
    world.hosts[2].received.iter().map(|got| got.1.flow).collect()
}

#[test]
fn a_packet_takes_the_time_of_its_links_and_switch() {
    let mut world = world(&switch(2));
    world.hosts[0].to_send.push_back(to(1, 0));
    finish(&mut world);
    assert_eq!(times(&world.hosts[1]), [80 + 20 + 250 + 80 + 20 + 1500]);
    assert_eq!(world.hosts[1].received[0].1.sent_at, Time::ZERO);
    assert_eq!((world.stats().delivered, world.stats().hops), (1, 2));
    assert_eq!(world.stats().up_bytes, [1000, 0]);
    assert_eq!(world.stats().down_bytes, [0, 1000]);
}

#[test]
fn packets_follow_each_other_at_the_rate_of_the_link() {
    let mut world = world(&switch(2));
    world.hosts[0].to_send.extend([to(1, 0), to(1, 7), to(1, 0)]);
    finish(&mut world);
    assert_eq!(times(&world.hosts[1]), [1950, 2030, 2110]);
}

#[test]
fn urgent_packets_overtake_those_that_wait() {
    let net = switch(3);
    assert_eq!(flows(&contest(&net)), [1, 11, 13, 2, 12, 3]);
    assert_eq!(flows(&contest(&NetConfig { priorities: 1, ..net })), [1, 11, 2, 12, 3, 13]);
}

#[test]
fn neighbouring_priorities_share_a_level() {
    let order = |priorities, low, high| {
        let mut world = world(&NetConfig { priorities, ..switch(4) });
        // The first keeps the wire busy until both others wait.
        for (host, priority) in [(0, 0), (1, low), (2, high)] {
            world.hosts[host].to_send.push_back(to(3, priority));
        }
        finish(&mut world);
        world.hosts[3].received.iter().map(|got| got.1.priority).collect::<Vec<_>>()
    };
    assert_eq!(order(8, 4, 5), [0, 5, 4]);
    assert_eq!(order(4, 4, 5), [0, 4, 5]);
    assert_eq!(order(4, 3, 4), [0, 4, 3]);
    assert_eq!(order(2, 0, 3), [0, 0, 3]);
}

#[test]
fn a_full_buffer_drops_what_arrives() {
    let world = contest(&NetConfig { buffer_bytes: 1000, ..switch(3) });
    // The third finds the wire free again.
    assert_eq!(flows(&world), [1, 11, 3, 13]);
    assert_eq!(world.stats().dropped_full, 2);
    assert_eq!(world.stats().largest_queue_bytes, 1000);
    assert_eq!(world.stats().largest_down_queue_bytes, [0, 0, 1000]);
}

#[test]
fn headers_of_trimmed_packets_go_first() {
    let world = contest(&NetConfig { buffer_bytes: 1000, trim: true, ..switch(3) });
    assert_eq!(flows(&world), [1, 2, 12, 11, 13, 3]);
    // A header takes 110 bytes on the wire, and 8.8 ns.
    assert_eq!(times(&world.hosts[2]), [1950, 1958, 1967, 2047, 2056, 2136]);
    for (_, packet) in &world.hosts[2].received {
        let trimmed = [2, 12, 13].contains(&packet.flow);
        assert_eq!(packet.trimmed, trimmed);
        assert_eq!(packet.bytes.len(), if trimmed { 52 } else { LEN });
    }
    assert_eq!((world.stats().trimmed, world.stats().dropped_full), (3, 0));
}

#[test]
fn only_data_is_trimmed_and_headers_find_an_end_too() {
    let mut world = world(&NetConfig { buffer_bytes: 200, trim: true, ..switch(12) });
    for host in 0..11 {
        world.hosts[host].to_send.push_back(data(host as u32, 11, 2, 9999, LEN));
    }
    finish(&mut world);
    // One is on the wire, and 400 bytes hold three headers.
    assert_eq!((world.stats().delivered, world.stats().dropped_full), (4, 7));
    let mut other = self::world(&NetConfig { buffer_bytes: 200, trim: true, ..switch(3) });
    other.hosts[0].to_send.push_back(to(2, 0));
    other.hosts[1].to_send.push_back(to(2, 0));
    finish(&mut other);
    assert_eq!((other.stats().trimmed, other.stats().dropped_full), (0, 1));
}

#[test]
fn long_queues_mark_packets() {
    let world = contest(&NetConfig { mark_bytes: 1500, priorities: 1, ..switch(3) });
    let marked: Vec<_> =
        world.hosts[2].received.iter().filter(|got| got.1.marked).map(|got| got.1.flow).collect();
    assert_eq!(marked, [2, 12, 3, 13]);
    assert_eq!(world.stats().marked, 4);
}

#[test]
fn the_unloaded_time_is_that_of_the_engine() {
    let mut rng = Rng::new(11);
    for net in [switch(12), racks(Spread::Flow)] {
        for dst in [1, 11] {
            for count in 1..=10 {
                let mut world = world(&net);
                let sizes = |_| rng.between(1, 9000) as usize;
                let sizes: Vec<usize> = (0..count).map(sizes).collect();
                for &size in &sizes {
                    let packet = Packet { bytes: vec![0; size], ..to(dst, 0) };
                    world.hosts[0].to_send.push_back(packet);
                }
                finish(&mut world);
                let on_wire: Vec<u32> = sizes.iter().map(|&size| size as u32 + 58).collect();
                let last = times(&world.hosts[dst as usize]).last().copied();
                assert_eq!(last, Some(net.one_way_ns(0, dst, &on_wire)));
            }
        }
    }
    assert_eq!(
        racks(Spread::Flow).one_way_ns(0, 11, &[1000]),
        80 + 20 + 3 * 20 + 3 * 250 + 120 + 1500
    );
}

#[test]
fn every_host_reaches_every_other() {
    for spread in [Spread::Flow, Spread::Packet, Spread::Message] {
        let mut world = world(&racks(spread));
        for host in 0..12 {
            world.hosts[host as usize].to_send = (0..12).map(|dst| to(dst, 0)).collect();
        }
        finish(&mut world);
        assert!(world.hosts.iter().all(|host| host.received.len() == 12));
        // Four at the same leaf, eight behind a spine.
        assert_eq!(world.stats().hops, 12 * (4 * 2 + 8 * 4));
    }
}

/// Bytes by uplink of the first leaf, after host 0 has sent these to host 11.
fn uplinks(spread: Spread, packets: Vec<Packet>) -> Vec<u64> {
    let mut world = world(&racks(spread));
    world.hosts[0].to_send = packets.into();
    finish(&mut world);
    world.stats().uplink_bytes[..4].to_vec()
}

#[test]
fn a_flow_keeps_to_its_path() {
    let same = uplinks(Spread::Flow, vec![to(11, 0); 400]);
    assert_eq!(same.iter().filter(|&&bytes| bytes > 0).count(), 1);
    let flows = (0..400).map(|flow| Packet { flow, ..to(11, 0) }).collect();
    assert!(uplinks(Spread::Flow, flows).iter().all(|&bytes| bytes > 50_000));
    // The flow may be anything, a hash of the hosts included.
    let hashed =
        |i: u32| Packet { flow: mix(u64::from(i % 10) << 32 | 11), src: i % 10, ..to(11, 0) };
    assert!(uplinks(Spread::Flow, (0..400).map(hashed).collect()).iter().all(|&bytes| bytes > 0));
}

#[test]
fn packets_spread_by_chance() {
    let bytes = uplinks(Spread::Packet, vec![to(11, 0); 400]);
    assert!(bytes.iter().all(|&bytes| (70_000..130_000).contains(&bytes)), "{bytes:?}");
}

#[test]
fn messages_keep_to_the_uplink_with_the_least_to_do() {
    // A long message, then short ones packet by packet in turns.
    let message = |id, packets: u32| {
        let packet = data(0, 11, id, packets * (LEN as u32 - 52), LEN);
        vec![packet; packets as usize]
    };
    let mut packets = message(2, 40);
    let rest: Vec<_> = (2..8).map(|id| message(2 * id, 10)).collect();
    (0..10).for_each(|n| packets.extend(rest.iter().map(|message| message[n].clone())));
    // All begin before the long one goes on: its first packet leads.
    let long = packets.split_off(1);
    let (tail, short) = (long[..39].to_vec(), long[39..].to_vec());
    let mut bytes = uplinks(Spread::Message, [packets, short, tail].concat());
    bytes.sort_unstable();
    assert_eq!(bytes, [20_000, 20_000, 20_000, 40_000]);
}

#[test]
fn lone_packets_take_turns_at_idle_uplinks() {
    let lone = (0..400).map(|id| data(0, 11, 2 * id, 800, LEN)).collect();
    assert_eq!(uplinks(Spread::Message, lone), [100_000; 4]);
}

#[test]
fn a_nic_asks_as_late_as_it_is_told() {
    let asked = |nic_queue_bytes| {
        let mut world = world(&NetConfig { nic_queue_bytes, ..switch(2) });
        world.hosts[0].to_send = vec![to(1, 0); 5].into();
        finish(&mut world);
        assert_eq!(times(&world.hosts[1]), [1950, 2030, 2110, 2190, 2270]);
        let sent_at = |got: &(u64, Packet)| got.1.sent_at.as_nanos();
        world.hosts[1].received.iter().map(sent_at).collect::<Vec<_>>()
    };
    assert_eq!(asked(0), [0, 80, 160, 240, 320]);
    assert_eq!(asked(1001), [0, 0, 0, 80, 160]);
}

#[test]
fn timers_ring_in_time_and_never_stop_it() {
    let mut world = world(&switch(2));
    world.hosts[0].timers = [500, 700].into();
    world.poke(0);
    // An earlier timer replaces the one that is set.
    world.hosts[0].timers.push_front(100);
    world.poke(0);
    world.run_until(Time::from_nanos(600));
    assert_eq!((world.now(), &world.hosts[0].woken[..]), (Time::from_nanos(600), &[100, 500][..]));
    world.run_until(Time::from_nanos(1000));
    assert_eq!(world.hosts[0].woken, [100, 500, 700]);
    // Those who ask for times that have passed again and again wait a microsecond each time.
    world.hosts[0].timers = [1, 2, 3].into();
    world.poke(0);
    while world.step() {}
    assert_eq!(world.hosts[0].woken[3..], [1700, 2700, 3700]);
}

#[test]
fn packets_to_nowhere_are_dropped() {
    let mut world = world(&switch(2));
    world.hosts[0].to_send.push_back(to(77, 0));
    finish(&mut world);
    assert_eq!(world.stats().dropped_nowhere, 1);
}

/// Drops, delays and adds by the flow of packets; sends a packet of its own after 10 us.
struct Meddler {
    seen: Rc<RefCell<Vec<(u64, u64)>>>,
    timer: Option<Time>,
}

impl Tap for Meddler {
    fn packet(
        &mut self,
        now: Time,
        packet: &mut Packet,
        extra: &mut Vec<(Duration, Packet)>,
    ) -> Verdict {
        self.seen.borrow_mut().push((now.as_nanos(), packet.flow));
        match packet.flow {
            1 => Verdict::Drop,
            2 => Verdict::Delay(Duration::from_nanos(1000)),
            3 => {
                extra.push((Duration::from_nanos(500), Packet { flow: 4, ..packet.clone() }));
                Verdict::Pass
            }
            _ => Verdict::Pass,
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        self.timer
    }

    fn timeout(&mut self, _now: Time, extra: &mut Vec<(Duration, Packet)>) {
        self.timer = None;
        extra.push((Duration::ZERO, Packet { flow: 5, ..to(1, 0) }));
    }
}

#[test]
fn taps_see_packets_in_turn_and_decide() {
    let mut world = world(&switch(2));
    let seen = [(); 2].map(|()| Rc::default());
    for (index, seen) in seen.iter().enumerate() {
        let timer = (index == 0).then(|| Time::from_nanos(10_000));
        world.add_tap(Box::new(Meddler { seen: Rc::clone(seen), timer }));
    }
    world.hosts[0].to_send = (1..=3).map(|flow| Packet { flow, ..to(1, 0) }).collect();
    finish(&mut world);
    assert_eq!(*seen[0].borrow(), [(80, 1), (160, 2), (240, 3)]);
    // What the first tap drops, delays and adds reaches the second accordingly.
    assert_eq!(*seen[1].borrow(), [(240, 3), (740, 4), (1160, 2), (10_000, 5)]);
    let got: Vec<_> = world.hosts[1].received.iter().map(|got| (got.0, got.1.flow)).collect();
    // From the taps it is 1870 ns to the receiver; both taps hold packet 2 and double packet 3.
    assert_eq!(got, [(2110, 3), (2610, 4), (2610 + 80, 4), (4030, 2), (11_870, 5)]);
    let stats = world.stats();
    assert_eq!((stats.sent, stats.added, stats.dropped_tap, stats.delivered), (3, 3, 1, 5));
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log of a run in which all sorts of things go wrong.
fn troubled_run(seed: u64) -> Vec<u8> {
    let net = NetConfig { buffer_bytes: 5000, trim: true, ..racks(Spread::Packet) };
    let mut world = World::new(&net, (0..12).map(|_| Host::default()).collect(), seed);
    let rules = vec![
        Fault::Loss { p: 0.05 }.into(),
        Fault::Reorder { p: 0.1, max_delay_us: 5 }.into(),
        Fault::Duplicate { p: 0.1, max_delay_us: 5 }.into(),
        Fault::Corrupt { p: 0.05, max_bits: 3 }.into(),
    ];
    world.add_tap(Box::new(Faults::new(rules, seed)));
    let out = Shared::default();
    world.observe(log::observer(out.clone()));
    let mut rng = Rng::new(seed);
    for src in 0..12 {
        let packet = |id| data(src, rng.below(12) as u32, id, 9999, LEN);
        world.hosts[src as usize].to_send = (0..100).map(packet).collect();
    }
    finish(&mut world);
    let stats = world.stats();
    let dropped = stats.dropped_full + stats.dropped_tap + stats.dropped_nowhere;
    assert_eq!(stats.sent + stats.added, stats.delivered + dropped);
    assert!(stats.dropped_tap > 0 && stats.trimmed > 0);
    drop(world);
    out.0.take()
}

#[test]
fn the_same_seed_gives_the_same_log() {
    let log = troubled_run(7);
    assert!(log.len() > 10_000);
    assert_eq!(log, troubled_run(7));
    assert_ne!(log, troubled_run(8));
}
