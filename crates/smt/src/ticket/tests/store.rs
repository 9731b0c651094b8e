//! A client's verified tickets.

use super::*;

fn verified(ca: &Ca, name: &str, time: SystemTime) -> VerifiedTicket {
    let identity = ca.issue(&pki::named(name), &rcgen::PKCS_ED25519);
    let issuer = TicketIssuer::builder(identity).kem(Kem::X25519).build().unwrap();
    ca.client().verify_ticket(&issuer.ticket(time).unwrap(), name, time).unwrap()
}

#[test]
fn the_ticket_that_lasts_longest_is_kept_for_each_server() {
    let ca = Ca::new("CA");
    let store = TicketStore::default();
    let (older, newer) = (verified(&ca, SERVER, now()), verified(&ca, SERVER, now() + seconds(9)));
    for ticket in [&older, &newer, &older] {
        store.put(443, ticket.clone());
    }
    let got = |name, port, time| store.get(name, port, time).map(|found| *found.ticket().id());
    assert_eq!(got("SERVER.example", 443, now()), Some(*newer.ticket().id()));
    assert_eq!(got(SERVER, 444, now()), None);
    assert_eq!(got("other.example", 443, now()), None);
    assert_eq!((store.len(), store.evicted()), (1, 0));
    assert_eq!(got(SERVER, 443, now() + seconds(3610)), None);
    assert!(store.is_empty());
}

#[test]
fn a_full_store_loses_what_ends_first() {
    let ca = Ca::new("CA");
    let store = TicketStore::with_capacity(2);
    for (port, later) in [(1, 10), (2, 0), (3, 20)] {
        store.put(port, verified(&ca, SERVER, now() + seconds(later)));
    }
    assert_eq!((store.len(), store.evicted()), (2, 1));
    assert!(store.get(SERVER, 2, now()).is_none());
    assert!(store.get(SERVER, 1, now()).is_some() && store.get(SERVER, 3, now()).is_some());
    store.remove(SERVER, 1);
    assert_eq!(store.len(), 1);
    store.clear();
    assert!(store.is_empty());
}
