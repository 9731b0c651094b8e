//! What tickets cost each end, per KEM: `cargo bench -p smt --bench tickets`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use smt::proto::keys::early_context;
use smt::ticket::{EarlyData, Kem, MemoryRegister, Ticket, TicketIssuer};
use smt::tls::{ClientTls, Identity, Roots};

const SERVER: &str = "server.example";
const ROUNDS: u32 = 500;

/// A CA's certificate, and two identities of a server by it.
fn certificates() -> (Vec<u8>, [Identity; 2]) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().der().to_vec();
    let issuer = Issuer::new(params, key);
    let identities = [(); 2].map(|()| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![SERVER.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Identity::from_der(vec![certificate.der().to_vec()], key.serialize_der()).unwrap()
    });
    (ca, identities)
}

fn client(ca: &[u8]) -> ClientTls {
    ClientTls::builder(Roots::from_der(vec![ca.to_vec()]).unwrap()).build().unwrap()
}

/// The median time of `run`, each on what `prepare` gives.
fn median<T, R>(mut prepare: impl FnMut() -> T, mut run: impl FnMut(T) -> R) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let input = prepare();
            let start = Instant::now();
            black_box(run(input));
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let (ca, [one, two]) = certificates();
    println!("median of {ROUNDS}, microseconds; certificates ECDSA P-256, a chain of one");
    for kem in [Kem::XWing, Kem::X25519] {
        let now = SystemTime::now();
        let issuer = TicketIssuer::builder(one.clone()).kem(kem).build().unwrap();
        let mut turn = 0;
        let issue = median(
            || {
                turn += 1;
                issuer.replace_identity([&two, &one][turn % 2].clone());
            },
            |()| issuer.ticket(now).unwrap(),
        );
        let ticket = issuer.ticket(now).unwrap();
        let parse = median(|| (), |()| Ticket::parse(ticket.bytes()).unwrap());
        let verify = |tls: ClientTls| tls.verify_ticket(&ticket, SERVER, now).unwrap();
        let cold = median(|| client(&ca), verify);
        let known = client(&ca);
        let warm = median(|| known.clone(), verify);
        let verified = verify(known);
        drop(verified.encapsulate());
        let encapsulate = median(|| (), |()| verified.encapsulate().unwrap());
        let derive = median(
            || verified.encapsulate().unwrap(),
            |encapsulation| {
                encapsulation
                    .agree(|suite, ticket, alpn| {
                        early_context(suite, alpn, 1, 2, ticket, &[0; 200], &[0; 1500])
                    })
                    .secrets()
            },
        );
        let start = now - Duration::from_secs(3600);
        let early = EarlyData::new(issuer, Arc::new(MemoryRegister::started_at(1 << 20, start)));
        let accept = median(
            || verified.encapsulate().unwrap().offer(now, false),
            |offer| {
                let context =
                    |suite: &dyn smt::proto::crypto::Suite, ticket: &[u8], alpn: &[u8]| {
                        early_context(suite, alpn, 1, 2, ticket, &[0; 200], &[0; 1500])
                    };
                early.accept(&offer, false, now, context).unwrap().secrets()
            },
        );
        println!("{kem:?}: ticket of {} bytes", ticket.bytes().len());
        for (what, time) in [
            ("make key, sign", issue),
            ("parse", parse),
            ("verify, chain new (and encapsulate once)", cold),
            ("verify, chain known (and encapsulate once)", warm),
            ("encapsulate", encapsulate),
            ("derive early secrets", derive),
            ("accept: decapsulate, claim, derive", accept),
        ] {
            println!("  {:<44}{:>8.1}", what, time.as_secs_f64() * 1e6);
        }
    }
}
