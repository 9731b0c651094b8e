//! Messages of a real host as segments for its device: one that takes them, and one that says so and
//! does not.

use std::sync::Arc;
use std::time::Duration;

use smt::datapath::DatapathStats;
use smt::{CallOptions, DatapathKind, Event};
use smt_testbed::{PairOptions, Trial, Wire, pair, test};

use crate::bed::{Ca, NAME, Server, client_builder, pattern, server_address, server_builder};

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
    ]
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
