use std::collections::BTreeSet;

use super::super::samples::{data, flight, grant};
use super::*;
use crate::attack::{Field, Plan};

/// A tap that does one thing, and what it has counted.
fn tap(act: Act) -> (OnPath, Tally) {
    let tally = Tally::default();
    let plan = OnPathPlan { salt: 1, max_packets: 1000, act };
    (OnPath::new(plan, 10_000, 2, Rng::new(1), tally.clone()), tally)
}

/// What becomes of a packet that is sent at a microsecond.
fn pass(tap: &mut OnPath, us: u64, mut packet: Packet) -> (Verdict, Packet, Extra) {
    let mut extra = Vec::new();
    let verdict = tap.packet(at_us(us), &mut packet, &mut extra);
    (verdict, packet, extra)
}

/// Many packets of all kinds, and all that comes of them.
fn all_extra(tap: &mut OnPath) -> Vec<Packet> {
    let mut all = Vec::new();
    for n in 0..200u32 {
        for packet in traffic(n) {
            all.extend(pass(tap, n.into(), packet).2.into_iter().map(|(_, packet)| packet));
        }
    }
    all
}

fn traffic(n: u32) -> [Packet; 4] {
    let id = 4 + 4 * u64::from(n);
    let number = 1 + u64::from(n);
    [data(id, 0, 1000), data(id, 1000, 1000), grant(number), flight(number / 4, number % 3)]
}

fn all() -> u32 {
    1000
}

#[test]
fn drops_what_it_looks_for_while_it_lasts() {
    let act = Act::Drop { what: What::Type(0x11), permille: all(), from_us: 10, to_us: 20 };
    let (mut tap, tally) = tap(act);
    assert_eq!(pass(&mut tap, 9, grant(1)).0, Verdict::Pass);
    assert_eq!(pass(&mut tap, 10, grant(1)).0, Verdict::Drop);
    assert_eq!(pass(&mut tap, 15, data(4, 0, 100)).0, Verdict::Pass);
    assert_eq!(pass(&mut tap, 20, grant(1)).0, Verdict::Pass);
    assert_eq!(tally.counts().get("drop"), Some(&1));
}

#[test]
fn holds_back_but_never_past_its_end() {
    let act = Act::Hold { what: What::Any, permille: all(), up_to_us: 50_000 };
    let (mut tap, _) = tap(act);
    let mut delays = BTreeSet::new();
    for us in 0..100 {
        let (verdict, packet, _) = pass(&mut tap, us, data(4, 0, 100));
        let Verdict::Delay(delay) = verdict else { panic!("{verdict:?}") };
        assert!(at_us(us) + delay <= at_us(10_000));
        assert_eq!(packet.origin, Origin::Genuine);
        delays.insert(delay);
    }
    assert!(delays.len() > 20);
    assert_eq!(pass(&mut tap, 10_000, data(4, 0, 100)).0, Verdict::Pass);
}

#[test]
fn finds_the_packets_it_looks_for() {
    let is = |what: What, packet: Packet| what.is(&see(&packet.bytes).unwrap(), &packet.bytes);
    assert!(is(What::Any, grant(1)) && is(What::Control, grant(1)));
    assert!(!is(What::Control, data(4, 0, 10)) && !is(What::Data, grant(1)));
    assert!(is(What::Handshake, flight(1, 2)) && !is(What::Data, flight(1, 2)));
    assert!(is(What::Flight(2), flight(1, 2)) && !is(What::Flight(1), flight(1, 2)));
    assert!(is(What::First, data(4, 0, 10)) && !is(What::First, data(4, 1000, 10)));
    assert!(is(What::Last, data(4, 4000, 1000)) && !is(What::Last, data(4, 4000, 999)));
    assert!(is(What::EveryNth(2), data(4, 1000, 10)) && !is(What::EveryNth(2), data(4, 0, 10)));
    let mut again = data(4, 1000, 10);
    again.bytes[48] |= 1;
    assert!(is(What::Retransmission, again.clone()) && !is(What::EveryNth(2), again));
}

#[test]
fn what_networks_may_do_stays_genuine() {
    let (mut tap, _) = self::tap(Act::Trim { permille: all() });
    let (_, packet, _) = pass(&mut tap, 1, data(4, 0, 100));
    assert_eq!((packet.bytes.len(), packet.trimmed), (DATA_LEN, true));
    assert_eq!(packet.origin, Origin::Genuine);
    assert!(!pass(&mut tap, 1, grant(1)).1.trimmed);

    let (mut tap, _) = self::tap(Act::Rewrite { permille: all() });
    let (_, packet, _) = pass(&mut tap, 1, data(4, 0, 100));
    assert_ne!(packet.bytes, data(4, 0, 100).bytes);
    assert_eq!(likeness(&data(4, 0, 100).bytes, &packet.bytes), Likeness::Same);
    assert_eq!(packet.origin, Origin::Genuine);
}

#[test]
fn repeats_unchanged() {
    let act = Act::Repeat { what: What::Data, permille: all(), copies: 3, up_to_us: 100 };
    let (mut tap, tally) = tap(act);
    let (_, packet, extra) = pass(&mut tap, 1, data(4, 0, 100));
    assert_eq!((packet.origin, extra.len()), (Origin::Genuine, 3));
    for (delay, copy) in extra {
        assert!(delay <= Duration::from_micros(100));
        assert_eq!((copy.bytes, copy.origin), (packet.bytes.clone(), Origin::Replayed));
        assert_eq!((copy.src, copy.dst, copy.priority), (0, 1, 3));
    }
    assert_eq!(tally.total(), 3);
    assert!(all_extra(&mut tap).len() < 1000);
    assert_eq!(tally.total(), 1000, "more than it may add");
}

#[test]
fn recalls_long_after_and_stops() {
    let (mut tap, _) = tap(Act::Recall { what: What::Any, every_us: 20 });
    assert_eq!(tap.next_timeout(), None);
    let sent: Vec<Vec<u8>> = (1..400).map(|number| grant(number).bytes).collect();
    for number in 1..400 {
        pass(&mut tap, 0, grant(number));
    }
    let mut recalled = BTreeSet::new();
    let mut extra = Vec::new();
    while let Some(due) = tap.next_timeout() {
        assert!(due < at_us(10_000));
        tap.timeout(due, &mut extra);
        for (_, packet) in extra.drain(..) {
            assert_eq!(packet.origin, Origin::Replayed);
            assert!(sent.contains(&packet.bytes));
            recalled.insert(packet.bytes);
        }
    }
    assert!(recalled.len() > 100);
    assert!(recalled.contains(&sent[398]) || recalled.iter().any(|bytes| *bytes > sent[300]));
}

#[test]
fn haunts_each_new_handshake_once() {
    let (mut tap, _) = tap(Act::Haunt { burst: 10 });
    assert!(pass(&mut tap, 1, flight(1, 0)).2.is_empty());
    for number in 1..20 {
        assert!(pass(&mut tap, 2, data(4, 1000 * number, 100)).2.is_empty());
    }
    let (_, _, extra) = pass(&mut tap, 3, flight(2, 0));
    assert_eq!(extra.len(), 10);
    assert!(extra.iter().all(|(_, packet)| packet.origin == Origin::Replayed));
    assert!(pass(&mut tap, 4, flight(2, 0)).2.is_empty());
}

#[test]
fn alters_in_place_ahead_and_behind() {
    let act = |place| Act::Alter {
        what: What::Data,
        permille: all(),
        change: Change::Field(Field::Tag),
        place,
    };
    let genuine = data(4, 0, 100);
    let (mut tap, _) = self::tap(act(Place::Instead));
    let (verdict, packet, extra) = pass(&mut tap, 1, genuine.clone());
    assert_eq!((verdict, packet.origin, extra.len()), (Verdict::Pass, Origin::Forged, 0));
    assert_ne!(packet.bytes, genuine.bytes);

    let (mut tap, _) = self::tap(act(Place::Ahead));
    let (verdict, packet, extra) = pass(&mut tap, 1, genuine.clone());
    assert_eq!((packet.origin, &packet.bytes), (Origin::Genuine, &genuine.bytes));
    let (delay, made) = &extra[0];
    assert_eq!(made.origin, Origin::Forged);
    assert!(matches!(verdict, Verdict::Delay(held) if held > *delay));

    let (mut tap, _) = self::tap(act(Place::Behind));
    let (verdict, packet, extra) = pass(&mut tap, 1, genuine.clone());
    assert_eq!((verdict, packet.origin, extra.len()), (Verdict::Pass, Origin::Genuine, 1));
    // What others have made is not changed again.
    let forged = Packet { origin: Origin::Forged, ..genuine };
    assert!(pass(&mut tap, 1, forged).2.is_empty());
}

#[test]
fn forgeries_are_of_live_messages_and_marked() {
    let forgers = [
        Act::ForgeControl { permille: all() },
        Act::ForgeData { permille: all() },
        Act::ForgeFlight { permille: all() },
        Act::ForgeNoSession { permille: all() },
    ];
    for act in forgers {
        let (mut tap, tally) = tap(act);
        let made = all_extra(&mut tap);
        assert!(made.len() >= 150, "{act:?}: {}", made.len());
        assert_eq!(made.len() as u64, tally.counts()[act.name()]);
        let genuine: BTreeSet<Vec<u8>> =
            (0..200).flat_map(traffic).map(|packet| packet.bytes).collect();
        for packet in made {
            let as_sent = packet.src == 0 && genuine.contains(&packet.bytes);
            assert_eq!(packet.origin == Origin::Forged, !as_sent);
            let ports = (packet.bytes[..2].to_vec(), packet.src, packet.dst);
            assert!(ports == (vec![0x9c, 0x40], 0, 1) || ports == (vec![0x11, 0x51], 1, 0));
        }
    }
}

#[test]
fn reflects_and_crosses() {
    let (mut tap, _) = tap(Act::Reflect { permille: all() });
    let made = all_extra(&mut tap);
    assert_eq!(made.len(), 800);
    assert!(made.iter().all(|p| (p.src, p.dst, p.origin) == (1, 0, Origin::Forged)));
    let turned = made.iter().filter(|packet| packet.bytes[..2] == [0x11, 0x51]).count();
    assert!((400..800).contains(&turned), "{turned}");

    let (mut tap, _) = self::tap(Act::Cross { permille: all() });
    assert!(all_extra(&mut tap).is_empty(), "there is no other session");
    let mut other = grant(1);
    (other.src, other.dst) = (1, 0);
    other.bytes[0] ^= 0x80;
    for us in 0..200 {
        pass(&mut tap, us, other.clone());
    }
    let made = all_extra(&mut tap);
    assert!(made.len() > 100 && made.iter().all(|packet| packet.origin == Origin::Forged));
    assert!(made.iter().any(|packet| packet.src == 1 && packet.dst == 1));
}

#[test]
fn strangers_and_the_end_are_left_alone() {
    let act = Act::Drop { what: What::Any, permille: all(), from_us: 0, to_us: u64::MAX };
    let (mut tap, _) = tap(act);
    let stranger = Packet { src: 2, ..grant(1) };
    assert_eq!(pass(&mut tap, 1, stranger).0, Verdict::Pass);
    assert_eq!(pass(&mut tap, 1, grant(1)).0, Verdict::Drop);
    assert_eq!(pass(&mut tap, 10_000, grant(1)).0, Verdict::Pass);
    assert!(Plan::default().taps(2, 1, &Tally::default()).is_empty());
}
