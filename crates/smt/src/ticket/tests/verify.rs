//! What a client accepts as a ticket.

use super::pki::named;
use super::*;
use crate::ticket::format::append_signature;
use crate::tls::{ClientTls, Identity, TlsError};
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};

fn issue(identity: Identity) -> Ticket {
    TicketIssuer::builder(identity).build().unwrap().ticket(now()).unwrap()
}

fn check(client: &ClientTls, ticket: &Ticket) -> Result<VerifiedTicket, TicketError> {
    client.verify_ticket(ticket, SERVER, now())
}

/// The parts before the signature, and the signature, of another making.
fn spliced(content: &Ticket, signature: &Ticket) -> Ticket {
    let (_, message, _) = content.signature();
    let (scheme, _, signature) = signature.signature();
    let mut bytes = message[64 + 13..].to_vec();
    append_signature(&mut bytes, scheme, signature);
    Ticket::parse(&bytes).unwrap()
}

#[test]
fn keys_of_all_kinds_sign_tickets() {
    let ca = Ca::new("CA");
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let ticket = issue(ca.issue(&named(SERVER), algorithm));
        let verified = check(&ca.client(), &ticket).unwrap();
        assert_eq!(verified.peer().dns_names(), [SERVER]);
        assert_eq!(verified.not_after(), ticket.validity().1);
    }
}

#[test]
fn names_and_authorities_are_checked_as_in_handshakes() {
    let ca = Ca::new("CA");
    let ticket = issue(ca.server_identity());
    let wrong_name = ca.client().verify_ticket(&ticket, "other.example", now()).unwrap_err();
    assert!(matches!(wrong_name, TicketError::Untrusted(TlsError::NameMismatch { .. })));
    let stranger = check(&Ca::new("other CA").client(), &ticket).unwrap_err();
    assert_eq!(stranger, TicketError::Untrusted(TlsError::UnknownIssuer));
    let no_name = ca.client().verify_ticket(&ticket, "not a name", now()).unwrap_err();
    assert!(matches!(no_name, TicketError::Untrusted(TlsError::InvalidServerName { .. })));

    let mut client_only = named(SERVER);
    client_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let ticket = issue(ca.issue(&client_only, &rcgen::PKCS_ED25519));
    let wrong_use = check(&ca.client(), &ticket).unwrap_err();
    assert!(matches!(wrong_use, TicketError::Untrusted(TlsError::BadCertificate { .. })));
}

#[test]
fn revoked_servers_and_those_the_application_refuses_have_no_tickets() {
    let ca = Ca::new("CA");
    let mut params = named(SERVER);
    params.serial_number = Some(7.into());
    let ticket = issue(ca.issue(&params, &rcgen::PKCS_ED25519));
    let with_list = |serial| {
        let roots = ca.roots().with_crls(ca.crl(serial).as_bytes()).unwrap();
        check(&ClientTls::builder(roots).build().unwrap(), &ticket).map(drop)
    };
    assert_eq!(with_list(8), Ok(()));
    assert_eq!(with_list(7), Err(TicketError::Untrusted(TlsError::Revoked)));
    let rule = |_: &crate::tls::PeerIdentity| Err("not today".to_owned());
    let picky = ClientTls::builder(ca.roots()).authorise(rule).build().unwrap();
    let refused = TlsError::NotAuthorised { reason: "not today".to_owned() };
    assert_eq!(check(&picky, &ticket).unwrap_err(), TicketError::Untrusted(refused));
}

#[test]
fn a_replaced_configuration_forgets_its_tickets() {
    let ca = Ca::new("CA");
    let client = ca.client();
    let verified = check(&client, &issue(ca.server_identity())).unwrap();
    client.tickets().put(443, verified);
    assert!(client.clone().tickets().get(SERVER, 443, now()).is_some());
    client.replace(&Ca::new("other CA").client());
    assert!(client.tickets().is_empty());
}

#[test]
fn a_ticket_in_hand_is_judged_by_what_is_trusted_now() {
    let ca = Ca::new("CA");
    let client = ca.client();
    let verified = check(&client, &issue(ca.server_identity())).unwrap();
    let later = now() + MAX_VALIDITY + seconds(1);
    let usable = |tls: &ClientTls, name: &str, time| verified.trusted_by(tls, name, time);
    let own = usable(&client.clone(), &SERVER.to_uppercase(), now()).unwrap();
    own.fill_stock(3);
    assert_eq!(verified.stocked(), 3, "the same one");
    assert!(usable(&client, "other.example", now()).is_none());
    assert!(usable(&client, SERVER, later).is_none());
    // The same authorities, but another configuration: verified anew.
    assert_eq!(usable(&ca.client(), SERVER, now()).unwrap().stocked(), 1);
    assert!(usable(&Ca::new("other CA").client(), SERVER, now()).is_none());
    client.replace(&Ca::new("other CA").client());
    assert!(usable(&client, SERVER, now()).is_none());
}

#[test]
fn only_the_certificates_own_key_signs() {
    let ca = Ca::new("CA");
    let (one, two) = (issue(ca.server_identity()), issue(ca.server_identity()));
    for ticket in [spliced(&one, &two), spliced(&two, &one)] {
        assert_eq!(check(&ca.client(), &ticket).unwrap_err(), TicketError::BadSignature);
    }
    // The right key of the wrong kind of certificate.
    let other = issue(ca.issue(&named(SERVER), &rcgen::PKCS_ED25519));
    assert_eq!(check(&ca.client(), &spliced(&one, &other)).unwrap_err(), TicketError::BadSignature);
}

#[test]
fn a_replaced_chain_is_not_what_was_signed() {
    let ca = Ca::new("CA");
    let (one, two) = (issue(ca.server_identity()), issue(ca.server_identity()));
    let (own, other) = (one.certificates().next().unwrap(), two.certificates().next().unwrap());
    // The same ticket with the chain of another certificate of the same name and CA.
    let at = one.bytes().windows(own.len()).position(|window| window == own).unwrap();
    let mut bytes = one.bytes()[..at - 3].to_vec();
    bytes.extend_from_slice(&(other.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(other);
    bytes.extend_from_slice(&one.bytes()[at + own.len()..]);
    let ticket = Ticket::parse(&bytes).unwrap();
    assert_eq!(check(&ca.client(), &ticket).unwrap_err(), TicketError::BadSignature);
}

#[test]
fn times_are_checked_to_the_second() {
    let ca = Ca::new("CA");
    let client = ca.client();
    let ticket = issue(ca.server_identity());
    let (not_before, not_after) = ticket.validity();
    let at = |time: SystemTime| client.verify_ticket(&ticket, SERVER, time);
    assert!(at(now() - MAX_SKEW).is_ok());
    let early = now() - MAX_SKEW - seconds(1);
    let expected = TicketError::NotYetValid { now: unix_seconds(early), not_before };
    assert_eq!(at(early).unwrap_err(), expected);
    assert!(at(now() + MAX_VALIDITY).is_ok());
    let late = now() + MAX_VALIDITY + seconds(1);
    let expected = TicketError::Expired { now: unix_seconds(late), not_after };
    assert_eq!(at(late).unwrap_err(), expected);
    let verified = at(now()).unwrap();
    assert!(verified.is_valid(now() + MAX_VALIDITY) && !verified.is_valid(late));
}

#[test]
fn an_expired_certificate_vouches_for_nothing() {
    let ca = Ca::new("CA");
    let mut params = named(SERVER);
    params.not_after = date_time_ymd(2027, 2, 1);
    let identity = ca.issue(&params, &rcgen::PKCS_ED25519);
    // A ticket that the server should not have made: it outlives the certificate.
    let end = UNIX_EPOCH + seconds(identity.validity().unwrap().1);
    let issuer = TicketIssuer::builder(identity).build().unwrap();
    let ticket = issuer.ticket(end - seconds(100)).unwrap();
    assert_eq!(ticket.validity().1, unix_seconds(end));
    assert_eq!(issuer.ticket(end).unwrap_err(), IssueError::CertificateNotValid);
    let client = ca.client();
    assert!(client.verify_ticket(&ticket, SERVER, end).is_ok());
    let late = client.verify_ticket(&ticket, SERVER, end + seconds(1)).unwrap_err();
    assert!(matches!(late, TicketError::Expired { .. }));
}

#[test]
fn the_application_protocol_must_be_ones_own() {
    let ca = Ca::new("CA");
    let issuer = TicketIssuer::builder(ca.server_identity())
        .application_protocol("smt/1+other")
        .build()
        .unwrap();
    let ticket = issuer.ticket(now()).unwrap();
    let expected = TicketError::WrongAlpn { alpn: "smt/1+other".to_owned() };
    assert_eq!(check(&ca.client(), &ticket).unwrap_err(), expected);
}

#[test]
fn every_flipped_bit_is_caught() {
    let ca = Ca::new("CA");
    let client = ca.client();
    let issuer = TicketIssuer::builder(ca.server_identity()).kem(Kem::X25519).build().unwrap();
    let good = issuer.ticket(now()).unwrap();
    for at in 0..good.bytes().len() {
        for bit in [0x01, 0x80] {
            let mut bytes = good.bytes().to_vec();
            bytes[at] ^= bit;
            let refused = Ticket::parse(&bytes).and_then(|ticket| check(&client, &ticket));
            assert!(refused.is_err(), "byte {at} of {}", bytes.len());
        }
    }
}

#[test]
fn encapsulations_are_used_once_and_the_stock_is_bounded() {
    let (_, _, ticket) = pair(Kem::X25519);
    assert_eq!(ticket.stocked(), 1);
    ticket.fill_stock(usize::MAX);
    assert_eq!(ticket.stocked(), MAX_STOCK);
    let mut offers: Vec<_> =
        (0..MAX_STOCK + 4).map(|_| ticket.encapsulate().unwrap().offer(now(), false)).collect();
    assert_eq!(ticket.stocked(), 0);
    offers.sort();
    offers.dedup();
    assert_eq!(offers.len(), MAX_STOCK + 4);
}

#[test]
fn nothing_secret_is_printed() {
    let (_, early, ticket) = pair(Kem::XWing);
    let encapsulation = ticket.encapsulate().unwrap();
    let text = format!("{encapsulation:?} {:?}", encapsulation.ticket());
    assert!(text.contains(SERVER), "{text}");
    let agreed = encapsulation.agree(context(b"flight"));
    let secrets = agreed.secrets();
    let text = format!("{secrets:?} {:?} {early:?}", agreed.static_secrets(b"context"));
    assert!(
        text.contains("client: Secret(..)") && text.contains("StaticSecrets { suite"),
        "{text}"
    );
}
