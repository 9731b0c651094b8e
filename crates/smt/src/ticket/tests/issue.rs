//! Tickets and their keys over time.

use super::*;
use crate::tls::{ClientAuth, Identity, ServerTls};

fn offer(ca: &Ca, ticket: &Ticket, time: SystemTime) -> Vec<u8> {
    let verified = ca.client().verify_ticket(ticket, SERVER, time).unwrap();
    verified.encapsulate().unwrap().offer(time, false)
}

fn server(ca: &Ca) -> EarlyData {
    let issuer = TicketIssuer::builder(ca.server_identity()).kem(Kem::X25519).build().unwrap();
    EarlyData::new(issuer, register())
}

#[test]
fn a_key_is_replaced_at_half_its_life_and_accepted_to_its_end() {
    let ca = Ca::new("CA");
    let early = server(&ca);
    let accept = |ticket: &Ticket, time| {
        early.accept(&offer(&ca, ticket, time), false, time, context(b"flight"))
    };
    let first = early.issuer().ticket(now()).unwrap();
    assert_eq!(early.issuer().ticket(now() + seconds(1799)).unwrap(), first);
    let second = early.issuer().ticket(now() + seconds(1800)).unwrap();
    assert_ne!(second.id(), first.id());
    assert_eq!(early.issuer().live_tickets(), 2);
    for time in [now() + seconds(1800), now() + seconds(3600)] {
        assert!(accept(&first, time).is_ok());
        assert!(accept(&second, time).is_ok());
    }
    // The third wipes the first, which has expired.
    let time = now() + seconds(3601);
    let stale = offer(&ca, &first, now() + seconds(3600));
    let third = early.issuer().ticket(time).unwrap();
    assert_eq!(early.issuer().live_tickets(), 2);
    let refused = early.accept(&stale, false, time, context(b"flight"));
    assert_eq!(refused.unwrap_err(), EarlyRefusal::UnknownTicket);
    assert!(accept(&second, time).is_ok());
    assert!(accept(&third, time).is_ok());
}

#[test]
fn a_key_older_than_the_previous_is_refused() {
    let ca = Ca::new("CA");
    let early = server(&ca);
    let first = early.issuer().ticket(now()).unwrap();
    let stale = offer(&ca, &first, now());
    early.issuer().replace_identity(ca.server_identity());
    early.issuer().ticket(now()).unwrap();
    let accept = |offer: &[u8]| early.accept(offer, false, now(), context(b"flight"));
    assert!(accept(&offer(&ca, &first, now())).is_ok());
    early.issuer().replace_identity(ca.server_identity());
    let third = early.issuer().ticket(now()).unwrap();
    assert_eq!(early.issuer().live_tickets(), 2);
    assert_eq!(accept(&stale).unwrap_err(), EarlyRefusal::UnknownTicket);
    let last = offer(&ca, &third, now());
    early.issuer().forget_all().unwrap();
    assert_eq!(early.issuer().live_tickets(), 0);
    assert_eq!(accept(&last).unwrap_err(), EarlyRefusal::UnknownTicket);
}

#[test]
fn a_new_certificate_signs_the_next_ticket() {
    let ca = Ca::new("CA");
    let early = server(&ca);
    let first = early.issuer().ticket(now()).unwrap();
    let identity = ca.server_identity();
    early.issuer().replace_identity(identity.clone());
    let second = early.issuer().ticket(now()).unwrap();
    assert_eq!(second.certificates().next().unwrap(), identity.certificates()[0]);
    assert_ne!(first.certificates().next(), second.certificates().next());
    assert!(ca.client().verify_ticket(&second, SERVER, now()).is_ok());
}

#[test]
fn a_servers_new_configuration_signs_the_next_ticket() {
    let ca = Ca::new("CA");
    let early = server(&ca);
    let with = |identity: &Identity| {
        ServerTls::builder(identity.clone()).early_data(early.clone()).build().unwrap()
    };
    let (one, two) = (ca.server_identity(), ca.server_identity());
    let tls = with(&one);
    assert!(!tls.requires_identity());
    tls.replace(&with(&two));
    let ticket = tls.early_data().unwrap().issuer().ticket(now()).unwrap();
    assert_eq!(ticket.certificates().next().unwrap(), two.certificates()[0]);
    // Nothing new: the same ticket goes on.
    tls.replace(&with(&two));
    assert_eq!(early.issuer().ticket(now()).unwrap(), ticket);

    let asking = ServerTls::builder(two.clone()).client_auth(ClientAuth::Required(ca.roots()));
    assert!(asking.build().unwrap().requires_identity());
    let picking = ServerTls::builder(two).authorise(|_| Ok(()));
    assert!(picking.build().unwrap().requires_identity());
}

#[test]
fn parameters_reach_the_next_ticket_once() {
    let ca = Ca::new("CA");
    let early = server(&ca);
    let first = early.issuer().ticket(now()).unwrap();
    early.issuer().set_params(first.params());
    assert_eq!(early.issuer().ticket(now()).unwrap(), first);
    let params = smt_proto::wire::Params { max_rpcs: 7, first_id: 42, ..first.params() };
    early.issuer().set_params(params);
    let second = early.issuer().ticket(now()).unwrap();
    assert_eq!(second.params(), smt_proto::wire::Params { first_id: 6, ..params });
}

#[test]
fn a_clock_set_back_makes_one_new_ticket() {
    let ca = Ca::new("CA");
    let early = server(&ca);
    let first = early.issuer().ticket(now()).unwrap();
    let back = now() - seconds(7200);
    let second = early.issuer().ticket(back).unwrap();
    assert_ne!(first, second);
    assert_eq!(early.issuer().ticket(back + seconds(1)).unwrap(), second);
}

#[test]
fn a_clock_set_back_lengthens_no_keys_life() {
    let issuer = TicketIssuer::builder(Ca::new("CA").server_identity()).build().unwrap();
    let id = *issuer.ticket(now()).unwrap().id();
    let live = issuer.find(&id).unwrap();
    let (then, at) = (unix_seconds(now()) - 7200, std::time::Instant::now());
    assert!(!live.is_over(then, at));
    assert!(live.is_over(then, at + MAX_VALIDITY + seconds(2)));
    assert!(live.is_over(unix_seconds(now()) + 3601, at));
}

#[test]
fn keys_are_wiped_by_themselves() {
    let ca = Ca::new("CA");
    let early = server(&ca);
    // Long expired by the clock that the issuer's own thread goes by.
    early.issuer().ticket(UNIX_EPOCH + seconds(1_600_000_000)).unwrap();
    while early.issuer().live_tickets() > 0 {
        std::thread::sleep(millis(10));
    }
}

#[test]
fn settings_out_of_bounds_are_refused() {
    let ca = Ca::new("CA");
    let builder = || TicketIssuer::builder(ca.server_identity());
    for lifetime in [MIN_LIFETIME - millis(1), MAX_VALIDITY + millis(1)] {
        let refused = builder().lifetime(lifetime).build().unwrap_err();
        assert_eq!(refused, IssueError::Lifetime { least: MIN_LIFETIME, most: MAX_VALIDITY });
    }
    let refused = builder().application_protocol("http/1.1").build().unwrap_err();
    assert_eq!(refused, IssueError::BadAlpn { alpn: "http/1.1".to_owned() });
    let ticket = builder().lifetime(MIN_LIFETIME).build().unwrap().ticket(now()).unwrap();
    let (not_before, not_after) = ticket.validity();
    assert_eq!(not_after - not_before, 10);
}
