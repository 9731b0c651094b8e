//! What a server accepts as an offer.

use super::*;

fn offer_at(ticket: &VerifiedTicket, time: SystemTime) -> Vec<u8> {
    ticket.encapsulate().unwrap().offer(time, false)
}

fn decide(early: &EarlyData, offer: &[u8]) -> Result<AcceptedEarly, EarlyRefusal> {
    early.accept(offer, false, now(), context(b"flight"))
}

#[test]
fn both_ends_come_to_the_same_secrets() {
    for kem in [Kem::XWing, Kem::X25519] {
        let (_, early, ticket) = pair(kem);
        let encapsulation = ticket.encapsulate().unwrap();
        let offer = encapsulation.offer(now(), false);
        assert_eq!(offer.len(), 16 + 9 + kem.encapsulated_len());
        let client = encapsulation.agree(context(b"flight"));
        let server = decide(&early, &offer).unwrap();
        assert_eq!((server.alpn.as_slice(), server.max_early), (&b"smt/1"[..], DEFAULT_MAX_EARLY));
        assert!(!server.static_session);
        let (own, other) = (client.secrets(), server.secrets());
        assert_eq!(own.suite, other.suite);
        assert_eq!(own.client.as_bytes(), other.client.as_bytes());
        assert_eq!(own.server.as_bytes(), other.server.as_bytes());
        assert_ne!(own.client.as_bytes(), own.server.as_bytes());
        assert_eq!(early.stats(), EarlyStats { accepted: 1, ..EarlyStats::default() });
    }
}

#[test]
fn another_flight_0_leads_to_other_secrets() {
    let (_, early, ticket) = pair(Kem::XWing);
    let encapsulation = ticket.encapsulate().unwrap();
    let offer = encapsulation.offer(now(), false);
    let client = encapsulation.agree(context(b"another flight")).secrets();
    let server = decide(&early, &offer).unwrap().secrets();
    assert_ne!(client.client.as_bytes(), server.client.as_bytes());
}

#[test]
fn static_sessions_need_the_servers_leave() {
    let (_, early, ticket) = pair(Kem::X25519);
    let encapsulation = ticket.encapsulate().unwrap();
    let offer = encapsulation.offer(now(), true);
    assert_eq!(decide(&early, &offer).unwrap_err(), EarlyRefusal::PolicyStatic);
    let server = decide(&early.clone().static_ok(true), &offer).unwrap();
    assert!(server.static_session);
    let client = encapsulation.agree(context(b"flight"));
    let (own, other) = (client.static_secrets(b"keys"), server.static_secrets(b"keys"));
    assert_eq!(own.client.as_bytes(), other.client.as_bytes());
    assert_eq!(own.server.as_bytes(), other.server.as_bytes());
    assert!(other.is_finished(own.finished()));
    assert!(!other.is_finished(&own.finished()[1..]));
    let mut wrong = *own.finished();
    wrong[31] ^= 1;
    assert!(!other.is_finished(&wrong));
    let (early, others) = (client.secrets(), client.static_secrets(b"others"));
    let all = [
        own.client.as_bytes(),
        own.server.as_bytes(),
        early.client.as_bytes(),
        own.finished(),
        others.client.as_bytes(),
    ];
    for (i, secret) in all.iter().enumerate() {
        assert!(!all[..i].contains(secret));
    }
}

#[test]
fn clocks_may_differ_by_the_window_either_way() {
    let (_, early, ticket) = pair(Kem::X25519);
    let window = DEFAULT_WINDOW;
    assert!(decide(&early, &offer_at(&ticket, now() + window)).is_ok());
    assert!(decide(&early, &offer_at(&ticket, now() - window)).is_ok());
    let ahead = decide(&early, &offer_at(&ticket, now() + window + millis(1))).unwrap_err();
    assert_eq!(ahead, EarlyRefusal::ClockSkew { difference_ms: 10_001 });
    let behind = decide(&early, &offer_at(&ticket, now() - window - millis(1))).unwrap_err();
    assert_eq!(behind, EarlyRefusal::ClockSkew { difference_ms: -10_001 });
    let (wide, far) = (early.clone().window(seconds(1000)), offer_at(&ticket, now() + MAX_WINDOW));
    assert!(decide(&wide, &far).is_ok());
}

#[test]
fn an_offer_is_accepted_once() {
    let (_, early, ticket) = pair(Kem::XWing);
    let offer = offer_at(&ticket, now());
    assert!(decide(&early, &offer).is_ok());
    assert_eq!(decide(&early, &offer).unwrap_err(), EarlyRefusal::Replayed);
    // Another time in it makes it no other offer.
    let mut later = offer.clone();
    later[24] ^= 1;
    assert_eq!(decide(&early, &later).unwrap_err(), EarlyRefusal::Replayed);
    let stats = early.stats();
    assert_eq!((stats.accepted, stats.refused, stats.replayed), (1, 2, 2));
}

#[test]
fn a_clock_set_back_makes_no_replay_good() {
    let (_, early, ticket) = pair(Kem::X25519);
    let accept = |offer: &[u8], time| early.accept(offer, false, time, context(b"flight"));
    let offer = offer_at(&ticket, now());
    assert!(accept(&offer, now()).is_ok());
    // The register forgets the offer, then the clock is set back.
    let later = now() + seconds(30);
    assert!(accept(&offer_at(&ticket, later), later).is_ok());
    let refused = accept(&offer, now()).unwrap_err();
    assert_eq!(refused, EarlyRefusal::ClockSkew { difference_ms: -30_000 });
}

/// The time of the register is not that of the server: it forgets while the server's clock, which was
/// set back, is not believed.
#[test]
fn a_clock_set_back_accepts_nothing_of_its_former_time() {
    let (_, early, ticket) = pair(Kem::X25519);
    let accept = |offer: &[u8], time| early.accept(offer, false, time, context(b"flight"));
    let later = now() + seconds(100);
    assert!(accept(&offer_at(&ticket, later), later).is_ok());
    let other = offer_at(&ticket, later);
    let refused = accept(&other, now()).unwrap_err();
    assert_eq!(refused, EarlyRefusal::ClockSkew { difference_ms: 100_000 });
    assert!(accept(&other, later).is_ok());
}

/// A register that takes its time.
#[derive(Debug)]
struct Slow(Duration);

impl StrikeRegister for Slow {
    fn claim(&self, _strike: &Strike) -> Result<Claim, RegisterError> {
        std::thread::sleep(self.0);
        Ok(Claim::Fresh)
    }
}

#[test]
fn a_claim_that_took_longer_than_the_window_counts_for_nothing() {
    let (_, early, ticket) = pair(Kem::X25519);
    let early = early.with_register(Arc::new(Slow(millis(2)))).window(millis(1));
    let refused = decide(&early, &offer_at(&ticket, now())).unwrap_err();
    assert_eq!(refused, EarlyRefusal::TooLate);
}

#[test]
fn so_many_offers_wait_and_no_more() {
    let (_, early, _) = pair(Kem::X25519);
    let early = early.max_waiting(2);
    let (first, _second) = (early.admit().unwrap(), early.clone().admit().unwrap());
    assert_eq!(early.admit().unwrap_err(), EarlyRefusal::Busy { limit: 2 });
    assert_eq!((early.stats().busy, early.stats().refused), (1, 1));
    drop(first);
    assert!(early.admit().is_ok());
}

#[test]
fn what_an_offer_says_must_make_sense() {
    let (_, early, ticket) = pair(Kem::XWing);
    let offer = offer_at(&ticket, now());
    for len in 0..offer.len() {
        let expected = if len < 25 { EarlyRefusal::Malformed } else { EarlyRefusal::BadKey };
        assert_eq!(decide(&early, &offer[..len]).unwrap_err(), expected);
    }
    let mut longer = offer.clone();
    longer.push(0);
    assert_eq!(decide(&early, &longer).unwrap_err(), EarlyRefusal::BadKey);
    for flag in 1..8 {
        let mut flagged = offer.clone();
        flagged[16] |= 1 << flag;
        assert_eq!(decide(&early, &flagged).unwrap_err(), EarlyRefusal::Malformed);
    }
    let mut unknown = offer.clone();
    unknown[0] ^= 1;
    assert_eq!(decide(&early, &unknown).unwrap_err(), EarlyRefusal::UnknownTicket);
    // Nothing of that has used the offer up.
    assert!(decide(&early, &offer).is_ok());
}

#[test]
fn a_key_of_low_order_agrees_on_nothing() {
    let (_, early, ticket) = pair(Kem::X25519);
    let mut offer = offer_at(&ticket, now());
    offer[25..].fill(0);
    assert_eq!(decide(&early, &offer).unwrap_err(), EarlyRefusal::BadKey);
}

#[test]
fn an_expired_ticket_is_refused_whatever_the_client_says() {
    let (_, early, ticket) = pair(Kem::X25519);
    let late = now() + MAX_VALIDITY + seconds(1);
    let refused = early.accept(&offer_at(&ticket, late), false, late, context(b"flight"));
    assert_eq!(refused.unwrap_err(), EarlyRefusal::Expired);
}

#[test]
fn who_must_authenticate_sends_no_early_data() {
    let (_, early, ticket) = pair(Kem::X25519);
    let offer = offer_at(&ticket, now());
    let accept = |early: &EarlyData| early.accept(&offer, true, now(), context(b"flight"));
    assert_eq!(accept(&early).unwrap_err(), EarlyRefusal::PolicyClientAuth);
    assert!(accept(&early.clone().anonymous_ok(true)).is_ok());
    // A whole session of a stranger is more than early requests of one.
    let offer = ticket.encapsulate().unwrap().offer(now(), true);
    let lenient = early.anonymous_ok(true).static_ok(true);
    let refused = lenient.accept(&offer, true, now(), context(b"flight")).unwrap_err();
    assert_eq!(refused, EarlyRefusal::PolicyClientAuth);
}

#[test]
fn a_register_that_cannot_tell_refuses() {
    let ca = Ca::new("CA");
    let issuer = TicketIssuer::builder(ca.server_identity()).kem(Kem::X25519).build().unwrap();
    let small = Arc::new(MemoryRegister::started_at(1, now() - seconds(60)));
    let early = EarlyData::new(issuer, small);
    let ticket = early.issuer().ticket(now()).unwrap();
    let verified = ca.client().verify_ticket(&ticket, SERVER, now()).unwrap();
    assert!(decide(&early, &offer_at(&verified, now())).is_ok());
    let full = decide(&early, &offer_at(&verified, now())).unwrap_err();
    assert_eq!(full, EarlyRefusal::RegisterFull);
    assert_eq!(early.stats().register_full, 1);
}
