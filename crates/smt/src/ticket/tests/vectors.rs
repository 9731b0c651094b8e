//! The vectors of `testdata/tickets.json`, which `testdata/tickets.py` computes without our code.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Deserializer};
use smt_proto::crypto::aws_lc::suite;
use smt_proto::keys::{answered_secret, key_context};

use super::*;
use crate::ticket::hpke::{PrivateKey, open_seeded};
use crate::ticket::offer::Offer;
use crate::ticket::secrets::{Agreed, info};

#[derive(Deserialize)]
struct File {
    tickets: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    kem: u16,
    suite: u16,
    ticket: Hex,
    signed: Hex,
    signer: Hex,
    private_key: Hex,
    encapsulated_key: Hex,
    info: Hex,
    client_port: u16,
    server_port: u16,
    client_block: Hex,
    server_block: Hex,
    flight_0: Hex,
    early_context: Hex,
    client_early: Hex,
    server_early: Hex,
    server_answered: Hex,
    key_context: Hex,
    client_static: Hex,
    server_static: Hex,
    static_finished: Hex,
    offer: Hex,
    strike: Hex,
}

/// Bytes, hexadecimal in the file.
struct Hex(Vec<u8>);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        Ok(Self(digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()))
    }
}

#[test]
fn tickets_and_secrets_are_those_of_the_other_implementation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/tickets.json");
    let file: File = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(file.tickets.len(), 6);
    for vector in &file.tickets {
        check(vector);
    }
}

fn check(v: &Vector) {
    let ticket = Ticket::parse(&v.ticket.0).unwrap();
    assert_eq!((ticket.kem().id(), ticket.suite() as u16), (v.kem, v.suite));
    let (scheme, signed, signature) = ticket.signature();
    assert_eq!((scheme, &signed), (0x0807, &v.signed.0));
    UnparsedPublicKey::new(&ED25519, &v.signer.0).verify(&signed, signature).unwrap();
    assert_eq!(info(ticket.bytes()), v.info.0);

    let exporter = match ticket.kem() {
        Kem::XWing => open_seeded(&v.private_key.0, &v.encapsulated_key.0, &v.info.0),
        Kem::X25519 => {
            let private = PrivateKey::from_bytes(ticket.kem(), &v.private_key.0).unwrap();
            private.decapsulate(&v.encapsulated_key.0, &v.info.0)
        }
    };
    let exporter = exporter.unwrap();
    let agreed = Agreed::new(exporter, &ticket, |suite, ticket, alpn| {
        let (block, flight) = (&v.client_block.0, &v.flight_0.0);
        let context =
            early_context(suite, alpn, v.client_port, v.server_port, ticket, block, flight);
        assert_eq!(context, v.early_context.0);
        context
    });
    let early = agreed.early();
    assert_eq!(early.client.as_bytes(), v.client_early.0);
    assert_eq!(early.server.as_bytes(), v.server_early.0);
    let answered = answered_secret(suite(ticket.suite()), &early.server, &v.server_block.0);
    assert_eq!(answered.as_bytes(), v.server_answered.0);
    let context = key_context(
        suite(ticket.suite()),
        ticket.alpn(),
        v.client_port,
        v.server_port,
        &v.client_block.0,
        &v.server_block.0,
    );
    assert_eq!(context, v.key_context.0);
    let secrets = agreed.static_secrets(&context);
    assert_eq!(secrets.client.as_bytes(), v.client_static.0);
    assert_eq!(secrets.server.as_bytes(), v.server_static.0);
    assert_eq!(secrets.finished().as_slice(), v.static_finished.0);

    let offer = Offer::parse(&v.offer.0).unwrap();
    assert_eq!((offer.static_session, offer.time_ms), (true, 1_800_000_000_123));
    assert_eq!((&offer.ticket_id, offer.key), (ticket.id(), v.encapsulated_key.0.as_slice()));
    assert_eq!(offer.emit(), v.offer.0);
    assert_eq!(digest(&SHA256, offer.key).as_ref()[..STRIKE_LEN], v.strike.0);
}
