//! Devices and networks that change while calls are in flight, under every datapath: no call fails, none
//! hangs, none has other bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use smt::DatapathKind;
use smt_testbed::{Pair, PairOptions, Trial, Wire, may_use_bpf, pair, test};

use crate::bed::{Ca, Server, client_builder, server_address, server_builder};
use crate::caller::Caller;

/// Nothing takes this long; waiting for less would make slow machines fail.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long what breaks stays broken: many round trips, and a few of the longest silence timer.
const OUTAGE: Duration = Duration::from_millis(300);

const KINDS: [(&str, DatapathKind); 4] = [
    ("raw", DatapathKind::Raw),
    ("packet", DatapathKind::Packet),
    ("udp", DatapathKind::Udp),
    ("xdp", DatapathKind::Xdp),
];

pub(crate) fn tests() -> Vec<Trial> {
    let mut all = vec![test("segments_survive_a_device_that_changes", || {
        survive(Wire::Macvlan, DatapathKind::Packet, false, &[link, mtu, neighbour]);
    })];
    for (name, kind) in KINDS {
        let is_out_of_reach = kind == DatapathKind::Xdp && !may_use_bpf();
        if is_out_of_reach {
            eprintln!("NOT RUN: devices that change under xdp (needs CAP_BPF, CAP_NET_ADMIN)");
        }
        let events: [(&str, Event); 3] = [
            ("links_that_go_down", link),
            ("mtus_that_change", mtu),
            ("neighbours_that_move", neighbour),
        ];
        for (what, event) in events {
            let trial = test(&format!("{what}_under_{name}"), move || {
                for v6 in [false, true] {
                    survive(Wire::Veth, kind, v6, &[event]);
                }
            });
            all.push(trial.with_ignored_flag(is_out_of_reach));
        }
    }
    all
}

/// Something that happens to a network, and how to wait until calls go on.
type Event = fn(&Pair, &mut dyn FnMut());

/// Has `events` happen while a client calls a server.
fn survive(wire: Wire, kind: DatapathKind, v6: bool, events: &[Event]) {
    let options = PairOptions { wire, static_neighbours: false, ..PairOptions::default() };
    let pair = pair(options).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, v6);
    let server = Server::start(&pair.b, address, server_builder(&ca, address).datapath(kind));
    let (builder, to) = (client_builder(&ca, v6).datapath(kind), server.address);
    let done = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let (counter, stopped) = (Arc::clone(&done), Arc::clone(&stop));
    let client = pair
        .a
        .spawn(move || {
            let mut caller = Caller::new(builder, to, &[64, 1000, 8000, 60_000], 6);
            while !stopped.load(Ordering::Relaxed) {
                caller.go_on(1);
                counter.store(caller.done, Ordering::Relaxed);
            }
            caller.finish();
        })
        .unwrap();
    let mut go_on = || {
        let (start, until) = (Instant::now(), done.load(Ordering::Relaxed) + 50);
        while done.load(Ordering::Relaxed) < until && !client.is_finished() {
            assert!(start.elapsed() < PATIENCE, "calls do not go on under {kind:?}");
            thread::sleep(Duration::from_millis(1));
        }
    };
    go_on();
    for event in events {
        event(&pair, &mut go_on);
    }
    stop.store(true, Ordering::Relaxed);
    client.join().unwrap();
}

fn link(pair: &Pair, go_on: &mut dyn FnMut()) {
    for (host, name) in [(&pair.a, &pair.a_name), (&pair.b, &pair.b_name)] {
        // With the link, IPv6 addresses go, which no link gives back by itself.
        let address = if std::ptr::eq(host, &pair.a) { pair.a_v6 } else { pair.b_v6 };
        host.set_link(name, false).unwrap();
        thread::sleep(OUTAGE);
        host.set_link(name, true).unwrap();
        host.add_address(name, address.into(), 64).unwrap();
        go_on();
    }
}

fn mtu(pair: &Pair, go_on: &mut dyn FnMut()) {
    for mtu in [1300, 1500, 1280, 1400, 1500] {
        for (host, name) in [(&pair.a, &pair.a_name), (&pair.b, &pair.b_name)] {
            host.set_mtu(name, mtu).unwrap();
        }
        go_on();
    }
}

fn neighbour(pair: &Pair, go_on: &mut dyn FnMut()) {
    for last in [0xbb, 0xbc] {
        let mac = [2, 0, 0, 0, 0, last];
        pair.b.set_mac(&pair.b_name, mac).unwrap();
        thread::sleep(OUTAGE);
        for address in [pair.b_v4.into(), pair.b_v6.into()] {
            pair.a.set_neighbour(&pair.a_name, address, mac).unwrap();
        }
        go_on();
    }
}
