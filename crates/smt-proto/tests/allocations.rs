//! What the core asks of the heap.

mod net;

use std::time::Duration;

use bytes::Bytes;
use net::Seeded;
use net::pair::{Pair, external};
use smt_proto::{Config, Endpoint, Role, Time};

#[test]
fn a_small_call_allocates_its_payload_buffers_and_nothing_else() {
    static BODY: [u8; 64] = [7; 64];
    let mut pair = Pair::new();
    for _ in 0..20_000 {
        pair.call(Bytes::from_static(&BODY));
    }
    const CALLS: u64 = 1000;
    let info = allocation_counter::measure(|| {
        for _ in 0..CALLS {
            assert_eq!(pair.call(Bytes::from_static(&BODY)).as_slice(), BODY);
        }
    });
    println!(
        "{} allocations and {} bytes for each 64-byte call",
        info.count_total as f64 / CALLS as f64,
        info.bytes_total / CALLS
    );
    // The receive buffers of request and response, and the owner this test wraps the request in.
    assert_eq!(info.count_total, 3 * CALLS);
    assert_eq!(info.bytes_current, 0, "something grows");
}

#[test]
fn small_calls_in_bundles_allocate_two_buffers_for_each_bundle() {
    static BODY: [u8; 64] = [7; 64];
    const CALLS: u64 = 170;
    let mut pair = Pair::new();
    for _ in 0..200 {
        pair.calls(CALLS as usize, Bytes::from_static(&BODY));
    }
    let info =
        allocation_counter::measure(|| pair.calls(CALLS as usize, Bytes::from_static(&BODY)));
    println!("{} allocations for {CALLS} 64-byte calls", info.count_total);
    // Each way ten bundles of 17: the buffer that one is opened into, and what counts who uses it. The owner
    // that this test wraps each request in.
    assert_eq!(info.count_total, 2 * 10 * 2 + CALLS);
}

#[test]
fn an_idle_session_takes_at_most_four_kilobytes() {
    const SESSIONS: u16 = 1000;
    for (me, role) in [Role::Client, Role::Server].into_iter().enumerate() {
        let mut endpoint = Endpoint::new(Config::default(), Box::new(Seeded(1)));
        let params = [endpoint.parameters(Role::Client), endpoint.parameters(Role::Server)];
        let mut frame = [0; 2048];
        let info = allocation_counter::measure(|| {
            for port in 1..=SESSIONS {
                endpoint.add_session(Time::ZERO, external(me, port, params)).unwrap();
                while endpoint.poll_event().is_some() {}
                while endpoint.poll_transmit(Time::ZERO, &mut frame).is_some() {}
            }
        });
        let each = info.bytes_current / i64::from(SESSIONS);
        println!("{each} bytes for an idle session, {role:?}");
        assert!(each <= 4096, "{each} bytes");
    }
}

#[test]
fn a_burst_of_calls_leaves_nothing_behind_once_the_session_is_idle() {
    const CALLS: usize = 1000;
    let mut pair = Pair::new();
    let info = allocation_counter::measure(|| {
        pair.calls(CALLS, Bytes::from_static(&[7; 64]));
        pair.idle(Duration::from_secs(200));
    });
    println!("{} bytes left of {} at most", info.bytes_current, info.bytes_max);
    assert!(info.bytes_max > 100_000);
    // Both ends together, everything that the endpoint shares among its sessions included.
    assert!(info.bytes_current <= 4096, "{} bytes", info.bytes_current);
}
