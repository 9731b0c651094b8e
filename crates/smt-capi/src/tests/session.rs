//! Two engines of one process over UDP, driven as C would.

use std::ptr::null_mut;

use super::misuse::{engine, options};
use crate::abi::*;
use crate::status::Status;
use crate::*;

/// 127.0.0.1 as a `sockaddr_in`.
fn loopback() -> [u8; 16] {
    let mut address = [0u8; 16];
    address[..2].copy_from_slice(&2u16.to_ne_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    address
}

struct End {
    engine: *mut smt_engine,
    offer: *mut smt_offer,
    session: u64,
}

impl End {
    fn new(role: u32) -> End {
        let engine = engine();
        let mut offer = null_mut();
        // SAFETY: a place of its type.
        assert_eq!(unsafe { smt_offer_new(engine, role, &raw mut offer) }, 0);
        End { engine, offer, session: 0 }
    }

    /// Opens the session with `peer`; secrets are made of one byte each.
    fn open(&mut self, peer: &End, change: impl FnOnce(&mut smt_session_options)) -> i32 {
        let address = loopback();
        let mut len = 0;
        // SAFETY: a place of its type.
        let block = unsafe { smt_offer_block(peer.offer, &raw mut len) };
        let (client, server) = ([1u8; 32], [2u8; 32]);
        let mut options = smt_session_options {
            size: size_of::<smt_session_options>(),
            peer: address.as_ptr().cast(),
            peer_len: address.len(),
            peer_port: smt_offer_port(peer.offer),
            peer_udp_port: smt_offer_udp_port(peer.offer),
            suite: 0x1301,
            updates: 0,
            peer_block: block,
            peer_block_len: len,
            alpn: b"smt/1".as_ptr(),
            alpn_len: 5,
            client_secret: client.as_ptr(),
            client_secret_len: client.len(),
            server_secret: server.as_ptr(),
            server_secret_len: server.len(),
        };
        change(&mut options);
        // SAFETY: all pointers are places of their types, and as long as it says beside them.
        unsafe { smt_open(self.engine, self.offer, &raw const options, &raw mut self.session) }
    }

    fn next(&self) -> smt_event {
        let mut event = smt_event { size: size_of::<smt_event>(), ..smt_event::ZERO };
        // SAFETY: a place of its type.
        assert_eq!(unsafe { smt_next_event(self.engine, &raw mut event, 1) }, 0);
        event
    }

    fn call(&self, request: &[u8], user: u64) -> smt_rpc {
        let mut rpc = smt_rpc::default();
        let (data, len) = (request.as_ptr().cast(), request.len());
        // SAFETY: the request is as long as it says; the RPC is a place of its type.
        let status =
            unsafe { smt_call(self.engine, self.session, data, len, 0, user, &raw mut rpc) };
        assert_eq!(status, 0);
        rpc
    }

    fn counters(&self) -> smt_counters {
        let mut counters = smt_counters { size: size_of::<smt_counters>(), ..smt_counters::ZERO };
        // SAFETY: a place of its type.
        assert_eq!(unsafe { smt_engine_counters(self.engine, &raw mut counters) }, 0);
        counters
    }
}

/// Both ends have two engines, the second of which knows the session by another name.
#[test]
fn sessions_live_at_several_engines() {
    let shards = |role: u32| {
        let mut all = [null_mut(); 2];
        let address = loopback();
        let bind = address.as_ptr().cast();
        let options = smt_options { bind, bind_len: address.len(), ..options() };
        // SAFETY: a place for two handles.
        let status = unsafe { smt_engines_new(&raw const options, 2, all.as_mut_ptr()) };
        assert_eq!(status, 0);
        let mut offer = null_mut();
        // SAFETY: a place of its type.
        assert_eq!(unsafe { smt_offer_new(all[0], role, &raw mut offer) }, 0);
        let second = End { engine: all[1], offer: null_mut(), session: 0 };
        [End { engine: all[0], offer, session: 0 }, second]
    };
    let (mut client, mut server) = (shards(CLIENT), shards(SERVER));
    assert_eq!(client[0].open(&server[0], |_| {}), 0);
    assert_eq!(server[0].open(&client[0], |_| {}), 0);
    for end in [&mut client, &mut server] {
        let joined = end[1].next();
        assert_eq!((joined.kind, joined.user), (EVENT_JOINED, end[0].session));
        end[1].session = joined.session;
    }
    for (user, at) in [(1, 0), (2, 1), (3, 1)] {
        client[at].call(b"which", user);
        let answered = until_event(&client[at], &server[at], |event| {
            echo(&server[at], event);
        });
        assert_eq!(
            (answered.kind, answered.user, data(&answered)),
            (EVENT_RESPONSE, user, &b"which"[..])
        );
    }
    let requests = server.each_ref().map(|end| end.counters().requests_received);
    assert_eq!(requests, [1, 2]);
    // The end of one is that of all.
    let [first, second] = client;
    drop(second);
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        kinds.extend(Some(first.next().kind).filter(|kind| *kind != EVENT_NONE));
        server[0].next();
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [EVENT_CLOSED, EVENT_SHARD_GONE]);
}

#[test]
fn a_wrong_number_of_engines_is_told() {
    let options = options();
    let mut all = [null_mut(); 4];
    for count in [0, 3, 65, 128, u32::MAX] {
        // SAFETY: the number is refused before anything is written.
        let status = unsafe { smt_engines_new(&raw const options, count, all.as_mut_ptr()) };
        assert_eq!(status, Status::Invalid as i32, "{count}");
    }
    // SAFETY: null pointers are refused.
    let status = unsafe { smt_engines_new(&raw const options, 2, null_mut()) };
    assert_eq!((status, all), (Status::Invalid as i32, [null_mut(); 4]));
}

impl Drop for End {
    fn drop(&mut self) {
        assert_eq!(smt_offer_free(self.offer), 0);
        assert_eq!(smt_engine_free(self.engine), 0);
    }
}

fn data(event: &smt_event) -> &[u8] {
    // SAFETY: the engine lends these bytes until its next event.
    unsafe { std::slice::from_raw_parts(event.data, event.len) }
}

fn pair(updates: u16) -> (End, End) {
    let (mut client, mut server) = (End::new(CLIENT), End::new(SERVER));
    assert_eq!(client.open(&server, |options| options.updates = updates), 0);
    assert_eq!(server.open(&client, |options| options.updates = updates), 0);
    (client, server)
}

/// Lets the ends take events until the client has one, the server answering by `answer`.
fn until_event(client: &End, server: &End, answer: impl Fn(&smt_event)) -> smt_event {
    loop {
        let event = server.next();
        if event.kind != EVENT_NONE {
            answer(&event);
        }
        let event = client.next();
        if event.kind != EVENT_NONE {
            return event;
        }
    }
}

/// Answers a request with its own bytes.
fn echo(server: &End, event: &smt_event) {
    assert_eq!((event.kind, event.session), (EVENT_REQUEST, server.session));
    // SAFETY: the engine lends the bytes until its next event.
    assert_eq!(unsafe { smt_reply(server.engine, event.rpc, event.data.cast(), event.len) }, 0);
}

#[test]
fn both_ends_call_and_answer() {
    let (client, server) = pair(UPDATES_DERIVED);
    let long = vec![7; 100_000];
    for (caller, callee) in [(&client, &server), (&server, &client)] {
        for (user, request) in [&b"hello"[..], b"", &long].into_iter().enumerate() {
            let rpc = caller.call(request, user as u64);
            let event = until_event(caller, callee, |event| echo(callee, event));
            assert_eq!((event.kind, event.status, event.user), (EVENT_RESPONSE, 0, user as u64));
            assert_eq!((event.rpc, event.session), (rpc, caller.session));
            assert_eq!(data(&event), request);
        }
    }
    let counters = client.counters();
    assert_eq!((counters.sessions, counters.requests_sent, counters.requests_received), (1, 3, 3));
}

#[test]
fn refusals_cancellations_and_the_end_are_told() {
    let (client, server) = pair(UPDATES_DERIVED);
    client.call(b"no", 1);
    let event = until_event(&client, &server, |event| {
        // SAFETY: the text ends with 0.
        assert_eq!(unsafe { smt_refuse(server.engine, event.rpc, 300, c"never".as_ptr()) }, 0);
    });
    assert_eq!((event.status, event.code), (Status::Refused as i32, 300));
    assert_eq!(data(&event), b"never");

    let rpc = client.call(b"wait", 2);
    let mut calls = 0;
    // SAFETY: a place of its type.
    assert_eq!(unsafe { smt_outstanding(client.engine, client.session, &raw mut calls) }, 0);
    assert_eq!(calls, 1);
    assert_eq!(smt_cancel(client.engine, rpc), 0);
    let event = until_event(&client, &server, |_| {});
    assert_eq!((event.status, event.user), (Status::Cancelled as i32, 2));

    assert_eq!(smt_close(client.engine, client.session), 0);
    let event = until_event(&client, &server, |_| {});
    assert_eq!((event.kind, event.code), (EVENT_CLOSED, CLOSED_LOCAL));
    assert_eq!(event.session, client.session);
}

#[test]
fn keys_are_updated() {
    let (client, server) = pair(UPDATES_DERIVED);
    for update in 0..3 {
        assert_eq!(client.counters().key_updates, update);
        client.call(b"hello", 0);
        assert_eq!(until_event(&client, &server, |event| echo(&server, event)).status, 0);
        assert_eq!(smt_update_keys(client.engine, client.session), 0);
        client.call(b"hello", 0);
        assert_eq!(until_event(&client, &server, |event| echo(&server, event)).status, 0);
    }
}

fn register(end: &End, direction: u32, secret: &[u8]) -> i32 {
    let (data, len) = (secret.as_ptr(), secret.len());
    // SAFETY: the secret is as long as it says.
    unsafe { smt_register_update(end.engine, end.session, direction, data, len) }
}

#[test]
fn keys_come_from_registered_secrets() {
    let (client, server) = pair(UPDATES_REGISTERED);
    client.call(b"hello", 0);
    assert_eq!(until_event(&client, &server, |event| echo(&server, event)).status, 0);
    assert_eq!(smt_update_keys(client.engine, client.session), 0);
    let event = until_event(&client, &server, |_| {});
    assert_eq!((event.kind, event.session), (EVENT_KEY_UPDATE_WANTED, client.session));

    assert_eq!(register(&server, RECEIVE, &[3; 32]), 0);
    assert_eq!(register(&client, SEND, &[3; 32]), 0);
    client.call(b"hello", 0);
    assert_eq!(until_event(&client, &server, |event| echo(&server, event)).status, 0);
    assert_eq!(client.counters().key_updates, 1);

    // The server is asked, and has what it needs.
    assert_eq!(register(&client, RECEIVE, &[4; 32]), 0);
    assert_eq!(register(&server, SEND, &[4; 32]), 0);
    assert_eq!(smt_request_update(client.engine, client.session), 0);
    while server.counters().key_updates == 0 {
        client.call(b"hello", 0);
        assert_eq!(until_event(&client, &server, |event| echo(&server, event)).status, 0);
    }
}

#[test]
fn secrets_that_cannot_be_registered_are_refused() {
    let (derived, _peer) = pair(UPDATES_DERIVED);
    assert_eq!(register(&derived, SEND, &[3; 32]), Status::Invalid as i32);
    let (client, _server) = pair(UPDATES_REGISTERED);
    assert_eq!(register(&client, 2, &[3; 32]), Status::Invalid as i32);
    assert_eq!(register(&client, SEND, &[3; 48]), Status::Invalid as i32);
    for _ in 0..4 {
        assert_eq!(register(&client, SEND, &[3; 32]), 0);
    }
    assert_eq!(register(&client, SEND, &[3; 32]), Status::Limit as i32);
}

#[test]
fn sessions_that_cannot_be_are_refused() {
    let (mut client, server) = (End::new(CLIENT), End::new(SERVER));
    type Case = (Status, fn(&mut smt_session_options));
    let cases: [Case; 10] = [
        (Status::Invalid, |options| options.size = 8),
        (Status::Invalid, |options| options.peer = std::ptr::null()),
        (Status::Invalid, |options| options.peer_len = 3),
        (Status::Invalid, |options| options.peer_port = 0),
        (Status::Invalid, |options| options.suite = 0x1304),
        (Status::Invalid, |options| options.updates = 2),
        (Status::Invalid, |options| options.alpn_len = 0),
        (Status::Invalid, |options| options.client_secret_len = 31),
        (Status::Invalid, |options| options.server_secret = std::ptr::null()),
        (Status::Parameters, |options| options.peer_block_len -= 1),
    ];
    for (index, (status, change)) in cases.into_iter().enumerate() {
        assert_eq!(client.open(&server, change), status as i32, "case {index}");
    }
    assert_eq!(client.open(&server, |_| {}), 0);
    assert_eq!(client.open(&server, |_| {}), Status::Invalid as i32, "an offer opens one session");
}
