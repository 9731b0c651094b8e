//! Messages of a real host as segments for its device: one that takes them, and one that says so and
//! does not, and one behind which they get lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smt::datapath::DatapathStats;
use smt::{CallOptions, DatapathKind, Event};
use smt_testbed::{PairOptions, Trial, Wire, pair, test};

use crate::bed::{Ca, NAME, Server, client_builder, pattern, server_address, server_builder};
use crate::caller::Caller;

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("segments_are_tried_and_used", || {
            let (core, datapath) = echo(Wire::Macvlan);
            assert_eq!((core.tso_confirmed, core.tso_given_up), (1, 0), "{core:?}");
            assert!(core.tso_segments_sent >= 30, "{core:?}");
            assert_eq!(datapath.tx_segments, core.tso_segments_sent, "{datapath:?}");
            assert_eq!(datapath.tx_segment_errors, 0, "{datapath:?}");
        }),
        test("a_device_that_refuses_segments_gets_no_more", || {
            let (core, datapath) = echo(Wire::MacvlanOnVeth);
            assert_eq!((core.tso_segments_sent, core.tso_confirmed), (1, 0), "{core:?}");
            assert_eq!((datapath.tx_segments, datapath.tx_segment_errors), (0, 1), "{datapath:?}");
        }),
        test("segments_lost_without_a_word_are_given_up", lost_without_a_word),
    ]
}

/// Counts warnings.
struct Warnings(Arc<AtomicU64>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

fn lost_without_a_word() {
    let wire = Wire::MacvlanOrDetour;
    let pair = pair(PairOptions { wire, ..PairOptions::default() }).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let server = server_builder(&ca, address).datapath(DatapathKind::Packet);
    let server = Server::start(&pair.b, address, server);
    let builder = client_builder(&ca, false).datapath(DatapathKind::Packet);
    let to = server.address;
    let warnings = Arc::new(AtomicU64::new(0));
    let subscriber = Warnings(Arc::clone(&warnings));
    let run = || {
        let mut caller = Caller::new(builder, to, &[60_000], 4);
        caller.go_on_until(|stats| stats.tso_confirmed > 0);
        caller.go_on(100);
        assert!(caller.stats().tso_given_up == 0, "{:?}", caller.stats());

        // Calls are on their way when it happens.
        pair.detour(true).unwrap();
        caller.go_on_until(|stats| stats.tso_given_up > 0);
        let before = caller.stats();
        assert_eq!(warnings.load(Ordering::Relaxed), 1);
        // Without a segment nothing gets lost.
        while caller.stats().tso_segments_sent == before.tso_segments_sent && caller.done < 5000 {
            caller.go_on(10);
        }
        let datapath = caller.engine.datapath_stats();
        assert_eq!((datapath.tx_segment_errors, datapath.tx_errors), (0, 0), "{datapath:?}");
        let after = caller.stats();
        let repeated = after.packets_retransmitted - before.packets_retransmitted;
        let calls = after.responses_received - before.responses_received;
        assert!(repeated < 5 * calls, "{repeated} packets in {calls} calls of 43: {after:?}");

        pair.detour(false).unwrap();
        caller.go_on_until(|stats| stats.tso_confirmed > before.tso_confirmed);
        caller.go_on(100);
        assert_eq!(warnings.load(Ordering::Relaxed), 1, "said once: {:?}", caller.stats());
    };
    pair.a.run(|| tracing::subscriber::with_default(subscriber, run)).unwrap();
}

/// Calls one after the other and has the same bytes back; what the client's core and datapath have done.
fn echo(wire: Wire) -> (smt::Stats, DatapathStats) {
    let pair = pair(PairOptions { wire, ..PairOptions::default() }).unwrap();
    let ca = Arc::new(Ca::new());
    let address = server_address(&pair, false);
    let server = server_builder(&ca, address).datapath(DatapathKind::Packet);
    let server = Server::start(&pair.b, address, server);
    let builder = client_builder(&ca, false).datapath(DatapathKind::Packet);
    let to = server.address;
    pair.a
        .run(move || {
            let mut engine = builder.engine().unwrap();
            engine.connect(to, NAME).unwrap();
            let patience = Some(Duration::from_secs(10));
            let session = match engine.next(patience).unwrap() {
                Some(Event::Connected { session, .. }) => session,
                other => panic!("{other:?}"),
            };
            let sizes = [100, 100, 60_000, 2000, 60_000, 20_000, 16_000, 300_000, 64];
            for (user, size) in (0..).zip(sizes.into_iter().cycle().take(6 * sizes.len())) {
                let options = CallOptions { user, ..CallOptions::default() };
                engine.call(session, pattern(user, size), options).unwrap();
                match engine.next(patience).unwrap() {
                    Some(Event::Response { user: of, result, .. }) => {
                        assert_eq!(of, user);
                        assert!(*result.unwrap() == *pattern(user, size), "{size} bytes");
                    }
                    other => panic!("{other:?}"),
                }
            }
            let stats = (*engine.stats(), engine.datapath_stats());
            engine.close_all(Duration::from_secs(1)).unwrap();
            stats
        })
        .unwrap()
}
