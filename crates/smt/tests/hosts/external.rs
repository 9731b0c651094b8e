//! Sessions on secrets that another TLS stack has negotiated, at several shards.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use smt::engine::TrafficSecrets;
use smt::proto::Role;
use smt::proto::crypto::SuiteId;
use smt::{Builder, CallOptions, Event};
use smt_testbed::{PairOptions, Trial, pair, test};

use crate::bed::server_address;
use crate::shards::body;

pub(crate) fn tests() -> Vec<Trial> {
    vec![test("sessions_on_external_secrets_have_shards", external)]
}

/// Four engines in one thread.
fn external() {
    let pair = pair(PairOptions::default()).unwrap();
    let (client_address, address) = (pair.a_v4.into(), server_address(&pair, false));
    let mut clients = pair
        .a
        .run(|| Builder::new().bind(client_address).external_client().shards(2).engines().unwrap())
        .unwrap();
    let server = Builder::new().bind(address).external_server(4433).shards(2);
    let mut servers = pair.b.run(|| server.engines().unwrap()).unwrap();
    assert!(clients[1].offer_external(Role::Client).is_err(), "sessions are made at the first");
    let [offer, answer] = [
        clients[0].offer_external(Role::Client).unwrap(),
        servers[0].offer_external(Role::Server).unwrap(),
    ];
    let secrets = TrafficSecrets {
        suite: SuiteId::Aes128GcmSha256,
        alpn: b"smt/1",
        client: &[1; 32],
        server: &[2; 32],
    };
    let to = SocketAddr::new(address, answer.port());
    let session = clients[0].add_external(&offer, to, answer.block(), &secrets).unwrap();
    let from = SocketAddr::new(client_address, offer.port());
    servers[0].add_external(&answer, from, offer.block(), &secrets).unwrap();

    let (mut sessions, mut asked, mut ended) = (vec![session], [0; 2], HashMap::new());
    let (mut begun, until) = (0, Instant::now() + Duration::from_secs(60));
    while ended.len() < 400 {
        assert!(Instant::now() < until, "{} of 400", ended.len());
        for (at, engine) in clients.iter_mut().enumerate() {
            if let Some(&session) = sessions.get(at).filter(|_| sessions.len() == 2 && begun < 400)
            {
                let options = CallOptions { user: begun, ..CallOptions::default() };
                begun += u64::from(engine.call(session, body(begun, 100), options).is_ok());
            }
            engine.poll().unwrap();
            while let Some(event) = engine.next_event() {
                match event {
                    Event::Joined { session: joined, shared, info } => {
                        assert_eq!((at, shared.at_first()), (1, session));
                        assert_eq!((info.remote, &info.alpn[..]), (to, &b"smt/1"[..]));
                        sessions.push(joined);
                    }
                    Event::Response { user, result, .. } => {
                        assert_eq!(*result.unwrap(), *body(user, 100));
                        ended.insert(user, ());
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        for (at, engine) in servers.iter_mut().enumerate() {
            engine.poll().unwrap();
            while let Some(event) = engine.next_event() {
                if let Event::Request { rpc, body, .. } = event {
                    asked[at] += 1;
                    engine.reply(rpc, body.into_vec());
                }
            }
        }
    }
    assert_eq!(asked, [200, 200]);
}
